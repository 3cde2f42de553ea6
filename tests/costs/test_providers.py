"""Providers side by side: rates by type of token, and what can be told apart."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest

from ml_registry_pipelines.costs.integration import VibeCodingIntegration
from ml_registry_pipelines.costs.provenance import CostsError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.metrics import PerformanceError
from tests.costs.made_costs import at, call, put_prices, take

DAY = date(2026, 10, 5)
NEXT = DAY + timedelta(days=1)


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    """300 answers each of acme (500 to 799 ms) and other (800 to 1099 ms), of which 60 calls more failed."""
    events = []
    for number in range(300):
        ts = at(DAY, 9, number % 60)
        events.append(call(ts, out_text=1, latency_ms=500.0 + number))
        events.append(call(ts, provider="other", out_text=2, latency_ms=800.0 + number))
        if number < 60:
            events.append(call(ts, provider="other", status="error_unbilled", latency_ms=0.0))
    events.append(call(at(DAY), provider="third", model="strange"))
    with Lake(str(tmp_path_factory.mktemp("home") / "home")) as lake:
        put_prices(lake)
        take(lake, events)
        yield VibeCodingIntegration(lake)


def test_rates_samples_and_what_differs(costs):
    found = costs.compare_providers("acme", "other", since=DAY, until=NEXT)
    acme, other = found.lines
    assert acme.costs[0].per_1k == {
        "input": 1000.0,
        "cache_read": None,
        "cache_write": None,
        "output": 2000.0,
    }
    assert other.costs[0].per_1k["output"] == 4000.0
    assert other.costs[0].priced_tokens == {"input": 3000, "cache_read": 0, "cache_write": 0, "output": 600}
    assert acme.costs[0].cost == Decimal(300 * 12)
    assert acme.costs[0].cost_per_request == 12.0
    assert (acme.group.requests, other.group.requests, other.group.error_rate) == (
        300,
        360,
        pytest.approx(1 / 6),
    )
    (pair,) = found.comparison.pairs
    assert pair.finding("error_rate").differs is True
    latency = pair.finding("latency_p50")
    assert latency.differs is True
    assert "the error rates differ" in latency.remark
    assert pair.finding("latency_p99").differs is None
    assert found.provenance.sequence == 1


def test_providers_that_served_other_models_are_said_to(costs):
    found = costs.compare_providers(since=DAY, until=NEXT)
    assert [line.provider for line in found.lines] == ["acme", "other", "third"]
    third = found.lines[2]
    assert any("not the same models" in remark for remark in third.remarks)
    assert any("1 of 1 billable requests have no price" in remark for remark in third.remarks)
    one_model = costs.compare_providers("acme", "other", since=DAY, until=NEXT, model="m")
    assert not any("same models" in remark for line in one_model.lines for remark in line.remarks)


def test_fewer_than_two_and_unknown_ones_are_refused(costs):
    with pytest.raises(CostsError, match="needs two providers; these days have third"):
        costs.compare_providers(since=DAY, until=NEXT, model="strange")
    with pytest.raises(PerformanceError, match="provider 'acmee' was ever logged; the nearest is acme"):
        costs.compare_providers("acmee", "other", since=DAY, until=NEXT)
    with pytest.raises(CostsError, match="swap them"):
        costs.compare_providers("acme", "other", since=NEXT, until=DAY)
