"""What the sections of a report share: names, and the marks of what is assumed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ml_registry_pipelines.reports import formats
from ml_registry_pipelines.reports.figures import CostRow
from ml_registry_pipelines.reports.page import ASSUMED, Cell, Column, Content, Markup, el, join

CHART_ROWS = 20
"""Providers in a chart; the table below has more."""
TABLE_ROWS = 60

NO_MODEL, NO_PROVIDER = "(no model stated)", "(no provider stated)"

OF_PEOPLE = ("tenant", "application")
OF_TIMES = ("latency", "ttft")
"""Assumed parts of records that only some figures rest on."""


def name(value: str | None, otherwise: str) -> Markup:
    """A name out of a log, in its own direction of writing."""
    return el("bdi", formats.name(value, otherwise))


def assumed_note(
    row: CostRow | None, *, without: Collection[str] = (), only: Collection[str] | None = None
) -> Content:
    """A mark for a chart's caption, with what is assumed in it."""
    parts = [part for part in (row.assumed(without=without) if row else ()) if only is None or part in only]
    return join(" ", ASSUMED, f" {listed(parts)}.") if parts else None


def left_out(rows: Sequence[CostRow]) -> str | None:
    more = len(rows) - CHART_ROWS
    return f" {CHART_ROWS} of {len(rows)} providers are shown." if more > 0 else None


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1] if words else ""]))


class AssumedColumn:
    """What the rows of a table rest on: once above it where it is the same for all, else in a column."""

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        self._common = [part for part in rows[0] if all(part in row for row in rows)] if rows else []
        self._rows = [[part for part in row if part not in self._common] for row in rows]

    @property
    def note(self) -> Content:
        return join(ASSUMED, f" in every row: {listed(self._common)}") if self._common else None

    @property
    def columns(self) -> list[Column]:
        head = "Also assumed" if self._common else "Assumed"
        return [Column(head, number=False)] if any(self._rows) else []

    def cells(self, index: int) -> list[Cell]:
        """What row `index` rests on besides; the row after the last listed one sums all others."""
        if not self.columns:
            return []
        more = sorted({part for row in self._rows[TABLE_ROWS:] for part in row})
        parts = self._rows[index] if index < TABLE_ROWS else more
        return [Cell(el("span", ", ".join(parts), class_="mark") if parts else formats.NOTHING)]
