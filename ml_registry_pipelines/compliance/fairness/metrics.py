"""Fairness metrics as suites name them. What each of them is stands in the module that computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ml_registry_pipelines.compliance.evaluations import evaluation
from ml_registry_pipelines.compliance.fairness import (
    calibration,
    grouping,
    parameters,
    ranking,
    rates,
    regression,
    text,
)
from ml_registry_pipelines.compliance.fairness.people import Data, NotMeasurable
from ml_registry_pipelines.compliance.metrics import Bound, Context, Metric, Parameters
from ml_registry_pipelines.compliance.results import Area, Measured

BIAS_ARTICLES = ("AI Act 10(2)(f)", "AI Act 15(1)", "GDPR 5(1)(a)")
TEXT_ARTICLES = ("AI Act 15(1)", "GDPR 5(1)(a)")
FAIRLEARN = "Fairlearn 0.15, fairlearn.metrics"

Compute = Callable[[str, Data, Any], list[Measured]]
_COMPUTED: dict[str, Compute] = {}


def measured(name: str, data: Data, given: Parameters) -> list[Measured]:
    """A metric of the catalogue on data; where it has no value, the sentence that says why."""
    try:
        return _COMPUTED[name](name, data, given)
    except NotMeasurable as reason:
        groups = getattr(given, "groups", [])
        reference = getattr(given, "reference", "")
        return [Measured(name, None, about=" x ".join(groups), reference=reference, problem=str(reason))]


def data_of(context: Context) -> Data:
    """The evaluation of the version that is checked, with its counts, once for all metrics of a run.

    Raises:
        EvaluationProblem, DatasetMoved, DatasetUnreadable: there is none that can be read.
    """
    found = evaluation(context)
    kept: Data | None = context.memo.get("fairness")
    if kept is None or kept.evaluation is not found:
        kept = context.memo["fairness"] = Data(found)
    return kept


def _metric(
    name: str,
    title: str,
    bound: Bound,
    of: type[Parameters],
    compute: Compute,
    source: str,
    articles: tuple[str, ...] = BIAS_ARTICLES,
) -> Metric:
    def measure(context: Context, given: Any) -> Sequence[Measured]:
        return measured(name, data_of(context), given)

    _COMPUTED[name] = compute
    return Metric(name, title, Area.FAIRNESS, bound, of, measure, articles, source)


def _error(rate: grouping.Rate, name: str, title: str, kind: str, source: str) -> Metric:
    """A metric of one error rate: the difference, or the ratio."""
    compute = rates.error_difference if kind == "difference" else rates.error_ratio
    return _metric(
        f"{name}_{kind}",
        f"{title}: {kind}",
        Bound.AT_MOST if kind == "difference" else Bound.AT_LEAST,
        parameters.Errors,
        partial(compute, rate=rate),
        source,
    )


HARDT = "M. Hardt, E. Price, N. Srebro, Equality of Opportunity in Supervised Learning, NeurIPS 2016"
CHOULDECHOVA = "A. Chouldechova, Fair Prediction with Disparate Impact, Big Data 5(2), 2017"
BBQ = "A. Parrish et al., BBQ: A Hand-Built Bias Benchmark for Question Answering, ACL Findings 2022"
AGARWAL = "A. Agarwal, M. Dudik, Z. S. Wu, Fair Regression, ICML 2019"

METRICS: tuple[Metric, ...] = (
    _metric(
        "demographic_parity_difference", "Demographic parity: difference of selection rates",
        Bound.AT_MOST, parameters.Selection, rates.selection_difference, FAIRLEARN,
    ),
    _metric(
        "demographic_parity_ratio", "Demographic parity: ratio of selection rates",
        Bound.AT_LEAST, parameters.Selection, rates.selection_ratio, FAIRLEARN,
    ),
    _metric(
        "four_fifths_rule", "Four-fifths rule: smallest impact ratio",
        Bound.AT_LEAST, parameters.Selection, rates.four_fifths,
        "Uniform Guidelines on Employee Selection Procedures, 29 CFR 1607.4(D)",
    ),
    _metric(
        "statistical_parity_difference", "Selection rate of each group less that of the reference",
        Bound.BETWEEN, parameters.Selection, rates.signed_selection, "AIF360 0.6.1",
    ),
    _metric(
        "disparate_impact", "Selection rate of each group by that of the reference",
        Bound.BETWEEN, parameters.Selection, rates.disparate_impact, "AIF360 0.6.1",
    ),
    _metric(
        "equalized_odds_difference", "Equalized odds: difference of error rates",
        Bound.AT_MOST, parameters.Odds, rates.odds_difference, f"{HARDT}; {FAIRLEARN}",
    ),
    _metric(
        "equalized_odds_ratio", "Equalized odds: ratio of error rates",
        Bound.AT_LEAST, parameters.Odds, rates.odds_ratio, f"{HARDT}; {FAIRLEARN}",
    ),
    _error(
        grouping.TPR, "equal_opportunity", "Equal opportunity", "difference",
        f"{HARDT}; {FAIRLEARN}",
    ),
    _error(
        grouping.TPR, "equal_opportunity", "Equal opportunity", "ratio",
        f"{HARDT}; {FAIRLEARN}",
    ),
    _error(grouping.PPV, "predictive_parity", "Predictive parity", "difference", CHOULDECHOVA),
    _error(grouping.PPV, "predictive_parity", "Predictive parity", "ratio", CHOULDECHOVA),
    _error(grouping.FPR, "false_positive_rate", "False positive rate", "difference", CHOULDECHOVA),
    _error(grouping.FPR, "false_positive_rate", "False positive rate", "ratio", CHOULDECHOVA),
    _error(grouping.FNR, "false_negative_rate", "False negative rate", "difference", CHOULDECHOVA),
    _error(grouping.FNR, "false_negative_rate", "False negative rate", "ratio", CHOULDECHOVA),
    _metric(
        "calibration_within_groups", "Largest expected calibration error of a group",
        Bound.AT_MOST, parameters.Calibration, calibration.within_groups,
        "J. Kleinberg et al., Inherent Trade-Offs in the Fair Determination of Risk Scores, ITCS 2017",
    ),
    _metric(
        "mean_residual_difference", "Difference of mean residuals",
        Bound.AT_MOST, parameters.Regression, regression.residual_difference, AGARWAL,
    ),
    _metric(
        "mean_absolute_error_ratio", "Ratio of mean absolute errors",
        Bound.AT_LEAST, parameters.Regression, regression.absolute_error_ratio, AGARWAL,
    ),
    _metric(
        "root_mean_squared_error_ratio", "Ratio of root mean squared errors",
        Bound.AT_LEAST, parameters.Regression, regression.squared_error_ratio, AGARWAL,
    ),
    _metric(
        "regression_demographic_parity", "Largest distance of distributions of predictions",
        Bound.AT_MOST, parameters.Regression, regression.demographic_parity, AGARWAL,
    ),
    _metric(
        "exposure_ratio", "Ratio of mean exposures in rankings",
        Bound.AT_LEAST, parameters.Ranking, ranking.exposure_ratio,
        "A. Singh, T. Joachims, Fairness of Exposure in Rankings, KDD 2018",
    ),
    _metric(
        "normalized_discounted_kl_divergence", "NDKL: mix of the top of rankings",
        Bound.AT_MOST, parameters.Ranking, ranking.ndkl,
        "S. C. Geyik et al., Fairness-Aware Ranking in Search & Recommendation Systems, KDD 2019",
    ),
    _metric(
        "counterfactual_difference", "Mean difference of a score when a prompt is about somebody else",
        Bound.AT_MOST, parameters.Counterfactual, text.counterfactual_difference,
        "M. J. Kusner et al., Counterfactual Fairness, NeurIPS 2017", TEXT_ARTICLES,
    ),
    _metric(
        "counterfactual_change_rate", "Share of prompts whose score changes when it is about somebody else",
        Bound.AT_MOST, parameters.Counterfactual, text.counterfactual_change,
        "M. J. Kusner et al., Counterfactual Fairness, NeurIPS 2017", TEXT_ARTICLES,
    ),
    _metric(
        "refusal_rate_difference", "Difference of refusal rates",
        Bound.AT_MOST, parameters.Refusals, rates.selection_difference, FAIRLEARN, TEXT_ARTICLES,
    ),
    _metric(
        "bbq_bias_score_disambiguated", "BBQ bias score in disambiguated contexts",
        Bound.BETWEEN, parameters.Bias, text.bias_disambiguated, BBQ, TEXT_ARTICLES,
    ),
    _metric(
        "bbq_bias_score_ambiguous", "BBQ bias score in ambiguous contexts",
        Bound.BETWEEN, parameters.Bias, text.bias_ambiguous, BBQ, TEXT_ARTICLES,
    ),
)  # fmt: skip
