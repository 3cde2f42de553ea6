"""A lake with contract prices that make amounts easy to work out: one currency unit per token and so on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

from ml_registry_pipelines.costs.contracts import read_contract
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.prices import catalog_rows
from ml_registry_pipelines.costs.reattribution import reattribute
from ml_registry_pipelines.lake.lake import Lake
from tests.made_events import event, land

CONTRACT = """
contract: test
currency: USD
prices:
  - {provider: acme, model: m, per_million_tokens: {input: 1000000, cached_input: 100000, output: 2000000}}
  - {provider: other, model: m, per_million_tokens: {input: 500000, output: 4000000}}
  - {provider: acme, model: euro, currency: EUR, per_million_tokens: {input: 3000000, output: 1000000}}
  - {provider: acme, model: penny, per_million_tokens: {input: 10000, output: 10000}}
"""


def at(day: date, hour: int = 12, minute: int = 0, second: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=UTC)


def call(ts: datetime, **given: object) -> dict[str, object]:
    """A request of `acme` for ten input tokens at one USD each."""
    return event(ts, **({"provider": "acme", "model": "m", "in_uncached": 10, "out_text": None} | given))


def put_prices(lake: Lake, text: str = CONTRACT) -> None:
    generation = lake.sequence("price_catalog", "catalog") + 1
    rows = catalog_rows(
        read_contract(text, file="prices.yaml").prices,
        version="1",
        generation=generation,
        recorded_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    lake.append_once("price_catalog", rows, source="catalog", sequence=generation)


def take(lake: Lake, events: Iterable[Mapping[str, object]]) -> None:
    """Land, price and roll up."""
    land(lake, events)
    catch_up_costs(lake)
    reattribute(lake)
