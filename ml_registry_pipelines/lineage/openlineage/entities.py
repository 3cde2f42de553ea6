"""Entities of a registry that events stand for by our own facets: how exported lineage comes back in.

An entity that is there already, by id or by kind and name, stays as it is; only what it lacks
of edges is drawn. A model version comes in as `registered`, whatever its stage was: no file
puts anything into production. Its content is not in the event and is not fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lineage.openlineage.events import ENTITY, RELATIONSHIPS, BadEvent, LineageEvent
from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.registry.names import checked_kind, checked_name, checked_owners
from ml_registry_pipelines.registry.references import split
from ml_registry_pipelines.registry.relationships import Flow, edge
from ml_registry_pipelines.registry.states import MODEL, MODEL_VERSION
from ml_registry_pipelines.registry.things import OWN_VERBS

if TYPE_CHECKING:
    from ml_registry_pipelines.lineage.openlineage.importing import Batch, Draft

NOT_FROM_FILES = frozenset({"webhook"})
"""Kinds that would tell others what happens here."""
_KEPT = ("description", "tags", "metadata", "status", "aliases")
_OF_VERSION = (
    "version",
    "content",
    "content_digest",
    "artifacts",
    "signature",
    "metrics",
    "parameters",
    "trained_on",
    "evaluated_on",
)


def take_entities(batch: Batch, event: LineageEvent) -> bool:
    """Draw what an event of ours says; whether anything was new.

    Raises:
        BadEvent: it refers to what is not there, or its facets are not ours.
    """
    new = False
    for output in event.outputs:
        facet = output.facets.get(ENTITY)
        if isinstance(facet, Mapping):
            new |= _entity(batch, facet)
    for given in event.inputs:
        facet = given.more.get(RELATIONSHIPS)
        for drawn in facet.get("relationships", ()) if isinstance(facet, Mapping) else ():
            new |= _relationship(batch, drawn)
    return new


def _entity(batch: Batch, facet: Mapping[str, Any]) -> bool:
    if _resolved(batch, facet) is not None:
        return False
    kind, state = str(facet.get("type")), facet.get("state")
    if not isinstance(state, Mapping):
        raise BadEvent(f"the {ENTITY} facet of {shown(str(facet.get('name')))} holds no state")
    if kind in NOT_FROM_FILES:
        raise BadEvent(f"a {kind} is never taken from events; {OWN_VERBS[kind]} records it")
    try:
        if kind == MODEL_VERSION:
            _version(batch, facet, state)
        else:
            _thing(batch, checked_kind(kind), facet, state)
    except InvalidInput as wrong:
        raise BadEvent(str(wrong)) from wrong
    return True


def _thing(batch: Batch, kind: str, facet: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    more: dict[str, Any] = {name: state[name] for name in _KEPT if name in state}
    more["owners"] = checked_owners(state.get("owners", ()))
    if isinstance(facet.get("part_of"), Mapping):
        more["parent_id"] = _known(batch, facet["part_of"]).id
    metadata = more.pop("metadata", {})
    if not isinstance(metadata, Mapping):
        raise BadEvent(f"the metadata of {shown(str(facet.get('name')))} is no object")
    batch.draft(kind, checked_name(str(facet.get("name"))), metadata, entity=_id(facet), **more)


def _version(batch: Batch, facet: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    from ml_registry_pipelines.lineage.openlineage.importing import Draft

    if missing := [name for name in _OF_VERSION if name not in state]:
        raise BadEvent(f"the version {shown(str(facet.get('name')))} lacks {', '.join(missing)}")
    model = _known(batch, facet.get("part_of"))
    kept = {**state, "model_id": model.id, "stage": "registered", "deleted": False}
    batch.add(Draft(MODEL_VERSION, _id(facet), kept))


def _relationship(batch: Batch, drawn: object) -> bool:
    if not isinstance(drawn, Mapping):
        raise BadEvent(f"the {RELATIONSHIPS} facet holds something that is no object")
    source, target = _known(batch, drawn.get("source")), _known(batch, drawn.get("target"))
    try:
        type_, flow = checked_kind(str(drawn.get("type"))), Flow(drawn.get("flow"))
    except (InvalidInput, ValueError) as wrong:
        raise BadEvent(str(wrong)) from wrong
    properties = drawn.get("properties")
    change = edge(
        type_,
        (source.kind, source.id),
        (target.kind, target.id),
        properties=properties if isinstance(properties, Mapping) else {},
        flow=flow,
    )
    up, down = (source.id, target.id) if flow is Flow.TO_TARGET else (target.id, source.id)
    if not batch.draw(change):
        return False
    if up in batch.downstream(down):
        del batch.edges[change.entity_id]
        raise BadEvent(f"{type_} from {shown(_name(drawn['source']))} would close a cycle")
    batch.below.setdefault(up, set()).add(down)
    return True


def _known(batch: Batch, facet: object) -> Draft:
    found = _resolved(batch, facet) if isinstance(facet, Mapping) else None
    if found is None:
        raise BadEvent(
            f"the event refers to {shown(_name(facet))}, which is not there; import its event first"
        )
    return found


def _name(facet: object) -> str:
    return str(facet.get("name")) if isinstance(facet, Mapping) else str(facet)


def _resolved(batch: Batch, facet: Mapping[str, Any]) -> Draft | None:
    """The entity with that id, or else the living one of that kind and name."""
    found = batch.get(_id(facet))
    kind, name = str(facet.get("type")), _name(facet)
    if found is not None:
        return found if found.kind == kind else None
    if kind != MODEL_VERSION:
        return batch.find(kind, name)
    model_name, number = split(name)
    model = batch.find(MODEL, model_name)
    if model is None:
        return None
    for state in batch.view.by_column("model_versions", "model_id", model.id):
        if f"v{state.data['version']}" == number:
            return batch.get(state.id)
    for draft in batch.drafts.values():
        same = draft.kind == MODEL_VERSION and draft.state["model_id"] == model.id
        if same and f"v{draft.state['version']}" == number:
            return draft
    return None


def _id(facet: Mapping[str, Any]) -> str:
    given = facet.get("id")
    if not isinstance(given, str) or not 0 < len(given) <= 100:
        raise BadEvent(f"the entity {shown(str(facet.get('name')))} has no id")
    return given
