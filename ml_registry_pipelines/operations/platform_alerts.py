"""Alerts of the platform itself: queries that take long, and space that runs out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.operations.alert_rules import SlowQueriesRule, StorageRule
from ml_registry_pipelines.operations.alerts import Alert, Severity

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

SLOW_QUERIES, STORAGE = "slow_queries", "storage"


def slow_query_alerts(lake: Lake, rule: SlowQueriesRule, now: datetime) -> Iterator[Alert]:
    """Named queries whose 95th percentile within the window is above their limit."""
    start = now - timedelta(hours=rule.hours)
    with lake.read("query_timings") as reading:
        rows = reading.query(
            "alerts.slow_queries",
            """
            SELECT name, count(*) AS runs, quantile_disc(ms, 0.95) AS p95, max(ms) AS longest
            FROM query_timings
            WHERE recorded_at >= $start AND recorded_at <= $now
            GROUP BY name
            HAVING count(*) >= $least
            ORDER BY p95 DESC
            """,
            {"start": start, "now": now, "least": rule.least_runs},
        ).to_pylist()
    for row in rows:
        limit = rule.limit(row["name"])
        if row["p95"] <= limit:
            continue
        yield Alert(
            SLOW_QUERIES,
            row["name"],
            Severity.WARNING,
            f"The platform's query {row['name']} is slow: p95 {row['p95'] / 1000:.1f} s",
            f"{row['runs']:,} runs since {start:%Y-%m-%d %H:%M}Z, the longest {row['longest'] / 1000:.1f} s; "
            f"{limit / 1000:g} s is the limit. `mlreg tables` says whether a table needs upkeep.",
        )


def storage_alerts(lake: Lake, rule: StorageRule) -> Iterator[Alert]:
    """Live files of all tables against the limit that is set, and the disk that they lie on."""
    if rule.most_bytes is not None:
        held = table_bytes(lake)
        if held >= rule.share * rule.most_bytes:
            yield Alert(
                STORAGE,
                "tables",
                Severity.ERROR if held >= rule.most_bytes else Severity.WARNING,
                f"The tables take {held / 1e9:,.2f} of {rule.most_bytes / 1e9:,.2f} GB",
                f"{held / rule.most_bytes:.0%} of storage.most_bytes. `mlreg tables` says which tables are large.",
            )
    if not lake.is_local:
        return
    place = next((p for p in (Path(lake.root), *Path(lake.root).parents) if p.exists()), Path("/"))
    disk = shutil.disk_usage(place)
    short, full = disk.free < rule.free_share * disk.total, disk.free < rule.free_bytes
    if short or full:
        yield Alert(
            STORAGE,
            "disk",
            Severity.ERROR if full else Severity.WARNING,
            f"{disk.free / 1e9:,.1f} of {disk.total / 1e9:,.1f} GB are free below {lake.root}",
            "Writes fail when the disk is full. Make room, or move the home.",
        )


def table_bytes(lake: Lake) -> int:
    """Bytes of the live files of all tables, from their logs."""
    with lake.read(*(name for name in TABLES if lake.exists(name))) as reading:
        held = [reading.files(name)["size_bytes"].to_pylist() for name in TABLES if reading.holds(name)]
    return sum(size for sizes in held for size in sizes)
