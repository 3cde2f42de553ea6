"""Questions about performance and costs over rolled-up events: p50, p95 and memory, beside plain DuckDB and chDB.

Made events go straight into the Delta table, are priced by a made contract and rolled up; then one process
asks each question again and again. The floors ask the raw Parquet files the same, in memory of their own.

    python -m benchmarks.analytics                          # 90 million events in 30 days, 14 GB of disk
    python -m benchmarks.analytics --rows 3000000 --days 3  # a minute
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from benchmarks.machine import describe_machine, peak_mb
from benchmarks.rollup import FIRST_DAY, files_of, fill, measured

ROUNDS = 21
BYTES_PER_ROW = 150
PROVIDERS = 8
TENANT = "tenant-1"

DUCKDB_SUMMARY = """
    SELECT provider, model, count(*), sum(in_uncached), sum(in_cache_read), sum(out_text)
    FROM read_parquet([{files}]) GROUP BY ALL
"""
DUCKDB_QUANTILES = """
    SELECT provider, quantile_disc(latency_ms, [0.5, 0.95, 0.99])
    FROM read_parquet([{files}]) WHERE span_kind = 'leaf' AND status = 'success' GROUP BY ALL
"""
CHDB_SUMMARY = """
    SELECT provider, model, count(), sum(in_uncached), sum(in_cache_read), sum(out_text)
    FROM file('{files}', Parquet) GROUP BY provider, model FORMAT Null
"""
CHDB_QUANTILES = """
    SELECT provider, quantilesExact(0.5, 0.95, 0.99)(latency_ms)
    FROM file('{files}', Parquet) WHERE span_kind = 'leaf' AND status = 'success' GROUP BY provider FORMAT Null
