"""A billion synthetic events, day by day: generated, priced, rolled up and dropped; then questions are timed.

The events are no traffic of anybody's: each is a record of the shipped traces, drawn at random
with replacement, with an id and an instant of its own on another day. Raw rows of a day go when it
is rolled up (the last `--kept` days stay), so what is measured is what a year leaves behind: the
state per event, the work per day as history grows, and what a question takes in the end.

    python -m benchmarks.billion                               # 1 billion events, 330 days, hours
    python -m benchmarks.billion --rows 60000000 --days 20
    python -m benchmarks.billion --home /mnt/big/year --only ask   # questions of a home that is there

With `--home`, a filling that was broken off goes on at the day after the last whole one. A day's
steps are told in seconds and in seconds of processor, which say the same on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from queue import Empty
from time import perf_counter, process_time

import pyarrow as pa

from benchmarks.machine import describe_machine, peak_mb
from ml_registry_pipelines.lake.lake import Lake

FIRST_DAY = date(2026, 1, 1)
SHIPPED = Path(__file__).parents[1] / "demo" / "data" / "landing"
BATCH_ROWS = 1_000_000
TAKEN = "days.jsonl"
"""What each day took, in the home."""
QUESTIONS = 100
STEPS = ("made", "priced", "rolled up", "dropped")

RESAMPLED = """
    SELECT pool.* REPLACE (
        $day::DATE AS day,
        $day::TIMESTAMPTZ + to_microseconds(
            (epoch_us(event_ts) - epoch_us(date_trunc('day', event_ts)) + (random() * 6e7)::BIGINT)
            % 86400000000) AS event_ts,
        $day::TIMESTAMPTZ + INTERVAL 1 DAY AS recorded_at,
        $batch AS batch,
        hash($batch, i)::UBIGINT::HUGEINT - 9223372036854775808 AS event_key,
        'made-' || $batch || '-' || i AS event_id,
        'benchmark' AS source, 'made.jsonl' AS file, i AS line, 0 AS part, NULL AS trace_id, NULL AS parent_id
    )
    FROM (SELECT i, (random() * $size - 0.5)::BIGINT AS n FROM range($rows) AS numbers(i)) AS drawn
    JOIN pool_numbered AS pool USING (n)
"""
"""`random() * size - 0.5`, rounded, is each number from 0 to size - 1 alike."""


def pool() -> pa.Table:
    """The requests of the shipped traces, as ingestion takes them."""
    from ml_registry_pipelines.telemetry.ingestion import Ingestion
    from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources

    with tempfile.TemporaryDirectory() as home, Lake(home) as lake:
        sources = Sources([Source("landing", str(SHIPPED))])
        worker = Ingestion(lake, sources, salt="benchmark")
        while files := sources.look(lake, scope=Scope.ALL, settled=True).files:
            worker.take(files)
        with lake.read("inference_events") as reading:
            return reading.query("b", "SELECT * FROM inference_events WHERE span_kind = 'leaf'")


def make(lake: Lake, drawn_from: pa.Table, day: date, rows: int) -> None:
    """Commit a day's events in batches."""
    from ml_registry_pipelines.lake.committing import as_declared
    from ml_registry_pipelines.lake.reading import open_duckdb

    declared = lake.declaration("inference_events")
    for first in range(0, rows, BATCH_ROWS):
        batch = lake.sequence("inference_events", "ingestion") + 1
        with open_duckdb(over=rows) as connection:
            connection.register("pool_rows", drawn_from)
            connection.execute(
                "CREATE TEMP TABLE pool_numbered AS SELECT *, row_number() OVER () - 1 AS n FROM pool_rows"
            )
            made: pa.Table = connection.execute(
                RESAMPLED,
                {
                    "day": day.isoformat(),
                    "batch": batch,
                    "rows": min(BATCH_ROWS, rows - first),
                    "size": drawn_from.num_rows,
                },
            ).to_arrow_table()
        lake.append_once(
            "inference_events",
            as_declared(made.select(declared.column_names), declared),
            source="ingestion",
            sequence=batch,
        )


