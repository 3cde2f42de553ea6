"""Published figures of fairness, to the last digit that was printed."""

import math

import numpy as np
import pandas as pd
import pytest

from ml_registry_pipelines.compliance.evaluation_rows import Outcome
from ml_registry_pipelines.compliance.fairness.people import together
from ml_registry_pipelines.compliance.fairness.sampling import clopper_pearson
from tests.compliance.fairness.made import data_of, every, one, shipped, value

TWO = ["African-American", "Caucasian"]
RECIDIVISM = {
    "label": "two_year_recid",
    "prediction": "score_text",
    "groups": {"race": "race", "sex": "sex"},
    "positive_predictions": ("Medium", "High"),
}


@pytest.fixture(scope="module")
def compas():
    return shipped("compas_two_years")


@pytest.fixture(scope="module")
def screened(compas):
    """ProPublica's filter: 6,172 of 7,214."""
    return compas[compas["days_b_screening_arrest"].between(-30, 30)]


@pytest.fixture(scope="module")
def scored(compas):
    return data_of(compas, **RECIDIVISM)


@pytest.fixture(scope="module")
def two_races(compas):
    return data_of(compas[compas["race"].isin(TWO)], **RECIDIVISM)


# -- ProPublica, "How We Analyzed the COMPAS Recidivism Algorithm", 2016 ------------------------


@pytest.mark.parametrize(
    ("who", "high_only", "table", "fpr", "fnr", "ppv"),
    [
        (None, False, (2681, 1282, 1216, 2035), 32.35, 37.40, 0.61),
        ("African-American", False, (990, 805, 532, 1369), 44.85, 27.99, 0.63),
        ("Caucasian", False, (1139, 349, 461, 505), 23.45, 47.72, 0.59),
        ("African-American", True, (1511, 284, 1160, 741), 15.82, 61.02, 0.72),
        ("Caucasian", True, (1407, 81, 771, 195), 5.44, 79.81, 0.71),
    ],
)
def test_propublicas_truth_tables_are_reproduced(compas, who, high_only, table, fpr, fnr, ppv):
    data = data_of(
        compas, **{**RECIDIVISM, "positive_predictions": ("High",) if high_only else ("Medium", "High")}
    )
    people = data.people(["race"], "label", "prediction")
    found = together("all", people) if who is None else next(p for p in people if p.key == (who,))
    assert (found.tn, found.fp, found.fn, found.tp) == table
    assert f"{100 * found.fp / (found.fp + found.tn):.2f}" == f"{fpr:.2f}"
    assert f"{100 * found.fn / (found.fn + found.tp):.2f}" == f"{fnr:.2f}"
    assert f"{found.tp / (found.tp + found.fp):.2f}" == f"{ppv:.2f}"


@pytest.mark.parametrize(
    ("metric", "black", "white"),
    [
        ("false_positive_rate_difference", "44.85", "23.45"),
        ("false_negative_rate_difference", "27.99", "47.72"),
        ("predictive_parity_difference", "62.97", "59.13"),
    ],
)
def test_metrics_list_each_groups_rate(two_races, metric, black, white):
    first, second = one(metric, two_races, groups=["race"]).groups
    assert (first.name, second.name) == ("race=African-American", "race=Caucasian")
    assert (f"{100 * (first.value or 0):.2f}", f"{100 * (second.value or 0):.2f}") == (black, white)
    assert (second.n, second.positives, second.negatives) == (2454, 966, 1488)


def test_propublicas_filter_leaves_6172_people_of_whom_2809_came_back(screened):
    assert (len(screened), int(screened["two_year_recid"].sum())) == (6172, 2809)
    assert f"{100 * screened['two_year_recid'].mean():.5f}" == "45.51199"
    assert pd.crosstab(screened["sex"], screened["race"]).loc["Female"].to_dict() == {
        "African-American": 549, "Asian": 2, "Caucasian": 482, "Hispanic": 82, "Native American": 2, "Other": 58
    }  # fmt: skip


