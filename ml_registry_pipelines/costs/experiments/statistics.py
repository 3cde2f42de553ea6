"""The formulas of experiments, as pure functions: intervals that may be looked at often, samples, tests.

No tables, no clock, no declaration of an experiment. Each function names its source. Amounts of
money are plain floats here: they are inputs of an estimate, never added up to a bill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

MOST_UNITS = 10**12
"""A sample that is larger than this is not worth a number."""


@dataclass(frozen=True)
class Moments:
    """What is known of the units of one arm: their number, and mean and covariance of some columns.

    Everything that an experiment estimates is a function of these, so no unit's own values are kept.

    `mean` has one entry per name, `covariance` (with n - 1 in the denominator) is square.
    """

    units: int
    names: tuple[str, ...]
    mean: Vector
    covariance: Vector

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[float] | Vector]) -> Moments:
        """The moments of columns of equal length, one value per unit."""
        import numpy as np

        values = np.array([np.asarray(column, dtype=float) for column in columns.values()])
        units = values.shape[1]
        few = np.zeros((len(values), len(values)))
        covariance = np.atleast_2d(np.cov(values)) if units > 1 else few
        mean = values.mean(axis=1) if units else np.zeros(len(values))
        return cls(units, tuple(columns), mean, covariance)

    def mean_of(self, name: str) -> float:
        return float(self.mean[self.names.index(name)])

    def along(self, weights: Mapping[str, float]) -> Vector:
        """Weights per column as a vector."""
        import numpy as np

        vector = np.zeros(len(self.names))
        for name, weight in weights.items():
            vector[self.names.index(name)] += weight
        return vector


@dataclass(frozen=True)
class Estimate:
    """One arm's value of one metric. `weights` gives its linear part: what a unit's columns add to it.

    The variance of a weighted sum of estimates of one arm is that of the weighted sum of their
    linear parts over the units, divided by the number of units.
    """

    value: float
    weights: Mapping[str, float]


def ratio(moments: Moments, numerator: str, denominator: str) -> Estimate | None:
    """Sum of one column over sum of another, by the delta method; None where there is nothing to divide by.

    Deng, Knoblich, Lu: "Applying the Delta Method in Metric Analytics", KDD 2018: the ratio of means
    moves with a unit as (N_u - R D_u) / mean(D).
    """
    below = moments.mean_of(denominator) if moments.units else 0.0
    if not below:
        return None
    value = moments.mean_of(numerator) / below
    return Estimate(value, {numerator: 1 / below, denominator: -value / below})


def adjusted(arms: Sequence[tuple[Moments, Estimate]], covariate: str) -> list[Estimate]:
    """The arms' estimates less what a covariate from before the experiment explains of them (CUPED).

    Deng, Xu, Kohavi, Walker: "Improving the Sensitivity of Online Controlled Experiments by Utilizing
    Pre-Experiment Data", WSDM 2013. One coefficient for all arms, from the covariances within them;
    the mean of the covariate is that over all units. A covariate that never varies changes nothing.
    """
    units = sum(moments.units for moments, _ in arms)
    spread = together = middle = 0.0
    for moments, estimate in arms:
        along = moments.along({covariate: 1.0})
        share = moments.units / units
        spread += share * float(along @ moments.covariance @ along)
        together += share * float(moments.along(estimate.weights) @ moments.covariance @ along)
        middle += share * moments.mean_of(covariate)
    if spread <= 0:
        return [estimate for _, estimate in arms]
    coefficient = together / spread
    return [
        Estimate(
            estimate.value - coefficient * (moments.mean_of(covariate) - middle),
            {**estimate.weights, covariate: estimate.weights.get(covariate, 0.0) - coefficient},
        )
        for moments, estimate in arms
    ]


def variance_of(moments: Moments, terms: Sequence[tuple[float, Estimate]]) -> float:
    """Variance of a weighted sum of one arm's estimates."""
    import numpy as np

    if moments.units < 2:
        return 0.0
    vector = np.zeros(len(moments.names))
    for weight, estimate in terms:
        vector = vector + weight * moments.along(estimate.weights)
    found = float(vector @ moments.covariance @ vector) / moments.units
    # What rounding leaves of a variance that is none must not look like a sharp estimate.
    scale = float(np.abs(vector) @ np.abs(moments.covariance) @ np.abs(vector)) / moments.units
    return found if found > 1e-12 * scale else 0.0


