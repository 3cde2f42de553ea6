"""What every door says when a model is registered that may be there already."""

from __future__ import annotations

import warnings
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.jobs.registry import registry_jobs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.search.registering import NearDuplicateWarning
from resources import RegistryResource

ACTOR = Actor("p1")


def places(said: pytest.WarningsRecorder) -> list[str]:
    """Files from which near duplicates were warned of."""
    return [w.filename for w in said if w.category is NearDuplicateWarning]


@pytest.fixture
def home_with_fraud(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLREG_NEAR_DUPLICATES")
    with Lake(str(home)) as lake, Log(lake) as log:
        models = ModelRegistry(log, actor=ACTOR)
        models.register_model("fraud-cards", description="Finds card fraud.")
        models.create_model_version("fraud-cards", HostedModel("p", "1"))
    return home


def test_python_warns_where_the_verb_was_called_and_registers_all_the_same(home_with_fraud: Path) -> None:
    with Lake(str(home_with_fraud)) as lake, Log(lake) as log:
        models = ModelRegistry(log, actor=ACTOR)
        with pytest.warns(
            NearDuplicateWarning, match="Fraud_Cards may be there already: fraud-cards has"
        ) as said:
            assert models.register_model("Fraud_Cards").name == "Fraud_Cards"
        assert places(said) == [__file__]
        with pytest.warns(NearDuplicateWarning, match="fraud-cards@v1 has the same content") as said:
            models.create_model_version("Fraud_Cards", HostedModel("p", "1"))
        assert places(said) == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error", NearDuplicateWarning)
            models.register_model("churn", description="Foresees who leaves.")
            models.create_model_version("fraud-cards", HostedModel("p", "2"))


def test_another_tenants_models_are_no_duplicates(home_with_fraud: Path) -> None:
    with Lake(str(home_with_fraud)) as lake, Log(lake) as log, warnings.catch_warnings():
        warnings.simplefilter("error", NearDuplicateWarning)
        models = ModelRegistry(log, actor=ACTOR, tenant="acme")
        models.register_model("fraud_cards")
        models.create_model_version("fraud_cards", HostedModel("p", "1"))


def test_the_shell_prints_a_warning_beside_what_it_registered(home_with_fraud: Path) -> None:
    done = CliRunner().invoke(cli, ["models", "register", "fraud cards"])
    assert done.exit_code == 0
    assert "warning: fraud cards may be there already: fraud-cards has" in done.stderr
    assert "warning" not in done.stdout


def test_a_run_of_the_launchpad_shows_it_in_metadata_and_log(home_with_fraud: Path) -> None:
    jobs = {job.name: job for job in registry_jobs()}
    with dg.DagsterInstance.ephemeral() as instance:
        done = jobs["register_model"].execute_in_process(
            run_config={"name": "fraud.cards"},
            instance=instance,
            resources={"registry": RegistryResource(root=str(home_with_fraud))},
        )
        (told,) = [e for e in done.all_events if e.is_successful_output]
        said = told.step_output_data.metadata["near duplicates"].value
        logged = [entry.user_message for entry in instance.all_logs(done.run_id)]
    assert said == "fraud.cards may be there already: fraud-cards has nearly the same name"
    assert said in logged
