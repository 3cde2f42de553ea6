"""Logs that Portkey exports, one line per request.

`req_units` and `res_units` are tokens, sums that are not split by cache or reasoning. In which unit
`cost` is, cents or whole dollars, the export does not say: a source says it by `cost_unit`, and
without that the logged cost is left out rather than taken a hundred times too high or too low.
"""

from __future__ import annotations

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, structure_of
from ml_registry_pipelines.telemetry.dialects.sql import (
    PERSONS,
    object_or_null,
    session_of,
    tags_of,
    used,
    user_of,
)

_FIELDS = {
    "event_id": "id",
    "ts": "created_at",
    "latency_ms": "response_time",
    "provider": "ai_org",
    "model": "ai_model",
    "input_tokens": "req_units",
    "output_tokens": "res_units",
    "total": "total_units",
    "currency": "cost_currency",
}
_NAMES = (
    *_FIELDS.values(),
    "trace_id",
    "is_success",
    "request_url",
    "cost",
    "response_status_code",
    "mode",
    "config",
    "prompt_slug",
    "cache_status",
    "metadata",
)
_STRUCTURE = structure_of(dict.fromkeys(_NAMES, "VARCHAR"))

PORTKEY = Dialect(
    name="portkey",
    describes="logs that Portkey exports",
    recognises=lambda record: {"id", "created_at", "ai_model", "req_units"} <= set(record),
    input_includes_cached=True,
    output_includes_reasoning=True,
    fields=_FIELDS,
    bodies=("request", "response"),
    select=f"""
        WITH logs AS (
            SELECT line, raw, r,
                lower(r.is_success) IN ('false', '0')
                    OR (r.is_success IS NULL AND whole_number(r.response_status_code) >= 400) AS failed,
                {used("r.req_units", "r.res_units", "r.total_units")} AS used,
                {object_or_null("r.metadata")} AS labels
            FROM (SELECT line, raw, json_transform(raw, {_STRUCTURE}) AS r FROM records)
        ),
        labelled AS (
            SELECT *, json_transform(labels, {PERSONS}) AS persons FROM logs
        )
        SELECT
            line, 0 AS part, raw,
            r.id AS event_id,
            r.created_at AS ts,
            r.response_time AS latency_ms,
            r.trace_id,
            r.ai_org AS provider,
            r.ai_model AS model,
            nullif(regexp_extract(r.request_url, '^[A-Za-z0-9+.-]+://(?:[^/?#@]*@)?([^/?#]+)', 1), '') AS endpoint,
            CASE WHEN r.request_url LIKE '%/embeddings%' THEN 'embeddings'
                WHEN r.request_url LIKE '%/completions%' AND r.request_url NOT LIKE '%/chat/%'
                    THEN 'text_completion'
                ELSE 'chat' END AS operation,
            CASE WHEN upper(r.cache_status) IN ('HIT', 'SEMANTIC HIT', 'SEMANTIC_HIT') THEN 'cache_hit'
                WHEN NOT coalesce(failed, false) THEN 'success'
                WHEN NOT used THEN 'error_unbilled'
                WHEN r.response_status_code = '499' THEN 'cancelled_billed'
                ELSE 'error_billed' END AS status,
            CASE WHEN failed THEN coalesce(nullif(r.response_status_code, ''), 'error') END AS error_type,
            r.req_units AS input_tokens,
            r.res_units AS output_tokens,
            r.total_units AS total,
            CASE getvariable('cost_unit')
                WHEN 'currency' THEN r.cost
                WHEN 'cents' THEN CASE WHEN try_cast(r.cost AS DECIMAL(26, 12)) IS NULL THEN r.cost
                    ELSE CAST(try_cast(r.cost AS DECIMAL(26, 12)) * CAST('0.01' AS DECIMAL(3, 2)) AS VARCHAR) END
            END AS cost,
            r.cost_currency AS currency,
            {user_of("persons")} AS user_id,
            {session_of("persons")} AS session_id,
            {
        tags_of(
            "labels",
            "persons",
            {
                "mode": "nullif(r.mode, '')",
                "config": "nullif(r.config, '')",
                "prompt": "nullif(r.prompt_slug, '')",
            },
        )
    } AS tags
        FROM labelled
    """,
)
