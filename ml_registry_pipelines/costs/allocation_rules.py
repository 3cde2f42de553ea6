"""`AllocationRules`: who bears shared costs, as commands on the log of the operator's tenant.

A rule says which cost is shared (a fee of so much a month, lines of a bill, or what a provider bills beyond
what was logged), over which tenants, and by what: evenly, by their cost, tokens or requests, or by fixed
shares. It holds for whole months. Of two rules that cover a bill line the one with the higher priority has
it, then the one that was made first: no line is shared twice.

What rules come to in a month is in `allocation.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.names import checked_name, checked_text
from ml_registry_pipelines.registry.references import check_free, named
from ml_registry_pipelines.registry.states import ALLOCATION_RULE, State
from ml_registry_pipelines.registry.view import View

COSTS: tuple[str, ...] = ("fee", "bill_lines", "difference")
"""What is shared. `difference`: all that a provider bills in the month, without lines that other rules
share, less what was logged as its cost on the days that have a bill."""
OVER: tuple[str, ...] = ("evenly", "cost", "tokens", "requests", "fixed")
LONGEST_PATTERN = 300
MOST_PRIORITY = 1_000_000
_CURRENCY = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True)
class NewAllocation:
    """What is asked for when a rule is made.

    Args:
        cost: one of `COSTS`.
        over: one of `OVER`.
        amount, currency: of a fee, per month.
        provider: whose bill; a fee may name one, and is then shared by the traffic with it alone.
        sub_account, line_item, charge: of `bill_lines`, exact or with `*`; left out: any, and none.
        tenants: who bears it; none: everyone with traffic in the month.
        shares: of `fixed`: weights by tenant, of any sum.
        first_month, last_month: any day of the first and of the last month; None: since ever, still.
    """

    name: str
    cost: str
    over: str
    amount: Decimal | None = None
    currency: str | None = None
    provider: str | None = None
    sub_account: str | None = None
    line_item: str | None = None
    charge: str | None = None
    tenants: tuple[str, ...] = ()
    shares: Mapping[str, Decimal] = field(default_factory=dict)
    first_month: date | None = None
    last_month: date | None = None
    priority: int = 0
    note: str = ""

    def checked(self) -> NewAllocation:
        """The same, with months as their first days.

        Raises:
            InvalidInput: it contradicts itself, or lacks something.
        """
        _check_cost(self)
        _check_sharing(self)
        first, last = month_of(self.first_month), month_of(self.last_month)
        if first is not None and last is not None and first > last:
            raise InvalidInput(f"a rule from {first:%Y-%m} to {last:%Y-%m} never holds")
        if type(self.priority) is not int or abs(self.priority) > MOST_PRIORITY:
            raise InvalidInput(
                f"a priority is a whole number between -{MOST_PRIORITY:,} and {MOST_PRIORITY:,}"
            )
        return NewAllocation(
            **{
                **vars(self),
                "name": checked_name(self.name),
                "tenants": tuple(sorted(set(self.tenants))),
                "shares": {tenant: Decimal(share) for tenant, share in sorted(self.shares.items())},
                "first_month": first,
                "last_month": last,
                "note": checked_text(self.note, "note"),
            }
        )

    def holds_in(self, month: date) -> bool:
        """Whether it holds in the month with that first day."""
        return (self.first_month is None or self.first_month <= month) and (
            self.last_month is None or month <= self.last_month
        )

    def recorded(self) -> dict[str, Any]:
        """What stands in the event. Amounts and shares are text, to the last digit."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "amount": None if self.amount is None else f"{self.amount:f}",
            "tenants": list(self.tenants),
            "shares": {tenant: f"{share:f}" for tenant, share in self.shares.items()},
            "first_month": None if self.first_month is None else self.first_month.isoformat(),
            "last_month": None if self.last_month is None else self.last_month.isoformat(),
        }

    def says(self) -> str:
        """What is shared, in words."""
        whose = f" of {self.provider}" if self.provider else ""
        match self.cost:
            case "fee":
                return f"{self.amount} {self.currency} a month"
            case "difference":
                return f"what {self.provider} bills beyond what was logged"
            case _:
                wanted = {"sub_account": self.sub_account, "line_item": self.line_item, "charge": self.charge}
                named_ = " ".join(
                    f"{key}={shown(value)}" for key, value in wanted.items() if value is not None
                )
                return f"bill lines{whose}{' with ' if named_ else ''}{named_}"


_PLAIN = ("cost", "over", "currency", "provider", "sub_account", "line_item", "charge", "priority")


