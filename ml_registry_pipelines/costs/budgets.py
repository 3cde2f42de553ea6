"""`Budgets`: how much may be spent on what in a day, week or month, as commands on the log.

A budget belongs to a tenant and covers all its requests, or those that meet its conditions:
provider, model and application as the logs name them (`*` stands for anything), a model of
the registry, a tag of the requests. What was spent is never counted along; it is always read
from the ledger, in `budget_spend.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.periods import PeriodKind
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.names import checked_name, checked_text
from ml_registry_pipelines.registry.references import living, named
from ml_registry_pipelines.registry.states import MODEL, State, from_rows

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View

BUDGET = "budget"
CONDITIONS: tuple[str, ...] = ("provider", "model", "application", "registered_model", "tag")
"""What a budget may be limited to. `tag` is NAME=VALUE, as the logs' tags say it."""
LONGEST_CONDITION = 300
LARGEST = Decimal(10) ** 15
DECIMALS = 12
MOST_THRESHOLDS = 10
_CURRENCY = re.compile(r"[A-Z]{3}")
_AMOUNT = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?")


@dataclass(frozen=True)
class Budget:
    """One budget in one state. `alert_at`: shares of the amount; empty: those of the alert rules."""

    tenant: str
    id: str
    name: str
    amount: Decimal
    currency: str
    period: PeriodKind
    conditions: Mapping[str, str]
    model_id: str | None = None
    alert_at: tuple[Decimal, ...] = ()
    note: str = ""
    removed: bool = False
    sequence: int = 0
    recorded_at: datetime | None = None
    actor: str = ""

    @property
    def tag(self) -> tuple[str, str] | None:
        """Name and value of the tag that requests must have."""
        given = self.conditions.get("tag")
        return None if given is None else _tag(given)

    def covers(self) -> str:
        """The conditions in words."""
        said = [f"{name}={self.conditions[name]}" for name in CONDITIONS if name in self.conditions]
        return " ".join(said) or "everything"

    def recorded(self) -> dict[str, Any]:
        """The state as the log keeps it."""
        return {
            "name": self.name,
            "description": self.note,
            "status": "active",
            "deleted": self.removed,
            "metadata": {
                "amount": f"{self.amount:f}",
                "currency": self.currency,
                "period": self.period.value,
                "conditions": dict(self.conditions),
                "model_id": self.model_id,
                "alert_at": [f"{share:f}" for share in self.alert_at],
            },
        }


@dataclass(frozen=True)
class NewBudget:
    """What is asked for when a budget is set. Amounts and shares are exact: a Decimal, a whole number or text."""

    name: str
    amount: Decimal | int | str
    currency: str
    period: PeriodKind | str = PeriodKind.MONTH
    conditions: Mapping[str, str | None] = field(default_factory=dict)
    alert_at: Sequence[Decimal | int | str] = ()
    note: str = ""

    def checked(self) -> NewBudget:
        """The same in the types that it is kept in.

        Raises:
            InvalidInput: something of it is no budget.
        """
        name = checked_name(self.name, "name of a budget")
        amount = checked_amount(self.amount, f"the amount of budget {shown(name)}")
        if not _CURRENCY.fullmatch(self.currency):
            raise InvalidInput(
                f"the currency {shown(str(self.currency))} of budget {shown(name)} is no ISO 4217 code, such as USD"
            )
        kinds = {kind.value: kind for kind in PeriodKind}
        period = self.period if isinstance(self.period, PeriodKind) else kinds.get(str(self.period))
        if period is None:
            raise InvalidInput(
                f"the period {shown(str(self.period))} of budget {shown(name)} is none; "
                f"it is {', '.join(kinds)}"
            )
        shares = sorted({_share(given, name) for given in self.alert_at})
        if len(shares) > MOST_THRESHOLDS:
            raise InvalidInput(f"budget {shown(name)} has more than {MOST_THRESHOLDS} shares to alert at")
        conditions = _checked_conditions(self.conditions, name)
        return NewBudget(
            name, amount, self.currency, period, conditions, shares, checked_text(self.note, "note")
        )

    def asked(self) -> dict[str, Any]:
        """What stands in the event as the change; of a checked one."""
        assert isinstance(self.period, PeriodKind)
        return {
            "name": self.name,
            "amount": f"{self.amount:f}",
            "currency": self.currency,
            "period": self.period.value,
            "conditions": dict(self.conditions),
            "alert_at": [f"{share:f}" for share in self.alert_at],
            "note": self.note,
        }


