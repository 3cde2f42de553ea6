"""Helicone exports, with their traps: rows worked out by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from ml_registry_pipelines.telemetry.identity import salted_hash
from tests.telemetry.logs import expected, read, shown

REQUEST: dict[str, Any] = {
    "request_id": "7b5c",
    "response_id": "8c6d",
    "request_created_at": "2026-10-31T12:00:00.000Z",
    "response_created_at": "2026-10-31T12:00:02.350Z",
    "response_status": 200,
    "request_model": "gpt-4o",
    "response_model": "gpt-4o-2024-08-06",
    "model_override": None,
    "provider": "OPENAI",
    "request_path": "/v1/chat/completions",
    "request_user_id": "cust-9",
    "request_properties": {"Helicone-Session-Id": "s-1", "variant": "b"},
    "delay_ms": 2350,
    "time_to_first_token": 420,
    "total_tokens": 1238,
    "prompt_tokens": 1200,
    "prompt_cache_read_tokens": 1024,
    "prompt_cache_write_tokens": 0,
    "completion_tokens": 38,
    "prompt_audio_tokens": None,
    "completion_audio_tokens": None,
    "country_code": "US",
    "scores": {"accuracy": 1},
    "costUSD": 0.0021,
}
STORED: dict[str, Any] = {
    "request_id": "7b5c",
    "request_created_at": "2026-10-31 12:00:00.000",
    "response_created_at": "2026-10-31 12:00:02.350",
    "organization_id": "o-1",
    "status": "200",
    "model": "gpt-4o-2024-08-06",
    "provider": "OPENAI",
    "target_url": "https://api.openai.com/v1/chat/completions",
    "user_id": "cust-9",
    "properties": {"variant": "b"},
    "latency": "2350",
    "time_to_first_token": "420",
    "prompt_tokens": "1200",
    "completion_tokens": "38",
    "cost": "2100000",
}
"""A row of the table, whose integers of 64 bits are texts."""


def request(**fields: Any) -> dict[str, Any]:
    return {**REQUEST, **fields}


def test_a_request_of_the_api_becomes_a_row():
    row = shown(read([REQUEST]).row)
    assert json.loads(row.pop("tags")) == {"variant": "b", "country": "US"}
    assert row == expected(
        dialect="helicone",
        source_system="helicone",
        file="a.jsonl",
        event_id="7b5c",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        provider="openai",
        model="gpt-4o-2024-08-06",
        requested_model="gpt-4o",
        operation="chat",
        latency_ms=2350.0,
        ttft_ms=420.0,
        user_hash=salted_hash("salt", "default", "cust-9"),
        session_hash=salted_hash("salt", "default", "s-1"),
        in_uncached=176,
        in_cache_read=1024,
        in_cache_write_5m=0,
        out_text=38,
        provider_total_tokens=1238,
        logged_cost=Decimal("0.0021"),
        logged_currency="USD",
    )


def test_a_row_of_the_table_has_its_cost_in_billionths():
    row = read([STORED]).row
    assert (row["logged_cost"], row["latency_ms"], row["ttft_ms"]) == (Decimal("0.0021"), 2350.0, 420.0)
    assert (row["endpoint"], row["in_uncached"], row["out_text"]) == ("api.openai.com", 1200, 38)
    assert read([{**STORED, "cost": "1"}]).row["logged_cost"] == Decimal("0.000000001")
    assert read([{**STORED, "cost": None}]).row["logged_cost"] is None


def test_a_cost_without_its_unit_is_left_out():
    assert read([request(costUSD=None, cost=2100000)]).row["logged_cost"] is None


COUNTED: list[tuple[str, int, int | None, int, str]] = [
    # 1200 in all, of which 1000 read and 100 written.
    ("OPENAI", 1200, 1238, 100, "exact"),
    # 100 besides the 1100 of the cache, and the total counts them too.
    ("ANTHROPIC", 100, 1238, 100, "exact"),
    ("OPENAI", 100, 1238, 100, "exact"),
    # Anthropic's own count leaves the cache out, the total as well: whether 1200 is all, nobody can tell.
    ("ANTHROPIC", 1200, 1238, 100, "inconsistent"),
    ("AWS", 1200, 1238, 100, "inconsistent"),
    # The total fits neither way.
    ("OPENAI", 1200, 5000, 100, "inconsistent"),
    ("OPENAI", 1200, None, 100, "inconsistent"),
    # More from the cache than in all.
    ("OPENAI", 50, 88, 50, "inconsistent"),
]


def test_whether_the_prompt_counts_cached_tokens_is_told_by_the_total():
    cached = {"prompt_cache_read_tokens": 1000, "prompt_cache_write_tokens": 100}
    rows = read(
        [
            request(request_id=f"r{n}", provider=provider, prompt_tokens=prompt, total_tokens=total, **cached)
            for n, (provider, prompt, total, *_) in enumerate(COUNTED)
        ]
    ).rows
    for row, (*case, uncached, quality) in zip(rows, COUNTED, strict=True):
        assert (row["usage_quality"], row["in_uncached"]) == (quality, uncached), case
        assert (row["in_cache_read"], row["in_cache_write_5m"], row["out_text"]) == (1000, 100, 38)


def test_without_cached_tokens_there_is_nothing_to_tell():
    for provider in ("OPENAI", "ANTHROPIC"):
        row = read([request(provider=provider, prompt_cache_read_tokens=0)]).row
        assert (row["in_uncached"], row["usage_quality"]) == (1200, "exact")


NONE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "prompt_cache_read_tokens": 0}


OUTCOMES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"response_status": 500}, "error_billed", "500"),
    ({"response_status": 429, **NONE}, "error_unbilled", "429"),
    ({"response_status": -3}, "cancelled_billed", "-3"),
    ({"response_status": -3, **NONE}, "error_unbilled", "-3"),
    ({"response_status": 499}, "cancelled_billed", "499"),
    ({"cache_reference_id": "11111111-0000-4000-8000-000000000000"}, "cache_hit", None),
    ({"cache_reference_id": "00000000-0000-0000-0000-000000000000"}, "success", None),
]


def test_who_is_billed():
    rows = read([request(request_id=f"r{n}", **fields) for n, (fields, *_) in enumerate(OUTCOMES)]).rows
    assert [(row["status"], row["error_type"]) for row in rows] == [
        (status, error) for _, status, error in OUTCOMES
    ]


def test_a_page_of_the_api_is_as_many_records_as_it_lists():
    found = read(json.dumps({"data": [REQUEST, request(request_id="b")], "error": None}), "a.json")
    assert found.ids == ["7b5c", "b"]
    assert read([REQUEST, {"data": [], "error": None}]).ignored == 1
