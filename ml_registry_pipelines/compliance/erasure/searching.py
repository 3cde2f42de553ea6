"""Searching every file below some roots: decoded as far as it goes, and its raw bytes as well.

Decoded are Parquet (values, dictionaries, statistics, metadata), gzip, bzip2, xz, zip, SQLite, DuckDB,
Arrow files, Lance datasets in all their versions, and text with JSON escapes. What claims to be one of
them and cannot be decoded is a problem that is reported, never a file without hits.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import lzma
import os
import re
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ml_registry_pipelines.compliance.erasure.needles import Needles, Pattern
from ml_registry_pipelines.compliance.erasure.vectors import VectorsUnreadable, dataset_of, show_values
from ml_registry_pipelines.lake.files import Folder, LocalFolder, NoSuchFile

PIECE = 32 << 20
DEEPEST = 4
"""Archives within archives that are opened."""
LARGEST = 4 << 30
"""Unpacked bytes of one file; beyond, it is reported as one that cannot be decoded."""


@dataclass(frozen=True)
class Root:
    """A place that is searched, by a name for people: `storage`, `dagster`, `cache`, `spill`."""

    name: str
    folder: Folder


@dataclass(frozen=True)
class Hit:
    """A needle in a file. `exact`: by itself; otherwise it may be part of something longer."""

    root: str
    path: str
    needle: str
    form: str
    exact: bool


@dataclass
class Found:
    """What a search came to."""

    hits: list[Hit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0


class Undecodable(Exception):
    """A file is not what its first bytes say, or nothing here can read it."""


def search(roots: Iterable[Root], needles: Needles, *, below: str = "") -> Found:
    """Search all files of some roots.

    Args:
        below: only files whose path begins so.
    """
    found = Found()
    for root in roots:
        datasets: set[str] = set()
        for entry in root.folder.entries():
            if not entry.path.startswith(below):
                continue
            dataset = dataset_of(entry.path)
            try:
                _search_file(root, entry.path, needles, found, decoded_apart=dataset is not None)
            except NoSuchFile:
                continue  # it went while we looked, as files of tables do
            if dataset is not None:
                datasets.add(dataset)
            found.files += 1
            found.bytes += entry.size
        for dataset in sorted(datasets):
            _search_vectors(root, dataset, needles, found)
    return found


def _search_vectors(root: Root, dataset: str, needles: Needles, found: Found) -> None:
    """The values of a Lance dataset, whose files can be decoded as a whole alone."""
    hits: set[str] = set()
    shown = dataset if not needles.in_text(dataset) else "a dataset whose name holds the identifier"
    try:
        words = show_values(
            root.folder,
            dataset,
            lambda column: _array(column, lambda text, _: hits.update(needles.named_in(text))),
        )
    except VectorsUnreadable as failure:
        found.problems.append(f"{root.name}/{shown}: {failure}")
        return
    found.hits += [Hit(root.name, shown, name, "value", exact=True) for name in sorted(hits)]
    if words:
        found.problems.append(
            f"{root.name}/{shown}: its index {words[0]!r} holds words that cannot be searched; "
            "drop it, and make it again afterwards"
        )


def _search_file(
    root: Root, path: str, needles: Needles, found: Found, *, decoded_apart: bool = False
) -> None:
    hits: dict[tuple[str, str], bool] = {}
    problems = found.problems
    shown = path if not needles.in_text(path) else "a file whose name holds the identifier"
    for name in needles.named_in(path.replace("/", " ").replace("=", " ")):
        hits[(name, "name")] = True
    with _on_disk(root.folder, path) as local:
        texts = 0

        def look(text: str, form: str) -> None:
            nonlocal texts
            texts += 1
            for name in needles.named_in(text):
                hits[(name, form)] = True

        try:
            decoded = decoded_apart or _decode(local, look)
        except Undecodable as failure:
            problems.append(f"{root.name}/{shown}: {failure}")
            decoded = False
        for pattern, exact in _raw(local, needles):
            # Where values could be told apart, what is part of a longer one was seen as such.
            if (pattern.form in _ENCODED or exact or not decoded) and not any(
                name == pattern.needle for name, _ in hits
            ):
                hits[(pattern.needle, pattern.form)] = exact
    found.hits += [Hit(root.name, shown, name, form, exact) for (name, form), exact in hits.items()]


@contextmanager
def _on_disk(folder: Folder, path: str) -> Iterator[Path]:
    if isinstance(folder, LocalFolder):
        yield folder.root / path
        return
    with tempfile.NamedTemporaryFile(suffix=Path(path).suffix) as copy, folder.open(path) as stream:
        shutil.copyfileobj(stream, copy, PIECE)
        copy.flush()
        yield Path(copy.name)


def _raw(path: Path, needles: Needles) -> Iterator[tuple[Pattern, bool]]:
    overlap = needles.overlap + 1
    tail = b""
    try:
        with path.open("rb") as stream:
            while piece := stream.read(PIECE):
                data = tail + piece
                for pattern, place in needles.in_bytes(data):
                    if pattern.form in _ENCODED:
                        if _in_context(pattern, data, place, needles):
                            yield pattern, True
                    else:
                        yield pattern, stands_alone(data, place, len(pattern.data))
                tail = data[-overlap:]
    except FileNotFoundError as failure:
        raise NoSuchFile(str(path)) from failure


def stands_alone(data: bytes, place: int, length: int) -> bool:
    """Whether what is around some bytes does not make them part of a longer identifier."""
    before = data[place - 1 : place]
    after = data[place + length : place + length + 1]
    return not (before.isalnum() or (before in b"_@%+-." and before)) and not (
        after.isalnum() or (after in b"_@%+-" and after)
    )


_ENCODED = frozenset({"base64", "hex", "utf-16"})
"""Forms that no reader of text resolves, so that they count wherever they stand."""
_RUNS = {
    "base64": re.compile(rb"[A-Za-z0-9+/_-]*"),
    "hex": re.compile(rb"[0-9A-Fa-f]*"),
}
_AROUND = 4096


def _in_context(pattern: Pattern, data: bytes, place: int, needles: Needles) -> bool:
    """Whether what an encoded needle stands in, once decoded, holds it by itself."""
    before, after = data[max(0, place - _AROUND) : place], data[place : place + _AROUND]
    if pattern.form == "utf-16":
        start = len(before) % 2
        near = before[start:] + after
        return any(needles.in_text(near.decode(code, "replace")) for code in ("utf-16-le", "utf-16-be"))
    run = _RUNS[pattern.form]
    behind = run.match(after)
    ahead = run.match(before[::-1])
    whole = (ahead[0][::-1] if ahead else b"") + (behind[0] if behind else b"")
    for shift in range(4 if pattern.form == "base64" else 2):
        if needles.in_text(_unencoded(whole[shift:], pattern.form)):
            return True
    return False


def _unencoded(run: bytes, form: str) -> str:
    if form == "hex":
        return bytes.fromhex(run[: len(run) // 2 * 2].decode()).decode("utf-8", "replace")
    plain = run.translate(bytes.maketrans(b"-_", b"+/"))
    plain = plain[: len(plain) - 1] if len(plain) % 4 == 1 else plain
    return base64.b64decode(plain + b"=" * (-len(plain) % 4)).decode("utf-8", "replace")


Look = Callable[[str, str], None]


def _decode(path: Path, look: Look, depth: int = 0) -> bool:
    """Show every value of a file; whether its values could be told apart."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except FileNotFoundError as failure:
        raise NoSuchFile(str(path)) from failure
    if depth > DEEPEST:
        raise Undecodable("archives are nested too deep")
    for magic, decode in _DECODERS:
        if head.startswith(magic):
            decode(path, look, depth)
            return True
    if head[8:12] == b"DUCK":
        _duckdb(path, look)
        return True
    if _tail(path, 4) == b"LANC":
        raise Undecodable("it is a Lance file outside a dataset; remove it")
    return _text(path, look)


