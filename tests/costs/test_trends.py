"""Costs day by day, the month to its end, and odd hours: figures worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal

import pytest

from ml_registry_pipelines.costs.integration import VibeCodingIntegration
from ml_registry_pipelines.costs.provenance import CostsError
from ml_registry_pipelines.costs.trends import Outlook
from ml_registry_pipelines.lake.lake import Lake
from tests.costs.made_costs import at, call, put_prices, take

FIRST = date(2026, 9, 1)
TODAY = date(2026, 10, 20)


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VibeCodingIntegration]:
    """49 days at noon: 10 USD, and 20 more on 7 October at 15; from 6 October on, also EUR; today 3 USD."""
    events = []
    for number in range(49):
        day = FIRST + timedelta(days=number)
        events.append(call(at(day), tenant="acme"))
        if day >= date(2026, 10, 6):
            events.append(call(at(day, 9), model="euro", in_uncached=1, tenant="globex"))
    events.append(call(at(date(2026, 10, 7), 15), in_uncached=20))
    events.append(call(at(TODAY, 1), in_uncached=3))
    events.append(call(at(date(2026, 10, 8), 12), model="unknown"))
    with Lake(str(tmp_path_factory.mktemp("home") / "home")) as lake:
        put_prices(lake)
        take(lake, events)
        yield VibeCodingIntegration(lake)


@pytest.mark.soak
def test_a_month_comes_to_what_is_spent_and_what_is_usual(costs: VibeCodingIntegration) -> None:
    found = costs.get_cost_trends(date(2026, 10, 1), TODAY + timedelta(days=1), today=TODAY)
    dollars = next(trend for trend in found.trends if trend.currency == "USD")
    assert [day.cost for day in dollars.days[:8]] == [Decimal(10)] * 6 + [Decimal(30), Decimal(10)]
    assert (dollars.days[-1].cost, dollars.days[-1].complete) == (Decimal(3), False)
    month = dollars.month_end
    # 19 days at 10 and the 20 of the seventh; 12 days ahead, of which today is one.
    assert (month.outlook, month.so_far, month.days_ahead) == (Outlook.FORECAST, Decimal(210), 12)
    assert (month.expected, month.lower, month.upper) == (Decimal(330), Decimal(330), Decimal(330))
    assert month.history_days == 49


def test_a_day_without_requests_cost_nothing_and_one_without_a_price_is_counted(
    costs: VibeCodingIntegration,
) -> None:
    found = costs.get_cost_trends(date(2026, 8, 30), FIRST + timedelta(days=1), today=TODAY)
    (trend,) = [trend for trend in found.trends if trend.currency == "USD"]
    assert [(day.cost, day.requests) for day in trend.days] == [
        (Decimal(0), 0),
        (Decimal(0), 0),
        (Decimal(10), 1),
    ]
    only = costs.get_cost_trends(
        date(2026, 10, 8), date(2026, 10, 9), today=TODAY, where={"model": "unknown"}
    )
    (unpriced,) = only.trends
    assert (unpriced.currency, unpriced.days[0].cost, unpriced.coverage) == (None, None, 0.0)


def test_currencies_are_series_of_their_own(costs: VibeCodingIntegration) -> None:
    found = costs.get_cost_trends(date(2026, 10, 5), date(2026, 10, 7), today=TODAY)
    euros = next(trend for trend in found.trends if trend.currency == "EUR")
    assert [day.cost for day in euros.days] == [Decimal(0), Decimal(3)]
    month = euros.month_end
    assert (month.outlook, month.expected, month.so_far) == (Outlook.TOO_FEW_DAYS, None, Decimal(42))
    assert month.history_days == 14


def test_an_hour_that_costs_more_than_its_weeks_is_named_once(costs: VibeCodingIntegration) -> None:
    found = costs.get_cost_trends(date(2026, 10, 1), TODAY, today=TODAY)
    dollars = next(trend for trend in found.trends if trend.currency == "USD")
    (odd,) = dollars.anomalies
    assert (odd.hour, odd.cost, odd.usual) == (at(date(2026, 10, 7), 15), Decimal(20), Decimal(0))
    # 19 days of 24 hours, each with four weeks before it from 29 September on.
    assert (dollars.judged_hours, dollars.unjudged_hours) == (19 * 24, 0)
    early = costs.get_cost_trends(FIRST, FIRST + timedelta(days=28), today=TODAY).trends[0]
    assert (early.judged_hours, early.unjudged_hours) == (0, 28 * 24)
    euros = next(trend for trend in found.trends if trend.currency == "EUR")
    assert (euros.anomalies, euros.judged_hours) == ((), 0)


def test_a_log_that_no_longer_comes_is_no_forecast_of_nothing(costs: VibeCodingIntegration) -> None:
    found = costs.get_cost_trends(FIRST, TODAY, today=TODAY + timedelta(days=30))
    assert {trend.month_end.outlook for trend in found.trends} == {Outlook.NOTHING_LATELY}
    assert {trend.month_end.expected for trend in found.trends} == {None}


def test_a_series_that_makes_no_sense_is_refused(costs: VibeCodingIntegration) -> None:
    for since, until, where, message in (
        (TODAY, FIRST, {}, "swap them"),
        (FIRST, TODAY, {"tag:team": "x"}, "no series by tag"),
        (date(1990, 1, 1), TODAY, {}, "at most 1,100 days"),
        (FIRST, TODAY, {"model": "pennny"}, "was ever rolled up of the model|cost was ever"),
    ):
        with pytest.raises(CostsError, match=message):
            costs.get_cost_trends(since, until, where=where, today=TODAY)


def test_nothing_logged_has_no_series(lake: Lake) -> None:
    assert VibeCodingIntegration(lake).get_cost_trends(FIRST, TODAY, today=TODAY).trends == ()
