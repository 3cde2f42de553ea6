"""What allocation rules come to in a month: who bears how much of each shared cost, exact to the last digit.

Costs in another currency than what is shared are worth what the rate of their day says (`currencies.py`).
What cannot be shared, because nobody has the traffic that it goes by or no rate holds, is listed
with its reason, and never dropped nor shared in another way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.allocation_rules import Allocation, NewAllocation
from ml_registry_pipelines.costs.bills.lines import DECIMALS, EXACT
from ml_registry_pipelines.costs.bills.reconciliation import billed_lines
from ml_registry_pipelines.costs.currencies import DatedRates
from ml_registry_pipelines.costs.queries import cost_by
from ml_registry_pipelines.costs.sharing import NothingToShareBy, spread

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading

_ZERO = Decimal(0)


@dataclass(frozen=True)
class Part:
    """What one tenant bears by one rule, in one currency."""

    tenant: str
    rule: str
    provider: str | None
    currency: str
    amount: Decimal
    description: str


@dataclass(frozen=True)
class Unallocated:
    """What nobody bears, and why."""

    rule: str
    currency: str
    amount: Decimal
    reason: str


@dataclass(frozen=True)
class Allocated:
    """The shared costs of one month: every cost is in `parts`, or in `left`."""

    parts: tuple[Part, ...]
    left: tuple[Unallocated, ...]


def next_month(month: date) -> date:
    """The first day of the month after."""
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1)


def allocate(reading: Reading, rules: Sequence[Allocation], month: date) -> Allocated:
    """Share the costs of a month. The reading must hold `provider_bills`, `cost_rollup` and `currency_rates`.

    Args:
        rules: in the order in which they take bill lines.
        month: its first day.
    """
    held = [rule for rule in rules if rule.rule.holds_in(month)]
    if not held:
        return Allocated((), ())
    after = next_month(month)
    lines = billed_lines(reading, month, after) if any(rule.rule.cost != "fee" for rule in held) else []
    taken = _lines_by_rule(held, lines)
    billed_days = {(line["provider"], line["day"], line["currency"]) for line in lines if line["whole_day"]}
    traffic = _Traffic(reading, month, after)
    parts: list[Part] = []
    left: list[Unallocated] = []
    for rule in held:
        for currency, amount, reason in _costs(rule.rule, taken, rule.id, billed_days, traffic):
            if not amount:
                continue
            why = reason or _shared(rule.rule, currency, amount, traffic, parts)
            if why is not None:
                left.append(Unallocated(rule.name, currency, amount, why))
    return Allocated(tuple(sorted(parts, key=lambda p: (p.tenant, p.rule, p.currency))), tuple(left))


def _shared(
    rule: NewAllocation, currency: str, amount: Decimal, traffic: _Traffic, parts: list[Part]
) -> str | None:
    """Spread one amount into `parts`; why not, where it cannot be."""
    if rule.over == "cost" and (others := traffic.worth(rule.provider, currency).unknown(rule.tenants)):
        named = ", ".join(others)
        return f"costs in {named} of its tenants are shared by, and no rate to {currency} holds on their days"
    try:
        spreaded = spread(amount, _weights(rule, currency, traffic))
    except NothingToShareBy:
        whose = f" with {rule.provider}" if rule.provider else ""
        by = {"evenly": "traffic", "cost": f"cost in {currency}"}.get(rule.over, rule.over)
        return f"none of its tenants has any {by}{whose} in the month"
    parts += [
        Part(
            tenant, rule.name, rule.provider, currency, part, f"{rule.name}: {rule.says()}, {_BY[rule.over]}"
        )
        for tenant, part in spreaded.items()
        if part
    ]
    return None


_BY: Mapping[str, str] = {
    "evenly": "in equal parts",
    "cost": "by share of cost",
    "tokens": "by share of tokens",
    "requests": "by share of requests",
    "fixed": "by agreed shares",
}


def _weights(rule: NewAllocation, currency: str, traffic: _Traffic) -> dict[str, Decimal | int]:
    if rule.over == "fixed":
        return dict(rule.shares)
    held = traffic.of(rule.provider)
    if rule.over == "evenly":
        return dict.fromkeys(rule.tenants or held, 1)
    if rule.over == "cost":
        costs = traffic.worth(rule.provider, currency).costs
        return {tenant: max(costs.get(tenant, _ZERO), _ZERO) for tenant in rule.tenants or held}
    weights: dict[str, Decimal | int] = {}
    for tenant in rule.tenants or held:
        row = held.get(tenant)
        if row is None:
            weights[tenant] = 0
        else:
            weights[tenant] = row.tokens if rule.over == "tokens" else row.requests
    return weights


@dataclass
class _Row:
    requests: int
    tokens: int


@dataclass(frozen=True)
class _Worth:
    """Costs by tenant in one currency, and the currencies of each tenant's costs that no rate converts to it."""

    costs: Mapping[str, Decimal]
    apart: Mapping[str, Sequence[str]]

    def unknown(self, tenants: Sequence[str]) -> list[str]:
        """Currencies without a rate, of some tenants, or of all where none is named."""
        return sorted({each for tenant in tenants or self.apart for each in self.apart.get(tenant, ())})


