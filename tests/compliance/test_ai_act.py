"""The EU AI Act as a decision table: the cases of the Act, its recitals and annexes, and what holds for all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.compliance.ai_act.answers import Answers, answers_of
from ml_registry_pipelines.compliance.ai_act.evaluation import Evaluation, evaluate
from ml_registry_pipelines.compliance.ai_act.form import form, read_form
from ml_registry_pipelines.compliance.ai_act.table import TEXTS, FactKind, Table, Tier, current
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.strict_yaml import strict_loader
from tests.examples import examples

TABLE: Table = current()
TODAY = date(2026, 11, 23)
EDGE = date(2026, 12, 2)

# Everything is known, nothing applies: an AI system in the EU that does nothing that the Act speaks of.
HARMLESS: dict[str, Any] = {
    name: {FactKind.FLAG: False, FactKind.SET: [], FactKind.NUMBER: 0, FactKind.DATE: "none"}[fact.kind]
    for name, fact in TABLE.facts.items()
} | {"is_ai_system": True, "eu_nexus": True, "roles": ["provider", "deployer"]}


def found(*, on: Any = TODAY, **facts: object) -> Evaluation:
    return evaluate(TABLE, answers_of(TABLE, {**HARMLESS, **facts}), on)


def duty(of: Evaluation, name: str) -> Any:
    return next((d for d in of.duties if d.id == name), None)


def articles(of: Evaluation, outcome: str) -> list[str]:
    return [o.article for o in of.outcomes if o.outcome == outcome and o.certain]


CASES: list[tuple[str, Mapping[str, object], Tier, str, list[str]]] = [
    ("1 hidden nudges", {"a5_a": True}, Tier.PROHIBITED, "prohibited", ["5(1)(a)"]),
    (
        "2 emotions of agents",
        {"a5_f": True, "emotion_or_biocat": True},
        Tier.PROHIBITED,
        "prohibited",
        ["5(1)(f)"],
    ),
    (
        "2 the same, therapeutic",
        {"a5_f": True, "a5_f_medical_or_safety": True, "annex_iii": ["1c"]},
        Tier.HIGH_RISK,
        "prohibited",
        [],
    ),
    ("2 fatigue of a driver", {}, Tier.MINIMAL, "prohibited", []),
    ("3 crime from nationality", {"a5_d": True}, Tier.PROHIBITED, "prohibited", ["5(1)(d)"]),
    ("4 fraud of undertakings", {}, Tier.MINIMAL, "prohibited", []),
    ("4 with facts of a crime", {"a5_d": True, "a5_d_not_solely": True}, Tier.MINIMAL, "prohibited", []),
    ("5 scraped faces", {"a5_e": True}, Tier.PROHIBITED, "prohibited", ["5(1)(e)"]),
    ("6 undress, before", {"a5_ba": True}, Tier.MINIMAL, "prohibited", []),
    ("7 face unlock", {}, Tier.MINIMAL, "high_risk_annex_iii", []),
    (
        "8 remote identification",
        {"annex_iii": ["1a"]},
        Tier.HIGH_RISK,
        "high_risk_annex_iii",
        ["6(2), Annex III"],
    ),
    ("9 water pressure", {"annex_iii": ["2"]}, Tier.HIGH_RISK, "high_risk_annex_iii", ["6(2), Annex III"]),
    ("10 cyber security alone", {}, Tier.MINIMAL, "high_risk_annex_iii", []),
    (
        "12 grading pattern",
        {"annex_iii": ["3b"], "cond_c": True, "art6_4_documented": True},
        Tier.NOT_HIGH_RISK_DEROGATED,
        "not_high_risk_derogated",
        ["6(3), 6(4)"],
    ),
    (
        "13 the same, not documented",
        {"annex_iii": ["3b"], "cond_c": True},
        Tier.HIGH_RISK,
        "high_risk_annex_iii",
        ["6(2), Annex III"],
    ),
    (
        "14 ranked CVs",
        {"annex_iii": ["4a"], "performs_profiling": True, "cond_a": True, "art6_4_documented": True},
        Tier.HIGH_RISK,
        "high_risk_annex_iii",
        ["6(2), 6(3) third subparagraph, Annex III"],
    ),
    (
        "15 duplicate applications",
        {"annex_iii": ["4a"], "cond_a": True, "art6_4_documented": True},
        Tier.NOT_HIGH_RISK_DEROGATED,
        "not_high_risk_derogated",
        ["6(3), 6(4)"],
    ),
    (
        "16 derogated, but it decides",
        {"annex_iii": ["4a"], "cond_a": True, "art6_4_documented": True, "material_influence": True},
        Tier.HIGH_RISK,
        "high_risk_annex_iii",
        ["6(2), Annex III"],
    ),
    (
        "19 consumer credit score",
        {"annex_iii": ["5b"], "performs_profiling": True},
        Tier.HIGH_RISK,
        "high_risk_annex_iii",
        ["6(2), 6(3) third subparagraph, Annex III"],
    ),
    ("20 card fraud", {}, Tier.MINIMAL, "high_risk_annex_iii", []),
    ("22 emergency calls", {"annex_iii": ["5d"]}, Tier.HIGH_RISK, "high_risk_annex_iii", ["6(2), Annex III"]),
    ("25 a judge's aid", {"annex_iii": ["8a"]}, Tier.HIGH_RISK, "high_risk_annex_iii", ["6(2), Annex III"]),
    (
        "27 chatbot",
        {"interacts_with_persons": True, "synthetic_modalities": ["text"]},
        Tier.TRANSPARENCY,
        "transparency",
        ["50(1)", "50(2)"],
    ),
    (
        "28 obvious, and edits alone",
        {
            "interacts_with_persons": True,
            "obvious": True,
            "synthetic_modalities": ["text"],
            "assistive_edit": True,
        },
        Tier.MINIMAL,
        "transparency",
        [],
    ),
    (
        "30 credit outside the EU",
        {"annex_iii": ["5b"], "eu_nexus": False},
        Tier.OUT_OF_SCOPE,
        "out_of_scope",
        ["2"],
    ),
    ("30 its output used in the EU", {"annex_iii": ["5b"]}, Tier.HIGH_RISK, "out_of_scope", []),
    (
        "31 lift",
        {"annex_i_act": ["lifts"], "safety_component": True, "third_party_ca": True},
        Tier.HIGH_RISK,
        "high_risk_annex_i",
        ["6(1), Annex I Section A"],
    ),
    (
        "32 machinery, since the amendment",
        {"annex_i_act": ["machinery"], "safety_component": True, "third_party_ca": True},
        Tier.HIGH_RISK,
        "high_risk_annex_i",
        ["6(1), 2(2), Annex I Section B"],
    ),
    (
        "lift music",
        {
            "annex_i_act": ["lifts"],
            "safety_component": True,
            "third_party_ca": True,
            "solely_convenience": True,
        },
        Tier.MINIMAL,
        "high_risk_annex_i",
        [],
    ),
    (
        "open source chatbot",
        {"exclusion": ["open_source"], "interacts_with_persons": True},
        Tier.TRANSPARENCY,
        "out_of_scope",
        [],
    ),
    ("open source, harmless", {"exclusion": ["open_source"]}, Tier.OUT_OF_SCOPE, "out_of_scope", ["2"]),
    (
        "open source credit score",
        {"exclusion": ["open_source"], "annex_iii": ["5b"]},
        Tier.HIGH_RISK,
        "out_of_scope",
        [],
    ),
    (
        "tested in the laboratory",
        {"exclusion": ["pre_market_testing"], "annex_iii": ["5b"]},
        Tier.OUT_OF_SCOPE,
        "out_of_scope",
        ["2"],
    ),
    (
        "tested in the street",
        {"exclusion": ["pre_market_testing"], "real_world_testing": True, "annex_iii": ["5b"]},
        Tier.HIGH_RISK,
        "out_of_scope",
        [],
    ),
    (
        "a person's own use",
        {"exclusion": ["personal_use"], "roles": ["deployer"], "annex_iii": ["4a"]},
        Tier.OUT_OF_SCOPE,
        "out_of_scope",
        ["2"],
    ),
    (
        "its provider, all the same",
        {"exclusion": ["personal_use"], "roles": ["provider"], "annex_iii": ["4a"]},
        Tier.HIGH_RISK,
        "out_of_scope",
        [],
    ),
]


@pytest.mark.parametrize(
    ("facts", "tier", "outcome", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_cases_of_the_act(facts, tier, outcome, expected):
    got = found(**facts)
    assert (got.tier, got.gate_tier, got.missing) == (tier, tier, ())
    assert articles(got, outcome) == expected


@pytest.mark.parametrize("fact", ["a5_ba", "a5_bb"])
def test_two_prohibitions_begin_in_december_2026_and_are_announced_before(fact):
    before, after = found(**{fact: True}), found(**{fact: True}, on=EDGE)
    assert before.tier is Tier.MINIMAL
    assert before.upcoming == ((EDGE, Tier.PROHIBITED),)
    assert (after.tier, after.upcoming) == (Tier.PROHIBITED, ())
    (said,) = [o for o in after.outcomes if o.outcome == "prohibited"]
    assert said.article == f"5(1)({fact[3:]})"
    assert said.amended


def test_point_2_is_registered_nationally_and_needs_no_assessment_of_rights():
    got = found(annex_iii=["2"], deployer_public_law_or_service=True)
    assert duty(got, "national_registration")
    assert duty(got, "registration") is None
    assert duty(got, "fundamental_rights_impact") is None


def test_every_deployer_of_a_credit_score_assesses_fundamental_rights():
    for private in (False, True):
        got = found(annex_iii=["5b"], deployer_public_law_or_service=not private)
        assert duty(got, "fundamental_rights_impact").article == "27"
    assert duty(found(annex_iii=["5d"]), "fundamental_rights_impact") is None
    assert duty(found(annex_iii=["5d"], deployer_public_law_or_service=True), "fundamental_rights_impact")


def test_of_the_date_of_registration_49_2_both_readings_are_shown():
    got = duty(found(annex_iii=["4a"], cond_a=True, art6_4_documented=True), "derogation_registration")
    assert [r.date for r in got.readings] == [date(2026, 8, 2), date(2027, 12, 2)]
    assert (got.applies_from, got.article, got.in_force) == (date(2026, 8, 2), "49(2)", True)


@pytest.mark.parametrize(
    ("flop", "designated", "gpai"),
    [
        ("1.0e25", False, "gpai"),
        ("1.1e25", False, "gpai_systemic"),
        ("1e22", True, "gpai_systemic"),
        ("10000000000000000000000001", False, "gpai_systemic"),
    ],
)
def test_a_model_has_systemic_risk_from_strictly_more_than_1e25_flop(flop, designated, gpai):
    got = found(is_gpai=True, train_flop=flop, designated_51_1b=designated)
    assert (got.gpai, got.gpai_certain) == (gpai, True)
    assert (duty(got, "gpai_systemic_risk") is not None) is (gpai == "gpai_systemic")
    assert got.tier is Tier.MINIMAL, "a parallel axis"


def test_open_weights_waive_documentation_unless_the_risk_is_systemic():
    free = found(is_gpai=True, open_weights_free=True, train_flop="1e24")
    assert (duty(free, "gpai_documentation"), duty(free, "gpai_downstream")) == (None, None)
    assert duty(free, "gpai_copyright")
    assert duty(found(is_gpai=True, open_weights_free=True, train_flop="2e25"), "gpai_documentation")


def test_how_much_training_took_is_not_known_so_the_risk_counts_as_systemic():
    got = found(is_gpai=True, train_flop="unknown")
    assert (got.gpai, got.gpai_certain) == ("gpai_systemic", False)
    assert duty(got, "gpai_systemic_risk").certain is False


def test_a_lift_has_its_duties_from_august_2028():
    lift = {"annex_i_act": ["lifts"], "safety_component": True, "third_party_ca": True}
    for on, in_force in ((date(2027, 8, 15), False), (date(2028, 8, 15), True)):
        got = duty(found(**lift, on=on), "risk_management")
        assert (got.applies_from, got.in_force) == (date(2028, 8, 2), in_force)


def test_a_product_of_section_b_has_no_duties_of_chapter_3():
    got = found(annex_i_act=["machinery"], safety_component=True, third_party_ca=True)
    assert duty(got, "risk_management") is None
    assert duty(got, "section_b").article == "6(1), 60a, 102-112"


def test_whether_people_are_profiled_is_not_known_so_the_gate_sees_high_risk():
    got = found(annex_iii=["4a"], cond_a=True, art6_4_documented=True, performs_profiling="unknown")
    assert (got.tier, got.gate_tier, got.missing) == (
        Tier.UNDETERMINED,
        Tier.HIGH_RISK,
        ("performs_profiling",),
    )
    assert "undetermined" in got.labels
    assert duty(got, "risk_management").certain is False


def test_a_system_of_before_waits_for_a_significant_change_of_its_design():
    old = {"annex_iii": ["5b"], "first_unit_date": "2026-01-01"}
    waits = duty(found(**old, on=date(2029, 1, 1)), "risk_management")
    assert (waits.applies_from, waits.in_force) == (None, False)
    assert "grandfathered" in found(**old).labels
    for more, since in (
        ({"significant_design_change_date": "2028-01-01"}, date(2027, 12, 2)),
        ({"significant_design_change_date": "2027-01-01"}, None),
        ({"significant_design_change_date": "unknown"}, date(2027, 12, 2)),
        ({"first_unit_date": "unknown"}, date(2027, 12, 2)),
        ({"first_unit_date": "2027-12-02"}, date(2027, 12, 2)),
        ({"public_authority_use": True}, date(2030, 8, 2)),
        ({"public_authority_use": "unknown"}, date(2030, 8, 2)),
    ):
        assert duty(found(**{**old, **more}), "risk_management").applies_from == since


@pytest.mark.parametrize(
    ("placed", "since"),
    [("2026-08-01", date(2026, 12, 2)), ("2026-08-02", date(2026, 8, 2)), ("unknown", date(2026, 8, 2))],
)
def test_systems_of_before_mark_their_content_from_december_2026(placed, since):
    got = duty(found(synthetic_modalities=["image"], first_unit_date=placed), "mark_content")
    assert got.applies_from == since


def test_models_of_before_august_2025_have_two_more_years():
    assert duty(found(is_gpai=True, gpai_placed_date="2025-08-01"), "gpai_copyright").applies_from == date(
        2027, 8, 2
    )
    assert duty(found(is_gpai=True, gpai_placed_date="2025-08-02"), "gpai_copyright").applies_from == date(
        2025, 8, 2
    )


def test_who_rebrands_a_system_takes_on_the_duties_of_its_provider():
    for roles, event, provider in ((["deployer"], ["rebrand"], True), (["deployer"], [], False)):
        got = found(annex_iii=["4a"], roles=roles, art25_event=event)
        assert (duty(got, "risk_management") is not None) is provider
        assert ("becomes_provider" in got.labels) is provider


def test_nothing_known_is_undetermined_and_names_everything_that_could_raise_it():
    got = evaluate(TABLE, Answers(), TODAY)
    assert (got.tier, got.gate_tier) == (Tier.UNDETERMINED, Tier.PROHIBITED)
    assert {"is_ai_system", "a5_a", "annex_iii", "performs_profiling"} <= set(got.missing)
    assert not {"a5_ba", "train_flop", "first_unit_date"} & set(got.missing), "these cannot raise it today"


def test_pending_law_is_in_no_rule():
    shown = " ".join(str(part) for part in (TABLE.rules, TABLE.duties, TABLE.tiers))
    assert len(TABLE.pending) == 3
    for word in ("837", "guideline", "harmonised standard"):
        assert word not in shown


def test_the_table_says_that_the_official_text_of_the_amendment_was_not_available():
    (amendment,) = TABLE.amended_by
    assert "2026/1744" in amendment.regulation
    assert amendment.official_text_available is False
    assert {r.article for r in TABLE.rules if r.amended} >= {"5(1)(ba)", "5(1)(bb)", "50(2)"}


def test_every_duty_names_its_article_text_and_day():
    for rule in TABLE.duties:
        assert rule.article
        assert rule.schedule
        assert all(len(e) in (1, 2) for e in rule.evidence)


def test_the_shipped_table_is_yaml_in_which_nothing_stands_twice():
    for path in TEXTS.glob("*.yaml"):
        assert yaml.load(path.read_bytes(), Loader=strict_loader(texts=False))


# -- what holds for all ---------------------------------------------------------------------------

FLAGS = [n for n, f in TABLE.facts.items() if f.kind is FactKind.FLAG]
SETS = [n for n, f in TABLE.facts.items() if f.kind is FactKind.SET]
DATES = [n for n, f in TABLE.facts.items() if f.kind is FactKind.DATE]
_DAYS = st.dates(date(2024, 1, 1), date(2031, 1, 1))


@st.composite
def systems(draw: st.DrawFn) -> dict[str, Any]:
    """What is known of a system, in part."""
    base = dict(HARMLESS)
    for name in draw(st.lists(st.sampled_from(FLAGS), max_size=14, unique=True)):
        base[name] = draw(st.sampled_from([True, False, "unknown"]))
    for name in draw(st.lists(st.sampled_from(SETS), max_size=4, unique=True)):
        members = draw(
            st.lists(st.sampled_from([*TABLE.facts[name].members, "unknown"]), max_size=3, unique=True)
        )
        base[name] = members if draw(st.booleans()) else "unknown"
    for name in draw(st.lists(st.sampled_from(DATES), max_size=3, unique=True)):
        base[name] = draw(st.one_of(_DAYS.map(str), st.sampled_from(["none", "unknown"])))
    base["train_flop"] = draw(st.sampled_from(["unknown", "1e25", "2e25", "0"]))
    return base


def of(system: Mapping[str, object], on: date = TODAY) -> Evaluation:
    return evaluate(TABLE, answers_of(TABLE, system), on)


@settings(max_examples=examples(200), deadline=None)
@given(systems(), st.data())
def test_an_added_risk_fact_never_lowers_the_class(system, data):
    name = data.draw(st.sampled_from([n for n, f in TABLE.facts.items() if f.effect == "raises"]))
    fact = TABLE.facts[name]
    before = of({**system, name: False if fact.kind is FactKind.FLAG else []})
    added: Any = True
    if fact.kind is FactKind.SET:
        added = [data.draw(st.sampled_from(list(fact.members)))]
    after = of({**system, name: added})
    for side in ("tier", "gate_tier", "floor"):
        assert getattr(after, side).rank >= getattr(before, side).rank


@settings(max_examples=examples(200), deadline=None)
@given(systems(), st.data())
def test_a_carve_out_never_raises_the_class(system, data):
    name = data.draw(st.sampled_from([n for n in FLAGS if TABLE.facts[n].effect == "lowers"]))
    without, having = of({**system, name: False}), of({**system, name: True})
    assert having.tier.rank <= without.tier.rank
    assert having.gate_tier.rank <= without.gate_tier.rank


@settings(max_examples=examples(200), deadline=None)
@given(systems(), st.sampled_from(FLAGS))
def test_unknown_never_gives_a_lower_class_than_true_or_false(system, name):
    unknown, true, false = (of({**system, name: value}) for value in ("unknown", True, False))
    assert unknown.gate_tier is max((true.gate_tier, false.gate_tier), key=lambda t: t.rank)
    assert unknown.floor is min((true.floor, false.floor), key=lambda t: t.rank)
    assert {d.id for d in true.duties} | {d.id for d in false.duties} <= {d.id for d in unknown.duties}


@settings(max_examples=examples(200), deadline=None)
@given(systems(), _DAYS, st.integers(0, 2000))
def test_moving_the_day_changes_dates_alone_and_the_two_rules_of_december(system, day, days):
    first, second = of(system, day), of(system, day + timedelta(days=days))
    if (first.as_of < EDGE) == (second.as_of < EDGE):
        assert (first.tier, first.gate_tier, first.missing, first.labels) == (
            second.tier,
            second.gate_tier,
            second.missing,
            second.labels,
        )
        assert first.digest == second.digest
    without = {**system, "a5_ba": False, "a5_bb": False}
    one, two = of(without, first.as_of), of(without, second.as_of)
    assert one.digest == two.digest
    assert [
        d.id for d in one.duties if d.in_force and d.id not in {e.id for e in two.duties if e.in_force}
    ] == []


@settings(max_examples=examples(64), deadline=None)
@given(systems(), st.data())
def test_the_missing_facts_are_exactly_those_that_can_change_the_class_above_the_best(system, data):
    """Against all completions of up to four facts at a time."""
    open_names = data.draw(st.lists(st.sampled_from(FLAGS), min_size=1, max_size=4, unique=True))
    known = {
        n: (HARMLESS[n] if v == "unknown" or (isinstance(v, list) and "unknown" in v) else v)
        for n, v in system.items()
    }
    got = of({**known, **dict.fromkeys(open_names, "unknown")})
    tiers = {
        values: of({**known, **dict(zip(open_names, values, strict=True))}).tier
        for values in itertools.product([False, True], repeat=len(open_names))
    }
    assert got.gate_tier is max(tiers.values(), key=lambda t: t.rank)
    assert got.floor is min(tiers.values(), key=lambda t: t.rank)
    decisive = {
        name
        for i, name in enumerate(open_names)
        for values, tier in tiers.items()
        if tiers[(*values[:i], not values[i], *values[i + 1 :])] is not tier
    }
    assert set(got.missing) == decisive


# -- the form ---------------------------------------------------------------------------------------


@settings(max_examples=examples(40), deadline=None)
@given(systems())
def test_a_form_reads_back_as_it_was_filled_in(system):
    answers = answers_of(TABLE, system)
    assert read_form(TABLE, form(TABLE, "credit-risk", answers), file="form.yaml") == answers


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "eu_nexus: true\nperforms_profilin: true\n",
            "line 2: 'performs_profilin' is not asked; did you mean performs_profiling?",
        ),
        ("\n\neu_nexus: maybe\n", "line 3: eu_nexus is true, false or unknown, not 'maybe'"),
        ("eu_nexus: true\nannex_iii: [4a, 4z]\n", "line 2: annex_iii has no member '4z'; it has 1a, 1b"),
        ("annex_i_act: [lift]\n", "annex_i_act has no member 'lift'; did you mean lifts?"),
        ("annex_iii: 4a\n", "annex_iii is a list such as [1a], [] for none of them, or unknown"),
        ("train_flop: much\n", "train_flop is a number"),
        ("train_flop: .nan\n", "train_flop is a number"),
        ("train_flop: -1\n", "train_flop is a number"),
        ("first_unit_date: 2026-02-30\n", "first_unit_date is a day"),
        ("eu_nexus: true\neu_nexus: false\n", "'eu_nexus' stands twice"),
        ("[", "is no YAML"),
        ("", "holds no questions"),
    ],
)
def test_a_wrong_form_is_refused_with_its_line(text, told):
    with pytest.raises(InvalidInput) as refused:
        read_form(TABLE, text, file="form.yaml")
    assert told in str(refused.value)
    assert "form.yaml" in str(refused.value)


def test_a_form_says_that_the_amended_text_was_not_available():
    text = form(TABLE, "credit-risk")
    assert "Official Journal text was not available" in text
    assert all(f"\n{name}: unknown" in text for name in TABLE.facts)
