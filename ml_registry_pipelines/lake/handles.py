"""Open Delta tables: made when absent, grown to their declaration, kept open and refreshed.

A writer and those who only look have a handle each. A handle that someone else moves
between the check of a sequence and its commit would let the same batch land twice.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.maintenance import CHECKPOINT_EVERY, no_hooks
from ml_registry_pipelines.lake.outcomes import LakeError, UnknownTable, reason, store_errors
from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.schema import Field

T = TypeVar("T")

COLUMNS_ADDED = "mlreg.columns_added"
"""Table property that tells readers that older files lack columns."""
STATISTICS = "delta.dataSkippingStatsColumns"
LOG_RETENTION = "interval 10 minutes"
"""For other tools that write to the table; our own upkeep cuts the log by count."""
STALE_AFTER = 3 * CHECKPOINT_EVERY
"""Versions that a handle may follow where no checkpoint of this process has renewed it."""
REMOVED_FILE_RETENTION = "interval 1 hours"
_UNUSABLE = re.compile(r"[\[\]^|\\%*?\x00-\x1f]")
"""Characters that delta-rs or DuckDB read as something else than part of a folder's name."""
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.=+@,-]+)*", re.ASCII)


def checked_root(root: str) -> str:
    """The root as addresses are built from it: absolute, without a slash at its end.

    Raises:
        LakeError: its name has a character that the table format cannot hold.
    """
    if root.startswith("s3://"):
        if not _BUCKET.fullmatch(root.rstrip("/")):
            raise LakeError(
                f"{root} cannot hold tables; an address is s3://bucket/prefix, with a bucket of 3 to 63 small "
                "letters, digits, dots and hyphens, and a prefix of letters, digits and -_.=+@,"
            )
        return root.rstrip("/")
    absolute = str(Path(root).absolute())
    if found := _UNUSABLE.search(absolute):
        raise LakeError(
            f"{absolute} cannot hold tables: its name contains {found[0]!r}; choose another folder"
        )
    return absolute


@dataclass
class _Kept:
    """One table's handle, and how it was when it was opened."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    handle: DeltaTable | None = None
    opened_at: int = 0
    identity: tuple[int, int] | None = None
    successor: tuple[DeltaTable, tuple[int, int] | None] | None = None
    """Opened since the last checkpoint, to take the handle's place when it is next used."""
    sequences: dict[str, int] = field(default_factory=dict)
    """Last sequences by source at version `sequences_at`: reading one from the log takes 3 ms."""
    sequences_at: int = -1

    def refreshed(
        self, identity: tuple[int, int] | None, is_newest: Callable[[int], bool]
    ) -> DeltaTable | None:
        """The handle at the newest version, unless it has to be opened anew.

        That is so when the log behind it was cut, when another table now lies in its place,
        and after `STALE_AFTER` versions: an old handle does not adopt a checkpoint and grows
        slower with every commit.
        """
        successor, self.successor = self.successor, None
        if successor is not None:
            self.keep(*successor)
        handle = self.handle
        if handle is None or identity != self.identity or handle.version() - self.opened_at >= STALE_AFTER:
            return None
        if is_newest(handle.version()):
            return handle
        try:
            handle.update_incremental()
        except store_errors():
            return None
        return handle

    def keep(self, handle: DeltaTable | None, identity: tuple[int, int] | None) -> None:
        """Hold a handle that has just been opened."""
        self.handle, self.identity = handle, identity
        self.sequences_at = -1
        self.opened_at = 0 if handle is None else handle.version()


