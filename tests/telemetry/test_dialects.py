"""Every log format with its traps: rows worked out by hand from records as each system writes them."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_registry_pipelines.telemetry.decoding import detect
from ml_registry_pipelines.telemetry.dialects import DIALECTS
from ml_registry_pipelines.telemetry.identity import event_key, salted_hash
from ml_registry_pipelines.telemetry.splitting import Limits
from tests.telemetry.logs import WRITTEN, lines, native, read, some

ALWAYS = {
    "tenant": "default",
    "recorded_at": WRITTEN,
    "attempt": 1,
    "source": "tests",
    "line": 1,
    "part": 0,
    "time_quality": "recorded",
    "span_kind": "leaf",
    "status": "success",
    "usage_quality": "exact",
}


def expected(**values: Any) -> dict[str, Any]:
    """A whole row without its keys, from what differs from the usual."""
    row = {**ALWAYS, **values}
    return {**row, "day": row["event_ts"].date()}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in some(row).items() if name != "event_key"}


# -- native ----------------------------------------------------------------------------

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


# -- Azure trace -----------------------------------------------------------------------

AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319999,3180,8
2023-11-16 18:17:04.0319999,3180,8
2023-11-16 18:17:04.0319999,3180,9
"""


def test_an_azure_trace_has_utc_times_and_no_model_whatever_the_source_says():
    found = read(AZURE, "AzureLLMInferenceTrace_code.csv", time_zone="America/New_York")
    assert found.dialect == "azure_trace"
    row = shown(found.rows[0])
    digest, _, ordinal = row.pop("event_id").partition("-")
    assert (len(digest), ordinal) == (32, "1")
    assert row == expected(
        dialect="azure_trace",
        source_system="azure_trace",
        file="AzureLLMInferenceTrace_code.csv",
        line=2,
        event_ts=datetime(2023, 11, 16, 18, 17, 3, 979960, tzinfo=UTC),
        in_uncached=4808,
        out_text=10,
    )
    # Finer than microseconds is cut off, not rounded.
    assert found.rows[1]["event_ts"] == datetime(2023, 11, 16, 18, 17, 4, 31999, tzinfo=UTC)


def test_equal_rows_of_a_file_without_ids_are_all_kept_and_a_resent_file_holds_nothing_new():
    first, again = read(AZURE, "a.csv"), read(AZURE, "b/copy.csv", base_time=WRITTEN - timedelta(days=1))
    assert len(set(first.ids)) == 4
    assert [event_id[-2:] for event_id in first.ids] == ["-1", "-1", "-2", "-1"]
    assert [row["event_key"] for row in first.rows] == [row["event_key"] for row in again.rows]
    assert first.rows[0]["event_key"] == event_key("default", "azure_trace", first.ids[0])


def test_ordinals_survive_chunks_and_being_taken_up_again():
    content = AZURE + AZURE.split("\n", 1)[1] * 3
    at_once = read(content, "a.csv")
    assert len(set(at_once.ids)) == 16
    assert read(content, "a.csv", limits=Limits(chunk_rows=3)).rows == at_once.rows
    later = read(content, "a.csv", limits=Limits(chunk_rows=3), start_after_line=9)
    assert later.rows == at_once.rows[8:]


def test_the_same_trace_as_parquet_or_json_lines_holds_the_same_requests():
    header, *rows = AZURE.splitlines()
    records = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    typed = [
        {
            **record,
            "ContextTokens": int(record["ContextTokens"]),
            "GeneratedTokens": int(record["GeneratedTokens"]),
        }
        for record in records
    ]
    keys = [row["event_key"] for row in read(AZURE, "a.csv").rows]
    assert [row["event_key"] for row in read(typed, "a.jsonl").rows] == keys
    moments = [datetime.fromisoformat(record["TIMESTAMP"][:26]) for record in records]
    table = pa.Table.from_pylist([{**r, "TIMESTAMP": m} for r, m in zip(typed, moments, strict=True)])
    sink = io.BytesIO()
    pq.write_table(table, sink)
    assert [row["event_key"] for row in read(sink.getvalue(), "a.parquet").rows] == keys


# -- LLMPerf ---------------------------------------------------------------------------