class _Traffic:
    """What tenants did in the month, with all providers or with one."""

    def __init__(self, reading: Reading, first: date, after: date) -> None:
        self._reading = reading
        self._first, self._after = first, after
        self._found: dict[str | None, dict[str, _Row]] = {}
        self._worth: dict[tuple[str | None, str], _Worth] = {}
        self.rates = DatedRates(reading)

    def of(self, provider: str | None) -> dict[str, _Row]:
        if provider not in self._found:
            where = None if provider is None else {"provider": provider}
            rows = cost_by(self._reading, ["tenant"], since=self._first, until=self._after, where=where)
            held: dict[str, _Row] = {}
            for row in rows.to_pylist():
                into = held.setdefault(row["tenant"], _Row(0, 0))
                into.requests += row["requests"]
                into.tokens += (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
            self._found[provider] = held
        return self._found[provider]

    def worth(self, provider: str | None, currency: str) -> _Worth:
        """What tenants' costs are worth in one currency."""
        if (provider, currency) not in self._worth:
            rows = cost_by(
                self._reading,
                ["tenant"],
                since=self._first,
                until=self._after,
                where=None if provider is None else {"provider": provider},
                currency=currency,
            )
            costs: dict[str, Decimal] = {}
            apart: dict[str, list[str]] = {}
            for row in rows.to_pylist():
                if row["unconverted_cost"]:
                    apart.setdefault(row["tenant"], []).append(row["currency"])
                elif row["currency"] is not None and row["cost"] is not None:
                    costs[row["tenant"]] = EXACT.add(costs.get(row["tenant"], _ZERO), row["cost"])
            self._worth[provider, currency] = _Worth(costs, apart)
        return self._worth[provider, currency]

    def costs_by_day(self, provider: str) -> dict[tuple[date, str], Decimal]:
        """What was logged as the provider's cost, by day and currency."""
        rows = cost_by(
            self._reading, ["day"], since=self._first, until=self._after, where={"provider": provider}
        )
        return {
            (row["day"], row["currency"]): row["cost"]
            for row in rows.to_pylist()
            if row["currency"] is not None and row["cost"]
        }


# -- how much is to be shared ------------------------------------------------------------------


def _lines_by_rule(
    rules: Sequence[Allocation], lines: Sequence[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """The lines that each rule for bill lines takes; those that none does are under an empty id."""
    takers = [rule for rule in rules if rule.rule.cost == "bill_lines"]
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        taker = next((rule.id for rule in takers if _covers(rule.rule, line)), "")
        found.setdefault(taker, []).append(line)
    return found


def _covers(rule: NewAllocation, line: Mapping[str, Any]) -> bool:
    wanted = {name: getattr(rule, name) for name in ("provider", "sub_account", "line_item", "charge")}
    return all(pattern is None or _meets(pattern, line[name]) for name, pattern in wanted.items())


def _meets(pattern: str, value: str | None) -> bool:
    if value is None:
        return False
    return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL))


_BilledDay = tuple[str, date, str]
"""Provider, day and currency of which there is a bill for usage."""


def _costs(
    rule: NewAllocation,
    taken: Mapping[str, Sequence[dict[str, Any]]],
    identity: str,
    billed_days: set[_BilledDay],
    traffic: _Traffic,
) -> list[tuple[str, Decimal, str | None]]:
    """Currency and amount of what a rule shares in the month; with a reason where it must not be shared."""
    if rule.cost == "fee":
        assert rule.amount is not None
        assert rule.currency is not None
        return [(rule.currency, rule.amount, None)]
    if rule.cost == "bill_lines":
        return [(currency, amount, None) for currency, amount in _sums(taken.get(identity, ())).items()]
    assert rule.provider is not None
    free = [line for line in taken.get("", ()) if line["provider"] == rule.provider]
    return _differences(rule.provider, free, billed_days, traffic)


def _differences(
    provider: str, lines: Sequence[dict[str, Any]], billed_days: set[_BilledDay], traffic: _Traffic
) -> list[tuple[str, Decimal, str | None]]:
    sums = _sums(lines)
    reasons: dict[str, str] = {}
    # Costs are charged as usage; the bill of their day, which holds them too, must not be in whole.
    for (day, of), cost in traffic.costs_by_day(provider).items():
        billed = sorted(into for whose, on, into in billed_days if (whose, on) == (provider, day))
        if not billed:
            continue
        into = of if of in billed else billed[0]
        rate = traffic.rates.rate(day, of=of, into=into) if of in billed or len(billed) == 1 else None
        if rate is None:
            for each in billed:
                reasons[each] = (
                    f"{provider} bills in {each}, its costs are in {of}, and no rate is known on {day}"
                )
        elif into in sums:
            worth = EXACT.multiply(cost, rate).quantize(DECIMALS, context=EXACT)
            sums[into] = EXACT.subtract(sums[into], worth)
    stated = _sums(lines)
    return [
        (currency, stated[currency] if currency in reasons else amount, reasons.get(currency))
        for currency, amount in sums.items()
    ]


def _sums(lines: Sequence[dict[str, Any]]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for line in lines:
        sums[line["currency"]] = EXACT.add(sums.get(line["currency"], _ZERO), line["amount"])
    return dict(sorted(sums.items()))
