"""Recorded metric points: numbers, truths and categories of a model, with who judged and what judging cost.

What is recorded about a model or version lands here by `record_metric`; what inference logs say of
it is in `performance.py`. Points of different judges, and of different kinds, are never put together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.tables.telemetry import MODEL_METRICS
from ml_registry_pipelines.telemetry.deduplication import HORIZON_DAYS
from ml_registry_pipelines.telemetry.intervals import Interval, mean_interval, share_interval

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading

Scalar = str | int | float | bool
LONGEST_LABEL = 200
MOST_LABELS = 1000
"""Categories of one metric that are counted one by one."""
FEW = 30
"""Under so many numbers the interval of their mean is too narrow, and is marked."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")
_CURRENCY = re.compile(r"[A-Z]{3}")


class PerformanceError(MlregError):
    """A metric point or a question that makes no sense."""


class Kind(Enum):
    """What a point's value is."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    CATEGORY = "category"


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric of a model or version: a number, True or False, or a category in `label`.

    `event_ts` is now where it is not given. `judge` is who gave the score: a model with its version,
    or a person's pseudonym; `judge_cost` in `judge_currency` is what that cost. `request_id` is the event
    id of the request that was judged. A point with a `point_id` is recorded once: told again, the
    newest telling counts.
    """

    model: str
    metric: str
    value: float | bool | None = None
    tenant: str = "default"
    event_ts: datetime | None = None
    step: int | None = None
    tags: Mapping[str, Scalar] = field(default_factory=dict)
    label: str | None = None
    model_version: int | None = None
    judge: str | None = None
    judge_cost: Decimal | None = None
    judge_currency: str | None = None
    request_id: str | None = None
    point_id: str | None = None

    @property
    def kind(self) -> Kind:
        if self.label is not None:
            return Kind.CATEGORY
        return Kind.BOOLEAN if isinstance(self.value, bool) else Kind.NUMBER


@dataclass(frozen=True)
class MetricStatistics:
    """The points of one metric, of one kind, by one judge (None: nobody is named), in a window.

    `n` counts points, of numbers the finite ones; `not_finite` are NaN and infinite ones, in no figure.
    `labels` counts points by category. `judge_costs` are sums by currency over `judged_at_cost` points.
    """

    model: str
    metric: str
    kind: Kind
    judge: str | None
    model_version: int | None
    n: int
    requests: int
    """Different requests that were judged, as far as the points name them."""
    average: Interval | None
    """Mean of numbers (None under two: no interval), or share of True; with a 95 % interval."""
    standard_deviation: float | None
    minimum: float | None
    maximum: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    not_finite: int
    labels: Mapping[str, int]
    judge_costs: Mapping[str, Decimal]
    judged_at_cost: int
    first: datetime
    last: datetime
    single: float | None = None
    """The mean itself, also of a single number."""

    @property
    def too_few(self) -> bool:
        """Whether the interval of the mean, or the share, rests on too few points to be relied on."""
        return self.n < FEW

    @property
    def mean(self) -> float | None:
        """Mean of numbers, or share of True.

        Raises:
            PerformanceError: the metric has categories.
        """
        if self.kind is Kind.CATEGORY:
            raise PerformanceError(
                f"{self.metric!r} of {self.model!r} has categories ({', '.join(sorted(self.labels)[:5])}), "
                "which have no mean; look at how often each occurs"
            )
        return self.single


def metric_rows(points: Sequence[MetricPoint], now: datetime) -> pa.Table:
    """Rows of model_metrics.

    Raises:
        PerformanceError: for the first point that is none.
    """
    import pyarrow as pa

    for number, point in enumerate(points, start=1):
        if wrong := _fault(point):
            raise PerformanceError(f"point {number} of {len(points)}: {wrong}")
    moments = [point.event_ts or now for point in points]
    columns: dict[str, list[Any]] = {
        "tenant": [point.tenant for point in points],
        "day": [moment.astimezone(UTC).date() for moment in moments],
        "model": [point.model for point in points],
        "metric": [point.metric for point in points],
        # A category has no number: one that computes with it gets no number either.
        "value": [float("nan") if point.value is None else float(point.value) for point in points],
        "event_ts": list(moments),
        "recorded_at": [now] * len(points),
        "tags": [json.dumps(dict(point.tags), sort_keys=True) if point.tags else None for point in points],
        "kind": [point.kind.value for point in points],
    }
    same = (
        "step",
        "label",
        "model_version",
        "judge",
        "judge_cost",
        "judge_currency",
        "request_id",
        "point_id",
    )
    columns |= {name: [getattr(point, name) for point in points] for name in same}
    return pa.Table.from_pydict(columns, schema=MODEL_METRICS.schema)


