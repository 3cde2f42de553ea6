"""Reading the lake with SQL: one snapshot of some tables behind one DuckDB connection.

For the platform's own queries, which are named and timed. What people type goes
through `sandbox.py`, which trusts nobody.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from deltalake import DeltaTable

    from ml_registry_pipelines.lake.lake import Lake

MEMORY_LIMIT = "1GB"
"""What one query may hold in memory before it spills to disk."""


class Reading:
    """One snapshot of some tables, queried with SQL by table name.

    A folder's files are read by DuckDB itself, an object store's as an Arrow dataset,
    because DuckDB's own S3 reader is an extension that is fetched from the network.
    """

    def __init__(
        self, lake: Lake, snapshots: Mapping[str, DeltaTable], timings: list[dict[str, object]]
    ) -> None:
        self._lake = lake
        self._snapshots = dict(snapshots)
        self._timings = timings
        self._connection: duckdb.DuckDBPyConnection | None = None

    def query(self, name: str, sql: str, parameters: Mapping[str, object] | None = None) -> pa.Table:
        """Run one statement; tables by name, `$parameters` by name. Timed under `name`."""
        started = time.perf_counter()
        result = self.connection.sql(sql, params=dict(parameters or {})).to_arrow_table()
        self._timings.append(
            {
                "name": name,
                "recorded_at": datetime.now(UTC),
                "ms": (time.perf_counter() - started) * 1000,
                "rows": result.num_rows,
                "bytes": result.nbytes,
            }
        )
        return result

    def register(self, name: str, rows: pa.Table) -> None:
        """Make `rows` a relation of that name, for the queries of this reading."""
        self.connection.register(name, rows)

    def sequence(self, table: str, source: str) -> int:
        """The last sequence of `source` within this snapshot of `table`."""
        return self._snapshots[table].transaction_version(source) or 0

    def version(self, table: str) -> int:
        """The version of this snapshot of `table`."""
        return self._snapshots[table].version()

    def files(self, table: str) -> pa.Table:
        """The live files of this snapshot with their statistics, a row each, flattened."""
        import pyarrow as pa

        return pa.table(self._snapshots[table].get_add_actions(flatten=True))

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The DuckDB connection, with the tables as views."""
        if self._connection is None:
            self._connection = open_duckdb()
            for name, snapshot in self._snapshots.items():
                self._attach(self._connection, name, snapshot)
        return self._connection

    def _attach(self, connection: duckdb.DuckDBPyConnection, name: str, snapshot: DeltaTable) -> None:
        declared = TABLES[name]
        files = snapshot.file_uris()
        if not files:
            connection.register(name, declared.empty())
        elif not self._lake.is_local:
            connection.register(name, snapshot.to_pyarrow_dataset())
        else:
            listing = ", ".join("'" + path.replace("'", "''") + "'" for path in files)
            columns = ", ".join(f'"{column}"' for column in declared.column_names)
            partitions = ", ".join(f"'{column}': DATE" for column in declared.partition_by)
            hive = f", hive_partitioning = true, hive_types = {{{partitions}}}" if partitions else ""
            connection.execute(
                f'CREATE VIEW "{name}" AS SELECT {columns} '
                f"FROM read_parquet([{listing}], union_by_name = {_differ(snapshot)}{hive})"
            )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_duckdb() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the platform's limits: UTC, bounded memory, no look at local variables."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET python_enable_replacements = false")
    return connection


def _differ(snapshot: DeltaTable) -> str:
    """Whether files may lack columns that were declared after they were written."""
    from ml_registry_pipelines.lake.lake import COLUMNS_ADDED

    return "true" if COLUMNS_ADDED in snapshot.metadata().configuration else "false"
