"""A layer in the making: its records as they come, sorted into adjacencies and written in pieces.

Where the records come from is in `building.py` (states) and `table_drafts.py` (projections).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_registry_pipelines.lineage.layers import (
    Adjacency,
    Array,
    Kind,
    Layer,
    LayerFile,
    Tenant,
    about,
    words,
)
from ml_registry_pipelines.registry.errors import RegistryError

PART_OF = "part_of"
PIECE = 1 << 24
"""Records that are sorted at once."""
MAX_NODES = 2**32 - 1
IMPLIED = Kind(PART_OF, True, True)


class TooLarge(RegistryError):
    """More entities or events than the index can number."""


@dataclass
class Draft:
    """The records of a layer before they are sorted. `dead` marks states in which an edge is removed."""

    after: int
    until: int
    below: Layer | None
    high: Array
    low: Array
    types: Array
    tenants: tuple[Tenant, ...]
    type_names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    odd_ids: Mapping[int, str]
    ups: Array
    downs: Array
    kind: Array
    since: Array
    dead: Array
    gone: tuple[Array, Array, Array]

    @property
    def base(self) -> int:
        return self.below.size if self.below else 0

    def side(self, *, down: bool) -> Adjacency:
        """The edges in one direction, sorted."""
        near, far = (self.ups, self.downs) if down else (self.downs, self.ups)
        size = self.base + len(self.high)
        whole = self.below is None
        pieces = [self._sorted(near, far, rows, whole=whole) for rows in _ranges(near, size)]
        if not pieces:
            pieces = [self._sorted(near, far, np.zeros(0, np.int64), whole=whole)]
        joined = [
            np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*pieces, strict=True)
        ]
        del pieces
        nodes, counts, other, kind, since, until = joined
        if not whole:
            return Adjacency(nodes, _starts(counts), other, kind, since, until)
        per_node = np.zeros(size, np.int64)
        per_node[nodes] = counts
        return Adjacency(None, _starts(per_node), other, kind, since, until)

    def _sorted(self, near: Array, far: Array, rows: Array, *, whole: bool) -> tuple[Array, ...]:
        """Nodes, their numbers of records, and the records, for some of the rows."""
        key = (near[rows].astype(np.uint64) << np.uint64(32)) | far[rows]
        order = np.argsort(key)
        key = key[order]
        rows = rows[order]
        kind, since, dead = self.kind[rows], self.since[rows], self.dead[rows]
        twice = np.zeros(len(key), bool)
        np.equal(key[1:], key[:-1], out=twice[1:])
        twice[:-1] |= twice[1:]
        if twice.any():
            # One pair of entities more than once: by kind, then in the order of the log.
            some = np.flatnonzero(twice)
            by = some[np.lexsort((rows[some], since[some], kind[some], key[some]))]
            kind[some], since[some], dead[some] = kind[by], since[by], dead[by]
            same = _same(key, kind)
            kept = np.ones(len(key), bool)
            kept[1:] = ~(same & (dead[1:] == dead[:-1]))
            key, kind, since, dead = key[kept], kind[kept], since[kept], dead[kept]
        until = np.full(len(key), np.iinfo(since.dtype).max, since.dtype)
        if len(key):
            ended = np.flatnonzero(_same(key, kind))
            until[ended] = since[ended + 1]
        until[dead] = since[dead]
        if whole and dead.any():
            # Nothing lies below that an end could be about.
            alive = ~dead
            key, kind, since, until = key[alive], kind[alive], since[alive], until[alive]
        owner = (key >> np.uint64(32)).astype(np.uint32)
        first = np.flatnonzero(np.concatenate(([True], owner[1:] != owner[:-1]))) if len(owner) else rows[:0]
        counts = np.diff(np.append(first, len(owner)))
        return owner[first], counts, (key & np.uint64(2**32 - 1)).astype(np.uint32), kind, since, until

    def layer(self) -> Layer:
        """The layer in memory."""
        return self._layer(self.side(down=True), self.side(down=False))

    def _layer(self, down: Adjacency, up: Adjacency) -> Layer:
        return Layer(
            self.after,
            self.until,
            self.base,
            self.high,
            self.low,
            self.types,
            self.tenants,
            self.type_names,
            self.kinds,
            self.odd_ids,
            down,
            up,
            *self.gone,
        )

    def write(self, path: Path) -> tuple[str, int, int]:
        """Write the layer with one direction in memory at a time; return digest, size and edges."""
        with path.open("wb") as stream:
            file = LayerFile(stream)
            for name in ("high", "low", "types"):
                file.add(name, getattr(self, name))
            for name, array in zip(("gone", "gone_since", "gone_now"), self.gone, strict=True):
                file.add(name, array)
            edges = 0
            for name in ("down", "up"):
                side = self.side(down=name == "down")
                edges = len(side.other)
                for part in ("starts", "other", "kind", "since", "until"):
                    file.add(f"{name}.{part}", getattr(side, part))
                if side.nodes is not None:
                    file.add(f"{name}.nodes", side.nodes)
                del side
            nothing = Adjacency(None, *(np.zeros(0) for _ in range(5)))
            digest, size = file.finish(about(self._layer(nothing, nothing)))
        return digest, size, edges


def _ranges(near: Array, size: int) -> Iterator[Array]:
    """The rows in pieces, by ranges of entities in order."""
    pieces = -(-len(near) // PIECE)
    if pieces <= 1:
        yield np.arange(len(near))
        return
    for piece in range(pieces):
        first, last = size * piece // pieces, size * (piece + 1) // pieces
        yield np.flatnonzero((near >= first) & (near < last))


def _starts(counts: Array) -> Array:
    starts = np.zeros(len(counts) + 1, np.uint64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _same(key: Array, kind: Array) -> Array:
    """Whether each record is about the same edge as the next one."""
    return np.asarray((key[1:] == key[:-1]) & (kind[1:] == kind[:-1]))


def checked_size(nodes: int) -> None:
    if nodes > MAX_NODES:
        raise TooLarge(f"the lineage index numbers at most {MAX_NODES:,} entities, and here are {nodes:,}")


def sequence_type(newest: int) -> np.dtype[Any]:
    """The type of event numbers: four bytes as long as they suffice, since there are four of them per edge."""
    return np.dtype(np.uint32 if newest < 2**32 - 2 else np.uint64)


def numbers(layers: Sequence[Layer], tenant: str, high: Array, low: Array) -> Array:
    """Numbers of a tenant's entities in layers that lie on each other; -1 where they are in none."""
    found = np.full(len(high), -1, np.int64)
    for layer in layers:
        open_ones = np.flatnonzero(found < 0)
        if not len(open_ones):
            break
        found[open_ones] = layer.find(tenant, high[open_ones], low[open_ones])
    return found


