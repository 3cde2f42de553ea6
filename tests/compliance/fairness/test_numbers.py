"""Calibration, regressions, rankings and text models: figures by hand, and what has none."""

import math
from typing import Any

import numpy as np
import pytest

from ml_registry_pipelines.compliance.evaluation_rows import Task
from ml_registry_pipelines.compliance.fairness.sampling import clopper_pearson
from ml_registry_pipelines.compliance.fairness.significance import Correction, corrected, mcnemar
from tests.compliance.fairness.made import data_of, every, one, value

# -- calibration within groups -----------------------------------------------------------------


def scored(**groups):
    """Rows of groups, each given as {score: (positives, rows)}."""
    rows = [
        (name, score, int(i < positives))
        for name, bins in groups.items()
        for score, (positives, n) in bins.items()
        for i in range(n)
    ]
    group, score, label = (list(column) for column in zip(*rows, strict=True))
    return {"group": group, "score": score, "label": label}


SCORED = scored(a={0.25: (25, 100), 0.75: (75, 100)}, b={0.25: (45, 100), 0.75: (75, 100)})
CALIBRATED = {"prediction": None, "score": "score"}


@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_the_worst_calibrated_group_counts(binning):
    found = one("calibration_within_groups", data_of(SCORED, **CALIBRATED), binning=binning)
    assert found.value == pytest.approx(0.1)
    assert [(g.name, g.n, round(g.value or 0, 10)) for g in found.groups] == [
        ("group=a", 200, 0.0), ("group=b", 200, 0.1)
    ]  # fmt: skip
    assert found.interval
    assert found.interval.low < 0.1 < found.interval.high
    assert [(b["n"], b["mean_score"], b["share_positive"]) for b in found.detail["bins"]["group=b"]] == [
        (100, 0.25, 0.45), (100, 0.75, 0.75)
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_interval():
    data = data_of(SCORED, **CALIBRATED)
    first, again, other = (one("calibration_within_groups", data, seed=seed).interval for seed in (1, 1, 2))
    assert first == again != other


def test_bins_of_few_people_show_no_figures():
    rows = scored(a={0.25: (25, 100), 0.75: (1, 2)}, b={0.25: (45, 100), 0.75: (75, 100)})
    found = one("calibration_within_groups", data_of(rows, **CALIBRATED), min_group_n=30)
    assert found.detail["bins"]["group=a"][1].keys() == {"bin", "n"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({**SCORED, "score": [1.5, *SCORED["score"][1:]]}, "outside of 0 and 1"),
        ({**SCORED, "score": [0.5] * 400}, "scores are the same"),
        ({**SCORED, "score": [None] * 400}, "no row has a score"),
        ({**SCORED, "score": [math.nan, *SCORED["score"][1:]]}, "missing in 1 of 200"),
        ({**SCORED, "label": [1] * 400}, "labels are the same"),
        ({**SCORED, "group": ["a"] * 400}, "a comparison needs two"),
    ],
)
def test_scores_that_are_no_probabilities_have_no_calibration(rows, sentence):
    found = one("calibration_within_groups", data_of(rows, **CALIBRATED))
    assert found.value is None
    assert sentence in found.problem


# -- regression --------------------------------------------------------------------------------

DRAWN = np.random.default_rng(3)
REGRESSION: dict[str, Any] = {
    "group": ["a"] * 300 + ["b"] * 200,
    "label": DRAWN.normal(10, 2, 500),
    "prediction": np.concatenate([DRAWN.normal(10, 1, 300), DRAWN.normal(9, 2, 200)]),
}
NUMBERS = {"task": Task.REGRESSION, "positive": ()}


def split(values):
    return values[:300], values[300:]


def test_regressions_are_compared_by_residuals_and_errors():
    data = data_of(REGRESSION, **NUMBERS)
    a, b = split(REGRESSION["label"] - REGRESSION["prediction"])
    assert value("mean_residual_difference", data) == pytest.approx(abs(a.mean() - b.mean()))
    assert value("mean_residual_difference", data, reference="overall") == pytest.approx(
        max(abs(x.mean() - np.concatenate([a, b]).mean()) for x in (a, b))
    )
    mae = abs(a).mean() / abs(b).mean()
    rmse = math.sqrt((a**2).mean() / (b**2).mean())
    assert value("mean_absolute_error_ratio", data) == pytest.approx(min(mae, 1 / mae))
    assert value("root_mean_squared_error_ratio", data) == pytest.approx(min(rmse, 1 / rmse))


