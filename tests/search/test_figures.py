"""Searches by what models cost and how fast they answer, over the last days."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ml_registry_pipelines.search.language.errors import CursorError
from ml_registry_pipelines.search.models import ModelSearch
from tests.telemetry.attributed import ACTOR, World, call, opened

NOW = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two models: one cost 30 dollars two days ago and 10 forty days ago, the other 5 and failed once."""
    with opened(tmp_path_factory.mktemp("figures")) as made:
        for model, endpoint in (("dear", "one"), ("cheap", "two"), ("idle", "three")):
            made.versions(model, 1)
            made.deploy(model, f"{model}@v1", NOW - timedelta(days=60), endpoint=endpoint)
            made.rule(model, endpoint=endpoint)
        recent, long_ago = NOW - timedelta(days=2), NOW - timedelta(days=40)
        made.take(
            *(
                call(recent + timedelta(minutes=n), endpoint="one", event_id=f"r{n}", latency_ms=800.0 + n)
                for n in range(3)
            ),
            call(long_ago, endpoint="one", event_id="l"),
            call(recent, endpoint="two", event_id="c", in_uncached=5, latency_ms=90.0),
            call(
                recent, endpoint="two", event_id="f", in_uncached=0, status="error_unbilled", latency_ms=None
            ),
        )
        made.apply()
        yield made


@pytest.fixture
def searching(world: World) -> ModelSearch:
    return ModelSearch(world.log, actor=ACTOR, tenant=world.tenant)


def test_models_are_found_by_cost_requests_errors_and_latency_of_the_last_days(searching):
    def found(query):
        return [hit.name for hit in searching.search(query).hits]

    assert found("cost_30d = 30") == ["dear"]
    assert found("cost_50d = 40") == ["dear"]
    assert found("cost_30d > 1") == ["cheap", "dear"]
    assert found("cost_30d IS NULL") == ["idle"]
    assert found("requests_30d = 3 AND requests_50d = 4") == ["dear"]
    assert found("errors_30d >= 1 AND error_rate_30d = 0.5") == ["cheap"]
    assert found("latency_p50_30d > 500") == ["dear"]
    assert found("latency_p95_30d BETWEEN 80 AND 100") == ["cheap"]
    assert found("cost_1d IS NOT NULL") == []
    assert [h.name for h in searching.search(order_by="cost_30d DESC").hits] == ["dear", "cheap", "idle"]
    assert [h.reference for h in searching.search("cost_30d > 10", kind="version").hits] == ["dear@v1"]


def test_a_later_page_reads_the_figures_of_the_first(world, searching):
    first = searching.search(order_by="cost_30d DESC", limit=1)
    assert [hit.name for hit in first.hits] == ["dear"]
    many = [
        call(NOW - timedelta(days=1, minutes=n), endpoint="two", event_id=f"more{n}", in_uncached=100)
        for n in range(2)
    ]
    world.take(*many)
    world.apply()
    assert searching.search(order_by="cost_30d DESC").hits[0].name == "cheap"
    second = searching.search(order_by="cost_30d DESC", limit=1, cursor=first.cursor)
    assert [hit.name for hit in second.hits] == ["cheap"]
    searching.rebuild()
    with pytest.raises(CursorError, match="kept for an hour"):
        searching.search(order_by="cost_30d DESC", limit=1, cursor=first.cursor)
