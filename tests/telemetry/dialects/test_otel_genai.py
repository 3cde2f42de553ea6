"""OpenTelemetry GenAI spans, with its traps: rows worked out by hand from records as the system writes them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.telemetry.identity import salted_hash
from ml_registry_pipelines.telemetry.splitting import Limits
from tests.telemetry.logs import expected, read, shown

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
    without = {"gen_ai.usage.cache_read.input_tokens": None}
    rows = read([span(number, **without, **{name: value}) for number, name in enumerate(names, 1)]).rows
    assert len(rows) == len(names)
    for row in rows:
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


def test_only_model_calls_are_leaves():
    kinds = {
        "chat": "leaf",
        "embeddings": "leaf",
        "text_completion": "leaf",
        "generate_content": "leaf",
        "invoke_agent": "aggregate",
        "create_agent": "aggregate",
        "invoke_workflow": "aggregate",
        "plan": "aggregate",
        "execute_tool": "tool",
        "retrieval": "tool",
        "search_memory": "tool",
    }
    found = read([span(number, **{"gen_ai.operation.name": name}) for number, name in enumerate(kinds, 1)])
    assert {row["operation"]: row["span_kind"] for row in found.rows} == kinds


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


def test_the_inner_span_may_lie_in_a_later_line_where_a_log_is_sorted_by_start():
    plain = {**SPAN, "spanId": f"{2:016x}", "parentSpanId": f"{1:016x}", "attributes": []}
    found = read([span(1), plain, span(3, 2), request(span(5))])
    assert [row["span_kind"] for row in found.rows] == ["aggregate", "leaf", "leaf"]


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


def test_what_is_about_something_else_is_counted_as_ignored():
    records: list[dict[str, Any]] = [
        {**SPAN, "attributes": attributes({"http.request.method": "GET", "server.address": "x"})},
        {**SPAN},
        {"resourceSpans": [{"scopeSpans": []}]},
        {"resourceSpans": [{}]},
        {"resourceMetrics": [{"scopeMetrics": []}]},
        {"resourceLogs": []},
    ]
    for number, part in enumerate(read([BARE, *records], limits=Limits(chunk_rows=1)).parts):
        assert (part.rows.num_rows, part.rejected.num_rows, part.ignored) == (
            (1, 0, 0) if number == 0 else (0, 0, 1)
        )


def test_a_span_that_cannot_be_taken_is_rejected():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"hello": "world"}, "missing_field"),
        ({**BARE, "spanId": ""}, "missing_field"),
        ({**BARE, "startTimeUnixNano": "0"}, "absurd_timestamp"),
        ({**BARE, "startTimeUnixNano": "then"}, "bad_timestamp"),
        ({**BARE, "endTimeUnixNano": "1793447999000000000"}, "negative_latency"),
        (span(1, **{"gen_ai.usage.input_tokens": -5}), "negative_count"),
        ({"resourceSpans": 5}, "missing_field"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [5, None]}]}]}, "not_an_object"),
    ]
    found = read([BARE, *(record for record, _ in cases)])
    assert len(found.rows) == 1
    first = dict(reversed(found.reasons))
    assert [first[line] for line in range(2, len(cases) + 2)] == [reason for _, reason in cases]


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


def nested(spans: Any, *, below: str = "scopeSpans", resource: Any = None, **others: Any) -> dict[str, Any]:
    """An export request with parts that are not what they should be."""
    return {"resourceSpans": [{"resource": resource or {}, below: spans, **others}]}


ODD = [
    (nested([{"spans": ["notaspan"]}]), "`traceId and spanId` is missing"),
    (nested([{"spans": [""]}]), "`traceId and spanId` is missing"),
    (request(span(1)) | nested([{"spans": [span(1)]}], resource="foo"), "`resource` is not an object"),
    (nested([{"spans": [span(1)]}], resource={"attributes": {"a": 1}}), "`resource` is not an object"),
    (nested([{"spans": [{**span(1), "attributes": {"a": 1}}]}]), "`attributes` is not a list"),
    (nested([{"spans": [{**span(1), "attributes": "x"}]}]), "`attributes` is not a list"),
    (nested({"spans": [span(1)]}), "`resourceSpans` holds something else"),
    (nested([{"spans": span(1)}]), "`resourceSpans` holds something else"),
    (nested(["x", {"spans": [span(1)]}]), "`resourceSpans` holds something else"),
    (nested([{"spans": [span(1)]}], below="librarySpans"), "`resourceSpans` holds something else"),
    ({"resourceSpans": [5]}, "`resourceSpans` holds something else"),
    ({"resourceSpans": {"a": 1}}, "`traceId and spanId` is missing"),
    ({"resourceSpans": "x", "resourceMetrics": []}, "`traceId and spanId` is missing"),
]


def test_what_is_not_as_otlp_has_it_is_named_and_keeps_nothing_else_from_being_taken():
    found = read([*(line for line, _ in ODD), request(span(7))])
    assert [row["event_id"][-1] for row in found.rows] == ["7"]
    for (_, said), reject in zip(ODD, found.rejected, strict=True):
        assert said in reject["message"]
    again = read([reject["raw"] for reject in found.rejected], dialect="otel_genai")
    assert (again.rows, again.ignored, len(again.rejected)) == ([], 0, len(ODD))


def test_a_resource_that_is_not_understood_keeps_no_prompts():
    secret = {**span(1), "attributes": attributes({**GENAI, "gen_ai.input.messages": "secret"})}
    found = read([nested([{"spans": [secret]}], below="librarySpans", resource={"schemaUrl": "u"})])
    assert "secret" not in found.reject["raw"]
    assert '"schemaUrl":"u"' in found.reject["raw"]
    as_object = {**span(2), "attributes": {"gen_ai.input.messages": "secret", "a": 1}}
    assert "secret" not in read([request(as_object)]).reject["raw"]


def test_empty_parts_of_a_request_are_no_complaint():
    spans = request(span(1))
    spans["resourceSpans"][0]["scopeSpans"][0]["spans"].append(None)
    spans["resourceSpans"] += [{}, None, {"resource": {}, "schemaUrl": "u"}, {"scopeSpans": [{"scope": {}}]}]
    found = read([spans, {"resourceSpans": [{"scopeSpans": None}]}, {"resourceSpans": []}])
    assert (len(found.rows), found.rejected, found.ignored) == (1, [], 3)


def test_spans_below_the_older_name_of_their_scope_are_taken_and_a_copy_of_them_is_not():
    old = {"instrumentationLibrary": {"name": "tests"}, "spans": [span(1)]}
    found = read([nested([old], below="instrumentationLibrarySpans", scopeSpans=[])])
    assert (found.row["in_uncached"], found.rejected) == (176, [])
    both = nested([{"spans": [span(1)]}], instrumentationLibrarySpans=[old])
    assert len(read([both]).rows) == 1


def test_a_count_that_is_no_number_is_refused_and_not_left_out():
    without = attributes({**GENAI, "gen_ai.usage.input_tokens": None})
    values: tuple[Any, ...] = (
        {"arrayValue": {"values": [{"intValue": "5"}]}},
        {"intValue": None},
        {},
        None,
        5,
    )
    spans = [
        {**SPAN, "attributes": [*without, {"key": "gen_ai.usage.input_tokens", "value": v}]} for v in values
    ]
    says = "`gen_ai.usage.input_tokens` is null, a list or an object: not a whole number"
    assert [says in reject["message"] for reject in read(spans).rejected] == [True] * len(values)


def test_a_text_that_is_a_list_counts_as_absent():
    found = read([span(1, **{"gen_ai.conversation.id": ["a"], "tenant.id": ["b"]})], tenant_field="tenant.id")
    assert found.reject["reason"] == "missing_tenant"
    assert read([span(1, **{"gen_ai.conversation.id": ["a"]})]).row["session_hash"] is None


def test_one_count_in_two_spellings_of_the_same_number_is_consistent():
    same = span(1, **{"gen_ai.usage.prompt_tokens": 1200.0})
    other = span(2, **{"gen_ai.usage.prompt_tokens": 1200.5})
    assert [row["usage_quality"] for row in read([same, other]).rows] == ["exact", "inconsistent"]