"""


def derive(home: str) -> tuple[int, int]:
    """Put made prices in force, price and roll up everything; days and batches."""
    from ml_registry_pipelines.costs.contracts import read_contract
    from ml_registry_pipelines.costs.ledger import catch_up_costs
    from ml_registry_pipelines.costs.prices import catalog_rows
    from ml_registry_pipelines.costs.rollups import roll_up_costs
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.rollups import refresh_performance

    entries = "".join(
        f"  - {{provider: provider-{n}, model: 'model-*', "
        f"per_million_tokens: {{input: {n + 1}, cached_input: '0.5', output: {4 * n + 4}}}}}\n"
        for n in range(PROVIDERS)
    )
    contract = read_contract(f"contract: made\ncurrency: USD\nprices:\n{entries}", file="made")
    with Lake(home, process="benchmark") as lake:
        now = datetime.combine(FIRST_DAY, time(), UTC)
        rows = catalog_rows(contract.prices, version="1", generation=1, recorded_at=now)
        lake.append_once("price_catalog", rows, source="catalog", sequence=1)
        batches = len(catch_up_costs(lake))
        refresh_performance(lake)
        return len(roll_up_costs(lake).days), batches


def questions(home: str, days: int) -> tuple[int, int]:
    """Ask everything, print a line each; how many, and how many milliseconds the slowest p95 took."""
    from ml_registry_pipelines.costs.integration import VibeCodingIntegration
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.performance import PerformanceTracker

    start = datetime.combine(FIRST_DAY, time(), UTC)
    end, until = start + timedelta(days=days), FIRST_DAY + timedelta(days=days)
    worst = 0.0
    with Lake(home, process="benchmark") as lake:
        costs, tracker = VibeCodingIntegration(lake), PerformanceTracker(lake)
        hour = timedelta(hours=1)
        asked: dict[str, tuple[int, Callable[[], object]]] = {
            "summary by provider and model": (
                ROUNDS, lambda: costs.get_cost_summary(FIRST_DAY, until, by=["provider", "model"])),
            "summary by day of one tenant": (
                ROUNDS, lambda: costs.get_cost_summary(FIRST_DAY, until, by=["day"], where={"tenant": TENANT})),
            "trend with forecast and odd hours": (
                ROUNDS, lambda: costs.get_cost_trends(FIRST_DAY, until, today=until)),
            "trend of one tenant": (
                ROUNDS, lambda: costs.get_cost_trends(FIRST_DAY, until, today=until, where={"tenant": TENANT})),
            "percentiles, whole hours, all tenants": (
                ROUNDS, lambda: tracker.get_statistics(start + 2 * hour, end - 3 * hour, by=["provider"])),
            "percentiles, whole days, one tenant": (
                ROUNDS, lambda: tracker.get_statistics(start, end, by=["provider"], tenant=TENANT)),
            "percentiles with their intervals": (
                ROUNDS, lambda: tracker.get_statistics(start, end, by=["model"], intervals=True)),
            "providers side by side": (
                ROUNDS, lambda: costs.compare_providers("provider-1", "provider-2", since=FIRST_DAY, until=until)),
            "costs by tag, one day of requests": (
                3, lambda: costs.get_cost_summary(FIRST_DAY, FIRST_DAY + timedelta(days=1), by=["tag:team"])),
            "exact p99 of one raw day": (
                3, lambda: tracker.get_statistics(start, start + timedelta(days=1), by=["provider"], exact=True)),
        }  # fmt: skip
        for name, (rounds, ask) in asked.items():
            ask()
            took = sorted(timed(ask) for _ in range(rounds))
            p95 = took[min(len(took) - 1, round(0.95 * len(took)))]
            print(f"  {name:<40} p50 {statistics.median(took):>8.0f} ms   p95 {p95:>8.0f} ms", flush=True)
            if rounds == ROUNDS:
                worst = max(worst, p95)
    print(f"  peak memory {peak_mb():,.0f} MB", flush=True)
    return len(asked), round(worst)


def timed(ask: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    started = perf_counter()
    ask()
    return (perf_counter() - started) * 1000


def in_duckdb(given: tuple[str, list[str]]) -> tuple[int, int]:
    """One statement over the raw files, with all the memory there is."""
    import duckdb

    sql, files = given
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        return len(files), len(
            connection.sql(sql.format(files=", ".join(f"'{f}'" for f in files))).fetchall()
        )


def in_chdb(given: tuple[str, list[str]]) -> tuple[int, int]:
    """The same in chDB."""
    import chdb

    sql, files = given
    root = str(Path(files[0]).parent.parent)
    names = ",".join(file.removeprefix(root + "/") for file in files)
    chdb.query(sql.format(files=f"{root}/{{{names}}}"))
    return len(files), 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=90_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--home", type=Path, help="folder below which the data is put for the run")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="mlreg-bench-", dir=options.home))
    try:
        free, needed = shutil.disk_usage(root).free, options.rows * BYTES_PER_ROW
        if free < needed:
            sys.exit(f"{root} has {free / 1e9:.0f} GB free; {options.rows:,} rows need {needed / 1e9:.0f} GB")
        print(f"making {options.rows:,} events of {options.days} days ...", file=sys.stderr)
        fill(str(root), options.rows, options.days)
        print(describe_machine())
        print(f"{options.rows:,} made events in {options.days} days, priced and rolled up", flush=True)
        measured(derive, str(root))
        found = measured(_questions, (str(root), options.days))
        print(f"  slowest p95 over rollups: {found.answer[1]:,} ms")
        floors(str(root))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _questions(given: tuple[str, int]) -> tuple[int, int]:
    return questions(*given)


def floors(home: str) -> None:
    """The same questions of the raw files."""
    of_all, of_day = files_of(home), files_of(home, FIRST_DAY)
    engines = [("DuckDB", in_duckdb, DUCKDB_SUMMARY, DUCKDB_QUANTILES)]
    if find_spec("chdb") is not None:
        engines.append(("chDB", in_chdb, CHDB_SUMMARY, CHDB_QUANTILES))
    else:
        print("  chDB is not installed; `pip install chdb` adds it to the comparison")
    for name, ask, summary, quantiles in engines:
        for what, sql, files in (
            ("summary, all days", summary, of_all),
            ("percentiles, all days", quantiles, of_all),
            ("exact p99 of one day", quantiles, of_day),
        ):
            found = measured(ask, (sql, files))
            print(
                f"  raw files, {name + ': ' + what:<34} {found.seconds * 1000:>8.0f} ms {found.peak_mb:>7,.0f} MB"
            )


if __name__ == "__main__":
    main()