def test_demographic_parity_of_a_regression_is_the_distance_of_kolmogorov_and_smirnov():
    from scipy.stats import ks_2samp

    data = data_of(REGRESSION, **NUMBERS)
    a, b = split(REGRESSION["prediction"])
    found = one("regression_demographic_parity", data)
    assert found.value == pytest.approx(ks_2samp(a, b).statistic)
    assert found.detail["tests"]["pairs"][0]["p"] == pytest.approx(ks_2samp(a, b, method="asymp").pvalue)
    overall = max(ks_2samp(x, np.concatenate([a, b])).statistic for x in (a, b))
    assert value("regression_demographic_parity", data, reference="overall") == pytest.approx(overall)


@pytest.mark.parametrize(
    "name", ["mean_residual_difference", "mean_absolute_error_ratio", "regression_demographic_parity"]
)
def test_constant_and_missing_numbers_are_told(name):
    constant = {**REGRESSION, "prediction": np.full(500, 3.0)}
    assert "predictions are the same" in one(name, data_of(constant, **NUMBERS)).problem
    missing = REGRESSION["prediction"].copy()
    missing[0] = math.nan
    assert (
        "missing in 1 of 300 rows of group=a"
        in one(name, data_of({**REGRESSION, "prediction": missing}, **NUMBERS)).problem
    )
    alone = {**REGRESSION, "group": ["a"] * 499 + ["b"]}
    found = one(name, data_of(alone, **NUMBERS), min_group_n=2)
    assert "only one group" in found.problem


def test_classes_and_numbers_are_not_confused():
    assert "without classes" in one("demographic_parity_ratio", data_of(REGRESSION, **NUMBERS)).problem


# -- rankings ----------------------------------------------------------------------------------

RANKED = {"label": None, "prediction": None, "score": "score", "task": Task.RANKING, "positive": ()}
ONE = {"group": ["a", "a", "b", "b"], "score": [4.0, 3.0, 2.0, 1.0], "query": ["q"] * 4}


def ranking(rows):
    return data_of(rows, **RANKED, further={"query": "query"})


def test_exposure_and_ndkl_of_one_ranking_are_facts_without_an_interval():
    exposure = [1 / math.log2(1 + rank) for rank in (1, 2, 3, 4)]
    found = one("exposure_ratio", ranking(ONE))
    assert found.value == pytest.approx((exposure[2] + exposure[3]) / (exposure[0] + exposure[1]))
    assert found.interval is None
    third = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    divergence = [math.log(2), math.log(2), third, 0]
    expected = sum(e * d for e, d in zip(exposure, divergence, strict=True)) / sum(exposure)
    assert value("normalized_discounted_kl_divergence", ranking(ONE)) == pytest.approx(expected)


def test_rankings_are_drawn_anew_for_an_interval():
    rows: dict[str, list[Any]] = {"group": [], "score": [], "query": []}
    for query in range(40):
        first = "ab" if query % 4 else "ba"
        rows["group"] += [first[0], first[1], first[0], first[1]]
        rows["score"] += [4.0, 3.0, 2.0, 1.0]
        rows["query"] += [query] * 4
    found = one("exposure_ratio", ranking(rows))
    assert found.interval
    assert found.interval.low < found.value < found.interval.high <= 1
    assert found.detail["rankings"] == 40
    assert "fewer than the 50" in one("exposure_ratio", ranking(rows), min_rankings=50).problem


