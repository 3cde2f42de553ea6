"""Words of texts, and how texts are folded for a comparison that does not look at case."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+")
LONGEST_WORD = 64
MOST_WORDS = 20_000
"""Words of one text that are taken."""


def folded(text: str) -> str:
    """The text for comparisons in any case: Unicode's case folding, composed."""
    return unicodedata.normalize("NFC", text.casefold())


def words(text: str) -> list[str]:
    """The words of a text in order, in one case and without accents."""
    plain = text.casefold()
    if not plain.isascii():
        # Accents are dropped where they can be told from the letter, as a person would type it.
        plain = "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    return [word[:LONGEST_WORD] for word in _WORD.findall(plain)[:MOST_WORDS]]


def counted(text: str) -> Counter[str]:
    return Counter(words(text))


def like(value: object, pattern: str, *, fold: bool) -> bool:
    """Whether a text fits a pattern of `%`, any characters, and `_`, one; `\\` takes the next one as it stands.

    In time proportional to both lengths: what stands between two `%` is looked for once, from the left.
    """
    if not isinstance(value, str):
        return False
    text = folded(value) if fold else value
    parts, first, last = _compiled(folded(pattern) if fold else pattern)
    if not parts:
        return bool(first) or text == ""
    at = 0
    for number, part in enumerate(parts):
        final = number == len(parts) - 1 and not last
        if number == 0 and not first:
            match = part.match(text)
            if match is None or (final and match.end() != len(text)):
                return False
        elif final:
            # Each part has a fixed length, and the last one ends where the text does.
            begin = len(text) - _length(part.pattern)
            match = part.match(text, begin) if begin >= at else None
            if match is None:
                return False
        else:
            match = part.search(text, at)
            if match is None:
                return False
        at = match.end()
    return True


def runs(pattern: str) -> list[str]:
    """The texts that occur in whatever fits a pattern, without wildcards."""
    found, run, escaped = [], "", False
    for character in pattern:
        if escaped or character not in "%_\\":
            run, escaped = run + character, False
        elif character == "\\":
            escaped = True
        else:
            found.append(run)
            run = ""
    return [one for one in (*found, run) if one]


def prefix(pattern: str) -> str:
    """What every text that fits a pattern begins with."""
    found, escaped = "", False
    for character in pattern:
        if escaped or character not in "%_\\":
            found, escaped = found + character, False
        elif character == "\\":
            escaped = True
        else:
            break
    return found


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> tuple[list[re.Pattern[str]], bool, bool]:
    """The parts between the `%` of a pattern, and whether it begins and ends with one."""
    parts: list[str] = [""]
    escaped = False
    for character in pattern:
        if escaped:
            parts[-1] += re.escape(character)
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "%":
            parts.append("")
        else:
            parts[-1] += "." if character == "_" else re.escape(character)
    if escaped:
        parts[-1] += re.escape("\\")
    first, last = len(parts) > 1 and not parts[0], len(parts) > 1 and not parts[-1]
    return [re.compile(p, re.DOTALL) for p in parts if p], first, last


@lru_cache(maxsize=1024)
def _length(pattern: str) -> int:
    """Characters that a part stands for."""
    return len(re.sub(r"\\(.)", r"\1", pattern, flags=re.DOTALL))