class Handles:
    """The open tables of one lake."""

    def __init__(self, root: str, storage_options: dict[str, str]) -> None:
        self._root = root
        self._storage_options = storage_options or None
        self._local = not root.startswith("s3://")
        self._lock = threading.Lock()
        self._writers: dict[str, _Kept] = {}
        self._lookers: dict[str, _Kept] = {}
        self._snapshots: dict[str, _Kept] = {}

    def uri(self, table: str) -> str:
        """Where the table lies."""
        return f"{self._root}/tables/{declaration(table).name}"

    def exists(self, table: str) -> bool:
        """Whether the table has been made."""
        from deltalake import DeltaTable

        try:
            return bool(DeltaTable.is_deltatable(self.uri(table), self._storage_options))
        except store_errors() as failure:
            raise self._unreadable(table, failure) from failure

    @contextmanager
    def writing(self, table: str) -> Iterator[Writer]:
        """The writer's place at a table: one at a time within this process."""
        with self._kept(self._writers, table) as kept:
            yield Writer(self, table, kept)

    def look(self, table: str, at: Callable[[DeltaTable], T], *, absent: T) -> T:
        """What `at` finds in the newest version, in a handle that no writer moves; `absent` without a table.

        Raises:
            LakeError: the store failed.
        """
        with self._kept(self._lookers, table) as kept:
            identity = self.identity(table)
            handle = kept.refreshed(identity, partial(self.is_newest, table))
            if handle is not None:
                try:
                    return at(handle)
                except store_errors():
                    # The log behind the handle was cut: a new one begins at the checkpoint.
                    pass
            handle = self.find(table)
            kept.keep(handle, identity)
            if handle is None:
                return absent
            try:
                return at(handle)
            except store_errors() as failure:
                raise self._unreadable(table, failure) from failure

    def snapshot(self, table: str, *, anew: bool = False) -> DeltaTable | None:
        """The newest version in a handle that readers share and nobody moves; None without a table.

        Opening a table takes some milliseconds even where nothing was written since. `anew` opens it
        in any case, for a reader who found the log behind the shared handle cut.

        Raises:
            LakeError: the store failed.
        """
        with self._kept(self._snapshots, table) as kept:
            identity = self.identity(table)
            handle = kept.handle
            if (
                anew
                or handle is None
                or identity != kept.identity
                or not self.is_newest(table, handle.version())
            ):
                handle = self.find(table)
                kept.keep(handle, identity)
            return handle

    def checkpointed(self, table: str) -> None:
        """Have a handle ready that begins at the new checkpoint, off the writer's path."""
        with self._lock:
            kept = self._writers.get(table)
        if kept is not None:
            identity = self.identity(table)
            kept.successor = (self.open(table), identity)

    @contextmanager
    def _kept(self, places: dict[str, _Kept], table: str) -> Iterator[_Kept]:
        declaration(table)
        with self._lock:
            kept = places.setdefault(table, _Kept())
        with kept.lock:
            yield kept

    def identity(self, table: str) -> tuple[int, int] | None:
        """What tells a table from another one made in its place; unknown in an object store."""
        if not self._local:
            return None
        try:
            found = Path(self.uri(table), "_delta_log").stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def is_newest(self, table: str, version: int) -> bool:
        """Whether surely no commit follows a version: two looks at files instead of a list of the log.

        In this order: a commit behind the version may only be cut from the log once a later checkpoint
        is named as the last one.
        """
        if not self._local:
            return False
        log = Path(self.uri(table), "_delta_log")
        if (log / f"{version + 1:020}.json").exists():
            return False
        try:
            return int(json.loads((log / "_last_checkpoint").read_bytes())["version"]) <= version
        except FileNotFoundError:
            return (log / f"{version:020}.json").exists()
        except (OSError, ValueError, KeyError, TypeError):
            return False

    # -- opening ----------------------------------------------------------------------

    def open(self, table: str) -> DeltaTable:
        """A new handle at the newest version; the table is made if it is not there.

        Raises:
            LakeError: the store cannot be read, or holds another table than was declared.
        """
        from deltalake.exceptions import TableNotFoundError

        declared = declaration(table)
        try:
            handle = self._open(declared)
        except TableNotFoundError:
            handle = self._create(declared)
        except store_errors() as failure:
            raise self._unreadable(table, failure) from failure
        return self._as_declared(handle, declared)

    def find(self, table: str) -> DeltaTable | None:
        """A new handle at the newest version; None where the table has not been made."""
        from deltalake.exceptions import TableNotFoundError

        try:
            return self._open(declaration(table))
        except TableNotFoundError:
            return None
        except store_errors() as failure:
            raise self._unreadable(table, failure) from failure

    def _open(self, declared: Table) -> DeltaTable:
        from deltalake import DeltaTable

        return DeltaTable(self.uri(declared.name), storage_options=self._storage_options)

    def _unreadable(self, table: str, failure: Exception) -> LakeError:
        return LakeError(f"{table} at {self.uri(table)} cannot be opened: {reason(failure)}")

    def _create(self, declared: Table) -> DeltaTable:
        from deltalake import DeltaTable

        try:
            return DeltaTable.create(
                self.uri(declared.name),
                schema=declared.schema,
                mode="ignore",
                partition_by=list(declared.partition_by) or None,
                description=declared.row,
                configuration={
                    STATISTICS: ",".join(declared.statistics),
                    "delta.logRetentionDuration": LOG_RETENTION,
                    "delta.deletedFileRetentionDuration": REMOVED_FILE_RETENTION,
                },
                storage_options=self._storage_options,
            )
        except store_errors() as failure:
            # Lost to another process, or landed without an answer: then it is there.
            if not self.exists(declared.name):
                raise LakeError(
                    f"{declared.name} cannot be made below {self._root}: {reason(failure)}"
                ) from failure
        try:
            return self._open(declared)
        except store_errors() as failure:
            raise self._unreadable(declared.name, failure) from failure

    def _as_declared(self, handle: DeltaTable, declared: Table) -> DeltaTable:
        """Bring an older table to its declaration: add columns, and name the columns with statistics."""
        wanted = _delta_fields(declared)
        stored = {column.name: column for column in handle.schema().fields}
        for name, column in stored.items():
            if name in wanted and column.type != wanted[name].type:
                raise LakeError(
                    f"{declared.name}.{name} is stored as {_type_name(column)} and declared as "
                    f"{_type_name(wanted[name])} at {self.uri(declared.name)}; "
                    "a type cannot change, name a new column"
                )
            if name not in wanted and not column.nullable:
                raise LakeError(
                    f"{declared.name} at {self.uri(declared.name)} requires {name!r}, which this version "
                    "does not know; use the version that made it"
                )
        missing = [name for name in wanted if name not in stored]
        statistics = ",".join(declared.statistics)
        properties = {COLUMNS_ADDED: "true"} if missing else {}
        if (
            handle.metadata().configuration.get(STATISTICS) != statistics
            and not stored.keys() - wanted.keys()
        ):
            properties[STATISTICS] = statistics
        if not properties:
            return handle
        return self._grown(handle, declared, [_optional(declared, name) for name in missing], properties)

    def _grown(
        self, handle: DeltaTable, declared: Table, missing: list[Field], properties: dict[str, str]
    ) -> DeltaTable:
        try:
            # The mark comes first: readers that know of it can read old and new files alike.
            handle.alter.set_table_properties(
                properties, raise_if_not_exists=False, post_commithook_properties=no_hooks()
            )
            if missing:
                handle.alter.add_columns(missing, post_commithook_properties=no_hooks())
        except store_errors() as failure:
            # Another process may have done the same.
            again = self._open(declared)
            if {column.name for column in missing} - {column.name for column in again.schema().fields}:
                names = ", ".join(column.name for column in missing)
                raise LakeError(f"{declared.name} lacks {names}, to be added: {reason(failure)}") from failure
        return self._open(declared)


