"""Models side by side: what was logged of each, and of each pair what can be told apart.

The rules are stated, and few: `RULES` has them in words. Who got which model was not drawn by
lot, so nothing here names a winner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import TYPE_CHECKING

from ml_registry_pipelines.telemetry.intervals import (
    CONFIDENCE,
    Interval,
    difference,
    difference_of_shares,
    mean_interval,
    share_interval,
)
from ml_registry_pipelines.telemetry.metrics import (
    Kind,
    MetricStatistics,
    PerformanceError,
    metric_statistics,
)
from ml_registry_pipelines.telemetry.performance import (
    GroupStatistics,
    Percentiles,
    check_known,
    check_window,
    statistics_by,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading
    from ml_registry_pipelines.telemetry.windows import Question

COMPARED = ("model", "provider", "deployment_id", "model_version")
BEYOND = 10
"""Values that there should be beyond a quantile for it to be relied on."""
LEAST_ATTEMPTS = 100
"""Attempts that reached the provider, under which an error rate is not compared."""
MOST = 20
RULES = (
    (
        f"A percentile q rests on too few values under {BEYOND} / (1 - q): "
        f"{BEYOND * 2} for p50, {BEYOND * 20} for p95, {BEYOND * 100} for p99."
    ),
    (
        f"Error rates differ where the {CONFIDENCE:.0%} hybrid score interval of their difference, its error shared "
        f"among all pairs, excludes 0; under {LEAST_ATTEMPTS} attempts they are not compared."
    ),
    (
        "Latencies and times to first token differ where the 95 % intervals of the percentile, widened by the "
        "percentiles' own relative error, do not overlap. They are of answers alone."
    ),
    (
        "Means and shares of one metric by one judge differ where the interval of their difference, its error shared "
        "likewise, excludes 0; scores by different judges, and categories, are not compared."
    ),
)


@dataclass(frozen=True)
class Candidate:
    """One of those compared; `group` is None where nothing of it was logged in the window."""

    name: str | int
    group: GroupStatistics | None
    metrics: tuple[MetricStatistics, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One figure of a pair. `differs` is None where it cannot be told; `difference` is the first less the second."""

    figure: str
    differs: bool | None
    difference: Interval | None
    remark: str


@dataclass(frozen=True)
class Pair:
    """What can be told apart of two."""

    one: str | int
    other: str | int
    findings: tuple[Finding, ...]

    def finding(self, figure: str) -> Finding:
        """One by its figure, such as `error_rate`, `latency_p95` or a metric's name."""
        return next(found for found in self.findings if found.figure == figure)


@dataclass(frozen=True)
class Comparison:
    """All of them, and all pairs. Figures hold up to batch `sequence` of inference_events."""

    by: str
    start: datetime
    end: datetime
    candidates: tuple[Candidate, ...]
    pairs: tuple[Pair, ...]
    relative_error: float
    sequence: int
    metrics_version: int
    rules: tuple[str, ...] = RULES


def compare(
    reading: Reading,
    names: Sequence[str | int],
    question: Question,
    *,
    by: str = "model",
    metrics_of: str | None = None,
) -> Comparison:
    """As `PerformanceTracker.compare_models`; the reading holds `windows.READS` and `model_metrics`."""
    wanted = list(dict.fromkeys(names))
    if by not in COMPARED:
        raise PerformanceError(f"nothing is compared by {by!r}; it can be {', '.join(COMPARED)}")
    if by == "model_version" and question.model_id is None:
        raise PerformanceError("versions are compared of one model; give its model_id")
    if not 2 <= len(wanted) <= MOST:
        raise PerformanceError(f"{len(wanted)} different ones were given; a comparison needs 2 to {MOST}")
    check_window(question.start, question.end)
    (found,) = statistics_by(reading, question, [[by]])
    groups = {getattr(group, by): group for group in found.groups}
    if missing := [name for name in wanted if name not in groups]:
        check_known(reading, by, missing, question.tenant)
    metrics = _metrics(reading, wanted, question, by, metrics_of)
    candidates = tuple(
        Candidate(name, groups.get(name), metrics.get(name, ()), tuple(_remarks(groups.get(name))))
        for name in wanted
    )
    confidence = 1 - (1 - CONFIDENCE) / (len(wanted) * (len(wanted) - 1) / 2)
    return Comparison(
        by,
        question.start,
        question.end,
        candidates,
        tuple(_pair(a, b, found.relative_error, confidence) for a, b in combinations(candidates, 2)),
        found.relative_error,
        found.sequence,
        reading.version("model_metrics"),
    )


def too_few(percentiles: Percentiles, q: float) -> bool:
    """Whether a quantile rests on too few values."""
    return percentiles.n * (1 - q) < BEYOND - 1e-9


def _metrics(
    reading: Reading, names: Sequence[str | int], question: Question, by: str, metrics_of: str | None
) -> Mapping[str | int, tuple[MetricStatistics, ...]]:
    versions = by == "model_version"
    recorded_as = ([metrics_of] if metrics_of else []) if versions else [str(name) for name in names]
    if by not in ("model", "model_version") or not recorded_as:
        return {}
    found: dict[str | int, list[MetricStatistics]] = {}
    for one in metric_statistics(
        reading,
        recorded_as,
        None,
        tenant=question.tenant,
        start=question.start,
        end=question.end,
        by_version=versions,
    ):
        name = one.model_version if versions else one.model
        if name is not None:
            found.setdefault(name, []).append(one)
    return {name: tuple(ones) for name, ones in found.items()}


