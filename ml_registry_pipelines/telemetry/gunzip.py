"""Unpacking gzip so that nothing before a break is lost.

Standard readers give an error instead of the bytes that they had unpacked already. A
file that a producer or a copy broke off still holds whole records: they are given, and
then what broke.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

_BLOCK = 64 << 10
_MOST_AT_ONCE = 4 << 20
"""Bytes that one read unpacks at most: a block of 64 KiB may hold a thousand times as much."""


@dataclass(frozen=True)
class Fault:
    """What broke a file off, after everything before it was given."""

    reason: str
    says: str


class _Bytes(Protocol):
    def read(self, size: int) -> bytes: ...


class Gunzip:
    """The unpacked bytes of a gzip file of one or more members.

    `fault` is set when `read` gives nothing because the file is broken off or damaged.
    """

    def __init__(self, packed: _Bytes) -> None:
        self._packed = packed
        self._member = zlib.decompressobj(wbits=31)
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
                if not self._input:
                    self._end()
            elif self._member.eof:
                self._next_member()
            elif unpacked := self._advance(min(size, _MOST_AT_ONCE)):
                return unpacked
        return b""

    def _advance(self, size: int) -> bytes:
        before, given = self._member.copy(), self._input
        try:
            unpacked = self._member.decompress(given, size)
        except zlib.error as failure:
            self._ended = True
            self.fault = Fault("corrupt_gzip", f"the gzip data is damaged ({failure})")
            return _as_far_as_possible(before, given)
        self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return unpacked

    def _next_member(self) -> None:
        """Begin the next member, behind any padding with zeros."""
        self._input = self._input.lstrip(b"\0")
        if len(self._input) == 1:
            self._input += self._packed.read(1)
        if self._input.startswith(b"\x1f\x8b"):
            self._member = zlib.decompressobj(wbits=31)
        elif self._input:
            self._ended = True
            self.fault = Fault("corrupt_gzip", "bytes follow the gzip data that are no gzip data")

    def _end(self) -> None:
        self._ended = True
        if not self._member.eof:
            self.fault = Fault("truncated_gzip", "the gzip data breaks off before its end")


def _as_far_as_possible(member: zlib._Decompress, packed: bytes) -> bytes:
    """What can be unpacked before the damage, byte by byte: at most one block, once per file."""
    unpacked = []
    for position in range(len(packed)):
        try:
            unpacked.append(member.decompress(packed[position : position + 1]))
        except zlib.error:
            break
    return b"".join(unpacked)
