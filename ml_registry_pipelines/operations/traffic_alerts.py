"""Alerts of requests: errors, slowness, quality that drifts, records that come late or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.operations.alert_rules import (
    ErrorRateRule,
    LateDataRule,
    QualityDriftRule,
    SlowRequestsRule,
    Worse,
)
from ml_registry_pipelines.operations.alerts import Alert, Severity
from ml_registry_pipelines.telemetry.intervals import share_interval

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.performance import Statistics

ERROR_RATE, SLOW_REQUESTS = "error_rate", "slow_requests"
QUALITY_DRIFT, LATE_DATA, SILENT_TENANT = "quality_drift", "late_data", "silent_tenant"
ONE_SIDED_95 = 0.9
"""Confidence of the two-sided interval whose lower bound alone holds in 95 of 100 cases."""
SILENCE_DAYS = 28
"""Days after which a tenant that stays silent is taken to have left."""
MOST_DAYS = 400
"""Days back that late records are looked for in."""


def recent_statistics(lake: Lake, hours: int, now: datetime) -> Statistics:
    """Requests by tenant, provider and model since the whole hour so long ago."""
    from ml_registry_pipelines.telemetry.performance import PerformanceTracker

    start = (now - timedelta(hours=hours)).replace(minute=0, second=0, microsecond=0)
    return PerformanceTracker(lake).get_statistics(start, now, by=("tenant", "provider", "model"))


def error_rate_alerts(found: Statistics, rule: ErrorRateRule) -> Iterator[Alert]:
    """Groups whose error rate surely reaches the limit: its lower one-sided 95 % bound does (Wilson 1927)."""
    for group in found.groups:
        reached = group.requests - group.cache_hits
        if reached < rule.least_requests or group.error_rate is None:
            continue
        surely = share_interval(group.errors, reached, ONE_SIDED_95)
        if surely is None or surely.lower < rule.rate:
            continue
        low = surely.lower
        yield Alert(
            ERROR_RATE,
            _about(group.tenant, group.provider, group.model),
            Severity.ERROR if low >= rule.severe_rate else Severity.WARNING,
            f"{group.error_rate:.1%} of requests of tenant {group.tenant} to {group.provider}/{group.model} fail",
            f"{group.errors:,} of {reached:,} attempts since {found.start:%Y-%m-%d %H:%M}Z; surely more than "
            f"{low:.1%}, and {rule.rate:.1%} is the limit.",
            tenant=group.tenant,
        )


def slow_request_alerts(found: Statistics, rule: SlowRequestsRule) -> Iterator[Alert]:
    """Groups whose 95th percentile of the latency of successful requests is above the limit."""
    for group in found.groups:
        p95, limit = group.latency.p95, rule.limit(group.model)
        if p95 is None or group.latency.n < rule.least_requests or p95 <= limit:
            continue
        yield Alert(
            SLOW_REQUESTS,
            _about(group.tenant, group.provider, group.model),
            Severity.ERROR if p95 > limit * rule.severe_factor else Severity.WARNING,
            f"Requests of tenant {group.tenant} to {group.provider}/{group.model} are slow: p95 {p95 / 1000:.1f} s",
            f"Of {group.latency.n:,} successful requests since {found.start:%Y-%m-%d %H:%M}Z, within "
            f"{found.relative_error:.1%}; {limit / 1000:g} s is the limit.",
            tenant=group.tenant,
        )


def quality_drift_alerts(lake: Lake, rule: QualityDriftRule, now: datetime) -> Iterator[Alert]:
    """Series of recorded metrics whose newest points are worse than those before, by a test that assumes no shape."""
    recent = now - timedelta(hours=rule.recent_hours)
    earlier = recent - timedelta(hours=rule.earlier_hours)
    with lake.read("model_metrics") as reading:
        rows = reading.query(
            "alerts.quality_drift", _DRIFT, {"earlier": earlier, "recent": recent, "now": now}
        ).to_pylist()
    compared = [
        row
        for row in rows
        if rule.worse(row["metric"]) is not None
        and min(row["recent_points"], row["earlier_points"]) >= rule.least_points
    ]
    for row in compared:
        worse = rule.worse(row["metric"])
        higher, p = mann_whitney(row)
        effect = {Worse.LOWER: 1 - higher, Worse.HIGHER: higher}.get(
            worse or Worse.EITHER, max(higher, 1 - higher)
        )
        if p * len(compared) >= rule.alpha or effect < rule.least_effect:
            continue
        yield Alert(
            QUALITY_DRIFT,
            _about(row["tenant"], row["model"], row["metric"]),
            Severity.ERROR if effect >= rule.severe_effect else Severity.WARNING,
            f"{row['metric']} of {row['model']} is {'higher' if higher > 0.5 else 'lower'} than before",
            f"Median {row['recent_median']:.4g} of {row['recent_points']:,} points since {recent:%Y-%m-%d %H:%M}Z, "
            f"{row['earlier_median']:.4g} of {row['earlier_points']:,} before. A newest point is worse than an "
            f"earlier one with probability {effect:.2f}; Mann-Whitney U, two-sided p = {p:.2g}, "
            f"{len(compared)} series compared. It takes points as independent of each other.",
            tenant=row["tenant"],
        )


def mann_whitney(row: Mapping[str, Any]) -> tuple[float, float]:
    """Chance that a newest point is above an earlier one, and the two-sided p of the U test.

    Normal approximation with ties and continuity corrected for: E. L. Lehmann, Nonparametrics, 1975, 1.4.
    Equal points count half. From `recent_points`, `earlier_points`, `recent_ranks` (sum of mid-ranks)
    and `ties` (sum of t^3 - t over equal values).
    """
    n1, n2 = int(row["recent_points"]), int(row["earlier_points"])
    n = n1 + n2
    u = float(row["recent_ranks"]) - n1 * (n1 + 1) / 2
    variance = n1 * n2 / 12 * ((n + 1) - float(row["ties"]) / (n * (n - 1)))
    if variance <= 0:
        return 0.5, 1.0
    z = max(0.0, abs(u - n1 * n2 / 2) - 0.5) / math.sqrt(variance)
    return u / (n1 * n2), math.erfc(z / math.sqrt(2))


_DRIFT = """
WITH points AS (
    SELECT tenant, model, metric, value, event_ts >= $recent AS is_recent
    FROM model_metrics
    WHERE day >= $earlier::TIMESTAMPTZ::DATE AND day <= $now::TIMESTAMPTZ::DATE
      AND event_ts >= $earlier AND event_ts < $now AND step IS NULL AND isfinite(value)
),
tied AS (
    SELECT tenant, model, metric, value, count(*) AS points, count(*) FILTER (WHERE is_recent) AS recent_points
    FROM points
    GROUP BY tenant, model, metric, value
),
ranked AS (
    SELECT *, sum(points) OVER (PARTITION BY tenant, model, metric ORDER BY value) - (points - 1) / 2.0 AS mid_rank
    FROM tied
),
ranks AS (
    SELECT tenant, model, metric,
           CAST(sum(recent_points * mid_rank) AS DOUBLE) AS recent_ranks,
           CAST(sum(CAST(points AS DOUBLE) ** 3 - points) AS DOUBLE) AS ties
    FROM ranked
    GROUP BY tenant, model, metric
),
medians AS (
    SELECT tenant, model, metric,
           count(*) FILTER (WHERE is_recent) AS recent_points,
           count(*) FILTER (WHERE NOT is_recent) AS earlier_points,
           median(value) FILTER (WHERE is_recent) AS recent_median,
           median(value) FILTER (WHERE NOT is_recent) AS earlier_median
    FROM points
    GROUP BY tenant, model, metric
)
SELECT medians.*, recent_ranks, ties
FROM medians
JOIN ranks
    ON ranks.tenant = medians.tenant AND ranks.model = medians.model AND ranks.metric = medians.metric
