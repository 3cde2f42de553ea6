"""Models side by side: what differs, what cannot be told, and why."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.metrics import MetricPoint, PerformanceError
from ml_registry_pipelines.telemetry.performance import PerformanceTracker
from ml_registry_pipelines.telemetry.rollups import refresh_performance
from ml_registry_pipelines.telemetry.sketches import RELATIVE_ERROR
from tests.made_events import event, land

START = datetime(2026, 10, 1, tzinfo=UTC)
END = START + timedelta(days=1)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    chance = random.Random(5)

    def made(model, count, middle, failing=0, **given):
        for number in range(count):
            status = "error_billed" if number < failing else "success"
            latency = chance.lognormvariate(0, 0.3) * middle
            ts = START + timedelta(seconds=chance.uniform(0, 86_000))
            yield event(ts, model=model, status=status, latency_ms=latency, **given)

    with Lake(str(tmp_path_factory.mktemp("home") / "home")) as lake:
        land(
            lake,
            [
                *made("quick", 1500, 400),
                *made("slow", 1500, 800),
                *made("failing", 1500, 400, failing=300),
                *made("rare", 40, 400),
                *made("elsewhere", 40, 400, tenant="globex"),
                event(START - timedelta(days=5), model="former"),
            ],
        )
        refresh_performance(lake)
        tracker = PerformanceTracker(lake)
        tracker.record_metrics(
            [
                *(MetricPoint("quick", "ok", n < 50, "acme", START, judge="j") for n in range(200)),
                *(MetricPoint("slow", "ok", n < 150, "acme", START, judge="j") for n in range(200)),
                *(MetricPoint("failing", "ok", True, "acme", START, judge="other") for n in range(200)),
                *(MetricPoint("rare", "ok", True, "acme", START, judge="j") for n in range(3)),
                *(MetricPoint(m, "tone", None, "acme", START, label="kind") for m in ("quick", "slow")),
            ]
        )
        yield tracker


def test_what_differs_is_said_with_its_interval(tracker):
    found = tracker.compare_models(["quick", "slow"], START, END, tenant="acme")
    (pair,) = found.pairs
    for figure in ("latency_p50", "latency_p95"):
        assert pair.finding(figure).differs is True
        assert pair.finding(figure).difference.upper < 0
    assert pair.finding("error_rate").differs is False
    ok = pair.finding("ok")
    assert (ok.differs, ok.difference.estimate) == (True, -0.5)
    assert pair.finding("tone").differs is None
    assert "no mean" in pair.finding("tone").remark
    assert len(found.rules) == 4


def test_error_rates_that_differ_cast_their_doubt_on_latencies(tracker):
    found = tracker.compare_models(["quick", "failing"], START, END)
    (pair,) = found.pairs
    errors = pair.finding("error_rate")
    assert errors.differs is True
    assert errors.difference.estimate == pytest.approx(-0.2)
    assert "the error rates differ, and these are of answers alone" in pair.finding("latency_p50").remark
    assert "another judge" in pair.finding("ok").remark


def test_too_few_is_said_and_nothing_is_told_apart(tracker):
    found = tracker.compare_models(["quick", "rare"], START, END)
    rare = found.candidates[1]
    assert "latency: 40 values are too few for p95, p99" in rare.remarks
    assert "40 attempts are too few for an error rate" in rare.remarks
    (pair,) = found.pairs
    assert pair.finding("error_rate").differs is None
    assert pair.finding("latency_p95").differs is None
    assert pair.finding("latency_p50").differs is False
    assert "too few points: 200 and 3" in pair.finding("ok").remark


def test_a_model_without_requests_in_the_window_is_none_without_any_ever_is_an_error(tracker):
    found = tracker.compare_models(["quick", "former"], START, END)
    assert (found.candidates[1].group, found.candidates[1].remarks) == (None, ("no request in this window",))
    with pytest.raises(PerformanceError, match="the model 'quikc' was ever logged; the nearest is quick"):
        tracker.compare_models(["quikc", "slow"], START, END)
    with pytest.raises(
        PerformanceError, match="tenant 'acme' with the model 'elsewhere' was ever logged"
    ) as wrong:
        tracker.compare_models(["elsewhere", "slow"], START, END, tenant="acme")
    assert "is elsewhere" not in str(wrong.value)


@pytest.mark.parametrize(
    ("names", "by", "message"),
    [
        (["quick"], "model", "needs 2 to 20"),
        (["quick", "quick"], "model", "needs 2 to 20"),
        (["quick", "slow"], "colour", "nothing is compared by 'colour'"),
        ([1, 2], "model_version", "give its model_id"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(tracker, names, by, message):
    with pytest.raises(PerformanceError, match=message):
        tracker.compare_models(names, START, END, by=by)


def test_a_percentile_of_the_traffic_lies_between_its_bounds(tracker):
    for exact in (False, True):
        (group,) = tracker.get_statistics(START, END, model="slow", exact=exact, intervals=True).groups
        for q, value in ((0.5, group.latency.p50), (0.95, group.latency.p95), (0.99, group.latency.p99)):
            lower, upper = group.latency.bounds[q]
            assert lower < value < upper
        # Of a log-normal with median 800 and sigma 0.3.
        assert (
            group.latency.bounds[0.5][0] * (1 - RELATIVE_ERROR)
            <= 800
            <= group.latency.bounds[0.5][1] * (1 + RELATIVE_ERROR)
        )
    (plain,) = tracker.get_statistics(START, END, model="slow").groups
    assert plain.latency.bounds == {}


def test_throughput_is_of_the_time_that_has_passed(tracker):
    (group,) = tracker.get_statistics(START, END, model="slow").groups
    assert group.requests_per_second == pytest.approx(1500 / 86_400)
    days = tracker.get_statistics(START - timedelta(days=5), START + timedelta(hours=6), by=["day"]).groups
    assert {group.seconds for group in days} == {86_400, 6 * 3600}
    now = datetime.now(UTC)
    far = tracker.get_statistics(START, now + timedelta(days=3000)).groups[0]
    assert far.seconds == pytest.approx((now - START).total_seconds(), abs=60)


def test_an_unknown_name_and_a_reversed_window_are_refused(tracker):
    with pytest.raises(PerformanceError, match="the model 'sloww' was ever logged; the nearest is slow"):
        tracker.get_statistics(START, END, model="sloww")
    with pytest.raises(
        PerformanceError, match="the provider 'closedai' was ever logged; the nearest is openai"
    ):
        tracker.get_statistics(START, END, provider="closedai")
    assert tracker.get_statistics(START, END, model="former").groups == ()
    with pytest.raises(PerformanceError, match="its end has to be after its start"):
        tracker.get_statistics(END, START)
