"""`attribution_gaps`: model calls that lead to no version, by what the log says of them, with their volume.

A day is computed with the rollups' machinery: from one snapshot, replaced as a whole, again when it
gets new rows, costs or rules. Costs are summed without a join of rows where a day's combination of
tenant, application, provider and model is one gap as a whole; only the others are joined.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.rollups import complete_sequence
from ml_registry_pipelines.costs.standing import CORRECTIONS, standing
from ml_registry_pipelines.lake.attributing import Rules, rules_of
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.slices import DAY_FILTER, Refreshed, day_parameters, refresh_days
from ml_registry_pipelines.lake.tables.attribution import ATTRIBUTION_GAPS, CONDITIONS
from ml_registry_pipelines.lake.tables.telemetry import TOKEN_BUCKETS

if TYPE_CHECKING:
    import pyarrow as pa

GAPS = "attribution_gaps"
COARSE = ("day", "tenant", "application", "provider", "model")
"""What `model_costs` knows of an attempt."""
_FINE = ("day", "tenant", *CONDITIONS)
_TOKENS = " + ".join(f"coalesce({bucket}, 0)" for bucket in TOKEN_BUCKETS)


def refresh_gaps(lake: Lake, days: Collection[date] | None = None) -> Refreshed:
    """Bring `attribution_gaps` up to date: the days with newer batches or other rules, or those of `days`.

    Raises:
        LostRace: other writers kept changing the same tables; what was written stands.
    """
    reads = ["model_costs", CORRECTIONS]
    return refresh_days(lake, GAPS, gap_rows, complete=complete_sequence, reads=reads, days=days)


def gap_rows(reading: Reading, days: Sequence[date], sequence: int) -> pa.Table:
    """Rows of `attribution_gaps` for some days, of batches up to `sequence`."""
    rules = rules_of(reading)
    bounds = day_parameters(days) | {"sequence": sequence}
    costs = standing(reading, f"{DAY_FILTER} AND batch <= $sequence")
    reading.register("outcomes", rules.outcome_rows())
    reading.register("digests", rules.digest_rows(days))
    reading.register("found", reading.query("attribution_gaps_counts", _found(rules, days), bounds))
    reading.register("paid", reading.query("attribution_gaps_costs", _paid(costs), bounds))
    mixed = reading.query("attribution_gaps_mixed", _MIXED)
    reading.register("mixed", mixed)
    apart = (
        reading.query("attribution_gaps_joined", _apart(rules, costs), bounds)
        if mixed.num_rows
        else reading.query("attribution_gaps_none_mixed", _NONE_APART)
    )
    reading.register("apart", apart)
    versions = (reading.version(table) for table in ("model_costs", CORRECTIONS))
    computed_from = {"sequence": sequence, "costs_version": sum(versions)}
    rows = reading.query("attribution_gaps_rows", _ROWS, computed_from)
    return rows.select(ATTRIBUTION_GAPS.column_names).cast(ATTRIBUTION_GAPS.schema)


def _found(rules: Rules, days: Sequence[date]) -> str:
    """Model calls by all that a rule may look at, and by outcome; those that lead to a version as well."""
    return f"""
    WITH fine AS (
        SELECT {", ".join(_FINE)}, {rules.segment(days)} AS segment,
            count(*) AS requests, sum({_TOKENS}) AS tokens,
            min(event_ts) AS event_ts, max(event_ts) AS last_seen
        FROM inference_events
        WHERE {DAY_FILTER} AND batch <= $sequence AND span_kind = 'leaf'
        GROUP BY ALL
    ),
    resolved AS (
        SELECT *, {rules.number} AS outcome FROM fine
    )
    SELECT {", ".join(_FINE)}, outcome, CAST(sum(requests) AS BIGINT) AS requests,
        CAST(sum(tokens) AS BIGINT) AS tokens, min(event_ts) AS first_seen, max(last_seen) AS last_seen
    FROM resolved
    GROUP BY ALL
    """


_COARSE = ", ".join(COARSE)
_GAP = "attribution IS DISTINCT FROM 'version'"


def _paid(costs: str) -> str:
    """Billable requests and amounts of attempts' costs by all that they know of an attempt, and currency."""
    return f"""
    SELECT {_COARSE}, coalesce(currency, logged_currency) AS currency,
        count(*) FILTER (WHERE cost_status <> 'not_billed') AS billable_requests,
        sum(cost) FILTER (WHERE cost_status = 'priced') AS cost
    FROM ({costs})
    GROUP BY ALL
    """


_MIXED = f"""
WITH gaps AS (
    SELECT struct_pack({_COARSE}) AS key
    FROM found LEFT JOIN outcomes USING (outcome)
    GROUP BY ALL
    HAVING bool_or({_GAP})
),
several AS (
    SELECT struct_pack({_COARSE}) AS key FROM found GROUP BY ALL HAVING count(*) > 1
    UNION
    SELECT struct_pack({_COARSE}) AS key FROM paid GROUP BY ALL HAVING count(DISTINCT currency) > 1
)
SELECT key FROM gaps SEMI JOIN several USING (key)
"""


