"""`cost_rollup`: costs and tokens by hour and by day, computed anew for the days that changed.

A day is computed from one snapshot, up to the last batch that is both taken and priced, and
replaced as a whole. Which days changed is read from file statistics, without opening a file.
Reports read what stands here through `queries.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.ledger import EVENTS, INGESTION, CostsBusy, file_statistics
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.outcomes import LostRace, SnapshotGone, StaleSlice
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.tables.costs import COST_ROLLUP

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 4_000_000
"""Neighbouring days are rolled up together while they hold no more attempts than this."""
_ATTEMPTS = 8


@dataclass(frozen=True)
class RolledUp:
    """Days that were computed, rows that were written for them, and the batch up to which they hold."""

    days: tuple[date, ...]
    rows: int
    sequence: int


def roll_up_costs(lake: Lake, days: Iterable[date] | None = None) -> RolledUp:
    """Bring `cost_rollup` up to date: the days with newer batches, or exactly the `days` given.

    Raises:
        CostsBusy: other writers kept changing the same tables; what was written stands.
    """
    wanted = None if days is None else set(days)
    done: set[date] = set()
    written = 0
    for _ in range(_ATTEMPTS):
        with lake.read(EVENTS, "model_costs", "cost_rollup") as reading:
            sequence = complete_sequence(reading)
            left = dirty_days(reading) if wanted is None else sorted(wanted - done)
            try:
                for first, last in _stretches(left, _rows_by_day(reading)):
                    rows = rollup_rows(reading, first, last, sequence)
                    predicate = f"day >= '{first}' AND day <= '{last}'"
                    lake.replace("cost_rollup", rows, predicate=predicate, source=EVENTS, sequence=sequence)
                    done |= {first + timedelta(days=n) for n in range((last - first).days + 1)}
                    written += rows.num_rows
            except (LostRace, SnapshotGone, StaleSlice):
                continue
            if not done or not _rewritten(lake, reading, done):
                return RolledUp(tuple(sorted(done)), written, sequence)
        # The days were priced anew meanwhile: what was just written may have replaced newer figures.
        wanted, done = (wanted or set()) | done, set()
    raise CostsBusy(f"cost_rollup was changed by others {_ATTEMPTS} times while it was computed; try again")


def _rewritten(lake: Lake, reading: Reading, days: set[date]) -> bool:
    """Whether files of costs that the reading saw for these days are no longer in the table."""
    read = {file["path"] for file in file_statistics(reading, "model_costs") if file["partition.day"] in days}
    with lake.read("model_costs") as now:
        return not read <= {file["path"] for file in file_statistics(now, "model_costs")}


def complete_sequence(reading: Reading) -> int:
    """The last batch that is both taken and priced within the reading."""
    return min(reading.sequence(EVENTS, INGESTION), reading.sequence("model_costs", EVENTS))


def dirty_days(reading: Reading) -> list[date]:
    """Days with a complete batch that their rollup does not hold yet, from file statistics alone."""
    complete = complete_sequence(reading)
    held: dict[date, int] = {}
    for file in file_statistics(reading, "cost_rollup"):
        day = file["partition.day"]
        held[day] = max(held.get(day, 0), file["max.sequence"] or 0)
    dirty = {
        file["partition.day"]
        for file in file_statistics(reading, EVENTS)
        if file["num_records"]
        and (file["max.batch"] or 0) > held.get(file["partition.day"], 0)
        and (file["min.batch"] or 0) <= complete
    }
    return sorted(day for day in dirty if held.get(day, 0) < complete)


def _rows_by_day(reading: Reading) -> dict[date, int]:
    rows: dict[date, int] = {}
    for file in file_statistics(reading, EVENTS):
        rows[file["partition.day"]] = rows.get(file["partition.day"], 0) + (file["num_records"] or 0)
    return rows


def _stretches(days: Iterable[date], rows: Mapping[date, int]) -> Iterator[tuple[date, date]]:
    """First and last of each run of neighbouring days that is small enough to be computed at once."""
    first: date | None = None
    last = date.min
    size = 0
    for day in days:
        more = rows.get(day, 0)
        if first is not None and day == last + timedelta(days=1) and size + more <= GROUP_ROWS:
            last, size = day, size + more
            continue
        if first is not None:
            yield first, last
        first, last, size = day, day, more
    if first is not None:
        yield first, last


def rollup_rows(reading: Reading, first: date, last: date, sequence: int) -> pa.Table:
    """Rows of `cost_rollup` for the days `first` to `last`, of batches up to `sequence`.

    Events and costs are summed apart and put together by their common keys: joining the rows
    themselves takes twice the time and gigabytes. Only where one key has costs in several
    currencies do its rows have to be joined, to tell which tokens belong to which currency.
    """
    bounds: Mapping[str, object] = {"first": first, "last": last, "sequence": sequence}
    reading.register("counted", reading.query("cost_rollup_counts", _COUNTED, bounds))
    reading.register("paid", reading.query("cost_rollup_amounts", _PAID, bounds))
    mixed = reading.query("cost_rollup_mixed", "SELECT key FROM paid GROUP BY key HAVING count(*) > 1")
    reading.register("mixed", mixed)
    counts = reading.query(
        "cost_rollup_mixed_counts", _COUNTED_APART if mixed.num_rows else _NONE_APART, bounds
    )
    reading.register("counted_apart", counts)
    rows = reading.query("cost_rollup_rows", _ROWS, {"sequence": sequence})
    return rows.select(COST_ROLLUP.column_names).cast(COST_ROLLUP.schema)


_COUNTED = r"""
SELECT
    struct_pack(day, hour, tenant, application, provider, model, status) AS key,
    * EXCLUDE (day, hour, tenant, application, provider, model, status)
