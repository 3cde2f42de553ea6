"""Answers of Google Gemini with their usage metadata, from the Gemini API, Vertex AI and their batches.

`promptTokenCount` counts cached input; tokens of tool results come on top of it, and thoughts come on
top of `candidatesTokenCount`. Modalities are parts of those counts. A record is the answer itself, or
an object with the answer as `response` or `body` and the time of the request as `timestamp`; answers
of the Gemini API have no time of their own. Field names may be in camelCase or in snake_case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, Times, structure_of
from ml_registry_pipelines.telemetry.dialects.sql import exceeded, less, numbers, plus, used, without

_FIELDS = {
    "event_id": "responseId",
    "ts": "createTime",
    "model": "modelVersion",
    "input_tokens": "promptTokenCount",
    "in_cache_read": "cachedContentTokenCount",
    "out_text": "candidatesTokenCount",
    "out_reasoning": "thoughtsTokenCount",
    "total": "totalTokenCount",
}
_SNAKE = {
    "promptTokenCount": "prompt_token_count",
    "cachedContentTokenCount": "cached_content_token_count",
    "candidatesTokenCount": "candidates_token_count",
    "responseTokenCount": "response_token_count",
    "toolUsePromptTokenCount": "tool_use_prompt_token_count",
    "thoughtsTokenCount": "thoughts_token_count",
    "totalTokenCount": "total_token_count",
    "trafficType": "traffic_type",
    "serviceTier": "service_tier",
}
_DETAILS = {
    "promptTokensDetails": "prompt_tokens_details",
    "cacheTokensDetails": "cache_tokens_details",
    "candidatesTokensDetails": "candidates_tokens_details",
    "toolUsePromptTokensDetails": "tool_use_prompt_tokens_details",
}
_ERROR = {"code": "VARCHAR", "status": "VARCHAR"}
_ENVELOPE = structure_of(
    {
        **dict.fromkeys(
            ("timestamp", "id", "request_id", "key", "processed_time", "latency_ms", "ttft_ms", "user_id"),
            "VARCHAR",
        ),
        "session_id": "VARCHAR",
        "error": _ERROR,
    }
)
_ANSWER = structure_of(
    {
        **dict.fromkeys(
            ("responseId", "response_id", "modelVersion", "model_version", "createTime", "create_time"),
            "VARCHAR",
        ),
        "error": _ERROR,
        "usageMetadata": {
            **dict.fromkeys(_SNAKE, "VARCHAR"),
            **{name: [{"modality": "VARCHAR", "tokenCount": "VARCHAR"}] for name in _DETAILS},
        },
        "usage_metadata": {
            **dict.fromkeys(_SNAKE.values(), "VARCHAR"),
            **{name: [{"modality": "VARCHAR", "token_count": "VARCHAR"}] for name in _DETAILS.values()},
        },
    }
)
_MODALITIES = ("audio", "image", "video")
_KINDS = {
    "cached": "cache_tokens_details",
    "own": "prompt_tokens_details",
    "tool": "tool_use_prompt_tokens_details",
}
_SPREAD = tuple(f"{kind}_{name}" for name in _MODALITIES for kind in _KINDS)
_COUNTED = (
    "prompt_token_count",
    "tool_use_prompt_token_count",
    "cached_content_token_count",
    "candidates",
    "thoughts_token_count",
    "out_audio",
    "out_image",
)
_WRAPPINGS = ("response", "body")
_BODIES = ("candidates", "contents", "request", "promptFeedback", "prompt_feedback")


def _answer(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((record[name] for name in _WRAPPINGS if isinstance(record.get(name), dict)), record)


def _recognises(record: Mapping[str, Any]) -> bool:
    return any(isinstance(_answer(record).get(name), dict) for name in ("usageMetadata", "usage_metadata"))


def _counts() -> str:
    return ", ".join(f"coalesce(c.{camel}, s.{snake}) AS {snake}" for camel, snake in _SNAKE.items())


def _modalities() -> str:
    """SQL: per list of details, its modalities in capitals and their counts, in the same order."""
    return ", ".join(
        f"""coalesce(list_transform(c.{camel}, lambda d: upper(d.modality)),
                list_transform(s.{snake}, lambda d: upper(d.modality))) AS {snake}_names,
            coalesce(list_transform(c.{camel}, lambda d: d.tokenCount),
                list_transform(s.{snake}, lambda d: d.token_count)) AS {snake}_counts"""
        for camel, snake in _DETAILS.items()
    )


def _of(snake: str, modality: str) -> str:
    return f"{snake}_counts[list_position({snake}_names, '{modality}')]"


def _spread() -> str:
    """SQL: what each modality has in the prompt, in tool results, and of both in the cache."""
    return ", ".join(
        f"{_of(details, name.upper())} AS {kind}_{name}"
        for name in _MODALITIES
        for kind, details in _KINDS.items()
    )


_USED = ("prompt_token_count", "candidates", "thoughts_token_count")

GEMINI = Dialect(
    name="gemini_api",
    describes="answers of Google Gemini with their usage metadata",
    recognises=_recognises,
    input_includes_cached=True,
    output_includes_reasoning=False,
    times=Times.PARTLY,
    time_zone="UTC",
    required=("event_id",),
    fields=_FIELDS,
    select=f"""
        WITH wrapped AS (
            SELECT line, raw, json_transform(raw, {_ENVELOPE}) AS e,
                CASE WHEN json_type(found[1]) = 'OBJECT' THEN found[1]
                    WHEN json_type(found[2]) = 'OBJECT' THEN found[2] ELSE CAST(raw AS JSON) END AS answer
            FROM (
                SELECT line, raw, json_extract(raw, [{
        ", ".join(f"'$.{name}'" for name in _WRAPPINGS)
    }]) AS found
                FROM records
            )
        ),
        answers AS (
            SELECT line, raw, e, a, a.usageMetadata AS c, a.usage_metadata AS s
            FROM (SELECT line, raw, e, json_transform(answer, {_ANSWER}) AS a FROM wrapped)
        ),
        named AS (
            SELECT line, raw, e, a, {_counts()}, {_modalities()},
                coalesce(a.error.code, e.error.code, a.error.status, e.error.status) AS error
            FROM answers
        ),
        spread AS (
            SELECT *, {_spread()},
                coalesce(candidates_token_count, response_token_count) AS candidates,
                {_of("candidates_tokens_details", "AUDIO")} AS out_audio,
                {_of("candidates_tokens_details", "IMAGE")} AS out_image,
                upper(regexp_replace(coalesce(service_tier, traffic_type), '^.*(ON_DEMAND_|\\.)', '')) AS tier
            FROM named
        ),
        counted AS (
            SELECT *, {numbers(*_SPREAD, *_COUNTED)} FROM spread
        ),
        summed AS (
            SELECT *, {
        ", ".join(f"{plus(f'own_{name}', f'tool_{name}')} AS prompt_{name}" for name in _MODALITIES)
    }
            FROM counted
        ),
        numbered AS (
            SELECT *, {numbers(*(f"prompt_{name}" for name in _MODALITIES))} FROM summed
        )
        SELECT
            line, 0 AS part, {without(_BODIES, _WRAPPINGS)},
            coalesce(a.responseId, a.response_id, e.id, e.request_id, e.key) AS event_id,
            coalesce(a.createTime, a.create_time, e.timestamp) AS ts,
            'google' AS provider,
            coalesce(a.modelVersion, a.model_version) AS model,
            'chat' AS operation,
            e.latency_ms, e.ttft_ms, e.user_id, e.session_id,
            CASE WHEN error IS NULL THEN 'success' WHEN {used(*_USED)} THEN 'error_billed'
                ELSE 'error_unbilled' END AS status,
            error AS error_type,
            {plus("prompt_token_count", "tool_use_prompt_token_count")} AS input_tokens,
            {less("cached_content_token_count", "cached_audio", "cached_image")} AS in_cache_read,
            cached_audio AS in_cache_read_audio,
            cached_image AS in_cache_read_image,
            {less("prompt_audio", "cached_audio")} AS in_audio,
            {less("prompt_image", "cached_image")} AS in_image,
            {less("prompt_video", "cached_video")} AS in_video,
            {less("candidates", "out_audio", "out_image")} AS out_text,
            thoughts_token_count AS out_reasoning,
            out_audio, out_image,
            total_token_count AS total,
            CASE WHEN {exceeded("cached_content_token_count", "cached_audio", "cached_image", "cached_video")}
                OR {exceeded("candidates", "out_audio", "out_image")}
                OR {" OR ".join(exceeded(f"prompt_{name}", f"cached_{name}") for name in _MODALITIES)}
                THEN 'true' END AS contradictory,
            CASE WHEN e.processed_time IS NOT NULL OR e.key IS NOT NULL THEN 'batch'
                WHEN tier IN ('ON_DEMAND', 'STANDARD') THEN 'standard'
                ELSE lower(tier) END AS service_tier
        FROM numbered
    """,
)
