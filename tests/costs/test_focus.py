"""The ledger as FOCUS 1.2 files: conformant, adding up to the ledger, and honest about what is left out."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.costs.closing import Closings
from ml_registry_pipelines.costs.contracts import read_contract
from ml_registry_pipelines.costs.currencies import Rate, add_rates
from ml_registry_pipelines.costs.focus import FocusError, schema
from ml_registry_pipelines.costs.focus_files import FocusWish, export_focus
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.list_prices import CATALOG
from ml_registry_pipelines.costs.prices import Component, Price, catalog_rows
from ml_registry_pipelines.costs.repricing import reprice
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from tests.costs.focus_rules import violations
from tests.costs.test_ledger_and_rollups import call
from tests.made_events import land

NINE = datetime(2025, 11, 30, 9, 30, tzinfo=UTC)
NOVEMBER, DECEMBER = date(2025, 11, 1), date(2025, 12, 1)
AGREED = """
contract: agreed
currency: USD
prices:
  - {provider: openai, model: gpt-4o, per_million_tokens: {input: "2", cached_input: "1", output: "8"}}
  - {provider: ours, model: llama, assumed: true, per_million_tokens: {input: "0.5", output: "0.5"}}
  - {provider: ours, model: euro, currency: EUR, per_million_tokens: {input: "1", output: "1"}}
  - {provider: ours, model: whisper, per_unit: {audio_seconds: "0.001"}}
