"""Dagster's SQLite storage as our `dagster.yaml` names it: the same files and answers as Dagster's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance import InstanceRef

from ml_registry_pipelines import services
from ml_registry_pipelines.settings import Environment, Settings
from ml_registry_pipelines.sqlite_storage import Runs


@dg.asset
def figures() -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"rows": 3})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings = Settings(
        home=str(tmp_path / "home"), environment=Environment.DEV, sources_file=None, tenant=None
    )
    place = services.prepare(settings)
    monkeypatch.setenv("DAGSTER_HOME", str(place))
    return place


@contextmanager
def opened(place: Path, *, ours: bool = True) -> Iterator[dg.DagsterInstance]:
    """The instance of the home; `ours`: as its file says, else with Dagster's own storage."""
    overrides = {} if ours else {"storage": {"sqlite": {"base_dir": str(place)}}}
    ref = InstanceRef.from_dir(str(place), overrides=overrides)
    with dg.DagsterInstance.from_ref(ref) as instance:
        assert isinstance(instance.run_storage, Runs) == ours
        yield instance


def seen(instance: dg.DagsterInstance) -> list[object]:
    """What both storages have to say alike."""
    runs = sorted(instance.get_runs(), key=lambda run: run.run_id)
    return [
        [(run.run_id, run.status) for run in runs],
        [[entry.message for entry in instance.all_logs(run.run_id)] for run in runs],
        instance.get_latest_materialization_event(figures.key),
        instance.get_daemon_heartbeats(),
        instance.all_instigator_state(),
    ]


@pytest.mark.soak
def test_dagsters_own_storage_and_ours_take_turns_on_the_same_files(place: Path) -> None:
    answers = []
    for ours in (True, False, True):
        with opened(place, ours=ours) as instance:
            assert dg.materialize([figures], instance=instance).success
            answers.append(seen(instance))
        with opened(place, ours=not ours) as instance:
            assert seen(instance) == answers[-1]
    assert [len(runs) for runs, *_ in answers] == [1, 2, 3]  # type: ignore[arg-type]


def test_events_of_many_threads_are_all_stored(place: Path) -> None:
    with opened(place) as instance:
        # Not whole runs: each configures logging anew, which Dagster does not let threads do together.
        with ThreadPoolExecutor(4) as pool:
            for number in range(40):
                event = dg.AssetMaterialization(figures.key, metadata={"number": number})
                pool.submit(instance.report_runless_asset_event, event)
        found = instance.fetch_materializations(figures.key, limit=100).records
        numbers = {record.asset_materialization.metadata["number"].value for record in found}  # type: ignore[union-attr]
        assert numbers == set(range(40))


def test_files_that_somebody_removed_are_made_again_by_a_process_that_had_seen_them(place: Path) -> None:
    with opened(place) as instance:
        assert dg.materialize([figures], instance=instance).success
    for folder in ("history", "schedules"):
        shutil.rmtree(place / folder)
    with opened(place) as instance:
        assert seen(instance)[0] == []
        assert instance.all_instigator_state() == []
        assert dg.materialize([figures], instance=instance).success
        assert len(instance.get_runs()) == 1
