"""Groups against each other: which pairs a reference asks for, and the figure that they make together.

Works on estimates with intervals, whatever they are of: shares, means, errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from ml_registry_pipelines.compliance.fairness import sampling
from ml_registry_pipelines.compliance.fairness.people import NotMeasurable
from ml_registry_pipelines.compliance.results import Group, Interval
from ml_registry_pipelines.telemetry.intervals import Interval as Estimate
from ml_registry_pipelines.telemetry.intervals import difference, mean_interval, share_interval

MAX_MIN, OVERALL = "max-min", "overall"


@dataclass(frozen=True)
class Quantity:
    """A share or a mean of one group.

    Attributes:
        n: rows that it is over.
        at: gives the estimate with its interval at a confidence.
        hits: of a share, the rows that have it.
    """

    name: str
    values: tuple[str | None, ...]
    n: int
    at: Callable[[float], Estimate]
    hits: int = 0

    @property
    def value(self) -> float:
        return self.at(0.5).estimate


def share(name: str, values: tuple[str | None, ...], hits: int, n: int) -> Quantity:
    """A share, with Wilson's interval."""

    def at(confidence: float) -> Estimate:
        found = share_interval(hits, n, confidence)
        assert found is not None
        return found

    return Quantity(name, values, n, at, hits)


def mean(name: str, values: tuple[str | None, ...], average: float, variance: float, n: int) -> Quantity:
    """A mean of at least two values, with the interval of the central limit theorem."""

    def at(confidence: float) -> Estimate:
        found = mean_interval(average, variance, n, confidence)
        assert found is not None
        return found

    return Quantity(name, values, n, at)


@dataclass(frozen=True)
class Pair:
    """Two independent groups. `weight` is the part of their difference that counts.

    A group differs from everybody by (1 - its share) times its difference from all others.
    """

    first: Quantity
    second: Quantity
    weight: float = 1.0


@dataclass(frozen=True)
class Sides:
    """The groups that are judged, and for each of them everybody else, where the reference is `overall`."""

    judged: tuple[Quantity, ...]
    others: tuple[Quantity, ...] = ()


def pairs(sides: Sides, reference: str) -> list[Pair]:
    """The pairs that a reference asks for; in `ref=`, the reference is the second of each.

    Raises:
        NotMeasurable: fewer than two groups can be judged, or the reference is not among them.
    """
    judged = sides.judged
    if len(judged) < 2:
        raise NotMeasurable(
            "no group is large enough to be judged"
            if not judged
            else f"only one group can be judged, {judged[0].name}; a comparison needs two"
        )
    if reference == MAX_MIN:
        return [Pair(one, other) for one, other in combinations(judged, 2)]
    if reference == OVERALL:
        return [
            Pair(one, rest, weight=rest.n / (one.n + rest.n))
            for one, rest in zip(judged, sides.others, strict=True)
        ]
    chosen = chosen_group(judged, reference)
    return [Pair(one, chosen) for one in judged if one is not chosen]


def chosen_group(judged: Sequence[Quantity], reference: str) -> Quantity:
    """The group that `ref=` names, by its full name or by its values.

    Raises:
        NotMeasurable: it is not there, or too small to be judged.
    """
    wanted = reference.removeprefix("ref=")
    found = [q for q in judged if wanted in (q.name, ", ".join(v or "" for v in q.values))]
    if len(found) != 1:
        raise NotMeasurable(
            f"the reference group {wanted!r} is not among the groups that can be judged: "
            f"{', '.join(q.name for q in judged)}"
        )
    return found[0]


def differences(found: Sequence[Pair], confidence: float) -> Iterator[Estimate]:
    """Signed difference of each pair. For shares this is R. G. Newcombe's method 10, 1998."""
    for pair in found:
        of = difference(pair.first.at(confidence), pair.second.at(confidence))
        yield Estimate(of.estimate * pair.weight, of.lower * pair.weight, of.upper * pair.weight)


def ratios(found: Sequence[Pair], confidence: float) -> Iterator[Estimate]:
    """Ratio of each pair, the first by the second; a group to everybody, where that is asked for.

    Raises:
        NotMeasurable: a denominator is 0, so that there is none.
    """
    for pair in found:
        first, second = pair.first.at(confidence), pair.second.at(confidence)
        if first.estimate <= 0 and second.estimate <= 0:
            raise NotMeasurable(
                f"{pair.first.name} and {pair.second.name} both have a rate of 0: there is no ratio"
            )
        if pair.weight == 1:
            yield sampling.ratio(first, second) if second.estimate > 0 else _endless(first, second)
            continue
        # p / (w p + (1 - w) q) with w the group's share: falls as q / p rises.
        turned = _endless(second, first) if first.estimate <= 0 else sampling.ratio(second, first)
        yield Estimate(
            1 / (1 - pair.weight + pair.weight * turned.estimate),
            1 / (1 - pair.weight + pair.weight * turned.upper),
            1 / (1 - pair.weight + pair.weight * turned.lower),
        )


def _endless(first: Estimate, second: Estimate) -> Estimate:
    """Ratio to a rate of 0: without end, but its interval has one below."""
    inverse = sampling.ratio(second, first)
    return Estimate(float("inf"), 1 / inverse.upper if inverse.upper else float("inf"), float("inf"))


def largest_difference(
    found: Sequence[Pair], confidence: float, name: str, *, of: int = 1
) -> tuple[float, Interval]:
    """The largest absolute difference, with an interval that holds over all pairs, `of` times as many."""
    m = len(found) * of
    sizes = [sampling.size(one) for one in differences(found, sampling.each_of(confidence, m))]
    interval = sampling.largest(sizes, confidence, sampling.method(name, m))
    return max(s.estimate for s in sizes), interval


def smallest_ratio(
    found: Sequence[Pair], confidence: float, name: str, *, of: int = 1, both_ways: bool = True
) -> tuple[float, Interval]:
    """The smallest ratio; `both_ways`: of a ratio and its inverse the smaller one, so that it is at most 1."""
    m = len(found) * of
    each = list(ratios(found, sampling.each_of(confidence, m)))
    if both_ways:
        each = [sampling.folded(one) for one in each]
    interval = sampling.smallest(each, confidence, sampling.method(name, m))
    return min(e.estimate for e in each), interval


def described(quantity: Quantity, confidence: float, method: str, *, positives: int | None = None) -> Group:
    """A judged group as evidence."""
    found = quantity.at(confidence)
    interval = Interval(found.lower, found.upper, confidence, method)
    return Group(quantity.name, quantity.n, positives=positives, value=found.estimate, interval=interval)
