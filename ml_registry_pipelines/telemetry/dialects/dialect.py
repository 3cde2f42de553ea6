"""What a dialect is: one log format, and the SQL that finds its values in JSON records.

A dialect finds values; it judges none. Casting, checking and identity are the same for
all of them and live in `normalising.py`, so a new format cannot forget them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, TOKEN_BUCKETS

TEXTS: tuple[str, ...] = (
    "event_id",
    "source_system",
    "tenant",
    "application",
    "environment",
    "endpoint",
    "provider",
    "model",
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
"""Candidates that are taken as text. `user_id` and `session_id` are hashed and never stored."""

TIMES: tuple[str, ...] = ("ts", "end_ts", "first_token_ts")
"""ISO 8601, or a number since 1970 whose unit shows by its size: s, ms, us or ns."""

NUMBERS: tuple[str, ...] = ("offset_ms", "latency_ms", "latency_s", "ttft_ms", "ttft_s", "audio_seconds")

COUNTS: tuple[str, ...] = (
    *TOKEN_BUCKETS,
    *COUNTERS,
    "input_tokens",
    "output_tokens",
    "total",
)
"""Whole numbers from 0. `input_tokens` and `output_tokens` are a log's own sums, which the common
step takes apart into buckets; a log that has disjoint buckets gives those instead."""

OTHERS: tuple[str, ...] = ("attempt", "kind", "status", "stream", "cost", "currency", "tags", "span_id")

MARKS: tuple[str, ...] = ("wrong", "ignored", "contradictory")
"""`wrong`: a complaint of the dialect's own, as `field|what is wrong with it`; the record is
rejected. `ignored`: 'true' for a record that is about something else. `contradictory`: 'true'
for one that gives two counts of the same tokens; its usage is `inconsistent`."""

CANDIDATES: tuple[str, ...] = TEXTS + TIMES + NUMBERS + COUNTS + OTHERS + MARKS
"""Every value that a dialect may find, as text just as the log has it."""


class Times(Enum):
    """What a format says about when a request started."""

    RECORDED = "recorded"
    """`ts` is the start."""
    RELATIVE = "relative"
    """`offset_ms` counts from the base time of the source."""
    PARTLY = "partly"
    """`ts` is the start where a record has one; else the base time of the source is assumed."""
    ABSENT = "absent"
    """Nothing: the base time of the source is assumed."""


class Identity(Enum):
    """What makes a record of a format the same record when it comes again."""

    LOGGED = "logged"
    """The `event_id` of the log."""
    CONTENT = "content"
    """Its content and how often that stood in the file before; `event_id` adds to the content."""


@dataclass(frozen=True)
class Dialect:
    """One known log format.

    `select` is SQL over the relation `records(line BIGINT, raw VARCHAR)`, where `raw` is one
    JSON text. It gives `line`, `part` (the number of the record within the line, from 0), `raw`
    (the text that stands for this record alone) and any of `CANDIDATES`, each as VARCHAR.

    `recognises` says whether one parsed record is of this format.
    """

    name: str
    describes: str
    select: str
    recognises: Callable[[Mapping[str, Any]], bool]
    input_includes_cached: bool | None = None
    """Whether `input_tokens` counts cached and non-text input too; None: the log has no such sum."""
    output_includes_reasoning: bool | None = None
    """Whether `output_tokens` counts reasoning and non-text output too; None: no such sum."""
    times: Times = Times.RECORDED
    time_zone: str | None = None
    """Zone of times that state none, where the format fixes it; None: the source says."""
    identity: Identity = Identity.LOGGED
    required: Sequence[str] = ("event_id", "ts")
    """Candidates that every record must have."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """What the log calls a candidate, where it differs: messages use the log's own names."""
    bodies: Sequence[str] = ()
    """Top-level fields with prompts and answers: left out of the raw text of rejected records."""
    extra: Sequence[str] = ()
    """Columns of `select` that are no candidates but serve `tenant_lookup`."""
    nests: bool = False
    """Whether spans contain spans, so that an outer one may repeat the usage of inner ones."""
    tenant_lookup: str = (
        "coalesce(json_extract_string(raw, getvariable('tenant_field_flat')),"
        " json_extract_string(raw, getvariable('tenant_field_nested')))"
    )
    """SQL that finds the field which a source names as tenant, over the columns of `select`."""

    def calls(self, candidate: str) -> str:
        """The log's own name of a candidate."""
        return self.fields.get(candidate, candidate)


def structure_of(names: Mapping[str, Any]) -> str:
    """A structure for `json_transform` as an SQL literal: every leaf as text, nested as given."""
    import json

    return "'" + json.dumps(names).replace("'", "''") + "'"


def differing(*counts: Sequence[str]) -> str:
    """SQL: whether a log gives one of these counts in several places, and not as the same number.

    Texts are compared first: lists, and a lambda over them, cost where some differ only.
    """
    texts = [", ".join(spellings) for spellings in counts]
    some_differ = " OR ".join(f"least({each}) <> greatest({each})" for each in texts)
    return f"""CASE WHEN {some_differ} THEN list_bool_or(list_transform([{", ".join(f"[{each}]" for each in texts)}],
        lambda spellings: len(list_distinct(list_transform(spellings,
            lambda text: coalesce(CAST(try_cast(text AS DOUBLE) AS VARCHAR), text)))) > 1)) ELSE false END"""
