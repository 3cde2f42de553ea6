"""From candidates to rows: strict casts, disjoint buckets, identity, and what cannot be taken.

The one place that makes and judges values, for every dialect alike, in three statements:
`candidates_sql` finds the values in the records, `rows_sql` casts them and flags what is
bad, `complaints_sql` runs over the flagged ones alone and says in words what is wrong.
The second is made for the candidates that a chunk really has: most logs give twenty of
the eighty, and each costs time to plan and to compute. Where those of the chunk before are
expected, the first two run as one, which says whether there is any other after all.

Rows outside [2015, a day after the file was written] are absurd: a row is judged against
its file's time and never the clock, so that a replay judges as the first reading did.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.tables.telemetry import (
    COUNTERS,
    INFERENCE_EVENTS,
    INPUT_BUCKETS,
    OUTPUT_BUCKETS,
    TOKEN_BUCKETS,
)
from ml_registry_pipelines.telemetry.checking import LONGEST_OFFSET_MS, checks
from ml_registry_pipelines.telemetry.dialects.dialect import (
    CANDIDATES,
    COUNTS,
    MARKS,
    NUMBERS,
    TEXTS,
    TIMES,
    Dialect,
    Identity,
    Times,
)
from ml_registry_pipelines.telemetry.identity import EVENT_KEY, content_digest

if TYPE_CHECKING:
    import pyarrow as pa

EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)

MACROS: tuple[str, ...] = (
    # A plain cast rounds 12.7 and reads 1e3, 0x10 and 1_000: only digits are a count, and the zeros
    # that some write behind a point, unless those may mean thousands: 1.000. What no count can be
    # is cut to 10^15, so that no sum of counts overflows before the check speaks.
    r"""
    CREATE TEMP MACRO whole_number(text) AS CASE
        WHEN CAST(try_cast(text AS INTEGER) AS VARCHAR) = text
            THEN CAST(try_cast(text AS INTEGER) AS BIGINT)
        WHEN regexp_full_match(text, '-?(\d+(\.(0{1,2}|0{4,}))?|\d{4,}\.000)')
            THEN CAST(greatest(-1e15, least(1e15, coalesce(
                try_cast(split_part(text, '.', 1) AS BIGINT),
                CASE WHEN starts_with(text, '-') THEN -1e15 ELSE 1e15 END))) AS BIGINT)
    END""",
    r"""
    CREATE TEMP MACRO real_number(text) AS CASE
        WHEN regexp_full_match(text, '-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?')
            AND isfinite(try_cast(text AS DOUBLE)) THEN try_cast(text AS DOUBLE)
    END""",
    r"""
    CREATE TEMP MACRO exact_amount(text) AS CASE
        WHEN regexp_full_match(text, '-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?')
            THEN try_cast(text AS DECIMAL(38, 12))
    END""",
    # Microseconds since 1970, finer fractions cut off. The connection's TimeZone is for times without one.
    r"""
    CREATE TEMP MACRO instant_us(text) AS CASE
        WHEN regexp_full_match(text,
            '\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)? ?(Z|UTC|[+-]\d\d(:?\d\d)?)?')
        THEN epoch_us(try_cast(text AS TIMESTAMPTZ))
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
        WHEN regexp_full_match(upper(replace(text, ',', '.')),
            '\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)? ?(Z|UTC|[+-]\d\d(:?\d\d)?)?')
        THEN epoch_us(try_cast(upper(replace(text, ',', '.')) AS TIMESTAMPTZ))
    END""",
)

_TRIMMED = frozenset({"provider", "model", "requested_model"})


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


def candidates_sql(
    dialect: Dialect, given: Collection[str], *, looks_up_tenant: bool, with_raw: bool = False
) -> str:
    """Over `records`: the candidates that a dialect gives, as text."""
    ways = _ways(dialect, given, looks_up_tenant=looks_up_tenant)
    columns = [way if way == name else f"{way} AS {name}" for name, way in ways.items()]
    return f"""
        SELECT line, CAST(part AS INTEGER) AS part, {"raw," if with_raw else ""} {", ".join(columns)}
        FROM ({dialect.select}) AS found
    """


def _ways(dialect: Dialect, given: Collection[str], *, looks_up_tenant: bool) -> dict[str, str]:
    """How to come by each candidate that a dialect gives: its column, but for a tenant that is looked up."""
    ways = {name: name for name in CANDIDATES if name in given and name != "tenant"}
    if looks_up_tenant:
        ways["tenant"] = dialect.tenant_lookup
    elif "tenant" in given:
        ways["tenant"] = "tenant"
    return ways


def expected_rows_sql(
    dialect: Dialect, given: Collection[str], expected: Collection[str], *, looks_up_tenant: bool
) -> str:
    """Over `records`: what `rows_sql` gives for the candidates `expected`, and `unexpected`.

    That is whether a record has a value for another candidate; where one has, the rows are not to be used.
    """
    ways = _ways(dialect, given, looks_up_tenant=looks_up_tenant)
    others = " OR ".join(f"({way}) IS NOT NULL" for name, way in ways.items() if name not in expected)
    kept = [way if way == name else f"{way} AS {name}" for name, way in ways.items() if name in expected]
    candidates = f"""
        SELECT line, CAST(part AS INTEGER) AS part, {"".join(f"{column}, " for column in kept)}
            {others or "false"} AS unexpected
        FROM ({dialect.select}) AS found
    """
    return rows_sql(dialect, expected, candidates=f"({candidates})", also=("unexpected",))


def rows_sql(
    dialect: Dialect, found: Collection[str], *, candidates: str = "candidates", also: Collection[str] = ()
) -> str:
    """Over `candidates`, of which only `found` have values: the columns of a row, `ignored` and `bad`.

    Columns without a value are left out. Rows that need an id from their content carry its digest
    as `event_id`; rows that nest carry what `Nesting` compares. Columns in `also` are passed through.
    """
    failing = " OR ".join(f"({check.when})" for check in checks(dialect, found))
    texts = [name for name in TEXTS if name in found and name not in ("tenant", "event_id", "source_system")]
    plain = [name for name in texts if name not in ("user_id", "session_id")]
    hashed = [
        f"salted(getvariable('salt'), tenant, {name}) AS {hash_of}"
        for name, hash_of in (("user_id", "user_hash"), ("session_id", "session_hash"))
        if name in found
    ]
    logged = []
    if "cost" in found:
        currency = "coalesce(currency, 'USD')" if "currency" in found else "'USD'"
        logged = ["cost AS logged_cost", f"CASE WHEN cost IS NOT NULL THEN {currency} END AS logged_currency"]
    counts = _countable(dialect, found)
    event_id = content_digest(texts, counts) if dialect.identity is Identity.CONTENT else "event_id"
    others = [name for name in ("stream", "tags", "audio_seconds") if name in found]
    return f"""
        {_judged(dialect, found, candidates=candidates, also=also)}
        SELECT
            line, part, tenant, {"".join(f"{column}, " for column in also)}
            CAST(make_timestamp(event_us) AS DATE) AS day,
            make_timestamp(event_us) AS event_ts,
            {EVENT_KEY} AS event_key,
            source_system,
            {event_id} AS event_id,
            try_cast(attempt AS INTEGER) AS attempt,
            kind AS span_kind, status, latency_ms, ttft_ms, usage_quality,
            {_time_quality(dialect)}
            {"".join(f"{column}, " for column in (*plain, *hashed, *counts, *others, *logged))}
            {"total AS provider_total_tokens," if "total" in found else ""}
            {_nesting(dialect, found, counts)}
            {"coalesce(ignored = 'true', false)" if "ignored" in found else "false"} AS ignored,
            coalesce({failing}, false) AS bad
        FROM judged
    """


def _nesting(dialect: Dialect, found: Collection[str], counts: Collection[str]) -> str:
    """Columns that tell which span is inside which, and whether it is a model call with usage."""
    if not dialect.nests:
        return ""
    known = {"trace_id", "span_id"} <= set(found)
    return f"""
        {"hash(trace_id, span_id)" if known else "CAST(NULL AS UBIGINT)"} AS span,
        {
        "CASE WHEN parent_id IS NOT NULL THEN hash(trace_id, parent_id) END"
        if known and "parent_id" in found
        else "CAST(NULL AS UBIGINT)"
    } AS parent,
        kind = 'leaf' AND {_sum(counts, TOKEN_BUCKETS)} > 0 AS calls,"""


def complaints_sql(dialect: Dialect, found: Collection[str]) -> str:
    """Over `candidates` with `raw`: reason, message, raw text and tenant of each that is bad."""
    problems = ",\n".join(
        f"CASE WHEN {check.when} THEN {{'reason': '{check.reason}', 'says': {check.says}}} END"
        for check in checks(dialect, found)
    )
    stripped = "rtrim(raw, chr(13) || chr(10))"
    if dialect.bodies:
        dropped = "{" + ",".join(f'"{name}":null' for name in dialect.bodies) + "}"
        stripped = (
            f"CASE WHEN json_type(raw) = 'OBJECT' THEN json_merge_patch(raw, '{dropped}') ELSE {stripped} END"
        )
    return f"""
        {_judged(dialect, found, also=("raw",))},
        complaints AS (
            SELECT line, part, raw, tenant, CASE
                WHEN json_type(raw) <> 'OBJECT' THEN
                    [{{'reason': 'not_an_object', 'says': 'the record is JSON but not an object'}}]
                ELSE list_filter([{problems}], lambda problem: problem IS NOT NULL)
            END AS problems
            FROM judged
            WHERE {"ignored IS DISTINCT FROM 'true'" if "ignored" in found else "true"}
        )
        SELECT
            line, part,
            problems[1].reason AS reason,
            'line ' || line || ': ' || array_to_string(list_transform(problems, lambda p: p.says), '; ')
                AS message,
            CAST({stripped} AS VARCHAR) AS raw,
            tenant
        FROM complaints
        WHERE len(problems) > 0
    """


def _judged(
    dialect: Dialect, found: Collection[str], *, candidates: str = "candidates", also: Collection[str] = ()
) -> str:
    """The common table expressions up to `judged`: candidates cast, buckets disjoint, times absolute.

    `<name>_text` is a candidate as the log has it, without what is empty; `<name>_number` its number.
    """
    counts = _countable(dialect, found)
    total = _given("total", found)
    used = [*counts, *(name for name in ("total", "audio_seconds") if name in found)]
    overfull = " OR ".join(
        _overfull(whole, buckets, found)
        for whole, buckets, inclusive in _sums(dialect)
        if inclusive and any(name in found for name in (whole, *buckets))
    )
    contradictory = "coalesce(contradictory = 'true', false)" if "contradictory" in found else "false"
    return f"""
        WITH cast_values AS (
            SELECT line, part, {"".join(f"{column}, " for column in also)} {", ".join(_casts(dialect, found))}
            FROM {candidates}
        ),
        timed AS (
            SELECT
                *,
                {"".join(f"{column}, " for column in _buckets(dialect, found))}
                {_duration("latency", "end_ts", found)} AS latency_ms,
                {_duration("ttft", "first_token_ts", found)} AS ttft_ms,
                {_event_us(dialect, found)} AS event_us,
                {_logged_us(dialect, found)} AS logged_us
            FROM cast_values
        ),
        judged AS (
            SELECT *, CASE
                WHEN {f"coalesce({', '.join(used)}) IS NULL" if used else "true"} THEN 'missing'
                WHEN {contradictory} THEN 'inconsistent'
                WHEN {overfull or "false"} OR {total} <> {_sum(counts, TOKEN_BUCKETS)} THEN 'inconsistent'
                ELSE 'exact'
            END AS usage_quality
            FROM timed
        )
    """


def _casts(dialect: Dialect, found: Collection[str]) -> list[str]:
    """The columns of `cast_values`, from the candidates that have values."""
    columns = [name for name in (*MARKS, "span_id") if name in found]
    columns.append(f"coalesce(getvariable('tenant'), {_tenant(found)}) AS tenant")
    for name in TEXTS:
        if name in ("tenant", "source_system"):
            continue
        if name in found:
            columns.append(f"nullif({f'trim({name})' if name in _TRIMMED else name}, '') AS {name}")
        elif name in ("event_id", "provider", "model"):
            columns.append(f"CAST(NULL AS VARCHAR) AS {name}")
    source_system = "nullif(source_system, '')" if "source_system" in found else "NULL"
    columns.append(f"coalesce({source_system}, '{dialect.name}') AS source_system")
    columns += [f"nullif({name}, '') AS {name}_text" for name in (*TIMES, *NUMBERS, *COUNTS) if name in found]
    columns += [f"instant_us({name}) AS {name}_us" for name in TIMES if name in found]
    columns += [f"real_number({name}) AS {name}_number" for name in NUMBERS if name in found]
    columns += [f"whole_number({name}) AS {name}_number" for name in COUNTS if name in found]
    columns.append(f"coalesce(nullif(trim({_given('kind', found)}), ''), 'leaf') AS kind")
    columns.append(f"coalesce(nullif(trim({_given('status', found)}), ''), 'success') AS status")
    if "attempt" in found:
        columns.append("nullif(attempt, '') AS attempt_text")
        columns.append(
            "CASE WHEN nullif(attempt, '') IS NULL THEN 1 ELSE whole_number(attempt) END AS attempt"
        )
    else:
        columns.append("1 AS attempt")
    columns += [f"nullif({name}, '') AS {name}_text" for name in ("stream", "cost", "tags") if name in found]
    special = {
        "stream": "CASE WHEN lower(stream) IN ('true', '1', '1.0') THEN true"
        " WHEN lower(stream) IN ('false', '0', '0.0') THEN false END",
        "cost": "exact_amount(cost)",
        "currency": "nullif(upper(trim(currency)), '')",
        "tags": "CASE WHEN ascii(ltrim(tags)) = 123 AND json_valid(tags) THEN tags END",
    }
    columns += [f"{made} AS {name}" for name, made in special.items() if name in found]
    if "audio_seconds" in found:
        columns.append("real_number(audio_seconds) AS audio_seconds")
    columns += [f"whole_number({name}) AS {name}" for name in (*COUNTERS, "total") if name in found]
    return columns


def _tenant(found: Collection[str]) -> str:
    """The record's own tenant or `default`, or what was looked up and must be there."""
    if "tenant" not in found:
        return "CASE WHEN getvariable('tenant_field') IS NULL THEN 'default' END"
    return "nullif(trim(tenant), ''), CASE WHEN getvariable('tenant_field') IS NULL THEN 'default' END"


