"""How a table of the lake appears as an asset: its spec from its declaration, its figures after a write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_registry_pipelines.lake.declarations import Column, Table
from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

OWNERS = ["team:ml-platform"]

DAILY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=30), fail_window=timedelta(hours=54))
"""For what is written once a day: warned of after a missed day, failed after two."""
FLOWING = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=24), fail_window=timedelta(hours=48))
"""For what follows the logs: a day without a single new file is worth a look."""
HOURLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=3), fail_window=timedelta(hours=25))

WEEKLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
RARE = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=3650))
"""For what may well stand still: no experiment runs most of the time, and nobody may want a report."""

FIRST = {"dagster/priority": "1"}
"""For ops on the way from file to rollup: within a run, checks wait for them."""


def table_spec(
    table: str,
    *,
    room: str,
    kinds: set[str],
    deps: Sequence[Sequence[str]] = (),
    freshness: dg.FreshnessPolicy,
    remarks: str = "",
) -> dg.AssetSpec:
    """The spec of the asset that writes a table of the lake; every word in it is from the declaration."""
    declared = TABLES[table]
    return dg.AssetSpec(
        key=[room, table],
        deps=[dg.AssetKey(dep) for dep in deps],
        group_name=room,
        owners=OWNERS,
        kinds={"deltalake", *kinds},
        description=_description(declared, remarks),
        freshness_policy=freshness,
        metadata={
            "dagster/column_schema": dg.TableSchema(columns=[_column(column) for column in declared.columns]),
            "dagster/table_name": declared.name,
            "key": ", ".join(declared.key),
            "partitioned_by": ", ".join(declared.partition_by) or "nothing",
        },
    )


def written(lake: Lake, table: str, figures: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Metadata of a materialization: rows and version of the table as it is now, and what the run did."""
    with lake.read(table) as reading:
        files = reading.files(table)
        return {
            "dagster/row_count": int(sum(n or 0 for n in files["num_records"].to_pylist())),
            "table_version": reading.version(table),
            "files": len(files),
            "bytes": int(sum(files["size_bytes"].to_pylist())),
            "dagster/uri": lake.uri(table),
            **(figures or {}),
        }


def _description(declared: Table, remarks: str) -> str:
    kept = "for ever" if declared.retention_days is None else f"{declared.retention_days} days"
    return f"One row is {declared.row}. Kept {kept}.{' ' if remarks else ''}{remarks}"


def _column(column: Column) -> dg.TableColumn:
    unit = f" [{column.unit}]" if column.unit else ""
    return dg.TableColumn(
        name=column.name,
        type=column.type,
        description=f"{column.meaning}{unit}",
        constraints=dg.TableColumnConstraints(nullable=not column.required),
    )
