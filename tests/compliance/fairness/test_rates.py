"""Parity of selection and of errors: what is judged, what is listed, and what is refused."""

import math

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.compliance.evaluation_rows import Outcome
from ml_registry_pipelines.compliance.fairness.impossibility import Demand, demanded_together, impossible
from ml_registry_pipelines.compliance.results import Verdict, judged
from ml_registry_pipelines.telemetry.intervals import difference_of_shares
from tests.compliance.fairness.made import BY_NAME, data_of, every, one, value
from tests.examples import examples

CLASSES = [
    name for name, metric in BY_NAME.items() if metric.parameters.__name__ in {"Selection", "Errors", "Odds"}
]


def people(**groups):
    """Rows of groups, each given as (tp, fp, fn, tn)."""
    rows = [
        (name, label, prediction)
        for name, (tp, fp, fn, tn) in groups.items()
        for n, label, prediction in ((tp, 1, 1), (fp, 0, 1), (fn, 1, 0), (tn, 0, 0))
        for _ in range(n)
    ]
    group, label, prediction = zip(*rows, strict=True)
    return {"group": list(group), "label": list(label), "prediction": list(prediction)}


TWO = people(a=(40, 20, 10, 30), b=(20, 10, 20, 50))


def reference_of(name):
    return "ref=a" if name in {"statistical_parity_difference", "disparate_impact"} else "max-min"


# -- figures -----------------------------------------------------------------------------------


def test_each_group_has_its_size_its_classes_its_rate_and_its_interval():
    found = one("demographic_parity_difference", data_of(TWO))
    a, b = found.groups
    assert (a.name, a.n, a.positives, a.negatives, a.value) == ("group=a", 100, 50, 50, 0.6)
    assert (b.name, b.n, b.positives, b.negatives, b.value) == ("group=b", 100, 40, 60, 0.3)
    assert a.interval
    assert (a.interval.method, round(a.interval.low, 4), round(a.interval.high, 4)) == (
        "wilson",
        0.5020,
        0.6906,
    )


def test_the_interval_of_a_difference_of_two_groups_is_newcombes():
    found = one("demographic_parity_difference", data_of(TWO))
    expected = difference_of_shares(60, 100, 30, 100)
    assert expected
    assert found.interval
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.lower, expected.upper))
    assert found.interval.method == "newcombe"


def test_more_groups_make_a_wider_interval_because_more_is_compared():
    two = one("demographic_parity_difference", data_of(TWO)).interval
    three = one(
        "demographic_parity_difference",
        data_of(people(a=(40, 20, 10, 30), b=(20, 10, 20, 50), c=(30, 15, 15, 40))),
    ).interval
    assert two
    assert three
    assert three.low < two.low < two.high < three.high
    assert three.method == "newcombe, Bonferroni over 3 comparisons"


def test_small_samples_are_inconclusive_and_never_pass():
    found = one("demographic_parity_difference", data_of(people(a=(4, 2, 1, 3), b=(4, 2, 1, 3))))
    assert found.value == 0
    assert judged(found.value, found.interval, high=0.1) is Verdict.INCONCLUSIVE


def test_rates_of_one_in_few_rows_are_not_taken_as_certain():
    data = data_of(people(a=(10, 0, 0, 10), b=(10, 0, 0, 10)))
    for agg in ("worst_case", "mean"):
        found = one("equalized_odds_difference", data, agg=agg)
        assert found.value == 0
        assert judged(found.value, found.interval, high=0.1) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("name", "reference", "expected"),
    [
        ("demographic_parity_difference", "max-min", 0.3),
        ("demographic_parity_difference", "ref=a", 0.3),
        ("demographic_parity_difference", "overall", 0.15),
        ("demographic_parity_ratio", "max-min", 0.5),
        ("demographic_parity_ratio", "overall", 0.3 / 0.45),
        ("equal_opportunity_difference", "max-min", 0.3),
        ("predictive_parity_difference", "max-min", 0.0),
        ("false_positive_rate_difference", "max-min", 0.4 - 1 / 6),
        ("false_negative_rate_ratio", "max-min", 0.4),
        ("equalized_odds_difference", "max-min", 0.3),
    ],
)
def test_references_are_what_they_say(name, reference, expected):
    assert value(name, data_of(TWO), reference=reference) == pytest.approx(expected)


def test_signed_figures_say_for_each_group_on_which_side_it_is():
    data = data_of(people(a=(40, 20, 10, 30), b=(20, 10, 20, 50), c=(40, 40, 5, 15)))
    found = {m.about: m.value for m in every("statistical_parity_difference", data, reference="ref=a")}
    assert found == pytest.approx({"group=b": -0.3, "group=c": 0.2})
    found = {m.about: m.value for m in every("disparate_impact", data, reference="ref=a")}
    assert found == pytest.approx({"group=b": 0.5, "group=c": 0.8 / 0.6})


