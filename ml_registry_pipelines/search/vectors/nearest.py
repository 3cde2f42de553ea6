"""The nearest models to a vector among those that a reader may see and a filter keeps.

Which models may answer is a condition of the search and no sieve behind it. A table whose vectors fit into
`IN_MEMORY` is held as one matrix per tenant, and the models that may answer are compared exactly, however few
or many. A larger one is searched by its index, by tenant; where a filter keeps `TAKEN` models or fewer, their
vectors alone are fetched and compared exactly, and where it keeps more, the index is asked for more and more
until k of the models are among its answers.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.search.vectors.store import Record, VectorStore
from ml_registry_pipelines.search.vectors.table import (
    PROBES,
    REBUILD,
    REFINE,
    VectorsDamaged,
    VectorTable,
    quoted,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Floats = npt.NDArray[np.float32]
    Numbers = npt.NDArray[np.int64]

IN_MEMORY = 256 << 20
"""Bytes of vectors up to which a table is held in memory: 262,144 of 256 numbers, 87,381 of 768."""
INDEX_FROM = IN_MEMORY
"""Bytes of vectors from which on a table gets an index."""
TAKEN = 20_000
"""Models up to which a filter has their vectors fetched."""
WIDEST = 16
"""Times that the index is asked for twice as many, before all are compared."""
CHANGED = 0.1
"""Part of a table up to which what changed is read alone."""


TRIES = 5


class _Moved(Exception):
    """A writer has replaced rows between two reads of one question."""


@dataclass(frozen=True)
class Neighbour:
    """A model that is near. `similarity` is the cosine of the angle between the vectors, at most 1."""

    id: str
    similarity: float


class _Held:
    """Rows of one version of a table by key, and their vectors where these fit into memory.

    `keys` is sorted, and all else is in its order; rows of one tenant lie side by side.
    """

    def __init__(
        self,
        version: int,
        keys: pa.StringArray,
        row_ids: Numbers,
        digests: pa.StringArray,
        vectors: Floats | None,
    ) -> None:
        self.version, self.keys, self.row_ids, self.digests = version, keys, row_ids, digests
        self.vectors = vectors
        self._by_id: dict[str, dict[str, int]] = {}

    def range_of(self, tenant: str) -> tuple[int, int]:
        """Where the rows of a tenant begin and end."""
        first, last = (  # "0" follows "/"
            bisect_left(range(len(self.keys)), end, key=lambda n: self.keys[n].as_py())
            for end in (f"{tenant}/", f"{tenant}0")
        )
        return first, last

    def places(self, tenant: str, ids: Collection[str] | None) -> Numbers:
        """Where the rows of a tenant are, or those of some of its models that have one; in order."""
        import numpy as np

        if ids is None:
            return np.arange(*self.range_of(tenant), dtype=np.int64)
        known = self.by_id(tenant)
        found = np.fromiter((known[one] for one in set(ids) if one in known), np.int64)
        found.sort()
        return found

    def by_id(self, tenant: str) -> dict[str, int]:
        """The place of each model of a tenant, by its id. Made with the first question that names models."""
        if tenant not in self._by_id:
            first, last = self.range_of(tenant)
            keys, begin = self.keys[first:last].to_pylist(), len(tenant) + 1
            self._by_id[tenant] = {key[begin:]: n for n, key in enumerate(keys, start=first)}
        return self._by_id[tenant]

    def id_at(self, place: int) -> str:
        return _id_of(self.keys[place].as_py())


class Nearest:
    """Searches in the table that holds, for one process. Thread-safe."""

    def __init__(
        self, table: VectorTable, *, in_memory: int = IN_MEMORY, probes: int = PROBES, refine: int = REFINE
    ) -> None:
        self.table = table
        self._in_memory, self._probes, self._refine = in_memory, probes, refine
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def to(
        self,
        tenant: str,
        vector: Floats,
        k: int,
        *,
        ids: Collection[str] | None = None,
        but: Iterable[str] = (),
    ) -> list[Neighbour]:
        """The k nearest models of a tenant, nearest first; fewer only where fewer have a vector.

        Args:
            vector: of unit length; shape (dimension,).
            ids: the models that may answer; None: all of the tenant.
            but: models that may not.
        """
        if k < 1:
            return []
        for _ in range(TRIES):
            try:
                return self._to(self.held(), tenant, vector, k, ids, but)
            except _Moved:
                self._forget()
        raise VectorsDamaged(f"{self.table.base} keeps changing while it is read; ask again")

    def _to(
        self,
        held: _Held,
        tenant: str,
        vector: Floats,
        k: int,
        ids: Collection[str] | None,
        but: Iterable[str],
    ) -> list[Neighbour]:
        first, last = held.range_of(tenant)
        if held.vectors is None and ids is None and last - first > TAKEN:
            left = set(but)
            found = self._by_index(held, tenant, vector, k + len(left), None)
            if found is not None:
                return [near for near in found if near.id not in left][:k]
        places = held.places(tenant, ids)
        if left := set(but):
            import numpy as np

            places = np.setdiff1d(places, held.places(tenant, left), assume_unique=True)
        if held.vectors is None and len(places) > TAKEN:
            found = self._by_index(held, tenant, vector, k, places)
            if found is not None:
                return found
        return self._exactly(held, vector, k, places)

    def vector_of(self, tenant: str, model_id: str) -> tuple[Floats, str] | None:
        """The vector of a model and the digest of the text that it was made from; None where it has none."""
        for _ in range(TRIES):
            try:
                held = self.held()
                places = held.places(tenant, [model_id])
                if not len(places):
                    return None
                return self._vectors(held, places)[0], str(held.digests[places[0]].as_py())
            except _Moved:
                self._forget()
        raise VectorsDamaged(f"{self.table.base} keeps changing while it is read; ask again")

    def held(self) -> _Held:
        """The rows as they are now. What changed since the last question is read, where it is little, alone."""
        with self._lock:
            version = self.table.version()
            if self._held is None or self._held.version != version:
                self._held = self._read(version, self._held)
            return self._held

    def _forget(self) -> None:
        with self._lock:
            self._held = None

    # -- exactly --------------------------------------------------------------------------------

    def _exactly(self, held: _Held, vector: Floats, k: int, places: Numbers) -> list[Neighbour]:
        import numpy as np

        best: list[tuple[Numbers, Floats]] = []
        for first in range(0, len(places), TAKEN):
            some = places[first : first + TAKEN]
            # Rows that lie side by side are compared where they are, others are copied first.
            whole = held.vectors is not None and len(some) == some[-1] - some[0] + 1
            rows = (
                held.vectors[some[0] : some[-1] + 1]
                if held.vectors is not None and whole
                else self._vectors(held, some)
            )
            near = rows @ vector
            top = np.argpartition(-near, min(k, len(near)) - 1)[:k]
            best.append((some[top], near[top]))
        if not best:
            return []
        all_places = np.concatenate([found for found, _ in best])
        all_near = np.concatenate([near for _, near in best])
        order = np.lexsort((all_places, -all_near))[:k]
        return [
            Neighbour(held.id_at(int(place)), min(float(near), 1.0))
            for place, near in zip(all_places[order], all_near[order], strict=True)
        ]

    def _vectors(self, held: _Held, places: Numbers) -> Floats:
        """Shape (places, dimension), in the order of the places."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if held.vectors is not None:
            return held.vectors[places]
        taken = self.table.vectors_at(held.row_ids[places].tolist())
        order = pc.sort_indices(taken["key"]).to_numpy()
        if not taken["key"].combine_chunks().take(pa.array(order)).equals(held.keys.take(pa.array(places))):
            raise _Moved
        found: Floats = _matrix(taken["vector"], self.table.dimension)[order]
        return found

    # -- by the index ---------------------------------------------------------------------------

    def _by_index(
        self, held: _Held, tenant: str, vector: Floats, k: int, places: Numbers | None
    ) -> list[Neighbour] | None:
        """The k nearest of the places, or of all of the tenant, that the index finds; None where these are fewer."""
        import numpy as np

        first, last = held.range_of(tenant)
        allowed = None
        if places is not None and len(places) < last - first:
            allowed = np.zeros(len(held.keys), bool)
            allowed[places] = True
        wanted = (
            k if places is None or allowed is None else int(np.ceil(k * (last - first) / len(places) * 1.5))
        )
        where = None if last - first == len(held.keys) else f"tenant = {quoted(tenant)}"
        probes = self._probes
        for _ in range(WIDEST):
            found = self.table.nearest(vector, wanted, where=where, probes=probes, refine=self._refine)
            kept = {_id_of(near.key): near.similarity for near in found}
            if allowed is not None:
                known = held.by_id(tenant)
                kept = {one: near for one, near in kept.items() if one in known and allowed[known[one]]}
            if len(kept) >= k:
                best = sorted(kept.items(), key=lambda item: (-item[1], item[0]))[:k]
                return [Neighbour(one, min(near, 1.0)) for one, near in best]
            if wanted >= last - first:
                break
            wanted, probes = wanted * 2, probes * 2
        return None

    # -- reading --------------------------------------------------------------------------------

    def _read(self, version: int, before: _Held | None) -> _Held:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = self.table.columns("key", "digest", with_row_id=True)
        rows = rows.take(pc.sort_indices(rows["key"]))
        keys = _one(rows["key"], pa.string())
        if len(pc.unique(keys)) < len(keys):
            raise VectorsDamaged(f"a model has two vectors in {self.table.base}; {REBUILD}")
        digests, row_ids = _one(rows["digest"], pa.string()), rows["_rowid"].to_numpy().astype("int64")
        if len(keys) * self.table.dimension * 4 > self._in_memory:
            return _Held(version, keys, row_ids, digests, None)
        return _Held(version, keys, row_ids, digests, self._matrix_of(keys, digests, row_ids, before))

    def _matrix_of(
        self, keys: pa.StringArray, digests: pa.StringArray, row_ids: Numbers, before: _Held | None
    ) -> Floats:
        """Vectors in the order of the keys; those whose text is the same are taken from before."""
        import numpy as np

        vectors = np.zeros((len(keys), self.table.dimension), np.float32)
        new = np.ones(len(keys), bool)
        if before is not None and before.vectors is not None and len(before.keys) and len(keys):
            at = _places_in(before.keys, keys)
            same = before.digests.take(_arrow(np.maximum(at, 0))).to_numpy(zero_copy_only=False)
            new = (at < 0) | (same != digests.to_numpy(zero_copy_only=False))
            if new.mean() <= CHANGED:
                vectors[~new] = before.vectors[at[~new]]
            else:
                new[:] = True
        if not new.any():
            return vectors
        everything = bool(new.all())
        read, ids = self.table, row_ids[new].tolist()
        taken = read.columns("key", "vector") if everything else read.vectors_at(ids)
        at = _places_in(keys, taken["key"].combine_chunks())
        vectors[at[at >= 0]] = _matrix(taken["vector"], self.table.dimension)[at >= 0]
        if not np.isin(np.flatnonzero(new), at).all():
            raise _Moved
        return vectors


