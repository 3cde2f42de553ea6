"""The conditions that `search_models` takes by keyword, as a query: one engine answers both."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import date, datetime

from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.names import TagValue, typed_tags
from ml_registry_pipelines.search.language.ast import (
    And,
    Compare,
    Literal,
    Name,
    Node,
    Not,
    OfVersion,
    Or,
    Query,
)
from ml_registry_pipelines.search.language.fields import OF_MODELS
from ml_registry_pipelines.search.language.parsing import parse

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def conditions(
    query: str,
    *,
    text: str | None,
    tags: Mapping[str, TagValue],
    owner: str | None,
    status: str | None,
    stage: str | None,
    alias: str | None,
    framework: str | None,
    min_metrics: Mapping[str, float],
) -> Query:
    """The query, and every condition that was given beside it.

    Raises:
        QueryError: the query cannot be read.
        InvalidInput: a condition is nothing that could hold.
    """
    found: list[Node] = []
    if (given := parse(query)) is not None:
        found.append(given)
    if text is not None:
        pattern = f"%{_escaped(_text(text, 'text'))}%"
        found.append(Or(tuple(Compare(_name(field), "ILIKE", pattern) for field in ("name", "description"))))
    typed_tags(tags)  # Refuses what no tag could be.
    for key, value in tags.items():
        found += _tag(key, value)
    found += [
        Compare(_name(field), "=", _text(value, field))
        for field, value in {"owner": owner, "status": status, "alias": alias}.items()
        if value is not None
    ]
    one: list[Node] = [
        Compare(_name(field), "=", _text(value, field))
        for field, value in {"stage": stage, "framework": framework}.items()
        if value is not None
    ]
    for metric, least in min_metrics.items():
        if isinstance(least, bool) or not isinstance(least, int | float):
            raise InvalidInput(f"the least value of metric {metric!r} is a number, not {least!r}")
        one.append(Compare(_name("metrics", metric), ">=", least))
    if one:
        found.append(OfVersion("any", _all(one)))
    return _all(found) if found else None


def _all(nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else And(tuple(nodes))


def _name(field: str, key: str | None = None) -> Name:
    return Name(OF_MODELS[field], key)


def _tag(key: str, value: TagValue) -> list[Node]:
    """That a tag has this type and value."""
    if isinstance(value, datetime):
        raise InvalidInput(f"tag {key!r} is a time; a tag holds a date at most")
    literal: Literal = value
    found: list[Node] = [Compare(_name("tags", key), "=", literal)]
    if isinstance(value, str) and _DAY.fullmatch(value):
        # A text that reads as a day would find the date as well, which is of another type.
        with contextlib.suppress(ValueError):
            found.append(Not(Compare(_name("tags", key), "=", date.fromisoformat(value))))
    return found


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"a {what} is text, not a {type(value).__name__}")
    return value


def _escaped(text: str) -> str:
    return re.sub(r"[\\%_]", r"\\\g<0>", text)
