"""Verbs for things of any kind: model, dataset, application, feature, prompt, team ...

What only models have (versions, stages, aliases) is in `models.py`; edges between things
are in `relationships.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from ml_registry_pipelines.registry.canonical import canonical, digest
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, effective, state_of
from ml_registry_pipelines.registry.errors import Deleted, InvalidInput, NameTaken, NotFound, StillNeeded
from ml_registry_pipelines.registry.events import BULK, Event, new_id
from ml_registry_pipelines.registry.names import (
    TagValue,
    checked_kind,
    checked_name,
    checked_owners,
    checked_text,
    tag_values,
    typed_tags,
)
from ml_registry_pipelines.registry.needs import live_user
from ml_registry_pipelines.registry.states import State
from ml_registry_pipelines.registry.view import View

BULK_ROWS = 10_000
"""Things of one bulk command."""


@dataclass(frozen=True)
class Thing:
    """A thing as it is in one state. `sequence` is the event that began the state."""

    tenant: str
    kind: str
    id: str
    name: str
    description: str
    tags: Mapping[str, TagValue]
    owners: tuple[str, ...]
    metadata: Mapping[str, Any]
    status: str
    deleted: bool
    aliases: Mapping[str, int]
    protected_aliases: tuple[str, ...]
    parent_id: str | None
    sequence: int
    recorded_at: datetime
    valid_from: datetime
    actor: str


@dataclass(frozen=True)
class NewThing:
    """What is registered about a thing."""

    name: str
    description: str = ""
    tags: Mapping[str, TagValue] = field(default_factory=dict)
    owners: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """The first state.

        Raises:
            InvalidInput: something of it cannot be recorded.
        """
        return {
            "name": checked_name(self.name),
            "description": checked_text(self.description, "description"),
            "tags": typed_tags(self.tags),
            "owners": checked_owners(self.owners),
            "metadata": dict(self.metadata),
            "status": "active",
            "deleted": False,
        }


def thing_of(state: State) -> Thing:
    """The state of a thing as a value."""
    data = state.data
    return Thing(
        tenant=state.tenant,
        kind=state.entity_type,
        id=state.id,
        name=data["name"],
        description=data.get("description", ""),
        tags=tag_values(data.get("tags", {})),
        owners=tuple(data.get("owners", ())),
        metadata=data.get("metadata", {}),
        status=data.get("status", "active"),
        deleted=state.deleted,
        aliases=data.get("aliases", {}),
        protected_aliases=tuple(data.get("protected_aliases", ())),
        parent_id=data.get("parent_id"),
        sequence=state.sequence,
        recorded_at=state.recorded_at,
        valid_from=state.valid_from,
        actor=state.actor,
    )


def named(view: View, kind: str, name: str) -> list[State]:
    """All things of a kind with the name, deleted ones included; of the living there is one at most."""
    return [state for state in view.by_column("things", "name", name) if state.entity_type == kind]


def living(view: View, kind: str, given: str) -> State:
    """The living thing with that name or id.

    Raises:
        NotFound: there is none and never was.
        Deleted: it is deleted.
    """
    found = named(view, kind, given)
    by_id = view.by_id("things", given) if not found else None
    if by_id is not None and by_id.entity_type == kind:
        found = [by_id]
    for state in found:
        if not state.deleted:
            return state
    if found:
        raise Deleted(kind, found[0].name)
    raise NotFound(kind.replace("_", " "), given, view.tenant)


def check_free(view: View, kind: str, name: str, *, but: str | None = None) -> None:
    """Raises `NameTaken` when a living thing, other than `but`, has the name."""
    if any(not state.deleted and state.id != but for state in named(view, kind, name)):
        raise NameTaken(kind.replace("_", " "), name, view.tenant)


class Things(Desk):
    """Things of any kind: each verb is one atomic command, visible to the next read."""

    # -- commands ----------------------------------------------------------------------

    def register(
        self,
        kind: str,
        name: str,
        *,
        description: str = "",
        tags: Mapping[str, TagValue] | None = None,
        owners: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Register a thing.

        Raises:
            NameTaken: a living thing of that kind has the name.
            InvalidInput: a name, tag or owner cannot be recorded.
        """
        state = NewThing(name, description, tags or {}, owners, metadata or {}).recorded()

        def decide(view: View) -> list[Change]:
            check_free(view, kind, state["name"])
            return [Change(kind, new_id(), state)]

        done = self.do(
            f"register_{checked_kind(kind)}",
            kind,
            state,
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return thing_of(state_of(done))

    def register_many(
        self, kind: str, things: Iterable[NewThing], *, idempotency_key: str | None = None
    ) -> int:
        """Register many things, `BULK_ROWS` per command; return how many.

        Each command is one event and lands whole or not at all, so that an error in a later
        one leaves the earlier ones registered; under the same idempotency key those are not
        done twice.

        Raises:
            NameTaken: a name is taken, or given twice.
        """
        checked_kind(kind)
        given = iter(things)
        count = 0
        while chunk := [(new_id(), thing.recorded()) for thing in islice(given, BULK_ROWS)]:
            key = None if idempotency_key is None else f"{idempotency_key}#{count}"
            self._register_chunk(kind, chunk, key)
            count += len(chunk)
        return count

    def _register_chunk(self, kind: str, chunk: list[tuple[str, dict[str, Any]]], key: str | None) -> None:
        names = [state["name"] for _, state in chunk]
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise NameTaken(kind, name, self.tenant)
            seen.add(name)
        texts = [canonical(state) for _, state in chunk]
        file = self.log.bulk.write([(kind, i, text) for (i, _), text in zip(chunk, texts, strict=True)])

        def decide(view: View) -> list[Change]:
            for state in view.by_any("things", "name", names):
                if state.entity_type == kind and not state.deleted:
                    raise NameTaken(kind, state.name, view.tenant)
            return [Change(BULK, new_id(), {"entity_type": kind, "entities": len(chunk), "file": file})]

        change = {"entities": len(chunk), "states": digest(texts)}
        self.do(f"register_many_{kind}", kind, change, decide, idempotency_key=key)

    def rename(self, kind: str, name: str, to: str, *, idempotency_key: str | None = None) -> Thing:
        """Give a thing another name; what refers to it follows, since references are by id."""
        new = checked_name(to)

        def edit(state: State, view: View) -> dict[str, Any]:
            check_free(view, kind, new, but=state.id)
            return {"name": new}

        return self.amend(f"rename_{kind}", kind, name, {"to": new}, edit, idempotency_key=idempotency_key)

    def describe(self, kind: str, name: str, text: str, *, idempotency_key: str | None = None) -> Thing:
        """Replace the description."""
        change = {"description": checked_text(text, "description")}
        return self.amend(
            f"describe_{kind}", kind, name, change, lambda _, __: change, idempotency_key=idempotency_key
        )

    def tag(
        self,
        kind: str,
        name: str,
        tags: Mapping[str, TagValue] | None = None,
        *,
        remove: Iterable[str] = (),
        idempotency_key: str | None = None,
    ) -> Thing:
        """Set some tags and remove others."""
        added, removed = typed_tags(tags or {}), sorted(remove)

        def edit(state: State, _: View) -> dict[str, Any]:
            kept = {k: v for k, v in state.data.get("tags", {}).items() if k not in removed}
            return {"tags": {**kept, **added}}

        return self.amend(
            f"tag_{kind}",
            kind,
            name,
            {"tags": added, "remove": removed},
            edit,
            idempotency_key=idempotency_key,
        )

    def set_owners(
        self, kind: str, name: str, owners: Iterable[str], *, idempotency_key: str | None = None
    ) -> Thing:
        """Replace the owners: teams, or pseudonyms of people."""
        change = {"owners": checked_owners(owners)}
        return self.amend(
            f"set_owners_of_{kind}", kind, name, change, lambda _, __: change, idempotency_key=idempotency_key
        )

    def set_metadata(
        self, kind: str, name: str, metadata: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Thing:
        """Replace the metadata, any JSON object."""
        change = {"metadata": dict(metadata)}
        return self.amend(
            f"set_metadata_of_{kind}",
            kind,
            name,
            change,
            lambda _, __: change,
            idempotency_key=idempotency_key,
        )

    def delete(self, kind: str, name: str, *, idempotency_key: str | None = None) -> Thing:
        """Delete a thing so that it can be restored; its name becomes free.

        Raises:
            StillNeeded: a live version learned from it, or it is deployed.
        """

        def edit(state: State, view: View) -> dict[str, Any]:
            if needed := needed_by(view, state) or live_user(view, state):
                raise StillNeeded(f"{kind} {state.name!r} cannot be deleted: {needed}")
            return {"deleted": True}

        return self.amend(f"delete_{kind}", kind, name, {}, edit, idempotency_key=idempotency_key)

    def restore(self, kind: str, name: str, *, idempotency_key: str | None = None) -> Thing:
        """Take back a deletion; of several deleted things with the name, the last one.

        Raises:
            NotFound: nothing deleted has that name or id.
            NameTaken: another thing has taken the name since.
        """

        def decide(view: View) -> list[Change]:
            found = [s for s in named(view, kind, name) if s.deleted]
            if (
                (by_id := view.by_id("things", name)) is not None
                and by_id.entity_type == kind
                and by_id.deleted
            ):
                found = [by_id]
            if not found:
                raise NotFound(f"deleted {kind}", name, view.tenant)
            state = max(found, key=lambda s: s.sequence)
            check_free(view, kind, state.name)
            return [Change(kind, state.id, {**state.data, "deleted": False})]

        done = self.do(f"restore_{kind}", kind, {"of": name}, decide, idempotency_key=idempotency_key)
        return thing_of(state_of(done))

    def amend(
        self,
        action: str,
        kind: str,
        name: str,
        change: Mapping[str, object],
        edit: Callable[[State, View], Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Change a living thing: `edit` gives the fields that get other values."""
        checked_kind(kind)

        def decide(view: View) -> list[Change]:
            state = living(view, kind, name)
            return [Change(kind, state.id, {**state.data, **edit(state, view)})]

        done = self.do(
            action,
            kind,
            {"of": name, **change},
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return thing_of(state_of(done))

    # -- questions -----------------------------------------------------------------------

    def get(
        self, kind: str, name: str, *, as_of: datetime | None = None, valid_at: datetime | None = None
    ) -> Thing:
        """The living thing with that name or id.

        Args:
            as_of: as it had been recorded at this instant.
            valid_at: as it held at this instant, by effective time.

        Raises:
            NotFound: there was none.
            Deleted: it was deleted.
        """
        view = self.view(as_of)
        state = living(view, kind, name)
        if valid_at is not None:
            found = effective(view, "things", "id = $id", {"id": state.id}, valid_at)
            if not found:
                raise NotFound(kind, name, self.tenant, hint=f" that held on {valid_at.isoformat()}")
            state = found[0]
        return thing_of(state)

    def find(
        self,
        kind: str | None = None,
        *,
        text: str | None = None,
        tags: Mapping[str, TagValue] | None = None,
        owner: str | None = None,
        status: str | None = None,
        alias: str | None = None,
        ids: Sequence[str] | None = None,
        deleted: bool = False,
        after: str | None = None,
        limit: int | None = None,
        as_of: datetime | None = None,
    ) -> list[Thing]:
        """Things that meet all conditions, by name.

        Args:
            text: occurs in name or description, in any case.
            tags: all of them are set, type and value alike.
            owner: is among the owners.
            alias: is one of its aliases.
            deleted: find the deleted ones and not the living.
            after: the name of the last one of the page before.
        """
        if limit is not None and limit < 1:
            raise InvalidInput("a limit is at least 1")
        rows = self.view(as_of).select(
            "registry.find",
            "things",
            """
            ($kind IS NULL OR type = $kind) AND deleted = $deleted
            AND (
              $text IS NULL OR contains(lower(name), lower($text))
              OR contains(lower(description), lower($text))
            )
            AND ($tags IS NULL OR json_contains(json_extract(state, '$.tags'), $tags))
            AND ($owner IS NULL OR json_contains(json_extract(state, '$.owners'), $owner))
            AND ($status IS NULL OR status = $status)
            AND ($alias IS NULL OR json_contains(json_keys(json_extract(state, '$.aliases'))::JSON, $alias))
            AND ($ids::VARCHAR[] IS NULL OR id IN (SELECT unnest($ids::VARCHAR[])))
            AND ($after IS NULL OR name > $after)
            """,
            order="name, type, id",
            limit=limit,
            parameters={
                "kind": kind,
                "deleted": deleted,
                "text": text,
                "tags": canonical(typed_tags(tags)) if tags else None,
                "owner": canonical(owner) if owner else None,
                "status": status,
                "alias": canonical(alias) if alias else None,
                "ids": None if ids is None else list(ids),
                "after": after,
            },
        )
        return [thing_of(state) for state in rows]

    def history(self, kind: str, name: str) -> list[Event]:
        """Every event about a thing, oldest first; a bulk event stands for its part in it."""
        view = self.view()
        found = [*named(view, kind, name)] or [s for s in [view.by_id("things", name)] if s is not None]
        if not found:
            raise NotFound(kind, name, self.tenant)
        states = [s for state in found for s in view.history("things", state.id)]
        return self.log.events(self.tenant, sorted({s.sequence for s in states}))

    def history_of(self, table: str, entity: str) -> Iterator[State]:
        """Every state of any entity by id, oldest first."""
        yield from self.view().history(table, entity)


def needed_by(view: View, state: State) -> str | None:
    """Why a thing cannot be deleted now: what lives and depends on it."""
    if state.entity_type == "dataset":
        versions = [s.id for s in view.by_column("things", "parent_id", state.id) if not s.deleted]
    else:
        versions = [state.id]
    for edge in view.by_any("relationships", "target_id", versions):
        if edge.deleted or edge.data["type"] not in {"trained_on", "evaluated_on", "derived_from"}:
            continue
        user = view.by_id("model_versions", str(edge.data["source_id"]))
        if (
            user is not None
            and not user.deleted
            and user.data["stage"] in {"production", "staging", "shadow"}
        ):
            model = view.by_id("things", str(user.data["model_id"]))
            name = model.name if model else user.data["model_id"]
            return (
                f"version v{user.data['version']} of {name!r} is in {user.data['stage']} "
                f"and was {edge.data['type']} it"
            )
    if state.entity_type == "model":
        for version in view.by_column("model_versions", "model_id", state.id):
            if not version.deleted and version.data["stage"] == "production":
                return f"version v{version.data['version']} is in production; archive it first"
    return None
