"""OpenTelemetry GenAI spans as OTLP/JSON: whole export requests, or one span per line.

Attributes follow the GenAI semantic conventions; the older and other names that emitters use
for the same things are taken too; where two names of one count differ, the usage
is inconsistent. Cached input counts within `input_tokens` and reasoning within
`output_tokens`, as the conventions ask. A span that calls no model (an agent, a workflow, a
tool) repeats or has no usage; a span without any such attribute is about something else and ignored.
Bodies (`gen_ai.input.messages` and the like) are never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.telemetry.dialects.dialect import COUNTS, Dialect, differing, structure_of

_VALUE = dict.fromkeys(("stringValue", "intValue", "doubleValue", "boolValue"), "VARCHAR")
_ATTRIBUTES = [{"key": "VARCHAR", "value": _VALUE}]
_REQUEST = structure_of(
    {
        "resourceSpans": [
            {"resource": "VARCHAR", "scopeSpans": [{"scope": "VARCHAR", "spans": ["VARCHAR"]}]},
        ],
        "resourceMetrics": "VARCHAR",
        "resourceLogs": "VARCHAR",
    }
)
_SPAN = structure_of(
    {
        **dict.fromkeys(
            ("traceId", "spanId", "parentSpanId", "startTimeUnixNano", "endTimeUnixNano"), "VARCHAR"
        ),
        "status": {"code": "VARCHAR"},
        "attributes": _ATTRIBUTES,
    }
)
_RESOURCE = structure_of({"attributes": _ATTRIBUTES})

_BODIES = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "input.value",
    "output.value",
)
_AGGREGATES = ("invoke_agent", "create_agent", "invoke_workflow", "plan", "AGENT", "CHAIN")
_TOOLS = ("execute_tool", "retrieval", "TOOL", "RETRIEVER", "RERANKER", "GUARDRAIL", "EVALUATOR")

_NAMES: dict[str, tuple[str, ...]] = {
    "operation": ("gen_ai.operation.name", "llm.request.type", "openinference.span.kind"),
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
    "response_model": ("gen_ai.response.model",),
    "requested_model": ("gen_ai.request.model", "llm.model_name"),
    "response_id": ("gen_ai.response.id",),
    "session_id": ("gen_ai.conversation.id", "session.id"),
    "user_id": ("enduser.id", "user.id"),
    "endpoint": ("server.address",),
    "stream": ("gen_ai.request.stream",),
    "ttft_s": ("gen_ai.response.time_to_first_chunk",),
    "error_type": ("error.type",),
    "service_tier": ("openai.response.service_tier", "gen_ai.openai.response.service_tier"),
    "input_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
    "output_tokens": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "total": ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
    "in_cache_read": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.input_tokens.cached",
        "gen_ai.usage.cache_read_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "in_cache_write_5m": (
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_write_input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.input_tokens.cache_write",
        "gen_ai.usage.cache_write_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "in_audio": ("gen_ai.usage.audio.input_tokens", "llm.token_count.prompt_details.audio"),
    "in_image": ("gen_ai.usage.image.input_tokens",),
    "in_video": ("gen_ai.usage.video.input_tokens",),
    "out_reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.output_tokens.reasoning",
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
    "out_audio": ("gen_ai.usage.audio.output_tokens", "llm.token_count.completion_details.audio"),
    "cost": ("llm.cost.total",),
}
"""Attribute names of each value, the conventions' own first."""


def _ways(names: tuple[str, ...], attributes: str = "a") -> list[str]:
    """SQL of each of these attributes."""
    return [f"{attributes}_values[list_position({attributes}_keys, '{name}')]" for name in names]


def _lookup(names: tuple[str, ...], attributes: str = "a") -> str:
    """SQL: the first of these attributes that a span has."""
    ways = _ways(names, attributes)
    return ways[0] if len(ways) == 1 else f"coalesce({', '.join(ways)})"


def _contradictory() -> str:
    """SQL: whether a span gives one count under two names, and they differ."""
    ways = [_ways(names) for name, names in _NAMES.items() if name in COUNTS]
    return " OR ".join(differing(spellings) for spellings in ways if len(spellings) > 1)


def _texts(attributes: str) -> str:
    """SQL: the values of a list of attributes as text; lists and objects among them are NULL."""
    return (
        f"list_transform({attributes}, lambda a: coalesce(a.value.stringValue, a.value.intValue,"
        " a.value.doubleValue, a.value.boolValue))"
    )


def _keys(attributes: str) -> str:
    return f"list_transform({attributes}, lambda a: a.key)"


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _recognises(record: Mapping[str, Any]) -> bool:
    return "resourceSpans" in record or {"spanId", "startTimeUnixNano"} <= set(record)


_FIELDS = {
    "event_id": "traceId and spanId",
    "ts": "startTimeUnixNano",
    "end_ts": "endTimeUnixNano",
    **{name: names[0] for name, names in _NAMES.items() if name not in ("response_model", "response_id")},
}
_CALLS_A_MODEL = ", ".join(
    name for name in _NAMES if name not in ("session_id", "user_id", "endpoint", "error_type", "service_tier")
)
# The span alone, as a request of its own, without bodies: so it can be replayed.
_ALONE = f"""
    CASE WHEN json_type(s.span) = 'OBJECT' THEN json_merge_patch(s.span, json_object(
        'events', NULL,
        'attributes', list_filter(CAST(json_extract(s.span, '$.attributes') AS JSON[]),
            lambda a: json_extract_string(a, '$.key') NOT IN ({_quoted(_BODIES)}))
    )) ELSE CAST(s.span AS JSON) END"""