LLMPERF = """\
provider,model,request_no,error_code,error_msg,ttft_s,end_to_end_latency_s,inter_token_latency_s,output_tokens_per_s,input_tokens,output_tokens
anyscale,llama-2-13b-chat,0,,,0.5,1.5281514210000182,0.0095,34.02,550,151
bedrock,llama-2-13b-chat,1,429,"Too many requests, wait",0,0,0,0,550,1
bedrock,llama-2-13b-chat,2,-100,Output too few tokens 39,0.25,1.5,1.7,21.9,550,39
"""


def test_llmperf_calls_get_the_base_time_and_latencies_in_milliseconds():
    base = datetime(2024, 1, 2, 3, tzinfo=UTC)
    found = read(LLMPERF, "a.csv", base_time=base)
    assert found.dialect == "llmperf"
    row = shown(found.rows[0])
    row.pop("event_id")
    assert row == expected(
        dialect="llmperf",
        source_system="llmperf",
        file="a.csv",
        line=2,
        time_quality="assumed",
        event_ts=base,
        provider="anyscale",
        model="llama-2-13b-chat",
        operation="chat",
        latency_ms=pytest.approx(1528.1514210000182),
        ttft_ms=500.0,
        in_uncached=550,
        out_text=151,
    )


def test_a_failed_llmperf_call_has_no_latency_where_there_was_no_answer():
    refused, short = read(LLMPERF, "a.csv").rows[1:]
    assert (refused["status"], refused["error_type"]) == ("error_unbilled", "429")
    assert (refused["latency_ms"], refused["ttft_ms"]) == (None, None)
    assert (short["status"], short["error_type"]) == ("error_billed", "-100")
    assert (short["latency_ms"], short["ttft_ms"]) == (1500.0, 250.0)


def test_llmperf_calls_are_the_same_whatever_time_is_assumed():
    one, other = (read(LLMPERF, "a.csv", base_time=WRITTEN - timedelta(days=days)) for days in (1, 2))
    assert one.ids == other.ids


# -- Mooncake --------------------------------------------------------------------------


def test_mooncake_times_count_from_the_base_time_and_no_cache_is_made_up():
    base = datetime(2024, 1, 1, tzinfo=UTC)
    blocks = {"input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
    found = read([{"timestamp": 0, **blocks}, {"timestamp": 1500, **blocks}], base_time=base)
    assert found.dialect == "mooncake"
    assert [row["event_ts"] for row in found.rows] == [base, base + timedelta(seconds=1.5)]
    row = shown(found.rows[1])
    row.pop("event_id")
    assert row == expected(
        dialect="mooncake",
        source_system="mooncake",
        file="a.jsonl",
        line=2,
        time_quality="assumed",
        event_ts=base + timedelta(seconds=1.5),
        operation="chat",
        in_uncached=6758,
        out_text=500,
    )


def test_mooncake_requests_are_told_apart_by_their_blocks():
    same = {"timestamp": 0, "input_length": 10, "output_length": 1}
    found = read([{**same, "hash_ids": [1]}, {**same, "hash_ids": [2]}, {**same, "hash_ids": [1]}])
    assert [event_id[-2:] for event_id in found.ids] == ["-1", "-1", "-2"]


@pytest.mark.parametrize("timestamp", ["soon", None, 1e300, -1e15, True])
def test_a_mooncake_time_that_is_none_is_rejected(timestamp: object):
    records = [{"timestamp": 0, "input_length": 1, "output_length": 1}]
    found = read([*records, {**records[0], "timestamp": timestamp}])
    assert len(found.rows) == 1
    assert found.reject["reason"] in ("wrong_type", "missing_field", "absurd_timestamp")
    assert "`timestamp`" in found.reject["message"]


# -- OpenTelemetry ---------------------------------------------------------------------

SPAN: dict[str, Any] = {
    "traceId": "5b8efff798038103d269b633813fc60c",
    "spanId": "eee19b7ec3c1b174",
    "parentSpanId": "",
    "name": "chat gpt-4o",
    "kind": 3,
    "startTimeUnixNano": "1793448000000000999",
    "endTimeUnixNano": "1793448002350000999",
    "status": {"code": "STATUS_CODE_UNSET"},
}
GENAI: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.response.id": "chatcmpl-123",
    "gen_ai.request.stream": True,
    "gen_ai.response.time_to_first_chunk": 0.42,
    "gen_ai.usage.input_tokens": 1200,
    "gen_ai.usage.cache_read.input_tokens": 1024,
    "gen_ai.usage.output_tokens": 180,
    "gen_ai.usage.reasoning.output_tokens": 30,
    "gen_ai.conversation.id": "conv_5j66",
    "server.address": "api.openai.com",
    "gen_ai.response.finish_reasons": ["stop"],
}


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    def value(held: Any) -> dict[str, Any]:
        match held:
            case bool():
                return {"boolValue": held}
            case int():
                return {"intValue": str(held)}  # as protobuf's JSON writes 64 bits
            case float():
                return {"doubleValue": held}
            case list():
                return {"arrayValue": {"values": [value(item) for item in held]}}
        return {"stringValue": held}

    return [{"key": key, "value": value(held)} for key, held in values.items() if held is not None]


