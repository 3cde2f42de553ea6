"""Which SQL a person may run: one SELECT over tables by name, judged by its syntax tree.

The kind of a statement is not enough: to DuckDB 2 `SHOW`, `SUMMARIZE` and a `WITH` that
holds an `INSERT` or a `COPY ... TO` are SELECTs too. So everything in the tree that could
name, write or run something has to be on a list, here or in `sql_functions.py`. What is left
is run by `sandbox.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.outcomes import LakeError
from ml_registry_pipelines.lake.sql_functions import ALLOWED, TABLE_FUNCTIONS

if TYPE_CHECKING:
    import duckdb

LONGEST = 100_000
"""Characters of a statement."""

_NODES = {
    *("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"),
    *("BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "COLUMN_DATA"),
    *("ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"),
    *("ORDER_DEFAULT", "ASCENDING", "DESCENDING"),
}
"""Types of the tree's parts that are neither expressions nor types of values."""
_EXPRESSIONS = {
    *(
        "BETWEEN",
        "CASE",
        "CAST",
        "COLLATE",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
    ),
    *("LAMBDA", "OPERATOR", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "TYPE", "WINDOW"),
}
"""Classes of expressions."""
_SAID = {
    "SHOW_REF": "SHOW, DESCRIBE and SUMMARIZE are",
    "COPY_QUERY_NODE": "COPY is",
    "INSERT_QUERY_NODE": "INSERT is",
    "UPDATE_QUERY_NODE": "UPDATE is",
    "DELETE_QUERY_NODE": "DELETE is",
    "MERGE_QUERY_NODE": "MERGE is",
}

_KINDS = {"MULTI": "PIVOT without IN", "LOAD": "INSTALL or LOAD"}
"""What a person typed, where DuckDB's name for the kind of statement is another."""


class SqlError(LakeError):
    """A query was refused, or failed; the text is for the person who typed it."""


@dataclass(frozen=True)
class Names:
    """Names that a statement reads, and those of its own common table expressions, in lower case."""

    read: frozenset[str]
    own: frozenset[str]


def names_of(sql: str, connection: duckdb.DuckDBPyConnection) -> Names:
    """The names in a statement that is allowed.

    Nothing is run or bound: no file is touched even to find out whether it exists.

    Raises:
        SqlError: the text is not exactly one SELECT, or holds something that is not allowed.
    """
    read: set[str] = set()
    own: set[str] = set()
    for part in _parts(_tree(sql, connection)):
        kind = part.get("type")
        if "class" in part:
            _check_expression(part)
        elif isinstance(kind, str):
            if kind not in _NODES:
                raise SqlError(f"{_SAID.get(kind, f'{kind} is')} not allowed here; write one SELECT")
            if kind == "BASE_TABLE":
                read.add(_table_name(part))
            elif kind == "TABLE_FUNCTION":
                _check_table_function(part)
        own.update(str(entry["key"]).lower() for entry in part.get("cte_map", {}).get("map", []))
    return Names(frozenset(read), frozenset(own))


def _tree(sql: str, connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    import duckdb

    if len(sql) > LONGEST:
        raise SqlError(f"the query is longer than {LONGEST:,} characters; shorten it")
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            found = "nothing was" if not statements else f"{len(statements)} statements were"
            raise SqlError(f"one SELECT is expected, and {found} given")
        kind = statements[0].type.name
        if kind != "SELECT":
            raise SqlError(f"{_KINDS.get(kind, kind)} is not allowed here; write one SELECT")
        ((text,),) = connection.execute(
            "SELECT json_serialize_sql($1, skip_null := true, skip_empty := true)", [sql]
        ).fetchall()
        tree: dict[str, Any] = json.loads(text)
    except duckdb.Error as failure:
        raise SqlError(f"the query cannot be read: {plain(failure)}") from failure
    except RecursionError:
        raise SqlError("the query is nested too deeply; simplify it") from None
    if tree.get("error", True):
        raise SqlError(f"the query cannot be read: {tree.get('error_message', 'it has no syntax tree')}")
    return tree


def _parts(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    left: list[Any] = [tree]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)


def _check_expression(part: dict[str, Any]) -> None:
    kind = part["class"]
    if kind == "PARAMETER":
        raise SqlError("the query has a parameter, and none are given; write the value itself")
    if kind not in _EXPRESSIONS:
        raise SqlError(f"{kind} is not allowed here; write one SELECT")
    if kind in ("FUNCTION", "WINDOW"):
        name = str(part.get("function_name", "?")).lower()
        if name not in ALLOWED:
            raise SqlError(f"the function {name} is not known, or not allowed here")


def _check_table_function(part: dict[str, Any]) -> None:
    function = part.get("function", {})
    name = str(function.get("function_name", "?")).lower()
    if name not in TABLE_FUNCTIONS:
        raise SqlError(f"the table function {name} is not allowed here; tables are read by name")


def _table_name(part: dict[str, Any]) -> str:
    path = [str(step).lower() for step in part.get("qualified_name", {}).get("path", [])]
    if len(path) == 2 and path[0] == "main":
        path = path[1:]
    if len(path) != 1:
        raise SqlError(
            f"{'.'.join(path) or 'a table without a name'} is outside the lake; tables are read by name alone"
        )
    return path[0]


def plain(failure: Exception) -> str:
    """What DuckDB said, as one line without its picture of the place."""
    text = str(failure).split("\n\nLINE ", 1)[0]
    text = " ".join(line.strip() for line in text.splitlines() if line.strip())
    kind, separator, rest = text.partition("Error: ")
    return (rest if separator and len(kind) < 40 else text).rstrip(". ")
