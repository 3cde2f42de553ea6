"""What makes a record the same record: a key over its identity.

Keys are the first 64 bits of SHA-256 as a signed integer, over an encoding in which no
two different tuples share a text: every text is led by its length in bytes. The SQL and
the Python here are the same function; the tables on disk rely on neither ever changing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, TOKEN_BUCKETS

MACROS: tuple[str, ...] = (
    "CREATE TEMP MACRO sized(text) AS coalesce(strlen(text) || ':' || text, '-')",
    "CREATE TEMP MACRO key_of(text) AS CAST(CAST(from_hex(left(sha256(text), 16)) AS BIT) AS BIGINT)",
    """
    CREATE TEMP MACRO salted(salt, tenant, id) AS CASE WHEN id IS NOT NULL THEN
        sha256(concat(strlen(salt), ':', salt, strlen(tenant), ':', tenant, strlen(id), ':', id))[1:32]
    END""",
)

EVENT_KEY = (
    "key_of(concat(strlen(tenant), ':', tenant, strlen(source_system), ':', source_system,"
    " strlen(event_id), ':', event_id, attempt))"
)
"""SQL over the columns of an attempt."""

_BILLED_TEXTS = ("provider", "model", "service_tier", "region")
_BILLED_COUNTS = (*TOKEN_BUCKETS, *COUNTERS)


def content_digest(texts: Collection[str], counts: Collection[str]) -> str:
    """SQL of 32 digits over all content of a record that has no id; an assumed time is no part of it."""
    parts = ["sized(event_id)", "status", "kind"]
    parts += [f"'{name[0]}' || sized({name})" for name in (*_BILLED_TEXTS, "error_type") if name in texts]
    parts += [f"'{number}=' || {name}" for number, name in enumerate(_BILLED_COUNTS) if name in counts]
    parts += ["'l=' || latency_ms", "'f=' || ttft_ms", "'t=' || logged_us"]
    return f"sha256(concat_ws('|', {', '.join(parts)}))[1:32]"


def event_key(tenant: str, source_system: str, event_id: str, attempt: int = 1) -> int:
    """The `event_key` of one attempt, as the tables hold it.

    >>> event_key("acme", "native", "req-1")
    -9130886748007357226
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
