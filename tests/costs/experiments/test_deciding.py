"""What a look decides, on a lake: each of the four outcomes, and every fault that must not be decided on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.costs.experiments.deciding import Claim, Outcome, Standing, Verdict
from tests.costs.experiments.trial import Trial, day, declared, populate, trial, units

DATA = Path(__file__).parent / "data"
LLMPERF = (
    Path(__file__).parents[3] / "demo/data/landing/llmperf/dt=2026-10-31/hh=12/20261031T120000Z-llmperf.csv"
)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """600 users of each model, 80 % of whose problems are solved either way; the small one costs a tenth."""
    with trial(tmp_path_factory.mktemp("alike")) as made:
        populate(made, solved={"big": 0.8, "small": 0.8})
        yield made


def claim(verdict: Verdict, about: str, arm: str = "small") -> Claim:
    (found,) = [c for c in verdict.claims if (c.arm, c.about) == (arm, about)]
    return found


def test_a_cheaper_arm_that_is_as_good_wins(alike):
    found = alike.verdict(declared())
    assert (found.outcome, found.winner) == (Outcome.WINNER, "small"), found.message
    quality, cost = claim(found, "quality"), claim(found, "cost")
    assert quality.lower is not None
    assert -0.1 < quality.lower < 0 == pytest.approx(quality.estimate, abs=1e-9)
    # 1 to 7 tokens per user, 2,395 of them in each arm: a dollar each, or a dime.
    assert cost.estimate == pytest.approx(-0.9 * 2395 / 600)
    assert alike.seen(declared()).arms["big"].cost == 2395


def test_nobody_wins_before_time_and_sample_allow_it(alike):
    early = alike.verdict(declared(), at=day(6.9))
    assert (early.outcome, early.reasons) == (Outcome.INCONCLUSIVE, ("days",))
    assert "6.9 of 7 days" in early.message
    few = alike.verdict(declared(min_sample=1000))
    assert (few.outcome, few.reasons, few.units_needed) == (Outcome.INCONCLUSIVE, ("small:sample",), 400)


def test_a_margin_that_is_too_narrow_to_show_needs_so_many_units_more(alike):
    found = alike.verdict(declared(margin=0.05))
    assert (found.outcome, found.reasons) == (Outcome.INCONCLUSIVE, ("small:quality",))
    # The interval is about 0.07 wide on each side: (0.07 / 0.05)^2 of 600 units, roughly.
    assert found.units_needed is not None
    assert 200 < found.units_needed < 900
    assert f"about {found.units_needed:,} more units per arm" in found.message


def test_a_saving_that_was_asked_for_has_to_be_shown(alike):
    assert alike.verdict(declared(min_saving=0.85)).outcome is Outcome.WINNER
    asked = alike.verdict(declared(min_saving=0.95))
    assert (asked.outcome, asked.reasons) == (Outcome.KEEP_CONTROL, ("small:cost",))


def test_a_quality_that_is_no_better_does_not_win_where_better_was_asked_for(alike):
    found = alike.verdict(declared(mode="better", margin=None, max_extra_cost=1.0, effect=0.05))
    assert (found.outcome, found.reasons) == (Outcome.INCONCLUSIVE, ("small:quality",))


def test_a_cheaper_arm_is_worth_more_at_any_worth_of_a_point(alike):
    found = alike.verdict(declared(mode="value", margin=None, value_per_point=2.0, effect=0.05))
    assert (found.outcome, found.winner) == (Outcome.WINNER, "small")
    value = claim(found, "value")
    assert value.estimate == pytest.approx(0.9 * 2395 / 600)


def test_cost_may_be_measured_per_request_and_per_success(alike):
    per_success = alike.verdict(declared(cost={"per": "success"}))
    assert claim(per_success, "cost").control_value == pytest.approx(2395 / 480)
    per_request = alike.verdict(declared(cost={"per": "request"}))
    assert claim(per_request, "cost").control_value == pytest.approx(2395 / 600)


def test_a_guardrail_has_to_be_shown_not_only_not_to_be_broken(alike):
    rail = {"metric": "error_rate", "margin": 0.03}
    held = alike.verdict(declared(guardrails=[rail]))
    # No request of 600 failed; that none ever will is not known: about 3 in 600 might.
    assert (held.outcome, claim(held, "guardrail:error_rate").standing) == (Outcome.WINNER, Standing.PROVEN)
    narrow = alike.verdict(declared(guardrails=[{**rail, "margin": 0.001}]))
    assert (narrow.outcome, narrow.reasons) == (Outcome.INCONCLUSIVE, ("small:guardrail:error_rate",))
    unlabelled = alike.verdict(declared(guardrails=[{"metric": "flagged", "margin": 0.1}]))
    assert unlabelled.outcome is Outcome.INCONCLUSIVE
    assert "guardrail:flagged has no value yet" in unlabelled.message


def test_a_worse_arm_is_not_taken_however_cheap(tmp_path):
    with trial(tmp_path) as made:
        populate(made, solved={"big": 0.9, "small": 0.6})
        found = made.verdict(declared())
        assert (found.outcome, found.reasons) == (Outcome.KEEP_CONTROL, ("small:quality",))
        dear = made.verdict(declared(mode="value", margin=None, value_per_point=100.0, effect=0.05))
        assert dear.outcome is Outcome.KEEP_CONTROL
        # 0.3 points less for 0.9 * 2395 / 600 dollars less: ahead as long as a point is worth less than their ratio.
        net = dear.extras["net_benefit"]["small"]
        assert net["cost_per_point"] == pytest.approx(0.9 * 2395 / 600 / 0.3)
        assert net["ahead"].startswith("if a point is worth less than 11.975")
        assert {c["about"] for c in dear.extras["beside"]} == {"quality", "cost"}
        lower = made.verdict(
            declared(quality={"metric": "solved", "lower_is_better": True}, mode="better", margin=None,
                     max_extra_cost=0.0, effect=0.1)
        )  # fmt: skip
        assert (lower.outcome, lower.winner) == (Outcome.WINNER, "small")
        assert lower.extras["net_benefit"]["small"]["ahead"] == "at any worth of a point"


def test_an_arm_that_fails_its_requests_is_stopped_whatever_the_rest(tmp_path):
    """The provider of the llmperf comparison that refused 130 of 150 calls per model, and another one."""
    with LLMPERF.open() as file:
        calls = [row for row in csv.DictReader(file) if row["provider"] in {"anyscale", "lepton"}]
    assert sum(row["error_code"] == "429" for row in calls if row["provider"] == "lepton") == 390
    models = {"anyscale": "big", "lepton": "small"}
    with trial(tmp_path) as made:
        names: dict[str, list[str]] = {"big": [], "small": []}
        requests = []
        for row in calls:
            arm = models[row["provider"]]
            names[arm].append(f"{arm}-{row['model']}-{row['request_no']}")
            status = "error_unbilled" if row["error_code"] else "success"
            tokens = int(row["output_tokens"]) if row["output_tokens"] else 1
            requests.append(made.call(names[arm][-1], day(1), arm, tokens=tokens, status=status))
        made.requests(requests)
        for arm, held in names.items():
            made.assign(arm, held)
            # Even if users were asked later and all were content:
            made.label({unit: n % 10 > 0 for n, unit in enumerate(held)})
        rail = {"metric": "error_rate", "margin": 0.05}
        found = made.verdict(declared(guardrails=[rail]), at=day(3))  # no need to wait a week for that
        assert (found.outcome, found.reasons) == (Outcome.KEEP_CONTROL, ("small:guardrail:error_rate",))
        error = claim(found, "guardrail:error_rate")
        assert error.standing is Standing.DISPROVEN
        assert error.estimate == pytest.approx(390 / 450)


def questions() -> list[tuple[str, bool, bool]]:
    with (DATA / "routellm_gsm8k_correct.csv").open() as file:
        return [
            (row["question_no"], row["gpt4_1106_correct"] == "1", row["mixtral_8x7b_correct"] == "1")
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("margin", [0.01, 0.05])
def test_mixtral_is_not_as_good_as_gpt4_on_real_answers_however_cheap(mixtral, margin):
    found = mixtral.verdict(declared(margin=margin))
    assert (found.outcome, found.reasons) == (Outcome.KEEP_CONTROL, ("small:quality",))
    quality, cost = claim(found, "quality"), claim(found, "cost")
    assert quality.estimate == pytest.approx((842 - 1130) / 1319, abs=1e-9)
    assert cost.standing is Standing.PROVEN


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Each question asked by one user of each arm."""
    with trial(tmp_path_factory.mktemp("mixtral")) as made:
        made.requests(
            made.call(f"{arm}-{number}", day(1), arm, tokens=1 + int(number) % 9)
            for number, *_ in questions()
            for arm in ("big", "small")
        )
        for position, arm in enumerate(("big", "small"), start=1):
            labels = {f"{arm}-{row[0]}": bool(row[position]) for row in questions()}
            made.assign(arm, labels)
            made.label(labels)
        yield made


