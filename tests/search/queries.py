"""Queries as hypothesis draws them, and what they mean, in plain Python."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from hypothesis import strategies as st

from ml_registry_pipelines.search.language.ast import (
    And,
    Between,
    Compare,
    In,
    IsNull,
    Name,
    Node,
    Not,
    OfVersion,
    Or,
    Words,
)
from ml_registry_pipelines.search.language.fields import (
    MODELS_OWN,
    OF_MODELS,
    OF_VERSIONS,
    VERSIONS_OWN,
    Kind,
    Type,
    measured,
)

KEYS = ["a", "b", "c d", "über", "x.y-z"]
TEXTS = [
    "",
    "alpha",
    "Alpha",
    "beta_1",
    "100%",
    "it's",
    'quo"te',
    "γάμμα",
    "ΓΆΜΜΑ",
    "2026-01-31",
    "a\\b",
    "straße",
    "STRASSE",
]
NUMBERS = [0, 1, 2, -1, 2.5, 1e300, -0.5, 2**53 + 1]
DAYS = [date(2026, 1, 31), date(2025, 12, 1)]
PATTERNS = [
    "%",
    "",
    "alpha",
    "%a%",
    "a%",
    "%a",
    "_lpha",
    "%\\%",
    "be%\\_1",
    "%γ%",  # noqa: RUF001 - Greek
    "%SS%",
    "%ß%",
    "a\\\\b",
    "%'%",
    "%l_h%",
]


@dataclass
class World:
    """What a registry holds, as plain values."""

    models: list[dict[str, Any]] = field(default_factory=list)


# -- drawing -----------------------------------------------------------------------------------


def keys(any_text: bool) -> st.SearchStrategy[str]:
    if not any_text:
        return st.sampled_from(KEYS)
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(characters, min_size=1, max_size=8).map(lambda key: unicodedata.normalize("NFC", key))


def texts(any_text: bool) -> st.SearchStrategy[str]:
    if not any_text:
        return st.sampled_from(TEXTS)
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def numbers(any_text: bool) -> st.SearchStrategy[int | float]:
    if not any_text:
        return st.sampled_from(NUMBERS)
    return st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


def names(known: Mapping[str, Any], scope: str, any_text: bool, *, measures: bool) -> st.SearchStrategy[Name]:
    fields = [f for f in known.values() if f.type is not Type.WORDS]
    if measures:
        fields += [f for f in (measured("cost_30d"), measured("latency_p95_7d")) if f is not None]

    def with_key(chosen: Any) -> st.SearchStrategy[Name]:
        if chosen.keyed:
            return keys(any_text).map(lambda key: Name(chosen, key, scope))
        return st.just(Name(chosen, None, scope))

    return st.sampled_from(fields).flatmap(with_key)


def leaves(name: Name, any_text: bool) -> st.SearchStrategy[Node]:
    """Conditions about a field."""
    equal: st.SearchStrategy[Any]
    ordered: st.SearchStrategy[Any]
    closed = st.sampled_from(name.field.values) if name.field.values else texts(any_text)
    match name.field.type:
        case Type.TEXT:
            equal, ordered = closed, texts(any_text)
        case Type.NUMBER:
            equal = ordered = numbers(any_text)
        case Type.TIME:
            equal = ordered = st.sampled_from(
                ["2026-01-31", "2020-01-01", "2100-01-01", "2026-01-31T12:00:00Z", 0, 1769860800000, *DAYS]
            )
        case _:
            ordered = texts(any_text) | numbers(any_text) | st.sampled_from(DAYS)
            equal = ordered | st.booleans()
    found: list[st.SearchStrategy[Any]] = [
        st.builds(Compare, st.just(name), st.sampled_from(["=", "!="]), equal),
        st.builds(Compare, st.just(name), st.sampled_from(["<", "<=", ">", ">="]), ordered),
        st.builds(In, st.just(name), st.lists(equal, min_size=1, max_size=3).map(tuple), st.booleans()),
        st.builds(Between, st.just(name), ordered, ordered, st.booleans()),
        st.builds(IsNull, st.just(name), st.booleans()),
    ]
    if name.field.type in {Type.TEXT, Type.ANY}:
        like = st.sampled_from(["LIKE", "ILIKE", "NOT LIKE", "NOT ILIKE"])
        patterns = texts(True) if any_text else st.sampled_from(PATTERNS)
        found.append(st.builds(Compare, st.just(name), like, patterns))
    return st.one_of(found)


def _trees(leaf: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds(Not, inner),
            st.lists(inner, min_size=2, max_size=3).map(lambda items: And(tuple(items))),
            st.lists(inner, min_size=2, max_size=3).map(lambda items: Or(tuple(items))),
        ),
        max_leaves=5,
    )


def queries(kind: Kind, *, any_text: bool = False, measures: bool = False) -> st.SearchStrategy[Node]:
    """Queries of that kind; with `any_text`, of keys and texts that nothing has."""

    def about(
        known: Mapping[str, Any], scope: str = "", measured_too: bool = False
    ) -> st.SearchStrategy[Node]:
        return names(known, scope, any_text, measures=measures and measured_too).flatmap(
            lambda name: leaves(name, any_text)
        )

    words = texts(True) if any_text else st.sampled_from(["alpha", "alpha beta", "gamma", "", "GAMMA 1"])
    full = words.map(lambda text: Words(Name(MODELS_OWN["text"]), text))
    models_own = about(MODELS_OWN, "model", True)
    if kind is Kind.VERSION:
        return _trees(about(OF_VERSIONS, "", True) | models_own | full)
    inner = _trees(about({**MODELS_OWN, **VERSIONS_OWN}) | models_own)
    scoped = st.builds(OfVersion, st.sampled_from(["any", "latest"]), inner)
    own = st.one_of(about(VERSIONS_OWN, "any"), about(VERSIONS_OWN, "latest"), models_own, full)
    return _trees(st.one_of(about(OF_MODELS, "", True), own, scoped))


# -- meaning -----------------------------------------------------------------------------------


def living(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [v for v in model["versions"] if not v["deleted"]]


def holds(node: Node, model: Mapping[str, Any], version: Mapping[str, Any] | None = None) -> bool:
    """Whether a model, or one version of it, meets a query."""
    match node:
        case And(items):
            return all(holds(item, model, version) for item in items)
        case Or(items):
            return any(holds(item, model, version) for item in items)
        case Not(item):
            return not holds(item, model, version)
        case OfVersion("any", item):
            return any(holds(item, model, v) for v in living(model))
        case OfVersion(_, item):
            newest = latest(model)
            return newest is not None and holds(item, model, newest)
        case Words(_, text):
            have = set(_words(f"{model['name']} {model['description']}"))
            return bool(_words(text)) and set(_words(text)) <= have
        case _:
            return _meets(node, list(values(node.name, model, version)))


def latest(model: Mapping[str, Any]) -> dict[str, Any] | None:
    return max(living(model), key=lambda v: v["number"], default=None)


def values(name: Name, model: Mapping[str, Any], version: Mapping[str, Any] | None) -> Iterator[Any]:
    """The values of a field."""
    field_ = name.field.name
    if name.scope == "any":
        chosen: Sequence[Any] = living(model)
    elif name.scope == "latest":
        chosen = [v for v in [latest(model)] if v is not None]
    elif name.scope == "model" or (version is None and field_ in MODELS_OWN):
        yield from _of_model(name, model)
        return
    elif version is not None:
        if field_ not in VERSIONS_OWN:
            yield from _of_model(name, model)
            return
        chosen = [version]
    elif field_ == "stage":
        chosen = living(model)
    else:
        chosen = [v for v in [latest(model)] if v is not None]
    for one in chosen:
        yield from _of_version(name, model, one)


def _of_model(name: Name, model: Mapping[str, Any]) -> Iterator[Any]:
    match name.field.name:
        case "owner":
            yield from model["owners"]
        case "alias":
            yield from model["aliases"]
        case "tags":
            yield from [model["tags"][name.key]] if name.key in model["tags"] else []
        case "versions":
            yield len(living(model))
        case "environment":
            yield from (e for v in model["versions"] for e in v["environments"])
        case other:
            yield from [model[other]] if model.get(other) is not None else []


def _of_version(name: Name, model: Mapping[str, Any], version: Mapping[str, Any]) -> Iterator[Any]:
    match name.field.name:
        case "version":
            yield version["number"]
        case "alias":
            yield from (alias for alias, number in model["aliases"].items() if number == version["number"])
        case "environment":
            yield from version["environments"]
        case "tags" | "metrics" | "params" as family:
            # A parameter that is a list or an object is no single value, and cannot be asked about.
            there = name.key in version[family] and not isinstance(version[family][name.key], list | dict)
            yield from [version[family][name.key]] if there else []
        case other:
            yield from [version[other]] if version.get(other) is not None else []


def _meets(node: Any, found: list[Any]) -> bool:
    match node:
        case IsNull(_, negated):
            return bool(found) if negated else not found
        case In(name, several, negated):
            met = any(_compared(name, value, "=", literal) for value in found for literal in several)
        case Between(name, low, high, negated):
            met = any(_compared(name, v, ">=", low) and _compared(name, v, "<=", high) for v in found)
        case Compare(name, operator, literal):
            negated = operator in {"!=", "NOT LIKE", "NOT ILIKE"}
            plain = {"!=": "=", "NOT LIKE": "LIKE", "NOT ILIKE": "ILIKE"}.get(operator, operator)
            met = any(_compared(name, value, plain, literal) for value in found)
        case _:
            raise AssertionError(node)
    return bool(found) and not met if negated else met


def _compared(name: Name, value: Any, operator: str, literal: Any) -> bool:
    if operator in {"LIKE", "ILIKE"}:
        return isinstance(value, str) and fits(value, literal, fold=operator == "ILIKE")
    if name.field.type is Type.TIME:
        return _times(value, operator, literal)
    if name.field.name == "name" and isinstance(literal, str):
        literal = unicodedata.normalize("NFC", literal)
    if name.field.type is Type.ANY:
        if isinstance(value, date) and isinstance(literal, str) and _is_day(literal):
            value = value.isoformat()
        if _kind(value) != _kind(literal):
            return False
    match operator:
        case "=":
            return bool(value == literal)
        case "<":
            return bool(value < literal)
        case "<=":
            return bool(value <= literal)
        case ">":
            return bool(value > literal)
        case _:
            return bool(value >= literal)


def _times(value: int, operator: str, literal: Any) -> bool:
    from ml_registry_pipelines.search.language.parsing import stretch

    first, after = stretch(literal)
    match operator:
        case "=":
            return first <= value < after
        case "<":
            return value < first
        case "<=":
            return value < after
        case ">":
            return value >= after
        case _:
            return value >= first


def _is_day(text: str) -> bool:
    return len(text) == 10 and text.replace("-", "").isdigit() and text[4] == text[7] == "-"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "date"


def fits(value: str, pattern: str, *, fold: bool) -> bool:
    """LIKE, by all places where the pattern may be."""
    if fold:
        value, pattern = (unicodedata.normalize("NFC", text.casefold()) for text in (value, pattern))
    places, escaped = {0}, False
    for n, character in enumerate(pattern):
        if character == "\\" and not escaped and n < len(pattern) - 1:
            escaped = True
            continue
        if character == "%" and not escaped:
            places = {end for place in places for end in range(place, len(value) + 1)}
        elif character == "_" and not escaped:
            places = {place + 1 for place in places if place < len(value)}
        else:
            places = {place + 1 for place in places if value[place : place + 1] == character}
        escaped = False
    return len(value) in places


def _words(text: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return "".join(c if c.isalnum() else " " for c in plain).split()
