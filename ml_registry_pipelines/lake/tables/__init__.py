"""Every table of the platform, declared once, by room.

A table belongs to the module of the room that writes it. Readers find it by name here.
"""

from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.tables import (
    attribution,
    bills,
    costs,
    experiments,
    lineage,
    operations,
    registry,
    reports,
    telemetry,
    webhooks,
)

TABLES: dict[str, Table] = {
    table.name: table
    for room in (
        telemetry,
        costs,
        bills,
        experiments,
        attribution,
        lineage,
        operations,
        registry,
        reports,
        webhooks,
    )
    for table in room.TABLES
}
"""All declared tables by name."""