def test_propublicas_logistic_regression_and_risk_ratios_are_reproduced(screened):
    inputs = {
        "intercept": np.ones(len(screened)),
        "female": screened["sex"] == "Female",
        "over 45": screened["age_cat"] == "Greater than 45",
        "under 25": screened["age_cat"] == "Less than 25",
        **{r: screened["race"] == r for r in sorted(set(screened["race"]) - {"Caucasian"})},
        "priors": screened["priors_count"],
        "misdemeanour": screened["c_charge_degree"] == "M",
        "recidivist": screened["two_year_recid"],
    }
    x = np.column_stack([np.asarray(c, dtype=float) for c in inputs.values()])
    y = np.asarray(screened["score_text"] != "Low", dtype=float)
    fit = np.zeros(x.shape[1])
    for _ in range(12):  # Newton's method
        p = 1 / (1 + np.exp(-x @ fit))
        fit += np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]), x.T @ (y - p))
    coefficients = dict(zip(inputs, fit, strict=True))
    printed = {
        "intercept": "-1.52554", "female": "0.22127", "over 45": "-1.35563", "under 25": "1.30839",
        "African-American": "0.47721", "Asian": "-0.25441", "Hispanic": "-0.42839", "Native American": "1.39421",
        "Other": "-0.82635", "priors": "0.26895", "misdemeanour": "-0.31124", "recidivist": "0.68586",
    }  # fmt: skip
    assert {name: f"{b:.5f}" for name, b in coefficients.items()} == printed
    control = 1 / (1 + math.exp(-coefficients["intercept"]))

    def risk_ratio(name):
        odds = math.exp(coefficients[name])
        return f"{odds / (1 - control + control * odds):.5f}"

    assert risk_ratio("African-American") == "1.45284"
    assert risk_ratio("female") == "1.19479"
    assert risk_ratio("under 25") == "2.49612"


# -- Dressel, Farid, "The accuracy, fairness, and limits of predicting recidivism", 2018 ---------


@pytest.mark.parametrize(
    ("who", "printed"),
    [
        (None, ("65.4", "64.3", "66.5")),
        ("African-American", ("63.8", None, None)),
        ("Caucasian", ("67.0", "65.1", "68.9")),
    ],
)
def test_the_accuracies_of_dressel_and_farid_have_their_exact_intervals(scored, who, printed):
    people = scored.people(["race"])
    found = together("all", people) if who is None else next(p for p in people if p.key == (who,))
    right = found.tp + found.tn
    interval = clopper_pearson(right, found.known, 0.95)
    assert interval
    ours = (right / found.known, interval.low, interval.high)
    assert all(p is None or f"{100 * v:.1f}" == p for v, p in zip(ours, printed, strict=True))


def test_the_interval_of_a_false_positive_rate_is_over_the_negatives(scored):
    # Dressel and Farid print [42.7, 46.9], which takes the 2,174 who were predicted to come back.
    black = next(p for p in scored.people(["race"]) if p.key == ("African-American",))
    interval = clopper_pearson(black.fp, black.fp + black.tn, 0.95)
    assert interval
    assert (f"{100 * interval.low:.1f}", f"{100 * interval.high:.1f}") == ("42.5", "47.2")


# -- AIF360, tutorials and full files ----------------------------------------------------------


def aif360(rows, column, privileged, label, favourable, *, difference):
    """AIF360's figure of a dataset: of its labels, unprivileged against privileged."""
    rows = rows.assign(label=rows[label], group=np.where(privileged(rows[column]), "privileged", "other"))
    data = data_of(rows, label="label", prediction=label, positive=(favourable,))
    name = "statistical_parity_difference" if difference else "disparate_impact"
    (found,) = every(name, data, reference="ref=privileged")
    return f"{found.value:.6f}"


@pytest.mark.parametrize(
    ("column", "privileged", "spd", "di"),
    [
        ("age", lambda age: age >= 25, "-0.128550", "0.821248"),
        ("age", lambda age: age > 25, "-0.149448", "0.794826"),
        ("sex_and_marital_status", lambda s: ~s.isin(["A92", "A95"]), "-0.074801", "0.896567"),
    ],
)
def test_aif360s_figures_of_german_credit_are_reproduced(column, privileged, spd, di):
    rows = shipped("german_credit")
    assert aif360(rows, column, privileged, "risk", "1", difference=True) == spd
    assert aif360(rows, column, privileged, "risk", "1", difference=False) == di