# -- what must not be decided on ------------------------------------------------------------------


FAULTS = {
    "shares": ("sample_ratio", "big 550, small 400"),
    "empty": ("empty_arm", "arm small got no unit"),
    "labels": ("label_rate", "small 200 of 400"),
    "unlabelled": ("arm_without_labels", "arm none has no label"),
    "unpriced": ("price_coverage", "big 400 of 400, small 395 of 400"),
    "catalogue": ("price_catalogue", "big: list; small: ours"),
    "crossed": ("crossed_units", "20 units were assigned to several arms"),
    "undeclared": ("undeclared_arm", "smalll (1 units)"),
    "foreign": ("foreign_model", "25.0% of an arm's requests"),
    "skew": ("clock_skew", "50 labels"),
    "spread": ("zero_variance", "the cost of every unit of small or big is the same"),
}
COUNT = 400


def arms_of(fault: str) -> list[dict[str, Any]]:
    models = {"big": "big", "small": "agreed" if fault == "catalogue" else "small"}
    if fault == "unlabelled":
        models["none"] = "big"
    return [{"name": arm, "models": [model]} for arm, model in models.items()]


def spoil(made: Trial, fault: str) -> Iterator[dict[str, object]]:
    """Assignments and labels with one thing wrong; the requests of their units."""
    for arm in arms_of(fault):
        name, model = arm["name"], arm["models"][0]
        here = units(f"{fault}-{name}", COUNT + 150 * (fault == "shares" and name == "big"))
        if (fault, name) != ("empty", "small"):
            made.assign(name, here, name=fault)
        some = range(len(here)) if (fault, name) != ("labels", "small") else range(1, len(here), 2)
        made.label({here[n]: n % 5 > 0 for n in some if name != "none"})
        for n, unit in enumerate(here[:COUNT]):
            wrong = (fault == "unpriced" and name == "small" and n < 5, fault == "foreign" and n % 4 == 0)
            used = "unknown" if wrong[0] else "big" if wrong[1] else model
            tokens = 3 if fault == "spread" else 1 + n % 7
            yield made.call(unit, day(1 + n % 3), used, tokens=tokens, event_id=f"{fault}-{name}-{n}")
    if fault == "skew":
        made.label({f"skew-big-{n}": True for n in range(50)}, day(0.5), about="event_id")
    if fault == "crossed":
        made.assign("small", units("crossed-big", 20), name=fault)
    if fault == "undeclared":
        made.assign("smalll", ["typo"], name=fault)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    with trial(tmp_path_factory.mktemp("spoiled")) as made:
        made.requests([call for fault in FAULTS for call in spoil(made, fault)])
        made.take()
        yield made


