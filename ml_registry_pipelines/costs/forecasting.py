"""What a period will have cost by its end, from the days before: a figure with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from ml_registry_pipelines.costs.periods import Period, midnight

LEAST_DAYS = 7
"""Whole days that a forecast needs at least: one of each weekday."""
MOST_DAYS = 28
TWO_SIDED_95 = Decimal("1.96")
"""Quantile 0.975 of the normal distribution."""


@dataclass(frozen=True)
class Forecast:
    """The cost by the end of the period, and the bounds that hold it in about 95 of 100 cases.

    `days` are the whole days it rests on.
    """

    cost: Decimal
    low: Decimal
    high: Decimal
    days: int


def forecast(daily: Mapping[date, Decimal], period: Period, spent: Decimal, at: datetime) -> Forecast | None:
    """What was spent, and for the time left what days of the same weekday cost on average.

    The mean of each weekday over the last 28 whole days (seasonal mean; see Hyndman and
    Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., 5.2 and 5.5): weekends differ
    from workdays. The interval takes the days' deviations from it as independent and normal, so it
    is too narrow where busy days come in a row. Today counts with the part that is left of it.

    Args:
        daily: cost by day of the period's zone; days without any may be left out.

    Returns:
        None where fewer than `LEAST_DAYS` whole days are known since the first cost, or the period is over.
    """
    if at >= period.end:
        return None
    today = at.astimezone(period.zone).date()
    first = min((day for day in daily if day < today), default=today)
    begins = max(first, today - timedelta(days=MOST_DAYS))
    history = {
        day: daily.get(day, Decimal(0))
        for day in (begins + timedelta(days=n) for n in range((today - begins).days))
    }
    if len(history) < LEAST_DAYS:
        return None
    means = _weekday_means(history)
    spread = _spread(history, means)
    ends = midnight(today + timedelta(days=1), period.zone)
    begun = midnight(today, period.zone)
    left = Decimal((ends - at) // timedelta(microseconds=1)) / ((ends - begun) // timedelta(microseconds=1))
    rest = means[today.weekday()] * left
    later = (period.end.astimezone(period.zone) - timedelta(microseconds=1)).date()
    whole = [today + timedelta(days=n) for n in range(1, (later - today).days + 1)]
    rest += sum((means[day.weekday()] for day in whole), Decimal(0))
    margin = TWO_SIDED_95 * spread * (left + len(whole)).sqrt()
    cost = spent + rest
    return Forecast(cost, max(spent, cost - margin), cost + margin, len(history))


def _weekday_means(history: Mapping[date, Decimal]) -> dict[int, Decimal]:
    days: dict[int, list[Decimal]] = {}
    for day, cost in history.items():
        days.setdefault(day.weekday(), []).append(cost)
    return {weekday: sum(costs, Decimal(0)) / len(costs) for weekday, costs in days.items()}


def _spread(history: Mapping[date, Decimal], means: Mapping[int, Decimal]) -> Decimal:
    """The standard deviation of a day from its weekday's mean.

    With one day of each weekday alone there is no such deviation; then that from the mean of all days.
    """
    freedom = len(history) - len(means)
    if freedom >= len(means):
        squares = sum(((cost - means[day.weekday()]) ** 2 for day, cost in history.items()), Decimal(0))
        return (squares / freedom).sqrt()
    mean = sum(history.values(), Decimal(0)) / len(history)
    squares = sum(((cost - mean) ** 2 for cost in history.values()), Decimal(0))
    return (squares / (len(history) - 1)).sqrt()