def _given(name: str, found: Collection[str]) -> str:
    return name if name in found else "NULL"


def _sums(dialect: Dialect) -> tuple[tuple[str, tuple[str, ...], bool | None], ...]:
    """The sums that a log may have, the buckets that they stand for, and whether they count all of those."""
    return (
        ("input_tokens", INPUT_BUCKETS, dialect.input_includes_cached),
        ("output_tokens", OUTPUT_BUCKETS, dialect.output_includes_reasoning),
    )


def _countable(dialect: Dialect, found: Collection[str]) -> list[str]:
    """Buckets and counters that have values: found, or what remains of a sum that was found."""
    computed = {
        buckets[0] for whole, buckets, inclusive in _sums(dialect) if inclusive is not None and whole in found
    }
    return [name for name in (*TOKEN_BUCKETS, *COUNTERS) if name in found or name in computed]


def _buckets(dialect: Dialect, found: Collection[str]) -> list[str]:
    """Columns of the token buckets, disjoint.

    A sum without its other buckets is the first one. Where those exceed the sum, the emitter most
    likely never counted them in: then the sum is kept as it is.
    """
    columns = []
    for whole, buckets, inclusive in _sums(dialect):
        rest, others = buckets[0], [name for name in buckets[1:] if name in found]
        columns += [f"{name}_number AS {name}" for name in others]
        if inclusive is None or whole not in found:
            columns += [f"{rest}_number AS {rest}"] if rest in found else []
        elif inclusive and others:
            parts = " + ".join(f"coalesce({name}_number, 0)" for name in others)
            given = f"{whole}_number"
            columns.append(f"CASE WHEN {parts} > {given} THEN {given} ELSE {given} - ({parts}) END AS {rest}")
        else:
            columns.append(f"{whole}_number AS {rest}")
    return columns


