"""`PerformanceTracker`: recorded metric points, and percentiles, throughput and errors over any window.

Where the figures of a window come from is in `windows.py`; what counts as what is in `rollups.py`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.telemetry import MODEL_METRICS
from ml_registry_pipelines.telemetry.sketches import RELATIVE_ERROR
from ml_registry_pipelines.telemetry.windows import GROUPINGS, QUANTILES, READS, Answer, Question, answers

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading

RECORDER = "record_metric"
"""The writer of model_metrics; its sequence only counts commits."""
Scalar = str | int | float | bool


class PerformanceError(MlregError):
    """A metric point or a question that makes no sense."""


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric of a model or version. `event_ts` is now where it is not given."""

    model: str
    metric: str
    value: float
    tenant: str = "default"
    event_ts: datetime | None = None
    step: int | None = None
    tags: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Percentiles:
    """Percentiles in ms over `n` answers; all None where there is none.

    Each is the ceil(q * n)-th smallest value, off by at most the statistics' relative error.
    """

    n: int
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True)
class GroupStatistics:
    """What one group of requests did in the window; a key that was not asked for is None.

    `deployment_id` is None as well where no attribution rule covers the requests, `model_id` and
    `model_version` also where it does and the version is not known.

    `requests` are attempts, `cache_hits` those that a gateway answered itself: they reached no
    model and are left out of rates. `assumed` names the parts of `assumed_requests` records that
    their log calls assumed, such as `latency`.
    """

    tenant: str | None
    provider: str | None
    model: str | None
    day: date | None
    deployment_id: str | None
    model_id: str | None
    model_version: int | None
    requests: int
    successes: int
    errors: int
    cancelled: int
    cache_hits: int
    input_tokens: int
    output_tokens: int
    latency: Percentiles
    ttft: Percentiles
    output_tokens_per_second: float | None
    """Output tokens by the time that their requests took, over answers with both."""
    assumed_requests: int
    assumed: tuple[str, ...]

    @property
    def error_rate(self) -> float | None:
        """Errors by attempts that reached the provider."""
        reached = self.requests - self.cache_hits
        return self.errors / reached if reached else None

    @property
    def counted_share(self) -> float | None:
        """The share of all requests that the latency percentiles rest on."""
        return self.latency.n / self.requests if self.requests else None


@dataclass(frozen=True)
class Statistics:
    """Groups with most requests first; `relative_error` bounds every percentile, 0 when exact.

    `sequence` is the batch of inference_events up to which the figures hold.
    """

    start: datetime
    end: datetime
    groups: tuple[GroupStatistics, ...]
    relative_error: float
    sequence: int


