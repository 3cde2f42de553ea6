"""Tables that are computed from another one, day by day: which days are behind, and replacing them.

Rollups use it. What a day's rows are is their own business; here is how the days are found
without reading a row, and how a day is written so that it never holds older figures than before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.lake import LostRace, StaleSlice
from ml_registry_pipelines.lake.reading import Reading

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake

ROWS_AT_ONCE = 2_000_000
"""Days are computed together until they hold this many rows; a longer day is computed alone."""
ATTEMPTS = 8
"""Times that a slice is computed again because another writer was faster, before giving up."""
SOURCE = "inference_events"
"""The sequence by which derived slices are numbered: the batch of inference_events."""


@dataclass(frozen=True)
class Refreshed:
    """Which days were computed again, how many rows they have now, and from which batch."""

    days: tuple[date, ...]
    rows: int
    sequence: int


def refresh_days(
    lake: Lake,
    *,
    derived: str,
    leading: str,
    sequence_source: str,
    compute: Callable[[Reading, Sequence[date]], pa.Table],
    also_reads: Sequence[str] = (),
    also_days: Collection[date] = (),
) -> Refreshed:
    """Compute again the days of `derived` that `leading` has rows for which they do not hold yet.

    A day is behind when its newest batch in `leading` is later than the `sequence` that its rows
    in `derived` were computed from; both come from the statistics of the live files. Each slice
    is computed from one snapshot and replaced whole. When another writer was faster, what is
    still behind is found and computed anew from a new snapshot.

    Args:
        derived: table with the columns `day` and `sequence`, partitioned by day.
        leading: table with the columns `day` and `batch`, partitioned by day.
        sequence_source: the writer of `leading` whose sequence is the batch.
        compute: rows of `derived` for some days in order, without `sequence`; it asks the
            reading for nothing but those days (`day_filter`).
        also_reads: further tables that `compute` asks for; read no earlier than `leading`.
        also_days: days to compute again whether they are behind or not.

    Raises:
        LostRace: other writers were faster again and again.
    """
    done: dict[date, int] = {}
    sequence = 0
    lost = 0
    while True:
        with lake.read(derived, leading, *also_reads) as reading:
            sequence = reading.sequence(leading, sequence_source)
            behind = days_behind(reading, derived=derived, leading=leading, also=set(also_days) - done.keys())
            try:
                for days in _portions(behind):
                    rows = compute(reading, days)
                    if rows.num_rows or _holds(reading, derived, days):
                        _replace(lake, derived, rows, days, sequence)
                        done |= dict.fromkeys(days, rows.num_rows)
            except (LostRace, StaleSlice) as failure:
                lost += 1
                if lost == ATTEMPTS:
                    raise LostRace(
                        f"{derived}: other writers were faster {lost} times while {len(behind)} days were computed; "
                        "let one of them finish and try again"
                    ) from failure
                continue
        return Refreshed(days=tuple(sorted(done)), rows=sum(done.values()), sequence=sequence)
