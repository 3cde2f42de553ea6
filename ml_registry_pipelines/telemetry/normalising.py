"""From candidates to rows: strict casts, reasons for what cannot be taken, disjoint buckets.

The one place that judges values, for every dialect alike. It builds two SQL statements
per dialect: `rows_sql`, which casts and flags everything in one pass, and `complaints_sql`,
which runs over the flagged records alone and says in words what is wrong with each.
Both state a rule by the same `Check`, so they cannot disagree.

Rows outside [2015, a day after the file was written] are absurd: a row is judged against
its file's time and never the clock, so that a replay judges as the first reading did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.tables.telemetry import (
    COUNTERS,
    INFERENCE_EVENTS,
    INPUT_BUCKETS,
    OUTPUT_BUCKETS,
    SPAN_KINDS,
    STATUSES,
    TOKEN_BUCKETS,
)
from ml_registry_pipelines.telemetry.dialects.dialect import (
    CANDIDATES,
    COUNTS,
    NUMBERS,
    TEXTS,
    TIMES,
    Dialect,
    Identity,
    Times,
)
from ml_registry_pipelines.telemetry.identity import CONTENT_DIGEST, CONTENT_KEY, EVENT_KEY, quoted

if TYPE_CHECKING:
    import pyarrow as pa

EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)
MOST_TOKENS = 1_000_000_000
MOST_ATTEMPTS = 1_000_000
LONGEST_TENANT = 128
LONGEST_OFFSET_MS = 10 * 366 * 86_400_000
"""Ten years: a relative time beyond is no time."""
LONGEST_LATENCY_MS = 366 * 86_400_000

MACROS: tuple[str, ...] = (
    # A plain cast rounds 12.7 and reads 1e3, 0x10 and 1_000: only digits are a count. What no count can be is cut
    # to fifteen zeros, so that no sum of counts overflows before the check speaks.
    r"""
    CREATE MACRO whole_number(text) AS CASE
        WHEN CAST(try_cast(text AS INTEGER) AS VARCHAR) = text THEN CAST(try_cast(text AS INTEGER) AS BIGINT)
        WHEN regexp_full_match(text, '-?\d+(\.0+)?') THEN CAST(CASE
            WHEN starts_with(text, '-') THEN greatest(coalesce(try_cast(split_part(text, '.', 1) AS BIGINT), -1e15), -1e15)
            ELSE least(coalesce(try_cast(split_part(text, '.', 1) AS BIGINT), 1e15), 1e15)
        END AS BIGINT)
    END""",
    r"""
    CREATE MACRO real_number(text) AS CASE
        WHEN regexp_full_match(text, '-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?') AND isfinite(try_cast(text AS DOUBLE))
        THEN try_cast(text AS DOUBLE)
    END""",
    r"""
    CREATE MACRO exact_amount(text) AS CASE
        WHEN regexp_full_match(text, '-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?') THEN try_cast(text AS DECIMAL(38, 12))
    END""",
    # Microseconds since 1970. Finer fractions are cut off. TimeZone of the connection is for times without a zone.
    r"""
    CREATE MACRO instant_us(text) AS CASE
        WHEN regexp_full_match(text,
            '\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)? ?(Z|UTC|[+-]\d\d(:?\d\d)?)?')
        THEN epoch_us(try_cast(text AS TIMESTAMPTZ))
        WHEN regexp_full_match(text,
            '\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d+)?)? ?([Zz]|UTC|[+-]\d\d(:?\d\d)?)?')
        THEN epoch_us(try_cast(upper(replace(text, ',', '.')) AS TIMESTAMPTZ))
        WHEN regexp_full_match(text, '\d{1,18}|[1-8]\d{18}') THEN CASE
            WHEN CAST(text AS BIGINT) < 100000000000 THEN CAST(text AS BIGINT) * 1000000
            WHEN CAST(text AS BIGINT) < 100000000000000 THEN CAST(text AS BIGINT) * 1000
            WHEN CAST(text AS BIGINT) < 100000000000000000 THEN CAST(text AS BIGINT)
            ELSE CAST(text AS BIGINT) // 1000
        END
        WHEN regexp_full_match(text, '\d{1,18}\.\d+') THEN CAST(round(CASE
            WHEN CAST(text AS DOUBLE) < 1e11 THEN CAST(text AS DOUBLE) * 1e6
            WHEN CAST(text AS DOUBLE) < 1e14 THEN CAST(text AS DOUBLE) * 1e3
            WHEN CAST(text AS DOUBLE) < 1e17 THEN CAST(text AS DOUBLE)
            ELSE CAST(text AS DOUBLE) / 1e3
        END) AS BIGINT)
    END""",
)


@dataclass(frozen=True)
class Check:
    """One rule: the record is at fault where `when` (SQL) is true. `says` is SQL text about `field`."""

    reason: str
    when: str
    says: str


def rows_schema() -> pa.Schema:
    """Columns of `inference_events` in declared order, without the batch, which the commit gives."""
    import pyarrow as pa

    return pa.schema([f for f in INFERENCE_EVENTS.schema if f.name != "batch"])


def rejected_schema() -> pa.Schema:
    """Columns of what could not be taken."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("line", pa.int64(), nullable=False),
            pa.field("part", pa.int32(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("message", pa.string(), nullable=False),
            pa.field("raw", pa.string(), nullable=False),
            pa.field("tenant", pa.string()),
        ]
    )


