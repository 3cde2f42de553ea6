"""One spelling for every JSON value, so that equal content has equal bytes and one digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.registry.errors import InvalidInput

MAX_DEPTH = 64
SAFE_INTEGER = 2**63
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_PLAIN = (bool, type(None))


def canonical(value: object) -> str:
    """The value as JSON: keys sorted by code point, no spaces, UTF-8 as it is, no NaN or infinity.

    Raises:
        InvalidInput: the value holds something that JSON cannot say the same way everywhere.
    """
    _check(value, "", 0)
    return spelled(value)


def spelled(value: object) -> str:
    """The same of a value that is known to be JSON, because it was read from such."""
    return _ENCODER.encode(value)


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def parse(text: str) -> dict[str, Any]:
    """A JSON object, as `canonical` wrote it."""
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


def _check(value: object, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidInput(f"{path[:80]} is nested deeper than {MAX_DEPTH} levels")
    kind = type(value)
    if kind is str:
        # Most values are short texts; building their paths would cost more than looking at them.
        if not value.isascii() or "\x00" in value:  # type: ignore[attr-defined, operator]
            _check_text(value, path)  # type: ignore[arg-type]
        return
    if kind in _PLAIN:
        return
    match value:
        case str():
            _check_text(value, path)
        case int() | float():
            _check_number(value, path)
        case list() | tuple():
            for i, item in enumerate(value):
                _check(item, f"{path}[{i}]", depth + 1)
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInput(f"{path or 'the value'} has a key that is no text: {key!r}")
                _check_text(key, path)
                _check(item, f"{path}.{key}" if path else key, depth + 1)
        case _:
            raise InvalidInput(f"{path or 'the value'} is a {type(value).__name__}, which JSON cannot hold")


def _check_number(number: float, path: str) -> None:
    if isinstance(number, int) and not -SAFE_INTEGER <= number < SAFE_INTEGER:
        raise InvalidInput(f"{path or 'the value'} is an integer of more than 64 bits; give it as text")
    if not math.isfinite(number):
        raise InvalidInput(f"{path or 'the value'} is {number}; only finite numbers can be recorded")


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{path or 'the value'} holds a lone surrogate, which is no character") from None
    if "\x00" in text:
        raise InvalidInput(f"{path or 'the value'} holds a NUL character")
