"""The ROI report: figures worked out by hand, refusals with their reason, and a mark that follows labels and models."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from ml_registry_pipelines.costs.value_models import ValueModel, ValueModels
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.reports.calendar import period_named
from ml_registry_pipelines.reports.kinds import KINDS, surroundings
from ml_registry_pipelines.reports.made import Made
from tests.made_events import event
from tests.reports.conftest import CONTRACT, set_prices, take
from tests.reports.test_cost_reports import Page

START = datetime(2026, 10, 1, tzinfo=UTC)
OCTOBER = period_named("2026-10", ZoneInfo("UTC"))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """A month of 48 answers at 2.50 USD, each worth 4 USD by one value model, and in euros by another."""
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as log:
        set_prices(lake, CONTRACT.format(assumed="false"))
        take(lake, [event(START + timedelta(hours=n), in_uncached=1_000_000, out_text=0) for n in range(48)])
        models = ValueModels(log, actor=Actor("p-ada"), tenant="acme")
        models.declare(ValueModel("assistant", "USD", Decimal(4), platform_per_month=Decimal(31)))
        models.declare(ValueModel("in-euros", "EUR", Decimal(4)))
        models.declare(ValueModel("later", "USD", Decimal(4), valid_from=date(2026, 11, 1)))
        yield log


@pytest.fixture(scope="module")
def made(log: Log) -> Made:
    around, kind = surroundings(log), KINDS["roi_report"]
    mark = kind.mark(around, OCTOBER, "acme")
    assert mark is not None
    found = kind.make(around, OCTOBER, "acme", mark)
    assert found is not None
    return found


def test_net_value_is_value_less_all_costs(made):
    rows = {row["value_model"]: row for row in csv.DictReader(io.StringIO(made.sheet.csv()))}
    assistant = rows["assistant"]
    # 48 x 4 - 48 x 2.50 - 31
    assert (assistant["value"], assistant["model_cost"], assistant["platform_cost"]) == ("192", "120", "31")
    assert (assistant["net_value"], assistant["status"]) == ("41", "stated")
    assert float(assistant["net_lower"]) <= 41 <= float(assistant["net_upper"])
    assert set(rows) == {"assistant", "in-euros"}
    page = Page(made.page)
    first, *_ = page.table("How it comes about: assistant")
    assert first["AmountUSD"] == "192.0000"


def test_what_cannot_be_stated_says_why(made):
    rows = {row["value_model"]: row for row in csv.DictReader(io.StringIO(made.sheet.csv()))}
    refused = rows["in-euros"]
    assert (refused["status"], refused["net_value"]) == ("refused", "")
    assert refused["model_cost"] == ""  # It is in dollars.
    assert "they are not added" in rows["in-euros"]["reason"]
    assert "No return is stated" in Page(made.page).text


def test_the_value_model_goes_with_the_report(made, log):
    assumed = made.assumptions["assistant"]
    assert isinstance(assumed, dict)
    assert assumed["value_model"]["value_per_success"] == "4"
    with log.lake.read("roi_results") as reading:
        kept = reading.query("test", "SELECT value_model, net_value FROM roi_results").to_pylist()
    assert {"value_model": "assistant", "net_value": Decimal(41)} in kept


def test_without_a_value_model_there_is_nothing_to_report(log):
    kind = KINDS["roi_report"]
    assert kind.mark(surroundings(log), OCTOBER, "globex") is None
    before = kind.mark(surroundings(log), OCTOBER, "acme")
    assert kind.mark(surroundings(log), OCTOBER, "acme") == before
    ValueModels(log, actor=Actor("p-ada"), tenant="acme").declare(ValueModel("assistant", "USD", Decimal(5)))
    assert kind.mark(surroundings(log), OCTOBER, "acme") != before