def span(
    number: int = 1, parent: int | None = None, fields: dict[str, Any] | None = None, /, **values: Any
) -> dict[str, Any]:
    """A model call: `values` change its attributes, `fields` the rest."""
    return {
        **SPAN,
        "spanId": f"{number:016x}",
        "parentSpanId": "" if parent is None else f"{parent:016x}",
        **(fields or {}),
        "attributes": attributes({**GENAI, **values}),
    }


def request(*spans: dict[str, Any], **resource: Any) -> dict[str, Any]:
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": attributes(resource)},
                "scopeSpans": [{"scope": {"name": "tests"}, "spans": list(spans)}],
            }
        ]
    }


BARE = {**SPAN, "attributes": attributes(GENAI)}


def test_a_bare_span_becomes_a_row():
    found = read([BARE])
    assert found.dialect == "otel_genai"
    assert shown(found.row) == expected(
        dialect="otel_genai",
        source_system="otel_genai",
        file="a.jsonl",
        event_id="5b8efff798038103d269b633813fc60c/eee19b7ec3c1b174",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        trace_id="5b8efff798038103d269b633813fc60c",
        provider="openai",
        model="gpt-4o-2024-08-06",
        requested_model="gpt-4o",
        operation="chat",
        endpoint="api.openai.com",
        latency_ms=2350.0,
        ttft_ms=420.0,
        stream=True,
        session_hash=salted_hash("salt", "default", "conv_5j66"),
        in_uncached=176,
        in_cache_read=1024,
        out_text=150,
        out_reasoning=30,
        tags='{"response_id":"chatcmpl-123"}',
    )


def test_an_export_request_gives_its_spans_with_what_the_resource_says():
    service = {"service.name": "search-svc", "deployment.environment.name": "prod", "tenant.id": "acme"}
    line = request(span(1), span(2), **service)
    line["resourceSpans"] += request(span(3), **{"service.name": "other"})["resourceSpans"]
    found = read([line, line | {"resourceSpans": []}])
    assert [(row["part"], row["application"], row["environment"]) for row in found.rows] == [
        (0, "search-svc", "prod"),
        (1, "search-svc", "prod"),
        (2, "other", None),
    ]
    assert found.ignored == 1


def test_the_tenant_may_be_an_attribute_of_the_span_or_its_resource():
    line = request(span(1), span(2, **{"tenant.id": "globex"}), **{"tenant.id": "acme"})
    found = read([line, BARE], tenant_field="tenant.id")
    assert [row["tenant"] for row in found.rows] == ["acme", "globex"]
    assert found.reasons == [(2, "missing_tenant")]
    assert "the field tenant.id, which the source names as tenant, is missing" in found.reject["message"]


def test_int64_may_be_numbers_and_values_doubles():
    numbers = copy.deepcopy(BARE)
    numbers["startTimeUnixNano"], numbers["endTimeUnixNano"] = 1793448000000000999, 1793448002350000999
    for attribute in numbers["attributes"]:
        if "intValue" in attribute["value"]:
            attribute["value"] = {"doubleValue": float(attribute["value"]["intValue"])}
    assert read([numbers]).rows == read([BARE]).rows


