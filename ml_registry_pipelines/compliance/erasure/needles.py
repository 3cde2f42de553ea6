"""What a person may be recognised by in bytes and texts: each identifier and hash, in each usual form.

A text matches where nothing around it makes it part of a longer identifier, so that erasing
`ann@example.com` takes nothing from `joann@example.com`. In bytes that nothing could decode a
match within something longer counts as possible.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from ml_registry_pipelines.registry.errors import InvalidInput

SHORTEST = 4
"""Characters below which an identifier occurs everywhere by chance: it is erased by its hash alone."""
BLANK = "erased"
_INSIDE = r"[A-Za-z0-9_@%+\-]"
"""Characters that continue an identifier; a dot does only with a letter or digit behind it."""
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\([\"\\/bfnrt])")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}


@dataclass(frozen=True)
class Pattern:
    """One form of one needle. `needle` is its number, never its text."""

    needle: str
    form: str
    data: bytes
    folded: bool


@dataclass(frozen=True)
class Needles:
    """What is searched for: texts by a name that tells nobody who it is, such as `identifier 1`."""

    texts: Mapping[str, str]
    patterns: tuple[Pattern, ...] = field(init=False)
    _text: re.Pattern[str] | None = field(init=False)

    def __post_init__(self) -> None:
        found = [p for name, text in self.texts.items() for p in _patterns(name, text)]
        object.__setattr__(self, "patterns", tuple(found))
        parts = [re.escape(form) for text in self.texts.values() for form in _spelled(text)]
        bounded = "|".join(sorted(set(parts), key=len, reverse=True))
        expression = rf"(?<!{_INSIDE})(?<![A-Za-z0-9]\.)(?:{bounded})(?!{_INSIDE})(?!\.[A-Za-z0-9])"
        object.__setattr__(self, "_text", re.compile(expression, re.IGNORECASE) if parts else None)

    def in_text(self, text: str | None) -> bool:
        """Whether the text, or what its JSON escapes stand for, holds one of the needles by itself."""
        if not text or self._text is None:
            return False
        if self._text.search(text) is not None:
            return True
        return "\\" in text and self._text.search(unescaped(text)) is not None

    def named_in(self, text: str) -> set[str]:
        """The names of the needles in a text."""
        if not self.in_text(text):
            return set()
        both = (text.lower(), unescaped(text).lower())
        return {
            name
            for name, needle in self.texts.items()
            if any(form.lower() in one for form in _spelled(needle) for one in both)
        }

    def blanked(self, text: str) -> str:
        """The text with each needle replaced by `erased`; escapes are resolved only where one hides a needle."""
        if self._text is None:
            return text
        replaced = self._text.sub(BLANK, text)
        if "\\" in replaced and self._text.search(unescaped(replaced)):
            replaced = _escaped_again(replaced, self._text)
        return replaced

    def in_bytes(self, data: bytes) -> Iterator[tuple[Pattern, int]]:
        """Every form that occurs anywhere in the bytes, with its first place."""
        folded = data.lower()
        for pattern in self.patterns:
            place = (folded if pattern.folded else data).find(pattern.data)
            if place >= 0:
                yield pattern, place

    @property
    def overlap(self) -> int:
        """Bytes that two pieces of a file share, so that nothing is lost between them."""
        return max((len(p.data) for p in self.patterns), default=1)


def _escaped_again(text: str, pattern: re.Pattern[str]) -> str:
    """The text with JSON strings that hide a needle behind escapes written anew."""

    def mended(found: re.Match[str]) -> str:
        inner = unescaped(found[0])
        return pattern.sub(BLANK, inner) if pattern.search(inner) else found[0]

    # A word with escapes in it: nothing that could end a JSON string is within it.
    return re.sub(r"(?:[^\s\"\\]|\\u[0-9a-fA-F]{4}|\\/)+", mended, text)


def unescaped(text: str) -> str:
    """The text with the escapes of JSON resolved, wherever they stand."""
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _PLAIN.get(m[2], m[2]), text)


def _spelled(text: str) -> set[str]:
    """The text as it is, and as an address spells it."""
    return {text, quote(text, safe="")}


def _patterns(name: str, text: str) -> Iterator[Pattern]:
    raw = text.encode()
    seen: set[bytes] = set()

    def once(form: str, data: bytes, *, folded: bool) -> Iterator[Pattern]:
        data = data.lower() if folded else data
        if data not in seen and len(data) >= SHORTEST:
            seen.add(data)
            yield Pattern(name, form, data, folded)

    yield from once("utf-8", raw, folded=True)
    yield from once("utf-16", text.encode("utf-16-le"), folded=True)
    yield from once("utf-16", text.encode("utf-16-be"), folded=True)
    # As numpy keeps texts in arrays.
    yield from once("utf-32", text.encode("utf-32-le"), folded=True)
    yield from once("utf-32", text.encode("utf-32-be"), folded=True)
    yield from once("url", quote(text, safe="").encode(), folded=True)
    yield from once("hex", raw.hex().encode(), folded=True)
    escaped = "".join(
        c if c.isascii() and c not in "@/" else f"\\u{ord(c):04x}" for c in text if ord(c) < 65536
    )
    yield from once("json", escaped.encode(), folded=True)
    if re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", text):
        yield from once("bytes", bytes.fromhex(text), folded=False)
    for shift in range(3):
        for encoded in _base64(raw, shift):
            yield from once("base64", encoded, folded=False)


def _base64(raw: bytes, shift: int) -> Iterator[bytes]:
    """The part of the base64 of anything with `raw` in it that `raw` alone decides."""
    for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
        whole = encode(b"\0" * shift + raw).rstrip(b"=")
        known = (shift + len(raw)) * 8 // 6
        part = whole[(0, 2, 3)[shift] : known]
        if len(part) >= 6:
            yield part


def checked_identifier(given: str) -> str:
    """One identifier of a person, as it stands in the logs.

    Raises:
        InvalidInput: it is empty or absurdly long.
    """
    text = given.strip()
    if not text or len(text) > 500 or "\x00" in text:
        raise InvalidInput("an identifier of a person is a text of 1 to 500 characters")
    return text
