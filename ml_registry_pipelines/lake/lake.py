"""The lake: Delta tables below one root, written in four ways and no others.

`append_once`, `append_expecting`, `replace` and `erase` are the only writes; each
leaves a table either as it was or with one whole commit more. What a table looks
like is declared in `tables/`; compaction and clean-up are in `maintenance.py`;
reading is in `reading.py`.

A failed commit says nothing about its outcome: an object store may answer 503 to
a PUT that landed. Every write therefore looks its own commit up before it
decides what happened.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.maintenance import (
    CHECKPOINT_EVERY,
    Maintained,
    Maintainer,
    TableStatus,
    no_hooks,
    table_status,
)
from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable, WriterProperties

    from ml_registry_pipelines.lake.reading import Reading

COMMIT_ID = "mlreg_commit"
"""Key in the commit info by which a write finds its own commit again."""
LOOK_BACK = 200
"""Newest commits that are searched for one whose answer got lost."""
ATTEMPTS = 12
"""Tries of a write that takes the next free sequence, before it gives up on a busy table."""
COLUMNS_ADDED = "mlreg.columns_added"
"""Table property that tells readers that older files lack columns."""
LOG_RETENTION = "interval 10 minutes"
REMOVED_FILE_RETENTION = "interval 1 hours"


HOPELESS = ("No space left", "Permission denied", "Read-only file system", "AccessDenied", "quota exceeded")
"""What the store says when waiting will not help."""


class LakeError(MlregError):
    """A table could not be read or written."""


class UnknownTable(LakeError):
    """No table is declared under that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no table {name!r}; the tables are {', '.join(sorted(TABLES))}")


class OutOfSequence(LakeError):
    """A batch does not follow the last one of its source."""

    def __init__(self, table: str, source: str, *, last: int, given: int) -> None:
        super().__init__(
            f"{table}: batch {given} of {source!r} does not follow {last}; read the table again and take {last + 1}"
        )


class LostRace(LakeError):
    """Another writer committed first; nothing of this write landed."""


class StaleSlice(LakeError):
    """A slice was already computed from later data; nothing was written."""


class CommitUnknown(LakeError):
    """The store failed and holds no trace of the commit; it is safe to try again."""


class Landed(Enum):
    """Whether this call put the batch into the table, or an earlier one did."""

    NOW = "now"
    BEFORE = "before"


@dataclass(frozen=True)
class Erased:
    """What an erasure removed: rows, rewritten files, and the version that holds none of it."""

    rows: int
    files_rewritten: int
    files_deleted: int
    version: int


