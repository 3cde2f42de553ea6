"""Where in the files of a projection the states of an entity are: an index in memory.

A question to DuckDB takes 5 to 15 ms, most of it to plan the statement and to open files. A
process that asks often keeps 32 bits of the digest of every value, sorted, and beside it the
number of the row; a look-up then reads one small row group. Eight bytes per row and column;
digests that agree by chance are told apart by the value that is read.

Files never change, so an index of files stays true as long as they are there; a newer
snapshot adds its new files. Which states are newer than the files is not known here.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.states import STATE_COLUMNS, State, from_rows

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUPS_HELD = 32
"""Row groups that are held decoded, of some 4,096 states each."""
RUNS = 12
"""Sorted runs of a column after which they are merged into one."""
MOST_ROWS = 20_000_000
"""Rows of a projection that are indexed; a larger one is asked through DuckDB."""

Opener = Callable[[str, "pq.FileMetaData | None"], "pq.ParquetFile"]
"""Opens a file by its path; with its metadata, which take 3 ms to parse, where they are known."""


@dataclass
class _File:
    path: str
    first: int
    """Number of its first row."""
    metadata: pq.FileMetaData
    ends: list[int]
    """Number of the row after each row group, within the file."""


@dataclass
class _Index:
    """Sorted runs of (32 bits of a digest, number of the row)."""

    runs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    files: int = 0


class Places:
    """An index over the files of one projection. Thread-safe."""

    def __init__(self, table: str, open_file: Opener) -> None:
        self.table = table
        self._open = open_file
        self._files: list[_File] = []
        self._columns: dict[str, _Index] = {}
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def columns(self) -> frozenset[str]:
        """The columns that are indexed."""
        return frozenset(self._columns)

    def covers(self, column: str) -> bool:
        """Whether the column is indexed."""
        return column in self._columns

    def loaded(self, paths: Sequence[str], column: str) -> Places | None:
        """An index of this column too, over these files; None where they hold too many rows for one.

        Raises:
            OSError: a file is gone or cannot be read.
        """
        grown = self._copy()
        grown._add_files(paths)
        if grown._rows > MOST_ROWS:
            return None
        for name in {column, "id", *grown._columns}:
            grown._extend(name)
        return grown

    def with_files(self, paths: Sequence[str]) -> Places | None:
        """The index over a newer snapshot's files; None where some of these are no longer among them.

        Raises:
            OSError: a file is gone or cannot be read.
        """
        if {file.path for file in self._files} - set(paths):
            return None
        grown = self._copy()
        grown._add_files(paths)
        for name in grown._columns:
            grown._extend(name)
        return grown

    def _copy(self) -> Places:
        grown = Places(self.table, self._open)
        with self._lock:
            grown._files = list(self._files)
            grown._columns = {n: _Index(list(i.runs), i.files) for n, i in self._columns.items()}
            grown._groups = self._groups.copy()
        return grown

    def find(self, tenant: str, column: str, value: str) -> list[State]:
        """Every state of the files whose column has the value, in no order.

        Raises:
            OSError: a file is gone or cannot be read.
        """
        with self._lock:
            rows = self._candidates(column, digest32(tenant, value))
            groups: dict[tuple[int, int], list[int]] = {}
            for row in rows:
                file, group, place = self._where(row)
                groups.setdefault((file, group), []).append(place)
            found: list[State] = []
            for (file, group), places in groups.items():
                decoded = self._group(file, group).take(places)
                for state, given in zip(
                    from_rows(self.table, decoded), decoded[column].to_pylist(), strict=True
                ):
                    if state.tenant == tenant and given == value:
                        found.append(state)
        return found

    # -- index -----------------------------------------------------------------------------

    @property
    def _rows(self) -> int:
        last = self._files[-1] if self._files else None
        return last.first + int(last.metadata.num_rows) if last else 0

    def _add_files(self, paths: Sequence[str]) -> None:
        known = {file.path for file in self._files}
        for path in paths:
            if path not in known:
                with self._open(path, None) as opened:
                    metadata = opened.metadata
                ends, end = [], 0
                for group in range(metadata.num_row_groups):
                    end += metadata.row_group(group).num_rows
                    ends.append(end)
                self._files.append(_File(path, self._rows, metadata, ends))

    def _extend(self, column: str) -> None:
        """Index the files that are not indexed yet."""
        import numpy as np

        index = self._columns.get(column, _Index())
        digests, rows = [], []
        for file in self._files[index.files :]:
            with self._open(file.path, file.metadata) as opened:
                values = opened.read(columns=["tenant", column])
            given = _digests(values, column)
            present = np.asarray(values[column].is_valid())
            digests.append(given[present])
            rows.append((file.first + np.flatnonzero(present)).astype(np.uint32))
        runs = list(index.runs)
        if digests:
            runs.append(_sorted(np.concatenate(digests), np.concatenate(rows)))
        if len(runs) > RUNS:
            runs = [_sorted(np.concatenate([d for d, _ in runs]), np.concatenate([r for _, r in runs]))]
        self._columns[column] = _Index(runs, len(self._files))

    def _candidates(self, column: str, digest: int) -> list[int]:
        import numpy as np

        wanted = np.uint32(digest)
        found: list[int] = []
        for digests, rows in self._columns[column].runs:
            first = int(digests.searchsorted(wanted))
            if first < len(digests) and digests[first] == wanted:
                last = int(digests.searchsorted(wanted, "right"))
                found += rows[first:last].tolist()
        return found

    def _where(self, row: int) -> tuple[int, int, int]:
        """File, row group, and place in it."""
        number = bisect_right(self._files, row, key=lambda file: file.first) - 1
        file = self._files[number]
        inside = row - file.first
        group = bisect_right(file.ends, inside)
        return number, group, inside - (file.ends[group - 1] if group else 0)

    def _group(self, number: int, group: int) -> pa.Table:
        key = (number, group)
        found = self._groups.get(key)
        if found is None:
            file = self._files[number]
            with self._open(file.path, file.metadata) as opened:
                found = opened.read_row_group(
                    group, columns=[*STATE_COLUMNS, *sorted(self._columns)], use_threads=False
                )
            self._groups[key] = found
            while len(self._groups) > GROUPS_HELD:
                self._groups.popitem(last=False)
        elif not set(self._columns) <= set(found.column_names):
            del self._groups[key]
            return self._group(number, group)
        else:
            self._groups.move_to_end(key)
        return found


def digest32(tenant: str, value: str) -> int:
    """32 bits of MD5, as DuckDB's `md5_number_lower` gives them; no secret depends on it."""
    data = hashlib.md5(f"{tenant}\x1f{value}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(data[8:12], "little")


def _digests(values: pa.Table, column: str) -> np.ndarray:
    """`digest32` of every row."""
    import numpy as np

    from ml_registry_pipelines.lake.reading import open_duckdb

    connection = open_duckdb(ordered=True, over=values.num_rows)
    try:
        connection.register("given", values)
        found = connection.execute(
            f"""
            SELECT (md5_number_lower(tenant || chr(31) || coalesce({column}, '')) & 4294967295)::UINTEGER AS d
            FROM given
            """
        ).fetchnumpy()
    finally:
        connection.close()
    return np.asarray(found["d"])


def _sorted(digests: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = digests.argsort(kind="stable")
    return digests[order], rows[order]


def opener(lake: Lake, table: str) -> Opener:
    """How files of a table are opened by the path that the table's log gives them."""

    def local(path: str, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        return pq.ParquetFile(f"{lake.uri(table)}/{unquote(path)}", metadata=metadata)

    def remote(path: str, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
        import pyarrow.fs as pafs
        import pyarrow.parquet as pq
        from deltalake.fs import DeltaStorageHandler

        handler: Any = DeltaStorageHandler(lake.uri(table), lake.storage_options or None)
        source = pafs.PyFileSystem(handler).open_input_file(unquote(path))
        return pq.ParquetFile(source, metadata=metadata)

    return local if lake.is_local else remote


def unreadable() -> tuple[type[Exception], ...]:
    """What a file that is gone or damaged raises."""
    import pyarrow as pa

    return (OSError, pa.ArrowException)


def newest_of(states: Iterable[State], at: int | None) -> dict[str, State]:
    """The newest state of each entity up to event `at` of the tenant, by id."""
    found: dict[str, State] = {}
    for state in states:
        if at is not None and state.sequence > at:
            continue
        before = found.get(state.id)
        if before is None or before.sequence < state.sequence:
            found[state.id] = state
    return found
