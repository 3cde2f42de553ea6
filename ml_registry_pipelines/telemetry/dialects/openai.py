"""Answers of the OpenAI API with their usage: chat completions, completions and responses, also of batches.

Input counts cached tokens, cache writes, audio and images; output counts reasoning, audio and rejected
predictions, which are billed. A record is the answer itself, or an object with the answer as `response`
or `body` (as the lines of a batch's output are), which may also give `timestamp`, `latency_ms`,
`ttft_ms`, `user_id` and `session_id`: the answer has its start to the second and no latency. Makers of
other models answer in this format too; a `provider` in the answer or beside it says who did. Pieces of
a stream are refused: only the whole answer has the usage. Bodies are never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, Times, differing, structure_of
from ml_registry_pipelines.telemetry.dialects.sql import (
    PERSONS,
    exceeded,
    less,
    numbers,
    object_or_null,
    session_of,
    tags_of,
    used,
    user_of,
    without,
)

_FIELDS = {
    "event_id": "id",
    "ts": "created",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "total": "total_tokens",
    "in_cache_read": "cached_tokens",
    "in_cache_write_5m": "cache_write_tokens",
    "in_audio": "audio_tokens",
    "out_reasoning": "reasoning_tokens",
}
_OBJECTS = ("chat.completion", "text_completion", "response")
_BODIES = (
    "choices",
    "output",
    "output_text",
    "input",
    "instructions",
    "messages",
    "prompt",
    "request",
    "reasoning",
    "tools",
)
_WRAPPINGS = ("response.body", "response", "body")
_ERROR = {"code": "VARCHAR", "type": "VARCHAR"}
_INPUT_DETAILS = {
    **dict.fromkeys(("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens"), "VARCHAR"),
    "cached_tokens_details": dict.fromkeys(("audio_tokens", "image_tokens"), "VARCHAR"),
}
_OUTPUT_DETAILS = dict.fromkeys(("reasoning_tokens", "audio_tokens", "image_tokens"), "VARCHAR")
_ENVELOPE = structure_of(
    {
        **dict.fromkeys(
            ("id", "custom_id", "request_id", "timestamp", "provider", "latency_ms", "ttft_ms"), "VARCHAR"
        ),
        **dict.fromkeys(("user_id", "session_id", "stream"), "VARCHAR"),
        "error": _ERROR,
        "response": {"status_code": "VARCHAR"},
    }
)
_ANSWER = structure_of(
    {
        **dict.fromkeys(
            ("id", "object", "created", "created_at", "model", "service_tier", "status", "provider"),
            "VARCHAR",
        ),
        **dict.fromkeys(("user", "safety_identifier", "metadata"), "VARCHAR"),
        "error": _ERROR,
        "conversation": {"id": "VARCHAR"},
        "output": [{"type": "VARCHAR", "action": {"type": "VARCHAR"}}],
        "usage": {
            **dict.fromkeys(
                (
                    "prompt_tokens",
                    "completion_tokens",
                    "input_tokens",
                    "output_tokens",
                    "total_tokens",
                    "prompt_cache_hit_tokens",
                    "cost",
                ),
                "VARCHAR",
            ),
            "prompt_tokens_details": _INPUT_DETAILS,
            "input_tokens_details": _INPUT_DETAILS,
            "completion_tokens_details": _OUTPUT_DETAILS,
            "output_tokens_details": _OUTPUT_DETAILS,
        },
    }
)


def _answer(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer in a record, as the SQL below finds it."""
    if isinstance(record.get("object"), str):
        return record
    response, body = record.get("response"), record.get("body")
    if isinstance(response, dict):
        inner = response.get("body")
        return inner if isinstance(inner, dict) else response
    return body if isinstance(body, dict) else record


def _recognises(record: Mapping[str, Any]) -> bool:
    if "custom_id" in record and isinstance(record.get("response"), dict):
        return "status_code" in record["response"]  # A line of a batch's output, which may be an error.
    answer = _answer(record)
    if answer.get("object") in _OBJECTS:
        return True
    usage = answer.get("usage")
    known = {"id", "request_id"} & {*answer, *record}
    return (
        isinstance(usage, dict)
        and "prompt_tokens" in usage
        and "total_tokens" in usage
        and "model" in answer
        and bool(known)
        and not str(answer.get("object", "")).endswith(".chunk")
        and not {"event_id", "call_type"} & set(record)
    )


def _from_details(name: str) -> list[str]:
    return [f"u.prompt_tokens_details.{name}", f"u.input_tokens_details.{name}"]


_INPUT = ("u.prompt_tokens", "u.input_tokens")
_OUTPUT = ("u.completion_tokens", "u.output_tokens")
_CACHED = (*_from_details("cached_tokens"), "u.prompt_cache_hit_tokens")
_REASONING = ("u.completion_tokens_details.reasoning_tokens", "u.output_tokens_details.reasoning_tokens")
_CACHED_AUDIO = _from_details("cached_tokens_details.audio_tokens")
_CACHED_IMAGE = _from_details("cached_tokens_details.image_tokens")

