"""Which conditions of a query an index finds the rows of, so that a search need not go through all.

Such a statement gives more rows than the condition keeps, and never fewer: the whole condition is
asked of each of them anyhow. Statements are joins, which are read no further than they are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ml_registry_pipelines.search.compiling import Compiler, between_prefix, bindable, kind_of
from ml_registry_pipelines.search.index.text import folded, prefix, runs, words
from ml_registry_pipelines.search.language.ast import (
    ORDERED,
    And,
    Between,
    Compare,
    In,
    Literal,
    Name,
    Node,
    OfVersion,
    Or,
    Query,
    Words,
)
from ml_registry_pipelines.search.language.fields import VERSIONS_OWN, Kind, Of

TRIGRAM = 3
"""Characters of the shortest run that the index of names finds."""
MOST_PARTS = 20
"""Statements that one is united of."""
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_OF_MODELS = {
    "name": "SELECT row FROM model_states WHERE tenant = :t AND name IN (?)",
    "id": "SELECT row FROM model_states WHERE tenant = :t AND id IN (?)",
    "owner": "SELECT row FROM model_owners WHERE tenant = :t AND value IN (?)",
    "alias": "SELECT row FROM model_aliases WHERE tenant = :t AND value IN (?)",
    "environment": (
        "SELECT s.row AS row FROM deployments y CROSS JOIN versions x ON x.tenant = :t AND x.id = y.version"
        " CROSS JOIN model_states s ON s.model = x.model WHERE y.tenant = :t AND y.environment IN (?)"
    ),
}
_OF_VERSIONS = {
    "stage": "SELECT row FROM version_states WHERE tenant = :t AND stage IN (?)",
    "id": (
        "SELECT x.row AS row FROM versions y CROSS JOIN version_states x ON x.version = y.no"
        " WHERE y.tenant = :t AND y.id IN (?)"
    ),
}


@dataclass(frozen=True)
class Rows:
    """A statement of rows: of `version_states`, or of `model_states`."""

    statement: str
    of_versions: bool

    def of(self, kind: Kind) -> str:
        """The rows of what a search finds."""
        if self.of_versions and kind is Kind.MODEL:
            return (
                f"SELECT s.row AS row FROM ({self.statement}) r CROSS JOIN version_states x ON x.row = r.row"
                " CROSS JOIN model_states s ON s.model = x.model"
            )
        if not self.of_versions and kind is Kind.VERSION:
            return (
                f"SELECT x.row AS row FROM ({self.statement}) r CROSS JOIN model_states s ON s.row = r.row"
                " CROSS JOIN version_states x ON x.model = s.model"
            )
        return self.statement


def drives(compiler: Compiler, query: Query) -> list[str]:
    """For each condition that all hits meet and an index finds, a statement of its rows."""
    within = compiler.kind is Kind.VERSION
    found = []
    for item in _all_of(query):
        parts = [_drive(compiler, part, within) for part in (item.items if isinstance(item, Or) else (item,))]
        known = [part.of(compiler.kind) for part in parts if part is not None]
        if len(known) == len(parts) <= MOST_PARTS:
            found.append(" UNION ALL ".join(known))
    return found


def _all_of(query: Query) -> list[Node]:
    """What holds of every hit."""
    if isinstance(query, And):
        return [one for item in query.items for one in _all_of(item)]
    return [] if query is None else [query]


def _drive(compiler: Compiler, node: Node, within: bool) -> Rows | None:
    """`within`: names without a prefix mean a version's field where it has one."""
    match node:
        case Compare(name, "=", literal):
            return _equal(compiler, name, [literal], within)
        case In(name, literals, False):
            return _equal(compiler, name, literals, within)
        case Compare(name, operator, literal) if operator in ORDERED and name.field.name == "metrics":
            return _measured(compiler, name, f"y.value {operator} {compiler.bound(literal)}")
        case Between(name, low, high, False) if name.field.name == "metrics":
            ends = f"y.value BETWEEN {compiler.bound(low)} AND {compiler.bound(high)}"
            return _measured(compiler, name, ends)
        case Compare(name, "LIKE" | "ILIKE" as operator, pattern) if name.field.name == "name":
            return _named(compiler, operator, str(pattern))
        case Words(_, text):
            return _worded(compiler, text)
        case OfVersion(_, item):
            return next((found for one in _all_of(item) if (found := _drive(compiler, one, True))), None)
    return None


