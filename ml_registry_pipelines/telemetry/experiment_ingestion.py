"""Taking assignment logs and labels into the lake, every record exactly once.

As in `ingestion.py` one table leads: `assignments`, or `outcomes`, commits with its batch number, and
`ingested_files` and `quarantined_rows` follow under the same number, from what was written aside. A
worker that dies leaves no batch at all, or one that the next start completes.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.files import FilesError
from ml_registry_pipelines.lake.outcomes import CommitUnknown, LakeError, Landed
from ml_registry_pipelines.lake.reading import in_batches
from ml_registry_pipelines.lake.tables.experiments import LOG_KINDS
from ml_registry_pipelines.lake.tables.telemetry import INGESTED_FILES
from ml_registry_pipelines.telemetry.accounting import CONFLICT, counts_by_file, quarantine, stamped
from ml_registry_pipelines.telemetry.batch import Part, Taken, placed
from ml_registry_pipelines.telemetry.quarantine import replayed_states
from ml_registry_pipelines.telemetry.reading import LogReader, ReadingError
from ml_registry_pipelines.telemetry.sources import FileRef
from ml_registry_pipelines.telemetry.suppression import without_erased

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.ingestion import Ingestion

SOURCE = "experiment_logs"
"""The one writer role of `assignments` and `outcomes`."""
BATCH_ROWS = 500_000
HORIZON_DAYS = 90
"""A label with an id of its own is recognised when its day is at most this far from the first one's."""

_IDENTITY = {
    "assignments": ("tenant", "experiment", "unit_hash", "arm", "assigned_at"),
    "outcomes": ("tenant", "metric"),
}
_SAME_LABEL = """
    AND a.label_id IS NOT DISTINCT FROM b.label_id
    AND (a.label_id IS NOT NULL OR (
        a.observed_at = b.observed_at AND a.event_id IS NOT DISTINCT FROM b.event_id
        AND a.source_system IS NOT DISTINCT FROM b.source_system
        AND (a.event_id IS NOT NULL OR (a.trace_id IS NOT DISTINCT FROM b.trace_id
            AND (a.trace_id IS NOT NULL OR a.unit_hash IS NOT DISTINCT FROM b.unit_hash)))))
"""