@pytest.mark.parametrize("fault", FAULTS)
def test_an_experiment_that_cannot_be_believed_is_invalid_and_says_why(spoiled, fault):
    reason, says = FAULTS[fault]
    wrong = declared(name=fault, arms=arms_of(fault))
    found = spoiled.verdict(wrong)
    assert (found.outcome, found.reasons[0]) == (Outcome.INVALID, reason), found.message
    assert says in found.message
    assert found.winner is None
    if fault == "catalogue":
        found = spoiled.verdict(declared(name=fault, arms=arms_of(fault), different_catalogues=True))
        assert found.outcome is not Outcome.INVALID


def test_a_unit_in_two_arms_is_listed_and_left_out_of_the_others(alike):
    alike.assign("small", units("big", 3))
    found = alike.verdict(declared())
    (gate,) = [g for g in found.gates if g.name == "crossed_units"]
    assert (gate.passed, gate.figures["crossed"], len(gate.figures["units"])) == (True, 3, 3)
    assert alike.seen(declared()).arms["big"].units == 597


def test_nothing_seen_is_inconclusive_and_says_what_is_missing(tmp_path):
    with trial(tmp_path) as made:
        found = made.verdict(declared())
        assert found.outcome is Outcome.INCONCLUSIVE
        assert found.units_needed == 1000
        made.assign("big", units("big", 3))
        assert made.verdict(declared()).outcome is Outcome.INCONCLUSIVE  # three of three: that happens


@pytest.mark.soak
def test_several_candidates_are_corrected_for_and_the_cheapest_of_those_that_win_is_taken(tmp_path):
    with trial(tmp_path) as made:
        populate(made, solved={"big": 0.8, "small": 0.8, "agreed": 0.8})
        arms = [{"name": name, "models": [name]} for name in ("big", "small", "agreed")]
        found = made.verdict(declared(arms=arms, different_catalogues=True, margin=0.15))
        assert (found.outcome, found.winner) == (Outcome.WINNER, "agreed")
        assert "(small would win as well)" in found.message
        assert sorted({c.alpha for c in found.claims}) == [0.025, 0.05]
