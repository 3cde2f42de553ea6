"""Dagster's SQLite storage, without what it does again for every query. Named by `dagster.yaml`; files are the same.

Dagster compares the version of its tables, with a library's whole list of migrations, whenever a
storage is opened, and its code server opens one for each tick of a sensor: four fifths of an idle
tick. For each query it makes a new engine, which then compiles its SQL anew. Here a process looks
at the version of a file once, and has one engine for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

ENGINES = 64
"""The newest ones are kept: each run has a file of its own."""

_current: set[str] = set()
"""Files in which this process has found today's tables."""
_found: set[tuple[str, str]] = set()
"""Tables and migrations that this process has found in a file; they do not go away again."""


@lru_cache(maxsize=ENGINES)
def _engine(address: str) -> Engine:
    # It keeps no connection, so threads and forks may share it, and a file may go.
    return create_engine(address, poolclass=NullPool, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})


def _is_current(address: str) -> bool:
    """Whether the tables need no look. A file that somebody removed does."""
    return address in _current and Path(address.removeprefix("sqlite:///")).exists()


class Runs(SqliteRunStorage):
    """Runs, and the daemons' heartbeats."""

    @classmethod
    def from_local(cls, base_dir: str, inst_data: ConfigurableClassData | None = None) -> Self:
        address = create_db_conn_string(base_dir, "runs")
        if _is_current(address):
            return cls(address, inst_data)
        opened = super().from_local(base_dir, inst_data)
        _current.add(address)
        return opened

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with _engine(self._conn_string).connect() as connection, connection.begin():
            yield connection


class Schedules(SqliteScheduleStorage):
    """Sensors, schedules and their ticks."""

    @classmethod
    def from_local(cls, base_dir: str, inst_data: ConfigurableClassData | None = None) -> Schedules:
        address = create_db_conn_string(base_dir, "schedules")
        if not _is_current(address):
            SqliteScheduleStorage.from_local(base_dir, inst_data)
            _current.add(address)
        return cls(address, inst_data)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with _engine(self._conn_string).connect() as connection, connection.begin():
            yield connection

    def has_instigators_table(self) -> bool:
        return self._once("instigators", super().has_instigators_table)

    def _has_instigators_table(self, conn: Connection) -> bool:
        return self._once("instigators", lambda: super(Schedules, self)._has_instigators_table(conn))

    def has_built_index(self, migration_name: str) -> bool:
        return self._once(migration_name, lambda: super(Schedules, self).has_built_index(migration_name))

    def _once(self, name: str, look: Callable[[], bool]) -> bool:
        if (self._conn_string, name) in _found:
            return True
        if there := look():
            _found.add((self._conn_string, name))
        return there


class Events(SqliteEventLogStorage):
    """Events: one file per run, and an index of those about assets."""

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        address = self.conn_string_for_shard(shard)
        with self._db_lock:
            if shard not in self._initialized_dbs:
                if not _is_current(address):
                    self._initdb(_engine(address))
                    _current.add(address)
                self._initialized_dbs.add(shard)
            with _engine(address).connect() as connection, connection.begin():
                yield connection


class SqliteStorage(DagsterSqliteStorage):
    """All three, in the places where Dagster's own has them."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Not Dagster's own, which opens its own three.
        super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]
        self.base_dir = base_dir
        self._inst_data = inst_data
        self._run_storage = Runs.from_local(str(Path(base_dir, "history")))
        self._event_log_storage = Events(str(Path(base_dir, "history", "runs")))
        self._schedule_storage = Schedules.from_local(str(Path(base_dir, "schedules")))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> Self:
        return cls.from_local(inst_data=inst_data, **config_value)