FROM (
    SELECT
        day, date_trunc('hour', event_ts) AS hour, tenant, application, provider, model, status,
        count(*) AS requests,
        CAST(sum(COLUMNS('^(in_|out_|n_|pages$)')) AS BIGINT)
    FROM inference_events
    WHERE day BETWEEN $first AND $last AND batch <= $sequence
    GROUP BY ALL
)
"""

# MATERIALIZED: DuckDB 2.0 turns a window over groups into a join of the query with itself, and its second
# scan reads all files: 50 s instead of 1 s for one day of thirty.
_PAID = """
WITH summed AS MATERIALIZED (
    SELECT
        day, date_trunc('hour', event_ts) AS hour, tenant, application, provider, model, status,
        coalesce(currency, logged_currency) AS currency,
        count(*) FILTER (WHERE cost_status <> 'not_billed') AS billable_requests,
        count(*) FILTER (WHERE cost_status = 'priced') AS priced_requests,
        count(*) FILTER (WHERE assumed) AS assumed_requests,
        sum(tokens) FILTER (WHERE cost_status = 'priced') AS priced_tokens,
        sum(input_cost) AS input_cost,
        sum(cache_read_cost) AS cache_read_cost,
        sum(cache_write_cost) AS cache_write_cost,
        sum(output_cost) AS output_cost,
        sum(other_cost) AS other_cost,
        sum(cost) AS cost,
        sum(logged_cost) FILTER (WHERE logged_currency = coalesce(currency, logged_currency)) AS logged_cost
    FROM model_costs
    WHERE day BETWEEN $first AND $last AND batch <= $sequence
    GROUP BY ALL
),
folded AS (
    SELECT
        * REPLACE (
            CASE
                WHEN min(currency) OVER same = max(currency) OVER same THEN min(currency) OVER same
                ELSE currency
            END AS currency)
    FROM summed
    WINDOW same AS (PARTITION BY day, hour, tenant, application, provider, model, status)
)
SELECT
    struct_pack(day, hour, tenant, application, provider, model, status) AS key,
    * EXCLUDE (day, hour, tenant, application, provider, model, status)
