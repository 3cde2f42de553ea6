"""What makes a record the same record: keys over its identity and over what is billed.

Keys are the first 64 bits of SHA-256 as a signed integer, over an encoding in which no
two different tuples share a text: every text is led by its length in bytes. The SQL and
the Python here are the same function; the tables on disk rely on neither ever changing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, TOKEN_BUCKETS

MACROS: tuple[str, ...] = (
    "CREATE MACRO sized(text) AS coalesce(strlen(text) || ':' || text, '-')",
    "CREATE MACRO key_of(text) AS CAST(CAST(from_hex(sha256(text)[1:16]) AS BIT) AS BIGINT)",
    "CREATE MACRO salted(salt, tenant, id) AS"
    " CASE WHEN id IS NOT NULL THEN sha256(sized(salt) || sized(tenant) || sized(id))[1:32] END",
)

EVENT_KEY = "key_of(sized(tenant) || sized(source_system) || sized(event_id) || attempt)"
"""SQL over the columns of an attempt."""

_BILLED_TEXTS = ("provider", "model", "status", "kind", "service_tier", "region")
_BILLED_COUNTS = (*TOKEN_BUCKETS, *COUNTERS)

CONTENT_KEY = "key_of(concat_ws('|', {}, {}, coalesce(audio_seconds, 0), usage_quality))".format(
    ", ".join(f"sized({name})" for name in _BILLED_TEXTS),
    ", ".join(f"coalesce({name}, 0)" for name in _BILLED_COUNTS),
)
"""SQL: times and latencies are no part of it, because a resend may carry others."""

CONTENT_DIGEST = "sha256(concat_ws('|', sized(event_id), {}, {}, {}))[1:32]".format(
    ", ".join(f"sized({name})" for name in (*_BILLED_TEXTS, "error_type")),
    ", ".join(f"coalesce(CAST({name} AS VARCHAR), '-')" for name in (*_BILLED_COUNTS, "latency_ms", "ttft_ms")),
    "coalesce(CAST(logged_us AS VARCHAR), '-')",
)
"""SQL: the whole content of a record that has no id of its own; an assumed time is no part of it."""


def event_key(tenant: str, source_system: str, event_id: str, attempt: int = 1) -> int:
    """The `event_key` of one attempt, as the tables hold it.

    >>> event_key("acme", "native", "req-1")
    -8124530447297087545
    """
    return _key_of("".join(map(_sized, (tenant, source_system, event_id))) + str(attempt))


def salted_hash(salt: str, tenant: str, identifier: str) -> str:
    """What the tables hold instead of a person's or conversation's id: 32 hexadecimal digits."""
    text = "".join(map(_sized, (salt, tenant, identifier)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _sized(text: str) -> str:
    return f"{len(text.encode())}:{text}"


def _key_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def quoted(names: Sequence[str]) -> str:
    """Names as SQL texts, between commas."""
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)