def test_groups_are_crossed_and_keep_the_same_floor():
    rows = {**TWO, "sex": ["f", "m"] * 100}
    rows["sex"][0:3] = ["x", "x", "x"]
    data = data_of(rows, groups={"group": "group", "sex": "sex"})
    found = one("demographic_parity_difference", data, groups=["group", "sex"], min_group_n=30)
    assert found.about == "group x sex"
    assert [g.name for g in found.groups if not g.left_out] == [
        "group=b, sex=f", "group=b, sex=m", "group=a, sex=m", "group=a, sex=f"
    ]  # fmt: skip
    assert [(g.name, g.n, g.left_out, g.value) for g in found.groups if g.left_out] == [
        ("group=a, sex=x", 3, "3 rows, fewer than 30", None)
    ]


def test_the_four_fifths_rule_comes_with_fisher_and_the_exchange_of_one_person():
    # UGESP's example of small numbers: one person hired from the other group turns it around.
    data = data_of(
        {"group": ["a"] * 10 + ["b"] * 10, "prediction": [1] * 3 + [0] * 7 + [1] * 2 + [0] * 8}, label=None
    )
    found = one("four_fifths_rule", data)
    assert found.value == pytest.approx(2 / 3)
    (impact,) = found.detail["impact_ratios"]
    assert (impact["group"], impact["compared_with"]) == ("group=b", "group=a")
    assert impact["fisher_p"] == pytest.approx(1.0)
    assert impact["ratio_with_one_person_exchanged"] == pytest.approx(1.5)
    assert impact["one_person_turns_it"] is True


def test_few_people_are_compared_by_fishers_test_and_many_by_z():
    from scipy.stats import chi2_contingency

    few = one("demographic_parity_difference", data_of(people(a=(2, 1, 5, 7), b=(8, 9, 5, 8))))
    many = one("demographic_parity_difference", data_of(TWO))
    assert [t["test"] for t in few.detail["tests"]["pairs"]] == ["fisher"]
    assert [t["test"] for t in many.detail["tests"]["pairs"]] == ["z"]
    assert many.detail["tests"]["pairs"][0]["p"] == pytest.approx(
        chi2_contingency([[60, 40], [30, 70]], correction=False).pvalue
    )


def test_refusals_of_a_text_model_are_compared_as_a_rate():
    data = data_of(TWO, label=None, favourable=Outcome.NEGATIVE)
    assert value("refusal_rate_difference", data) == pytest.approx(0.3)


# -- what has no figure ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (people(a=(40, 20, 10, 30)), "only one group"),
        (people(a=(40, 20, 0, 0), b=(30, 30, 0, 0)), "predictions are the same"),
        ({**TWO, "prediction": [None] * 200}, "missing in 100 of 100"),
        ({**TWO, "prediction": [math.nan, *TWO["prediction"][1:]]}, "missing in 1 of 100"),
        ({**TWO, "group": [None, *TWO["group"][1:]]}, "the group is missing in 1 of 200"),
        ({"label": [1, 0, 1], "prediction": [1, 0, 0], "group": ["a", "b", "c"]}, "no group is large enough"),
    ],
)
def test_what_cannot_be_measured_says_why_and_has_no_value(rows, sentence):
    floor = 2 if len(rows["group"]) == 3 else 1
    data = data_of(rows)
    for name in CLASSES:
        for found in every(name, data, reference=reference_of(name), min_group_n=floor):
            assert found.value is None
            assert found.interval is None
            assert sentence in found.problem, (name, found.problem)


def test_missing_and_constant_labels_are_told():
    unlabelled = data_of({**TWO, "label": [None] * 20 + TWO["label"][20:]})
    constant = data_of({**TWO, "label": [1] * 200})
    for name in CLASSES:
        if BY_NAME[name].parameters.__name__ != "Selection":
            assert "missing in 20 of 100 rows of group=a" in one(name, unlabelled).problem
            assert one(name, unlabelled, max_missing=0.2).value is not None
            assert one(name, constant, min_negatives=1).value is None


def test_a_group_without_labels_is_no_small_group():
    rows = people(a=(40, 20, 10, 30), b=(20, 10, 20, 50), c=(25, 25, 25, 25))
    rows["label"][-100:-10] = [None] * 90
    found = one("equal_opportunity_difference", data_of(rows), min_group_n=30, max_missing=0.5)
    assert found.value is None
    assert "missing in 90 of 100 rows of group=c" in found.problem


def test_small_groups_are_listed_and_a_small_reference_is_refused():
    rows = people(a=(40, 20, 10, 30), b=(20, 10, 20, 50), c=(1, 0, 0, 0))
    found = one("demographic_parity_difference", data_of(rows), min_group_n=30)
    assert [g.name for g in found.groups] == ["group=a", "group=b", "group=c"]
    assert (found.groups[2].n, found.groups[2].left_out) == (1, "1 rows, fewer than 30")
    assert (
        "'c' is not among"
        in one("demographic_parity_difference", data_of(rows), min_group_n=30, reference="ref=c").problem
    )


def test_floors_of_positives_and_negatives_leave_groups_out():
    rows = people(a=(40, 20, 10, 30), b=(20, 10, 20, 50), c=(2, 10, 2, 50))
    found = one("equal_opportunity_difference", data_of(rows), min_positives=10)
    assert [g.left_out for g in found.groups] == ["", "", "fewer than 10 positives"]
    assert one("false_positive_rate_difference", data_of(rows), min_negatives=10).groups[2].left_out == ""