@dataclass(frozen=True)
class Allocation:
    """One rule in one state."""

    id: str
    rule: NewAllocation
    removed: bool
    sequence: int
    recorded_at: datetime
    actor: str

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def status(self) -> str:
        return "removed" if self.removed else "active"


class AllocationRules(Desk):
    """Allocation rules of an operator, for one actor. Every command is one atomic commit."""

    def add(self, rule: NewAllocation, *, idempotency_key: str | None = None) -> Allocation:
        """Make a rule.

        Raises:
            NameTaken: another rule has the name.
            InvalidInput: it contradicts itself, or lacks something.
        """
        given = rule.checked()

        def decide(view: View) -> list[Change]:
            check_free(view, ALLOCATION_RULE, given.name)
            _check_shared_once(view, given)
            return [Change(ALLOCATION_RULE, new_id(), _state(given))]

        asked = {"name": given.name, "note": given.note, **given.recorded()}
        done = self.do("add_allocation_rule", ALLOCATION_RULE, asked, decide, idempotency_key=idempotency_key)
        return allocation_of(state_of(done))

    def end(self, name: str, *, last_month: date, idempotency_key: str | None = None) -> Allocation:
        """Let a rule hold up to a month, itself included. Statements that were issued stay; corrections follow.

        Raises:
            NotFound: there is no such rule.
            IllegalTransition: it ended before, or begins later.
        """
        last = last_month.replace(day=1)

        def decide(view: View) -> list[Change]:
            old = living_allocation(view, name)
            if old.rule.last_month is not None and old.rule.last_month <= last:
                raise IllegalTransition(
                    f"rule {shown(old.name)} ends with {old.rule.last_month:%Y-%m} already"
                )
            if old.rule.first_month is not None and last < old.rule.first_month:
                raise IllegalTransition(
                    f"rule {shown(old.name)} begins with {old.rule.first_month:%Y-%m} and cannot end with "
                    f"{last:%Y-%m}; remove it if it was never right"
                )
            state = _state(old.rule)
            state["metadata"] = {**state["metadata"], "last_month": last.isoformat()}
            return [Change(ALLOCATION_RULE, old.id, state)]

        asked = {"of": name, "last_month": last.isoformat()}
        done = self.do("end_allocation_rule", ALLOCATION_RULE, asked, decide, idempotency_key=idempotency_key)
        return allocation_of(state_of(done))

    def remove(self, name: str, *, idempotency_key: str | None = None) -> Allocation:
        """Take back a rule that was never right; the log keeps that it was there.

        Raises:
            NotFound: there is no such rule.
        """

        def decide(view: View) -> list[Change]:
            old = living_allocation(view, name)
            return [Change(ALLOCATION_RULE, old.id, {**_state(old.rule), "deleted": True})]

        done = self.do(
            "remove_allocation_rule", ALLOCATION_RULE, {"of": name}, decide, idempotency_key=idempotency_key
        )
        return allocation_of(state_of(done))

    def rules(self, *, as_of: datetime | None = None) -> list[Allocation]:
        """The rules that are not removed, in the order in which they take bill lines."""
        return allocations_in(self.view(as_of))


def allocations_in(view: View) -> list[Allocation]:
    """The rules of a view that are not removed, those first that take a line before the others."""
    states = view.select(
        "allocation.rules",
        "things",
        "type = $type AND NOT deleted",
        order="from_sequence",
        parameters={"type": ALLOCATION_RULE},
    )
    first = {state.id: view.history("things", state.id)[0].sequence for state in states}
    return sorted((allocation_of(state) for state in states), key=lambda a: (-a.rule.priority, first[a.id]))


def living_allocation(view: View, name: str) -> Allocation:
    """The rule with that name, unless it is removed.

    Raises:
        NotFound: there is none.
    """
    found = [state for state in named(view, ALLOCATION_RULE, name) if not state.deleted]
    if not found:
        raise NotFound("allocation rule", name, view.tenant)
    return allocation_of(found[0])


def allocation_of(state: State) -> Allocation:
    """The state of a rule as a value."""
    held = dict(state.data["metadata"])
    rule = NewAllocation(
        name=state.name,
        note=state.data.get("description", ""),
        amount=None if held["amount"] is None else Decimal(held["amount"]),
        tenants=tuple(held["tenants"]),
        shares={tenant: Decimal(share) for tenant, share in held["shares"].items()},
        first_month=_date(held["first_month"]),
        last_month=_date(held["last_month"]),
        **{name: held[name] for name in _PLAIN},
    )
    return Allocation(state.id, rule, state.deleted, state.sequence, state.recorded_at, state.actor)


