"""A price catalogue without a lake, and events to price with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from ml_registry_pipelines.costs.contracts import read_contract
from ml_registry_pipelines.costs.list_prices import library_version, list_prices
from ml_registry_pipelines.costs.prices import Component, Price, catalog_rows
from ml_registry_pipelines.costs.pricing import PriceBook
from ml_registry_pipelines.lake.tables.telemetry import INFERENCE_EVENTS
from tests.made_events import event

if TYPE_CHECKING:
    import pyarrow as pa

NOON = datetime(2025, 12, 1, 12, tzinfo=UTC)


def catalogue(prices: Iterable[Price]) -> pa.Table:
    """Rows of price_catalog in force."""
    return catalog_rows(prices, version=library_version(), generation=1, recorded_at=NOON)


def contract_catalogue(text: str) -> pa.Table:
    return catalogue(read_contract(text, file="prices.yaml").prices)


def offer(components: Mapping[str, str] | list[tuple[str, int, str]], **given: Any) -> Price:
    """A contract price of the provider `acme` for the model `m`: component names and prices of one unit."""
    if not isinstance(components, list):
        components = [(name, 0, price) for name, price in components.items()]
    terms: dict[str, Any] = {"catalog": "test", "provider": "acme", "model": "m", "precedence": 3000}
    made = tuple(Component(name, over, Decimal(price)) for name, over, price in components)
    return Price(components=made, **(terms | given))


def events(*rows: Mapping[str, object]) -> pa.Table:
    """Rows of inference_events of batch 1: of `acme`'s model `m` at noon, unless said otherwise."""
    import pyarrow as pa

    made = []
    for row in rows:
        given: dict[str, Any] = {"provider": "acme", "model": "m", "batch": 1}
        given |= {"in_uncached": None, "out_text": None, **row}
        made.append(event(given.pop("event_ts", NOON), **given))
    return pa.Table.from_pylist(made, schema=INFERENCE_EVENTS.schema)


def priced(prices: Iterable[Price] | pa.Table, *rows: Mapping[str, object]) -> list[dict[str, Any]]:
    """The rows of model_costs, in the order of the events."""
    given = events(*rows)
    book = PriceBook(prices if hasattr(prices, "schema") else catalogue(prices))
    costs = {row["event_key"]: row for row in book.price(given).to_pylist()}
    return [costs[key] for key in given["event_key"].to_pylist()]


@pytest.fixture(scope="session")
def listed() -> pa.Table:
    """Every list price of the library."""
    return catalogue(list_prices())


@pytest.fixture(scope="session")
def book(listed: pa.Table) -> PriceBook:
    return PriceBook(listed)
