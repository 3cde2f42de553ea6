"""What is due to whom: reports of periods that are over and final, oldest first, and what has to be corrected.

Reads, and changes nothing. What is due is made and sent by `courier.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from ml_registry_pipelines.costs.periods import Period
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.tenants import zone_of
from ml_registry_pipelines.reports.calendar import period_after, period_named, period_of, periods_over
from ml_registry_pipelines.reports.delivery.editions import Edition, Slot
from ml_registry_pipelines.reports.delivery.ledger import DELIVERED, GIVEN_UP, Delivery, planned
from ml_registry_pipelines.reports.delivery.recipients import Recipient
from ml_registry_pipelines.reports.delivery.subscriptions import Subscription
from ml_registry_pipelines.reports.kinds import KINDS, Surroundings, days_of

GRACE = timedelta(hours=1)
"""After the end of a period, for the files of its last hour."""
PATIENCE = timedelta(hours=12)
"""After the end of a period, a report that is still not final goes out as a provisional one."""
CORRECTION_PAUSE = timedelta(hours=6)
"""Between a delivery and its correction: what trickles in meanwhile is one correction."""
CORRECTION_PATIENCE = timedelta(hours=24)
"""After a delivery, a correction no longer waits for files that are being taken."""
MOST_AT_ONCE = 30
"""Reports to one recipient in one round; the next one sends the rest."""
MOST_CORRECTED = 60
"""Periods in one correction."""


@dataclass(frozen=True)
class Task:
    """One delivery to make: of a report, or where `before` is given of what changed since that one."""

    delivery: Delivery
    period: Period
    mark: str
    before: Delivery | None = None


@dataclass(frozen=True)
class Lane:
    """What is due for one subscription, in order. `waits`: why what comes next can't go yet, and until when at most."""

    subscription: Subscription
    reports: tuple[Task, ...] = ()
    corrections: tuple[Task, ...] = ()
    waits: str | None = None
    until: datetime | None = None

    @property
    def is_due(self) -> bool:
        return bool(self.reports or self.corrections)


@dataclass(frozen=True)
class _Known:
    """Deliveries of one subscription by period, each in order of its number."""

    current: dict[str, list[Delivery]] = field(default_factory=dict)
    """Those of its epoch."""
    delivered: dict[str, Delivery] = field(default_factory=dict)
    """What the recipient has: the newest that was delivered, whatever the epoch."""


def lanes(
    around: Surroundings,
    subscriptions: Sequence[Subscription],
    recipients: Mapping[str, Recipient],
    deliveries: Iterable[Delivery],
    editions: Mapping[Slot, Edition],
    now: datetime,
) -> list[Lane]:
    """What is due, by subscription."""
    known = _by_subscription(subscriptions, deliveries)
    zones: dict[str, ZoneInfo] = {}
    found = []
    for subscription in subscriptions:
        if subscription.report not in KINDS:
            why = f"there is no report {subscription.report} in this version of the platform"
            found.append(Lane(subscription, waits=why))
            continue
        zone = _zone(around.log, subscription, zones)
        recipient = recipients.get(subscription.recipient)
        own = known[subscription.id]
        reports, waits, until = _reports(around, subscription, recipient, own, zone, now)
        corrections: tuple[Task, ...] = ()
        if not reports:
            # A recipient that is behind gets the newest figures with its reports.
            corrections, later = _corrections(around, subscription, recipient, own, editions, now)
            until = min(filter(None, [until, later]), default=None)
        found.append(Lane(subscription, tuple(reports), corrections, waits, until))
    return found


def _by_subscription(
    subscriptions: Sequence[Subscription], deliveries: Iterable[Delivery]
) -> dict[str, _Known]:
    epochs = {subscription.id: subscription.epoch for subscription in subscriptions}
    known = {identity: _Known() for identity in epochs}
    for each in sorted(deliveries, key=lambda delivery: (delivery.number, delivery.recorded_at)):
        own = known.get(each.subscription_id)
        if own is None:
            continue
        if each.epoch == epochs[each.subscription_id]:
            own.current.setdefault(each.period, []).append(each)
        last = own.delivered.get(each.period)
        if each.state == DELIVERED and (last is None or last.recorded_at <= each.recorded_at):
            own.delivered[each.period] = each
    return known


def _zone(log: Log, subscription: Subscription, zones: dict[str, ZoneInfo]) -> ZoneInfo:
    """The zone of the tenant that the report is about; of all tenants, that of whose subscription it is."""
    tenant = subscription.scope or subscription.tenant
    if tenant not in zones:
        zones[tenant] = zone_of(log, tenant)
    return zones[tenant]


