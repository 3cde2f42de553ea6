"""Rolling up one day among 100 million events, and all of them anew; time, peak memory, and floors.

Afterwards all days are attributed anew, by twenty rules.

Events go straight into the Delta table; each measurement runs in a process of its own. Beside it,
over the same Parquet files: plain DuckDB and, where it is installed, chDB. Neither keeps anything
to merge: they count, sum and sketch once, which is the least that any rollup has to do.

    python -m benchmarks.rollup                        # 100 million events in 30 days, 8 GB of disk
    python -m benchmarks.rollup --rows 10000000 --home /mnt/big
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeVar

from benchmarks.machine import describe_machine, peak_mb

T = TypeVar("T")

FIRST_DAY = date(2026, 9, 1)
BATCH_ROWS = 1_000_000
BYTES_PER_ROW = 60
LATE_ROWS = 1_000
ROUNDS = 3
RULES = 20

EVENTS = """
    SELECT 'tenant-' || i % 3 AS tenant, $day::DATE AS day,
           $day::TIMESTAMPTZ + to_microseconds((random() * 86_399e6)::BIGINT) AS event_ts,
           $day::TIMESTAMPTZ + INTERVAL 1 DAY AS recorded_at, $batch AS batch,
           hash(i)::UBIGINT::HUGEINT - 9223372036854775808 AS event_key,
           'native' AS source_system, 'req-' || hash(i) AS event_id, 1 AS attempt, 'landing' AS source,
           'made.jsonl' AS file, i AS line, 0 AS part, 'native' AS dialect, 'recorded' AS time_quality,
           'app-' || i % 7 AS application, 'provider-' || i % 8 AS provider,
           'model-' || i % 8 || '-' || hash(i) % 5 AS model, 'chat' AS operation, 'leaf' AS span_kind,
           CASE WHEN luck < 0.95 THEN 'success' WHEN luck < 0.97 THEN 'error_unbilled'
                WHEN luck < 0.98 THEN 'error_billed' WHEN luck < 0.99 THEN 'cancelled_billed'
                ELSE 'cache_hit' END AS status,
           exp(7 + 0.7 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())) AS latency_ms,
           exp(5.5 + 0.5 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())) AS ttft_ms, true AS stream,
           (1 + random() * 4000)::BIGINT AS in_uncached,
           CASE WHEN random() < 0.3 THEN (random() * 2000)::BIGINT END AS in_cache_read,
           (1 + random() * 800)::BIGINT AS out_text, 'exact' AS usage_quality,
           CASE WHEN luck < 0.05 THEN '{"team":"search"}' END AS tags
    FROM (SELECT i, random() AS luck FROM range($first, $first + $rows) AS numbers(i))
"""

DUCKDB_FLOOR = """
    SELECT epoch_us(event_ts) // 3_600_000_000 AS hour, provider, model, status, count(*),
           sum(in_uncached), sum(in_cache_read), sum(out_text), sum(latency_ms),
           approx_quantile(latency_ms, [0.5, 0.95, 0.99]), approx_quantile(ttft_ms, [0.5, 0.95, 0.99])
    FROM read_parquet([{files}])
    WHERE span_kind = 'leaf'
    GROUP BY ALL
"""
CHDB_FLOOR = """
    SELECT toStartOfHour(event_ts) AS hour, provider, model, status, count(),
           sum(in_uncached), sum(in_cache_read), sum(out_text), sum(latency_ms),
           quantilesDD(0.01, 0.5, 0.95, 0.99)(latency_ms), quantilesDD(0.01, 0.5, 0.95, 0.99)(ttft_ms)
    FROM file('{files}', Parquet)
    WHERE span_kind = 'leaf'
    GROUP BY hour, provider, model, status
    FORMAT Null
"""


def fill(home: str, rows: int, days: int) -> None:
    """Commit `rows` events in batches of a million, the days one after another."""
    from ml_registry_pipelines.lake.lake import Lake

    with Lake(home, process="benchmark") as lake:
        batches = -(-rows // BATCH_ROWS)
        for batch in range(batches):
            day = FIRST_DAY + timedelta(days=batch * days // batches)
            land(lake, day, batch * BATCH_ROWS, min(BATCH_ROWS, rows - batch * BATCH_ROWS))


def land(lake: object, day: date, first: int, rows: int) -> None:
    """Commit made events of one day as the next batch."""
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import open_duckdb

    assert isinstance(lake, Lake)
    batch = lake.sequence("inference_events", "ingestion") + 1
    schema = lake.declaration("inference_events").schema
    with open_duckdb() as connection:
        made = connection.sql(
            EVENTS, params={"day": day.isoformat(), "batch": batch, "first": first, "rows": rows}
        ).to_arrow_table()
    columns = [
        made[field.name].cast(field.type) if field.name in made.schema.names else pa.nulls(rows, field.type)
        for field in schema
    ]
    lake.append_once(
        "inference_events", pa.Table.from_arrays(columns, schema=schema), source="ingestion", sequence=batch
    )


def refresh(home: str) -> tuple[int, int]:
    """Roll up what is behind; days and rows."""
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.rollups import refresh_performance

    with Lake(home, process="benchmark") as lake:
        found = refresh_performance(lake)
    return len(found.days), found.rows


def attribute(home: str, rules: int) -> None:
    """Put compiled attribution rules in force, each for one model of one tenant, half of them from a mid-hour on."""
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.tables.attribution import ATTRIBUTION_RULES

    begin = datetime.combine(FIRST_DAY, time(11, 17), UTC)
    rows = [
        {
            "tenant": f"tenant-{number % 3}",
            "rule_id": f"{number:032x}",
            "rule": f"rule-{number}",
            "valid_from": begin + timedelta(days=number) if number % 2 else None,
            "model": f"model-{number % 8}-{number % 5}",
            "priority": 0,
            "deployment_id": f"{number:032x}",
            "model_id": f"{number % 4:032x}",
            "version_id": f"{number:032x}",
            "model_version": number,
            "attribution": "version",
        }
        for number in range(rules)
    ]
    with Lake(home, process="benchmark") as lake:
        lake.replace(
            "attribution_rules",
            pa.Table.from_pylist(rows, schema=ATTRIBUTION_RULES.schema),
            predicate="tenant IS NOT NULL",
            source="governance_events",
            sequence=1,
        )


def in_duckdb(files: list[str]) -> tuple[int, int]:
    """The floor: one scan and one group-by, with all the memory there is; files and groups."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        listing = ", ".join(f"'{file}'" for file in files)
        return len(files), len(connection.sql(DUCKDB_FLOOR.format(files=listing)).fetchall())


