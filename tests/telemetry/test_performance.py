import math
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.performance import MetricPoint, PerformanceError, PerformanceTracker
from ml_registry_pipelines.telemetry.rollups import SKETCHED_FROM, refresh_performance
from ml_registry_pipelines.telemetry.sketches import RELATIVE_ERROR
from tests.examples import examples
from tests.made_events import event, land

START = datetime(2026, 10, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WITHIN = RELATIVE_ERROR + 1e-9


def made(count, *, seed, tenants=("acme", "globex"), models=("big", "big", "big", "rare")):
    """Attempts over three days; `rare` models are too rare for a sketch by hour."""
    chance = random.Random(seed)
    return [
        event(
            START + timedelta(seconds=chance.uniform(0, 3 * 86_400)),
            tenant=chance.choice(tenants),
            model=chance.choice(models),
            provider=chance.choice(["fast", "slow"]),
            status=chance.choice(["success"] * 7 + ["error_billed", "cancelled_billed", "cache_hit"]),
            latency_ms=chance.lognormvariate(6, 1.2),
            ttft_ms=chance.choice([None, chance.lognormvariate(4, 1)]),
            out_text=chance.randrange(1, 400),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A lake whose first two batches are rolled up, and a third one that is not; with all events."""
    root = str(tmp_path_factory.mktemp("home"))
    with Lake(root) as lake:
        batches = [
            made(2500, seed=1),
            made(2500, seed=2),
            [e for e in made(900, seed=3) if e["event_ts"].day == 2],
        ]
        for number, events in enumerate(batches):
            land(lake, events)
            if number < 2:
                refresh_performance(lake)
        yield lake, [e for batch in batches for e in batch]


def nearest_rank(values, q):
    ordered = sorted(values)
    return ordered[max(1, math.ceil(q * len(ordered) - 1e-9)) - 1] if ordered else None


def expected(events, by):
    groups = defaultdict(list)
    for e in events:
        groups[tuple(e[name] for name in by)].append(e)
    return groups


def check(found, events, by, *, within):
    groups = expected(events, by)
    assert {tuple(getattr(g, name) for name in by) for g in found.groups} == set(groups)
    for group in found.groups:
        rows = groups[tuple(getattr(group, name) for name in by)]
        answers = [e for e in rows if e["status"] == "success"]
        assert group.requests == len(rows)
        assert group.errors == sum(e["status"] == "error_billed" for e in rows)
        assert group.output_tokens == sum(e["out_text"] for e in rows)
        for measured, name in ((group.latency, "latency_ms"), (group.ttft, "ttft_ms")):
            values = [e[name] for e in answers if e[name] is not None]
            assert measured.n == len(values)
            for q, value in ((0.5, measured.p50), (0.95, measured.p95), (0.99, measured.p99)):
                true = nearest_rank(values, q)
                assert value == (None if true is None else pytest.approx(true, rel=within, abs=0))
        seconds = sum(e["latency_ms"] for e in answers) / 1000
        if seconds:
            speed = sum(e["out_text"] for e in answers) / seconds
            assert group.output_tokens_per_second == pytest.approx(speed, rel=1e-4)


@given(
    first=st.floats(-10, 80),
    length=st.floats(0.01, 80),
    by=st.sets(st.sampled_from(["tenant", "provider", "model"])),
    tenant=st.sampled_from([None, "acme"]),
    exact=st.booleans(),
)
@settings(deadline=None, max_examples=examples(25))
def test_any_window_is_within_the_stated_error_of_the_raw_rows(logged, first, length, by, tenant, exact):
    lake, events = logged
    start, end = START + first * HOUR, START + (first + length) * HOUR
    found = PerformanceTracker(lake).get_statistics(start, end, by=by, tenant=tenant, exact=exact)
    inside = [e for e in events if start <= e["event_ts"] < end and tenant in (None, e["tenant"])]
    assert found.relative_error == (0 if exact else RELATIVE_ERROR)
    check(found, inside, sorted(by), within=1e-12 if exact else WITHIN)


@given(
    first=st.integers(-3, 60), length=st.integers(1, 40), by=st.sets(st.sampled_from(["provider", "model"]))
)
@settings(deadline=None, max_examples=examples(25))
def test_a_window_of_whole_hours_is_the_same_wherever_it_is_answered_from(logged, first, length, by):
    lake, events = logged
    start, end = START + first * HOUR, START + (first + length) * HOUR
    found = PerformanceTracker(lake).get_statistics(start, end, by=by)
    check(found, [e for e in events if start <= e["event_ts"] < end], sorted(by), within=WITHIN)


@pytest.mark.parametrize("by", [(), ("tenant",), ("provider", "model"), ("day",)])
def test_whole_days_that_are_not_rolled_up_yet_are_answered_all_the_same(logged, by):
    lake, events = logged
    found = PerformanceTracker(lake).get_statistics(START, START + 72 * HOUR, by=by)
    check(found, events, by, within=WITHIN)


def test_nothing_logged_is_no_group_and_no_error(lake):
    assert PerformanceTracker(lake).get_statistics(START, START + HOUR).groups == ()


def test_groups_too_small_for_a_sketch_are_answered_from_their_rows(lake):
    latencies = [float(n + 1) for n in range(SKETCHED_FROM - 1)]
    land(lake, [event(START, latency_ms=ms, ttft_ms=None) for ms in latencies])
    refresh_performance(lake)
    (group,) = PerformanceTracker(lake).get_statistics(START, START + 24 * HOUR, by=["model"]).groups
    assert group.latency.n == len(latencies)
    assert group.latency.p50 == pytest.approx(nearest_rank(latencies, 0.5), rel=WITHIN)
    assert (group.ttft.n, group.ttft.p50) == (0, None)


def test_tenants_that_are_small_by_day_are_answered_together_by_hour(lake):
    events = [
        event(START + timedelta(hours=n % 2, seconds=n), tenant=f"tenant-{n % 50}", latency_ms=float(n + 1))
        for n in range(50 * 20)
    ]
    land(lake, events)
    refresh_performance(lake)
    lake.erase("inference_events", "event_ts < '2026-10-01T00:30:00Z' AND event_ts > '2026-10-01T00:00:01Z'")
    (group,) = PerformanceTracker(lake).get_statistics(START, START + 24 * HOUR).groups
    assert group.latency.n == 1000
    assert group.latency.p99 == pytest.approx(990, rel=WITHIN)


def test_a_provider_that_fails_at_once_is_not_the_fastest(lake):
    land(lake, [event(START, provider="broken", status="error_unbilled", latency_ms=0.0) for _ in range(130)])
    land(lake, [event(START, provider="broken", latency_ms=4000.0) for _ in range(20)])
    land(lake, [event(START, provider="sound", latency_ms=2000.0) for _ in range(150)])
    refresh_performance(lake)
    found = PerformanceTracker(lake).get_statistics(START, START + 24 * HOUR, by=["provider"])
    by_name = {group.provider: group for group in found.groups}
    assert (by_name["broken"].latency.p50 or 0) > (by_name["sound"].latency.p50 or 0)
    assert by_name["broken"].latency.n == 20
    assert by_name["broken"].error_rate == pytest.approx(130 / 150)
    assert by_name["broken"].counted_share == pytest.approx(20 / 150)


def test_what_a_gateway_answered_itself_makes_no_provider_more_reliable(lake):
    land(
        lake,
        [event(START, status=status) for status in ["success", "error_billed", "cache_hit", "cache_hit"]],
    )
    (group,) = PerformanceTracker(lake).get_statistics(START, START + HOUR).groups
    assert group.error_rate == 0.5
    assert group.cache_hits == 2


def test_what_the_log_calls_assumed_is_said_for_days_and_for_ragged_edges(lake):
    land(lake, [event(START + n * HOUR, tags='{"assumed":"time latency"}') for n in (0, 30)])
    land(lake, [event(START)])
    refresh_performance(lake)
    (group,) = PerformanceTracker(lake).get_statistics(START, START + 31 * HOUR).groups
    assert (group.assumed_requests, group.assumed) == (2, ("latency", "time"))


def test_a_question_without_a_time_zone_or_with_an_unknown_grouping_is_refused(lake):
    tracker = PerformanceTracker(lake)
    with pytest.raises(PerformanceError, match="time zone"):
        tracker.get_statistics(datetime(2026, 10, 1), START)  # noqa: DTZ001 - that is the mistake
    with pytest.raises(PerformanceError, match="colour; the groupings are tenant, provider, model, day"):
        tracker.get_statistics(START, START + HOUR, by=["colour"])


def test_recorded_points_come_back_in_order_of_time(lake):
    tracker = PerformanceTracker(lake)
    tracker.record_metric("summariser", "loss", 0.4, step=2, event_ts=START + HOUR, tags={"run": "a"})
    tracker.record_metrics(
        [
            MetricPoint("summariser", "loss", 0.9, step=1, event_ts=START),
            MetricPoint("summariser", "accuracy", 1, event_ts=START + 2 * HOUR),
            MetricPoint("other", "loss", 7.0, event_ts=START),
            MetricPoint("summariser", "loss", 7.0, tenant="globex", event_ts=START),
        ]
    )
    found = tracker.get_metrics("summariser").to_pylist()
    assert [(row["metric"], row["value"], row["step"], row["tags"]) for row in found] == [
        ("loss", 0.9, 1, None),
        ("loss", 0.4, 2, '{"run": "a"}'),
        ("accuracy", 1.0, None, None),
    ]
    assert tracker.get_metrics("summariser", "loss", end=START + HOUR)["value"].to_pylist() == [0.9]
    assert tracker.get_metrics("summariser", start=START + HOUR)["value"].to_pylist() == [0.4, 1.0]


def test_a_diverged_run_may_record_what_is_no_number(lake):
    tracker = PerformanceTracker(lake)
    tracker.record_metric("summariser", "loss", math.nan)
    assert math.isnan(tracker.get_metrics("summariser")["value"][0].as_py())


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (MetricPoint("", "loss", 1.0), "need a name"),
        (MetricPoint("m", "loss", "high"), "'high', which is no number"),  # type: ignore[arg-type]
        (MetricPoint("m", "loss", 1.0, event_ts=datetime(2026, 10, 1)), "has no zone"),  # noqa: DTZ001
    ],
)
def test_one_wrong_point_is_named_and_none_is_recorded(lake, point, message):
    tracker = PerformanceTracker(lake)
    with pytest.raises(PerformanceError, match=f"point 2 of 2: .*{message}"):
        tracker.record_metrics([MetricPoint("m", "loss", 1.0), point])
    assert tracker.get_metrics("m").num_rows == 0
    with pytest.raises(PerformanceError, match="no point to record"):
        tracker.record_metrics([])