OTEL_GENAI = Dialect(
    name="otel_genai",
    describes="OpenTelemetry GenAI spans as OTLP/JSON, as a collector writes them",
    recognises=_recognises,
    input_includes_cached=True,
    output_includes_reasoning=True,
    fields=_FIELDS,
    extra=("a_keys", "a_values", "r_keys", "r_values"),
    nests=True,
    tenant_lookup=(
        "coalesce(a_values[list_position(a_keys, getvariable('tenant_field'))],"
        " r_values[list_position(r_keys, getvariable('tenant_field'))])"
    ),
    select=f"""
        WITH requests AS (
            SELECT line, raw, json_transform(raw, {_REQUEST}) AS r FROM records
        ),
        lists AS (
            SELECT line, CASE
                WHEN r.resourceSpans IS NOT NULL THEN flatten(list_transform(r.resourceSpans,
                    lambda rs: flatten(list_transform(rs.scopeSpans,
                        lambda ss: list_transform(ss.spans,
                            lambda span: {{'span': span, 'resource': rs.resource, 'scope': ss.scope}})))))
                WHEN r.resourceMetrics IS NULL AND r.resourceLogs IS NULL
                    THEN [{{'span': raw, 'resource': NULL, 'scope': NULL}}]
            END AS spans
            FROM requests
        ),
        -- A request without spans still is one record.
        unnested AS (
            SELECT line, unnest(spans) AS s, generate_subscripts(spans, 1) - 1 AS part
            FROM (SELECT line, CASE WHEN len(spans) > 0 THEN spans ELSE [NULL] END AS spans FROM lists)
        ),
        parsed AS (
            SELECT line, part, s, json_transform(s.span, {_SPAN}) AS t,
                CASE WHEN s.resource IS NOT NULL THEN json_transform(s.resource, {_RESOURCE}) END AS e
            FROM unnested
        ),
        keyed AS (
            SELECT line, part, s, t,
                {_keys("t.attributes")} AS a_keys, {_texts("t.attributes")} AS a_values,
                {_keys("e.attributes")} AS r_keys, {_texts("e.attributes")} AS r_values
            FROM parsed
        ),
        named AS (
            SELECT *,
                nullif(t.traceId, '') || '/' || nullif(t.spanId, '') AS event_id,
                {", ".join(f"{_lookup(names)} AS {name}" for name, names in _NAMES.items())},
                CASE WHEN {_contradictory()} THEN 'true' END AS contradictory
            FROM keyed
        ),
        judged_by_span AS (
            SELECT *,
                coalesce(try_cast(input_tokens AS DOUBLE), 0)
                    + coalesce(try_cast(output_tokens AS DOUBLE), 0) > 0 AS used,
                coalesce(t.status.code IN ('2', 'STATUS_CODE_ERROR') OR error_type <> '', false) AS failed
            FROM named
        )
        SELECT
            line, part,
            CAST(CASE WHEN s.resource IS NULL AND s.scope IS NULL THEN {_ALONE} ELSE
                json_object('resourceSpans', [json_object(
                    'resource', CAST(s.resource AS JSON),
                    'scopeSpans', [json_object('scope', CAST(s.scope AS JSON), 'spans', [{_ALONE}])])])
            END AS VARCHAR) AS raw,
            a_keys, a_values, r_keys, r_values,
            event_id,
            t.startTimeUnixNano AS ts,
            nullif(t.endTimeUnixNano, '0') AS end_ts,
            nullif(t.traceId, '') AS trace_id,
            nullif(t.spanId, '') AS span_id,
            nullif(t.parentSpanId, '') AS parent_id,
            {_lookup(("service.name",), "r")} AS application,
            {_lookup(("deployment.environment.name", "deployment.environment"), "r")} AS environment,
            CASE operation WHEN 'LLM' THEN 'chat' WHEN 'EMBEDDING' THEN 'embeddings' ELSE operation END
                AS operation,
            CASE WHEN operation IN ({_quoted(_AGGREGATES)}) THEN 'aggregate'
                 WHEN operation IN ({_quoted(_TOOLS)}) OR operation LIKE '%memory%' THEN 'tool' END AS kind,
            coalesce(nullif(response_model, ''), requested_model) AS model,
            provider, requested_model, endpoint, stream, ttft_s, session_id, user_id, service_tier,
            CASE WHEN failed THEN coalesce(nullif(error_type, ''), 'error') END AS error_type,
            CASE WHEN NOT failed THEN NULL
                 WHEN used AND lower(error_type) LIKE '%cancel%' THEN 'cancelled_billed'
                 WHEN used THEN 'error_billed'
                 ELSE 'error_unbilled' END AS status,
            input_tokens, output_tokens, total, in_cache_read, in_cache_write_5m,
            in_audio, in_image, in_video, out_reasoning, out_audio, cost, contradictory,
            CASE WHEN response_id <> '' THEN CAST(json_object('response_id', response_id) AS VARCHAR) END
                AS tags,
            CASE WHEN s.span IS NULL OR (event_id IS NOT NULL AND coalesce({_CALLS_A_MODEL}) IS NULL)
                THEN 'true' END AS ignored
        FROM judged_by_span
    """,
)