def rows_sql(dialect: Dialect, found: Collection[str]) -> str:
    """One pass over `records`: the columns of a row, and whether the record is `ignored` or `bad`.

    `found` are the candidates that the dialect's select gives. Rows that need an id from their
    content carry its digest as `event_id`; rows that nest carry `span_id`.
    """
    checks = " OR ".join(f"({check.when})" for check in _checks(dialect, found))
    return f"""
        {_judged(dialect, found)}
        SELECT
            tenant,
            CAST(make_timestamp(event_us) AS DATE) AS day,
            make_timestamp(event_us) AS event_ts,
            make_timestamp(getvariable('recorded_us')) AS recorded_at,
            {EVENT_KEY} AS event_key,
            {CONTENT_KEY} AS content_key,
            source_system,
            {CONTENT_DIGEST if dialect.identity is Identity.CONTENT else "event_id"} AS event_id,
            try_cast(attempt AS INTEGER) AS attempt,
            getvariable('source') AS source,
            getvariable('file') AS file,
            line,
            CAST(part AS INTEGER) AS part,
            '{dialect.name}' AS dialect,
            '{"recorded" if dialect.times is Times.RECORDED else "assumed"}' AS time_quality,
            application, environment, endpoint, provider, model, requested_model, operation,
            kind AS span_kind, status, error_type, latency_ms, ttft_ms, stream, trace_id, parent_id,
            salted(getvariable('salt'), tenant, user_id) AS user_hash,
            salted(getvariable('salt'), tenant, session_id) AS session_hash,
            {", ".join((*TOKEN_BUCKETS, *COUNTERS))},
            audio_seconds,
            total AS provider_total_tokens,
            usage_quality,
            cost AS logged_cost,
            CASE WHEN cost IS NOT NULL THEN coalesce(currency, 'USD') END AS logged_currency,
            service_tier, region, tags,
            {"span_id," if dialect.nests else ""}
            coalesce(ignored = 'true', false) AS ignored,
            coalesce({checks}, false) AS bad
        FROM judged
    """