def _reports(
    around: Surroundings,
    subscription: Subscription,
    recipient: Recipient | None,
    own: _Known,
    zone: ZoneInfo,
    now: datetime,
) -> tuple[list[Task], str | None, datetime | None]:
    """Reports that are due, and why the one after them is not, until when."""
    tasks: list[Task] = []
    kind = subscription.kind
    after: Period = period_of(subscription.cadence, subscription.first, zone)
    for period in periods_over(subscription.cadence, subscription.first, now, zone):
        after = period_after(period)
        held = next((d for d in own.current.get(period.label, ()) if d.number == 0), None)
        if held is not None and held.is_over:
            continue
        if held is not None and not held.may_be_taken(now):
            why = held.message or "another courier sends it"
            return tasks, f"{period.label}: {why}", held.free_at()
        # What was tried before keeps its bounds, wherever the tenant is now.
        asked = period_named(period.label, ZoneInfo(held.time_zone)) if held else period
        mark = kind.mark(around, asked, subscription.scope)
        if mark is None:
            continue
        if wait := _waits(around, subscription, asked, now):
            return tasks, *wait
        if len(tasks) == MOST_AT_ONCE:
            return tasks, "more follow in the next round", now
        tasks.append(Task(held or planned(subscription, recipient, asked, 0, now=now), asked, mark))
    return tasks, None, after.end + (GRACE if kind.from_logs else timedelta())


def _waits(
    around: Surroundings, subscription: Subscription, period: Period, now: datetime
) -> tuple[str, datetime] | None:
    """Why the report of a period that is over is not final yet, and when it goes out all the same."""
    if not subscription.kind.from_logs or now >= period.end + PATIENCE:
        return None
    if now < period.end + GRACE:
        return (
            f"{period.label} ended a moment ago, and its last files may be on their way",
            period.end + GRACE,
        )
    if around.busy:
        return f"{period.label}: files are being taken", period.end + PATIENCE
    behind = [day for day in days_of(period) if day in around.behind]
    if behind:
        days = ", ".join(str(day) for day in behind[:3])
        return f"{period.label}: requests of {days} are taken and not counted yet", period.end + PATIENCE
    return None


def _corrections(
    around: Surroundings,
    subscription: Subscription,
    recipient: Recipient | None,
    own: _Known,
    editions: Mapping[Slot, Edition],
    now: datetime,
) -> tuple[tuple[Task, ...], datetime | None]:
    """Delivered reports that may come out otherwise now, and when the next of them may be corrected."""
    tasks: list[Task] = []
    later: list[datetime] = []
    for before in sorted(own.delivered.values(), key=lambda each: each.period_start):
        found = _correction(around, subscription, recipient, own, before, editions, now)
        if isinstance(found, Task):
            tasks.append(found)
        elif found is not None:
            later.append(found)
    if len(tasks) > MOST_CORRECTED:
        later.append(now)
    return tuple(tasks[:MOST_CORRECTED]), min(later, default=None)


def _correction(
    around: Surroundings,
    subscription: Subscription,
    recipient: Recipient | None,
    own: _Known,
    before: Delivery,
    editions: Mapping[Slot, Edition],
    now: datetime,
) -> Task | datetime | None:
    period = period_named(before.period, ZoneInfo(before.time_zone))
    mark = subscription.kind.mark(around, period, subscription.scope)
    edition = editions.get((subscription.report, subscription.scope, before.period, before.time_zone))
    if mark is None or (edition and edition.mark == mark and edition.edition_id == before.edition_id):
        return None
    tried = [each for each in own.current.get(before.period, ()) if each.number > 0]
    last = tried[-1] if tried else None
    if last is not None and last.state == GIVEN_UP and edition and edition.edition_id == last.edition_id:
        return (
            None if edition.mark == mark else _next(subscription, recipient, period, mark, before, last, now)
        )
    if last is not None and not last.is_over:
        return Task(last, period, mark, before) if last.may_be_taken(now) else last.free_at()
    if now < before.recorded_at + CORRECTION_PAUSE:
        return before.recorded_at + CORRECTION_PAUSE
    under_way = around.busy or any(day in around.behind for day in days_of(period))
    if under_way and now < before.recorded_at + CORRECTION_PATIENCE:
        return before.recorded_at + CORRECTION_PATIENCE
    return _next(subscription, recipient, period, mark, before, last, now)


def _next(
    subscription: Subscription,
    recipient: Recipient | None,
    period: Period,
    mark: str,
    before: Delivery,
    last: Delivery | None,
    now: datetime,
) -> Task:
    number = 1 + (last.number if last is not None else 0)
    return Task(planned(subscription, recipient, period, number, now=now), period, mark, before)


def next_instant(found: Sequence[Lane]) -> datetime | None:
    """When something may be due that is not now."""
    return min((lane.until for lane in found if lane.until is not None), default=None)


def reasons(found: Sequence[Lane]) -> Iterator[str]:
    """Why what is over was not sent, by subscription."""
    for lane in found:
        if lane.waits:
            yield f"{lane.subscription.tenant}/{lane.subscription.name}: {lane.waits}"
