"""One layer of the lineage index: entities as dense numbers, and who leads where, as arrays.

A layer covers the states of some span of the log and never changes. It is either a file that
is mapped into memory, or arrays in memory for what is newer than the files. Layers lie on
each other: numbers, names of types and kinds go on where the layer below ends. How layers
are made is in `drafts.py`, how they are asked together in `walking.py`, where their files
are kept in `index.py`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml_registry_pipelines.registry.errors import RegistryError

Array = NDArray[Any]

MAGIC = b"MLREGIX1"
ALIGNED = 64
HEX = frozenset("0123456789abcdef")
WORD = 2**64 - 1


class IndexDamaged(RegistryError):
    """A file of the lineage index is not what it was when it was written."""


class Kind(NamedTuple):
    """What an edge is: its relation, whether influence flows to its target, whether it is drawn by nobody.

    `implied` is the edge from a version to what it is a version of.
    """

    relation: str
    forward: bool
    implied: bool


class Tenant(NamedTuple):
    """A tenant's own entities in one layer: numbers first to last, without the last."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Adjacency:
    """Edges in one direction: those of `nodes[i]` are `starts[i]` to `starts[i + 1]`.

    `nodes` None: all entities from number 0 on. An edge holds from event `since` until before
    event `until` of its tenant; one with `until == since` says that an older one has ended.
    """

    nodes: Array | None
    starts: Array
    other: Array
    kind: Array
    since: Array
    until: Array

    def of(self, frontier: Array) -> tuple[Array, Array]:
        """Which records belong to the entities, and to which of them: places here and in `frontier`."""
        if self.nodes is None:
            held = np.flatnonzero(frontier < len(self.starts) - 1)
            rows = frontier[held]
        else:
            rows = np.searchsorted(self.nodes, frontier)
            rows[rows == len(self.nodes)] = 0
            held = np.flatnonzero(self.nodes[rows] == frontier) if len(self.nodes) else rows[:0]
            rows = rows[held]
        starts = self.starts[rows].astype(np.int64)
        counts = self.starts[rows + 1].astype(np.int64) - starts
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        places = np.arange(total) + np.repeat(starts - ends + counts, counts)
        return places, np.repeat(held, counts)


@dataclass(frozen=True)
class Layer:
    """What the states of positions `after` to `until` say, beside the layers below.

    Args:
        base: first number of this layer's own entities; lower ones are of the layers below.
        high, low: id of each own entity as 128 bits, in order of tenant and bits.
        types: type of each own entity, a place in `type_names`.
        tenants: own entities by tenant, in order.
        odd_ids: ids that are not 32 hexadecimal digits, by own place.
        gone: numbers of entities, the event from which, and whether they are deleted then.
    """

    after: int
    until: int
    base: int
    high: Array
    low: Array
    types: Array
    tenants: tuple[Tenant, ...]
    type_names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    odd_ids: Mapping[int, str]
    down: Adjacency
    up: Adjacency
    gone: Array
    gone_since: Array
    gone_now: Array
    source: Any = field(default=None, repr=False)
    """The map that the arrays lie in, kept as long as they are."""

    @property
    def size(self) -> int:
        """Entities that are numbered up to this layer."""
        return self.base + len(self.high)

    @property
    def edges(self) -> int:
        return len(self.down.other)

    def direction(self, *, down: bool) -> Adjacency:
        return self.down if down else self.up

    def find(self, tenant: str, high: Array, low: Array) -> Array:
        """Numbers of a tenant's entities by the bits of their ids; -1 where this layer has none."""
        numbers = np.full(len(high), -1, np.int64)
        span = next((t for t in self.tenants if t.name == tenant), None)
        if span is None:
            return numbers
        first, last = span.first - self.base, span.last - self.base
        own_high, own_low = self.high[first:last], self.low[first:last]
        left = np.searchsorted(own_high, high, "left")
        right = np.searchsorted(own_high, high, "right")
        one = np.flatnonzero(right - left == 1)
        hit = one[own_low[left[one]] == low[one]]
        numbers[hit] = span.first + left[hit]
        # Ids that begin alike are of one millisecond; then the other half decides.
        for place in np.flatnonzero(right - left > 1):
            some = own_low[left[place] : right[place]]
            at = int(np.searchsorted(some, low[place]))
            if at < len(some) and some[at] == low[place]:
                numbers[place] = span.first + left[place] + at
        return numbers

    def ids(self, own: Array) -> list[str]:
        """Ids of own entities, by place."""
        highs, lows = self.high[own].tolist(), self.low[own].tolist()
        if not self.odd_ids:
            return [f"{h:016x}{low:016x}" for h, low in zip(highs, lows, strict=True)]
        return [
            self.odd_ids.get(place) or f"{h:016x}{low:016x}"
            for place, h, low in zip(own.tolist(), highs, lows, strict=True)
        ]


def bits_of(entity: str) -> int:
    """An id as 128 bits: itself where it is 32 hexadecimal digits, else its MD5; no secret depends on it."""
    if len(entity) == 32 and HEX.issuperset(entity):
        return int(entity, 16)
    return int.from_bytes(hashlib.md5(entity.encode(), usedforsecurity=False).digest())


