"""The price catalogue in the lake: synced, changed, withdrawn."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from threading import Thread

import pytest

from ml_registry_pipelines.costs.catalog import catalog_generation, current_prices, sync_catalog
from ml_registry_pipelines.costs.contracts import Contract, read_contract
from ml_registry_pipelines.costs.list_prices import library_version
from ml_registry_pipelines.costs.prices import PriceError, prices_from
from ml_registry_pipelines.costs.pricing import PriceBook
from ml_registry_pipelines.lake.lake import Lake
from tests.costs.conftest import events


def contract(price: str, name: str = "acme-2026") -> Contract:
    entry = f"{{provider: acme, model: m, per_unit: {{requests: {price}}}}}"
    return read_contract(f"contract: {name}\ncurrency: USD\nprices: [{entry}]", file="prices.yaml")


def price_of_acme(lake: Lake) -> list[Decimal]:
    (cost,) = PriceBook.of(lake).price(events({"in_uncached": 1})).to_pylist()
    return [cost["cost"]]


def test_a_first_sync_fills_the_catalogue_and_a_second_changes_nothing(lake: Lake) -> None:
    first = sync_catalog(lake)
    assert (first.added > 2_500, first.unchanged, first.withdrawn) == (True, 0, 0)
    assert first.version == library_version()
    version = lake.version("price_catalog")
    again = sync_catalog(lake)
    assert (again.added, again.unchanged, again.withdrawn) == (0, first.added, 0)
    assert lake.version("price_catalog") == version
    assert catalog_generation(lake) == again.generation == 1


def test_prices_come_back_from_the_lake_as_they_went_in(lake: Lake) -> None:
    sync_catalog(lake, [contract("0.25")])
    with lake.read("price_catalog") as reading:
        rows = current_prices(reading)
    read = prices_from(rows.to_pylist())
    assert {price.price_id for price in read} == set(rows["price_id"].to_pylist())
    assert all(replace(price, stored_id=None).price_id == price.price_id for price in read)


def test_a_changed_contract_replaces_its_price_and_keeps_the_old_one_on_record(lake: Lake) -> None:
    sync_catalog(lake, [contract("0.25")])
    assert price_of_acme(lake) == [Decimal("0.25")]
    changed = sync_catalog(lake, [contract("0.5")])
    assert (changed.added, changed.withdrawn) == (1, 1)
    assert price_of_acme(lake) == [Decimal("0.5")]
    with lake.read("price_catalog") as reading:
        history = reading.query(
            "history",
            """
            SELECT unit_price, state FROM price_catalog WHERE provider = 'acme'
            ORDER BY generation, unit_price
            """,
        ).to_pylist()
    assert [(float(row["unit_price"]), row["state"]) for row in history] == [
        (0.25, "in_force"), (0.25, "withdrawn"), (0.5, "in_force"),
    ]  # fmt: skip


def test_a_contract_that_returns_to_an_old_price_has_it_in_force_again(lake: Lake) -> None:
    for price in ("0.25", "0.5", "0.25"):
        sync_catalog(lake, [contract(price)])
        assert price_of_acme(lake) == [Decimal(price)]


def test_a_contract_that_is_gone_is_withdrawn_but_a_sync_of_lists_leaves_contracts(
    lake: Lake,
) -> None:
    sync_catalog(lake, [contract("0.25")])
    assert sync_catalog(lake).withdrawn == 0
    assert price_of_acme(lake) == [Decimal("0.25")]
    assert sync_catalog(lake, []).withdrawn == 1
    assert price_of_acme(lake) == [None]


def test_two_contracts_of_one_name_are_refused(lake: Lake) -> None:
    with pytest.raises(PriceError, match="two contract files are named 'acme-2026'"):
        sync_catalog(lake, [contract("1"), contract("2")])


def test_syncs_at_the_same_time_fill_the_catalogue_once(tmp_path: Path) -> None:
    root = str(tmp_path / "home")
    added: list[int] = []
    threads = [Thread(target=lambda: added.append(sync_catalog(Lake(root)).added)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added)[:2] == [0, 0]
    with Lake(root).read("price_catalog") as reading:
        rows = reading.query("rows", "SELECT count(*) AS n, count(DISTINCT price_id) AS p FROM price_catalog")
    assert rows["p"][0].as_py() == max(added)
    assert len(added) == 3
