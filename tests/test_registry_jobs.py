"""The registry's commands from the Launchpad."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from ml_registry_pipelines.definitions import build_defs
from ml_registry_pipelines.jobs.registry import registry_jobs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import UNAUTHENTICATED, Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.relationships import Relationships
from ml_registry_pipelines.registry.versions import Stage
from ml_registry_pipelines.settings import Environment, Settings
from ml_registry_pipelines.telemetry.attribution import Attribution
from resources import RegistryResource

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Iterator[Run]:
    jobs = {job.name: job for job in registry_jobs()}
    with dg.DagsterInstance.ephemeral() as instance:

        def execute(
            job: str, *, run_tags: dict[str, str] | None = None, **form: Any
        ) -> dg.ExecuteInProcessResult:
            return jobs[job].execute_in_process(
                run_config=form,
                instance=instance,
                raise_on_error=False,
                resources={"registry": RegistryResource(root=str(home), form_folders=[str(tmp_path)])},
                tags=run_tags,
            )

        yield execute


@pytest.fixture
def models(home: Path) -> Iterator[ModelRegistry]:
    with Lake(str(home), process="test") as lake, Log(lake) as log:
        yield ModelRegistry(log, actor=Actor("reader"))


def reason(done: dg.ExecuteInProcessResult) -> str:
    assert not done.success
    (failed,) = [e for e in done.all_events if e.is_step_failure]
    told = failed.step_failure_data.user_failure_data
    assert told is not None
    return str(told.description)


def shown(done: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What the run's page shows of what came of it."""
    assert done.success
    (output,) = [e for e in done.all_events if e.is_successful_output]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def test_a_model_goes_from_registration_to_deployment_and_retirement(run, models, tmp_path):
    (tmp_path / "w.bin").write_bytes(b"weights")
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    assert run("track_dataset", name="credit", source=str(tmp_path / "d.csv")).success
    assert run(
        "register_model", name="fraud", owners=["team:risk"], tags={"tier": "1", "live": "true"}
    ).success
    assert run(
        "create_model_version",
        model="fraud",
        path=str(tmp_path / "w.bin"),
        metrics={"auc": 0.9},
        parameters='{"depth": 3}',
        trained_on=["credit@v1"],
    ).success
    assert run("create_model_version", model="fraud", provider="p", snapshot="s").success
    assert run("set_model_stage", version="fraud@v2", stage="SHADOW").success
    promoted = shown(run("promote_to_production", version="fraud@v1"))
    assert (promoted["name"], promoted["state"]) == ("fraud@v1", "production")
    assert run("promote_to_production", version="fraud@v2", former="STAGING").success
    assert run("roll_back_model", model="fraud", reason="worse").success
    aliased = shown(run("set_model_alias", version="fraud@v1", alias="champion"))
    assert (aliased["name"], aliased["event"]) == ("fraud", models.get_model("fraud").sequence)
    assert run("tag_model", name="fraud", tags={"since": "2026-01-01"}, remove=["tier"]).success
    served = shown(run("track_deployment", name="api", version="fraud@champion", environment="prod"))
    assert (served["name"], served["state"]) == ("api", "live")
    over = {"start": "2026-01-01", "end": "2026-02-01T12:00Z"}
    assert run("track_deployment", name="api", version="fraud@v2", environment="prod", **over).success
    assert run("add_attribution_rule", deployment="api", model="gpt-*", valid_from="2026-01-01").success
    assert run("end_attribution_rule", rule="rule-1", end="2026-05-01").success
    (rule,) = Attribution(models.log, actor=Actor("reader")).rules()
    assert (rule.conditions["model"], rule.valid_from, rule.valid_to) == (
        "gpt-*",
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 5, 1, tzinfo=UTC),
    )
    assert run("remove_attribution_rule", rule="rule-1").success
    assert run("end_deployment", name="api", end="").success
    deployed = LineageTracker(models.log, actor=Actor("reader")).deployments_on(date(2026, 2, 1))
    assert [d.version for d in deployed] == ["fraud@v2"]
    assert run("deprecate_model", name="fraud", reason="old").success
    assert run("reinstate_model", name="fraud").success
    model, version = models.get_model("fraud"), models.get_version("fraud@v1")
    assert dict(model.aliases) == {"champion": 1}
    assert str(model.tags["since"]) == "2026-01-01"
    assert model.tags["live"] is True
    assert (version.stage, version.metrics, version.parameters) == (
        Stage.PRODUCTION,
        {"auc": 0.9},
        {"depth": 3},
    )


