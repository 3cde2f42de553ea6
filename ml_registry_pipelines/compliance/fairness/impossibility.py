"""Demands that cannot be kept together, for suites to refuse where they are defined.

Chouldechova's identity: FPR = p / (1 - p) * (1 - PPV) / PPV * (1 - FNR), with the base rate p. Where base
rates differ, predictive parity and equal FPR and FNR hold together only for a prediction without errors.
A. Chouldechova, "Fair Prediction with Disparate Impact", Big Data 5(2), 2017; J. Kleinberg et al., ITCS 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ml_registry_pipelines.compliance.evaluation_rows import LABEL
from ml_registry_pipelines.compliance.fairness.comparing import Sides, differences, pairs, share
from ml_registry_pipelines.compliance.fairness.people import Data, NotMeasurable
from ml_registry_pipelines.compliance.fairness.sampling import each_of

_PPV = frozenset({"predictive_parity_difference", "predictive_parity_ratio"})
_FPR = frozenset(
    {
        "false_positive_rate_difference",
        "false_positive_rate_ratio",
        "equalized_odds_difference",
        "equalized_odds_ratio",
    }
)
_FNR = frozenset(
    {
        "false_negative_rate_difference",
        "false_negative_rate_ratio",
        "equal_opportunity_difference",
        "equal_opportunity_ratio",
        "equalized_odds_difference",
        "equalized_odds_ratio",
    }
)


@dataclass(frozen=True)
class Demand:
    """One expectation of a suite: a metric of fairness, between the groups of these attributes."""

    metric: str
    groups: tuple[str, ...]


def demanded_together(demands: Iterable[Demand]) -> list[tuple[str, ...]]:
    """Attributes between whose groups predictive parity and equal FPR and FNR are all demanded.

    Whether that can be kept depends on base rates: `impossible` answers on data.
    """
    by: dict[tuple[str, ...], set[str]] = {}
    for demand in demands:
        by.setdefault(tuple(sorted(demand.groups)), set()).add(demand.metric)
    return sorted(groups for groups, metrics in by.items() if all(metrics & of for of in (_PPV, _FPR, _FNR)))


def impossible(demands: Sequence[Demand], data: Data, *, confidence: float, min_group_n: int) -> list[str]:
    """One sentence per set of groups for which a suite demands what its data make impossible.

    Args:
        confidence: with which base rates have to differ: over all pairs together (Bonferroni).
        min_group_n: labelled rows that a group needs for its base rate to count.

    Raises:
        NotMeasurable: labels or a group attribute that the suite names are not declared.
    """
    found = []
    for groups in demanded_together(demands):
        rates = []
        for people in data.people(groups, LABEL):
            positives, n = people.labelled_as(True), people.labelled_as(True) + people.labelled_as(False)
            if None not in people.key and n >= min_group_n:
                rates.append(share(people.name, people.key, positives, n))
        try:
            compared = pairs(Sides(tuple(rates)), "max-min")
        except NotMeasurable:
            # One group or none: the metrics themselves will say so.
            continue
        each = list(differences(compared, each_of(confidence, len(compared))))
        apart = [(abs(of.estimate), i) for i, of in enumerate(each) if of.excludes(0)]
        if apart:
            gap, i = max(apart)
            pair = compared[i]
            found.append(
                f"predictive parity cannot hold together with equal false positive and false negative rates "
                f"between groups of {' x '.join(groups)}: their base rates differ, such as "
                f"{pair.first.value:.1%} of {pair.first.name} and {pair.second.value:.1%} of {pair.second.name} "
                f"(by {gap:.1%}); demand two of the three, and say in the suite why these two"
            )
    return found