def in_chdb(files: list[str]) -> tuple[int, int]:
    """The same in chDB."""
    import chdb

    root = str(Path(files[0]).parent.parent)
    names = ",".join(file.removeprefix(root + "/") for file in files)
    chdb.query(CHDB_FLOOR.format(files=f"{root}/{{{names}}}"))
    return len(files), 0


@dataclass(frozen=True)
class Measured:
    """One call in a process of its own: seconds by the clock and of all cores, peak memory, the answer."""

    seconds: float
    cpu: float
    peak_mb: float
    answer: tuple[int, int]


def measured(work: Callable[[T], tuple[int, int]], argument: T) -> Measured:
    """Call `work` in a new process; starting it is not counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_timed, (work, argument))


def _timed(work: Callable[[T], tuple[int, int]], argument: T) -> Measured:
    # Imports are not the rollup's time; pandas comes along with the first conversion to Arrow.
    import deltalake  # noqa: F401
    import duckdb  # noqa: F401
    import pandas as pd  # noqa: F401

    started, used = perf_counter(), process_time()
    answer = work(argument)
    seconds, cpu = perf_counter() - started, process_time() - used
    return Measured(seconds, cpu, peak_mb(), answer)


def files_of(home: str, day: date | None = None) -> list[str]:
    """The live files of the events of one day, or of all."""
    from ml_registry_pipelines.lake.lake import Lake

    with Lake(home, process="benchmark") as lake, lake.read("inference_events") as reading:
        found = reading.files("inference_events")
    paths = zip(found["path"].to_pylist(), found["partition.day"].to_pylist(), strict=True)
    return [f"{home}/tables/inference_events/{path}" for path, of in paths if day is None or of == day]


def report(name: str, results: list[Measured], rows: int) -> None:
    """One line: median time, processor time, speed and peak memory."""
    seconds = statistics.median(result.seconds for result in results)
    cpu = statistics.median(result.cpu for result in results)
    peak = max(result.peak_mb for result in results)
    print(
        f"  {name:<34} {seconds:>8.2f} s {cpu:>8.2f} s of processors "
        f"{rows / seconds / 1e6:>7.2f} M rows/s {peak:>7,.0f} MB peak",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--home", type=Path, help="folder below which the data is put for the run")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="mlreg-bench-", dir=options.home))
    try:
        free, needed = shutil.disk_usage(root).free, options.rows * BYTES_PER_ROW * 1.2
        if free < needed:
            sys.exit(f"{root} has {free / 1e9:.0f} GB free; {options.rows:,} rows need {needed / 1e9:.0f} GB")
        print(f"making {options.rows:,} events of {options.days} days ...", file=sys.stderr)
        fill(str(root), options.rows, options.days)
        compare(str(root), options.rows, options.days)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def compare(home: str, rows: int, days: int) -> None:
    """Measure and print everything."""
    from ml_registry_pipelines.lake.lake import Lake

    print(describe_machine())
    print(
        f"{rows:,} events in {days} days, {sum(Path(f).stat().st_size for f in files_of(home)) / 1e9:.1f} GB"
    )
    rebuilt = measured(refresh, home)
    assert rebuilt.answer[0] == days, rebuilt
    report("all days, into the table", [rebuilt], rows)
    one_day = []
    day = FIRST_DAY + timedelta(days=days // 2)
    for number in range(ROUNDS):
        with Lake(home, process="benchmark") as lake:
            land(lake, day, rows + number * LATE_ROWS, LATE_ROWS)
        one_day.append(measured(refresh, home))
        assert one_day[-1].answer[0] == 1, one_day[-1]
    rows_of_day = rows // days
    report("one day of them, late rows found", one_day, rows_of_day)
    attribute(home, RULES)
    anew = measured(refresh, home)
    assert anew.answer[0] == days, anew
    report(f"all days anew, {RULES} attribution rules", [anew], rows)
    of_day, of_all = files_of(home, day), files_of(home)
    report("floor, one day: DuckDB", [measured(in_duckdb, of_day) for _ in range(ROUNDS)], rows_of_day)
    report("floor, all days: DuckDB", [measured(in_duckdb, of_all)], rows)
    if find_spec("chdb") is None:
        print("  chDB is not installed; `pip install chdb` adds it to the comparison")
        return
    report("floor, one day: chDB", [measured(in_chdb, of_day) for _ in range(ROUNDS)], rows_of_day)
    report("floor, all days: chDB", [measured(in_chdb, of_all)], rows)


if __name__ == "__main__":
    main()
