"""Walking the graph: what lies up and down of an entity, by the shortest way, at any depth.

The graph is that of a view, so `as_of` and edges written a moment ago need nothing special.
Beside drawn edges, a version is part of its model and a dataset version of its dataset:
what a version carries on to reaches what uses its model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ml_registry_pipelines.registry.references import dataset_versions_of, versions_of
from ml_registry_pipelines.registry.relationships import Relationship, edges_at
from ml_registry_pipelines.registry.states import MODEL_VERSION, State
from ml_registry_pipelines.registry.view import View

PART_OF = "part_of"


@dataclass(frozen=True)
class Node:
    """An entity in the graph. `detail` holds what a drawing shows: stage, environment, owners ..."""

    id: str
    type: str
    name: str
    detail: tuple[tuple[str, Any], ...] = ()

    def __getitem__(self, key: str) -> Any:
        return dict(self.detail).get(key)


@dataclass(frozen=True)
class Edge:
    """Influence from one node to another, by a relationship of a type."""

    upstream: str
    downstream: str
    type: str


@dataclass(frozen=True)
class Reached:
    """A node, how far away it is, and the shortest way to it from where the walk began."""

    node: Node
    depth: int
    path: tuple[str, ...]


@dataclass(frozen=True)
class Walk:
    """Everything that was reached, nearest first, and all edges between."""

    reached: tuple[Reached, ...]
    edges: frozenset[Edge]


EdgeFilter = Callable[[Relationship], bool]


def starts(view: View, state: State) -> list[str]:
    """Where a walk from an entity begins: for a model or dataset, at all its living versions too."""
    match state.entity_type:
        case "model":
            return [state.id, *(s.id for s in versions_of(view, state.id))]
        case "dataset":
            return [state.id, *(s.id for s in dataset_versions_of(view, state.id))]
        case _:
            return [state.id]


def walk(
    view: View,
    roots: Sequence[str],
    *,
    down: bool,
    depth: int | None = None,
    relations: Iterable[str] | None = None,
    types: Iterable[str] | None = None,
    allows: EdgeFilter | None = None,
) -> Walk:
    """Go up or down from some entities, level by level, until nothing is new.

    Args:
        depth: edges to go at most; None for all.
        relations: types of relationships to follow; None for all.
        types: kinds of nodes to list; others are walked through.
        allows: whether to follow a relationship.
    """
    wanted = None if relations is None else set(relations)
    came_from: dict[str, str | None] = dict.fromkeys(roots)
    levels: dict[str, int] = dict.fromkeys(roots, 0)
    edges: set[Edge] = set()
    frontier, level = list(roots), 0
    while frontier and (depth is None or level < depth):
        level += 1
        here, following = set(frontier), []
        for found in _steps(view, frontier, down, wanted, allows):
            near, far = (found.upstream, found.downstream) if down else (found.downstream, found.upstream)
            if near not in here:
                continue
            edges.add(found)
            if far not in came_from:
                came_from[far], levels[far] = near, level
                following.append(far)
        frontier = following
    nodes = nodes_of(view, list(levels))
    listed = None if types is None else set(types)
    reached = [
        Reached(nodes[i], levels[i], _path(came_from, i))
        for i in levels
        if levels[i] and i in nodes and (listed is None or nodes[i].type in listed)
    ]
    return Walk(
        tuple(sorted(reached, key=lambda r: (r.depth, r.node.type, r.node.name, r.node.id))), frozenset(edges)
    )


def _steps(
    view: View, frontier: Sequence[str], down: bool, relations: set[str] | None, allows: EdgeFilter | None
) -> Iterable[Edge]:
    for relationship in edges_at(view, frontier):
        if relations is not None and relationship.type not in relations:
            continue
        if allows is None or allows(relationship):
            yield Edge(relationship.upstream[1], relationship.downstream[1], relationship.type)
    if relations is not None and PART_OF not in relations:
        return
    if down:
        for state in [*view.by_any("model_versions", "id", frontier), *view.by_any("things", "id", frontier)]:
            whole = state.data.get("model_id") or state.data.get("parent_id")
            if whole is not None and not state.deleted:
                yield Edge(state.id, str(whole), PART_OF)
    else:
        parts = [
            *view.by_any("model_versions", "model_id", frontier),
            *view.by_any("things", "parent_id", frontier),
        ]
        for state in parts:
            if not state.deleted:
                yield Edge(state.id, str(state.data.get("model_id") or state.data.get("parent_id")), PART_OF)


def _path(came_from: dict[str, str | None], entity: str) -> tuple[str, ...]:
    path: list[str] = []
    step: str | None = entity
    while step is not None:
        path.append(step)
        step = came_from[step]
    return tuple(reversed(path))


def nodes_of(view: View, ids: Sequence[str]) -> dict[str, Node]:
    """The living entities as nodes, by id."""
    versions = [s for s in view.by_any("model_versions", "id", ids) if not s.deleted]
    things = {s.id: s for s in view.by_any("things", "id", ids) if not s.deleted}
    models = {
        s.id: s for s in view.by_any("things", "id", sorted({str(v.data["model_id"]) for v in versions}))
    }
    nodes = {s.id: _thing_node(s) for s in things.values()}
    for state in versions:
        model = models.get(str(state.data["model_id"]))
        if model is not None and not model.deleted:
            detail = (("stage", state.data["stage"]), ("owners", tuple(model.data["owners"])))
            nodes[state.id] = Node(state.id, MODEL_VERSION, f"{model.name}@v{state.data['version']}", detail)
    return nodes


def _thing_node(state: State) -> Node:
    metadata = state.data.get("metadata", {})
    detail: dict[str, Any] = {
        "owners": tuple(state.data.get("owners", ())),
        "status": state.data.get("status"),
    }
    for key in ("environment", "endpoint", "traffic_share", "rows", "format"):
        if key in metadata:
            detail[key] = metadata[key]
    return Node(state.id, state.entity_type, state.name, tuple(detail.items()))
