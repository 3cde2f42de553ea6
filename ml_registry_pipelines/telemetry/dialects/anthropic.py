"""Messages of the Anthropic API with their usage, also the results of its batches.

`input_tokens` leaves out what was read from or written to the prompt cache; `output_tokens` counts
thinking. A message whose context was compacted on the way states by `iterations` what the compaction
took besides: then the iterations count, and not the sums above them. An iteration of another model
cannot be priced in the same row, so such usage is inconsistent. A message that was broken off, whose
`stop_reason` is null, is billed for what it had used. A record is the message itself, or an object
with the message as `response` or `body` and the time of the request as `timestamp`, since a message
has no time. Events of a stream are refused: only the whole message has the usage. Bodies are never
stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, Times, structure_of
from ml_registry_pipelines.telemetry.dialects.sql import numbers, used, without

_FIELDS = {
    "event_id": "id",
    "ts": "timestamp",
    "in_cache_read": "cache_read_input_tokens",
    "in_cache_write_5m": "cache_creation_input_tokens",
    "n_search": "web_search_requests",
}
_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
_CREATION = dict.fromkeys(("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"), "VARCHAR")
_USAGE: dict[str, Any] = {**dict.fromkeys(_COUNTS, "VARCHAR"), "cache_creation": _CREATION}
_ERROR: dict[str, Any] = {"type": "VARCHAR", "error": {"type": "VARCHAR"}}
_ENVELOPE = structure_of(
    {
        **dict.fromkeys(
            ("custom_id", "request_id", "timestamp", "latency_ms", "ttft_ms", "user_id", "session_id"),
            "VARCHAR",
        ),
        **dict.fromkeys(("type", "stream"), "VARCHAR"),
        "error": _ERROR,
        "result": {"type": "VARCHAR", "error": _ERROR},
    }
)
_MESSAGE = structure_of(
    {
        **dict.fromkeys(("id", "type", "model", "stop_reason", "request_id", "_request_id"), "VARCHAR"),
        "error": {"type": "VARCHAR"},
        "usage": {
            **_USAGE,
            "output_tokens_details": {"thinking_tokens": "VARCHAR", "reasoning_tokens": "VARCHAR"},
            "server_tool_use": {"web_search_requests": "VARCHAR"},
            **dict.fromkeys(("service_tier", "inference_geo", "speed"), "VARCHAR"),
            "iterations": [{**_USAGE, "type": "VARCHAR", "model": "VARCHAR"}],
        },
    }
)
_BODIES = ("content", "messages", "system", "request")
_WRAPPINGS = ("result.message", "response", "body")
_OUTCOMES = ("succeeded", "errored", "canceled", "expired")


def _message(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message in a record, as the SQL below finds it."""
    result = record.get("result")
    found = (
        result.get("message") if isinstance(result, dict) else None,
        record.get("response"),
        record.get("body"),
    )
    return next((held for held in found if isinstance(held, dict)), record)


def _recognises(record: Mapping[str, Any]) -> bool:
    result = record.get("result")
    if "custom_id" in record and isinstance(result, dict) and result.get("type") in _OUTCOMES:
        return True
    message = _message(record)
    usage = message.get("usage")
    if isinstance(usage, dict) and "input_tokens" in usage and "object" not in message:
        own = {"cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation", "server_tool_use"}
        return message.get("type") == "message" or (
            {"id", "model"} <= set(message) and bool(own & set(usage)) and "event_id" not in record
        )
    return (
        "request_id" in record and message.get("type") == "error" and isinstance(message.get("error"), dict)
    )


_ITERATED: Mapping[str, str] = {
    **{count: count for count in _COUNTS},
    "5m": "cache_creation.ephemeral_5m_input_tokens",
    "1h": "cache_creation.ephemeral_1h_input_tokens",
}


def _sums() -> str:
    """SQL: the counts over all iterations as text, and whether one of them is no count."""
    sums = ", ".join(
        f"""CAST(list_sum(list_transform(u.iterations, lambda i: coalesce(whole_number(i.{field}), 0))) AS VARCHAR)
            AS all_{name}"""
        for name, field in _ITERATED.items()
    )
    odd = " OR ".join(
        f"(i.{field} IS NOT NULL AND coalesce(whole_number(i.{field}) < 0, true))"
        for field in _ITERATED.values()
    )
    return f"{sums}, list_bool_or(list_transform(u.iterations, lambda i: {odd})) AS miscounted"


def _count(name: str, field: str) -> str:
    return f"CASE WHEN compacted THEN all_{name} ELSE {field} END"


