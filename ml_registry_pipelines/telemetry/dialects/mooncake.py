"""The Mooncake trace: conversation requests with times in ms from the start of the trace.

Source: kvcache-ai/Mooncake (Apache-2.0). `hash_ids` names blocks of 512 prompt tokens, so one could
work out which prompts a prefix cache might have served. The trace does not say that it did, nor how
large the cache was: that is a derivation and no record, so all input counts as uncached.
"""

from __future__ import annotations

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, Identity, Times, structure_of

_FIELDS = {"offset_ms": "timestamp", "in_uncached": "input_length", "out_text": "output_length"}
_STRUCTURE = structure_of(dict.fromkeys((*_FIELDS.values(), "hash_ids"), "VARCHAR"))

MOONCAKE = Dialect(
    name="mooncake",
    describes="the Mooncake conversation trace: relative times, token counts and prefix blocks, no model",
    recognises=lambda record: set(_FIELDS.values()) <= set(record),
    times=Times.RELATIVE,
    identity=Identity.CONTENT,
    required=tuple(_FIELDS),
    fields=_FIELDS,
    select=f"""
        SELECT
            line, 0 AS part, raw,
            r.timestamp AS offset_ms,
            r.timestamp || ' ' || coalesce(r.hash_ids, '') AS event_id,
            r.input_length AS in_uncached,
            r.output_length AS out_text,
            'chat' AS operation
        FROM (SELECT line, raw, json_transform(raw, {_STRUCTURE}) AS r FROM records)
    """,
)
