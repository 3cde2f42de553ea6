"""Costs and latencies of models over the last days, taken from the rollups and kept for the pages of a search.

The log does not hold measurements, so a page cannot read them as of an event. What the first page read
is kept as a snapshot under the versions of the tables that it came from, and later pages read that; the
same question over the same tables is answered by the same snapshot.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time as clock
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.search.language.errors import CursorError

CURRENCY = "USD"
"""In which costs are compared."""
KEPT_SECONDS = 3_600
"""How long a snapshot is kept for later pages."""


def figures_for(
    connection: sqlite3.Connection,
    lake: Lake,
    tenant: str,
    days: Sequence[int],
    last: date,
    given: Mapping[int, str],
) -> dict[int, str]:
    """For each number of days the snapshot that holds the figures of a tenant's models.

    Args:
        last: the last of the days, UTC.
        given: the snapshots of the page before.

    Raises:
        CursorError: a snapshot of the page before is gone.
    """
    found = {}
    for count in days:
        if given:
            found[count] = _kept(connection, tenant, given.get(count, ""))
        else:
            found[count] = _snapshot(connection, lake, tenant, count, last)
    return found


def _kept(connection: sqlite3.Connection, tenant: str, snapshot: str) -> str:
    row = connection.execute("SELECT tenant FROM snapshots WHERE id = ?", (snapshot,)).fetchone()
    if row is None or row[0] != tenant:
        raise CursorError(
            "the costs and latencies that the first page was made with are kept for an hour, and these are gone; "
            "begin anew without the cursor"
        )
    return snapshot


def _snapshot(connection: sqlite3.Connection, lake: Lake, tenant: str, days: int, last: date) -> str:
    from ml_registry_pipelines.costs.queries import cost_by
    from ml_registry_pipelines.costs.summary import SUMMARY_READS
    from ml_registry_pipelines.telemetry.performance import window_statistics
    from ml_registry_pipelines.telemetry.windows import READS

    first, after = last - timedelta(days=days - 1), last + timedelta(days=1)
    tables = tuple(dict.fromkeys((*READS, *SUMMARY_READS)))
    with lake.read(*tables) as reading:
        versions = [reading.version(table) for table in tables]
        text = json.dumps([tenant, days, last.isoformat(), versions])
        snapshot = hashlib.sha256(text.encode()).hexdigest()[:32]
        if connection.execute("SELECT 1 FROM snapshots WHERE id = ?", (snapshot,)).fetchone():
            return snapshot
        costs = cost_by(
            reading, ["model_id"], since=first, until=after, where={"tenant": tenant}, currency=CURRENCY
        )
        groups = window_statistics(
            reading,
            datetime.combine(first, time(), UTC),
            datetime.combine(after, time(), UTC),
            by=["model_id"],
            tenant=tenant,
        ).groups
    amounts: dict[str, Decimal | None] = {}
    for row in costs.select(["model_id", "currency", "cost", "billable_requests"]).to_pylist():
        model = row["model_id"]
        if model is None:
            continue
        # Of an amount without a rate nobody knows what it is here, and so neither what the sum is.
        unknown = row["cost"] is None and row["billable_requests"]
        before = amounts.get(model, Decimal(0))
        amounts[model] = None if unknown or before is None else before + (row["cost"] or Decimal(0))
    rows = {model: [None if cost is None else float(cost), *[None] * 6] for model, cost in amounts.items()}
    for group in groups:
        if group.model_id is not None:
            values = rows.setdefault(group.model_id, [None] * 7)
            values[1:] = [
                group.requests,
                group.errors,
                group.error_rate,
                group.latency.p50,
                group.latency.p95,
                group.latency.p99,
            ]
    _keep(connection, tenant, snapshot, rows)
    return snapshot


def _keep(
    connection: sqlite3.Connection, tenant: str, snapshot: str, rows: Mapping[str, Sequence[object]]
) -> None:
    now = int(clock.time())
    connection.execute("BEGIN IMMEDIATE")
    try:
        old = "SELECT id FROM snapshots WHERE made_at < ?"
        connection.execute(f"DELETE FROM figures WHERE snapshot IN ({old})", (now - KEPT_SECONDS,))
        connection.execute("DELETE FROM snapshots WHERE made_at < ?", (now - KEPT_SECONDS,))
        connection.execute("INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?)", (snapshot, tenant, now))
        connection.executemany(
            "INSERT OR IGNORE INTO figures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(snapshot, model, *values) for model, values in rows.items()],
        )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
