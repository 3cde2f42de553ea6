"""Answers of the OpenAI API, with their traps: rows worked out by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from ml_registry_pipelines.telemetry.identity import salted_hash
from tests.telemetry.logs import WRITTEN, expected, read, shown

USAGE: dict[str, Any] = {
    "prompt_tokens": 1200,
    "completion_tokens": 38,
    "total_tokens": 1238,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 8,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 5,
    },
}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-9x",
    "object": "chat.completion",
    "created": 1793448000,
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "message": {"content": "SECRET"}, "finish_reason": "stop"}],
    "usage": USAGE,
    "service_tier": "default",
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1793448000.0,
    "status": "completed",
    "error": None,
    "model": "gpt-5.2",
    "output": [
        {"type": "web_search_call", "action": {"type": "search"}},
        {"type": "web_search_call", "action": {"type": "open_page"}},
        {"type": "file_search_call"},
        {"type": "message", "content": "SECRET"},
    ],
    "conversation": {"id": "conv-1"},
    "safety_identifier": "u1",
    "metadata": {"team": "a", "user_id": "u2"},
    "service_tier": "priority",
    "usage": {
        "input_tokens": 1200,
        "input_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 100},
        "output_tokens": 180,
        "output_tokens_details": {"reasoning_tokens": 128},
        "total_tokens": 1380,
    },
}


def chat(usage: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {**CHAT, "usage": {**USAGE, **(usage or {})}, **fields}


def batch_line(body: dict[str, Any], status: int = 200, **fields: Any) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "r1", "body": body}
    return {"id": "batch_req_1", "custom_id": "row-7", "response": response, "error": None, **fields}


def test_a_chat_completion_becomes_a_row_with_parts_taken_out_of_its_sums():
    assert shown(read([CHAT]).row) == expected(
        dialect="openai_api",
        source_system="openai_api",
        file="a.jsonl",
        event_id="chatcmpl-9x",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        provider="openai",
        model="gpt-4o-2024-08-06",
        operation="chat",
        in_uncached=176,
        in_cache_read=1024,
        in_audio=0,
        out_text=30,
        out_reasoning=8,
        out_audio=0,
        provider_total_tokens=1238,
        service_tier="default",
    )


def test_a_response_becomes_a_row_with_its_searches_and_its_cache_writes():
    row = shown(read([RESPONSE]).row)
    assert row.pop("tags") == '{"team":"a"}'
    assert row == expected(
        dialect="openai_api",
        source_system="openai_api",
        file="a.jsonl",
        event_id="resp_1",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        provider="openai",
        model="gpt-5.2",
        operation="chat",
        user_hash=salted_hash("salt", "default", "u1"),
        session_hash=salted_hash("salt", "default", "conv-1"),
        in_uncached=100,
        in_cache_read=1000,
        in_cache_write_5m=100,
        out_text=52,
        out_reasoning=128,
        n_search=1,
        n_tool=1,
        provider_total_tokens=1380,
        service_tier="priority",
    )


def test_rejected_predictions_stay_in_the_output_that_is_billed():
    details = {"rejected_prediction_tokens": 30, "accepted_prediction_tokens": 8}
    assert read([chat({"completion_tokens_details": details})]).row["out_text"] == 38


def test_audio_from_the_cache_is_counted_once():
    details = {
        "cached_tokens": 800, "audio_tokens": 500, "image_tokens": 100,
        "cached_tokens_details": {"audio_tokens": 300, "image_tokens": 100},
    }  # fmt: skip
    out = {"audio_tokens": 20, "reasoning_tokens": 0}
    row = read([chat({"prompt_tokens_details": details, "completion_tokens_details": out})]).row
    # 1200 = 400 text and 300 audio and 100 image from the cache, 200 other audio, 200 other text.
    assert (row["in_cache_read"], row["in_cache_read_audio"], row["in_cache_read_image"]) == (400, 300, 100)
    assert (row["in_audio"], row["in_image"], row["in_uncached"]) == (200, 0, 200)
    assert (row["out_text"], row["out_audio"], row["usage_quality"]) == (18, 20, "exact")


CONTRADICTIONS: list[dict[str, Any]] = [
    {"total_tokens": 2262},
    {"prompt_tokens_details": {"cached_tokens": 1201}},
    {"completion_tokens_details": {"reasoning_tokens": 39}},
    {"prompt_tokens_details": {"cached_tokens": 10, "cached_tokens_details": {"audio_tokens": 11}}},
    {"prompt_cache_hit_tokens": 7},
    {"input_tokens": 7},
]


def test_counts_that_contradict_each_other_are_not_priced():
    rows = read([chat(usage, id=f"c{n}") for n, usage in enumerate(CONTRADICTIONS)]).rows
    assert [row["usage_quality"] for row in rows] == ["inconsistent"] * len(CONTRADICTIONS)


def test_a_stream_whose_usage_was_not_asked_for_is_missing_it():
    row = read([{**CHAT, "usage": None}]).row
    assert (row["usage_quality"], row["status"], row["out_text"]) == ("missing", "success", None)


def test_pieces_of_a_stream_are_told_apart_from_answers():
    chunk = chat(object="chat.completion.chunk")
    assert read([chunk]).reject["reason"] == "unknown_dialect"
    found = read([CHAT, chunk, {**RESPONSE, "status": "in_progress", "usage": None}])
    assert [line for line, _ in found.reasons] == [2, 3]
    assert [reject["message"] for reject in found.rejected] == [
        (
            "line 2: `object` is chat.completion.chunk, a piece of a stream; log the whole answer,"
            " asked for with stream_options.include_usage"
        ),
        "line 3: `status` is in_progress; log a response once it has ended",
    ]


OUTCOMES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"status": "incomplete"}, "success", None),
    ({"status": "failed", "error": {"code": "server_error"}}, "error_billed", "server_error"),
    (
        {"status": "failed", "error": {"code": "rate_limit"}, "usage": None},
        "error_unbilled",
        "rate_limit",
    ),
    ({"status": "failed", "error": None, "usage": None}, "error_unbilled", "failed"),
    ({"status": "cancelled"}, "cancelled_billed", "cancelled"),
    ({"status": "cancelled", "usage": None}, "cancelled_billed", "cancelled"),
]


def test_what_became_of_a_response():
    rows = read([{**RESPONSE, "id": f"r{n}", **fields} for n, (fields, *_) in enumerate(OUTCOMES)]).rows
    assert [(row["status"], row["error_type"]) for row in rows] == [
        (status, error) for _, status, error in OUTCOMES
    ]


def test_the_output_of_a_batch_is_priced_as_a_batch():
    row = read([batch_line(CHAT)]).row
    assert (row["event_id"], row["service_tier"], row["tags"]) == (
        "chatcmpl-9x",
        "batch",
        '{"custom_id":"row-7"}',
    )
    assert (row["in_uncached"], row["in_cache_read"], row["time_quality"]) == (176, 1024, "recorded")


def test_an_error_in_a_batch_has_no_time_and_costs_nothing():
    row = read([batch_line({"error": {"code": "invalid_value", "message": "SECRET"}}, 400)]).row
    assert (row["event_id"], row["status"], row["error_type"]) == (
        "batch_req_1",
        "error_unbilled",
        "invalid_value",
    )
    assert (row["time_quality"], row["event_ts"]) == ("assumed", WRITTEN)


def test_what_a_client_logs_around_the_answer_is_taken_too():
    around = {
        "timestamp": "2026-10-31T11:59:59.5Z",
        "latency_ms": 812.5,
        "ttft_ms": 200,
        "stream": True,
        "user_id": "u1",
    }
    for wrapped in ({"response": CHAT, **around}, {"body": CHAT, **around}):
        row = read([wrapped]).row
        assert (row["latency_ms"], row["ttft_ms"], row["stream"]) == (812.5, 200.0, True)
        assert (row["event_ts"].isoformat(), row["in_uncached"]) == ("2026-10-31T12:00:00+00:00", 176)
        assert row["user_hash"] == salted_hash("salt", "default", "u1")


def test_embeddings_have_their_id_and_time_from_around_them():
    answer = {"object": "list", "data": [{"embedding": [0.1]}], "model": "text-embedding-3-small",
              "usage": {"prompt_tokens": 8, "total_tokens": 8}}  # fmt: skip
    row = read([{"id": "e1", "timestamp": 1793448000123, "response": answer}]).row
    assert (row["operation"], row["in_uncached"], row["out_text"]) == ("embeddings", 8, None)
    assert (row["event_id"], row["event_ts"].microsecond, row["usage_quality"]) == ("e1", 123000, "exact")


def test_who_answers_in_this_format_may_be_another_provider():
    routed = chat({"cost": 0.0021}, provider="Groq", object="chat.completion")
    row = read([routed]).row
    assert (row["provider"], row["logged_cost"]) == ("Groq", Decimal("0.0021"))
    deepseek = {
        "prompt_tokens_details": None,
        "prompt_cache_hit_tokens": 1024,
        "prompt_cache_miss_tokens": 176,
    }
    assert read([chat(deepseek)]).row["in_cache_read"] == 1024


def test_epochs_in_seconds_milliseconds_and_nanoseconds_are_the_same_moment():
    for given in (1793448000, 1793448000000, "1793448000000000000", "2026-10-31T13:00:00+01:00"):
        assert read([chat(created=given)]).row["event_ts"] == datetime(2026, 10, 31, 12, tzinfo=UTC)


def test_a_time_that_is_none_is_complained_about_and_not_assumed():
    assert read([chat(created="then")]).reject["reason"] == "bad_timestamp"
    assert read([chat(created=5)]).reject["reason"] == "absurd_timestamp"


def test_a_rejected_answer_keeps_its_usage_and_not_its_bodies():
    for wrapped in (chat({"prompt_tokens": "many"}), batch_line(chat({"prompt_tokens": "many"}))):
        reject = read([CHAT, wrapped]).reject
        assert "`prompt_tokens` is many" in reject["message"]
        assert "SECRET" not in reject["raw"]
        assert read([reject["raw"].replace('"many"', "1200")]).row["in_uncached"] == 176


def test_answers_may_come_as_a_list_over_several_lines():
    assert read(json.dumps([CHAT, chat(id="b")], indent=1), "a.json").ids == ["chatcmpl-9x", "b"]
