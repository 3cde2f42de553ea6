"""`Attribution`: the dated rules that join log records to deployments, as commands on the log.

A rule assigns requests of its tenant to one deployment, from `valid_from` up to, not including,
`valid_to`, by the start of the request. It has conditions on what the log says: each an exact
string or a pattern with `*`, compared as it stands; a condition is never met by a record that
says nothing. Where several rules cover a request, the one with the highest priority wins, then
the one with more exact conditions, more patterns, more characters in its patterns. Two rules
that are equal in all that, hold at one time and could cover one request must name one
deployment, or the second is refused.

What rules come to over time is in `compiling.py`, what a request gets in `lake/attributing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from ml_registry_pipelines.lake.attributing import precision
from ml_registry_pipelines.lake.tables.attribution import CONDITIONS
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import (
    IllegalTransition,
    InvalidInput,
    NameTaken,
    NotFound,
    RegistryError,
    shown,
)
from ml_registry_pipelines.registry.events import new_id, now
from ml_registry_pipelines.registry.names import checked_name, checked_text
from ml_registry_pipelines.registry.references import living, named
from ml_registry_pipelines.registry.states import ATTRIBUTION_RULE, DEPLOYMENT, State
from ml_registry_pipelines.registry.view import View

T = TypeVar("T")

LONGEST_CONDITION = 300
MOST_PRIORITY = 1_000_000


class RuleConflict(RegistryError):
    """Two rules, equally precise, would assign the same requests to two deployments."""

    def __init__(self, given: Rule, other: Rule) -> None:
        both = " and ".join(f"{shown(r.name)} ({r.says()}, to {shown(r.deployment)})" for r in (given, other))
        super().__init__(
            f"rules {both} are equally precise and could cover the same request at the same time; "
            "give one of them a further condition or a priority, or let one end before the other begins"
        )
        self.rules = (given.name, other.name)


@dataclass(frozen=True)
class Rule:
    """One rule in one state. `conditions` has those that are set; times None: since ever, still."""

    tenant: str
    id: str
    name: str
    deployment_id: str
    deployment: str
    conditions: Mapping[str, str]
    priority: int = 0
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    note: str = ""
    removed: bool = False
    sequence: int = 0
    recorded_at: datetime | None = None
    actor: str = ""

    @property
    def precedence(self) -> tuple[int, int, int, int]:
        """The greater one wins."""
        return (self.priority, *precision(self.conditions.values()))

    def holds_at(self, instant: datetime) -> bool:
        return (self.valid_from is None or self.valid_from <= instant) and (
            self.valid_to is None or instant < self.valid_to
        )

    def says(self) -> str:
        """The conditions in words."""
        return " ".join(
            f"{name}={shown(self.conditions[name])}" for name in CONDITIONS if name in self.conditions
        )

    def contradicts(self, other: Rule) -> bool:
        """Whether both could cover one request, neither before the other, and assign it differently."""
        return (
            self.deployment_id != other.deployment_id
            and self.precedence == other.precedence
            and _before(self.valid_from, other.valid_to)
            and _before(other.valid_from, self.valid_to)
            and all(
                patterns_meet(wanted, other.conditions[name])
                for name, wanted in self.conditions.items()
                if name in other.conditions
            )
        )

    def recorded(self) -> dict[str, Any]:
        """The state as the log keeps it."""
        return {
            "name": self.name,
            "description": self.note,
            "status": "active",
            "deleted": self.removed,
            "metadata": {
                "deployment_id": self.deployment_id,
                "conditions": dict(self.conditions),
                "priority": self.priority,
                "valid_from": _text(self.valid_from),
                "valid_to": _text(self.valid_to),
            },
        }


@dataclass(frozen=True)
class NewRule:
    """What is asked for when a rule is made."""

    deployment: str
    conditions: Mapping[str, str | None]
    priority: int = 0
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    note: str = ""
    name: str | None = None

    def checked(self) -> NewRule:
        """The same, with times in UTC.

        Raises:
            InvalidInput: something of it cannot be recorded.
        """
        conditions = checked_conditions(self.conditions)
        start, end = _utc(self.valid_from, "valid_from"), _utc(self.valid_to, "valid_to")
        if start is not None and end is not None and start >= end:
            raise InvalidInput(f"a rule from {start.isoformat()} to {end.isoformat()} never holds")
        if type(self.priority) is not int or abs(self.priority) > MOST_PRIORITY:
            raise InvalidInput(
                f"a priority is a whole number between -{MOST_PRIORITY:,} and {MOST_PRIORITY:,}"
            )
        name = None if self.name is None else checked_name(self.name)
        note = checked_text(self.note, "note")
        return NewRule(self.deployment, conditions, self.priority, start, end, note, name)

    def asked(self) -> dict[str, Any]:
        """What stands in the event as the change."""
        return {
            "deployment": self.deployment,
            "conditions": dict(self.conditions),
            "priority": self.priority,
            "valid_from": _text(self.valid_from),
            "valid_to": _text(self.valid_to),
            "note": self.note,
            "name": self.name,
        }


@dataclass(frozen=True)
class _Unchanged:
    """What a field is that `change_rule` leaves as it is."""


UNCHANGED = _Unchanged()


@dataclass(frozen=True)
class RuleChange:
    """Other values for some fields of a rule; None clears a time, as does a condition's None."""

    deployment: str | _Unchanged = UNCHANGED
    conditions: Mapping[str, str | None] = field(default_factory=dict)
    priority: int | _Unchanged = UNCHANGED
    valid_from: datetime | _Unchanged | None = UNCHANGED
    valid_to: datetime | _Unchanged | None = UNCHANGED
    note: str | _Unchanged = UNCHANGED


