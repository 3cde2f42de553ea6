"""Pieces of SQL that several dialects use: pages of an API, sums of counts, and labels without persons.

A count stays text until the common step casts it. Where a dialect has to calculate, a text that is
no count is given instead of the result, so that the common step complains of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_registry_pipelines.telemetry.dialects.dialect import structure_of

_USERS = (
    "user_id",
    "userId",
    "user",
    "_user",
    "end_user",
    "customer_id",
    "email",
    "Helicone-User-Id",
)
_SESSIONS = (
    "session_id",
    "sessionId",
    "session",
    "conversation_id",
    "thread_id",
    "Helicone-Session-Id",
)
PERSONS = structure_of(dict.fromkeys((*_USERS, *_SESSIONS), "VARCHAR"))
"""For `json_transform` of labels: those of them that name a person or a conversation."""


def user_of(persons: str) -> str:
    """SQL: the user whom labels name, for hashing."""
    return _first_of(persons, _USERS)


def session_of(persons: str) -> str:
    """SQL: the conversation that labels name, for hashing."""
    return _first_of(persons, _SESSIONS)


def _first_of(persons: str, names: Sequence[str]) -> str:
    return "coalesce(" + ", ".join(f'{persons}."{name}"' for name in names) + ")"


def without(names: Sequence[str], inside: Sequence[str] = ()) -> str:
    """SQL: `raw` without fields of these names, at its top and in the objects at these paths, for replays."""
    patches = ["'" + _patch(names) + "'"]
    for path in inside:
        patch = _patch(names)
        for level in reversed(path.split(".")):
            patch = f'{{"{level}":{patch}}}'
        patches.append(f"CASE WHEN json_type(raw, '$.{path}') = 'OBJECT' THEN '{patch}' ELSE '{{}}' END")
    return (
        f"CASE WHEN json_type(raw) = 'OBJECT' THEN CAST(json_merge_patch(raw, {', '.join(patches)}) AS VARCHAR)"
        " ELSE CAST(raw AS VARCHAR) END AS raw"
    )


def _patch(names: Sequence[str]) -> str:
    return "{" + ",".join(f'"{name}":null' for name in names) + "}"


def object_or_null(text: str) -> str:
    """SQL: a text where it is a JSON object."""
    return f"CASE WHEN ascii(ltrim({text})) = 123 AND json_valid({text}) THEN {text} END"


def tags_of(labels: str, persons: str, more: Mapping[str, str] | None = None) -> str:
    """SQL: a producer's labels as a JSON object, without persons and with `more` (name to SQL).

    Args:
        labels: SQL of a JSON object as text, or NULL.
        persons: SQL of the same labels through `PERSONS`.
    """
    more = more or {}
    named = _first_of(persons, (*_USERS, *_SESSIONS))
    left = f"""CASE WHEN {named} IS NOT NULL THEN json_merge_patch({labels}, '{_patch((*_USERS, *_SESSIONS))}')
            ELSE CAST({labels} AS JSON) END"""
    if not more:
        return f"nullif(CAST({left} AS VARCHAR), '{{}}')"
    pairs = ", ".join(f"'{name}', {value}" for name, value in more.items())
    return f"""CASE
            WHEN coalesce({", ".join(f"CAST({value} AS VARCHAR)" for value in more.values())}) IS NOT NULL
                THEN CAST(json_merge_patch(coalesce({left}, '{{}}'), json_object({pairs})) AS VARCHAR)
            ELSE nullif(CAST({left} AS VARCHAR), '{{}}')
        END"""


def records_of_pages(field: str) -> str:
    """SQL of `line`, `part`, `raw`: each record, or where it is a page of an API each element of its list `field`."""
    return f"""
        SELECT line, CAST(generate_subscripts(texts, 1) - 1 AS INTEGER) AS part, unnest(texts) AS raw
        FROM (
            SELECT line, CASE
                WHEN contains(raw, '"{field}"') AND json_array_length(raw, '$.{field}') > 0
                    THEN CAST(json_extract(raw, '$.{field}[*]') AS VARCHAR[])
                ELSE [raw] END AS texts
            FROM records
        )
    """


def of_page(record: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """The first element of the list `field` where a record is a page of an API; else the record itself."""
    held = record.get(field)
    first = held[0] if isinstance(held, list) and held else None
    return first if isinstance(first, dict) else record


def empty_page(field: str) -> str:
    """SQL: whether `raw` is a page of an API without records."""
    return f"""(contains(raw, '"{field}"') AND json_array_length(raw, '$.{field}') = 0)"""


def numbers(*counts: str) -> str:
    """SQL: for columns with counts as text, columns `<name>_n` with their numbers, each cast only once."""
    return ", ".join(f"whole_number({count}) AS {count}_n" for count in counts)


def number(count: str) -> str:
    """SQL: the number of a count: of a column the one that `numbers` gives, of anything else a cast."""
    return f"{count}_n" if count.isidentifier() else f"whole_number({count})"


def total(counts: Sequence[str]) -> str:
    """SQL: the sum of counts as a number, where one that is missing or no count adds nothing."""
    return "(" + (" + ".join(f"coalesce({number(count)}, 0)" for count in counts) or "0") + ")"


def plus(*counts: str) -> str:
    """SQL: the sum of counts as text, NULL where there is none of them; instead of it a negative one."""
    wrong = ", ".join(
        f"CASE WHEN {count} IS NOT NULL AND coalesce({number(count)} < 0, true) THEN {count} END"
        for count in counts
    )
    return f"""CASE
            WHEN coalesce({", ".join(counts)}) IS NULL THEN NULL
            ELSE coalesce({wrong}, CAST({total(counts)} AS VARCHAR))
        END"""


def less(whole: str, *parts: str) -> str:
    """SQL: a count without its parts as text, at least 0; see `exceeded` for parts that are more than it."""
    return f"""CASE
            WHEN coalesce({", ".join(parts)}) IS NULL OR {number(whole)} IS NULL THEN {whole}
            ELSE CAST(greatest({number(whole)} - {total(parts)}, least({number(whole)}, 0)) AS VARCHAR)
        END"""


def exceeded(whole: str, *parts: str) -> str:
    """SQL: whether the parts of a count are more than it is."""
    return f"({total(parts)} > coalesce({number(whole)}, 0))"


def used(*counts: str) -> str:
    """SQL: whether any of these counts is more than none."""
    return "(" + " OR ".join(f"coalesce({number(count)}, 0) > 0" for count in counts) + ")"
