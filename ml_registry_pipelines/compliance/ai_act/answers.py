"""What is known about a system: one answer per fact, or none, which means that it is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from ml_registry_pipelines.compliance.ai_act.table import Fact, FactKind, Table
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.errors import InvalidInput, shown

UNKNOWN = "unknown"
NONE = "none"
Answer = bool | frozenset[str] | Decimal | date | None
"""A flag, the members of a set (with `unknown`: of the others it is not known), a number, a date, or None for
a date that has not come: a system that is not on the market, a design that was never changed."""
_TRUTHS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Answers:
    """Answers by fact. A fact without one is unknown, and never counts as false."""

    given: Mapping[str, Answer] = field(default_factory=dict)

    def value(self, atom: str, today: date) -> bool | None:
        """What an atom of a condition is; None where that is not known."""
        for sign in (":", ">", "<"):
            name, found, operand = atom.partition(sign)
            if found:
                break
        else:
            flag = self.given.get(atom)
            return flag if isinstance(flag, bool) else None
        if name == "since":
            return date.fromisoformat(operand) <= today
        if name not in self.given:
            return None
        answer = self.given[name]
        match sign, answer:
            case ":", frozenset():
                if operand in answer:
                    return True
                return None if UNKNOWN in answer else False
            case ">", Decimal():
                return answer > Decimal(operand)
            case "<", None:
                return False
            case "<", date():
                return answer < date.fromisoformat(operand)
        return None

    def recorded(self) -> dict[str, Any]:
        """The answers as the log keeps them, and a form writes them."""
        return {name: _plain(answer) for name, answer in sorted(self.given.items())}

    @property
    def digest(self) -> str:
        """SHA-256 of the answers."""
        return digest(self.recorded())

    def with_(self, **more: Answer) -> Answers:
        """These answers, some of them replaced."""
        return Answers({**self.given, **more})


def answers_of(table: Table, given: Mapping[str, object], *, where: str = "the answers") -> Answers:
    """Check answers. `unknown`, or a fact that is left out, is unknown.

    Raises:
        InvalidInput: a fact that is not asked, or an answer that is none; with the nearest name.
    """
    found: dict[str, Answer] = {}
    for name, said in given.items():
        parsed = answer(table, name, said, where)
        if not isinstance(parsed, str):
            found[name] = parsed
    return Answers(found)


def answer(table: Table, name: str, said: object, where: str) -> Answer | str:
    """One checked answer, or `unknown`.

    Raises:
        InvalidInput: there is no such fact, or that is no answer to it.
    """
    fact = table.facts.get(name)
    if fact is None:
        raise InvalidInput(f"{where}: {shown(name)} is not asked{_nearest(name, table.facts)}")
    if said is None or said == UNKNOWN:
        return UNKNOWN
    match fact.kind:
        case FactKind.FLAG:
            return _flag(fact, said, where)
        case FactKind.SET:
            return _set(fact, said, where)
        case FactKind.NUMBER:
            return _number(fact, said, where)
        case FactKind.DATE:
            return _date(fact, said, where)


def _flag(fact: Fact, said: object, where: str) -> bool:
    found = said if isinstance(said, bool) else _TRUTHS.get(str(said).lower())
    if found is None:
        raise InvalidInput(f"{where}: {fact.name} is true, false or unknown, not {shown(str(said))}")
    return found


def _set(fact: Fact, said: object, where: str) -> frozenset[str]:
    if not isinstance(said, list | tuple | set | frozenset):
        raise InvalidInput(
            f"{where}: {fact.name} is a list such as [{next(iter(fact.members))}], [] for none of them, or unknown"
        )
    chosen = frozenset(str(member) for member in said)
    for member in sorted(chosen - {UNKNOWN}):
        if member not in fact.members:
            raise InvalidInput(
                f"{where}: {fact.name} has no member {shown(member)}{_nearest(member, fact.members)}; "
                f"it has {', '.join(fact.members)}"
            )
    return chosen


def _number(fact: Fact, said: object, where: str) -> Decimal:
    try:
        number = Decimal(str(said))
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(said, bool) or not number.is_finite() or number < 0 or abs(number.adjusted()) > 100:
        raise InvalidInput(
            f"{where}: {fact.name} is a number such as 3.1e24, or unknown, not {shown(str(said))}"
        )
    return number


def _date(fact: Fact, said: object, where: str) -> date | None:
    if said == NONE:
        return None
    try:
        return date.fromisoformat(str(said))
    except ValueError:
        raise InvalidInput(
            f"{where}: {fact.name} is a day such as 2026-08-02, none or unknown, not {shown(str(said))}"
        ) from None


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _plain(answer: Answer) -> object:
    match answer:
        case bool():
            return answer
        case frozenset():
            return sorted(answer)
        case Decimal():
            return str(answer.normalize())
        case date():
            return answer.isoformat()
        case _:
            return NONE
