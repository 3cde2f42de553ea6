"""Dialects: what each format's records become, worked out by hand from the formats' specifications."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ml_registry_pipelines.lake.tables.telemetry import TOKEN_BUCKETS
from tests.telemetry.logs import read


def buckets(row: dict[str, Any]) -> dict[str, int]:
    return {name: row[name] for name in TOKEN_BUCKETS if row[name]}


def native(**fields: Any) -> dict[str, Any]:
    return {"event_id": "r1", "ts": "2026-10-31T12:00:00Z", "provider": "openai", "model": "gpt-4o", **fields}


# -- native ----------------------------------------------------------------------------


def test_a_native_record_becomes_a_row():
    row = read(
        [
            native(
                tenant="acme", latency_ms=812.5, ttft_ms=40, stream=True, attempt=2, application="search",
                usage={"in_uncached": 176, "in_cache_read": 1024, "out_text": 38, "total": 1238},
                cost="0.0021", tags={"variant": "b"},
            )
        ]
    ).row  # fmt: skip
    assert buckets(row) == {"in_uncached": 176, "in_cache_read": 1024, "out_text": 38}
    assert row["event_ts"] == datetime(2026, 10, 31, 12, tzinfo=UTC)
    assert (row["tenant"], row["attempt"], row["latency_ms"], row["ttft_ms"]) == ("acme", 2, 812.5, 40)
    assert (row["status"], row["span_kind"], row["usage_quality"]) == ("success", "leaf", "exact")
    assert (str(row["logged_cost"]), row["logged_currency"]) == ("0.002100000000", "USD")
    assert json.loads(row["tags"]) == {"variant": "b"}


@pytest.mark.parametrize(
    ("moment", "instant"),
    [
        ("2026-10-31T12:00:00Z", "2026-10-31T12:00:00+00:00"),
        ("2026-10-31T12:00:00.1234567Z", "2026-10-31T12:00:00.123456+00:00"),
        ("2026-10-31T14:00:00+02:00", "2026-10-31T12:00:00+00:00"),
        ("2026-10-31 12:00:00", "2026-10-31T11:00:00+00:00"),
        (1793448000, "2026-10-31T12:00:00+00:00"),
        (1793448000123, "2026-10-31T12:00:00.123000+00:00"),
        (1793448000123456, "2026-10-31T12:00:00.123456+00:00"),
        ("1793448000123456789", "2026-10-31T12:00:00.123456+00:00"),
    ],
)
def test_a_time_is_read_in_every_unit_and_zone(moment, instant):
    row = read([native(ts=moment)], time_zone="Europe/Berlin").row
    assert row["event_ts"].isoformat() == instant


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"usage": {"in_uncached": -1}}, "negative_count"),
        ({"usage": {"in_uncached": 12.7}}, "wrong_type"),
        ({"usage": {"in_uncached": "12abc"}}, "wrong_type"),
        ({"usage": {"in_uncached": 10**12}}, "absurd_count"),
        ({"ts": "yesterday"}, "bad_timestamp"),
        ({"ts": "1999-01-01T00:00:00Z"}, "absurd_timestamp"),
        ({"ts": "2199-01-01T00:00:00Z"}, "absurd_timestamp"),
        ({"event_id": None}, "missing_field"),
        ({"status": "perhaps"}, "unknown_status"),
        ({"attempt": 0}, None),
        ({"latency_ms": -1}, None),
        ({"tenant": "a\u0000b"}, None),
    ],
)
def test_a_native_record_that_cannot_be_taken_says_why(wrong, reason):
    reject = read([native(**wrong)], dialect="native").reject
    assert reject["line"] == 1
    if reason is not None:
        assert reject["reason"] == reason
    assert "line 1" in reject["message"]
    assert "\n" not in reject["message"]


def test_a_whole_number_may_come_as_text_or_with_a_zero_fraction():
    row = read([native(usage={"in_uncached": "1200", "out_text": 12.0})]).row
    assert buckets(row) == {"in_uncached": 1200, "out_text": 12}


def test_buckets_that_are_not_the_total_make_the_row_inconsistent_and_keep_it():
    assert read([native(usage={"in_uncached": 10, "total": 11})]).row["usage_quality"] == "inconsistent"
    assert read([native()]).row["usage_quality"] == "missing"


# -- Azure, LLMPerf, Mooncake ------------------------------------------------------------


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"


def test_the_azure_trace_is_utc_with_seven_decimals():
    found = read(AZURE, "trace.csv", time_zone="Asia/Tokyo")
    assert found.dialect == "azure_trace"
    assert found.row["event_ts"] == datetime(2023, 11, 16, 18, 17, 3, 979960, tzinfo=UTC)
    assert buckets(found.row) == {"in_uncached": 4808, "out_text": 10}
    assert (found.row["provider"], found.row["model"]) == (None, None)


def test_rows_without_ids_are_the_same_when_they_come_again_and_twins_stay_two():
    twins = AZURE + AZURE.splitlines()[1] + "\n"
    first, again = read(twins, "a.csv").ids, read(twins, "b.csv").ids
    assert first == again
    assert len(set(first)) == 2


LLMPERF_HEAD = (
    "provider,model,request_no,error_code,error_msg,ttft_s,end_to_end_latency_s,"
    "inter_token_latency_s,output_tokens_per_s,input_tokens,output_tokens\n"
)


def test_an_llmperf_call_has_seconds_and_no_time_of_day():
    base = datetime(2026, 10, 31, 5, tzinfo=UTC)
    row = read(
        LLMPERF_HEAD + "anyscale,llama-2,0,,,0.5575,1.528,0.01,34.0,550,151\n", "a.csv", base_time=base
    ).row
    assert (row["event_ts"], row["time_quality"]) == (base, "assumed")
    assert (row["ttft_ms"], row["latency_ms"]) == (557.5, 1528.0)
    assert buckets(row) == {"in_uncached": 550, "out_text": 151}


def test_a_failed_llmperf_call_took_no_time_at_all_not_zero_seconds():
    row = read(LLMPERF_HEAD + "lepton,llama-2,0,429,busy,0,0,0,0,550,1\n", "a.csv").row
    assert (row["status"], row["error_type"]) == ("error_unbilled", "429")
    assert (row["latency_ms"], row["ttft_ms"]) == (None, None)


def test_an_llmperf_answer_that_was_too_short_was_given_and_is_billed():
    row = read(LLMPERF_HEAD + "x,llama-2,0,-100,too few,0.5,1.0,0.01,34.0,550,20\n", "a.csv").row
    assert (row["status"], row["latency_ms"]) == ("error_billed", 1000.0)


def test_the_mooncake_trace_counts_from_the_base_time():
    base = datetime(2026, 10, 1, tzinfo=UTC)
    line = {"timestamp": 1500, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
    found = read([line], base_time=base)
    assert found.dialect == "mooncake"
    assert found.row["event_ts"] == datetime(2026, 10, 1, 0, 0, 1, 500000, tzinfo=UTC)
    assert buckets(found.row) == {"in_uncached": 6758, "out_text": 500}


# -- OpenTelemetry ---------------------------------------------------------------------


def attribute(key: str, value: object) -> dict[str, Any]:
    kinds = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
    return {"key": key, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}


def span(span_id: str = "a1", parent: str = "", /, **attributes: Any) -> dict[str, Any]:
    given = {
        "operation.name": "chat", "provider.name": "openai", "request.model": "gpt-4o",
        "response.model": "gpt-4o-2024-08-06", "usage.input_tokens": 1200, "usage.output_tokens": 180, **attributes,
    }  # fmt: skip
    return {
        "traceId": "5b8efff798038103d269b633813fc60c", "spanId": span_id, "parentSpanId": parent, "name": "chat",
        "startTimeUnixNano": "1763821200000000000", "endTimeUnixNano": "1763821202350000000",
        "attributes": [attribute(f"gen_ai.{k}", v) for k, v in given.items() if v is not None],
        "status": {"code": "STATUS_CODE_UNSET"},
    }  # fmt: skip


def request(*spans: dict[str, Any], **resource: str) -> dict[str, Any]:
    named = [attribute(name.replace("_", "."), value) for name, value in resource.items()]
    return {"resourceSpans": [{"resource": {"attributes": named}, "scopeSpans": [{"spans": list(spans)}]}]}


def test_a_span_has_cached_tokens_inside_its_input_and_reasoning_inside_its_output():
    found = read([span(**{"usage.cache_read.input_tokens": 1024, "usage.reasoning.output_tokens": 80,
                          "response.time_to_first_chunk": 0.42})])  # fmt: skip
    assert found.dialect == "otel_genai"
    assert buckets(found.row) == {
        "in_uncached": 176,
        "in_cache_read": 1024,
        "out_text": 100,
        "out_reasoning": 80,
    }
    assert (found.row["latency_ms"], found.row["ttft_ms"]) == (2350.0, 420.0)
    assert (found.row["model"], found.row["requested_model"]) == ("gpt-4o-2024-08-06", "gpt-4o")


def test_more_cached_than_input_tokens_is_inconsistent():
    assert read([span(**{"usage.cache_read.input_tokens": 5000})]).row["usage_quality"] == "inconsistent"


def test_spans_of_an_export_request_are_records_of_their_own_and_other_spans_are_ignored():
    moments = {"startTimeUnixNano": "1763821200000000000", "endTimeUnixNano": "1763821200000000001"}
    method = [attribute("http.request.method", "GET")]
    other = {"traceId": "1", "spanId": "z", "name": "GET /", "attributes": method, **moments}
    found = read([request(span("a1"), other, span("a2"), service_name="search")])
    assert [row["part"] for row in found.rows] == [0, 2]
    assert found.ignored == 1
    assert found.rows[0]["application"] == "search"


def test_an_agent_span_repeats_its_children_and_is_marked():
    agent = span("a0", **{"operation.name": "invoke_agent"})
    tool = span("a2", "a0", **{"operation.name": "execute_tool", "usage.input_tokens": None,
                               "usage.output_tokens": None})  # fmt: skip
    kinds = [row["span_kind"] for row in read([request(agent, span("a1", "a0"), tool)]).rows]
    assert kinds == ["aggregate", "leaf", "tool"]


def test_a_model_span_around_another_with_usage_is_aggregate_too():
    kinds = [row["span_kind"] for row in read([request(span("a0"), span("a1", "a0"))]).rows]
    assert kinds == ["aggregate", "leaf"]


def test_the_old_names_of_the_conventions_are_known():
    old = span(**{"provider.name": None, "usage.input_tokens": None, "usage.output_tokens": None, "system": "anthropic",
                  "usage.prompt_tokens": 10, "usage.completion_tokens": 3})  # fmt: skip
    row = read([old]).row
    assert (row["provider"], buckets(row)) == ("anthropic", {"in_uncached": 10, "out_text": 3})


def test_an_error_span_is_an_error():
    failed = span(**{"usage.input_tokens": None, "usage.output_tokens": None})
    failed["status"] = {"code": 2}
    failed["attributes"].append(attribute("error.type", "timeout"))
    row = read([failed]).row
    assert (row["status"], row["error_type"]) == ("error_unbilled", "timeout")


# -- LiteLLM -----------------------------------------------------------------------------


def payload(**fields: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 1200, "completion_tokens": 38, "prompt_tokens_details": {"cached_tokens": 1024}}
    return {
        "id": "chatcmpl-9x", "trace_id": "tr-77", "call_type": "acompletion", "stream": True, "response_cost": 0.0021,
        "status": "success", "custom_llm_provider": "openai", "total_tokens": 1238, "prompt_tokens": 1200,
        "completion_tokens": 38, "startTime": 1763821200.0, "endTime": 1763821202.35,
        "completionStartTime": 1763821200.42, "model": "gpt-4o", "model_id": "dep-1", "model_group": "prod-chat",
        "metadata": {"user_api_key_org_id": "org-1", "usage_object": usage}, "cache_hit": False,
        "end_user": "cust-9", "messages": [{"role": "user", "content": "my secret"}], **fields,
    }  # fmt: skip


def test_a_litellm_payload_becomes_a_row_without_its_messages():
    found = read([payload()], tenant_field="metadata.user_api_key_org_id")
    row = found.row
    assert found.dialect == "litellm"
    assert buckets(row) == {"in_uncached": 176, "in_cache_read": 1024, "out_text": 38}
    assert (row["tenant"], row["usage_quality"]) == ("org-1", "exact")
    assert (row["latency_ms"], row["ttft_ms"]) == (pytest.approx(2350.0), pytest.approx(420.0))
    assert str(row["logged_cost"]) == "0.002100000000"
    assert "secret" not in str(row)
    assert "cust-9" not in str(row)


@pytest.mark.parametrize("hit", [True, "True"])
def test_a_gateway_cache_hit_is_marked(hit):
    assert read([payload(cache_hit=hit)]).row["status"] == "cache_hit"


def test_a_failed_call_is_billed_only_where_tokens_or_a_cost_say_so():
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "response_cost": 0}
    assert read([payload(status="failure", metadata={}, **nothing)]).row["status"] == "error_unbilled"
    assert read([payload(status="failure")]).row["status"] == "error_billed"


def test_retries_share_a_trace_and_are_two_records():
    rows = read([payload(), payload(id="chatcmpl-9y")]).rows
    assert len({row["event_key"] for row in rows}) == 2
    assert {row["trace_id"] for row in rows} == {"tr-77"}
