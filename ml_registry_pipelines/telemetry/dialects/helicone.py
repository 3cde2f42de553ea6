"""Requests that Helicone exports: as its API gives them, or as rows of its table `request_response_rmt`.

Whether `prompt_tokens` counts cached input depends on Helicone's version and on the provider, and
only the total tells: where cache reads and writes are in the total besides prompt and completion,
they are not in `prompt_tokens`; where the total is prompt and completion alone, they are in it,
unless the provider itself leaves them out of its count. Where that does not settle it, the usage is
inconsistent and not priced. A row that refers to an earlier one as `cache_reference_id` was answered
from Helicone's cache. The table's `cost` is an integer of 10^-9 USD; `costUSD` is USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, structure_of
from ml_registry_pipelines.telemetry.dialects.sql import (
    PERSONS,
    empty_page,
    numbers,
    object_or_null,
    of_page,
    plus,
    records_of_pages,
    session_of,
    tags_of,
    total,
    used,
    user_of,
)

_FIELDS = {
    "event_id": "request_id",
    "ts": "request_created_at",
    "end_ts": "response_created_at",
    "latency_ms": "delay_ms",
    "ttft_ms": "time_to_first_token",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "total": "total_tokens",
    "in_cache_read": "prompt_cache_read_tokens",
    "in_cache_write_5m": "prompt_cache_write_tokens",
    "in_audio": "prompt_audio_tokens",
    "out_audio": "completion_audio_tokens",
    "cost": "costUSD",
}
_NAMES = (
    *_FIELDS.values(),
    "response_status",
    "status",
    "request_model",
    "response_model",
    "model_override",
    "model",
    "provider",
    "request_path",
    "target_url",
    "request_user_id",
    "user_id",
    "request_properties",
    "properties",
    "latency",
    "cost",
    "organization_id",
    "cache_reference_id",
    "country_code",
)
_STRUCTURE = structure_of(dict.fromkeys(dict.fromkeys(_NAMES), "VARCHAR"))
_NO_REFERENCE = "00000000-0000-0000-0000-000000000000"
_CANCELLED = ("499", "-3", "-4")
"""Codes of Helicone's own for an answer that nobody waited for: it ran into a timeout, or the client left."""


def _recognises(record: Mapping[str, Any]) -> bool:
    found = set(of_page(record, "data"))
    return {"request_id", "request_created_at", "prompt_tokens"} <= found


HELICONE = Dialect(
    name="helicone",
    describes="requests that Helicone exports",
    recognises=_recognises,
    time_zone="UTC",
    input_includes_cached=True,
    output_includes_reasoning=True,
    fields=_FIELDS,
    bodies=("request_body", "response_body", "scores", "signed_body_url", "asset_ids", "assets"),
    select=f"""
        WITH requests AS (
            SELECT *,
                coalesce(r.response_status, r.status) AS code,
                r.prompt_tokens AS prompt, r.completion_tokens AS completion,
                r.prompt_cache_read_tokens AS read, r.prompt_cache_write_tokens AS written,
                whole_number(r.total_tokens) AS total,
                upper(r.provider) SIMILAR TO '.*(ANTHROPIC|AWS|BEDROCK).*' AS apart,
                {object_or_null("coalesce(r.request_properties, r.properties)")} AS labels
            FROM (
                SELECT line, part, raw, json_transform(raw, {_STRUCTURE}) AS r FROM ({records_of_pages("data")})
            )
        ),
        numbered AS (
            SELECT *, {numbers("prompt", "completion", "read", "written")}, whole_number(code) AS status_code
            FROM requests
        ),
        judged AS (
            SELECT *,
                {used("prompt", "completion", "read", "written")} AS used,
                {used("read", "written")} AS cached,
                total = {total(("prompt", "completion"))} AS within,
                total = {total(("prompt", "completion", "read", "written"))} AS beside,
                status_code >= 400 OR status_code < 0 AS failed,
                json_transform(labels, {PERSONS}) AS persons
            FROM numbered
        )
        SELECT
            line, part, raw,
            r.request_id AS event_id,
            r.request_created_at AS ts,
            r.response_created_at AS end_ts,
            coalesce(r.delay_ms, r.latency) AS latency_ms,
            CASE WHEN whole_number(r.time_to_first_token) = 0 THEN NULL ELSE r.time_to_first_token END AS ttft_ms,
            lower(r.provider) AS provider,
            coalesce(nullif(r.response_model, ''), nullif(r.model_override, ''), nullif(r.model, ''),
                r.request_model) AS model,
            r.request_model AS requested_model,
            nullif(regexp_extract(r.target_url, '^[A-Za-z0-9+.-]+://(?:[^/?#@]*@)?([^/?#]+)', 1), '') AS endpoint,
            CASE WHEN coalesce(r.request_path, r.target_url) LIKE '%embeddings%' THEN 'embeddings' ELSE 'chat' END
                AS operation,
            CASE WHEN r.cache_reference_id NOT IN ('', '{_NO_REFERENCE}', r.request_id) THEN 'cache_hit'
                WHEN NOT coalesce(failed, false) THEN 'success'
                WHEN NOT used THEN 'error_unbilled'
                WHEN code IN ({", ".join(f"'{code}'" for code in _CANCELLED)}) THEN 'cancelled_billed'
                ELSE 'error_billed' END AS status,
            CASE WHEN failed THEN code END AS error_type,
            CASE WHEN cached AND beside THEN {plus("prompt", "read", "written")} ELSE prompt END
                AS input_tokens,
            r.completion_tokens AS output_tokens,
            r.total_tokens AS total,
            r.prompt_cache_read_tokens AS in_cache_read,
            r.prompt_cache_write_tokens AS in_cache_write_5m,
            r.prompt_audio_tokens AS in_audio,
            r.completion_audio_tokens AS out_audio,
            CASE WHEN cached AND NOT coalesce(beside, false) AND (apart OR NOT coalesce(within, false))
                THEN 'true' END AS contradictory,
            CASE WHEN r.costUSD IS NOT NULL THEN r.costUSD
                WHEN r.organization_id IS NOT NULL AND r.request_path IS NULL THEN
                    CASE WHEN whole_number(r.cost) IS NULL THEN r.cost
                        ELSE CAST(CAST(whole_number(r.cost) AS DECIMAL(18, 0)) * CAST('0.000000001' AS DECIMAL(10, 9))
                            AS VARCHAR) END
            END AS cost,
            coalesce(nullif(r.request_user_id, ''), nullif(r.user_id, ''), {user_of("persons")}) AS user_id,
            {session_of("persons")} AS session_id,
            {tags_of("labels", "persons", {"country": "nullif(r.country_code, '')"})} AS tags,
            CASE WHEN r.request_id IS NULL AND {empty_page("data")} THEN 'true' END AS ignored
        FROM judged
    """,
)
