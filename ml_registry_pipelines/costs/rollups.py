"""`cost_rollup`: costs and tokens by hour and by day, computed anew for the days that changed.

A day is computed from one snapshot, up to the last batch that is both taken and priced, and
replaced as a whole; which days changed, and who wins a race, is decided in `lake/slices.py`.
Reports read what stands here through `queries.py`.

What was booked after a month had been closed stands in rows of its own, with `booked_day`:
requests that came too late, and corrections, whose counts and amounts are differences.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.ledger import EVENTS, INGESTION
from ml_registry_pipelines.costs.standing import CORRECTIONS
from ml_registry_pipelines.lake.attributing import Rules, rules_of
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.slices import DAY_FILTER, Refreshed, day_parameters, refresh_days
from ml_registry_pipelines.lake.tables.costs import (
    AMOUNTS,
    CONTRACTED_AMOUNTS,
    COST_COMPONENTS,
    COST_ROLLUP,
    LIST_AMOUNTS,
    TYPED_TOKENS,
)

if TYPE_CHECKING:
    import pyarrow as pa


def roll_up_costs(lake: Lake, days: Collection[date] | None = None) -> Refreshed:
    """Bring `cost_rollup` up to date: the days with newer batches, or those of `days` that differ.

    Days that were priced anew have no newer batch, so they have to be given.

    Raises:
        LostRace: other writers kept changing the same tables; what was written stands.
    """
    return refresh_days(
        lake,
        "cost_rollup",
        rollup_rows,
        complete=complete_sequence,
        reads=["model_costs", CORRECTIONS],
        days=days,
    )


def complete_sequence(reading: Reading) -> int:
    """The last batch that is both taken and priced within the reading."""
    return min(reading.sequence(EVENTS, INGESTION), reading.sequence("model_costs", EVENTS))


def rollup_rows(reading: Reading, days: Sequence[date], sequence: int) -> pa.Table:
    """Rows of `cost_rollup` for some days, of batches up to `sequence`.

    Events and costs are summed apart and put together by their common keys: joining the rows
    themselves takes twice the time and gigabytes. Only where one key has costs in several
    currencies, or requests of several versions, do its rows have to be joined, to tell which
    tokens and costs belong to which.
    """
    rules = rules_of(reading)
    bounds = day_parameters(days) | {"sequence": sequence}
    reading.register("counted", reading.query("cost_rollup_counts", _counted(rules, days), bounds))
    reading.register("paid", reading.query("cost_rollup_amounts", _PAID, bounds))
    mixed = reading.query(
        "cost_rollup_mixed",
        """
        SELECT key FROM paid GROUP BY key HAVING count(*) > 1
        UNION
        SELECT key FROM counted GROUP BY key HAVING count(*) > 1
        """,
    )
    reading.register("mixed", mixed)
    if mixed.num_rows:
        reading.register("apart", reading.query("cost_rollup_mixed_rows", _apart(rules), bounds))
    corrected = reading.query("cost_rollup_corrected", _corrected(rules), bounds)
    reading.register("corrected", corrected)
    reading.register("outcomes", rules.outcome_rows())
    reading.register("digests", rules.digest_rows(days))
    versions = (reading.version(table) for table in ("model_costs", CORRECTIONS))
    computed_from = {"sequence": sequence, "costs_version": sum(versions)}
    hours = _HOURS_WITH_MIXED if mixed.num_rows else _HOURS
    hours += " UNION ALL BY NAME SELECT * FROM corrected"
    rows = reading.query("cost_rollup_rows", f"WITH hours AS ({hours}), {_ROWS}", computed_from)
    return rows.select(COST_ROLLUP.column_names).cast(COST_ROLLUP.schema)


def _counted(rules: Rules, days: Sequence[date]) -> str:
    """Requests and tokens by key and by what attribution says of them, found once for many rows."""
    names = [name for name in rules.used if name not in KEY]
    fine = ", ".join([*KEY[2:], *names, f"{rules.segment(days)} AS segment"])
    event_ts = "min(event_ts)" if rules else "NULL::TIMESTAMPTZ"
    return rf"""
    WITH fine AS (
        SELECT
            day, date_trunc('hour', event_ts) AS hour, {fine},
            {event_ts} AS event_ts, count(*) AS requests,
            CAST(sum(COLUMNS('^(in_|out_|n_|pages$)')) AS BIGINT)
        FROM inference_events
        WHERE {DAY_FILTER} AND batch <= $sequence
        GROUP BY ALL
    )
    SELECT
        struct_pack({", ".join(KEY)}) AS key, {rules.number} AS outcome,
        CAST(sum(COLUMNS('^(requests|in_.*|out_.*|n_.*|pages)$')) AS BIGINT)
    FROM fine
    GROUP BY ALL
    """


_OF_ROW = (
    "struct_pack(day, hour := date_trunc('hour', event_ts), tenant, application, provider, model, status)"
)
KEY = ("day", "hour", "tenant", "application", "provider", "model", "status")


def _amounts(count: str) -> str:
    """Counts and sums of rows of costs; `count` counts rows, those that take back one as -1."""
    listed = "cost_status = 'priced' AND list_cost IS NOT NULL"
    contracted = ",\n        ".join(
        f"sum(CASE WHEN price_kind = 'contract' THEN {name} ELSE list_{name} END) AS contracted_{name}"
        for name in COST_COMPONENTS
    )
    return f"""
        {count} FILTER (WHERE cost_status <> 'not_billed') AS billable_requests,
        {count} FILTER (WHERE cost_status = 'priced') AS priced_requests,
        {count} FILTER (WHERE assumed) AS assumed_requests,
        sum(tokens) FILTER (WHERE cost_status = 'priced') AS priced_tokens,
        {", ".join(f"sum({n}) FILTER (WHERE cost_status = 'priced') AS priced_{n}" for n in TYPED_TOKENS)},
        {count} FILTER (WHERE cost_status = 'priced' AND output_tokens IS NOT NULL) AS typed_requests,
        {", ".join(f"sum({name}) AS {name}" for name in (*AMOUNTS, *LIST_AMOUNTS))},
        {contracted},
        sum(contracted_cost) AS contracted_cost,
        {count} FILTER (WHERE {listed}) AS listed_requests,
        sum(cost) FILTER (WHERE {listed}) AS listed_cost
