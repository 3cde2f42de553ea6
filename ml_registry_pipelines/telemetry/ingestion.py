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

import contextlib
import io
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, Self

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import FilesError, Folder, open_folder
from ml_registry_pipelines.lake.outcomes import CommitUnknown, LakeError, Landed
from ml_registry_pipelines.lake.tables.telemetry import INFERENCE_EVENTS, INGESTED_FILES, QUARANTINED_ROWS
from ml_registry_pipelines.telemetry.accounting import counts_by_file, quarantine, stamped
from ml_registry_pipelines.telemetry.batch import Part, Pending, Taken
from ml_registry_pipelines.telemetry.deduplication import deduplicated
from ml_registry_pipelines.telemetry.quarantine import replayed_states
from ml_registry_pipelines.telemetry.reading import ReadingError
from ml_registry_pipelines.telemetry.sources import FileRef, Source, Sources, SourcesError
from ml_registry_pipelines.telemetry.suppression import keys_folder, without_erased

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.decoding import Decoded, LogFile, Origin, Workspace
    from ml_registry_pipelines.telemetry.dialects.dialect import Dialect
    from ml_registry_pipelines.telemetry.experiment_ingestion import ExperimentLogs

SOURCE = "ingestion"
"""The one writer role of `inference_events`: a second one could pass the check of the first."""
LEADING = "inference_events"
"""Source under which followers carry the leading table's batch number."""
FOLLOWERS = ("ingested_files", "quarantined_rows")
STAGED = "mlreg_staged"
STAGED_BATCH = "mlreg_batch"
TRACKED = "(tracked)"
"""Source of records that came without a file, which no configured source can be called; and, in the note of
such a commit, how many they were. Nothing is written aside for it: what follows is in the leading table."""

BATCH_ROWS = 1_000_000
BATCH_BYTES = 320 << 20
"""A batch is committed when either is reached; memory stays at a few times this."""
RECORD_BYTES = 50
"""About the least that a record takes of a compressed file; it decides how many threads decode."""
ABANDONED = timedelta(days=1)
"""A batch commits within minutes of being written aside; what is older than this never will."""
RACES = 50
"""Lost races after which a worker stops trying."""


class IngestionError(MlregError):
    """A batch could not be taken, or an earlier one not be completed."""


class FilesUnread(IngestionError):
    """Some files could not be read to their end; `taken` is what the others held, and their beginnings."""

    def __init__(self, failures: Sequence[str], taken: Taken) -> None:
        super().__init__("; ".join(failures))
        self.taken = taken


class LostBatch(Exception):
    """Another worker took the batch number; what is left to do has changed."""