def complaints_sql(dialect: Dialect, found: Collection[str]) -> str:
    """Over `records` that are known to be bad: reason, message, raw text and tenant of each."""
    problems = ",\n".join(
        f"CASE WHEN {check.when} THEN {{'reason': '{check.reason}', 'says': {check.says}}} END"
        for check in _checks(dialect, found)
    )
    stripped = "raw"
    if dialect.bodies:
        dropped = "{" + ",".join(f'"{name}":null' for name in dialect.bodies) + "}"
        stripped = f"CASE WHEN json_type(raw) = 'OBJECT' THEN json_merge_patch(raw, '{dropped}') ELSE raw END"
    return f"""
        {_judged(dialect, found)},
        complaints AS (
            SELECT line, part, raw, tenant, ignored, CASE
                WHEN json_type(raw) <> 'OBJECT' THEN
                    [{{'reason': 'not_an_object', 'says': 'the record is JSON but not an object'}}]
                ELSE list_filter([{problems}], lambda problem: problem IS NOT NULL)
            END AS problems
            FROM judged
        )
        SELECT
            line,
            CAST(part AS INTEGER) AS part,
            problems[1].reason AS reason,
            'line ' || line || ': ' || array_to_string(list_transform(problems, lambda p: p.says), '; ') AS message,
            CAST({stripped} AS VARCHAR) AS raw,
            tenant
        FROM complaints
        WHERE len(problems) > 0 AND ignored IS DISTINCT FROM 'true'
    """


def _judged(dialect: Dialect, found: Collection[str]) -> str:
    """The common table expressions up to `judged`: candidates cast, buckets disjoint, times absolute.

    Beside its typed value, every candidate that is cast keeps its text as `<name>_text`.
    """
    missing = [name for name in CANDIDATES if name not in found]
    return f"""
        WITH found AS ({dialect.select}),
        candidates AS (SELECT *, {", ".join(f"CAST(NULL AS VARCHAR) AS {name}" for name in missing)} FROM found),
        cast_values AS (
            SELECT
                line, part, raw, wrong, ignored, span_id,
                {_tenant(dialect)} AS tenant,
                {", ".join(_text(name) for name in TEXTS if name not in ("tenant", "source_system"))},
                coalesce(nullif(source_system, ''), '{dialect.name}') AS source_system,
                {", ".join(f"{name} AS {name}_text" for name in (*TIMES, *NUMBERS, *COUNTS))},
                {", ".join(f"instant_us({name}) AS {name}_us" for name in TIMES)},
                {", ".join(f"real_number({name}) AS {name}" for name in NUMBERS)},
                {", ".join(f"whole_number({name}) AS {name}" for name in COUNTS)},
                nullif(attempt, '') AS attempt_text,
                CASE WHEN nullif(attempt, '') IS NULL THEN 1 ELSE whole_number(attempt) END AS attempt,
                coalesce(nullif(trim(kind), ''), 'leaf') AS kind,
                coalesce(nullif(trim(status), ''), 'success') AS status,
                nullif(stream, '') AS stream_text,
                CASE WHEN lower(stream) IN ('true', '1') THEN true
                     WHEN lower(stream) IN ('false', '0') THEN false END AS stream,
                cost AS cost_text,
                exact_amount(cost) AS cost,
                nullif(upper(trim(currency)), '') AS currency,
                nullif(tags, '') AS tags_text,
                CASE WHEN ascii(tags) = 123 AND json_valid(tags) THEN tags END AS tags
            FROM candidates
        ),
        timed AS (
            SELECT
                * REPLACE (
                    {_disjoint("in_uncached", "input_tokens", INPUT_BUCKETS, dialect.input_includes_cached)},
                    {_disjoint("out_text", "output_tokens", OUTPUT_BUCKETS, dialect.output_includes_reasoning)},
                    coalesce(latency_ms, latency_s * 1000, (end_ts_us - ts_us) / 1000) AS latency_ms,
                    coalesce(ttft_ms, ttft_s * 1000, (first_token_ts_us - ts_us) / 1000) AS ttft_ms
                ),
                {_EVENT_US[dialect.times]} AS event_us,
                {"ts_us" if dialect.times is Times.RECORDED else "NULL"} AS logged_us,
                coalesce(
                    {_overfull("input_tokens", INPUT_BUCKETS, dialect.input_includes_cached)}
                    OR {_overfull("output_tokens", OUTPUT_BUCKETS, dialect.output_includes_reasoning)},
                    false) AS overfull
            FROM cast_values
        ),
        judged AS (
            SELECT *, CASE
                WHEN coalesce({", ".join((*TOKEN_BUCKETS, *COUNTERS, "total"))}) IS NULL AND audio_seconds IS NULL
                    THEN 'missing'
                WHEN overfull OR total <> {_sum(TOKEN_BUCKETS)} THEN 'inconsistent'
                ELSE 'exact'
            END AS usage_quality
            FROM timed
        )
    """


