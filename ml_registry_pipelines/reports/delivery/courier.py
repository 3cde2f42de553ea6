"""`Courier`: makes what is due, sends it, and keeps count, at least once for each delivery.

Each subscription has a lane of its own: a recipient that fails holds up nothing but what comes
after it in its lane, and is tried again with growing patience, for about two days. What is due
is `planning.py`'s; who may take it `ledger.py`'s.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from ml_registry_pipelines.costs.periods import Period
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.operations.alerts import Alert, Severity
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.reports.delivery.corrections import Corrected, changes
from ml_registry_pipelines.reports.delivery.editions import Edition, Editions, Slot
from ml_registry_pipelines.reports.delivery.ledger import DELIVERED, FAILED, GIVEN_UP, Delivery, Ledger
from ml_registry_pipelines.reports.delivery.planning import Lane, Task, lanes, next_instant, reasons
from ml_registry_pipelines.reports.delivery.recipients import Recipient, configured_recipients, recipient_for
from ml_registry_pipelines.reports.delivery.sending import (
    SECONDS,
    Message,
    correction_message,
    report_message,
    send,
    without_addresses,
)
from ml_registry_pipelines.reports.delivery.subscriptions import Subscription, all_subscriptions
from ml_registry_pipelines.reports.kinds import Surroundings, surroundings

AT_ONCE = 6
"""Recipients that are sent to at the same time."""
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=6)
MOST_ATTEMPTS = 16
"""Tries of one delivery: about two days."""
DEAD_AFTER = 5
"""Failures in a row after which a person should know: about a quarter of an hour."""
ALERTED = timedelta(days=14)
"""How long what was given up is an alert, unless it is sent again or the subscription is removed."""
NOT_DELIVERED = "report_not_delivered"


@dataclass
class Round:
    """What a round of deliveries did.

    `failures`: what recipients did not take; it is recorded, and tried again. `problems`: what could not
    be made. `waiting`: why what is over was not sent.
    """

    delivered: int = 0
    corrected: int = 0
    failures: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    unfinished: bool = False
    next_at: datetime | None = None
    alerts: tuple[Alert, ...] = ()


@dataclass(frozen=True)
class Outlook:
    """How many subscriptions have something due, when the next may have, and why others wait."""

    due: int
    next_at: datetime | None
    waiting: tuple[str, ...]


class Courier:
    """Delivers the reports of all tenants.

    Args:
        now: the clock, for tests about time.
        seconds_each: time for one message.
    """

    def __init__(
        self,
        log: Log,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        seconds_each: float = SECONDS,
    ) -> None:
        self._log = log
        self._now = now
        self._seconds_each = seconds_each
        self._editions = Editions(log.lake)
        self._ledger = Ledger(log.lake, new_id(), now=now)
        self._making = threading.Lock()

    def look(self, *, busy: bool = False) -> Outlook:
        """What is due, without making or sending anything.

        Raises:
            RecipientsError: the file of recipients cannot be used.
        """
        if not all_subscriptions(self._log):
            return Outlook(0, None, ())
        _, found = self._lanes(surroundings(self._log, busy=busy), self._editions.newest())
        due = sum(lane.is_due for lane in found)
        return Outlook(due, next_instant(found), tuple(reasons(found)))

    def deliver(self, *, seconds: float = 300.0, busy: bool = False, names: Iterable[str] = ()) -> Round:
        """Send what is due, for about so long.

        Args:
            busy: files are being taken, so that reports of periods that just ended wait.
            names: of subscriptions; without any, all.

        Raises:
            RecipientsError: the file of recipients cannot be used; nothing is lost.
        """
        until = time.monotonic() + seconds
        around = surroundings(self._log, busy=busy)
        newest = self._editions.newest()
        recipients, found = self._lanes(around, newest)
        wanted = set(names)
        found = [lane for lane in found if not wanted or lane.subscription.name in wanted]
        done = Round(waiting=list(reasons(found)))
        due = [lane for lane in found if lane.is_due]
        if due:
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mlreg-reports") as pool:
                for each in [pool.submit(self._run, around, lane, recipients, newest, until) for lane in due]:
                    part = each.result()
                    done.delivered += part.delivered
                    done.corrected += part.corrected
                    done.failures += part.failures
                    done.problems += part.problems
                    done.unfinished |= part.unfinished
        states = self._ledger.newest()
        done.next_at = min(
            filter(None, [next_instant(found), *(d.free_at() for d in states.values() if not d.is_over)]),
            default=None,
        )
        done.alerts = tuple(delivery_alerts(all_subscriptions(self._log), states.values(), self._now()))
        return done

    def _lanes(
        self, around: Surroundings, newest: Mapping[Slot, Edition]
    ) -> tuple[dict[str, Recipient], list[Lane]]:
        recipients = configured_recipients(self._log.lake.root)
        deliveries = self._ledger.newest().values()
        subscriptions = all_subscriptions(self._log)
        return recipients, lanes(around, subscriptions, recipients, deliveries, newest, self._now())

    # -- one lane ------------------------------------------------------------------------------

    def _run(
        self,
        around: Surroundings,
        lane: Lane,
        recipients: Mapping[str, Recipient],
        newest: dict[Slot, Edition],
        until: float,
    ) -> Round:
        done = Round()
        subscription = lane.subscription
        try:
            for task in lane.reports:
                if time.monotonic() > until:
                    done.unfinished = True
                    return done
                edition = self._edition(around, subscription, task.period, task.mark, newest)
                if edition is not None and not self._report(subscription, task, edition, recipients, done):
                    return done
            if lane.corrections and time.monotonic() <= until:
                self._correct(around, lane, recipients, newest, done)
            elif lane.corrections:
                done.unfinished = True
        except MlregError as wrong:
            # It was not claimed, or the claim runs out: the next round does it.
            done.problems.append(f"{subscription.tenant}/{subscription.name}: {wrong}")
        return done

    def _edition(
        self,
        around: Surroundings,
        subscription: Subscription,
        period: Period,
        mark: str,
        newest: dict[Slot, Edition],
    ) -> Edition | None:
        """The report as it is now; made, unless it was of the same tables. One at a time: all cores work on it."""
        slot = (subscription.report, subscription.scope, period.label, period.zone.key)
        with self._making:
            held = newest.get(slot)
            if held is not None and held.mark == mark:
                return held
            made = subscription.kind.make(around, period, subscription.scope, mark)
            if made is None:
                return None
            newest[slot] = kept = self._editions.keep(made)
            return kept

    def _report(
        self,
        subscription: Subscription,
        task: Task,
        edition: Edition,
        recipients: Mapping[str, Recipient],
        done: Round,
    ) -> bool:
        """Whether the lane goes on."""
        wanted = replace(
            task.delivery,
            edition_id=edition.edition_id,
            mark=edition.mark,
            message_id=_message_id([(task.delivery.delivery_id, edition.edition_id)]),
        )
        claimed = self._ledger.claim([wanted])
        if not claimed:
            return False
        message_id = claimed[0].message_id
        sent = self._send(
            subscription,
            recipients,
            claimed,
            lambda: report_message(
                message_id, edition, subscription.formats, self._editions, at=edition.recorded_at
            ),
            done,
        )
        done.delivered += sent
        return bool(sent)

    def _correct(
        self,
        around: Surroundings,
        lane: Lane,
        recipients: Mapping[str, Recipient],
        newest: dict[Slot, Edition],
        done: Round,
    ) -> None:
        """Tell what changed in all reports of the lane, in one message."""
        subscription = lane.subscription
        wanted: list[Delivery] = []
        found: dict[str, Corrected] = {}
        for task in lane.corrections:
            edition = self._edition(around, subscription, task.period, task.mark, newest)
            assert task.before is not None
            if edition is None or edition.edition_id == task.before.edition_id:
                continue
            before = self._editions.get(task.before.edition_id)
            if before is None:
                continue
            differ = changes(self._editions.sheet(before), self._editions.sheet(edition))
            found[task.delivery.delivery_id] = Corrected(before, edition, differ)
            wanted.append(replace(task.delivery, edition_id=edition.edition_id, mark=edition.mark))
        message_id = _message_id([(each.delivery_id, each.edition_id) for each in wanted])
        claimed = (
            self._ledger.claim([replace(each, message_id=message_id) for each in wanted]) if wanted else []
        )
        if not claimed:
            return
        corrected = [found[each.delivery_id] for each in claimed]
        at = max(each.after.recorded_at for each in corrected)
        sent = self._send(
            subscription,
            recipients,
            claimed,
            lambda: correction_message(message_id, corrected, subscription.formats, at=at),
            done,
        )
        done.corrected += len(claimed) if sent else 0

    def _send(
        self,
        subscription: Subscription,
        recipients: Mapping[str, Recipient],
        claimed: Sequence[Delivery],
        write: Callable[[], Message],
        done: Round,
    ) -> bool:
        """Send one message for claimed deliveries, and record what became of it."""
        try:
            recipient = recipient_for(recipients, subscription.recipient, subscription.tenant)
            said = send(recipient, write(), seconds=self._seconds_each)
        except MlregError as wrong:
            why = without_addresses(str(wrong))
            done.failures.append(f"{subscription.tenant}/{subscription.name}: {why}")
            self._ledger.settle(claimed, lambda each: self._failed(each, why))
            return False
        told = None if said is None else without_addresses(said)
        channel = recipient.channel.value
        self._ledger.settle(
            claimed, lambda each: replace(each, state=DELIVERED, message=told, channel=channel)
        )
        return True

    def _failed(self, delivery: Delivery, why: str) -> Delivery:
        if delivery.attempt >= MOST_ATTEMPTS:
            return replace(delivery, state=GIVEN_UP, message=why)
        longest = min(FIRST_PAUSE * 2 ** (delivery.attempt - 1), LONGEST_PAUSE)
        pause = longest * random.uniform(0.5, 1.0)
        return replace(delivery, state=FAILED, message=why, next_attempt_at=self._now() + pause)


def delivery_alerts(
    subscriptions: Sequence[Subscription], deliveries: Iterable[Delivery], now: datetime
) -> list[Alert]:
    """What a person should know: one alert per subscription whose reports do not arrive."""
    living = {subscription.id: subscription for subscription in subscriptions}
    troubled: dict[str, list[Delivery]] = {}
    for each in deliveries:
        subscription = living.get(each.subscription_id)
        if subscription is None or each.epoch != subscription.epoch:
            continue
        given_up = each.state == GIVEN_UP and now - each.recorded_at < ALERTED
        in_part = each.state == DELIVERED and each.message and now - each.recorded_at < ALERTED
        failing = not each.is_over and each.attempt >= DEAD_AFTER
        if given_up or in_part or failing:
            troubled.setdefault(each.subscription_id, []).append(each)
    found = []
    for identity, trouble in troubled.items():
        subscription = living[identity]
        lost = [each for each in trouble if each.state == GIVEN_UP]
        worst = max(trouble, key=lambda each: (each.state == GIVEN_UP, each.recorded_at))
        periods = ", ".join(sorted({each.period for each in trouble})[:5])
        what = f"{len(lost)} are given up: `mlreg reports redeliver {subscription.name} --from DAY` sends them again. "
        found.append(
            Alert(
                NOT_DELIVERED,
                f"{subscription.tenant}/{subscription.name}",
                Severity.ERROR if lost else Severity.WARNING,
                f"Reports of subscription {subscription.name} of tenant {subscription.tenant} do not arrive",
                f"{periods}: {worst.message}. {what if lost else 'They are tried again. '}"
                "`mlreg reports deliveries` says more.",
                tenant=subscription.tenant,
            )
        )
    return found


def _message_id(parts: Sequence[tuple[str, str]]) -> str:
    """The same for the same deliveries of the same editions."""
    text = "\0".join(f"{delivery}/{edition}" for delivery, edition in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
