"""Tables that are computed from another one, day by day: which days are behind, and replacing them.

Rollups use it. What a day's rows are is their own business; here is how the days are found
without reading a row, and how a day is written so that it never goes back to older figures.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.attributing import RULES, rules_of
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.outcomes import LostRace, SnapshotGone, StaleSlice
from ml_registry_pipelines.lake.reading import Reading

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 4_000_000
"""Days are computed together until they hold this many rows; a longer day is computed alone."""
ATTEMPTS = 8
"""Times that another writer may be faster before a refresh gives up."""
LEADING = "inference_events"
"""The table whose batches number everything that follows it: every derived slice's `sequence`."""

COMPUTED_FROM = ("sequence", "costs_version", "attribution_version")
"""Columns of derived tables that say what a row was computed from, not what it is."""

DAY_FILTER = "day BETWEEN $first_day AND $last_day AND list_contains($days, day)"
"""Condition for some days, with `day_parameters`; files of other days are not opened."""


@dataclass(frozen=True)
class Refreshed:
    """Which days were written again, how many rows they have now, and up to which batch."""

    days: tuple[date, ...]
    rows: int
    sequence: int

    def and_then(self, later: Refreshed) -> Refreshed:
        """Both together; of a day that both wrote, rows count twice."""
        return Refreshed(
            tuple(sorted({*self.days, *later.days})),
            self.rows + later.rows,
            max(self.sequence, later.sequence),
        )


def day_parameters(days: Sequence[date]) -> dict[str, object]:
    """The parameters of `DAY_FILTER`."""
    return {"first_day": min(days), "last_day": max(days), "days": list(days)}


def refresh_days(
    lake: Lake,
    derived: str,
    compute: Callable[[Reading, Sequence[date], int], pa.Table],
    *,
    complete: Callable[[Reading], int],
    reads: Sequence[str] = (),
    days: Collection[date] | None = None,
) -> Refreshed:
    """Compute again the days of `derived` that lack rows of inference_events, or those given.

    A day is behind when inference_events has a newer batch of it than the `sequence` that its
    rows in `derived` were computed from, or when other attribution rules hold on it than then.
    Each slice is computed from one snapshot and replaced whole. Where another writer was faster, a
    new snapshot tells what is left to do; where files that a day was computed from were replaced
    meanwhile, the day is computed once more.

    Args:
        derived: a table with the columns `day`, `sequence` and `attribution_version`, partitioned by day.
            Only `COMPUTED_FROM` may differ between two computations of one day from the same rows.
        compute: (reading, days, sequence) -> the rows of `derived` for those days, in order.
        complete: the last batch that a reading holds in every table that `compute` needs.
        reads: the tables that it needs beside inference_events and attribution_rules, partitioned by day.
        days: computes exactly these, whether they are behind or not, and replaces those whose figures
            come out different. A day of which inference_events has no row keeps what it has: its raw
            rows may be past their retention.

    Raises:
        LostRace: other writers were faster again and again; what was written stands.
    """
    done: dict[date, int] = {}
    sources: dict[date, set[str]] = {}
    wanted = None if days is None else set(days)
    for _ in range(ATTEMPTS):
        with lake.read(derived, LEADING, RULES, *reads) as reading:
            sequence = complete(reading)
            stored = _stored(reading, derived)
            left = days_behind(reading, derived, sequence, among=wanted)
            try:
                for portion in _portions(left):
                    rows = compute(reading, portion, sequence)
                    other = portion if wanted is None else _different(reading, derived, rows, portion)
                    rows = rows if len(other) == len(portion) else _of_days(rows, other)
                    if rows.num_rows or not stored.keys().isdisjoint(other):
                        _replace(lake, derived, rows, other, sequence)
                        done |= _rows_by_day(rows, other)
                    sources |= _paths(reading, reads, portion)
                    if wanted is not None:
                        wanted -= set(portion)
            except (LostRace, SnapshotGone, StaleSlice):
                continue
        replaced = _replaced(lake, reads, sources)
        if not replaced:
            return Refreshed(tuple(sorted(done)), sum(done.values()), sequence)
        wanted = replaced | (wanted or set())
    raise LostRace(
        f"{derived}: other writers were faster {ATTEMPTS} times in a row; "
        "let one of them finish and try again"
    )


def days_behind(
    reading: Reading, derived: str, sequence: int, *, among: Collection[date] | None = None
) -> dict[date, int]:
    """Days that `derived` does not hold up to batch `sequence`, in order, with their raw rows.

    Where the reading holds `attribution_rules`, also days on which other rules hold than those
    that `derived` was computed with. Read from the statistics of the live files, without opening
    one. With `among`, these days are taken instead, as far as there are raw rows of them.
    """
    stored = _stored(reading, derived)
    rows: dict[date, int] = {}
    behind: set[date] = set()
    for day, first, last, count in _files(reading, LEADING, "min.batch", "max.batch"):
        rows[day] = rows.get(day, 0) + count
        held = stored.get(day, 0)
        if held < sequence and (first or 0) <= sequence and (last is None or last > held):
            behind.add(day)
    if among is None and reading.holds(RULES):
        behind |= days_attributed_otherwise(reading, derived) & rows.keys()
    wanted = behind if among is None else set(among) & rows.keys()
    return {day: rows[day] for day in sorted(wanted)}


