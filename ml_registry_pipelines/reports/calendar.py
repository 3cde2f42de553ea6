"""Which periods are over, by name: days, ISO weeks and months of a time zone, oldest first.

What a period is, is in `costs/periods.py`; which reports of it are due is `delivery/`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from ml_registry_pipelines.costs.periods import Period, PeriodKind, midnight, period_at
from ml_registry_pipelines.registry.errors import InvalidInput, shown

_WEEK = re.compile(r"(\d{4})-W(\d{2})")
_MONTH = re.compile(r"(\d{4})-(\d{2})")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def period_of(kind: PeriodKind, day: date, zone: ZoneInfo) -> Period:
    """The period of a kind that holds a day of a zone."""
    return period_at(kind, midnight(day, zone), zone)


def period_after(period: Period) -> Period:
    """The next one of its kind."""
    return period_of(period.kind, period.last + timedelta(days=1), period.zone)


def period_named(label: str, zone: ZoneInfo) -> Period:
    """The period that a label names: 2026-11-23, 2026-W48 or 2026-11.

    Raises:
        InvalidInput: it names none.
    """
    try:
        if week := _WEEK.fullmatch(label):
            return period_of(PeriodKind.WEEK, date.fromisocalendar(int(week[1]), int(week[2]), 1), zone)
        if month := _MONTH.fullmatch(label):
            return period_of(PeriodKind.MONTH, date(int(month[1]), int(month[2]), 1), zone)
        if _DAY.fullmatch(label):
            return period_of(PeriodKind.DAY, date.fromisoformat(label), zone)
    except (ValueError, OverflowError):
        pass
    raise InvalidInput(
        f"{shown(label)} is no day, week or month; write such as 2026-11-23, 2026-W48 or 2026-11"
    )


def periods_over(kind: PeriodKind, first: date, at: datetime, zone: ZoneInfo) -> Iterator[Period]:
    """Periods from the one that holds day `first` on which are over at an instant, the oldest first."""
    try:
        period = period_of(kind, first, zone)
        while period.end <= at:
            yield period
            period = period_after(period)
    except OverflowError:
        return


def utc_days(period: Period) -> tuple[date, date]:
    """First and last UTC day that the period has a part of."""
    return period.start.date(), (period.end - timedelta(microseconds=1)).date()
