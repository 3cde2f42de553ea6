"""Answers of Google Gemini, with their traps: rows worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.telemetry.logs import expected, read, shown

USAGE: dict[str, Any] = {
    "promptTokenCount": 1200,
    "cachedContentTokenCount": 1024,
    "candidatesTokenCount": 38,
    "thoughtsTokenCount": 100,
    "toolUsePromptTokenCount": 50,
    "totalTokenCount": 1388,
    "trafficType": "ON_DEMAND",
}
ANSWER: dict[str, Any] = {
    "candidates": [{"content": {"parts": [{"text": "SECRET"}]}, "finishReason": "STOP"}],
    "usageMetadata": USAGE,
    "modelVersion": "gemini-2.5-flash",
    "createTime": "2026-10-31T12:00:00.123456Z",
    "responseId": "g-1",
}
SNAKE: dict[str, Any] = {
    "usage_metadata": {
        "prompt_token_count": 1200,
        "cached_content_token_count": 1024,
        "candidates_token_count": 38,
        "thoughts_token_count": 100,
        "tool_use_prompt_token_count": 50,
        "total_token_count": 1388,
        "traffic_type": "ON_DEMAND",
    },
    "model_version": "gemini-2.5-flash",
    "create_time": "2026-10-31T12:00:00.123456Z",
    "response_id": "g-1",
}


def answer(usage: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {**ANSWER, "usageMetadata": {**USAGE, **(usage or {})}, **fields}


def details(**counts: int) -> list[dict[str, Any]]:
    return [{"modality": name.upper(), "tokenCount": count} for name, count in counts.items()]


def test_an_answer_becomes_a_row_with_tools_besides_the_prompt_and_thoughts_besides_the_output():
    assert shown(read([ANSWER]).row) == expected(
        dialect="gemini_api",
        source_system="gemini_api",
        file="a.jsonl",
        event_id="g-1",
        event_ts=datetime(2026, 10, 31, 12, 0, 0, 123456, tzinfo=UTC),
        provider="google",
        model="gemini-2.5-flash",
        operation="chat",
        in_uncached=226,  # 1200 - 1024 + 50
        in_cache_read=1024,
        out_text=38,
        out_reasoning=100,
        provider_total_tokens=1388,
        service_tier="standard",
    )


def test_snake_case_says_the_same():
    assert read([SNAKE]).rows == read([ANSWER]).rows


def test_modalities_are_parts_of_the_counts_and_cached_ones_are_counted_once():
    usage = {
        "promptTokensDetails": details(text=500, audio=300, image=258, video=142),
        "cacheTokensDetails": details(text=500, audio=200, image=258, video=66),
        "toolUsePromptTokensDetails": details(text=40, audio=10),
        "candidatesTokensDetails": details(text=8, audio=30),
    }
    row = read([answer(usage)]).row
    # Cached 1024 = 500 text and 66 video, 200 audio, 258 image.
    assert (row["in_cache_read"], row["in_cache_read_audio"], row["in_cache_read_image"]) == (566, 200, 258)
    assert (row["in_audio"], row["in_image"], row["in_video"], row["in_uncached"]) == (110, 0, 76, 40)
    assert (row["out_text"], row["out_audio"], row["out_reasoning"]) == (8, 30, 100)
    assert row["usage_quality"] == "exact"


CONTRADICTIONS: list[dict[str, Any]] = [
    {"totalTokenCount": 1238},
    {"cachedContentTokenCount": 1300},
    {"cacheTokensDetails": details(audio=9), "promptTokensDetails": details(audio=3)},
    {"candidatesTokensDetails": details(audio=39)},
    {"cacheTokensDetails": details(audio=1025), "promptTokensDetails": details(audio=1025)},
]


def test_counts_that_contradict_each_other_are_not_priced():
    rows = read([answer(usage, responseId=f"g{n}") for n, usage in enumerate(CONTRADICTIONS)]).rows
    assert [row["usage_quality"] for row in rows] == ["inconsistent"] * len(CONTRADICTIONS)


def test_zero_counts_that_the_api_leaves_out_are_no_contradiction():
    row = read([{**ANSWER, "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7}}]).row
    assert (row["in_uncached"], row["out_text"], row["usage_quality"]) == (7, None, "exact")


TIERS: list[tuple[dict[str, Any], str | None]] = [
    ({"trafficType": "PROVISIONED_THROUGHPUT"}, "provisioned_throughput"),
    ({"trafficType": "ON_DEMAND_PRIORITY"}, "priority"),
    ({"trafficType": "ON_DEMAND_FLEX"}, "flex"),
    ({"trafficType": None, "serviceTier": "priority"}, "priority"),
    ({"trafficType": None}, None),
]


def test_traffic_is_a_tier():
    rows = read([answer(fields, responseId=f"g{n}") for n, (fields, _) in enumerate(TIERS)]).rows
    assert [row["service_tier"] for row in rows] == [tier for _, tier in TIERS]


def test_lines_of_a_batch_are_priced_as_a_batch():
    untimed = {name: value for name, value in ANSWER.items() if name != "createTime"}
    gemini, vertex = (
        {"key": "k-1", "response": untimed},
        {"processed_time": "x", "response": ANSWER, "request": {}},
    )
    rows = read([gemini, vertex]).rows
    assert [(row["service_tier"], row["time_quality"]) for row in rows] == [
        ("batch", "assumed"),
        ("batch", "recorded"),
    ]
    failed = read([gemini, {"key": "k-2", "error": {"code": 400, "status": "INVALID_ARGUMENT"}}]).rows[1]
    assert (failed["status"], failed["error_type"], failed["event_id"]) == ("error_unbilled", "400", "k-2")


def test_what_a_client_logs_around_the_answer_is_taken_too():
    untimed = {name: value for name, value in ANSWER.items() if name not in ("createTime", "responseId")}
    row = read([{"id": "r1", "timestamp": "1793448000123456789", "latency_ms": 812, "response": untimed}]).row
    assert (row["event_id"], row["latency_ms"], row["time_quality"]) == ("r1", 812.0, "recorded")
    assert row["event_ts"] == datetime(2026, 10, 31, 12, 0, 0, 123456, tzinfo=UTC)


def test_an_answer_without_any_id_is_complained_about():
    without = {name: value for name, value in ANSWER.items() if name != "responseId"}
    reject = read([without]).reject
    assert reject["message"] == "line 1: `responseId` is missing"
    assert "SECRET" not in reject["raw"]


def test_a_negative_part_of_a_sum_is_complained_about():
    usage = {"toolUsePromptTokenCount": -50, "totalTokenCount": 1288}
    assert read([answer(usage)]).reject["reason"] == "negative_count"


def test_a_count_that_is_none_is_complained_about_wherever_it_stands():
    for usage in ({"promptTokenCount": "many"}, {"toolUsePromptTokenCount": "many"}):
        assert "is many: not a whole number" in read([answer(usage)]).reject["message"]
    wrong = answer({"candidatesTokenCount": "many"})
    reject = read([{"key": "k", "response": wrong}]).reject
    assert "SECRET" not in reject["raw"]
    assert read([reject["raw"].replace('"many"', "38")]).row["out_text"] == 38