def _text(path: Path, look: Look) -> bool:
    with path.open("rb") as stream:
        head = stream.read(4096)
        if b"\x00" in head:
            return False
        stream.seek(0)
        tail = b""
        while piece := stream.read(PIECE):
            data = tail + piece
            look(data.decode("utf-8", "replace"), "text")
            tail = data[-4096:]
    return True


def _parquet(path: Path, look: Look, _: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for key, value in (file.metadata.metadata or {}).items():
                look(f"{key.decode('utf-8', 'replace')} {value.decode('utf-8', 'replace')}", "metadata")
            for group in range(file.metadata.num_row_groups):
                _statistics(file.metadata.row_group(group), look)
                for batch in file.iter_batches(row_groups=[group], batch_size=65_536):
                    for column in batch.columns:
                        _array(column, look)
    except (pa.ArrowException, OSError, ValueError) as failure:
        raise Undecodable("it begins as Parquet and cannot be read as such") from failure


def _statistics(group: Any, look: Look) -> None:
    for number in range(group.num_columns):
        statistics = group.column(number).statistics
        if statistics is not None and statistics.has_min_max:
            for value in (statistics.min, statistics.max):
                if isinstance(value, str | bytes):
                    look(
                        value.decode("utf-8", "replace") if isinstance(value, bytes) else value, "statistics"
                    )


def _array(column: Any, look: Look) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        _array(column.dictionary, look)
    elif pa.types.is_map(kind):
        _array(column.keys, look)
        _array(column.items, look)
    elif pa.types.is_nested(kind):
        parts = column.flatten()  # of a struct its fields, of a list its values
        for child in parts if isinstance(parts, list) else [parts]:
            _array(child, look)
    elif not (pa.types.is_primitive(kind) or pa.types.is_null(kind) or pa.types.is_decimal(kind)):
        texts = column if pa.types.is_fixed_size_binary(kind) else column.cast(pa.large_binary())
        for value in pc.unique(texts).to_pylist():
            if value:
                look(value.decode("utf-8", "replace"), "value")


def _arrow(path: Path, look: Look, _: int) -> None:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            for number in range(file.num_record_batches):
                for column in file.get_batch(number).columns:
                    _array(column, look)
    except (pa.ArrowException, OSError) as failure:
        raise Undecodable("it begins as an Arrow file and cannot be read as such") from failure


def _unpacked(opener: Callable[[Path], Any], said: str) -> Callable[[Path, Look, int], None]:
    def decode(path: Path, look: Look, depth: int) -> None:
        with tempfile.NamedTemporaryFile() as copy:
            try:
                with opener(path) as stream:
                    _copy(stream, copy)
            except (OSError, EOFError, lzma.LZMAError, ValueError) as failure:
                raise Undecodable(f"it begins as {said} and cannot be unpacked") from failure
            copy.flush()
            _inner(Path(copy.name), look, depth)

    return decode


def _zip(path: Path, look: Look, depth: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            look(archive.comment.decode("utf-8", "replace"), "name")
            for member in archive.infolist():
                look(member.filename, "name")
                if member.is_dir():
                    continue
                with tempfile.NamedTemporaryFile() as copy, archive.open(member) as stream:
                    _copy(stream, copy)
                    copy.flush()
                    _inner(Path(copy.name), look, depth)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, ValueError) as failure:
        raise Undecodable("it begins as a zip archive and cannot be unpacked") from failure


def _copy(stream: IO[bytes], copy: Any) -> None:
    size = 0
    while piece := stream.read(1 << 20):
        size += len(piece)
        if size > LARGEST:
            raise ValueError("it unpacks to more than can be searched")
        copy.write(piece)


def _inner(path: Path, look: Look, depth: int) -> None:
    if not _decode(path, look, depth + 1):
        # Bytes that nothing tells apart: every run of them is a text.
        with path.open("rb") as stream:
            while piece := stream.read(PIECE):
                look(piece.decode("latin-1"), "packed")


def _sqlite(path: Path, look: Look, _: int) -> None:
    """Rows as a reader sees them; free pages and the write-ahead log are raw bytes of files of their own."""
    try:
        address = f"file:{path}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            tables = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            for name in tables:
                quoted = name.replace('"', '""')
                for row in connection.execute(f'SELECT * FROM "{quoted}"'):
                    for value in row:
                        if isinstance(value, str):
                            look(value, "value")
                        elif isinstance(value, bytes):
                            look(value.decode("latin-1"), "value")
    except sqlite3.Error as failure:
        raise Undecodable("it begins as a SQLite database and cannot be read as such") from failure


def _duckdb(path: Path, look: Look) -> None:
    import duckdb

    try:
        with closing(duckdb.connect(str(path), read_only=True)) as connection:
            for schema, name in connection.execute(
                "SELECT table_schema, table_name FROM information_schema.tables"
            ).fetchall():
                cursor = connection.execute(f'SELECT * FROM "{schema}"."{name}"')
                while rows := cursor.fetchmany(10_000):
                    for row in rows:
                        for value in row:
                            if isinstance(value, str | bytes | list | dict):
                                look(value if isinstance(value, str) else repr(value), "value")
    except duckdb.Error as failure:
        raise Undecodable("it begins as a DuckDB database and cannot be read as such") from failure


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - size))
        return stream.read(size)


_DECODERS: tuple[tuple[bytes, Callable[[Path, Look, int], None]], ...] = (
    (b"PAR1", _parquet),
    (b"ARROW1", _arrow),
    (b"\x1f\x8b", _unpacked(gzip.GzipFile, "gzip")),
    (b"BZh", _unpacked(bz2.BZ2File, "bzip2")),
    (b"\xfd7zXZ\x00", _unpacked(lzma.LZMAFile, "xz")),
    (b"PK\x03\x04", _zip),
    (b"SQLite format 3\x00", _sqlite),
)
