"""The sensor keeps the registry in step with a tracking server, through real runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import dagster as dg
import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.exchange import attach
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from tests.exchange.conftest import ACTOR, Mlflow
from tests.location import Location, open_location


@pytest.fixture
def location(tmp_path: Path) -> Iterator[Location]:
    with open_location(tmp_path / "home") as location:
        yield location


def _versions(location: Location, model: str) -> list[int]:
    with Lake(str(location.home)) as lake, Log(lake) as log:
        return [v.number for v in ModelRegistry(log, actor=ACTOR).list_versions(model)]


def _in_step(location: Location) -> list[dg.ExecuteInProcessResult]:
    return [location.execute(r, job="import_mlflow") for r in location.requested("mlflow_changes")]


def test_a_change_there_becomes_a_run_and_no_change_none(mlflow: Mlflow, location: Location, monkeypatch):
    monkeypatch.setenv("MLREG_MLFLOW", mlflow.uri)
    mlflow.simple("a")
    [result] = _in_step(location)
    assert result.success
    assert _versions(location, "a") == [1]
    assert _in_step(location) == []
    mlflow.simple("a")
    [result] = _in_step(location)
    assert _versions(location, "a") == [1, 2]
    [materialized] = result.asset_materializations_for_node("registry__mlflow_models")
    assert materialized.metadata["versions_new"].value == 1
    # Back to what it was before is a change, too.
    mlflow.ask("POST", "registered-models/alias", name="a", alias="best", version="1")
    assert len(_in_step(location)) == 1
    mlflow.ask("DELETE", "registered-models/alias", name="a", alias="best")
    assert len(_in_step(location)) == 1


def test_a_server_that_is_away_is_an_alert_until_it_is_back(mlflow: Mlflow, location: Location, monkeypatch):
    monkeypatch.setattr("ml_registry_pipelines.exchange.mlflow_server.PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("MLREG_MLFLOW", "http://127.0.0.1:1")
    assert _in_step(location) == []
    assert location.alerts() == [("mlflow_failing/server", "opened")]
    monkeypatch.setenv("MLREG_MLFLOW", mlflow.uri)
    assert len(_in_step(location)) == 1
    assert location.alerts()[-1] == ("mlflow_failing/server", "resolved")


def test_without_a_server_nothing_is_asked_for(location: Location, monkeypatch):
    monkeypatch.delenv("MLREG_MLFLOW", raising=False)
    assert "MLREG_MLFLOW names no MLflow server" in str(location.tick("mlflow_changes").skip_message)


def test_an_import_from_a_shell_says_what_it_did_and_fails_with_what_failed(
    mlflow: Mlflow, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLREG_TENANT", raising=False)
    group = click.Group("mlreg")
    attach(group)
    mlflow.simple("a")
    run = mlflow.run()
    mlflow.ask("POST", "registered-models/create", name="b")
    mlflow.ask("POST", "model-versions/create", name="b", source="s3://bucket/x", run_id=run)
    done = CliRunner().invoke(group, ["import", "mlflow", "--uri", mlflow.uri])
    assert done.exit_code == 1
    assert "2 models new, 1 versions new" in done.output
    assert "failed: b version 1 was not taken over" in done.output
    done = CliRunner().invoke(
        group, ["import", "mlflow", "--uri", mlflow.uri, "--without-artifacts", "--quiet"]
    )
    assert done.exit_code == 0
    assert done.output.startswith("1 versions new, 2 unchanged, 1 not mapped")
