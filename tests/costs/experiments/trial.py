"""An experiment in a lake: units that are assigned, requests that cost money, labels that come later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ml_registry_pipelines.costs.contracts import read_contract
from ml_registry_pipelines.costs.experiments.deciding import Verdict, decide
from ml_registry_pipelines.costs.experiments.declaring import Declaration, parse
from ml_registry_pipelines.costs.experiments.experiments import Experiments
from ml_registry_pipelines.costs.experiments.looking import Decision, look
from ml_registry_pipelines.costs.experiments.observing import READS, Seen, observe
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.prices import catalog_rows
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.telemetry.batch import Taken
from ml_registry_pipelines.telemetry.identity import salted_hash
from ml_registry_pipelines.telemetry.ingestion import Ingestion, user_salt
from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources
from tests.made_events import event, land

START = datetime(2030, 1, 1, tzinfo=UTC)
"""Later than anything is declared, as an experiment should start."""
TENANT = "acme"
SECOND, LOOK = START + timedelta(days=2), START + timedelta(days=10)
CONTRACTS = (
    """
contract: list
currency: USD
prices:
  - {provider: acme, model: big, per_million_tokens: {input: 1000000}}
  - {provider: acme, model: small, per_million_tokens: {input: 100000}}
""",
    """
contract: ours
currency: USD
prices:
  - {provider: acme, model: agreed, per_million_tokens: {input: 50000}}
""",
)
"""A dollar, a dime and, by a contract, five cents per input token."""


def declared(**changes: Any) -> Declaration:
    """An experiment that asks whether a small model is as good as the big one, unless said otherwise."""
    plain: dict[str, Any] = {
        "name": "size",
        "unit": "user",
        "arms": [{"name": "big", "models": ["big"]}, {"name": "small", "models": ["small"]}],
        "quality": "solved",
        "mode": "cheaper",
        "margin": 0.1,
        "min_days": 7,
        "min_sample": 200,
        "planned_sample": 1000,
    }
    held = {**plain, **changes}
    return parse({name: value for name, value in held.items() if value is not None})


def day(number: float) -> datetime:
    return START + timedelta(days=number)


class Trial:
    """One lake with prices, and what is written into it."""

    def __init__(self, lake: Lake, log: Log) -> None:
        self.lake, self.log = lake, log
        self.landing = Path(lake.root).parent / "landing"
        self.experiments = Experiments(log, actor=Actor("p-ada"), tenant=TENANT)
        self.salt = user_salt(lake.root)
        self._files = 0
        self._waiting: dict[str, list[dict[str, Any]]] = {}

    def take(self) -> Taken:
        """Land what was assigned and labelled as if it were written long afterwards, and take it."""
        self._files += 1
        later = (START + timedelta(days=400)).timestamp()
        for kind, records in self._waiting.items():
            target = self.landing / kind / f"{self._files}.jsonl"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(json.dumps({"tenant": TENANT, **record}) + "\n" for record in records))
            os.utime(target, (later, later))
        self._waiting.clear()
        sources = Sources([Source("landing", str(self.landing))])
        return Ingestion(self.lake, sources).take(
            sources.look(self.lake, scope=Scope.ALL, settled=True).files
        )

    def assign(self, arm: str, units: Iterable[str], at: datetime = START, name: str = "size") -> None:
        rows = [{"experiment": name, "unit": u, "arm": arm, "ts": at.isoformat()} for u in units]
        self._waiting.setdefault("assignments", []).extend(rows)

    def label(
        self,
        values: Mapping[str, float | bool],
        at: datetime = SECOND,
        metric: str = "solved",
        about: str = "unit",
    ) -> None:
        rows = [{"metric": metric, "value": v, about: u, "ts": at.isoformat()} for u, v in values.items()]
        self._waiting.setdefault("outcomes", []).extend(rows)

    def call(self, unit: str, at: datetime, model: str, tokens: int = 1, **given: Any) -> dict[str, object]:
        """One request of a user."""
        user = salted_hash(self.salt, TENANT, unit)
        plain = {
            "tenant": TENANT,
            "provider": "acme",
            "model": model,
            "in_uncached": tokens,
            "out_text": None,
        }
        return event(at, **{**plain, "user_hash": user, **given})

    def requests(self, calls: Iterable[dict[str, object]]) -> None:
        """Take requests as one batch, and price it."""
        land(self.lake, calls)
        catch_up_costs(self.lake)

    def seen(self, declaration: Declaration, *, at: datetime = LOOK, stopped: datetime | None = None) -> Seen:
        if self._waiting:
            self.take()
        with self.lake.read(*READS) as reading:
            return observe(
                reading, declaration, tenant=TENANT, started_at=START, stopped_at=stopped, looked_at=at,
                salt=self.salt,
            )  # fmt: skip

    def verdict(self, declaration: Declaration, *, at: datetime = LOOK, **given: Any) -> Verdict:
        return decide(declaration, self.seen(declaration, at=at, **given), started_at=START)

    def run(self, declaration: Declaration, *, at: datetime = LOOK) -> Decision:
        """Declare, start, and look."""
        if self._waiting:
            self.take()
        self.experiments.declare(declaration)
        self.experiments.start(declaration.name, at=START)
        return look(self.experiments, declaration.name, now=at)


@contextmanager
def trial(root: Path) -> Iterator[Trial]:
    with Lake(str(root / "home")) as lake, Log(lake) as log:
        prices = [p for text in CONTRACTS for p in read_contract(text, file="prices.yaml").prices]
        rows = catalog_rows(prices, version="1", generation=1, recorded_at=START)
        lake.append_once("price_catalog", rows, source="catalog", sequence=1)
        yield Trial(lake, log)


def units(arm: str, count: int) -> list[str]:
    return [f"{arm}-{number}" for number in range(count)]


def populate(made: Trial, *, solved: Mapping[str, float], count: int = 600, name: str = "size") -> None:
    """So many units per arm, named after the model that it runs; a share of each is solved, spread evenly."""
    for arm, share in solved.items():
        names = units(arm, count)
        made.assign(arm, names, name=name)
        made.label({unit: n % 10 < round(10 * share) for n, unit in enumerate(names)})
    made.requests(
        made.call(unit, day(1 + n % 5), arm, tokens=1 + n % 7)
        for arm in solved
        for n, unit in enumerate(units(arm, count))
    )