class Lake:
    """Delta tables below one root, a folder or `s3://bucket/prefix`.

    Thread-safe. Handles are kept open and refreshed before each use. Checkpoints and
    compaction follow the number of commits and run beside the callers, on one thread;
    `close` waits for them and writes the query timings.

    Args:
        root: folder or `s3://bucket/prefix`; made when the first table is.
        storage_options: for delta-rs; by default its own reading of `AWS_*` variables.
        process: what is asking, for the table of query timings.
    """

    def __init__(
        self, root: str, *, storage_options: Mapping[str, str] | None = None, process: str = "python"
    ) -> None:
        self.root = root.rstrip("/") if root.startswith("s3://") else str(Path(root).absolute())
        self.storage_options = dict(storage_options or {})
        self.process = process
        self._lock = threading.RLock()
        self._writing: dict[str, threading.RLock] = {}
        self._handles: dict[str, tuple[DeltaTable, int]] = {}
        self._timings: list[dict[str, object]] = []
        self._maintainer = Maintainer(self._open)

    @property
    def is_local(self) -> bool:
        return not self.root.startswith("s3://")

    def uri(self, table: str) -> str:
        """Where the table lies."""
        return f"{self.root}/tables/{self.declaration(table).name}"

    @staticmethod
    def declaration(table: str) -> Table:
        """The declaration of a table by name.

        Raises:
            UnknownTable: no such table is declared.
        """
        try:
            return TABLES[table]
        except KeyError:
            raise UnknownTable(table) from None

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
            LostRace: another writer took the sequence and then went further.
            CommitUnknown: the store failed and the batch is not there.
        """
        from deltalake import Transaction

        for attempt in range(ATTEMPTS):
            with self._writer_lock(table):
                handle = self.handle(table)
                last = handle.transaction_version(source) or 0
                if last >= sequence:
                    return Landed.BEFORE
                if last + 1 != sequence:
                    raise OutOfSequence(table, source, last=last, given=sequence)
                commit = uuid.uuid4().hex
                properties = self._properties(commit, note, transaction=Transaction(source, sequence))
                failure = self._write(handle, table, rows, properties, mode="append")
            if failure is None or self._landed(table, commit):
                return Landed.NOW
            if (self.handle(table).transaction_version(source) or 0) >= sequence:
                return Landed.BEFORE
            _give_way(attempt, failure, table)
        raise CommitUnknown(f"{table}: {ATTEMPTS} attempts to commit batch {sequence} of {source!r} failed; try again")

    def append_next(self, table: str, rows: pa.Table, *, source: str) -> int:
        """Append `rows` under the next free sequence of `source`, and return it.

        For writers that only add facts and need no order among themselves. A lost
        race takes the sequence after; a commit whose answer got lost is looked up.

        Raises:
            CommitUnknown: the store failed and the rows are not there.
        """
        from deltalake import Transaction

        for attempt in range(ATTEMPTS):
            with self._writer_lock(table):
                handle = self.handle(table)
                sequence = (handle.transaction_version(source) or 0) + 1
                commit = uuid.uuid4().hex
                properties = self._properties(commit, None, transaction=Transaction(source, sequence))
                failure = self._write(handle, table, rows, properties, mode="append")
            if failure is None or self._landed(table, commit):
                return sequence
            _give_way(attempt, failure, table)
        raise CommitUnknown(f"{table}: {ATTEMPTS} attempts to append failed; too many writers at once, try again")

    def append_expecting(
        self, table: str, rows: pa.Table, *, version: int, note: Mapping[str, str] | None = None
    ) -> int:
        """Append `rows` only as the commit right after `version`; return the new version.

        Raises:
            LostRace: the table has moved on; nothing was written.
            CommitUnknown: the store failed and the rows are not there.
        """
        commit = uuid.uuid4().hex
        with self._writer_lock(table):
            handle = self.handle(table)
            if handle.version() != version:
                raise LostRace(f"{table} is at version {handle.version()}, not {version}; read it again")
            failure = self._write(handle, table, rows, self._properties(commit, note, retries=0), mode="append")
        if failure is None or self._landed(table, commit):
            return version + 1
        if self.handle(table).version() != version:
            raise LostRace(f"{table} moved on from version {version} while writing; read it again") from failure
        raise CommitUnknown(f"{table}: the commit after version {version} failed ({failure}); try again") from failure

    def replace(
        self, table: str, rows: pa.Table, *, predicate: str, source: str, sequence: int
    ) -> Landed:
        """Overwrite the slice that `predicate` selects with `rows`, as computed from `sequence`.

        Raises:
            StaleSlice: some slice was already computed from a later sequence of `source`,
                so this one may be older than the data that others have seen.
            LostRace: another writer changed the table meanwhile. Both: compute again.
            CommitUnknown: the store failed and the slice is as it was.
        """
        from deltalake import Transaction

        commit = uuid.uuid4().hex
        properties = self._properties(commit, None, retries=0, transaction=Transaction(source, sequence))
        with self._writer_lock(table):
            handle = self.handle(table)
            last = handle.transaction_version(source) or 0
            if last > sequence:
                raise StaleSlice(f"{table} already holds figures of batch {last} of {source!r}, later than {sequence}")
            before = handle.version()
            failure = self._write(handle, table, rows, properties, mode="overwrite", predicate=predicate)
        if failure is None or self._landed(table, commit):
            return Landed.NOW
        if self.handle(table).version() != before:
            raise LostRace(f"{table} was changed by another writer; compute the slice again") from failure
        raise CommitUnknown(f"{table}: replacing {predicate} failed ({failure}); try again") from failure

    def erase(self, table: str, predicate: str) -> Erased:
        """Remove the rows that `predicate` selects, from every file that still exists.

        Touched files are rewritten; then all files that the table no longer names go,
        orphans included, and the log is cut behind a new checkpoint.

        Raises:
            LostRace: another writer kept changing the table; try again.
        """
        from deltalake.exceptions import CommitFailedError

        for attempt in range(ATTEMPTS):
            handle = self.handle(table)
            commit = uuid.uuid4().hex
            try:
                metrics = handle.delete(
                    predicate,
                    commit_properties=self._properties(commit, {"erase": "true"}, retries=0),
                    post_commithook_properties=no_hooks(),
                )
            except (CommitFailedError, OSError) as failure:
                if not self._landed(table, commit):
                    _give_way(attempt, failure, table)
                    continue
                metrics = {}
            handle = self.handle(table)
            deleted = handle.vacuum(
                retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True
            )
            handle = self._open(table)
            handle.create_checkpoint()
            handle.cleanup_metadata()
            return Erased(
                rows=int(metrics.get("num_deleted_rows") or 0),
                files_rewritten=int(metrics.get("num_added_files") or 0),
                files_deleted=len(deleted),
                version=handle.version(),
            )
        raise LostRace(f"{table}: {ATTEMPTS} attempts to erase lost against other writers; try again")

    # -- looking ----------------------------------------------------------------------

    def sequence(self, table: str, source: str) -> int:
        """The last sequence of `source` that landed in `table`; 0 before the first."""
        if not self.exists(table):
            return 0
        return self.handle(table).transaction_version(source) or 0

    def version(self, table: str) -> int:
        """The version of the table, made empty if it is not there yet."""
        return self.handle(table).version()

    def exists(self, table: str) -> bool:
        """Whether the table has been made."""
        from deltalake import DeltaTable

        with self._lock:
            if table in self._handles:
                return True
        return bool(DeltaTable.is_deltatable(self.uri(table), self.storage_options or None))

    def notes(self, table: str, *, source_key: str) -> list[dict[str, str]]:
        """Notes of recent commits that hold `source_key`, newest first."""
        history = self.handle(table).history(LOOK_BACK)
        return [entry for entry in history if source_key in entry]

    def read(self, *tables: str) -> Reading:
        """A snapshot of the named tables, to be queried with SQL. Use it in a `with` block."""
        from ml_registry_pipelines.lake.reading import Reading

        return Reading(self, {name: self.snapshot(name) for name in tables}, self._timings)

    def snapshot(self, table: str) -> DeltaTable:
        """The table as it is now, in a handle that no writer of this process moves."""
        return self._open(table)

    def status(self) -> list[TableStatus]:
        """Rows, files, bytes, version and upkeep of every table that exists."""
        return [
            table_status(self._open(name), TABLES[name], local=self.is_local)
            for name in sorted(TABLES)
            if self.exists(name)
        ]

    # -- upkeep -----------------------------------------------------------------------

    def maintain(self, table: str, *, full: bool = False) -> Maintained:
        """Compact, checkpoint, cut the log and remove what nobody reads; `full` also orphans."""
        return self._maintainer.maintain(table, full=full)

    def settle(self) -> None:
        """Wait until upkeep that this object's own commits have set off is done."""
        self._maintainer.settle()

    def flush_timings(self) -> None:
        """Write the collected query timings, in one commit."""
        with self._lock:
            rows, self._timings[:] = list(self._timings), []
        if rows:
            import pyarrow as pa

            for row in rows:
                row["process"] = self.process
            schema = self.declaration("query_timings").schema
            self.append_next("query_timings", pa.Table.from_pylist(rows, schema=schema), source="query_timings")

    def close(self) -> None:
        """Write the query timings and wait for upkeep."""
        self.flush_timings()
        self._maintainer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- handles ----------------------------------------------------------------------

    def handle(self, table: str) -> DeltaTable:
        """The table's open handle, at its newest version; made if the table is not there.

        A handle is opened anew every `CHECKPOINT_EVERY` versions: an old one does not
        adopt a checkpoint and grows slower with every commit.
        """
        with self._lock:
            known = self._handles.get(table)
            if known is not None:
                handle, opened_at = known
                if handle.version() - opened_at < CHECKPOINT_EVERY and _refreshed(handle):
                    return handle
            handle = self._open(table)
            self._handles[table] = (handle, handle.version())
            return handle

    def _open(self, table: str) -> DeltaTable:
        from deltalake.exceptions import TableNotFoundError

        declared = self.declaration(table)
        try:
            handle = self._open_raw(declared)
        except TableNotFoundError:
            return self._create(declared)
        except OSError as failure:
            raise LakeError(f"{table} at {self.uri(table)} cannot be opened: {failure}") from failure
        return self._with_new_columns(handle, declared)

    def _create(self, declared: Table) -> DeltaTable:
        from deltalake import DeltaTable

        try:
            DeltaTable.create(
                self.uri(declared.name),
                schema=declared.schema,
                mode="ignore",
                partition_by=list(declared.partition_by) or None,
                description=declared.row,
                configuration={
                    "delta.dataSkippingStatsColumns": ",".join(declared.statistics),
                    "delta.logRetentionDuration": LOG_RETENTION,
                    "delta.deletedFileRetentionDuration": REMOVED_FILE_RETENTION,
                },
                storage_options=self.storage_options or None,
            )
        except _commit_errors() as failure:
            if not DeltaTable.is_deltatable(self.uri(declared.name), self.storage_options or None):
                raise LakeError(
                    f"{declared.name} cannot be made below {self.root}: {_reason(failure)}; "
                    "check the folder's permissions, the free space or the store's credentials"
                ) from failure
        return self._open_raw(declared)

    def _with_new_columns(self, handle: DeltaTable, declared: Table) -> DeltaTable:
        """Add the columns that the declaration has and an older table lacks."""
        stored = {field.name for field in handle.schema().fields}
        missing = [name for name in declared.column_names if name not in stored]
        if not missing:
            return handle
        from deltalake import Schema

        wanted = {field.name: field for field in Schema.from_arrow(declared.schema).fields}
        try:
            handle.alter.add_columns([wanted[name] for name in missing])
            handle.alter.set_table_properties({COLUMNS_ADDED: "true"}, raise_if_not_exists=False)
        except _commit_errors() as failure:
            again = self._open_raw(declared)
            if any(name not in {f.name for f in again.schema().fields} for name in missing):
                raise LakeError(f"{declared.name} lacks {missing} and they cannot be added: {failure}") from failure
        return self._open_raw(declared)

    def _open_raw(self, declared: Table) -> DeltaTable:
        from deltalake import DeltaTable

        return DeltaTable(self.uri(declared.name), storage_options=self.storage_options or None)

    # -- committing -------------------------------------------------------------------

    def _write(
        self,
        handle: DeltaTable,
        table: str,
        rows: pa.Table,
        properties: CommitProperties,
        *,
        mode: str,
        predicate: str | None = None,
    ) -> Exception | None:
        """Commit, and return the failure whose outcome has to be looked up, if any."""
        from deltalake import write_deltalake

        declared = self.declaration(table)
        rows = _as_declared(rows, declared)
        try:
            write_deltalake(
                handle,
                rows,
                mode=mode,
                predicate=predicate,
                writer_properties=_writer(declared),
                commit_properties=properties,
                post_commithook_properties=no_hooks(),
            )
            version = handle.version()
        except _commit_errors() as failure:
            self._forget(table)
            return failure
        self._maintainer.committed(table, version)
        return None

    def _landed(self, table: str, commit: str) -> bool:
        """Whether a commit whose answer got lost is in the table's log."""
        self._forget(table)
        try:
            handle = self.handle(table)
            return any(entry.get(COMMIT_ID) == commit for entry in handle.history(LOOK_BACK))
        except OSError as failure:
            raise CommitUnknown(
                f"{table}: a commit failed and the table cannot be read to find out ({_reason(failure)}); try again"
            ) from failure

    def _forget(self, table: str) -> None:
        """Drop a handle whose state a failure has made doubtful."""
        with self._lock:
            self._handles.pop(table, None)

    def _writer_lock(self, table: str) -> threading.RLock:
        """One writer at a time per table within this process: a handle that another thread
        moves between the check of a sequence and its commit would let the same batch land twice.
        """
        with self._lock:
            return self._writing.setdefault(table, threading.RLock())

    def _properties(
        self,
        commit: str,
        note: Mapping[str, str] | None,
        *,
        retries: int | None = None,
        transaction: object | None = None,
    ) -> CommitProperties:
        from deltalake import CommitProperties

        return CommitProperties(
            custom_metadata={**(note or {}), COMMIT_ID: commit},
            max_commit_retries=retries,
            app_transactions=None if transaction is None else [transaction],
        )


