"""What a query says, as a tree of values. `str` of a tree is a query that reads as the same tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from ml_registry_pipelines.search.language.fields import Field, Type

Literal = str | int | float | bool | date
"""A `date` is written `DATE '2026-01-31'`; times are texts that the field reads."""

NEGATED = {"!=": "=", "NOT LIKE": "LIKE", "NOT ILIKE": "ILIKE"}
"""Operators that hold where there is a value and the other operator does not hold of any."""
ORDERED = ("<", "<=", ">", ">=")
PATTERNS = ("LIKE", "ILIKE", "NOT LIKE", "NOT ILIKE")
_PLAIN_KEY = re.compile(r"[^\W\d]\w*(?:[.-]\w+)*")


@dataclass(frozen=True)
class Name:
    """A field as it was named: `any.metrics.auc` is scope `any`, field metrics, key `auc`."""

    field: Field
    key: str | None = None
    scope: str = ""

    def __str__(self) -> str:
        scope = f"{self.scope}." if self.scope else ""
        key = "" if self.key is None else f".{spelled_key(self.key)}"
        return f"{scope}{self.field.name}{key}"


@dataclass(frozen=True)
class Compare:
    """`name = 'fraud'`, `tags.tier >= 2`, `description ILIKE '%card%'`."""

    name: Name
    operator: str
    value: Literal

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {spelled(self.value)}"


@dataclass(frozen=True)
class In:
    """`stage IN ('production', 'shadow')`."""

    name: Name
    values: tuple[Literal, ...]
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'NOT ' * self.negated}IN ({', '.join(spelled(v) for v in self.values)})"


@dataclass(frozen=True)
class Between:
    """`metrics.auc BETWEEN 0.8 AND 0.9`, both ends included."""

    name: Name
    low: Literal
    high: Literal
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'NOT ' * self.negated}BETWEEN {spelled(self.low)} AND {spelled(self.high)}"


@dataclass(frozen=True)
class IsNull:
    """`licence IS NULL`: there is no value."""

    name: Name
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.name} IS {'NOT ' * self.negated}NULL"


@dataclass(frozen=True)
class Words:
    """`text MATCHES 'fraud card'`: all the words occur."""

    name: Name
    words: str

    def __str__(self) -> str:
        return f"{self.name} MATCHES {spelled(self.words)}"


@dataclass(frozen=True)
class Not:
    item: Node

    def __str__(self) -> str:
        return f"NOT {_inside(self.item)}"


@dataclass(frozen=True)
class And:
    items: tuple[Node, ...]

    def __str__(self) -> str:
        return " AND ".join(_inside(item) for item in self.items)


@dataclass(frozen=True)
class Or:
    items: tuple[Node, ...]

    def __str__(self) -> str:
        return " OR ".join(_inside(item) for item in self.items)


@dataclass(frozen=True)
class OfVersion:
    """`any(…)`: one living version meets it all; `latest(…)`: the newest one does."""

    which: str
    item: Node

    def __str__(self) -> str:
        return f"{self.which}({self.item})"


Node = Compare | In | Between | IsNull | Words | Not | And | Or | OfVersion
Query = Node | None
"""None: the empty query, which all meet."""


@dataclass(frozen=True)
class Order:
    """One key of an order. What has no value comes last, whichever the direction."""

    name: Name
    descending: bool = False

    def __str__(self) -> str:
        return f"{self.name}{' DESC' * self.descending}"


def _inside(item: Node) -> str:
    """An operand: AND and OR keep the parentheses that they were written with."""
    return f"({item})" if isinstance(item, And | Or) else str(item)


def spelled(value: Literal) -> str:
    """A literal as a query has it."""
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case date():
            return f"DATE '{value.isoformat()}'"
        case _:
            return repr(value)


def spelled_key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else '"' + key.replace('"', '""') + '"'


def names_in(query: Query) -> Iterator[Name]:
    """Every field that a query names, from left to right."""
    match query:
        case None:
            return
        case And(items) | Or(items):
            for item in items:
                yield from names_in(item)
        case Not(item) | OfVersion(_, item):
            yield from names_in(item)
        case _:
            yield query.name


def is_words(name: Name) -> bool:
    return name.field.type is Type.WORDS
