"""Reading the lake with SQL: one snapshot of some tables behind one DuckDB connection.

For the platform's own queries, which are named and timed. What people type goes
through `sandbox.py`, which trusts nobody.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar
from urllib.parse import unquote

from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.handles import COLUMNS_ADDED
from ml_registry_pipelines.lake.interrupts import interruptible
from ml_registry_pipelines.lake.outcomes import LakeError, SnapshotGone, reason, store_errors
from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset as pads
    from deltalake import DeltaTable

    from ml_registry_pipelines.lake.lake import Lake

T = TypeVar("T")
Definition: TypeAlias = "Callable[[duckdb.DuckDBPyConnection], None]"

MEMORY_LIMIT = "1GB"
"""What a process's queries may hold in memory together before they spill to disk."""
COPIED = "Arrow output on a DB-API result"
"""Begins DuckDB's warning at every answer that `Reading` takes, which says how it does it in `_answer`."""
BATCH_ROWS = 8192
FEW_ROWS = 20_000
"""Rows below which planning takes longer than running."""
FEW_BYTES = 16 << 20
"""Bytes of files below which a second thread costs more than it does."""
_FEW_FILES = 256
_OPENING = Lock()
_HIVE_TYPES = {"date": "DATE", "string": "VARCHAR", "int32": "INTEGER", "int64": "BIGINT"}
_GONE = ("No files found", "No such file", "NoSuchKey", "Not Found", "not found", "does not exist")