class PerformanceTracker:
    """How models perform: recorded points, and what inference logs say."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake

    def record_metric(
        self,
        model: str,
        metric: str,
        value: float,
        *,
        tenant: str = "default",
        event_ts: datetime | None = None,
        step: int | None = None,
        tags: Mapping[str, Scalar] | None = None,
    ) -> int:
        """Record one point, durable on return; the number of its commit.

        Raises:
            PerformanceError: a name is empty, the value is no number, or the time has no zone.
        """
        return self.record_metrics([MetricPoint(model, metric, value, tenant, event_ts, step, tags or {})])

    def record_metrics(self, points: Iterable[MetricPoint]) -> int:
        """Record points in one commit, all or none; its number.

        Raises:
            PerformanceError: as for `record_metric`; it names the first such point.
        """
        rows = _metric_rows(list(points), datetime.now(UTC))
        if not rows.num_rows:
            raise PerformanceError("there is no point to record; give at least one")
        return self.lake.append_next("model_metrics", rows, source=RECORDER)

    def get_metrics(
        self,
        model: str,
        metric: str | None = None,
        *,
        tenant: str = "default",
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pa.Table:
        """Points of one model in order of time: metric, value, step, event_ts, recorded_at, tags."""
        with self.lake.read("model_metrics") as reading:
            return reading.query(
                "performance.metrics",
                """
                SELECT metric, value, step, event_ts, recorded_at, tags
                FROM model_metrics
                WHERE tenant = $tenant AND model = $model AND ($metric IS NULL OR metric = $metric)
                  AND ($start IS NULL OR (day >= $start::TIMESTAMPTZ::DATE AND event_ts >= $start))
                  AND ($end IS NULL OR (day <= $end::TIMESTAMPTZ::DATE AND event_ts < $end))
                ORDER BY event_ts, step, metric, recorded_at
                """,
                {"tenant": tenant, "model": model, "metric": metric, "start": start, "end": end},
            )

    def get_statistics(
        self,
        start: datetime,
        end: datetime,
        *,
        by: Collection[str] = (),
        tenant: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        deployment_id: str | None = None,
        model_id: str | None = None,
        model_version: int | None = None,
        exact: bool = False,
    ) -> Statistics:
        """Requests, errors, tokens, percentiles and throughput from `start` up to, not including, `end`.

        Args:
            by: what to group by, of tenant, provider, model, day, deployment_id, model_id and model_version.
            tenant: this tenant alone; likewise `provider`, `model` and what attribution gives.
            exact: percentiles from the raw rows themselves, without an error.

        Raises:
            PerformanceError: an unknown grouping, or times without a zone.
        """
        with self.lake.read(*READS) as reading:
            return window_statistics(
                reading,
                start,
                end,
                by=by,
                tenant=tenant,
                provider=provider,
                model=model,
                deployment_id=deployment_id,
                model_id=model_id,
                model_version=model_version,
                exact=exact,
            )


def window_statistics(
    reading: Reading,
    start: datetime,
    end: datetime,
    *,
    by: Collection[str] = (),
    tenant: str | None = None,
    provider: str | None = None,
    model: str | None = None,
    deployment_id: str | None = None,
    model_id: str | None = None,
    model_version: int | None = None,
    exact: bool = False,
) -> Statistics:
    """As `PerformanceTracker.get_statistics`, within a reading that holds the tables of `windows.READS`."""
    attributed = (deployment_id, model_id, model_version)
    (found,) = statistics_by(reading, Question(start, end, tenant, provider, model, exact, *attributed), [by])
    return found


def statistics_by(
    reading: Reading, question: Question, groupings: Sequence[Collection[str]]
) -> list[Statistics]:
    """As `window_statistics`, for several groupings of the same requests at once, in their order."""
    if unknown := {name for by in groupings for name in by} - set(GROUPINGS):
        raise PerformanceError(
            f"requests cannot be grouped by {', '.join(sorted(unknown))}; "
            f"the groupings are {', '.join(GROUPINGS)}"
        )
    if question.start.tzinfo is None or question.end.tzinfo is None:
        raise PerformanceError("start and end of a window need a time zone; UTC is datetime.UTC")
    found = answers(reading, question, [frozenset(by) for by in groupings])
    return [
        Statistics(
            question.start,
            question.end,
            groups=tuple(_group_statistics(group) for group in groups),
            relative_error=0.0 if question.exact else RELATIVE_ERROR,
            sequence=reading.sequence("inference_events", "ingestion"),
        )
        for groups in found
    ]


def _group_statistics(found: Answer) -> GroupStatistics:
    counts = found.counts
    return GroupStatistics(
        **{name: counts[name] for name in GROUPINGS},
        **{name: counts[name] for name in ("requests", "successes", "errors", "cancelled", "cache_hits")},
        **{name: counts[name] for name in ("input_tokens", "output_tokens", "output_tokens_per_second")},
        latency=_percentiles(found, "latency"),
        ttft=_percentiles(found, "ttft"),
        assumed_requests=counts["assumed_requests"],
        assumed=tuple(sorted(set((counts["assumed_parts"] or "").split()))),
    )


def _percentiles(found: Answer, metric: str) -> Percentiles:
    p50, p95, p99 = (found.quantiles.get((metric, q)) for q in QUANTILES)
    return Percentiles(found.values.get(metric, 0), p50, p95, p99)


def _metric_rows(points: Sequence[MetricPoint], now: datetime) -> pa.Table:
    """Rows of model_metrics; raises `PerformanceError` for the first point that is none."""
    import pyarrow as pa

    for number, point in enumerate(points, start=1):
        if wrong := _fault(point):
            raise PerformanceError(f"point {number} of {len(points)}: {wrong}")
    moments = [point.event_ts or now for point in points]
    columns: dict[str, list[object]] = {
        "tenant": [point.tenant for point in points],
        "day": [moment.astimezone(UTC).date() for moment in moments],
        "model": [point.model for point in points],
        "metric": [point.metric for point in points],
        "value": [float(point.value) for point in points],
        "step": [point.step for point in points],
        "event_ts": list(moments),
        "recorded_at": [now] * len(points),
        "tags": [json.dumps(dict(point.tags), sort_keys=True) if point.tags else None for point in points],
    }
    return pa.Table.from_pydict(columns, schema=MODEL_METRICS.schema)


def _fault(point: MetricPoint) -> str | None:
    """What is wrong with a point, if anything. NaN and infinity are values: a diverged run has them."""
    if not (point.tenant and point.model and point.metric):
        return "tenant, model and metric need a name each"
    if isinstance(point.value, bool) or not isinstance(point.value, int | float):
        return f"the value of {point.metric!r} is {point.value!r}, which is no number"
    if point.event_ts is not None and point.event_ts.tzinfo is None:
        return f"the time of {point.metric!r} has no zone; UTC is datetime.UTC"
    return None