@pytest.mark.parametrize(
    ("names", "column", "value"),
    [
        (
            [
                "gen_ai.usage.cache_read_input_tokens",
                "gen_ai.usage.input_tokens.cached",
                "gen_ai.usage.cache_read_tokens",
                "llm.token_count.prompt_details.cache_read",
            ],
            "in_cache_read",
            1024,
        ),
        (
            ["gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_write_tokens"],
            "in_cache_write_5m",
            1024,
        ),
    ],
)
def test_what_emitters_call_the_cache_is_understood(names: list[str], column: str, value: int):
    for name in names:
        row = read([span(**{"gen_ai.usage.cache_read.input_tokens": None, name: value})]).row
        assert (row[column], row["in_uncached"], row["usage_quality"]) == (value, 176, "exact")


def test_the_old_names_of_provider_and_tokens_are_understood():
    old = {
        "gen_ai.system": "openai",
        "gen_ai.usage.prompt_tokens": 1200,
        "gen_ai.usage.completion_tokens": 180,
    }
    new = ("gen_ai.provider.name", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    assert read([span(**old, **dict.fromkeys(new))]).rows == read([span()]).rows


def test_more_cached_than_input_tokens_is_taken_as_it_is_and_never_priced():
    row = read([span(**{"gen_ai.usage.input_tokens": 100})]).row
    assert row["usage_quality"] == "inconsistent"
    assert (row["in_uncached"], row["in_cache_read"]) == (100, 1024)


def test_other_modalities_are_taken_out_of_the_sums():
    audio = {"gen_ai.usage.audio.input_tokens": 26, "gen_ai.usage.audio.output_tokens": 50}
    row = read([span(**audio)]).row
    assert (row["in_uncached"], row["in_audio"], row["out_text"], row["out_audio"]) == (150, 26, 100, 50)
    assert row["usage_quality"] == "exact"


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("chat", "leaf"),
        ("embeddings", "leaf"),
        ("text_completion", "leaf"),
        ("generate_content", "leaf"),
        ("invoke_agent", "aggregate"),
        ("create_agent", "aggregate"),
        ("invoke_workflow", "aggregate"),
        ("plan", "aggregate"),
        ("execute_tool", "tool"),
        ("retrieval", "tool"),
        ("search_memory", "tool"),
    ],
)
def test_only_model_calls_are_leaves(operation: str, kind: str):
    row = read([span(**{"gen_ai.operation.name": operation})]).row
    assert (row["operation"], row["span_kind"]) == (operation, kind)


def test_a_span_around_another_one_with_usage_is_an_aggregate():
    found = read(
        [request(span(1), span(2, 1), span(3), span(4, 3, **{"gen_ai.operation.name": "execute_tool"}))]
    )
    assert [row["span_kind"] for row in found.rows] == ["aggregate", "leaf", "leaf", "tool"]


def test_the_inner_span_may_lie_deeper_and_in_an_earlier_line():
    plain = {**SPAN, "spanId": f"{2:016x}", "parentSpanId": f"{1:016x}", "attributes": []}
    found = read([span(3, 2), plain, request(span(5)), span(1)], limits=Limits(chunk_rows=1))
    assert [(row["line"], row["span_kind"]) for row in found.rows] == [
        (1, "leaf"),
        (3, "leaf"),
        (4, "aggregate"),
    ]
    assert found.ignored == 1


def test_spans_that_enclose_each_other_end():
    found = read([request(span(1, 2), span(2, 1), span(3, 3))])
    assert [row["span_kind"] for row in found.rows] == ["aggregate", "aggregate", "leaf"]


def test_equal_span_ids_of_other_traces_are_not_kin():
    other = span(2, 1, {"traceId": "f" * 32})
    assert [row["span_kind"] for row in read([request(span(1), other)]).rows] == ["leaf", "leaf"]