def _overfull(whole: str, buckets: Collection[str], found: Collection[str]) -> str:
    """SQL: whether a sum is smaller than its parts, or absent though it has parts."""
    given = f"coalesce({whole}_number, 0)" if whole in found else "0"
    parts = [f"coalesce({name}_number, 0)" for name in list(buckets)[1:] if name in found]
    return f"({' + '.join(parts) or '0'} > {given})"


def _sum(counts: Collection[str], names: Collection[str]) -> str:
    return "(" + (" + ".join(f"coalesce({name}, 0)" for name in names if name in counts) or "0") + ")"


def _duration(name: str, end: str, found: Collection[str]) -> str:
    """SQL of a duration in ms: given so, else in seconds, else between two times."""
    ways = [
        made
        for candidate, made in (
            (f"{name}_ms", f"{name}_ms_number"),
            (f"{name}_s", f"{name}_s_number * 1000"),
            (end, f"({end}_us - ts_us) / 1000"),
        )
        if candidate in found and (candidate != end or "ts" in found)
    ]
    return f"coalesce({', '.join(ways)})" if ways else "CAST(NULL AS DOUBLE)"


def _time_quality(dialect: Dialect) -> str:
    """A column that says of each row whether its time was recorded, where that differs from row to row."""
    if dialect.times is not Times.PARTLY:
        return ""
    return "CASE WHEN logged_us IS NULL THEN 'assumed' ELSE 'recorded' END AS time_quality,"


def _logged_us(dialect: Dialect, found: Collection[str]) -> str:
    """SQL of the start of the request as the log has it, NULL where that is none."""
    recorded = dialect.times in (Times.RECORDED, Times.PARTLY) and "ts" in found
    return "ts_us" if recorded else "CAST(NULL AS BIGINT)"


def _event_us(dialect: Dialect, found: Collection[str]) -> str:
    """SQL of the start of the request."""
    match dialect.times:
        case Times.RECORDED:
            return _logged_us(dialect, found)
        case Times.PARTLY if "ts" in found:
            return "CASE WHEN ts_text IS NULL THEN getvariable('base_us') ELSE ts_us END"
        case Times.PARTLY:
            return "getvariable('base_us')"
        case Times.RELATIVE if "offset_ms" in found:
            return (
                f"CASE WHEN abs(offset_ms_number) <= {LONGEST_OFFSET_MS}"
                " THEN getvariable('base_us') + CAST(round(offset_ms_number * 1000) AS BIGINT) END"
            )
        case Times.RELATIVE:
            return "CAST(NULL AS BIGINT)"
        case Times.ABSENT:
            return "getvariable('base_us')"
