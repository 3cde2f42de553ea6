"""The rules that a record must keep to be taken, each with its reason and its words.

A rule is SQL over the typed candidates of `normalising.py`. The same rules flag bad
records in bulk and say afterwards what is wrong with each, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ml_registry_pipelines.lake.tables.telemetry import SPAN_KINDS, STATUSES
from ml_registry_pipelines.telemetry.dialects.dialect import COUNTS, NUMBERS, TIMES, Dialect, Times

MOST_TOKENS = 1_000_000_000
MOST_ATTEMPTS = 1_000_000
LONGEST_TENANT = 128
LONGEST_LATENCY_MS = 366 * 86_400_000
LONGEST_OFFSET_MS = 10 * LONGEST_LATENCY_MS
"""Ten years: a relative time beyond is no time."""


@dataclass(frozen=True)
class Check:
    """One rule: the record is at fault where `when` (SQL) is true. `says` is SQL of the words for it."""

    reason: str
    when: str
    says: str


def checks(dialect: Dialect, found: Collection[str]) -> Iterator[Check]:
    """Every rule that can fail where a dialect gives the candidates `found`, the gravest first."""
    for name in dialect.required:
        text = f"{name}_text" if name in (*TIMES, *NUMBERS, *COUNTS) else name
        yield Check(
            "missing_field",
            f"{text} IS NULL" if name in found else "true",
            f"'{_tick(dialect, name)} is missing'",
        )
    if "wrong" in found:
        says = "'`' || split_part(wrong, '|', 1) || '` ' || split_part(wrong, '|', 2)"
        yield Check("wrong_type", "wrong IS NOT NULL", says)
    yield from _of_times(dialect, found)
    yield from _of_numbers(dialect, found)
    says = "'the field ' || getvariable('tenant_field') || ', which the source names as tenant, is missing'"
    yield Check("missing_tenant", "tenant IS NULL", says)
    yield Check(
        "bad_tenant",
        f"length(tenant) > {LONGEST_TENANT} OR regexp_matches(tenant, '[\\x00-\\x1f\\x7f]')",
        f"'the tenant is longer than {LONGEST_TENANT} characters or holds control characters'",
    )
    yield from _of_others(dialect, found)


def _of_times(dialect: Dialect, found: Collection[str]) -> Iterator[Check]:
    for name in TIMES:
        if name in found:
            says = _says(dialect, name, f"{name}_text", "neither an ISO 8601 time nor a number since 1970")
            yield Check("bad_timestamp", f"{name}_text IS NOT NULL AND {name}_us IS NULL", says)
    if dialect.times in (Times.RECORDED, Times.PARTLY) and "ts" in found:
        yield Check(
            "absurd_timestamp",
            "ts_us NOT BETWEEN getvariable('earliest_us') AND getvariable('latest_us')",
            _says(dialect, "ts", "ts_text", "before 2015 or more than a day after the file was written"),
        )
    if dialect.times is Times.RELATIVE and "offset_ms" in found:
        says = _says(
            dialect, "offset_ms", "offset_ms_text", "more than ten years from the start of the trace"
        )
        yield Check("absurd_timestamp", f"abs(offset_ms_number) > {LONGEST_OFFSET_MS}", says)
    for name, others in (("latency_ms", ("latency_s", "end_ts")), ("ttft_ms", ("ttft_s", "first_token_ts"))):
        given = next((candidate for candidate in (name, *others) if candidate in found), None)
        if given is not None:
            says = _says(dialect, given, f"{given}_text", "which makes a negative time", joint=", ")
            yield Check("negative_latency", f"{name} < 0", says)
            says = _says(dialect, given, f"{given}_text", "which makes more than a year", joint=", ")
            yield Check("absurd_latency", f"{name} > {LONGEST_LATENCY_MS}", says)


def _of_numbers(dialect: Dialect, found: Collection[str]) -> Iterator[Check]:
    for name in NUMBERS:
        if name in found:
            yield _wrong(dialect, name, "not a number", typed=f"{name}_number")
    for name in COUNTS:
        if name in found:
            yield _wrong(dialect, name, "not a whole number", typed=f"{name}_number")
            says = _says(dialect, name, f"{name}_text", "negative")
            yield Check("negative_count", f"{name}_number < 0", says)
            says = _says(dialect, name, f"{name}_text", f"more than {MOST_TOKENS}")
            yield Check("absurd_count", f"{name}_number > {MOST_TOKENS}", says)
    if "audio_seconds" in found:
        says = _says(dialect, "audio_seconds", "audio_seconds_text", "negative")
        yield Check("negative_count", "audio_seconds_number < 0", says)


def _of_others(dialect: Dialect, found: Collection[str]) -> Iterator[Check]:
    if "attempt" in found:
        when = f"attempt IS NULL OR attempt NOT BETWEEN 1 AND {MOST_ATTEMPTS}"
        yield Check(
            "bad_attempt", when, _says(dialect, "attempt", "attempt_text", "not a whole number from 1")
        )
    for name, choices in (("status", STATUSES), ("kind", SPAN_KINDS)):
        if name in found:
            allowed = ", ".join(f"'{choice}'" for choice in choices)
            says = _says(dialect, name, name, "not one of " + ", ".join(choices))
            yield Check(f"unknown_{name}", f"{name} NOT IN ({allowed})", says)
    if "stream" in found:
        yield _wrong(dialect, "stream", "neither true nor false")
    if "tags" in found:
        yield _wrong(dialect, "tags", "not a JSON object")
    if "cost" in found:
        yield _wrong(dialect, "cost", "not an amount")
    if "currency" in found:
        says = _says(dialect, "currency", "currency", "not an ISO 4217 code such as USD")
        yield Check("wrong_type", "NOT regexp_full_match(currency, '[A-Z]{3}')", says)


def _wrong(dialect: Dialect, name: str, complaint: str, *, typed: str | None = None) -> Check:
    when = f"{name}_text IS NOT NULL AND {typed or name} IS NULL"
    return Check("wrong_type", when, _says(dialect, name, f"{name}_text", complaint))


def _tick(dialect: Dialect, name: str) -> str:
    return "`" + dialect.calls(name).replace("'", "''") + "`"


def _says(dialect: Dialect, name: str, value: str, complaint: str, *, joint: str = ": ") -> str:
    """SQL of a message: the field, its value cut short, and what is wrong with it."""
    return f"'{_tick(dialect, name)} is ' || left({value}, 80) || '{joint}{complaint}'"