def days_attributed_otherwise(reading: Reading, derived: str) -> set[date]:
    """Days of a derived table that were computed with other rules than those that hold on them now."""
    rules = rules_of(reading)
    named = ("min.attribution_version", "max.attribution_version")
    return {
        day
        for day, least, greatest, _ in _files(reading, derived, *named)
        if {least, greatest} != {rules.digest(day)}
    }


def _different(reading: Reading, derived: str, rows: pa.Table, days: Sequence[date]) -> list[date]:
    """Those of `days` whose rows are not what `derived` holds, whatever they were computed from."""
    names = ", ".join(name for name in rows.schema.names if name not in COMPUTED_FROM)
    reading.register("computed", rows)
    found = reading.query(
        f"slices.{derived}_different",
        f"""
        SELECT DISTINCT day
        FROM (
            (SELECT {names} FROM computed EXCEPT ALL SELECT {names} FROM {derived} WHERE {DAY_FILTER})
            UNION ALL
            (SELECT {names} FROM {derived} WHERE {DAY_FILTER} EXCEPT ALL SELECT {names} FROM computed)
        )
        ORDER BY day
        """,
        day_parameters(days),
    )
    other: list[date] = found["day"].to_pylist()
    return other


def _of_days(rows: pa.Table, days: Sequence[date]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    return rows.filter(pc.is_in(rows["day"], pa.array(days, pa.date32())))


def _paths(reading: Reading, tables: Sequence[str], days: Collection[date]) -> dict[date, set[str]]:
    """The files of some tables that a reading sees for some days."""
    paths: dict[date, set[str]] = {day: set() for day in days}
    for table in tables:
        files = reading.files(table)
        if files.num_rows:
            for path, day in zip(files["path"].to_pylist(), files["partition.day"].to_pylist(), strict=True):
                if day in paths:
                    paths[day].add(f"{table}/{path}")
    return paths


def _replaced(lake: Lake, tables: Sequence[str], sources: Mapping[date, set[str]]) -> set[date]:
    """The days that were computed from files which are no longer live."""
    if not tables or not sources:
        return set()
    with lake.read(*tables) as now:
        live = _paths(now, tables, sources.keys())
    return {day for day, paths in sources.items() if not paths <= live[day]}


def days_held(reading: Reading, table: str) -> set[date]:
    """The days that a table partitioned by day has rows of, from its list of files."""
    return {day for day, *_ in _files(reading, table, "min.sequence", "max.sequence")}


def _stored(reading: Reading, derived: str) -> dict[date, int]:
    """The batch up to which each day of a derived table holds."""
    stored: dict[date, int] = {}
    for day, sequence, _, _ in _files(reading, derived, "min.sequence", "max.sequence"):
        stored[day] = min(stored.get(day, sequence or 0), sequence or 0)
    return stored


def _files(
    reading: Reading, table: str, least: str, greatest: str
) -> Iterator[tuple[date, int | None, int | None, int]]:
    """(day, two statistics, rows) of each live file that has rows."""
    files = reading.files(table)
    if not files.num_rows:
        return
    nothing = [None] * files.num_rows
    columns = (
        files[name].to_pylist() if name in files.schema.names else nothing for name in (least, greatest)
    )
    for day, low, high, rows in zip(
        files["partition.day"].to_pylist(), *columns, files["num_records"].to_pylist(), strict=True
    ):
        if rows != 0:
            yield day, low, high, rows or 1


def _portions(days: Mapping[date, int]) -> Iterator[list[date]]:
    """Days in order, as many together as hold `ROWS_AT_ONCE` rows."""
    portion: list[date] = []
    held = 0
    for day, rows in days.items():
        if portion and held + rows > ROWS_AT_ONCE:
            yield portion
            portion, held = [], 0
        portion.append(day)
        held += rows
    if portion:
        yield portion


def _replace(lake: Lake, derived: str, rows: pa.Table, days: Sequence[date], sequence: int) -> None:
    listed = ", ".join(f"'{day.isoformat()}'" for day in days)
    lake.replace(derived, rows, predicate=f"day IN ({listed})", source=LEADING, sequence=sequence)


def _rows_by_day(rows: pa.Table, days: Sequence[date]) -> dict[date, int]:
    import pyarrow.compute as pc

    found = {entry["values"]: entry["counts"] for entry in pc.value_counts(rows["day"]).to_pylist()}
    return {day: found.get(day, 0) for day in days}