class Reading:
    """One snapshot of some tables, queried with SQL by table name.

    A table that has not been made reads as an empty one, and is not made for that.

    A folder's files are read by DuckDB itself, an object store's as an Arrow dataset,
    because DuckDB's own S3 reader is an extension that is fetched from the network.

    Upkeep keeps the files of a snapshot for an hour. A first query that comes too late for
    them takes a new snapshot; later ones raise `SnapshotGone`, since what was read before
    belongs to the old one.
    """

    def __init__(self, lake: Lake, tables: Sequence[str]) -> None:
        self._lake = lake
        self._snapshots = {name: lake.shared_snapshot(name) for name in tables}
        self._registered: dict[str, pa.Table] = {}
        self._defined: list[Definition] = []
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._few = True
        self._told = False

    def query(self, name: str, sql: str, parameters: Mapping[str, object] | None = None) -> pa.Table:
        """Run one statement; tables by name, `$parameters` by name. Timed under `name`.

        Raises:
            SnapshotGone: files of the snapshot were removed after something had been read of it.
            LakeError: the query needs more memory or disk than it may have, or a file cannot be read.
        """
        import duckdb

        started = time.perf_counter()
        try:
            result = self._run(sql, parameters)
        except duckdb.OutOfMemoryException as failure:
            raise LakeError(
                f"query {name} needs more than {MEMORY_LIMIT} of memory: {reason(failure)}"
            ) from failure
        except (duckdb.IOException, duckdb.InvalidInputException, OSError) as failure:
            # A file that is no Parquet is an invalid input to DuckDB.
            raise LakeError(f"query {name} cannot read the tables: {reason(failure)}") from failure
        except duckdb.Error as failure:
            # Statements of ours have types of their own; this one is of a damaged header of a file.
            if type(failure) is not duckdb.Error:
                raise
            raise LakeError(f"query {name} cannot read the tables: {reason(failure)}") from failure
        self._told = True
        self._lake.timed(
            name, seconds=time.perf_counter() - started, rows=result.num_rows, size=result.nbytes
        )
        return result

    def _run(self, sql: str, parameters: Mapping[str, object] | None) -> pa.Table:
        import duckdb

        try:
            return self._answer(sql, parameters)
        except (duckdb.Error, OSError) as failure:
            if not any(sign in str(failure) for sign in _GONE) or not self._lost_files():
                raise
            if self._told:
                raise self._gone() from failure
        self._renew()
        return self._answer(sql, parameters)

    def _answer(self, sql: str, parameters: Mapping[str, object] | None) -> pa.Table:
        # Even with a million rows their copy costs less than planning the statement twice.
        return answer(self.connection, sql, parameters)

    def _lost_files(self) -> bool:
        """Whether a newer version has dropped files of this snapshot; a lost live file is another matter."""
        for name, snapshot in self._snapshots.items():
            if set(_files(snapshot)) - set(_files(self._lake.shared_snapshot(name))):
                return True
        return False

    def _renew(self) -> None:
        self._snapshots = {name: self._lake.shared_snapshot(name, anew=True) for name in self._snapshots}
        self._reopen()

    def _reopen(self) -> None:
        self.close()
        for name, rows in self._registered.items():
            self._put(name, rows)
        for definition in self._defined:
            definition(self.connection)

    def register(self, name: str, rows: pa.Table) -> None:
        """Make `rows` a relation of that name, for the queries of this reading; also in place of a table."""
        if self._few and rows.num_rows >= FEW_ROWS:
            self._few = False
            self._reopen()
        self._put(name, rows)
        self._registered[name] = rows

    def _put(self, name: str, rows: pa.Table) -> None:
        if name in self._snapshots:
            self.connection.execute(f'DROP VIEW IF EXISTS "{name}"')
        self.connection.register(name, rows)

    def define(self, definition: Definition) -> None:
        """Let `definition` make temporary views and macros for the queries of this reading, once."""
        if definition not in self._defined:
            definition(self.connection)
            self._defined.append(definition)

    def is_empty(self, table: str) -> bool:
        """Whether the reading sees no row of the table, as far as that can be told without a query."""
        registered = self._registered.get(table)
        if registered is not None:
            return bool(registered.num_rows == 0)
        self._told = True
        snapshot = self._snapshots[table]
        return snapshot is None or not snapshot.file_uris()

    def holds(self, table: str) -> bool:
        """Whether the reading has a snapshot of the table."""
        return table in self._snapshots

    def sequence(self, table: str, source: str) -> int:
        """The last sequence of `source` within this snapshot of `table`.

        Raises:
            SnapshotGone: the log was cut behind the snapshot after something had been read of it.
        """
        return self._look(table, lambda snapshot: snapshot.transaction_version(source) or 0, absent=0)

    def version(self, table: str) -> int:
        """The version of this snapshot of `table`; 0 as well where it has not been made."""
        return self._look(table, lambda snapshot: int(snapshot.version()), absent=0)

    def files(self, table: str) -> pa.Table:
        """The live files of this snapshot with their statistics, a row each, flattened."""
        import pyarrow as pa

        none = pa.schema([("path", pa.string()), ("size_bytes", pa.int64()), ("num_records", pa.int64())])
        return self._look(
            table,
            lambda snapshot: pa.table(snapshot.get_add_actions(flatten=True)),
            absent=none.empty_table(),
        )

    def _look(self, table: str, at: Callable[[DeltaTable], T], *, absent: T) -> T:
        def found() -> T:
            snapshot = self._snapshots[table]
            return absent if snapshot is None else at(snapshot)

        try:
            answer = found()
        except store_errors() as failure:
            if self._told:
                raise self._gone() from failure
            self._renew()
            answer = found()
        self._told = True
        return answer

    def _gone(self) -> SnapshotGone:
        return SnapshotGone(
            f"{' and '.join(self._snapshots)} moved on while being read, and old files went; read again"
        )

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The DuckDB connection, with the tables as views."""
        if self._connection is None:
            self._few = self._few and all(_holds_little(each) for each in self._snapshots.values())
            self._connection = open_duckdb(over=0 if self._few else FEW_ROWS)
            for name, snapshot in self._snapshots.items():
                self._attach(self._connection, TABLES[name], snapshot)
        return self._connection

    def _attach(
        self, connection: duckdb.DuckDBPyConnection, declared: Table, snapshot: DeltaTable | None
    ) -> None:
        files = _files(snapshot)
        if snapshot is None or not files:
            connection.register(declared.name, declared.empty())
        elif self._lake.is_local:
            self._attach_files(connection, declared, snapshot, files)
        else:
            connection.register(declared.name, arrow_dataset(snapshot, declared))

    def _attach_files(
        self,
        connection: duckdb.DuckDBPyConnection,
        declared: Table,
        snapshot: DeltaTable,
        files: Sequence[str],
    ) -> None:
        # delta-rs gives percent-encoded addresses; DuckDB wants paths.
        listing = ", ".join("'" + unquote(path).replace("'", "''") + "'" for path in files)
        partitions = ", ".join(
            f"'{column.name}': {_HIVE_TYPES[column.type]}"
            for column in declared.columns
            if column.name in declared.partition_by
        )
        hive = f", hive_partitioning = true, hive_types = {{{partitions}}}" if partitions else ""
        source = f"SELECT * FROM read_parquet([{listing}], union_by_name = {_differ(snapshot)}{hive})"
        if _differ(snapshot) or not _holds(snapshot, declared):
            # Gives columns their declared type and NULLs even where no file has them.
            connection.register(f"{declared.name}$declared", declared.empty())
            source += f' UNION ALL BY NAME SELECT * FROM "{declared.name}$declared"'
        columns = ", ".join(f'"{column}"' for column in declared.column_names)
        connection.execute(f'CREATE TEMP VIEW "{declared.name}" AS SELECT {columns} FROM ({source})')

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_duckdb(*, ordered: bool = False, over: int = FEW_ROWS) -> duckdb.DuckDBPyConnection:
    """A connection to this process's in-memory DuckDB: UTC, bounded memory, no look at local variables.

    Connections share the memory limit. Views, tables and macros must be temporary: those are
    the connection's own, everything else is everyone's.

    Args:
        ordered: whether rows come out in the order in which they went in.
        over: how many rows the statements work on; below `FEW_ROWS` one thread takes them, for a fifth
            less processor time.
    """
    with _OPENING:
        connection = _database(os.getpid(), ordered, over < FEW_ROWS).cursor()
    connection.execute("SET enable_progress_bar = false")
    return connection


@cache
def _database(
    process: int,  # noqa: ARG001 - a fork needs its own
    ordered: bool,
    few: bool,
) -> duckdb.DuckDBPyConnection:
    # Starting one takes 15 ms, a connection to it 0.1 ms.
    import duckdb

    database = duckdb.connect(
        config={
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": _spill_folder(),
            "preserve_insertion_order": str(ordered).lower(),
            "python_enable_replacements": "false",
            # What was read once would stay in memory, up to the limit.
            "enable_external_file_cache": "false",
            **({"threads": "1"} if few else {}),
        }
    )
    database.execute("SET GLOBAL TimeZone = 'UTC'")
    # Files never change; without it a look-up reads the footers of all files anew.
    database.execute("SET GLOBAL parquet_metadata_cache = true")
    warnings.filterwarnings("ignore", message=COPIED)
    return database


def answer(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Mapping[str, object] | None = None,
    *,
    over: int = 0,
) -> pa.Table:
    """The rows of one statement.

    `sql` plans a statement to learn its columns and again to run it, a third of the time that our
    long statements take over a few rows. `execute` plans it once, but copies the rows, which DuckDB
    warns of (`COPIED`).

    Args:
        over: how many rows the statement works on; from `FEW_ROWS` on they are not copied.
    """
    with interruptible():
        statement = parsed(sql)
        if over >= FEW_ROWS:
            return connection.sql(statement, params=dict(parameters or {})).to_arrow_table()
        return connection.execute(statement, dict(parameters or {})).to_arrow_table()


@lru_cache(maxsize=512)
def parsed(sql: str) -> duckdb.Statement:
    """A statement that DuckDB need not parse again: a quarter to a third of the time that it takes over a few rows.

    It is bound anew each time, on any connection and in several threads at once.
    """
    import duckdb

    (statement,) = duckdb.extract_statements(sql)
    return statement


def in_batches(rows: pa.Table) -> pa.Table:
    """The same rows in batches of a few thousand: DuckDB's threads take one batch each."""
    import pyarrow as pa

    return pa.Table.from_batches(rows.to_batches(max_chunksize=BATCH_ROWS), schema=rows.schema)