def month_of(day: date | None) -> date | None:
    """The first day of a day's month."""
    return None if day is None else day.replace(day=1)


def parse_amount(text: str, what: str) -> Decimal:
    """A number as a person writes it.

    Raises:
        InvalidInput: it is none.
    """
    try:
        found = Decimal(text.strip())
    except InvalidOperation:
        raise InvalidInput(f"{what} {shown(text, 40)} is no number") from None
    if not found.is_finite():
        raise InvalidInput(f"{what} {shown(text, 40)} is no finite number")
    return found


def _check_cost(given: NewAllocation) -> None:
    if given.cost not in COSTS:
        raise InvalidInput(f"{shown(given.cost, 40)} is no shared cost; it is one of {', '.join(COSTS)}")
    patterns = {name: getattr(given, name) for name in ("sub_account", "line_item", "charge")}
    if given.cost == "fee":
        _check_fee(given)
    elif given.amount is not None or given.currency is not None:
        raise InvalidInput("only a fee has an amount and a currency; those of a bill are on the bill")
    if given.cost == "difference" and given.provider is None:
        raise InvalidInput("the difference between bill and log is that of one provider; name it")
    if given.cost != "bill_lines" and any(value is not None for value in patterns.values()):
        raise InvalidInput("sub_account, line_item and charge choose bill lines; another cost has none")
    if given.cost == "bill_lines" and not any(patterns.values()):
        raise InvalidInput(
            "a rule that covers all lines of a bill would share what tenants are charged for already; "
            "choose some by sub_account, line_item or charge, or share the difference"
        )
    for name, value in {**patterns, "provider": given.provider}.items():
        if value is not None and (not value or len(value) > LONGEST_PATTERN or not value.isprintable()):
            raise InvalidInput(
                f"{name} {shown(value, 60)} has to have 1 to {LONGEST_PATTERN} characters that can be shown"
            )


def _check_fee(given: NewAllocation) -> None:
    if given.amount is None or given.currency is None:
        raise InvalidInput("a fee needs an amount and a currency")
    places = given.amount.as_tuple().exponent
    if not isinstance(places, int) or abs(given.amount) >= Decimal(10) ** 20:
        raise InvalidInput(f"a fee of {given.amount} cannot be recorded")
    if places < -12:
        raise InvalidInput(f"a fee of {given.amount} has more than 12 decimals; round it")
    if not _CURRENCY.fullmatch(given.currency):
        raise InvalidInput(f"currency {shown(given.currency, 20)} is no ISO 4217 code, such as USD")


def _check_shared_once(view: View, given: NewAllocation) -> None:
    """Raises `InvalidInput` where another rule shares the same difference in a month of this one."""
    for other in allocations_in(view) if given.cost == "difference" else ():
        rule = other.rule
        if rule.cost != "difference" or rule.provider != given.provider:
            continue
        apart = (given.last_month or date.max) < (rule.first_month or date.min) or (
            rule.last_month or date.max
        ) < (given.first_month or date.min)
        if not apart:
            raise InvalidInput(
                f"rule {shown(rule.name)} shares the difference of {rule.provider} in some of these months already; "
                "end one of the two before the other begins"
            )


def _check_sharing(given: NewAllocation) -> None:
    if given.over not in OVER:
        raise InvalidInput(
            f"costs cannot be shared by {shown(given.over, 40)}; it is one of {', '.join(OVER)}"
        )
    if (given.over == "fixed") != bool(given.shares):
        raise InvalidInput("fixed shares, and they alone, need the share of each tenant")
    if given.shares and given.tenants:
        raise InvalidInput("fixed shares name the tenants already; leave `tenants` out")
    for tenant, share in given.shares.items():
        if not Decimal(share).is_finite() or share < 0 or share >= Decimal(10) ** 12:
            raise InvalidInput(f"the share of {shown(tenant, 60)} is {share}; it has to be 0 or more")
    if given.shares and not any(given.shares.values()):
        raise InvalidInput("one share at least has to be above 0")
    for tenant in (*given.tenants, *given.shares):
        if not tenant or not tenant.isprintable():
            raise InvalidInput(f"{shown(tenant, 60)} is no tenant")


def _state(rule: NewAllocation) -> dict[str, Any]:
    return {
        "name": rule.name,
        "description": rule.note,
        "status": "active",
        "deleted": False,
        "metadata": rule.recorded(),
    }


def _date(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)