def _apart(rules: Rules, costs: str) -> str:
    """Requests and amounts of mixed combinations, by all that a rule may look at, outcome and currency."""
    return f"""
    WITH events AS (
        SELECT struct_pack({_COARSE}) AS key, {", ".join(_FINE)}, {rules.number} AS outcome,
            event_key, batch, event_ts, {_TOKENS} AS tokens
        FROM inference_events
        WHERE {DAY_FILTER} AND batch <= $sequence AND span_kind = 'leaf'
    ),
    wanted AS (
        SELECT * EXCLUDE (key) FROM events SEMI JOIN mixed USING (key)
    ),
    costs AS (
        SELECT tenant, event_key, batch, cost_status, coalesce(currency, logged_currency) AS currency, cost
        FROM (
            SELECT *, struct_pack({_COARSE}) AS key FROM ({costs})
        )
        SEMI JOIN mixed USING (key)
    ),
    summed AS MATERIALIZED (
        SELECT {", ".join(_FINE)}, outcome, currency,
            count(*) AS requests, count(*) FILTER (WHERE cost_status <> 'not_billed') AS billable_requests,
            sum(tokens) AS tokens, sum(cost) FILTER (WHERE cost_status = 'priced') AS cost,
            min(event_ts) AS first_seen, max(event_ts) AS last_seen
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
        WINDOW same AS (PARTITION BY {", ".join(_FINE)}, outcome)
    )
    SELECT {", ".join(_FINE)}, outcome, currency, sum(requests) AS requests,
        sum(billable_requests) AS billable_requests, sum(tokens) AS tokens, sum(cost) AS cost,
        min(first_seen) AS first_seen, max(last_seen) AS last_seen
    FROM folded
    GROUP BY ALL
    """


_NONE_APART = """
SELECT *, CAST(NULL AS VARCHAR) AS currency, CAST(0 AS BIGINT) AS billable_requests,
    CAST(NULL AS DECIMAL(38, 12)) AS cost
FROM found LIMIT 0
"""

_ROWS = f"""
WITH gaps AS (
    SELECT found.*, struct_pack({_COARSE}) AS key
    FROM found LEFT JOIN outcomes USING (outcome)
    WHERE {_GAP}
),
sums AS (
    SELECT struct_pack({_COARSE}) AS key, min(currency) AS currency,
        sum(billable_requests) AS billable_requests, sum(cost) AS cost
    FROM paid
    GROUP BY {_COARSE}
),
priced AS (
    SELECT gaps.* EXCLUDE (key), currency, coalesce(billable_requests, requests) AS billable_requests, cost
    FROM gaps LEFT JOIN sums USING (key)
    WHERE NOT EXISTS (SELECT 1 FROM mixed WHERE mixed.key = gaps.key)
    UNION ALL BY NAME
    SELECT apart.* FROM apart LEFT JOIN outcomes USING (outcome) WHERE {_GAP}
    UNION ALL BY NAME
    -- So that a day without a gap is on record as computed, too.
    SELECT day, tenant, min(outcome) AS outcome, sum(requests) AS requests, sum(tokens) AS tokens,
        min(first_seen) AS first_seen, max(last_seen) AS last_seen, true AS covered
    FROM found JOIN outcomes USING (outcome)
    WHERE attribution = 'version'
    GROUP BY day, tenant
)
SELECT
    p.* EXCLUDE (covered), coalesce(o.attribution, 'no_rule') AS reason,
    CASE WHEN p.covered IS NULL THEN o.deployment_id END AS deployment_id,
    CAST($sequence AS BIGINT) AS sequence, CAST($costs_version AS BIGINT) AS costs_version,
    d.attribution_version
FROM priced AS p
LEFT JOIN outcomes AS o USING (outcome)
LEFT JOIN digests AS d ON d.day = p.day
ORDER BY p.day, p.tenant, p.first_seen, p.model, p.endpoint
"""


def volume(lake: Lake) -> dict[str, int]:
    """Requests of all days that lead to a version, and of those that do not, by reason."""
    with lake.read(GAPS) as reading:
        rows = reading.query(
            "attribution_gaps_volume",
            f"SELECT reason, CAST(sum(requests) AS BIGINT) AS requests FROM {GAPS} GROUP BY reason ORDER BY reason",
        ).to_pylist()
    return {f"requests_{row['reason']}": row["requests"] for row in rows}


def gaps(
    reading: Reading,
    *,
    since: date | None = None,
    until: date | None = None,
    tenant: str | None = None,
) -> pa.Table:
    """What leads to no version, largest first. The reading must hold `attribution_gaps`.

    `since` is inclusive, `until` exclusive, both UTC days.

    Returns:
        One row per combination, reason and currency: `tenant`, the columns `CONDITIONS`, `reason`,
        `deployment_id`, `requests`, `tokens`, `cost` (NULL where unknown), `currency`, `first_seen`,
        `last_seen`.
    """
    return reading.query(
        "attribution_gaps",
        f"""
        WITH chosen AS (
            SELECT * FROM {GAPS}
            WHERE reason <> 'version' AND day >= $since AND day < $until AND ($tenant IS NULL OR tenant = $tenant)
        ),
        folded AS (
            SELECT
                * REPLACE (
                    CASE
                        WHEN min(currency) OVER same = max(currency) OVER same THEN min(currency) OVER same
                        ELSE currency
                    END AS currency)
            FROM chosen
            WINDOW same AS (PARTITION BY tenant, {", ".join(CONDITIONS)}, reason, deployment_id)
        )
        SELECT tenant, {", ".join(CONDITIONS)}, reason, deployment_id,
            CAST(sum(requests) AS BIGINT) AS requests, CAST(sum(tokens) AS BIGINT) AS tokens,
            sum(cost) AS cost, currency, min(first_seen) AS first_seen, max(last_seen) AS last_seen
        FROM folded
        GROUP BY ALL
        ORDER BY requests DESC, tokens DESC, tenant, {", ".join(CONDITIONS)}, reason, deployment_id, currency
        """,
        {"since": since or date.min, "until": until or date.max, "tenant": tenant},
    )
