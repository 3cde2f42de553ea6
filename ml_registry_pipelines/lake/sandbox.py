"""SQL that people type: one SELECT over the tables by name, of one tenant or of all.

The query runs in a process of its own, whose memory and time the operating system bounds,
because some of DuckDB's functions heed neither its memory limit nor an interrupt. It sees
Arrow datasets that are already filtered by tenant; no unfiltered relation has a name there.
Files, network, settings and extensions are out of reach. Which statements are allowed is
in `statement.py`; printing a result is in `output.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ml_registry_pipelines.lake.attributing import RULES, Rules
from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.lean import without_pandas
from ml_registry_pipelines.lake.outcomes import LakeError, nearest_tables
from ml_registry_pipelines.lake.statement import SqlError, names_of, plain
from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

EVENTS = "inference_events"
GRACE_SECONDS = 2.0
"""Between the polite end of a query and the hard one."""
_BATCH = 65_536


@dataclass(frozen=True)
class SqlLimits:
    """What one query may use: time of all, memory of its work and of its answer."""

    seconds: float = 60.0
    memory_mb: int = 1024
    threads: int = 2
    result_mb: int = 512


def run_sql(lake: Lake, sql: str, *, tenant: str | None, limits: SqlLimits | None = None) -> pa.Table:
    """Run one SELECT over the lake's tables and return its rows.

    Args:
        tenant: whose rows are seen; None sees all, which is for the operator. Prices are
            everyone's; other tables without a tenant, and rows without one, are the operator's.

    Raises:
        SqlError: the query is not one plain SELECT, fails, or needs more than its limits.
    """
    limits = limits or SqlLimits()
    started = time.perf_counter()
    request = {
        "root": lake.root,
        "storage_options": lake.storage_options,
        "sql": sql,
        "tenant": tenant,
        "limits": asdict(limits),
    }
    home = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ml_registry_pipelines.lake.sandbox"],
        input=json.dumps(request).encode(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    rows = _answered(done.stdout)
    if rows is None:
        raise SqlError(_ended_early(done, limits))
    lake.timed("sql", seconds=time.perf_counter() - started, rows=rows.num_rows, size=rows.nbytes)
    return rows


def _answered(written: bytes) -> pa.Table | None:
    """The rows of an answer that was written to its end, however its process ended afterwards; else None."""
    import pyarrow as pa

    head, ended, body = written.partition(b"\n")
    if not ended:
        return None
    told = json.loads(head)
    if "refused" in told:
        raise SqlError(told["refused"])
    try:
        rows = pa.ipc.open_stream(pa.py_buffer(body)).read_all()
    except (pa.ArrowInvalid, OSError):
        return None
    # To Arrow, a stream that was cut between two batches is a whole one.
    return rows if rows.num_rows == told["rows"] else None


def _ended_early(done: subprocess.CompletedProcess[bytes], limits: SqlLimits) -> str:
    if done.returncode == -signal.SIGALRM:
        return _too_slow(limits)
    if done.returncode > 0:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        return f"the query could not be run: {told[-1] if told else 'its process ended early'}"
    return f"the query was stopped; it probably needs more memory than {limits.memory_mb:,} MB"


def answer(lake: Lake, sql: str, *, tenant: str | None, limits: SqlLimits) -> pa.Table:
    """What `run_sql` does, in this process: bounded by DuckDB alone, so for a process that may be killed."""
    connection = closed_connection(limits)
    try:
        return answer_over(connection, lake, sql, tenant=tenant, limits=limits)
    finally:
        connection.close()


def answer_over(
    connection: duckdb.DuckDBPyConnection, lake: Lake, sql: str, *, tenant: str | None, limits: SqlLimits
) -> pa.Table:
    """`answer` over a closed connection, which is locked by it and stays the one tenant's."""
    import duckdb
    import pyarrow as pa

    ends = time.monotonic() + limits.seconds
    names = names_of(sql, connection)
    visible = {name: table for name, table in TABLES.items() if _may_read(table, tenant)}
    for name in sorted(names.read):
        if name == EVENTS:
            _register_events(connection, lake, tenant)
        elif name in visible:
            connection.register(name, _rows(lake, visible[name], tenant))
        elif name not in names.own:
            raise SqlError(f"there is no table {name!r} here; {nearest_tables(name, visible)}")
        elif _resolves(connection, name):
            # Outside the WITH's reach, the same name would be the system's.
            raise SqlError(
                f"WITH gives {name!r} a meaning, and DuckDB has one of its own; choose another name"
            )
    connection.execute("SET lock_configuration = true")
    stopped = threading.Timer(max(ends - time.monotonic(), 0.001), connection.interrupt)
    stopped.daemon = True
    stopped.start()
    try:
        return _collect(connection.sql(sql), limits)
    except duckdb.InterruptException as failure:
        raise SqlError(_too_slow(limits)) from failure
    except (duckdb.OutOfMemoryException, pa.ArrowMemoryError, MemoryError) as failure:
        raise SqlError(
            f"the query needs more memory than {limits.memory_mb:,} MB; filter or aggregate more"
        ) from failure
    except duckdb.Error as failure:
        raise SqlError(f"the query failed: {plain(failure)}") from failure
    finally:
        stopped.cancel()
        stopped.join()


