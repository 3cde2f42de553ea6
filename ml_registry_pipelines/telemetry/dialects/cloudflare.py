"""Logs of a Cloudflare AI Gateway, as its API lists them: single logs, or pages with a list `result`.

An answer from the gateway's own cache (`cached`) has tokens and costs nothing. A fallback is a log
of its own with a higher `step`. `tokens_in` and `tokens_out` are sums that are not split by cache or
reasoning, so a cached token counts as an uncached one, and the gateway's `cost` is an estimate.
`metadata` is a text that holds JSON; where it is encrypted, it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, structure_of
from ml_registry_pipelines.telemetry.dialects.sql import (
    PERSONS,
    empty_page,
    object_or_null,
    of_page,
    records_of_pages,
    session_of,
    tags_of,
    used,
    user_of,
)

_FIELDS = {
    "event_id": "id",
    "ts": "created_at",
    "latency_ms": "duration",
    "input_tokens": "tokens_in",
    "output_tokens": "tokens_out",
    "attempt": "step",
}
_NAMES = (
    "id",
    "provider",
    "model",
    "model_type",
    "path",
    "request_type",
    "response_content_type",
    "status_code",
    "success",
    "cached",
    "tokens_in",
    "tokens_out",
    "cost",
    "duration",
    "step",
    "metadata",
    "created_at",
)
_STRUCTURE = structure_of(dict.fromkeys(_NAMES, "VARCHAR"))


def _recognises(record: Mapping[str, Any]) -> bool:
    return {"id", "tokens_in", "tokens_out", "created_at", "provider"} <= set(of_page(record, "result"))


CLOUDFLARE = Dialect(
    name="cloudflare_ai_gateway",
    describes="logs of a Cloudflare AI Gateway, as its API lists them",
    recognises=_recognises,
    input_includes_cached=True,
    output_includes_reasoning=True,
    fields=_FIELDS,
    extra=("labels",),
    bodies=("request", "response", "request_head", "response_head", "metadata"),
    tenant_lookup="""coalesce(
            json_extract_string(raw, getvariable('tenant_field_flat')),
            json_extract_string(raw, getvariable('tenant_field_nested')),
            CASE WHEN starts_with(getvariable('tenant_field_nested'), '/metadata/')
                THEN json_extract_string(labels, substr(getvariable('tenant_field_nested'), 10)) END)""",
    select=f"""
        WITH logs AS (
            SELECT line, part, raw, json_transform(raw, {_STRUCTURE}) AS r FROM ({records_of_pages("result")})
        ),
        held AS (
            SELECT *, {object_or_null("r.metadata")} AS metadata,
                lower(r.success) = 'false' OR (r.success IS NULL AND whole_number(r.status_code) >= 400) AS failed,
                {used("r.tokens_in", "r.tokens_out")} AS used
            FROM logs
        ),
        labelled AS (
            SELECT *, json_transform(labels, {PERSONS}) AS persons
            FROM (SELECT *, CASE WHEN json_exists(metadata, '$.iv') THEN NULL ELSE metadata END AS labels FROM held)
        )
        SELECT
            line, part, raw, labels,
            r.id AS event_id,
            r.created_at AS ts,
            r.duration AS latency_ms,
            r.provider,
            r.model,
            CASE WHEN r.request_type ILIKE '%embedding%' OR r.path ILIKE '%embedding%'
                    OR r.model_type ILIKE '%embedding%' THEN 'embeddings'
                WHEN r.request_type IN ('completion', 'text_completion') THEN 'text_completion'
                ELSE coalesce(nullif(r.request_type, ''), 'chat') END AS operation,
            CASE WHEN whole_number(r.step) >= 0 THEN CAST(whole_number(r.step) + 1 AS VARCHAR) ELSE r.step END
                AS attempt,
            CASE WHEN lower(r.cached) = 'true' THEN 'cache_hit'
                WHEN NOT coalesce(failed, false) THEN 'success'
                WHEN NOT used THEN 'error_unbilled'
                WHEN r.status_code = '499' THEN 'cancelled_billed'
                ELSE 'error_billed' END AS status,
            CASE WHEN failed THEN coalesce(nullif(r.status_code, ''), 'error') END AS error_type,
            CASE WHEN r.response_content_type <> '' THEN
                CAST(starts_with(r.response_content_type, 'text/event-stream') AS VARCHAR) END AS stream,
            r.tokens_in AS input_tokens,
            r.tokens_out AS output_tokens,
            r.cost,
            {user_of("persons")} AS user_id,
            {session_of("persons")} AS session_id,
            {tags_of("labels", "persons")} AS tags,
            CASE WHEN r.id IS NULL AND {empty_page("result")} THEN 'true' END AS ignored
        FROM labelled
    """,
)
