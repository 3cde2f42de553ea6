"""Rows that could not be taken: listing them, showing one, and trying them again.

A replay decodes the raw text anew with today's dialects and sources. What can be taken
now is, as one batch of its own; the counts of the file move with it. The rest stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.reading import answer, open_duckdb
from ml_registry_pipelines.lake.tables.telemetry import QUARANTINED_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake

OPEN_ROWS = """
    SELECT * FROM quarantined_rows AS held
    WHERE state = 'quarantined'
      AND NOT EXISTS (
          SELECT 1 FROM quarantined_rows AS later
          WHERE later.quarantine_id = held.quarantine_id AND later.state = 'replayed'
            AND later.batch > held.batch
      )
"""
"""Rows that are still in quarantine."""


class QuarantineError(MlregError):
    """There is no such row in quarantine."""


def summary(lake: Lake, *, tenant: str | None = None) -> pa.Table:
    """Open rows by source, dialect and reason: count, first and last time, one example id."""
    with lake.read("quarantined_rows") as reading:
        return reading.query(
            "quarantine.summary",
            f"""
            SELECT source, dialect, reason, count(*) AS rows, count(DISTINCT file) AS files,
                   min(recorded_at) AS first_seen, max(recorded_at) AS last_seen, min(quarantine_id) AS example
            FROM ({OPEN_ROWS})
            WHERE $tenant IS NULL OR tenant = $tenant
            GROUP BY ALL ORDER BY rows DESC, source, reason
            """,
            {"tenant": tenant},
        )


def listing(
    lake: Lake,
    *,
    reason: str | None = None,
    source: str | None = None,
    limit: int = 100,
    tenant: str | None = None,
) -> pa.Table:
    """Open rows, newest first, without their raw text."""
    with lake.read("quarantined_rows") as reading:
        return reading.query(
            "quarantine.listing",
            f"""
            SELECT quarantine_id, source, file, line, part, dialect, reason, message, recorded_at
            FROM ({OPEN_ROWS})
            WHERE ($reason IS NULL OR reason = $reason) AND ($source IS NULL OR source = $source)
              AND ($tenant IS NULL OR tenant = $tenant)
            ORDER BY recorded_at DESC, source, file, line, part LIMIT $limit
            """,
            {"reason": reason, "source": source, "limit": limit, "tenant": tenant},
        )


def show(lake: Lake, quarantine_id: str, *, tenant: str | None = None) -> dict[str, object]:
    """One row with its raw text; a unique beginning of its id is enough.

    Raises:
        QuarantineError: no row, or more than one, starts with that id.
    """
    with lake.read("quarantined_rows") as reading:
        found = reading.query(
            "quarantine.show",
            """
            SELECT * FROM quarantined_rows
            WHERE starts_with(quarantine_id, $id) AND ($tenant IS NULL OR tenant = $tenant)
            QUALIFY row_number() OVER (PARTITION BY quarantine_id ORDER BY batch DESC) = 1
            LIMIT 2
            """,
            {"id": quarantine_id, "tenant": tenant},
        ).to_pylist()
    if not found:
        raise QuarantineError(f"no quarantined row has the id {quarantine_id!r}; see `mlreg quarantine list`")
    if len(found) > 1:
        raise QuarantineError(f"several quarantined rows start with {quarantine_id!r}; give more of the id")
    return dict(found[0])


def open_rows(
    lake: Lake, *, ids: Sequence[str] = (), reason: str | None = None, source: str | None = None, limit: int
) -> pa.Table:
    """Open rows with their raw text, oldest first, for a replay."""
    with lake.read("quarantined_rows") as reading:
        return reading.query(
            "quarantine.open_rows",
            f"""
            SELECT * FROM ({OPEN_ROWS})
            WHERE (len($ids) = 0
                   OR len(list_filter($ids, lambda wanted: starts_with(quarantine_id, wanted))) > 0)
              AND ($reason IS NULL OR reason = $reason) AND ($source IS NULL OR source = $source)
            ORDER BY recorded_at, source, file, line, part LIMIT $limit
            """,
            {"ids": list(ids), "reason": reason, "source": source, "limit": limit},
        )


def open_among(lake: Lake, rows: pa.Table) -> pa.Table:
    """Those of the rows that nobody has replayed meanwhile."""
    with lake.read("quarantined_rows") as reading:
        reading.register("given", rows)
        still = reading.query(
            "quarantine.open_among",
            f"""
            SELECT given.* FROM given SEMI JOIN ({OPEN_ROWS}) USING (quarantine_id)
            ORDER BY source, file, line, part
            """,
        )
    return still.cast(QUARANTINED_ROWS.schema)


def open_of_file(lake: Lake, source: str, path: str) -> pa.Table:
    """All open rows of one file."""
    with lake.read("quarantined_rows") as reading:
        found = reading.query(
            "quarantine.open_of_file",
            f"SELECT * FROM ({OPEN_ROWS}) WHERE source = $source AND file = $path ORDER BY line, part",
            {"source": source, "path": path},
        )
    return found.cast(QUARANTINED_ROWS.schema)


def replayed_states(tried: pa.Table, failed: pa.Table, *, batch: int, now: datetime) -> pa.Table:
    """The rows that a replay adds: what changed, and nothing for a row that failed again.

    A row that did not fail again gets the state `replayed`, without its raw text. A record that
    failed and was no row before, as of a file that was held as a whole, becomes one.

    Args:
        tried: rows of `quarantined_rows` that were decoded anew.
        failed: rows for `quarantined_rows` of what was rejected.
    """
    connection = open_duckdb(over=tried.num_rows + failed.num_rows)
    connection.register("tried", tried)
    connection.register("failed", failed)
    states = answer(
        connection,
        """
        SELECT tried.* REPLACE (
            NULL::VARCHAR AS raw, 'replayed' AS state, $batch::BIGINT AS batch, $now::TIMESTAMPTZ AS recorded_at
        )
        FROM tried ANTI JOIN failed USING (source, file, line, part)
        UNION ALL BY NAME
        SELECT failed.* FROM failed ANTI JOIN tried USING (source, file, line, part)
        """,
        {"batch": batch, "now": now},
        over=tried.num_rows,
    )
    connection.close()
    return states.cast(QUARANTINED_ROWS.schema)
