"""`model_costs` kept in step with `inference_events`: the batches that lag are priced.

Batches follow the leading table one by one, whoever took them. What is priced once is changed by
`repricing.py` alone. Requests that were logged after their month had been closed are booked on the day
on which they are priced, so that the figures of a closed month stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.closing import ClosedMonths, closed_months
from ml_registry_pipelines.costs.pricing import PriceBook
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.outcomes import Landed, OutOfSequence, SnapshotGone
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.slices import days_held

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.registry.log import Log

EVENTS = "inference_events"
INGESTION = "ingestion"
"""The one source of `inference_events`; its sequence is the batch."""
ATTEMPTS = 8
"""Times that other writers may be faster before a writer gives up."""


class CostsBusy(MlregError):
    """Other writers kept changing the tables; nothing is wrong, try again."""


def catch_up_costs(lake: Lake, log: Log | None = None) -> list[int]:
    """Price every batch that `inference_events` holds and `model_costs` lacks; return those batches.

    Args:
        log: the process's log of this lake, where it has one open.

    Raises:
        CostsBusy: upkeep kept removing the files that were to be read.
    """
    if lake.sequence("model_costs", EVENTS) >= lake.sequence(EVENTS, INGESTION):
        return []
    priced: list[int] = []
    closed = closed_months(lake, log)
    with ThreadPoolExecutor(1, thread_name_prefix="price") as pool:
        for _ in range(ATTEMPTS):
            with lake.read(EVENTS) as reading:
                try:
                    priced.extend(_catch_up(lake, reading, pool, closed))
                except (OutOfSequence, SnapshotGone):
                    # Another process priced the batch first, or compaction has replaced its files.
                    continue
            return priced
    raise CostsBusy("inference_events was changed by others each time it was to be priced; try again")


def _catch_up(lake: Lake, reading: Reading, pool: Executor, closed: ClosedMonths) -> Iterator[int]:
    """Price and append the batches that lag; the next one is priced while one is written."""
    book = PriceBook.of(lake)

    def costs_of(batch: int) -> pa.Table:
        costs = book.price_slice(
            reading,
            "costs_of_batch",
            "batch = $batch AND day BETWEEN $first AND $last",
            {"batch": batch, **_days_of(reading, batch)},
        )
        return booked(costs, closed, datetime.now(UTC).date()) if closed else costs

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


def booked(costs: pa.Table, closed: ClosedMonths, today: date) -> pa.Table:
    """The same costs, with `booked_day` where the month of their day is closed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    late = pa.array([False] * costs.num_rows, pa.bool_())
    for pair in costs.select(["tenant", "day"]).group_by(["tenant", "day"]).aggregate([]).to_pylist():
        if closed.holds(pair["tenant"], pair["day"]):
            its = pc.and_(pc.equal(costs["tenant"], pair["tenant"]), pc.equal(costs["day"], pair["day"]))
            late = pc.or_(late, its.combine_chunks())
    days = pc.if_else(late, pa.scalar(today, pa.date32()), pa.scalar(None, pa.date32()))
    return costs.set_column(
        costs.schema.get_field_index("booked_day"), costs.schema.field("booked_day"), days
    )


def file_statistics(reading: Reading, table: str) -> list[dict[str, Any]]:
    """Live files of a table with partition, rows and bounds, one dictionary each."""
    statistics: list[dict[str, Any]] = reading.files(table).to_pylist()
    return statistics


def days_priced(lake: Lake, *, since: date | None = None, until: date | None = None) -> list[date]:
    """The days that have costs, in order, from `since` to `until`, both included."""
    with lake.read("model_costs") as reading:
        held = days_held(reading, "model_costs")
    return sorted(day for day in held if (since or date.min) <= day <= (until or date.max))
