"""A registry to train into, and runs of Dagster's that are carried out in the test's process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.staleness import Staleness
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.training import RegistryResource

ME = Actor("tester")
Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def log(home: Path) -> Iterator[Log]:
    with Lake(str(home), process="test") as lake, Log(lake) as log:
        yield log


@pytest.fixture
def registry(log: Log) -> ModelRegistry:
    return ModelRegistry(log, actor=ME)


@pytest.fixture
def tracker(log: Log) -> LineageTracker:
    return LineageTracker(log, actor=ME)


@pytest.fixture
def staleness(log: Log) -> Staleness:
    return Staleness(log, actor=ME)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def run(home: Path, instance: dg.DagsterInstance) -> Run:
    """Materialize assets in one run; a failure is in the result."""

    def materialize(
        *assets: dg.AssetsDefinition,
        only: Sequence[dg.AssetsDefinition] = (),
        resources: Mapping[str, object] | None = None,
        within: dg.DagsterInstance = instance,
        run_id: str | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        defs = dg.Definitions(
            assets=assets,
            resources={"registry": RegistryResource(home=str(home)), **(resources or {})},
            jobs=[dg.define_asset_job("train", selection=list(only or assets))],
            executor=dg.in_process_executor,
        )
        job = defs.get_repository_def().get_job("train")
        return job.execute_in_process(
            run_config=run_config, instance=within, run_id=run_id, raise_on_error=False
        )

    return materialize


def refusal(result: dg.ExecuteInProcessResult) -> str:
    """The sentence that a run failed with."""
    assert not result.success
    (failed,) = [e for e in result.all_events if e.is_step_failure]
    data = failed.step_failure_data
    assert data.user_failure_data is not None, data.error
    return str(data.user_failure_data.description)


def made(result: dg.ExecuteInProcessResult, asset: dg.AssetsDefinition) -> dg.AssetMaterialization:
    """What a run said of an asset."""
    assert result.success
    (found,) = [
        event.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == asset.key
    ]
    return found
