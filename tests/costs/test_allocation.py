"""Shared costs: parts that sum to the last digit, rules as decisions, and what nobody can bear."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.allocation import Allocated, allocate
from ml_registry_pipelines.costs.allocation_rules import Allocation, AllocationRules, NewAllocation
from ml_registry_pipelines.costs.bills.lines import EXACT
from ml_registry_pipelines.costs.sharing import NothingToShareBy, spread
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NameTaken, NotFound
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.things import Things
from tests.costs.bills.made import DAY, FOCUS_HEAD, Desk, focus_row, openai_bucket, openai_cost, page
from tests.costs.bills.test_reconciliation import log, put_prices, rated
from tests.examples import examples

MONTH = DAY.replace(day=1)
LAST = Decimal(1).scaleb(-12)


def test_the_last_unit_goes_to_who_lost_most_and_then_by_name() -> None:
    assert spread(Decimal(10), {"a": 1, "b": 1, "c": 1}) == {
        "a": Decimal("3.333333333334"), "b": Decimal("3.333333333333"), "c": Decimal("3.333333333333"),
    }  # fmt: skip
    # 2e-12 over 2:1 is 1.33 and 0.67 units: whole 1 and 0, and the one that is left goes to b.
    assert spread(2 * LAST, {"a": 2, "b": 1}) == {"a": LAST, "b": LAST}
    assert spread(Decimal(-1), {"a": 3, "b": 1}) == {"a": Decimal("-0.75"), "b": Decimal("-0.25")}


def test_without_weights_nothing_is_shared() -> None:
    for weights in ({}, {"a": 0}):
        with pytest.raises(NothingToShareBy):
            spread(Decimal(1), weights)


amounts = st.decimals(-(10**15), 10**15, places=12)
weights = st.dictionaries(
    st.sampled_from("abcdefgh"), st.integers(0, 10**12) | st.decimals(0, 10**6, places=6), min_size=1
).filter(lambda held: any(held.values()))


@settings(max_examples=examples(300))
@given(amounts, weights)
def test_parts_sum_to_the_whole_and_none_is_off_by_more_than_a_unit(
    total: Decimal, held: dict[str, Any]
) -> None:
    parts = spread(total, held)
    summed = Decimal(0)
    for part in parts.values():
        summed = EXACT.add(summed, part)
    assert summed == total
    whole = sum(map(Decimal, held.values()))
    for name, part in parts.items():
        exact = EXACT.divide(EXACT.multiply(total, Decimal(held[name])), whole)
        assert abs(EXACT.subtract(part, exact)) < LAST
        assert part == 0 or held[name]


@pytest.fixture
def rules(lake: Lake) -> Iterator[AllocationRules]:
    put_prices(lake)
    with Log(lake) as registry:
        yield AllocationRules(registry, actor=Actor("p-ada"))


def add(rules: AllocationRules, name: str, cost: str, over: str, **given: Any) -> Allocation:
    return rules.add(NewAllocation(name, cost, over, **given))


def shared(rules: AllocationRules, month: date = MONTH) -> Allocated:
    with rules.log.lake.read("cost_rollup", "provider_bills", "currency_rates") as reading:
        return allocate(reading, rules.rules(), month)


def parts(rules: AllocationRules, month: date = MONTH) -> dict[tuple[str, str], Decimal]:
    found = shared(rules, month)
    assert not found.left
    return {(part.tenant, part.currency): part.amount for part in found.parts}


def traffic(lake: Lake) -> None:
    """a: 30 dollars, tokens and 1 request; b: 10 and 2 requests; c: one request that has no price."""
    log(
        lake,
        (30, {"tenant": "a"}),
        (5, {"tenant": "b"}),
        (5, {"tenant": "b"}),
        (60, {"tenant": "c", "model": "new"}),
    )


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ("evenly", {"a": "33.333333333334", "b": "33.333333333333", "c": "33.333333333333"}),
        ("cost", {"a": "75", "b": "25"}),
        ("tokens", {"a": "30", "b": "10", "c": "60"}),
        ("requests", {"a": "25", "b": "50", "c": "25"}),
    ],
)
def test_a_fee_is_shared_by_what_tenants_did(
    rules: AllocationRules, over: str, expected: dict[str, str]
) -> None:
    traffic(rules.log.lake)
    add(rules, "platform", "fee", over, amount=Decimal(100), currency="USD")
    assert parts(rules) == {(tenant, "USD"): Decimal(amount) for tenant, amount in expected.items()}


def test_fixed_shares_hold_whoever_has_traffic(rules: AllocationRules) -> None:
    add(
        rules,
        "rent",
        "fee",
        "fixed",
        amount=Decimal(10),
        currency="EUR",
        shares={"a": Decimal(2), "x": Decimal("0.5")},
    )
    assert parts(rules) == {("a", "EUR"): Decimal(8), ("x", "EUR"): Decimal(2)}


def test_a_rule_holds_for_its_months_alone(rules: AllocationRules) -> None:
    traffic(rules.log.lake)
    add(rules, "fee", "fee", "evenly", amount=Decimal(3), currency="USD", first_month=MONTH, last_month=MONTH)
    assert len(parts(rules)) == 3
    assert shared(rules, date(2026, 9, 1)).parts == shared(rules, date(2026, 11, 1)).parts == ()


def test_a_bill_line_is_shared_once_by_the_rule_that_comes_first(rules: AllocationRules) -> None:
    lake = rules.log.lake
    traffic(lake)
    Desk(lake).take(
        "b.json",
        page(
            openai_bucket(
                DAY, openai_cost(8, "web search tool calls"), openai_cost(2, "file search"), openai_cost(40)
            )
        ),
    )
    add(rules, "tools", "bill_lines", "cost", line_item="*search*")
    add(rules, "web", "bill_lines", "fixed", line_item="web *", shares={"b": Decimal(1)}, priority=1)
    found = {(p.rule, p.tenant): p.amount for p in shared(rules).parts}
    assert found == {("web", "b"): Decimal(8), ("tools", "a"): Decimal("1.5"), ("tools", "b"): Decimal("0.5")}


def test_the_difference_makes_tenants_bear_the_whole_bill(rules: AllocationRules) -> None:
    lake = rules.log.lake
    traffic(lake)
    log(lake, (7, {"tenant": "a"}), day=DAY + timedelta(days=1))
    rows = [focus_row("50"), focus_row("-4", ChargeCategory="Credit"), focus_row("3", ChargeCategory="Tax")]
    rows += [focus_row("2", ChargeDescription="web search")]
    Desk(lake).take("f.csv", "\n".join([FOCUS_HEAD, *rows]))
    add(rules, "web", "bill_lines", "fixed", line_item="web*", shares={"b": Decimal(1)})
    add(rules, "rest", "difference", "cost", provider="openai")
    found = {(p.rule, p.tenant): p.amount for p in shared(rules).parts}
    # 50 - 4 + 3 billed beyond the web line, less 40 logged on that day; the day after has no bill yet.
    assert found[("web", "b")] == 2
    assert sum(amount for (rule, _), amount in found.items() if rule == "rest") == 9
    # Shares of the month's cost: 37 to 10.
    assert found[("rest", "a")] == Decimal("7.085106382979")


def test_a_difference_of_another_currency_is_left_and_said(rules: AllocationRules) -> None:
    lake = rules.log.lake
    traffic(lake)
    Desk(lake).take("b.json", page(openai_bucket(DAY, openai_cost(50, currency="eur"))))
    add(rules, "rest", "difference", "cost", provider="openai")
    found = shared(rules)
    assert found.parts == ()
    (left,) = found.left
    assert (left.amount, left.currency) == (Decimal(50), "EUR")
    assert "bills in EUR, its costs are in USD, and no rate is known" in left.reason


def test_a_difference_is_left_where_a_part_of_the_costs_is_in_a_currency_without_a_bill(
    rules: AllocationRules,
) -> None:
    lake = rules.log.lake
    log(lake, (30, {"tenant": "a"}), (100, {"tenant": "b", "model": "cheap"}))
    Desk(lake).take("b.json", page(openai_bucket(DAY, openai_cost(50, currency="eur"))))
    add(rules, "rest", "difference", "requests", provider="openai")
    found = shared(rules)
    assert found.parts == ()
    assert "its costs are in USD" in found.left[0].reason
    # 50 EUR less 30 USD, 24 EUR at that day's rate, and the EUR of the other model; by requests, half each.
    rated(lake, (DAY, "EUR", "USD", "1.25"))
    assert parts(rules) == {("a", "EUR"): Decimal("12.5"), ("b", "EUR"): Decimal("12.5")}


def test_a_cost_is_shared_by_what_other_currencies_are_worth_or_left_and_said(rules: AllocationRules) -> None:
    lake = rules.log.lake
    log(lake, (30, {"tenant": "a"}), (800, {"tenant": "b", "model": "cheap"}))
    add(rules, "fee", "fee", "cost", amount=Decimal(100), currency="USD")
    found = shared(rules)
    # b's 8 EUR are no zero: a would bear it all.
    assert found.parts == ()
    assert found.left[0].reason == (
        "costs in EUR of its tenants are shared by, and no rate to USD holds on their days"
    )
    rated(lake, (DAY, "EUR", "USD", "1.25"))
    assert parts(rules) == {("a", "USD"): Decimal(75), ("b", "USD"): Decimal(25)}


def test_what_nobody_has_the_traffic_for_is_left_and_said(rules: AllocationRules) -> None:
    add(rules, "fee", "fee", "tokens", amount=Decimal(5), currency="USD")
    (left,) = shared(rules).left
    assert (left.amount, left.reason) == (Decimal(5), "none of its tenants has any tokens in the month")


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"cost": "gift", "over": "evenly"}, "is no shared cost"),
        ({"cost": "fee", "over": "evenly"}, "needs an amount and a currency"),
        (
            {"cost": "fee", "over": "evenly", "amount": Decimal("0.0000000000001"), "currency": "USD"},
            "12 decimals",
        ),
        (
            {"cost": "fee", "over": "evenly", "amount": Decimal("NaN"), "currency": "USD"},
            "cannot be recorded",
        ),
        ({"cost": "fee", "over": "evenly", "amount": Decimal(1), "currency": "dollar"}, "no ISO 4217 code"),
        ({"cost": "difference", "over": "evenly"}, "name it"),
        ({"cost": "bill_lines", "over": "evenly", "provider": "openai"}, "charged for already"),
        ({"cost": "bill_lines", "over": "mood", "charge": "tax"}, "cannot be shared by"),
        ({"cost": "bill_lines", "over": "fixed", "charge": "tax"}, "need the share of each tenant"),
        ({"cost": "bill_lines", "over": "fixed", "charge": "tax", "shares": {"a": Decimal(-1)}}, "0 or more"),
        ({"cost": "bill_lines", "over": "fixed", "charge": "tax", "shares": {"a": Decimal(0)}}, "above 0"),
        ({"cost": "difference", "over": "cost", "provider": "p", "amount": Decimal(1)}, "only a fee"),
        (
            {
                "cost": "difference",
                "over": "cost",
                "provider": "p",
                "first_month": DAY,
                "last_month": date(2026, 9, 1),
            },
            "never holds",
        ),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(
    rules: AllocationRules, given_: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        add(rules, "r", **given_)
    assert rules.rules() == []


def test_rules_are_decisions_with_a_history(rules: AllocationRules) -> None:
    made = add(rules, "fee", "fee", "evenly", amount=Decimal("12.50"), currency="USD", note="order 7")
    before = made.recorded_at
    assert (made.rule.amount, made.actor) == (Decimal("12.50"), "p-ada")
    with pytest.raises(NameTaken):
        add(rules, "fee", "fee", "evenly", amount=Decimal(1), currency="USD")
    assert rules.end("fee", last_month=DAY).rule.last_month == MONTH
    with pytest.raises(IllegalTransition, match="already"):
        rules.end("fee", last_month=date(2026, 12, 1))
    rules.remove("fee")
    assert rules.rules() == []
    assert [held.rule.last_month for held in rules.rules(as_of=before)] == [None]
    with pytest.raises(NotFound):
        rules.remove("fee")


def test_the_same_command_under_one_key_is_given_once(rules: AllocationRules) -> None:
    new = NewAllocation("fee", "fee", "evenly", amount=Decimal(1), currency="USD")
    assert rules.add(new, idempotency_key="k").id == rules.add(new, idempotency_key="k").id


def test_a_difference_is_shared_by_one_rule_at_a_time(rules: AllocationRules) -> None:
    add(rules, "old", "difference", "cost", provider="openai", last_month=date(2026, 9, 1))
    add(rules, "new", "difference", "tokens", provider="openai", first_month=MONTH)
    with pytest.raises(InvalidInput, match="shares the difference of openai"):
        add(rules, "third", "difference", "evenly", provider="openai")


def test_rules_and_statements_cannot_be_made_as_plain_things(rules: AllocationRules) -> None:
    things = Things(rules.log, actor=Actor("p-ada"))
    for kind in ("allocation_rule", "tenant_statement"):
        with pytest.raises(InvalidInput):
            things.register(kind, "x")
