"""Walks over layers that lie on each other: which entities lie up or down, how far, by which way.

Everything here is numbers; ids, names and states are looked up for what is shown. What a
newer layer says of an edge goes before what an older one says, at the event that is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml_registry_pipelines.lineage.layers import Array, Kind, Layer, words
from ml_registry_pipelines.registry.states import MODEL, MODEL_VERSION

_NOTHING = np.zeros(0, np.int64)
_memory = threading.local()


@dataclass(frozen=True)
class Found:
    """What a walk reached, nearest first, without the entities that it began at.

    `parents` are the entities before them on a shortest way. Edges go from `near` to `far`,
    in the direction of the walk, each once.
    """

    roots: Array
    nodes: Array
    depths: Array
    parents: Array
    near: Array
    far: Array
    kinds: Array

    @cached_property
    def _before(self) -> dict[int, int]:
        return dict(zip(self.nodes.tolist(), self.parents.tolist(), strict=True))

    def way(self, node: int) -> list[int]:
        """The shortest way that was found to an entity, from where the walk began."""
        path = [node]
        while (before := self._before.get(path[-1])) is not None:
            path.append(before)
        return path[::-1]


class Stack:
    """Layers from the oldest to the newest. Never changes, and is safe to share among threads."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self._gone_now: dict[str, Array] = {}

    @property
    def size(self) -> int:
        return self.layers[-1].size if self.layers else 0

    @property
    def until(self) -> int:
        """Position of the newest event that the layers hold."""
        return self.layers[-1].until if self.layers else 0

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return self.layers[-1].kinds if self.layers else ()

    @property
    def type_names(self) -> tuple[str, ...]:
        return self.layers[-1].type_names if self.layers else ()

    # -- who is who ------------------------------------------------------------------------

    def numbers(self, tenant: str, ids: Sequence[str]) -> Array:
        """Numbers of a tenant's entities; -1 for those that no edge touches."""
        high, low = words(ids)
        found = np.full(len(high), -1, np.int64)
        for layer in self.layers:
            open_ones = np.flatnonzero(found < 0)
            if not len(open_ones):
                break
            found[open_ones] = layer.find(tenant, high[open_ones], low[open_ones])
        return found

    def ids(self, numbers: Array) -> list[str]:
        """Ids of entities by number."""
        found = np.empty(len(numbers), object)
        for layer in self.layers:
            own = np.flatnonzero((numbers >= layer.base) & (numbers < layer.size))
            if len(own):
                found[own] = layer.ids(numbers[own] - layer.base)
        return list(found)

    def types(self, numbers: Array) -> Array:
        """Types of entities, as places in `type_names`."""
        found = np.zeros(len(numbers), np.uint16)
        for layer in self.layers:
            own = np.flatnonzero((numbers >= layer.base) & (numbers < layer.size))
            found[own] = layer.types[numbers[own] - layer.base]
        return found

    # -- who leads where -------------------------------------------------------------------

    def edges(self, frontier: Array, *, down: bool, at: int | None) -> tuple[Array, Array, Array]:
        """Edges of some entities at an event: places in `frontier`, other ends, kinds."""
        owners, others, kinds = [], [], []
        newer: set[tuple[int, int, int]] = set()
        newer_others = _NOTHING
        for place, layer in reversed([*enumerate(self.layers)]):
            side = layer.direction(down=down)
            rows, owner = side.of(frontier)
            if not len(rows):
                continue
            since, until = side.since[rows], side.until[rows]
            other, kind = side.other[rows].astype(np.int64), side.kind[rows]
            moment = (
                np.iinfo(since.dtype).max - 1 if at is None else min(at, int(np.iinfo(since.dtype).max - 1))
            )
            told = since <= moment
            holds = told & (until > moment)
            if newer:
                for n in np.flatnonzero(np.isin(other, newer_others)):
                    if (int(owner[n]), int(other[n]), int(kind[n])) in newer:
                        holds[n] = False
            if place:
                newer.update(
                    zip(owner[told].tolist(), other[told].tolist(), kind[told].tolist(), strict=True)
                )
                newer_others = np.concatenate((newer_others, other[told]))
            owners.append(owner[holds])
            others.append(other[holds])
            kinds.append(kind[holds])
        if not owners:
            return _NOTHING, _NOTHING, np.zeros(0, np.uint16)
        return np.concatenate(owners), np.concatenate(others), np.concatenate(kinds)

    def walk(
        self,
        roots: Array,
        *,
        down: bool,
        at: int | None = None,
        depth: int | None = None,
        kinds: Array | None = None,
        joining: Mapping[int, Array] | None = None,
        goal: int | None = None,
    ) -> Found:
        """Go up or down from some entities, level by level, until nothing is new.

        Args:
            at: the event of the tenant as of which edges hold; None for now.
            depth: edges to go at most.
            kinds: for each kind of edge, whether it is followed; None for all.
            joining: entities that the walk goes on from at a level, beside those that it reached there.
            goal: an entity at which the walk may end.
        """
        joins = dict(joining or {})
        seen = _scratch(self.size)
        touched = [roots]
        seen[roots] = True
        nodes, depths, parents = [], [], []
        near, far, followed = [], [], []
        frontier, level = np.asarray(roots, np.int64), 0
        try:
            while (len(frontier) or joins) and (depth is None or level < depth):
                if level in joins:
                    more = joins.pop(level)
                    more = more[~seen[more]]
                    seen[more] = True
                    touched.append(more)
                    frontier = np.union1d(frontier, more)
                level += 1
                owner, other, kind = self.edges(frontier, down=down, at=at)
                if kinds is not None and len(kind):
                    allowed = kinds[kind]
                    owner, other, kind = owner[allowed], other[allowed], kind[allowed]
                before = frontier[owner]
                near.append(before)
                far.append(other)
                followed.append(kind)
                unseen = np.flatnonzero(~seen[other])
                frontier, first = np.unique(other[unseen], return_index=True)
                seen[frontier] = True
                touched.append(frontier)
                nodes.append(frontier)
                parents.append(before[unseen[first]])
                depths.append(np.full(len(frontier), level, np.int32))
                if goal is not None and seen[goal]:
                    break
        finally:
            for some in touched:
                seen[some] = False
        return Found(
            np.asarray(roots, np.int64), *(_joined(p) for p in (nodes, depths, parents, near, far, followed))
        )

    # -- what is deleted ---------------------------------------------------------------------

    def hidden(self, tenant: str, at: int | None) -> Array:
        """Entities of a tenant that are deleted at an event, and versions of deleted models, in order."""
        if at is None and tenant in self._gone_now:
            return self._gone_now[tenant]
        gone = self._gone(tenant, at)
        if len(gone) and MODEL in self.type_names:
            models = gone[self.types(gone) == self.type_names.index(MODEL)]
            parts = self.parts(models, at=at)
            if MODEL_VERSION in self.type_names:
                parts = parts[self.types(parts) == self.type_names.index(MODEL_VERSION)]
            gone = np.union1d(gone, parts)
        if at is None:
            self._gone_now[tenant] = gone
        return gone

    def _gone(self, tenant: str, at: int | None) -> Array:
        known: dict[int, bool] = {}
        spans = [(t.first, t.last) for layer in self.layers for t in layer.tenants if t.name == tenant]
        for layer in self.layers:
            told = np.ones(len(layer.gone), bool) if at is None else layer.gone_since <= at
            inside = np.zeros(len(layer.gone), bool)
            for first, last in spans:
                inside |= (layer.gone >= first) & (layer.gone < last)
            told &= inside
            known.update(zip(layer.gone[told].tolist(), layer.gone_now[told].tolist(), strict=True))
        return np.array(sorted(n for n, deleted in known.items() if deleted), np.int64)

    def parts(self, wholes: Array, *, at: int | None) -> Array:
        """What is part of some entities at an event: versions of a model or dataset."""
        _, parts, kinds = self.edges(wholes, down=False, at=at)
        implied = np.array([kind.implied for kind in self.kinds], bool)
        return np.unique(parts[implied[kinds]]) if len(parts) else _NOTHING


def follows(kinds: Sequence[Kind], relations: Iterable[str] | None) -> Array | None:
    """For each kind of edge whether it is of one of the relations; None for no choice."""
    if relations is None:
        return None
    wanted = set(relations)
    return np.array([kind.relation in wanted for kind in kinds], bool)


def counted(stack: Stack, nodes: Array) -> Mapping[str, int]:
    """How many entities there are of each type."""
    counts = np.bincount(stack.types(nodes), minlength=len(stack.type_names))
    return {stack.type_names[i]: int(n) for i, n in enumerate(counts) if n}


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else _NOTHING


def _scratch(size: int) -> Array:
    """One flag per entity, all off; the caller puts off again what it has put on."""
    held: Array | None = getattr(_memory, "flags", None)
    if held is None or len(held) < size:
        held = _memory.flags = np.zeros(max(size, 1024) * 5 // 4, bool)
    return held
