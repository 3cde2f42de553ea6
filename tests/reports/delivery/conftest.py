"""A lake with a log, a file of recipients, and a courier whose clock the tests hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.tenants import Tenants
from ml_registry_pipelines.reports.delivery.courier import Courier, Round
from ml_registry_pipelines.reports.delivery.ledger import Delivery, Ledger
from ml_registry_pipelines.reports.delivery.subscriptions import (
    NewSubscription,
    ReportSubscriptions,
    Subscription,
)
from tests.made_events import event
from tests.reports.conftest import CONTRACT, set_prices, take

DAY = date(2026, 11, 2)
"""A Monday."""


@dataclass
class Clock:
    """What time it is for a courier."""

    at: datetime

    def __call__(self) -> datetime:
        return self.at

    def on(self, **step: float) -> None:
        self.at += timedelta(**step)


@dataclass
class Post:
    """A courier with all that it works on."""

    home: Path
    log: Log
    clock: Clock
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def lake(self) -> Lake:
        return self.log.lake

    @property
    def courier(self) -> Courier:
        return Courier(self.log, now=self.clock, seconds_each=5.0)

    def recipients(self, text: str) -> None:
        (self.home / "report-recipients.yaml").write_text(text, encoding="utf-8")

    def desk(self, tenant: str = "default") -> ReportSubscriptions:
        return ReportSubscriptions(self.log, actor=Actor("test"), tenant=tenant)

    def subscribe(self, name: str = "costs", tenant: str = "default", **given: Any) -> Subscription:
        asked = {"report": "cost_report", "recipient": "archive", "first": DAY, "formats": ["csv"], **given}
        if tenant == "default":
            asked.setdefault("scope", "*")
        return self.desk(tenant).add(NewSubscription(name, **asked))

    def zone(self, name: str, tenant: str = "default") -> None:
        Tenants(self.log, actor=Actor("test"), tenant=tenant).set_time_zone(name)

    def take(self, *moments: datetime, **given: Any) -> None:
        """Requests of 1,000,000 input tokens each, which cost 2.50 USD."""
        if not self.lake.sequence("price_catalog", "catalog"):
            set_prices(self.lake, CONTRACT.format(assumed="false"))
        take(self.lake, [event(at, **{"in_uncached": 1_000_000, "out_text": 0, **given}) for at in moments])

    def deliver(self, **given: Any) -> Round:
        return self.courier.deliver(**given)

    def ledger(self) -> list[Delivery]:
        """Every delivery in its newest state, by period and number."""
        found = Ledger(self.lake, "test").newest().values()
        return sorted(found, key=lambda each: (each.subscription_id, each.period_start, each.number))

    def files(self) -> list[str]:
        """What lies in the folder `archive`."""
        root = self.home / "archive"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def text(self, path: str) -> str:
        return (self.home / "archive" / path).read_text(encoding="utf-8")


ARCHIVE = """
recipients:
  - name: archive
    folder: archive
"""


@pytest.fixture
def post(home: Path) -> Iterator[Post]:
    """Nothing is logged or subscribed yet; it is Tuesday the 3rd, two in the morning UTC."""
    home.mkdir(parents=True)
    with Lake(str(home), process="test") as lake, Log(lake) as log:
        made = Post(home, log, Clock(datetime(2026, 11, 3, 2, tzinfo=UTC)))
        made.recipients(ARCHIVE)
        yield made
