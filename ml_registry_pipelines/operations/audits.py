"""What must hold between tables, as findings: each audit reads, compares and says so in a sentence.

An audit looks at the newest rows, as many as its bound allows: older ones were audited when
they were new. It changes nothing; who is told of a failure is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.tables.experiments import LOG_KINDS
from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, TOKEN_BUCKETS

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

MOST_ROWS = 1_000_000
"""Rows of raw tables that one audit reads; about a second on two cores."""
COVERAGE_DAYS = 7
LEAST_COVERAGE = 0.9
"""Below this share of priced requests the totals mislead more than they tell."""


@dataclass(frozen=True)
class Finding:
    """What one audit found. `figures` are what it compared."""

    passed: bool
    sentence: str
    figures: Mapping[str, int | float | str] = field(default_factory=dict)


def counts_add_up(lake: Lake) -> Finding:
    """Every record that went in came out once: taken, duplicate or quarantined; and the tables hold what was taken."""
    with lake.read("ingested_files", "inference_events", "erased_rows", *LOG_KINDS) as reading:
        since = _newest_batches(reading)
        rows = reading.query(
            "audits.counts_add_up",
            """
            WITH files AS (
                SELECT CASE WHEN list_contains($kinds, dialect) THEN dialect ELSE $requests END AS kind, batch,
                       sum(rows_in) AS rows_in, sum(taken) AS taken, sum(duplicates) AS duplicates,
                       sum(quarantined) AS quarantined, sum(coalesce(suppressed, 0)) AS suppressed
                FROM ingested_files GROUP BY ALL
            ),
            stored AS (
                SELECT $requests AS kind, batch, count(*) AS stored
                FROM inference_events WHERE batch >= $since GROUP BY batch
                UNION ALL
                SELECT 'assignments', batch, count(*) FROM assignments GROUP BY batch
                UNION ALL
                SELECT 'outcomes', batch, count(*) FROM outcomes GROUP BY batch
            ),
            erased AS (
                SELECT CASE WHEN table_name = 'inference_events' THEN $requests ELSE table_name END AS kind, batch,
                       sum(rows)::BIGINT AS erased
                FROM erased_rows GROUP BY ALL
            )
            SELECT batch, rows_in, taken, duplicates, quarantined, suppressed, coalesce(stored, 0) AS stored,
                   coalesce(erased, 0) AS erased
            FROM files LEFT JOIN stored USING (kind, batch) LEFT JOIN erased USING (kind, batch)
            WHERE kind <> $requests OR batch >= $since
            ORDER BY batch
            """,
            {"since": since, "kinds": list(LOG_KINDS), "requests": "requests"},
        ).to_pylist()
    odd = [
        row
        for row in rows
        if row["rows_in"] != row["taken"] + row["duplicates"] + row["quarantined"] + row["suppressed"]
        # What is about to be erased is written down before it goes.
        or not row["taken"] - row["erased"] <= row["stored"] <= row["taken"]
    ]
    sums = {
        name: int(sum(row[name] for row in rows))
        for name in ("rows_in", "taken", "duplicates", "quarantined", "suppressed")
    }
    if odd:
        worst = odd[0]
        return Finding(
            False,
            f"Batch {worst['batch']}: {worst['rows_in']} rows in, {worst['taken']} taken, {worst['duplicates']} "
            f"duplicates, {worst['quarantined']} quarantined, {worst['suppressed']} suppressed, {worst['stored']} "
            f"stored, {worst['erased']} erased; {len(odd)} batches are off.",
            sums,
        )
    return Finding(
        True,
        f"Rows in = taken + duplicates + quarantined + suppressed in the newest {len(rows)} batches.",
        sums,
    )


def no_negative_tokens(lake: Lake) -> Finding:
    """No count in the newest rows is below zero."""
    names = TOKEN_BUCKETS + COUNTERS
    with lake.read("ingested_files", "inference_events") as reading:
        since = _newest_batches(reading)
        lowest = reading.query(
            "audits.no_negative_tokens",
            f"""
            SELECT count(*) AS rows, {", ".join(f"min({name}) AS {name}" for name in names)}
            FROM inference_events WHERE batch >= $since
            """,
            {"since": since},
        ).to_pylist()[0]
    negative = [name for name in names if (lowest[name] or 0) < 0]
    if negative:
        return Finding(
            False, f"Negative counts in {', '.join(negative)} since batch {since}.", {"rows": lowest["rows"]}
        )
    return Finding(True, f"No negative count in {lowest['rows']:,} rows.", {"rows": lowest["rows"]})


def costs_follow_events(lake: Lake) -> Finding:
    """Every attempt of the newest batches has exactly one row of costs."""
    with lake.read("ingested_files", "inference_events", "model_costs") as reading:
        since = _newest_batches(reading)
        found = reading.query(
            "audits.costs_follow_events",
            """
            WITH events AS (
                SELECT tenant, event_key, batch, count(*) AS n
                FROM inference_events WHERE batch >= $since GROUP BY ALL
            ),
            costs AS (
                SELECT tenant, event_key, batch, count(*) AS n
                FROM model_costs WHERE batch >= $since GROUP BY ALL
            )
            SELECT coalesce(sum(e.n), 0) AS attempts,
                   count(*) FILTER (WHERE c.n IS NULL) AS without_cost,
                   count(*) FILTER (WHERE e.n IS NULL) AS without_attempt,
                   count(*) FILTER (WHERE e.n <> c.n) AS counted_twice
            FROM events AS e FULL JOIN costs AS c USING (tenant, event_key, batch)
            """,
            {"since": since},
        ).to_pylist()[0]
    figures = {name: int(value) for name, value in found.items()}
    if wrong := [f"{figures[name]} {name.replace('_', ' ')}" for name in list(figures)[1:] if figures[name]]:
        return Finding(False, f"Costs do not follow attempts one to one: {', '.join(wrong)}.", figures)
    return Finding(True, f"Each of {figures['attempts']:,} attempts has one row of costs.", figures)


def prices_cover_requests(lake: Lake) -> Finding:
    """Most billable requests of the newest days have a price."""
    with lake.read("cost_rollup") as reading:
        found = reading.query(
            "audits.price_coverage",
            """
            SELECT provider, model, sum(billable_requests) AS billable, sum(priced_requests) AS priced
            FROM cost_rollup
            WHERE grain = 'day' AND day > (SELECT max(day) FROM cost_rollup) - $days::INTEGER
            GROUP BY provider, model
            ORDER BY billable - priced DESC
            """,
            {"days": COVERAGE_DAYS},
        ).to_pylist()
    billable = int(sum(row["billable"] for row in found))
    priced = int(sum(row["priced"] for row in found))
    if not billable:
        return Finding(True, "No billable request in the newest days.")
    share = priced / billable
    missing = [f"{row['provider']}/{row['model']}" for row in found if row["billable"] > row["priced"]]
    figures: dict[str, int | float | str] = {
        "billable": billable,
        "priced": priced,
        "coverage": round(share, 4),
        "without_price": ", ".join(missing[:10]) or "none",
    }
    sentence = f"{share:.1%} of {billable:,} billable requests of the newest {COVERAGE_DAYS} days are priced"
    return Finding(
        share >= LEAST_COVERAGE, f"{sentence}; most missing: {', '.join(missing[:3]) or 'none'}.", figures
    )


def performance_equals_events(lake: Lake) -> Finding:
    """The days rolled up last hold what a fresh count of their raw rows gives."""
    return _rollup_equals_raw(
        lake,
        rollup="performance_rollup",
        raw="inference_events",
        sql="""
            WITH rolled AS (
                SELECT day, provider, model, status, sum(requests) AS requests
                FROM performance_rollup WHERE grain = 'day' AND day IN (SELECT unnest($days)) GROUP BY ALL
            ),
            counted AS (
                SELECT day, provider, model, status, count(*) AS requests
                FROM inference_events
                WHERE day BETWEEN $first AND $last AND day IN (SELECT unnest($days))
                  AND batch <= $sequence AND span_kind = 'leaf'
                GROUP BY ALL
            )
            SELECT coalesce(rolled.day, counted.day) AS day, coalesce(rolled.requests, 0) AS rolled,
                   coalesce(counted.requests, 0) AS counted
            FROM rolled FULL JOIN counted
                ON rolled.day = counted.day AND rolled.provider IS NOT DISTINCT FROM counted.provider
                AND rolled.model IS NOT DISTINCT FROM counted.model AND rolled.status = counted.status
        """,
    )


def costs_equal_rollup(lake: Lake) -> Finding:
    """The days whose costs were rolled up last hold what a fresh sum of their rows and corrections gives, exactly."""
    return _rollup_equals_raw(
        lake,
        rollup="cost_rollup",
        raw="model_costs",
        beside=("cost_corrections",),
        sql="""
            WITH rolled AS (
                SELECT day, currency AS what, sum(cost) AS amount
                FROM cost_rollup
                WHERE grain = 'day' AND day IN (SELECT unnest($days)) AND currency IS NOT NULL
                GROUP BY ALL
                UNION ALL
                SELECT day, 'requests', sum(requests)
                FROM cost_rollup WHERE grain = 'day' AND day IN (SELECT unnest($days)) GROUP BY day
            ),
            attempts AS (
                FROM model_costs
                WHERE day BETWEEN $first AND $last AND day IN (SELECT unnest($days)) AND batch <= $sequence
            ),
            amounts AS (
                SELECT day, currency, cost FROM attempts
                UNION ALL
                SELECT day, currency, cost FROM cost_corrections
                WHERE day BETWEEN $first AND $last AND day IN (SELECT unnest($days)) AND batch <= $sequence
            ),
            counted AS (
                SELECT day, currency AS what, sum(cost) AS amount
                FROM amounts WHERE currency IS NOT NULL GROUP BY ALL
                UNION ALL
                SELECT day, 'requests', count(*) FROM attempts GROUP BY day
            )
            SELECT coalesce(rolled.day, counted.day) AS day,
                   coalesce(rolled.amount, 0) AS rolled, coalesce(counted.amount, 0) AS counted
            FROM rolled FULL JOIN counted ON rolled.day = counted.day AND rolled.what = counted.what
        """,
    )


def closed_months_hold(lake: Lake) -> Finding:
    """Every month that was closed by hand still holds what it was closed with; what came later is booked later."""
    from ml_registry_pipelines.costs.closing import months_that_differ

    closed, differing = months_that_differ(lake)
    if differing:
        named = ", ".join(f"{one.month:%Y-%m} of {one.tenant}" for one in differing[:5])
        return Finding(
            False,
            f"{len(differing)} closed months differ from what they were closed with: {named}.",
            {"closed": closed},
        )
    return Finding(True, f"{closed} closed months hold what they were closed with.", {"closed": closed})


def _rollup_equals_raw(
    lake: Lake, *, rollup: str, raw: str, sql: str, beside: tuple[str, ...] = ()
) -> Finding:
    with lake.read(rollup, raw, *beside) as reading:
        sequence, days = _days_rolled_up_last(reading, rollup)
        if not days:
            return Finding(True, f"{rollup} is empty.")
        bounds = {"days": days, "first": days[0], "last": days[-1], "sequence": sequence}
        rows = reading.query(f"audits.{rollup}", sql, bounds).to_pylist()
    differing = sorted({row["day"] for row in rows if row["rolled"] != row["counted"]})
    figures: dict[str, int | float | str] = {"days": len(days), "groups": len(rows), "batch": sequence}
    if differing:
        named = ", ".join(day.isoformat() for day in differing[:5])
        return Finding(False, f"{rollup} differs from {raw} on {len(differing)} days: {named}.", figures)
    return Finding(True, f"{rollup} equals {raw} on the {len(days)} days that were rolled up last.", figures)


def _newest_batches(reading: Reading) -> int:
    """The first of the newest batches that together hold at most `MOST_ROWS` rows, one batch at least."""
    found = reading.query(
        "audits.newest_batches",
        """
        WITH batches AS (
            SELECT batch, sum(taken) AS taken FROM ingested_files
            WHERE NOT list_contains($kinds, coalesce(dialect, ''))
            GROUP BY batch
        ),
        summed AS (SELECT batch, sum(taken) OVER (ORDER BY batch DESC) AS taken FROM batches)
        SELECT coalesce(min(batch) FILTER (WHERE taken <= $most), max(batch), 0) AS batch FROM summed
        """,
        {"most": MOST_ROWS, "kinds": list(LOG_KINDS)},
    ).to_pylist()
    return int(found[0]["batch"])


def _days_rolled_up_last(reading: Reading, rollup: str) -> tuple[int, list[date]]:
    """The last sequence of a rollup and its days, the newest, up to `MOST_ROWS` requests."""
    rows: list[dict[str, Any]] = reading.query(
        "audits.days_rolled_up_last",
        f"""
        WITH days AS (
            SELECT day, max(sequence) AS sequence, sum(requests) AS requests
            FROM {rollup} WHERE grain = 'day' GROUP BY day
        ),
        last AS (
            SELECT day, sequence, sum(requests) OVER (ORDER BY day DESC) - requests AS before
            FROM days WHERE sequence = (SELECT max(sequence) FROM days)
        )
        SELECT day, sequence FROM last WHERE before < $most ORDER BY day
        """,
        {"most": MOST_ROWS},
    ).to_pylist()
    return (int(rows[0]["sequence"]), [row["day"] for row in rows]) if rows else (0, [])
