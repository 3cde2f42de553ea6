"""The lake: Delta tables below one root, written in four ways and no others.

`append_once`, `append_expecting`, `replace` and `erase` are the only writes (`append_next`
is `append_once` with the next free sequence); each leaves a table either as it was or with
one whole commit more. What a table looks like is declared in `tables/`; how a commit finds
out whether it landed is in `committing.py`, compaction and clean-up in `maintenance.py`,
reading in `reading.py`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ml_registry_pipelines.lake.committing import SEQUENCE, Commit, as_declared
from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.erasing import erase
from ml_registry_pipelines.lake.files import Folder, open_folder
from ml_registry_pipelines.lake.handles import Handles, checked_root, declaration
from ml_registry_pipelines.lake.maintenance import Maintained, Maintainer, TableStatus, table_status
from ml_registry_pipelines.lake.outcomes import (
    CommitUnknown,
    Erased,
    LakeError,
    Landed,
    LostRace,
    OutOfSequence,
    SnapshotGone,
    StaleSlice,
    UnknownTable,
    Verdict,
    reason,
    store_errors,
    verdict,
)
from ml_registry_pipelines.lake.readable import Readable
from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

    from ml_registry_pipelines.lake.reading import Reading

__all__ = [
    "CommitUnknown",
    "Erased",
    "Lake",
    "LakeError",
    "Landed",
    "LostRace",
    "OutOfSequence",
    "SnapshotGone",
    "StaleSlice",
    "UnknownTable",
]

LOOK_BACK = 100
"""Newest commits among which `notes` looks."""
TIMINGS_HELD = 500
"""Query timings that are held in memory before they are written."""
TIMINGS = "MLREG_QUERY_TIMINGS"
"""Names the setting that says whether timings are kept: each process ends with a commit of them, 10 ms."""

_log = logging.getLogger(__name__)


class Lake:
    """Delta tables below one root, a folder or `s3://bucket/prefix`.

    Thread-safe. Handles are kept open and refreshed before each use. Checkpoints and
    compaction follow the number of commits and run beside the callers, on one thread;
    `close` waits for them and writes the query timings. In an object store, a table that is
    deleted while it is in use is noticed only at the next opening; in a folder, at once.

    Args:
        root: folder or `s3://bucket/prefix`; made when the first table is.
        storage_options: `AWS_*` settings; by default those of the environment.
        process: what is asking, for the table of query timings.
        readable: what files beside its own are read from, for whoever works with it; by default anything.

    Raises:
        LakeError: the folder's name has a character that the table format cannot hold, or
            MLREG_QUERY_TIMINGS is neither on nor off.
    """

    def __init__(
        self,
        root: str,
        *,
        storage_options: Mapping[str, str] | None = None,
        process: str = "python",
        readable: Readable | None = None,
    ) -> None:
        self.root = checked_root(root)
        self.readable = readable or Readable(self.root)
        self.storage_options = dict(storage_options or {})
        self.process = process
        self._handles = Handles(self.root, self.storage_options)
        self._lock = threading.Lock()
        self._keeps_timings = _keeps_timings()
        self._timings: list[dict[str, object]] = []
        self._closing: list[Callable[[], None]] = []
        self._maintainer = Maintainer(self._handles.open, self._folder, self._handles.checkpointed)

    @property
    def is_local(self) -> bool:
        return not self.root.startswith("s3://")

    def uri(self, table: str) -> str:
        """Where the table lies."""
        return self._handles.uri(table)

    @staticmethod
    def declaration(table: str) -> Table:
        """The declaration of a table by name.

        Raises:
            UnknownTable: no such table is declared.
        """
        return declaration(table)

    # -- the four writes -------------------------------------------------------------

    def append_once(
        self,
        table: str,
        rows: pa.Table,
        *,
        source: str,
        sequence: int,
        note: Mapping[str, str] | None = None,
    ) -> Landed:
        """Append `rows` as batch `sequence` of `source`, exactly once.

        Rows and sequence commit together, on the snapshot on which the sequence was
        checked. `note` is kept in the commit info, for `notes` to find.

        Raises:
            OutOfSequence: `sequence` is not the one after the last of `source`.
            CommitUnknown: the store failed and shows no trace of the batch.
        """
        from deltalake import Transaction

        declared = declaration(table)
        commit = Commit(table, as_declared(rows, declared), note)
        while True:
            with self._handles.writing(table) as place:
                handle = commit.look(place)
                if commit.entry is not None:
                    return Landed.NOW
                last = place.sequence(source)
                if last >= sequence:
                    return Landed.BEFORE
                if last + 1 != sequence:
                    raise OutOfSequence(table, source, last=last, given=sequence)
                if commit.write(handle, declared, transaction=Transaction(source, sequence)):
                    place.committed(source, sequence)
                    self._maintainer.committed(table, handle.version())
                    return Landed.NOW
                place.forget()
            commit.pause()

    def append_next(self, table: str, rows: pa.Table, *, source: str) -> int:
        """Append `rows` under the next free sequence of `source`, and return it.

        For writers that only add facts and need no order among themselves. A lost
        race takes the sequence after; a commit whose answer got lost is looked up.

        Raises:
            CommitUnknown: the store failed, or was too busy, and shows no trace of the rows.
        """
        from deltalake import Transaction

        declared = declaration(table)
        commit = Commit(table, as_declared(rows, declared))
        while True:
            with self._handles.writing(table) as place:
                handle = commit.look(place)
                if commit.entry is not None:
                    return int(commit.entry[SEQUENCE])
                sequence = place.sequence(source) + 1
                if commit.write(handle, declared, transaction=Transaction(source, sequence)):
                    place.committed(source, sequence)
                    self._maintainer.committed(table, handle.version())
                    return sequence
                place.forget()
            commit.pause()

    def catch_up(self, table: str) -> None:
        """Bring the writer's handle to the newest version, ahead of a write that is to be short."""
        with self._handles.writing(table) as place:
            place.current()

    def append_expecting(
        self, table: str, rows: pa.Table, *, version: int, note: Mapping[str, str] | None = None
    ) -> int:
        """Append `rows` only as the commit right after `version`; return the new version.

        Raises:
            LostRace: the table has moved on; nothing was written.
            CommitUnknown: the store failed and shows no trace of the rows.
        """
        declared = declaration(table)
        commit = Commit(table, as_declared(rows, declared), note)
        with self._handles.writing(table) as place:
            handle = place.current()
            if handle.version() != version:
                raise LostRace(f"{table} is at version {handle.version()}, not {version}; read it again")
            if not commit.write(handle, declared, retries=0):
                place.forget()
                handle = commit.look(place)
                if commit.entry is None:
                    if handle.version() != version:
                        raise LostRace(
                            f"{table} moved on from version {version} while writing; read it again"
                        )
                    raise commit.unknown() from commit.failure
            self._maintainer.committed(table, version + 1)
        return version + 1

    def replace(self, table: str, rows: pa.Table, *, predicate: str, source: str, sequence: int) -> Landed:
        """Overwrite the slice that `predicate` selects with `rows`, as computed from `sequence`.

        Raises:
            StaleSlice: some slice was already computed from a later sequence of `source`,
                so this one may be older than the data that others have seen.
            LostRace: another writer changed the slice meanwhile. Both: compute again.
            LakeError: a row of `rows` is outside the slice.
            CommitUnknown: the store failed and shows no trace of the rows.
        """
        from deltalake import Transaction

        declared = declaration(table)
        commit = Commit(table, as_declared(rows, declared))
        with self._handles.writing(table) as place:
            handle = place.current()
            last = place.sequence(source)
            if last > sequence:
                raise StaleSlice(
                    f"{table} already holds figures of batch {last} of {source!r}, later than {sequence}"
                )
            before = handle.version()
            if not commit.write(
                handle, declared, transaction=Transaction(source, sequence), predicate=predicate
            ):
                place.forget()
                handle = commit.look(place)
                if commit.entry is None:
                    assert commit.failure is not None
                    if verdict(commit.failure) is Verdict.LOST or handle.version() != before:
                        raise LostRace(f"{table} was changed by another writer; compute the slice again")
                    raise commit.unknown() from commit.failure
            self._maintainer.committed(table, handle.version())
        return Landed.NOW

    def erase(self, table: str, predicate: str, *, blank: Mapping[str, str] | None = None) -> Erased:
        """Remove the rows that `predicate` selects, from every file that still exists.

        With `blank`, SQL by column, the rows stay and only those values go: what is left of a row
        whose amounts belong into sums. The predicate must select none of them afterwards.

        Touched files are rewritten; then all files go that the table no longer names, orphans
        included, the log is cut behind a new checkpoint, and the predicate, which may name a
        person, is taken out of it. Writers of other processes that are under way lose their race
        and write anew.

        Raises:
            LostRace: another writer kept changing the table; try again.
        """
        with self._handles.writing(table) as place:
            return erase(place, table, predicate, self._folder(table), blank)

    def drop(self, table: str) -> None:
        """Remove a table that can be computed anew, with all its files, while nobody else uses it."""
        folder = self._folder(table)
        with self._handles.writing(table) as place:
            # Without its log there is no table, whatever happens to the rest.
            for entry in [*folder.entries("_delta_log"), *folder.entries()]:
                folder.delete(entry.path)
            place.forget()

    # -- looking ----------------------------------------------------------------------

    def sequence(self, table: str, source: str) -> int:
        """The last sequence of `source` that landed in `table`; 0 before the first."""
        return self._handles.look(table, lambda handle: handle.transaction_version(source) or 0, absent=0)

    def version(self, table: str) -> int:
        """The version of the table, made empty if it is not there yet."""
        version = self._handles.look(table, lambda handle: int(handle.version()), absent=-1)
        return version if version >= 0 else int(self._handles.open(table).version())

    def is_newest(self, table: str, version: int) -> bool:
        """Whether surely no commit follows a version, where that can be told without listing the log."""
        return self._handles.is_newest(table, version)

    def exists(self, table: str) -> bool:
        """Whether the table has been made."""
        return self._handles.exists(table)

    def notes(self, table: str, *, source_key: str) -> list[dict[str, str]]:
        """Notes of recent commits that hold `source_key`, newest first."""
        history: list[dict[str, str]] = self._handles.look(
            table, lambda handle: handle.history(LOOK_BACK), absent=[]
        )
        return [entry for entry in history if source_key in entry]

    def read(self, *tables: str) -> Reading:
        """A snapshot of the named tables, to be queried with SQL. Use it in a `with` block."""
        from ml_registry_pipelines.lake.reading import Reading

        return Reading(self, tables)

    def snapshot(self, table: str) -> DeltaTable:
        """The table as it is now, made if it is not there, in a handle of the caller's own."""
        return self._handles.find(table) or self._handles.open(table)

    def shared_snapshot(self, table: str, *, anew: bool = False) -> DeltaTable | None:
        """As `find`, in a handle that all readers share: it may be looked at and not be moved."""
        return self._handles.snapshot(table, anew=anew)

    def find(self, table: str) -> DeltaTable | None:
        """The table as it is now; None where it has not been made."""
        return self._handles.find(table)

    def status(self) -> list[TableStatus]:
        """Rows, files, bytes, version and upkeep of every table that exists."""
        found = ((name, self._handles.find(name)) for name in sorted(TABLES))
        return [
            table_status(handle, TABLES[name], self._folder(name))
            for name, handle in found
            if handle is not None
        ]

    # -- upkeep -----------------------------------------------------------------------

    def maintain(self, table: str, *, full: bool = False) -> Maintained:
        """Compact, checkpoint, cut the log and remove what nobody reads; `full` also orphans."""
        return self._maintainer.maintain(table, full=full)

    def settle(self) -> None:
        """Wait until upkeep that this object's own commits have set off is done."""
        self._maintainer.settle()

    def timed(self, name: str, *, seconds: float, rows: int, size: int) -> None:
        """Note how long a named query took, for the table of query timings."""
        if not self._keeps_timings:
            return
        timing: dict[str, object] = {
            "name": name,
            "recorded_at": datetime.now(UTC),
            "ms": seconds * 1000,
            "rows": rows,
            "bytes": size,
            "process": self.process,
        }
        with self._lock:
            self._timings.append(timing)
            full = len(self._timings) >= TIMINGS_HELD
        if full:
            self.flush_timings()

    def flush_timings(self) -> None:
        """Write the collected query timings, in one commit; if that fails, they are dropped.

        A timing is never worth the failure of what was timed, nor a lake that nobody has written to.
        """
        with self._lock:
            timings, self._timings = self._timings, []
        if not timings or (self.is_local and not Path(self.root).is_dir()):
            return
        import pyarrow as pa

        rows = pa.Table.from_pylist(timings, schema=declaration("query_timings").schema)
        failures: tuple[type[Exception], ...] = (LakeError, *store_errors())
        try:
            self.append_next("query_timings", rows, source="query_timings")
        except failures as failure:
            _log.warning("%d query timings were not kept: %s", len(timings), reason(failure))

    def before_closing(self, does: Callable[[], None]) -> None:
        """Have something done whenever `close` begins: a room writes there what it still holds."""
        self._closing.append(does)

    def close(self) -> None:
        """Write what rooms still hold and the query timings, and wait for upkeep."""
        for does in self._closing:
            does()
        self.flush_timings()
        self._maintainer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _folder(self, table: str) -> Folder:
        return open_folder(self.uri(table), self.storage_options)


def _keeps_timings() -> bool:
    wanted = os.environ.get(TIMINGS, "").strip() or "on"
    if wanted not in {"on", "off"}:
        raise LakeError(f"{TIMINGS} is {wanted!r}; set it to on or off")
    return wanted == "on"
