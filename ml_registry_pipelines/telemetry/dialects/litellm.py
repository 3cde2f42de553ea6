"""LiteLLM's standard logging payload, as its callbacks and buckets receive it (litellm 1.109).

`id` is one attempt: retries and fallbacks have ids of their own and share `trace_id`. `model` is
what the deployment is called, `model_group` the alias that was asked for. `prompt_tokens` counts
cached input too, `completion_tokens` reasoning too. Cache reads and writes stand in two places;
where those differ, the usage is inconsistent. `messages` and `response` are never stored.
"""

from __future__ import annotations

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, differing, structure_of

_FIELDS = {
    "event_id": "id",
    "ts": "startTime",
    "end_ts": "endTime",
    "first_token_ts": "completionStartTime",
    "provider": "custom_llm_provider",
    "requested_model": "model_group",
    "operation": "call_type",
    "cost": "response_cost",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "total": "total_tokens",
    "in_cache_read": "cached_tokens",
    "in_cache_write_5m": "cache_creation_tokens",
    "out_reasoning": "reasoning_tokens",
}
_CACHE_READ = ("p.cached_tokens", "u.cache_read_input_tokens")
_CACHE_WRITE = ("p.cache_creation_tokens", "u.cache_creation_input_tokens")
_SEARCHES = ("p.web_search_requests", "u.server_tool_use.web_search_requests")
_STRUCTURE = structure_of(
    {
        **dict.fromkeys(
            (
                "id",
                "trace_id",
                "session_id",
                "litellm_call_id",
                "call_type",
                "stream",
                "response_cost",
                "status",
                "custom_llm_provider",
                "total_tokens",
                "prompt_tokens",
                "completion_tokens",
                "startTime",
                "endTime",
                "completionStartTime",
                "model",
                "model_id",
                "model_group",
                "api_base",
                "cache_hit",
                "request_tags",
                "end_user",
            ),
            "VARCHAR",
        ),
        "error_information": {"error_class": "VARCHAR", "error_code": "VARCHAR"},
        "cost_breakdown": {
            "service_tier": "VARCHAR",
            "data_residency": "VARCHAR",
            "vertex_location": "VARCHAR",
        },
        "metadata": {
            "user_api_key_alias": "VARCHAR",
            "user_api_key_team_id": "VARCHAR",
            "user_api_key_org_id": "VARCHAR",
            "user_api_key_end_user_id": "VARCHAR",
            "usage_object": {
                "cache_creation_input_tokens": "VARCHAR",
                "cache_read_input_tokens": "VARCHAR",
                "prompt_tokens_details": {
                    "cached_tokens": "VARCHAR",
                    "audio_tokens": "VARCHAR",
                    "image_tokens": "VARCHAR",
                    "video_tokens": "VARCHAR",
                    "cache_creation_tokens": "VARCHAR",
                    "web_search_requests": "VARCHAR",
                    "cache_creation_token_details": {
                        "ephemeral_5m_input_tokens": "VARCHAR",
                        "ephemeral_1h_input_tokens": "VARCHAR",
                    },
                },
                "completion_tokens_details": {
                    "reasoning_tokens": "VARCHAR",
                    "audio_tokens": "VARCHAR",
                    "image_tokens": "VARCHAR",
                },
                "server_tool_use": {"web_search_requests": "VARCHAR"},
            },
        },
    }
)

