"""OpenTelemetry GenAI spans as OTLP/JSON: whole export requests, or one span per line.

Attributes follow the GenAI semantic conventions; the older and other names that emitters use
for the same things are taken too; where two names of one count differ, the usage
is inconsistent. Cached input counts within `input_tokens` and reasoning within
`output_tokens`, as the conventions ask. A span that calls no model (an agent, a workflow, a
tool) repeats or has no usage; a span without any such attribute is about something else and ignored.
Spans below `instrumentationLibrarySpans`, as `scopeSpans` was called before OTLP 0.15, are taken too.
Bodies (`gen_ai.input.messages` and the like) are never stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ml_registry_pipelines.telemetry.dialects.dialect import COUNTS, Dialect, differing, structure_of

_VALUE = dict.fromkeys(("stringValue", "intValue", "doubleValue", "boolValue"), "VARCHAR")
_ATTRIBUTES = [{"key": "VARCHAR", "value": _VALUE}]
# As JSON a part that should be an object and is a text still is JSON, and so can be looked into.
_SCOPES = [{"scope": "JSON", "instrumentationLibrary": "JSON", "spans": ["JSON"]}]
_REQUEST = structure_of(
    {
        "resourceSpans": [
            {"resource": "JSON", "scopeSpans": _SCOPES, "instrumentationLibrarySpans": _SCOPES}
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


_NO_VALUE = "null, a list or an object"
"""Stands for a value that is none of text, number and truth: a text has none then, an amount is refused."""
_AMOUNTS = frozenset({*COUNTS, "cost"})


def _text(key: str, attributes: str = "a") -> str:
    """SQL of the attribute that `key` (SQL) names, where it has a text."""
    return f"nullif({attributes}_values[list_position({attributes}_keys, {key})], '{_NO_VALUE}')"


def _spellings() -> Iterator[str]:
    """SQL: a column for each attribute, under its name."""
    for name, spellings in _NAMES.items():
        for key in spellings:
            value = f"a_values[list_position(a_keys, '{key}')]" if name in _AMOUNTS else _text(f"'{key}'")
            yield f'{value} AS "{key}"'


def _columns(names: tuple[str, ...]) -> list[str]:
    return [f'"{name}"' for name in names]


def _contradictory() -> str:
    """SQL: whether a span gives one count under two names, and they differ."""
    return differing(
        *(_columns(names) for name, names in _NAMES.items() if name in COUNTS and len(names) > 1)
    )


def _texts(attributes: str) -> str:
    """SQL: the values of a list of attributes as text."""
    return (
        f"list_transform({attributes}, lambda a: coalesce(a.value.stringValue, a.value.intValue,"
        f" a.value.doubleValue, a.value.boolValue, '{_NO_VALUE}'))"
    )


def _keys(attributes: str) -> str:
    return f"list_transform({attributes}, lambda a: a.key)"


def _is(value: str, kind: str) -> str:
    """SQL: whether JSON is of a kind, or null or not there."""
    return f"coalesce(json_type({value}), 'NULL') IN ('NULL', '{kind}')"


def _holds_only(value: str, *names: str) -> str:
    """SQL: whether JSON is an object with no other fields, or null."""
    return f"{_is(value, 'OBJECT')} AND coalesce(list_has_all([{_quoted(names)}], json_keys({value})), true)"


def _whole(resource: str) -> str:
    """SQL: whether a resource with its spans, as JSON, holds nothing that is not looked for in it."""
    known = ("scopeSpans", "instrumentationLibrarySpans")
    lists = " AND ".join(
        f"""{_is(f"json_extract({resource}, '$.{name}')", "ARRAY")} AND list_bool_and(list_transform(
            json_extract({resource}, '$.{name}[*]'), lambda j:
                {_holds_only("j", "scope", "instrumentationLibrary", "schemaUrl", "spans")}
                AND {_is("json_extract(j, '$.spans')", "ARRAY")})) IS DISTINCT FROM false"""
        for name in known
    )
    return f"({_holds_only(resource, 'resource', 'schemaUrl', *known)} AND {lists})"


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
# Scopes in a resource `rs`, and that resource as JSON: it is the one with number `i`.
_SCOPES_OF = "CASE WHEN len(rs.scopeSpans) > 0 THEN rs.scopeSpans ELSE rs.instrumentationLibrarySpans END"
_NUMBERED = "json_extract(raw, '$.resourceSpans[' || (i - 1) || ']')"
# The span alone, as a request of its own, without bodies: so it can be replayed.
_ALONE = f"""
    CASE WHEN json_type(s.span) = 'OBJECT' THEN json_merge_patch(s.span, json_object(
        'events', NULL,
        'attributes', CASE json_type(s.span, '$.attributes')
            WHEN 'ARRAY' THEN CAST(list_filter(json_extract(s.span, '$.attributes[*]'),
                lambda a: json_extract_string(a, '$.key') NOT IN ({_quoted(_BODIES)})) AS JSON)
            WHEN 'OBJECT' THEN json_object({", ".join(f"'{body}', NULL" for body in _BODIES)})
            ELSE json_extract(s.span, '$.attributes') END
    )) ELSE s.span END"""
# A resource that is not understood, alone. Where in it bodies are is not known: with any, only its head is kept.
_ODD = f"""
    CASE WHEN {" OR ".join(f"contains(CAST(s.odd AS VARCHAR), '{body}')" for body in _BODIES)}
        THEN json_object('resource', json_extract(s.odd, '$.resource'), 'leftOut', 'spans with prompts or answers')
        ELSE s.odd END"""

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
        f"""coalesce({_text("getvariable('tenant_field')", "a")}, {_text("getvariable('tenant_field')", "r")})"""
    ),
    select=f"""
        WITH requests AS (
            SELECT line, raw, json_transform(raw, {_REQUEST}) AS r FROM records
        ),
        lists AS (
            SELECT line, CASE
                WHEN r.resourceSpans IS NOT NULL THEN flatten(list_transform(r.resourceSpans, lambda rs, i:
                    CASE WHEN coalesce(list_bool_or(list_transform({_SCOPES_OF},
                            lambda ss: ss.spans IS NULL)), true) AND NOT {_whole(_NUMBERED)}
                        THEN [{{'span': NULL, 'resource': NULL, 'scope': NULL, 'odd': {_NUMBERED}}}]
                        ELSE flatten(list_transform({_SCOPES_OF}, lambda ss: list_transform(ss.spans,
                            lambda span: {{'span': span, 'resource': rs.resource,
                                'scope': coalesce(ss.scope, ss.instrumentationLibrary), 'odd': NULL}})))
                    END))
                WHEN (r.resourceMetrics IS NULL AND r.resourceLogs IS NULL)
                        OR NOT {_is("json_extract(raw, '$.resourceSpans')", "ARRAY")}
                    THEN [{{'span': CAST(raw AS JSON), 'resource': NULL, 'scope': NULL, 'odd': NULL}}]
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
            SELECT line, part, s, t, e,
                {_keys("t.attributes")} AS a_keys, {_texts("t.attributes")} AS a_values,
                {_keys("e.attributes")} AS r_keys, {_texts("e.attributes")} AS r_values
            FROM parsed
        ),
        spelled AS (
            SELECT *, {", ".join(_spellings())} FROM keyed
        ),
        named AS (
            SELECT line, part, s, t, e, a_keys, a_values, r_keys, r_values,
                nullif(t.traceId, '') || '/' || nullif(t.spanId, '') AS event_id,
                {", ".join(f"coalesce({', '.join(_columns(n))}) AS {name}" for name, n in _NAMES.items())},
                CASE WHEN {_contradictory()} THEN 'true' END AS contradictory
            FROM spelled
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
            CAST(CASE WHEN s.odd IS NOT NULL THEN json_object('resourceSpans', [{_ODD}])
                WHEN s.resource IS NULL AND s.scope IS NULL THEN {_ALONE}
                ELSE json_object('resourceSpans', [json_object(
                    'resource', s.resource,
                    'scopeSpans', [json_object('scope', s.scope, 'spans', [{_ALONE}])])])
            END AS VARCHAR) AS raw,
            a_keys, a_values, r_keys, r_values,
            event_id,
            t.startTimeUnixNano AS ts,
            nullif(t.endTimeUnixNano, '0') AS end_ts,
            nullif(t.traceId, '') AS trace_id,
            nullif(t.spanId, '') AS span_id,
            nullif(t.parentSpanId, '') AS parent_id,
            {_text("'service.name'", "r")} AS application,
            coalesce({_text("'deployment.environment.name'", "r")}, {_text("'deployment.environment'", "r")})
                AS environment,
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
            CASE WHEN s.odd IS NOT NULL THEN 'resourceSpans|holds something else than lists of spans'
                WHEN t.attributes IS NULL AND NOT {_is("json_extract(s.span, '$.attributes')", "ARRAY")}
                    THEN 'attributes|is not a list'
                WHEN e.attributes IS NULL AND s.resource IS NOT NULL AND NOT ({_is("s.resource", "OBJECT")}
                        AND {_is("json_extract(s.resource, '$.attributes')", "ARRAY")})
                    THEN 'resource|is not an object with a list of attributes'
            END AS wrong,
            CASE WHEN wrong IS NULL
                    AND (s.span IS NULL OR (event_id IS NOT NULL AND coalesce({_CALLS_A_MODEL}) IS NULL))
                THEN 'true' END AS ignored
        FROM judged_by_span
    """,
)