"""


_LOGGED = (
    "sum(logged_cost) FILTER (WHERE logged_currency = coalesce(currency, logged_currency)) AS logged_cost"
)

# MATERIALIZED: DuckDB 2.0 turns a window over groups into a join of the query with itself, and its second
# scan reads all files: 50 s instead of 1 s for one day of thirty.
_PAID = f"""
WITH summed AS MATERIALIZED (
    SELECT
        day, date_trunc('hour', event_ts) AS hour, tenant, application, provider, model, status,
        coalesce(currency, logged_currency) AS currency, booked_day,
        {_amounts("count(*)")}, {_LOGGED}
    FROM model_costs
    WHERE {DAY_FILTER} AND batch <= $sequence
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
    WINDOW same AS (PARTITION BY day, hour, tenant, application, provider, model, status, booked_day)
)
SELECT
    struct_pack({", ".join(KEY)}) AS key,
    * EXCLUDE ({", ".join(KEY)})
FROM (
    SELECT
        day, hour, tenant, application, provider, model, status, currency, booked_day,
        sum(COLUMNS(* EXCLUDE (day, hour, tenant, application, provider, model, status, currency, booked_day)))
    FROM folded
    GROUP BY ALL
)
"""


def _apart(rules: Rules) -> str:
    """Requests, tokens and amounts of the keys that are mixed, by key, outcome and currency."""
    return rf"""
    WITH events AS (
        SELECT
            {_OF_ROW} AS key, {rules.number} AS outcome, tenant, event_key, batch,
            COLUMNS('^(in_|out_|n_|pages$)')
        FROM inference_events
        WHERE {DAY_FILTER} AND batch <= $sequence
    ),
    wanted AS (
        SELECT * FROM events SEMI JOIN mixed USING (key)
    ),
    costs AS (
        SELECT
            tenant, event_key, batch, currency, logged_currency, cost_status, assumed, tokens, booked_day,
            {", ".join((*AMOUNTS, *LIST_AMOUNTS))}, contracted_cost, price_kind, logged_cost,
            {", ".join(TYPED_TOKENS)}
        FROM (SELECT *, {_OF_ROW} AS key FROM model_costs WHERE {DAY_FILTER} AND batch <= $sequence)
        SEMI JOIN mixed USING (key)
    ),
    summed AS MATERIALIZED (
        SELECT
            key, outcome, coalesce(currency, logged_currency) AS currency, booked_day,
            count(*) AS requests,
            CAST(sum(COLUMNS('^(in_.*|out_.*|n_.*|pages)$')) AS BIGINT),
            {_amounts("count(*)")}, {_LOGGED}
        FROM wanted JOIN costs USING (tenant, event_key, batch)
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
        WINDOW same AS (PARTITION BY key, outcome, booked_day)
    )
    SELECT key, outcome, currency, booked_day, sum(COLUMNS(* EXCLUDE (key, outcome, currency, booked_day)))
    FROM folded
    GROUP BY ALL
    """


def _corrected(rules: Rules) -> str:
    """Corrections of some days by key, outcome, currency and the day on which they were booked."""
    return f"""
    WITH corrections AS (
        SELECT *, CASE entry WHEN 'reversed' THEN -1 ELSE 1 END AS counted
        FROM cost_corrections WHERE {DAY_FILTER} AND batch <= $sequence
    ),
    events AS (
        SELECT tenant, event_key, batch, {rules.number} AS outcome
        FROM (
            SELECT * FROM inference_events WHERE {DAY_FILTER} AND batch <= $sequence
        ) SEMI JOIN corrections USING (tenant, event_key, batch)
    ),
    summed AS MATERIALIZED (
        SELECT
            {_OF_ROW} AS key, outcome, currency, booked_day,
            {_amounts("sum(counted)")}
        FROM corrections LEFT JOIN events USING (tenant, event_key, batch)
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
        WINDOW same AS (PARTITION BY key, outcome, booked_day)
    )
    SELECT key, outcome, currency, booked_day, 'Correction' AS charge_class, CAST(0 AS BIGINT) AS requests,
        sum(COLUMNS(* EXCLUDE (key, outcome, currency, booked_day)))
    FROM folded
    GROUP BY ALL
    """


_HOURS = """
    SELECT counted.*, paid.* EXCLUDE (key), CAST(NULL AS VARCHAR) AS charge_class
    FROM counted LEFT JOIN paid USING (key)