FROM (
    SELECT
        day, hour, tenant, application, provider, model, status, currency,
        sum(COLUMNS(* EXCLUDE (day, hour, tenant, application, provider, model, status, currency)))
    FROM folded
    GROUP BY ALL
)
"""

_COUNTED_APART = r"""
SELECT
    key, currency,
    count(*) AS requests,
    CAST(sum(COLUMNS('^(in_|out_|n_|pages$)')) AS BIGINT)
FROM (
    SELECT
        struct_pack(
            day := e.day, hour := date_trunc('hour', e.event_ts), tenant := e.tenant,
            application := e.application, provider := e.provider, model := e.model, status := e.status
        ) AS key,
        coalesce(c.currency, c.logged_currency) AS currency,
        e.* EXCLUDE (day, event_ts)
    FROM inference_events AS e
    JOIN model_costs AS c USING (tenant, event_key, batch)
    WHERE e.day BETWEEN $first AND $last AND c.day BETWEEN $first AND $last AND batch <= $sequence
)
SEMI JOIN mixed USING (key)
GROUP BY ALL
"""

_NONE_APART = """
SELECT *, CAST(NULL AS VARCHAR) AS currency FROM counted
WHERE false AND $first <= $last AND $sequence > 0
"""

_ROWS = """
WITH hours AS (
    SELECT counted.*, paid.* EXCLUDE (key)
    FROM counted LEFT JOIN paid USING (key)
    WHERE NOT EXISTS (SELECT 1 FROM mixed WHERE mixed.key = counted.key)
    UNION ALL BY NAME
    SELECT counted_apart.*, paid.* EXCLUDE (key, currency)
    FROM counted_apart JOIN paid
        ON counted_apart.key = paid.key AND counted_apart.currency IS NOT DISTINCT FROM paid.currency
),
hourly AS MATERIALIZED (
    SELECT
        'hour' AS grain, key.hour AS period_start, key.day AS day, key.tenant AS tenant,
        key.application AS application, key.provider AS provider, key.model AS model, key.status AS status,
        * EXCLUDE (key)
    FROM hours
),
same_currency AS (
    SELECT
        * REPLACE (
            'day' AS grain,
            CAST(day AS TIMESTAMPTZ) AS period_start,
            CASE
                WHEN min(currency) OVER same = max(currency) OVER same THEN min(currency) OVER same
                ELSE currency
            END AS currency)
    FROM hourly
    WINDOW same AS (PARTITION BY day, tenant, application, provider, model, status)
),
daily AS (
    SELECT
        grain, period_start, day, tenant, application, provider, model, status, currency,
        sum(COLUMNS(
            * EXCLUDE (grain, period_start, day, tenant, application, provider, model, status, currency)))
    FROM same_currency
    GROUP BY ALL
),
periods AS (
    SELECT * REPLACE (coalesce(billable_requests, requests) AS billable_requests) FROM hourly
    UNION ALL BY NAME
    SELECT * REPLACE (coalesce(billable_requests, requests) AS billable_requests) FROM daily
)
SELECT
    * REPLACE (
        coalesce(priced_requests, 0) AS priced_requests,
        coalesce(assumed_requests, 0) AS assumed_requests,
        coalesce(priced_tokens, 0) AS priced_tokens,
        CASE WHEN priced_requests > 0 THEN input_cost WHEN billable_requests = 0 THEN 0 END
            AS input_cost,
        CASE WHEN priced_requests > 0 THEN cache_read_cost WHEN billable_requests = 0 THEN 0 END
            AS cache_read_cost,
        CASE WHEN priced_requests > 0 THEN cache_write_cost WHEN billable_requests = 0 THEN 0 END
            AS cache_write_cost,
        CASE WHEN priced_requests > 0 THEN output_cost WHEN billable_requests = 0 THEN 0 END
            AS output_cost,
        CASE WHEN priced_requests > 0 THEN other_cost WHEN billable_requests = 0 THEN 0 END
            AS other_cost,
        CASE WHEN priced_requests > 0 THEN cost WHEN billable_requests = 0 THEN 0 END
            AS cost),
    CAST($sequence AS BIGINT) AS sequence
FROM periods
"""