class Writer:
    """The writer's own handle of one table, while its place is held."""

    def __init__(self, handles: Handles, table: str, kept: _Kept) -> None:
        self._handles = handles
        self._table = table
        self._kept = kept

    def current(self) -> DeltaTable:
        """The handle at the newest version; the table is made if it is not there."""
        handles = self._handles
        handle = self._kept.refreshed(handles.identity(self._table), partial(handles.is_newest, self._table))
        if handle is None:
            handle = self._handles.open(self._table)
            self._kept.keep(handle, self._handles.identity(self._table))
        return handle

    def sequence(self, source: str) -> int:
        """The last sequence of `source` on the handle that `current` gave; 0 before the first.

        Raises:
            LakeError: the log was cut since the handle was opened, or the store failed.
        """
        kept = self._kept
        assert kept.handle is not None
        if kept.handle.version() != kept.sequences_at:
            kept.sequences, kept.sequences_at = {}, kept.handle.version()
        if source not in kept.sequences:
            try:
                kept.sequences[source] = kept.handle.transaction_version(source) or 0
            except store_errors() as failure:
                self.forget()
                raise LakeError(f"{self._table} cannot be read: {reason(failure)}; try again") from failure
        return kept.sequences[source]

    def committed(self, source: str, sequence: int) -> None:
        """Note a commit of the handle's own, made on the version at which `sequence` was asked."""
        kept = self._kept
        assert kept.handle is not None
        if kept.handle.version() == kept.sequences_at + 1:
            kept.sequences[source] = sequence
            kept.sequences_at += 1

    def forget(self) -> None:
        """Drop a handle whose state a failure has made doubtful."""
        self._kept.handle = None


def declaration(table: str) -> Table:
    """The declaration of a table by name.

    Raises:
        UnknownTable: no such table is declared.
    """
    try:
        return TABLES[table]
    except KeyError:
        raise UnknownTable(table, tuple(sorted(TABLES))) from None


def _delta_fields(declared: Table) -> dict[str, Field]:
    from deltalake import Schema

    return {column.name: column for column in Schema.from_arrow(declared.schema).fields}


def _optional(declared: Table, name: str) -> Field:
    """The column without its requirement: the rows that are there lack it."""
    import pyarrow as pa
    from deltalake import Schema

    found: Field = Schema.from_arrow(pa.schema([declared.schema.field(name).with_nullable(True)])).fields[0]
    return found


def _type_name(column: Field) -> str:
    return str(getattr(column.type, "type", column.type))