def spans(tenants: Sequence[str], base: int) -> tuple[Tenant, ...]:
    found: list[Tenant] = []
    for place, tenant in enumerate(tenants):
        if not found or found[-1].name != tenant:
            found.append(Tenant(tenant, base + place, base + place))
        found[-1] = found[-1]._replace(last=base + place + 1)
    return tuple(found)


def extended_kinds(below: Sequence[Kind], kinds: Iterable[Kind]) -> tuple[Kind, ...]:
    """Kinds of the layers below and new ones after them."""
    return (*below, *sorted(set(kinds) - set(below)))


def gone_records(
    states: Iterable[tuple[str, str, int, bool]],
    below: Sequence[Layer],
    own: Mapping[tuple[str, str], int],
    dtype: np.dtype[Any],
) -> tuple[Array, Array, Array]:
    """Entities that are deleted from some event on, or restored; what has no edge counts for nothing."""
    found: list[tuple[int, int, bool]] = []
    by_tenant: dict[str, list[tuple[str, int, bool]]] = {}
    for tenant, entity, sequence, deleted in states:
        by_tenant.setdefault(tenant, []).append((entity, sequence, deleted))
    for tenant, some in by_tenant.items():
        places = numbers(below, tenant, *words(entity for entity, _, _ in some)).tolist()
        for (entity, sequence, deleted), below_place in zip(some, places, strict=True):
            place = below_place if below_place >= 0 else own.get((tenant, entity), -1)
            if place >= 0:
                found.append((place, sequence, deleted))
    ever = {place for place, _, deleted in found if deleted}
    places_found = np.array(sorted({place for place, _, _ in found}), np.int64)
    for layer in below:
        ever.update(places_found[np.isin(places_found, layer.gone)].tolist())
    kept = sorted(record for record in found if record[0] in ever)
    return (
        np.array([place for place, _, _ in kept], np.uint32),
        np.array([sequence for _, sequence, _ in kept], dtype),
        np.array([deleted for _, _, deleted in kept], bool),
    )
