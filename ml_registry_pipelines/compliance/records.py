"""The governance history of a tenant: events found by who, what, about what and when; and events of people's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ml_registry_pipelines.compliance.approvals.verbs import checked_comment
from ml_registry_pipelines.compliance.gate.deciding import REFUSAL
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound, RegistryError, shown
from ml_registry_pipelines.registry.events import Event, from_arrow, new_id
from ml_registry_pipelines.registry.names import checked_instant, checked_name
from ml_registry_pipelines.registry.references import named, version_state, versions_of
from ml_registry_pipelines.registry.states import MODEL
from ml_registry_pipelines.registry.view import View

NOTE = "governance_note"
MOST = 10_000
MOST_FIELDS = 50
_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class History:
    """A page of events, the newest first; with `cursor` the next one begins."""

    events: tuple[Event, ...]
    cursor: int | None = None


class Records(Desk):
    """The records of one tenant, for one actor."""

    def log_event(
        self,
        kind: str,
        description: str,
        *,
        about: str | None = None,
        details: Mapping[str, str | int | float | bool] | None = None,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Event:
        """Record something that people did outside the registry, such as a meeting or an incident.

        It is a note: no gate reads it, whatever it says.

        Args:
            kind: in snake case, such as `incident` or `training_of_operators`.
            description: in words, without e-mail addresses: the log cannot forget.
            about: a model, a version such as `credit@v3`, or an id.
            details: plain values by name.
            valid_from: when it happened; by default now.

        Raises:
            InvalidInput: something of it cannot be recorded.
            NotFound: there is nothing that `about` means.
        """
        if not _KIND.fullmatch(kind):
            raise InvalidInput(f"{shown(kind)} is no kind of event: small letters, digits and _ only")
        checked_comment(description, "description")
        if not description.strip():
            raise InvalidInput("an event is described in words")
        given = dict(details or {})
        if len(given) > MOST_FIELDS:
            raise InvalidInput(f"an event has at most {MOST_FIELDS} details, not {len(given)}")
        for name, value in given.items():
            checked_comment(checked_name(name, "detail"), "detail")
            if not isinstance(value, str | int | float | bool):
                raise InvalidInput(
                    f"the detail {shown(name)} is a {type(value).__name__}; give a plain value"
                )
            if isinstance(value, str):
                checked_comment(value, f"detail {name}")

        def decide(view: View) -> list[Change]:
            state = {
                "name": f"{kind} {new_id()[:12]}",
                "description": description,
                "status": "active",
                "deleted": False,
                "parent_id": None if about is None else entity_ids(view, about)[0],
                "metadata": {"kind": kind, "details": given},
            }
            return [Change(NOTE, new_id(), state)]

        change = {"kind": kind, "description": description, "about": about, "details": given}
        done = self.do(
            "log_event", NOTE, change, decide, idempotency_key=idempotency_key, valid_from=valid_from
        )
        return done.events[0]

    def get_governance_history(
        self,
        *,
        entity: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: datetime | None = None,
        limit: int = 100,
        cursor: int | None = None,
    ) -> History:
        """Events that meet all conditions, the newest first.

        Args:
            entity: a model (then also its versions, their approvals, and what was refused them), a version, or an id.
            actor, action: exactly; an action may end in `*`.
            since, until: by when they were recorded, up to and not including `until`.
            as_of: as the log was at this instant.
            limit: events of a page, at most 10,000.
            cursor: from where the page before ended.

        Raises:
            NotFound: nothing has that name or id.
        """
        if not 1 <= limit <= MOST:
            raise InvalidInput(f"a page has 1 to {MOST:,} events, not {limit}")
        for moment, name in ((since, "since"), (until, "until")):
            if moment is not None:
                checked_instant(moment, name)
        view = self.view(as_of)
        if not self.log.lake.exists("governance_events"):
            return History(())
        parameters: dict[str, Any] = {
            "tenant": self.tenant,
            "at": 2**62 if view.at is None else view.at,
            "before": 2**62 if cursor is None else cursor,
            "sequences": None if entity is None else _sequences(view, entity),
            "actor": actor,
            "action": action,
            "prefix": action[:-1] if action and action.endswith("*") else None,
            "since": since,
            "until": until,
            "most": limit + 1,
        }
        with self.log.lake.read("governance_events") as reading:
            rows = reading.query(
                "compliance.governance_history",
                """
                SELECT * FROM governance_events
                WHERE tenant = $tenant AND sequence <= $at AND sequence < $before
                    AND ($sequences::BIGINT[] IS NULL OR sequence IN (SELECT unnest($sequences::BIGINT[])))
                    AND ($actor IS NULL OR actor = $actor)
                    AND ($action IS NULL OR action = $action OR starts_with(action, $prefix))
                    AND ($since IS NULL OR recorded_at >= $since)
                    AND ($until IS NULL OR recorded_at < $until)
                ORDER BY sequence DESC
                LIMIT $most
                """,
                parameters,
            )
        found = sorted(from_arrow(rows), key=lambda event: event.sequence, reverse=True)
        page = found[:limit]
        return History(tuple(page), page[-1].sequence if len(found) > limit else None)


def entity_ids(view: View, given: str) -> list[str]:
    """The ids of what a name means: first its own, then those of what belongs to it.

    Raises:
        NotFound: there is nothing of that name or id.
    """
    try:
        if "@" in given:
            return _of_version(view, version_state(view, given, deleted=True).id)
    except NotFound:
        raise
    except RegistryError as wrong:
        raise NotFound("entity", given, view.tenant, hint=f": {wrong}") from None
    for table in ("things", "model_versions", "approvals", "relationships"):
        state = view.by_id(table, given)
        if state is not None:
            if state.entity_type == MODEL:
                return _of_model(view, given)
            return _of_version(view, given) if table == "model_versions" else [given]
    models = named(view, MODEL, given)
    if not models:
        raise NotFound("model, version or id", given, view.tenant)
    return [i for model in models for i in _of_model(view, model.id)]


def _of_model(view: View, model: str) -> list[str]:
    versions = versions_of(view, model, deleted=True)
    return [model, *(i for v in versions for i in _of_version(view, v.id)), *_notes(view, model)]


def _of_version(view: View, version: str) -> list[str]:
    approvals = view.by_column("approvals", "subject_id", version)
    return [version, *(a.id for a in approvals), *_notes(view, version)]


def _notes(view: View, of: str) -> list[str]:
    return [s.id for s in view.by_column("things", "parent_id", of) if s.entity_type in {NOTE, REFUSAL}]


def _sequences(view: View, entity: str) -> Sequence[int]:
    """Events about it, those that list it among many included."""
    found: set[int] = set()
    for identity in entity_ids(view, entity):
        for table in ("things", "model_versions", "approvals", "relationships"):
            found.update(state.sequence for state in view.history(table, identity))
    return sorted(found)