ANTHROPIC = Dialect(
    name="anthropic_api",
    describes="messages of the Anthropic API with their usage, also the results of its batches",
    recognises=_recognises,
    input_includes_cached=False,
    output_includes_reasoning=True,
    times=Times.PARTLY,
    time_zone="UTC",
    required=("event_id",),
    fields=_FIELDS,
    select=f"""
        WITH wrapped AS (
            SELECT line, raw, json_transform(raw, {_ENVELOPE}) AS e,
                CASE WHEN json_type(found[1]) = 'OBJECT' THEN found[1]
                    WHEN json_type(found[2]) = 'OBJECT' THEN found[2]
                    WHEN json_type(found[3]) = 'OBJECT' THEN found[3]
                    ELSE CAST(raw AS JSON) END AS message
            FROM (
                SELECT line, raw, json_extract(raw, [{", ".join(f"'$.{w}'" for w in _WRAPPINGS)}]) AS found
                FROM records
            )
        ),
        messages AS (
            SELECT *, m.usage AS u,
                len(m.usage.iterations) > 0 AND list_bool_or(list_transform(m.usage.iterations,
                    lambda i: i.type = 'compaction')) AS compacted,
                len(m.usage.iterations) > 0 AND list_bool_or(list_transform(m.usage.iterations,
                    lambda i: i.type = 'advisor_message' OR i.model <> m.model)) AS of_several_models
            FROM (SELECT line, raw, e, json_transform(message, {_MESSAGE}) AS m FROM wrapped)
        ),
        summed AS (
            SELECT *, {_sums()} FROM messages
        ),
        counted AS (
            SELECT line, raw, e, m, u, of_several_models, compacted AND miscounted AS miscounted,
                m.type = 'message' AND m.stop_reason IS NULL AS aborted,
                {_count("input_tokens", "u.input_tokens")} AS input_tokens,
                {_count("output_tokens", "u.output_tokens")} AS output_tokens,
                {_count("cache_read_input_tokens", "u.cache_read_input_tokens")} AS read,
                {_count("cache_creation_input_tokens", "u.cache_creation_input_tokens")} AS w,
                {_count("5m", "u.cache_creation.ephemeral_5m_input_tokens")} AS w5,
                {_count("1h", "u.cache_creation.ephemeral_1h_input_tokens")} AS w1,
                coalesce(CASE WHEN e.result.type <> 'succeeded' THEN
                        coalesce(e.result.error.error.type, nullif(e.result.error.type, 'error'), e.result.type) END,
                    nullif(m.error.type, 'error'), e.error.error.type, nullif(e.error.type, 'error'),
                    CASE WHEN m.type = 'error' THEN 'error' END) AS error
            FROM summed
        ),
        numbered AS (
            SELECT *, {numbers("input_tokens", "output_tokens", "read", "w", "w5", "w1")} FROM counted
        )
        SELECT
            line, 0 AS part, {without(_BODIES, _WRAPPINGS)},
            coalesce(m.id, m.request_id, m._request_id, e.request_id, e.custom_id) AS event_id,
            e.timestamp AS ts,
            e.latency_ms, e.ttft_ms, e.user_id, e.session_id, e.stream,
            CASE WHEN starts_with(m.id, 'msg_bdrk_') THEN 'aws'
                WHEN starts_with(m.id, 'msg_vrtx_') THEN 'google' ELSE 'anthropic' END AS provider,
            m.model,
            'chat' AS operation,
            CASE WHEN error IS NOT NULL THEN
                    CASE WHEN {used("input_tokens", "output_tokens", "read", "w")} THEN 'error_billed'
                        ELSE 'error_unbilled' END
                WHEN aborted THEN 'cancelled_billed'
                ELSE 'success' END AS status,
            CASE WHEN error IS NULL AND aborted THEN 'aborted' ELSE error END AS error_type,
            input_tokens, output_tokens,
            coalesce(u.output_tokens_details.thinking_tokens, u.output_tokens_details.reasoning_tokens)
                AS out_reasoning,
            read AS in_cache_read,
            CASE WHEN w5 IS NOT NULL OR w1 IS NULL THEN coalesce(w5, w)
                WHEN w_n IS NULL THEN w
                ELSE CAST(greatest(w_n - w1_n, 0) AS VARCHAR)
            END AS in_cache_write_5m,
            CASE WHEN w1 IS NULL AND w_n > w5_n
                THEN CAST(w_n - w5_n AS VARCHAR)
                ELSE w1
            END AS in_cache_write_1h,
            u.server_tool_use.web_search_requests AS n_search,
            CASE WHEN of_several_models OR miscounted
                OR w_n < coalesce(w5_n, 0) + coalesce(w1_n, 0)
                OR w_n > w5_n + w1_n
                THEN 'true' END AS contradictory,
            CASE WHEN u.speed = 'fast' THEN 'fast'
                WHEN e.result.type IS NOT NULL AND e.custom_id IS NOT NULL THEN 'batch'
                ELSE u.service_tier END AS service_tier,
            nullif(nullif(u.inference_geo, ''), 'not_available') AS region,
            CASE WHEN e.custom_id IS NOT NULL THEN CAST(json_object('custom_id', e.custom_id) AS VARCHAR) END AS tags,
            CASE WHEN m.type IN ('message_start', 'message_delta', 'message_stop', 'content_block_start',
                    'content_block_delta', 'content_block_stop', 'ping')
                THEN 'type|is ' || m.type || ', an event of a stream; log the whole message' END AS wrong
        FROM numbered
    """,
)
