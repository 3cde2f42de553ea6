"""What is wrong with a query: one sentence, and below it the query with a caret at the place."""

from __future__ import annotations

from ml_registry_pipelines.registry.errors import InvalidInput

SHOWN = 72
"""Characters of a query that are shown around the place; a query may be very long."""


class QueryError(InvalidInput):
    """A query that cannot be read.

    `position` is the number of the offending character, from 0; None where the whole is meant.
    """

    def __init__(self, message: str, query: str = "", position: int | None = None) -> None:
        super().__init__(message if position is None else f"{message}\n{pointed(query, position)}")
        self.reason = message
        self.position = position


class CursorError(InvalidInput):
    """A cursor that is none, or belongs to another search."""


def pointed(query: str, position: int) -> str:
    """The part of a query around a place, and a caret under it."""
    first = max(0, min(position - SHOWN // 2, len(query) - SHOWN))
    last = min(len(query), first + SHOWN)
    before = "…" if first else ""
    line = "".join(_shown(c) for c in query[first:last])
    caret = len(before) + position - first
    return f"  {before}{line}{'…' if last < len(query) else ''}\n  {' ' * caret}^"


def _shown(character: str) -> str:
    """One column for every character, so that the caret stands below the right one."""
    return character if character.isprintable() else "\ufffd"
