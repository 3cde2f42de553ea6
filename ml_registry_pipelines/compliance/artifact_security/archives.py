"""Zip and tar archives: what they hold, and every way in which two readers may see different things in one.

Zip: APPNOTE 6.3.10. The directory at the end and the headers before each entry have to agree, entries
must neither overlap nor leave room between them, and nothing may stand before or behind.
"""

from __future__ import annotations

import stat
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from ml_registry_pipelines.compliance.artifact_security.findings import readable
from ml_registry_pipelines.compliance.artifact_security.reading import (
    PIECE,
    Budget,
    size_of,
    unpacked,
    window,
)
from ml_registry_pipelines.compliance.artifact_security.symbols import Broken

Say = Callable[[str], None]
"""Told of an anomaly."""

MOST_ENTRIES = 100_000
_END, _END64, _LOCATOR, _ENTRY, _LOCAL = (
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"PK\x01\x02",
    b"PK\x03\x04",
)
_KNOWN_FLAGS = 0x0002 | 0x0004 | 0x0008 | 0x0800
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_DESCRIPTOR = 0x0008
_STORED, _DEFLATED = 0, 8
_MOST_DESCRIPTOR = 24
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class Entry:
    """One entry as the directory describes it."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    mode: int


def zip_entries(stream: IO[bytes], budget: Budget, say: Say) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of a zip archive.

    Raises:
        Broken: it cannot be read for certain.
    """
    size = size_of(stream)
    start, end, count = _directory(stream, size, say)
    if count > MOST_ENTRIES:
        raise Broken(f"it has more than {MOST_ENTRIES:,} entries")
    entries = list(_read_directory(stream, start, end, count))
    _check_names([entry.name for entry in entries], say)
    places = [(entry, *_place(stream, entry, say)) for entry in entries]
    _check_room([(entry.offset, data + entry.packed) for entry, data in places], start, say)
    for entry, data in places:
        where = readable(entry.name)
        if entry.mode and stat.S_ISLNK(entry.mode):
            say(f"entry {where} is a link")
        if entry.flags & _ENCRYPTED:
            raise Broken(f"entry {where} is encrypted")
        if data + entry.packed > start:
            raise Broken(f"entry {where} is longer than the archive")
        yield entry.name, _content(stream, entry, data, budget, say)


def _directory(stream: IO[bytes], size: int, say: Say) -> tuple[int, int, int]:
    """First and last byte of the directory, and its number of entries."""
    tail_size = min(size, _FULL16 + 22)
    stream.seek(size - tail_size)
    tail = stream.read(tail_size)
    ends = [i for i in range(len(tail) - 21) if tail.startswith(_END, i)]
    if not ends:
        raise Broken("its directory is missing")
    if len(ends) > 1:
        say("it has several ends, so that readers may disagree about which directory counts")
    at = ends[-1]
    disk, disk2, here, count, length, start, comment = struct.unpack("<4x4H2IH", tail[at : at + 22])
    end = size - tail_size + at
    if end + 22 + comment != size:
        say(f"{size - end - 22 - comment:,} bytes follow behind its end")
    if (disk, disk2) not in {(0, 0), (_FULL16, _FULL16)}:
        raise Broken("it is one part of several")
    locator = tail[at - 20 : at] if at >= 20 else b""
    directory_end = end
    if locator.startswith(_LOCATOR):
        _, place, _ = struct.unpack("<4x I Q I".replace(" ", ""), locator)
        stream.seek(min(place, size))
        record = stream.read(56)
        if len(record) < 56 or not record.startswith(_END64):
            raise Broken("its 64-bit directory is not where it says")
        here64, count64, length64, start64 = struct.unpack("<4x20x4Q", record)
        for small, large, full in (
            (count, count64, _FULL16), (here, here64, _FULL16), (length, length64, _FULL32), (start, start64, _FULL32),
        ):  # fmt: skip
            if small not in (large, full):
                say("its 32-bit and 64-bit directories contradict each other")
        count, length, start, directory_end = count64, length64, start64, place
    elif _FULL32 in (length, start) or count == _FULL16:
        raise Broken("it refers to a 64-bit directory that is missing")
    if start + length != directory_end:
        say("its directory is not where it says, so that something else stands before the archive")
        start = directory_end - length
    if start < 0 or length > directory_end:
        raise Broken("its directory is longer than the file")
    return start, directory_end, count


def _read_directory(stream: IO[bytes], start: int, end: int, count: int) -> Iterator[Entry]:
    stream.seek(start)
    data = stream.read(end - start)
    at = 0
    for _ in range(count):
        if len(data) - at < 46 or not data.startswith(_ENTRY, at):
            raise Broken("its directory has fewer entries than it says")
        fields = struct.unpack("<4xHHHHHHIIIHHHHHII", data[at : at + 46])
        _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, _, _, external, offset = (
            fields
        )
        name = data[at + 46 : at + 46 + n_name]
        extra = data[at + 46 + n_name : at + 46 + n_name + n_extra]
        size, packed, offset = _large(extra, size, packed, offset)
        try:
            text = name.decode("utf-8" if flags & 0x800 else "cp437")
        except UnicodeError:
            raise Broken("the name of an entry is no text") from None
        yield Entry(text, flags, method, crc, packed, size, offset, external >> 16)
        at += 46 + n_name + n_extra + n_comment
    if at != len(data):
        raise Broken("its directory has more than its entries")


