"""Observations that Langfuse exports: from its API (camelCase, also pages), or as files (snake_case).

Only generations and embeddings call a model; what else has usage repeats it. The keys of
`usageDetails` are meant to be disjoint, so that their sum is the total. Some SDKs break that and
count cached input within `input` and reasoning within `output`: where the total is input and output
alone, the others are taken out of them. Without a total, or where Langfuse has summed it up itself,
the keys are taken to be what they are meant to be. A key that is not known makes the usage
inconsistent, since nobody can say what it is part of. Bodies and metadata are never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, differing, structure_of
from ml_registry_pipelines.telemetry.dialects.sql import (
    empty_page,
    exceeded,
    less,
    numbers,
    object_or_null,
    of_page,
    plus,
    records_of_pages,
    total,
    used,
)

_FIELDS = {
    "event_id": "id",
    "ts": "startTime",
    "end_ts": "endTime",
    "first_token_ts": "completionStartTime",
    "latency_s": "latency",
    "ttft_s": "timeToFirstToken",
    "total": "usageDetails.total",
    "in_uncached": "usageDetails.input",
    "out_text": "usageDetails.output",
    "cost": "costDetails.total",
}
_NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "trace_id": ("traceId", "trace_id"),
    "type": ("type",),
    "parent_id": ("parentObservationId", "parent_observation_id"),
    "start_time": ("startTime", "start_time"),
    "end_time": ("endTime", "end_time"),
    "first_token_time": ("completionStartTime", "completion_start_time"),
    "name": ("name",),
    "level": ("level",),
    "environment": ("environment",),
    "model": ("model", "providedModelName", "provided_model_name"),
    "user_id": ("userId", "user_id"),
    "session_id": ("sessionId", "session_id"),
    "application": ("serviceName", "service_name"),
    "release": ("release",),
    "version": ("version",),
    "prompt": ("promptName", "prompt_name"),
    "prompt_version": ("promptVersion", "prompt_version"),
    "latency": ("latency",),
    "ttft": ("timeToFirstToken",),
    "usage_details": ("usageDetails", "usage_details"),
    "cost_details": ("costDetails", "cost_details"),
    "total_cost": ("totalCost", "calculatedTotalCost", "total_cost"),
    "input_usage": ("inputUsage", "promptTokens", "input_usage"),
    "output_usage": ("outputUsage", "completionTokens", "output_usage"),
    "total_usage": ("totalUsage", "totalTokens", "total_usage"),
    "unit": ("unit",),
}
_STRUCTURE = structure_of(
    {
        **dict.fromkeys((name for names in _NAMES.values() for name in names), "VARCHAR"),
        "usage": dict.fromkeys(("input", "output", "total", "unit"), "VARCHAR"),
    }
)
_USAGE: dict[str, tuple[str, ...]] = {
    "input": ("input", "input_tokens", "prompt_tokens"),
    "input_text": ("input_text_tokens", "input_text"),
    "read": (
        "input_cached_tokens",
        "input_cache_read",
        "cache_read_input_tokens",
        "input_cache_read_tokens",
        "input_cache_read_input_tokens",
        "cached_tokens",
    ),
    "written": (
        "input_cache_creation",
        "cache_creation_input_tokens",
        "input_cache_creation_tokens",
        "input_cache_creation_input_tokens",
        "input_cache_write",
        "input_cache_write_tokens",
    ),
    "written_5m": ("input_cache_creation_5m", "input_ephemeral_5m_input_tokens", "ephemeral_5m_input_tokens"),
    "written_1h": ("input_cache_creation_1h", "input_ephemeral_1h_input_tokens", "ephemeral_1h_input_tokens"),
    "in_audio": ("input_audio_tokens", "input_audio"),
    "in_image": ("input_image_tokens", "input_image"),
    "in_video": ("input_video_tokens", "input_video"),
    "output": ("output", "output_tokens", "completion_tokens"),
    "output_text": ("output_text_tokens", "output_text"),
    "accepted": ("output_accepted_prediction_tokens",),
    "rejected": ("output_rejected_prediction_tokens",),
    "reasoning": ("output_reasoning_tokens", "output_reasoning", "reasoning_tokens"),
    "out_audio": ("output_audio_tokens", "output_audio"),
    "out_image": ("output_image_tokens", "output_image"),
    "total": ("total", "total_tokens"),
}
"""What SDKs call the same count in `usageDetails`, Langfuse's own name first."""
_KNOWN = tuple(name for names in _USAGE.values() for name in names)
_DETAILS = structure_of(dict.fromkeys(_KNOWN, "VARCHAR"))
_INPUT_PARTS = ("input_text", "read", "write_5m", "write_1h", "in_audio", "in_image", "in_video")
_OUTPUT_PARTS = ("output_text", "accepted", "rejected", "reasoning", "out_audio", "out_image")
_MODEL_CALLS = ("GENERATION", "EMBEDDING")
_TOOLS = ("TOOL", "RETRIEVER", "EVALUATOR", "GUARDRAIL")
_TYPES = (*_MODEL_CALLS, *_TOOLS, "SPAN", "EVENT", "AGENT", "CHAIN")


