"""What holds for any experiment, whatever was seen."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.experiments.deciding import Outcome, Standing, Verdict, decide
from ml_registry_pipelines.costs.experiments.observing import ArmSeen, Seen
from ml_registry_pipelines.costs.experiments.statistics import Moments
from tests.costs.experiments.trial import START, declared
from tests.examples import examples

ARM = st.tuples(
    st.integers(0, 3000),  # units
    st.floats(0, 1),  # labelled share
    st.floats(0, 1),  # solved share
    st.floats(0, 3),  # mean cost
    st.floats(0, 1),  # share of requests that fail
    st.floats(0.97, 1),  # priced share
)
DECLARED = declared(guardrails=[{"metric": "error_rate", "margin": 0.05}], min_sample=200)


def arm(
    name: str, units: int, labelled: float, solved: float, cost: float, failing: float, priced: float
) -> ArmSeen:
    random = np.random.default_rng(units)
    label = random.random(units) < labelled
    moments = Moments.of(
        {
            "quality_n": (label & (random.random(units) < solved)).astype(float),
            "quality_d": label.astype(float),
            "cost_n": cost * random.lognormal(0, 1, units),
            "cost_d": np.ones(units),
            "g0_n": (random.random(units) < failing).astype(float),
            "g0_d": np.ones(units),
        }
    )
    count = int(label.sum())
    return ArmSeen(
        name, moments, labelled=count, labels=count, requests=units, billable=units, priced=int(units * priced),
        cost=Decimal(1), based={"quality": count, "cost": units, "guardrail:error_rate": units},
    )  # fmt: skip


def look(days: float, *arms: ArmSeen) -> Verdict:
    at: datetime = START + timedelta(days=days)
    return decide(DECLARED, Seen(at, at, {each.name: each for each in arms}), started_at=START)


@given(ARM, ARM, st.floats(0.1, 30))
@settings(max_examples=examples(300))
def test_a_winner_has_proven_all_and_every_other_outcome_says_why(control, candidate, days):
    seen = arm("big", *control), arm("small", *candidate)
    found = look(days, *seen)
    assert found.reasons
    assert found.message
    assert (found.winner is not None) == (found.outcome is Outcome.WINNER)
    failed = [gate.name for gate in found.gates if not gate.passed]
    if failed:
        assert (found.outcome, list(found.reasons)) == (Outcome.INVALID, failed)
    if found.outcome is Outcome.WINNER:
        assert all(claim.standing is Standing.PROVEN for claim in found.claims)
        assert min(each.labelled for each in seen) >= 200
        assert days >= 7
        assert all(each.coverage is not None and each.coverage >= 0.99 for each in seen)
    if found.outcome is Outcome.KEEP_CONTROL:
        assert any(claim.standing is Standing.DISPROVEN for claim in found.claims)
        assert min(each.units for each in seen) >= 100
    for claim in found.claims:
        if claim.lower is not None and claim.upper is not None and claim.estimate is not None:
            assert claim.lower <= claim.estimate <= claim.upper
            assert (claim.p_value < claim.alpha) == (claim.standing is Standing.PROVEN)


@given(ARM, st.floats(7, 30))
@settings(max_examples=examples(100))
def test_an_arm_never_wins_against_itself(same, days):
    found = look(days, arm("big", *same), arm("small", *same))
    assert found.outcome is not Outcome.WINNER
