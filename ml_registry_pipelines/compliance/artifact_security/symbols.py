"""What stands on the stack while a pickle is walked: symbols in the place of objects."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

JOBLIB_ARRAY: Final = ("joblib.numpy_pickle", "NumpyArrayWrapper")


class Broken(Exception):
    """The walk cannot go on; the text says why."""


class _Symbol:
    """A value that is not looked at."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


MARK: Final = _Symbol("MARK")
OPAQUE: Final = _Symbol("OPAQUE")


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names. `framework` is None for one that is not allowed."""

    module: str
    name: str
    framework: str | None

    @property
    def pair(self) -> tuple[str, str]:
        return self.module, self.name


@dataclass(eq=False)
class Made:
    """What a call would give, with the state that was set afterwards."""

    callee: object
    arguments: object
    state: object = None


class Pairs(dict[str, object]):
    """A dictionary, of which pairs under short texts are kept."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_NO_TEXTS: Final = {
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
}


def surely_no_text(value: object) -> bool:
    """Whether it can never be a text, so that an unpickler that takes it for a name stops."""
    match value:
        case str():
            return False
        case Made(callee=Global() as callee):
            return callee.framework in {"scikit-learn", "joblib", "scipy"} or callee.pair in _NO_TEXTS
        case Global(framework=framework):
            return framework is not None
        case None | bool() | int() | float() | tuple() | Pairs():
            return True
        case _:
            return value is MARK


def popped_to_mark(stack: list[object]) -> list[object]:
    """Take all above the last mark, and the mark.

    Raises:
        Broken: there is no mark.
    """
    for index in range(len(stack) - 1, -1, -1):
        if stack[index] is MARK:
            items = stack[index + 1 :]
            del stack[index:]
            return items
    raise Broken("it takes everything since a mark, and there is none")


@dataclass
class Imports:
    """What surrounds the import of a library: some open sockets while they are imported."""

    around: Callable[[], AbstractContextManager[None]] = field(default=nullcontext)


IMPORTS: Final = Imports()