def closed_connection(limits: SqlLimits) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB without files, network, extensions, variables or spilling, within `limits`."""
    import duckdb

    connection = duckdb.connect(
        config={
            "memory_limit": f"{limits.memory_mb}MB",
            "threads": str(limits.threads),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET temp_directory = ''")
    # After the folder for spilling, which cannot be taken away once the outside is closed.
    connection.execute("SET enable_external_access = false")
    return connection


def _may_read(table: Table, tenant: str | None) -> bool:
    return tenant is None or table.tenant_column is not None or table.shared


def _rows(lake: Lake, table: Table, tenant: str | None) -> object:
    """The table as the asker may see it; without rows where it has not been made yet."""
    import pyarrow.dataset as pads

    from ml_registry_pipelines.lake.reading import arrow_dataset

    snapshot = lake.find(table.name)
    if snapshot is None:
        return table.empty()
    rows = arrow_dataset(snapshot, table)
    if tenant is None or table.tenant_column is None:
        return rows
    return rows.filter(pads.field(table.tenant_column) == tenant)


def _register_events(connection: duckdb.DuckDBPyConnection, lake: Lake, tenant: str | None) -> None:
    """inference_events with deployments and versions beside them, by the rules of now; read only if asked for."""
    compiled = _rows(lake, TABLES[RULES], tenant)
    rules = Rules(compiled.to_table().to_pylist() if hasattr(compiled, "to_table") else [])
    connection.register(f"{EVENTS}$rows", _rows(lake, TABLES[EVENTS], tenant))
    connection.execute(
        f"""
        CREATE TEMP VIEW {EVENTS} AS
        SELECT * EXCLUDE (outcome), {rules.columns("outcome")}
        FROM (SELECT *, {rules.number} AS outcome FROM "{EVENTS}$rows")
        """
    )


def _resolves(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether DuckDB itself knows a relation by that name, such as a view of the system's."""
    import duckdb

    quoted = name.replace('"', '""')
    try:
        connection.execute(f'SELECT 1 FROM "{quoted}" LIMIT 0')
    except duckdb.CatalogException:
        return False
    except duckdb.Error:
        pass  # It was found, and cannot be read.
    return True


def _collect(relation: duckdb.DuckDBPyRelation | None, limits: SqlLimits) -> pa.Table:
    import pyarrow as pa

    if relation is None:
        raise SqlError("the query has no result; write one SELECT")
    reader = relation.to_arrow_reader(_BATCH)
    batches, size = [], 0
    for batch in reader:
        size += batch.nbytes
        if size > limits.result_mb << 20:
            raise SqlError(f"the answer is larger than {limits.result_mb:,} MB; add a LIMIT, or aggregate")
        batches.append(batch)
    return pa.Table.from_batches(batches, reader.schema)


def _too_slow(limits: SqlLimits) -> str:
    return f"the query was stopped after {limits.seconds:g} s; filter more, or allow more time"


# -- the process of its own ------------------------------------------------------------


def _bound_this_process(limits: SqlLimits) -> None:
    """Let the kernel end what ignores DuckDB's limits: by alarm, and by refusing memory."""
    import resource

    import duckdb  # noqa: F401 - what is loaded is not to count
    import pyarrow.dataset as pads  # noqa: F401

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.seconds + GRACE_SECONDS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    allowed = held + ((limits.memory_mb + 2 * limits.result_mb + 1024) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def serve(request: Mapping[str, object], output: IO[bytes]) -> None:
    """Answer one request as a line of JSON, then, if it was not refused, the rows as an Arrow stream."""
    import pyarrow.ipc

    limits = SqlLimits(**request["limits"])  # type: ignore[arg-type]
    _bound_this_process(limits)
    lake = Lake(str(request["root"]), storage_options=request["storage_options"])  # type: ignore[arg-type]
    tenant = request["tenant"]
    try:
        rows = answer(
            lake, str(request["sql"]), tenant=None if tenant is None else str(tenant), limits=limits
        )
    except LakeError as refused:
        output.write(json.dumps({"refused": str(refused)}).encode() + b"\n")
        return
    output.write(json.dumps({"rows": rows.num_rows}).encode() + b"\n")
    with pyarrow.ipc.new_stream(output, rows.schema) as stream:
        stream.write_table(rows)


def main() -> None:
    """Serve one request, and end without Python's own end.

    A scan that was left early, as by a LIMIT, still has Arrow's threads reading ahead through a file
    system that is Python: they crash the interpreter, or never return, while it is torn down.
    """
    status = 1
    try:
        serve(json.load(sys.stdin), sys.stdout.buffer)
        sys.stdout.flush()
        status = 0
    except Exception:  # noqa: BLE001 - it would escape anyway; the other process tells its last line
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    without_pandas()
    main()
