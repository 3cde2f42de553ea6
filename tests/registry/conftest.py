"""One lake per test process, and a tenant of its own for every test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.relationships import Relationships
from ml_registry_pipelines.registry.things import Things

ACTOR = Actor("p1", authenticated_by="test")
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as opened:
        yield opened


@pytest.fixture
def tenant() -> str:
    return f"t{next(_numbers)}"


@pytest.fixture
def registry(log: Log, tenant: str) -> ModelRegistry:
    return ModelRegistry(log, actor=ACTOR, tenant=tenant)


@pytest.fixture
def things(registry: ModelRegistry) -> Things:
    return registry.things


@pytest.fixture
def tracker(log: Log, tenant: str) -> LineageTracker:
    return LineageTracker(log, actor=ACTOR, tenant=tenant)


@pytest.fixture
def relationships(log: Log, tenant: str) -> Relationships:
    return Relationships(log, actor=ACTOR, tenant=tenant)