class Budgets(Desk):
    """Budgets of one tenant, for one actor. Every command is one atomic commit."""

    def set(self, budget: NewBudget, *, idempotency_key: str | None = None) -> Budget:
        """Make a budget, or give the one of that name other terms, for the period under way as well.

        Raises:
            InvalidInput: the amount is negative or no number, or something else of it is no budget.
            NotFound: there is no such registered model.
        """
        return self.set_many([budget], idempotency_key=idempotency_key)[0]

    def set_many(self, budgets: Sequence[NewBudget], *, idempotency_key: str | None = None) -> list[Budget]:
        """As `set`, for several at once: all or none. Budgets that are not named stay as they are."""
        given = [budget.checked() for budget in budgets]
        names = [budget.name for budget in given]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidInput(f"budget {shown(twice[0])} is given twice; names are unique within a tenant")
        if not given:
            raise InvalidInput("there is no budget to set; give at least one")

        def decide(view: View) -> list[Change]:
            return [_change(view, budget) for budget in given]

        action = "set_budget" if len(given) == 1 else "set_budgets"
        asked = given[0].asked() if len(given) == 1 else {"budgets": [budget.asked() for budget in given]}
        done = self.do(action, BUDGET, asked, decide, idempotency_key=idempotency_key)
        return [budget_of(state_of(done, part)) for part in range(len(given))]

    def remove(self, name: str, *, idempotency_key: str | None = None) -> Budget:
        """End a budget; the log keeps that it was there."""

        def decide(view: View) -> list[Change]:
            state = _living(view, name)
            return [Change(BUDGET, state.id, {**state.data, "deleted": True})]

        done = self.do("remove_budget", BUDGET, {"of": name}, decide, idempotency_key=idempotency_key)
        return budget_of(state_of(done))

    def list(self, *, as_of: datetime | None = None) -> list[Budget]:
        """The budgets by name, as they are or had been recorded at an instant."""
        states = self.view(as_of).select(
            "budgets.list",
            "things",
            "type = $type AND NOT deleted",
            order="name",
            parameters={"type": BUDGET},
        )
        return [budget_of(state) for state in states]

    def get(self, name: str, *, as_of: datetime | None = None) -> Budget:
        """One budget by name.

        Raises:
            NotFound: there is none.
        """
        return budget_of(_living(self.view(as_of), name))


def all_budgets(log: Log) -> list[Budget]:
    """The budgets of all tenants, by tenant and name."""
    rows = log.view("default").of_all_tenants(
        "budgets.all",
        "things",
        "SELECT * FROM current WHERE type = $type AND NOT deleted ORDER BY tenant, name",
        {"type": BUDGET},
    )
    return [budget_of(state) for state in from_rows("things", rows)]


def budget_of(state: State) -> Budget:
    """The state of a budget as a value."""
    data: Mapping[str, Any] = state.data["metadata"]
    return Budget(
        tenant=state.tenant,
        id=state.id,
        name=state.name,
        amount=Decimal(data["amount"]),
        currency=data["currency"],
        period=PeriodKind(data["period"]),
        conditions=data["conditions"],
        model_id=data.get("model_id"),
        alert_at=tuple(Decimal(share) for share in data["alert_at"]),
        note=state.data.get("description", ""),
        removed=state.deleted,
        sequence=state.sequence,
        recorded_at=state.recorded_at,
        actor=state.actor,
    )


