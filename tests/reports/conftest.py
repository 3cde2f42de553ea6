"""A lake with events that are taken, priced by a contract of the test's own, and rolled up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import pytest

from ml_registry_pipelines.costs.contracts import read_contract
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.prices import catalog_rows
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.telemetry import INGESTED_FILES
from ml_registry_pipelines.telemetry.rollups import refresh_performance
from tests.made_events import land

START = datetime(2026, 10, 1, tzinfo=UTC)

CONTRACT = """
contract: test-prices
currency: USD
assumed: {assumed}
prices:
  - {{provider: openai, model: "*", per_million_tokens: {{input: "2.50", output: "10"}}}}
"""
EUROS = """
contract: test-euros
currency: EUR
prices:
  - {provider: mistral, model: "*", per_million_tokens: {input: "2", output: "6"}}
"""

Log = Callable[[Iterable[Mapping[str, object]]], int]


def set_prices(lake: Lake, *contracts: str) -> None:
    """Make these contracts the whole catalogue."""
    prices = [price for text in contracts for price in read_contract(text, file="prices.yaml").prices]
    rows = catalog_rows(prices, version="1.2.3", generation=1, recorded_at=START)
    lake.append_once("price_catalog", rows, source="catalog", sequence=1)


def take(lake: Lake, events: Iterable[Mapping[str, object]]) -> int:
    """Take events as one file of one batch, price them and roll them up; the number of the batch."""
    import pyarrow as pa

    rows = list(events)
    number = lake.sequence("inference_events", "ingestion")
    batch = land(lake, [{**row, "file": f"made-{number}"} for row in rows])
    file = {
        "source": "landing", "path": f"made-{number}", "part": 0, "first_line": 1, "last_line": len(rows) + 3,
        "complete": True, "size": 1, "modified_at": START, "batch": batch, "rows_in": len(rows) + 3,
        "taken": len(rows), "duplicates": 2, "quarantined": 1, "ignored": 0, "recorded_at": START,
    }  # fmt: skip
    table = pa.Table.from_pylist([file], schema=INGESTED_FILES.schema)
    lake.append_once("ingested_files", table, source="inference_events", sequence=batch)
    catch_up_costs(lake)
    roll_up_costs(lake)
    refresh_performance(lake)
    return batch


@pytest.fixture
def log(lake) -> Log:
    """`take` into the lake, at a price of the test's own where it set none."""

    def take_here(events: Iterable[Mapping[str, object]]) -> int:
        if not lake.sequence("price_catalog", "catalog"):
            set_prices(lake, CONTRACT.format(assumed="false"))
        return take(lake, events)

    return take_here
