"""Conditions of the decision table: boolean formulas over facts, each of which may be unknown.

What is unknown is never taken as false. A formula in which every fact stands once is decided
exactly: whatever is left of it after the known facts are put in can still come out either way,
and each fact that is left can decide it (a read-once formula depends on all its variables).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation

Formula = bool | str | tuple[str, tuple["Formula", ...]]
"""A constant, an atom, or `and`, `or`, `not` over formulas."""


@dataclass(frozen=True)
class Names:
    """What a condition may speak of: kinds of facts, members and sections of sets, and terms."""

    kinds: Mapping[str, str]
    members: Mapping[str, tuple[str, ...]]
    sections: Mapping[str, Mapping[str, tuple[str, ...]]]
    terms: Mapping[str, Formula]


def compiled(text: str, names: Names) -> Formula:
    """The formula that a condition means.

    Raises:
        ValueError: it is none, or names what there is not.
    """
    try:
        tree = ast.parse(" ".join(text.split()), mode="eval").body
    except SyntaxError as wrong:
        raise ValueError(f"{text!r} is no condition: {wrong.msg}") from None
    return _compiled(tree, names)


def _compiled(node: ast.expr, names: Names) -> Formula:
    match node:
        case ast.BoolOp(op, values):
            word = "and" if isinstance(op, ast.And) else "or"
            return (word, tuple(_compiled(value, names) for value in values))
        case ast.UnaryOp(ast.Not(), operand):
            return ("not", (_compiled(operand, names),))
        case ast.Name(name) if name in names.terms:
            return names.terms[name]
        case ast.Name(name) if names.kinds.get(name) == "flag":
            return name
        case ast.Call(ast.Name(function), [ast.Name(fact), *rest], []):
            given = [str(r.value) for r in rest if isinstance(r, ast.Constant)]
            return _called(function, fact, given, names)
        case ast.Call(ast.Name("since"), [ast.Constant(day)], []):
            return f"since:{date.fromisoformat(str(day))}"
    raise ValueError(f"{ast.unparse(node)!r} is nothing that a condition can say")


def _called(function: str, fact: str, given: list[str], names: Names) -> Formula:
    members = names.members.get(fact, ())
    match function, given:
        case "some", [] if members:
            return ("or", tuple(f"{fact}:{member}" for member in members))
        case "has", [member] if member in members:
            return f"{fact}:{member}"
        case "section", [section] if section in names.sections.get(fact, {}):
            return ("or", tuple(f"{fact}:{member}" for member in names.sections[fact][section]))
        case "above", [number] if names.kinds.get(fact) == "number":
            try:
                return f"{fact}>{Decimal(number)}"
            except InvalidOperation:
                raise ValueError(f"{number!r} is no number") from None
        case "before", [day] if names.kinds.get(fact) == "date":
            return f"{fact}<{date.fromisoformat(day)}"
    raise ValueError(f"{function}({', '.join([fact, *given])}) is nothing that a condition can say")


def atoms(formula: Formula) -> Iterator[str]:
    """The atoms of a formula, as often as they stand in it."""
    if isinstance(formula, str):
        yield formula
    elif isinstance(formula, tuple):
        for part in formula[1]:
            yield from atoms(part)


def rest(formula: Formula, value: Callable[[str], bool | None]) -> Formula:
    """What is left of a formula once the atoms that have a value are put in: a constant, if they decide it."""
    if isinstance(formula, bool):
        return formula
    if isinstance(formula, str):
        known = value(formula)
        return formula if known is None else known
    word, parts = formula
    if word == "not":
        inner = rest(parts[0], value)
        return not inner if isinstance(inner, bool) else ("not", (inner,))
    decides = word == "or"
    left = []
    for part in parts:
        found = rest(part, value)
        if found is decides:
            return decides
        if not isinstance(found, bool):
            left.append(found)
    if not left:
        return not decides
    return left[0] if len(left) == 1 else (word, tuple(left))


def truth(formula: Formula, value: Callable[[str], bool | None]) -> bool | None:
    """True, False, or None for what the known atoms do not decide."""
    found = rest(formula, value)
    return found if isinstance(found, bool) else None
