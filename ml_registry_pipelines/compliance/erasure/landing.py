"""Raw log files without one person: their records go, and other records that mention them forget it.

A record is the person's where its decoded user, session or unit is; such a record leaves blank lines,
so that the number of every other line stays what the tables say. Anything else that holds an
identifier keeps its record, with the identifier replaced. What a file was rewritten to is on record in
`ingested_files` before it is put there: it is neither taken again nor called changed.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.erasure.needles import Needles
from ml_registry_pipelines.compliance.erasure.searching import Root, search
from ml_registry_pipelines.lake.files import Entry, FilesError, NoSuchFile
from ml_registry_pipelines.lake.tables.telemetry import INGESTED_FILES
from ml_registry_pipelines.telemetry.reading import LogReader, ReadingError, splitter_for
from ml_registry_pipelines.telemetry.sources import FileRef, Source
from ml_registry_pipelines.telemetry.splitting import CsvRecords, Lines
from ml_registry_pipelines.telemetry.suppression import PERSONAL_HASHES

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.ingestion import Ingestion

WRITER = "erasure"
GROWING_SECONDS = 2.0
"""A file that was not taken yet and changed this recently is left to its producer."""
LEAST_OF_RECORD = 20
"""Bytes that a packed record takes at least, for a guess at how many a file has."""
_GZIP, _PARQUET, _BOM = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"


class NotRewritten(Exception):
    """A file holds the person and cannot be rewritten now; the text says why and what to do."""


@dataclass(frozen=True)
class Mention:
    """A raw file that holds the person."""

    source: str
    path: str


def mentions(
    sources: Collection[Source], needles: Needles, linked: Collection[tuple[str, str]]
) -> tuple[list[Mention], list[str]]:
    """Files of the sources that hold an identifier or are known to hold a record, and what could not be read."""
    found = {Mention(source, path) for source, path in linked}
    problems: list[str] = []
    for source in sources:
        root = Root(f"source {source.name}", source.files)
        try:
            looked = search([root], needles, below=source.prefix)
        except FilesError as failure:
            problems.append(f"source {source.name!r}: {failure}")
            continue
        problems += looked.problems
        found |= {Mention(source.name, hit.path) for hit in looked.hits if hit.exact}
    names = {source.name: source for source in sources}
    there = [m for m in found if m.source in names and names[m.source].files.exists(m.path)]
    return sorted(there, key=lambda m: (m.source, m.path)), problems


def rewrite(
    ingestion: Ingestion, source: Source, path: str, tenant: str, theirs: Theirs, needles: Needles
) -> bool:
    """Put the file without the person in its place; whether anything of them was in it.

    Records of other tenants stay as they are.

    Raises:
        NotRewritten: it is being taken right now, or nothing here can take it apart.
        FilesError: the source cannot be read or written.
    """
    entry = source.files.entry(path)
    data = source.files.read(path)
    file = FileRef(source.name, path, entry.size, entry.modified_at)
    doomed, foreign, _ = _lines_of_person(ingestion, file, tenant, theirs)
    made = _without(data, path, _Records(doomed, foreign, needles))
    if made == data:
        return False
    taken = _taken(ingestion.lake, source.name, path)
    if (taken is None or not taken["complete"]) and _may_grow(source, entry):
        raise NotRewritten(
            f"{path} of source {source.name!r} may still be written to; erase again in a moment"
        )
    if taken is not None and not taken["complete"] and _renumbers(data, path):
        raise NotRewritten(f"{path} of source {source.name!r} is being taken; erase again when it has been")
    if taken is not None and taken["complete"]:
        _record(ingestion.lake, taken, Entry(path, len(made), entry.modified_at), made)
    if source.files.entry(path).mark != entry.mark:
        raise NotRewritten(f"{path} of source {source.name!r} changed meanwhile; erase again")
    source.files.write(path, made)
    if taken is not None and taken["complete"]:
        # With the marks that a listing shows, it need not be read again to be known as unchanged.
        _record(ingestion.lake, taken, source.files.entry(path), made)
    return True


@dataclass(frozen=True)
class Theirs:
    """What a decoded record is the person's by: a hash, or a trace of theirs alone where it names nobody."""

    hashes: Collection[str]
    traces: Collection[str] = ()


@dataclass(frozen=True)
class _Records:
    """Which records of a file go, and which stay untouched; identifiers in all others are replaced."""

    doomed: Collection[int]
    foreign: Collection[int]
    needles: Needles

    def without(self, number: int, text: str) -> str:
        """The text of a record without identifiers."""
        if number in self.foreign or not self.needles.in_text(text):
            return text
        return self.needles.blanked(text)


