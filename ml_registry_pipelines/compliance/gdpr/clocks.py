"""When something is due: the clocks of Art. 12(3) and 33(1), and days that registers name."""

from __future__ import annotations

import calendar
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ml_registry_pipelines.compliance.gdpr.entries import (
    BiasRecord,
    Breach,
    DataRequest,
    Entry,
    KeyStore,
)

NOTIFY = timedelta(hours=72)
"""Art. 33(1): from when we are aware of a breach."""
MONTHS, EXTENDED_MONTHS = 1, 3
"""Art. 12(3): one month, and two further ones."""


@dataclass(frozen=True)
class Deadline:
    """Something that is to be done by an instant. `warn`: how long before to say so."""

    tenant: str
    register: str
    name: str
    what: str
    due_at: datetime
    article: str
    warn: timedelta


def after_months(moment: datetime, months: int) -> datetime:
    """The same day so many months on, or the last of a shorter month: Art. 3(2)(c) of Regulation 1182/71.

    The period ends with the last hour of that day.
    """
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    ends = moment.replace(year=year, month=month + 1, day=min(moment.day, last))
    return ends.replace(hour=23, minute=59, second=59, microsecond=999_999)


def extension_limit(request: DataRequest) -> datetime:
    """Until when the subject can be told that it takes longer."""
    return after_months(request.received_at, MONTHS)


def request_due(request: DataRequest) -> datetime:
    """Until when a request is answered."""
    months = MONTHS if request.extended_at is None else EXTENDED_MONTHS
    return after_months(request.received_at, months)


def breach_due(breach: Breach) -> datetime:
    """Until when a breach is notified to the authority."""
    return breach.aware_at + NOTIFY


def deadlines(entries: Sequence[tuple[str, Entry]]) -> Iterator[Deadline]:
    """What of some entries, each with its tenant, is still to be done, and until when."""
    for tenant, entry in entries:
        match entry:
            case DataRequest(closed_at=None):
                yield Deadline(
                    tenant,
                    entry.REGISTER,
                    entry.name,
                    f"answer the request for {entry.kind.value}",
                    request_due(entry),
                    "12(3)",
                    timedelta(days=7),
                )
            case Breach(notified_at=None, risk=True):
                yield Deadline(
                    tenant,
                    entry.REGISTER,
                    entry.name,
                    "notify the breach to the authority",
                    breach_due(entry),
                    "33(1)",
                    timedelta(hours=48),
                )
            case KeyStore():
                yield Deadline(
                    tenant,
                    entry.REGISTER,
                    entry.name,
                    "rotate the keys",
                    entry.rotated_at + timedelta(days=entry.rotation_days),
                    "32",
                    timedelta(days=14),
                )
            case BiasRecord():
                yield Deadline(
                    tenant,
                    entry.REGISTER,
                    entry.name,
                    "delete the special category",
                    entry.delete_by,
                    "AI Act 4a",
                    timedelta(days=14),
                )
            case _:
                continue


CLOCKED: tuple[type[Entry], ...] = (DataRequest, Breach, KeyStore, BiasRecord)
"""Registers whose entries have a deadline."""
