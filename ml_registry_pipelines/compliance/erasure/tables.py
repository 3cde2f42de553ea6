"""One person in the tables: which rows are theirs, which only mention them, and how both go.

Rows about the person go as a whole, but for requests: their amounts belong into sums that must stay
exact, so of them everything goes that leads to a person or to the request elsewhere (user, session,
trace, event id), and time, model, tokens and latency stay. A cell anywhere else that holds an
identifier keeps its row, with the identifier replaced. Conditions name pseudonyms and digests, never an
identifier, and are taken out of the Delta log afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.erasure.subjects import Subject
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.lake.tables.experiments import LOG_KINDS
from ml_registry_pipelines.telemetry.erased_rows import write_down
from ml_registry_pipelines.telemetry.suppression import ERASED_ID

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

REQUESTS = "inference_events"
DELETED = ("assignments", "outcomes", "quarantined_rows", "evaluation_data", "user_directory")
"""Tables whose rows about or with the person go as a whole. Who leaves the directory stays a pseudonym elsewhere."""
COVERED: Mapping[str, frozenset[str]] = {
    "inference_events": frozenset({"user_hash", "session_hash"}),
    "assignments": frozenset({"unit_hash"}),
    "outcomes": frozenset({"unit_hash"}),
    "quarantined_rows": frozenset({"raw"}),
    "evaluation_data": frozenset({"groups", "further", "subject_hash"}),
    "user_directory": frozenset({"name", "email"}),
    # A pseudonym that nobody can resolve once the directory has no row of it; the log of reads is kept by law.
    "access_log": frozenset({"actor"}),
    # Destroyed by `SubjectKeys.destroy`.
    "subject_keys": frozenset({"wrapped"}),
}
"""Every column that is declared personal, by table: what is not here, nobody has thought about."""
OF_THE_LOG = (
    "governance_events",
    "things",
    "relationships",
    "model_versions",
    "approvals",
    "idempotency_keys",
)
"""The log and what is folded from it: never rewritten. Personal fields in it are erased by their key."""
PERSON_COLUMNS = ("user_hash", "session_hash", "unit_hash", "subject_hash")
_NAMES = frozenset({"tenant", "path", "file"})
"""Columns that say which file a row is from: one that were renamed in a table would be taken anew."""
CHUNK = 500
"""Values that one condition names."""
_GONE = {
    "user_hash": "NULL",
    "session_hash": "NULL",
    "trace_id": "NULL",
    "parent_id": "NULL",
    "event_id": f"concat('{ERASED_ID}', CAST(event_key AS STRING))",
}


@dataclass(frozen=True)
class Linked:
    """What of the requests leads to the person without naming them: only theirs, and nobody else's."""

    sessions: tuple[str, ...] = field(default=(), repr=False)
    traces: tuple[str, ...] = field(default=(), repr=False)
    events: tuple[str, ...] = field(default=(), repr=False)
    files: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Held:
    """Rows of one table: about the person, and such as only mention them."""

    table: str
    rows: int
    mentions: int


def linked(lake: Lake, subject: Subject) -> Linked:
    """Sessions and traces that are the person's alone, their requests, and the files that these came from."""
    others = {pair for table in LOG_KINDS for pair in _files_of_units(lake, table, subject)}
    if not lake.exists(REQUESTS):
        return Linked(files=tuple(sorted(others)))
    with lake.read(REQUESTS) as reading:

        def only_theirs(column: str) -> tuple[str, ...]:
            rows = reading.query(
                f"erasure.{column}",
                f"""
                SELECT {column} AS value FROM {REQUESTS}
                WHERE tenant = $tenant AND {column} IS NOT NULL
                  AND {column} IN (
                      SELECT {column} FROM {REQUESTS} WHERE tenant = $tenant AND list_contains($hashes, user_hash))
                GROUP BY {column}
                HAVING bool_and(user_hash IS NULL OR list_contains($hashes, user_hash))
                """,
                {"tenant": subject.tenant, "hashes": list(subject.hashes)},
            )
            return tuple(rows["value"].to_pylist())

        sessions, traces = only_theirs("session_hash"), only_theirs("trace_id")
        rows = reading.query(
            "erasure.requests",
            f"SELECT DISTINCT event_id, source, file FROM {REQUESTS} WHERE {_REQUESTS_OF}",
            _about(subject, sessions, traces),
        ).to_pylist()
    return Linked(
        sessions,
        traces,
        tuple(sorted({row["event_id"] for row in rows})),
        tuple(sorted({(row["source"], row["file"]) for row in rows} | others)),
    )