def _lines_of_person(
    ingestion: Ingestion, file: FileRef, tenant: str, theirs: Theirs
) -> tuple[set[int], set[int], set[int]]:
    """Numbers of the records whose user, session or unit is the person; of those of other tenants; of all rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(sorted(theirs.hashes), pa.string())
    traces = pa.array(sorted(theirs.traces), pa.string())
    found: set[int] = set()
    foreign: set[int] = set()
    rows_of: set[int] = set()
    try:
        for rows in _decoded(ingestion, file):
            rows_of |= set(rows["line"].to_pylist())
            mine = pc.equal(rows["tenant"], tenant)
            foreign |= set(rows["line"].filter(pc.invert(mine)).to_pylist())
            ours = rows.filter(mine)
            if "trace_id" in ours.schema.names and "user_hash" in ours.schema.names:
                linked = pc.and_(pc.is_null(ours["user_hash"]), pc.is_in(ours["trace_id"], value_set=traces))
                found |= set(ours["line"].filter(linked).to_pylist())
            for name in PERSONAL_HASHES:
                if name in ours.schema.names:
                    found |= set(ours["line"].filter(pc.is_in(ours[name], value_set=wanted)).to_pylist())
    except ReadingError:
        # What cannot be decoded has no user; mentions in its text are blanked all the same.
        return found, foreign, rows_of
    return found, foreign - found, rows_of


def _may_grow(source: Source, entry: Entry) -> bool:
    """Whether a producer may have the file open: what it writes would be lost with the file it has."""
    age = (datetime.now(UTC) - entry.modified_at).total_seconds()
    return source.files.settles and age < GROWING_SECONDS


def records_of_person(
    ingestion: Ingestion, source: Source, path: str, tenant: str, theirs: Theirs, needles: Needles
) -> list[tuple[int, str]] | None:
    """Line and text of each record of the person in a raw file; None: nothing can take the file apart."""
    entry = source.files.entry(path)
    file = FileRef(source.name, path, entry.size, entry.modified_at)
    mine, foreign, decodable = _lines_of_person(ingestion, file, tenant, theirs)
    found: list[tuple[int, str]] = []
    try:
        with source.files.open(path) as stream:
            for chunk in LogReader(stream, path):
                for line, raw in zip(
                    chunk.records["line"].to_pylist(), chunk.records["raw"].to_pylist(), strict=True
                ):
                    unread = line not in decodable and line not in foreign and needles.in_text(raw)
                    if line in mine or unread:
                        found.append((line, raw.rstrip("\r\n")))
    except ReadingError:
        return None
    return found


def _decoded(ingestion: Ingestion, file: FileRef) -> Iterator[Any]:
    from ml_registry_pipelines.telemetry.decoding import LogFile, Workspace
    from ml_registry_pipelines.telemetry.experiment_logs import decoded

    kind = ingestion.experiment_log_of(file)
    about = file.size // LEAST_OF_RECORD
    with ingestion.folder_of(file).open(file.path) as stream, Workspace(about) as workspace:
        origin = ingestion.origin(file)
        if kind is not None:
            for piece in decoded(kind, LogReader(stream, file.path), origin, workspace):
                yield piece.rows
            return
        log = LogFile(stream, origin, dialect=ingestion.dialect_of(file), workspace=workspace)
        with closing(log):
            for part in log:
                yield part.rows


def _without(data: bytes, path: str, records: _Records) -> bytes:
    """The file without the records of these numbers, and without the identifiers in any other."""
    if data.startswith(_PARQUET):
        return _parquet_without(data, records)
    if data.startswith(_GZIP):
        try:
            inner = gzip.decompress(data)
        except (OSError, EOFError) as failure:
            raise NotRewritten(f"{path} is gzip that cannot be unpacked; remove it or mend it") from failure
        made = _without(inner, path, records)
        return data if made == inner else gzip.compress(made, mtime=0)
    bom = _BOM if data.startswith(_BOM) else b""
    try:
        text = data[len(bom) :].decode()
        decode: Callable[[str], bytes] = str.encode
    except UnicodeDecodeError:
        text = data[len(bom) :].decode("latin-1")
        decode = _latin
    if "\x00" in text:
        raise NotRewritten(f"{path} is of no form that can be taken apart; remove it or convert it")
    splitter = splitter_for(data[len(bom) : len(bom) + 65536], path)
    if isinstance(splitter, Lines):
        made_text = _lines_without(text, records)
    elif isinstance(splitter, CsvRecords):
        made_text = _csv_without(text, records)
    else:
        made_text = _document_without(text, path, records)
    return data if made_text == text else bom + decode(made_text)


def _latin(text: str) -> bytes:
    return text.encode("latin-1")


def _lines_without(text: str, records: _Records) -> str:
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        lines[number - 1] = "" if number in records.doomed else records.without(number, line)
    return "\n".join(lines)


def _csv_without(text: str, records: _Records) -> str:
    """As with lines; a record over several of them leaves as many blank ones."""
    lines = text.split("\n")
    reader = csv.reader(io.StringIO(text, newline=""))
    first = 1
    try:
        for _ in reader:
            last = reader.line_num
            theirs = range(first, last + 1)
            gone = any(number in records.doomed for number in theirs)
            foreign = next((number for number in theirs if number in records.foreign), 0)
            for number in theirs:
                lines[number - 1] = "" if gone else records.without(foreign, lines[number - 1])
            first = last + 1
    except csv.Error as failure:
        raise NotRewritten("a CSV file cannot be taken apart; remove it or mend it") from failure
    return "\n".join(lines)


def _document_without(text: str, path: str, records: _Records) -> str:
    """A list, or values one after the other, without some of them; others are spelled as they were."""
    decoder = json.JSONDecoder()
    stripped = text.strip()
    parts: list[str] = []
    try:
        if stripped.startswith("["):
            held = json.loads(stripped)
            place, inner = 1, stripped
            for _ in held:
                while inner[place] in " \t\r\n,":
                    place += 1
                _, end = decoder.raw_decode(inner, place)
                parts.append(inner[place:end])
                place = end
        else:
            place = 0
            while place < len(stripped):
                _, end = decoder.raw_decode(stripped, place)
                parts.append(stripped[place:end])
                place = end
                while place < len(stripped) and stripped[place] in " \t\r\n,":
                    place += 1
    except (ValueError, IndexError, RecursionError) as failure:
        raise NotRewritten(
            f"{path} is a JSON document that cannot be taken apart; remove it or mend it"
        ) from failure
    kept = [
        records.without(number, part)
        for number, part in enumerate(parts, start=1)
        if number not in records.doomed
    ]
    if kept == parts:
        return text
    return "[" + ",\n".join(kept) + "]\n" if stripped.startswith("[") else "\n".join(kept) + "\n"


def _parquet_without(data: bytes, records: _Records) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            codec = (
                file.metadata.row_group(0).column(0).compression if file.metadata.num_row_groups else "SNAPPY"
            )
            rows = file.read()
    except (pa.ArrowException, OSError, ValueError) as failure:
        raise NotRewritten("a Parquet file cannot be read; remove it or mend it") from failure
    changed = False
    numbers = [number for number in range(1, rows.num_rows + 1) if number not in records.doomed]
    if len(numbers) < rows.num_rows:
        rows, changed = rows.take(pa.array([number - 1 for number in numbers], pa.int64())), True
    for index, field in enumerate(rows.schema):
        values = rows.column(index).to_pylist()
        blanked = [_blanked(value, number, records) for number, value in zip(numbers, values, strict=True)]
        if blanked != values:
            rows = rows.set_column(index, field, pa.array(blanked, field.type))
            changed = True
    if not changed:
        return data
    out = io.BytesIO()
    pq.write_table(rows, out, compression="none" if codec == "UNCOMPRESSED" else codec.lower())
    return out.getvalue()


def _blanked(value: Any, number: int, records: _Records) -> Any:
    match value:
        case str():
            return records.without(number, value)
        case dict():
            return {name: _blanked(held, number, records) for name, held in value.items()}
        case list():
            return [_blanked(held, number, records) for held in value]
        case tuple():
            return tuple(_blanked(held, number, records) for held in value)
        case _:
            return value


def _renumbers(data: bytes, path: str) -> bool:
    """Whether taking records out changes the numbers of those behind."""
    if data.startswith(_PARQUET):
        return True
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError):
            return True
    return not isinstance(splitter_for(data.removeprefix(_BOM)[:65536], path), Lines | CsvRecords)


def _taken(lake: Lake, source: str, path: str) -> dict[str, Any] | None:
    """The newest part of the file on record; `complete`: all of it was taken."""
    with lake.read("ingested_files") as reading:
        rows = reading.query(
            "erasure.taken_file",
            """
            SELECT * REPLACE (bool_or(complete) OVER () AS complete) FROM ingested_files
            WHERE source = $source AND path = $path ORDER BY part DESC, recorded_at DESC LIMIT 1
            """,
            {"source": source, "path": path},
        ).to_pylist()
    return rows[0] if rows else None


def _record(lake: Lake, taken: dict[str, Any], entry: Entry, made: bytes) -> None:
    """Say in `ingested_files` what the file is now: another part that brought nothing."""
    import pyarrow as pa

    nothing = dict.fromkeys(("rows_in", "taken", "duplicates", "quarantined", "ignored", "suppressed"), 0)
    row = {
        **taken,
        **nothing,
        "part": _taken_part(lake, taken) + 1,
        "complete": True,
        "size": entry.size,
        "modified_at": entry.modified_at,
        "etag": entry.etag,
        "digest": hashlib.sha256(made).hexdigest(),
        "recorded_at": datetime.now(UTC),
    }
    lake.append_next(
        "ingested_files", pa.Table.from_pylist([row], schema=INGESTED_FILES.schema), source=WRITER
    )


def _taken_part(lake: Lake, taken: dict[str, Any]) -> int:
    newest = _taken(lake, taken["source"], taken["path"])
    return int(taken["part"] if newest is None else newest["part"])


__all__ = ["Mention", "NoSuchFile", "NotRewritten", "mentions", "rewrite"]