@pytest.mark.parametrize(
    ("fields", "values", "status", "error"),
    [
        ({"status": {"code": 2}}, {}, "error_billed", "error"),
        ({"status": {"code": "STATUS_CODE_ERROR"}}, {"error.type": "500"}, "error_billed", "500"),
        (
            {},
            {
                "error.type": "timeout",
                "gen_ai.usage.input_tokens": None,
                "gen_ai.usage.output_tokens": None,
                "gen_ai.usage.cache_read.input_tokens": None,
                "gen_ai.usage.reasoning.output_tokens": None,
            },
            "error_unbilled",
            "timeout",
        ),
        ({}, {"error.type": "asyncio.CancelledError"}, "cancelled_billed", "asyncio.CancelledError"),
        ({"status": {"code": 1}}, {}, "success", None),
    ],
)
def test_a_failed_call_is_billed_where_it_used_tokens(
    fields: dict[str, Any], values: dict[str, Any], status: str, error: str | None
):
    row = read([span(1, None, fields, **values)]).row
    assert (row["status"], row["error_type"]) == (status, error)


@pytest.mark.parametrize(
    "record",
    [
        {**SPAN, "attributes": attributes({"http.request.method": "GET", "server.address": "x"})},
        {**SPAN},
        {"resourceSpans": [{"scopeSpans": []}]},
        {"resourceSpans": [{}]},
        {"resourceMetrics": [{"scopeMetrics": []}]},
        {"resourceLogs": []},
    ],
)
def test_what_is_about_something_else_is_counted_as_ignored(record: dict[str, Any]):
    found = read([BARE, record])
    assert (len(found.rows), found.rejected, found.ignored) == (1, [], 1)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"hello": "world"}, "missing_field"),
        ({**BARE, "spanId": ""}, "missing_field"),
        ({**BARE, "startTimeUnixNano": "0"}, "absurd_timestamp"),
        ({**BARE, "startTimeUnixNano": "then"}, "bad_timestamp"),
        ({**BARE, "endTimeUnixNano": "1793447999000000000"}, "negative_latency"),
        (span(1, **{"gen_ai.usage.input_tokens": -5}), "negative_count"),
        ({"resourceSpans": 5}, "missing_field"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [5, None]}]}]}, "not_an_object"),
    ],
)
def test_a_span_that_cannot_be_taken_is_rejected(record: dict[str, Any], reason: str):
    found = read([BARE, record])
    assert len(found.rows) == 1
    assert found.reasons[0] == (2, reason)


def test_a_rejected_span_stands_alone_without_bodies_and_can_be_replayed():
    secret = {"gen_ai.input.messages": "SECRET", "gen_ai.usage.input_tokens": -1}
    events = {"events": [{"name": "gen_ai.user.message", "attributes": attributes({"content": "SECRET"})}]}
    found = read([request(span(1), span(2, None, events, **secret), **{"service.name": "svc"})])
    assert (found.reject["line"], found.reject["part"], found.reject["reason"]) == (1, 1, "negative_count")
    assert "`gen_ai.usage.input_tokens` is -1" in found.reject["message"]
    assert "SECRET" not in found.reject["raw"]
    again = read([found.reject["raw"].replace('"-1"', '"2000"')])
    assert (again.row["application"], again.row["in_uncached"]) == ("svc", 976)


def test_open_inference_names_are_understood():
    record = {
        **SPAN,
        "attributes": attributes(
            {
                "openinference.span.kind": "LLM",
                "llm.model_name": "gpt-4o",
                "llm.provider": "openai",
                "llm.token_count.prompt": 1200,
                "llm.token_count.prompt_details.cache_read": 1024,
                "llm.token_count.completion": 38,
                "llm.token_count.total": 1238,
                "llm.cost.total": 0.0021,
            }
        ),
    }
    row = read([record]).row
    assert (row["operation"], row["span_kind"], row["model"], row["provider"]) == (
        "chat",
        "leaf",
        "gpt-4o",
        "openai",
    )
    assert (row["in_uncached"], row["in_cache_read"], row["out_text"], row["usage_quality"]) == (
        176,
        1024,
        38,
        "exact",
    )
    assert (row["logged_cost"], row["logged_currency"]) == (Decimal("0.0021"), "USD")


# -- LiteLLM ---------------------------------------------------------------------------

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


@pytest.mark.parametrize("hit", [False, "False", "", None])
def test_an_answer_from_the_provider_is_no_cache_hit(hit: object):
    assert read([payload(cache_hit=hit)]).row["status"] == "success"


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