def test_ratios_to_nothing_are_no_ratios():
    nobody = people(a=(0, 0, 50, 50), b=(20, 10, 20, 50))
    assert value("demographic_parity_ratio", data_of(nobody)) == 0
    (found,) = every("disparate_impact", data_of(nobody), reference="ref=a")
    assert "nobody of group=a was selected" in found.problem
    assert (
        "nobody of group=a was selected"
        in one("four_fifths_rule", data_of(nobody), reference="ref=a").problem
    )
    clean = people(a=(20, 0, 20, 50), b=(30, 0, 20, 50))
    assert "no ratio" in one("false_positive_rate_ratio", data_of(clean)).problem


def test_the_favourable_class_of_a_suite_has_to_be_the_declared_one():
    data = data_of(TWO, favourable=Outcome.NEGATIVE)
    assert "declares the negative one" in one("demographic_parity_ratio", data).problem
    assert value("demographic_parity_ratio", data, favourable="negative") == pytest.approx(0.4 / 0.7)


def test_undeclared_attributes_and_columns_are_named():
    assert "race is not declared" in one("demographic_parity_ratio", data_of(TWO), groups=["race"]).problem
    assert "declares no label" in one("equal_opportunity_ratio", data_of(TWO, label=None)).problem


# -- properties --------------------------------------------------------------------------------

COUNT = st.integers(0, 40)
TABLES = st.dictionaries(st.sampled_from("abcde"), st.tuples(COUNT, COUNT, COUNT, COUNT), min_size=2)


@settings(
    max_examples=examples(32, least=3), deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)
@given(TABLES, st.sampled_from(["between_groups", "to_overall"]))
def test_figures_are_fairlearns_on_the_rows_themselves(groups, method):
    import fairlearn.metrics as fairlearn

    assume(all(tp + fn and fp + tn for tp, fp, fn, tn in groups.values()))
    rows = people(**groups)
    assume(0 < sum(rows["prediction"]) < len(rows["prediction"]))
    data = data_of(rows)
    reference = "max-min" if method == "between_groups" else "overall"
    for name in CLASSES:
        if not hasattr(fairlearn, name):
            continue
        theirs = getattr(fairlearn, name)(
            rows["label"], rows["prediction"], sensitive_features=rows["group"], method=method
        )
        found = one(name, data, reference=reference)
        if found.value is None:
            # Rates that are 0 on both sides have no ratio; Fairlearn leaves some of them out.
            assert "ratio" in name
            assert "no ratio" in found.problem
            continue
        assert found.value == pytest.approx(theirs, abs=1e-12)
        assert found.interval
        assert 0 <= found.interval.low <= found.value + 1e-12
        assert found.value - 1e-12 <= found.interval.high <= 1 + 1e-12


@settings(max_examples=examples(24, least=3), deadline=None)
@given(TABLES)
def test_figures_depend_neither_on_the_order_of_rows_nor_on_the_names_of_groups(groups):
    assume(sum(map(sum, groups.values())))
    rows = people(**groups)
    turned = {name: values[::-1] for name, values in rows.items()}
    turned["group"] = [chr(ord("z") - ord(g) + ord("a")) for g in turned["group"]]
    for name in ("demographic_parity_ratio", "equalized_odds_difference", "predictive_parity_difference"):
        first, second = one(name, data_of(rows)), one(name, data_of(turned))
        assert (first.value is None) == (second.value is None)
        if first.value is not None:
            assert second.value == pytest.approx(first.value)
            assert first.interval
            assert second.interval
            assert (second.interval.low, second.interval.high) == pytest.approx(
                (first.interval.low, first.interval.high)
            )


# -- the impossibility -------------------------------------------------------------------------

ALL_THREE = [
    Demand("predictive_parity_difference", ("group",)),
    Demand("false_positive_rate_difference", ("group",)),
    Demand("equal_opportunity_difference", ("group",)),
]


def test_predictive_parity_with_equal_errors_is_refused_where_base_rates_differ():
    unequal = data_of(people(a=(400, 200, 100, 300), b=(100, 100, 100, 700)))
    (sentence,) = impossible(ALL_THREE, unequal, confidence=0.95, min_group_n=30)
    assert "50.0% of group=a and 20.0% of group=b" in sentence
    assert impossible(ALL_THREE[:2], unequal, confidence=0.95, min_group_n=30) == []
    equal = data_of(people(a=(400, 200, 100, 300), b=(300, 300, 200, 200)))
    assert impossible(ALL_THREE, equal, confidence=0.95, min_group_n=30) == []


def test_equalized_odds_demands_both_errors_at_once_and_other_groups_are_other_demands():
    odds = Demand("equalized_odds_difference", ("race", "sex"))
    assert demanded_together([ALL_THREE[0], odds]) == []
    assert demanded_together([Demand("predictive_parity_ratio", ("sex", "race")), odds]) == [("race", "sex")]
