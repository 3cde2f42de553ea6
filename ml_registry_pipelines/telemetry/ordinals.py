"""Ids for records that have none: their content, and how often it stood in the file before.

A file that is sent again then holds nothing new, while two equal records of one file are
both kept. Kept per file: 16 bytes a record, in DuckDB's memory or on its disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.reading import answer
from ml_registry_pipelines.telemetry.identity import EVENT_KEY

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


class Ordinals:
    """Counts how often each content was seen in the file so far."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        connection.execute("CREATE OR REPLACE TEMP TABLE seen_contents (content BIGINT, times BIGINT)")

    def number(self, rows: pa.Table) -> pa.Table:
        """The rows with `event_id` made unique: its digest and its ordinal; `event_key` to match."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not rows.num_rows:
            return rows
        narrow = rows.select(["tenant", "source_system", "event_id", "attempt", "line", "part"])
        narrow = narrow.append_column("number", pa.array(range(rows.num_rows), pa.int64()))
        self._connection.register("unnumbered", narrow)
        numbered = answer(
            self._connection,
            f"""
            WITH ranked AS (
                SELECT *, key_of(event_id) AS content,
                    row_number() OVER (PARTITION BY event_id ORDER BY line, part) AS nth
                FROM unnumbered
            ),
            before AS (
                SELECT content, sum(times) AS times FROM seen_contents
                WHERE content IN (SELECT content FROM ranked) GROUP BY content
            ),
            named AS (
                SELECT number, tenant, source_system, attempt,
                    event_id || '-' || CAST(nth + coalesce(times, 0) AS BIGINT) AS event_id
                FROM ranked LEFT JOIN before USING (content)
            )
            SELECT number, event_id, {EVENT_KEY} AS event_key FROM named
            """,
            over=rows.num_rows,
        )
        self._connection.execute(
            "INSERT INTO seen_contents SELECT key_of(event_id), count(*) FROM unnumbered GROUP BY event_id"
        )
        numbered = numbered.take(pc.sort_indices(numbered["number"]))
        for name in ("event_id", "event_key"):
            rows = rows.set_column(rows.schema.get_field_index(name), name, numbered[name])
        return rows