class Attribution(Desk):
    """Attribution rules of one tenant, for one actor. Every command is one atomic commit."""

    def add_rule(self, rule: NewRule, *, idempotency_key: str | None = None) -> Rule:
        """Make a rule. Without a name it is called `rule-1`, `rule-2` ...

        Raises:
            RuleConflict: an equally precise rule would cover the same requests.
            NotFound: there is no such deployment.
            NameTaken: another rule has the name.
            InvalidInput: there is no condition, or something cannot be recorded.
        """
        given = rule.checked()

        def decide(view: View) -> list[Change]:
            return [self._kept(view, planned(view, given))]

        done = self.do(
            "add_attribution_rule",
            ATTRIBUTION_RULE,
            given.asked(),
            decide,
            idempotency_key=idempotency_key,
        )
        return rule_of(state_of(done), self.view())

    def change_rule(self, name: str, change: RuleChange, *, idempotency_key: str | None = None) -> Rule:
        """Correct a rule for all of its time. What is to be another from some day on: end it and add one.

        Raises:
            RuleConflict, NotFound, InvalidInput: as for `add_rule`.
        """
        asked = {
            key: _text(value) if isinstance(value, datetime) else value
            for key, value in vars(change).items()
            if value is not UNCHANGED and key != "conditions"
        }
        conditions = dict(change.conditions)

        def decide(view: View) -> list[Change]:
            old = rule_of(living_rule(view, name), view)
            new = NewRule(
                _or(change.deployment, old.deployment_id),
                {**old.conditions, **conditions},
                _or(change.priority, old.priority),
                _or(change.valid_from, old.valid_from),
                _or(change.valid_to, old.valid_to),
                _or(change.note, old.note),
                old.name,
            ).checked()
            return [self._kept(view, planned(view, new, identity=old.id))]

        done = self.do(
            "change_attribution_rule",
            ATTRIBUTION_RULE,
            {"of": name, "conditions": conditions, **asked},
            decide,
            idempotency_key=idempotency_key,
        )
        return rule_of(state_of(done), self.view())

    def end_rule(self, name: str, *, end: datetime | None = None, idempotency_key: str | None = None) -> Rule:
        """Let a rule hold up to, not including, `end`; by default now.

        Raises:
            IllegalTransition: it ended before that already, or would never have held.
        """
        until = _utc(end, "end")

        def decide(view: View) -> list[Change]:
            old = rule_of(living_rule(view, name), view)
            ends = until or now()
            if old.valid_to is not None and old.valid_to <= ends:
                raise IllegalTransition(f"rule {shown(old.name)} ended on {old.valid_to.isoformat()} already")
            if old.valid_from is not None and ends <= old.valid_from:
                raise IllegalTransition(
                    f"rule {shown(old.name)} holds from {old.valid_from.isoformat()} on and cannot end on "
                    f"{ends.isoformat()}; remove it if it was never right"
                )
            state = old.recorded()
            state["metadata"] = {**state["metadata"], "valid_to": _text(ends)}
            return [Change(ATTRIBUTION_RULE, old.id, state)]

        done = self.do(
            "end_attribution_rule",
            ATTRIBUTION_RULE,
            {"of": name, "end": _text(until)},
            decide,
            idempotency_key=idempotency_key,
        )
        return rule_of(state_of(done), self.view())

    def remove_rule(self, name: str, *, idempotency_key: str | None = None) -> Rule:
        """Take back a rule that was never right, for all of its time; the log keeps that it was there."""

        def decide(view: View) -> list[Change]:
            old = rule_of(living_rule(view, name), view)
            return [Change(ATTRIBUTION_RULE, old.id, {**old.recorded(), "deleted": True})]

        done = self.do(
            "remove_attribution_rule",
            ATTRIBUTION_RULE,
            {"of": name},
            decide,
            idempotency_key=idempotency_key,
        )
        return rule_of(state_of(done), self.view())

    def rules(self, *, as_of: datetime | None = None, valid_at: datetime | None = None) -> list[Rule]:
        """The rules that are not removed, by what they come after each other: the winning ones first.

        Args:
            as_of: as they had been recorded at this instant.
            valid_at: only those that hold at this instant.
        """
        found = rules_in(self.view(as_of))
        if valid_at is not None:
            found = [rule for rule in found if rule.holds_at(valid_at)]
        return found

    def _kept(self, view: View, rule: Rule) -> Change:
        if any(s.id != rule.id and not s.deleted for s in named(view, ATTRIBUTION_RULE, rule.name)):
            raise NameTaken("rule", rule.name, view.tenant)
        return Change(ATTRIBUTION_RULE, rule.id, rule.recorded())


