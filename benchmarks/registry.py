"""Milliseconds per lookup, listing and command with a million things and versions, and commands per second.

Things go in by `register_many`; versions and relationships by bulk commands whose files DuckDB
writes, since a registry grows to that size over years. Then a log of 20,000 single commits,
written as files into a log of its own, takes single commands; eight processes and 64 callers
of one process write at once. At the end MLflow's store does the same, as large, where it can.

    python -m benchmarks.registry
    python -m benchmarks.registry --things 100000 --versions 100000 --relationships 1000000
    python -m benchmarks.registry --home /data/bench --only read
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa

from benchmarks import mlflow_store
from benchmarks.machine import describe_machine
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.reading import open_duckdb
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.bulk import MAX_ROWS
from ml_registry_pipelines.registry.commands import Command
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.relationships import Relationships
from ml_registry_pipelines.registry.things import NewThing, bulk_change

ACTOR = Actor("benchmark")
PARTS = ["fill", "read", "callers", "processes", "write", "mlflow"]
PER_MODEL = 10
"""Versions of a model that has some."""

VERSIONS = """
SELECT 'model_version' AS entity_type, lpad(hex($first + n), 12, '0') || 'versionversionversio' AS entity_id,
  '{"artifacts":[],"base_version":null,"code_commit":null,"content":{"digest":"' || sha256(n::VARCHAR)
  || '","files":1,"form":"file","name":"w.bin","size":1000},"content_digest":"' || sha256(n::VARCHAR)
  || '","deleted":false,"description":"","evaluated_on":[],"framework":"xgboost","licence":"Apache-2.0",'
  || '"metrics":{"auc":0.9},"model_id":"' || m.id || '","parameters":{"depth":6},"signature":null,"size":1000,'
  || '"stage":"registered","tags":{},"trained_on":[],"version":' || (1 + n % $per_model) || '}' AS state
FROM range($first, $last) t(n) JOIN models m ON m.place = n // $per_model
ORDER BY n
"""
EDGES = """
SELECT 'relationship' AS entity_type,
  sha256('["feeds","' || s.id || '","' || t.id || '"]')[1:32] AS entity_id,
  '{"deleted":false,"flow":"to_target","properties":{},"source_id":"' || s.id
  || '","source_type":"model","target_id":"' || t.id || '","target_type":"model","type":"feeds"}' AS state
FROM range($first, $last) e(n)
JOIN models s ON s.place = n % ($count - 16) JOIN models t ON t.place = n % ($count - 16) + 1 + n // ($count - 16)
ORDER BY n
"""


class Clock:
    """Wall time and the CPU time of this thread, in milliseconds, per call."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def run(self, call: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        call()
        self.cpu.append((time.thread_time() - cpu) * 1000)
        self.wall.append((time.perf_counter() - wall) * 1000)

    def show(self, what: str) -> None:
        print(
            f"{what:<46} p50 {_at(self.wall, 0.5):8.1f}  p95 {_at(self.wall, 0.95):8.1f}  "
            f"max {max(self.wall):8.1f} ms   thread's own CPU p50 {_at(self.cpu, 0.5):.1f} ms"
        )


def _at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def fill(home: str, things: int, versions: int, relationships: int) -> None:
    """Bring the registry to its size."""
    with Lake(home) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        started = time.perf_counter()
        for first in range(0, things, MAX_ROWS):
            registry.register_many(
                NewThing(f"model {n}", description="scores", tags={"n": n % 100}, owners=["team:a"])
                for n in range(first, min(things, first + MAX_ROWS))
            )
        seconds = time.perf_counter() - started
        print(f"register_many, {MAX_ROWS:,} per command: {things / seconds:,.0f} models/s")
        log.settle()
        print(f"  and folded: {things / (time.perf_counter() - started):,.0f} models/s")
        with lake.read("things") as reading:
            models = reading.query("b", "SELECT id, row_number() OVER (ORDER BY id) - 1 AS place FROM things")
        started = time.perf_counter()
        for what, sql, count in (
            ("model_version", VERSIONS, versions),
            ("relationship", EDGES, relationships),
        ):
            for first in range(0, count, MAX_ROWS):
                last = min(count, first + MAX_ROWS)
                bounds = {"first": first, "last": last}
                more = {"per_model": PER_MODEL} if what == "model_version" else {"count": things}
                _give(log, what, _made(models, sql, {**bounds, **more}))
        log.settle()
        seconds = time.perf_counter() - started
        count = versions + relationships
        print(f"versions and relationships by bulk commands, folded: {count / max(seconds, 1e-9):,.0f}/s")
        for table in ("things", "model_versions", "relationships"):
            lake.maintain(table)