class Batch:
    """What is decoded and not yet committed."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.rows: list[pa.Table] = []
        self.rejected: list[pa.Table] = []
        self.replayed: pa.Table | None = None
        """Rows of `quarantined_rows` that this batch tries again."""
        self.count = 0


class ExperimentLogs:
    """Takes files of experiments. One of `Ingestion`'s hands, which knows sources, salt and staging."""

    def __init__(self, ingestion: Ingestion) -> None:
        self._ingestion = ingestion
        self._lake = ingestion.lake

    def recover(self, kind: str) -> int:
        """Complete batches of a kind whose followers lag; return the last of them."""
        if not self._lake.exists(kind):
            return 0
        return self._ingestion.complete(kind, SOURCE, followed_as=kind)

    def fence(self, kind: str) -> None:
        """Commit a batch of nothing, so that one that is under way begins anew.

        Raises:
            LostBatch: another worker took the batch number.
        """
        self.commit(kind, Batch(), self.recover(kind) + 1)

    def take(self, kind: str, files: Sequence[FileRef], failures: list[str]) -> Taken:
        """Take the files that are not taken yet; what cannot be read is added to `failures`.

        Raises:
            LostBatch: another worker took the batch number; what is left to do has changed.
        """
        batch = self.recover(kind) + 1
        done = Taken()
        for landed in self._batches(kind, files, batch, failures):
            done = done.plus(landed)
        return done

    def _batches(
        self, kind: str, files: Sequence[FileRef], batch: int, failures: list[str]
    ) -> Generator[Taken]:
        from ml_registry_pipelines.telemetry.decoding import Workspace
        from ml_registry_pipelines.telemetry.experiment_logs import decoded

        pending = Batch()
        with Workspace() as workspace:
            for file, line, number in self._ingestion.left(files):
                part = Part(file, number, first_line=line + 1, dialect=kind, last_line=line)
                folder = self._ingestion.folder_of(file)
                try:
                    mark = folder.entry(file.path).mark
                    with folder.open(file.path) as stream:
                        origin = self._ingestion.origin(file)
                        reader = LogReader(stream, file.path)
                        for piece in decoded(kind, reader, origin, workspace, after_line=line):
                            part.take(piece, kind)
                            pending.rows.append(piece.rows)
                            pending.rejected.append(placed(piece.rejected, file, kind))
                            pending.count += len(piece.rows) + len(piece.rejected)
                            if pending.count >= BATCH_ROWS:
                                pending.parts.append(part)
                                yield self.commit(kind, pending, batch)
                                pending, part, batch = Batch(), part.next(), batch + 1
                    if folder.entry(file.path).mark != mark:
                        raise FilesError(
                            f"{file.path} of source {file.source!r} changed while it was read; "
                            "it is taken up again once it has settled"
                        )
                    part.complete, part.digest = True, reader.digest
                except (FilesError, ReadingError) as failure:
                    failures.append(str(failure))
                    workspace.renew()
                if part.complete or part.rows_in:
                    pending.parts.append(part)
        if pending.parts:
            yield self.commit(kind, pending, batch)

    def commit(self, kind: str, pending: Batch, batch: int) -> Taken:
        """Commit one batch under a number: written aside, leading table, followers.

        Raises:
            LostBatch: another worker committed this number first; nothing landed.
        """
        import pyarrow as pa

        from ml_registry_pipelines.telemetry.experiment_logs import TABLES_OF, rows_schema
        from ml_registry_pipelines.telemetry.ingestion import STAGED, STAGED_BATCH, LostBatch

        now = datetime.now(UTC)
        nobody = placed(_no_rejects(), FileRef("", "", 0, now), None)
        rows = pa.concat_tables([rows_schema(kind).empty_table(), *pending.rows])
        rejected = pa.concat_tables([nobody, *pending.rejected])
        rows, rejected, suppressed = without_erased(self._lake, rows, rejected, salt=self._ingestion.salt)
        new, again = self._deduplicated(kind, rows)
        counts = counts_by_file(new, again, rejected, suppressed)
        files = pa.Table.from_pylist(
            [part.row(batch, now, counts.get((part.file.source, part.file.path))) for part in pending.parts],
            schema=INGESTED_FILES.schema,
        )
        conflicts = _conflicts(kind, again)
        everything = pa.concat_tables(
            [rejected, conflicts.select(rejected.schema.names).cast(rejected.schema)]
        )
        held = quarantine(everything, _none_again(), batch=batch, now=now)
        if pending.replayed is not None:
            held = replayed_states(pending.replayed, held, batch=batch, now=now)
        staged = uuid.uuid4().hex
        self._ingestion.write_aside(staged, "ingested_files", files)
        self._ingestion.write_aside(staged, "quarantined_rows", held)
        try:
            landed = self._lake.append_once(
                kind,
                stamped(new, TABLES_OF[kind].schema, batch=batch, now=now),
                source=SOURCE,
                sequence=batch,
                note={STAGED: staged, STAGED_BATCH: str(batch)},
            )
        except CommitUnknown:
            raise  # If it did land, its followers need what was written aside.
        except LakeError:
            self._ingestion.discard(staged)
            raise
        if landed is Landed.BEFORE:
            self._ingestion.discard(staged)
            raise LostBatch
        self._ingestion.follow(batch, staged, followed_as=kind)
        names = ("rows_in", "taken", "duplicates", "quarantined", "suppressed")
        sums = {name: sum(files[name].to_pylist()) for name in names}
        return Taken(batches=(), files=sum(part.complete for part in pending.parts), **sums)

    def _deduplicated(self, kind: str, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Rows whose identity is new, and the others with `conflict`: whether they say another value."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not len(rows):
            return rows, rows.append_column("conflict", pa.array([], pa.bool_()))
        numbered = rows.append_column("number", pa.array(range(len(rows)), pa.int64()))
        same = " AND ".join(f"a.{name} = b.{name}" for name in ("row_key", *_IDENTITY[kind]))
        same += _SAME_LABEL if kind == "outcomes" else ""
        differs = "a.value <> b.value" if kind == "outcomes" else "false"
        days = pc.min_max(rows["day"]).as_py()
        apart = timedelta(days=HORIZON_DAYS if kind == "outcomes" else 0)
        with self._lake.read(kind) as reading:
            reading.register("incoming", in_batches(numbered))
            verdicts = reading.query(
                f"experiments.seen_{kind}",
                f"""
                WITH stored AS MATERIALIZED (
                    SELECT * FROM {kind} SEMI JOIN (SELECT row_key FROM incoming) USING (row_key)
                    WHERE day BETWEEN $first AND $last
                ),
                known AS (
                    SELECT a.number, bool_or({differs}) AS conflict
                    FROM incoming AS a JOIN stored AS b ON {same} GROUP BY a.number
                ),
                among AS (
                    SELECT a.number, arg_min({differs}, b.number) AS conflict
                    FROM incoming AS a JOIN incoming AS b ON {same} AND b.number < a.number
                    GROUP BY a.number
                )
                FROM known
                UNION ALL
                FROM among WHERE number NOT IN (SELECT number FROM known)
                ORDER BY number
                """,
                {"first": days["min"] - apart, "last": days["max"] + apart},
            )
        is_again = pc.is_in(
            numbered["number"], value_set=pa.array(verdicts["number"].to_pylist(), pa.int64())
        )
        again = rows.filter(is_again).append_column("conflict", verdicts["conflict"])
        return rows.filter(pc.invert(is_again)), again


def _conflicts(kind: str, again: pa.Table) -> pa.Table:
    """Labels that were taken before with another value, as rejects."""
    import json

    import pyarrow as pa

    told = [
        {
            "line": row["line"],
            "part": 0,
            "reason": CONFLICT,
            "message": f"line {row['line']}: this label of {row.get('metric')} was taken before with another value; "
            "if both are right, give each an id of its own (`label_id`)",
            "raw": json.dumps(row, default=str),
            "tenant": row["tenant"],
            "source": row["source"],
            "file": row["file"],
            "dialect": kind,
        }
        for row in again.filter(again["conflict"]).to_pylist()
    ]
    schema = pa.schema([*_no_rejects().schema, *((n, pa.string()) for n in ("source", "file", "dialect"))])
    return pa.Table.from_pylist(told, schema=schema)


def _no_rejects() -> pa.Table:
    from ml_registry_pipelines.telemetry.normalising import rejected_schema

    return rejected_schema().empty_table()


def _none_again() -> pa.Table:
    """No request that came again: conflicts of labels are told as rejects already."""
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.normalising import rows_schema

    return rows_schema().empty_table().append_column("conflict", pa.array([], pa.bool_()))


def kinds_of(ingestion: Ingestion, files: Sequence[FileRef]) -> dict[str | None, list[FileRef]]:
    """Files by what they log: assignments, outcomes, or (None) inference."""
    found = dict[str | None, list[FileRef]]()
    for file in files:
        found.setdefault(ingestion.experiment_log_of(file), []).append(file)
    return found


__all__ = ["LOG_KINDS", "ExperimentLogs", "kinds_of"]