def planned(view: View, given: NewRule, *, identity: str | None = None) -> Rule:
    """The rule that a checked request comes to, with no contradiction to the others.

    Raises:
        RuleConflict, NotFound: as for `Attribution.add_rule`.
    """
    deployment = living(view, DEPLOYMENT, given.deployment)
    conditions = {name: wanted for name, wanted in given.conditions.items() if wanted is not None}
    others = [rule for rule in rules_in(view) if rule.id != identity]
    rule = Rule(
        tenant=view.tenant,
        id=identity or new_id(),
        name=given.name or _next_name(view),
        deployment_id=deployment.id,
        deployment=deployment.name,
        conditions=conditions,
        priority=given.priority,
        valid_from=given.valid_from,
        valid_to=given.valid_to,
        note=given.note,
    )
    for other in others:
        if rule.contradicts(other):
            raise RuleConflict(rule, other)
    return rule


def rules_in(view: View) -> list[Rule]:
    """The rules of a tenant that are not removed, the winning ones first."""
    states = view.select(
        "attribution.rules",
        "things",
        "type = $type AND NOT deleted",
        order="from_sequence",
        parameters={"type": ATTRIBUTION_RULE},
    )
    names = {
        s.id: s.name
        for s in view.by_any("things", "id", sorted({s.data["metadata"]["deployment_id"] for s in states}))
    }
    rules = [_rule(state, names) for state in states]
    return sorted(rules, key=lambda rule: (*(-part for part in rule.precedence), rule.sequence))


