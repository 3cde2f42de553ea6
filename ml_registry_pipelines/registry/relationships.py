"""Relationships: typed edges between things and versions, never in a circle.

An edge knows which way influence flows along it: what a model was trained on lies upstream
of it, what it is deployed to lies downstream. Walking further is in `lineage/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Any

from ml_registry_pipelines.registry.bulk import MAX_ROWS
from ml_registry_pipelines.registry.canonical import canonical, digest
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import Deleted, InvalidInput, LineageCycle, NotFound, shown
from ml_registry_pipelines.registry.names import checked_kind
from ml_registry_pipelines.registry.references import known, living, version_state
from ml_registry_pipelines.registry.states import (
    DATASET_VERSION,
    DEPLOYMENT,
    MODEL_VERSION,
    RELATIONSHIP,
    State,
    table_of,
)
from ml_registry_pipelines.registry.things import MAX_MANY, bulk_change
from ml_registry_pipelines.registry.view import View


class Flow(Enum):
    """Which way influence goes."""

    TO_TARGET = "to_target"
    TO_SOURCE = "to_source"


OWN_VERBS = {
    "trained_on": "create_model_version",
    "evaluated_on": "create_model_version",
    "derived_from": "create_model_version",
    "deployed_to": "track_deployment",
}
"""Types of edges that other verbs record, where they tell of a model version or a deployment."""


def flow_of(given: Flow | str | None) -> Flow | None:
    """A flow, or its name.

    Raises:
        InvalidInput: there is no such flow.
    """
    try:
        return None if given is None else Flow(given)
    except ValueError:
        known = " and ".join(flow.value for flow in Flow)
        raise InvalidInput(f"{shown(str(given))} is no flow; there are {known}") from None


TO_TARGET = frozenset({"deployed_to", "used_by", "produces", "feeds"})
"""Types that lead downstream by themselves; every other type names what its source depends on."""


Way = Callable[[View, str, str], list[str] | None]
"""Gives the shortest way from one entity down to another, both included."""
Below = Callable[[View, Sequence[str]], Iterable[tuple[str, str]]]
"""Gives all drawn edges that lie below some entities: their ends, the upper one first."""


@dataclass(frozen=True)
class Relationship:
    """An edge in one state."""

    id: str
    type: str
    source_type: str
    source_id: str
    target_type: str
    target_id: str
    flow: Flow
    properties: Mapping[str, Any]
    removed: bool
    recorded_at: datetime
    valid_from: datetime
    actor: str

    @property
    def upstream(self) -> tuple[str, str]:
        """Kind and id of the end that influence comes from."""
        source, target = (self.source_type, self.source_id), (self.target_type, self.target_id)
        return source if self.flow is Flow.TO_TARGET else target

    @property
    def downstream(self) -> tuple[str, str]:
        """Kind and id of the end that influence goes to."""
        source, target = (self.source_type, self.source_id), (self.target_type, self.target_id)
        return target if self.flow is Flow.TO_TARGET else source


@dataclass(frozen=True)
class NewEdge:
    """A relationship to be drawn: its ends as (kind, name, id or version reference)."""

    source: tuple[str, str]
    target: tuple[str, str]
    properties: Mapping[str, Any] = field(default_factory=dict)


def relationship_of(state: State) -> Relationship:
    """The state of a relationship as a value."""
    data = state.data
    return Relationship(
        state.id,
        data["type"],
        data["source_type"],
        data["source_id"],
        data["target_type"],
        data["target_id"],
        Flow(data["flow"]),
        data["properties"],
        state.deleted,
        state.recorded_at,
        state.valid_from,
        state.actor,
    )


def edge_id(type_: str, source_id: str, target_id: str) -> str:
    """The one id of an edge of a type between two ends, so that drawing it again is the same edge."""
    return digest([type_, source_id, target_id])[:32]


def edge(
    type_: str,
    source: tuple[str, str],
    target: tuple[str, str],
    *,
    properties: Mapping[str, Any] | None = None,
    flow: Flow | str | None = None,
) -> Change:
    """The change that draws an edge; ends are (kind, id)."""
    by_type = Flow.TO_TARGET if type_ in TO_TARGET else Flow.TO_SOURCE
    state = {
        "type": type_,
        "source_type": source[0],
        "source_id": source[1],
        "target_type": target[0],
        "target_id": target[1],
        "flow": (flow_of(flow) or by_type).value,
        "properties": dict(properties or {}),
        "deleted": False,
    }
    return Change(RELATIONSHIP, edge_id(type_, source[1], target[1]), state, {"type": type_})


def _check_open(type_: str, source_kind: str, target_kind: str) -> None:
    """Raises `InvalidInput` for edges that other verbs record, and that nobody draws or removes by hand.

    What a version was made from never changes, and where it is deployed its deployment says.
    """
    checked_kind(type_)
    ends = {source_kind, target_kind} if type_ == "deployed_to" else {source_kind}
    if type_ in OWN_VERBS and ends & {MODEL_VERSION, DEPLOYMENT}:
        raise InvalidInput(
            f"nobody can draw or remove {type_} between a {source_kind} and a {target_kind} by hand; "
            f"{OWN_VERBS[type_]} records it"
        )


def edges_at(view: View, ids: Sequence[str]) -> list[Relationship]:
    """All living edges that touch any of the entities."""
    found = {s.id: s for s in view.by_any("relationships", "source_id", ids)}
    found.update((s.id, s) for s in view.by_any("relationships", "target_id", ids))
    return [relationship_of(s) for s in found.values() if not s.deleted]


def refuse_cycle(view: View, drawn: Change, way: Way) -> None:
    """Raises `LineageCycle` when the edge would let influence flow back to where it comes from."""
    state = drawn.state
    ends = (str(state["source_id"]), str(state["target_id"]))
    up, down = ends if state["flow"] == Flow.TO_TARGET.value else ends[::-1]
    path = [up] if up == down else way(view, down, up)
    if path is not None:
        raise LineageCycle([label(view, entity) for entity in [up, *(path if up != down else [up])]])


def refuse_cycles(view: View, drawn: Sequence[Change], edges_below: Below) -> None:
    """`refuse_cycle` for many edges together: they must close no circle with what is there nor by themselves."""
    below: dict[str, set[str]] = {}
    for change in drawn:
        ends = (str(change.state["source_id"]), str(change.state["target_id"]))
        up, down = ends if change.state["flow"] == Flow.TO_TARGET.value else ends[::-1]
        below.setdefault(up, set()).add(down)
    for up, down in edges_below(view, sorted({down for downs in below.values() for down in downs})):
        below.setdefault(up, set()).add(down)
    if (circle := _circle(below)) is not None:
        raise LineageCycle([label(view, entity) for entity in circle])


def _circle(below: Mapping[str, set[str]]) -> list[str] | None:
    """A circle in the graph, its first node again at its end, if there is one."""
    done: set[str] = set()
    for start in sorted(below):
        way, open_ = [start], {start}
        waiting = [iter(sorted(below.get(start, ())))] if start not in done else []
        while waiting:
            step = next(waiting[-1], None)
            if step is None:
                waiting.pop()
                done.add(left := way.pop())
                open_.discard(left)
            elif step in open_:
                return [*way[way.index(step) :], step]
            elif step not in done:
                way.append(step)
                open_.add(step)
                waiting.append(iter(sorted(below.get(step, ()))))
    return None


def _drawn(view: View, type_: str, edges: Sequence[NewEdge], flow: Flow | str | None) -> list[Change]:
    """The changes that draw the edges; ends that occur often are looked up once."""
    wanted = {end for e in edges for end in (e.source, e.target)}
    found: dict[tuple[str, str], tuple[str, str]] = {}
    names = sorted({name for kind, name in wanted if kind not in {MODEL_VERSION, DATASET_VERSION}})
    for state in view.by_any("things", "name", names):
        if not state.deleted:
            found[state.entity_type, state.name] = (state.entity_type, state.id)
    for kind, name in wanted - found.keys():
        state = end(view, kind, name)
        found[kind, name] = (state.entity_type, state.id)
    drawn: dict[str, Change] = {}
    for new in edges:
        change = edge(type_, found[new.source], found[new.target], properties=new.properties, flow=flow)
        if change.entity_id in drawn:
            raise InvalidInput(
                f"{shown(':'.join(new.source))} {type_} {shown(':'.join(new.target))} is listed twice"
            )
        drawn[change.entity_id] = change
    return list(drawn.values())


def _check_living(view: View, drawn: Sequence[Change]) -> None:
    """Raises `Deleted` when an end, or what it is a version of, was deleted since it was looked up."""
    ids: dict[str, set[str]] = {"things": set(), "model_versions": set()}
    for change in drawn:
        for side in ("source", "target"):
            ids[table_of(str(change.state[f"{side}_type"]))].add(str(change.state[f"{side}_id"]))
    ends = [state for table, wanted in ids.items() for state in view.by_any(table, "id", sorted(wanted))]
    fields = {MODEL_VERSION: "model_id", DATASET_VERSION: "parent_id"}
    wholes = {str(s.data.get(fields[s.entity_type])) for s in ends if s.entity_type in fields}
    for state in [*ends, *view.by_any("things", "id", sorted(wholes))]:
        if state.deleted:
            raise Deleted(state.entity_type.replace("_", " "), label(view, state.id))


def label(view: View, entity: str) -> str:
    """A name for a person: a thing's name, or model name and version."""
    version = view.by_id("model_versions", entity)
    if version is not None:
        model = view.by_id("things", str(version.data["model_id"]))
        return f"{model.name if model else version.data['model_id']}@v{version.data['version']}"
    thing = view.by_id("things", entity)
    return entity if thing is None else thing.name