def _is_versions(name: Name, within: bool) -> bool:
    """Whether a name means a version's field."""
    if name.scope:
        return name.scope != "model"
    return name.field.name in VERSIONS_OWN if within else name.field.of is Of.VERSION


def _equal(compiler: Compiler, name: Name, literals: Sequence[Literal], within: bool) -> Rows | None:
    """Rows of which a field equals one of the values, where an index is sorted by it."""
    field, of_versions = name.field.name, _is_versions(name, within)
    if field == "tags":
        return _tagged(compiler, name, literals, of_versions)
    listed = ", ".join(compiler.bound(bindable(literal, name)) for literal in literals)
    if field == "metrics":
        return _measured(compiler, name, f"y.value IN ({listed})")
    # A version's aliases and environments are among its model's.
    known = _OF_VERSIONS if of_versions and field in _OF_VERSIONS else _OF_MODELS
    statement = known.get(field)
    if statement is None:
        return None
    return Rows(statement.replace("(?)", f"({listed})"), known is _OF_VERSIONS)


def _tagged(compiler: Compiler, name: Name, literals: Sequence[Literal], of_versions: bool) -> Rows | None:
    if len(literals) > MOST_PARTS // 2:
        return None
    table, key = ("version_tags" if of_versions else "model_tags"), compiler.bound(name.key)
    parts = []
    for literal in literals:
        day = isinstance(literal, str) and _DAY.fullmatch(literal)
        parts += [
            f"SELECT row FROM {table} WHERE tenant = :t AND key = {key} AND kind = '{kind}'"
            f" AND value = {compiler.bound(bindable(literal))}"
            for kind in (["t", "d"] if day else [kind_of(literal)])
        ]
    return Rows(" UNION ALL ".join(parts), of_versions)


def _measured(compiler: Compiler, name: Name, test: str) -> Rows:
    return Rows(
        "SELECT x.row AS row FROM version_metrics y CROSS JOIN version_states x ON x.version = y.version"
        f" WHERE y.tenant = :t AND y.key = {compiler.bound(name.key)} AND {test}",
        True,
    )


def _named(compiler: Compiler, operator: str, pattern: str) -> Rows | None:
    if operator == "LIKE" and (begins := prefix(pattern)):
        test = between_prefix(compiler, "name", begins)
        return Rows(f"SELECT row FROM model_states WHERE tenant = :t AND {test}", False)
    parts = [run for run in runs(folded(pattern)) if len(run) >= TRIGRAM]
    if not parts:
        return None
    match = " AND ".join('"' + part.replace('"', '""') + '"' for part in parts)
    # What is bound is phrases of trigrams in quotes.
    return Rows(f"SELECT rowid AS row FROM names WHERE names MATCH {compiler.bound(match)}", False)


def _worded(compiler: Compiler, text: str) -> Rows | None:
    """Models whose words hold the rarest word of a text."""
    wanted = list(dict.fromkeys(words(text)))
    if not wanted:
        return None
    listed = ", ".join(compiler.bound(word) for word in wanted)
    return Rows(
        "SELECT s.row AS row FROM (SELECT no FROM terms WHERE tenant = :t AND term IN"
        f" ({listed}) ORDER BY docs LIMIT 1) k CROSS JOIN postings q ON q.term = k.no"
        " CROSS JOIN docs d ON d.no = q.doc AND d.since <= :s AND d.until > :s"
        " CROSS JOIN model_states s ON s.model = d.model AND s.since <= :s AND s.until > :s",
        False,
    )
