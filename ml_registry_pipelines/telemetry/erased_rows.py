"""What was removed from which batch, so that counts add up ever after: asked by retention and by erasure alike.

It is written down before the rows go, since two tables cannot commit together: what is on record is
how many went at most.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.lake.tables.erasure import ERASED_ROWS

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

SOURCE = "erasure"
NOBODY = "default"
"""Tenant of rows that name none."""


def write_down(lake: Lake, table: str, where: str, erasure_id: str) -> int:
    """Say how many rows of which tenant and batch are about to go; how many there are.

    Args:
        where: the condition as DuckDB spells it.
        erasure_id: the erasure, or run of retention, that removes them.
    """
    import pyarrow as pa

    declared = TABLES[table]
    batch = "batch" if "batch" in declared.column_names else "NULL::BIGINT"
    tenant = f"coalesce({declared.tenant_column}, '{NOBODY}')" if declared.tenant_column else f"'{NOBODY}'"
    with lake.read(table) as reading:
        counts = reading.query(
            "erased_rows.batches",
            f"""
            SELECT {tenant} AS tenant, {batch} AS batch, count(*) AS rows FROM {table}
            WHERE {where} GROUP BY ALL ORDER BY ALL
            """,
        ).to_pylist()
    if not counts:
        return 0
    at = datetime.now(UTC)
    rows = [{**row, "erasure_id": erasure_id, "table_name": table, "recorded_at": at} for row in counts]
    lake.append_next(ERASED_ROWS.name, pa.Table.from_pylist(rows, schema=ERASED_ROWS.schema), source=SOURCE)
    return sum(row["rows"] for row in counts)
