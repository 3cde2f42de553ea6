"""Unpacking gives, before a break, every byte that zlib can get out of what is left."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import zlib
from collections.abc import Iterator
from typing import IO

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.telemetry.gunzip import Gunzip
from tests.examples import examples


class Stored:
    """Stored bytes, which can or cannot be read again."""

    def __init__(self, content: bytes, *, repeatable: bool) -> None:
        self._stream = io.BytesIO(content)
        self.repeatable = repeatable

    def read(self, size: int) -> bytes:
        return self._stream.read(size)

    @contextlib.contextmanager
    def again(self, start: int) -> Iterator[IO[bytes]]:
        at = self._stream.tell()
        self._stream.seek(start)
        yield self._stream
        self._stream.seek(at)


def unpacked(content: bytes, *, repeatable: bool, head: int, block: int) -> tuple[bytes, str | None]:
    """All that comes out when first `head` bytes are peeked at, and the reason of the fault."""
    source = Gunzip(Stored(content, repeatable=repeatable))
    source.peek(head)
    parts = []
    while part := source.read(block):
        parts.append(part)
    return b"".join(parts), source.fault.reason if source.fault else None


def text(size: int, seed: int) -> bytes:
    """Bytes that pack about as well as logs do."""
    chance = random.Random(seed)
    words = [f'"{chance.getrandbits(32):08x}": {chance.randrange(999)}, '.encode() for _ in range(400)]
    made = b"".join(chance.choice(words) for _ in range(size // 16 + 1))
    return made[:size]


SIZES = st.one_of(
    st.integers(0, 400_000),
    st.sampled_from([65_535, 65_536, 65_537, 131_072, 1 << 20, (1 << 20) + 1]),
)


@given(
    SIZES, st.integers(0, 9), st.floats(0, 1), st.booleans(), st.sampled_from([1, 65_536]), st.integers(0, 3)
)
@settings(deadline=None, max_examples=examples(150))
def test_a_file_that_breaks_off_gives_every_byte_that_can_be_unpacked(
    size: int, seed: int, where: float, repeatable: bool, head: int, level: int
):
    packed = gzip.compress(text(size, seed), level * 3)
    cut = packed[: max(20, int(len(packed) * where))]
    can_be = zlib.decompressobj(wbits=31).decompress(cut)
    found, reason = unpacked(cut, repeatable=repeatable, head=head, block=1 << 20)
    assert found == can_be
    assert reason == ("truncated_gzip" if len(cut) < len(packed) else None)


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("last", [1, 5, 8, 9, 20, 200])
def test_a_small_file_without_its_last_bytes_loses_nothing_more(repeatable: bool, last: int):
    content = text(85_400, 1)
    cut = gzip.compress(content)[:-last]
    found, reason = unpacked(cut, repeatable=repeatable, head=64 << 10, block=1 << 20)
    assert found == zlib.decompressobj(wbits=31).decompress(cut)
    assert reason == "truncated_gzip"


@given(st.integers(100, 300_000), st.floats(0.01, 0.99), st.booleans(), st.integers(1, 255))
@settings(deadline=None, max_examples=examples(80))
@example(size=428, where=0.9609375, repeatable=False, flip=2)
def test_damage_gives_what_comes_before_it(size: int, where: float, repeatable: bool, flip: int):
    """A bit that pads the last byte of the stream may change: then nothing is damaged."""
    content = text(size, 3)
    packed = bytearray(gzip.compress(content))
    packed[10 + int((len(packed) - 10) * where)] ^= flip
    found, reason = unpacked(bytes(packed), repeatable=repeatable, head=64 << 10, block=1 << 20)
    member = zlib.decompressobj(wbits=31)
    can_be = b""
    with contextlib.suppress(zlib.error):
        for at in range(len(packed)):
            can_be += member.decompress(packed[at : at + 1])
    assert found == can_be
    assert (reason is None) == (member.eof and found == content)


@given(st.lists(st.integers(0, 150_000), min_size=1, max_size=4), st.booleans(), st.integers(0, 3))
@settings(deadline=None, max_examples=examples(40))
def test_members_and_padding_are_one_text(sizes: list[int], repeatable: bool, zeros: int):
    parts = [text(size, seed) for seed, size in enumerate(sizes)]
    packed = (b"\0" * zeros).join(gzip.compress(part) for part in parts)
    assert unpacked(packed, repeatable=repeatable, head=1, block=1 << 16) == (b"".join(parts), None)