def shuffled(n):
    """AIF360's `Dataset.split` with seed 0."""
    return np.random.RandomState(0).permutation(n)


def test_aif360s_german_credit_tutorial_is_reproduced():
    rows = shipped("german_credit").iloc[shuffled(1000)[:700]]
    assert aif360(rows, "age", lambda age: age >= 25, "risk", "1", difference=True) == "-0.169905"


def test_aif360s_compas_figures_are_reproduced(screened):
    rows = screened[screened["race"].isin(TWO)]
    assert len(rows) == 5278
    order = shuffled(len(rows))
    train, test = rows.iloc[order[: int(0.7 * len(rows))]], rows.iloc[order[int(0.7 * len(rows)) :]]

    def female(sex):
        return sex == "Female"

    assert aif360(train, "sex", female, "two_year_recid", "0", difference=True) == "-0.124496"
    assert aif360(test, "sex", female, "two_year_recid", "0", difference=True) == "-0.159410"
    assert aif360(rows, "sex", female, "two_year_recid", "0", difference=False) == "0.788415"
    white = aif360(rows, "race", lambda race: race == "Caucasian", "two_year_recid", "0", difference=False)
    assert white == "0.782839"


# -- Fairlearn 0.15 ----------------------------------------------------------------------------

GUIDE = {
    "label": [0, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1],
    "prediction": [0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0],
    "group": list("bbabbcccaacabccbcc"),
}


@pytest.mark.parametrize(
    ("metric", "printed"),
    [
        ("demographic_parity_difference", "0.2500"),
        ("demographic_parity_ratio", "0.6667"),
        ("equalized_odds_difference", "1.0000"),
        ("equalized_odds_ratio", "0.0000"),
    ],
)
def test_the_vectors_of_fairlearns_guide_give_its_figures(metric, printed):
    assert f"{value(metric, data_of(GUIDE)):.4f}" == printed


@pytest.mark.parametrize(
    ("metric", "two", "six"),
    [
        ("demographic_parity_difference", "0.240200", "0.457118"),
        ("demographic_parity_ratio", "0.591638", "0.314324"),
        ("equalized_odds_difference", "0.213925", "0.576692"),
        ("equalized_odds_ratio", "0.522987", "0.193897"),
        ("equal_opportunity_difference", "0.197373", None),
        ("equal_opportunity_ratio", "0.725927", None),
    ],
)
def test_fairlearns_figures_of_compas_are_reproduced(two_races, scored, metric, two, six):
    assert f"{value(metric, two_races, groups=['race']):.6f}" == two
    assert six is None or f"{value(metric, scored, groups=['race']):.6f}" == six


def test_fairlearns_mean_of_equalized_odds_is_reproduced(two_races):
    found = value("equalized_odds_difference", two_races, groups=["race"], agg="mean")
    assert f"{found:.6f}" == "0.205649"


def test_the_tools_agree_where_they_measure_the_same(compas, two_races):
    ratio = value("demographic_parity_ratio", two_races, groups=["race"])
    (impact,) = every("disparate_impact", two_races, groups=["race"], reference="ref=Caucasian")
    assert impact.value
    assert f"{impact.value:.6f}" == "1.690224"
    assert ratio == pytest.approx(1 / impact.value, rel=1e-12)
    # Aequitas' disparity of predicted prevalence has African-Americans as the reference.
    (aequitas,) = every("disparate_impact", two_races, groups=["race"], reference="ref=African-American")
    assert f"{aequitas.value:.6f}" == "0.591638"


def test_the_demos_favourable_outcome_is_not_to_be_taken_for_a_recidivist(compas):
    rows = compas[compas["race"].isin(TWO)]
    data = data_of(rows, **RECIDIVISM, favourable=Outcome.NEGATIVE)
    found = one("four_fifths_rule", data, groups=["race"], favourable="negative")
    assert f"{found.value:.4f}" == "0.6316"
    assert value(
        "demographic_parity_difference", data, groups=["race"], favourable="negative"
    ) == pytest.approx(0.240200, abs=5e-7)
