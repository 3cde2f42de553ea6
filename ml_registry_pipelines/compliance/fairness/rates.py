"""Fairness of classes: parity of selection and of errors, from the counts of each group.

Notation per group: P and N rows labelled positive and negative; TP, FP, FN, TN; selection rate
(TP + FP) / n, TPR = TP / P, FPR = FP / N, FNR = FN / P, PPV = TP / (TP + FP). Where groups are compared
with each other (`max-min`), the figure is the largest difference, or the smallest ratio, of two of them,
as Fairlearn computes it from rows; otherwise from the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.evaluation_rows import LABEL, PREDICTION
from ml_registry_pipelines.compliance.fairness import sampling
from ml_registry_pipelines.compliance.fairness.comparing import (
    MAX_MIN,
    OVERALL,
    Pair,
    Quantity,
    Sides,
    chosen_group,
    differences,
    largest_difference,
    pairs,
    ratios,
    smallest_ratio,
)
from ml_registry_pipelines.compliance.fairness.grouping import FPR, TPR, Chosen, Rate, choose, selection_rate
from ml_registry_pipelines.compliance.fairness.parameters import (
    Compared,
    Errors,
    Odds,
    Refusals,
    Selection,
)
from ml_registry_pipelines.compliance.fairness.people import (
    Data,
    NotMeasurable,
    People,
    is_positive,
    together,
)
from ml_registry_pipelines.compliance.fairness.significance import Tested, fisher, shown, two_shares
from ml_registry_pipelines.compliance.results import Group, Interval, Measured

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def selection_difference(metric: str, data: Data, parameters: Selection | Refusals) -> list[Measured]:
    """Largest difference of selection rates; of refusal rates, for `Refusals`."""
    chosen, rate = _selected(data, parameters)
    return [_difference(metric, chosen, rate, parameters)]


def selection_ratio(metric: str, data: Data, parameters: Selection) -> list[Measured]:
    """Smallest selection rate by the largest one; at most 1 whatever the reference."""
    chosen, rate = _selected(data, parameters)
    return [_ratio(metric, chosen, rate, parameters)]


def four_fifths(metric: str, data: Data, parameters: Selection) -> list[Measured]:
    """The smallest impact ratio: a group's selection rate by that of the group with the highest, or of `ref=`.

    With each group's Fisher p, and whether the choice of one person instead of another would turn the
    difference around: then it is too small to say much. Uniform Guidelines on Employee Selection
    Procedures, 29 CFR 1607.4(D), and their Questions and Answers, 20 and 21.

    Raises:
        NotMeasurable: as `selection_ratio`; or everybody is the reference.
    """
    if parameters.reference == OVERALL:
        raise NotMeasurable(
            "the four-fifths rule compares with the group selected most, or one that is named; not overall"
        )
    chosen, rate = _selected(data, parameters)
    sides = chosen.sides(rate)
    found = pairs(sides, parameters.reference)
    named = parameters.reference != MAX_MIN
    best = chosen_group(sides.judged, parameters.reference) if named else max(sides.judged, key=_value)
    if not best.hits:
        raise NotMeasurable(f"nobody of {best.name} was selected: there is no ratio to a rate of 0")
    value, interval = smallest_ratio(found, parameters.confidence, "log Wilson", both_ways=not named)
    impact = [
        {
            "group": one.name,
            "compared_with": best.name,
            "impact_ratio": one.value / best.value,
            "fisher_p": fisher(one.hits, one.n, best.hits, best.n),
            "ratio_with_one_person_exchanged": (one.hits + 1) / one.n / ((best.hits - 1) / best.n)
            if best.hits > 1
            else None,
            "one_person_turns_it": (one.hits + 1) / one.n > (best.hits - 1) / best.n,
        }
        for one in sides.judged
        if one is not best
    ]
    return [_measured(metric, chosen, rate, parameters, value, interval, found, {"impact_ratios": impact})]


def _value(quantity: Quantity) -> float:
    return quantity.value


def signed_selection(metric: str, data: Data, parameters: Selection) -> list[Measured]:
    """AIF360's statistical parity difference: each group's selection rate less that of the reference."""
    return _each(metric, data, parameters, difference=True)


def disparate_impact(metric: str, data: Data, parameters: Selection) -> list[Measured]:
    """AIF360's disparate impact: each group's selection rate by that of the reference; may exceed 1."""
    return _each(metric, data, parameters, difference=False)


def _each(metric: str, data: Data, parameters: Selection, *, difference: bool) -> list[Measured]:
    if not parameters.reference.startswith("ref="):
        raise NotMeasurable("this metric compares with one group: state it as `ref=`")
    chosen, rate = _selected(data, parameters)
    found = pairs(chosen.sides(rate), parameters.reference)
    if not difference and not found[0].second.hits:
        raise NotMeasurable(
            f"nobody of {found[0].second.name} was selected: there is no ratio to a rate of 0"
        )
    compute = differences if difference else ratios
    each = compute(found, sampling.each_of(parameters.confidence, len(found)))
    name = sampling.method("newcombe" if difference else "log Wilson", len(found))
    made = []
    for pair, estimate in zip(found, each, strict=True):
        interval = Interval(estimate.lower, estimate.upper, parameters.confidence, name)
        one = _measured(metric, chosen, rate, parameters, estimate.estimate, interval, found, {})
        made.append(replace(one, about=pair.first.name))
    return made


def error_difference(metric: str, data: Data, parameters: Errors, *, rate: Rate) -> list[Measured]:
    """Largest difference of one error rate."""
    chosen = _labelled(data, [rate], parameters)
    return [_difference(metric, chosen, rate, parameters)]


def error_ratio(metric: str, data: Data, parameters: Errors, *, rate: Rate) -> list[Measured]:
    """Smallest of one rate by the largest."""
    chosen = _labelled(data, [rate], parameters)
    return [_ratio(metric, chosen, rate, parameters)]


def odds_difference(metric: str, data: Data, parameters: Odds) -> list[Measured]:
    """Of the gaps in TPR and FPR the larger one, or their mean. M. Hardt et al., NeurIPS 2016."""
    return _odds(metric, data, parameters, difference=True)


def odds_ratio(metric: str, data: Data, parameters: Odds) -> list[Measured]:
    """Of the ratios of TPR and FPR the smaller one, or their mean."""
    return _odds(metric, data, parameters, difference=False)


def _odds(metric: str, data: Data, parameters: Odds, *, difference: bool) -> list[Measured]:
    chosen = _labelled(data, [TPR, FPR], parameters)
    two = [pairs(chosen.sides(rate), parameters.reference) for rate in (TPR, FPR)]
    figure = largest_difference if difference else smallest_ratio
    name = "newcombe" if difference else "log Wilson"
    (tpr, of_tpr), (fpr, of_fpr) = (figure(found, parameters.confidence, name, of=2) for found in two)
    if parameters.agg == "mean":
        value = (tpr + fpr) / 2
        interval = _mean_odds_interval(value, chosen, parameters, difference=difference)
    else:
        pick = max if difference else min
        value = pick(tpr, fpr)
        interval = Interval(
            pick(of_tpr.low, of_fpr.low), pick(of_tpr.high, of_fpr.high), parameters.confidence, of_tpr.method
        )
    kind = "difference" if difference else "ratio"
    detail: dict[str, object] = {f"true_positive_rate_{kind}": tpr, f"false_positive_rate_{kind}": fpr}
    return [_measured(metric, chosen, TPR, parameters, value, interval, two[0], detail, more=two[1])]


def _mean_odds_interval(value: float, chosen: Chosen, parameters: Odds, *, difference: bool) -> Interval:
    """Rates are drawn anew from each group's counts.

    From Jeffreys' distribution, not the binomial one, which would take a rate of 0 or 1 in ten rows as
    certain: L. D. Brown, T. T. Cai, A. DasGupta, Statistical Science 16, 2001.
    """

    def draw(random: np.random.Generator) -> NDArray[np.float64]:
        def drawn(hits: int, n: int) -> NDArray[np.float64]:
            return random.beta(hits + 0.5, n - hits + 0.5, parameters.resamples)

        gaps = []
        for rate in (TPR, FPR):
            sides = chosen.sides(rate)
            judged = {q.name: drawn(q.hits, q.n) for q in (*sides.judged,)}
            rest = [drawn(q.hits, q.n) for q in (sides.others if parameters.reference == OVERALL else ())]
            gaps.append(_drawn_gap(list(judged.values()), rest, sides, parameters.reference, difference))
        return (gaps[0] + gaps[1]) / 2

    return sampling.bootstrapped(
        value, draw, seed=parameters.seed, resamples=parameters.resamples, confidence=parameters.confidence
    )


def _drawn_gap(
    judged: list[NDArray[np.float64]],
    rest: list[NDArray[np.float64]],
    sides: Sides,
    reference: str,
    difference: bool,
) -> NDArray[np.float64]:
    """The figure of each resample."""
    import numpy as np

    index = {id(q): i for i, q in enumerate((*sides.judged, *sides.others))}
    drawn = [*judged, *rest]
    each = []
    for pair in pairs(sides, reference):
        one, other = drawn[index[id(pair.first)]], drawn[index[id(pair.second)]]
        if difference:
            each.append(np.abs(one - other) * pair.weight)
            continue
        other = (1 - pair.weight) * one + pair.weight * other
        with np.errstate(divide="ignore", invalid="ignore"):
            each.append(np.minimum(one, other) / np.maximum(one, other))
    return np.max(each, axis=0) if difference else np.min(each, axis=0)  # type: ignore[no-any-return]


def _selected(data: Data, parameters: Selection | Refusals) -> tuple[Chosen, Rate]:
    if isinstance(parameters, Refusals):
        rate = selection_rate(is_positive(data, parameters.refused, "refused"), "refusal rate")
    else:
        rate = selection_rate(is_positive(data, parameters.favourable, "favourable"))
    every = data.people(parameters.groups, PREDICTION)
    return choose(every, [rate], parameters, reads="the prediction"), rate


def _labelled(data: Data, rates: Sequence[Rate], parameters: Errors) -> Chosen:
    every = data.people(parameters.groups, LABEL, PREDICTION)
    chosen = choose(every, rates, parameters, reads="label or prediction")
    of = together("", chosen.judged)
    if chosen.judged and of.tp + of.fn in (0, of.known):
        raise NotMeasurable(f"all {of.known:,} labels are the same, so that there are no error rates")
    return chosen


def _difference(
    metric: str,
    chosen: Chosen,
    rate: Rate,
    parameters: Compared,
) -> Measured:
    found = pairs(chosen.sides(rate), parameters.reference)
    value, interval = largest_difference(found, parameters.confidence, "newcombe")
    return _measured(metric, chosen, rate, parameters, value, interval, found, {})


def _ratio(
    metric: str,
    chosen: Chosen,
    rate: Rate,
    parameters: Compared,
) -> Measured:
    found = pairs(chosen.sides(rate), parameters.reference)
    value, interval = smallest_ratio(found, parameters.confidence, "log Wilson")
    return _measured(metric, chosen, rate, parameters, value, interval, found, {})


def _measured(
    metric: str,
    chosen: Chosen,
    rate: Rate,
    parameters: Compared,
    value: float,
    interval: Interval,
    found: Sequence[Pair],
    detail: dict[str, object],
    *,
    more: Sequence[Pair] = (),
) -> Measured:
    tests = [
        Tested(p.first.name, p.second.name, *two_shares(p.first.hits, p.first.n, p.second.hits, p.second.n))
        for p in (*found, *more)
    ]
    known = rate.known(chosen.everybody)
    return Measured(
        metric,
        value,
        interval,
        about=" x ".join(parameters.groups),
        unit="share",
        reference=parameters.reference,
        groups=(*(_group(p, rate, parameters.confidence) for p in chosen.judged), *chosen.left_out),
        n=known,
        detail={
            "rate": rate.name,
            "tests": shown(tests, parameters.corrected_by),
            "rows_missing": chosen.everybody.n - known,
            **detail,
        },
    )


def _group(people: People, rate: Rate, confidence: float) -> Group:
    found = rate.quantity(people).at(confidence)
    positives, negatives = people.labelled_as(True), people.labelled_as(False)
    return Group(
        people.name,
        rate.known(people),
        positives=positives if positives or negatives else None,
        negatives=negatives if positives or negatives else None,
        value=found.estimate,
        interval=Interval(found.lower, found.upper, confidence, "wilson"),
    )