def _recognises(record: Mapping[str, Any]) -> bool:
    found = of_page(record, "data")
    return (
        "id" in found
        and str(found.get("type")).upper() in _TYPES
        and bool({"traceId", "trace_id"} & set(found))
        and bool({"startTime", "start_time"} & set(found))
    )


def _either(names: tuple[str, ...], of: str) -> str:
    return "coalesce(" + ", ".join(f'{of}."{name}"' for name in names) + ")"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


_SUM_OF_COSTS = """CAST(list_sum(list_transform(
                    map_values(CAST(CAST(costs AS JSON) AS MAP(VARCHAR, VARCHAR))),
                    lambda amount: exact_amount(amount))) AS VARCHAR)"""
_UNKNOWN_KEYS = f"""
                    len(list_filter(map_entries(CAST(CAST(details AS JSON) AS MAP(VARCHAR, VARCHAR))), lambda entry:
                        NOT list_contains([{_listed(_KNOWN)}], entry.key)
                        AND coalesce(try_cast(entry.value AS DOUBLE), 1) <> 0)) > 0"""
_DIFFERENT = differing(*([f'u."{name}"' for name in names] for names in _USAGE.values() if len(names) > 1))

LANGFUSE = Dialect(
    name="langfuse",
    describes="observations that Langfuse exports",
    recognises=_recognises,
    time_zone="UTC",
    input_includes_cached=False,
    output_includes_reasoning=False,
    fields=_FIELDS,
    bodies=("input", "output", "metadata", "statusMessage", "status_message", "modelParameters"),
    nests=True,
    select=f"""
        WITH observations AS (
            SELECT line, part, raw, r.usage AS old,
                {", ".join(f"{_either(names, 'r')} AS {name}" for name, names in _NAMES.items())}
            FROM (
                SELECT line, part, raw, json_transform(raw, {_STRUCTURE}) AS r FROM ({
        records_of_pages("data")
    })
            )
        ),
        detailed AS (
            SELECT *, json_transform(details, {_DETAILS}) AS u
            FROM (
                SELECT *, {object_or_null("usage_details")} AS details, {
        object_or_null("cost_details")
    } AS costs
                FROM observations
            )
        ),
        named AS (
            SELECT *, {", ".join(f"{_either(names, 'u')} AS named_{name}" for name, names in _USAGE.items())}
            FROM detailed
        ),
        spelled AS (
            SELECT * EXCLUDE (old, unit),
                {
        ", ".join(f"named_{name} AS {name}" for name in _USAGE if name not in ("input", "output", "total"))
    },
                coalesce(named_input, input_usage, old.input) AS input,
                coalesce(named_output, output_usage, old.output) AS output,
                coalesce(named_total, total_usage, old.total) AS total,
                upper(coalesce(nullif(unit, ''), nullif(old.unit, ''), 'TOKENS')) AS unit,
                coalesce(len(json_keys(details)), 0)
                    = {" + ".join(f"CAST(named_{name} IS NOT NULL AS INTEGER)" for name in _USAGE)} AS plain
            FROM named
        ),
        numbered AS (
            SELECT *, {numbers(*_USAGE)} FROM spelled
        ),
        written AS (
            SELECT *,
                CASE WHEN written_5m IS NOT NULL OR written_1h IS NULL THEN coalesce(written_5m, written)
                    ELSE {less("written", "written_1h")} END AS write_5m,
                CASE WHEN written_1h IS NULL AND written_n > written_5m_n
                    THEN {less("written", "written_5m")} ELSE written_1h END AS write_1h
            FROM numbered
        ),
        timed AS (
            SELECT *, {numbers("write_5m", "write_1h")} FROM written
        ),
        counted AS (
            SELECT *,
                {total(("input", "output"))} AS summed,
                {total(_INPUT_PARTS)} AS input_parts,
                {total(_OUTPUT_PARTS)} AS output_parts
            FROM timed
        ),
        judged AS (
            SELECT *,
                coalesce(input_parts + output_parts > 0 AND total_n = summed, false) AS inclusive,
                upper(type) IN ({_listed(_MODEL_CALLS)}) AS calls,
                {used("input", "output", "total")} OR input_parts + output_parts > 0 AS used,
                upper(level) = 'ERROR' AS failed
            FROM counted
        )
        SELECT
            line, part, raw,
            id AS event_id,
            start_time AS ts,
            nullif(end_time, '') AS end_ts,
            nullif(first_token_time, '') AS first_token_ts,
            CASE WHEN nullif(end_time, '') IS NULL THEN latency END AS latency_s,
            CASE WHEN nullif(first_token_time, '') IS NULL THEN ttft END AS ttft_s,
            nullif(trace_id, '') AS trace_id,
            id AS span_id,
            nullif(parent_id, '') AS parent_id,
            model, environment, application, user_id, session_id,
            CASE upper(type) WHEN 'GENERATION' THEN 'chat' WHEN 'EMBEDDING' THEN 'embeddings'
                ELSE lower(type) END AS operation,
            CASE WHEN calls THEN NULL WHEN upper(type) IN ({_listed(_TOOLS)}) THEN 'tool' ELSE 'aggregate' END
                AS kind,
            CASE WHEN NOT coalesce(failed, false) THEN NULL WHEN used THEN 'error_billed'
                ELSE 'error_unbilled' END AS status,
            CASE WHEN failed THEN 'error' END AS error_type,
            CASE WHEN inclusive THEN CAST(greatest(coalesce(input_n, 0) - input_parts, 0)
                    + coalesce(input_text_n, 0) AS VARCHAR)
                ELSE {plus("input", "input_text")} END AS in_uncached,
            read AS in_cache_read,
            write_5m AS in_cache_write_5m,
            write_1h AS in_cache_write_1h,
            in_audio, in_image, in_video,
            CASE WHEN inclusive THEN CAST(greatest(coalesce(output_n, 0) - output_parts, 0)
                    + {total(("output_text", "accepted", "rejected"))} AS VARCHAR)
                ELSE {plus("output", "output_text", "accepted", "rejected")} END AS out_text,
            reasoning AS out_reasoning,
            out_audio, out_image, total,
            CASE WHEN unit <> 'TOKENS'
                OR {exceeded("written", "written_5m", "written_1h")} AND written IS NOT NULL
                OR written_n > written_5m_n + written_1h_n
                OR inclusive AND (input_parts > coalesce(input_n, 0) OR output_parts > coalesce(output_n, 0))
                -- As many keys as counts: none is unknown, and none says again what another one says.
                OR CASE WHEN plain THEN false ELSE {_DIFFERENT} OR {_UNKNOWN_KEYS} END
                THEN 'true' END AS contradictory,
            CASE WHEN total_cost IS NOT NULL OR costs IS NULL THEN total_cost
                WHEN json_exists(costs, '$.total') THEN json_extract_string(costs, '$.total')
                ELSE {_SUM_OF_COSTS} END AS cost,
            CASE WHEN coalesce(name, prompt, release, version) IS NOT NULL THEN
                CAST(json_merge_patch('{{}}', json_object('name', name, 'prompt', prompt,
                    'prompt_version', prompt_version, 'release', release, 'version', version)) AS VARCHAR)
            END AS tags,
            CASE WHEN id IS NULL AND {empty_page("data")} THEN 'true'
                WHEN id IS NOT NULL AND NOT calls AND NOT used THEN 'true' END AS ignored
        FROM judged
    """,
)