def rule_of(state: State, view: View) -> Rule:
    """The state of a rule as a value."""
    deployment = view.by_id("things", state.data["metadata"]["deployment_id"])
    return _rule(state, {} if deployment is None else {deployment.id: deployment.name})


def living_rule(view: View, name: str) -> State:
    """The rule with that name or id, unless it is removed.

    Raises:
        NotFound: there is none.
    """
    found = [s for s in named(view, ATTRIBUTION_RULE, name) if not s.deleted]
    by_id = view.by_id("things", name)
    if by_id is not None and by_id.entity_type == ATTRIBUTION_RULE and not by_id.deleted:
        found.append(by_id)
    if not found:
        raise NotFound("attribution rule", name, view.tenant)
    return found[0]


def checked_conditions(given: Mapping[str, str | None]) -> dict[str, str | None]:
    """Conditions that can be recorded, without those that are None.

    Raises:
        InvalidInput: there is none, or one is about nothing that a log says, or no text.
    """
    if unknown := sorted(given.keys() - set(CONDITIONS)):
        raise InvalidInput(
            f"a rule has no condition on {', '.join(map(shown, unknown))}; it has them on {', '.join(CONDITIONS)}"
        )
    kept: dict[str, str | None] = {}
    for name in CONDITIONS:
        if (wanted := given.get(name)) is None:
            continue
        if not wanted or len(wanted) > LONGEST_CONDITION or not wanted.isprintable():
            raise InvalidInput(
                f"the condition on {name} is {shown(wanted, 60)}; it has 1 to {LONGEST_CONDITION} characters "
                "that can be shown"
            )
        kept[name] = wanted
    if not kept:
        raise InvalidInput(
            f"a rule without a condition would cover everything; give one on {', '.join(CONDITIONS)}"
        )
    return kept


def patterns_meet(one: str, other: str) -> bool:
    """Whether some string is meant by both; `*` stands for any characters, and for none."""
    if "*" not in one and "*" not in other:
        return one == other
    # meets[j]: whether what is left of `one` and `other[j:]` meet; from the ends, one character at a time.
    meets = [False] * len(other) + [True]
    for j in range(len(other) - 1, -1, -1):
        meets[j] = other[j] == "*" and meets[j + 1]
    for here in reversed(one):
        below = meets
        meets = [False] * len(other) + [here == "*" and below[-1]]
        for j in range(len(other) - 1, -1, -1):
            there = other[j]
            if here == "*" or there == "*":
                meets[j] = below[j] or meets[j + 1]
            else:
                meets[j] = here == there and below[j + 1]
    return meets[0]


def _rule(state: State, names: Mapping[str, str]) -> Rule:
    given = state.data["metadata"]
    return Rule(
        tenant=state.tenant,
        id=state.id,
        name=state.name,
        deployment_id=given["deployment_id"],
        deployment=names.get(given["deployment_id"], given["deployment_id"]),
        conditions=given["conditions"],
        priority=given["priority"],
        valid_from=_time(given["valid_from"]),
        valid_to=_time(given["valid_to"]),
        note=state.data.get("description", ""),
        removed=state.deleted,
        sequence=state.sequence,
        recorded_at=state.recorded_at,
        actor=state.actor,
    )


def _next_name(view: View) -> str:
    rows = view.query(
        "attribution.count",
        "things",
        "SELECT name FROM current WHERE type = $type",
        {"type": ATTRIBUTION_RULE},
    )
    taken: Sequence[str] = rows["name"].to_pylist()
    number = len(taken) + 1
    while f"rule-{number}" in taken:
        number += 1
    return f"rule-{number}"


def _or(given: T | _Unchanged, otherwise: T) -> T:
    return otherwise if isinstance(given, _Unchanged) else given


def _before(start: datetime | None, end: datetime | None) -> bool:
    return start is None or end is None or start < end


def _utc(moment: datetime | None, what: str) -> datetime | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidInput(f"{what} {moment.isoformat()} has no time zone; add one, such as +00:00")
    return moment.astimezone(UTC)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
