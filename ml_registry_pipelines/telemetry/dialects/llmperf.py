"""Calls of the LLMPerf benchmark: providers side by side, latencies in seconds, no times of day.

Source: ray-project/llmperf-leaderboard (Apache-2.0). A failed call has an `error_code`, and where
there was no answer its latencies are 0: no time at all, not a very short one. A code of -100 means
that the answer was too short for the benchmark; it was given and billed, and its latencies are real.
"""

from __future__ import annotations

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, Identity, Times, structure_of

_FIELDS = {
    "event_id": "request_no",
    "error_type": "error_code",
    "latency_s": "end_to_end_latency_s",
    "ttft_s": "ttft_s",
    "in_uncached": "input_tokens",
    "out_text": "output_tokens",
}
_STRUCTURE = structure_of(dict.fromkeys(("provider", "model", *_FIELDS.values()), "VARCHAR"))

LLMPERF = Dialect(
    name="llmperf",
    describes="calls of the LLMPerf benchmark, with latencies and errors but no times of day",
    recognises=lambda record: {"request_no", "ttft_s", "end_to_end_latency_s"} <= set(record),
    times=Times.ABSENT,
    identity=Identity.CONTENT,
    required=("provider", "model", "event_id"),
    fields=_FIELDS,
    select=f"""
        SELECT
            line, 0 AS part, raw,
            r.provider,
            r.model,
            r.request_no AS event_id,
            r.error_code AS error_type,
            CASE WHEN try_cast(r.error_code AS DOUBLE) = -100 THEN 'error_billed'
                 WHEN r.error_code <> '' THEN 'error_unbilled' END AS status,
            CASE WHEN r.error_code <> '' AND try_cast(r.end_to_end_latency_s AS DOUBLE) = 0 THEN NULL
                 ELSE r.end_to_end_latency_s END AS latency_s,
            CASE WHEN r.error_code <> '' AND try_cast(r.ttft_s AS DOUBLE) = 0 THEN NULL
                 ELSE r.ttft_s END AS ttft_s,
            r.input_tokens AS in_uncached,
            r.output_tokens AS out_text,
            'chat' AS operation
        FROM (SELECT line, raw, json_transform(raw, {_STRUCTURE}) AS r FROM records)
    """,
)
