"""The platform's own record: one attempt of one request, tokens in disjoint buckets.

Its fields, types and limits are `native.schema.json`, which the project ships for producers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, TOKEN_BUCKETS
from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, structure_of

SCHEMA_FILE = Path(__file__).with_name("native.schema.json")
"""JSON Schema (draft 2020-12) of one native record."""

_TEXTS = (
    "event_id",
    "provider",
    "model",
    "source_system",
    "tenant",
    "application",
    "environment",
    "endpoint",
    "requested_model",
    "operation",
    "error_type",
    "trace_id",
    "parent_id",
    "user_id",
    "session_id",
    "service_tier",
    "region",
)
_PLAIN = ("ts", "attempt", "kind", "status", "latency_ms", "ttft_ms", "stream", "cost", "currency", "tags")
# The usual ones first: to see that there is no usage at all, the first one found is enough.
_USUAL = ("out_text", "in_uncached")
_USAGE = (*_USUAL, *(n for n in (*TOKEN_BUCKETS, *COUNTERS) if n not in _USUAL), "audio_seconds", "total")

_STRUCTURE = structure_of(
    {**dict.fromkeys((*_TEXTS, *_PLAIN), "VARCHAR"), "usage": dict.fromkeys(_USAGE, "VARCHAR")}
)
# json_transform gives an object as its JSON text. Only a text that looks like one is looked at again.
_STRICT_TEXTS = ("event_id", "provider", "model", "source_system", "tenant")
_NESTED_TEXT = f"""
    CASE WHEN {" OR ".join(f"ascii(r.{name}) IN (91, 123)" for name in _STRICT_TEXTS)} THEN
        list_filter([{", ".join(f"'{name}'" for name in _STRICT_TEXTS)}],
            lambda name: json_type(raw, '/' || name) IN ('OBJECT', 'ARRAY'))[1]
        || '|is an object or a list, not a text'
    END"""
_USAGE_OF_ANOTHER_TYPE = f"""
    CASE WHEN coalesce({", ".join(f"r.usage.{name}" for name in _USAGE)}) IS NULL
          AND json_type(raw, '/usage') NOT IN ('OBJECT', 'NULL') THEN 'usage|is not an object' END"""

NATIVE = Dialect(
    name="native",
    describes="the platform's own record, tokens in disjoint buckets",
    recognises=lambda record: "event_id" in record and "ts" in record,
    required=("event_id", "ts", "provider", "model"),
    fields={name: f"usage.{name}" for name in _USAGE},
    select=f"""
        SELECT
            line, 0 AS part, raw,
            {", ".join(f"r.{name}" for name in (*_TEXTS, *_PLAIN) if name != "operation")},
            coalesce(nullif(r.operation, ''), 'chat') AS operation,
            {", ".join(f"r.usage.{name}" for name in _USAGE)},
            coalesce({_NESTED_TEXT}, {_USAGE_OF_ANOTHER_TYPE}) AS wrong
        FROM (SELECT line, raw, json_transform(raw, {_STRUCTURE}) AS r FROM records)
    """,
)


def schema() -> Mapping[str, Any]:
    """The JSON Schema of one record."""
    import json

    held: Mapping[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return held
