"""Verbs for things of any kind: model, dataset, application, feature, prompt, team ...

What only models have (versions, stages, aliases) is in `models.py`; edges between things
are in `relationships.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ml_registry_pipelines.registry.bulk import MAX_ROWS
from ml_registry_pipelines.registry.canonical import canonical, digest, spelled
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, effective, state_of
from ml_registry_pipelines.registry.errors import (
    IllegalTransition,
    InvalidInput,
    NameTaken,
    NotFound,
    StillNeeded,
    shown,
)
from ml_registry_pipelines.registry.events import BULK, MAX_PAYLOAD, Event, new_id
from ml_registry_pipelines.registry.names import (
    TagValue,
    checked_kind,
    checked_name,
    checked_owners,
    checked_text,
    tag_names,
    tag_values,
    typed_tags,
)
from ml_registry_pipelines.registry.needs import needed_by
from ml_registry_pipelines.registry.personal import refuse_addresses
from ml_registry_pipelines.registry.references import (
    check_free,
    check_parent,
    dataset_version_name,
    dataset_versions_of,
    known,
    living,
)
from ml_registry_pipelines.registry.states import (
    DATASET,
    DATASET_VERSION,
    DEPLOYMENT,
    State,
)
from ml_registry_pipelines.registry.view import View

OWN_VERBS = {
    DATASET_VERSION: "track_dataset",
    DEPLOYMENT: "track_deployment",
    "job": "the import of OpenLineage events",
    "run": "the import of OpenLineage events",
    "webhook": "`mlreg webhooks add`",
    "value_model": "`mlreg value-models`",
    "cost_closing": "`mlreg costs close`",
}
"""Kinds whose content other verbs record, and nothing else may."""
MAX_MANY = 1_000_000
"""Things of one command: their states, some 300 bytes each, are in memory until they are written."""


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

    @property
    def cursor(self) -> str:
        """Its place in a list by name; names alone leave open which of several is meant."""
        return spelled([self.name, self.kind, self.id])


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


def checked_state(thing: NewThing) -> str:
    """The first state of a thing as it will be recorded.

    Raises:
        InvalidInput: something of it cannot be recorded.
    """
    text = canonical(thing.recorded())
    refuse_addresses(text, "the registration")
    if len(text.encode()) > MAX_PAYLOAD:
        raise InvalidInput(
            f"{shown(thing.name)} has {len(text):,} characters of metadata and the rest, and the log keeps "
            f"{MAX_PAYLOAD:,} bytes at most; put large values into an artifact"
        )
    return text


def bulk_change(kind: str, entities: int, file: str) -> Change:
    """The change that gives many entities of a kind their states."""
    return Change(BULK, new_id(), {"entity_type": kind, "entities": entities, "file": file})


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


def _check_open(kind: str, verb: str) -> None:
    checked_kind(kind)
    if kind in OWN_VERBS:
        name = kind.replace("_", " ")
        raise InvalidInput(f"nobody can {verb} a {name} by hand; {OWN_VERBS[kind]} records it")


def place_of(cursor: str) -> tuple[str, str, str]:
    """What a thing's cursor says."""
    try:
        match json.loads(cursor):
            case [str(name), str(kind), str(id_)]:
                return name, kind, id_
    except ValueError:
        pass
    raise InvalidInput(
        f"{shown(cursor)} is no place in a list; give the cursor of the last thing of the page before"
    )


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
        _check_open(kind, "register")
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
        """Register many things in one atomic command; return how many.

        All are checked before anything is written. The command is one event per
        `bulk.MAX_ROWS` of them, each of which names a file that lists them.

        Raises:
            NameTaken: a name is taken, or given twice.
            InvalidInput: something of one of them cannot be recorded, or they are too many.
        """
        _check_open(kind, "register")
        states = list[tuple[str, str]]()
        for number, thing in enumerate(things, start=1):
            if number > MAX_MANY:
                raise InvalidInput(f"more than {MAX_MANY:,} things in one command; give them in parts")
            states.append((checked_name(thing.name), checked_state(thing)))
        names = [name for name, _ in states]
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise NameTaken(kind.replace("_", " "), twice, self.tenant)
        if not states:
            return 0
        action = f"register_many_{kind}"
        change = {"entities": len(states), "states": digest([state for _, state in states])}
        self.ask(action, kind, change)
        new = [] if self.given_before(action, idempotency_key) else states
        parts = [new[n : n + MAX_ROWS] for n in range(0, len(new), MAX_ROWS)]
        files = [(len(part), self.log.bulk.write([(kind, new_id(), s) for _, s in part])) for part in parts]

        def decide(view: View) -> list[Change]:
            for state in view.by_any("things", "name", names):
                if state.entity_type == kind and not state.deleted:
                    raise NameTaken(kind.replace("_", " "), state.name, view.tenant)
            return [bulk_change(kind, entities, file) for entities, file in files]

        self.do(action, kind, change, decide, idempotency_key=idempotency_key)
        return len(states)

    def rename(
        self,
        kind: str,
        name: str,
        to: str,
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Give a thing another name; what refers to it follows, since references are by id.

        The versions of a dataset are named after it, and follow in the same command.
        """
        new = checked_name(to)
        if kind == DATASET_VERSION:
            raise InvalidInput("a dataset version has the name of its dataset; rename the dataset")

        def decide(view: View) -> list[Change]:
            state = living(view, kind, name)
            check_free(view, kind, new, but=state.id)
            names = {state.id: (state, new)}
            if kind == DATASET:
                for version in dataset_versions_of(view, state.id, deleted=True):
                    number = version.data["metadata"]["number"]
                    names[version.id] = (version, dataset_version_name(new, number))
            return [
                Change(of.entity_type, of.id, {**of.data, "name": to}, {"to": to})
                for of, to in names.values()
            ]

        done = self.do(
            f"rename_{checked_kind(kind)}",
            kind,
            {"of": name, "to": new},
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return thing_of(state_of(done))

    def describe(
        self,
        kind: str,
        name: str,
        text: str,
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Replace the description."""
        change = {"description": checked_text(text, "description")}
        return self.amend(
            f"describe_{kind}",
            kind,
            name,
            change,
            lambda _, __: change,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )

    def tag(
        self,
        kind: str,
        name: str,
        tags: Mapping[str, TagValue] | None = None,
        *,
        remove: Iterable[str] = (),
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Set some tags and remove others."""
        added, removed = typed_tags(tags or {}), tag_names(remove)

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
            valid_from=valid_from,
        )

    def set_owners(
        self,
        kind: str,
        name: str,
        owners: Iterable[str],
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Replace the owners: teams, or pseudonyms of people."""
        change = {"owners": checked_owners(owners)}
        return self.amend(
            f"set_owners_of_{kind}",
            kind,
            name,
            change,
            lambda _, __: change,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )

    def set_metadata(
        self,
        kind: str,
        name: str,
        metadata: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Replace the metadata, any JSON object."""
        _check_open(kind, "change the metadata of")
        change = {"metadata": dict(metadata)}
        return self.amend(
            f"set_metadata_of_{kind}",
            kind,
            name,
            change,
            lambda _, __: change,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )

    def deprecate(
        self,
        kind: str,
        name: str,
        *,
        reason: str,
        replacement: str | None = None,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Mark a thing as deprecated. A deprecated model gets no new versions and no promotion.

        Raises:
            IllegalTransition: it is deprecated already, or would replace itself.
            InvalidInput: its status is what other verbs record, as that of a deployment.
        """
        _check_open(kind, "deprecate")

        def edit(state: State, view: View) -> dict[str, Any]:
            if state.data["status"] == "deprecated":
                raise IllegalTransition(f"{kind} {shown(state.name)} is already deprecated")
            other = None if replacement is None else living(view, kind, replacement)
            if other is not None and other.id == state.id:
                raise IllegalTransition(f"{kind} {shown(state.name)} cannot replace itself")
            why = {"reason": checked_text(reason, "reason"), "replacement_id": other.id if other else None}
            return {"status": "deprecated", "deprecation": why}

        return self.amend(
            f"deprecate_{kind}",
            kind,
            name,
            {"reason": reason, "replacement": replacement},
            edit,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )

    def reinstate(
        self,
        kind: str,
        name: str,
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Take back a deprecation.

        Raises:
            IllegalTransition: it is not deprecated.
        """
        _check_open(kind, "reinstate")

        def edit(state: State, _: View) -> dict[str, Any]:
            if state.data["status"] != "deprecated":
                raise IllegalTransition(f"{kind} {shown(state.name)} is not deprecated")
            return {"status": "active", "deprecation": None}

        return self.amend(
            f"reinstate_{kind}", kind, name, {}, edit, idempotency_key=idempotency_key, valid_from=valid_from
        )

    def delete(
        self, kind: str, name: str, *, idempotency_key: str | None = None, valid_from: datetime | None = None
    ) -> Thing:
        """Delete a thing so that it can be restored; its name becomes free.

        Raises:
            StillNeeded: a live version learned from it or from a part of it, or it is deployed.
        """

        def edit(state: State, view: View) -> dict[str, Any]:
            if needed := needed_by(view, state):
                raise StillNeeded(f"{kind.replace('_', ' ')} {state.name!r} cannot be deleted: {needed}")
            return {"deleted": True}

        return self.amend(
            f"delete_{kind}", kind, name, {}, edit, idempotency_key=idempotency_key, valid_from=valid_from
        )

    def restore(
        self, kind: str, name: str, *, idempotency_key: str | None = None, valid_from: datetime | None = None
    ) -> Thing:
        """Take back a deletion; of several deleted things with the name, the last one.

        Raises:
            NotFound: nothing deleted has that name or id.
            NameTaken: another thing has taken the name since.
            Deleted: it is a version of a dataset that is deleted itself.
        """

        def decide(view: View) -> list[Change]:
            found = [s for s in known(view, kind, name) if s.deleted]
            if not found:
                raise NotFound(f"deleted {kind}", name, view.tenant)
            state = max(found, key=lambda s: s.sequence)
            if kind == DATASET_VERSION:
                check_parent(view, state)
            else:
                check_free(view, kind, state.name)
            return [Change(kind, state.id, {**state.data, "deleted": False})]

        done = self.do(
            f"restore_{kind}",
            kind,
            {"of": name},
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
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
        view = self.view(as_of, about=(kind, name))
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
            after: the `cursor` of the last one of the page before.
        """
        if limit is not None and (type(limit) is not int or limit < 1):
            raise InvalidInput(f"a limit is a whole number from 1 on, not {limit!r}")
        canonical(
            {"kind": kind, "text": text, "status": status}
        )  # Else it is no text that a name could hold.
        name, type_, id_ = (None, None, None) if after is None else place_of(after)
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
            AND ($name IS NULL OR (name, type, id) > ($name, $type, $id))
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
                "name": name,
                "type": type_,
                "id": id_,
            },
        )
        return [thing_of(state) for state in rows]

    def history(self, kind: str, name: str, *, as_of: datetime | None = None) -> list[Event]:
        """Every event about a thing, oldest first; a bulk event stands for its part in it."""
        view = self.view(as_of)
        found = known(view, kind, name)
        if not found:
            raise NotFound(kind, name, self.tenant)
        states = [s for state in found for s in view.history("things", state.id)]
        return self.log.events(self.tenant, sorted({s.sequence for s in states}))

    def history_of(self, table: str, entity: str) -> Iterator[State]:
        """Every state of any entity by id, oldest first."""
        yield from self.view().history(table, entity)
