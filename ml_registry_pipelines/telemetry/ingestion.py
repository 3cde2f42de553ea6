"""Taking log files into the lake, every record exactly once.

One table leads. A batch is decoded, compared with what is stored, and written aside for
its followers; then `inference_events` commits with the batch number, and the followers
`ingested_files` and `quarantined_rows` append what was written aside under the same
number. A worker that dies anywhere leaves either no batch at all, or one that the next
start completes. Two workers with the same files race for the number; the loser looks
again at what is left to do.

Decoding is in `decoding.py`, prices and rollups follow in rooms of their own.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import FilesError, Folder, open_folder
from ml_registry_pipelines.lake.lake import Landed
from ml_registry_pipelines.lake.tables.telemetry import INFERENCE_EVENTS, INGESTED_FILES
from ml_registry_pipelines.telemetry.accounting import counts_by_file, quarantine, stamped
from ml_registry_pipelines.telemetry.quarantine import replayed_states
from ml_registry_pipelines.telemetry.sources import FileRef, Source, Sources, SourcesError

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.decoding import Decoded, DecodeOptions

SOURCE = "ingestion"
"""The one writer role of `inference_events`: a second one could pass the check of the first."""
LEADING = "inference_events"
"""Source under which followers carry the leading table's batch number."""
STAGED = "mlreg_staged"
STAGED_BATCH = "mlreg_batch"

BATCH_ROWS = 1_000_000
BATCH_BYTES = 320 << 20
"""A batch is committed when either is reached; memory stays at a few times this."""
HORIZON_DAYS = 90
"""A resend is recognised when its day is at most this far from the first one's."""
RACES = 50
"""Lost races after which a worker stops trying."""


class IngestionError(MlregError):
    """A batch could not be taken, or an earlier one not be completed."""


@dataclass(frozen=True)
class Taken:
    """What a call of `take` did. `rows_in` = `taken` + `duplicates` + `quarantined`."""

    batches: tuple[int, ...] = ()
    files: int = 0
    rows_in: int = 0
    taken: int = 0
    duplicates: int = 0
    quarantined: int = 0
    ignored: int = 0
    days: tuple[date, ...] = ()

    def plus(self, other: Taken) -> Taken:
        """Both together."""
        return Taken(
            batches=self.batches + other.batches,
            files=self.files + other.files,
            rows_in=self.rows_in + other.rows_in,
            taken=self.taken + other.taken,
            duplicates=self.duplicates + other.duplicates,
            quarantined=self.quarantined + other.quarantined,
            ignored=self.ignored + other.ignored,
            days=tuple(sorted({*self.days, *other.days})),
        )

    def metadata(self) -> dict[str, int | str]:
        """Figures for a materialization."""
        return {
            "files": self.files,
            "rows_in": self.rows_in,
            "taken": self.taken,
            "duplicates": self.duplicates,
            "quarantined": self.quarantined,
            "ignored": self.ignored,
            "batches": ", ".join(map(str, self.batches)) or "none",
            "days": ", ".join(day.isoformat() for day in self.days) or "none",
        }


@dataclass
class _Part:
    """One file, or the piece of it that goes into one batch."""

    file: FileRef
    number: int
    first_line: int
    dialect: str | None = None
    last_line: int = 0
    complete: bool = False
    digest: str | None = None
    rows_in: int = 0
    ignored: int = 0
    tried_again: int = 0
    """Records of a replay: they were counted as quarantined before and are not now."""

    def row(self, batch: int, now: datetime, counts: Mapping[str, int] | None) -> dict[str, object]:
        """The part as a row of `ingested_files`."""
        counted = dict(counts or {"taken": 0, "duplicates": 0, "quarantined": 0})
        counted["quarantined"] -= self.tried_again
        if sum(counted.values()) != self.rows_in:
            raise IngestionError(
                f"{self.file.path}: {self.rows_in} records went in and {counted} came out; nothing was taken"
            )
        return {
            "source": self.file.source,
            "path": self.file.path,
            "part": self.number,
            "first_line": self.first_line,
            "last_line": self.last_line,
            "complete": self.complete,
            "size": self.file.size,
            "modified_at": self.file.modified_at,
            "etag": self.file.etag,
            "digest": self.digest if self.complete else None,
            "dialect": self.dialect,
            "batch": batch,
            "rows_in": self.rows_in,
            "ignored": self.ignored,
            "recorded_at": now,
            **counted,
        }


