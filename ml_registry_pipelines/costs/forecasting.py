"""Robust estimates over series with a weekly pattern: a forecast with a band, and what is out of the ordinary.

Pure functions over numbers; money comes in and goes out as such in `trends.py` and `budget_forecasts.py`. Medians
and median absolute deviations (MAD) throughout, so that one odd day moves nothing. With too little data the
answer is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations, pairwise
from statistics import NormalDist, fmean, median

LEAST_DAYS = 21
"""Complete days that a forecast needs: each weekday three times."""
MOST_DAYS = 56
"""Newest days that it looks at; what was before says little about this month."""
BAND = 0.9
"""The share of months whose sum the band is meant to hold."""
MAD_TO_SIGMA = 1 / NormalDist().inv_cdf(0.75)
"""1.4826: by how much the MAD of normal values is smaller than their standard deviation."""
THRESHOLD = 3.5
"""Robust z from which a value is out of the ordinary: B. Iglewicz, D. C. Hoaglin, "How to Detect and Handle
Outliers", ASQC 1993, whose modified z-score this is."""
LEAST_WEEKS = 4
"""Earlier values of the same hour of the week that one is judged by."""
MOST_WEEKS = 8
LEAST_CHANGE = 0.2
"""A value that differs from the usual by less than this share of it is not out of the ordinary, however even
the usual is."""
_MOST_CORRELATED = 0.8
_SCATTER_IS_ESTIMATED = 1.1
"""The MAD of eight weeks is itself uncertain, and the medians lie in their middle. Without it the band held
79 to 88 % of simulated sums over 3 to 30 days; with it, 84 to 92 %, neighbouring days correlated by 0 to 0.7."""


@dataclass(frozen=True)
class Forecast:
    """The sum over some days to come, and the band that is meant to hold it in `BAND` of all cases."""

    expected: float
    lower: float
    upper: float
    days: int
    """History that it rests on, in days."""
    slope: float
    """Change per day and day."""


@dataclass(frozen=True)
class Judged:
    """One value beside the usual one of its hour of the week."""

    usual: float
    z: float
    odd: bool


def forecast_sum(
    history: Mapping[date, float], ahead: Sequence[date], *, left_of_first: float = 1.0
) -> Forecast | None:
    """The sum over the days `ahead`, from complete days before them; None under `LEAST_DAYS` of these.

    A day's value is the median of its weekday plus a slope per day. The slope is the seasonal Kendall
    slope, the median over pairs of days of one weekday (R. M. Hirsch, J. R. Slack, R. A. Smith, "Techniques of trend
    analysis for monthly water quality data", Water Resources Research 18, 1982), and is taken as 0 where
    the pairs do not agree on its direction. The band adds the scatter of days (by their MAD, widened where
    neighbouring days deviate alike) and the uncertainty of the medians. No day is below 0.

    Args:
        left_of_first: which part of the first day ahead is still to come, above 0 to 1.
    """
    days = sorted(history)[-MOST_DAYS:]
    if len(days) < LEAST_DAYS or not ahead:
        return None
    last = days[-1]
    slope = _slope(days, history)
    level, residuals = _fitted(days, history, slope)
    if slope and not _agree(days, history, _alike(residuals)):
        slope = 0.0
        level, residuals = _fitted(days, history, slope)
    # A weekday that never was in the history: that of a gap in it.
    usual = median(level.values())
    sigma = MAD_TO_SIGMA * median(abs(r) for r in residuals)
    sigma *= math.sqrt(len(days) / (len(days) - len(level)))
    alike = _alike(residuals)
    spread = sigma * math.sqrt((1 + alike) / (1 - alike))
    levels = [max(0.0, level.get(day.weekday(), usual) + slope * (day - last).days) for day in ahead]
    expected = sum(levels[1:], left_of_first * levels[0])
    h, n = len(ahead) - 1 + left_of_first, len(days)
    deviation = spread * math.sqrt(h + h * h * (math.pi / 2) / n)
    half = NormalDist().inv_cdf((1 + BAND) / 2) * deviation * _SCATTER_IS_ESTIMATED
    return Forecast(expected, max(0.0, expected - half), expected + half, n, slope)


def _fitted(
    days: Sequence[date], history: Mapping[date, float], slope: float
) -> tuple[dict[int, float], list[float]]:
    """The level of each weekday as of the last day, and what is left of each day."""
    flat = {day: history[day] - slope * (day - days[-1]).days for day in days}
    level = {
        weekday: median(flat[day] for day in days if day.weekday() == weekday)
        for weekday in {day.weekday() for day in days}
    }
    return level, [flat[day] - level[day.weekday()] for day in days]


def _pairs(days: Sequence[date], history: Mapping[date, float]) -> list[float]:
    """The slopes between days of one weekday."""
    return [
        (history[b] - history[a]) / (b - a).days for a, b in combinations(days, 2) if (b - a).days % 7 == 0
    ]


def _slope(days: Sequence[date], history: Mapping[date, float]) -> float:
    return median(_pairs(days, history))


def _agree(days: Sequence[date], history: Mapping[date, float], alike: float) -> bool:
    """Kendall's statistic of all weekdays against its standard deviation without a trend, at 5 %.

    Neighbouring days that deviate alike look like a trend: the variance is widened as that of a mean.
    """
    slopes = _pairs(days, history)
    statistic = abs(sum(s > 0 for s in slopes) - sum(s < 0 for s in slopes)) - 1
    counts = [sum(day.weekday() == weekday for day in days) for weekday in range(7)]
    variance = sum(k * (k - 1) * (2 * k + 5) / 18 for k in counts) * (1 + alike) / (1 - alike)
    return statistic > 1.96 * math.sqrt(variance)


def _alike(residuals: Sequence[float]) -> float:
    """How much neighbours deviate alike, 0 to `_MOST_CORRELATED`."""
    found = _correlation(residuals)
    # In short series it comes out too small: M. G. Kendall, "Note on bias in the estimation of autocorrelation",
    # Biometrika 41, 1954.
    return min(_MOST_CORRELATED, max(0.0, found + (1 + 3 * found) / len(residuals)))


def _correlation(residuals: Sequence[float]) -> float:
    """Of neighbours, by their signs alone, which no outlier moves: sine law of the normal distribution."""
    signs = [math.copysign(1.0, r) for r in residuals if r]
    if len(signs) < LEAST_DAYS // 2:
        return 0.0
    return math.sin(math.pi / 2 * fmean(a * b for a, b in pairwise(signs)))


def judged(value: float, before: Sequence[float]) -> Judged | None:
    """A value by those of the same hour of the weeks before it; None under `LEAST_WEEKS` of them.

    z = (value - median) / (1.4826 MAD); where half the values are equal, and the MAD 0, the mean absolute deviation
    stands in, times 1.2533 (Iglewicz and Hoaglin, as above).
    """
    held = list(before)[-MOST_WEEKS:]
    if len(held) < LEAST_WEEKS:
        return None
    usual = median(held)
    scale = MAD_TO_SIGMA * median(abs(v - usual) for v in held)
    if scale == 0:
        scale = math.sqrt(math.pi / 2) * fmean(abs(v - usual) for v in held)
    gap = value - usual
    flat = math.copysign(math.inf, gap) if gap else 0.0
    z = gap / scale if scale else flat
    odd = abs(z) > THRESHOLD and abs(gap) > LEAST_CHANGE * abs(usual)
    return Judged(usual, z, odd)


def days_between(first: date, until: date) -> list[date]:
    """The days from the first up to, not including, `until`."""
    return [first + timedelta(days=n) for n in range((until - first).days)]