def _files_of_units(lake: Lake, table: str, subject: Subject) -> list[tuple[str, str]]:
    """Files that assignments or labels of the person came from."""
    if not lake.exists(table):
        return []
    with lake.read(table) as reading:
        rows = reading.query(
            "erasure.files",
            f"SELECT DISTINCT source, file FROM {table} WHERE tenant = $tenant AND list_contains($hashes, unit_hash)",
            {"tenant": subject.tenant, "hashes": list(subject.hashes)},
        )
    return [(row["source"], row["file"]) for row in rows.to_pylist()]


_REQUESTS_OF = """
    tenant = $tenant AND (
        list_contains($hashes, user_hash) OR list_contains($hashes, session_hash)
        OR (user_hash IS NULL AND list_contains($sessions, session_hash))
        OR (user_hash IS NULL AND list_contains($traces, trace_id))
    )
"""


def _about(subject: Subject, sessions: Sequence[str], traces: Sequence[str]) -> dict[str, object]:
    return {
        "tenant": subject.tenant,
        "hashes": list(subject.hashes),
        "sessions": list(sessions),
        "traces": list(traces),
    }


def holding(lake: Lake, subject: Subject, known: Linked) -> Iterator[Held]:
    """What every table that there is holds of the person; tables without anything are left out."""
    for table in TABLES:
        if not lake.exists(table):
            continue
        with lake.read(table) as reading:
            rows = _count(reading, table, subject, known)
            cells = sum(len(values) for values in _cells(reading, table, subject).values())
        if rows or cells:
            yield Held(table, rows, cells)


def _count(reading: Reading, table: str, subject: Subject, known: Linked) -> int:
    where = _rows_of(table, subject, known)
    if not where:
        return 0
    condition = " OR ".join(f"({one})" for one in where)
    rows = reading.query("erasure.count", f"SELECT count(*) AS n FROM {table} WHERE {condition}")
    return int(rows["n"][0].as_py())


def _rows_of(table: str, subject: Subject, known: Linked) -> list[str]:
    """Conditions, of no more than some hundred values each, that select the rows about the person."""
    declared = TABLES[table]
    names = set(declared.column_names)
    mine = f"tenant = {_text(subject.tenant)} AND " if "tenant" in names else ""
    if table == REQUESTS:
        theirs = [
            f"{mine}(user_hash IN ({_list(part)}) OR session_hash IN ({_list(part)}))"
            for part in _chunks(subject.hashes)
        ]
        others = [
            f"{mine}user_hash IS NULL AND {column} IN ({_list(part)})"
            for column, values in (("session_hash", known.sessions), ("trace_id", known.traces))
            for part in _chunks(values)
        ]
        # The person's own rows go last: what is linked to them is known by them alone.
        return [*others, *theirs]
    found = [
        f"{mine}{column} IN ({_list(part)})"
        for column in PERSON_COLUMNS
        if column in names
        for part in _chunks(subject.hashes)
    ]
    if table == "outcomes":
        for column, values in (("event_id", known.events), ("trace_id", known.traces)):
            found += [f"{mine}{column} IN ({_list(part)})" for part in _chunks(values)]
    return found


def _cells(reading: Reading, table: str, subject: Subject) -> dict[str, list[str]]:
    """Distinct texts by column that hold an identifier or hash, beside the columns that are hashes by themselves."""
    declared = TABLES[table]
    texts = [
        column.name
        for column in declared.columns
        if column.type == "string"
        and column.name not in PERSON_COLUMNS
        and column.name not in declared.partition_by
        and column.name not in _NAMES
    ]
    if not texts or reading.is_empty(table):
        return {}
    mine, pattern = _mine(table, subject), {"pattern": _pattern(subject)}
    # One look at all columns says which of them are worth one of their own: mostly none.
    seen = ", ".join(f"coalesce(bool_or({_may_hold(name)}), false) AS {name}" for name in texts)
    (holding,) = reading.query(
        "erasure.columns", f"SELECT {seen} FROM {table} WHERE {mine}", pattern
    ).to_pylist()
    found: dict[str, list[str]] = {}
    for name in (name for name in texts if holding[name]):
        candidates = reading.query(
            "erasure.mentions",
            f"SELECT DISTINCT {name} AS value FROM {table} WHERE {mine} AND {_may_hold(name)}",
            pattern,
        )
        matching = [value for value in candidates["value"].to_pylist() if subject.needles.in_text(value)]
        if matching:
            found[name] = matching
    return found


def _may_hold(column: str) -> str:
    """A condition that every text with a needle meets, and none that is NULL."""
    return f"(regexp_matches(lower({column}), $pattern) OR contains({column}, '\\'))"


def _mine(table: str, subject: Subject) -> str:
    """Rows of the tenant, or of none: what others hold of the same person is theirs to erase."""
    if "tenant" not in TABLES[table].column_names:
        return "true"
    return f"(tenant = {_text(subject.tenant)} OR tenant IS NULL)"


