"""One Lance table of vectors: rows by key, nearest rows, an index where it is large, and bytes that go for good.

A row says of one model which text its vector was made from (`digest`) and when (`position` in the log). A row
is replaced by one that is as new or newer alone, so of two writers the later reading of the log stays. Texts
are not kept.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ml_registry_pipelines.registry.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Vectors = npt.NDArray[np.float32]

T = TypeVar("T")

PARTITIONS = 64
"""Of the index IVF_HNSW_SQ; one graph each, so that building needs the memory of one."""
PROBES = 24
"""Partitions that are looked into. At 100,000 vectors of 768 numbers, recall@10 was 0.75 with 8, 0.91 with 16, 0.97
with 24 and 0.99 with 32, at 9 ms of one core each (`benchmarks/vectors.py`)."""
REFINE = 2
"""Times k as many candidates are compared by their full vectors."""
AT_ONCE = 50_000
"""Rows that are written or read in one go."""
REBUILD = "`mlreg embeddings rebuild` makes them anew"
_OWN_SOURCE = re.compile(r",? /\S+\.rs:\d+(?::\d+)?")


class VectorsMissing(RegistryError):
    """There are no vectors yet, or no longer."""


class VectorsDamaged(RegistryError):
    """The table of vectors cannot be read, or holds what it should not; the text says what to do."""


@dataclass(frozen=True)
class Near:
    """A row that is near: its key, and the cosine of the angle, 1 for the same direction."""

    key: str
    similarity: float


def schema(dimension: int) -> pa.Schema:
    """Columns of a table with vectors of that many numbers."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("tenant", pa.string(), nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            pa.field("position", pa.int64(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
        ]
    )


def key_of(tenant: str, model_id: str) -> str:
    """What a row goes by: Lance has keys of one column alone."""
    return f"{tenant}/{model_id}"


