"""Which groups are judged and which are listed as left out, by one rule for every metric.

A group is left out where it is too small for the floors that the suite states; then its figures are
not shown either. A group that lacks labels or predictions is no small one: that is an error of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ml_registry_pipelines.compliance.fairness.comparing import Quantity, Sides, share
from ml_registry_pipelines.compliance.fairness.parameters import Errors, GroupParameters
from ml_registry_pipelines.compliance.fairness.people import NOT_STATED, NotMeasurable, People, together
from ml_registry_pipelines.compliance.results import Group


@dataclass(frozen=True)
class Rate:
    """A share of a group.

    Attributes:
        known: rows that have what the rate reads; all others are missing.
        floor: which floor of the suite `of` has to reach besides that of the group.
        over: what `of` counts, in words.
    """

    name: str
    hits: Callable[[People], int]
    of: Callable[[People], int]
    known: Callable[[People], int]
    floor: str = ""
    over: str = "rows"

    def quantity(self, people: People) -> Quantity:
        return share(people.name, people.key, self.hits(people), self.of(people))


def selection_rate(outcome: bool, name: str = "selection rate") -> Rate:
    """The share that is predicted to be of one class: the favourable one, mostly."""
    return Rate(name, lambda p: p.predicted_as(outcome), lambda p: p.predicted, lambda p: p.predicted)


TPR = Rate(
    "true positive rate",
    lambda p: p.tp, lambda p: p.tp + p.fn, lambda p: p.known, "min_positives", "positives",
)  # fmt: skip
FPR = Rate(
    "false positive rate",
    lambda p: p.fp, lambda p: p.fp + p.tn, lambda p: p.known, "min_negatives", "negatives",
)  # fmt: skip
FNR = Rate(
    "false negative rate",
    lambda p: p.fn, lambda p: p.tp + p.fn, lambda p: p.known, "min_positives", "positives",
)  # fmt: skip
PPV = Rate(
    "positive predictive value",
    lambda p: p.tp, lambda p: p.tp + p.fp, lambda p: p.known, "min_positives", "predicted positives",
)  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """The groups that are judged, those that are left out, and everybody together."""

    judged: tuple[People, ...]
    left_out: tuple[Group, ...]
    everybody: People

    def sides(self, rate: Rate) -> Sides:
        """The groups' rates; of everybody else, too, where there is anybody."""
        judged = tuple(rate.quantity(p) for p in self.judged)
        hits, of = rate.hits(self.everybody), rate.of(self.everybody)
        if any(of == one.n for one in judged):
            return Sides(judged)
        return Sides(
            judged,
            tuple(share(f"all but {one.name}", (), hits - one.hits, of - one.n) for one in judged),
        )


def check_missing(name: str, rows: int, missing: int, parameters: GroupParameters, what: str) -> None:
    """Refuse to go on without too many rows.

    Raises:
        NotMeasurable: more rows lack something than the suite allows.
    """
    if missing > parameters.max_missing * rows:
        raise NotMeasurable(
            f"{what} is missing in {missing:,} of {rows:,} rows{f' of {name}' if name else ''}, "
            f"more than the share of {parameters.max_missing:g} that may be"
        )


def choose(
    every: Sequence[People], rates: Sequence[Rate], parameters: GroupParameters, *, reads: str
) -> Chosen:
    """Judge groups that reach the floors of all rates, and list the others.

    Args:
        reads: what the rates read, in words: `the prediction`.

    Raises:
        NotMeasurable: more is missing than the suite allows, or what was predicted is always the same.
    """
    everybody = together("everybody", every)
    unstated = [p for p in every if None in p.key]
    check_missing("", everybody.n, sum(p.n for p in unstated), parameters, "the group")
    judged: list[People] = []
    left_out: list[Group] = []
    for people in every:
        known = min(rate.known(people) for rate in rates)
        if None in people.key:
            left_out.append(Group(people.name, people.n, left_out=f"the group is {NOT_STATED.strip('()')}"))
            continue
        if people.n >= parameters.min_group_n:
            check_missing(people.name, people.n, people.n - known, parameters, reads)
        if reason := too_small(people, rates, parameters, known):
            left_out.append(Group(people.name, known, left_out=reason))
        else:
            judged.append(people)
    together_judged = together("", judged)
    if judged and together_judged.predicted_as(True) in (0, together_judged.predicted):
        raise NotMeasurable(
            f"all {together_judged.predicted:,} predictions are the same, so that groups cannot differ"
        )
    return Chosen(tuple(judged), tuple(left_out), everybody)


def too_small(people: People, rates: Sequence[Rate], parameters: GroupParameters, known: int) -> str:
    """Why a group is left out; empty if it is not."""
    if known < parameters.min_group_n:
        return f"{known} rows, fewer than {parameters.min_group_n}"
    for rate in rates:
        if isinstance(parameters, Errors) and rate.floor:
            floor = parameters.min_positives if rate.floor == "min_positives" else parameters.min_negatives
            if rate.of(people) < floor:
                return f"fewer than {floor} {rate.over}"
    return ""
