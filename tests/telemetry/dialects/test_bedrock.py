"""Bedrock invocation logs, with their traps: rows worked out by hand from records as the service writes them."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

from ml_registry_pipelines.telemetry.identity import salted_hash
from tests.telemetry.logs import expected, read, shown

ARN = "arn:aws:sts::123456789012:assumed-role/app/session"
CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"
CONVERSE: dict[str, Any] = {
    "schemaType": "ModelInvocationLog",
    "schemaVersion": "1.0",
    "timestamp": "2026-10-31T12:00:00Z",
    "accountId": "123456789012",
    "identity": {"arn": ARN},
    "region": "us-east-1",
    "requestId": "req-1",
    "operation": "ConverseStream",
    "modelId": f"us.{CLAUDE}",
    "inferenceRegion": "us-west-2",
    "requestMetadata": {"team": "a", "variant": "b"},
    "input": {
        "inputContentType": "application/json",
        "inputBodyJson": {"messages": [{"role": "user", "content": "SECRET"}]},
        "inputTokenCount": 176,
    },
    "output": {
        "outputContentType": "application/json",
        "outputBodyJson": {
            "output": {"message": {"content": "SECRET"}},
            "usage": {
                "inputTokens": 176,
                "outputTokens": 38,
                "totalTokens": 1238,
                "cacheReadInputTokens": 1024,
                "cacheWriteInputTokens": 0,
            },
            "metrics": {"latencyMs": 2350},
        },
        "outputTokenCount": 38,
    },
}


def log(usage: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    made = copy.deepcopy({**CONVERSE, **fields})
    if usage is not None:
        made["output"]["outputBodyJson"]["usage"].update(usage)
    return made


def answered(body: object, /, *, counts: tuple[Any, Any] = (176, 38), **fields: Any) -> dict[str, Any]:
    given = {"inputTokenCount": counts[0]}, {"outputTokenCount": counts[1], "outputBodyJson": body}
    return {**CONVERSE, "input": given[0], "output": given[1], **fields}


def test_a_converse_call_becomes_a_row_with_its_cache_beside_the_input():
    row = shown(read([CONVERSE]).row)
    assert json.loads(row.pop("tags")) == {
        "team": "a",
        "variant": "b",
        "account": "123456789012",
        "inference_region": "us-west-2",
    }
    assert row == expected(
        dialect="bedrock_invocations",
        source_system="bedrock_invocations",
        file="a.jsonl",
        event_id="req-1",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        provider="aws",
        model=f"us.{CLAUDE}",
        requested_model=f"us.{CLAUDE}",
        operation="chat",
        latency_ms=2350.0,
        stream=True,
        user_hash=salted_hash("salt", "default", ARN),
        in_uncached=176,
        in_cache_read=1024,
        in_cache_write_5m=0,
        out_text=38,
        provider_total_tokens=1238,
        region="us-east-1",
    )


def test_a_total_without_the_cache_contradicts_the_counts():
    assert read([log({"totalTokens": 214})]).row["usage_quality"] == "inconsistent"


def test_counts_of_log_and_answer_that_differ_are_not_priced():
    assert read([log({"inputTokens": 1200, "totalTokens": 2262})]).row["usage_quality"] == "inconsistent"
    assert read([log({"inputTokens": "176"})]).row["usage_quality"] == "exact"


def test_cache_writes_are_told_apart_by_their_time():
    details = [{"ttl": "1h", "inputTokens": 300}, {"ttl": "5m", "inputTokens": 200}]
    row = read([log({"cacheWriteInputTokens": 500, "totalTokens": 1738, "cacheDetails": details})]).row
    assert (row["in_cache_write_5m"], row["in_cache_write_1h"], row["usage_quality"]) == (200, 300, "exact")
    wrong = read([log({"cacheWriteInputTokens": 100, "totalTokens": 1338, "cacheDetails": details})]).row
    assert wrong["usage_quality"] == "inconsistent"


def test_claudes_own_operation_has_its_usage_in_snake_case():
    usage = {
        "input_tokens": 176,
        "cache_creation_input_tokens": 500,
        "cache_read_input_tokens": 1024,
        "output_tokens": 38,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
    }
    body = {"id": "msg_bdrk_1", "model": "claude-sonnet-4-5-20250929", "usage": usage, "content": "SECRET"}
    row = read([answered(body, operation="InvokeModel")]).row
    assert (row["in_uncached"], row["in_cache_read"], row["out_text"]) == (176, 1024, 38)
    assert (row["in_cache_write_5m"], row["in_cache_write_1h"], row["stream"]) == (200, 300, False)
    assert row["latency_ms"] is None


def test_a_stream_is_a_list_of_pieces_of_which_the_last_has_the_metrics():
    metrics = {
        "inputTokenCount": 176, "outputTokenCount": 38, "invocationLatency": 2350, "firstByteLatency": 420,
        "cacheReadInputTokenCount": 1024,
    }  # fmt: skip
    pieces = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 176, "output_tokens": 1}}},
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics},
    ]
    row = read([answered(pieces, operation="InvokeModelWithResponseStream")]).row
    assert (row["latency_ms"], row["ttft_ms"], row["stream"]) == (2350.0, 420.0, True)
    assert (row["in_uncached"], row["in_cache_read"], row["out_text"]) == (176, 1024, 38)
    assert row["in_cache_write_1h"] is None
    ends = [{"contentBlockDelta": {}}, {"metadata": CONVERSE["output"]["outputBodyJson"]}]
    row = read([answered(ends)]).row
    assert (row["latency_ms"], row["in_cache_read"], row["provider_total_tokens"]) == (2350.0, 1024, 1238)


def test_the_first_piece_of_a_stream_tells_cache_writes_apart_and_names_the_model():
    # A write for an hour costs 1.6 times one for five minutes, and the metrics at the end sum both up.
    began = {
        "input_tokens": 176,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
    }
    metrics = {"inputTokenCount": 176, "outputTokenCount": 38, "cacheWriteInputTokenCount": 500}
    pieces = [
        {"type": "message_start", "message": {"model": "claude-sonnet-4-5-20250929", "usage": began}},
        {"type": "message_delta", "usage": {"output_tokens": 38}},
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics},
    ]
    profile = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/xyz"
    row = read([answered(pieces, operation="InvokeModelWithResponseStream", modelId=profile)]).row
    assert (row["in_cache_write_5m"], row["in_cache_write_1h"], row["usage_quality"]) == (200, 300, "exact")
    assert row["model"] == "claude-sonnet-4-5-20250929"


def test_without_a_body_the_logs_own_counts_are_enough():
    bare = {**CONVERSE, "output": {"outputTokenCount": "38", "outputBodyS3Path": "s3://x/y"}}
    bare["input"] = {
        "inputTokenCount": "176",
        "cacheReadInputTokenCount": "1024",
        "cacheWriteInputTokenCount": "0",
    }
    row = read([bare]).row
    assert (row["in_uncached"], row["in_cache_read"], row["out_text"]) == (176, 1024, 38)
    assert (row["latency_ms"], row["usage_quality"]) == (None, "exact")


PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/xyz"


PROFILES: list[tuple[str, str | None, str]] = [
    (CLAUDE, None, CLAUDE),
    (f"arn:aws:bedrock:us-east-1::foundation-model/{CLAUDE}", None, CLAUDE),
    (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{CLAUDE}", None, f"us.{CLAUDE}"),
    (PROFILE, None, PROFILE),
    (PROFILE, "claude-sonnet-4-5-20250929", "claude-sonnet-4-5-20250929"),
]


def test_a_profile_is_followed_to_its_model_where_the_log_says_it():
    rows = read(
        [
            answered({"model": answer, "usage": {"input_tokens": 176}}, modelId=model_id, requestId=f"r{n}")
            for n, (model_id, answer, _) in enumerate(PROFILES)
        ]
    ).rows
    assert [(row["requested_model"], row["model"]) for row in rows] == [
        (asked, model) for asked, _, model in PROFILES
    ]


def test_a_failed_call_is_billed_where_it_used_tokens():
    throttled = answered(None, counts=(None, None), requestId="a", errorCode="ThrottlingException")
    broken = answered(None, requestId="b", errorCode="ModelStreamErrorException")
    assert [(row["status"], row["error_type"]) for row in read([throttled, broken]).rows] == [
        ("error_unbilled", "ThrottlingException"),
        ("error_billed", "ModelStreamErrorException"),
    ]


METADATA: list[object] = [None, "plain", {}, [1]]


def test_metadata_of_another_kind_hurts_nothing():
    rows = read(
        [log(requestMetadata=metadata, requestId=f"r{n}") for n, metadata in enumerate(METADATA)]
    ).rows
    for row in rows:
        assert json.loads(row["tags"]) == {"account": "123456789012", "inference_region": "us-west-2"}


def test_embeddings_have_no_output():
    row = read(
        [answered({}, counts=(8, None), modelId="amazon.titan-embed-text-v2:0", operation="InvokeModel")]
    ).row
    assert (row["operation"], row["in_uncached"], row["out_text"]) == ("embeddings", 8, None)


def test_a_rejected_log_keeps_its_counts_and_not_its_bodies():
    wrong = copy.deepcopy(CONVERSE)
    wrong["output"]["outputTokenCount"] = "many"
    reject = read([wrong]).reject
    assert "`outputTokenCount` is many" in reject["message"]
    assert "SECRET" not in reject["raw"]
    again = read([reject["raw"].replace('"many"', "38")]).row
    assert (again["in_cache_read"], again["latency_ms"], again["usage_quality"]) == (1024, 2350.0, "exact")
