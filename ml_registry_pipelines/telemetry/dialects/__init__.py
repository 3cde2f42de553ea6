"""The log formats that the platform reads. A new one is a module here and a line below."""

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect
from ml_registry_pipelines.telemetry.dialects.native import NATIVE

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        NATIVE,
    )
}
"""All known dialects by name."""
