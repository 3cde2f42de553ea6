"""What a budget's period will have cost by its end: what was spent, and the forecast of the days that are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from ml_registry_pipelines.costs.forecasting import MOST_DAYS, days_between, forecast_sum
from ml_registry_pipelines.costs.periods import Period, midnight

_PLACES = Decimal("0.000001")


@dataclass(frozen=True)
class PeriodForecast:
    """The cost by the end of the period, and the bounds meant to hold it in `forecasting.BAND` of all cases.

    `days` are the whole days it rests on.
    """

    cost: Decimal
    low: Decimal
    high: Decimal
    days: int


def forecast_period(
    daily: Mapping[date, Decimal], period: Period, spent: Decimal, at: datetime
) -> PeriodForecast | None:
    """What was spent, and `forecast_sum` of the days that are left; today counts with the part left of it.

    Args:
        daily: cost by day of the period's zone; days without any may be left out.

    Returns:
        None where fewer than `forecasting.LEAST_DAYS` whole days are known since the first cost, or the
        period is over.
    """
    if at >= period.end:
        return None
    today = at.astimezone(period.zone).date()
    first = min((day for day in daily if day < today), default=today)
    history = {
        day: float(daily.get(day, Decimal(0)))
        for day in days_between(max(first, today - timedelta(days=MOST_DAYS)), today)
    }
    begun, ends = (midnight(day, period.zone) for day in (today, today + timedelta(days=1)))
    last = (period.end.astimezone(period.zone) - timedelta(microseconds=1)).date()
    ahead = days_between(today, last + timedelta(days=1))
    found = forecast_sum(history, ahead, left_of_first=(ends - at) / (ends - begun))
    if found is None:
        return None
    cost, low, high = (
        spent + Decimal(repr(rest)).quantize(_PLACES) for rest in (found.expected, found.lower, found.upper)
    )
    return PeriodForecast(cost, low, high, found.days)