def test_things_and_relationships_have_forms_of_their_own(run, models, tmp_path):
    (tmp_path / "things.jsonl").write_text('{"name": "till"}\n{"name": "app"}\n')
    (tmp_path / "edges.jsonl").write_text('{"source": "model:fraud", "target": "application:app"}\n')
    assert run("register_many", kind="application", path=str(tmp_path / "things.jsonl")).success
    assert run("register_thing", kind="model", name="scorer", metadata='{"a": 1}', tags={"n": "1"}).success
    assert run("rename_thing", kind="model", name="scorer", to="fraud").success
    assert run("describe_thing", kind="model", name="fraud", description="cards").success
    assert run("set_owners", kind="model", name="fraud", owners=["team:risk"]).success
    assert run("tag_thing", kind="model", name="fraud", tags={"x": "true"}, remove=["n"]).success
    assert run("set_metadata", kind="model", name="fraud", metadata='{"b": 2}').success
    assert run("deprecate_thing", kind="application", name="till", reason="old", replacement="app").success
    assert run("reinstate_thing", kind="application", name="till").success
    assert run("delete_thing", kind="application", name="till").success
    assert run("restore_thing", kind="application", name="till").success
    ends = {"type": "used_by", "source": "model:fraud", "target": "application:till"}
    assert run("relate", **ends, properties='{"n": 1}', flow="TO_TARGET").success
    assert run("unrelate", **ends).success
    assert run("relate_many", type="used_by", path=str(tmp_path / "edges.jsonl")).success
    assert run("create_model_version", model="fraud", provider="p", snapshot="s").success
    assert run("set_model_alias", version="fraud@v1", alias="champion").success
    assert run("protect_model_alias", model="fraud", alias="champion").success
    assert "is protected" in reason(run("remove_model_alias", model="fraud", alias="champion"))
    assert run("unprotect_model_alias", model="fraud", alias="champion").success
    assert run("remove_model_alias", model="fraud", alias="champion").success
    model = models.get_model("fraud")
    assert (model.description, model.owners, model.tags, model.metadata, model.aliases) == (
        "cards",
        ("team:risk",),
        {"x": True},
        {"b": 2},
        {},
    )
    edges = Relationships(models.log, actor=Actor("reader"))
    assert [r.type for r in edges.list("application", "app")] == ["used_by"]
    assert edges.list("application", "till") == []


