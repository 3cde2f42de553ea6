"""Unpacking gzip so that nothing before a break is lost.

Standard readers give an error instead of the bytes that they had unpacked already. A
file that a producer or a copy broke off still holds whole records: they are given, and
then what broke.

ISA-L unpacks three times as fast as zlib, but only zlib can be set back by a block and be
asked byte by byte: where the stored bytes can be read again, it unpacks damaged members alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from isal import igzip_lib, isal_zlib

_GZIP = 31
"""What zlib calls a window of 32 KiB in a gzip member."""
_ISAL_ERROR = cast("type[Exception]", igzip_lib.IsalError)
_DAMAGED = (_ISAL_ERROR, zlib.error)
_BLOCK = 64 << 10
_MOST_AT_ONCE = 4 << 20
"""Bytes that one read unpacks at most: a block of 64 KiB may hold a thousand times as much."""


@dataclass(frozen=True)
class Fault:
    """What broke a file off, after everything before it was given."""

    reason: str
    says: str


class Packed(Protocol):
    """The stored bytes."""

    def read(self, size: int) -> bytes: ...

    @property
    def repeatable(self) -> bool:
        """Whether `again` can be asked for."""
        ...

    def again(self, start: int) -> AbstractContextManager[IO[bytes]]:
        """The bytes from `start` on once more; `read` goes on where it was."""
        ...


class Gunzip:
    """The unpacked bytes of a gzip file of one or more members.

    `fault` is set when `read` gives nothing because the file is broken off or damaged.
    """

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        self._member = self._new_member()
        self._begins = 0
        """Where the member begins in the stored bytes."""
        self._given = 0
        """Bytes that came out of the member."""
        self._taken = 0
        """Stored bytes that went into `_input`."""
        self._input = b""
        self._held = b""
        self._ended = False
        self.fault: Fault | None = None

    def peek(self, size: int) -> bytes:
        while len(self._held) < size and (more := self._unpack(size - len(self._held))):
            self._held += more
        return self._held[:size]

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        if self._held:
            given, self._held = self._held[:size], self._held[size:]
            return given
        return self._unpack(size)

    def _unpack(self, size: int) -> bytes:
        while not self._ended:
            if not self._input:
                self._input = self._packed.read(_BLOCK)
                self._taken += len(self._input)
                if not self._input:
                    return self._end()
            elif self._member.eof:
                self._next_member()
            elif unpacked := self._advance(min(size, _MOST_AT_ONCE)):
                return unpacked
        return b""

    def _new_member(self) -> Any:
        return (isal_zlib if self._packed.repeatable else zlib).decompressobj(wbits=_GZIP)

    def _advance(self, size: int) -> bytes:
        before, given = None if self._packed.repeatable else self._member.copy(), self._input
        try:
            unpacked: bytes = self._member.decompress(given, size)
        except _DAMAGED as failure:
            self._ended = True
            self.fault = _damage(failure)
            return self._rest_of_damaged() if before is None else _as_far_as_possible(before, given)
        self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        self._given += len(unpacked)
        return unpacked

    def _rest_of_damaged(self) -> bytes:
        """What the member holds between what was given and where it breaks."""
        rest, skip = [], self._given
        with self._packed.again(self._begins) as stored:
            for unpacked in self._carefully(stored):
                rest.append(unpacked[skip:])
                skip = max(0, skip - len(unpacked))
        return b"".join(rest)

    def _carefully(self, stored: IO[bytes]) -> Iterator[bytes]:
        """Everything that can be unpacked of a member that is damaged or breaks off."""
        member = zlib.decompressobj(wbits=_GZIP)
        while not member.eof and (given := stored.read(_BLOCK)):
            while given and not member.eof:
                before = member.copy()
                try:
                    yield member.decompress(given, _MOST_AT_ONCE)
                except zlib.error as failure:
                    self.fault = _damage(failure)
                    yield _as_far_as_possible(before, given)
                    return
                given = member.unconsumed_tail
        yield member.flush()

    def _next_member(self) -> None:
        """Begin the next member, behind any padding with zeros."""
        self._input = self._input.lstrip(b"\0")
        if len(self._input) == 1:
            more = self._packed.read(1)
            self._taken += len(more)
            self._input += more
        if self._input.startswith(b"\x1f\x8b"):
            self._member = self._new_member()
            self._begins, self._given = self._taken - len(self._input), 0
        elif self._input:
            self._ended = True
            self.fault = Fault("corrupt_gzip", "bytes follow the gzip data that are no gzip data")

    def _end(self) -> bytes:
        """What a member that breaks off has not given yet: of its last bytes, both libraries hold some back."""
        self._ended = True
        if self._member.eof:
            return b""
        rest: bytes = self._rest_of_damaged() if self._packed.repeatable else self._member.flush()
        self.fault = Fault("truncated_gzip", "the gzip data breaks off before its end")
        return rest


def _damage(failure: Exception) -> Fault:
    return Fault("corrupt_gzip", f"the gzip data is damaged ({failure})")


def _as_far_as_possible(member: zlib._Decompress, packed: bytes) -> bytes:
    """What can be unpacked before the damage, byte by byte: at most one block, once per file."""
    unpacked = []
    for position in range(len(packed)):
        try:
            unpacked.append(member.decompress(packed[position : position + 1]))
        except zlib.error:
            break
    return b"".join(unpacked)