WHERE recent_points > 0 AND earlier_points > 0
ORDER BY medians.tenant, medians.model, medians.metric
"""


def late_data_alerts(lake: Lake, rule: LateDataRule, now: datetime) -> Iterator[Alert]:
    """Records that came long after their requests, by tenant and source, and tenants that have gone silent.

    A source of which nothing was taken before is being imported: its history is not late.
    """
    since = now - timedelta(hours=rule.looked_at_hours)
    with lake.read("inference_events", "ingested_files", "cost_rollup") as reading:
        late = _late(reading, rule, since, now)
        silent = reading.query(
            "alerts.silent_tenants",
            """
            WITH hours AS (
                SELECT DISTINCT tenant, day, period_start
                FROM cost_rollup
                WHERE grain = 'hour' AND day >= $since AND period_start <= $now
            ),
            newest AS (
                SELECT tenant, max(period_start) AS newest FROM hours GROUP BY tenant
            )
            SELECT hours.tenant, newest, count(DISTINCT day) AS days
            FROM hours JOIN newest ON newest.tenant = hours.tenant
            WHERE period_start > newest - INTERVAL 7 DAY AND newest < $silent
            GROUP BY hours.tenant, newest
            HAVING count(DISTINCT day) >= 5
            ORDER BY hours.tenant
            """,
            {
                "since": (now - timedelta(days=SILENCE_DAYS + 7)).date(),
                "now": now,
                # A row's hour ends an hour after its start.
                "silent": now - timedelta(hours=rule.silent_hours + 1),
            },
        ).to_pylist()
    for row in late:
        if row["requests"] < rule.least_requests:
            continue
        yield Alert(
            LATE_DATA,
            _about(row["tenant"], row["source"]),
            Severity.WARNING,
            f"{row['requests']:,} requests of tenant {row['tenant']} came more than {rule.late_hours} hours late",
            f"From source {row['source']}, since {since:%Y-%m-%d %H:%M}Z, of {row['first_day']} to "
            f"{row['last_day']}; figures and reports of these days have changed.",
            tenant=row["tenant"],
        )
    for row in silent:
        yield Alert(
            SILENT_TENANT,
            row["tenant"],
            Severity.WARNING,
            f"No request of tenant {row['tenant']} for more than {rule.silent_hours} hours",
            f"The newest one began in the hour of {row['newest'].astimezone(UTC):%Y-%m-%d %H:%M}Z, after requests on "
            f"{row['days']} of the 7 days before it. See whether its files still land.",
            tenant=row["tenant"],
        )


def _late(reading: Any, rule: LateDataRule, since: datetime, now: datetime) -> list[dict[str, Any]]:
    """Which days recent batches touched is known from rollups; only these are looked into."""
    until = (now - timedelta(hours=rule.late_hours)).date()
    batch = reading.query(
        "alerts.recent_batches",
        "SELECT min(batch) AS first FROM ingested_files WHERE recorded_at >= $since",
        {"since": since},
    )["first"][0].as_py()
    if batch is None:
        return []
    days = reading.query(
        "alerts.touched_days",
        """
        SELECT DISTINCT day FROM cost_rollup
        WHERE grain = 'day' AND day BETWEEN $from_day AND $until AND sequence >= $batch
        ORDER BY day
        """,
        {"from_day": until - timedelta(days=MOST_DAYS), "until": until, "batch": batch},
    )["day"].to_pylist()
    if not days:
        return []
    found: list[dict[str, Any]] = reading.query(
        "alerts.late_data",
        """
        SELECT tenant, source, count(*) AS requests, min(day) AS first_day, max(day) AS last_day
        FROM inference_events
        WHERE day BETWEEN $first_day AND $last_day AND list_contains($days, day)
          AND batch >= $batch AND recorded_at >= $since AND time_quality = 'recorded'
          AND recorded_at > event_ts + to_hours($late)
          -- What a source held when it was taken for the first time is its history, and not late.
          AND source IN (SELECT source FROM ingested_files WHERE recorded_at < $since)
        GROUP BY tenant, source
        ORDER BY requests DESC, tenant, source
        """,
        {
            "first_day": days[0],
            "last_day": days[-1],
            "days": days,
            "batch": batch,
            "since": since,
            "late": rule.late_hours,
        },
    ).to_pylist()
    return found


def _about(*parts: str | None) -> str:
    return "/".join(part or "-" for part in parts)