@dataclass
class _Pending:
    """What is decoded and not yet committed."""

    parts: list[_Part] = field(default_factory=list)
    rows: list[pa.Table] = field(default_factory=list)
    rejected: list[pa.Table] = field(default_factory=list)
    replayed: pa.Table | None = None
    """Rows of `quarantined_rows` that this batch tries again."""

    @property
    def full(self) -> bool:
        return (
            sum(len(t) for t in self.rows) >= BATCH_ROWS
            or sum(t.nbytes for t in [*self.rows, *self.rejected]) >= BATCH_BYTES
        )


class _LostBatch(Exception):
    """Another worker took the batch number; what is left to do has changed."""


class Ingestion:
    """Takes files of configured sources into one lake."""

    def __init__(self, lake: Lake, sources: Sources, *, salt: bytes | None = None) -> None:
        self._lake = lake
        self._sources = sources
        self._salt = salt
        self._staging: Folder = open_folder(f"{lake.root}/staging")

    def next_batch(self) -> int:
        """Number of the batch that would be taken next."""
        return self._lake.sequence("inference_events", SOURCE) + 1

    def take(self, files: Sequence[FileRef]) -> Taken:
        """Take the files that are not taken yet, in batches of at most a million rows.

        A file that cannot be read does not keep the others from being taken; the error
        comes after them.

        Raises:
            IngestionError: some file could not be read, or the tables not be written.
        """
        done = Taken()
        failures: list[str] = []
        for _ in range(RACES):
            self.recover()
            try:
                for landed in self._take(self._left(files), failures):
                    done = done.plus(landed)
            except _LostBatch:
                failures.clear()
                continue
            if failures:
                raise IngestionError("; ".join(failures))
            return done
        raise IngestionError(f"{RACES} batches in a row were taken by other workers; stop some of them")

    def recover(self) -> None:
        """Complete batches whose followers lag the leading table.

        Raises:
            IngestionError: what was written aside for a follower is gone.
        """
        leading = self._lake.sequence("inference_events", SOURCE)
        lagging = min(
            (self._lake.sequence(table, LEADING) for table in ("ingested_files", "quarantined_rows")), default=leading
        )
        if lagging >= leading:
            return
        staged = {
            int(note[STAGED_BATCH]): note[STAGED]
            for note in self._lake.notes("inference_events", source_key=STAGED_BATCH)
        }
        for batch in range(lagging + 1, leading + 1):
            self._follow(batch, staged.get(batch))

    # -- one pass over files ------------------------------------------------------------

    def _left(self, files: Sequence[FileRef]) -> list[tuple[FileRef, int, int]]:
        """Files that are not complete yet, with the last line taken and the number of the next part."""
        import pyarrow as pa

        unique = list(dict.fromkeys(files))
        if not unique or not self._lake.exists("ingested_files"):
            return [(file, 0, 0) for file in unique]
        wanted = pa.table({"source": [f.source for f in unique], "path": [f.path for f in unique]})
        with self._lake.read("ingested_files") as reading:
            reading.register("wanted", wanted)
            known = reading.query(
                "ingestion.progress",
                """
                SELECT source, path, bool_or(complete) AS complete, max(last_line) AS line, max(part) + 1 AS part
                FROM ingested_files SEMI JOIN wanted USING (source, path)
                GROUP BY source, path
                """,
            ).to_pylist()
        progress = {(row["source"], row["path"]): row for row in known}
        left = []
        for file in unique:
            row = progress.get((file.source, file.path))
            if row is None:
                left.append((file, 0, 0))
            elif not row["complete"]:
                left.append((file, row["line"], row["part"]))
        return left

    def _take(self, files: Iterable[tuple[FileRef, int, int]], failures: list[str]) -> Iterator[Taken]:
        pending = _Pending()
        for file, line, number in files:
            part = _Part(file, number, first_line=line + 1, last_line=line)
            try:
                for piece in self._decoded(file, after_line=line):
                    part.dialect = piece.dialect
                    part.last_line = max(part.last_line, piece.last_line)
                    part.rows_in += len(piece.rows) + len(piece.rejected)
                    part.ignored += piece.ignored
                    part.digest = piece.digest
                    part.complete = piece.complete
                    pending.rows.append(_placed(piece.rows, file))
                    pending.rejected.append(_placed(piece.rejected, file))
                    if pending.full and not part.complete:
                        pending.parts.append(part)
                        yield self._commit(pending)
                        pending = _Pending()
                        part = _Part(file, part.number + 1, part.last_line + 1, part.dialect, part.last_line)
            except FilesError as failure:
                # Lines of this file that are already decoded stay; the rest is taken up after it.
                failures.append(str(failure))
            if part.rows_in or part.ignored or part.complete:
                pending.parts.append(part)
            if pending.full:
                yield self._commit(pending)
                pending = _Pending()
        if pending.parts:
            yield self._commit(pending)

    def _decoded(self, file: FileRef, *, after_line: int) -> Iterator[Decoded]:
        """The file's records after a line, piece by piece; the last piece says `complete`.

        Raises:
            FilesError: the file is gone, unreadable, or changed while it was read.
        """
        from ml_registry_pipelines.telemetry.decoding import DecodeOptions, decode_file
        from ml_registry_pipelines.telemetry.dialects import DIALECTS

        from ml_registry_pipelines.telemetry.decoding import decode_file

        source = self._sources.get(file.source)
        folder = source.files
        before = folder.entry(file.path)
        options = self._options(source, file)
        with folder.open(file.path) as stream:
            for piece in decode_file(stream, file.path, options=options, start_after_line=after_line):
                if piece.complete and folder.entry(file.path).mark != before.mark:
                    raise FilesError(
                        f"{file.path} of source {file.source!r} changed while it was read; "
                        "it is taken up again once it has settled"
                    )
                yield piece

    def _options(self, source: Source, file: FileRef) -> DecodeOptions:
        from ml_registry_pipelines.telemetry.decoding import DecodeOptions
        from ml_registry_pipelines.telemetry.dialects import DIALECTS

        return DecodeOptions(
            dialect=source.dialect_of(file.path, DIALECTS),
            tenant=source.tenant,
            tenant_field=source.tenant_field,
            time_zone=source.time_zone,
            base_time=source.base_time_of(file),
            modified_at=file.modified_at,
            salt=self.salt,
        )

    # -- quarantined rows, again ----------------------------------------------------------

    def replay(self, tried: pa.Table) -> Taken:
        """Decode rows of `quarantined_rows` anew and take what can be taken now, as one batch.

        The counts of their files move with them: what was quarantined becomes taken or a duplicate.

        Raises:
            IngestionError: other workers kept taking the batch number.
        """
        if not len(tried):
            return Taken()
        for _ in range(RACES):
            self.recover()
            try:
                return self._commit(self._decoded_anew(tried))
            except _LostBatch:
                continue
        raise IngestionError(f"{RACES} batches in a row were taken by other workers; stop some of them")

    def _decoded_anew(self, tried: pa.Table) -> _Pending:
        import pyarrow as pa

        from ml_registry_pipelines.telemetry.decoding import decode_records

        pending = _Pending(replayed=tried)
        by_file: dict[tuple[str, str, str | None], list[int]] = {}
        for number, key in enumerate(zip(*(tried[c].to_pylist() for c in ("source", "file", "dialect")), strict=True)):
            by_file.setdefault(key, []).append(number)
        for (source, path, dialect), numbers in by_file.items():
            held = tried.take(numbers)
            file = self._file_again(source, path)
            options = self._options(self._source_again(source), file)
            records = pa.table({"line": pa.array(range(len(held)), pa.int64()), "raw": held["raw"]})
            piece = decode_records(records, replace(options, dialect=options.dialect or dialect))
            pending.rows.append(_placed(_put_back(piece.rows, held), file))
            pending.rejected.append(_placed(_put_back(piece.rejected, held), file))
            tried_again = len(piece.rows) + len(piece.rejected)
            pending.parts.append(
                _Part(
                    file, self._next_part(file), first_line=0, dialect=piece.dialect,
                    rows_in=tried_again - len(held), tried_again=len(held), ignored=piece.ignored,
                )
            )
        return pending

    def _source_again(self, name: str) -> Source:
        """The source of a quarantined row; one that is configured no more has no settings."""
        try:
            return self._sources.get(name)
        except SourcesError:
            return Source(name=name, folder=f"{self._lake.root}/landing")

    def _file_again(self, source: str, path: str) -> FileRef:
        with self._lake.read("ingested_files") as reading:
            found = reading.query(
                "ingestion.file_again",
                """
                SELECT size, modified_at, etag FROM ingested_files
                WHERE source = $source AND path = $path ORDER BY part LIMIT 1
                """,
                {"source": source, "path": path},
            ).to_pylist()
        if not found:
            raise IngestionError(f"{path} of source {source!r} is in quarantine but not in ingested_files")
        return FileRef(source, path, **found[0])

    def _next_part(self, file: FileRef) -> int:
        with self._lake.read("ingested_files") as reading:
            found = reading.query(
                "ingestion.next_part",
                "SELECT max(part) AS part FROM ingested_files WHERE source = $source AND path = $path",
                {"source": file.source, "path": file.path},
            ).to_pylist()
        return int(found[0]["part"]) + 1

    @property
    def salt(self) -> bytes:
        """Secret that user ids are hashed with; made on first use."""
        if self._salt is None:
            self._salt = user_salt(self._lake.root)
        return self._salt

    # -- committing a batch ---------------------------------------------------------------

    def _commit(self, pending: _Pending) -> Taken:
        """Commit one batch: written aside, leading table, followers.

        Raises:
            _LostBatch: another worker committed this number first; nothing landed.
        """
        import pyarrow as pa

        batch = self.next_batch()
        now = datetime.now(UTC)
        rows = pa.concat_tables(pending.rows)
        rejected = pa.concat_tables(pending.rejected)
        pending.rows.clear()
        new, again = self._deduplicated(rows)
        counts = counts_by_file(new, again, rejected)
        files = pa.Table.from_pylist(
            [part.row(batch, now, counts.get((part.file.source, part.file.path))) for part in pending.parts],
            schema=INGESTED_FILES.schema,
        )
        quarantined = quarantine(rejected, again, batch=batch, now=now)
        if pending.replayed is not None:
            quarantined = replayed_states(pending.replayed, quarantined, batch=batch, now=now)
        staged = uuid.uuid4().hex
        self._write_aside(staged, "ingested_files", files)
        self._write_aside(staged, "quarantined_rows", quarantined)
        landed = self._lake.append_once(
            "inference_events",
            stamped(new, INFERENCE_EVENTS.schema, batch=batch, now=now),
            source=SOURCE,
            sequence=batch,
            note={STAGED: staged, STAGED_BATCH: str(batch)},
        )
        if landed is Landed.BEFORE:
            self._discard(staged)
            raise _LostBatch
        self._follow(batch, staged)
        sums = {name: sum(files[name].to_pylist()) for name in ("rows_in", "taken", "duplicates", "quarantined")}
        return Taken(
            batches=(batch,),
            files=sum(part.complete for part in pending.parts),
            ignored=sum(part.ignored for part in pending.parts),
            days=tuple(sorted(new["day"].unique().to_pylist())),
            **sums,
        )

    def _deduplicated(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Rows whose identity is new, and the others with `conflict`: whether their content differs.

        Candidates are found on 64-bit keys, over all days inside the horizon because a resend
        may carry another timestamp, and compared by the whole identity.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if not len(rows):
            return rows, rows.append_column("conflict", pa.array([], pa.bool_()))
        days = pc.min_max(rows["day"]).as_py()
        numbered = rows.append_column("number", pa.array(range(len(rows)), pa.int64()))
        identity = numbered.select(
            ["number", "event_key", "content_key", "tenant", "source_system", "event_id", "attempt"]
        )
        with self._lake.read("inference_events") as reading:
            reading.register("incoming", identity)
            verdicts = reading.query(
                "ingestion.deduplicate",
                """
                WITH stored AS MATERIALIZED (
                    SELECT event_key, content_key, tenant, source_system, event_id, attempt
                    FROM inference_events
                    WHERE day BETWEEN $first AND $last
                      AND event_key IN (SELECT event_key FROM incoming)
                ),
                repeated AS MATERIALIZED (
                    SELECT event_key FROM incoming GROUP BY event_key HAVING count(*) > 1
                ),
                earlier AS (
                    SELECT number, first_value(number) OVER same AS first, first_value(content_key) OVER same AS content
                    FROM incoming SEMI JOIN repeated USING (event_key)
                    WINDOW same AS (PARTITION BY event_key, tenant, source_system, event_id, attempt ORDER BY number)
                )
                SELECT incoming.number, bool_or(stored.content_key <> incoming.content_key) AS conflict
                FROM incoming JOIN stored USING (event_key, tenant, source_system, event_id, attempt)
                GROUP BY incoming.number
                UNION ALL
                SELECT incoming.number, earlier.content <> incoming.content_key
                FROM incoming JOIN earlier ON incoming.number = earlier.number
                WHERE earlier.first <> incoming.number
                  AND NOT EXISTS (
                      SELECT 1 FROM stored
                      WHERE stored.event_key = incoming.event_key AND stored.event_id = incoming.event_id
                        AND stored.tenant = incoming.tenant AND stored.source_system = incoming.source_system
                        AND stored.attempt = incoming.attempt
                  )
                """,
                {
                    "first": days["min"] - timedelta(days=HORIZON_DAYS),
                    "last": days["max"] + timedelta(days=HORIZON_DAYS),
                },
            )
        if not len(verdicts):
            return rows, rows.slice(0, 0).append_column("conflict", pa.array([], pa.bool_()))
        verdicts = verdicts.sort_by("number")
        is_again = pc.is_in(numbered["number"], value_set=verdicts["number"].combine_chunks())
        again = rows.filter(is_again).append_column("conflict", verdicts["conflict"])
        return rows.filter(pc.invert(is_again)), again

    # -- followers --------------------------------------------------------------------------

    def _write_aside(self, staged: str, table: str, rows: pa.Table) -> None:
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        try:
            self._staging.write(f"{staged}.{table}.parquet", buffer.getvalue())
        except FilesError as failure:
            raise IngestionError(f"nothing was taken: {failure}") from failure

    def _follow(self, batch: int, staged: str | None) -> None:
        """Append what was written aside for a batch to its followers, and clear it away."""
        import pyarrow.parquet as pq

        for table in ("ingested_files", "quarantined_rows"):
            if self._lake.sequence(table, LEADING) >= batch:
                continue
            try:
                if staged is None:
                    raise FilesError("the commit's note is gone")
                rows = pq.read_table(io.BytesIO(self._staging.read(f"{staged}.{table}.parquet")))
            except FilesError as failure:
                if self._lake.sequence(table, LEADING) >= batch:
                    continue  # Another worker completed the batch and cleared up.
                raise IngestionError(
                    f"{table} lacks batch {batch} and what was written aside for it is gone ({failure}); "
                    "restore the folder `staging` below the root"
                ) from failure
            self._lake.append_once(table, rows, source=LEADING, sequence=batch)
        if staged is not None:
            self._discard(staged)

    def _discard(self, staged: str) -> None:
        for table in ("ingested_files", "quarantined_rows"):
            self._staging.delete(f"{staged}.{table}.parquet")


def user_salt(root: str) -> bytes:
    """The secret of this root that user ids are hashed with; made once, for all workers.

    Raises:
        IngestionError: the root cannot be written.
    """
    import secrets

    keys = open_folder(f"{root}/keys")
    try:
        keys.create("user_salt", secrets.token_hex(32).encode())
        return keys.read("user_salt")
    except FilesError as failure:
        raise IngestionError(f"the salt for user ids cannot be kept: {failure}") from failure


def _placed(rows: pa.Table, file: FileRef) -> pa.Table:
    """Rows with the source and path that they came from."""
    import pyarrow as pa

    for name, value in (("source", file.source), ("file", file.path)):
        column = pa.repeat(pa.scalar(value, pa.string()), len(rows))
        index = rows.schema.get_field_index(name)
        rows = rows.append_column(name, column) if index < 0 else rows.set_column(index, name, column)
    return rows


def _put_back(decoded: pa.Table, held: pa.Table) -> pa.Table:
    """Records of a replay under the line and part that they had in their file.

    Args:
        decoded: with `line` as the position in `held`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    positions = decoded["line"]
    line, part = held["line"].take(positions), held["part"].take(positions)
    decoded = decoded.set_column(decoded.schema.get_field_index("line"), "line", line)
    part = pc.add(part, decoded["part"]).cast(pa.int32())
    return decoded.set_column(decoded.schema.get_field_index("part"), "part", part)
