"""Cursors: where a page ended, of which search, and what that search reads as of.

A cursor is text that a caller hands back as it is. It holds no more than the caller has seen and
what its next page needs; everything in it is checked, and only ever bound as a value. Its digest tells
a copy that was cut or edited; no secret depends on it, since whoever makes one up can ask for no
more than by a search of their own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_registry_pipelines.search.language.errors import CursorError

MAX_LENGTH = 150_000
"""Characters: ten keys of an order and 200 words with their weights, all as long as they may be, take 100,000."""
_DIGEST = 12
_LARGEST = 2**63


@dataclass(frozen=True)
class Cursor:
    """Where a page ended.

    `search` is the digest of what was asked; `last` the keys of the last hit; `weights` of the words,
    and `average`, are the statistics by which relevance was computed on the first page; `figures` are the
    snapshots of costs and latencies by days.
    """

    search: str
    sequence: int
    last: tuple[Any, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    average: float = 1.0
    figures: Mapping[int, str] = field(default_factory=dict)

    def spelled(self) -> str:
        """The cursor as text."""
        data = [
            self.search,
            self.sequence,
            list(self.last),
            dict(self.weights),
            self.average,
            {str(days): snapshot for days, snapshot in self.figures.items()},
        ]
        payload = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(_digest(payload) + payload).decode().rstrip("=")


def search_digest(*parts: object) -> str:
    """By which a cursor knows its search."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def read(text: object, search: str, keys: int) -> Cursor:
    """A cursor from its text.

    Args:
        search: what the cursor has to be of.
        keys: how many keys its order has.

    Raises:
        CursorError: it is none, was changed, or is of another search.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH or not text.isascii():
        raise CursorError(
            "that is no cursor of a search; hand back the one that came with the page, as it is"
        )
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        payload = data[_DIGEST:]
        if _digest(payload) != data[:_DIGEST]:
            raise ValueError
        found = Cursor(*_checked(json.loads(payload)))
    except (ValueError, TypeError, KeyError, binascii.Error, RecursionError):
        raise CursorError(
            "that is no cursor of a search, or a part of one; hand back the one that came with the page, as it is"
        ) from None
    if found.search != search:
        raise CursorError(
            "that cursor belongs to another search: give the same query, text, order, tenant and options as for the "
            "page before, or none to begin anew"
        )
    if len(found.last) != keys:
        raise CursorError("that cursor belongs to another order; begin anew without it")
    return found


def _checked(data: Any) -> tuple[Any, ...]:
    search, sequence, last, weights, average, figures = data
    numbers = [average, *weights.values()]
    sound = (
        type(search) is str
        and type(sequence) is int
        and 0 <= sequence < _LARGEST
        and all(value is None or isinstance(value, str | int | float) for value in last)
        and all(_fits(value) for value in last)
        and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        and all(isinstance(text, str) for text in figures.values())
    )
    if not sound:
        raise ValueError
    return (
        search,
        sequence,
        tuple(last),
        weights,
        average,
        {int(days): text for days, text in figures.items()},
    )


def _fits(value: object) -> bool:
    if isinstance(value, str):
        value.encode()
    return not isinstance(value, int) or -_LARGEST <= value < _LARGEST


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(b"cursor" + payload).digest()[:_DIGEST]
