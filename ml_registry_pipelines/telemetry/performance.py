"""`PerformanceTracker`: recorded metric points, and percentiles, throughput and errors over any window.

Where the figures of a window come from is in `windows.py`; what counts as what is in `rollups.py`.
Points are in `metrics.py`, records that come without a log file in `tracking.py`, side by side in `comparing.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.slices import DAY_FILTER, day_parameters, days_held
from ml_registry_pipelines.telemetry.intervals import Interval, share_interval
from ml_registry_pipelines.telemetry.metrics import (
    MetricPoint,
    MetricStatistics,
    PerformanceError,
    Scalar,
    metric_points,
    metric_rows,
    metric_statistics,
)
from ml_registry_pipelines.telemetry.sketches import RELATIVE_ERROR
from ml_registry_pipelines.telemetry.tracking import Inference, Tracked, Tracking
from ml_registry_pipelines.telemetry.windows import GROUPINGS, QUANTILES, READS, Answer, Question, answers

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading
    from ml_registry_pipelines.telemetry.comparing import Comparison

__all__ = ["Inference", "MetricPoint", "PerformanceError", "PerformanceTracker"]

RECORDER = "record_metric"
"""The writer of model_metrics; its sequence only counts commits."""
NEAREST = 3
"""Names that are proposed in the place of an unknown one."""


@dataclass(frozen=True)
class Percentiles:
    """Percentiles in ms over `n` answers; all None where there is none.

    Each is the ceil(q * n)-th smallest value, off by at most the statistics' relative error.
    """

    n: int
    p50: float | None
    p95: float | None
    p99: float | None
    bounds: Mapping[float, tuple[float, float]] = field(default_factory=dict)
    """By quantile, such as 0.95: the values between which that of the traffic lies, at 95 %. Of a
    quantile that too few values were seen of, and where bounds were not asked for, none."""


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
    seconds: float
    """How long the window is, or the part of the group's day in it, as far as it has passed."""

    @property
    def requests_per_second(self) -> float | None:
        """Throughput: all requests over the time that has passed."""
        return self.requests / self.seconds if self.seconds > 0 else None

    @property
    def reached(self) -> int:
        """Attempts that reached the provider."""
        return self.requests - self.cache_hits

    @property
    def error_rate(self) -> float | None:
        """Errors by attempts that reached the provider."""
        return self.errors / self.reached if self.reached else None

    @property
    def error_rate_interval(self) -> Interval | None:
        """The error rate with its 95 % score interval."""
        return share_interval(self.errors, self.reached)

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

    @cached_property
    def _tracking(self) -> Tracking:
        return Tracking(self.lake)

    def track_inference(self, *told: Inference) -> Tracked:
        """Record attempts of requests, in one commit, all or none; durable on return.

        They are told apart like the records of any log: told again under one `event_id`, they land once.
        Costs and rollups follow at the next run of `ingest_logs`, or `mlreg ingest`.

        Raises:
            TrackingError: one is no record, or was taken before with other content.
        """
        return self._tracking.track(told)

    def record_metric(
        self,
        model: str,
        metric: str,
        value: float | bool | None = None,
        *,
        label: str | None = None,
        tenant: str = "default",
        event_ts: datetime | None = None,
        step: int | None = None,
        tags: Mapping[str, Scalar] | None = None,
        model_version: int | None = None,
        judge: str | None = None,
        judge_cost: Decimal | None = None,
        judge_currency: str | None = None,
        request_id: str | None = None,
        point_id: str | None = None,
    ) -> int:
        """Record one point, durable on return; the number of its commit. See `MetricPoint`.

        Raises:
            PerformanceError: a name is empty, the value is no number, or the time has no zone.
        """
        point = MetricPoint(
            model, metric, value, tenant, event_ts, step, tags or {}, label, model_version,
            judge, judge_cost, judge_currency, request_id, point_id,
        )  # fmt: skip
        return self.record_metrics([point])

    def record_metrics(self, points: Iterable[MetricPoint]) -> int:
        """Record points in one commit, all or none; its number.

        Raises:
            PerformanceError: as for `record_metric`; it names the first such point.
        """
        rows = metric_rows(list(points), datetime.now(UTC))
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
        """Points of one model in order of time.

        Returns:
            One row per point: metric, value (NULL of a category), label, kind, step, event_ts, recorded_at,
            tags, model_version, judge, judge_cost, judge_currency, request_id, point_id.
        """
        check_window(start, end)
        with self.lake.read("model_metrics") as reading:
            return metric_points(reading, model, metric, tenant=tenant, start=start, end=end)

    def get_metric_statistics(
        self,
        *models: str,
        metric: str | None = None,
        tenant: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        by_version: bool = False,
    ) -> list[MetricStatistics]:
        """What the points of models come to: accuracy, quality scores, anything that was recorded.

        One entry per model, metric, kind and judge: scores of different judges are never averaged. Of
        numbers there is a mean, of truths the share, each with a 95 % interval; categories are counted.
        """
        check_window(start, end)
        with self.lake.read("model_metrics") as reading:
            return metric_statistics(
                reading, models, metric, tenant=tenant, start=start, end=end, by_version=by_version
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
        intervals: bool = False,
    ) -> Statistics:
        """Requests, errors, tokens, percentiles and throughput from `start` up to, not including, `end`.

        Args:
            by: what to group by, of tenant, provider, model, day, deployment_id, model_id and model_version.
            tenant: this tenant alone; likewise `provider`, `model` and what attribution gives.
            exact: percentiles from the raw rows themselves, without an error.
            intervals: also between which values each percentile of the traffic lies.

        Raises:
            PerformanceError: an unknown grouping, model or provider, times without a zone, or a window
                that ends before it begins.
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
                intervals=intervals,
            )

    def compare_models(
        self,
        models: Sequence[str | int],
        start: datetime,
        end: datetime,
        *,
        by: str = "model",
        tenant: str | None = None,
        provider: str | None = None,
        model_id: str | None = None,
        metrics_of: str | None = None,
        exact: bool = False,
    ) -> Comparison:
        """Models side by side over a window, and of each pair what can be told apart and what cannot.

        It describes what was logged. Who got which model was not drawn by lot, so it names no winner:
        that takes an experiment.

        Args:
            models: two or more, by the name in the logs; or whatever `by` says.
            by: model, provider, deployment_id or model_version (of `model_id`).
            metrics_of: under which name points of versions are recorded; of models, their own names.

        Raises:
            PerformanceError: fewer than two, or one that was never logged; nearest names are given.
        """
        from ml_registry_pipelines.telemetry.comparing import compare

        with self.lake.read(*READS, "model_metrics") as reading:
            return compare(
                reading,
                models,
                Question(start, end, tenant, provider, exact=exact, model_id=model_id, intervals=True),
                by=by,
                metrics_of=metrics_of,
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
    intervals: bool = False,
) -> Statistics:
    """As `PerformanceTracker.get_statistics`, within a reading that holds the tables of `windows.READS`."""
    attributed = (deployment_id, model_id, model_version)
    question = Question(start, end, tenant, provider, model, exact, *attributed, intervals)
    check_window(start, end)
    (found,) = statistics_by(reading, question, [by])
    if not found.groups:
        for column, name in (("model", model), ("provider", provider)):
            if name is not None:
                check_known(reading, column, [name], tenant)
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
    _check_zone(question.start, question.end)
    now = datetime.now(UTC)
    found = answers(reading, question, [frozenset(by) for by in groupings])
    return [
        Statistics(
            question.start,
            question.end,
            groups=tuple(_group_statistics(group, question, now) for group in groups),
            relative_error=0.0 if question.exact else RELATIVE_ERROR,
            sequence=reading.sequence("inference_events", "ingestion"),
        )
        for groups in found
    ]


def known_names(reading: Reading, column: str, tenant: str | None) -> set[str | int]:
    """All values of a column that were ever logged, of one tenant where one is named.

    Read from the rollup, and from raw rows only of the days that it does not hold.
    """
    raw = "TRUE" if column in GROUPINGS[:3] else "FALSE"
    days = sorted(days_held(reading, "inference_events") - days_held(reading, "performance_rollup"))
    found = reading.query(
        "performance.known_names",
        f"""
        SELECT DISTINCT {column} AS name FROM performance_rollup
        WHERE grain = 'day' AND ($tenant IS NULL OR tenant = $tenant)
        UNION
        SELECT DISTINCT {column if raw == "TRUE" else "NULL"} FROM inference_events
        WHERE {DAY_FILTER} AND {raw} AND ($tenant IS NULL OR tenant = $tenant)
        """,
        day_parameters(days or [date.min]) | {"tenant": tenant},
    )
    return set(found["name"].to_pylist()) - {None}


def check_known(reading: Reading, column: str, names: Iterable[str | int], tenant: str | None) -> None:
    """Raises `PerformanceError` with the nearest names where one was never logged."""
    known = known_names(reading, column, tenant)
    for name in names:
        if name not in known:
            whose = "" if tenant is None else f" of tenant {tenant!r}"
            near = difflib.get_close_matches(str(name), sorted(map(str, known)), n=NEAREST, cutoff=0.4)
            hint = (
                f"the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}"
                if near
                else ("nothing like it was" if known else "nothing was logged yet")
            )
            raise PerformanceError(f"no request{whose} with the {column} {name!r} was ever logged; {hint}")


def _check_zone(*moments: datetime | None) -> None:
    if any(moment is not None and moment.tzinfo is None for moment in moments):
        raise PerformanceError("start and end of a window need a time zone; UTC is datetime.UTC")


def check_window(start: datetime | None, end: datetime | None) -> None:
    _check_zone(start, end)
    if start is not None and end is not None and start >= end:
        raise PerformanceError(
            f"the window from {start.isoformat()} to {end.isoformat()} is empty; its end has to be after its start"
        )


def _seconds(day: date | None, question: Question, now: datetime) -> float:
    """How much of the window, or of a day's part of it, has passed."""
    start, end = question.start, min(question.end, now)
    if day is not None:
        midnight = datetime.combine(day, time(), UTC)
        start, end = max(start, midnight), min(end, midnight + timedelta(days=1))
    return max(0.0, (end - start).total_seconds())


def _group_statistics(found: Answer, question: Question, now: datetime) -> GroupStatistics:
    counts = found.counts
    return GroupStatistics(
        **{name: counts[name] for name in GROUPINGS},
        **{name: counts[name] for name in ("requests", "successes", "errors", "cancelled", "cache_hits")},
        **{name: counts[name] for name in ("input_tokens", "output_tokens", "output_tokens_per_second")},
        latency=_percentiles(found, "latency"),
        ttft=_percentiles(found, "ttft"),
        assumed_requests=counts["assumed_requests"],
        assumed=tuple(sorted(set((counts["assumed_parts"] or "").split()))),
        seconds=_seconds(counts["day"], question, now),
    )


def _percentiles(found: Answer, metric: str) -> Percentiles:
    p50, p95, p99 = (found.quantiles.get((metric, q)) for q in QUANTILES)
    bounds = {
        q: (found.bounds[metric, q, "lower"], found.bounds[metric, q, "upper"])
        for q in QUANTILES
        if (metric, q, "lower") in found.bounds and (metric, q, "upper") in found.bounds
    }
    return Percentiles(found.values.get(metric, 0), p50, p95, p99, bounds)