"""
_HOURS_WITH_MIXED = f"""
    {_HOURS}
    WHERE NOT EXISTS (SELECT 1 FROM mixed WHERE mixed.key = counted.key)
    UNION ALL BY NAME
    SELECT * FROM apart
"""

_KNOWN = ", ".join(
    f"CASE WHEN priced_requests > 0 OR charge_class IS NOT NULL THEN {name} WHEN billable_requests = 0 THEN 0 END "
    f"AS {name}"
    for name in (*AMOUNTS, *LIST_AMOUNTS, *CONTRACTED_AMOUNTS)
)

_ROWS = f"""
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
    WINDOW same AS (
        PARTITION BY day, tenant, application, provider, model, status, outcome, charge_class, booked_day
    )
),
daily AS (
    SELECT
        grain, period_start, day, tenant, application, provider, model, status, outcome, currency,
        charge_class, booked_day,
        sum(COLUMNS(* EXCLUDE (
            grain, period_start, day, tenant, application, provider, model, status, outcome, currency,
            charge_class, booked_day)))
    FROM same_currency
    GROUP BY ALL
),
periods AS (
    SELECT * REPLACE (coalesce(billable_requests, requests) AS billable_requests) FROM hourly
    UNION ALL BY NAME
    SELECT * REPLACE (coalesce(billable_requests, requests) AS billable_requests) FROM daily
)
SELECT
    periods.* REPLACE (
        coalesce(priced_requests, 0) AS priced_requests,
        coalesce(assumed_requests, 0) AS assumed_requests,
        coalesce(priced_tokens, 0) AS priced_tokens,
        coalesce(listed_requests, 0) AS listed_requests,
        {_KNOWN}),
    CAST($sequence AS BIGINT) AS sequence,
    CAST($costs_version AS BIGINT) AS costs_version,
    deployment_id, model_id, model_version, attribution, attribution_version
FROM periods
LEFT JOIN outcomes USING (outcome)
LEFT JOIN digests ON digests.day = periods.day
"""