OPENAI = Dialect(
    name="openai_api",
    describes="answers of the OpenAI API with their usage, also the output of its batches",
    recognises=_recognises,
    input_includes_cached=True,
    output_includes_reasoning=True,
    times=Times.PARTLY,
    time_zone="UTC",
    required=("event_id",),
    fields=_FIELDS,
    select=f"""
        WITH wrapped AS (
            SELECT line, raw, json_transform(raw, {_ENVELOPE}) AS e,
                CASE WHEN json_type(found[1]) = 'VARCHAR' THEN CAST(raw AS JSON)
                    WHEN json_type(found[2]) = 'OBJECT' THEN found[2]
                    WHEN json_type(found[3]) = 'OBJECT' THEN found[3]
                    WHEN json_type(found[4]) = 'OBJECT' THEN found[4]
                    ELSE CAST(raw AS JSON) END AS answer
            FROM (
                SELECT line, raw, json_extract(raw, ['$.object', {
        ", ".join(f"'$.{w}'" for w in _WRAPPINGS)
    }]) AS found
                FROM records
            )
        ),
        answers AS (
            SELECT line, raw, e, a, a.usage AS u, {object_or_null("a.metadata")} AS labels
            FROM (SELECT line, raw, e, json_transform(answer, {_ANSWER}) AS a FROM wrapped)
        ),
        counted AS (
            SELECT *,
                coalesce({", ".join(_INPUT)}) AS input_tokens,
                coalesce({", ".join(_OUTPUT)}) AS output_tokens,
                coalesce({", ".join(_CACHED)}) AS cached,
                coalesce({", ".join(_CACHED_AUDIO)}) AS cached_audio,
                coalesce({", ".join(_CACHED_IMAGE)}) AS cached_image,
                coalesce({", ".join(_from_details("audio_tokens"))}) AS audio,
                coalesce({", ".join(_from_details("image_tokens"))}) AS image,
                coalesce(nullif(a.error.code, ''), nullif(a.error.type, ''), nullif(e.error.code, ''),
                    nullif(e.error.type, ''),
                    CASE WHEN whole_number(e.response.status_code) >= 400 THEN e.response.status_code END,
                    CASE WHEN a.status = 'failed' THEN 'failed' END) AS error,
                json_transform(labels, {PERSONS}) AS persons
            FROM answers
        ),
        numbered AS (
            SELECT *, {
        numbers("input_tokens", "output_tokens", "cached", "cached_audio", "cached_image", "audio", "image")
    } FROM counted
        )
        SELECT
            line, 0 AS part, {without(_BODIES, _WRAPPINGS)},
            coalesce(a.id, e.id, e.request_id, e.custom_id) AS event_id,
            coalesce(a.created, a.created_at, e.timestamp) AS ts,
            e.latency_ms, e.ttft_ms, e.stream,
            coalesce(nullif(e.provider, ''), nullif(a.provider, ''), 'openai') AS provider,
            a.model,
            CASE WHEN a.object = 'text_completion' THEN 'text_completion'
                WHEN a.object = 'list' THEN 'embeddings' ELSE 'chat' END AS operation,
            CASE WHEN a.status = 'cancelled' THEN 'cancelled_billed'
                WHEN error IS NULL THEN 'success'
                WHEN {used("input_tokens", "output_tokens")} THEN 'error_billed'
                ELSE 'error_unbilled' END AS status,
            CASE WHEN a.status = 'cancelled' THEN 'cancelled' ELSE error END AS error_type,
            CASE WHEN e.custom_id IS NOT NULL AND e.response.status_code IS NOT NULL THEN 'batch'
                ELSE a.service_tier END
                AS service_tier,
            input_tokens, output_tokens,
            u.total_tokens AS total,
            {less("cached", "cached_audio", "cached_image")} AS in_cache_read,
            cached_audio AS in_cache_read_audio,
            cached_image AS in_cache_read_image,
            coalesce({", ".join(_from_details("cache_write_tokens"))}) AS in_cache_write_5m,
            {less("audio", "cached_audio")} AS in_audio,
            {less("image", "cached_image")} AS in_image,
            coalesce({", ".join(_REASONING)}) AS out_reasoning,
            coalesce(u.completion_tokens_details.audio_tokens, u.output_tokens_details.audio_tokens) AS out_audio,
            coalesce(u.completion_tokens_details.image_tokens, u.output_tokens_details.image_tokens) AS out_image,
            CASE WHEN len(a.output) > 0 THEN CAST(nullif(len(list_filter(a.output, lambda item:
                item.type = 'web_search_call' AND coalesce(item.action.type, 'search') = 'search')), 0) AS VARCHAR)
            END AS n_search,
            CASE WHEN len(a.output) > 0 THEN CAST(nullif(len(list_filter(a.output, lambda item:
                item.type = 'file_search_call')), 0) AS VARCHAR)
            END AS n_tool,
            CASE WHEN {differing(_INPUT, _OUTPUT, _CACHED, _REASONING)}
                OR {exceeded("cached", "cached_audio", "cached_image")}
                OR {exceeded("audio", "cached_audio")} OR {exceeded("image", "cached_image")}
                THEN 'true' END AS contradictory,
            u.cost AS cost,
            coalesce(e.user_id, nullif(a.safety_identifier, ''), nullif(a."user", ''), {
        user_of("persons")
    }) AS user_id,
            coalesce(e.session_id, a.conversation.id, {session_of("persons")}) AS session_id,
            {tags_of("labels", "persons", {"custom_id": "e.custom_id"})} AS tags,
            CASE WHEN a.object LIKE '%.chunk' THEN 'object|is ' || a.object
                    || ', a piece of a stream; log the whole answer, asked for with stream_options.include_usage'
                WHEN a.object = 'response' AND a.status IN ('queued', 'in_progress')
                    THEN 'status|is ' || a.status || '; log a response once it has ended'
            END AS wrong
        FROM numbered
    """,
)