def checked_amount(given: object, what: str) -> Decimal:
    """An amount of money that may be spent: exact, zero or more, at most twelve decimals.

    Raises:
        InvalidInput: it is none.
    """
    amount = _exact(given)
    if amount is None:
        raise InvalidInput(
            f"{what} is {given!r:.60}, which is no exact amount; write one such as 1500 or '99.50'"
        )
    if amount < 0:
        raise InvalidInput(f"{what} is {amount:f}; a budget is zero, so that any cost exceeds it, or more")
    if amount >= LARGEST or -int(amount.as_tuple().exponent) > DECIMALS:
        raise InvalidInput(f"{what} is below {LARGEST:,} and has at most {DECIMALS} decimals, not {amount:f}")
    return amount


def _change(view: View, given: NewBudget) -> Change:
    old = next((state for state in named(view, BUDGET, given.name) if not state.deleted), None)
    wanted = given.conditions.get("registered_model")
    model = None if wanted is None else living(view, MODEL, wanted)
    conditions = {name: value for name, value in given.conditions.items() if value is not None}
    assert isinstance(given.amount, Decimal)
    assert isinstance(given.period, PeriodKind)
    budget = Budget(
        tenant=view.tenant,
        id=new_id() if old is None else old.id,
        name=given.name,
        amount=given.amount,
        currency=given.currency,
        period=given.period,
        conditions=conditions if model is None else {**conditions, "registered_model": model.name},
        model_id=None if model is None else model.id,
        alert_at=tuple(share for share in given.alert_at if isinstance(share, Decimal)),
        note=given.note,
    )
    return Change(BUDGET, budget.id, budget.recorded())


def _living(view: View, name: str) -> State:
    for state in named(view, BUDGET, name):
        if not state.deleted:
            return state
    by_id = view.by_id("things", name)
    if by_id is not None and by_id.entity_type == BUDGET and not by_id.deleted:
        return by_id
    raise NotFound("budget", name, view.tenant, hint="; `mlreg budgets list` shows those there are")


def _checked_conditions(given: Mapping[str, str | None], name: str) -> dict[str, str | None]:
    if unknown := sorted(given.keys() - set(CONDITIONS)):
        raise InvalidInput(
            f"budget {shown(name)} cannot be limited by {', '.join(map(shown, unknown))}; "
            f"it can by {', '.join(CONDITIONS)}"
        )
    kept: dict[str, str | None] = {}
    for condition in CONDITIONS:
        wanted = given.get(condition)
        if wanted is None:
            continue
        if not wanted.strip() or len(wanted) > LONGEST_CONDITION or not wanted.isprintable():
            raise InvalidInput(
                f"{condition} of budget {shown(name)} has 1 to {LONGEST_CONDITION} printable characters, "
                f"not {shown(str(wanted))}"
            )
        if condition == "tag" and not all(_tag(wanted)):
            raise InvalidInput(f"tag of budget {shown(name)} is NAME=VALUE, not {shown(wanted)}")
        kept[condition] = wanted
    return kept


def _tag(given: str) -> tuple[str, str]:
    name, _, value = given.partition("=")
    return name.strip(), value.strip()


def _share(given: object, name: str) -> Decimal:
    share = _exact(given)
    if share is None or not 0 < share <= 100:
        raise InvalidInput(
            f"budget {shown(name)} can alert at shares of its amount such as 0.8 or 1, not at {given!r:.60}"
        )
    return share


def _exact(given: object) -> Decimal | None:
    """The number, unless it is none or a float, which has lost what was written."""
    if isinstance(given, bool) or not isinstance(given, Decimal | int | str):
        return None
    text = str(given).strip().replace("_", "") if isinstance(given, str) else f"{Decimal(given):f}"
    if not _AMOUNT.fullmatch(text):
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        return None
