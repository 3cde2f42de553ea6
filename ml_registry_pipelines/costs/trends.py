"""Costs day by day, what the month will come to, and hours that are out of the ordinary.

The series is of priced costs, in one currency each. What is forecast, and what judged, is what the
figures hold: requests without a price are in no figure, and their share stands beside it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.forecasting import (
    BAND,
    MOST_DAYS,
    MOST_WEEKS,
    Forecast,
    days_between,
    forecast_sum,
    judged,
)
from ml_registry_pipelines.costs.provenance import (
    CostsError,
    Provenance,
    check_logged,
    checked_days,
    checked_filters,
    provenance,
)
from ml_registry_pipelines.costs.queries import FILTERS, cost_by
from ml_registry_pipelines.costs.tagged import is_tagged

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading

WEEK = timedelta(days=7)
HOUR = timedelta(hours=1)
HOURS_OF_WEEK = 168
LONGEST = 1100
"""Days of one series."""
_CENTS = Decimal("0.000001")


class Outlook(Enum):
    """Whether there is a forecast."""

    FORECAST = "forecast"
    TOO_FEW_DAYS = "too_few_days"
    NOTHING_LATELY = "nothing_lately"
    """Nothing was logged in the last week: that is more likely a log that does not come than no cost."""


@dataclass(frozen=True)
class DayCost:
    """One UTC day. `cost` is NULL where requests were billable and none has a price, 0 where none was."""

    day: date
    cost: Decimal | None
    requests: int
    billable: int
    priced: int
    complete: bool
    """Whether the day was over when the figures were computed."""


@dataclass(frozen=True)
class Anomaly:
    """An hour whose cost is out of the ordinary for its hour of the week: robust z beyond `THRESHOLD`.

    `z` is infinite where all such hours before cost the same; then it cost more than any hour of those weeks.
    """

    hour: datetime
    cost: Decimal
    usual: Decimal
    z: float


@dataclass(frozen=True)
class MonthEnd:
    """What the month of `today` will come to: what its complete days cost, and a band for the rest.

    `expected`, `lower` and `upper` are sums of the whole month; None unless there is a forecast.
    """

    month: date
    outlook: Outlook
    so_far: Decimal
    days_ahead: int
    history_days: int
    expected: Decimal | None
    lower: Decimal | None
    upper: Decimal | None
    band: float = BAND


@dataclass(frozen=True)
class Trend:
    """The series in one currency. `unjudged_hours` had fewer than four weeks before them."""

    currency: str | None
    days: tuple[DayCost, ...]
    month_end: MonthEnd
    anomalies: tuple[Anomaly, ...]
    judged_hours: int
    unjudged_hours: int

    @property
    def coverage(self) -> float | None:
        """Priced per billable over all days; None where nothing was billable."""
        billable = sum(day.billable for day in self.days)
        return sum(day.priced for day in self.days) / billable if billable else None


@dataclass(frozen=True)
class CostTrends:
    """Series by currency, the largest number of requests first."""

    since: date
    until: date
    where: Mapping[str, str]
    trends: tuple[Trend, ...]
    provenance: Provenance


def cost_trends(
    reading: Reading,
    *,
    since: date,
    until: date,
    today: date,
    where: Mapping[str, str] | None = None,
) -> CostTrends:
    """As `VibeCodingIntegration.get_cost_trends`; the reading holds `provenance.READS`."""
    checked_days(since, until)
    limits = checked_filters(where)
    if is_tagged((), limits):
        raise CostsError("there is no series by tag: tags are in no rollup; ask for a summary of the days")
    if (until - since).days > LONGEST:
        raise CostsError(f"a series has at most {LONGEST:,} days; these are {(until - since).days:,}")
    # The forecast looks further back than the series that was asked for.
    month = today.replace(day=1)
    first = min(since, today - timedelta(days=MOST_DAYS), month)
    until_all = max(until, today + timedelta(days=1))
    rows = cost_by(reading, ["day"], since=first, until=until_all, where=limits).to_pylist()
    if not rows:
        check_logged(reading, limits)
    begun = _first_days(reading, limits)
    hours = _hours(reading, limits, since - MOST_WEEKS * WEEK, until)
    by_currency = _by_currency(rows)
    hourly = _by_currency(hours)
    trends = []
    for currency, held in by_currency.items():
        days = {row["day"]: row for row in held}
        series = [_day(day, days.get(day), today) for day in days_between(since, min(until, until_all))]
        first_day = begun.get(currency, today)
        anomalies, seen, unseen = _anomalies(hourly.get(currency, []), since, until, today, first_day)
        month_end = _month_end(days, today, first_day)
        trends.append(Trend(currency, tuple(series), month_end, tuple(anomalies), seen, unseen))
    trends.sort(key=lambda trend: -sum(day.requests for day in trend.days))
    return CostTrends(
        since,
        until,
        limits,
        tuple(trends),
        provenance(reading, since=since, until=until, where=limits),
    )


def _by_currency(rows: Sequence[Mapping[str, Any]]) -> dict[str | None, list[Mapping[str, Any]]]:
    """Rows by currency; what has none joins the only one that there is."""
    currencies = {row["currency"] for row in rows if row["currency"] is not None}
    only = next(iter(currencies)) if len(currencies) == 1 else None
    found: dict[str | None, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["currency"] or only].append(row)
    return found


def _hours(reading: Reading, where: Mapping[str, str], since: date, until: date) -> list[Mapping[str, Any]]:
    """Cost by hour and currency, as `cost_by` would give it, and nothing else: it is asked of many days."""
    rows: list[Mapping[str, Any]] = reading.query(
        "costs.hours",
        f"""
        SELECT period_start AS hour, currency,
               CASE WHEN sum(billable_requests) = 0 AND count(charge_class) = 0 THEN 0
                    ELSE sum(cost) FILTER (priced_requests > 0 OR charge_class IS NOT NULL) END AS cost
        FROM cost_rollup
        WHERE grain = 'hour' AND day >= $since AND day < $until
          AND {" AND ".join(f"(${name} IS NULL OR {name} = ${name})" for name in FILTERS)}
        GROUP BY period_start, currency
        """,
        {"since": since, "until": until} | {name: where.get(name) for name in FILTERS},
    ).to_pylist()
    return rows


def _first_days(reading: Reading, where: Mapping[str, str]) -> dict[str | None, date]:
    """The first day of each currency: before it, nothing logged does not mean that it cost nothing."""
    rows = reading.query(
        "costs.first_days",
        f"""
        SELECT currency, min(day) AS day
        FROM cost_rollup
        WHERE grain = 'day' AND {" AND ".join(f"(${name} IS NULL OR {name} = ${name})" for name in FILTERS)}
        GROUP BY currency
        """,
        {name: where.get(name) for name in FILTERS},
    ).to_pylist()
    days = {row["currency"]: row["day"] for row in rows}
    # What has no currency was logged before it was priced, and belongs to all of them.
    without = days.get(None)
    return {currency: min(day, without or day) for currency, day in days.items()}


def _day(day: date, row: Mapping[str, Any] | None, today: date) -> DayCost:
    if row is None:
        return DayCost(day, Decimal(0), 0, 0, 0, day < today)
    return DayCost(
        day, row["cost"], row["requests"], row["billable_requests"], row["priced_requests"], day < today
    )


def _month_end(days: Mapping[date, Mapping[str, Any]], today: date, begun: date) -> MonthEnd:
    month = today.replace(day=1)
    following = (month + timedelta(days=32)).replace(day=1)
    ahead = days_between(today, following)
    so_far = sum(
        (row["cost"] for day, row in days.items() if month <= day < today and row["cost"] is not None),
        Decimal(0),
    )
    spent_today = (days.get(today) or {}).get("cost") or Decimal(0)
    start = max(begun, today - timedelta(days=MOST_DAYS))
    # A day without any price is a gap, a day without requests cost nothing.
    history = {
        day: float(days[day]["cost"]) if day in days else 0.0
        for day in days_between(start, today)
        if day not in days or days[day]["cost"] is not None
    }
    found: Forecast | None = forecast_sum(history, ahead)
    lately = any(today - WEEK <= day < today for day in days)
    if found is None or not lately:
        why = Outlook.TOO_FEW_DAYS if lately else Outlook.NOTHING_LATELY
        return MonthEnd(month, why, so_far, len(ahead), len(history), None, None, None)

    def whole(rest: float) -> Decimal:
        return so_far + max(spent_today, Decimal(repr(rest)).quantize(_CENTS))

    return MonthEnd(
        month,
        Outlook.FORECAST,
        so_far,
        len(ahead),
        len(history),
        whole(found.expected),
        whole(found.lower),
        whole(found.upper),
    )


def _anomalies(
    rows: Sequence[Mapping[str, Any]], since: date, until: date, today: date, begun: date
) -> tuple[list[Anomaly], int, int]:
    """Odd hours of the window in order, how many were judged, and how many could not be."""
    costs = {row["hour"].astimezone(UTC): row["cost"] for row in rows}
    if not costs:
        return [], 0, 0
    start = datetime.combine(max(since, begun), datetime.min.time(), UTC)
    # The hour of now is not over, and late records are on their way.
    end = datetime.combine(min(until, today), datetime.min.time(), UTC)
    known = datetime.combine(begun, datetime.min.time(), UTC)

    def most_before(hour: datetime) -> float:
        return max(
            (float(costs.get(hour - n * HOUR) or 0) for n in range(1, MOST_WEEKS * HOURS_OF_WEEK + 1)),
            default=0.0,
        )

    found: list[Anomaly] = []
    seen = unseen = 0
    hour = start
    while hour < end:
        value = costs.get(hour, Decimal(0))
        earlier = [hour - n * WEEK for n in range(MOST_WEEKS, 0, -1)]
        before = [costs.get(moment, Decimal(0)) for moment in earlier if moment >= known]
        one = None if value is None else judged(float(value), [float(v) for v in before if v is not None])
        if one is None:
            unseen += 1
        else:
            seen += 1
            # Where such an hour has always cost the same, mostly nothing, there is no scatter to go by.
            flat = math.isinf(one.z)
            if one.odd and value is not None and not (flat and float(value) <= most_before(hour)):
                found.append(Anomaly(hour, value, Decimal(repr(one.usual)).quantize(_CENTS), one.z))
        hour += HOUR
    return found, seen, unseen
