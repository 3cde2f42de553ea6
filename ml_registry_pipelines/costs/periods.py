"""Days, weeks and months of a tenant: from midnight to midnight in its time zone, as instants in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from zoneinfo import ZoneInfo


class PeriodKind(Enum):
    """What a period is. A week begins on Monday (ISO 8601)."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True)
class Period:
    """From `start` up to, not including, `end`, both in UTC. `first` and `last` are its days in the zone."""

    kind: PeriodKind
    first: date
    last: date
    start: datetime
    end: datetime
    zone: ZoneInfo

    @property
    def label(self) -> str:
        """2026-11, 2026-W48 or 2026-11-23."""
        match self.kind:
            case PeriodKind.MONTH:
                return f"{self.first:%Y-%m}"
            case PeriodKind.WEEK:
                year, week, _ = self.first.isocalendar()
                return f"{year}-W{week:02}"
            case PeriodKind.DAY:
                return self.first.isoformat()

    @property
    def length(self) -> timedelta:
        """Its true length: a day on which clocks change has 23 or 25 hours."""
        return self.end - self.start


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a day in a zone, in UTC.

    Where clocks leave out midnight, the day begins with the change; where they show it twice, with the first.
    """
    return datetime.combine(day, time(), zone).astimezone(UTC)


def period_at(kind: PeriodKind, instant: datetime, zone: ZoneInfo) -> Period:
    """The period of a kind that holds an instant."""
    first = instant.astimezone(zone).date()
    after = first + timedelta(days=1)
    if kind is PeriodKind.WEEK:
        first -= timedelta(days=first.weekday())
        after = first + timedelta(days=7)
    elif kind is PeriodKind.MONTH:
        first = first.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    return Period(kind, first, after - timedelta(days=1), midnight(first, zone), midnight(after, zone), zone)
