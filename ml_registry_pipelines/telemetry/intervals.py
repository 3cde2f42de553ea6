"""Intervals around figures of samples: shares, means, quantiles, and differences between two of them.

Pure functions. Each interval is two-sided and states its source; with few values they are wide, and
what is too little to say anything is None, never a point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds, `lower` <= `estimate` <= `upper`."""

    estimate: float
    lower: float
    upper: float

    def excludes(self, value: float) -> bool:
        return value < self.lower or value > self.upper


def z_value(confidence: float = CONFIDENCE) -> float:
    """The standard normal quantile of a two-sided interval, such as 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def share_interval(hits: int, n: int, confidence: float = CONFIDENCE) -> Interval | None:
    """Score interval of a share; None of nothing.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
    """
    if n <= 0:
        return None
    z, p = z_value(confidence), hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At 0 and at n the bound is exact, and rounding must not move it past the share itself.
    lower = 0.0 if hits == 0 else min(p, middle - half)
    upper = 1.0 if hits == n else max(p, middle + half)
    return Interval(p, lower, upper)


def difference_of_shares(
    hits: int, n: int, of_hits: int, of_n: int, confidence: float = CONFIDENCE
) -> Interval | None:
    """The first share less the second one; None where either is of nothing.

    Hybrid score interval, method 10 of R. G. Newcombe, "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17, 1998.
    """
    one, other = share_interval(hits, n, confidence), share_interval(of_hits, of_n, confidence)
    if one is None or other is None:
        return None
    return difference(one, other)


def difference(one: Interval, other: Interval) -> Interval:
    """One independent estimate less another, from their own intervals.

    Variance estimates recovered from confidence limits: G. Y. Zou, A. Donner, "Construction of confidence
    limits about effect measures: a general approach", Statistics in Medicine 27, 2008.
    """
    estimate = one.estimate - other.estimate
    below = math.hypot(one.estimate - one.lower, other.upper - other.estimate)
    above = math.hypot(one.upper - one.estimate, other.estimate - other.lower)
    return Interval(estimate, estimate - below, estimate + above)


def scaled(interval: Interval, factor: float) -> Interval:
    """The interval of a multiple, `factor` >= 0."""
    return Interval(interval.estimate * factor, interval.lower * factor, interval.upper * factor)


def mean_interval(mean: float, variance: float, n: int, confidence: float = CONFIDENCE) -> Interval | None:
    """Interval of a mean by the central limit theorem; None under two values. Under 30 it is too narrow.

    Args:
        variance: of the sample, over n - 1.
    """
    if n < 2:
        return None
    half = z_value(confidence) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half)


def ratio_interval(parts: Sequence[tuple[float, float]], confidence: float = CONFIDENCE) -> Interval | None:
    """The sum of the numerators by that of the denominators, over clusters that are independent of each other.

    Delta method: W. G. Cochran, "Sampling Techniques", 3rd edition, 1977, 6.3 and 9A; as A. Deng et al.,
    "Applying the Delta Method in Metric Analytics", KDD 2018, arXiv:1803.06336, apply it to metrics.

    Args:
        parts: numerator and denominator of each cluster.

    Returns:
        None under two clusters, or where the denominators sum to nothing.
    """
    total = math.fsum(below for _, below in parts)
    if len(parts) < 2 or total <= 0:
        return None
    ratio = math.fsum(above for above, _ in parts) / total
    squares = math.fsum((above - ratio * below) ** 2 for above, below in parts)
    k = len(parts)
    half = z_value(confidence) * math.sqrt(k / (k - 1) * squares) / total
    return Interval(ratio, ratio - half, ratio + half)


def ranks_around(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """The ranks, from 1, of the values between which the quantile q of the population lies; None where n is too small.

    Binomial order statistics in normal approximation: W. J. Conover, "Practical Nonparametric Statistics",
    3rd edition, 1999, 3.2.
    """
    half = z_value(confidence) * math.sqrt(n * q * (1 - q))
    lower, upper = math.floor(n * q - half), math.ceil(n * q + half) + 1
    return (lower, upper) if lower >= 1 and upper <= n else None