def is_plain(entity: str) -> bool:
    """Whether an id is told by its bits alone."""
    return len(entity) == 32 and HEX.issuperset(entity)


def words(ids: Iterable[str]) -> tuple[Array, Array]:
    """The bits of ids as two arrays."""
    bits = [bits_of(entity) for entity in ids]
    return (
        np.array([b >> 64 for b in bits], np.uint64),
        np.array([b & WORD for b in bits], np.uint64),
    )


# -- files -----------------------------------------------------------------------------------

_ADJACENCY = ("starts", "other", "kind", "since", "until")


def _arrays(layer: Layer) -> dict[str, Array]:
    found = {
        "high": layer.high,
        "low": layer.low,
        "types": layer.types,
        "gone": layer.gone,
        "gone_since": layer.gone_since,
        "gone_now": layer.gone_now,
    }
    for name, side in (("down", layer.down), ("up", layer.up)):
        found.update({f"{name}.{part}": getattr(side, part) for part in _ADJACENCY})
        if side.nodes is not None:
            found[f"{name}.nodes"] = side.nodes
    return found


class LayerFile:
    """Writes a layer's arrays one after the other, so that not all need be in memory at once.

    The header comes last, and where it begins stands in the last bytes.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._size = 0
        self._found: dict[str, dict[str, Any]] = {}
        self._put(MAGIC.ljust(ALIGNED, b"\0"))

    def _put(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self._size += len(data)

    def add(self, name: str, array: Array) -> None:
        """Write an array in pieces."""
        flat = np.ascontiguousarray(array)
        self._found[name] = {"at": self._size, "type": flat.dtype.str, "count": len(flat)}
        if len(flat):
            view = memoryview(flat.view(np.uint8).data)
            for start in range(0, len(view), 1 << 24):
                self._put(view[start : start + (1 << 24)])
        self._put(b"\0" * (-self._size % ALIGNED))

    def finish(self, about: Mapping[str, Any]) -> tuple[str, int]:
        """Write what else there is to say; return digest and size of the file."""
        header = json.dumps({**about, "arrays": self._found}).encode()
        start = self._size
        self._put(header)
        self._put(hashlib.sha256(header).digest())
        self._put(start.to_bytes(8, "little") + MAGIC)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._digest.hexdigest(), self._size


def about(layer: Layer) -> dict[str, Any]:
    """What a layer's header says beside the arrays."""
    return {
        "after": layer.after,
        "until": layer.until,
        "base": layer.base,
        "tenants": list(layer.tenants),
        "type_names": list(layer.type_names),
        "kinds": list(layer.kinds),
        "odd_ids": {str(place): entity for place, entity in layer.odd_ids.items()},
    }


def write(layer: Layer, path: Path) -> tuple[str, int]:
    """Write a layer that is in memory; return digest and size of the file."""
    with path.open("wb") as stream:
        file = LayerFile(stream)
        for name, array in _arrays(layer).items():
            file.add(name, array)
        return file.finish(about(layer))


def open_layer(path: Path, size: int) -> Layer:
    """The layer in a file, mapped into memory.

    Raises:
        IndexDamaged: the file was cut or changed at its ends.
        FileNotFoundError: it is gone.
    """
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size != size:
            raise IndexDamaged(
                f"{path} has {os.fstat(stream.fileno()).st_size:,} bytes and should have {size:,}"
                "; run `mlreg lineage index --whole`"
            )
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    header = _header(mapped, path)
    arrays = {
        name: np.frombuffer(mapped, np.dtype(found["type"]), found["count"], found["at"])
        for name, found in header["arrays"].items()
    }

    def side(name: str) -> Adjacency:
        return Adjacency(arrays.get(f"{name}.nodes"), *(arrays[f"{name}.{part}"] for part in _ADJACENCY))

    return Layer(
        header["after"],
        header["until"],
        header["base"],
        arrays["high"],
        arrays["low"],
        arrays["types"],
        tuple(Tenant(*t) for t in header["tenants"]),
        tuple(header["type_names"]),
        tuple(Kind(*k) for k in header["kinds"]),
        {int(place): entity for place, entity in header["odd_ids"].items()},
        side("down"),
        side("up"),
        arrays["gone"],
        arrays["gone_since"],
        arrays["gone_now"],
        mapped,
    )


def _header(mapped: mmap.mmap, path: Path) -> dict[str, Any]:
    end = len(mapped) - 16
    start = int.from_bytes(mapped[end : end + 8], "little") if end > 0 else 0
    text = mapped[start : end - 32]
    whole = mapped[:8] == MAGIC == mapped[end + 8 :]
    if not whole or hashlib.sha256(text).digest() != mapped[end - 32 : end]:
        raise IndexDamaged(f"{path} is no layer of a lineage index; run `mlreg lineage index --whole`")
    found: dict[str, Any] = json.loads(text)
    return found


def extended(below: Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    """Names of the layers below and new ones after them."""
    return (*below, *sorted(set(names) - set(below)))