def _commit_errors() -> tuple[type[Exception], ...]:
    """What delta-rs raises for a commit that was refused, or whose outcome it does not know."""
    from deltalake.exceptions import DeltaError

    return (DeltaError, OSError)


def _refreshed(handle: DeltaTable) -> bool:
    """Bring a handle to the newest version; False when the log behind it was cut."""
    try:
        handle.update_incremental()
    except _commit_errors():
        return False
    return True


def _give_way(attempt: int, failure: Exception, table: str) -> None:
    """Pause before the next attempt, or raise what cannot get better by waiting."""
    reason = _reason(failure)
    if any(word in str(failure) for word in HOPELESS):
        raise LakeError(f"{table} cannot be written: {reason}; nothing was committed") from failure
    time.sleep(random.uniform(0, 0.02 * min(attempt + 1, 10)))


def _reason(failure: Exception) -> str:
    return str(failure).splitlines()[0] if str(failure) else type(failure).__name__


def _writer(declared: Table) -> WriterProperties:
    from deltalake import ColumnProperties, WriterProperties

    random_bits = ColumnProperties(dictionary_enabled=False)
    return WriterProperties(
        compression="ZSTD",
        compression_level=1,
        column_properties={name: random_bits for name in declared.plain} or None,
    )


def _as_declared(rows: pa.Table, declared: Table) -> pa.Table:
    """The rows with the declared columns in the declared order; columns that are absent are NULL."""
    import pyarrow as pa

    if rows.schema.equals(declared.schema):
        return rows
    if unknown := set(rows.schema.names) - set(declared.column_names):
        raise LakeError(f"{declared.name} has no column {sorted(unknown)}")
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.schema.names else pa.nulls(len(rows), field.type)
        for field in declared.schema
    ]
    for field, column in zip(declared.schema, columns, strict=True):
        if not field.nullable and column.null_count:
            raise LakeError(f"{declared.name}.{field.name} is required and {column.null_count} rows lack it")
    return pa.Table.from_arrays(columns, schema=declared.schema)
