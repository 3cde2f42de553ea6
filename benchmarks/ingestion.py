"""Events per second from landed files to priced rows, deduplicated and committed; peak memory.

Ingestion and pricing run in a process of their own, whose peak memory is what counts. The
floor in the same run is DuckDB alone: it reads the same files and counts rows, nothing more.

    python -m benchmarks.ingestion                      # 10 million native events, jsonl.gz
    python -m benchmarks.ingestion --rows 500000 --dialect litellm
    python -m benchmarks.ingestion --stored 100000000   # against a table that holds 100 million
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from benchmarks.machine import describe_machine, peak_mb
from benchmarks.made_logs import MAKERS

START = datetime(2026, 9, 1, tzinfo=UTC)
DAYS = 30
DEDUPLICATION = """
    SELECT sum(ms) / 1000 AS seconds FROM query_timings
    WHERE name IN ('ingestion.seen_keys', 'ingestion.deduplicate')
"""


def make_files(folder: Path, dialect: str, rows: int, *, per_file: int, any_day: bool) -> None:
    """Land `rows` records of 30 days in files of `per_file`: one after the other in time, or each of all days."""
    target = folder / dialect / "dt=2026-10-01" / "hh=00"
    target.mkdir(parents=True)
    for first in range(0, rows, per_file):
        chance = random.Random(first)
        last = min(first + per_file, rows)
        begin, end = (0.0, 1.0) if any_day else (first / rows, last / rows)
        lines = "".join(
            json.dumps(MAKERS[dialect](n, START + chance.uniform(begin, end) * timedelta(days=DAYS), chance))
            + "\n"
            for n in range(first, last)
        )
        (target / f"{first:012d}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 3))


def fill(home: str, rows: int) -> None:
    """Put `rows` events into the table, straight through the lake."""
    import numpy as np

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.tables import TABLES

    schema, batch_rows = TABLES["inference_events"].schema, 1_000_000
    chance = np.random.default_rng(1)
    with Lake(home, process="benchmark") as lake:
        for batch in range(1, -(-rows // batch_rows) + 1):
            day = (START + timedelta(days=(batch - 1) % DAYS)).date()
            count = min(batch_rows, rows - (batch - 1) * batch_rows)
            ids = pa.array([f"old-{batch}-{n}" for n in range(count)])
            given = {
                "tenant": pa.repeat("tenant-0", count), "day": pa.repeat(pa.scalar(day, pa.date32()), count),
                "event_ts": pa.repeat(pa.scalar(START, pa.timestamp("us", "UTC")), count),
                "recorded_at": pa.repeat(pa.scalar(START, pa.timestamp("us", "UTC")), count),
                "batch": pa.repeat(pa.scalar(batch, pa.int64()), count),
                "event_key": pa.array(chance.integers(-(2**63), 2**63 - 1, count)),
                "source_system": pa.repeat("native", count), "event_id": ids,
                "attempt": pa.repeat(pa.scalar(1, pa.int32()), count), "source": pa.repeat("old", count),
                "file": pa.repeat("old", count), "line": pa.array(range(count), pa.int64()),
                "part": pa.repeat(pa.scalar(0, pa.int32()), count), "dialect": pa.repeat("native", count),
                "time_quality": pa.repeat("recorded", count), "span_kind": pa.repeat("leaf", count),
                "status": pa.repeat("success", count), "usage_quality": pa.repeat("exact", count),
            }  # fmt: skip
            columns = [
                given[f.name].cast(f.type) if f.name in given else pa.nulls(count, f.type) for f in schema
            ]
            lake.append_once(
                "inference_events",
                pa.Table.from_arrays(columns, schema=schema),
                source="ingestion",
                sequence=batch,
            )
        for table in ("ingested_files", "quarantined_rows", "model_costs"):
            for batch in range(1, lake.sequence("inference_events", "ingestion") + 1):
                lake.append_once(table, TABLES[table].empty(), source="inference_events", sequence=batch)


def work(home: str, landing: str, answer: multiprocessing.Queue[dict[str, float]]) -> None:
    """Ingest and price everything in `landing`, and say how long it took and how much memory."""
    from ml_registry_pipelines.costs.catalog import sync_catalog
    from ml_registry_pipelines.costs.ledger import catch_up_costs
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.ingestion import Ingestion
    from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources

    with Lake(home, process="benchmark") as lake:
        sync_catalog(lake)
        sources = Sources([Source("landing", landing)])
        worker = Ingestion(lake, sources, salt="benchmark")
        rows, pricing = 0, 0.0
        began = time.perf_counter()
        while files := sources.look(lake, scope=Scope.ALL, settled=True).files:
            rows += worker.take(files).taken
            started = time.perf_counter()
            catch_up_costs(lake)
            pricing += time.perf_counter() - started
        seconds = time.perf_counter() - began
        lake.flush_timings()
        with lake.read("query_timings") as reading:
            (timed,) = reading.query("benchmark.deduplication", DEDUPLICATION).to_pylist()
    answer.put(
        {
            "rows": rows,
            "seconds": seconds,
            "dedupe": timed["seconds"],
            "pricing": pricing,
            "peak_mb": peak_mb(),
        }
    )


def floor(landing: Path) -> float:
    """Seconds that DuckDB alone takes to parse the same files."""
    import duckdb

    started = time.perf_counter()
    pattern = str(landing / "**" / "*.jsonl.gz")
    duckdb.connect().execute(
        f"SELECT count(*) FROM read_json('{pattern}', format = 'newline_delimited')"
    ).fetchall()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dialect", choices=sorted(MAKERS), default="native")
    parser.add_argument("--stored", type=int, default=0, help="rows that the table holds before")
    parser.add_argument("--per-file", type=int, default=100_000)
    parser.add_argument("--any-day", action="store_true", help="each file holds records of all 30 days")
    parser.add_argument("--home", help="folder for the data; by default a temporary one")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="mlreg-bench-", dir=options.home))
    try:
        print(describe_machine())
        if options.stored:
            print(f"filling the table with {options.stored:,} rows ...", file=sys.stderr)
            fill(str(root / "home"), options.stored)
        print(f"landing {options.rows:,} {options.dialect} records ...", file=sys.stderr)
        make_files(
            root / "landing",
            options.dialect,
            options.rows,
            per_file=options.per_file,
            any_day=options.any_day,
        )
        spawn = multiprocessing.get_context("spawn")
        answer: multiprocessing.Queue[dict[str, float]] = spawn.Queue()
        worker = spawn.Process(target=work, args=(str(root / "home"), str(root / "landing"), answer))
        worker.start()
        worker.join()
        if worker.exitcode:
            sys.exit(f"the worker ended with exit code {worker.exitcode}")
        found = answer.get()
        alone = floor(root / "landing")
        size = sum(f.stat().st_size for f in (root / "landing").rglob("*.gz"))
        print(f"{options.dialect}: {found['rows']:,.0f} events, {size / 1e6:,.0f} MB gzip")
        print(f"  {options.stored:>12,} rows stored before")
        print(f"  {found['rows'] / found['seconds']:>12,.0f} events/s in all ({found['seconds']:.1f} s)")
        print(
            f"  {found['dedupe'] / found['seconds']:>12.1%} of it deduplication, "
            f"{found['pricing'] / found['seconds']:.1%} pricing"
        )
        print(f"  {found['peak_mb']:>12,.0f} MB peak memory")
        print(
            f"  {found['seconds'] / alone:>12.1f} x the floor (DuckDB parses the same files in {alone:.1f} s)"
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