def _fault(point: MetricPoint) -> str | None:
    """What is wrong with a point, if anything. NaN and infinity are values: a diverged run has them."""
    if not (point.tenant and point.model and point.metric):
        return "tenant, model and metric need a name each"
    if point.label is not None:
        if point.value is not None:
            return f"{point.metric!r} has a value and a label; a point is a number, a truth or a category"
        if not 0 < len(point.label) <= LONGEST_LABEL:
            return f"the label of {point.metric!r} has 1 to {LONGEST_LABEL} characters"
    elif not isinstance(point.value, int | float):
        return f"the value of {point.metric!r} is {point.value!r}, which is no number; a category goes into label"
    if point.event_ts is not None and point.event_ts.tzinfo is None:
        return f"the time of {point.metric!r} has no zone; UTC is datetime.UTC"
    return _judge_fault(point)


def _judge_fault(point: MetricPoint) -> str | None:
    if point.judge is not None and (not point.judge or _EMAIL.fullmatch(point.judge)):
        return "a judge is a model's name or a person's pseudonym, never an e-mail address"
    if point.judge_cost is None and point.judge_currency is None:
        return None
    if not isinstance(point.judge_cost, Decimal) or not point.judge_cost.is_finite() or point.judge_cost < 0:
        return f"the cost of judging is {point.judge_cost!r}; give a Decimal of 0 or more, such as Decimal('0.002')"
    if not _CURRENCY.fullmatch(point.judge_currency or ""):
        return f"the cost of judging needs a currency such as USD, not {point.judge_currency!r}"
    if point.judge is None:
        return "a cost of judging needs the judge"
    return None


def metric_points(
    reading: Reading,
    model: str,
    metric: str | None,
    *,
    tenant: str,
    start: datetime | None,
    end: datetime | None,
) -> pa.Table:
    """Points of one model in order of time, as `PerformanceTracker.get_metrics` gives them."""
    return reading.query(
        "performance.metrics",
        f"""
        WITH points AS ({POINTS})
        SELECT metric, CASE WHEN kind <> 'category' THEN value END AS value, label, kind, step, event_ts, recorded_at,
               tags, model_version, judge, judge_cost, judge_currency, request_id, point_id
        FROM points
        ORDER BY event_ts, step, metric, recorded_at, point_id
        """,
        point_parameters([model], metric, tenant, start, end),
    )


def metric_statistics(
    reading: Reading,
    models: Sequence[str],
    metric: str | None,
    *,
    tenant: str | None,
    start: datetime | None,
    end: datetime | None,
    by_version: bool = False,
) -> list[MetricStatistics]:
    """Statistics by model, metric, kind and judge, and with `by_version` by model version; None: of all tenants."""
    parameters = point_parameters(models, metric, tenant, start, end) | {"by_version": by_version}
    rows = reading.query("performance.metric_statistics", _STATISTICS, parameters).to_pylist()
    return [_statistics(row) for row in rows]


def _statistics(row: Mapping[str, Any]) -> MetricStatistics:
    kind, n = Kind(row["kind"]), row["n"]
    average = None
    if kind is Kind.BOOLEAN:
        average = share_interval(row["hits"], n)
    elif kind is Kind.NUMBER and n:
        average = mean_interval(row["mean"], row["variance"] or 0.0, n)
    costs = zip(row["currencies"] or [], row["costs"] or [], strict=True)
    return MetricStatistics(
        **{name: row[name] for name in ("model", "metric", "judge", "model_version", "n", "requests")},
        **{name: row[name] for name in ("minimum", "maximum", "p50", "p95", "p99", "not_finite")},
        **{name: row[name] for name in ("judged_at_cost", "first", "last")},
        kind=kind,
        average=average,
        single=row["mean"],
        standard_deviation=None if row["variance"] is None else row["variance"] ** 0.5,
        labels=dict(zip(row["labels"] or [], row["occurrences"] or [], strict=True)),
        judge_costs=dict(costs),
    )


def point_parameters(
    models: Sequence[str] | None,
    metric: str | None,
    tenant: str | None,
    start: datetime | None,
    end: datetime | None,
) -> dict[str, object]:
    """The parameters of `POINTS`: models by name (None: all), and a window."""
    first = date(1, 1, 1) if start is None else start.astimezone(UTC).date()
    last = date(9999, 12, 31) if end is None else end.astimezone(UTC).date()
    return {
        "models": None if models is None else list(models),
        "metric": metric,
        "tenant": tenant,
        "start": start,
        "end": end,
        "first": first,
        "last": last,
        "near_first": date.fromordinal(max(1, first.toordinal() - HORIZON_DAYS)),
        "near_last": date.fromordinal(min(date.max.toordinal(), last.toordinal() + HORIZON_DAYS)),
    }


