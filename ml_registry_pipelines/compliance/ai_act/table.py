"""The decision table as it is shipped: facts, rules, tiers, duties and dates of one version of the legal text.

The content is data, in `texts/`; here it is read and refused when it does not hold together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ml_registry_pipelines.compliance.ai_act.logic import Formula, Names, atoms, compiled

TEXTS = Path(__file__).parent / "texts"


class Tier(Enum):
    """The classes in the order in which they are shown, the worst first."""

    PROHIBITED = "prohibited"
    HIGH_RISK = "high_risk"
    UNDETERMINED = "undetermined"
    NOT_HIGH_RISK_DEROGATED = "not_high_risk_derogated"
    TRANSPARENCY = "transparency"
    MINIMAL = "minimal"
    OUT_OF_SCOPE = "out_of_scope"

    @property
    def rank(self) -> int:
        """Higher is worse."""
        return -list(Tier).index(self)


class FactKind(Enum):
    FLAG = "flag"
    SET = "set"
    NUMBER = "number"
    DATE = "date"


@dataclass(frozen=True)
class Fact:
    """One thing that is asked. `effect` raises: a yes, or one more member, never lowers the class."""

    name: str
    kind: FactKind
    article: str
    effect: str
    ask: str
    members: Mapping[str, str]
    amended: bool = False


@dataclass(frozen=True)
class Rule:
    """One row of the decision table. A rule without a condition follows from the others."""

    id: str
    outcome: str
    article: str
    says: str
    condition: Formula | None
    applies_from: date | None
    amended: bool


@dataclass(frozen=True)
class Reading:
    """One reading of a date on which readers of the text disagree."""

    date: date
    says: str


@dataclass(frozen=True)
class DutyRule:
    """A duty, whom it binds, when it applies, and what shows in this system that it is met."""

    id: str
    article: str
    role: str
    title: str
    condition: Formula
    schedule: tuple[Step, ...]
    readings: tuple[Reading, ...]
    amended: bool
    evidence: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Step:
    """A date of a schedule, and when it is the one that counts. `old`: Article 111(2) is open to it."""

    condition: Formula
    date: date
    old: bool = False
    amended: bool = False


@dataclass(frozen=True)
class Amendment:
    regulation: str
    in_force: date
    official_text_available: bool
    note: str


@dataclass(frozen=True)
class Table:
    """One version of the decision table."""

    version: str
    digest: str
    base: str
    amended_by: tuple[Amendment, ...]
    dates: tuple[Mapping[str, Any], ...]
    pending: tuple[str, ...]
    facts: Mapping[str, Fact]
    tiers: Mapping[Tier, Formula]
    rules: tuple[Rule, ...]
    duties: tuple[DutyRule, ...]
    records: Mapping[str, str]
    public_authorities_by: date

    def duty(self, name: str) -> DutyRule:
        return next(duty for duty in self.duties if duty.id == name)


@cache
def current() -> Table:
    """The newest table that is shipped."""
    return read(max(TEXTS.glob("*.yaml")))


def read(path: Path) -> Table:
    """Read a table.

    Raises:
        ValueError: it does not hold together.
    """
    import yaml

    content = path.read_bytes()
    # Ten times as fast as the loader for what people write; a test holds the file to that one.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    given: dict[str, Any] = yaml.load(content, Loader=loader)  # noqa: S506 - plain values alone
    facts = {name: _fact(name, said) for name, said in given["facts"].items()}
    names = Names(
        {name: fact.kind.value for name, fact in facts.items()},
        {name: tuple(fact.members) for name, fact in facts.items()},
        {
            name: {section: tuple(members) for section, members in said.get("sections", {}).items()}
            for name, said in given["facts"].items()
        },
        {},
    )
    terms: dict[str, Formula] = {}
    names = Names(names.kinds, names.members, names.sections, terms)
    for name, said in given["terms"].items():
        terms[name] = compiled(said, names)
    schedules = {
        name: tuple(
            Step(compiled(s["if"], names), _day(s["date"]), s.get("old", False), s.get("amended", False))
            for s in steps
        )
        for name, steps in given["schedules"].items()
    }
    tiers = {Tier(name): compiled(said, names) for name, said in given["tiers"].items()}
    for tier, formula in tiers.items():
        named = list(atoms(formula))
        if len(named) > len(set(named)):
            raise ValueError(f"{path.name}: tier {tier.value} names a fact twice")
    return Table(
        version=f"{path.stem}.{given['revision']}",
        digest=sha256(content).hexdigest(),
        base=given["base"],
        amended_by=tuple(Amendment(**{**a, "in_force": _day(a["in_force"])}) for a in given["amended_by"]),
        dates=tuple(given["dates"]),
        pending=tuple(given["pending"]),
        facts=facts,
        tiers=dict(sorted(tiers.items(), key=lambda item: item[0].rank, reverse=True)),
        rules=tuple(_rule(said, names) for said in given["rules"]),
        duties=tuple(_duty(said, names, schedules) for said in given["duties"]),
        records=dict(given["records"]),
        public_authorities_by=_day(given["public_authorities_by"]),
    )


def _fact(name: str, said: Mapping[str, Any]) -> Fact:
    members = {str(member): str(text) for member, text in said.get("members", {}).items()}
    kind = FactKind(said["kind"])
    if (kind is FactKind.SET) is not bool(members):
        raise ValueError(f"fact {name}: a set has members, and nothing else has")
    return Fact(name, kind, said["article"], said["effect"], said["ask"], members, said.get("amended", False))


def _rule(said: Mapping[str, Any], names: Names) -> Rule:
    return Rule(
        said["id"],
        said["outcome"],
        said["article"],
        said["says"],
        compiled(said["if"], names) if "if" in said else None,
        _day(said["from"]) if "from" in said else None,
        said.get("amended", False),
    )


def _duty(said: Mapping[str, Any], names: Names, schedules: Mapping[str, tuple[Step, ...]]) -> DutyRule:
    since = said["from"]
    return DutyRule(
        said["id"],
        said["article"],
        said["role"],
        said["title"],
        compiled(said["if"], names),
        schedules[since] if since in schedules else (Step(True, _day(since)),),
        tuple(Reading(_day(r["date"]), r["says"]) for r in said.get("readings", ())),
        said.get("amended", False),
        tuple(said["evidence"]),
    )


def _day(given: object) -> date:
    return date.fromisoformat(str(given))