def end(view: View, kind: str, given: str) -> State:
    """The living entity at one end of an edge, by id or, for a thing, by name."""
    return version_state(view, given) if kind == MODEL_VERSION else living(view, kind, given)


class Relationships(Desk):
    """Verbs for relationships of any type."""

    def relate(
        self,
        type_: str,
        source: tuple[str, str],
        target: tuple[str, str],
        *,
        properties: Mapping[str, Any] | None = None,
        flow: Flow | str | None = None,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Relationship:
        """Draw an edge between two living entities, each given as (kind, name, id or version).

        Drawing it again replaces its properties.

        Raises:
            LineageCycle: influence would flow in a circle; the text holds the path.
            NotFound: an end does not exist.
        """
        from ml_registry_pipelines.lineage.index import index_of

        _check_open(type_, source[0], target[0])
        way = flow_of(flow)
        index = index_of(self.log)

        def decide(view: View) -> list[Change]:
            ends = [end(view, *source), end(view, *target)]
            drawn = edge(
                type_,
                (ends[0].entity_type, ends[0].id),
                (ends[1].entity_type, ends[1].id),
                properties=properties,
                flow=flow,
            )
            refuse_cycle(view, drawn, index.way)
            return [drawn]

        change = {
            "type": type_,
            "source": list(source),
            "target": list(target),
            "properties": dict(properties or {}),
            "flow": way.value if way else None,
        }
        done = self.do(
            f"relate_{type_}",
            RELATIONSHIP,
            change,
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return relationship_of(state_of(done))

    def relate_many(
        self,
        type_: str,
        edges: Iterable[NewEdge],
        *,
        flow: Flow | str | None = None,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> int:
        """Draw many edges of a type in one atomic command; return how many.

        Raises:
            LineageCycle: influence would flow in a circle; the text holds the path.
            NotFound: an end does not exist.
            InvalidInput: an edge is listed twice, or they are too many.
        """
        from ml_registry_pipelines.lineage.index import index_of

        way = flow_of(flow)
        index = index_of(self.log)
        given = list(islice(edges, MAX_MANY + 1))
        for ends in {(e.source[0], e.target[0]) for e in given}:
            _check_open(type_, *ends)
        if len(given) > MAX_MANY:
            raise InvalidInput(f"more than {MAX_MANY:,} relationships in one command; give them in parts")
        if not given:
            return 0
        action = f"relate_many_{type_}"
        self.ask(action, RELATIONSHIP, {"type": type_, "entities": len(given)})
        before = self.given_before(action, idempotency_key)
        drawn = [] if before else _drawn(self.now(), type_, given, flow)
        texts = [(RELATIONSHIP, change.entity_id, canonical(change.state)) for change in drawn]
        parts = [texts[n : n + MAX_ROWS] for n in range(0, len(texts), MAX_ROWS)]
        files = [(len(part), self.log.bulk.write(part)) for part in parts]

        def decide(view: View) -> list[Change]:
            _check_living(view, drawn)
            refuse_cycles(view, drawn, index.drawn_below)
            return [bulk_change(RELATIONSHIP, count, file) for count, file in files]

        asked = [[list(e.source), list(e.target), dict(e.properties)] for e in given]
        change = {
            "type": type_,
            "entities": len(given),
            "edges": digest(asked),
            "flow": way.value if way else None,
        }
        self.do(
            action,
            RELATIONSHIP,
            change,
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return len(given)

    def unrelate(
        self,
        type_: str,
        source: tuple[str, str],
        target: tuple[str, str],
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Relationship:
        """Remove an edge; as of earlier it is still there.

        Raises:
            NotFound: there is no such edge.
        """
        _check_open(type_, source[0], target[0])

        def decide(view: View) -> list[Change]:
            identity = edge_id(type_, _any_end(view, *source), _any_end(view, *target))
            state = view.by_id("relationships", identity)
            if state is None or state.deleted:
                raise NotFound("relationship", f"{source[1]} {type_} {target[1]}", view.tenant)
            return [Change(RELATIONSHIP, identity, {**state.data, "deleted": True})]

        change = {"type": type_, "source": list(source), "target": list(target)}
        done = self.do(
            f"unrelate_{type_}",
            RELATIONSHIP,
            change,
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return relationship_of(state_of(done))

    def list(
        self, kind: str, given: str, *, type_: str | None = None, as_of: datetime | None = None
    ) -> list[Relationship]:
        """The edges of an entity, by type and ends."""
        if not given:
            raise InvalidInput("say which entity's relationships")
        view = self.view(as_of)
        found = edges_at(view, [_any_end(view, kind, given)])
        chosen = [r for r in found if type_ is None or r.type == type_]
        return sorted(chosen, key=lambda r: (r.type, r.source_id, r.target_id))


def _any_end(view: View, kind: str, given: str) -> str:
    """The id of an end, be it deleted."""
    try:
        return end(view, kind, given).id
    except Deleted:
        return next((s.id for s in known(view, kind, given)), given)
