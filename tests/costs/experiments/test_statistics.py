"""Formulas against figures worked out by hand, and what must hold for any input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.experiments.statistics import (
    Moments,
    adjusted,
    always_valid_p,
    chi_square_tail,
    fixed_half_width,
    half_width,
    holm,
    paired_variance,
    planned_units,
    ratio,
    same_rate_p,
    sample_ratio_p,
    sequential_sample_ratio_p,
    tuning,
    units_to_decide,
    variance_of,
)
from tests.examples import examples


def test_a_ratio_and_its_variance_by_the_delta_method():
    # 1/1, 2/3, 6/2: 9 over 6 is 1.5; residuals N - 1.5 D are -0.5, -2.5, 3, divided by mean(D) = 2.
    moments = Moments.of({"n": [1, 2, 6], "d": [1, 3, 2]})
    found = ratio(moments, "n", "d")
    assert found is not None
    assert found.value == pytest.approx(1.5)
    squares = [(-0.25) ** 2, (-1.25) ** 2, 1.5**2]
    assert variance_of(moments, [(1.0, found)]) == pytest.approx(sum(squares) / 2 / 3)
    assert ratio(Moments.of({"n": [1, 2], "d": [0, 0]}), "n", "d") is None
    assert ratio(Moments.of({"n": [], "d": []}), "n", "d") is None


def test_a_covariate_from_before_takes_away_what_it_explains():
    # In each arm the value is twice the covariate plus 0 or 1: all of the spread is explained.
    arms = [
        Moments.of({"y": [2 * x + plus for x in xs], "one": [1] * 4, "x": xs})
        for xs, plus in (([1, 2, 3, 4], 0), ([5, 6, 7, 8], 1))
    ]
    estimates = [ratio(each, "y", "one") for each in arms]
    given_ = [(moments, each) for moments, each in zip(arms, estimates, strict=True) if each is not None]
    control, candidate = adjusted(given_, "x")
    assert candidate.value - control.value == pytest.approx(1)  # and not 9, which the covariate makes up
    assert variance_of(arms[0], [(1.0, control)]) == 0
    constant = Moments.of({"y": [1, 2], "one": [1, 1], "x": [3, 3]})
    plain = ratio(constant, "y", "one")
    assert plain is not None
    assert adjusted([(constant, plain)], "x") == [plain]


def test_the_confidence_sequence_is_that_of_the_paper():
    # n = 100, rho = 0.1: n rho^2 + 1 = 2, (n rho)^2 = 100; s^2 = 100 * 0.04 = 4.
    wanted = math.sqrt(4 * 2 * 2 / 100 * math.log(math.sqrt(2) / 0.05))
    assert half_width(0.04, 100, 0.05, 0.1) == pytest.approx(wanted) == pytest.approx(0.73128, abs=1e-5)
    assert tuning(0.05, 1000) == pytest.approx(math.sqrt((5.99146 + math.log(6.99146)) / 1000), rel=1e-5)
    assert always_valid_p(wanted, 0.04, 100, 0.1) == pytest.approx(0.05)
    assert always_valid_p(-wanted, 0.04, 100, 0.1) == 1
    assert (
        half_width(0.04, 100, 0.05, 0.1)
        > fixed_half_width(0.04, 0.05)
        == pytest.approx(1.95996 * 0.2, rel=1e-4)
    )


def test_the_planned_sample_is_where_effect_less_power_is_the_half_width():
    units = planned_units(0.4, 0.02, alpha=0.05, power=0.8)
    assert units == pytest.approx(2 * 12_024, abs=2)
    error = 2 * 0.4 / math.sqrt(units)
    assert 0.02 - 0.84162 * error == pytest.approx(
        half_width(error**2, units, 0.05, tuning(0.05, units)), rel=1e-4
    )
    # Nine units to one take 1/0.9 + 1/0.1 = 11.1 instead of 4 times the variance.
    skewed = planned_units(0.4, 0.02, alpha=0.05, power=0.8, shares=(9, 1))
    assert skewed / units == pytest.approx(100 / 9 / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("statistic", "freedom", "tail"),
    [(3.841, 1, 0.05), (5.991, 2, 0.05), (7.815, 3, 0.05), (18.307, 10, 0.05), (10.828, 1, 0.001), (0, 1, 1)],
)
def test_the_tail_of_chi_square_is_that_of_the_tables(statistic, freedom, tail):
    assert chi_square_tail(statistic, freedom) == pytest.approx(tail, rel=3e-3)


def test_a_sample_ratio_is_judged_by_both_tests():
    # (450 - 500)^2 / 500 twice is 10.
    assert sample_ratio_p([450, 550], [1, 1]) == pytest.approx(chi_square_tail(10, 1))
    assert sample_ratio_p([450, 550], [45, 55]) == 1
    # 20 of 20: the marginal probability is 1/21, against 2^-20.
    assert sequential_sample_ratio_p([20, 0], [1, 1]) == pytest.approx(21 / 2**20)
    assert sequential_sample_ratio_p([5000, 5000], [1, 1]) == 1
    assert sample_ratio_p([0, 0], [1, 1]) == sequential_sample_ratio_p([0, 0], [1, 1]) == 1


def test_a_share_that_differs_between_arms_is_seen():
    # 30 of 100 against 50 of 100: expected 40 and 60, so 100/40 * 2 + 100/60 * 2.
    assert same_rate_p([30, 50], [100, 100]) == pytest.approx(chi_square_tail(25 / 3, 1))
    assert same_rate_p([0, 0], [100, 100]) == same_rate_p([3, 0], [3, 0]) == 1


def test_holm_tests_the_smallest_at_the_smallest_alpha_and_stops_at_the_first_that_fails():
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}, 0.06) == pytest.approx({"a": 0.02, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.03, "b": 0.01, "c": 0.9}, 0.06) == pytest.approx({"b": 0.02, "a": 0.03, "c": 0.03})


def test_errors_of_paired_differences_come_in_clusters():
    # Residuals of 1, 1, -1, -1 around 0; two clusters whose sums are 2 and -2.
    differences = np.array([1.0, 1.0, -1.0, -1.0])
    assert paired_variance(differences) == pytest.approx(4 / 16 * 4 / 3)
    assert paired_variance(differences, ["x", "x", "y", "y"]) == pytest.approx(8 / 16 * 2)
    assert paired_variance(differences, ["x"] * 4) == 0


@given(
    st.floats(0.0001, 10),
    st.integers(200, 10**6),
    st.floats(0.001, 0.3),
    st.integers(100, 10**6),
    st.floats(0.01, 5),
)
@settings(max_examples=examples(200))
def test_the_p_value_is_below_alpha_exactly_where_the_interval_leaves_the_value_out(
    variance, units, alpha, planned, distance
):
    rho = tuning(0.05, planned)
    outside = distance > half_width(variance, units, alpha, rho)
    assert (always_valid_p(distance, variance, units, rho) < alpha) == outside


@given(st.floats(0.0001, 1), st.integers(200, 10**5), st.floats(0.01, 1))
@settings(max_examples=examples(100))
def test_as_many_units_as_are_needed_decide_and_one_less_does_not(variance, units, distance):
    rho = tuning(0.05, 2000)
    needed = units_to_decide(distance, variance, units, 0.05, rho)
    if needed is None:
        return

    def decides(count: int) -> bool:
        return bool(half_width(variance * units / count, count, 0.05, rho) < distance)

    assert decides(needed)
    assert needed == units or not decides(needed - 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.01, 0.2))
@settings(max_examples=examples(100))
def test_holm_never_gives_more_than_alpha_and_rejects_no_more_than_single_tests(p_values, alpha):
    named = {str(n): p for n, p in enumerate(p_values)}
    levels = holm(named, alpha)
    assert all(alpha / len(named) - 1e-12 <= level <= alpha + 1e-12 for level in levels.values())
    if min(named.values()) >= alpha / len(named):
        assert all(named[name] >= levels[name] for name in named)
