"""Budgets: commands of the log, and what they have spent, worked out by hand from the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.budget_forecasts import forecast_period
from ml_registry_pipelines.costs.budget_spend import BudgetStatus, budget_statuses, sum_up_budget_tags
from ml_registry_pipelines.costs.budgets import Budget, Budgets, NewBudget, all_budgets
from ml_registry_pipelines.costs.currencies import Rate, add_rates
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.periods import PeriodKind, period_at
from ml_registry_pipelines.costs.repricing import reprice
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.tenants import Tenants, zone_of
from tests.costs.test_ledger_and_rollups import put_prices
from tests.examples import examples
from tests.made_events import event, land

ACTOR = Actor("p1", authenticated_by="test")
KOLKATA, BERLIN = ZoneInfo("Asia/Kolkata"), ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 10, 20, 12, 30, tzinfo=UTC)
PRICES = """
contract: test
currency: USD
prices:
  - {provider: acme, model: "m*", per_million_tokens: {input: 1000000}}
  - {provider: acme, model: euro, currency: EUR, per_million_tokens: {input: 1000000}}
"""


def call(at: str, cost: int, **more: object) -> dict[str, object]:
    """A request that costs so many dollars."""
    given = {"provider": "acme", "model": "m", "in_uncached": cost, "out_text": None, **more}
    return event(datetime.fromisoformat(at).replace(tzinfo=UTC), **given)


CALLS = [
    # September in UTC and Berlin alike, but for the last one.
    call("2026-09-30T12:00", 1000),
    call("2026-09-30T21:59", 500),
    call("2026-09-30T22:00", 30),
    # October: 7 on the first, then one a day up to the 19th.
    call("2026-10-01T00:00", 7),
    *(call(f"2026-10-{day:02}T09:10", 10) for day in range(2, 20)),
    call("2026-10-20T11:59", 3, application="chat", tags='{"team": "search"}'),
    call("2026-10-20T12:05", 2, model="mini", tags='{"team": "ads", "n": 1}'),
    call("2026-10-20T12:06", 4, model="euro"),
    call("2026-10-20T12:07", 9, model="nobody-prices-it"),
    # A zone with a half hour: its October begins at 18:30 UTC.
    call("2026-09-30T18:15", 5, tenant="half"),
    call("2026-09-30T18:45", 7, tenant="half", tags='{"team": "search"}'),
    call("2026-10-01T00:00", 1, tenant="half"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with Lake(str(tmp_path_factory.mktemp("budgets"))) as lake:
        put_prices(lake, PRICES)
        land(lake, CALLS)
        catch_up_costs(lake)
        roll_up_costs(lake)
        yield lake


@pytest.fixture
def budgets(lake: Lake) -> Iterator[Budgets]:
    with Log(lake) as log:
        yield Budgets(log, actor=ACTOR)


def budget(tenant: str = "acme", amount: str = "300", **given: Any) -> Budget:
    terms: dict[str, Any] = {"currency": "USD", "period": PeriodKind.MONTH, "conditions": {}, **given}
    return Budget(tenant, f"id-{tenant}-{sorted(terms.items())}", "all", Decimal(amount), **terms)


def status(
    lake: Lake,
    budget: Budget,
    zone: str = "UTC",
    *,
    at: datetime = NOW,
    windows: Sequence[int] = (),
    **more: Any,
) -> BudgetStatus:
    (found,) = budget_statuses(
        lake, [budget], {budget.tenant: ZoneInfo(zone)}, at=at, windows=windows, **more
    )
    return found


# -- what was spent ------------------------------------------------------------------------------


def test_a_month_is_spent_from_midnight_to_midnight_where_the_tenant_is(shared):
    # 7 + 18 days of 10 + 3 + 2 = 192; in Berlin, October begins two hours earlier: 30 more.
    assert status(shared, budget()).spent == 192
    assert status(shared, budget(), "Europe/Berlin").spent == 222
    september = datetime(2026, 9, 30, 21, 59, tzinfo=UTC)
    assert status(shared, budget(), "Europe/Berlin", at=september).spent == 1500


def test_an_hour_that_midnight_divides_is_divided_to_the_minute(shared):
    half = budget("half")
    assert status(shared, half, "Asia/Kolkata").spent == 8
    assert status(shared, half, "Asia/Kolkata", at=datetime(2026, 9, 30, 18, 20, tzinfo=UTC)).spent == 12
    assert status(shared, half, "UTC").spent == 1
    burn = status(shared, half, "Asia/Kolkata", windows=[1000]).burns[0]
    assert burn.spent == 13


def test_amounts_of_another_currency_are_shown_apart_or_converted_at_their_days_rate(shared):
    found = status(shared, budget())
    assert found.unconverted == {"EUR": Decimal(4)}
    day = date(2026, 10, 20)
    add_rates(
        shared,
        [
            Rate(day, "EUR", "USD", Decimal("1.25"), "a bank"),
            Rate(day + timedelta(days=1), "EUR", "USD", Decimal(9), "a bank"),
        ],
    )
    converted = status(shared, budget())
    assert (converted.spent, converted.unconverted) == (Decimal(197), {})
    pounds = status(shared, budget(currency="GBP"))
    assert (pounds.spent, pounds.unconverted) == (Decimal(0), {"EUR": Decimal(4), "USD": Decimal(192)})
    add_rates(shared, [Rate(day + timedelta(days=n), "EUR", "USD", None, "a bank") for n in (0, 1)])
    assert status(shared, budget()).unconverted == {"EUR": Decimal(4)}


def test_what_has_no_price_is_counted_and_never_zero(shared):
    found = status(shared, budget())
    assert (found.billable, found.priced) == (23, 22)
    assert found.coverage == Decimal(22) / 23


@pytest.mark.parametrize(
    ("conditions", "spent"),
    [
        ({"model": "m*"}, 192),
        ({"model": "mini"}, 2),
        ({"model": "m_ni"}, 0),
        ({"application": "chat"}, 3),
        ({"provider": "acme", "model": "nobody*"}, 0),
        ({"provider": "other"}, 0),
    ],
)
def test_a_budget_covers_what_meets_all_its_conditions(shared, conditions, spent):
    assert status(shared, budget(conditions=conditions)).spent == spent


def test_several_budgets_are_answered_at_once_each_as_alone(shared):
    several = [budget(), budget(conditions={"model": "mini"}), budget("half"), budget("nobody")]
    zones = {"half": KOLKATA}
    found = budget_statuses(shared, several, zones, at=NOW, windows=[6])
    assert [each.spent for each in found] == [192, 2, 8, 0]
    assert found[3].coverage is None


def test_a_budget_on_a_tag_is_summed_up_by_day_and_says_what_is_missing(shared):
    tagged = [budget(conditions={"tag": "team=search"}), budget("half", conditions={"tag": "team=search"})]
    zones = {"half": KOLKATA}
    before = budget_statuses(shared, tagged, zones, at=NOW)
    assert before[0].pending_days == 20
    done = sum_up_budget_tags(shared, tagged, zones, at=NOW)
    assert done.left == ()
    after = budget_statuses(shared, tagged, zones, at=NOW)
    assert [(each.spent, each.pending_days) for each in after] == [(Decimal(3), 0), (Decimal(7), 0)]
    assert sum_up_budget_tags(shared, tagged, zones, at=NOW).days == ()
    other = budget(conditions={"tag": "n=1"})
    assert status(shared, other).pending_days == 20
    sum_up_budget_tags(shared, [*tagged, other], zones, at=NOW)
    found = budget_statuses(shared, [*tagged, other], zones, at=NOW)
    assert [each.spent for each in found] == [3, 7, 2]


def test_a_tag_is_summed_up_again_when_its_day_is_priced_anew(lake):
    put_prices(lake, PRICES)
    land(lake, [call("2026-10-20T11:00", 3, tags='{"team": "a"}', model="late")])
    catch_up_costs(lake)
    roll_up_costs(lake)
    tagged = budget(conditions={"tag": "team=a"})
    sum_up_budget_tags(lake, [tagged], {}, at=NOW)
    assert (status(lake, tagged).spent, status(lake, tagged).coverage) == (Decimal(0), Decimal(0))
    put_prices(lake, PRICES.replace("euro, currency: EUR", "late"))
    reprice(lake, [date(2026, 10, 20)])
    roll_up_costs(lake, [date(2026, 10, 20)])
    assert status(lake, tagged).pending_days == 1
    sum_up_budget_tags(lake, [tagged], {}, at=NOW)
    assert (status(lake, tagged).spent, status(lake, tagged).coverage) == (Decimal(3), Decimal(1))


# -- burn rates and forecasts --------------------------------------------------------------------


def test_a_burn_rate_of_one_would_spend_the_amount_exactly_in_the_period(shared):
    # October has 744 hours; from 11:00 to 12:30 are 1.5 of them, for which 300 * 1.5 / 744 is planned.
    found = status(shared, budget(), windows=[1, 24])
    hour, day = found.burns
    assert (hour.start, hour.spent) == (datetime(2026, 10, 20, 11, tzinfo=UTC), Decimal(5))
    assert hour.rate is not None
    assert abs(hour.rate - Decimal(5) * 744 / 450) < Decimal("1e-20")
    # From the 19th at 12:00 on: the 10 of the 19th were before it.
    assert day.spent == 5


def test_a_budget_of_zero_has_no_share_and_no_burn_rate_and_is_exceeded_by_any_cost(shared):
    found = status(shared, budget(amount="0"), windows=[1])
    assert (found.share, found.burns[0].rate, found.exceeded) == (None, None, True)
    assert not status(shared, budget("nobody", "0")).exceeded
    # Whatever a dollar is worth, it is more than no euros.
    in_euros = status(shared, budget(amount="0", currency="EUR", conditions={"model": "m*"}))
    assert (in_euros.spent, in_euros.exceeded) == (Decimal(0), True)


def test_a_forecast_adds_the_weekdays_that_are_left():
    # Three weeks: 10 on workdays, 2 on weekends; then Wednesday the 22nd at noon, 6 spent by then.
    month = period_at(PeriodKind.MONTH, datetime(2026, 7, 22, 12, tzinfo=UTC), ZoneInfo("UTC"))
    daily = {date(2026, 7, d): Decimal(2 if date(2026, 7, d).weekday() > 4 else 10) for d in range(1, 22)}
    spent = sum(daily.values(), Decimal(6))
    found = forecast_period(daily, month, spent, datetime(2026, 7, 22, 12, tzinfo=UTC))
    assert found is not None
    # Half of today (5), Thursday and Friday (20), a weekend (4), Monday to Friday (50).
    assert found.cost == spent + 79
    assert (found.low, found.high, found.days) == (found.cost, found.cost, 21)


def test_a_forecast_is_moved_by_no_odd_day_and_needs_three_weeks(shared):
    # Sept 30 cost 1530, then 7, eighteen days of 10, and 5: the medians of all weekdays are 10.
    found = status(shared, budget(), at=datetime(2026, 10, 21, 12, tzinfo=UTC)).forecast
    assert found is not None
    # Half of the 21st and ten days, beside the 192 spent.
    assert [found.low, found.cost, found.high] == [Decimal(297)] * 3
    assert found.days == 21
    assert status(shared, budget()).forecast is None
    assert status(shared, budget("nobody")).forecast is None


@settings(deadline=None, max_examples=examples(100))
@given(
    costs=st.lists(st.decimals(0, 1000, places=2), min_size=21, max_size=60),
    hour=st.integers(0, 23),
    day=st.integers(1, 31),
)
def test_a_forecast_is_never_below_what_was_spent_and_inside_its_interval(costs, hour, day):
    at = datetime(2026, 10, day, hour, tzinfo=UTC)
    month = period_at(PeriodKind.MONTH, at, BERLIN)
    today = at.astimezone(BERLIN).date()
    daily = {today - timedelta(days=n): cost for n, cost in enumerate(costs, start=1)}
    daily[today - timedelta(days=len(costs))] = Decimal(1)
    found = forecast_period(daily, month, Decimal(50), at)
    assert found is not None
    assert 50 <= found.low <= found.cost <= found.high


@settings(deadline=None, max_examples=examples(200))
@given(
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/Sao_Paulo", "Asia/Beirut", "Pacific/Apia"]
    ),
    minutes=st.integers(0, 60 * 24 * 366 * 30),
    kind=st.sampled_from(list(PeriodKind)),
)
def test_periods_follow_each_other_without_gap_or_overlap(zone, minutes, kind):
    at = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    period = period_at(kind, at, ZoneInfo(zone))
    assert period.start <= at < period.end
    assert period_at(kind, period.end, ZoneInfo(zone)).start == period.end
    assert period_at(kind, period.start, ZoneInfo(zone)) == period


def test_a_month_in_which_clocks_change_is_an_hour_longer():
    october = period_at(PeriodKind.MONTH, NOW, BERLIN)
    assert october.length == timedelta(days=31, hours=1)
    assert october.label == "2026-10"
    assert period_at(PeriodKind.WEEK, datetime(2026, 1, 1, tzinfo=UTC), BERLIN).label == "2026-W01"


# -- commands ------------------------------------------------------------------------------------


def test_a_budget_is_set_changed_and_removed_and_the_log_knows_when(budgets):
    first = budgets.set(NewBudget("search", "1500.50", "USD", conditions={"model": "gpt-4*"}))
    changed = budgets.set(NewBudget("search", 2000, "EUR", "week", alert_at=["1", "0.5", "0.50"]))
    assert changed.id == first.id
    assert (changed.amount, changed.period, changed.conditions) == (2000, PeriodKind.WEEK, {})
    assert changed.alert_at == (Decimal("0.5"), Decimal(1))
    assert first.recorded_at is not None
    assert budgets.list(as_of=first.recorded_at) == [first]
    assert [b.name for b in all_budgets(budgets.log)] == ["search"]
    assert budgets.remove("search").removed
    assert budgets.list() == []
    with pytest.raises(NotFound, match="mlreg budgets list"):
        budgets.get("search")


def test_a_command_given_twice_under_one_key_is_done_once(budgets):
    one = budgets.set(NewBudget("a", 1, "USD"), idempotency_key="k")
    assert budgets.set(NewBudget("a", 1, "USD"), idempotency_key="k") == one


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"amount": "-1"}, "is -1; a budget is zero"),
        ({"amount": 1.5}, "no exact amount"),
        ({"amount": "12 USD"}, "no exact amount"),
        ({"amount": Decimal("NaN")}, "no exact amount"),
        ({"amount": True}, "no exact amount"),
        ({"amount": "1e3"}, "no exact amount"),
        ({"amount": "0.0000000000001"}, "at most 12 decimals"),
        ({"currency": "dollar"}, "no ISO 4217 code"),
        ({"period": "year"}, "it is day, week, month"),
        ({"conditions": {"user": "x"}}, "cannot be limited by 'user'"),
        ({"conditions": {"tag": "team"}}, "NAME=VALUE"),
        ({"conditions": {"model": ""}}, "1 to 300 printable characters"),
        ({"alert_at": [0]}, "shares of its amount"),
        ({"name": " a"}, "spaces at an end"),
    ],
)
def test_what_is_no_budget_is_refused_in_one_sentence(budgets, terms, said):
    given: Mapping[str, Any] = {"name": "a", "amount": "1", "currency": "USD", **terms}
    with pytest.raises(InvalidInput, match=said):
        budgets.set(NewBudget(**given))
    assert budgets.list() == []


def test_several_budgets_are_set_together_or_not_at_all(budgets):
    with pytest.raises(NotFound, match="no model 'nowhere'"):
        budgets.set_many(
            [NewBudget("a", 1, "USD"), NewBudget("b", 1, "USD", conditions={"registered_model": "nowhere"})]
        )
    with pytest.raises(InvalidInput, match="given twice"):
        budgets.set_many([NewBudget("a", 1, "USD"), NewBudget("a", 2, "USD")])
    assert budgets.list() == []


def test_nobody_makes_a_budget_past_its_verbs(budgets):
    from ml_registry_pipelines.registry.things import Things

    with pytest.raises(InvalidInput, match="is no kind"):
        Things(budgets.log, actor=ACTOR).register("budget", "a")


def test_a_tenant_has_one_time_zone_that_exists(budgets):
    tenants = Tenants(budgets.log, actor=ACTOR, tenant="half")
    assert zone_of(budgets.log, "half").key == "UTC"
    tenants.set_time_zone("Europe/Berlin")
    assert tenants.set_time_zone("Asia/Kolkata").time_zone == "Asia/Kolkata"
    assert zone_of(budgets.log, "half") == KOLKATA
    for wrong in ("Mars/Base", "localtime", "", "../etc/passwd", "+02:00"):
        with pytest.raises(InvalidInput, match="is no time zone"):
            tenants.set_time_zone(wrong)
