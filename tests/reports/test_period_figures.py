"""Figures of a zone's own days: the same as the UTC report's where the zone is UTC, and each request in one day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.reports.calendar import period_named
from ml_registry_pipelines.reports.figures import figures_of_day
from ml_registry_pipelines.reports.period_figures import figures_of_period
from tests.made_events import event
from tests.reports.conftest import CONTRACT, EUROS, set_prices, take

START = datetime(2026, 10, 24, 12, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
EVENTS = 192
"""Two days of requests, a quarter of an hour apart, around the end of summer time in Europe."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake:
        set_prices(lake, CONTRACT.format(assumed="false"), EUROS)
        rows = [
            event(
                START + n * QUARTER,
                in_uncached=1_000_000,
                out_text=0,
                latency_ms=100.0 + n,
                tenant="acme" if n % 3 else "globex",
                provider="mistral" if n % 4 == 1 else "openai" if n % 4 else "nobody",
                model="m" if n % 4 == 1 else "gpt-4o" if n % 4 else "unknown",
            )
            for n in range(EVENTS)
        ]
        take(lake, rows)
        yield lake


def test_a_day_of_utc_is_what_the_report_of_that_day_shows(made):
    day = date(2026, 10, 25)
    ours = figures_of_period(made, period_named(day.isoformat(), ZoneInfo("UTC")))
    assert replace(ours, versions={}) == figures_of_day(made, day)


OTHER_ZONES = ["UTC", "Asia/Kathmandu", "America/St_Johns"]


@pytest.mark.parametrize(
    ("zone", "tenant"),
    [
        ("Asia/Kolkata", None),
        ("Europe/Berlin", "acme"),
        pytest.param("Asia/Kolkata", "acme", marks=pytest.mark.soak),
        pytest.param("Europe/Berlin", None, marks=pytest.mark.soak),
        *(
            pytest.param(zone, tenant, marks=pytest.mark.soak)
            for zone in OTHER_ZONES
            for tenant in (None, "acme")
        ),
    ],
)
def test_every_request_is_in_one_day(made, zone, tenant):
    days = [period_named(f"2026-10-{n}", ZoneInfo(zone)) for n in (24, 25, 26, 27)]
    moments = [START + n * QUARTER for n in range(EVENTS) if tenant is None or n % 3]
    sums: dict[str, Decimal] = {}
    for period in days:
        found = figures_of_period(made, period, tenant)
        inside = [at for at in moments if period.start <= at < period.end]
        total = found.total
        assert (total.requests if total else 0) == len(inside)
        assert total is None or (total.statistics is not None and total.statistics.requests == len(inside))
        for currency, cost in total.costs if total else ():
            sums[currency] = sums.get(currency, Decimal(0)) + cost
        assert sum(row.requests for row in found.unpriced) == (total.billable - total.priced if total else 0)
    kinds = [n % 4 for n in range(EVENTS) if tenant is None or n % 3]
    assert sums == {
        "USD": sum(kind > 1 for kind in kinds) * Decimal("2.5"),
        "EUR": kinds.count(1) * Decimal(2),
    }
