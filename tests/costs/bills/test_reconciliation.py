"""Capture rates worked out by hand, and who is told of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from ml_registry_pipelines.costs.bills.capture_alerts import CAPTURE, bills_are_captured, capture_alerts
from ml_registry_pipelines.costs.bills.reconciliation import reconcile
from ml_registry_pipelines.costs.contracts import read_contract
from ml_registry_pipelines.costs.currencies import Rate, add_rates
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.prices import catalog_rows
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.alerts import Alerts, Severity
from tests.costs.bills.made import (
    DAY,
    FOCUS_HEAD,
    Desk,
    cloudflare_answer,
    focus_row,
    openai_bucket,
    openai_cost,
    page,
)
from tests.made_events import event, land

if TYPE_CHECKING:
    import pyarrow as pa

CONTRACT = """
contract: test
currency: USD
prices:
  - {provider: openai, model: m, per_million_tokens: {input: 1000000, output: 1000000}}
  - {provider: openai, model: cheap, currency: EUR, per_million_tokens: {input: 10000, output: 10000}}
  - {provider: acme, model: m, per_million_tokens: {input: 1000000, output: 1000000}}
"""
MORNING = datetime(2026, 10, 6, 5, 35, tzinfo=UTC)
"""When the bill of DAY is pulled for the first time."""
LATER = MORNING + timedelta(days=3)


def put_prices(lake: Lake) -> None:
    lake.append_once("price_catalog", _prices(), source="catalog", sequence=1)


@cache
def _prices() -> pa.Table:
    contract = read_contract(CONTRACT, file="prices.yaml")
    return catalog_rows(contract.prices, version="1", generation=1, recorded_at=MORNING)


def log(lake: Lake, *calls: tuple[int | None, Mapping[str, Any]], day: date = DAY) -> None:
    """Requests of so many tokens, at a dollar each; None: a stream without counts."""
    if lake.exists("inference_events"):
        _log(lake, calls, day)
        return
    # Pricing and rolling up takes longer than all that is tested here.
    home = _logged(repr(calls), day)
    with Lake(home.name) as made:
        if not made.exists("cost_rollup"):
            put_prices(made)
            _log(made, calls, day)
    for table in ("inference_events", "model_costs", "cost_rollup"):
        shutil.copytree(Path(home.name, "tables", table), Path(lake.root, "tables", table))


@cache
def _logged(calls: str, day: date) -> TemporaryDirectory[str]:
    """An empty home, the same for the same requests."""
    return TemporaryDirectory(prefix="mlreg-logged-")


def _log(lake: Lake, calls: Sequence[tuple[int | None, Mapping[str, Any]]], day: date) -> None:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    made = [
        event(noon, **{"provider": "openai", "model": "m", "in_uncached": tokens, "out_text": None, **more})
        for tokens, more in calls
    ]
    land(lake, made)
    catch_up_costs(lake)
    roll_up_costs(lake)


@pytest.fixture
def desk(lake: Lake) -> Desk:
    put_prices(lake)
    return Desk(lake)


def compared(desk: Desk, *, now: datetime = MORNING) -> list[tuple[Any, ...]]:
    """(day, provider, currency, status, cost, billed, capture rate) of each row."""
    reconcile(desk.lake, desk.settings, now=now)
    rows = desk.rows(
        "SELECT * FROM bill_reconciliation ORDER BY day, provider, currency", "bill_reconciliation"
    )
    names = ("day", "provider", "currency", "status", "cost", "billed", "capture_rate")
    return [tuple(row[name] for name in names) for row in rows]


def told(desk: Desk, now: datetime = MORNING) -> list[tuple[str, Severity]]:
    return [(alert.key, alert.severity) for alert in capture_alerts(desk.lake, desk.settings, now=now)]


def test_a_bill_of_830_against_1_47_logged_alerts_on_the_next_morning(desk: Desk) -> None:
    log(desk.lake, (147, {"model": "cheap"}))
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(830, currency="eur"))))
    (row,) = compared(desk)
    assert row[:6] == (DAY, "openai", "EUR", "under", Decimal("1.47"), Decimal(830))
    assert row[6] == pytest.approx(0.00177, abs=1e-5)
    assert told(desk) == [("capture_rate/openai/EUR", Severity.ERROR)]
    (alert,) = capture_alerts(desk.lake, desk.settings, now=MORNING)
    assert "1.47 of 830.00 EUR billed are in our costs (0.2%)" in alert.title
    finding = bills_are_captured(desk.lake, desk.settings, now=MORNING)
    assert not finding.passed


def test_streams_that_have_no_price_are_a_capture_rate_of_zero(desk: Desk) -> None:
    log(desk.lake, (None, {}), (None, {}))
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(830))))
    assert compared(desk) == [(DAY, "openai", "USD", "nothing_priced", None, Decimal(830), 0.0)]
    assert told(desk) == [("capture_rate/openai/USD", Severity.ERROR)]
    (row,) = desk.rows("SELECT * FROM bill_reconciliation", "bill_reconciliation")
    assert (row["requests"], row["billable_requests"], row["priced_requests"]) == (2, 2, 0)


def test_billed_and_not_logged_is_zero_and_logged_and_not_billed_is_no_bill(desk: Desk) -> None:
    log(desk.lake, (5, {"provider": "acme"}))
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(3))))
    assert compared(desk) == [
        (DAY, "acme", "USD", "no_bill", Decimal(5), None, None),
        (DAY, "openai", "USD", "nothing_logged", None, Decimal(3), 0.0),
    ]
    assert told(desk) == [("capture_rate/openai/USD", Severity.ERROR)], "acme has never sent a bill"


def test_a_day_without_a_bill_of_a_provider_that_sends_bills_is_told_once_it_is_settled(desk: Desk) -> None:
    log(desk.lake, (5, {}))
    log(desk.lake, (3, {}), day=DAY - timedelta(days=1))
    desk.take("b.json", page(openai_bucket(DAY - timedelta(days=1), openai_cost(3))))
    assert [row[3] for row in compared(desk)] == ["captured", "no_bill"]
    assert told(desk) == []
    compared(desk, now=LATER)
    assert told(desk, LATER) == [("capture_rate/openai/USD", Severity.WARNING)]


def test_the_tolerance_is_a_share_of_the_bill(desk: Desk) -> None:
    bills = {
        "100": "captured", "102.04081632": "captured", "102.05": "under", "98.04": "captured", "98.03": "over",
    }  # fmt: skip
    days = [DAY - timedelta(days=n) for n in range(len(bills))]
    for day in days:
        land(
            desk.lake,
            [
                event(
                    datetime(day.year, day.month, day.day, tzinfo=UTC),
                    model="m",
                    in_uncached=100,
                    out_text=None,
                )
            ],
        )
    catch_up_costs(desk.lake)
    roll_up_costs(desk.lake)
    buckets = [openai_bucket(day, openai_cost(billed)) for day, billed in zip(days, bills, strict=True)]
    desk.take("b.json", page(*buckets))
    assert [row[3] for row in reversed(compared(desk))] == list(bills.values())


def test_a_bill_that_is_not_complete_yet_makes_no_one_nervous(desk: Desk) -> None:
    log(desk.lake, (100, {}))
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(40))))
    assert compared(desk)[0][3] == "over"
    assert told(desk) == []
    compared(desk, now=LATER)
    assert told(desk, LATER) == [("capture_rate/openai/USD", Severity.WARNING)]


def test_credits_and_taxes_stand_beside_the_rate(desk: Desk) -> None:
    log(desk.lake, (100, {}))
    rows = [
        focus_row("100"),
        focus_row("-100", ChargeCategory="Credit"),
        focus_row("19", ChargeCategory="Tax"),
        focus_row("500", ChargePeriodEnd="2026-11-01T00:00:00Z", ChargeDescription="commitment"),
    ]
    desk.take("f.csv", "\n".join([FOCUS_HEAD, *rows]))
    assert compared(desk) == [(DAY, "openai", "USD", "captured", Decimal(100), Decimal(100), 1.0)]
    (row,) = desk.rows(
        "SELECT credits, other_charges, difference FROM bill_reconciliation", "bill_reconciliation"
    )
    assert (row["credits"], row["other_charges"], row["difference"]) == (Decimal(-100), Decimal(519), 0)


def test_two_kinds_of_bill_about_one_day_are_never_added(desk: Desk) -> None:
    log(desk.lake, (100, {}))
    desk.take("g.json", cloudflare_answer(("2026-10-05T07:00:00Z", "openai", "m", 91)))
    assert compared(desk)[0][3:6] == ("over", Decimal(100), Decimal(91))
    desk.take("a.json", page(openai_bucket(DAY, openai_cost(100))))
    desk.take("f.csv", "\n".join([FOCUS_HEAD, focus_row("101")]))
    assert compared(desk)[0][3:6] == ("captured", Decimal(100), Decimal(101))
    (row,) = desk.rows(
        "SELECT report, other_reports, estimated FROM bill_reconciliation", "bill_reconciliation"
    )
    assert row == {"report": "focus", "other_reports": "cloudflare_costs, openai_costs", "estimated": False}


def rated(lake: Lake, *rates: tuple[date, str, str, str]) -> None:
    add_rates(lake, [Rate(day, base, quote, Decimal(rate), "a bank") for day, base, quote, rate in rates])


def test_a_bill_in_another_currency_is_not_compared_unless_a_rate_of_the_day_is_known(desk: Desk) -> None:
    log(desk.lake, (100, {}))
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(50, currency="eur"))))
    apart = [
        (DAY, "openai", "EUR", "other_currency", None, Decimal(50), None),
        (DAY, "openai", "USD", "other_currency", Decimal(100), None, None),
    ]
    assert compared(desk) == apart
    # A rate of the day after does not hold yet, one of eight days before no more.
    rated(
        desk.lake, (DAY + timedelta(days=1), "EUR", "USD", "3"), (DAY - timedelta(days=8), "EUR", "USD", "4")
    )
    assert compared(desk) == apart
    rated(desk.lake, (DAY - timedelta(days=2), "USD", "EUR", "0.5"))
    assert compared(desk) == [(DAY, "openai", "USD", "captured", Decimal(100), Decimal(100), 1.0)]
    (row,) = desk.rows("SELECT converted_from, rates_version FROM bill_reconciliation", "bill_reconciliation")
    assert row["converted_from"] == "EUR"
    assert row["rates_version"] > 0


def test_costs_in_two_currencies_meet_a_bill_in_one_of_them_or_are_said_to_be_apart(desk: Desk) -> None:
    log(desk.lake, (30, {}), (4000, {"model": "cheap"}))
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(70))))
    # 30 USD of 70 are no capture rate of 43 %: the 40 EUR may be in the bill.
    assert [row[2:] for row in compared(desk)] == [
        ("EUR", "other_currency", Decimal(40), None, None),
        ("USD", "other_currency", Decimal(30), Decimal(70), None),
    ]
    rated(desk.lake, (DAY, "EUR", "USD", "1"))
    assert [row[2:] for row in compared(desk)] == [("USD", "captured", Decimal(70), Decimal(70), 1.0)]


def test_a_bill_that_says_nothing_is_told_from_no_bill(desk: Desk) -> None:
    log(desk.lake, (5, {}))
    desk.take("b.json", page(openai_bucket(DAY), openai_bucket(DAY - timedelta(days=1), openai_cost(1))))
    assert compared(desk)[1] == (DAY, "openai", "USD", "nothing_billed", Decimal(5), Decimal(0), None)


def test_tokens_of_the_usage_report_stand_beside_those_of_the_logs(desk: Desk) -> None:
    log(desk.lake, (100, {}))
    usage = {
        "object": "organization.usage.completions.result", "input_tokens": 900, "output_tokens": 100,
        "num_model_requests": 9,
    }  # fmt: skip
    desk.take("u.json", page(openai_bucket(DAY, usage)))
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(1000))))
    compared(desk)
    (row,) = desk.rows("SELECT logged_tokens, billed_tokens FROM bill_reconciliation", "bill_reconciliation")
    assert row == {"logged_tokens": 100, "billed_tokens": 1000}


def test_an_alert_stands_until_costs_and_bill_agree(desk: Desk) -> None:
    alerts = Alerts(desk.lake)
    log(desk.lake, (1, {}))
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(100))))
    compared(desk)
    assert alerts.settle({CAPTURE}, capture_alerts(desk.lake, desk.settings, now=MORNING), because="").opened
    assert not alerts.settle({CAPTURE}, capture_alerts(desk.lake, desk.settings, now=MORNING), because="")
    log(desk.lake, (99, {}))
    compared(desk)
    assert alerts.settle(
        {CAPTURE}, capture_alerts(desk.lake, desk.settings, now=MORNING), because=""
    ).resolved


def test_a_difference_that_is_too_small_tells_nobody(lake: Lake) -> None:
    put_prices(lake)
    desk = Desk(lake, "least_difference: '5'\ntolerance: '0'")
    log(lake, (100, {}))
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(104))))
    assert compared(desk)[0][3] == "under"
    assert told(desk) == []


def test_an_old_day_that_is_restated_is_compared_anew(desk: Desk) -> None:
    log(desk.lake, (100, {}))
    compared(desk)
    desk.take("b.json", page(openai_bucket(DAY, openai_cost(100))))
    much_later = MORNING + timedelta(days=400)
    assert compared(desk, now=much_later) == [
        (DAY, "openai", "USD", "captured", Decimal(100), Decimal(100), 1.0)
    ]
    assert compared(desk, now=much_later)[0][0] == DAY
