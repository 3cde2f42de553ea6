"""From a query's tree to SQL over the index: fixed text with bound values.

Nothing that a person wrote becomes part of a statement: fields are looked up in a closed table, and
keys, texts, patterns and numbers are bound. Every condition is true or false, never unknown: a
comparison with what is not there is false, and NOT of it true.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from ml_registry_pipelines.search.index.text import folded, prefix, words
from ml_registry_pipelines.search.language.ast import (
    NEGATED,
    And,
    Between,
    Compare,
    In,
    IsNull,
    Literal,
    Name,
    Node,
    Not,
    OfVersion,
    Or,
    Words,
)
from ml_registry_pipelines.search.language.fields import VERSIONS_OWN, Kind, Of, Type, measure_of, measured
from ml_registry_pipelines.search.language.parsing import stretch

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_COLUMNS = {
    # A field's column in the facts or states of a version, or in the states of a model.
    (Of.VERSION, "version"): "w.number",
    (Of.VERSION, "stage"): "v.stage",
    (Of.VERSION, "framework"): "w.framework",
    (Of.VERSION, "licence"): "w.licence",
    (Of.VERSION, "size"): "w.size",
    (Of.VERSION, "digest"): "w.digest",
    (Of.VERSION, "form"): "w.form",
    (Of.VERSION, "description"): "v.description",
    (Of.VERSION, "id"): "w.id",
    (Of.VERSION, "created"): "w.created",
    (Of.VERSION, "updated"): "v.updated",
    (Of.MODEL, "name"): "m.name",
    (Of.MODEL, "description"): "m.description",
    (Of.MODEL, "id"): "m.id",
    (Of.MODEL, "status"): "m.status",
    (Of.MODEL, "updated"): "m.updated",
}


_LONG = frozenset({"description", "tags", "params", "framework", "licence"})
"""Fields whose texts may be long."""
SORTED_BY = 250
"""Characters of a text that count in an order: a cursor carries them, and may be part of an address."""


@dataclass(frozen=True)
class Scope:
    """Names of the relations that a condition is about: states of a model, state and facts of a version."""

    m: str = "m"
    v: str | None = None
    w: str | None = None


@dataclass(frozen=True)
class Values:
    """The values of a field: an expression, or rows that each have one. `kind` tells the type of each."""

    value: str
    source: str | None = None
    kind: str | None = None
    folded: str | None = None
    """The value as it is compared in any case, where the index keeps it so."""
    around: tuple[str, str] = ("", "")
    """What chooses the versions that have the values, before a condition about them and behind it."""

    def some(self, test: str) -> str:
        """That one of them meets a test."""
        met = f"({test})" if self.source is None else f"EXISTS (SELECT 1 {self.source} AND ({test}))"
        return met.join(self.around)

    @property
    def there(self) -> str:
        """That there is one."""
        found = f"({self.value} IS NOT NULL)" if self.source is None else f"EXISTS (SELECT 1 {self.source})"
        return found.join(self.around)


class Compiler:
    """Makes conditions for one search: of a tenant, as of an event, of models or versions."""

    def __init__(self, kind: Kind, tenant: int, sequence: int) -> None:
        self.kind = kind
        self.parameters: dict[str, object] = {"t": tenant, "s": sequence}
        self._numbers = itertools.count()
        self.snapshots: dict[int, str] = {}
        """Which snapshot holds the figures of the last so many days."""

    @property
    def scope(self) -> Scope:
        """Of the search itself."""
        return Scope("m", "v", "w") if self.kind is Kind.VERSION else Scope("m")

    def bound(self, value: object) -> str:
        """A parameter that holds the value."""
        name = f"p{next(self._numbers)}"
        self.parameters[name] = value
        return f":{name}"

    @staticmethod
    def holds(alias: str) -> str:
        """That a state holds as of the search's event."""
        return f"{alias}.since <= :s AND {alias}.until > :s"

    def alias(self, letter: str) -> str:
        return f"{letter}{next(self._numbers)}"

    # -- conditions ------------------------------------------------------------------------

    def condition(self, node: Node, scope: Scope) -> str:
        """The tree as an SQL expression; true or not true."""
        match node:
            case And(items):
                return joined("AND", [self.condition(item, scope) for item in items])
            case Or(items):
                return joined("OR", [self.condition(item, scope) for item in items])
            case Not(item):
                return f"(({self.condition(item, scope)}) IS NOT TRUE)"
            case OfVersion(which, item):
                inner, around = self._within(which, scope)
                return self.condition(item, inner).join(around)
            case Words(_, text):
                return self._words(text, scope)
            case _:
                return self._leaf(node, scope)

    def _within(self, which: str, scope: Scope) -> tuple[Scope, tuple[str, str]]:
        """The versions of a model, or the newest one: their scope, and what stands around a condition about them."""
        v, w, latest = self.alias("v"), self.alias("w"), self.alias("l")
        if which == "latest":
            before = (
                f"EXISTS (SELECT 1 FROM latest {latest} CROSS JOIN versions {w} ON {w}.no = {latest}.version"
                f" CROSS JOIN version_states {v} ON {v}.version = {w}.no AND {self.holds(v)}"
                f" WHERE {latest}.model = {scope.m}.model AND {self.holds(latest)} AND ("
            )
        else:
            before = (
                f"EXISTS (SELECT 1 FROM version_states {v} CROSS JOIN versions {w} ON {w}.no = {v}.version"
                f" WHERE {v}.model = {scope.m}.model AND {self.holds(v)} AND NOT {v}.deleted AND ("
            )
        return Scope(scope.m, v, w), (before, "))")

    def _leaf(self, node: Compare | In | Between | IsNull, scope: Scope) -> str:
        name = node.name
        if scope.v is None and of_version(name, scope):
            if name.field.name == "stage" and not name.scope:
                return self._about(node, self._stages(scope))
            inner, around = self._within(name.scope or "latest", scope)
            return self._about(node, replace(self.values(Name(name.field, name.key), inner), around=around))
        return self._about(node, self.values(name, scope))

    def _about(self, node: Compare | In | Between | IsNull, values: Values) -> str:
        if isinstance(node, IsNull):
            return values.there if node.negated else f"(NOT {values.there})"
        name = node.name
        if isinstance(node, Compare):
            test = self._test(name, values, NEGATED.get(node.operator, node.operator), node.value)
            negated = node.operator in NEGATED
        elif isinstance(node, In):
            test, negated = self._among(name, values, node.values), node.negated
        else:
            ends = (self._test(name, values, ">=", node.low), self._test(name, values, "<=", node.high))
            test, negated = " AND ".join(ends), node.negated
        if negated:
            return f"({values.there} AND NOT coalesce({values.some(test)}, 0))"
        return values.some(test)

    # -- values ----------------------------------------------------------------------------

    def values(self, name: Name, scope: Scope) -> Values:
        """The values of a field, of a version where the field is a version's."""
        field, about_version = name.field, of_version(name, scope)
        if (column := _COLUMNS.get((Of.VERSION if about_version else Of.MODEL, field.name))) is not None:
            found = self._placed(column, scope)
            return Values(found, folded=f"{scope.m}.folded" if column == "m.name" else None)
        x = self.alias("x")
        match field.name:
            case "tags" if about_version:
                return self._keyed(x, "version_tags", f"{x}.row = {scope.v}.row", name)
            case "tags":
                return self._keyed(x, "model_tags", f"{x}.row = {scope.m}.row", name)
            case "metrics":
                where = f"{x}.version = {scope.w}.no AND {x}.key = {self.bound(name.key)}"
                return Values(f"{x}.value", f"FROM version_metrics {x} WHERE {where}")
            case "params":
                return self._keyed(x, "version_params", f"{x}.version = {scope.w}.no", name)
            case "owner":
                return Values(f"{x}.value", f"FROM model_owners {x} WHERE {x}.row = {scope.m}.row")
            case "alias":
                mine = f" AND {x}.number = {scope.w}.number" if about_version else ""
                return Values(f"{x}.value", f"FROM model_aliases {x} WHERE {x}.row = {scope.m}.row{mine}")
            case "environment":
                return self._environments(x, scope, about_version)
            case "risk_class":
                return Values(
                    f"(SELECT {x}.tier FROM risks {x} WHERE {x}.model = {scope.m}.model AND {self.holds(x)})"
                )
            case "created":
                return Values(f"(SELECT {x}.created FROM models {x} WHERE {x}.no = {scope.m}.model)")
            case "versions":
                return Values(
                    f"(SELECT count(*) FROM version_states {x} WHERE {x}.model = {scope.m}.model"
                    f" AND {self.holds(x)} AND NOT {x}.deleted)"
                )
        measure, days = measure_of(field.name)
        snapshot = self.bound(self.snapshots[days])
        return Values(
            f"(SELECT {x}.{measure} FROM figures {x} WHERE {x}.snapshot = {snapshot} AND {x}.model = {scope.m}.id)"
        )

    def sorted_by(self, name: Name, *, descending: bool, scope: Scope) -> str:
        """One value of a field to sort by: of several, the one that comes first in that direction."""
        if scope.v is None and of_version(name, scope):
            if name.field.name == "stage" and not name.scope:
                return _first(self._stages(scope), descending)
            v, w, latest = self.alias("v"), self.alias("w"), self.alias("l")
            value = self.sorted_by(
                Name(name.field, name.key), descending=descending, scope=Scope(scope.m, v, w)
            )
            if name.scope == "any":
                return (
                    f"(SELECT {'max' if descending else 'min'}({value}) FROM version_states {v}"
                    f" CROSS JOIN versions {w} ON {w}.no = {v}.version"
                    f" WHERE {v}.model = {scope.m}.model AND {self.holds(v)} AND NOT {v}.deleted)"
                )
            # The newest living version has a state; it is only looked up where the value is in it.
            state = f" CROSS JOIN version_states {v} ON {v}.version = {w}.no AND {self.holds(v)}"
            return (
                f"(SELECT {value} FROM latest {latest} CROSS JOIN versions {w} ON {w}.no = {latest}.version"
                f"{state if f'{v}.' in value else ''}"
                f" WHERE {latest}.model = {scope.m}.model AND {self.holds(latest)})"
            )
        values = self.values(name, scope)
        if name.field.name in _LONG:
            cut = f"substr({values.value}, 1, {SORTED_BY})"
            value = f"CASE typeof({values.value}) WHEN 'text' THEN {cut} ELSE {values.value} END"
            values = replace(values, value=value)
        return _first(values, descending)

    def _placed(self, column: str, scope: Scope) -> str:
        relation, _, rest = column.partition(".")
        return f"{getattr(scope, relation)}.{rest}"

    def _keyed(self, x: str, table: str, where: str, name: Name) -> Values:
        key = self.bound(name.key)
        return Values(f"{x}.value", f"FROM {table} {x} WHERE {where} AND {x}.key = {key}", f"{x}.kind")

    def _stages(self, scope: Scope) -> Values:
        """Without a prefix, a model's stages are those of all its living versions."""
        v = self.alias("v")
        where = f"{v}.model = {scope.m}.model AND {self.holds(v)} AND NOT {v}.deleted"
        return Values(f"{v}.stage", f"FROM version_states {v} WHERE {where}")

    def _environments(self, x: str, scope: Scope, about_version: bool) -> Values:
        where = f"{x}.tenant = :t AND {self.holds(x)}"
        if about_version:
            source = f"FROM deployments {x} WHERE {where} AND {x}.version = {scope.w}.id"
        else:
            w = self.alias("w")
            source = (
                f"FROM versions {w} CROSS JOIN deployments {x} ON {x}.version = {w}.id AND {where}"
                f" WHERE {w}.model = {scope.m}.model"
            )
        return Values(f"{x}.environment", source)

    # -- tests -----------------------------------------------------------------------------

    def _test(self, name: Name, values: Values, operator: str, literal: Literal) -> str:
        value = values.value
        match operator:
            case "LIKE":
                return _typed(values, "t", self._fits(value, str(literal)))
            case "ILIKE":
                return _typed(values, "t", self._fits_folded(values, str(literal)))
        if name.field.type is Type.TIME:
            return self._at(value, operator, literal)
        test = f"{value} {operator} {self.bound(bindable(literal, name))}"
        if values.kind is None:
            return test
        kinds = kind_of(literal)
        if kinds == "t" and _DAY.fullmatch(str(literal)):
            return f"{values.kind} IN ('t', 'd') AND {test}"
        return _typed(values, kinds, test)

    def _fits(self, value: str, pattern: str) -> str:
        begins = prefix(pattern)
        test = f"fits({value}, {self.bound(pattern)})"
        return f"{between_prefix(self, value, begins)} AND {test}" if begins else test

    def _fits_folded(self, values: Values, pattern: str) -> str:
        if values.folded is None:
            return f"fits_folded({values.value}, {self.bound(pattern)})"
        return f"fits({values.folded}, {self.bound(folded(pattern))})"

    def _at(self, value: str, operator: str, literal: Literal) -> str:
        """A comparison of times, where a day is all of it."""
        first, after = (self.bound(edge) for edge in stretch(literal))
        match operator:
            case "=":
                return f"{value} >= {first} AND {value} < {after}"
            case "<" | ">=":
                return f"{value} {operator} {first}"
            case "<=":
                return f"{value} < {after}"
            case _:
                return f"{value} >= {after}"

    def _among(self, name: Name, values: Values, several: Sequence[Literal]) -> str:
        """That a value is one of a list, a list for every type."""
        if name.field.type is Type.TIME:
            return joined("OR", [self._test(name, values, "=", literal) for literal in several])
        found = []
        for kind in sorted({kind_of(literal) for literal in several}):
            mine = [literal for literal in several if kind_of(literal) == kind]
            listed = ", ".join(self.bound(bindable(literal, name)) for literal in mine)
            found.append(_typed(values, kind, f"{values.value} IN ({listed})"))
        days = [literal for literal in several if isinstance(literal, str) and _DAY.fullmatch(literal)]
        if days and values.kind is not None:
            listed = ", ".join(self.bound(literal) for literal in days)
            found.append(_typed(values, "d", f"{values.value} IN ({listed})"))
        return joined("OR", found)

    def _words(self, text: str, scope: Scope) -> str:
        """That all words of a text occur in the model's name, description or card."""
        wanted = list(dict.fromkeys(words(text)))
        if not wanted:
            return "FALSE"
        doc = self.alias("d")
        tests = []
        for word in wanted:
            term, posting = self.alias("k"), self.alias("q")
            tests.append(
                f"EXISTS (SELECT 1 FROM terms {term} CROSS JOIN postings {posting}"
                f" ON {posting}.term = {term}.no AND {posting}.doc = {doc}.no"
                f" WHERE {term}.tenant = :t AND {term}.term = {self.bound(word)})"
            )
        return (
            f"EXISTS (SELECT 1 FROM docs {doc} WHERE {doc}.model = {scope.m}.model AND {self.holds(doc)}"
            f" AND {joined('AND', tests)})"
        )