def rows(
    tenants: Sequence[str], ids: Sequence[str], digests: Sequence[str], position: int, vectors: Vectors
) -> pa.Table:
    """Rows of a table. `vectors` is of shape (rows, dimension)."""
    import numpy as np
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.table(
        {
            "key": [key_of(tenant, one) for tenant, one in zip(tenants, ids, strict=True)],
            "tenant": list(tenants),
            "id": list(ids),
            "digest": list(digests),
            "position": pa.array([position] * len(ids), pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        },
        schema=schema(vectors.shape[1]),
    )


class VectorTable:
    """One table below `base`, a folder or `s3://bucket/prefix`."""

    def __init__(self, base: str, name: str, options: Mapping[str, str] | None, dimension: int) -> None:
        self.base, self.name, self.dimension = base, name, dimension
        self._options = dict(options) if options else None
        self._open: Any = None

    # -- as a whole ---------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return self.name in table_names(self.base, self._options)

    def create(self) -> None:
        """Make it, empty; one that is there stays."""
        self._open = None
        with self._errors():
            try:
                made = self._connect().create_table(self.name, schema=schema(self.dimension))
            except ValueError as failure:
                if "already exists" not in str(failure):
                    raise
                made = self._connect().open_table(self.name)
            if not _has_key(made.schema):
                # With a key, two writers that insert the same one conflict, and the later tries again.
                made.set_unenforced_primary_key("key")

    def drop(self) -> None:
        """Remove it with all that it has stored."""
        with self._errors():
            self._connect().drop_table(self.name, ignore_missing=True)
        self._open = None

    def opened(self) -> Any:
        """The table as it is now.

        Raises:
            VectorsMissing: it is not there.
            VectorsDamaged: it cannot be read, or its vectors are of another dimension.
        """
        with self._errors():
            if self._open is None:
                self._open = self._connect().open_table(self.name)
                self._check(self._open.schema)
            self._open.checkout_latest()
            return self._open

    def version(self) -> int:
        return int(self.opened().version)

    def count(self) -> int:
        return int(self._asked(lambda table: table.count_rows()))

    def _check(self, found: pa.Schema) -> None:
        import pyarrow as pa

        wanted = schema(self.dimension)
        here = {field.name: field.type for field in found}
        vector = here.get("vector")
        if vector is not None and pa.types.is_fixed_size_list(vector) and vector.list_size != self.dimension:
            raise VectorsDamaged(
                f"the vectors in {self.base}/{self.name}.lance have {vector.list_size} numbers and should have "
                f"{self.dimension}; {REBUILD}"
            )
        if any(here.get(field.name) != field.type for field in wanted):
            raise VectorsDamaged(f"{self.base}/{self.name}.lance has other columns than it should; {REBUILD}")

    # -- writing --------------------------------------------------------------------------------

    def put(self, new: pa.Table) -> None:
        """Add rows, or replace those with their keys that are no newer."""

        def merge(table: Any) -> None:
            for first in range(0, new.num_rows, AT_ONCE):
                (
                    table.merge_insert("key")
                    .when_matched_update_all(where="source.position >= target.position")
                    .when_not_matched_insert_all()
                    .execute(new.slice(first, AT_ONCE))
                )

        self._asked(merge)

    def add(self, new: pa.Table) -> None:
        """Add rows whose keys are not there: for what is made anew by one writer."""
        self._asked(lambda table: table.add(new))

    def delete(self, keys: Sequence[str]) -> None:
        """Take rows out; their bytes go with `scrub`."""

        def remove(table: Any) -> None:
            for first in range(0, len(keys), 1000):
                table.delete(f"key IN ({', '.join(map(quoted, keys[first : first + 1000]))})")

        self._asked(remove)

    def tidy(self) -> None:
        """Merge small files, bring the index up to date, and let older versions go."""
        self._asked(
            lambda table: table.optimize(cleanup_older_than=timedelta(0), delete_unverified=False), quiet=True
        )

    def scrub(self) -> None:
        """Write the table anew, so that no file holds a vector that was deleted or replaced.

        Compacting alone leaves a deleted row in its file until a tenth of the file is deleted. The index
        goes too, since it holds what it was built from.
        """
        import pyarrow as pa

        def rewrite(table: Any) -> None:
            if table.count_rows():
                reader = table.search().limit(None).to_batches(AT_ONCE)
                source = pa.RecordBatchReader.from_batches(schema(self.dimension), _as_declared(reader))
                made = self._connect().create_table(self.name, source, mode="overwrite")
            else:
                made = self._connect().create_table(
                    self.name, schema=schema(self.dimension), mode="overwrite"
                )
            if not _has_key(made.schema):
                made.set_unenforced_primary_key("key")
            made.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

        self._asked(rewrite, quiet=True)
        self._open = None

    def build_index(self, partitions: int = PARTITIONS) -> None:
        """Build the index over vectors: 1 million of 768 numbers took minutes (see docs/search.md)."""
        from lancedb.index import Bitmap, HnswSq

        def build(table: Any) -> None:
            config = HnswSq(distance_type="cosine", num_partitions=partitions)
            table.create_index("vector", config=config, replace=True)
            # Without it every question reads the tenant of every row: 10 ms at 100,000.
            table.create_index("tenant", config=Bitmap(), replace=True)

        self._asked(build, quiet=True)

    @property
    def is_indexed(self) -> bool:
        found: bool = self._asked(
            lambda table: any("HNSW" in str(index.index_type).upper() for index in table.list_indices())
        )
        return found

    # -- reading ----------------------------------------------------------------------------------

    def columns(self, *names: str, with_row_id: bool = False) -> pa.Table:
        """All rows, but of the named columns alone; with `_rowid` for `vectors_at`."""
        return self._asked(
            lambda table: table.search().with_row_id(with_row_id).select(list(names)).limit(None).to_arrow()
        )

    def vectors_at(self, row_ids: Sequence[int]) -> pa.Table:
        """Key and vector of rows by their row ids, in no order."""
        return self._asked(
            lambda table: table.take_row_ids([int(n) for n in row_ids]).select(["key", "vector"]).to_arrow()
        )

    def nearest(
        self, vector: Vectors, k: int, *, where: str | None = None, probes: int = PROBES, refine: int = REFINE
    ) -> list[Near]:
        """Up to k nearest rows that a condition holds for, by the index where there is one, and else exactly."""

        def ask(table: Any) -> pa.Table:
            query = table.search(vector, vector_column_name="vector").distance_type("cosine")
            if where is not None:
                query = query.where(where, prefilter=True)
            query = query.nprobes(probes).refine_factor(refine).limit(k)
            return query.select(["key", "_distance"]).to_arrow()

        found = self._asked(ask)
        return [
            Near(key, 1.0 - distance)
            for key, distance in zip(found["key"].to_pylist(), found["_distance"].to_pylist(), strict=True)
        ]

    # -- Lance ------------------------------------------------------------------------------------

    def _connect(self) -> Any:
        return _connection(self.base, self._options)

    def _asked(self, work: Callable[[Any], T], *, quiet: bool = False) -> T:
        table = self.opened()
        with self._errors(), warnings.catch_warnings():
            if quiet:
                # That readers of older versions fail is what is wanted.
                warnings.simplefilter("ignore", UserWarning)
            return work(table)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as failure:
            raise VectorsMissing(f"there is no table {self.base}/{self.name}.lance; {REBUILD}") from failure
        except (OSError, ValueError, RuntimeError) as failure:
            self._open = None
            if "was not found" in str(failure):
                raise VectorsMissing(
                    f"there is no table {self.base}/{self.name}.lance; {REBUILD}"
                ) from failure
            raise VectorsDamaged(
                f"{self.base}/{self.name}.lance cannot be read or written: {_short(failure)}; {REBUILD}"
            ) from failure


def table_names(base: str, options: Mapping[str, str] | None) -> list[str]:
    """Names of the tables below a base."""
    try:
        listed = _connection(base, options).list_tables(limit=10_000)
    except (OSError, ValueError, RuntimeError) as failure:
        raise VectorsDamaged(f"{base} cannot be read: {_short(failure)}") from failure
    return sorted(listed.tables)


def quoted(value: str) -> str:
    """A text as Lance's filters write it."""
    return "'" + value.replace("'", "''") + "'"


def _connection(base: str, options: Mapping[str, str] | None) -> Any:
    import lancedb

    return lancedb.connect(base, storage_options=dict(options) if options else None)


def _has_key(found: pa.Schema) -> bool:
    metadata = found.field("key").metadata or {}
    return any(b"primary" in name for name in metadata)


def _as_declared(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for batch in batches:
        wanted = schema(batch.schema.field("vector").type.list_size)
        yield pa.RecordBatch.from_arrays([batch.column(f.name) for f in wanted], schema=wanted)


def _short(failure: Exception) -> str:
    """What went wrong, without the place in Lance's own source that it names."""
    return _OWN_SOURCE.sub("", " ".join(str(failure).split()))[:300]