def _made(models: pa.Table, sql: str, parameters: dict[str, int]) -> pa.Table:
    connection = open_duckdb(ordered=True)
    try:
        connection.register("models", models)
        return connection.execute(sql, parameters).to_arrow_table()
    finally:
        connection.close()


def _give(log: Log, kind: str, rows: pa.Table) -> None:
    file = log.bulk.write_rows(rows.cast(pa.schema([(name, pa.string()) for name in rows.column_names])))
    change = bulk_change(kind, len(rows), file)
    log.run(Command("default", ACTOR, f"bulk_{kind}", kind, {"file": file}, lambda _: [change]))


def read(home: str, things: int, count: int) -> None:
    """Lookups and listings in a warm process; then the same in new ones."""
    chance = random.Random(1)
    with Lake(home) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        started = time.perf_counter()
        registry.get_model("model 1")
        print(f"first lookup of a process: {(time.perf_counter() - started) * 1000:.0f} ms")
        _warm(registry)
        names = [f"model {chance.randrange(things)}" for _ in range(count)]
        by_name, by_id, listing, search = Clock(), Clock(), Clock(), Clock()
        for name in names:
            by_name.run(partial(registry.get_model, name))
        for identity in chance.sample(_ids(lake), count):
            by_id.run(partial(registry.get_model, identity))
        first_listing = Clock()
        for n in range(300 + count):
            name = f"model {n * 97 % (things // PER_MODEL)}"
            registry.get_model(name)
            (first_listing if n < 300 else listing).run(partial(registry.list_versions, name))
            if n == 300:
                _join_loading()
        for n in range(10):
            search.run(partial(registry.search_models, text="scores", tags={"n": n}, limit=50))
        by_name.show("lookup by name, each another")
        by_id.show("lookup by id, each another")
        first_listing.show("list the versions of a model, first 300 asked")
        listing.show("list the versions of a model, then")
        search.show("search by text and tag, 50 of a million")
        visible = Clock()
        for n in range(20):
            name = f"fresh {time.time_ns()} {n}"
            registry.register_model(name)
            visible.run(partial(registry.get_model, name))
        visible.show("a read right after a write")
        edges = Clock()
        relationships = Relationships(log, actor=ACTOR)
        for name in names[:300]:
            edges.run(partial(relationships.list, "model", name))
        edges.show("the relationships of a model, first 300 asked")
        edges = Clock()
        for name in names[300:]:
            edges.run(partial(relationships.list, "model", name))
        edges.show("the relationships of a model, then")
    cold = Clock()
    script = Path(sys.executable).with_name("mlreg")
    for n in range(5):
        command = [str(script), "models", "show", f"model {n * 1000}"]
        cold.run(
            partial(
                subprocess.run,
                command,
                check=True,
                capture_output=True,
                env={**os.environ, "MLREG_HOME": home},
            )
        )
    cold.show("a cold `mlreg models show`")


def _ids(lake: Lake) -> list[str]:
    with lake.read("things") as reading:
        found: list[str] = reading.query("b", "SELECT id FROM things USING SAMPLE 20000")["id"].to_pylist()
    return found


def _warm(registry: ModelRegistry) -> None:
    """Let a process look up as one does that has served for half a minute: by its index in memory."""
    for n in range(300):
        registry.get_model(f"model {n}")
    _join_loading()


def _join_loading() -> None:
    for thread in threading.enumerate():
        if thread.name == "mlreg-places":
            thread.join()


