"""What all verbs share: who acts in which tenant, and how a command reaches the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from ml_registry_pipelines.registry.actors import ANY, READ, Actor, Request
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.commands import Change, Command, Done
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.names import checked_instant, checked_key, checked_tenant
from ml_registry_pipelines.registry.states import State, from_rows
from ml_registry_pipelines.registry.view import View


class Desk:
    """Verbs of one actor in one tenant. Cheap to make: the log behind it is what is shared.

    Args:
        log: the log of the lake, one per process.
        actor: who acts, as the door has stamped it.
        tenant: the organisation.
        run_id: the Dagster run that the commands come from.
    """

    def __init__(self, log: Log, *, actor: Actor, tenant: str = "default", run_id: str | None = None) -> None:
        self.log = log
        self.actor = actor
        self.tenant = checked_tenant(tenant)
        self.run_id = run_id

    def view(self, as_of: datetime | None = None, *, about: tuple[str, str] | None = None) -> View:
        """What holds now, or what had been recorded at an instant.

        `about`: kind and name of the one thing that is looked at, by which a grant for it alone is found.

        Raises:
            NotAllowed: the policy does not let the actor read.
        """
        if as_of is not None:
            checked_instant(as_of, "time")
        kind, change = (ANY, {}) if about is None else (about[0], {"of": about[1], "version": about[1]})
        with self.log.steady():
            self.log.ask(Request(self.actor, self.tenant, READ, kind, change))
            return self.log.view(self.tenant, as_of=as_of)

    def now(self) -> View:
        """What holds now, for a command that is under way or has been done, which the policy allowed."""
        return self.log.view(self.tenant)

    def ask(self, action: str, entity_type: str, change: Mapping[str, object]) -> None:
        """Ask about a command before anything is stored or looked up for it; it is asked about again when given.

        Raises:
            NotAllowed: the policy refuses.
        """
        self.log.ask(Request(self.actor, self.tenant, action, entity_type, change))

    def do(
        self,
        action: str,
        entity_type: str,
        change: Mapping[str, object],
        decide: Callable[[View], Sequence[Change]],
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Done:
        """Give a command."""
        if valid_from is not None:
            checked_instant(valid_from, "effective time")
        return self.log.run(
            Command(
                self.tenant,
                self.actor,
                action,
                entity_type,
                change,
                decide,
                idempotency_key=idempotency_key,
                valid_from=valid_from,
                run_id=self.run_id,
            )
        )

    def given_before(self, action: str, idempotency_key: str | None) -> bool:
        """Whether a command was given under the key, so that giving it again looks nothing up anew."""
        return idempotency_key is not None and bool(
            self.log.done_under(self.tenant, action, checked_key(idempotency_key))
        )


def state_of(done: Done, part: int = 0) -> State:
    """The state that an event of a command began."""
    event = done.events[part]
    return State(
        event.tenant,
        event.entity_type,
        event.entity_id,
        event.sequence,
        event.position,
        event.recorded_at,
        event.valid_from,
        event.actor,
        event.action,
        canonical(event.state),
    )


def effective(
    view: View, table: str, where: str, parameters: Mapping[str, object], at: datetime
) -> list[State]:
    """For each entity the state that held at an instant, by effective time, as far as the view knows.

    What is recorded later overrides what was recorded before, from its own effective time
    on: of the states that hold from then or earlier, the one recorded last wins. So what
    holds now is always the newest state.
    """
    rows = view.over_states(
        f"registry.{table}.effective",
        table,
        f"""
        SELECT * FROM states
        WHERE from_sequence <= $at AND valid_from <= $instant AND ({where})
        QUALIFY row_number() OVER (PARTITION BY id ORDER BY from_sequence DESC) = 1
        ORDER BY id
        """,
        {**parameters, "instant": at},
    )
    return from_rows(table, rows)
