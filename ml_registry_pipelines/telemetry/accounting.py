"""What a batch's followers hold: how many records of each file went where, and which were set aside.

Pure functions over Arrow tables; the order of commits is in `ingestion.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.reading import open_duckdb
from ml_registry_pipelines.lake.tables.telemetry import QUARANTINED_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

CONFLICT = "conflicting_duplicate"


def counts_by_file(
    new: pa.Table, again: pa.Table, rejected: pa.Table
) -> dict[tuple[str, str], dict[str, int]]:
    """Taken, duplicates and quarantined by (source, file).

    Args:
        new: rows that are taken, with `source` and `file`.
        again: rows whose identity is stored already, with `conflict`.
        rejected: records that could not be decoded.
    """
    connection = open_duckdb()
    connection.register("new", new.select(["source", "file"]))
    connection.register("again", again.select(["source", "file", "conflict"]))
    connection.register("rejected", rejected.select(["source", "file"]))
    found = connection.sql(
        """
        SELECT source, file, sum(taken)::BIGINT AS taken, sum(duplicates)::BIGINT AS duplicates,
               sum(quarantined)::BIGINT AS quarantined
        FROM (
            SELECT source, file, 1 AS taken, 0 AS duplicates, 0 AS quarantined FROM new
            UNION ALL
            SELECT source, file, 0, (NOT conflict)::INT, conflict::INT FROM again
            UNION ALL
            SELECT source, file, 0, 0, 1 FROM rejected
        )
        GROUP BY source, file
        """
    ).fetchall()
    connection.close()
    return {
        (source, file): {"taken": taken, "duplicates": duplicates, "quarantined": quarantined}
        for source, file, taken, duplicates, quarantined in found
    }


def quarantine(rejected: pa.Table, again: pa.Table, *, batch: int, now: datetime) -> pa.Table:
    """Rows of `quarantined_rows`: what could not be decoded, and conflicting duplicates as they were decoded."""
    connection = open_duckdb()
    connection.register("rejected", rejected)
    connection.register("again", again)
    rows = connection.sql(
        """
        WITH everything AS (
            SELECT tenant, source, file, line, part, dialect, reason, message, raw FROM rejected
            UNION ALL
            SELECT tenant, source, file, line, part, dialect, $conflict,
                   'line ' || line || ': request ' || event_id || ' of ' || tenant || ' was taken before with other '
                   || 'content; if both are right, give the second its own id or attempt number',
                   to_json(again)::VARCHAR
            FROM again WHERE conflict
        )
        SELECT sha256(concat_ws(chr(31), source, file, line, part))[1:32] AS quarantine_id,
               tenant, source, file, line, part::INTEGER AS part, dialect, reason, message, raw,
               'quarantined' AS state, $batch::BIGINT AS batch, $now::TIMESTAMPTZ AS recorded_at
        FROM everything
        """,
        params={"conflict": CONFLICT, "batch": batch, "now": now},
    ).to_arrow_table()
    connection.close()
    return rows.cast(QUARANTINED_ROWS.schema)


def stamped(rows: pa.Table, schema: pa.Schema, *, batch: int, now: datetime) -> pa.Table:
    """Rows with their batch number and the time at which they were recorded, in the table's column order."""
    import pyarrow as pa

    values = {
        "batch": pa.repeat(pa.scalar(batch, pa.int64()), len(rows)),
        "recorded_at": pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), len(rows)),
    }
    columns = [
        values[field.name] if field.name in values else rows[field.name].cast(field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
