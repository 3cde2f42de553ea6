"""The native record, with its traps: rows worked out by hand from records as the system writes them."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

from ml_registry_pipelines.telemetry.identity import event_key, salted_hash
from tests.telemetry.logs import expected, read, shown

FULL = {
    "event_id": "req-1",
    "ts": "2026-10-31T13:00:00.2504+01:00",
    "attempt": 2,
    "source_system": "gateway",
    "tenant": "acme",
    "application": "support-chat",
    "environment": "production",
    "endpoint": "eu.api.openai.com",
    "provider": " openai ",
    "model": "gpt-4o-2024-08-06",
    "requested_model": "gpt-4o",
    "operation": "chat",
    "kind": "leaf",
    "status": "error_billed",
    "error_type": "timeout",
    "latency_ms": 2350,
    "ttft_ms": "420.5",
    "stream": True,
    "trace_id": "tr-77",
    "parent_id": "sp-1",
    "user_id": "u1",
    "session_id": "s-1",
    "usage": {
        "in_uncached": 176,
        "in_cache_read": 1024,
        "in_cache_write_1h": "7",
        "in_audio": 3.0,
        "out_text": 30,
        "out_reasoning": 8,
        "n_search": 2,
        "pages": 4,
        "audio_seconds": 1.5,
        "total": 1248,
        "unknown": 99,
    },
    "cost": "0.002100000001",
    "currency": "eur",
    "service_tier": "priority",
    "region": "eu",
    "tags": {"team": "search", "n": 1},
    "unknown": [1, 2],
}
FULL_ROW = expected(
    dialect="native",
    file="a.jsonl",
    event_id="req-1",
    event_ts=datetime(2026, 10, 31, 12, 0, 0, 250400, tzinfo=UTC),
    attempt=2,
    source_system="gateway",
    tenant="acme",
    application="support-chat",
    environment="production",
    endpoint="eu.api.openai.com",
    provider="openai",
    model="gpt-4o-2024-08-06",
    requested_model="gpt-4o",
    operation="chat",
    status="error_billed",
    error_type="timeout",
    latency_ms=2350.0,
    ttft_ms=420.5,
    stream=True,
    trace_id="tr-77",
    parent_id="sp-1",
    user_hash=salted_hash("salt", "acme", "u1"),
    session_hash=salted_hash("salt", "acme", "s-1"),
    in_uncached=176,
    in_cache_read=1024,
    in_cache_write_1h=7,
    in_audio=3,
    out_text=30,
    out_reasoning=8,
    n_search=2,
    pages=4,
    audio_seconds=1.5,
    provider_total_tokens=1248,
    logged_cost=Decimal("0.002100000001"),
    logged_currency="EUR",
    service_tier="priority",
    region="eu",
    tags='{"team":"search","n":1}',
)


def test_a_native_record_becomes_a_row_with_all_its_fields():
    found = read([FULL])
    assert found.dialect == "native"
    assert shown(found.row) == FULL_ROW
    assert found.row["event_key"] == event_key("acme", "gateway", "req-1", 2)


def test_a_native_record_may_say_no_more_than_it_must():
    found = read(['{"event_id":"r1","ts":1793448000,"provider":"openai","model":"gpt-4o"}'])
    assert shown(found.row) == expected(
        dialect="native",
        source_system="native",
        file="a.jsonl",
        event_id="r1",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        provider="openai",
        model="gpt-4o",
        operation="chat",
        usage_quality="missing",
    )


def test_the_same_native_record_has_the_same_identity_in_every_format():
    flat = {**FULL, **{f"usage.{name}": value for name, value in FULL["usage"].items()}}  # type: ignore[attr-defined]
    del flat["usage"]
    flat["tags"], flat["unknown"] = json.dumps(FULL["tags"]), ""
    as_csv = io.StringIO()
    import csv

    writer = csv.DictWriter(as_csv, list(flat))
    writer.writeheader()
    writer.writerow(flat)
    as_parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([FULL]), as_parquet)
    rows = [
        read([FULL]).row,
        read(as_csv.getvalue(), "a.csv").row,
        read(as_parquet.getvalue(), "a.parquet").row,
    ]
    assert len({row["event_key"] for row in rows}) == 1
    tags = [json.loads(row.pop("tags")) for row in rows]
    assert tags == [FULL["tags"]] * 3
    for row in rows:
        del row["file"], row["line"]
    assert rows[0] == rows[1] == rows[2]


def test_the_order_of_fields_means_nothing():
    turned = {name: FULL[name] for name in reversed(FULL)}
    turned["usage"] = {name: FULL["usage"][name] for name in reversed(FULL["usage"])}  # type: ignore[call-overload,index]
    turned["tags"] = FULL["tags"]
    assert read([turned]).rows == read([FULL]).rows
