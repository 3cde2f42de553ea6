"""One question about the graph under way: where it begins, what it follows, which page of it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from ml_registry_pipelines.lineage.columns import Carried, carry, roots_with
from ml_registry_pipelines.lineage.graph import Page, Place, Reached, places
from ml_registry_pipelines.lineage.walking import Found, Stack, follows
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.states import DATASET, DEPLOYMENT, MODEL, State
from ml_registry_pipelines.registry.view import View


@dataclass(frozen=True)
class Question:
    """What is asked, as a value."""

    kind: str
    name: str
    depth: int | None
    types: frozenset[str] | None
    relations: frozenset[str] | None
    as_of: datetime | None
    column: str | None

    def value(self) -> dict[str, Any]:
        """The same as JSON, by which a cursor knows its question."""
        return {
            **vars(self),
            "types": self.types and sorted(self.types),
            "relations": self.relations and sorted(self.relations),
            "as_of": self.as_of and self.as_of.isoformat(),
        }


def question(
    kind: str,
    name: str,
    depth: int | None,
    types: Iterable[str] | None,
    relations: Iterable[str] | None,
    as_of: datetime | None,
    column: str | None = None,
) -> Question:
    """Raises `InvalidInput` for a depth below 1."""
    if depth is not None and depth < 1:
        raise InvalidInput("a depth is at least 1")
    return Question(
        kind,
        name,
        depth,
        None if types is None else frozenset(types),
        None if relations is None else frozenset(relations),
        as_of,
        column,
    )


@dataclass(frozen=True)
class Walked:
    """A question on a view and the layers that hold all that the view does."""

    view: View
    stack: Stack
    asked: Question
    subject: State
    roots: tuple[str, ...]
    at_page: Page
    head: int

    @property
    def _kinds(self) -> Any:
        return follows(self.stack.kinds, self.asked.relations)

    def go(self, *, down: bool) -> Found:
        """Walk from the roots."""
        return self.stack.walk(
            self._numbers(self.roots), down=down, at=self.view.at, depth=self.asked.depth, kinds=self._kinds
        )

    def _numbers(self, ids: Sequence[str]) -> Any:
        numbers = self.stack.numbers(self.view.tenant, ids)
        return np.unique(numbers[numbers >= 0])

    def places(
        self, found: Found, *, down: bool, types: frozenset[str] | str | None = "asked"
    ) -> list[Place]:
        """What a walk reached, of the types that are asked for, or of others."""
        wanted = self.asked.types if isinstance(types, str) else types
        return places(
            self.stack,
            found,
            self.view.tenant,
            at=self.view.at,
            types=None if wanted is None else set(wanted),
            down=down,
        )

    def places_of_column(self, column: str) -> tuple[list[Place], Carried]:
        """What a column of the dataset reaches: by its own ways first, then by the index."""
        holding, nodes = roots_with(self.view, self.subject, self.roots, column)
        relations = None if self.asked.relations is None else set(self.asked.relations)
        carried = carry(self.view, holding, column, relations=relations, depth=self.asked.depth)
        for version, whole in wholes_of(self.view, sorted(carried.columns)).items():
            carried.wholes.setdefault(whole, (*carried.ways[version], whole))
        own = {*holding, self.subject.id}
        joining: dict[int, list[str]] = {0: [self.subject.id, *nodes]}
        for entity, way in carried.wholes.items():
            if entity not in own:
                joining.setdefault(len(way) - 1, []).append(entity)
        found = self.stack.walk(
            self._numbers(()),
            down=True,
            at=self.view.at,
            depth=self.asked.depth,
            kinds=self._kinds,
            joining={level: self._numbers(ids) for level, ids in joining.items()},
        )
        reached = {p.id: self._from_root(p, carried) for p in self.places(found, down=True, types=None)}
        hidden = set(self.stack.ids(self.stack.hidden(self.view.tenant, self.view.at)))
        by_itself = {i: carried.ways[i] for i in carried.columns} | carried.wholes
        ids = [i for i in by_itself if i not in hidden and i not in own]
        numbers = self.stack.numbers(self.view.tenant, ids)
        kinds = [self.stack.type_names[code] for code in self.stack.types(numbers).tolist()]
        for entity, kind in zip(ids, kinds, strict=True):
            way = by_itself[entity]
            if entity not in reached or reached[entity].depth > len(way) - 1:
                reached[entity] = Place(entity, kind, len(way) - 1, way, True)
        listed = [place for i, place in reached.items() if i not in own]
        return sorted(listed, key=lambda p: (p.depth, p.type, p.id)), carried

    def _from_root(self, place: Place, carried: Carried) -> Place:
        """The way to a place from the dataset, and not only from where the column had become something else."""
        before = carried.wholes.get(place.path[0])
        if before is None:
            return place
        return Place(place.id, place.type, place.depth, (*before[:-1], *place.path), place.down)

    def page(self, reached: Sequence[Place], limit: int | None) -> tuple[list[Place], str | None]:
        """The places that are shown, and the cursor of what follows.

        Raises:
            InvalidInput: the limit is below 1.
        """
        if limit is None:
            return list(reached[self.at_page.offset :]), None
        if limit < 1:
            raise InvalidInput("a limit is at least 1")
        start = self.at_page.offset
        shown = list(reached[start : start + limit])
        more = start + limit < len(reached)
        return shown, self.at_page.following(len(shown), self.head) if more else None


def walked_from(view: View, stack: Stack, subject: State, asked: Question, page: Page, head: int) -> Walked:
    """A question about an entity; for a model or dataset, about all its living versions too."""
    roots = [subject.id]
    if subject.entity_type in {MODEL, DATASET}:
        number = stack.numbers(view.tenant, roots)
        if number[0] >= 0:
            roots += sorted(stack.ids(stack.parts(number, at=view.at)))
    return Walked(view, stack, asked, subject, tuple(roots), page, head)


def wholes_of(view: View, ids: Sequence[str]) -> dict[str, str]:
    """What living versions and other parts are part of."""
    found = {}
    for table, column in (("model_versions", "model_id"), ("things", "parent_id")):
        for state in view.by_any(table, "id", ids):
            whole = state.data.get(column)
            if whole is not None and not state.deleted:
                found[state.id] = str(whole)
    return found


def in_order(reached: Iterable[Reached]) -> list[Reached]:
    """Nearest first, then by type and name."""
    return sorted(reached, key=lambda r: (r.depth, r.node.type, r.node.name, r.node.id))


def ranked(counts: Counter[str]) -> Mapping[str, int]:
    """Counts by type: deployments first, then the most frequent."""
    kinds = sorted(counts, key=lambda kind: (kind != DEPLOYMENT, -counts[kind], kind))
    return {kind: counts[kind] for kind in kinds}
