"""Rows of inference_events made for tests, without going through log files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    import pyarrow as pa

_NUMBERS = count(1)


def event(ts: datetime, **given: object) -> dict[str, object]:
    """One row: a successful chat of `acme` with `gpt-4o`, unless said otherwise; without `batch`."""
    event_id = str(given.get("event_id", f"made-{next(_NUMBERS)}"))
    key = int.from_bytes(sha256(event_id.encode()).digest()[:8], "big", signed=True)
    return {
        "tenant": "acme", "day": ts.date(), "event_ts": ts, "recorded_at": datetime(2026, 11, 1, tzinfo=UTC),
        "event_key": key, "source_system": "native", "event_id": event_id, "attempt": 1,
        "source": "landing", "file": "made.jsonl", "line": 1, "part": 0, "dialect": "native",
        "time_quality": "recorded", "provider": "openai", "model": "gpt-4o", "operation": "chat",
        "span_kind": "leaf", "status": "success", "latency_ms": 800.0, "ttft_ms": 200.0,
        "in_uncached": 100, "out_text": 20, "usage_quality": "exact",
    } | given  # fmt: skip


def land(lake: Lake, events: Iterable[Mapping[str, object]]) -> int:
    """Take the rows as the next batch of ingestion; its number."""
    import pyarrow as pa

    batch = lake.sequence("inference_events", "ingestion") + 1
    rows = [{**row, "batch": batch} for row in events]
    table: pa.Table = pa.Table.from_pylist(rows, schema=TABLES["inference_events"].schema)
    lake.append_once("inference_events", table, source="ingestion", sequence=batch)
    return batch
