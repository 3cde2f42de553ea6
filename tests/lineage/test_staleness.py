"""Whether a version was trained on the data of now, in Python and at the shell."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.registry import attach
from ml_registry_pipelines.lineage.staleness import Staleness
from ml_registry_pipelines.registry.artifacts import HostedModel, Uri
from ml_registry_pipelines.registry.versions import VersionFacts
from tests.registry.conftest import ACTOR

HOSTED = HostedModel("p", "s")


@pytest.fixture
def stale(log, tenant):
    return Staleness(log, actor=ACTOR, tenant=tenant)


def track(tracker, name: str, n: int) -> None:
    tracker.track_dataset(name, Uri(f"s3://b/{n}", f"{n:064x}"))


def make(registry, model: str, *trained_on: str) -> None:
    registry.create_model_version(model, HOSTED, VersionFacts(trained_on=trained_on))


def test_a_version_is_stale_from_the_moment_that_its_data_has_a_newer_version(registry, tracker, stale):
    track(tracker, "credit", 1)
    registry.register_model("fraud")
    make(registry, "fraud", "credit@v1")
    assert not stale.of_version("fraud@v1").stale
    before = datetime.now(UTC)
    track(tracker, "credit", 2)
    found = stale.of_version("fraud@v1")
    assert [(b.dataset, b.trained_on, b.newest) for b in found.behind] == [("credit", 1, 2)]
    assert found.sentence.startswith("trained on credit@v1, which is at v2 since")
    assert not stale.of_version("fraud@v1", as_of=before).stale


def test_of_several_versions_of_a_dataset_the_newest_counts_and_of_several_datasets_each(
    registry, tracker, stale
):
    for n in (1, 2):
        track(tracker, "credit", n)
        track(tracker, "income", 10 + n)
    registry.register_model("fraud")
    make(registry, "fraud", "credit@v1", "credit@v2")
    make(registry, "fraud", "credit@v2", "income@v1")
    assert not stale.of_version("fraud@v1").stale
    assert [b.dataset for b in stale.of_version("fraud@v2").behind] == ["income"]


def test_a_version_without_recorded_data_and_one_of_a_deleted_dataset_are_not_called_stale(
    registry, tracker, stale
):
    track(tracker, "gone", 1)
    registry.register_model("fraud")
    make(registry, "fraud")
    make(registry, "fraud", "gone@v1")
    track(tracker, "gone", 2)
    registry.things.delete("dataset", "gone")
    assert stale.of_version("fraud@v1").compared == 0
    assert "nothing to compare" in stale.of_version("fraud@v1").sentence
    assert not stale.of_version("fraud@v2").stale


def test_live_versions_are_those_in_a_live_stage_with_an_alias_or_deployed(registry, tracker, stale):
    track(tracker, "credit", 1)
    registry.register_model("fraud")
    for _ in range(5):
        make(registry, "fraud", "credit@v1")
    registry.promote_to_production("fraud@v1")
    registry.set_alias("fraud@v2", "champion")
    tracker.track_deployment("api", "fraud@v3", environment="prod")
    track(tracker, "credit", 2)
    assert [s.name for s in stale.of_models()] == ["fraud@v1", "fraud@v2", "fraud@v3"]
    assert len(stale.of_models("fraud", every_version=True)) == 5
    (deployment,) = stale.of_deployments()
    assert (deployment.name, deployment.stage, deployment.stale) == ("api", "prod", True)
    tracker.end_deployment("api")
    assert stale.of_deployments() == []


def test_the_shell_lists_what_is_stale_and_can_fail_on_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLREG_TENANT", raising=False)
    group = click.Group("mlreg")
    attach(group)

    def mlreg(*arguments: object):
        return CliRunner().invoke(group, [str(a) for a in arguments])

    data, model = tmp_path / "d.csv", tmp_path / "w.bin"
    data.write_text("a\n1\n")
    model.write_bytes(b"w")
    mlreg("datasets", "track", "credit", data)
    mlreg("models", "register", "fraud")
    mlreg("models", "add-version", "fraud", model, "--trained-on", "credit@v1")
    mlreg("models", "promote", "fraud@v1")
    assert mlreg("models", "stale", "--fail").output == "0 of 1 are stale\n"
    data.write_text("a\n2\n")
    mlreg("datasets", "track", "credit", data)
    done = mlreg("models", "stale", "--fail")
    assert done.exit_code == 1
    assert "stale    version     fraud@v1  production  trained on credit@v1, which is at v2" in done.output
    assert done.output.endswith("1 of 1 are stale\n")
