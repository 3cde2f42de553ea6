"""Who gets which report: subscriptions of the kind `report_subscription`, as events of the log.

A subscription is of one tenant and names a report, how often, and a recipient of
`recipients.py`. It is about its own tenant; the operator's may be about any other, or all.
What is due to whom, and whether it came, is `courier.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.access.policy import admit
from ml_registry_pipelines.costs.periods import PeriodKind
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.names import checked_name, checked_tenant
from ml_registry_pipelines.registry.references import check_free, named
from ml_registry_pipelines.registry.states import State
from ml_registry_pipelines.registry.tenants import settings_in
from ml_registry_pipelines.reports.delivery.recipients import (
    Recipient,
    configured_recipients,
    recipient_for,
)
from ml_registry_pipelines.reports.kinds import KINDS, ReportKind
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View

KIND = "report_subscription"
ALL = "*"
"""Stands for all tenants where a scope is asked for."""
FURTHEST_BACK = timedelta(days=400)
"""How old the first period may be: what was never sent in over a year is a question, not a delivery."""


class Format(Enum):
    """What a recipient gets of a report."""

    HTML = "html"
    CSV = "csv"
    MARKDOWN = "markdown"


@dataclass(frozen=True)
class Subscription:
    """One subscription. `scope`: the tenant that the report is about; None: all of them.

    Periods are due from the one that holds day `first` on; `epoch` counts how often they were
    asked for again.
    """

    id: str
    tenant: str
    name: str
    report: str
    scope: str | None
    cadence: PeriodKind
    recipient: str
    formats: tuple[Format, ...]
    first: date
    epoch: int = 0
    removed: bool = False
    sequence: int = 0
    recorded_at: datetime | None = None
    actor: str = ""

    @property
    def kind(self) -> ReportKind:
        return KINDS[self.report]

    @property
    def status(self) -> str:
        """As commands tell it."""
        return "removed" if self.removed else "active"

    @property
    def about(self) -> str:
        """The scope in words."""
        return "all tenants" if self.scope is None else f"tenant {self.scope}"

    def recorded(self) -> dict[str, Any]:
        """The state as the log keeps it."""
        return {
            "name": self.name,
            "description": "",
            "status": "active",
            "deleted": self.removed,
            "metadata": {
                "report": self.report,
                "scope": self.scope,
                "cadence": self.cadence.value,
                "recipient": self.recipient,
                "formats": [each.value for each in self.formats],
                "first": self.first.isoformat(),
                "epoch": self.epoch,
            },
        }


@dataclass(frozen=True)
class NewSubscription:
    """What is asked for. No scope: the tenant itself; `*`: all. No cadence: the report's usual one.

    No first day: the period under way is the first one.
    """

    name: str
    report: str
    recipient: str
    scope: str | None = None
    cadence: PeriodKind | str | None = None
    formats: Sequence[Format | str] = (Format.HTML, Format.CSV)
    first: date | None = None


class ReportSubscriptions(Desk):
    """Subscriptions of one tenant, for one actor. Every verb is one event."""

    def add(self, given: NewSubscription, *, idempotency_key: str | None = None) -> Subscription:
        """Subscribe a recipient to a report.

        Raises:
            InvalidInput: there is no such report or recipient, or the scope is not the tenant's to ask about.
            NotAllowed: it is about another tenant, or all, of which the actor may not read.
            NameTaken: there is a subscription of that name.
        """
        asked = self._planned(given)
        change = {"name": asked.name, **asked.recorded()["metadata"]}
        if given.first is None:
            # What it comes to depends on the day, and the same command given again is the same.
            del change["first"]

        def decide(view: View) -> list[Change]:
            check_free(view, KIND, asked.name)
            return [Change(KIND, asked.id, asked.recorded())]

        done = self.do("add_report_subscription", KIND, change, decide, idempotency_key=idempotency_key)
        return subscription_of(state_of(done))

    def remove(self, name: str, *, idempotency_key: str | None = None) -> Subscription:
        """End a subscription.

        Raises:
            NotFound: there is none.
        """

        def decide(view: View) -> list[Change]:
            old = subscription_of(living_subscription(view, name))
            return [Change(KIND, old.id, {**old.recorded(), "deleted": True})]

        done = self.do(
            "remove_report_subscription", KIND, {"of": name}, decide, idempotency_key=idempotency_key
        )
        return subscription_of(state_of(done))

    def redeliver(self, name: str, first: date, *, idempotency_key: str | None = None) -> Subscription:
        """Send again every period from the one that holds day `first` on, and what was given up.

        Raises:
            NotFound: there is no such subscription.
            InvalidInput: the day is too long ago.
        """
        day = _checked_first(first)

        def decide(view: View) -> list[Change]:
            old = subscription_of(living_subscription(view, name))
            return [Change(KIND, old.id, replace(old, first=day, epoch=old.epoch + 1).recorded())]

        done = self.do(
            "redeliver_reports",
            KIND,
            {"of": name, "first": day.isoformat()},
            decide,
            idempotency_key=idempotency_key,
        )
        return subscription_of(state_of(done))

    def list(self) -> list[Subscription]:
        """The subscriptions that are not removed, by name."""
        return sorted(subscriptions_in(self.view()), key=lambda each: each.name)

    def get(self, name: str) -> Subscription:
        """One subscription by name or id.

        Raises:
            NotFound: there is none.
        """
        return subscription_of(living_subscription(self.view(), name))

    def _planned(self, given: NewSubscription) -> Subscription:
        kind = KINDS.get(given.report)
        if kind is None:
            raise InvalidInput(f"there is no report {shown(given.report)}; there are {', '.join(KINDS)}")
        scope = self._scope(given.scope, kind)
        cadence = _cadence(given.cadence, kind)
        recipient = self._recipient(given.recipient)
        zone = settings_in(self.view()).zone
        first = given.first or datetime.now(UTC).astimezone(zone).date()
        return Subscription(
            new_id(),
            self.tenant,
            checked_name(given.name, "name of a subscription"),
            given.report,
            scope,
            cadence,
            recipient.name,
            _formats(given.formats),
            _checked_first(first),
        )

    def _scope(self, given: str | None, kind: ReportKind) -> str | None:
        scope = self.tenant if given is None else None if given == ALL else checked_tenant(given)
        if scope != self.tenant and self.tenant != operator_tenant():
            raise InvalidInput(
                f"tenant {shown(self.tenant)} gets reports about itself alone; the operator's tenant, "
                f"{operator_tenant()}, may subscribe to others and to all"
            )
        if scope != self.tenant:
            admit(self.log, self.actor, scope, what="reports subscribe")
        if scope is None and not kind.of_all:
            raise InvalidInput(f"the report {kind.name} is about one tenant; give its name")
        return scope

    def _recipient(self, name: str) -> Recipient:
        return recipient_for(configured_recipients(self.log.lake.root), name, self.tenant)


def operator_tenant() -> str:
    """The tenant of who runs the registry: what `MLREG_TENANT` says, or `default`."""
    return Settings.from_environment().tenant or "default"


def subscriptions_in(view: View) -> list[Subscription]:
    """The subscriptions of a tenant that are not removed, the oldest first."""
    states = view.select(
        "reports.subscriptions",
        "things",
        "type = $type AND NOT deleted",
        order="from_sequence",
        parameters={"type": KIND},
    )
    return [subscription_of(state) for state in states]


def all_subscriptions(log: Log) -> list[Subscription]:
    """Those of every tenant."""
    return [found for tenant in log.tenants() for found in subscriptions_in(log.view(tenant))]


def living_subscription(view: View, name: str) -> State:
    """The subscription with that name or id.

    Raises:
        NotFound: there is none, or it was removed.
    """
    found = [state for state in named(view, KIND, name) if not state.deleted]
    by_id = view.by_id("things", name)
    if by_id is not None and by_id.entity_type == KIND and not by_id.deleted:
        found.append(by_id)
    if not found:
        raise NotFound("report subscription", name, view.tenant)
    return found[0]


def subscription_of(state: State) -> Subscription:
    """The state of a subscription as a value."""
    data: Mapping[str, Any] = state.data["metadata"]
    return Subscription(
        state.id,
        state.tenant,
        state.name,
        str(data["report"]),
        None if data["scope"] is None else str(data["scope"]),
        PeriodKind(data["cadence"]),
        str(data["recipient"]),
        tuple(Format(each) for each in data["formats"]),
        date.fromisoformat(data["first"]),
        int(data["epoch"]),
        bool(state.deleted),
        state.sequence,
        state.recorded_at,
        state.actor,
    )


def _cadence(given: PeriodKind | str | None, kind: ReportKind) -> PeriodKind:
    if given is None:
        return kind.cadences[0]
    known = {each.value: each for each in kind.cadences}
    found = known.get(given.value if isinstance(given, PeriodKind) else str(given))
    if found is None:
        raise InvalidInput(f"the report {kind.name} is made by {' or '.join(known)}, not {shown(str(given))}")
    return found


def _formats(given: Iterable[Format | str]) -> tuple[Format, ...]:
    known = {each.value: each for each in Format}
    found = {each if isinstance(each, Format) else known.get(str(each)) for each in given}
    if not found or None in found:
        raise InvalidInput(f"formats are some of {', '.join(known)}, at least one")
    return tuple(each for each in Format if each in found)


def _checked_first(first: date) -> date:
    if isinstance(first, datetime) or not isinstance(first, date):
        raise InvalidInput(f"the first day {shown(str(first))} is no date")
    today = datetime.now(UTC).date()
    if first < today - FURTHEST_BACK:
        raise InvalidInput(
            f"the first day {first} is over {FURTHEST_BACK.days} days ago; make older reports with `mlreg reports make`"
        )
    if first > today + FURTHEST_BACK:
        raise InvalidInput(f"the first day {first} is over {FURTHEST_BACK.days} days ahead")
    return first
