"""LiteLLM standard logging payloads, with its traps: rows worked out by hand from records as the system writes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.telemetry.identity import salted_hash
from tests.telemetry.logs import expected, read, shown

PAYLOAD: dict[str, Any] = {
    "id": "chatcmpl-9x",
    "trace_id": "tr-77",
    "session_id": "s-1",
    "litellm_call_id": "0f6c7f6a",
    "call_type": "acompletion",
    "stream": True,
    "response_cost": 0.0021,
    "cost_breakdown": {"input_cost": 0.00044, "total_cost": 0.0021, "service_tier": "priority"},
    "status": "success",
    "custom_llm_provider": "openai",
    "total_tokens": 1238,
    "prompt_tokens": 1200,
    "completion_tokens": 38,
    "startTime": 1793448000.0,
    "endTime": 1793448002.35,
    "completionStartTime": 1793448000.42,
    "response_time": 2.35,
    "model": "gpt-4o",
    "model_id": "dep-1",
    "model_group": "prod-chat",
    "api_base": "https://user:key@api.openai.com/v1?x=1",
    "metadata": {
        "user_api_key_hash": "88dc28",
        "user_api_key_alias": "search-svc",
        "user_api_key_team_id": "team-a",
        "user_api_key_org_id": "org-1",
        "user_api_key_end_user_id": "cust-9",
        "usage_object": {
            "prompt_tokens": 1200,
            "completion_tokens": 38,
            "prompt_tokens_details": {"cached_tokens": 1024},
            "completion_tokens_details": {"reasoning_tokens": 8},
        },
    },
    "cache_hit": False,
    "request_tags": ["ab:variant_b"],
    "end_user": "cust-9",
    "messages": [{"role": "user", "content": "SECRET"}],
    "response": {"choices": []},
    "error_str": None,
    "error_information": None,
}


def payload(**fields: Any) -> dict[str, Any]:
    return {**PAYLOAD, **fields}


def usage(**fields: Any) -> dict[str, Any]:
    return {**PAYLOAD["metadata"], "usage_object": fields}


def test_a_litellm_payload_becomes_a_row():
    found = read([PAYLOAD])
    assert found.dialect == "litellm"
    row = shown(found.row)
    assert json.loads(row.pop("tags")) == {
        "team": "team-a",
        "org": "org-1",
        "deployment": "dep-1",
        "call_id": "0f6c7f6a",
        "request_tags": ["ab:variant_b"],
    }
    assert row == expected(
        dialect="litellm",
        source_system="litellm",
        file="a.jsonl",
        event_id="chatcmpl-9x",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        application="search-svc",
        endpoint="api.openai.com",
        provider="openai",
        model="gpt-4o",
        requested_model="prod-chat",
        operation="chat",
        latency_ms=2350.0,
        ttft_ms=420.0,
        stream=True,
        trace_id="tr-77",
        user_hash=salted_hash("salt", "default", "cust-9"),
        session_hash=salted_hash("salt", "default", "s-1"),
        in_uncached=176,
        in_cache_read=1024,
        out_text=30,
        out_reasoning=8,
        provider_total_tokens=1238,
        logged_cost=Decimal("0.0021"),
        logged_currency="USD",
        service_tier="priority",
    )


@pytest.mark.parametrize("hit", [True, "True", "true"])
def test_an_answer_from_the_gateways_cache_keeps_its_tokens_and_is_a_cache_hit(hit: object):
    row = read([payload(cache_hit=hit, response_cost=0)]).row
    assert (row["status"], row["in_uncached"], row["logged_cost"]) == ("cache_hit", 176, Decimal(0))


def test_an_answer_from_the_provider_is_no_cache_hit():
    found = read([payload(id=f"a{n}", cache_hit=hit) for n, hit in enumerate([False, "False", "", None])])
    assert [row["status"] for row in found.rows] == ["success"] * 4


NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "response_cost": 0, "metadata": {}}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (NO_USAGE, "error_unbilled"),
        ({**NO_USAGE, "response_cost": None}, "error_unbilled"),
        ({**NO_USAGE, "response_cost": 0.01}, "error_billed"),
        ({}, "error_billed"),
    ],
)
def test_a_failed_call_costs_where_tokens_or_cost_say_so(fields: dict[str, Any], status: str):
    error = {"error_class": "RateLimitError", "error_code": "429", "llm_provider": "openai"}
    row = read([payload(status="failure", error_information=error, **fields)]).row
    assert (row["status"], row["error_type"]) == (status, "RateLimitError")


def test_retries_share_a_trace_and_are_records_of_their_own():
    first, second = read([payload(id="a", status="failure", **NO_USAGE), payload(id="b")]).rows
    assert first["trace_id"] == second["trace_id"]
    assert first["event_key"] != second["event_key"]


def test_cache_writes_are_told_apart_by_their_time():
    details = {"cached_tokens": 1000, "cache_creation_tokens": 150}
    short = read([payload(metadata=usage(prompt_tokens_details=details))]).row
    assert (short["in_uncached"], short["in_cache_read"], short["in_cache_write_5m"]) == (50, 1000, 150)
    split = {"ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 100}
    both = read(
        [payload(metadata=usage(prompt_tokens_details={**details, "cache_creation_token_details": split}))]
    ).row
    assert (both["in_uncached"], both["in_cache_write_5m"], both["in_cache_write_1h"]) == (50, 50, 100)
    flat = usage(cache_read_input_tokens=1000, cache_creation_input_tokens=150)
    assert shown(read([payload(metadata=flat)]).row) == shown(short)


@pytest.mark.parametrize(
    ("total", "parts", "written", "quality"),
    [
        (3000, {"1h": 2000}, (1000, 2000), "exact"),
        (3000, {"5m": 1000}, (1000, 2000), "exact"),
        (2000, {"5m": 2000}, (2000, None), "exact"),
        (1000, {"1h": 2000}, (0, 2000), "inconsistent"),
        (1000, {"5m": 2000}, (2000, None), "inconsistent"),
        (3000, {"5m": 500, "1h": 2000}, (500, 2000), "inconsistent"),
        (None, {"1h": 2000}, (None, 2000), "exact"),
    ],
)
def test_a_cache_write_whose_time_is_half_known_loses_no_token(
    total: int | None, parts: dict[str, int], written: tuple[int | None, int | None], quality: str
):
    split = {f"ephemeral_{time}_input_tokens": count for time, count in parts.items()}
    details = {"cache_creation_tokens": total, "cache_creation_token_details": split}
    metadata = usage(prompt_tokens_details=details)
    row = read([payload(prompt_tokens=9000, total_tokens=9038, metadata=metadata)]).row
    assert (row["in_cache_write_5m"], row["in_cache_write_1h"]) == written
    assert row["usage_quality"] == quality
    assert row["in_uncached"] == 9000 - sum(count or 0 for count in written)


@pytest.mark.parametrize(("nested", "flat"), [(0, 5000), (5000, 0), (999, 5000), ("999", "5000")])
def test_where_litellm_gives_two_counts_for_the_same_the_row_is_inconsistent(
    nested: int | str, flat: int | str
):
    for details, other, bucket in (
        ("cached_tokens", "cache_read_input_tokens", "in_cache_read"),
        ("cache_creation_tokens", "cache_creation_input_tokens", "in_cache_write_5m"),
    ):
        metadata = usage(prompt_tokens_details={details: nested}, **{other: flat})
        row = read([payload(prompt_tokens=9000, total_tokens=9038, metadata=metadata)]).row
        assert (row[bucket], row["usage_quality"]) == (int(nested), "inconsistent")


def test_the_same_count_in_both_places_of_a_litellm_payload_is_exact():
    metadata = usage(prompt_tokens_details={"cached_tokens": 1000}, cache_read_input_tokens=1000)
    row = read([payload(metadata=metadata)]).row
    assert (row["in_cache_read"], row["usage_quality"]) == (1000, "exact")


def test_a_count_that_is_none_is_complained_about_whatever_the_other_place_says():
    metadata = usage(prompt_tokens_details={"cached_tokens": "many"}, cache_read_input_tokens=1000)
    assert read([payload(metadata=metadata)]).reject["reason"] == "wrong_type"


def test_more_parts_than_the_sum_make_a_litellm_row_inconsistent():
    row = read([payload(metadata=usage(prompt_tokens_details={"cached_tokens": 5000}))]).row
    assert row["usage_quality"] == "inconsistent"
    assert read([payload(total_tokens=9999)]).row["usage_quality"] == "inconsistent"


def test_the_tenant_of_a_litellm_payload_may_be_its_organisation():
    assert read([PAYLOAD], tenant_field="metadata.user_api_key_org_id").row["tenant"] == "org-1"
    assert read([PAYLOAD]).row["tenant"] == "default"


def test_bodies_of_a_rejected_payload_are_not_kept():
    found = read([PAYLOAD, payload(total_tokens="many", error_str="SECRET")])
    assert found.reasons == [(2, "wrong_type")]
    assert "`total_tokens` is many" in found.reject["message"]
    assert "SECRET" not in json.dumps(found.reject)


def test_call_types_become_operations():
    operations = {
        "completion": "chat",
        "aresponses": "chat",
        "aembedding": "embeddings",
        "atext_completion": "text_completion",
        "arerank": "arerank",
    }
    found = read([payload(id=call_type, call_type=call_type) for call_type in operations])
    assert [row["operation"] for row in found.rows] == list(operations.values())


def test_one_count_in_two_spellings_of_the_same_number_is_consistent():
    usage = {"cache_read_input_tokens": 80, "prompt_tokens_details": {"cached_tokens": 80.0}}
    same = payload(metadata={"usage_object": usage})
    other = payload(metadata={"usage_object": {**usage, "cache_read_input_tokens": 81}})
    assert [row["usage_quality"] for row in read([same, other]).rows] == ["exact", "inconsistent"]