def _pattern(subject: Subject) -> str:
    """RE2 for any text that may hold a needle; which ones do is decided by `Needles`."""
    import re
    from urllib.parse import quote

    texts = [*subject.needles.texts.values()]
    forms = {form.lower() for text in texts for form in (text, quote(text, safe=""))}
    return "|".join(sorted(re.escape(form).replace(r"\-", "-") for form in forms)) or r"\z."


def erase(
    lake: Lake,
    subject: Subject,
    known: Linked,
    erasure_id: str,
    *,
    resuming: bool = False,
    stays: Collection[str] = (),
) -> dict[str, int]:
    """Remove the person from every table but the log; rows by table. Doing it again finds nothing.

    Args:
        stays: items of the plan that are justified to stay.
        resuming: an earlier erasure was broken off, and may have left files that no table names.

    Raises:
        LostRace: other writers kept changing a table; erase again.
    """
    done: dict[str, int] = {}
    # Requests lead to labels and metrics, so they are the last to forget.
    for table in sorted(TABLES, key=lambda name: name == REQUESTS):
        if table in OF_THE_LOG or f"table:{table}" in stays or not lake.exists(table):
            continue
        rows = _erase_mentions(lake, table, subject, known, erasure_id)
        for where in _rows_of(table, subject, known):
            rows += _erase(lake, table, where, erasure_id)
        if resuming and not rows:
            lake.erase(table, "false")
        if rows:
            done[table] = rows
    return done


def _erase(lake: Lake, table: str, where: str, erasure_id: str) -> int:
    if table == REQUESTS:
        return _if_any(lake, table, where, _GONE)
    if table in DELETED:
        write_down(lake, table, _for_duckdb(where), erasure_id)
        return _if_any(lake, table, where, None)
    blank = {name: "NULL" for name in PERSON_COLUMNS if name in TABLES[table].column_names}
    return _if_any(lake, table, where, blank)


def _erase_mentions(lake: Lake, table: str, subject: Subject, known: Linked, erasure_id: str) -> int:
    with lake.read(table) as reading:
        cells = _cells(reading, table, subject)
    rows = 0
    if table == "model_metrics":
        for part in _chunks(known.events):
            where = f"tenant = {_text(subject.tenant)} AND request_id IN ({_list(part)})"
            rows += _if_any(lake, table, where, {"request_id": "NULL", "tags": "NULL"})
    for column, values in cells.items():
        for part in _chunks(values):
            where = f"{_mine(table, subject)} AND {_digest(column)} IN ({_list(map(_sha256, part))})"
            if table in DELETED:
                rows += _erase(lake, table, where, erasure_id)
            else:
                rows += _if_any(lake, table, where, _replacing(table, column, part, subject))
    return rows


def _replacing(table: str, column: str, values: Sequence[str], subject: Subject) -> dict[str, str]:
    """SQL that replaces the identifier in each of some texts of a column."""
    if table == REQUESTS and column in _GONE:
        return {column: _GONE[column]}
    cases = " ".join(
        f"WHEN {_digest(column)} = {_text(_sha256(value))} THEN {_text(subject.needles.blanked(value))}"
        for value in values
    )
    return {column: f"CASE {cases} ELSE {column} END"}


def _if_any(lake: Lake, table: str, where: str, blank: dict[str, str] | None) -> int:
    with lake.read(table) as reading:
        rows = reading.query("erasure.any", f"SELECT count(*) AS n FROM {table} WHERE {_for_duckdb(where)}")
    return lake.erase(table, where, blank=blank).rows if rows["n"][0].as_py() else 0


def _for_duckdb(where: str) -> str:
    """The condition as DuckDB spells it, whose digest of a text is in hex at once."""
    return where.replace("encode(sha256(", "((sha256(").replace("), 'hex')", ")))")


def _digest(column: str) -> str:
    return f"encode(sha256({column}), 'hex')"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _list(values: Iterable[str]) -> str:
    return ", ".join(map(_text, values))


def _chunks(values: Collection[str]) -> Iterator[Sequence[str]]:
    held = list(values)
    for start in range(0, len(held), CHUNK):
        yield held[start : start + CHUNK]


def rows_held(lake: Lake, table: str, subject: Subject, known: Linked) -> list[dict[str, object]]:
    """The rows of one table that are about the person; those that merely mention them are somebody else's.

    A table that knows no person by itself, such as rows in quarantine, gives those that mention them.
    """
    with lake.read(table) as reading:
        conditions = [_for_duckdb(where) for where in _rows_of(table, subject, known)]
        if not set(PERSON_COLUMNS) & set(TABLES[table].column_names):
            conditions += [
                f"{_mine(table, subject)} AND {column} IN ({_list(values)})"
                for column, values in _cells(reading, table, subject).items()
            ]
        if not conditions:
            return []
        found = reading.query(
            "erasure.rows", f"SELECT * FROM {table} WHERE {' OR '.join(f'({one})' for one in conditions)}"
        )
    return list(found.to_pylist())