_EVENT_US = {
    Times.RECORDED: "ts_us",
    Times.RELATIVE: "CASE WHEN abs(offset_ms) <= {} THEN getvariable('base_us') + CAST(round(offset_ms * 1000) AS"
    " BIGINT) END".format(LONGEST_OFFSET_MS),
    Times.ABSENT: "getvariable('base_us')",
}

_TRIMMED = frozenset({"provider", "model", "requested_model"})


def _text(name: str) -> str:
    return f"nullif(trim({name}), '') AS {name}" if name in _TRIMMED else f"nullif({name}, '') AS {name}"


def _tenant(dialect: Dialect) -> str:
    """SQL of the tenant: the source's, else the field that the source names, else the record's, else `default`.

    A CASE over a constant is folded away before the first row, so nothing is looked up in vain.
    """
    return f"""CASE
        WHEN getvariable('tenant') IS NOT NULL THEN getvariable('tenant')
        WHEN getvariable('tenant_field_flat') IS NOT NULL THEN nullif(trim({dialect.tenant_lookup}), '')
        ELSE coalesce(nullif(trim(tenant), ''), 'default')
    END"""


def _sum(names: Collection[str]) -> str:
    return "(" + " + ".join(f"coalesce({name}, 0)" for name in names) + ")"


def _disjoint(rest: str, whole: str, buckets: Collection[str], inclusive: bool | None) -> str:
    """SQL of the bucket that is what remains of a sum once the other buckets are taken out.

    Where they exceed the sum, the emitter most likely never included them: the sum is kept as it is.
    """
    if inclusive is None:
        return f"{rest} AS {rest}"
    if not inclusive:
        return f"{whole} AS {rest}"
    parts = _sum([name for name in buckets if name != rest])
    return f"CASE WHEN {parts} > {whole} THEN {whole} ELSE {whole} - {parts} END AS {rest}"


def _overfull(whole: str, buckets: Collection[str], inclusive: bool | None) -> str:
    """SQL: whether a sum is smaller than its parts, or absent though it has parts."""
    if not inclusive:
        return "false"
    parts = _sum(buckets)
    return f"({parts} > coalesce({whole}, 0))"


def _checks(dialect: Dialect, found: Collection[str]) -> Iterator[Check]:
    """Every rule that can fail for the candidates that a dialect gives, the gravest first."""
    for name in dialect.required:
        held = f"{name}_text" if name in (*TIMES, *NUMBERS, *COUNTS) else name
        yield Check("missing_field", f"{held} IS NULL OR {held} = ''", f"'{_tick(dialect, name)} is missing'")
    if "wrong" in found:
        says = "'`' || split_part(wrong, '|', 1) || '` ' || split_part(wrong, '|', 2)"
        yield Check("wrong_type", "wrong IS NOT NULL", says)
    yield from _time_checks(dialect, found)
    yield from _number_checks(dialect, found)
    yield Check("missing_tenant", "tenant IS NULL", _TENANT_MISSING)
    yield Check(
        "bad_tenant",
        f"length(tenant) > {LONGEST_TENANT} OR regexp_matches(tenant, '[\\x00-\\x1f\\x7f]')",
        f"'the tenant is longer than {LONGEST_TENANT} characters or holds control characters'",
    )
    if "status" in found:
        yield _choice(dialect, "status", STATUSES)
    if "kind" in found:
        yield _choice(dialect, "kind", SPAN_KINDS)
    if "stream" in found:
        yield _wrong(dialect, "stream", "stream_text", "neither true nor false")
    if "tags" in found:
        yield _wrong(dialect, "tags", "tags_text", "not a JSON object")
    if "cost" in found:
        yield _wrong(dialect, "cost", "nullif(cost_text, '')", "not an amount")
        yield Check(
            "wrong_type",
            "NOT regexp_full_match(currency, '[A-Z]{3}')",
            _says(dialect, "currency", "currency", "not an ISO 4217 code such as USD"),
        )


