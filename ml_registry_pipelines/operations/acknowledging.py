"""Who has taken on an alert, and until when: decided by people, so it is an event of the log.

The event comes first and its note on the alert's rows follows, by whoever gives the command
or by the next look at the alerts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.users import EVERY_TENANT
from ml_registry_pipelines.operations.alerts import Acknowledged, Alerts, Occurrence, Settled
from ml_registry_pipelines.registry.actors import ANY, READ, Request
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.events import new_id, now
from ml_registry_pipelines.registry.names import checked_instant, checked_text
from ml_registry_pipelines.registry.references import named
from ml_registry_pipelines.registry.states import State, from_rows

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View

KIND = "alert_acknowledgement"
LONGEST = timedelta(days=366)
LONGEST_NOTE = 1_000


class Acknowledgements(Desk):
    """Acknowledgements by one actor, in the log of one tenant. Every verb is one event."""

    def acknowledge(
        self,
        alert: str,
        until: datetime,
        *,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> Occurrence:
        """Take on an open alert until a time: sinks hear of its key only if it gets worse, and then that it is over.

        Where it is still open at that time, they are reminded. Acknowledging again sets another time.

        Args:
            alert: its key, or the beginning of its id.

        Raises:
            NotFound: no open alert has that key or id.
            InvalidInput: the time is past, or more than a year ahead, or the alert concerns another tenant.
        """
        ends = checked_instant(until, "end of the acknowledgement").astimezone(UTC)
        at = now()
        if not at < ends <= at + LONGEST:
            raise InvalidInput(
                f"an acknowledgement ends within the next {LONGEST.days} days, not on {ends.isoformat()}"
            )
        if len(checked_text(note, "note")) > LONGEST_NOTE:
            raise InvalidInput(f"the note has {len(note):,} characters; at most {LONGEST_NOTE:,} are kept")
        occurrence = self._own(alert, "acknowledge_alert")
        metadata = {
            "alert_key": occurrence.key,
            "until": ends.isoformat(),
            "severity": occurrence.severity.value,
        }

        def decide(view: View) -> list[Change]:
            old = _state(view, occurrence.alert_id)
            return [_change(old, occurrence, note, metadata)]

        change = {"alert": occurrence.alert_id, "note": note, **metadata}
        self.do("acknowledge_alert", KIND, change, decide, idempotency_key=idempotency_key)
        note_acknowledgements(self.log)
        return occurrence

    def _own(self, alert: str, action: str) -> Occurrence:
        """The open alert, if it concerns this tenant; one that concerns none, for who may act in every one."""
        found = find_open(self.log.lake, alert, self._reads)
        if found.tenant is None:
            self.log.ask(Request(self.actor, EVERY_TENANT, action, KIND, {}))
        elif found.tenant != self.tenant:
            raise InvalidInput(
                f"alert {shown(found.key)} concerns tenant {shown(found.tenant or '')}, not "
                f"{shown(self.tenant)}; acknowledge it there"
            )
        return found

    def _reads(self, tenant: str | None) -> bool:
        asked = Request(self.actor, EVERY_TENANT if tenant is None else tenant, READ, ANY, {})
        return self.log.decision(asked).allowed

    def withdraw(self, alert: str, *, idempotency_key: str | None = None) -> Occurrence:
        """Give an alert back: sinks are reminded of it.

        Raises:
            IllegalTransition: nobody has it.
        """
        occurrence = self._own(alert, "withdraw_acknowledgement")

        def decide(view: View) -> list[Change]:
            old = _state(view, occurrence.alert_id)
            if old is None or old.deleted:
                raise IllegalTransition(f"nobody has acknowledged alert {shown(occurrence.key)}")
            return [Change(KIND, old.id, {**old.data, "deleted": True})]

        change = {"alert": occurrence.alert_id}
        self.do("withdraw_acknowledgement", KIND, change, decide, idempotency_key=idempotency_key)
        note_acknowledgements(self.log)
        return occurrence


def note_acknowledgements(log: Log, alerts: Alerts | None = None) -> Settled:
    """Bring the rows of open alerts up to what the log says of who has them."""
    alerts = alerts or Alerts(log.lake)
    open_now = {occurrence.alert_id: occurrence for occurrence in alerts.standing()}
    if not open_now or not log.lake.exists("governance_events"):
        return Settled()
    rows = log.view("default").of_all_tenants(
        "alerts.acknowledged",
        "things",
        "SELECT * FROM current WHERE type = $kind AND list_contains($alerts, name) ORDER BY recorded_at",
        {"kind": KIND, "alerts": list(open_now)},
    )
    newest = {state.name: state for state in from_rows("things", rows)}
    return alerts.acknowledge(*(_acknowledged(state) for state in newest.values()))


def find_open(lake: Lake, given: str, reads: Callable[[str | None], bool]) -> Occurrence:
    """The open alert with a key, or whose id begins so, among those of tenants that who asks may read.

    Raises:
        NotFound: there is none.
        InvalidInput: several ids begin so.
    """
    standing = [o for o in Alerts(lake).standing() if reads(o.tenant)]
    found = [o for o in standing if o.key == given]
    if not found and len(given) >= 4:
        found = [o for o in standing if o.alert_id.startswith(given)]
    if len(found) > 1:
        raise InvalidInput(
            f"{len(found)} open alerts have an id that begins with {shown(given)}; give more of it"
        )
    if not found:
        raise NotFound("open alert", given, "*", hint="; `mlreg alerts` lists those there are")
    return found[0]


def _acknowledged(state: State) -> Acknowledged:
    return Acknowledged(
        state.name,
        state.actor,
        datetime.fromisoformat(state.data["metadata"]["until"]),
        f"{state.tenant}/{state.sequence}",
        str(state.data.get("description", "")),
        withdrawn=state.deleted,
    )


def _state(view: View, alert_id: str) -> State | None:
    found: Sequence[State] = named(view, KIND, alert_id)
    return found[0] if found else None


def _change(old: State | None, occurrence: Occurrence, note: str, metadata: dict[str, str]) -> Change:
    state = {
        "name": occurrence.alert_id,
        "description": note,
        "status": "active",
        "deleted": False,
        "metadata": metadata,
    }
    return Change(KIND, old.id if old else new_id(), state)