# -- intervals ------------------------------------------------------------------------------------


def tuning(alpha: float, planned: float) -> float:
    """The parameter rho that makes a confidence sequence about tightest at a planned number of units.

    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: "Time-uniform central limit theory and asymptotic
    confidence sequences", arXiv 2103.06476, appendix on the choice of rho.

    Args:
        planned: units of both arms together.
    """
    return math.sqrt(_looseness(alpha) / planned)


def _looseness(alpha: float) -> float:
    return -2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))


def half_width(variance: float, units: float, alpha: float, rho: float) -> float:
    """Half the width of the asymptotic confidence sequence around an estimate.

    It holds at all looks together with probability 1 - alpha, so it may be looked at as often as one likes
    and at any time be stopped at. Waudby-Smith and others, arXiv 2103.06476, theorem 2.2:
    s sqrt(2 (n rho^2 + 1) / (n rho)^2 ln(sqrt(n rho^2 + 1) / alpha)), with s^2 = n times the variance.

    Args:
        variance: of the estimate, at this look.
        units: n, of both arms together.
        rho: of `tuning`, fixed before the first look.
    """
    inflated = units * rho**2 + 1
    return math.sqrt(
        units * variance * 2 * inflated / (units * rho) ** 2 * math.log(math.sqrt(inflated) / alpha)
    )


def always_valid_p(distance: float, variance: float, units: float, rho: float) -> float:
    """The least alpha at which the confidence sequence leaves out a value on one side, 1 where it is on the other.

    The inverse of `half_width`; being one for every look, it may be looked at like the interval.

    Args:
        distance: how far the estimate lies beyond the value, negative if it falls short.
        variance: of the estimate; above 0.
    """
    if distance <= 0:
        return 1.0
    inflated = units * rho**2 + 1
    exponent = distance**2 * units * rho**2 / (2 * variance * inflated)
    return min(1.0, math.exp(0.5 * math.log(inflated) - exponent))


def planned_units(
    deviation: float, effect: float, *, alpha: float, power: float, shares: tuple[float, float] = (1, 1)
) -> int:
    """Units of both arms together with which an effect is seen with some power, looking as often as one likes.

    The effect has to exceed the half-width of the confidence sequence at that number by the quantile
    of the power in standard errors. About 2.4 times what one look at the end would need.

    Args:
        deviation: standard deviation of one unit's value.
        effect: distance between the true difference and the value that the interval has to leave out.
        shares: what the arms get of the units, in any measure.
    """
    loose = _looseness(alpha)
    wide = math.sqrt(2 * (loose + 1) / loose * math.log(math.sqrt(loose + 1) / alpha))
    whole = sum(shares)
    spread = deviation**2 * sum(whole / share for share in shares)
    return math.ceil(spread * ((wide + NormalDist().inv_cdf(power)) / effect) ** 2)


def units_to_decide(distance: float, variance: float, units: int, alpha: float, rho: float) -> int | None:
    """Units of both arms together at which the interval would leave a value out, if the estimate stays.

    None: more than `MOST_UNITS`.

    Args:
        distance: between estimate and value, on whichever side.
        variance: of the estimate at `units`.
    """
    if not distance:
        return None
    enough = units
    while half_width(variance * units / enough, enough, alpha, rho) >= abs(distance):
        enough *= 2
        if enough > MOST_UNITS:
            return None
    low = enough // 2 if enough > units else units
    while low < enough:
        middle = (low + enough) // 2
        if half_width(variance * units / middle, middle, alpha, rho) < abs(distance):
            enough = middle
        else:
            low = middle + 1
    return enough


