"""How far a figure of a sample may be off: intervals of shares, differences and ratios, and of composites.

Intervals of one share and of a difference of two are those of `telemetry.intervals` (Wilson, Newcombe). Where
several comparisons make one figure, each is computed at a confidence that holds for all of them at once
(Bonferroni), so that the largest of the differences lies between the largest lower and the largest upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.results import Interval
from ml_registry_pipelines.telemetry.intervals import Interval as Estimate
from ml_registry_pipelines.telemetry.intervals import share_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def each_of(confidence: float, comparisons: int) -> float:
    """Confidence of each of several intervals that hold together with `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, comparisons)


def method(name: str, comparisons: int) -> str:
    """Name of a method, with the number of comparisons that it is corrected for."""
    return name if comparisons <= 1 else f"{name}, Bonferroni over {comparisons} comparisons"


def wilson(hits: int, n: int, confidence: float) -> Interval | None:
    """Score interval of a share; None of nothing. E. B. Wilson, JASA 22, 1927."""
    found = share_interval(hits, n, confidence)
    return None if found is None else Interval(found.lower, found.upper, confidence, "wilson")


def clopper_pearson(hits: int, n: int, confidence: float) -> Interval | None:
    """Exact interval of a share; None of nothing. C. J. Clopper, E. S. Pearson, Biometrika 26, 1934."""
    from scipy.stats import beta

    if n <= 0:
        return None
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return Interval(low, high, confidence, "clopper-pearson")


def size(signed: Estimate) -> Estimate:
    """The absolute value of a difference, with its interval."""
    lower, upper = signed.lower, signed.upper
    ends = sorted((abs(lower), abs(upper)))
    return Estimate(abs(signed.estimate), 0.0 if lower <= 0 <= upper else ends[0], ends[1])


def ratio(one: Estimate, other: Estimate) -> Estimate:
    """One independent positive estimate by another, from their own intervals.

    Variance estimates recovered from confidence limits on the log scale: G. Y. Zou, A. Donner,
    "Construction of confidence limits about effect measures: a general approach", Statistics in
    Medicine 27, 2008. A numerator of 0 has no logarithm; its upper bound is that by the least
    denominator.

    Raises:
        ZeroDivisionError: the denominator is 0.
    """
    estimate = one.estimate / other.estimate
    if one.estimate <= 0:
        return Estimate(0.0, 0.0, one.upper / other.lower if other.lower > 0 else math.inf)
    low = high = math.inf
    if one.lower > 0:
        low = math.hypot(math.log(one.estimate / one.lower), math.log(other.upper / other.estimate))
    if other.lower > 0:
        high = math.hypot(math.log(one.upper / one.estimate), math.log(other.estimate / other.lower))
    return Estimate(estimate, estimate * math.exp(-low), estimate * math.exp(high))


def folded(found: Estimate) -> Estimate:
    """A ratio or its inverse, whichever is below 1."""

    def turned(value: float) -> float:
        return value if value <= 1 else 1 / value

    ends = sorted((turned(found.lower), turned(found.upper)))
    return Estimate(turned(found.estimate), ends[0], 1.0 if found.lower <= 1 <= found.upper else ends[1])


def largest(found: Iterable[Estimate], confidence: float, name: str) -> Interval:
    """Interval of the largest of several, from intervals that hold together."""
    every = list(found)
    return Interval(max(e.lower for e in every), max(e.upper for e in every), confidence, name)


def smallest(found: Iterable[Estimate], confidence: float, name: str) -> Interval:
    """Interval of the smallest of several, from intervals that hold together."""
    every = list(found)
    return Interval(min(e.lower for e in every), min(e.upper for e in every), confidence, name)


def bootstrapped(
    value: float,
    draw: Callable[[np.random.Generator], NDArray[np.float64]],
    *,
    seed: int,
    resamples: int,
    confidence: float,
    least: float = 0.0,
    most: float = 1.0,
) -> Interval:
    """Interval of a composite figure, by drawing the sample anew.

    Gaps are biased upwards in small samples: the percentile interval then begins too high, the basic
    one ends too low. Each end is the wider one's, so that a verdict errs towards `inconclusive`.
    A. C. Davison, D. V. Hinkley, "Bootstrap Methods and their Application", 1997, chapter 5.

    Args:
        draw: gives the figure in each resample; NaN where a resample has none.
    """
    import numpy as np

    drawn = draw(np.random.default_rng(seed))
    drawn = drawn[np.isfinite(drawn)]
    name = f"bootstrap, {resamples} resamples, seed {seed}"
    if len(drawn) < resamples / 2:
        # Most resamples lack a group or a class: nothing can be said.
        return Interval(least, most, confidence, name)
    tail = (1 - confidence) / 2
    low, high = (float(q) for q in np.quantile(drawn, [tail, 1 - tail]))
    lower, upper = min(low, 2 * value - high, value), max(high, 2 * value - low, value)
    return Interval(max(least, lower), min(most, upper), confidence, name)
