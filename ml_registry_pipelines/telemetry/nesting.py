"""Spans in spans: which model call only repeats the usage of calls below it.

A framework and the client library that it uses may both report the same call, one
span inside the other. Only the innermost one costs; the outer ones are marked `aggregate`.

An inner span ends and is exported first, but exports that are sorted by start name the outer
one first. So a span is compared with those of its own chunk, before and behind it, and with
those of earlier chunks: that needs no second reading, and chunks of a file are cut at the same
places each time. An inner span that lies in another file, in a later chunk (250,000 records or
64 MiB), or more than `WINDOW` spans back is not seen, and the outer one stays as the log says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.reading import answer

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

WINDOW = 1_000_000
"""Spans of a file that are remembered, about 32 bytes each."""
DEEPEST = 64
"""Levels that are followed down; it ends circles of spans too."""


class Nesting:
    """Remembers the spans of a file and marks those that enclose a model call with usage.

    Rows tell of themselves by `span` and `parent`, hashes that are equal where the spans are, and
    by `calls`: whether they are a model call with usage.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._count = 0
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE spans (number BIGINT, span UBIGINT, parent UBIGINT, calls BOOLEAN)"
        )

    def mark(self, rows: pa.Table) -> pa.Table:
        """The rows, in the file's order, with `span_kind` aggregate where a leaf with usage lies below."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if not rows.num_rows:
            return rows
        spans = rows.select(["span", "parent", "calls"])
        spans = spans.append_column("row", pa.array(np.arange(rows.num_rows)))
        spans = spans.append_column("number", pa.array(np.arange(rows.num_rows) + self._count))
        spans = spans.filter(pc.is_valid(spans["span"]))
        self._connection.register("new_spans", spans)
        self._connection.execute("INSERT INTO spans SELECT number, span, parent, calls FROM new_spans")
        encloses = np.zeros(rows.num_rows, dtype=bool)
        frontier = spans.filter(spans["calls"]).select(["row", "number", "span"])
        for _ in range(DEEPEST):
            if not frontier.num_rows:
                break
            below = self._below(frontier)
            encloses[below["row"].filter(below["calls"]).to_numpy()] = True
            frontier = below.filter(pc.invert(below["calls"])).drop_columns(["calls"])
        self._count += rows.num_rows
        self._connection.execute(f"DELETE FROM spans WHERE number < {self._count - 2 * WINDOW}")
        if not encloses.any():
            return rows
        kind = pc.if_else(pa.array(encloses), "aggregate", rows["span_kind"])
        return rows.set_column(rows.schema.get_field_index("span_kind"), "span_kind", kind)

    def _below(self, frontier: pa.Table) -> pa.Table:
        """The next level: spans whose parent is in `frontier`, each with the row that it was reached from."""
        self._connection.register("frontier", frontier)
        return answer(
            self._connection,
            f"""
            SELECT DISTINCT frontier.row, frontier.number, spans.span, spans.calls
            FROM frontier
            JOIN spans ON spans.parent = frontier.span
                AND spans.span <> frontier.span
                AND spans.number > frontier.number - {WINDOW}
            """,
            over=frontier.num_rows,
        )