def test_a_few_rankings_that_are_alike_prove_little():
    rows = {"group": ["a", "b"] * 4, "score": [2.0, 1.0] * 4, "query": [i // 2 for i in range(8)]}
    for name in ("exposure_ratio", "normalized_discounted_kl_divergence"):
        found = one(name, ranking(rows))
        assert found.interval.high - found.interval.low > 0.1
        assert found.interval.low <= found.value <= found.interval.high


def test_labels_that_are_all_alike_in_a_bin_leave_doubt():
    rows = scored(a={0.0: (0, 10), 1.0: (10, 10)}, b={0.0: (0, 10), 1.0: (10, 10)})
    found = one("calibration_within_groups", data_of(rows, **CALIBRATED))
    assert found.value == 0
    assert found.interval.high > 0.02


def test_small_groups_of_a_ranking_are_listed_and_ties_are_refused():
    rows = {"group": list("aabbc"), "score": [5.0, 4.0, 3.0, 2.0, 1.0], "query": ["q"] * 5}
    for name in ("exposure_ratio", "normalized_discounted_kl_divergence"):
        found = one(name, ranking(rows), min_group_n=2)
        assert [(g.name, g.left_out) for g in found.groups if g.left_out] == [
            ("group=c", "1 items, fewer than 2")
        ]
        assert "order is open" in one(name, ranking({**rows, "score": [1.0] * 5})).problem
        assert (
            "missing in 1 of 5" in one(name, ranking({**rows, "score": [None, 4.0, 3.0, 2.0, 1.0]})).problem
        )


# -- text models -------------------------------------------------------------------------------

SWAP = {"label": None, "prediction": None, "score": "score", "task": Task.GENERATION, "positive": ()}


def swapped(female, male):
    n = len(female)
    return data_of(
        {"group": ["f"] * n + ["m"] * n, "score": [*female, *male], "prompt": [*range(n), *range(n)]},
        **SWAP,
        further={"prompt": "prompt"},
    )


def test_swapping_the_person_is_a_paired_comparison():
    female = [1.0] * 30 + [0.0] * 70
    male = [0.0] * 10 + [1.0] * 20 + [0.0] * 68 + [1.0] * 2
    found = one("counterfactual_difference", swapped(female, male))
    assert found.value == pytest.approx(0.08)
    (test,) = found.detail["tests"]["pairs"]
    assert (test["test"], test["p"]) == ("mcnemar", pytest.approx(mcnemar(10, 2)))
    assert value("counterfactual_change_rate", swapped(female, male)) == pytest.approx(0.12)


def test_scores_that_are_no_classes_are_compared_by_wilcoxons_test():
    found = one(
        "counterfactual_difference", swapped(list(np.linspace(0, 1, 40)), list(np.linspace(0.1, 1.3, 40)))
    )
    assert found.detail["tests"]["pairs"][0]["test"] == "wilcoxon"


def test_few_unchanged_prompts_prove_nothing():
    found = one("counterfactual_difference", swapped([0.0, 1.0, 0.0], [0.0, 1.0, 0.0]))
    assert found.value == 0
    assert found.interval
    assert found.interval.high > 0.5


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"group": ["f", "m", "f"], "score": [1.0, 0.0, 1.0], "prompt": [1, 1, 1]}, "two answers"),
        ({"group": ["f", "f"], "score": [1.0, 0.0], "prompt": [1, 2]}, "a swap needs two"),
        (
            {"group": ["f", "m", "f"], "score": [1.0, 0.0, 1.0], "prompt": [1, 1, 2]},
            "counterpart is missing in 1 of 2",
        ),
        ({"group": ["f", "m"], "score": [1.0, 1.0], "prompt": [1, 1]}, "scores are the same"),
        ({"group": ["f", "m"], "score": [1.0, None], "prompt": [1, 1]}, "missing in 1 of 2"),
    ],
)
def test_swaps_that_are_no_pairs_are_told(rows, sentence):
    found = one("counterfactual_difference", data_of(rows, **SWAP, further={"prompt": "prompt"}))
    assert found.value is None
    assert sentence in found.problem


BBQ = {
    "answer": "answer", "condition": "context", "ambiguous": "ambig", "disambiguated": "disambig",
    "biased": ["stereotyped"], "unbiased": ["other"], "unknown": ["unknown"],
}  # fmt: skip


def bbq(**counts):
    rows = [
        (context, answer)
        for key, n in counts.items()
        for context, answer in [key.split("_")]
        for _ in range(n)
    ]
    context, answer = (list(column) for column in zip(*rows, strict=True))
    return data_of(
        {"group": ["age"] * len(rows), "context": context, "answer": answer, "score": [0.0] * len(rows)},
        **SWAP,
        further={"context": "context", "answer": "answer"},
    )


def test_bbqs_bias_scores_follow_its_formulas():
    data = bbq(
        ambig_stereotyped=30, ambig_other=10, ambig_unknown=60,
        disambig_stereotyped=30, disambig_other=10, disambig_unknown=5,
    )  # fmt: skip
    (found,) = every("bbq_bias_score_disambiguated", data, **BBQ)
    assert (found.about, found.value) == ("group=age", pytest.approx(2 * 30 / 40 - 1))
    (found,) = every("bbq_bias_score_ambiguous", data, **BBQ)
    assert found.value == pytest.approx((1 - 0.6) * (2 * 30 / 40 - 1))
    assert found.interval
    assert found.interval.low < 0.2 < found.interval.high


def test_answers_that_nobody_classed_are_told():
    assert (
        "neither biased"
        in one("bbq_bias_score_ambiguous", bbq(ambig_stereotyped=3, ambig_maybe=3), **BBQ).problem
    )
    assert (
        "does not state"
        in one("bbq_bias_score_ambiguous", bbq(clear_stereotyped=3, ambig_other=3), **BBQ).problem
    )


# -- statistics --------------------------------------------------------------------------------


def test_p_values_are_corrected_as_holm_and_benjamini_hochberg_do():
    p = [0.01, 0.04, 0.03, 0.005]
    assert corrected(p, Correction.HOLM) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert corrected(p, Correction.BENJAMINI_HOCHBERG) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert corrected(p, Correction.NONE) == p


def test_the_exact_interval_of_none_and_of_all_ends_at_the_edge():
    none, every_one = clopper_pearson(0, 10, 0.95), clopper_pearson(10, 10, 0.95)
    assert none
    assert every_one
    assert (none.low, round(none.high, 4)) == (0.0, 0.3085)
    assert (round(every_one.low, 4), every_one.high) == (0.6915, 1.0)
