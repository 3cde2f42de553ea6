"""What an answer about the graph is made of: entities as nodes, edges, and the way to each.

Beside drawn edges, a version is part of its model and a dataset version of its dataset:
what a version carries on to reaches what uses its model. The walking itself is in `walking.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.states import MODEL_VERSION, State
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    from ml_registry_pipelines.lineage.walking import Found, Stack

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
class Place:
    """Something that a walk reached, before it is known what it is."""

    id: str
    type: str
    depth: int
    path: tuple[str, ...]
    down: bool


def places(
    stack: Stack, found: Found, tenant: str, *, at: int | None, types: set[str] | None, down: bool
) -> list[Place]:
    """What a walk reached and may be shown: nothing deleted, and only of the types, nearest first."""
    import numpy as np

    shown = ~np.isin(found.nodes, stack.hidden(tenant, at))
    codes = stack.types(found.nodes)
    if types is not None:
        shown &= np.isin(codes, [code for code, name in enumerate(stack.type_names) if name in types])
    nodes, depths, codes = found.nodes[shown], found.depths[shown], codes[shown]
    names = dict(zip(nodes.tolist(), stack.ids(nodes), strict=True))
    ways = {node: found.way(node) for node in names}
    others = np.array(sorted({step for way in ways.values() for step in way} - names.keys()), np.int64)
    names.update(zip(others.tolist(), stack.ids(others), strict=True))
    listed = [
        Place(names[n], stack.type_names[code], depth, tuple(names[step] for step in ways[n]), down)
        for n, depth, code in zip(nodes.tolist(), depths.tolist(), codes.tolist(), strict=True)
    ]
    return sorted(listed, key=lambda p: (p.depth, p.type, p.id))


def edges_of(stack: Stack, found: Found, *, down: bool) -> set[Edge]:
    """Every edge that a walk went along."""
    import numpy as np

    numbers = np.unique(np.concatenate((found.near, found.far)))
    names = dict(zip(numbers.tolist(), stack.ids(numbers), strict=True))
    relations = [kind.relation for kind in stack.kinds]
    near, far = (found.near, found.far) if down else (found.far, found.near)
    return {
        Edge(names[up], names[to], relations[kind])
        for up, to, kind in zip(near.tolist(), far.tolist(), found.kinds.tolist(), strict=True)
    }


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
    for key in ("environment", "endpoint", "traffic_share", "rows", "format", "namespace"):
        if key in metadata:
            detail[key] = metadata[key]
    return Node(state.id, state.entity_type, state.name, tuple(detail.items()))


# -- pages ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """Where a long answer goes on: after how many entities, at which event of the tenant."""

    question: str
    at: int | None
    offset: int = 0

    def following(self, shown: int, at: int) -> str:
        """The cursor of the page after this one; later events do not shift it."""
        held = {"question": self.question, "at": at, "offset": self.offset + shown}
        return base64.urlsafe_b64encode(json.dumps(held).encode()).decode().rstrip("=")


def page_of(cursor: str | None, question: object) -> Page:
    """The page that a cursor stands for, or the first one.

    Raises:
        InvalidInput: it is no cursor, or one of another question.
    """
    asked = digest(question)[:16]
    if cursor is None:
        return Page(asked, None)
    try:
        held = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        page = Page(str(held["question"]), int(held["at"]), int(held["offset"]))
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise InvalidInput(
            f"{cursor[:60]!r} is no cursor; give the one that the last page ended with"
        ) from None
    if page.question != asked:
        raise InvalidInput(
            "the cursor belongs to another question; ask with the same name, depth and filters"
        )
    return page