class _Committer:
    """Commits one batch after the other in a thread of its own, while the next one is decoded."""

    def __init__(self, commit: Callable[[Pending, int], Taken]) -> None:
        self._commit = commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._under_way: Future[Taken] | None = None

    def give(self, pending: Pending, batch: int) -> Iterator[Taken]:
        """Begin to commit a batch, once the one before it has landed, which is what is given."""
        yield from self.last()
        self._under_way = self._thread.submit(self._commit, pending, batch)

    def last(self) -> Iterator[Taken]:
        """What was begun last, once it has landed."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            yield under_way.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()


@dataclass
class _Begun:
    """A file that is being read already, or that could not be opened."""

    part: Part
    folder: Folder
    mark: object = None
    stream: IO[bytes] | None = None
    log: LogFile | None = None
    failure: FilesError | None = None

    def decoded(self) -> Iterator[Decoded]:
        """Its records, once.

        Raises:
            FilesError: it could not be opened, or changed while it was read.
            ReadingError: its bytes could not be got, or not be decoded.
        """
        if self.failure is not None:
            raise self.failure
        assert self.log is not None
        with contextlib.closing(self):
            yield from self.log
        file = self.part.file
        if self.folder.entry(file.path).mark != self.mark:
            raise FilesError(
                f"{file.path} of source {file.source!r} changed while it was read; "
                "it is taken up again once it has settled"
            )

    @property
    def dialect(self) -> str | None:
        return self.log.dialect.name if self.log and self.log.dialect else None

    @property
    def digest(self) -> str | None:
        return self.log.digest if self.log else None

    def close(self) -> None:
        if self.log is not None and self.stream is not None:
            self.log.close()
            self.stream.close()


def _one_ahead(files: Iterator[_Begun]) -> Iterator[_Begun]:
    """The same files, the next one begun before one is given."""
    upcoming = next(files, None)
    try:
        while upcoming is not None:
            given, upcoming = upcoming, next(files, None)
            yield given
    finally:
        if upcoming is not None:
            upcoming.close()


class Ingestion:
    """Takes files of configured sources into one lake."""

    def __init__(self, lake: Lake, sources: Sources, *, salt: str | None = None) -> None:
        self.lake = lake
        self._sources = sources
        self._salt = salt
        self._staging: Folder = open_folder(f"{lake.root}/staging")

    def take(self, files: Sequence[FileRef]) -> Taken:
        """Take the files that are not taken yet, in batches of at most a million rows.

        A file that cannot be read does not keep the others from being taken; the error
        comes after them.

        Raises:
            FilesUnread: some file could not be read; everything else was taken.
            IngestionError: the tables could not be written.
        """
        from ml_registry_pipelines.telemetry.experiment_ingestion import ExperimentLogs, kinds_of

        kinds = kinds_of(self, files)
        files = kinds.pop(None, [])
        done = Taken()
        failures: list[str] = []
        unread: list[str] = []
        for kind, logs in kinds.items():
            assert kind is not None
            done = done.plus(self._without_races(ExperimentLogs(self), kind, logs, unread))
        if not files and kinds:
            return _unless(unread, done)
        for _ in range(RACES):
            # What is left is looked up after the number is taken: whoever commits another batch
            # in between, with perhaps the same files, takes the number away.
            batch = self.recover() + 1
            try:
                for landed in self._take(self.left(files), batch, failures):
                    done = done.plus(landed)
            except LostBatch:
                failures.clear()
                continue
            return _unless([*unread, *failures], done)
        raise IngestionError(f"{RACES} batches in a row were taken by other workers; stop some of them")

    def _without_races(
        self, logs: ExperimentLogs, kind: str, files: Sequence[FileRef], unread: list[str]
    ) -> Taken:
        """Take assignment logs or labels, again where another worker took the number."""
        for _ in range(RACES):
            failures: list[str] = []
            try:
                done = logs.take(kind, files, failures)
            except LostBatch:
                continue
            unread += failures
            return done
        raise IngestionError(f"{RACES} batches in a row were taken by other workers; stop some of them")

    def recover(self) -> int:
        """Complete batches whose followers lag the leading table; return the last of them.

        Raises:
            IngestionError: what was written aside for a follower is gone.
        """
        from ml_registry_pipelines.telemetry.experiment_ingestion import LOG_KINDS, ExperimentLogs

        for kind in LOG_KINDS:
            ExperimentLogs(self).recover(kind)
        return self.complete(LEADING, SOURCE, followed_as=LEADING)

    def complete(self, table: str, source: str, *, followed_as: str) -> int:
        """Complete the batches of one leading table whose followers lag it; return the last of them.

        Args:
            source: writer role of the leading table.
            followed_as: the source under which followers carry its batch number.
        """
        import pyarrow as pa

        leading, lag = followers_lag(self.lake, table, source, followed_as=followed_as)
        if lag <= 0:
            return leading
        notes = {int(note[STAGED_BATCH]): note for note in self.lake.notes(table, source_key=STAGED_BATCH)}
        lagging = range(leading - lag + 1, leading + 1)
        # Only requests are tracked: every batch of another leading table was written aside.
        tracked = self._tracked(lagging) if table == LEADING else {}
        for batch in lagging:
            note = notes.get(batch, {})
            if batch in tracked or TRACKED in note:
                # Of a batch whose rows were erased meanwhile, none is left to be counted.
                rows = tracked.get(batch, [])
                self._append_followers(batch, pa.Table.from_pylist(rows, schema=INGESTED_FILES.schema))
            else:
                self.follow(batch, note.get(STAGED), followed_as=followed_as)
        return leading

    def _tracked(self, batches: range) -> dict[int, list[dict[str, Any]]]:
        """Rows of `ingested_files` for those of some batches that came without a file."""
        with self.lake.read("inference_events") as reading:
            found = reading.query(
                "ingestion.tracked",
                """
                SELECT source, file AS path, 0 AS part, 1 AS first_line, max(line) AS last_line, true AS complete,
                       0 AS size, min(recorded_at) AS modified_at, 'native' AS dialect, batch,
                       count(*) AS rows_in, count(*) AS taken, 0 AS duplicates, 0 AS quarantined, 0 AS ignored,
                       min(recorded_at) AS recorded_at, 0 AS suppressed
                FROM inference_events
                WHERE batch BETWEEN $first AND $last AND source = $source
                GROUP BY source, file, batch
                """,
                {"first": batches[0], "last": batches[-1], "source": TRACKED},
            ).to_pylist()
        rows: dict[int, list[dict[str, Any]]] = {}
        for row in found:
            rows.setdefault(row["batch"], []).append(row)
        return rows

    def _append_followers(self, batch: int, files: pa.Table) -> None:
        for table, rows in (("ingested_files", files), ("quarantined_rows", QUARANTINED_ROWS.empty())):
            if self.lake.sequence(table, LEADING) < batch:
                self.lake.append_once(table, rows, source=LEADING, sequence=batch)

    def sweep(self, now: datetime) -> int:
        """Remove what dead workers wrote aside for batches that never landed; the number of files."""
        self.recover()
        old = [e.path for e in self._staging.entries() if now - e.modified_at > ABANDONED]
        for path in old:
            self._staging.delete(path)
        return len(old)

    # -- one pass over files ------------------------------------------------------------

    def left(self, files: Sequence[FileRef]) -> list[tuple[FileRef, int, int]]:
        """Files that are not complete yet, with the last line taken and the number of the next part."""
        import pyarrow as pa

        unique = list({(file.source, file.path): file for file in files}.values())
        if not unique or not self.lake.exists("ingested_files"):
            return [(file, 0, 0) for file in unique]
        wanted = pa.table({"source": [f.source for f in unique], "path": [f.path for f in unique]})
        with self.lake.read("ingested_files") as reading:
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

    def _take(
        self, files: Sequence[tuple[FileRef, int, int]], batch: int, failures: list[str]
    ) -> Generator[Taken]:
        from ml_registry_pipelines.telemetry.decoding import Workspace

        about = sum(file.size for file, *_ in files) // RECORD_BYTES
        with Workspace(about) as workspace, _Committer(self.commit) as committer:
            pending = Pending()
            for begun in _one_ahead(self._begin(file, workspace) for file in files):
                part, parts = begun.part, begun.decoded()
                while not part.complete:
                    try:
                        decoded = next(parts, None)
                    except (FilesError, ReadingError) as failure:
                        # Lines of this file that are decoded already stay; the next start goes on behind them.
                        failures.append(str(failure))
                        break
                    if decoded is None:
                        part.complete, part.digest = True, begun.digest
                        continue
                    part.take(decoded, begun.dialect)
                    pending.add(part.file, decoded, part.dialect)
                    if pending.full(BATCH_ROWS, BATCH_BYTES):
                        pending.parts.append(part)
                        yield from committer.give(pending, batch)
                        pending, part, batch = Pending(), part.next(), batch + 1
                if part.complete or part.rows_in or part.ignored:
                    pending.parts.append(part)
            if pending.parts:
                yield from committer.give(pending, batch)
            yield from committer.last()

    def _begin(self, left: tuple[FileRef, int, int], workspace: Workspace) -> _Begun:
        """Begin to read what is left of a file."""
        from ml_registry_pipelines.telemetry.decoding import LogFile

        file, line, number = left
        part = Part(file, number, first_line=line + 1, last_line=line)
        folder = self.folder_of(file)
        try:
            mark, stream = folder.entry(file.path).mark, folder.open(file.path)
        except FilesError as failure:
            return _Begun(part, folder, failure=failure)
        log = LogFile(
            stream,
            self.origin(file),
            dialect=self.dialect_of(file),
            start_after_line=line,
            workspace=workspace,
        )
        log.begin()
        return _Begun(part, folder, mark, stream, log)

    def folder_of(self, file: FileRef) -> Folder:
        """Where the file lies."""
        return self._source_of(file).files

    def experiment_log_of(self, file: FileRef) -> str | None:
        """`assignments` or `outcomes` where the file is a log of experiments; None: it logs requests."""
        return self._source_of(file).experiment_log_of(file.path)

    def dialect_of(self, file: FileRef) -> Dialect | None:
        """The dialect that the file's source or folder forces; None: it is detected."""
        from ml_registry_pipelines.telemetry.dialects import DIALECTS

        forced = self._source_of(file).dialect_of(file.path, DIALECTS)
        return None if forced is None else DIALECTS[forced]

    def origin(self, file: FileRef) -> Origin:
        """What the file's source says about its records."""
        from ml_registry_pipelines.telemetry.decoding import Origin

        source = self._source_of(file)
        return Origin(
            source=source.name,
            file=file.path,
            modified_at=file.modified_at,
            recorded_at=datetime.now(UTC),
            base_time=source.base_time_of(file),
            tenant=source.tenant,
            tenant_field=source.tenant_field,
            time_zone=source.time_zone,
            cost_unit=source.cost_unit,
            salt=self.salt,
        )

    def _source_of(self, file: FileRef) -> Source:
        """The file's source; one that is configured no more, or was the command line, says nothing."""
        try:
            return self._sources.get(file.source)
        except SourcesError:
            return Source(
                name=file.source, folder="/" if file.source == "files" else f"{self.lake.root}/landing"
            )

    @property
    def salt(self) -> str:
        """Secret that user ids are hashed with; made on first use."""
        if self._salt is None:
            self._salt = user_salt(self.lake.root)
        return self._salt

    def fence(self) -> None:
        """Take the next number of every kind of batch, with nothing in it.

        A batch that is under way loses its number by that and begins anew, so that it asks the
        suppression list as it is now.
        """
        from ml_registry_pipelines.telemetry.experiment_ingestion import LOG_KINDS, ExperimentLogs

        for kind in LOG_KINDS:
            if self.lake.exists(kind):
                self._fenced(lambda kind=kind: ExperimentLogs(self).fence(kind))  # type: ignore[misc]
        self._fenced(lambda: self.commit(Pending(), self.recover() + 1))

    def _fenced(self, take: Callable[[], object]) -> None:
        for _ in range(RACES):
            try:
                take()
            except LostBatch:
                continue
            return
        raise IngestionError(f"{RACES} batches in a row were taken by other workers; stop some of them")

    # -- committing a batch ---------------------------------------------------------------

    def commit(self, pending: Pending, batch: int) -> Taken:
        """Commit one batch under a number: written aside, leading table, followers.

        Raises:
            LostBatch: another worker committed this number first; nothing landed.
        """
        import pyarrow as pa

        now = datetime.now(UTC)
        rows, rejected = pending.tables()
        # Asked after the number was taken: an erasure takes a number too, and so this batch's from it.
        rows, rejected, suppressed = without_erased(self.lake, rows, rejected, salt=self.salt)
        new, again = deduplicated(self.lake, rows)
        counts = counts_by_file(new, again, rejected, suppressed)
        files = pa.Table.from_pylist(
            [part.row(batch, now, counts.get((part.file.source, part.file.path))) for part in pending.parts],
            schema=INGESTED_FILES.schema,
        )
        quarantined = quarantine(rejected, again, batch=batch, now=now)
        if pending.replayed is not None:
            quarantined = replayed_states(pending.replayed, quarantined, batch=batch, now=now)
        staged = uuid.uuid4().hex
        self.write_aside(staged, "ingested_files", files)
        self.write_aside(staged, "quarantined_rows", quarantined)
        try:
            landed = self.lake.append_once(
                "inference_events",
                stamped(new, INFERENCE_EVENTS.schema, batch=batch, now=now),
                source=SOURCE,
                sequence=batch,
                note={STAGED: staged, STAGED_BATCH: str(batch)},
            )
        except CommitUnknown:
            raise  # If it did land, its followers need what was written aside.
        except LakeError:
            self.discard(staged)
            raise
        if landed is Landed.BEFORE:
            self.discard(staged)
            raise LostBatch
        self.follow(batch, staged, followed_as=LEADING)
        sums = {
            name: sum(files[name].to_pylist())
            for name in ("rows_in", "taken", "duplicates", "quarantined", "suppressed")
        }
        return Taken(
            batches=(batch,),
            files=sum(part.complete for part in pending.parts),
            ignored=sum(part.ignored for part in pending.parts),
            days=tuple(sorted(new["day"].unique().to_pylist())),
            **sums,
        )

    # -- followers --------------------------------------------------------------------------

    def write_aside(self, staged: str, table: str, rows: pa.Table) -> None:
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        try:
            self._staging.write(f"{staged}.{table}.parquet", buffer.getvalue())
        except FilesError as failure:
            raise IngestionError(f"nothing was taken: {failure}") from failure

    def follow(self, batch: int, staged: str | None, *, followed_as: str) -> None:
        """Append what was written aside for a batch to its followers, and clear it away."""
        import pyarrow.parquet as pq

        for table in FOLLOWERS:
            if self.lake.sequence(table, followed_as) >= batch:
                continue
            try:
                if staged is None:
                    raise FilesError("the commit's note is gone")
                rows = pq.read_table(io.BytesIO(self._staging.read(f"{staged}.{table}.parquet")))
            except FilesError as failure:
                if self.lake.sequence(table, followed_as) >= batch:
                    continue  # Another worker completed the batch and cleared up.
                raise IngestionError(
                    f"{table} lacks batch {batch} and what was written aside for it is gone ({failure}); "
                    "restore the folder `staging` below the root"
                ) from failure
            self.lake.append_once(table, rows, source=followed_as, sequence=batch)
        if staged is not None:
            self.discard(staged)

    def discard(self, staged: str) -> None:
        """Clear away what was written aside; what cannot be, `sweep` removes."""
        for table in FOLLOWERS:
            with contextlib.suppress(FilesError):
                self._staging.delete(f"{staged}.{table}.parquet")


def followers_lag(
    lake: Lake, table: str = LEADING, source: str = SOURCE, *, followed_as: str = LEADING
) -> tuple[int, int]:
    """The last batch of a leading table, and by how many its followers lag."""
    leading = lake.sequence(table, source)
    return leading, leading - min(lake.sequence(follower, followed_as) for follower in FOLLOWERS)


def _unless(failures: Sequence[str], done: Taken) -> Taken:
    """What was done, unless files could not be read: then the error that holds it."""
    if failures:
        raise FilesUnread(failures, done)
    return done


def user_salt(root: str) -> str:
    """The secret of this root that user ids are hashed with; made once, for all workers.

    Raises:
        IngestionError: the root cannot be written.
    """
    import secrets

    keys = open_folder(keys_folder(root))
    try:
        keys.create("user_salt", secrets.token_hex(32).encode())
        return keys.read("user_salt").decode()
    except FilesError as failure:
        raise IngestionError(f"the salt for user ids cannot be kept: {failure}") from failure
