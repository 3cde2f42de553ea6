"""What files hold, shown value by value: Parquet, archives and packed files, databases, texts.

What claims to be one of them and cannot be decoded, or is packed in a way that nothing here can undo, is
`Undecodable`, never a file without values. What is looked for is in `needles.py`, where in `searching.py`.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sqlite3
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from ml_registry_pipelines.lake.files import NoSuchFile

PIECE = 32 << 20
DEEPEST = 4
"""Archives within archives that are opened."""
LARGEST = 4 << 30
"""Unpacked bytes of one file; beyond, it is reported as one that cannot be decoded."""
AROUND = 4096
"""Bytes that two pieces of a file share, so that nothing is lost between them."""


class Undecodable(Exception):
    """A file is not what its first bytes say, or nothing here can read it."""


Look = Callable[[str, str], None]
PACKED = "packed"
"""Form of bytes that were packed and that nothing tells apart, shown one character a byte."""


def decode(path: Path, look: Look, depth: int = 0) -> bool:
    """Show every value of a file; whether its values could be told apart."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except FileNotFoundError as failure:
        raise NoSuchFile(str(path)) from failure
    if depth > DEEPEST:
        raise Undecodable("archives are nested too deep")
    for magic, reader in _DECODERS:
        if head.startswith(magic):
            reader(path, look, depth)
            return True
    for magic, said in _PACKED_OTHERWISE:
        if head.startswith(magic):
            raise Undecodable(f"it begins as {said}, which cannot be unpacked here")
    if _is_zlib(head) and _zlib(path, look, depth):
        return True
    if _is_tar(path):
        _tar(path, look, depth)
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
                        values_of(column, look)
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


def values_of(column: Any, look: Look) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        values_of(column.dictionary, look)
    elif pa.types.is_map(kind):
        values_of(column.keys, look)
        values_of(column.items, look)
    elif pa.types.is_nested(kind):
        parts = column.flatten()  # of a struct its fields, of a list its values
        for child in parts if isinstance(parts, list) else [parts]:
            values_of(child, look)
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
                    values_of(column, look)
    except (pa.ArrowException, OSError) as failure:
        raise Undecodable("it begins as an Arrow file and cannot be read as such") from failure


def _unpacked(opener: Callable[[Path], Any], said: str) -> Callable[[Path, Look, int], None]:
    def read(path: Path, look: Look, depth: int) -> None:
        with tempfile.NamedTemporaryFile() as copy:
            try:
                with opener(path) as stream:
                    _copy(stream, copy)
            except (OSError, EOFError, lzma.LZMAError, ValueError) as failure:
                raise Undecodable(f"it begins as {said} and cannot be unpacked") from failure
            copy.flush()
            _inner(Path(copy.name), look, depth)

    return read


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
    if not decode(path, look, depth + 1):
        # Bytes that nothing tells apart: every run of them is a text.
        with path.open("rb") as stream:
            tail = b""
            while piece := stream.read(PIECE):
                look((tail + piece).decode("latin-1"), PACKED)
                tail = piece[-AROUND:]


def unpacked_cell(value: bytes) -> bytes | None:
    """What a cell of a database packs by zlib, as Dagster's snapshots do; None: it packs nothing."""
    if not _is_zlib(value):
        return None
    try:
        return zlib.decompress(value)
    except zlib.error:
        return None


def _is_zlib(head: bytes) -> bool:
    """Whether bytes may begin a stream of zlib: RFC 1950, 2.2. Texts may begin so, too."""
    return len(head) >= 2 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0


def _zlib(path: Path, look: Look, depth: int) -> bool:
    """Show what a file packs by zlib, as joblib's compressed models do; False: it is no such file."""
    with tempfile.NamedTemporaryFile() as copy, path.open("rb") as stream:
        machine, size = zlib.decompressobj(), 0
        try:
            while piece := stream.read(1 << 20):
                while piece:
                    out = machine.decompress(piece, 1 << 20)
                    copy.write(out)
                    piece, size = machine.unconsumed_tail, size + len(out)
                    if size > LARGEST:
                        raise Undecodable("it begins as zlib and unpacks to more than can be searched")
        except zlib.error as failure:
            if not size:
                return False
            raise Undecodable("it begins as zlib and cannot be unpacked") from failure
        if not size:
            return False
        copy.flush()
        _inner(Path(copy.name), look, depth)
    return True


def _is_tar(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(257)
        return stream.read(5) == b"ustar"


def _tar(path: Path, look: Look, depth: int) -> None:
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                look(f"{member.name} {member.linkname} {member.uname}", "name")
                if (stream := archive.extractfile(member)) is None:
                    continue
                with tempfile.NamedTemporaryFile() as copy, stream:
                    _copy(stream, copy)
                    copy.flush()
                    _inner(Path(copy.name), look, depth)
    except (tarfile.TarError, OSError, EOFError, ValueError) as failure:
        raise Undecodable("it begins as a tar archive and cannot be unpacked") from failure


def _by_arrow(codec: str) -> Callable[[Path], Any]:
    def opened(path: Path) -> Any:
        import pyarrow as pa

        return pa.input_stream(str(path), compression=codec)

    return opened


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
                            look(value.decode("latin-1"), PACKED)
                            if (inner := unpacked_cell(value)) is not None:
                                look(inner.decode("latin-1"), PACKED)
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
    (b"\x28\xb5\x2f\xfd", _unpacked(_by_arrow("zstd"), "zstd")),
    (b"\x04\x22\x4d\x18", _unpacked(_by_arrow("lz4"), "lz4")),
    (b"PK\x03\x04", _zip),
    (b"SQLite format 3\x00", _sqlite),
)
_PACKED_OTHERWISE = ((b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07", "rar"), (b"\x1f\x9d", "compress"))