def year(
    home: str,
    rows: int,
    days: int,
    kept: int,
    begin: int,
    answers: multiprocessing.Queue[dict[str, float]],
) -> None:
    """All days from `begin` on, one after the other, in a process of its own; puts what each took."""
    from ml_registry_pipelines.costs.catalog import sync_catalog
    from ml_registry_pipelines.costs.ledger import catch_up_costs
    from ml_registry_pipelines.costs.rollups import roll_up_costs
    from ml_registry_pipelines.telemetry.rollups import refresh_performance

    drawn_from = pool()
    with Lake(home, process="benchmark") as lake:
        sync_catalog(lake)
        for number in range(begin, days):
            day = FIRST_DAY + timedelta(days=number)
            if number == begin:
                # Where a filling was broken off, the day's own rows are made anew.
                for table in ("inference_events", "model_costs"):
                    lake.erase(table, f"day >= '{day.isoformat()}'")
            marks = [(perf_counter(), process_time())]
            make(lake, drawn_from, day, rows // days)
            marks.append((perf_counter(), process_time()))
            catch_up_costs(lake)
            marks.append((perf_counter(), process_time()))
            done = refresh_performance(lake), roll_up_costs(lake)
            assert all(day in refreshed.days for refreshed in done), done
            marks.append((perf_counter(), process_time()))
            full = _bytes(home)
            if number >= kept:
                gone = FIRST_DAY + timedelta(days=number - kept)
                for table in ("inference_events", "model_costs"):
                    lake.erase(table, f"day = '{gone.isoformat()}'")
            marks.append((perf_counter(), process_time()))
            took: dict[str, float] = {"full": full, "peak_mb": peak_mb()}
            for step, (before, after) in zip(STEPS, pairwise(marks), strict=True):
                took[step], took[f"{step}_cpu"] = after[0] - before[0], after[1] - before[1]
            answers.put(took)


def _bytes(home: str) -> int:
    return sum(path.stat().st_size for path in Path(home).rglob("*") if path.is_file())


def fill(home: str, rows: int, days: int, kept: int) -> None:
    """Run the days and print what they took, at the beginning and at the end."""
    record = Path(home) / TAKEN
    taken: list[dict[str, float]] = []
    if record.exists():
        taken = [json.loads(line) for line in record.read_text().splitlines()]
        print(f"{len(taken)} days are there already")
    spawn = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[dict[str, float]] = spawn.Queue()
    worker = spawn.Process(target=year, args=(home, rows, days, kept, len(taken), answers))
    worker.start()
    while len(taken) < days:
        try:
            taken.append(took := answers.get(timeout=5))
        except Empty:
            if not worker.is_alive():
                raise SystemExit(f"the worker ended with exit code {worker.exitcode}") from None
            continue
        with record.open("a") as file:
            file.write(json.dumps(took) + "\n")
        told = ", ".join(f"{step} {took[step]:6.1f} s ({took[f'{step}_cpu']:.1f})" for step in STEPS)
        print(f"day {len(taken):>4}: {told}, {took['full'] / 1e9:5.2f} GB at its end", flush=True)
    worker.join()
    some = max(1, days // 10)
    for step in STEPS:
        first, last = (
            statistics.median(t[f"{step}_cpu"] for t in part) for part in (taken[:some], taken[-some:])
        )
        print(f"a day {step}: median {first:.1f} s of processor at the beginning, {last:.1f} s at the end")
    events = rows // days * days
    for step in STEPS[:3]:
        seconds, processor = (sum(t[name] for t in taken) for name in (step, f"{step}_cpu"))
        print(
            f"{events:,} events {step} in {seconds:,.0f} s, {processor:,.0f} s of processor: "
            f"{events / seconds:,.0f}/s"
        )
    print(
        f"peak disk {max(t['full'] for t in taken) / 1e9:.1f} GB, "
        f"peak memory {max(t['peak_mb'] for t in taken):,.0f} MB"
    )
    with Lake(home) as lake:
        kept_bytes = {
            s.name: s.bytes for s in lake.status() if s.name in ("performance_rollup", "cost_rollup")
        }
    left = [
        f"{name} {size / 1e6:,.0f} MB ({size / events:.2f} bytes per event)"
        for name, size in kept_bytes.items()
    ]
    print("state left: " + ", ".join(left))


def ask(home: str, questions: int) -> None:
    """Summaries, trends and percentiles over random windows; then the exact percentiles of one raw day."""
    from ml_registry_pipelines.costs.queries import cost_by
    from ml_registry_pipelines.telemetry.performance import PerformanceTracker

    chance = random.Random(1)
    with Lake(home, process="benchmark") as lake:
        tracker = PerformanceTracker(lake)
        with lake.read("performance_rollup", "inference_events") as reading:
            (bounds,) = reading.query(
                "b", "SELECT min(day) AS first, max(day) AS last FROM performance_rollup"
            ).to_pylist()
            (raw,) = reading.query(
                "b", "SELECT day, count(*) AS n FROM inference_events GROUP BY day ORDER BY n DESC LIMIT 1"
            ).to_pylist()
            tenants = reading.query(
                "b", "SELECT DISTINCT tenant FROM performance_rollup WHERE tenant IS NOT NULL ORDER BY tenant"
            )["tenant"].to_pylist()
        length = (bounds["last"] - bounds["first"]).days + 1

        def window() -> tuple[date, date]:
            first = chance.randrange(length)
            return (
                bounds["first"] + timedelta(days=first),
                bounds["first"] + timedelta(days=chance.randrange(first, length) + 1),
            )

        def instants(hours: int = 0) -> tuple[datetime, datetime]:
            first, last = window()
            shift = timedelta(hours=chance.randrange(24) if hours else 0)
            return (
                datetime.combine(first, datetime.min.time(), UTC) + shift,
                datetime.combine(last, datetime.min.time(), UTC) + shift,
            )

        def costs(*by: str) -> Callable[[], object]:
            def work() -> object:
                first, last = window()
                with lake.read("cost_rollup", "inference_events", "attribution_rules") as reading:
                    return cost_by(reading, list(by), since=first, until=last)

            return work

        def percentiles(
            tenant: str | None, *by: str, hours: int = 0, exact: bool = False
        ) -> Callable[[], object]:
            def work() -> object:
                start, end = instants(hours)
                if exact:
                    start = datetime.combine(raw["day"], datetime.min.time(), UTC)
                    end = start + timedelta(days=1)
                return tracker.get_statistics(start, end, by=by, tenant=tenant, exact=exact)

            return work

        for what, work, count in (
            ("costs in all", costs(), questions),
            ("costs by provider and model", costs("provider", "model"), questions),
            ("costs by tenant", costs("tenant"), questions),
            ("trend: costs by day and model", costs("day", "model"), questions),
            ("percentiles, whole hours, all tenants", percentiles(None, hours=1), questions),
            (
                "percentiles by model, whole hours, all tenants",
                percentiles(None, "model", hours=1),
                questions,
            ),
            ("percentiles, whole days, one tenant", percentiles(tenants[0]), questions),
            ("percentiles by model, whole days, one tenant", percentiles(tenants[0], "model"), questions),
            (f"exact percentiles of one raw day, {raw['n']:,} rows", percentiles(None, exact=True), 5),
        ):
            work()
            times = []
            for _ in range(count):
                begun = perf_counter()
                work()
                times.append((perf_counter() - begun) * 1000)
            times.sort()
            print(
                f"  {what:<56} p50 {times[len(times) // 2]:>8.1f}  p95 {times[int(len(times) * 0.95)]:>8.1f}  "
                f"max {times[-1]:>8.1f} ms",
                flush=True,
            )
    print(f"memory of the asking process {peak_mb():,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000_000)
    parser.add_argument("--days", type=int, default=330)
    parser.add_argument("--kept", type=int, default=1, help="days whose raw rows stay")
    parser.add_argument("--home", help="keep the tables here, and use those that are here")
    parser.add_argument("--only", choices=["fill", "ask"])
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    given = parser.parse_args()
    print(describe_machine())
    home = given.home or tempfile.mkdtemp(prefix="mlreg-billion-")
    try:
        if given.only != "ask":
            fill(home, given.rows, given.days, given.kept)
        if given.only != "fill":
            ask(home, given.questions)
    finally:
        if given.home is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
