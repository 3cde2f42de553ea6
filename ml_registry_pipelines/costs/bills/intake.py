"""Taking files of bills, every line once: new lines and those that say something else are appended.

`provider_bills` leads: its rows are decided on a snapshot and land only as the commit right after it.
`quarantined_bill_lines` and `bill_files` follow. A file whose commit landed and that is not in
`bill_files` is taken again, and its own lines are known as its own, so that the counts come out the same.

The bill that was taken last counts. A file that is complete for its days withdraws lines of them that it
does not have; any other leaves them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.bills.documents import CompleteDay, Document, read_document
from ml_registry_pipelines.costs.bills.lines import Line, Record
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import FilesError
from ml_registry_pipelines.lake.outcomes import LostRace, SnapshotGone
from ml_registry_pipelines.lake.tables.bills import BILL_FILES, PROVIDER_BILLS, QUARANTINED_BILL_LINES

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.costs.bills.settings import BillSource
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading
    from ml_registry_pipelines.telemetry.sources import FileRef

BILLS = "provider_bills"
RECORDS_AT_ONCE = 50_000
"""Records of one commit; a longer file takes several."""
ATTEMPTS = 20
_CONTENT = ("quantity", "unit", "list_amount", "amount", "currency")
_COLUMNS = tuple(f.name for f in fields(Line) if f.name != "identity")

NEWEST = """
    SELECT * FROM provider_bills
    WHERE (day >= $first AND day < $after) OR provider_line_id IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY line_key ORDER BY batch DESC) = 1
"""
"""The newest row of each line of some days, be it withdrawn, and of lines that may have moved to another day.