_TENANT_MISSING = "'the field ' || getvariable('tenant_field') || ', which the source names as tenant, is missing'"


def _time_checks(dialect: Dialect, found: Collection[str]) -> Iterator[Check]:
    for name in TIMES:
        if name in found:
            yield Check(
                "bad_timestamp",
                f"{name}_text <> '' AND {name}_us IS NULL",
                _says(dialect, name, f"{name}_text", "neither an ISO 8601 time nor seconds since 1970"),
            )
    if dialect.times is Times.RECORDED:
        yield Check(
            "absurd_timestamp",
            "ts_us NOT BETWEEN getvariable('earliest_us') AND getvariable('latest_us')",
            _says(dialect, "ts", "ts_text", "before 2015 or more than a day after the file was written"),
        )
    if dialect.times is Times.RELATIVE:
        yield Check(
            "absurd_timestamp",
            f"abs(offset_ms) > {LONGEST_OFFSET_MS}",
            _says(dialect, "offset_ms", "offset_ms_text", "more than ten years from the start of the trace"),
        )
    for name, sources in (("latency_ms", ("latency_s", "end_ts")), ("ttft_ms", ("ttft_s", "first_token_ts"))):
        given = next((source for source in (name, *sources) if source in found), None)
        if given is not None:
            says = _says(dialect, given, f"{given}_text", "which makes a negative time", joint=", ")
            yield Check("negative_latency", f"{name} < 0", says)
            says = _says(dialect, given, f"{given}_text", "which makes more than a year", joint=", ")
            yield Check("absurd_latency", f"{name} > {LONGEST_LATENCY_MS}", says)


def _number_checks(dialect: Dialect, found: Collection[str]) -> Iterator[Check]:
    for name in NUMBERS:
        if name in found:
            yield _wrong(dialect, name, f"nullif({name}_text, '')", "not a number", typed=_given(name))
    for name in COUNTS:
        if name in found:
            # in_uncached and out_text are computed where the log has sums, and then not in `found`.
            yield _wrong(dialect, name, f"nullif({name}_text, '')", "not a whole number")
            yield Check("negative_count", f"{name} < 0", _says(dialect, name, f"{name}_text", "negative"))
            says = _says(dialect, name, f"{name}_text", f"more than {MOST_TOKENS}")
            yield Check("absurd_count", f"{name} > {MOST_TOKENS}", says)
    if "audio_seconds" in found:
        says = _says(dialect, "audio_seconds", "audio_seconds_text", "negative")
        yield Check("negative_count", "audio_seconds < 0", says)
    if "attempt" in found:
        yield Check(
            "bad_attempt",
            f"attempt IS NULL OR attempt NOT BETWEEN 1 AND {MOST_ATTEMPTS}",
            _says(dialect, "attempt", "attempt_text", "not a whole number from 1"),
        )


def _given(name: str) -> str:
    """The cast value of a number whose own column holds what was computed from several."""
    return f"real_number({name}_text)" if name in ("latency_ms", "ttft_ms") else name


def _wrong(dialect: Dialect, name: str, text: str, complaint: str, *, typed: str | None = None) -> Check:
    when = f"{text} IS NOT NULL AND {typed or name} IS NULL"
    return Check("wrong_type", when, _says(dialect, name, text, complaint))


def _choice(dialect: Dialect, name: str, choices: Collection[str]) -> Check:
    complaint = "not one of " + ", ".join(choices)
    when = f"{name} NOT IN ({quoted(list(choices))})"
    return Check(f"unknown_{name}", when, _says(dialect, name, name, complaint))


def _tick(dialect: Dialect, name: str) -> str:
    return "`" + dialect.calls(name).replace("'", "''") + "`"


def _says(dialect: Dialect, name: str, value: str, complaint: str, *, joint: str = ": ") -> str:
    """SQL of a message: the field, its value cut short, and what is wrong with it."""
    return f"'{_tick(dialect, name)} is ' || left({value}, 80) || '{joint}{complaint}'"