@cache
def _spill_folder() -> str:
    """A folder of this process for what does not fit into memory; else DuckDB takes the current one.

    DuckDB makes it when it needs it, below one that only this user can enter, so that a process
    that ends without a word, as Dagster's workers do, leaves nothing.
    """
    mine = Path(tempfile.gettempdir(), f"mlreg-duckdb-{os.getuid()}")
    with suppress(FileExistsError):
        mine.mkdir(0o700)
    found = mine.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        mine = Path(tempfile.mkdtemp(prefix="mlreg-duckdb-"))  # somebody else was first with that name
    folder = mine / uuid.uuid4().hex
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)


def arrow_dataset(snapshot: DeltaTable, declared: Table) -> pads.Dataset:
    """The snapshot as an Arrow dataset with the declared columns; older files give NULL for newer ones."""
    import pyarrow as pa

    wanted = declared.schema
    if not _holds(snapshot, declared):
        # pyarrow reads a column that no file has as NULL, if the schema says so.
        wanted = pa.schema([field.with_nullable(True) for field in wanted])
    return snapshot.to_pyarrow_dataset(schema=wanted)


def _files(snapshot: DeltaTable | None) -> list[str]:
    """Where the live files of a snapshot lie; none of a table that has not been made."""
    return [] if snapshot is None else snapshot.file_uris()


def _holds_little(snapshot: DeltaTable | None) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    if snapshot is None:
        return True
    files = pa.table(snapshot.get_add_actions(flatten=True))
    return len(files) <= _FEW_FILES and (pc.sum(files["size_bytes"]).as_py() or 0) < FEW_BYTES


def _differ(snapshot: DeltaTable) -> bool:
    """Whether files may lack columns that were declared after they were written."""
    return COLUMNS_ADDED in snapshot.metadata().configuration


def _holds(snapshot: DeltaTable, declared: Table) -> bool:
    """Whether the table has all declared columns, which it lacks until it is next written."""
    return {field.name for field in snapshot.schema().fields}.issuperset(declared.column_names)
