"""What a look sees of assignments, requests, costs and labels, worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest

from ml_registry_pipelines.telemetry.identity import salted_hash
from ml_registry_pipelines.telemetry.ingestion import user_salt
from tests.costs.experiments.trial import TENANT, Trial, day, declared, trial

DECLARED = declared(
    cost={"per": "request"},
    pre_period_days=5,
    guardrails=[
        {"metric": "error_rate", "margin": 0.1},
        {"metric": "slow_share", "margin": 0.1, "threshold_ms": 1000},
        {"metric": "flagged", "margin": 0.1},
    ],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Two users of the big model and one of the small one, and everything that must not count."""
    with trial(tmp_path_factory.mktemp("trial")) as made:
        made.assign("big", ["ann", "bob", "two-arms"], day(1))
        made.assign("big", ["ann"], day(3))  # again: the first one counts
        made.assign("small", ["cat", "two-arms"], day(1))
        made.assign("small", ["early-bird"], day(-1))  # before the start
        made.assign("tiny", ["dan"], day(1))  # no such arm
        made.assign("big", ["eve"], day(1), name="another")
        made.requests(
            [
                made.call("ann", day(1), "big", 3, event_id="a1", latency_ms=500.0),
                made.call("ann", day(2), "big", 4, event_id="a2", latency_ms=2000.0),
                made.call("ann", day(0.5), "big", 7, event_id="a0"),  # before the assignment: the covariate
                made.call("ann", day(-5), "big", 100),  # before the period before
                made.call(
                    "bob", day(2), "small", 5, event_id="b1", status="error_billed"
                ),  # the other arm's model
                made.call("bob", day(2), "big", 50, status="error_unbilled"),
                made.call("cat", day(2), "small", 20, event_id="c1"),
                made.call("cat", day(3), "unknown", 20, event_id="c2"),  # no price
                made.call("cat", day(4), "small", 20, span_kind="aggregate"),
                made.call("cat", day(30), "small", 20),  # after the look
                made.call("cat", day(2), "small", 20, tenant="globex"),
                made.call("two-arms", day(2), "small", 9),
            ]
        )
        made.label({"a1": 1, "b1": 0, "c1": True}, day(9), about="event_id")
        made.label({"a2": 0}, day(1.5), about="event_id")  # observed before its request
        made.label({"nobody": 1}, day(9), about="event_id")
        made.label({"ann": 0.5, "cat": 0.25}, day(8))
        made.label({"ann": 0.9}, day(0.2))  # before the assignment
        made.label({"cat": 1}, day(11))  # after the look
        made.label({"ann": 0, "bob": 1, "cat": 0}, day(4), metric="flagged")
        made.label({"ann": 1}, day(4), metric="not asked for")
        yield made


def test_counts_and_costs_of_each_arm(made):
    seen = made.seen(DECLARED)
    big, small = seen.arms["big"], seen.arms["small"]
    assert (big.units, big.labelled, big.labels, big.requests, big.foreign_requests) == (2, 2, 3, 4, 1)
    assert (small.units, small.labelled, small.labels, small.requests, small.foreign_requests) == (
        1,
        1,
        2,
        2,
        0,
    )
    # An error that is not billed needs no price; what no price covers is counted, not taken for nothing.
    assert (big.billable, big.priced, big.cost) == (3, 3, Decimal("7.5"))
    assert (small.billable, small.priced, small.cost) == (2, 1, Decimal(2))
    assert small.coverage == 0.5
    assert (big.skewed_labels, big.early_labels) == (1, 1)
    assert len(big.price_ids) == 2


def test_moments_of_each_arm(made):
    big = made.seen(DECLARED).arms["big"].moments
    # ann: labels 1 and 0.5, mean 0.75; 7 USD for 2 requests; bob: label 0; 0.50 USD for 2 requests, both errors.
    for name, mean in {
        "quality_n": 0.375,
        "quality_d": 1,
        "cost_n": 3.75,
        "cost_d": 2,
        "g0_n": 1,  # errors
        "g0_d": 2,
        "g1_n": 0.5,  # slower than a second
        "g2_n": 0.5,  # flagged
        "quality_x": 0.9,  # ann's; bob has no label from before and gets the usual one
        "cost_x": 3.5,  # ann's 7 USD the day before
    }.items():
        assert big.mean_of(name) == pytest.approx(mean), name
    n, x = big.names.index("cost_n"), big.names.index("cost_x")
    assert big.covariance[n, n] == pytest.approx(21.125)  # (7 - 3.75)^2 + (0.5 - 3.75)^2
    assert big.covariance[n, x] == pytest.approx(22.75)  # 3.25 * 3.5 + 3.25 * 3.5


def test_who_is_left_out_is_listed(made):
    seen = made.seen(DECLARED)
    assert seen.crossed == 1
    assert seen.crossed_units == (salted_hash(user_salt(made.lake.root), TENANT, "two-arms"),)
    assert dict(seen.undeclared) == {"tiny": 1}
    assert seen.unmatched_labels == 1


def test_a_window_observes_every_unit_for_the_same_time(made):
    short = declared(window_days=1)
    seen = made.seen(short, at=day(10))
    # ann's second request is a day after her first; what happened later, labels too, is outside.
    assert (seen.arms["big"].requests, seen.arms["big"].cost, seen.arms["big"].labels) == (1, Decimal(3), 1)
    assert made.seen(short, at=day(1.5)).arms["big"].units == 0


def test_a_stop_ends_requests_at_once_and_labels_of_units_later(made):
    stopped = made.seen(declared(label_days=6.5), at=day(20), stopped=day(2) - timedelta(seconds=1))
    assert (stopped.arms["big"].requests, stopped.arms["small"].requests) == (1, 0)
    # cat's label of day 8 is 6 days after the stop and counts; that of day 11 does not.
    assert stopped.arms["small"].labels == 1


def test_a_scope_leaves_other_requests_out(made):
    seen = made.seen(declared(scope={"application": "elsewhere"}))
    assert (seen.arms["big"].requests, seen.arms["big"].cost) == (0, Decimal(0))


def test_a_trace_is_a_unit_that_is_hashed_like_one(tmp_path):
    with trial(tmp_path) as made:
        made.assign("big", ["t1"], day(1))
        made.requests([made.call("ann", day(2), "big", 3, trace_id="t1", event_id="x")])
        made.label({"t1": 1}, day(3), about="trace_id")
        big = made.seen(declared(unit="trace")).arms["big"]
        assert (big.units, big.requests, big.labels, big.cost) == (1, 1, 1, Decimal(3))
