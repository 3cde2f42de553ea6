"""Assignment logs and labels: records of a file become rows of `assignments` and `outcomes`, or rejects.

    {"experiment": "checkout", "unit": "user-17", "arm": "small", "ts": "2026-11-02T09:30:00Z"}
    {"metric": "resolved", "value": true, "ts": "2026-11-03T10:00:00Z", "event_id": "req-4711"}

A label names what it is about: a request (`event_id`, where ids of several systems could meet with
`source_system`), a trace (`trace_id`) or a unit. The first that is given counts. Units are kept as
salted hashes, the same that requests keep of their users and conversations.

Reading bytes is in `reading.py`; taking files exactly once is in `experiment_ingestion.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.reading import answer, in_batches
from ml_registry_pipelines.lake.tables.experiments import ASSIGNMENTS, OUTCOMES
from ml_registry_pipelines.telemetry.checking import LONGEST_TENANT
from ml_registry_pipelines.telemetry.decoding import Decoded, Origin, Workspace, naming
from ml_registry_pipelines.telemetry.dialects.dialect import structure_of
from ml_registry_pipelines.telemetry.dialects.native import NATIVE
from ml_registry_pipelines.telemetry.normalising import rejected_schema

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.reading import Chunk

TABLES_OF = {"assignments": ASSIGNMENTS, "outcomes": OUTCOMES}
LONGEST_TEXT = 500
MOST_VALUE = 1_000_000_000_000
"""A label beyond would leave nothing of the others in a sum of squares."""

_SPELLINGS = {
    "tenant": ("tenant",),
    "experiment": ("experiment", "experiment_id"),
    "arm": ("arm", "variant", "variation_id"),
    "unit": ("unit", "unit_id", "user_id", "session_id"),
    "ts": ("ts", "timestamp", "assigned_at", "observed_at"),
    "metric": ("metric", "name"),
    "value": ("value", "score"),
    "event_id": ("event_id",),
    "source_system": ("source_system",),
    "trace_id": ("trace_id",),
    "label_id": ("label_id", "id"),
}
"""What a field may be called; of several that are given, the first counts."""

_TIME = """
    CASE WHEN ts IS NULL THEN 'missing_field|`ts` is missing'
         WHEN us IS NULL THEN 'bad_timestamp|`ts` is ' || left(ts, 80)
             || ': neither an ISO 8601 time nor a number since 1970'
         WHEN us NOT BETWEEN getvariable('earliest_us') AND getvariable('latest_us')
             THEN 'absurd_timestamp|`ts` is ' || left(ts, 80)
             || ': before 2015 or more than a day after the file was written' END
"""
_TENANT = f"""
    CASE WHEN owner IS NULL THEN 'missing_tenant|the field ' || getvariable('tenant_field')
             || ', which the source names as tenant, is missing'
         WHEN length(owner) > {LONGEST_TENANT} OR regexp_matches(owner, '[\\x00-\\x1f\\x7f]')
             THEN 'bad_tenant|the tenant is longer than {LONGEST_TENANT} characters or holds control characters' END