def _large(extra: bytes, *values: int) -> tuple[int, int, int]:
    """Sizes and offset, from the 64-bit field where the short ones are full."""
    found = list(values)
    at, field = 0, b""
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
        at += 4 + length
    position = 0
    for index, value in enumerate(found):
        if value == _FULL32:
            if len(field) < position + 8:
                raise Broken("an entry lacks its 64-bit size or place")
            found[index] = struct.unpack("<Q", field[position : position + 8])[0]
            position += 8
    return found[0], found[1], found[2]


def _place(stream: IO[bytes], entry: Entry, say: Say) -> tuple[int]:
    """Where the data of an entry begins, by the header before it, which has to agree with the directory."""
    where = readable(entry.name)
    stream.seek(entry.offset)
    head = stream.read(30)
    if len(head) < 30 or not head.startswith(_LOCAL):
        raise Broken(f"entry {where} has no header")
    _, flags, method, _, _, crc, packed, size, n_name, n_extra = struct.unpack("<4xHHHHHIIIHH", head)
    name = stream.read(n_name)
    extra = stream.read(n_extra)
    size, packed, _ = _large(extra, size, packed, 0)
    if name.decode("utf-8" if flags & 0x800 else "cp437", "replace") != entry.name:
        say(f"entry {where} has another name in its own header")
    if (flags, method) != (entry.flags, entry.method):
        say(f"entry {where} has other flags or another method in its own header")
    deferred = bool(flags & _DESCRIPTOR)
    for local, central in ((crc, entry.crc), (packed, entry.packed), (size, entry.size)):
        if local != central and not (deferred and local == 0):
            say(f"entry {where} has another size or checksum in its own header")
            break
    if entry.flags & ~(_KNOWN_FLAGS | _ENCRYPTED):
        say(f"entry {where} has flags that no writer of models sets")
    return (entry.offset + 30 + n_name + n_extra,)


def _check_room(spans: list[tuple[int, int]], directory: int, say: Say) -> None:
    at = 0
    for start, end in [*sorted(spans), (directory, directory)]:
        if start < at:
            say("entries overlap")
        elif start - at > (_MOST_DESCRIPTOR if at else 0):
            say(f"{start - at:,} bytes {'between its entries' if at else 'before it'} belong to none")
        at = max(at, end)


def _content(stream: IO[bytes], entry: Entry, data: int, budget: Budget, say: Say) -> IO[bytes]:
    where = readable(entry.name)
    part = window(stream, data, entry.packed)
    if entry.method == _STORED:
        if entry.packed != entry.size:
            say(f"entry {where} is stored as it is, and yet has two sizes")
    elif entry.method == _DEFLATED:
        part, behind = unpacked(part, "deflate", budget, packed_size=entry.packed)
        if behind:
            say(f"entry {where} has {behind:,} bytes behind its end")
        if size_of(part) != entry.size:
            say(f"entry {where} has another size than the directory says")
    else:
        raise Broken(f"entry {where} is packed by method {entry.method}, which is not read here")
    crc = 0
    part.seek(0)
    while piece := part.read(PIECE):
        crc = zlib.crc32(piece, crc)
    if crc != entry.crc:
        say(f"entry {where} has a wrong checksum")
    part.seek(0)
    return part


def _check_names(names: list[str], say: Say) -> None:
    seen: set[str] = set()
    for name in names:
        where = readable(name)
        bare = name.rstrip("/")
        if bare.casefold() in seen:
            say(f"there are two entries {where}")
        seen.add(bare.casefold())
        if (
            not bare
            or name.startswith("/")
            or "\\" in name
            or "\0" in name
            or ".." in PurePosixPath(name).parts
            or name[1:2] == ":"
        ):
            say(f"entry {where} leads out of the archive")


def tar_entries(stream: IO[bytes], say: Say) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of a tar archive.

    Raises:
        Broken: it cannot be read for certain.
    """
    size = size_of(stream)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            members: list[tarfile.TarInfo] = []
            for member in archive:
                members.append(member)
                if len(members) > MOST_ENTRIES:
                    raise Broken(f"it has more than {MOST_ENTRIES:,} entries")
            _check_names([member.name for member in members], say)
            behind = archive.offset
            for member in members:
                where = readable(member.name)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    say(f"entry {where} is no plain file")
                    continue
                if member.offset_data + member.size > size:
                    raise Broken(f"entry {where} is longer than the archive")
                yield member.name, window(stream, member.offset_data, member.size)
    except tarfile.TarError as failure:
        raise Broken(f"the archive is damaged: {readable(failure)}") from None
    stream.seek(behind)
    while piece := stream.read(PIECE):
        if piece.strip(b"\0"):
            say("something other than zeros follows behind its end")
            return


def is_zip_at_end(stream: IO[bytes]) -> bool:
    """Whether a reader that looks from the end would take the file for a zip archive."""
    size = size_of(stream)
    tail_size = min(size, _FULL16 + 22)
    stream.seek(size - tail_size)
    tail = stream.read()
    at = tail.rfind(_END)
    found = False
    if at >= 0 and len(tail) - at >= 22:
        length, start = struct.unpack("<II", tail[at + 12 : at + 20])
        end = size - tail_size + at
        stream.seek(max(0, end - length))
        found = length == 0 or length == _FULL32 or start == _FULL32 or stream.read(4) == _ENTRY
    stream.seek(0)
    return found
