"""Reading: the stored bytes of a log file become chunks of raw records, one JSON text each.

What a file is shows in its first bytes; its name only decides where those leave it open:
JSON lines, one JSON document (a list, or values one after the other), CSV, each also
gzipped, or Parquet. How a text is cut into records is in `splitting.py`, how rows of
CSV and Parquet become JSON is in `tabular.py`. Nothing here knows what a record means.

Memory is bounded by the chunk, whatever the file: about three times `CHUNK_BYTES`, or
of the longest record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.telemetry.gunzip import Fault, Gunzip
from ml_registry_pipelines.telemetry.splitting import (
    CsvRecords,
    Documents,
    Limits,
    Lines,
    Records,
    Reject,
    Splitter,
    Text,
    records_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 1 << 20
_HEAD = 64 << 10

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    _GZIP: "gzipped twice",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


class ReadingError(MlregError):
    """The bytes of a file could not be got."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive records of a file.

    `records` has `line` (int64) and `raw` (string, maybe with its line end); `rejected` has line,
    reason, message and raw of what could not even be read. A line counts from 1; in Parquet and in
    a JSON document, where lines say nothing, it is the number of the record.
    """

    records: pa.Table
    rejected: pa.Table
    first_line: int
    last_line: int


class LogReader:
    """The chunks of one file, iterated once; its digest is known at the end.

    Args:
        stream: the stored bytes, from the start.
        name: path of the file, for messages and for what its content leaves open.
    """

    def __init__(self, stream: IO[bytes], name: str, *, limits: Limits | None = None) -> None:
        self._stored = _Stored(stream, name)
        self._name = name
        self._limits = limits or Limits()

    @property
    def digest(self) -> str:
        """SHA-256 of the stored bytes, once all chunks were read."""
        return self._stored.hexdigest()

    def __iter__(self) -> Iterator[Chunk]:
        for records in self._records():
            yield _chunk(records)
        self._stored.drain()

    def _records(self) -> Iterator[Records]:
        head = self._stored.peek(_HEAD)
        if head.startswith(_PARQUET):
            from ml_registry_pipelines.telemetry.tabular import parquet_records

            yield from parquet_records(self._stored.seekable(), self._name, self._limits)
            return
        text: Text = Gunzip(self._stored) if head.startswith(_GZIP) else _Plain(self._stored)
        if text.peek(len(_BOM)) == _BOM:
            text.read(len(_BOM))
        head = text.peek(_HEAD)
        if foreign := next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None):
            message = f"{self._name}: it is {foreign}; land UTF-8 text, plain or gzipped, or Parquet"
            yield Records.none([Reject(0, "unreadable_file", message, "")])
            return
        splitter = splitter_for(head, self._name)
        records = records_of(text, splitter, self._limits)
        if isinstance(splitter, CsvRecords):
            from ml_registry_pipelines.telemetry.tabular import csv_records

            records = csv_records(records, self._name)
        yield from records


def splitter_for(head: bytes, name: str) -> Splitter:
    """How a text that begins with `head` is cut: as its first characters say, or else its name."""
    extensions = set(name.lower().rsplit("/", 1)[-1].split(".")[1:])
    head = head.lstrip()
    first, *others = head.split(b"\n")
    if extensions & {"jsonl", "ndjson"}:
        return Lines()
    if head.startswith(b"["):
        return Documents()
    if head.startswith(b"{"):
        # Where a line breaks off, it is one of an object over several lines, unless others are whole.
        whole = (line.startswith(b"{") and _is_json(line) for line in (first, *others[:-1]))
        return Documents() if others and not any(whole) else Lines()
    if extensions & {"csv", "tsv"} or ("json" not in extensions and b"," in first):
        return CsvRecords()
    return Lines()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _chunk(records: Records) -> Chunk:
    import pyarrow as pa

    rejected = {
        name: [getattr(r, name) for r in records.rejected] for name in ("line", "reason", "message", "raw")
    }
    return Chunk(
        records=pa.table({"line": pa.array(records.lines, pa.int64()), "raw": records.raw}),
        rejected=pa.table(rejected, schema=rejects_schema()),
        first_line=records.first_line,
        last_line=records.last_line,
    )


def rejects_schema() -> pa.Schema:
    """Columns of what could not be read."""
    import pyarrow as pa

    texts = [pa.field(name, pa.string(), nullable=False) for name in ("reason", "message", "raw")]
    return pa.schema([pa.field("line", pa.int64(), nullable=False), *texts])


class _Stored:
    """The stored bytes, hashed as they are read."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._hash = hashlib.sha256()
        self._held = b""
        self._whole = False

    def peek(self, size: int) -> bytes:
        while len(self._held) < size and (more := self._pull(size - len(self._held))):
            self._held += more
        return self._held[:size]

    def read(self, size: int) -> bytes:
        if self._held:
            given, self._held = self._held[:size], self._held[size:]
            return given
        return self._pull(size)

    def drain(self) -> None:
        """Hash what is left, unless others have taken over the stream by then."""
        self._held = b""
        while not self._whole and self._pull(_BLOCK):
            pass

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def seekable(self) -> IO[bytes]:
        """All bytes as a file that can be read anywhere: the stream itself, or a temporary copy of it."""
        import tempfile

        if self._stream.seekable():
            self.drain()
            self._whole = True
            self._stream.seek(0)
            return self._stream
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the last reference
        while block := self.read(_BLOCK):
            copy.write(block)
        copy.seek(0)
        return copy

    @property
    def repeatable(self) -> bool:
        """Whether bytes that were read can be read again, as in a bucket they cannot."""
        return self._stream.seekable()

    @contextmanager
    def again(self, start: int) -> Iterator[IO[bytes]]:
        """The stream from `start` on once more, past the hash; `read` goes on where it was."""
        try:
            at = self._stream.tell()
            self._stream.seek(start)
            yield self._stream
            self._stream.seek(at)
        except OSError as failure:
            raise self._unreadable(failure) from failure

    def _pull(self, size: int) -> bytes:
        try:
            block = self._stream.read(size)
        except OSError as failure:
            raise self._unreadable(failure) from failure
        self._hash.update(block)
        return block

    def _unreadable(self, failure: OSError) -> ReadingError:
        return ReadingError(f"{self._name} cannot be read: {failure.strerror or failure}")


class _Plain:
    """Bytes that are stored as they are."""

    def __init__(self, stored: _Stored) -> None:
        self._stored = stored
        self.fault: Fault | None = None

    def peek(self, size: int) -> bytes:
        return self._stored.peek(size)

    def read(self, size: int) -> bytes:
        return self._stored.read(size)
