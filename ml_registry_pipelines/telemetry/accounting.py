"""What a batch's followers hold: how many records of each file went where, and which were set aside.

Pure functions over Arrow tables; the order of commits is in `ingestion.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.reading import answer, open_duckdb
from ml_registry_pipelines.lake.tables.telemetry import QUARANTINED_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

CONFLICT = "conflicting_duplicate"


def counts_by_file(
    new: pa.Table, again: pa.Table, rejected: pa.Table, suppressed: pa.Table | None = None
) -> dict[tuple[str, str], dict[str, int]]:
    """Taken, duplicates, quarantined and suppressed by (source, file).

    Args:
        new: rows that are taken, with `source` and `file`.
        again: rows whose identity is stored already, with `conflict`.
        rejected: records that could not be decoded.
        suppressed: `source` and `file` of records of erased people.
    """
    import pyarrow.compute as pc

    counts: dict[tuple[str, str], dict[str, int]] = {}
    for name, rows in (
        ("taken", new),
        ("duplicates", again.filter(pc.invert(again["conflict"]))),
        ("quarantined", again.filter(again["conflict"])),
        ("quarantined", rejected),
        ("suppressed", rejected.slice(0, 0) if suppressed is None else suppressed),
    ):
        found = rows.select(["source", "file"]).group_by(["source", "file"]).aggregate([([], "count_all")])
        for row in found.to_pylist():
            file = counts.setdefault(
                (row["source"], row["file"]), {"taken": 0, "duplicates": 0, "quarantined": 0, "suppressed": 0}
            )
            file[name] += row["count_all"]
    return counts


def quarantine(rejected: pa.Table, again: pa.Table, *, batch: int, now: datetime) -> pa.Table:
    """Rows of `quarantined_rows`: what could not be decoded, and conflicting duplicates as they were decoded."""
    again = again.filter(again["conflict"])
    if not rejected.num_rows and not again.num_rows:
        return QUARANTINED_ROWS.empty()
    connection = open_duckdb(over=rejected.num_rows + again.num_rows)
    connection.register("rejected", rejected)
    connection.register("again", again)
    rows = answer(
        connection,
        """
        WITH everything AS (
            SELECT tenant, source, file, line, part, dialect, reason, message, raw FROM rejected
            UNION ALL
            SELECT tenant, source, file, line, part, dialect, $conflict,
                   'line ' || line || ': request ' || event_id || ' of ' || tenant || ' was taken before with other '
                   || 'content; if both are right, give the second its own id or attempt number',
                   to_json(again)::VARCHAR
            FROM again
        )
        SELECT sha256(concat_ws(chr(31), source, file, line, part))[1:32] AS quarantine_id,
               tenant, source, file, line, part::INTEGER AS part, dialect, reason, message, raw,
               'quarantined' AS state, $batch::BIGINT AS batch, $now::TIMESTAMPTZ AS recorded_at
        FROM everything
        """,
        {"conflict": CONFLICT, "batch": batch, "now": now},
        over=rejected.num_rows + again.num_rows,
    )
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
