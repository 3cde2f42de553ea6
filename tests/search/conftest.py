"""One lake per test process, and a tenant of its own for every test."""

from __future__ import annotations

import pytest

from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.search.models import ModelSearch
from tests.registry.conftest import log, registry, tenant, tracker

__all__ = ["log", "registry", "tenant", "tracker"]


@pytest.fixture
def searching(log: Log, registry: ModelRegistry) -> ModelSearch:
    """Searches of the actor that registers, in its tenant."""
    return ModelSearch(log, actor=registry.actor, tenant=registry.tenant)
