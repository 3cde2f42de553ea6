"""Windows on a file, and reading what is packed without ever unpacking more than was allowed."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

from ml_registry_pipelines.compliance.artifact_security.symbols import Broken

PIECE = 1 << 20
MOST_UNPACKED = 512 << 20
"""Bytes that one file may unpack to, with all that is packed inside it."""
SUSPICIOUS_RATIO = 300
SUSPICIOUS_FROM = 32 << 20
"""From so many bytes on, something packed that small is taken for a bomb."""


class Bomb(Exception):
    """Something packed grows beyond all measure."""


class Budget:
    """How much one file may still unpack."""

    def __init__(self, most: int = MOST_UNPACKED) -> None:
        self.left = self.most = most

    def take(self, count: int, so_far: int, packed: int) -> None:
        """Note `count` more bytes; with them, `packed` bytes have become `so_far`.

        Raises:
            Bomb: that is too much for so few.
            Broken: it is more than is read.
        """
        self.left -= count
        if so_far > SUSPICIOUS_FROM and so_far > SUSPICIOUS_RATIO * max(packed, 1):
            raise Bomb(f"it unpacks to more than {SUSPICIOUS_RATIO} times its size: a decompression bomb")
        if self.left < 0:
            raise Broken(f"it unpacks to more than {self.most >> 20:,} MiB, which this scan does not read")


class Window(io.RawIOBase):
    """A part of a seekable stream."""

    def __init__(self, stream: IO[bytes], start: int, size: int) -> None:
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        self._stream.seek(self._start + self._at)
        data = self._stream.read(count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def window(stream: IO[bytes], start: int, size: int) -> IO[bytes]:
    """A buffered part of a stream."""
    return io.BufferedReader(Window(stream, start, size), 1 << 16)


def size_of(stream: IO[bytes]) -> int:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return size


_MAKERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "zlib": zlib.decompressobj,
    "deflate": lambda: zlib.decompressobj(-15),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=256 << 20),
}
SEVERAL = {"gzip", "bzip2", "xz"}
"""Forms of which several in a row are one: what is behind the first is data as well."""


def unpacked(stream: IO[bytes], form: str, budget: Budget, *, packed_size: int) -> tuple[io.BytesIO, int]:
    """What a compressed stream holds, and how many bytes follow behind its end.

    Raises:
        Bomb: it grows beyond all measure.
        Broken: it is damaged, cut off or too large.
    """
    out = io.BytesIO()
    made = _MAKERS[form]()
    rest = b""
    left = packed_size
    try:
        while True:
            data = rest or stream.read(min(PIECE, left))
            if not rest:
                left -= len(data)
            rest = b""
            if not data:
                raise Broken("what is packed in it breaks off")
            _grow(made, data, out, budget, packed_size)
            if made.eof:
                rest = made.unused_data or stream.read(min(PIECE, left))
                if not made.unused_data:
                    left -= len(rest)
                if form not in SEVERAL or not rest.startswith(_FIRST[form]):
                    break
                made = _MAKERS[form]()
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as failure:
        raise Broken(f"what is packed in it is damaged: {failure}") from None
    out.seek(0)
    return out, len(rest) + left


_FIRST = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\x00"}


def _grow(made: Any, data: bytes, out: io.BytesIO, budget: Budget, packed: int) -> None:
    """Unpack in bounded pieces, so that a bomb is met while it is small."""
    piece = made.decompress(data, PIECE)
    while True:
        budget.take(len(piece), out.tell() + len(piece), packed)
        out.write(piece)
        if made.eof:
            return
        tail = getattr(made, "unconsumed_tail", None)
        if tail:
            piece = made.decompress(tail, PIECE)
        elif (tail is None and not made.needs_input) or (len(piece) == PIECE and tail is not None):
            piece = made.decompress(b"", PIECE)
        else:
            return
