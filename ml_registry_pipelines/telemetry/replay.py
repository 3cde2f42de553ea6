"""Quarantined rows, tried again with today's dialects and sources.

What can be taken now is, as one batch like any other; the counts of its file move with it,
by a further part of the file in `ingested_files` that takes away what it quarantined before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_registry_pipelines.telemetry.batch import Part, Pending, Taken, placed
from ml_registry_pipelines.telemetry.ingestion import RACES, Ingestion, IngestionError, LostBatch
from ml_registry_pipelines.telemetry.quarantine import open_among
from ml_registry_pipelines.telemetry.sources import FileRef

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake


def replay(ingestion: Ingestion, tried: pa.Table) -> Taken:
    """Decode rows of `quarantined_rows` anew and take what can be taken now, as one batch.

    Raises:
        IngestionError: a row's file is unknown, or other workers kept taking the batch number.
    """
    for _ in range(RACES):
        batch = ingestion.recover() + 1
        still_open = open_among(ingestion.lake, tried)
        if not len(still_open):
            return Taken()
        try:
            return ingestion.commit(_decoded_anew(ingestion, still_open), batch)
        except LostBatch:
            continue
    raise IngestionError(f"{RACES} batches in a row were taken by other workers; stop some of them")


def _decoded_anew(ingestion: Ingestion, tried: pa.Table) -> Pending:
    pending = Pending(replayed=tried)
    keys = zip(*(tried[name].to_pylist() for name in ("source", "file", "dialect")), strict=True)
    by_file: dict[tuple[str, str, str | None], list[int]] = {}
    for position, key in enumerate(keys):
        by_file.setdefault(key, []).append(position)
    for (source, path, dialect), positions in by_file.items():
        _add(ingestion, pending, _file(ingestion.lake, source, path), dialect, tried.take(positions))
    return pending


def _add(
    ingestion: Ingestion, pending: Pending, known: tuple[FileRef, int], dialect: str | None, held: pa.Table
) -> None:
    """Decode the held rows of one file into the pending batch."""
    import pyarrow.compute as pc

    file, number = known
    whole = pc.equal(held["line"], 0)
    if pc.any(whole).as_py():
        # The file as a whole was at fault: it is read again, from where it lies.
        part = Part(file, number, first_line=0)
        _add_file(ingestion, pending, part, held.filter(whole))
        number += 1
        held = held.filter(pc.invert(whole))
    if len(held):
        _add_records(ingestion, pending, Part(file, number, first_line=0), dialect, held)


def _add_records(
    ingestion: Ingestion, pending: Pending, part: Part, dialect: str | None, held: pa.Table
) -> None:
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.decoding import Decoder, detect
    from ml_registry_pipelines.telemetry.dialects import DIALECTS
    from ml_registry_pipelines.telemetry.reading import Chunk, rejects_schema

    chosen = ingestion.dialect_of(part.file) or (
        DIALECTS.get(dialect) if dialect else detect(held["raw"].to_pylist())
    )
    if chosen is None:
        _leave(pending, part, held)
        return
    lines = pa.array(range(1, len(held) + 1), pa.int64())
    chunk = Chunk(pa.table({"line": lines, "raw": held["raw"]}), rejects_schema().empty_table(), 1, len(held))
    decoder = Decoder(chosen, ingestion.origin(part.file))
    try:
        decoded = decoder.decode(chunk)
    finally:
        decoder.close()
    part.take(decoded, chosen.name)
    pending.rows.append(placed(_put_back(decoded.rows, held), part.file, chosen.name))
    pending.rejected.append(placed(_put_back(decoded.rejected, held), part.file, chosen.name))
    _finish(pending, part, tried=len(held))


def _add_file(ingestion: Ingestion, pending: Pending, part: Part, held: pa.Table) -> None:
    from ml_registry_pipelines.telemetry.decoding import LogFile

    with ingestion.folder_of(part.file).open(part.file.path) as stream:
        log = LogFile(stream, ingestion.origin(part.file), dialect=ingestion.dialect_of(part.file))
        for decoded in log:
            if log.dialect is None:
                _leave(pending, part, held)
                return
            part.take(decoded, log.dialect.name)
            pending.add(part.file, decoded, part.dialect)
    _finish(pending, part, tried=len(held))


def _leave(pending: Pending, part: Part, held: pa.Table) -> None:
    """Nothing recognises these rows today either: they stay in quarantine as they are."""
    names = ["line", "part", "reason", "message", "raw", "tenant"]
    pending.rejected.append(placed(held.select(names), part.file, None))
    part.rows_in = len(held)
    _finish(pending, part, tried=len(held))


def _finish(pending: Pending, part: Part, *, tried: int) -> None:
    """What was counted as quarantined before is so no more, and went in before."""
    part.last_line = 0
    part.tried_again = tried
    part.rows_in -= tried
    pending.parts.append(part)


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
