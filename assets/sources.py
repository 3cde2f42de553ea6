"""The configured log sources as external assets, so that the graph starts where the files land."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg

from assets.tables import OWNERS
from ml_registry_pipelines.telemetry.sources import Source

ROOM = "sources"


def source_key(source: Source) -> dg.AssetKey:
    """Key of a source's asset: its name, with what a key may not hold replaced."""
    return dg.AssetKey([ROOM, source.name.replace("/", "_")])


def source_specs(
    sources: Iterable[Source], deployments: Mapping[dg.AssetKey, str] | None = None
) -> list[dg.AssetSpec]:
    """One external asset per source, after the deployments whose logs may land there.

    Args:
        deployments: keys with their tenants; a source of one tenant holds logs of that one alone.
    """
    return [
        dg.AssetSpec(
            key=source_key(source),
            deps=[key for key, tenant in (deployments or {}).items() if source.tenant in {None, tenant}],
            group_name=ROOM,
            owners=OWNERS,
            kinds={"s3" if source.folder.startswith("s3://") else "file"},
            description=(
                f"Log files below {_place(source)}, put there by their producers and read in place. "
                f"Format: {source.dialect or 'detected from each file'}. Tenant: {_tenant(source)}. "
                f"Time zone where a record states none: {source.time_zone}."
            ),
            metadata={"dagster/uri": _place(source), "pattern": source.pattern},
        )
        for source in sources
    ]


def _place(source: Source) -> str:
    return f"{source.folder}/{source.prefix}".rstrip("/")


def _tenant(source: Source) -> str:
    if source.tenant is not None:
        return source.tenant
    return f"field {source.tenant_field} of the record" if source.tenant_field else "as the record says"
