"""Decoding: chunks of raw records become rows of `inference_events`, or rejects with a reason.

Reading bytes into records is in `reading.py`, what a format looks like in `dialects/`,
the rules in `normalising.py`. Every record that goes in comes out once: as a row, as a
reject, or counted as ignored. Nothing here writes, looks at a clock or at the lake.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Self

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.interrupts import interruptible
from ml_registry_pipelines.lake.reading import FEW_ROWS, answer, in_batches, open_duckdb, parsed
from ml_registry_pipelines.telemetry import identity, normalising
from ml_registry_pipelines.telemetry.detecting import (
    SAMPLE_BYTES,
    SAMPLE_LEAST,
    SAMPLE_RECORDS,
    Refusal,
    recognise,
)
from ml_registry_pipelines.telemetry.dialects import DIALECTS
from ml_registry_pipelines.telemetry.dialects.dialect import CANDIDATES, Dialect, Identity, Times
from ml_registry_pipelines.telemetry.nesting import Nesting
from ml_registry_pipelines.telemetry.ordinals import Ordinals
from ml_registry_pipelines.telemetry.reading import Chunk, LogReader, ReadingError, rejects_schema
from ml_registry_pipelines.telemetry.splitting import Limits

if TYPE_CHECKING:
    import pyarrow as pa

RAW_KEPT = 1 << 20
"""Bytes of raw text that a reject keeps."""
RAW_KEPT_OF_FILE = 64 << 10
"""Characters that a reject of a whole file keeps of its beginning."""

WORTH_EXPECTING = 20_000
"""Records from which on it pays to plan one long statement instead of two: 20 to 50 ms."""


class DialectError(MlregError):
    """A dialect is not made as it must be."""


class DecodingError(ReadingError):
    """Something in a file that no rule foresaw; what was decoded of it before can be taken."""


@contextlib.contextmanager
def naming(origin: Origin) -> Iterator[None]:
    """Turn errors that what a file holds can raise into one that names it: other files must go on."""
    import duckdb
    import pyarrow as pa

    try:
        with interruptible():
            yield
    except (duckdb.Error, pa.ArrowException, ValueError, OverflowError, RecursionError, AssertionError) as e:
        # Only the first line: behind it errors quote the record, which may hold prompts.
        said = (str(e).splitlines() or [type(e).__name__])[0][:200]
        raise DecodingError(
            f"{origin.file} of source {origin.source!r} cannot be decoded: {said}; "
            "it stays untaken, correct it or move it away"
        ) from e


@dataclass(frozen=True)
class Origin:
    """Where a file lies and what its source says about the records in it.

    `tenant` is whose every record is, whatever it says. With `tenant_field` (dots between levels)
    it is looked up in each record and must be there. With neither, a record's own tenant counts,
    else `default`. `salt` goes into the hashes of users and sessions. `base_time` stands in where
    a format has no times of its own. `cost_unit` is `currency` or `cents`, for formats that do not say.
    """

    source: str
    file: str
    modified_at: datetime
    recorded_at: datetime
    base_time: datetime
    tenant: str | None = None
    tenant_field: str | None = None
    time_zone: str = "UTC"
    salt: str = ""
    cost_unit: str | None = None


@dataclass(frozen=True)
class Decoded:
    """What became of some consecutive records: `rows` + `rejected` + `ignored` is all of them.

    `rows` has the columns of `inference_events` without `batch`; `rejected` has line, part, reason,
    message, raw and tenant. `last_line` is the last line that was read for it.
    """

    rows: pa.Table
    rejected: pa.Table
    ignored: int
    first_line: int
    last_line: int

    @property
    def rows_in(self) -> int:
        return len(self.rows) + len(self.rejected) + self.ignored


class Workspace:
    """The DuckDB in which decoders work, one after the other; opening one takes as long as a small file.

    Args:
        about: how many records they are going to decode, roughly.
    """

    def __init__(self, about: int = FEW_ROWS) -> None:
        self._about = about
        self._open()

    def _open(self) -> None:
        # Spans are compared along the file, and rows come out as they went in.
        self.connection = open_duckdb(ordered=True, over=self._about)
        for macro in (*identity.MACROS, *normalising.MACROS):
            self.connection.execute(parsed(macro))
        self._given: dict[str, frozenset[str]] = {}
        self.expected: dict[str, frozenset[str]] = {}
        """Candidates that chunks of a dialect had values for so far."""

    def given(self, dialect: Dialect) -> frozenset[str]:
        """The candidates that a dialect's select gives."""
        import pyarrow as pa

        if dialect.select not in self._given:
            nothing = pa.table({"line": pa.array([], pa.int64()), "raw": pa.array([], pa.string())})
            self.connection.register("records", nothing)
            columns = frozenset(self.connection.sql(dialect.select).columns)
            if unknown := columns - {"line", "part", "raw", *CANDIDATES, *dialect.extra}:
                names = ", ".join(sorted(unknown))
                raise DialectError(
                    f"the dialect {dialect.name!r} gives {names}, which is no candidate; "
                    f"candidates are {', '.join(CANDIDATES)}"
                )
            self._given[dialect.select] = columns & frozenset(CANDIDATES)
        return self._given[dialect.select]

    def enter(self, dialect: Dialect, origin: Origin) -> None:
        """Make the circumstances of a file known to the SQL, as variables and as time zone."""
        self.connection.execute("SET TimeZone = $zone", {"zone": dialect.time_zone or origin.time_zone})
        field = origin.tenant_field
        texts = {
            "salt": origin.salt,
            "tenant": origin.tenant,
            "tenant_field": field,
            "cost_unit": origin.cost_unit,
            "tenant_field_flat": None if field is None else _pointer([field]),
            "tenant_field_nested": None if field is None else _pointer(field.split(".")),
        }
        instants = {
            "base_us": origin.base_time,
            "earliest_us": normalising.EARLIEST,
            "latest_us": origin.modified_at + timedelta(days=1),
        }
        for name, text in texts.items():
            self.connection.execute(f"SET VARIABLE {name} = CAST($value AS VARCHAR)", {"value": text})
        for name, instant in instants.items():
            self.connection.execute(
                f"SET VARIABLE {name} = CAST($value AS BIGINT)", {"value": _microseconds(instant)}
            )

    def renew(self) -> None:
        """Begin anew after an error: DuckDB is of no use any more after some of them."""
        self.close()
        self._open()

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Decoder:
    """Decodes the records of one file in one dialect, chunk after chunk.

    Args:
        workspace: where to decode; otherwise the decoder opens one of its own, which `close` closes.
    """

    def __init__(self, dialect: Dialect, origin: Origin, workspace: Workspace | None = None) -> None:
        self.dialect = dialect
        self._origin = origin
        self._own = Workspace() if workspace is None else None
        workspace = workspace or self._own
        assert workspace is not None
        self._connection = workspace.connection
        self._given = workspace.given(dialect)
        self._expected = workspace.expected
        self._ordinals = Ordinals(self._connection) if dialect.identity is Identity.CONTENT else None
        self._nesting = Nesting(self._connection) if dialect.nests else None
        workspace.enter(dialect, origin)

    @property
    def remembers(self) -> bool:
        """Whether a row depends on rows before it, so that a file is always decoded from its start."""
        return self._ordinals is not None or self._nesting is not None

    def decode(self, chunk: Chunk, *, after_line: int = 0) -> Decoded:
        """Decode one chunk, and give what lies after a line. Chunks of a file must come in order."""
        import duckdb
        import pyarrow as pa
        import pyarrow.compute as pc

        rejected = [_with_tenant(chunk.rejected, self._origin.tenant)]
        records = chunk.records
        try:
            judged = self._judged(records)
        except duckdb.InvalidInputException:
            # Malformed JSON is rare: it is looked for, at a tenth of the time, only where there is some.
            records, malformed = self._well_formed(records)
            rejected.append(_with_tenant(malformed, self._origin.tenant))
            judged = self._judged(records)
        if self._nesting is not None:
            judged = self._nesting.mark(judged)
        ignored = judged["ignored"]
        bad = judged.select(["line", "part"]).filter(pc.and_not(judged["bad"], ignored))
        if bad.num_rows:
            rejected.append(self._complaints(records, bad))
        dropped = pc.or_(judged["bad"], ignored)
        rows = judged.filter(pc.invert(dropped)) if pc.any(dropped).as_py() else judged
        if self._ordinals is not None:
            rows = self._ordinals.number(rows)
        rows = self._complete(rows)
        refused = pa.concat_tables(rejected)
        if chunk.first_line <= after_line:
            rows = rows.filter(pc.greater(rows["line"], after_line))
            refused = refused.filter(pc.greater(refused["line"], after_line))
            ignored = pc.and_(ignored, pc.greater(judged["line"], after_line))
        return Decoded(
            rows=rows,
            rejected=refused.sort_by([("line", "ascending"), ("part", "ascending")]),
            ignored=pc.sum(ignored).as_py() or 0,
            first_line=max(chunk.first_line, after_line + 1),
            last_line=chunk.last_line,
        )

    def close(self) -> None:
        """Close the workspace, if it is the decoder's own."""
        if self._own is not None:
            self._own.close()

    def _judged(self, records: pa.Table) -> pa.Table:
        """Rows in the making, with hardly more than the columns that have values."""
        import pyarrow.compute as pc

        expected = self._expected.get(self.dialect.select, frozenset())
        if expected and records.num_rows >= WORTH_EXPECTING:
            sql = normalising.expected_rows_sql(
                self.dialect, self._given, expected, looks_up_tenant=self._origin.tenant_field is not None
            )
            self._connection.register("records", in_batches(records))
            rows = answer(self._connection, sql, over=records.num_rows)
            if not pc.any(rows["unexpected"]).as_py():
                return rows.drop_columns("unexpected")
        candidates = self._candidates(records)
        found = _with_values(candidates)
        self._expected[self.dialect.select] = expected.union(found)
        self._connection.register("candidates", in_batches(candidates.select(["line", "part", *found])))
        sql = normalising.rows_sql(self.dialect, frozenset(found))
        return answer(self._connection, sql, over=records.num_rows)

    def _candidates(self, records: pa.Table, *, with_raw: bool = False) -> pa.Table:
        looks_up = self._origin.tenant_field is not None
        sql = normalising.candidates_sql(
            self.dialect, self._given, looks_up_tenant=looks_up, with_raw=with_raw
        )
        self._connection.register("records", in_batches(records))
        return answer(self._connection, sql, over=records.num_rows)

    def _complaints(self, records: pa.Table, bad: pa.Table) -> pa.Table:
        """Reason and message of each bad record."""
        import pyarrow.compute as pc

        faulty = records.filter(pc.is_in(records["line"], bad["line"].combine_chunks()))
        candidates = self._candidates(faulty, with_raw=True)
        found = _with_values(candidates)
        self._connection.register("candidates", in_batches(candidates))
        sql = normalising.complaints_sql(self.dialect, frozenset(found))
        complaints = answer(self._connection, sql, over=faulty.num_rows)
        assert complaints.num_rows == bad.num_rows, (
            f"{bad.num_rows} bad records, {complaints.num_rows} complaints"
        )
        return _cut(complaints).cast(normalising.rejected_schema())

    def _complete(self, rows: pa.Table) -> pa.Table:
        """All columns in their order and types: constants as well, and NULL where nothing was found."""
        import pyarrow as pa

        same = {
            "recorded_at": self._origin.recorded_at,
            "source": self._origin.source,
            "file": self._origin.file,
            "dialect": self.dialect.name,
            "time_quality": "recorded" if self.dialect.times is Times.RECORDED else "assumed",
        }
        schema = normalising.rows_schema()
        columns = []
        for field in schema:
            if field.name in rows.schema.names:
                columns.append(rows[field.name].cast(field.type))
            elif field.name in same:
                columns.append(pa.repeat(pa.scalar(same[field.name], field.type), rows.num_rows))
            else:
                columns.append(_nulls(rows.num_rows, field.type))
        return pa.table(columns, schema=schema)

    def _well_formed(self, records: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Records that are JSON, and rejects for those that are not."""
        import pyarrow as pa

        self._connection.register("records", in_batches(records))
        good = self._connection.sql("SELECT line, raw FROM records WHERE json_valid(raw)").to_arrow_table()
        malformed = self._connection.sql(
            """
            SELECT line, 'invalid_json' AS reason, rtrim(raw, chr(13) || chr(10)) AS raw
            FROM records WHERE NOT json_valid(raw)
            """
        ).to_arrow_table()
        where = zip(malformed["line"].to_pylist(), malformed["raw"].to_pylist(), strict=True)
        messages = [f"line {line}: the text is not JSON{_where_not_json(raw)}" for line, raw in where]
        malformed = malformed.append_column("message", pa.array(messages, pa.string()))
        return good, malformed


class LogFile:
    """One log file, decoded part by part as it is iterated, once.

    Args:
        stream: the stored bytes, from the start.
        dialect: its dialect where that is known; otherwise it is detected among `known`.
        start_after_line: records up to this line were taken before and are left out.
        workspace: where to decode, for callers with many files; not for two files at once.
    """

    def __init__(
        self,
        stream: IO[bytes],
        origin: Origin,
        *,
        dialect: Dialect | None = None,
        known: Iterable[Dialect] = tuple(DIALECTS.values()),
        start_after_line: int = 0,
        limits: Limits | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        self._reader = LogReader(stream, origin.file, limits=limits)
        self._origin = origin
        self._known = tuple(known)
        self._start = start_after_line
        self._workspace = workspace
        self._chunks: _Ahead | None = None
        self.dialect = dialect
        """The dialect; None before the first part, and where none was recognised."""

    @property
    def digest(self) -> str:
        """SHA-256 of the stored bytes, once all parts were read."""
        return self._reader.digest

    def begin(self) -> None:
        """Begin to read in another thread, before the first part is asked for."""
        if self._chunks is None:
            self._chunks = _Ahead(iter(self._reader))

    def close(self) -> None:
        """Stop reading; what is under way comes to its end. Needed after `begin` alone."""
        if self._chunks is not None:
            self._chunks.close()

    def __iter__(self) -> Iterator[Decoded]:
        self.begin()
        assert self._chunks is not None
        try:
            with contextlib.closing(self._chunks) as chunks, naming(self._origin):
                yield from self._decoded(chunks)
        except DecodingError:
            if self._workspace is not None:
                self._workspace.renew()
            raise

    def _decoded(self, chunks: Iterator[Chunk]) -> Iterator[Decoded]:
        waiting, sample = self._sample(chunks)
        found = recognise(sample, self._origin.file, self._known, self.dialect)
        if isinstance(found, Refusal):
            self.dialect = None
            yield from self._refused(waiting, chunks, found)
            return
        self.dialect = found
        decoder = Decoder(self.dialect, self._origin, self._workspace)
        with contextlib.closing(decoder):
            for chunk in itertools.chain(waiting, chunks):
                if decoder.remembers or chunk.last_line > self._start:
                    decoded = decoder.decode(chunk, after_line=self._start)
                    if chunk.last_line > self._start:
                        yield decoded

    def _sample(self, chunks: Iterator[Chunk]) -> tuple[list[Chunk], list[str]]:
        """The first chunks and the first texts in them, the same however the file is cut."""
        waiting: list[Chunk] = []
        sample: list[str] = []
        size = 0

        def enough() -> bool:
            return len(sample) >= SAMPLE_RECORDS or (size >= SAMPLE_BYTES and len(sample) >= SAMPLE_LEAST)

        while not enough() and (chunk := next(chunks, None)) is not None:
            waiting.append(chunk)
            for text in chunk.records["raw"].slice(0, SAMPLE_RECORDS - len(sample)).to_pylist():
                if not enough():
                    sample.append(text)
                    size += len(text)
        return waiting, sample

    def _refused(self, waiting: list[Chunk], chunks: Iterator[Chunk], refusal: Refusal) -> Iterator[Decoded]:
        """A file that is refused: what could not be read, and if it has records, the file as a whole."""
        import pyarrow as pa

        last, recognisable = 0, False
        rejected = [_with_tenant(chunk.rejected, self._origin.tenant) for chunk in waiting]
        for chunk in itertools.chain(waiting, chunks):
            last = max(last, chunk.last_line)
            recognisable = recognisable or chunk.records.num_rows > 0
        if recognisable:
            rejected = [_whole_file(waiting, self._origin, refusal)]
        if rejected:
            rows = normalising.rows_schema().empty_table()
            yield Decoded(
                rows, pa.concat_tables(rejected), ignored=0, first_line=min(last, 1), last_line=last
            )


def _whole_file(waiting: list[Chunk], origin: Origin, refusal: Refusal) -> pa.Table:
    """One reject for a whole file, with its first records as raw text."""
    import pyarrow as pa

    first = next(chunk.records for chunk in waiting if chunk.records.num_rows)
    texts = "".join(first["raw"].slice(0, SAMPLE_RECORDS).to_pylist())[:RAW_KEPT_OF_FILE]
    row = {"line": 0, "reason": refusal.reason, "message": refusal.message, "raw": texts}
    return _with_tenant(pa.Table.from_pylist([row], rejects_schema()), origin.tenant)


def _where_not_json(text: str) -> str:
    """Where a text stops being JSON, unless Python's reader is more lenient."""
    try:
        json.loads(text)
    except json.JSONDecodeError as failure:
        return f" from character {failure.pos + 1} on"
    except RecursionError:
        pass
    return ""


def _with_values(candidates: pa.Table) -> list[str]:
    """The candidates that at least one record has."""
    return [
        name
        for name in candidates.schema.names
        if name in CANDIDATES and candidates[name].null_count < candidates.num_rows
    ]


def _pointer(names: Iterable[str]) -> str:
    """A JSON pointer to a field below other fields."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)


def _microseconds(instant: datetime) -> int:
    return (instant.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class _Ahead(Iterator[Chunk]):
    """The same chunks, each read and unpacked in another thread while the one before is worked on."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._pending = self._pool.submit(next, chunks, None)

    def __next__(self) -> Chunk:
        chunk = self._pending.result()
        if chunk is None:
            raise StopIteration
        self._pending = self._pool.submit(next, self._chunks, None)
        return chunk

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _nulls(length: int, of: pa.DataType) -> pa.Array:
    """As `pyarrow.nulls`, all over one buffer: half the columns of most logs are empty."""
    import pyarrow as pa

    zeros = _zeros(16 * (1 << length.bit_length()))
    return pa.Array.from_buffers(of, length, [zeros] * of.num_buffers, null_count=length)


@functools.lru_cache(maxsize=4)
def _zeros(size: int) -> pa.Buffer:
    """Zeros: no value is there, none is true, and each begins and ends at 0."""
    import pyarrow as pa

    return pa.py_buffer(bytes(size))


def _with_tenant(rejected: pa.Table, tenant: str | None) -> pa.Table:
    """Rejects of the reading step as rejects of a source, whose tenant may be known."""
    import pyarrow as pa

    schema = normalising.rejected_schema()
    columns = {name: rejected[name] for name in ("line", "reason", "message", "raw")}
    columns["part"] = pa.array([0] * rejected.num_rows, pa.int32())
    columns["tenant"] = pa.array([tenant] * rejected.num_rows, pa.string())
    return _cut(pa.table({name: columns[name] for name in schema.names})).cast(schema)


def _cut(rejected: pa.Table) -> pa.Table:
    """Raw texts of at most a mebibyte."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if (pc.max(pc.binary_length(rejected["raw"])).as_py() or 0) <= RAW_KEPT:
        return rejected
    texts = [text.encode()[:RAW_KEPT].decode(errors="ignore") for text in rejected["raw"].to_pylist()]
    return rejected.set_column(rejected.schema.get_field_index("raw"), "raw", pa.array(texts, pa.string()))
