"""Merged months: the figures of their days, from twelve sketches a year; and never those of days that have changed."""

import random
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.month_rollups import refresh_months
from ml_registry_pipelines.telemetry.performance import PerformanceTracker
from ml_registry_pipelines.telemetry.rollups import refresh_performance
from ml_registry_pipelines.telemetry.windows import READS, Plan, Question
from tests.examples import examples
from tests.made_events import event, land

START = datetime(2026, 7, 1, tzinfo=UTC)
DAY = timedelta(days=1)
LENGTH = 100


def made(count, *, seed, first=0, days=LENGTH):
    """Attempts from July to October on every fifth day or so; most groups of a day are too small for a sketch."""
    chance = random.Random(seed)
    held = [first + n for n in range(days) if n % 5 == 0]
    return [
        event(
            START + chance.choice(held) * DAY + timedelta(seconds=chance.uniform(0, 86_000)),
            tenant=chance.choice(["acme", "globex"]),
            model=chance.choice(["big"] * 5 + ["rare"]),
            provider=chance.choice(["fast", "slow"]),
            status=chance.choice(["success"] * 8 + ["error_billed", "cache_hit"]),
            latency_ms=chance.lognormvariate(6, 1.2),
            ttft_ms=chance.choice([None, chance.lognormvariate(4, 1)]),
            out_text=chance.randrange(1, 400),
            time_quality=chance.choice(["exact"] * 9 + ["assumed"]),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A lake with three merged months, and the same one without them."""
    root = tmp_path_factory.mktemp("homes")
    with Lake(str(root / "merged")) as lake:
        land(lake, made(12_000, seed=4))
        refresh_performance(lake)
        shutil.copytree(root / "merged", root / "plain")
        assert [f"{month:%m}" for month in refresh_months(lake).days] == ["07", "08", "09"]
        with Lake(str(root / "plain")) as plain:
            yield lake, plain


def months_used(lake, first=0.0, length=LENGTH, *, tenant=None, by=()):
    """The months that an answer comes from, as they are called; the answer is that of the days alone."""
    question = Question(START + first * DAY, START + (first + length) * DAY, tenant)
    by = frozenset(by)
    with lake.read(*READS) as reading:
        plan = Plan.of(reading, question, by_day_alone=question.by_day_alone(by), monthly="day" not in by)
    return [month.month for month in plan.months]


KEYS = ["tenant", "provider", "model", "day", "deployment_id"]


@given(
    first=st.floats(-5, 90).map(lambda n: round(n * 24) / 24),
    length=st.integers(1, 110),
    by=st.sets(st.sampled_from(KEYS)),
    tenant=st.sampled_from([None, "acme", "nobody"]),
    model=st.sampled_from([None, "rare"]),
    exact=st.sampled_from([False, False, True]),
)
@settings(deadline=None, max_examples=examples(60))
def test_any_figure_is_the_same_with_merged_months_and_without(
    logged, first, length, by, tenant, model, exact
):
    start, end = START + first * DAY, START + (first + length) * DAY
    found, plain = (
        PerformanceTracker(lake)
        .get_statistics(start, end, by=by, tenant=tenant, model=model, exact=exact)
        .groups
        for lake in logged
    )
    assert found == plain


def test_months_inside_a_window_answer_for_their_days(logged):
    lake, plain = logged
    assert months_used(lake) == months_used(lake, tenant="acme", by=["model"]) == [7, 8, 9]
    assert months_used(lake, 0.5) == [8, 9]
    assert months_used(lake, by=["day"]) == months_used(plain) == []


def requests(lake):
    return sum(
        g.requests for g in PerformanceTracker(lake).get_statistics(START, START + LENGTH * DAY).groups
    )


def test_a_month_of_which_a_day_changed_is_passed_over_until_it_is_merged_again(lake):
    land(lake, made(1500, seed=5))
    refresh_performance(lake)
    refresh_months(lake)
    land(lake, made(40, seed=6, first=31, days=5))
    assert (months_used(lake), requests(lake)) == ([7, 9], 1540)
    refresh_performance(lake)
    assert (months_used(lake), requests(lake)) == ([7, 9], 1540)
    assert [month.month for month in refresh_months(lake).days] == [8]
    assert (months_used(lake), requests(lake)) == ([7, 8, 9], 1540)
    assert refresh_months(lake).days == ()


def test_a_day_of_a_merged_month_that_comes_later_is_not_missing(lake):
    land(lake, made(600, seed=7))
    refresh_performance(lake)
    refresh_months(lake)
    land(lake, made(40, seed=8, first=33, days=1))
    assert (months_used(lake), requests(lake)) == ([7, 9], 640)
    refresh_performance(lake)
    assert (months_used(lake), requests(lake)) == ([7, 9], 640)


def test_a_refresh_merges_at_most_so_many_months_and_the_next_one_goes_on(lake):
    land(lake, made(300, seed=9))
    refresh_performance(lake)
    assert [month.month for _ in range(4) for month in refresh_months(lake, most=1).days] == [9, 8, 7]
