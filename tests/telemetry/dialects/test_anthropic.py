"""Messages of the Anthropic API, with their traps: rows worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.telemetry.logs import WRITTEN, expected, read, shown

USAGE: dict[str, Any] = {
    "input_tokens": 5,
    "cache_creation_input_tokens": 1253,
    "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 253},
    "cache_read_input_tokens": 128955,
    "output_tokens": 412,
    "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
    "service_tier": "standard",
    "inference_geo": "us",
    "speed": "standard",
}
MESSAGE: dict[str, Any] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "SECRET"}],
    "stop_reason": "end_turn",
    "usage": USAGE,
}
ERROR: dict[str, Any] = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded"},
    "request_id": "req_1",
}
AT = "2026-10-31T12:00:00Z"


def message(usage: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {**MESSAGE, "usage": {**USAGE, **(usage or {})}, **fields}


def logged(held: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"timestamp": AT, "response": held, **fields}


def batch_line(outcome: str, **result: Any) -> dict[str, Any]:
    return {"custom_id": "row-7", "result": {"type": outcome, **result}}


def test_a_message_becomes_a_row_whose_input_is_the_sum_of_three():
    row = shown(read([logged(MESSAGE, latency_ms=2350, ttft_ms=420)]).row)
    assert row == expected(
        dialect="anthropic_api",
        source_system="anthropic_api",
        file="a.jsonl",
        event_id="msg_01",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        provider="anthropic",
        model="claude-sonnet-4-5-20250929",
        operation="chat",
        latency_ms=2350.0,
        ttft_ms=420.0,
        in_uncached=5,
        in_cache_read=128955,
        in_cache_write_5m=1000,
        in_cache_write_1h=253,
        out_text=412,
        n_search=1,
        service_tier="standard",
        region="us",
    )


def test_a_message_has_no_time_of_its_own_so_one_is_assumed_and_marked():
    row = read([MESSAGE]).row
    assert (row["event_ts"], row["time_quality"]) == (WRITTEN, "assumed")
    mixed = read([logged(MESSAGE), message(id="msg_02")]).rows
    assert [row["time_quality"] for row in mixed] == ["recorded", "assumed"]


def test_thinking_is_within_the_output():
    row = read([message({"output_tokens_details": {"thinking_tokens": 400}})]).row
    assert (row["out_text"], row["out_reasoning"], row["usage_quality"]) == (12, 400, "exact")


WRITES: list[tuple[int | None, dict[str, int] | None, tuple[int, int | None], str]] = [
    (1253, None, (1253, None), "exact"),
    (1253, {"ephemeral_1h_input_tokens": 253}, (1000, 253), "exact"),
    (1253, {"ephemeral_5m_input_tokens": 1000}, (1000, 253), "exact"),
    (None, {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 253}, (1000, 253), "exact"),
    (900, {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 0}, (1000, 0), "inconsistent"),
    (
        2000,
        {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 253},
        (1000, 253),
        "inconsistent",
    ),
]


def test_cache_writes_are_told_apart_by_their_time():
    rows = read(
        [
            message({"cache_creation_input_tokens": written, "cache_creation": split}, id=f"m{n}")
            for n, (written, split, *_) in enumerate(WRITES)
        ]
    ).rows
    for row, (*case, buckets, quality) in zip(rows, WRITES, strict=True):
        assert (row["in_cache_write_5m"], row["in_cache_write_1h"]) == buckets, case
        assert row["usage_quality"] == quality, case


COMPACTION = {"type": "compaction", "input_tokens": 180000, "output_tokens": 3500,
              "cache_read_input_tokens": 7, "cache_creation_input_tokens": 0}  # fmt: skip
STEP = {"type": "message", "input_tokens": 23000, "output_tokens": 1000,
        "cache_read_input_tokens": 3, "cache_creation_input_tokens": 50,
        "cache_creation": {"ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 0}}  # fmt: skip


def test_what_a_compaction_took_is_counted_besides_the_sums_that_leave_it_out():
    usage = {**STEP, "iterations": [COMPACTION, STEP]}
    row = read([message(usage)]).row
    assert (row["in_uncached"], row["out_text"], row["in_cache_read"]) == (203000, 4500, 10)
    assert (row["in_cache_write_5m"], row["in_cache_write_1h"], row["usage_quality"]) == (50, 0, "exact")


MISCOUNTS = ["many", -1, 1.5]


def test_a_compaction_that_cannot_be_counted_is_not_priced():
    broken = [{**STEP, "iterations": [{**COMPACTION, "input_tokens": count}, STEP]} for count in MISCOUNTS]
    rows = read([message(usage, id=f"m{n}") for n, usage in enumerate(broken)]).rows
    assert [row["usage_quality"] for row in rows] == ["inconsistent"] * 3


def test_steps_of_a_tool_loop_are_in_the_sums_already():
    row = read(
        [message({**STEP, "iterations": [{**STEP, "input_tokens": 11000}, {**STEP, "input_tokens": 12000}]})]
    ).row
    assert (row["in_uncached"], row["usage_quality"]) == (23000, "exact")


def test_usage_of_two_models_in_one_message_is_not_priced_as_one():
    advice = {
        "type": "advisor_message",
        "model": "claude-opus-4-6",
        "input_tokens": 900,
        "output_tokens": 100,
    }
    assert read([message({"iterations": [STEP, advice]})]).row["usage_quality"] == "inconsistent"


def test_a_message_that_was_broken_off_is_billed_for_what_it_had_used():
    row = read([message({"output_tokens": 1}, stop_reason=None)]).row
    assert (row["status"], row["error_type"]) == ("cancelled_billed", "aborted")
    assert (row["in_uncached"], row["in_cache_read"], row["out_text"]) == (5, 128955, 1)
    plain = {"id": "a", "model": "claude-sonnet-4-5", "usage": USAGE}
    assert read([plain]).row["status"] == "success"


def test_events_of_a_stream_are_refused_because_they_hold_a_part_of_the_usage():
    start = {"type": "message_start", "message": message({"output_tokens": 1}, stop_reason=None)}
    delta = {"type": "message_delta", "usage": {"output_tokens": 412}}
    assert read([start, delta]).reject["reason"] == "unknown_dialect"
    found = read([MESSAGE, start, delta])
    assert (found.ids, [line for line, _ in found.reasons]) == (["msg_01"], [2, 3])
    assert (
        "`type` is message_start, an event of a stream; log the whole message" in found.rejected[0]["message"]
    )


@pytest.mark.parametrize(
    ("line", "status", "error", "event_id"),
    [
        (batch_line("succeeded", message=message({"service_tier": "batch"})), "success", None, "msg_01"),
        (
            batch_line("errored", error={"type": "error", "error": {"type": "invalid_request_error"}}),
            "error_unbilled", "invalid_request_error", "row-7",
        ),
        (batch_line("expired"), "error_unbilled", "expired", "row-7"),
        (batch_line("canceled"), "error_unbilled", "canceled", "row-7"),
    ],
)  # fmt: skip
def test_results_of_a_batch_are_priced_as_a_batch(
    line: dict[str, Any], status: str, error: str | None, event_id: str
):
    row = read([line]).row
    assert (row["status"], row["error_type"], row["event_id"]) == (status, error, event_id)
    assert row["service_tier"] == "batch"


def test_an_error_costs_nothing():
    row = read([ERROR, {"timestamp": AT, **ERROR, "request_id": "req_2"}]).rows[1]
    assert (row["status"], row["error_type"], row["event_id"]) == (
        "error_unbilled",
        "overloaded_error",
        "req_2",
    )


def test_the_fast_mode_is_a_tier():
    assert read([message({"speed": "fast"})]).row["service_tier"] == "fast"


def test_messages_through_a_cloud_are_the_clouds():
    rows = read([message(id=f"msg_{cloud}_1") for cloud in ("bdrk", "vrtx")]).rows
    assert [row["provider"] for row in rows] == ["aws", "google"]


def test_an_unknown_geography_is_no_region():
    assert read([message({"inference_geo": "not_available"})]).row["region"] is None


def test_counts_that_are_none_are_complained_about():
    assert (
        "`cache_read_input_tokens` is many"
        in read([message({"cache_read_input_tokens": "many"})]).reject["message"]
    )
    reject = read([message({"input_tokens": -5})]).reject
    assert reject["reason"] == "negative_count"
    assert "SECRET" not in reject["raw"]
    assert read([reject["raw"].replace("-5", "5")]).row["in_uncached"] == 5


def test_the_same_message_again_is_the_same_attempt_wherever_it_stands():
    first, second = read([logged(MESSAGE), MESSAGE]).rows
    assert first["event_key"] == second["event_key"]
