"""Rates of exchange: dated, of a named source, and never made up."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.costs.currencies import (
    Rate,
    RateError,
    RatesTaken,
    add_rates,
    rates_into,
    read_rates,
)
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.queries import cost_by
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.lake import Lake
from tests.costs.test_ledger_and_rollups import DAY, NEXT, at, call, put_prices
from tests.made_events import land

WEEK = timedelta(days=7)


def ecb(day: date, rate: str | None, base: str = "EUR", quote: str = "USD") -> Rate:
    return Rate(day, base, quote, None if rate is None else Decimal(rate), "ECB")


def stretches(lake: Lake, currency: str) -> list[tuple[Any, ...]]:
    with lake.read("currency_rates") as reading:
        return [tuple(row.values()) for row in rates_into(reading, currency).to_pylist()][1:]


def test_a_rate_holds_until_the_next_one_and_seven_days_at_most(lake: Lake) -> None:
    add_rates(lake, [ecb(DAY, "1.08"), ecb(NEXT, "1.1")])
    assert stretches(lake, "USD") == [
        ("EUR", DAY, NEXT, Decimal("1.08")),
        ("EUR", NEXT, NEXT + WEEK, Decimal("1.1")),
    ]
    # 1 / 1.1 has no end; twelve decimals are kept.
    assert stretches(lake, "EUR")[1] == ("USD", NEXT, NEXT + WEEK, Decimal("0.909090909091"))
    assert stretches(lake, "GBP") == []


def test_the_same_rate_is_taken_once_and_another_one_of_the_day_wins(lake: Lake) -> None:
    assert add_rates(lake, [ecb(DAY, "1.08")]) == RatesTaken(1, 0)
    assert add_rates(lake, [ecb(DAY, "1.08")]) == RatesTaken(0, 1)
    assert add_rates(lake, [ecb(DAY, "1.09")]) == RatesTaken(1, 0)
    assert stretches(lake, "USD") == [("EUR", DAY, DAY + WEEK, Decimal("1.09"))]
    assert add_rates(lake, [ecb(DAY, "0.9", "USD", "EUR")]) == RatesTaken(1, 0)
    assert stretches(lake, "EUR") == [("USD", DAY, DAY + WEEK, Decimal("0.9"))]
    assert add_rates(lake, [ecb(DAY, None, "USD", "EUR")]) == RatesTaken(1, 0)
    assert stretches(lake, "EUR") == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (lambda: ecb(DAY, "0"), "is no rate"),
        (lambda: ecb(DAY, "1.0000000000001"), "more than 12 decimals"),
        (lambda: ecb(DAY, "1", "EUR", "EUR"), "name two currencies"),
        (lambda: ecb(DAY, "1", "euro"), "no ISO 4217 code"),
        (lambda: Rate(DAY, "EUR", "USD", Decimal(1), " "), "needs a source"),
        (lambda: read_rates("rates: 1", file="r.yaml"), "r.yaml: has to be a mapping"),
        (lambda: read_rates("rates: [1]", file="r.yaml"), "r.yaml, rate 1: has to be a mapping"),
        (lambda: read_rates("rates: [{day: 1, rat: 2}]", file="r.yaml"), "unknown field 'rat'"),
        (lambda: read_rates("a: b\nrates: []", file="r.yaml"), "unknown field 'a'"),
        (lambda: read_rates("rates: [", file="r.yaml"), "r.yaml, line 1: is no valid YAML"),
        (
            lambda: read_rates("rates: [{day: x, base: EUR, quote: USD, rate: 1, source: s}]", file="r"),
            "rate 1: day 'x' is none",
        ),
        (
            lambda: read_rates(
                "rates: [{day: 2026-01-01, base: EUR, quote: USD, rate: 1,08, source: s}]", file="r"
            ),
            "r, rate 1: unknown field",
        ),
    ],
)
def test_what_is_no_rate_is_refused_with_the_place_and_the_reason(given: Any, why: str) -> None:
    with pytest.raises(RateError, match=why):
        given()


def test_two_rates_of_one_day_and_pair_are_a_contradiction(lake: Lake) -> None:
    with pytest.raises(RateError, match="given twice"):
        add_rates(lake, [ecb(DAY, "1.08"), ecb(DAY, "0.92", "USD", "EUR")])


def test_costs_are_converted_at_the_rate_of_their_day_and_what_has_no_rate_is_named(lake: Lake) -> None:
    put_prices(lake)
    land(lake, [
        call(at(9)), call(at(9), model="euro"), call(at(9, day=NEXT), model="euro", in_uncached=1),
        call(at(9, day=NEXT + WEEK), model="euro"), call(at(9), model="unknown"),
    ])  # fmt: skip
    catch_up_costs(lake)
    roll_up_costs(lake)
    add_rates(lake, [ecb(DAY, "1.25"), ecb(NEXT - timedelta(days=1), "1.25"), ecb(NEXT, "1.5")])
    with lake.read("cost_rollup", "currency_rates") as reading:
        left, usd, unknown = cost_by(reading, [], currency="USD").to_pylist()
        by_day = cost_by(reading, ["day"], currency="USD").to_pylist()
        plain = cost_by(reading, []).to_pylist()
    # 10 USD, and 30 EUR x 1.25, and 3 EUR x 1.5; the other 30 EUR are eight days after the last rate.
    assert (usd["currency"], usd["cost"], usd["unconverted_cost"]) == ("USD", Decimal(52), None)
    assert (left["currency"], left["cost"], left["unconverted_cost"], left["requests"]) == (
        "EUR",
        None,
        30,
        1,
    )
    assert (unknown["currency"], unknown["cost"], unknown["unconverted_cost"]) == (None, None, None)
    assert [(row["currency"], row["cost"]) for row in by_day] == [
        ("USD", Decimal("47.5")),
        ("USD", Decimal("4.5")),
        ("EUR", None),
    ]
    assert "unconverted_cost" not in plain[0]
    with lake.read("cost_rollup", "currency_rates") as reading, pytest.raises(RateError, match="no ISO 4217"):
        cost_by(reading, [], currency="dollars")


def test_the_shell_takes_rates_closes_shows_and_exports(lake: Lake, home: Path, tmp_path: Path) -> None:
    put_prices(lake)
    land(lake, [call(at(9, day=date(2025, 12, 1)), model="euro"), call(at(9, day=date(2025, 12, 2)))])
    catch_up_costs(lake)
    roll_up_costs(lake)

    def mlreg(*arguments: str, status: int = 0) -> list[str]:
        found = CliRunner().invoke(cli, ["costs", *arguments])
        assert found.exit_code == status, found.output + repr(found.exception)
        return found.output.splitlines()

    assert mlreg("rates", "list") == ["no rate is known; `mlreg costs rates add` adds one"]
    add = ("rates", "add", "2025-12-01", "EUR", "USD", "1.5", "--source", "ECB")
    assert mlreg(*add) == ["1 rate added"]
    assert mlreg(*add) == ["this rate was there already"]
    (home / "currency-rates.yaml").write_text(
        "source: desk\nrates: [{day: 2025-12-02, base: EUR, quote: USD, rate: '2'}]\n"
    )
    assert mlreg("rates", "sync") == ["1 rates added, 0 unchanged"]
    assert mlreg("rates", "list")[1] == "2025-12-02  EUR/USD  2  desk".replace("  2  ", "  2.000000000000  ")
    assert mlreg("close", "2025-12", "--note", "INV-7") == [
        "acme: 2025-12 is closed with 30.000000 EUR, 10.000000 USD"
    ]
    (closed,) = mlreg("closed")
    assert closed.startswith("acme  2025-12  30.000000 EUR, 10.000000 USD  holds  closed ")
    assert closed.endswith("by shell  (INV-7)")
    assert mlreg("close", "--after", "10") == ["acme: months close 10 days after their end"]
    assert mlreg("close", "--by-hand") == ["acme: months close by hand"]
    assert "name a MONTH" in mlreg("close", status=2)[-1]
    assert "55.000000000000" in "".join(
        mlreg("summary", "--by", "tenant", "--currency", "USD", "--basis", "booked")
    )
    said = mlreg("summary", "--currency", "GBP")
    assert "30.000000 EUR and 10.000000 USD are in no amount: no rate is known for their days" in said
    target = tmp_path / "focus.csv"
    assert mlreg("export", "--focus", "--month", "2025-12", "--output", str(target), "--currency", "USD") == [
        f"{target}: 2 rows, 55.000000 USD"
    ]
    assert len(target.read_text().splitlines()) == 3
