"""Quarantined rows of assignment logs and labels, tried again with the sources of today.

As in `replay.py`: what can be taken now is, as one batch of its kind's own numbers, and a further part of
the file in `ingested_files` takes away what it quarantined before. A label that was taken before with
another value is left: no setting makes one of the two right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.files import FilesError
from ml_registry_pipelines.telemetry.accounting import CONFLICT
from ml_registry_pipelines.telemetry.batch import Part, placed
from ml_registry_pipelines.telemetry.experiment_ingestion import Batch, ExperimentLogs
from ml_registry_pipelines.telemetry.quarantine import open_among, open_of_file
from ml_registry_pipelines.telemetry.reading import ReadingError

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.batch import Taken
    from ml_registry_pipelines.telemetry.decoding import Decoded, Workspace
    from ml_registry_pipelines.telemetry.ingestion import Ingestion
    from ml_registry_pipelines.telemetry.reading import Chunk
    from ml_registry_pipelines.telemetry.sources import FileRef


@dataclass
class TriedAgain:
    """What came of the rows of one kind. `left`: how many had to be left alone, `failures` say why."""

    tried: int
    left: int
    done: Taken
    failures: list[str] = field(default_factory=list)


def replay_experiments(
    ingestion: Ingestion, kind: str, files: Sequence[tuple[FileRef, int, pa.Table]]
) -> TriedAgain:
    """Decode rows of one kind anew, by file, and commit what can be taken now.

    Args:
        kind: `assignments` or `outcomes`.
        files: each with the number of its next part, and its rows of `quarantined_rows`.

    Raises:
        LostBatch: another worker took the batch number; look again which rows are open.
    """
    from ml_registry_pipelines.telemetry.batch import Taken
    from ml_registry_pipelines.telemetry.decoding import Workspace

    logs = ExperimentLogs(ingestion)
    batch = logs.recover(kind) + 1
    pending, found = Batch(), TriedAgain(0, 0, Taken())
    tried: list[pa.Table] = []
    with Workspace() as workspace:
        for file, number, held in files:
            part = Part(file, number, first_line=0, dialect=kind)
            try:
                rows = _try(
                    ingestion, kind, part, open_among(ingestion.lake, held), pending, workspace, found
                )
            except (FilesError, ReadingError) as failure:
                found.left += len(held)
                found.failures.append(str(failure))
                workspace.renew()
                continue
            if len(rows):
                tried.append(rows)
    if tried:
        import pyarrow as pa

        pending.replayed = pa.concat_tables(tried)
        found.tried = len(pending.replayed)
        found.done = logs.commit(kind, pending, batch)
    return found


def _try(
    ingestion: Ingestion,
    kind: str,
    part: Part,
    held: pa.Table,
    pending: Batch,
    workspace: Workspace,
    found: TriedAgain,
) -> pa.Table:
    """Decode the rows of one file into the batch; those that were tried."""
    import pyarrow.compute as pc

    from ml_registry_pipelines.telemetry.experiment_logs import decoded
    from ml_registry_pipelines.telemetry.reading import LogReader

    file, origin = part.file, ingestion.origin(part.file)
    pieces: list[Decoded] = []
    if pc.any(pc.equal(held["line"], 0)).as_py():
        # The file as a whole was at fault: it is read again from where it lies, with all that is in it.
        held = open_of_file(ingestion.lake, file.source, file.path)
        with ingestion.folder_of(file).open(file.path) as stream:
            pieces += decoded(kind, LogReader(stream, file.path), origin, workspace)
    else:
        conflicts = pc.equal(held["reason"], CONFLICT)
        if count := pc.sum(conflicts).as_py():
            found.left += count
            found.failures.append(
                f"{count} labels of {file.path} of source {file.source!r} were taken before with another value; "
                "land the right ones under a new name, with ids of their own (`label_id`)"
            )
            held = held.filter(pc.invert(conflicts))
        if len(held):
            pieces += [_put_back(piece, held) for piece in decoded(kind, [_chunk(held)], origin, workspace)]
    for piece in pieces:
        part.take(piece, kind)
        pending.rows.append(piece.rows)
        pending.rejected.append(placed(piece.rejected, file, kind))
    if len(held):
        # What was counted as quarantined before is so no more, and went in before.
        part.last_line = 0
        part.tried_again = len(held)
        part.rows_in -= len(held)
        pending.parts.append(part)
    return held


def _chunk(held: pa.Table) -> Chunk:
    """The raw texts as records of a file, numbered from 1."""
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.reading import Chunk, rejects_schema

    lines = pa.array(range(1, len(held) + 1), pa.int64())
    records = pa.table({"line": lines, "raw": held["raw"]})
    return Chunk(records, rejects_schema().empty_table(), 1, len(held))


def _put_back(piece: Decoded, held: pa.Table) -> Decoded:
    """Records under the line that they had in their file."""
    from dataclasses import replace

    import pyarrow.compute as pc

    def lines(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index("line")
        column = held["line"].take(pc.subtract(table["line"], 1)).cast(table.schema.field(index).type)
        return table.set_column(index, table.schema.field(index), column)

    return replace(piece, rows=lines(piece.rows), rejected=lines(piece.rejected))