def otel_span(**counts: object) -> dict[str, Any]:
    given = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
    }
    attributes = [{"key": key, "value": {"stringValue": text}} for key, text in given.items()]
    attributes += [{"key": key, "value": {"intValue": str(count)}} for key, count in counts.items()]
    times = {"startTimeUnixNano": "1793448000000000000", "endTimeUnixNano": "1793448001000000000"}
    return {"traceId": "5b8efff7", "spanId": "eee19b7e", "attributes": attributes, **times}


@pytest.mark.parametrize(
    ("read_count", "quality"), [(0, "inconsistent"), (100, "inconsistent"), (1024, "exact")]
)
def test_where_two_names_of_a_spans_count_differ_the_row_is_inconsistent(read_count: int, quality: str):
    counts = {
        "gen_ai.usage.input_tokens": 1200,
        "gen_ai.usage.output_tokens": 30,
        "gen_ai.usage.cache_read.input_tokens": read_count,
        "gen_ai.usage.cache_read_input_tokens": 1024,
    }
    row = read([otel_span(**counts)]).row
    assert (row["in_cache_read"], row["usage_quality"]) == (read_count, quality)


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


@pytest.mark.parametrize(
    ("call_type", "operation"),
    [
        ("completion", "chat"),
        ("aresponses", "chat"),
        ("aembedding", "embeddings"),
        ("atext_completion", "text_completion"),
        ("arerank", "arerank"),
    ],
)
def test_call_types_become_operations(call_type: str, operation: str):
    assert read([payload(call_type=call_type)]).row["operation"] == operation


# -- recognition -----------------------------------------------------------------------

EXAMPLES = {
    "native": [native()],
    "azure_trace": [dict.fromkeys(("TIMESTAMP", "ContextTokens", "GeneratedTokens"), "1")],
    "llmperf": [dict(zip(LLMPERF.split("\n")[0].split(","), LLMPERF.split("\n")[1].split(","), strict=True))],
    "mooncake": [{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": []}],
    "otel_genai": [BARE, request(span())],
    "litellm": [PAYLOAD],
}


def test_every_dialect_is_recognised_by_itself_alone():
    assert set(EXAMPLES) == set(DIALECTS)
    for name, records in EXAMPLES.items():
        for record in records:
            assert [d.name for d in DIALECTS.values() if d.recognises(record)] == [name]


def test_a_few_broken_lines_do_not_hide_a_dialect():
    assert read(["oops", "{}", "[1]", *[native(number) for number in range(3)]]).dialect == "native"


def test_a_file_of_no_known_dialect_is_one_reject_that_names_those_there_are():
    found = read([{"hello": "world"}] * 3, "odd.jsonl", tenant="acme")
    assert found.dialect is None
    assert found.reject == {
        "line": 0,
        "part": 0,
        "reason": "unknown_dialect",
        "message": "odd.jsonl: its records are of no known dialect (known are native, azure_trace, llmperf, mooncake,"
        " otel_genai, litellm); set the source's dialect, or write one",
        "raw": '{"hello": "world"}\n' * 3,
        "tenant": "acme",
    }
    assert found.digest == hashlib.sha256(lines([{"hello": "world"}] * 3).encode()).hexdigest()


def test_a_file_that_is_half_one_dialect_and_half_another_is_none():
    assert detect([json.dumps(native()), json.dumps(PAYLOAD)]) is None
    assert detect([json.dumps(native()), json.dumps(PAYLOAD), json.dumps(native(2))]) is DIALECTS["native"]


def test_a_forced_dialect_is_not_asked_whether_it_recognises_anything():
    found = read([PAYLOAD, {"hello": "world"}], dialect="native")
    assert found.dialect == "native"
    assert found.reasons == [(1, "missing_field"), (2, "missing_field")]


def test_lines_of_another_format_in_a_recognised_file_are_rejected_one_by_one():
    found = read([native(1), native(2), PAYLOAD, native(3)])
    assert found.ids == ["r1", "r2", "r3"]
    assert found.reasons == [(3, "missing_field")]
    assert found.reject["message"] == "line 3: `event_id` is missing; `ts` is missing; `provider` is missing"
