"""The Azure LLM inference trace: arrival time and two token counts, and nothing else.

Source: Azure/AzurePublicDataset (CC-BY 4.0). No model, no latency, no id. Times have seven
decimals and no zone; they are UTC.
"""

from __future__ import annotations

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, Identity, structure_of

_FIELDS = {"ts": "TIMESTAMP", "in_uncached": "ContextTokens", "out_text": "GeneratedTokens"}
_STRUCTURE = structure_of(dict.fromkeys(_FIELDS.values(), "VARCHAR"))

AZURE_TRACE = Dialect(
    name="azure_trace",
    describes="the public Azure LLM inference trace: arrival times and token counts, no model",
    recognises=lambda record: set(_FIELDS.values()) <= set(record),
    time_zone="UTC",
    identity=Identity.CONTENT,
    required=("ts", "in_uncached", "out_text"),
    fields=_FIELDS,
    select=f"""
        SELECT
            line, 0 AS part, raw,
            r.TIMESTAMP AS ts,
            r.ContextTokens AS in_uncached,
            r.GeneratedTokens AS out_text
        FROM (SELECT line, raw, json_transform(raw, {_STRUCTURE}) AS r FROM records)
    """,
)