LITELLM = Dialect(
    name="litellm",
    describes="LiteLLM's standard logging payload",
    recognises=lambda record: {"id", "call_type", "startTime"} <= set(record),
    input_includes_cached=True,
    output_includes_reasoning=True,
    fields=_FIELDS,
    bodies=("messages", "response", "error_str"),
    select=f"""
        WITH payloads AS (
            SELECT line, raw, r,
                r.error_information AS f,
                r.metadata AS m,
                r.metadata.usage_object AS u,
                r.metadata.usage_object.prompt_tokens_details AS p,
                r.metadata.usage_object.completion_tokens_details AS c,
                coalesce(try_cast(r.total_tokens AS BIGINT), 0) > 0
                    OR coalesce(try_cast(r.response_cost AS DOUBLE), 0) > 0 AS billed
            FROM (SELECT line, raw, json_transform(raw, {_STRUCTURE}) AS r FROM records)
        ),
        -- A cache write as a whole, and what of it lives for five minutes and for an hour.
        written AS (
            SELECT *,
                coalesce({", ".join(_CACHE_WRITE)}) AS w,
                p.cache_creation_token_details.ephemeral_5m_input_tokens AS w5,
                p.cache_creation_token_details.ephemeral_1h_input_tokens AS w1
            FROM payloads
        )
        SELECT
            line, 0 AS part, raw,
            r.id AS event_id,
            r.startTime AS ts,
            r.endTime AS end_ts,
            r.completionStartTime AS first_token_ts,
            r.custom_llm_provider AS provider,
            r.model,
            r.model_group AS requested_model,
            CASE
                WHEN r.call_type IN
                    ('completion', 'acompletion', 'responses', 'aresponses', 'anthropic_messages') THEN 'chat'
                WHEN r.call_type IN ('embedding', 'aembedding') THEN 'embeddings'
                WHEN r.call_type IN ('text_completion', 'atext_completion') THEN 'text_completion'
                ELSE r.call_type
            END AS operation,
            CASE
                WHEN lower(r.cache_hit) IN ('true', '1') THEN 'cache_hit'
                WHEN r.status = 'failure' THEN CASE WHEN billed THEN 'error_billed' ELSE 'error_unbilled' END
                ELSE r.status
            END AS status,
            CASE WHEN r.status = 'failure' THEN
                coalesce(nullif(f.error_class, ''), nullif(f.error_code, ''), 'failure')
            END AS error_type,
            r.stream,
            r.trace_id,
            r.session_id,
            coalesce(nullif(r.end_user, ''), m.user_api_key_end_user_id) AS user_id,
            m.user_api_key_alias AS application,
            coalesce(
                nullif(regexp_extract(r.api_base, '^[A-Za-z0-9+.-]+://(?:[^/?#@]*@)?([^/?#]+)', 1), ''),
                r.model_id
            ) AS endpoint,
            r.prompt_tokens AS input_tokens,
            r.completion_tokens AS output_tokens,
            r.total_tokens AS total,
            coalesce({", ".join(_CACHE_READ)}) AS in_cache_read,
            CASE WHEN w5 IS NOT NULL OR w1 IS NULL THEN coalesce(w5, w)
                WHEN whole_number(w) IS NULL THEN w
                ELSE CAST(greatest(whole_number(w) - whole_number(w1), 0) AS VARCHAR)
            END AS in_cache_write_5m,
            CASE WHEN w1 IS NULL AND whole_number(w) > whole_number(w5)
                THEN CAST(whole_number(w) - whole_number(w5) AS VARCHAR)
                ELSE w1
            END AS in_cache_write_1h,
            CASE WHEN {differing(_CACHE_READ, _CACHE_WRITE, _SEARCHES)}
                OR whole_number(w) < coalesce(whole_number(w5), 0) + coalesce(whole_number(w1), 0)
                OR whole_number(w) > whole_number(w5) + whole_number(w1)
            THEN 'true' END AS contradictory,
            p.audio_tokens AS in_audio,
            p.image_tokens AS in_image,
            p.video_tokens AS in_video,
            c.reasoning_tokens AS out_reasoning,
            c.audio_tokens AS out_audio,
            c.image_tokens AS out_image,
            coalesce({", ".join(_SEARCHES)}) AS n_search,
            r.response_cost AS cost,
            r.cost_breakdown.service_tier AS service_tier,
            coalesce(nullif(r.cost_breakdown.data_residency, ''), r.cost_breakdown.vertex_location) AS region,
            CASE WHEN coalesce(m.user_api_key_team_id, m.user_api_key_org_id, r.model_id, r.litellm_call_id,
                               nullif(r.request_tags, '[]')) IS NOT NULL THEN
                CAST(json_merge_patch('{{}}', json_object(
                    'team', m.user_api_key_team_id,
                    'org', m.user_api_key_org_id,
                    'deployment', r.model_id,
                    'call_id', r.litellm_call_id,
                    'request_tags', CASE WHEN json_valid(r.request_tags) THEN CAST(r.request_tags AS JSON) END
                )) AS VARCHAR)
            END AS tags
        FROM written
    """,
)
