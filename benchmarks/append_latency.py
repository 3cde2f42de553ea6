"""Milliseconds per append to a table of 20,000 single commits, and points per second, beside upkeep.

All figures are of one table, `model_metrics`, that was given its commits within minutes: the
log still holds every one of them, and the checkpoint every file that compaction removed.
Floors in the same run: a Parquet file of the same rows, written and synced; and delta-rs as
it comes, with its hooks on, on a table of 1,500 commits.

    python -m benchmarks.append_latency
    python -m benchmarks.append_latency --commits 2000 --appends 200
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe_machine
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.maintenance import COMPACT_EVERY
from ml_registry_pipelines.telemetry.performance import MetricPoint, PerformanceTracker

TABLE = "model_metrics"
NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)


def rows(count: int) -> pa.Table:
    """Points as Arrow rows."""
    schema = Lake.declaration(TABLE).schema
    row = {
        "tenant": "default",
        "day": NOW.date(),
        "model": "gpt-4o",
        "metric": "accuracy",
        "value": 0.5,
        "event_ts": NOW,
        "recorded_at": NOW,
    }
    return pa.Table.from_pylist([row] * count, schema=schema)


def points(count: int) -> list[MetricPoint]:
    """Points as a caller of `record_metrics` has them."""
    return [MetricPoint("gpt-4o", "accuracy", 0.5 + n / 1e9, event_ts=NOW, step=n) for n in range(count)]


def give_commits(lake: Lake, count: int) -> None:
    """Commits of one row each, written as files: what a writer would have left, in seconds."""
    lake.append_next(TABLE, rows(1), source="record_metric")
    folder = Path(lake.uri(TABLE))
    log = folder / "_delta_log"
    version = lake.version(TABLE)
    lines = [json.loads(line) for line in (log / f"{version:020}.json").read_text().splitlines()]
    (add,) = (line["add"] for line in lines if "add" in line)
    first = folder / add["path"]
    for number in range(1, count):
        added = first.with_name(f"part-{number:05}.parquet")
        shutil.copyfile(first, added)
        add["path"] = str(added.relative_to(folder))
        for line in lines:
            if "txn" in line:
                line["txn"]["version"] = number + 1
        (log / f"{version + number:020}.json").write_text("\n".join(map(json.dumps, lines)))


def percentile(sample: list[float], share: float) -> float:
    return sorted(sample)[min(int(share * len(sample)), len(sample) - 1)]


def measured(work: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each of `times` runs."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1000)
    return taken


def parquet_and_sync(folder: Path, count: int) -> Callable[[], None]:
    """The floor: the same rows in a file that has reached the disk."""
    data = rows(count)
    numbers = iter(range(10**9))

    def write() -> None:
        path = folder / f"{next(numbers)}.parquet"
        with path.open("wb") as stream:
            pq.write_table(data, stream, compression="zstd", compression_level=1)
            os.fsync(stream.fileno())

    return write


def line(name: str, sample: list[float], rows_each: int = 1) -> str:
    first, last = sample[: len(sample) // 2], sample[len(sample) // 2 :]
    rate = rows_each * 1000 / statistics.mean(sample)
    return (
        f"{name:<46} {percentile(sample, 0.5):>8.1f} {percentile(sample, 0.95):>8.1f} {max(sample):>8.1f}"
        f" {percentile(first, 0.5):>9.1f} {percentile(last, 0.5):>9.1f} {rate:>11,.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commits", type=int, default=20_000)
    parser.add_argument("--appends", type=int, default=1_000)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlreg-bench-"))
    try:
        run(folder, given.commits, given.appends)
    finally:
        shutil.rmtree(folder)


def run(folder: Path, commits: int, appends: int) -> None:
    print(describe_machine())
    started = time.perf_counter()
    with Lake(str(folder / "home")) as lake:
        give_commits(lake, commits)
        made = time.perf_counter()
        lake.maintain(TABLE, full=True)
        kept = time.perf_counter()
        print(
            f"{commits:,} commits made in {made - started:.1f} s; the first upkeep of them all took "
            f"{kept - made:.1f} s; afterwards every {COMPACT_EVERY} commits, beside the writer"
        )
    names = ("p50", "p95", "max", "1st half", "2nd half", "rows/s")
    print(
        f"\n{'milliseconds':<46} "
        + " ".join(f"{n:>{w}}" for n, w in zip(names, (8, 8, 8, 9, 9, 11), strict=True))
    )
    with Lake(str(folder / "home")) as lake:
        tracker = PerformanceTracker(lake)
        one = rows(1)
        measured(lambda: lake.append_next(TABLE, one, source="record_metric"), 5)
        print(
            line(
                "append of one row, upkeep beside",
                measured(lambda: lake.append_next(TABLE, one, source="record_metric"), appends),
            )
        )
        print(
            line(
                "record_metric, one point",
                measured(lambda: tracker.record_metric("gpt-4o", "accuracy", 0.5), appends // 4),
            )
        )
        some = points(25)
        print(
            line(
                "record_metrics, 25 points", measured(lambda: tracker.record_metrics(some), appends // 4), 25
            )
        )
        many, many_rows = points(10_000), rows(10_000)
        print(
            line("record_metrics, 10,000 points", measured(lambda: tracker.record_metrics(many), 40), 10_000)
        )
        print(
            line(
                "append of 10,000 rows",
                measured(lambda: lake.append_next(TABLE, many_rows, source="record_metric"), 40),
                10_000,
            )
        )
        lake.settle()
        (status,) = (table for table in lake.status() if table.name == TABLE)
    for count in (1, 25, 10_000):
        print(
            line(
                f"floor: Parquet and fsync, {count:,} rows",
                measured(parquet_and_sync(folder, count), 100),
                count,
            )
        )
    with Lake(str(folder / "plain")) as plain:
        from deltalake import DeltaTable, write_deltalake

        give_commits(plain, 1_500)
        address = plain.uri(TABLE)
        DeltaTable(address).create_checkpoint()
        print(
            line(
                "delta-rs by itself, 1,500 commits, one row",
                measured(lambda: write_deltalake(address, one, mode="append"), 40),
            )
        )
    print(
        f"\nafterwards: version {status.version:,}, {status.rows:,} rows, {status.files} files, "
        f"{status.log_files:,} log files, {status.commits_since_checkpoint} commits since the last checkpoint; "
        f"load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
