"""A query as tokens, each with the number of its first character."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ml_registry_pipelines.search.language.errors import QueryError


class Sort(Enum):
    WORD = "word"
    TEXT = "text"
    QUOTED = "quoted"
    """In double quotes or backticks: a key behind a dot, else a text."""
    NUMBER = "number"
    SIGN = "sign"
    DOT = "dot"
    END = "end"


@dataclass(frozen=True)
class Token:
    sort: Sort
    text: str
    """What it means: a text without its quotes."""
    position: int
    raw: str

    @property
    def upper(self) -> str:
        """A word for comparison with keywords; nothing else is one."""
        return self.text.upper() if self.sort is Sort.WORD else ""


_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
  | (?P<word>[^\W\d]\w*)
  | (?P<text>'(?:[^']|'')*')
  | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`)
  | (?P<sign><=|>=|!=|<>|==|[=<>(),])
  | (?P<dot>\.)
    """,
    re.VERBOSE,
)
_KEY = re.compile(r"\w+(?:[.\-/:]\w+)*")
_QUOTES = {"'": "text", '"': "quoted text", "`": "quoted name"}


def tokens(query: str) -> Iterator[Token]:
    """The tokens of a query, then its end.

    Raises:
        QueryError: a character that begins nothing, or quotes that are not closed.
    """
    at, after_dot = 0, False
    while at < len(query):
        if after_dot and (key := _KEY.match(query, at)):
            # A key may have dots, dashes and digits where no other name may.
            yield Token(Sort.WORD, key[0], at, key[0])
            at, after_dot = key.end(), False
            continue
        match = _TOKEN.match(query, at)
        if match is None:
            raise _wrong(query, at)
        sort, raw = str(match.lastgroup), match[0]
        if sort != "space":
            text = raw
            if sort in {"text", "quoted"}:
                text = raw[1:-1].replace(raw[0] * 2, raw[0])
            if raw in {"<>", "=="}:
                text = {"<>": "!=", "==": "="}[raw]
            yield Token(Sort(sort), text, at, raw)
        after_dot = sort == "dot"
        at = match.end()
    yield Token(Sort.END, "", len(query), "")


def _wrong(query: str, at: int) -> QueryError:
    character = query[at]
    if character in _QUOTES:
        return QueryError(f"the {_QUOTES[character]} that begins here has no end", query, at)
    if character == ";":
        return QueryError("a query is one condition, without a semicolon", query, at)
    if character.isdigit() or character in "+-":
        return QueryError("this is no number", query, at)
    return QueryError(f"the character {character!a} begins nothing that a query knows", query, at)