_kept: dict[tuple[str, str], Nearest] = {}
_kept_lock = threading.Lock()


def nearest_in(store: VectorStore, record: Record) -> Nearest:
    """The searches in the table that a record names; what they hold in memory is shared by this process."""
    key = (store.base, record.table)
    with _kept_lock:
        if key not in _kept:
            for other in [other for other in _kept if other[0] == store.base]:
                del _kept[other]
            _kept[key] = Nearest(store.table_of(record))
        return _kept[key]


def _matrix(column: Any, dimension: int) -> Floats:
    import numpy as np

    held = column.combine_chunks()
    flat = held.flatten() if hasattr(held, "flatten") else held.values
    return np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, dimension)


def _one(column: Any, kind: Any) -> Any:
    """A column as one array."""
    import pyarrow as pa

    held = column.combine_chunks()
    return pa.concat_arrays(held.chunks).cast(kind) if isinstance(held, pa.ChunkedArray) else held.cast(kind)


def _arrow(numbers: Numbers) -> Any:
    import pyarrow as pa

    return pa.array(numbers)


def _places_in(keys: pa.StringArray, sought: Any) -> Numbers:
    """The place of each sought key among `keys`; -1 where it is not there."""
    import pyarrow.compute as pc

    found: Numbers = pc.index_in(sought, value_set=keys).fill_null(-1).to_numpy(zero_copy_only=False)
    return found.astype("int64")


def _id_of(key: Any) -> str:
    return str(key).rpartition("/")[2]


def ranks(found: Sequence[Neighbour]) -> dict[str, int]:
    """Place of each model in a list, from 1."""
    return {near.id: n for n, near in enumerate(found, start=1)}
