"""A lake with prices, a registry, and attribution rules, for tests of what becomes of log records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from ml_registry_pipelines.costs.contracts import read_contract
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.prices import catalog_rows
from ml_registry_pipelines.costs.reattribution import Reattributed, reattribute
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.telemetry.attribution import Attribution, NewRule, Rule
from tests.made_events import event, land

DAY = date(2026, 10, 5)
ACTOR = Actor("p-ada")

CONTRACT = """
contract: test
currency: USD
prices:
  - {provider: acme, model: m*, per_million_tokens: {input: 1000000}}
  - {provider: acme, model: euro, currency: EUR, per_million_tokens: {input: 1000000}}
"""


def at(hour: int, minute: int = 0, *, day: int = 0) -> datetime:
    """A time of the first day, or of one after it."""
    return datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) + timedelta(
        days=day, hours=hour, minutes=minute
    )


def call(ts: datetime, **given: object) -> dict[str, object]:
    """One call of `acme`'s model `m` at the endpoint `chat`, which costs a dollar per input token."""
    plain = {"provider": "acme", "model": "m", "endpoint": "chat", "in_uncached": 10, "out_text": None}
    return event(ts, **(plain | given))


class World:
    """One tenant's registry, rules and logs in one lake."""

    def __init__(self, lake: Lake, log: Log, tenant: str = "acme") -> None:
        self.lake, self.log, self.tenant = lake, log, tenant
        self.registry = ModelRegistry(log, actor=ACTOR, tenant=tenant)
        self.tracker = LineageTracker(log, actor=ACTOR, tenant=tenant)
        self.attribution = Attribution(log, actor=ACTOR, tenant=tenant)

    def versions(self, model: str, count: int = 2) -> None:
        """Register a model with so many versions."""
        self.registry.register_model(model)
        for number in range(count):
            self.registry.create_model_version(model, HostedModel("acme", f"{model}-{number}"))

    def deploy(self, name: str, version: str, start: datetime, **given: Any) -> None:
        given = {"environment": "production", "endpoint": "chat"} | given
        self.tracker.track_deployment(name, version, start=start, **given)

    def rule(self, deployment: str, **given: Any) -> Rule:
        """Add a rule; what is no field of `NewRule` is a condition."""
        fields = {k: given.pop(k) for k in ("priority", "valid_from", "valid_to", "name") if k in given}
        return self.attribution.add_rule(NewRule(deployment, given, **fields))

    def take(self, *events: dict[str, object]) -> None:
        """Take events as the next batch, and price it."""
        land(self.lake, events)
        catch_up_costs(self.lake)

    def apply(self) -> Reattributed:
        return reattribute(self.lake, self.log)

    def costs(self, *columns: str, grain: str = "day") -> list[tuple[Any, ...]]:
        """Columns of cost_rollup by day, in order of period and model."""
        with self.lake.read("cost_rollup") as reading:
            rows = reading.query(
                "test.costs",
                "SELECT * FROM cost_rollup WHERE grain = $grain ORDER BY period_start, model, model_version, currency",
                {"grain": grain},
            ).to_pylist()
        return [tuple(row[name] for name in columns) for row in rows]

    def attributed(self, grain: str = "day") -> list[tuple[Any, ...]]:
        """(version, attribution, requests, cost) of cost_rollup."""
        return self.costs("model_version", "attribution", "requests", "cost", grain=grain)


@contextmanager
def opened(root: Path | str) -> Iterator[World]:
    with Lake(str(root)) as lake, Log(lake) as log:
        contract = read_contract(CONTRACT, file="prices.yaml")
        rows = catalog_rows(contract.prices, version="1", generation=1, recorded_at=at(0))
        lake.append_once("price_catalog", rows, source="catalog", sequence=1)
        yield World(lake, log)


@contextmanager
def opened_again(root: Path | str) -> Iterator[World]:
    """The same lake in new objects, as in another process."""
    with Lake(str(root)) as lake, Log(lake) as log:
        yield World(lake, log)


def rows_of(lake: Lake, table: str, without: Sequence[str] = ()) -> list[str]:
    """All rows of a table as texts, in order."""
    with lake.read(table) as reading:
        rows = reading.query("test.rows", f"SELECT * FROM {table}").to_pylist()
    return sorted(repr({k: v for k, v in row.items() if k not in without}) for row in rows)