_WANTED = """
    ($tenant IS NULL OR tenant = $tenant) AND ($models IS NULL OR list_contains($models::VARCHAR[], model))
    AND ($metric IS NULL OR metric = $metric)
"""
_INSIDE = """
    ($start::TIMESTAMPTZ IS NULL OR event_ts >= $start) AND ($end::TIMESTAMPTZ IS NULL OR event_ts < $end)
"""
POINTS = f"""
    -- Points of some models in a window, each once, with the columns of model_metrics.
    SELECT * REPLACE (coalesce(kind, 'number') AS kind)
    FROM model_metrics
    WHERE point_id IS NULL AND day BETWEEN $first AND $last AND {_WANTED} AND {_INSIDE}
    UNION ALL
    -- Told again, a point may have another time; what was told last decides whether it is in the window.
    SELECT *
    FROM (
        SELECT * REPLACE (coalesce(kind, 'number') AS kind)
        FROM model_metrics
        WHERE point_id IS NOT NULL AND day BETWEEN $near_first AND $near_last AND {_WANTED}
        QUALIFY row_number() OVER (
            PARTITION BY tenant, model, metric, judge, point_id
            ORDER BY recorded_at DESC, event_ts DESC, value DESC) = 1
    )
    WHERE {_INSIDE}
"""

_STATISTICS = f"""
WITH points AS ({POINTS}),
keyed AS (
    SELECT *, kind = 'number' AND NOT isfinite(value) AS odd,
           CASE WHEN $by_version THEN model_version END AS of_version
    FROM points
),
counted AS (
    SELECT model, metric, kind, judge, of_version AS model_version,
           count(*) FILTER (NOT odd) AS n, count(*) FILTER (odd) AS not_finite,
           count(DISTINCT request_id) AS requests,
           count(*) FILTER (kind = 'boolean' AND value = 1) AS hits,
           avg(value) FILTER (kind <> 'category' AND NOT odd) AS mean,
           var_samp(value) FILTER (kind = 'number' AND NOT odd) AS variance,
           min(value) FILTER (kind = 'number' AND NOT odd) AS minimum,
           max(value) FILTER (kind = 'number' AND NOT odd) AS maximum,
           quantile_disc(value, 0.5) FILTER (kind = 'number' AND NOT odd) AS p50,
           quantile_disc(value, 0.95) FILTER (kind = 'number' AND NOT odd) AS p95,
           quantile_disc(value, 0.99) FILTER (kind = 'number' AND NOT odd) AS p99,
           count(judge_cost) AS judged_at_cost, min(event_ts) AS first, max(event_ts) AS last
    FROM keyed
    GROUP BY ALL
),
labelled AS (
    SELECT model, metric, kind, judge, model_version,
           list(label ORDER BY n DESC, label)[:{MOST_LABELS}] AS labels,
           list(n ORDER BY n DESC, label)[:{MOST_LABELS}] AS occurrences
    FROM (
        SELECT model, metric, kind, judge, of_version AS model_version, label, count(*) AS n
        FROM keyed WHERE label IS NOT NULL GROUP BY ALL
    )
    GROUP BY ALL
),
paid AS (
    SELECT model, metric, kind, judge, model_version,
           list(currency ORDER BY currency) AS currencies, list(cost ORDER BY currency) AS costs
    FROM (
        SELECT model, metric, kind, judge, of_version AS model_version, judge_currency AS currency,
               sum(judge_cost) AS cost
        FROM keyed WHERE judge_cost IS NOT NULL GROUP BY ALL
    )
    GROUP BY ALL
)
SELECT c.*, l.labels, l.occurrences, p.currencies, p.costs
FROM counted c
LEFT JOIN labelled l
    ON c.model = l.model AND c.metric = l.metric AND c.kind = l.kind AND c.judge IS NOT DISTINCT FROM l.judge
    AND c.model_version IS NOT DISTINCT FROM l.model_version
LEFT JOIN paid p
    ON c.model = p.model AND c.metric = p.metric AND c.kind = p.kind AND c.judge IS NOT DISTINCT FROM p.judge
    AND c.model_version IS NOT DISTINCT FROM p.model_version
ORDER BY c.model, c.model_version, c.metric, c.kind, c.judge
"""