A line is always of the same day, unless the issuer gave it an id: files of other days are not opened.
"""


class BillsError(MlregError):
    """Bills could not be taken."""


class BillsUnread(BillsError):
    """Some files could not be read; `taken` is what the others held."""

    def __init__(self, failures: Sequence[str], taken: TakenBills) -> None:
        super().__init__("; ".join(failures))
        self.taken = taken


@dataclass(frozen=True)
class TakenBills:
    """What came of some files. `rows_in` = `taken` + `duplicates` + `quarantined` + `ignored`.

    `restated` of the taken ones state an earlier line anew; `withdrawn` lines are no longer on the bill.
    """

    files: int = 0
    rows_in: int = 0
    taken: int = 0
    restated: int = 0
    duplicates: int = 0
    quarantined: int = 0
    ignored: int = 0
    withdrawn: int = 0

    def plus(self, other: TakenBills) -> TakenBills:
        return TakenBills(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def sentence(self) -> str:
        """The counts in words."""
        return (
            f"{self.files:,} files: {self.rows_in:,} rows in = {self.taken:,} taken ({self.restated:,} restated) "
            f"+ {self.duplicates:,} duplicates + {self.quarantined:,} quarantined + {self.ignored:,} ignored; "
            f"{self.withdrawn:,} lines withdrawn"
        )


@dataclass
class _File:
    """One file on its way in."""

    ref: FileRef
    digest: str
    document: Document
    reports: set[str] = field(default_factory=set)
    keys: set[int] = field(default_factory=set)
    problems: list[Record] = field(default_factory=list)
    recorded_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def rejected(self, record: Record) -> None:
        self.problems.append(record)

    def quarantine(self) -> list[dict[str, object]]:
        return [
            {
                "quarantine_id": _digest(self.ref.source, self.ref.path, str(record.number)),
                "source": self.ref.source,
                "file": self.ref.path,
                "line": record.number,
                "report": record.report,
                "reason": record.reason,
                "message": record.message,
                "raw": record.raw,
                "recorded_at": self.recorded_at,
            }
            for record in self.problems
        ]


@dataclass(frozen=True)
class _Decided:
    """What a snapshot makes of some records."""

    rows: list[dict[str, object]]
    counts: TakenBills
    problems: list[Record]


class BillIntake:
    """Takes files of bills into one lake."""

    def __init__(self, lake: Lake, sources: Sequence[BillSource]) -> None:
        self._lake = lake
        self._sources = {source.name: source for source in sources}
        self._known: frozenset[str] | None = None

    def take(self, files: Sequence[FileRef]) -> TakenBills:
        """Take files in their order; those that were taken before count as no file.

        Raises:
            BillsUnread: some could not be read; the others were taken.
        """
        done, failures = TakenBills(), []
        for file in files:
            source = self._sources.get(file.source)
            if source is None:
                failures.append(f"no source of bills is called {file.source!r}")
                continue
            try:
                done = done.plus(self._take(source, file))
            except FilesError as failure:
                failures.append(str(failure))
        if failures:
            raise BillsUnread(failures, done)
        return done

    def _take(self, source: BillSource, ref: FileRef) -> TakenBills:
        before = self._digest_taken(ref)
        data = source.files.read(ref.path)
        if before is not None:
            # Whoever names a file may mean a bill that was downloaded anew: that must not pass for the old one.
            if hashlib.sha256(data).hexdigest() != before:
                raise FilesError(
                    f"{ref.path} was taken before with other content; give what it holds now a name of its own"
                )
            return TakenBills()
        given = source.given(self.known_providers())
        file = _File(
            ref,
            hashlib.sha256(data).hexdigest(),
            read_document(ref.path, data, given, complete=source.restates_days),
        )
        counts = TakenBills(files=1)
        for chunk, last in _chunks(file.document.records):
            counts = counts.plus(self._land(file, chunk, last=last))
        self._follow(file, counts, len(data))
        return counts

    def known_providers(self) -> frozenset[str]:
        """Provider ids of the price catalogue and of the logs."""
        if self._known is None:
            with self._lake.read("price_catalog", "cost_rollup") as reading:
                rows = reading.query(
                    "bills.known_providers",
                    """
                    SELECT DISTINCT provider FROM price_catalog
                    UNION
                    SELECT DISTINCT provider FROM cost_rollup WHERE provider IS NOT NULL
                    """,
                )
            self._known = frozenset({"openai", "anthropic", *rows["provider"].to_pylist()})
        return self._known

    # -- one commit ----------------------------------------------------------------------

    def _land(self, file: _File, records: Sequence[Record], *, last: bool) -> TakenBills:
        """Decide on a snapshot and commit right after it, again where another writer was faster."""
        import pyarrow as pa

        for _ in range(ATTEMPTS):
            with self._lake.read(BILLS) as reading:
                version = reading.version(BILLS)
                try:
                    decided = self._decide(reading, file, records, last=last)
                except SnapshotGone:
                    continue
            if decided.rows:
                if not self._lake.exists(BILLS):
                    version = self._lake.version(BILLS)
                rows = pa.Table.from_pylist(decided.rows, schema=PROVIDER_BILLS.schema)
                try:
                    self._lake.append_expecting(BILLS, rows, version=version)
                except LostRace:
                    continue
            file.problems += decided.problems
            file.keys |= {line.key for record in records for line in record.lines}
            file.reports |= {record.report for record in records if record.report is not None}
            return decided.counts
        raise BillsError(f"other writers of provider_bills were faster {ATTEMPTS} times; try again")

    def _decide(self, reading: Reading, file: _File, records: Sequence[Record], *, last: bool) -> _Decided:
        held = _held(reading, [line for record in records for line in record.lines])
        groupings = {} if file.document.complete else _groupings(reading, records)
        batch = _last_batch(reading) + 1
        rows: list[dict[str, object]] = []
        problems: list[Record] = []
        taken = restated = duplicates = ignored = 0
        for record in records:
            if record.reason is not None:
                problems.append(record)
            elif record.ignored or not record.lines:
                ignored += 1
            elif (other := _other_grouping(record, groupings)) is not None:
                problems.append(other)
            else:
                new = [line for line in record.lines if _is_new(line, held.get(line.key))]
                own = [line.key for line in record.lines if _is_own(line, held.get(line.key), file)]
                rows += [_row(line, file, record.number, batch) for line in new]
                taken += bool(new or own)
                # What landed before the process died is counted as it would have been then.
                restated += any(_is_stated(held.get(line.key)) for line in new) or _were_stated(reading, own)
                duplicates += not (new or own)
        gone = _withdrawn(reading, file, records, batch) if last and file.document.complete else []
        counts = TakenBills(0, len(records), taken, restated, duplicates, len(problems), ignored, len(gone))
        return _Decided([*rows, *gone], counts, problems)

    # -- what follows ----------------------------------------------------------------------

    def _digest_taken(self, ref: FileRef) -> str | None:
        """The digest of what was taken under this name; None where nothing was."""
        with self._lake.read(BILL_FILES.name) as reading:
            found = reading.query(
                "bills.was_taken",
                "SELECT digest FROM bill_files WHERE source = $source AND path = $path LIMIT 1",
                {"source": ref.source, "path": ref.path},
            )
        digests: list[str] = found["digest"].to_pylist()
        return digests[0] if digests else None

    def _follow(self, file: _File, counts: TakenBills, size: int) -> None:
        append_absent(self._lake, QUARANTINED_BILL_LINES.name, ("quarantine_id",), file.quarantine())
        row = {
            "source": file.ref.source,
            "path": file.ref.path,
            "size": file.ref.size or size,
            "modified_at": file.ref.modified_at,
            "etag": file.ref.etag,
            "digest": file.digest,
            "complete": True,
            "report": ", ".join(sorted(file.reports)) or None,
            **{name: getattr(counts, name) for name in _COUNTS},
            "recorded_at": file.recorded_at,
        }
        append_absent(self._lake, BILL_FILES.name, ("source", "path"), [row])


def append_absent(lake: Lake, table: str, key: tuple[str, ...], rows: list[dict[str, object]]) -> None:
    """Append the rows whose key the table lacks, each once however many try.

    Raises:
        BillsError: other writers of the table were faster again and again.
    """
    import pyarrow as pa

    if not rows:
        return
    given: pa.Table = pa.Table.from_pylist(rows, schema=lake.declaration(table).schema)
    for _ in range(ATTEMPTS):
        version = lake.version(table)
        with lake.read(table) as reading:
            if reading.version(table) != version:
                continue
            reading.register("given", given)
            absent = reading.query(
                f"bills.absent_{table}",
                f"SELECT given.* FROM given ANTI JOIN {table} USING ({', '.join(key)})",
            )
        if not absent.num_rows:
            return
        try:
            lake.append_expecting(table, absent.cast(given.schema), version=version)
        except LostRace:
            continue
        return
    raise BillsError(f"other writers of {table} were faster {ATTEMPTS} times; try again")


_COUNTS = ("rows_in", "taken", "restated", "duplicates", "quarantined", "ignored", "withdrawn")


def _chunks(records: Iterator[Record]) -> Iterator[tuple[list[Record], bool]]:
    """Records by as many as one commit takes; with the last ones, that they are."""
    chunk = list(islice(records, RECORDS_AT_ONCE))
    while True:
        following = list(islice(records, RECORDS_AT_ONCE))
        yield chunk, not following
        if not following:
            return
        chunk = following


def _held(reading: Reading, lines: Sequence[Line]) -> dict[int, dict[str, Any]]:
    import pyarrow as pa

    if not lines:
        return {}
    keys = sorted({line.key for line in lines})
    reading.register("given_keys", pa.table({"line_key": pa.array(keys, pa.int64())}))
    rows = reading.query(
        "bills.held",
        f"""
        SELECT line_key, state, quantity, unit, list_amount, amount, currency, source, file, file_digest
        FROM ({NEWEST}) SEMI JOIN given_keys USING (line_key)
        """,
        _bounds([line.day for line in lines]),
    ).to_pylist()
    return {row["line_key"]: row for row in rows}


def _were_stated(reading: Reading, keys: Sequence[int]) -> bool:
    """Whether any of the lines, as they stand, states an earlier one anew."""
    if not keys:
        return False
    rows = reading.query(
        "bills.stated_before",
        """
        SELECT line_key FROM (
            SELECT line_key, batch, lag(state) OVER (PARTITION BY line_key ORDER BY batch) AS before
            FROM provider_bills WHERE line_key IN (SELECT unnest($keys::BIGINT[]))
        )
        QUALIFY row_number() OVER (PARTITION BY line_key ORDER BY batch DESC) = 1 AND before = 'stated'
        """,
        {"keys": list(keys)},
    )
    return bool(rows.num_rows)


def _last_batch(reading: Reading) -> int:
    rows = reading.query("bills.last_batch", "SELECT max(batch) AS batch FROM provider_bills").to_pylist()
    return rows[0]["batch"] or 0


def _is_stated(held: dict[str, Any] | None) -> bool:
    return held is not None and held["state"] == "stated"


def _is_new(line: Line, held: dict[str, Any] | None) -> bool:
    return held is None or held["state"] != "stated" or tuple(held[name] for name in _CONTENT) != line.content


def _is_own(line: Line, held: dict[str, Any] | None, file: _File) -> bool:
    """Whether the line landed from this very file already, when it was not taken to its end."""
    return (
        held is not None
        and not _is_new(line, held)
        and (held["source"], held["file"], held["file_digest"])
        == (file.ref.source, file.ref.path, file.digest)
    )


def _row(line: Line, file: _File, number: int, batch: int) -> dict[str, object]:
    return {
        **{name: getattr(line, name) for name in _COLUMNS},
        "line_key": line.key,
        "state": "stated",
        "day": line.day,
        "source": file.ref.source,
        "file": file.ref.path,
        "file_digest": file.digest,
        "line": number,
        "batch": batch,
        "recorded_at": file.recorded_at,
    }


def _groupings(reading: Reading, records: Sequence[Record]) -> dict[tuple[Any, ...], str | None]:
    """How the stated periods of these days were grouped, where a report has groupings."""
    days = [line.day for record in records for line in record.lines if line.grouping is not None]
    if not days:
        return {}
    rows = reading.query(
        "bills.groupings",
        f"""
        SELECT report, issuer, account, period_start, period_end, any_value(grouping) AS grouping
        FROM ({NEWEST})
        WHERE state = 'stated' AND kind <> 'nothing' AND report <> 'focus' AND day >= $first AND day < $after
        GROUP BY report, issuer, account, period_start, period_end
        """,
        _bounds(days),
    ).to_pylist()
    return {
        tuple(row[n] for n in ("report", "issuer", "account", "period_start", "period_end")): row["grouping"]
        for row in rows
    }


def _other_grouping(record: Record, held: dict[tuple[Any, ...], str | None]) -> Record | None:
    """The record as one that cannot be taken, where its period is held by other dimensions: both would count."""
    for line in record.lines:
        if line.bucket in held and held[line.bucket] != line.grouping and line.report != "cloudflare_costs":
            message = (
                f"{line.report} of {line.day} is held by {held[line.bucket] or 'no dimension'}, and this states it by "
                f"{line.grouping or 'no dimension'}: together they would count twice. Export it by the same ones, "
                "or say `restates: days` of the source if its files hold all lines of their days"
            )
            return Record(
                record.number,
                record.report,
                reason="other_grouping",
                message=message,
                raw=record.raw,
                bucket=None,
            )
    return None


def _withdrawn(
    reading: Reading, file: _File, records: Sequence[Record], batch: int
) -> list[dict[str, object]]:
    """Lines of the days that the file is complete for, which it does not have."""
    broken = file.document.broken
    days = [day for day in file.document.days if (day[0], day[3]) not in broken]
    if not days:
        return []
    keys = file.keys | {line.key for record in records for line in record.lines}
    gone = _lines_of_days(reading, days).to_pylist()
    return [
        {
            **row,
            "state": "withdrawn",
            "source": file.ref.source,
            "file": file.ref.path,
            "file_digest": file.digest,
            "line": 0,
            "batch": batch,
            "recorded_at": file.recorded_at,
        }
        for row in gone
        if row["line_key"] not in keys
    ]


def _lines_of_days(reading: Reading, days: Sequence[CompleteDay]) -> pa.Table:
    import pyarrow as pa

    given = pa.table(
        {
            "report": pa.array([day[0] for day in days], pa.string()),
            "issuer": pa.array([day[1] for day in days], pa.string()),
            "account": pa.array([day[2] for day in days], pa.string()),
            "day": pa.array([day[3] for day in days], pa.date32()),
        }
    )
    reading.register("complete_days", given)
    return reading.query(
        "bills.lines_of_days",
        f"""
        SELECT newest.*
        FROM (SELECT * FROM ({NEWEST}) WHERE state = 'stated' AND day >= $first AND day < $after) AS newest
        JOIN complete_days AS given
          ON newest.report = given.report AND newest.issuer = given.issuer AND newest.day = given.day
         AND newest.account IS NOT DISTINCT FROM given.account
        """,
        _bounds([day[3] for day in days]),
    )


def _bounds(days: Sequence[date]) -> dict[str, object]:
    """The parameters of `NEWEST` for these days."""
    return {"first": min(days), "after": max(days) + timedelta(days=1)}


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]