@pytest.mark.parametrize(
    ("job", "form", "sentence"),
    [
        ("register_model", {"name": " "}, "is empty"),
        ("create_model_version", {"model": "fraud"}, "give one of path, uri with sha256"),
        ("create_model_version", {"model": "fraud", "uri": "s3://x"}, "needs its sha256"),
        ("create_model_version", {"model": "fraud", "path": "/nowhere"}, "there is no model 'fraud'"),
        ("create_model_version", {"model": "fraud", "path": "/x", "parameters": "[1]"}, "give an object"),
        ("promote_to_production", {"version": "fraud"}, "is no version; write"),
        ("track_dataset", {"name": "d", "source": "/nowhere.csv"}, "name its folder in MLREG_FORM_FOLDERS"),
        ("end_deployment", {"name": "d", "end": "soon"}, "is no time; write"),
        ("register_model", {"name": "m", "tags": {"z": "NaN"}}, "a tag's number is finite"),
        ("register_thing", {"kind": "team", "name": "t", "metadata": "[1]"}, "give an object"),
        ("relate", {"type": "feeds", "source": "nowhere", "target": "team:t"}, "nowhere"),
        ("register_many", {"kind": "team", "path": "/nowhere.jsonl"}, "/nowhere.jsonl"),
        ("add_attribution_rule", {"deployment": "d", "model": "m"}, "there is no deployment 'd'"),
        (
            "track_deployment",
            {"name": "d", "version": "m@v1", "environment": "e", "traffic_share": 2.0},
            "between",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_in_the_failure_of_the_run(run, job, form, sentence):
    told = reason(run(job, **form))
    assert sentence in told
    assert "\n" not in told
    assert "Traceback" not in told


def test_a_run_that_is_executed_again_gives_its_command_once(home, models):
    location = build_defs(Settings(str(home), Environment.DEV, None, None)).get_repository_def()
    job = location.get_job("register_model")
    with dg.DagsterInstance.ephemeral() as instance:
        first = instance.create_run_for_job(job, run_config={"name": "fraud"})
        again = instance.create_run_for_job(
            job, run_config={"name": "fraud"}, parent_run_id=first.run_id, root_run_id=first.run_id
        )
        for run in (first, again):
            assert execute_run(InMemoryJob(job), run, instance).success
    assert len(models.history("fraud")) == 1


def test_a_form_refuses_what_is_no_choice_before_anything_runs(run):
    with pytest.raises(dg.DagsterInvalidConfigError):
        run("set_model_stage", version="fraud@v1", stage="PRODUCTION")


def test_neither_form_nor_tag_says_who_acts(run, models):
    run("register_model", run_tags={"user": "root"}, name="fraud")
    (event,) = models.history("fraud")
    assert (event.actor, event.authenticated_by) == ("launchpad", UNAUTHENTICATED)
    assert event.run_id
    with pytest.raises(dg.DagsterInvalidConfigError):
        run("register_model", name="other", actor="root")


@pytest.mark.parametrize(
    "field",
    [
        {"description": {"env": "OF_THE_SERVICE"}},
        {"owners": ["team:risk", {"env": "OF_THE_SERVICE"}]},
        {"tags": {"tier": {"env": "OF_THE_SERVICE"}}},
    ],
)
def test_no_form_takes_a_value_from_the_environment_of_the_service(run, models, monkeypatch, field):
    """Dagster fills such a field from there, and the log could not forget what it was filled with."""
    monkeypatch.setenv("OF_THE_SERVICE", "team:secret")
    [name] = field
    assert reason(run("register_model", name="m", **field)) == (
        f"{name} asks for a variable of the environment; write the value itself"
    )
    assert models.list_models() == []


def test_a_tag_may_be_called_env(run, models):
    assert run("register_model", name="m", tags={"env": "prod"}).success
    assert models.get_model("m").tags == {"env": "prod"}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """A file that the service can read and no form may: beside the folder that forms may read from."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "service.csv")
        file.write_text("key\nswordfish\n")
        yield file


@pytest.mark.parametrize(
    ("job", "form"),
    [
        ("create_model_version", {"model": "m", "path": "PATH"}),
        ("create_model_version", {"model": "m", "uri": "PATH", "sha256": "0" * 64}),
        ("create_model_version", {"model": "m", "uri": "file://PATH", "sha256": "0" * 64}),
        ("track_dataset", {"name": "d", "source": "PATH"}),
        ("track_dataset", {"name": "d", "source": "PATH", "sha256": "0" * 64}),
        ("track_dataset", {"name": "d", "source": "s3://elsewhere/table"}),
        ("register_many", {"kind": "team", "path": "PATH"}),
        ("relate_many", {"type": "feeds", "path": "PATH"}),
    ],
)
def test_a_form_has_nothing_read_but_what_lies_in_its_folders(run, models, tmp_path, kept, job, form):
    """Whether the file is there, its digest, its columns: nothing of it is told, by its name or through a link."""
    run("register_model", name="m")
    suffix = ".jsonl" if "many" in job else ".csv"
    kept = kept.rename(kept.with_suffix(suffix))
    (tmp_path / f"link{suffix}").symlink_to(kept)
    (tmp_path / "folder").symlink_to(kept.parent)
    absent = kept.with_name(f"absent{suffix}")
    through = tmp_path / "folder" / kept.name
    for path in (kept, absent, tmp_path / f"link{suffix}", through, tmp_path / ".." / kept):
        given = {name: value.replace("PATH", str(path)) for name, value in form.items()}
        told = reason(run(job, **given))
        assert "leads into no folder that a form may have read" in told
        assert "MLREG_FORM_FOLDERS" in told
        assert "swordfish" not in told
    assert models.list_versions("m") == []


def test_a_form_reads_from_the_intake_of_the_home_and_from_nothing_else_in_it(run, models, home):
    (home / "intake").mkdir(parents=True)
    (home / "intake" / "w.bin").write_bytes(b"weights")
    (home / "bills.yaml").write_text("secret: 1")
    run("register_model", name="m")
    assert run("create_model_version", model="m", path=str(home / "intake" / "w.bin")).success
    for inside in ("bills.yaml", "tables", "intake/../bills.yaml", "."):
        told = reason(run("create_model_version", model="m", path=str(home / inside)))
        assert "leads into no folder" in told
    assert "leads into no folder" in reason(run("track_dataset", name="d", source=f"{home}/tables/things"))
    assert len(models.list_versions("m")) == 1


def test_a_table_in_an_allowed_folder_leads_to_no_file_elsewhere(run, tmp_path, kept):
    from deltalake import write_deltalake

    table = tmp_path / "table"
    write_deltalake(str(table), pa.table({"a": [1]}))
    assert run("track_dataset", name="d", source=str(table)).success
    (file,) = table.glob("*.parquet")
    log = next((table / "_delta_log").glob("*.json"))
    log.write_text(log.read_text().replace(file.name, f"file://{kept}"))
    assert "a file outside itself" in reason(run("track_dataset", name="d", source=str(table)))
    (table / "more").symlink_to(kept.parent)
    assert "is a link" in reason(run("track_dataset", name="d", source=str(table)))
