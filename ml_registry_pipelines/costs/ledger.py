"""`model_costs` kept in step with `inference_events`: batches that lag, and days priced anew.

Batches follow the leading table one by one, whoever took them. A closed batch is never
changed by this, except where `reprice` is asked for: a day's costs are then replaced whole,
never corrected by further rows, so that each attempt has one cost and one price at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.catalog import catalog_generation
from ml_registry_pipelines.costs.pricing import PriceBook
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.outcomes import Landed, LostRace, OutOfSequence, SnapshotGone, StaleSlice
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.slices import days_held

if TYPE_CHECKING:
    import pyarrow as pa

EVENTS = "inference_events"
INGESTION = "ingestion"
"""The one source of `inference_events`; its sequence is the batch."""
_ATTEMPTS = 8


class CostsBusy(MlregError):
    """Other writers kept changing the tables; nothing is wrong, try again."""


@dataclass(frozen=True)
class Repriced:
    """One day that was priced anew: its attempts, and how many of them got another price, cost or status.

    `difference` is by how much the day costs more than before (less: negative), by currency.
    """

    day: date
    rows: int
    changed: int
    difference: Mapping[str, Decimal] = field(default_factory=dict)


def catch_up_costs(lake: Lake) -> list[int]:
    """Price every batch that `inference_events` holds and `model_costs` lacks; return those batches.

    Raises:
        CostsBusy: upkeep kept removing the files that were to be read.
    """
    priced: list[int] = []
    with ThreadPoolExecutor(1, thread_name_prefix="price") as pool:
        for _ in range(_ATTEMPTS):
            with lake.read(EVENTS) as reading:
                try:
                    priced.extend(_catch_up(lake, reading, pool))
                except (OutOfSequence, SnapshotGone):
                    # Another process priced the batch first, or compaction has replaced its files.
                    continue
            return priced
    raise CostsBusy("inference_events was changed by others each time it was to be priced; try again")


def _catch_up(lake: Lake, reading: Reading, pool: Executor) -> Iterator[int]:
    """Price and append the batches that lag; the next one is priced while one is written."""
    book = PriceBook.of(lake)

    def costs_of(batch: int) -> pa.Table:
        return book.price_slice(
            reading,
            "costs_of_batch",
            "batch = $batch AND day BETWEEN $first AND $last",
            {"batch": batch, **_days_of(reading, batch)},
        )

    last = reading.sequence(EVENTS, INGESTION)
    batch = lake.sequence("model_costs", EVENTS) + 1
    upcoming = pool.submit(costs_of, batch) if batch <= last else None
    try:
        while upcoming is not None:
            costs = upcoming.result()
            upcoming = pool.submit(costs_of, batch + 1) if batch < last else None
            if lake.append_once("model_costs", costs, source=EVENTS, sequence=batch) is Landed.NOW:
                yield batch
            batch += 1
    finally:
        # The reading is about to be closed.
        if upcoming is not None and not upcoming.cancel():
            wait([upcoming])


def _days_of(reading: Reading, batch: int) -> dict[str, date]:
    """The first and the last day that hold a batch, so that only their files are opened."""
    days = [
        statistics["partition.day"]
        for statistics in file_statistics(reading, EVENTS)
        if (statistics["min.batch"] or 0) <= batch <= (statistics["max.batch"] or batch)
    ]
    return {"first": min(days, default=date.max), "last": max(days, default=date.min)}


def file_statistics(reading: Reading, table: str) -> list[dict[str, Any]]:
    """Live files of a table with partition, rows and bounds, one dictionary each."""
    statistics: list[dict[str, Any]] = reading.files(table).to_pylist()
    return statistics


def days_priced(lake: Lake, *, since: date | None = None, until: date | None = None) -> list[date]:
    """The days that have costs, in order, from `since` to `until`, both included."""
    with lake.read("model_costs") as reading:
        held = days_held(reading, "model_costs")
    return sorted(day for day in held if (since or date.min) <= day <= (until or date.max))


def reprice(lake: Lake, days: Iterable[date], *, dry_run: bool = False) -> list[Repriced]:
    """Price whole days anew at the catalogue as it is now, for example after a contract was added.

    A day whose costs would be the same stays untouched. Costs of attempts that inference_events
    no longer holds, because they were erased or are past their retention, stay as they are.
    Rollups do not see the change by themselves: `roll_up_costs` has to be given the days.

    Args:
        dry_run: only tells what would change.

    Raises:
        CostsBusy: ingestion kept adding to the day.
    """
    return [_reprice_day(lake, day, dry_run=dry_run) for day in sorted(set(days))]


def _reprice_day(lake: Lake, day: date, *, dry_run: bool) -> Repriced:
    for _ in range(_ATTEMPTS):
        # A slower process must not leave the prices of an older catalogue behind a faster one's.
        catalogue = catalog_generation(lake)
        try:
            done = _reprice_once(lake, day, dry_run=dry_run)
        except (LostRace, SnapshotGone, StaleSlice):
            continue
        if catalog_generation(lake) == catalogue:
            return done
    raise CostsBusy(
        f"model_costs of {day} or its prices were changed by others {_ATTEMPTS} times while it was priced anew; "
        "try again"
    )


def _reprice_once(lake: Lake, day: date, *, dry_run: bool) -> Repriced:
    import pyarrow as pa

    with lake.read(EVENTS, "model_costs") as reading:
        # Replacing under the sequence of the batches makes it fail when a batch was priced meanwhile,
        # whose rows of this day it would wipe out.
        sequence = reading.sequence("model_costs", EVENTS)
        costs = PriceBook.of(lake).price_slice(
            reading, "reprice_day", "day = $day AND batch <= $batch", {"day": day, "batch": sequence}
        )
        reading.register("repriced", costs)
        changed, difference = _changes(reading, day)
        kept = reading.query(
            "reprice_kept",
            """
            SELECT * FROM (FROM model_costs WHERE day = $day)
            ANTI JOIN repriced USING (tenant, event_key, batch)
            """,
            {"day": day},
        )
    if changed and not dry_run:
        whole = pa.concat_tables([costs, kept.select(costs.column_names).cast(costs.schema)])
        lake.replace("model_costs", whole, predicate=f"day = '{day}'", source=EVENTS, sequence=sequence)
    return Repriced(day, costs.num_rows, changed, difference)


def _changes(reading: Reading, day: date) -> tuple[int, dict[str, Decimal]]:
    """How many attempts of a day are `repriced` other than they were, and the difference by currency."""
    found = reading.query(
        "reprice_differences",
        """
        WITH pairs AS (
            SELECT o.currency AS old_currency, o.cost AS old_cost, n.currency AS new_currency, n.cost AS new_cost
            FROM repriced AS n
            LEFT JOIN (FROM model_costs WHERE day = $day) AS o USING (tenant, event_key, batch)
            WHERE (n.cost_status, n.price_id, n.currency, n.cost)
                IS DISTINCT FROM (o.cost_status, o.price_id, o.currency, o.cost)
        ),
        amounts AS (
            SELECT 1 AS changed, new_currency AS currency, new_cost AS amount FROM pairs
            UNION ALL
            SELECT 0, old_currency, -old_cost FROM pairs
        )
        SELECT currency, CAST(sum(changed) AS BIGINT) AS changed, sum(amount) AS difference
        FROM amounts GROUP BY currency ORDER BY currency
        """,
        {"day": day},
    ).to_pylist()
    differences = {
        row["currency"]: row["difference"] for row in found if row["currency"] and row["difference"]
    }
    return sum(row["changed"] for row in found), differences
