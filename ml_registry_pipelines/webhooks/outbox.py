"""The outbox: events are read from the log itself and told to every subscriber, at least once, in order.

Each subscriber has a mark of its own in `webhook_marks`, moved only after the receiver has
answered; who is killed in between tells some events again, with the same `webhook-id`. A
receiver that fails is tried again with growing pauses and holds nobody else up; what is
meanwhile recorded waits in the log, which loses nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ml_registry_pipelines.lake.tables.webhooks import WEBHOOK_MARKS
from ml_registry_pipelines.registry.errors import InvalidInput, LogDamaged, RegistryError
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.things import thing_of
from ml_registry_pipelines.webhooks.addresses import Allowed
from ml_registry_pipelines.webhooks.marks import Mark, Marks
from ml_registry_pipelines.webhooks.posting import WHOLE_SECONDS, Poster
from ml_registry_pipelines.webhooks.subscriptions import KIND, Subscription, subscription_of

READ_AT_ONCE = 500
MARK_EVERY = 50
"""Deliveries after which the mark is moved: what a kill may repeat at most."""
MARK_SILENT = 5_000
"""Events that a filter passes over before the mark is moved for them alone."""
AT_ONCE = 8
"""Subscribers that are told at the same time."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """A subscription, how far it is, and what is left."""

    subscription: Subscription
    mark: Mark
    head: int

    @property
    def waiting(self) -> int:
        """Events of the log that were not looked at for it yet."""
        return max(0, self.head - self.mark.delivered)


@dataclass(frozen=True)
class Told:
    """What a round of deliveries did."""

    sent: int
    standings: tuple[Standing, ...]

    @property
    def dead(self) -> tuple[Standing, ...]:
        return tuple(standing for standing in self.standings if standing.mark.dead)

    @property
    def next_attempt_at(self) -> datetime | None:
        """When the first of those that failed is tried again."""
        return min((s.mark.next_attempt_at for s in self.standings if s.mark.next_attempt_at), default=None)

    @property
    def all_told(self) -> bool:
        """Whether nothing waits but for those that failed."""
        return all(not s.waiting or s.mark.next_attempt_at for s in self.standings)


class Outbox:
    """Delivers the events of all tenants.

    Args:
        now: the clock, for tests about time.
        whole_seconds: time for one delivery.
    """

    def __init__(
        self,
        log: Log,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        whole_seconds: float = WHOLE_SECONDS,
    ) -> None:
        self._log = log
        self._now = now
        self._marks = Marks(log.lake, WEBHOOK_MARKS, "webhook_id", now)
        self._whole_seconds = whole_seconds

    def standings(self, tenant: str | None = None) -> list[Standing]:
        """All subscriptions with their marks, of all tenants or one."""
        marks = self._marks.all()
        return [
            Standing(subscription, self._mark(subscription, marks.get(subscription.id)), head)
            for name in ([tenant] if tenant else self._log.tenants())
            for head in [self._log.head(name)[0]]
            for subscription in self._subscriptions(name)
        ]

    def deliver(self, *, seconds: float = 15.0) -> Told:
        """Tell every subscriber what it was not told yet, for about so long.

        Raises:
            LakeError: a mark cannot be written; events are told again then.
        """
        until = time.monotonic() + seconds
        standings = self.standings()
        due = [s for s in standings if s.waiting and not s.mark.pauses(self._now())]
        if due:
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mlreg-webhooks") as pool:
                told = {s.subscription.id: pool.submit(self._tell, s, until) for s in due}
            marks = {identity: done.result() for identity, done in told.items()}
        else:
            marks = {}
        after = [replace(s, mark=marks.get(s.subscription.id, s.mark)) for s in standings]
        sent = sum(a.mark.sent - b.mark.sent for a, b in zip(after, standings, strict=True))
        return Told(sent, tuple(after))

    # -- telling one -------------------------------------------------------------------

    def _tell(self, standing: Standing, until: float) -> Mark:
        subscription, written = standing.subscription, standing.mark
        mark = written
        try:
            poster = Poster(
                subscription.address(),
                subscription.secret.read(),
                Allowed.from_environment(),
                self._whole_seconds,
            )
        except RegistryError as wrong:
            return self._marks.keep(mark.failed(str(wrong), self._now()))
        for event in self._events(subscription.tenant, mark.delivered, standing.head):
            if subscription.wants(event):
                try:
                    poster.post(event)
                except RegistryError as wrong:
                    return self._marks.keep(mark.failed(f"event {event.sequence}: {wrong}", self._now()))
                mark = mark.took(delivered=event.sequence)
            else:
                mark = replace(mark, delivered=event.sequence)
            if mark.sent - written.sent >= MARK_EVERY or mark.delivered - written.delivered >= MARK_SILENT:
                mark = written = self._marks.keep(mark)
            if time.monotonic() > until:
                break
        return mark if mark == written else self._marks.keep(mark)

    def _events(self, tenant: str, after: int, head: int) -> Iterator[Any]:
        while after < head:
            wanted = range(after + 1, min(after + READ_AT_ONCE, head) + 1)
            found = self._log.events(tenant, wanted)
            if [event.sequence for event in found] != list(wanted):
                raise LogDamaged(
                    f"events of tenant {tenant!r} are missing after {after}, so webhooks cannot be told; "
                    "run `mlreg audit verify`"
                )
            yield from found
            after = wanted[-1]

    # -- marks -------------------------------------------------------------------------

    def _subscriptions(self, tenant: str) -> list[Subscription]:
        found = self._log.view(tenant).select(
            "webhooks.subscriptions", "things", "type = $kind AND NOT deleted", parameters={"kind": KIND}
        )
        subscriptions = []
        for state in found:
            try:
                subscriptions.append(subscription_of(thing_of(state)))
            except InvalidInput as wrong:
                # It must not keep events from the others.
                _logger.warning("%s", wrong)
        return subscriptions

    def _mark(self, subscription: Subscription, found: Mark | None) -> Mark:
        if found is not None and found.epoch == subscription.epoch:
            return found
        # Not told yet, or to be told again.
        first = Mark(subscription.tenant, subscription.id, subscription.epoch, subscription.first - 1)
        return first if found is None else replace(first, sent=found.sent, revision=found.revision)