def write(home: str, commits: int, commands: int) -> None:
    """Single commands on a log that holds so many single commits."""
    with Lake(home) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        single = Clock()
        run = time.time_ns()
        for n in range(commits + commands):
            (single.run if n >= commits else _plain)(partial(registry.register_model, f"single {run} {n}"))
        single.show(f"register_model after {commits:,} single commits")


def _plain(call: Callable[[], object]) -> None:
    call()


def callers(home: str, count: int, each: int) -> None:
    """One process whose callers write at once; one command in eight fails."""
    with Lake(home) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        _warm(registry)
        run = new_id()
        registry.register_model(f"taken {run}")
        clock, lock = Clock(), threading.Lock()
        refused = 0

        def work(worker: int) -> None:
            nonlocal refused
            for n in range(each):
                name = f"taken {run}" if n % 8 == 7 else f"{run} {worker} {n}"
                began = time.perf_counter()
                try:
                    registry.register_model(name)
                except RegistryError:
                    with lock:
                        refused += 1
                with lock:
                    clock.wall.append((time.perf_counter() - began) * 1000)

        started, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, range(count)))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        done = count * each
        assert refused == count * (each // 8)
        print(
            f"{count} callers of one process: {done / seconds:,.0f} commands/s ({done / cpu:,.0f} per second of "
            f"CPU), p95 {_at(clock.wall, 0.95):.0f} ms, {refused:,} of {done:,} refused as they should be"
        )


WORKER = """
import sys, threading, time
from contextlib import suppress
from ml_registry_pipelines.registry.errors import NotFound
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
home, worker, seconds = sys.argv[1:]
with Lake(home) as lake, Log(lake) as log:
    registry = ModelRegistry(log, actor=Actor("p1"))
    # As processes are that have served for half a minute: they look names up by their index in memory.
    for n in range(300):
        with suppress(NotFound):
            registry.get_model(f"model {n}")
    [thread.join() for thread in threading.enumerate() if thread.name == "mlreg-places"]
    print("ready", flush=True)
    sys.stdin.readline()
    until, n = time.monotonic() + float(seconds), 0
    while time.monotonic() < until:
        n += 1
        began = time.perf_counter()
        registry.register_model(f"p {worker} {n}")
        print((time.perf_counter() - began) * 1000, flush=True)
"""


def processes(home: str, count: int, seconds: float) -> None:
    """Processes that write at once, upkeep included."""
    run = new_id()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, home, f"{run}-{n}", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdin
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    times = []
    for worker in workers:
        assert worker.stdout
        times.append([float(line) for line in worker.stdout.read().split()])
        assert worker.wait() == 0
    every = [ms for of_one in times for ms in of_one]
    print(
        f"{count} processes: {len(every) / seconds:,.0f} commands/s together, p99 {_at(every, 0.99):.0f} ms, "
        f"each did {min(map(len, times))} to {max(map(len, times))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--things", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=1_000_000)
    parser.add_argument("--relationships", type=int, default=10_000_000)
    parser.add_argument("--commits", type=int, default=20_000)
    parser.add_argument("--lookups", type=int, default=500)
    parser.add_argument("--home", help="Keep the registry here, and use the one that is here.")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=None)
    given = parser.parse_args()
    chosen = given.only or PARTS
    print(describe_machine())
    home = given.home or tempfile.mkdtemp(prefix="mlreg-registry-")
    try:
        if "fill" in chosen:
            fill(home, given.things, given.versions, given.relationships)
        if "read" in chosen:
            read(home, given.things, given.lookups)
        if "callers" in chosen:
            callers(home, 64, 64)
        if "processes" in chosen:
            processes(home, 8, 10)
        if "write" in chosen:
            write(home, given.commits, 300)
        if "mlflow" in chosen:
            with tempfile.TemporaryDirectory(prefix="mlreg-mlflow-") as folder:
                mlflow_store.measured(Path(folder), given.things, given.versions, given.lookups)
    finally:
        if given.home is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
