"""Quarantined rows, tried again with today's dialects and sources.

What can be taken now is, as one batch like any other; the counts of its file move with it,
by a further part of the file in `ingested_files` that takes away what it quarantined before.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.files import FilesError
from ml_registry_pipelines.lake.tables.experiments import LOG_KINDS
from ml_registry_pipelines.telemetry.batch import Part, Pending, Taken, placed
from ml_registry_pipelines.telemetry.experiment_replay import TriedAgain, replay_experiments
from ml_registry_pipelines.telemetry.ingestion import RACES, Ingestion, IngestionError, LostBatch
from ml_registry_pipelines.telemetry.quarantine import open_among, open_of_file
from ml_registry_pipelines.telemetry.reading import ReadingError
from ml_registry_pipelines.telemetry.sources import FileRef

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.decoding import Decoded
    from ml_registry_pipelines.telemetry.dialects.dialect import Dialect


@dataclass(frozen=True)
class Replayed:
    """What a replay did. One row that stands for a whole file may become many records, or none."""

    tried: int = 0
    """Rows of quarantine, those that had to be left alone included."""
    taken: int = 0
    duplicates: int = 0
    ignored: int = 0
    kept: int = 0
    """Records in quarantine afterwards."""
    failures: tuple[str, ...] = ()
    """Why rows were left alone, a sentence for each file."""


@dataclass
class _Trial:
    """The rows of quarantine that are tried, and the batch that this makes."""

    pending: Pending = field(default_factory=Pending)
    tried: list[pa.Table] = field(default_factory=list)
    untried: int = 0
    failures: list[str] = field(default_factory=list)

    def leave(self, held: pa.Table, failure: Exception) -> None:
        """Leave rows as they are, and say why."""
        self.untried += len(held)
        self.failures.append(str(failure))


def replay(ingestion: Ingestion, tried: pa.Table) -> Replayed:
    """Decode rows of `quarantined_rows` anew and take what can be taken now, as one batch.

    Rows whose file would have to be read again and cannot be are left as they are, and do not
    keep the others from being taken.

    Raises:
        IngestionError: other workers kept taking the batch number.
    """
    for _ in range(RACES):
        batch = ingestion.recover() + 1
        still_open = open_among(ingestion.lake, tried)
        if not len(still_open):
            return Replayed()
        requests, experiments = _by_kind(ingestion, still_open)
        trial = _decoded_anew(ingestion, requests)
        try:
            done = ingestion.commit(trial.pending, batch) if trial.tried else Taken()
        except LostBatch:
            continue
        rows = sum(map(len, trial.tried))
        for kind, files in experiments.items():
            again = _replay_kind(ingestion, kind, files)
            done, rows = done.plus(again.done), rows + again.tried
            trial.untried += again.left
            trial.failures += again.failures
        return Replayed(
            tried=rows + trial.untried,
            taken=done.taken,
            duplicates=done.duplicates,
            ignored=done.ignored,
            # The batch counts what it put into quarantine less what it tried.
            kept=rows + done.quarantined + trial.untried,
            failures=tuple(trial.failures),
        )
    raise IngestionError(f"{RACES} batches in a row were taken by other workers; stop some of them")


_OfFile = tuple[FileRef, int, "pa.Table"]


def _by_kind(ingestion: Ingestion, held: pa.Table) -> tuple[pa.Table, dict[str, list[_OfFile]]]:
    """Rows of logs of requests, and of the others by kind and file: what their source says that it logs today."""
    import pyarrow as pa

    keys = list(
        zip(held["source"].to_pylist(), held["file"].to_pylist(), held["dialect"].to_pylist(), strict=True)
    )
    kinds: dict[tuple[str, str], tuple[FileRef, int, str | None] | None] = {}
    of_file: dict[tuple[str, str], list[int]] = {}
    for position, (source, path, dialect) in enumerate(keys):
        if (source, path) not in kinds:
            try:
                file, number = _file(ingestion.lake, source, path)
                kind = ingestion.experiment_log_of(file)
            except IngestionError:
                kinds[source, path] = None
            else:
                kinds[source, path] = (file, number, kind or (dialect if dialect in LOG_KINDS else None))
        found = kinds[source, path]
        if found is not None and found[2] is not None:
            of_file.setdefault((source, path), []).append(position)
    experiments: dict[str, list[_OfFile]] = {}
    for key, positions in of_file.items():
        found = kinds[key]
        assert found is not None
        file, number, kind = found
        experiments.setdefault(str(kind), []).append((file, number, held.take(positions)))
    others = sorted(set(range(len(held))) - {n for positions in of_file.values() for n in positions})
    return held.take(pa.array(others, pa.int64())), experiments


def _replay_kind(ingestion: Ingestion, kind: str, files: list[_OfFile]) -> TriedAgain:
    for _ in range(RACES):
        try:
            return replay_experiments(ingestion, kind, files)
        except LostBatch:
            files = [
                (file, _file(ingestion.lake, file.source, file.path)[1], held) for file, _, held in files
            ]
    raise IngestionError(f"{RACES} batches in a row were taken by other workers; stop some of them")


def _decoded_anew(ingestion: Ingestion, tried: pa.Table) -> _Trial:
    import pyarrow as pa

    trial = _Trial()
    by_file: dict[tuple[str, str], list[int]] = {}
    for position, key in enumerate(zip(tried["source"].to_pylist(), tried["file"].to_pylist(), strict=True)):
        by_file.setdefault(key, []).append(position)
    for (source, path), positions in by_file.items():
        held = tried.take(positions)
        try:
            file, number = _file(ingestion.lake, source, path)
        except IngestionError as failure:
            trial.leave(held, failure)
            continue
        _try_file(ingestion, trial, Part(file, number, first_line=0), held)
    if trial.tried:
        trial.pending.replayed = pa.concat_tables(trial.tried)
    return trial


def _try_file(ingestion: Ingestion, trial: _Trial, part: Part, held: pa.Table) -> None:
    """Decode the held rows of one file into the pending batch, as one part."""
    import pyarrow as pa
    import pyarrow.compute as pc

    of_whole_file = pc.equal(held["line"], 0)
    whole, records = held.filter(of_whole_file), held.filter(pc.invert(of_whole_file))
    tried = [whole]
    if len(whole):
        # The file as a whole was at fault: it is read again, from where it lies.
        try:
            dialect, decoded = _read_again(ingestion, part.file)
        except (FilesError, ReadingError) as failure:
            trial.leave(whole, failure)
            tried = []
        else:
            if dialect is not None:
                # All its other rows are read again with it; to add them to those held would count them twice.
                tried = [open_of_file(ingestion.lake, part.file.source, part.file.path)]
                records = records[:0]
                for piece in decoded:
                    part.take(piece, dialect)
                    trial.pending.add(part.file, piece, dialect)
            else:
                _leave(trial.pending, part, whole)
    for name in records["dialect"].unique().to_pylist():
        same = pc.is_null(records["dialect"]) if name is None else pc.equal(records["dialect"], name)
        of_dialect = records.filter(same)
        try:
            _add_records(ingestion, trial.pending, part, name, of_dialect)
        except ReadingError as failure:
            trial.leave(of_dialect, failure)
        else:
            tried.append(of_dialect)
    if not any(map(len, tried)):
        return
    held = pa.concat_tables(tried)
    # What was counted as quarantined before is so no more, and went in before.
    part.last_line = 0
    part.tried_again = len(held)
    part.rows_in -= len(held)
    trial.pending.parts.append(part)
    trial.tried.append(held)


def _add_records(
    ingestion: Ingestion, pending: Pending, part: Part, dialect: str | None, held: pa.Table
) -> None:
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.decoding import Decoder, naming
    from ml_registry_pipelines.telemetry.detecting import detect
    from ml_registry_pipelines.telemetry.dialects import DIALECTS
    from ml_registry_pipelines.telemetry.reading import Chunk, rejects_schema

    chosen: Dialect | None = ingestion.dialect_of(part.file) or (
        DIALECTS.get(dialect) if dialect else detect(held["raw"].to_pylist())
    )
    if chosen is None:
        _leave(pending, part, held)
        return
    lines = pa.array(range(1, len(held) + 1), pa.int64())
    chunk = Chunk(pa.table({"line": lines, "raw": held["raw"]}), rejects_schema().empty_table(), 1, len(held))
    origin = ingestion.origin(part.file)
    with naming(origin), contextlib.closing(Decoder(chosen, origin)) as decoder:
        decoded = decoder.decode(chunk)
    part.take(decoded, chosen.name)
    put_back = replace(
        decoded, rows=_put_back(decoded.rows, held), rejected=_put_back(decoded.rejected, held)
    )
    pending.add(part.file, put_back, chosen.name)


def _read_again(ingestion: Ingestion, file: FileRef) -> tuple[str | None, list[Decoded]]:
    """All of a file, and its dialect; None: it is of no known one today either.

    Raises:
        FilesError: it could not be opened.
        ReadingError: its bytes could not be got.
    """
    from ml_registry_pipelines.telemetry.decoding import LogFile

    with ingestion.folder_of(file).open(file.path) as stream:
        log = LogFile(stream, ingestion.origin(file), dialect=ingestion.dialect_of(file))
        decoded = list(log)
    return (log.dialect.name if log.dialect else None), decoded


def _leave(pending: Pending, part: Part, held: pa.Table) -> None:
    """Nothing recognises these rows today either: they stay in quarantine as they are."""
    from ml_registry_pipelines.telemetry.normalising import rejected_schema

    schema = rejected_schema()
    pending.rejected.append(placed(held.select(schema.names).cast(schema), part.file, None))
    part.rows_in += len(held)


def _file(lake: Lake, source: str, path: str) -> tuple[FileRef, int]:
    """A file that was taken, and the number of its next part."""
    with lake.read("ingested_files") as reading:
        found = reading.query(
            "replay.file",
            """
            SELECT arg_min(size, part) AS size, arg_min(modified_at, part) AS modified_at,
                   arg_min(etag, part) AS etag, max(part) + 1 AS next
            FROM ingested_files WHERE source = $source AND path = $path
            HAVING count(*) > 0
            """,
            {"source": source, "path": path},
        ).to_pylist()
    if not found:
        raise IngestionError(f"{path} of source {source!r} is in quarantine but not in ingested_files")
    (row,) = found
    return FileRef(source, path, row["size"], row["modified_at"], row["etag"]), row["next"]


def _put_back(decoded: pa.Table, held: pa.Table) -> pa.Table:
    """Records under the line and part that they had in their file.

    Args:
        decoded: with `line` as the position in `held`, from 1.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    positions = pc.subtract(decoded["line"], 1)
    part = pc.add(held["part"].take(positions), decoded["part"]).cast(pa.int32())
    for name, column in (("line", held["line"].take(positions)), ("part", part)):
        index = decoded.schema.get_field_index(name)
        decoded = decoded.set_column(index, decoded.schema.field(index), column)
    return decoded
