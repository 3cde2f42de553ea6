"""Intervals: published figures, and what holds of any of them."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_registry_pipelines.telemetry.intervals import (
    Interval,
    difference,
    difference_of_shares,
    mean_interval,
    ranks_around,
    ratio_interval,
    share_interval,
)


def test_a_share_has_the_interval_of_the_tables():
    # Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    table = [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]
    for hits, n, lower, upper in table:
        found = share_interval(hits, n)
        assert found is not None
        assert [found.lower, found.upper] == pytest.approx([lower, upper], abs=5e-5)


def test_a_difference_of_shares_has_the_interval_of_the_tables():
    # Newcombe 1998 (independent proportions), table II, method 10: 56/70 - 48/80, 10/10 - 0/10, 9/10 - 3/10.
    table = [(56, 70, 48, 80, 0.0524, 0.3339), (10, 10, 0, 10, 0.6075, 1.0), (9, 10, 3, 10, 0.1705, 0.8090)]
    for a, m, b, n, lower, upper in table:
        found = difference_of_shares(a, m, b, n)
        assert found is not None
        assert [found.lower, found.upper] == pytest.approx([lower, upper], abs=5e-5)


@given(n=st.integers(1, 10_000), part=st.floats(0, 1))
def test_a_share_lies_in_its_interval_and_the_interval_in_0_to_1(n, part):
    found = share_interval(round(part * n), n)
    assert found is not None
    assert 0 <= found.lower <= found.estimate <= found.upper <= 1


def test_of_nothing_there_is_no_interval():
    assert share_interval(0, 0) is None
    assert difference_of_shares(1, 2, 0, 0) is None
    assert mean_interval(1.0, 0.0, 1) is None
    assert ratio_interval([(1.0, 2.0)]) is None
    assert ratio_interval([(1.0, 0.0), (2.0, 0.0)]) is None
    assert ranks_around(10, 0.99) is None


def test_a_difference_adds_the_uncertainty_of_both():
    found = difference(Interval(10, 7, 12), Interval(4, 0, 5))
    assert (found.estimate, found.lower, found.upper) == (6, 6 - math.hypot(3, 1), 6 + math.hypot(2, 4))


def test_a_ratio_of_clusters_is_worked_out_by_hand():
    # 6 of 4: 1.5; deviations 1 - 1.5, 3 - 1.5, 2 - 3: squares 0.25, 2.25, 1; sqrt(3 / 2 x 3.5) / 4 = 0.5728.
    found = ratio_interval([(1.0, 1.0), (3.0, 1.0), (2.0, 2.0)])
    assert found is not None
    assert [found.estimate, found.upper - 1.5] == pytest.approx([1.5, 1.959964 * 0.572822], rel=1e-5)


def test_a_quantile_lies_between_its_ranks_as_often_as_is_said():
    chance, held = random.Random(3), 0
    for _ in range(400):
        values = sorted(chance.random() for _ in range(400))
        ranks = ranks_around(400, 0.95)
        assert ranks is not None
        held += values[ranks[0] - 1] <= 0.95 <= values[ranks[1] - 1]
    assert held / 400 >= 0.94
