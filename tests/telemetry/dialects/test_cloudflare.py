"""Cloudflare AI Gateway logs, with their traps: rows worked out by hand from records as the API lists them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from ml_registry_pipelines.telemetry.identity import salted_hash
from tests.telemetry.logs import expected, read, shown

LOG: dict[str, Any] = {
    "id": "01HF8ZQ2ZK6V8",
    "provider": "openai",
    "model": "gpt-4o-mini",
    "model_type": "text-generation",
    "path": "chat/completions",
    "request_type": "chat",
    "request_content_type": "application/json",
    "response_content_type": "text/event-stream; charset=utf-8",
    "status_code": 200,
    "success": True,
    "cached": False,
    "tokens_in": 1200,
    "tokens_out": 38,
    "cost": 0.0002,
    "custom_cost": False,
    "duration": 2350,
    "step": 0,
    "metadata": '{"team":"a","user":"u1","variant":"b"}',
    "created_at": "2026-10-31T12:00:00Z",
}


def log(**fields: Any) -> dict[str, Any]:
    return {**LOG, **fields}


def test_a_log_of_the_gateway_becomes_a_row():
    found = read([LOG])
    row = shown(found.row)
    assert json.loads(row.pop("tags")) == {"team": "a", "variant": "b"}
    assert row == expected(
        dialect="cloudflare_ai_gateway",
        source_system="cloudflare_ai_gateway",
        file="a.jsonl",
        event_id="01HF8ZQ2ZK6V8",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        provider="openai",
        model="gpt-4o-mini",
        operation="chat",
        latency_ms=2350.0,
        stream=True,
        user_hash=salted_hash("salt", "default", "u1"),
        in_uncached=1200,
        out_text=38,
        logged_cost=Decimal("0.0002"),
        logged_currency="USD",
    )


def test_an_answer_from_the_gateways_cache_keeps_its_tokens_and_costs_nothing():
    for hit in (True, "true"):
        row = read([log(cached=hit, cost=0)]).row
        assert (row["status"], row["in_uncached"], row["logged_cost"]) == ("cache_hit", 1200, Decimal(0))


OUTCOMES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"success": False, "status_code": 500}, "error_billed", "500"),
    ({"success": False, "status_code": 429, "tokens_in": 0, "tokens_out": 0}, "error_unbilled", "429"),
    (
        {"success": False, "status_code": 429, "tokens_in": None, "tokens_out": None},
        "error_unbilled",
        "429",
    ),
    ({"success": False, "status_code": 499}, "cancelled_billed", "499"),
    ({"success": None, "status_code": 503, "tokens_in": 0, "tokens_out": 0}, "error_unbilled", "503"),
    ({"success": None}, "success", None),
]


def test_a_failed_call_is_billed_where_it_used_tokens():
    rows = read([log(id=f"r{n}", **fields) for n, (fields, *_) in enumerate(OUTCOMES)]).rows
    assert [(row["status"], row["error_type"]) for row in rows] == [
        (status, error) for _, status, error in OUTCOMES
    ]


def test_fallbacks_are_attempts_of_their_own():
    rows = read(
        [log(step=0, success=False, status_code=500), log(id="01B", step=1, provider="anthropic")]
    ).rows
    assert [(row["attempt"], row["provider"], row["status"]) for row in rows] == [
        (1, "openai", "error_billed"),
        (2, "anthropic", "success"),
    ]


def test_a_stream_without_tokens_is_missing_its_usage_and_never_free():
    row = read([log(tokens_in=None, tokens_out=None, cost=None)]).row
    assert (row["usage_quality"], row["in_uncached"], row["logged_cost"]) == ("missing", None, None)


def test_a_page_of_the_api_is_as_many_records_as_it_lists():
    listing = {"result": [LOG, log(id="01B"), log(id="01C", tokens_in="many")], "success": True}
    found = read(json.dumps(listing, indent=1), "a.json")
    assert (found.dialect, found.ids) == ("cloudflare_ai_gateway", ["01HF8ZQ2ZK6V8", "01B"])
    assert [(row["line"], row["part"]) for row in found.rows] == [(1, 0), (1, 1)]
    assert (found.reject["part"], found.reject["reason"]) == (2, "wrong_type")
    assert "`tokens_in` is many" in found.reject["message"]
    assert read([found.reject["raw"].replace('"many"', "7")]).row["in_uncached"] == 7
    empty = read([LOG, {"result": [], "success": True}])
    assert (len(empty.rows), empty.ignored, empty.rejected) == (1, 1, [])


def test_the_tenant_may_be_in_the_metadata_whether_that_is_text_or_an_object():
    for metadata in ('{"team":"a"}', {"team": "a"}):
        assert read([log(metadata=metadata)], tenant_field="metadata.team").row["tenant"] == "a"
    assert read([log(metadata="{}")], tenant_field="metadata.team").reject["reason"] == "missing_tenant"


NOTHING: list[str | None] = [None, "", "plain", "[1]", '{"key":"x","iv":"y","data":"z"}', "{}"]


def test_metadata_that_says_nothing_makes_no_tags():
    rows = read([log(id=f"l{n}", metadata=metadata) for n, metadata in enumerate(NOTHING)]).rows
    assert [row["tags"] for row in rows] == [None] * len(NOTHING)


def test_counts_may_be_texts_and_times_numbers():
    row = read([log(tokens_in="1200", created_at=1793448000123)]).row
    assert (row["in_uncached"], row["event_ts"].isoformat()) == (1200, "2026-10-31T12:00:00.123000+00:00")


def test_what_was_asked_for_is_told_by_type_and_path():
    logs = [
        log(id="1", request_type="embedding"),
        log(id="2", request_type=None, path="v1/embeddings"),
        log(id="3", request_type="completion"),
        log(id="4", request_type=None),
    ]
    assert [row["operation"] for row in read(logs).rows] == [
        "embeddings", "embeddings", "text_completion", "chat",
    ]  # fmt: skip