def _remarks(group: GroupStatistics | None) -> Iterable[str]:
    if group is None:
        yield "no request in this window"
        return
    for name, percentiles in (("latency", group.latency), ("time to first token", group.ttft)):
        if not percentiles.n:
            yield f"no {name} is logged"
        elif few := [f"p{q * 100:.0f}" for q in (0.5, 0.95, 0.99) if too_few(percentiles, q)]:
            yield f"{name}: {percentiles.n:,} values are too few for {', '.join(few)}"
    if group.reached < LEAST_ATTEMPTS:
        yield f"{group.reached:,} attempts are too few for an error rate"
    if group.assumed:
        yield f"of {group.assumed_requests:,} requests the log says that it assumed {', '.join(group.assumed)}"


def _pair(one: Candidate, other: Candidate, relative_error: float, confidence: float) -> Pair:
    findings: list[Finding] = []
    a, b = one.group, other.group
    if a is not None and b is not None:
        errors = _error_rates(one, other, a, b, confidence)
        findings.append(errors)
        for name, x, y in (("latency", a.latency, b.latency), ("ttft", a.ttft, b.ttft)):
            findings += [_quantiles(name, q, x, y, relative_error, errors) for q in (0.5, 0.95, 0.99)]
    findings += _of_metrics(one.metrics, other.metrics, confidence)
    return Pair(one.name, other.name, tuple(findings))


def _error_rates(
    one: Candidate, other: Candidate, a: GroupStatistics, b: GroupStatistics, confidence: float
) -> Finding:
    gap = difference_of_shares(a.errors, a.reached, b.errors, b.reached, confidence)
    few = [str(c.name) for c, g in ((one, a), (other, b)) if g.reached < LEAST_ATTEMPTS]
    if gap is None or few:
        return Finding("error_rate", None, gap, f"too few attempts of {' and '.join(few)}")
    differs = gap.excludes(0)
    rates = f"{a.error_rate:.2%} of {a.reached:,} and {b.error_rate:.2%} of {b.reached:,} attempts failed"
    return Finding("error_rate", differs, gap, rates + ("" if differs else "; they are not told apart"))


def _quantiles(
    name: str, q: float, x: Percentiles, y: Percentiles, relative_error: float, errors: Finding
) -> Finding:
    figure = f"{name}_p{q * 100:.0f}"
    if too_few(x, q) or too_few(y, q) or q not in x.bounds or q not in y.bounds:
        return Finding(figure, None, None, f"too few values: {x.n:,} and {y.n:,}")
    (low, high), (of_low, of_high) = (
        (bounds[0] * (1 - relative_error), bounds[1] * (1 + relative_error))
        for bounds in (x.bounds[q], y.bounds[q])
    )
    values = [getattr(of, f"p{q * 100:.0f}") for of in (x, y)]
    gap = difference(Interval(values[0], low, high), Interval(values[1], of_low, of_high))
    differs = high < of_low or of_high < low
    remark = f"{values[0]:,.0f} and {values[1]:,.0f} ms" + ("" if differs else "; they are not told apart")
    if errors.differs:
        # Whoever fails more has the slow ones fail, perhaps.
        remark += "; the error rates differ, and these are of answers alone"
    return Finding(figure, differs, gap, remark)


def _of_metrics(
    ones: Sequence[MetricStatistics], others: Sequence[MetricStatistics], confidence: float
) -> Iterable[Finding]:
    by_key = {(m.metric, m.kind, m.judge): m for m in others}
    for one in ones:
        other = by_key.get((one.metric, one.kind, one.judge))
        rivals = [m for m in others if m.metric == one.metric]
        if other is None:
            if rivals:
                yield Finding(one.metric, None, None, "another judge or another kind of value: not compared")
            continue
        if one.kind is Kind.CATEGORY:
            yield Finding(one.metric, None, None, "categories have no mean; see how often each occurs")
        elif one.average is None or other.average is None or one.too_few or other.too_few:
            yield Finding(one.metric, None, None, f"too few points: {one.n:,} and {other.n:,}")
        else:
            gap = difference(_at(one, confidence), _at(other, confidence))
            differs = gap.excludes(0)
            said = f"{one.average.estimate:.4g} of {one.n:,} and {other.average.estimate:.4g} of {other.n:,} points"
            yield Finding(one.metric, differs, gap, said + ("" if differs else "; they are not told apart"))


def _at(of: MetricStatistics, confidence: float) -> Interval:
    """The average with an interval of another confidence."""
    assert of.average is not None
    if of.kind is Kind.BOOLEAN:
        found = share_interval(round(of.average.estimate * of.n), of.n, confidence)
    else:
        found = mean_interval(of.average.estimate, (of.standard_deviation or 0.0) ** 2, of.n, confidence)
    assert found is not None
    return found