def fixed_half_width(variance: float, alpha: float) -> float:
    """Half the width of the normal interval, for data that are looked at once."""
    return NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(variance)


def fixed_p(distance: float, variance: float) -> float:
    """The two-sided p-value of a value that is looked at once, 1 where the estimate is on the other side."""
    return 1.0 if distance <= 0 else 2 * NormalDist().cdf(-distance / math.sqrt(variance))


def paired_variance(differences: Vector, clusters: Sequence[object] | None = None) -> float:
    """Variance of the mean of paired differences; with clusters, of which prompts come together.

    Miller: "Adding Error Bars to Evals", arXiv 2411.00640: the cluster-robust variance is the sum over
    clusters of their squared sums of residuals, over n^2; n/(n-1) of the clusters makes up for few.
    """
    import numpy as np

    residuals = np.asarray(differences, dtype=float) - float(np.mean(differences))
    groups = list(range(len(residuals))) if clusters is None else list(clusters)
    _, index = np.unique(np.array([str(group) for group in groups]), return_inverse=True)
    sums = np.bincount(index, weights=residuals)
    if len(sums) < 2:
        return 0.0
    return float(np.sum(sums**2)) / len(residuals) ** 2 * len(sums) / (len(sums) - 1)


# -- tests ----------------------------------------------------------------------------------------


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Probability that a chi-square variable exceeds a value.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.4.4 and 26.4.5.
    """
    if statistic <= 0:
        return 1.0
    half = statistic / 2
    odd = freedom % 2
    tail = math.erfc(math.sqrt(half)) if odd else math.exp(-half)
    for step in range(4 - odd, freedom + 1, 2):
        tail += math.exp((step / 2 - 1) * math.log(half) - half - math.lgamma(step / 2))
    return min(1.0, tail)


def sample_ratio_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The p-value of Pearson's chi-square test that units fell to the arms in their declared shares."""
    units, whole = sum(counts), sum(shares)
    if not units:
        return 1.0
    expected = [units * share / whole for share in shares]
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(counts, expected, strict=True))
    return chi_square_tail(statistic, len(counts) - 1)


def sequential_sample_ratio_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The same as a test that holds at all looks together: one over a Bayes factor, at most 1.

    Lindon, Malek: "Anytime-Valid Inference For Multinomial Count Data", arXiv 2011.03567: the factor of a
    Dirichlet(1, ..., 1) prior against the declared shares is a martingale where those hold (Ville).
    """
    units, whole = sum(counts), sum(shares)
    log_factor = math.lgamma(len(counts)) - math.lgamma(len(counts) + units)
    for seen, share in zip(counts, shares, strict=True):
        log_factor += math.lgamma(1 + seen) - seen * math.log(share / whole)
    return min(1.0, math.exp(min(0.0, -log_factor)))


def same_rate_p(successes: Sequence[int], units: Sequence[int]) -> float:
    """The p-value of Pearson's chi-square test that a share is the same in all arms."""
    whole, found = sum(units), sum(successes)
    if not whole or found in (0, whole) or not all(units):
        return 1.0
    rate = found / whole
    statistic = sum(
        (seen - of * rate) ** 2 / (of * rate * (1 - rate)) for seen, of in zip(successes, units, strict=True)
    )
    return chi_square_tail(statistic, len(units) - 1)


def holm(p_values: Mapping[str, float], alpha: float) -> dict[str, float]:
    """For each name the alpha at which it is tested, so that any false rejection has probability alpha at most.

    Holm: "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979:
    the k-th smallest of m p-values is compared with alpha / (m - k + 1), until the first that is not below.
    Names from there on are given the alpha of that one.
    """
    levels = dict[str, float]()
    level, stopped = alpha, False
    for position, name in enumerate(sorted(p_values, key=lambda n: (p_values[n], n))):
        if not stopped:
            level = alpha / (len(p_values) - position)
            stopped = p_values[name] >= level
        levels[name] = level
    return levels