"""


def _needed(name: str) -> str:
    return f"CASE WHEN {name} IS NULL THEN 'missing_field|`{name}` is missing' END"


def _short(*names: str) -> str:
    longest = "greatest(" + ", ".join(f"coalesce(length({name}), 0)" for name in names) + ")"
    return (
        f"CASE WHEN {longest} > {LONGEST_TEXT} THEN "
        f"'too_long|a name or id is longer than {LONGEST_TEXT} characters' END"
    )


_FAULTS = {
    "assignments": (
        _needed("experiment"),
        _needed("arm"),
        _needed("unit"),
        _short("experiment", "arm", "unit"),
        _TIME,
        _TENANT,
    ),
    "outcomes": (
        _needed("metric"),
        _needed("value"),
        """CASE WHEN value IS NOT NULL AND amount IS NULL THEN 'wrong_type|`value` is ' || left(value, 80)
            || ': neither a number nor true or false' END""",
        f"""CASE WHEN abs(amount) > {MOST_VALUE} THEN 'absurd_value|`value` is ' || left(value, 80)
            || ': beyond {MOST_VALUE}' END""",
        """CASE WHEN coalesce(event_id, trace_id, unit) IS NULL
            THEN 'missing_field|one of `event_id`, `trace_id` and `unit` has to say what the label is about' END""",
        _short("metric", "event_id", "source_system", "trace_id", "unit", "label_id"),
        _TIME,
        _TENANT,
    ),
}


_KEYS = {
    "assignments": ("tenant", "experiment", "unit_hash", "arm", "CAST(us AS VARCHAR)"),
    # With an id of its own, a label is that label whatever else is said of it.
    "outcomes": (
        "tenant",
        "metric",
        """coalesce('i' || label_id, concat_ws('|', 't', us,
            CASE WHEN event_id IS NOT NULL THEN concat('e', sized(source_system), sized(event_id))
                 WHEN trace_id IS NOT NULL THEN 'x' || trace_id ELSE 'u' || unit_hash END))""",
    ),
}


def _sql(kind: str) -> str:
    """Over `records`: the rows of a kind of log, and what is wrong with those that cannot be taken."""
    names = _SPELLINGS
    given = structure_of(dict.fromkeys({s for spelled in names.values() for s in spelled}, "VARCHAR"))
    fields = ", ".join(
        f"coalesce({', '.join(f'''nullif(trim(r.{s}), '')''' for s in spelled)}) AS {name}"
        for name, spelled in names.items()
    )
    key = ", ".join(f"sized({part})" for part in _KEYS[kind])
    return f"""
        WITH parsed AS (
            SELECT line, raw, json_type(raw) AS type, json_transform(raw, {given}) AS r FROM records
        ),
        named AS (
            SELECT line, raw, type, {fields},
                coalesce(json_extract_string(raw, getvariable('tenant_field_flat')),
                    json_extract_string(raw, getvariable('tenant_field_nested'))) AS looked_up
            FROM parsed
        ),
        cast_values AS (
            SELECT *, instant_us(ts) AS us,
                CASE WHEN lower(value) = 'true' THEN 1.0 WHEN lower(value) = 'false' THEN 0.0
                     ELSE real_number(value) END AS amount,
                coalesce(
                    getvariable('tenant'),
                    CASE WHEN getvariable('tenant_field') IS NULL THEN coalesce(tenant, 'default')
                         ELSE nullif(trim(looked_up), '') END
                ) AS owner
            FROM named
        ),
        judged AS (
            SELECT * REPLACE (owner AS tenant), salted(getvariable('salt'), owner, unit) AS unit_hash,
                CASE WHEN type <> 'OBJECT' THEN 'not_an_object|the record is JSON but not an object'
                     ELSE coalesce({", ".join(_FAULTS[kind])}) END AS fault
            FROM cast_values
        )
        SELECT line, tenant, fault, experiment, unit_hash, arm, metric, amount AS value, event_id, source_system,
            trace_id, label_id,
            CASE WHEN fault IS NULL THEN make_timestamp(us) END AS moment,
            CASE WHEN fault IS NULL THEN CAST(make_timestamp(us) AS DATE) END AS day,
            CASE WHEN fault IS NULL THEN key_of(concat({key})) END AS row_key,
            CASE WHEN fault IS NOT NULL THEN rtrim(raw, chr(13) || chr(10)) END AS raw
        FROM judged
    """


def decoded(
    kind: str, reader: Iterable[Chunk], origin: Origin, workspace: Workspace, *, after_line: int = 0
) -> Iterator[Decoded]:
    """The records of a file behind a line, some thousands at a time.

    Raises:
        ReadingError: its bytes could not be got, or not be decoded.
    """
    workspace.enter(NATIVE, origin)
    with naming(origin):
        for chunk in reader:
            if chunk.last_line > after_line:
                yield _decode(kind, chunk, origin, workspace, after_line)


def _decode(kind: str, chunk: Chunk, origin: Origin, workspace: Workspace, after_line: int) -> Decoded:
    import pyarrow as pa
    import pyarrow.compute as pc

    connection = workspace.connection
    connection.register("incoming", in_batches(chunk.records))
    checked = answer(connection, "SELECT line, raw, json_valid(raw) AS valid FROM incoming")
    malformed = checked.filter(pc.invert(checked["valid"]))
    connection.register("records", in_batches(checked.filter(checked["valid"]).select(["line", "raw"])))
    found = answer(connection, _sql(kind), over=chunk.records.num_rows)
    wrong = found.filter(pc.is_valid(found["fault"])).to_pylist()
    rejects = [
        *chunk.rejected.to_pylist(),
        *(
            {
                "line": row["line"],
                "reason": "invalid_json",
                "message": f"line {row['line']}: the text is not JSON",
                "raw": row["raw"].rstrip("\r\n"),
            }
            for row in malformed.to_pylist()
        ),
        *(
            {
                "line": row["line"],
                "reason": row["fault"].split("|", 1)[0],
                "message": f"line {row['line']}: {row['fault'].split('|', 1)[1]}",
                "raw": row["raw"],
                "tenant": row["tenant"],
            }
            for row in wrong
        ),
    ]
    kept = [
        {**row, "part": 0, "tenant": row.get("tenant") or origin.tenant, "raw": row["raw"][: 1 << 20]}
        for row in sorted(rejects, key=lambda row: row["line"])
        if row["line"] > after_line or row["line"] == 0
    ]
    rows = found.filter(pc.is_null(found["fault"]))
    return Decoded(
        rows=_rows(kind, rows.filter(pc.greater(rows["line"], after_line)), origin),
        rejected=pa.Table.from_pylist(kept, schema=rejected_schema()),
        ignored=0,
        first_line=max(chunk.first_line, after_line + 1),
        last_line=chunk.last_line,
    )


def _rows(kind: str, found: pa.Table, origin: Origin) -> pa.Table:
    """Columns of the table in their order, but for what the commit gives."""
    import pyarrow as pa

    same = {"source": origin.source, "file": origin.file}
    columns, schema = [], rows_schema(kind)
    for field in schema:
        if field.name in same:
            columns.append(pa.repeat(pa.scalar(same[field.name], field.type), found.num_rows))
        else:
            name = "moment" if field.name in ("assigned_at", "observed_at") else field.name
            columns.append(found[name].cast(field.type))
    return pa.table(columns, schema=schema)


def rows_schema(kind: str) -> pa.Schema:
    """Columns of a kind's table without those that the commit gives."""
    import pyarrow as pa

    return pa.schema([f for f in TABLES_OF[kind].schema if f.name not in ("batch", "recorded_at")])
