"""Vectors in the graph: a sensor follows the registry, the asset says what was embedded, a check what is stale."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from assets.search import KEY, vectors_are_current
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from resources import RegistryResource
from tests.location import Location, open_location


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    with open_location(tmp_path_factory.mktemp("ui") / "home") as location:
        yield location


def check(location: Location) -> dg.AssetCheckResult:
    found = vectors_are_current(registry=RegistryResource(root=str(location.home)))
    assert isinstance(found, dg.AssetCheckResult)
    return found


def test_a_model_that_changes_is_embedded_by_a_run_and_a_check_says_what_waits(location: Location) -> None:
    assert location.requested("changed_models") == []
    with Lake(str(location.home)) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=Actor("p1"))
        registry.register_model("fraud", description="finds fraud")
        stale = check(location)
        assert (stale.passed, stale.severity) == (False, dg.AssetCheckSeverity.WARN)
        (request,) = location.requested("changed_models")
        assert location.execute(request, job="embed_models").success
        (record,) = location.instance.fetch_materializations(KEY, limit=5).records
        assert record.asset_materialization is not None
        told = {name: value.value for name, value in record.asset_materialization.metadata.items()}
        assert (told["embedded"], told["dagster/row_count"], told["embedder"]) == (1, 1, "wordllama")
        assert check(location).passed
        # What no vector is made of asks for no run.
        registry.things.register("team", "risk")
        assert location.requested("changed_models") == []
        registry.describe_model("fraud", "finds fraud in payments")
        assert "1 vectors are of an earlier text" in str(check(location).description)
        assert len(location.requested("changed_models")) == 1