"""
CHEAPER = AGREED.replace('"2"', '"1"').replace("agreed", "better")


def listed(components: dict[str, str], **given: Any) -> Price:
    made = tuple(Component(name, 0, Decimal(amount)) for name, amount in components.items())
    return Price(catalog=CATALOG, components=made, **given)


LIST = (
    listed(
        {"in_uncached": "0.0000025", "in_cache_read": "0.00000125", "out_text": "0.00001"},
        provider="openai",
        model="gpt-4o",
    ),
)


def put(lake: Lake, text: str) -> None:
    generation = lake.sequence("price_catalog", "catalog") + 1
    offered = [*(LIST if generation == 1 else ()), *read_contract(text, file="prices.yaml").prices]
    rows = catalog_rows(offered, version="1", generation=generation, recorded_at=NINE)
    lake.append_once("price_catalog", rows, source="catalog", sequence=generation)


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """November of one tenant, closed, then corrected; late usage of it; December."""
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as log:
        put(lake, AGREED)
        gpt = {
            "provider": "openai",
            "model": "gpt-4o",
            "application": "chat",
            "in_uncached": 1000,
            "out_text": 100,
        }
        ours = {"provider": "ours"}
        land(lake, [
            call(NINE, **gpt, in_cache_read=500, region="eu", service_tier="default"),
            call(NINE + timedelta(minutes=5), **gpt, in_cache_read=500, region="eu", service_tier="default"),
            call(NINE + timedelta(days=1), **gpt),
            call(NINE + timedelta(days=1), **ours, model="llama", in_uncached=1_000_000),
            call(NINE + timedelta(days=1), **ours, model="whisper", in_uncached=None, audio_seconds=2.5),
            call(NINE + timedelta(days=1), **ours, model="unknown"),
            call(NINE + timedelta(days=1), **gpt, status="cache_hit"),
            call(NINE + timedelta(days=1), **ours, model="euro", tenant="euros", in_uncached=3_000_000),
        ])  # fmt: skip
        catch_up_costs(lake)
        roll_up_costs(lake)
        Closings(log, actor=Actor("p-cfo"), tenant="acme").close(NOVEMBER)
        land(lake, [call(NINE, **gpt)])
        catch_up_costs(lake)
        put(lake, CHEAPER)
        reprice(lake, [NINE.date()])
        roll_up_costs(lake)
        roll_up_costs(lake, [NINE.date()])
        add_rates(lake, [Rate(date(2025, 11, 28), "EUR", "USD", Decimal("1.25"), "ECB")])
        yield lake


def exported(lake: Lake, path: Path, **wish: Any) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    export_focus(lake, FocusWish(**wish), path)
    found = pq.read_table(path)
    assert found.schema.equals(schema())
    rows: list[dict[str, Any]] = found.to_pylist()
    assert list(violations(found.schema.names, rows)) == []
    return rows


def brief(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_a_closed_month_is_exported_as_it_was_closed(books: Lake, tmp_path: Path) -> None:
    rows = exported(books, tmp_path / "november.parquet", month=NOVEMBER)
    # Two requests: 2,000 x 2, 1,000 x 1 and 200 x 8 USD a million; at list prices 2.50, 1.25 and 10.
    amounts = ("PricingQuantity", "ContractedUnitPrice", "EffectiveCost", "ListUnitPrice", "ListCost")
    assert brief(rows, "SkuMeter", *amounts) == [
        ("Cached Input Tokens", Decimal("0.001"), 1, Decimal("0.001"), Decimal("1.25"), Decimal("0.00125")),
        ("Input Tokens", Decimal("0.002"), 2, Decimal("0.004"), Decimal("2.5"), Decimal("0.005")),
        ("Output Tokens", Decimal("0.0002"), 8, Decimal("0.0016"), 10, Decimal("0.002")),
    ]  # fmt: skip
    (first, *_) = rows
    assert first["ChargePeriodStart"] == datetime(2025, 11, 30, 9, tzinfo=UTC)
    assert first["BillingPeriodEnd"] == datetime(2025, 12, 1, tzinfo=UTC)
    assert (first["SubAccountId"], first["RegionId"], first["Tags"]) == (
        "acme",
        "eu",
        '{"application":"chat"}',
    )
    assert (first["ConsumedQuantity"], first["ConsumedUnit"], first["PricingUnit"]) == (
        1000,
        "Tokens",
        "1000000 Tokens",
    )
    assert {row["x_PriceKind"] for row in rows} == {"contract"}
    assert {row["ChargeClass"] for row in rows} == {None}


def test_corrections_and_late_usage_are_billed_in_the_month_that_booked_them(
    books: Lake, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    rows = exported(books, tmp_path / "now.parquet", month=today.replace(day=1))
    assert {row["ChargePeriodStart"] for row in rows} == {datetime(2025, 11, 30, 9, tzinfo=UTC)}
    corrections = [row for row in rows if row["ChargeClass"] == "Correction"]
    # 3,000 input tokens cost 1 USD a million less; the list has not changed.
    assert brief(corrections, "ChargeDescription", "BilledCost", "ListCost", "PricingQuantity") == [
        ("Correction of gpt-4o input", Decimal("-0.003"), 0, None)
    ]
    late = [row for row in rows if row["ChargeClass"] is None]
    assert brief(late, "SkuMeter", "EffectiveCost") == [
        ("Input Tokens", Decimal("0.002")),
        ("Output Tokens", Decimal("0.0008")),
    ]


def test_all_months_together_come_to_what_the_ledger_holds(books: Lake, tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    written = export_focus(books, FocusWish(NOVEMBER, today.replace(day=1)), tmp_path / "all.csv")
    with books.read("model_costs", "cost_corrections") as reading:
        ledger = reading.query(
            "test",
            "SELECT currency, sum(cost) AS cost FROM (SELECT currency, cost FROM model_costs UNION ALL "
            "SELECT currency, cost FROM cost_corrections) WHERE currency IS NOT NULL GROUP BY ALL ORDER BY ALL",
        ).to_pylist()
    assert written.billed == {row["currency"]: row["cost"] for row in ledger}
    assert written.left_out == {"unpriced": 1}


def test_prices_without_a_list_save_nothing_and_audio_is_billed_by_the_second(
    books: Lake, tmp_path: Path
) -> None:
    rows = exported(books, tmp_path / "december.parquet", month=DECEMBER, tenant="acme")
    ours = [row for row in rows if row["ProviderName"] == "ours"]
    amounts = ("PricingQuantity", "PricingUnit", "ListUnitPrice", "ListCost", "EffectiveCost")
    assert brief(ours, "x_Model", *amounts, "x_ListPriceId") == [
        ("llama", 1, "1000000 Tokens", Decimal("0.5"), Decimal("0.5"), Decimal("0.5"), None),
        ("whisper", Decimal("2.5"), "Seconds", Decimal("0.001"), Decimal("0.0025"), Decimal("0.0025"), None),
    ]  # fmt: skip
    assert {row["x_PriceKind"] for row in ours} == {"assumed", "contract"}


def test_a_billing_currency_converts_at_the_rate_of_the_day_or_names_what_is_missing(
    books: Lake, tmp_path: Path
) -> None:
    (row,) = exported(books, tmp_path / "usd.parquet", month=DECEMBER, tenant="euros", currency="USD")
    assert (row["BilledCost"], row["BillingCurrency"]) == (Decimal("3.75"), "USD")
    assert (row["PricingCurrencyEffectiveCost"], row["PricingCurrency"]) == (3, "EUR")
    assert (row["ListUnitPrice"], row["PricingCurrencyListUnitPrice"]) == (Decimal("1.25"), 1)
    with pytest.raises(FocusError, match="no rate from EUR to GBP holds on 2025-12-01; add one"):
        export_focus(books, FocusWish(DECEMBER, tenant="euros", currency="GBP"), tmp_path / "gbp.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["usd.parquet"]


def test_a_csv_says_the_same_as_the_parquet_file(books: Lake, tmp_path: Path) -> None:
    rows = exported(books, tmp_path / "d.parquet", month=DECEMBER)
    written = export_focus(books, FocusWish(DECEMBER), tmp_path / "d.csv")
    with (tmp_path / "d.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert written.rows == len(found) == len(rows)
    assert list(found[0]) == list(rows[0])
    assert found[0]["ChargePeriodStart"] == "2025-12-01T09:00:00Z"
    assert [Decimal(row["BilledCost"]) for row in found] == [row["BilledCost"] for row in rows]
    assert "E" not in "".join(row["ListUnitPrice"] for row in found)
    assert {row["AvailabilityZone"] for row in found} == {""}


def test_a_file_of_another_kind_and_months_in_the_wrong_order_are_refused(
    books: Lake, tmp_path: Path
) -> None:
    with pytest.raises(FocusError, match=r"is \.parquet or \.csv"):
        export_focus(books, FocusWish(DECEMBER), tmp_path / "focus.xlsx")
    with pytest.raises(FocusError, match="2025-12 is after 2025-11"):
        export_focus(books, FocusWish(DECEMBER, NOVEMBER), tmp_path / "focus.csv")
    with pytest.raises(FocusError, match="cannot be written"):
        export_focus(books, FocusWish(DECEMBER), tmp_path / "nowhere" / "focus.csv")


def test_a_month_without_costs_is_a_file_without_rows(books: Lake, tmp_path: Path) -> None:
    assert exported(books, tmp_path / "none.parquet", month=date(2025, 1, 1)) == []


def test_costs_whose_usage_is_kept_no_more_are_counted_and_not_dropped_in_silence(
    lake: Lake, tmp_path: Path
) -> None:
    put(lake, AGREED)
    land(
        lake,
        [
            call(NINE, provider="ours", model="llama"),
            call(NINE, provider="ours", model="llama", tenant="gone"),
        ],
    )
    catch_up_costs(lake)
    lake.erase("inference_events", "tenant = 'gone'")
    # What is priced and not rolled up yet is exported all the same.
    written = export_focus(lake, FocusWish(NOVEMBER), tmp_path / "focus.csv")
    assert (written.rows, written.left_out) == (1, {"usage_gone": 1})