# -- small pieces ------------------------------------------------------------------------------


def of_version(name: Name, scope: Scope) -> bool:
    """Whether a name means a version's field, rather than its model's."""
    if name.scope == "model":
        return False
    if name.scope or scope.v is None:
        return bool(name.scope) or name.field.of is Of.VERSION
    # In a search of versions, and within `any(…)`, what both have is the version's.
    return name.field.name in VERSIONS_OWN


def _first(values: Values, descending: bool) -> str:
    if values.source is None:
        return values.value
    return f"(SELECT {'max' if descending else 'min'}({values.value}) {values.source})"


def between_prefix(compiler: Compiler, value: str, begins: str) -> str:
    """That a text begins with another one, as an index sorted by bytes can tell."""
    test = f"{value} >= {compiler.bound(begins)}"
    last = next((n for n in range(len(begins) - 1, -1, -1) if ord(begins[n]) < 0x10FFFF), None)
    if last is None:
        return test
    code = ord(begins[last]) + 1
    after = begins[:last] + chr(0xE000 if code == 0xD800 else code)
    return f"{test} AND {value} < {compiler.bound(after)}"


def kind_of(literal: Literal) -> str:
    """How the index marks a value of the literal's type."""
    match literal:
        case bool():
            return "b"
        case str():
            return "t"
        case date():
            return "d"
        case _:
            return "n"


def bindable(literal: Literal, name: Name | None = None) -> object:
    """A literal as the index keeps such values: names in Unicode's composed form."""
    if isinstance(literal, date):
        return literal.isoformat()
    if isinstance(literal, str) and name is not None and name.field.name == "name":
        return unicodedata.normalize("NFC", literal)
    return literal


def _typed(values: Values, kind: str, test: str) -> str:
    return test if values.kind is None else f"{values.kind} = '{kind}' AND {test}"


def joined(word: str, parts: Sequence[str]) -> str:
    """Parts with AND or OR between, as a balanced tree: SQLite bounds how deep an expression may be."""
    if not parts:
        return "TRUE" if word == "AND" else "FALSE"
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({joined(word, parts[:half])} {word} {joined(word, parts[half:])})"


def days_in(names: Sequence[Name]) -> list[int]:
    """For how many last days a search needs figures."""
    return sorted({measure_of(n.field.name)[1] for n in names if measured(n.field.name) is not None})
