"""Robust estimates: hand-worked figures, what an outlier may not do, and how often the band holds."""

from __future__ import annotations

import math
import random
from datetime import date, timedelta

import pytest

from ml_registry_pipelines.costs.forecasting import LEAST_DAYS, THRESHOLD, days_between, forecast_sum, judged

FIRST = date(2026, 8, 3)  # a Monday


def days(count: int) -> list[date]:
    return days_between(FIRST, FIRST + timedelta(days=count))


def test_a_weekly_pattern_without_scatter_is_forecast_exactly():
    cost = [10.0, 12.0, 14.0, 12.0, 10.0, 2.0, 1.0]
    history = {day: cost[day.weekday()] for day in days(28)}
    ahead = days_between(FIRST + timedelta(days=28), FIRST + timedelta(days=38))
    found = forecast_sum(history, ahead)
    assert found is not None
    # A whole week is 61, and Monday to Wednesday 36 more.
    assert (found.expected, found.lower, found.upper, found.slope) == (97.0, 97.0, 97.0, 0.0)


def test_a_steady_rise_goes_on_and_one_odd_day_moves_nothing():
    history = {day: 100.0 + 2 * number for number, day in enumerate(days(28))}
    ahead = days_between(FIRST + timedelta(days=28), FIRST + timedelta(days=30))
    history[FIRST + timedelta(days=10)] = 100_000.0
    found = forecast_sum(history, ahead)
    assert found is not None
    assert found.slope == pytest.approx(2.0)
    assert found.expected == pytest.approx((100 + 56) + (100 + 58))


def test_with_too_few_days_there_is_no_forecast():
    history = dict.fromkeys(days(LEAST_DAYS - 1), 5.0)
    assert forecast_sum(history, [FIRST + timedelta(days=40)]) is None
    assert (
        forecast_sum({**history, FIRST + timedelta(days=20): 5.0}, [FIRST + timedelta(days=40)]) is not None
    )


def test_no_forecast_is_below_nothing():
    history = {day: max(0.0, 100.0 - 4 * number) for number, day in enumerate(days(28))}
    found = forecast_sum(history, days_between(FIRST + timedelta(days=28), FIRST + timedelta(days=58)))
    assert found is not None
    assert 0 <= found.lower <= found.expected <= found.upper


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_the_band_holds_about_as_many_months_as_it_says(alike):
    chance, held, rounds = random.Random(7), 0, 300
    for _ in range(rounds):
        before, values = 0.0, []
        for day in days(56 + 15):
            before = alike * before + chance.gauss(0, 8)
            values.append((100 if day.weekday() < 5 else 40) + before)
        history = dict(zip(days(56), values, strict=False))
        found = forecast_sum(history, days(71)[56:])
        assert found is not None
        held += found.lower <= sum(values[56:]) <= found.upper
    assert 0.84 <= held / rounds <= 0.97


def test_an_hour_is_judged_by_the_same_hours_of_the_weeks_before():
    # Median 10, MAD 1: z = (20 - 10) / 1.4826.
    found = judged(20.0, [9.0, 10.0, 11.0, 10.0, 9.0, 11.0])
    assert found is not None
    assert (found.usual, found.odd) == (10.0, True)
    assert found.z == pytest.approx(10 / 1.4826, rel=1e-4)
    near = judged(13.0, [9.0, 10.0, 11.0, 10.0, 9.0, 11.0])
    assert near is not None
    assert 0 < near.z < THRESHOLD
    assert not near.odd
    assert judged(20.0, [10.0, 10.0, 10.0]) is None


def test_where_half_the_hours_are_equal_the_mean_deviation_stands_in():
    # Deviations 0, 0, 0, 4: their mean is 1, times 1.2533.
    found = judged(20.0, [10.0, 10.0, 10.0, 14.0])
    assert found is not None
    assert found.z == pytest.approx(10 / 1.2533, rel=1e-4)
    flat = judged(20.0, [10.0] * 4)
    assert flat is not None
    assert math.isinf(flat.z)
    same = judged(10.0, [10.0] * 4)
    assert same is not None
    assert (same.z, same.odd) == (0.0, False)


def test_a_small_change_of_something_even_is_not_odd():
    found = judged(10.5, [10.0, 10.001, 9.999, 10.0, 10.002])
    assert found is not None
    assert found.z > THRESHOLD
    assert not found.odd
