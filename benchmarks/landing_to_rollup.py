"""Seconds from a file's landing to its rows in both rollups, with a real `mlreg ui` running.

Files are dropped by renaming, one after the other, each when the one before is rolled up and
all runs have ended; their hours come out of order: 12, then 09, then yesterday's. Drops are
spread over the daemon's rhythm of five seconds. The time ends when a reader sees the file's
requests in `cost_rollup` and in `performance_rollup`; the parts come from Dagster's own
records of the run.

    python -m benchmarks.landing_to_rollup
    python -m benchmarks.landing_to_rollup --drops 20 --rows 1000
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from benchmarks.machine import describe_machine
from ml_registry_pipelines.lake.lake import Lake
from tests.e2e.ui import Ui, running_ui, wait_for
from tests.location import land, record

FOLDERS = ("dt=2026-06-02/hh=12", "dt=2026-06-02/hh=09", "dt=2026-06-01/hh=21")
SEED = 7


def drop(ui: Ui, lake: Lake, number: int, rows: int) -> float:
    """Seconds until a file of so many rows is rolled up."""
    folder = FOLDERS[number % len(FOLDERS)]
    day, hour = folder[3:13], folder[-2:]
    before = rolled_up(lake, day)
    records = [record(f"{number}-{n}", f"{day}T{hour}:{n % 60:02}:00Z") for n in range(rows)]
    started = time.monotonic()
    land(ui.home, f"native/{folder}/{number:04}.jsonl", records)

    def done() -> bool:
        return all(now >= then + rows for now, then in zip(rolled_up(lake, day), before, strict=True))

    wait_for(f"the rollup of file {number}", done, seconds=300)
    return time.monotonic() - started


def rolled_up(lake: Lake, day: str) -> tuple[int, int]:
    """Requests of a day in the two rollups."""
    with lake.read("cost_rollup", "performance_rollup") as reading:
        row = reading.query(
            "benchmark",
            """
            SELECT coalesce((SELECT sum(requests) FROM cost_rollup WHERE grain = 'day' AND day = $day::DATE), 0) AS c,
                   coalesce((SELECT sum(requests) FROM performance_rollup
                             WHERE grain = 'day' AND day = $day::DATE), 0) AS p
            """,
            {"day": day},
        ).to_pylist()[0]
    return int(row["c"]), int(row["p"])


def parts(home: Path) -> Mapping[str, list[float]]:
    """Seconds of each stretch of each run of `ingest_logs`, from the records of Dagster."""
    os.environ["DAGSTER_HOME"] = str(home / "dagster")
    stretches: dict[str, list[float]] = {}
    with dg.DagsterInstance.get() as instance:
        for entry in instance.get_run_records(dg.RunsFilter(job_name="ingest_logs")):
            steps = {s.step_key: s for s in instance.get_run_step_stats(entry.dagster_run.run_id)}
            marks = {
                "requested to started": (entry.create_timestamp.timestamp(), entry.start_time),
                "started to rows in": (entry.start_time, steps["inference_events"].end_time),
                "rows in to rolled up": (steps["inference_events"].end_time, steps["cost_rollup"].end_time),
                "rolled up to run ended": (steps["cost_rollup"].end_time, entry.end_time),
            }
            for name, (start, end) in marks.items():
                if start is not None and end is not None:
                    stretches.setdefault(name, []).append(end - start)
    return stretches


def main() -> None:
    """Measure, and print one line per figure."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--drops", type=int, default=12)
    arguments.add_argument("--rows", type=int, default=100, help="rows per file")
    given = arguments.parse_args()
    print(describe_machine())
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="mlreg-bench-") as folder:
        home = Path(folder) / "home"
        with running_ui(home) as ui, Lake(str(home), process="benchmark") as lake:
            seconds = []
            for number in range(given.drops + 1):
                wait_for("an end of all runs", ui.quiet, seconds=300)
                time.sleep(chance.uniform(0, 5))
                seconds.append(drop(ui, lake, number, given.rows))
                which = "first, with empty caches" if number == 0 else FOLDERS[number % len(FOLDERS)]
                print(f"  drop {number:2}  {seconds[-1]:5.1f} s  {which}", flush=True)
        measured = sorted(seconds[1:])
        print(
            f"landed to rolled up, {len(measured)} drops of {given.rows} rows: "
            f"min {measured[0]:.1f} s, median {statistics.median(measured):.1f} s, max {measured[-1]:.1f} s"
        )
        for name, values in parts(home).items():
            print(f"  of it, {name:<24} median {statistics.median(values):5.1f} s")


if __name__ == "__main__":
    main()
