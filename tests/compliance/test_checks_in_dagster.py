"""Declared checks in the asset graph, the job that runs them, and the suites on production predictions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from ml_registry_pipelines import catalog, catalog_checks
from ml_registry_pipelines.catalog import RegistryCatalog
from ml_registry_pipelines.compliance import metrics
from ml_registry_pipelines.compliance.evaluations import Columns, Evaluations
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.compliance.suites.asset_checks import (
    TAKEN,
    DeclaredCheck,
    identifier,
    named_apart,
)
from ml_registry_pipelines.jobs.checks import checks_jobs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.training import (
    Checks,
    TrainedModel,
    TrainingSet,
    tracked_dataset,
    trained_model,
)
from ml_registry_pipelines.training import RegistryResource as TrainingRegistry
from resources import LakeResource, RegistryResource
from tests.compliance import suite_metrics

pytestmark = pytest.mark.xdist_group("great_expectations")
ACTOR = Actor("officer")
KEY = dg.AssetKey(["models", "default", "risk", "v1"])
SUITE = """\
suite: fair
expectations:
  - metric: given_value
    severity: critical
    article: AI Act 10(2)(f)
    at_most: 0.1
    parameters: {values: [0.05], half_width: 0.01}
  - metric: selection_difference
    severity: warning
    at_most: 0.9
  - metric: raising
    severity: critical
    at_most: 1
"""


@pytest.fixture(autouse=True)
def _metrics_of_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(metrics, "AREAS", (suite_metrics.__name__,))
    metrics.catalogue.cache_clear()
    yield
    metrics.catalogue.cache_clear()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """A registry with version 1 of `risk` in staging, with an evaluation of four rows and suite `fair`."""
    home = tmp_path_factory.mktemp("home")
    (home / "suites").mkdir()
    (home / "suites/fair.yaml").write_text(SUITE)
    (home / "model.bin").write_bytes(b"model")
    with Lake(str(home)) as lake, Log(lake) as opened:
        registry = ModelRegistry(opened, actor=ACTOR)
        registry.register_model("risk")
        registry.create_model_version("risk", home / "model.bin")
        registry.set_stage("risk@v1", "staging")
        desk = Evaluations(opened, actor=ACTOR)
        columns = Columns(prediction="says", groups={"sex": "sex"}, positive=("1",), observed="at")
        desk.declare_evaluation("risk@v1", columns, suites=["fair"])
        now = datetime.now(UTC)
        rows = pa.table(
            {"says": [1, 1, 0, 1], "sex": ["f", "f", "m", "m"], "at": [now - timedelta(days=2)] * 4}
        )
        desk.record_evaluation("risk@v1", rows)
        desk.record_evaluation("risk@v1", rows.slice(0, 3), origin="production")
        yield opened


def shown(log: Log) -> catalog.Shown:
    return catalog.show(RegistryCatalog(home=log.lake.root).read(log).catalogue)


def said(log: Log) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    found = catalog.evaluations(shown(log), log)
    return {(e.asset_key.path[-1], e.check_name): e for e in found}


def value(event: dg.AssetCheckEvaluation | dg.AssetMaterialization, name: str) -> Any:
    return event.metadata[name].value


def test_each_expectation_of_a_declared_suite_is_a_check_that_blocks_where_it_is_severe(log):
    specs = {s.name: s for s in catalog.check_specs(shown(log)) if s.asset_key == KEY}
    blocking = {name: spec.blocking for name, spec in specs.items() if name not in TAKEN}
    assert blocking == {
        "given_value": True,
        "selection_difference": False,
        "raising": True,
    }
    on_model = [s.name for s in catalog.check_specs(shown(log)) if s.asset_key.path[-1] == "risk"]
    assert catalog_checks.ON_MODEL in on_model


def test_what_the_newest_run_said_is_shown_and_only_a_pass_has_passed(log):
    ComplianceManager(log, actor=ACTOR).run_compliance_checks("risk@v1")
    found = said(log)
    passed = {name: e.passed for (asset, name), e in found.items() if asset == "v1" and name not in TAKEN}
    assert passed == {"given_value": True, "selection_difference": True, "raising": False}
    one = found["v1", "given_value"]
    facts = [value(one, name) for name in ("verdict", "observed", "threshold", "article")]
    assert facts == ["pass", 0.05, "at most 0.1", "AI Act 10(2)(f)"]
    assert value(one, "group sizes") == {"kind=a": 100, "kind=b": 3}
    assert value(found["v1", "selection_difference"], "table versions")["evaluation_data"] > 0
    raising = found["v1", "raising"]
    assert raising.severity is dg.AssetCheckSeverity.ERROR
    assert "could_not_run: it raised KeyError" in (raising.description or "")
    assert not found["risk", catalog_checks.ON_MODEL].passed


def test_an_edited_suite_takes_its_passes_back_until_it_is_run_again(log):
    ComplianceManager(log, actor=ACTOR).run_compliance_checks("risk@v1")
    path = Path(log.lake.root, "suites/fair.yaml")
    path.write_text(SUITE.replace("at_most: 0.1", "at_most: 0.01"))
    try:
        one = said(log)["v1", "given_value"]
        assert (one.passed, value(one, "verdict")) == (False, "could_not_run")
        assert "has changed, or is gone, since it was run" in (one.description or "")
        path.unlink()
        (one,) = (e for (_, name), e in said(log).items() if name not in TAKEN)
        assert (one.passed, one.check_name) == (False, "suite_is_readable__fair")
        specs = {s.name: s.blocking for s in catalog.check_specs(shown(log)) if s.name not in TAKEN}
        assert specs == {one.check_name: True}
    finally:
        path.write_text(SUITE)


def test_checks_of_one_version_have_names_that_are_told_apart_at_a_glance():
    every = [
        DeclaredCheck(identifier(check), suite, check, blocking=True, description="")
        for suite, check in (
            ("security", "security_s1_hash_mismatches"),
            ("fair", "four fifths, women and men"),
            ("other", "four fifths: women and men"),
            ("fair", "Größe"),
            ("fair", "Gr__e"),
            ("fair", "Gr e"),
            ("fair", "???"),
            ("fair", "compliance checks"),
            ("fair", "x" * 300),
            ("fair", "x" * 301),
        )
    ]
    names = [check.name for check in named_apart(every)]
    assert names[:3] == [
        "security_s1_hash_mismatches",
        "four_fifths_women_and_men__fair",
        "four_fifths_women_and_men__other",
    ]
    assert names[7] == "compliance_checks__fair"
    assert len({name.lower() for name in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_]{1,100}", name) for name in names)
    assert not TAKEN & set(names)


def test_checks_that_could_not_be_judged_for_sure_do_not_pass(log):
    path = Path(log.lake.root, "suites/fair.yaml")
    path.write_text(SUITE.replace("half_width: 0.01", "half_width: 0.09"))
    try:
        ComplianceManager(log, actor=ACTOR).run_compliance_checks("risk@v1")
        one = said(log)["v1", "given_value"]
        assert (one.passed, value(one, "verdict")) == (False, "inconclusive")
    finally:
        path.write_text(SUITE)


def test_the_job_runs_the_declared_suites_and_links_their_data_docs(log):
    job = next(job for job in checks_jobs() if job.name == "run_compliance_checks")
    done = job.execute_in_process(
        run_config={"version": "risk@v1"}, resources={"registry": RegistryResource(root=log.lake.root)}
    )
    (told,) = [e for e in done.all_events if e.event_type is dg.DagsterEventType.STEP_OUTPUT]
    metadata: Any = told.step_output_data.metadata
    assert metadata["verdict"].value == "could_not_run"
    page = Path(str(metadata["data docs"].value))
    pages = [page, *page.parent.rglob("*.html")]
    texts = [each.read_text() for each in pages]
    assert any("given_value" in text for text in texts)
    assert not any("anna@example.org" in text or 'src="https://' in text for text in texts)


def test_suites_are_run_again_on_production_predictions(log):
    from assets.compliance import production_checks

    root = log.lake.root
    done = dg.materialize(
        [production_checks],
        resources={"lake": LakeResource(root=root), "registry": RegistryResource(root=root)},
    )
    (made,) = done.asset_materializations_for_node("compliance__production_checks")
    assert (value(made, "versions"), value(made, "could_not_run")) == (1, 1)
    (newest,) = ComplianceManager(log, actor=ACTOR).get_checks("risk@v1", limit=1)
    verdicts = {r.check: r.verdict for r in newest.evidence.results}
    assert {r.suite for r in newest.evidence.results} == {"fair@production"}
    assert (verdicts["given_value"], verdicts["selection_difference"]) == (Verdict.PASS, Verdict.FAIL)
    assert newest.problem == ""


def test_a_training_asset_is_checked_in_its_own_run(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLREG_HOME", str(tmp_path))
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/fair.yaml").write_text(SUITE)
    (tmp_path / "people.csv").write_text("age\n20\n30\n")
    (tmp_path / "model.bin").write_bytes(b"model")
    rows = pa.table(
        {"says": [1, 1, 0, 1], "sex": ["f", "f", "m", "m"], "name": ["Anna", "Bert", "Cara", "Dora"]}
    )

    @tracked_dataset("people")
    def people() -> Path:
        return Path(tmp_path, "people.csv")

    columns = Columns(prediction="says", groups={"sex": "sex"}, positive=("1",))

    @trained_model("own", trained_on={"given": people}, checks=Checks(columns, ["fair"]))
    def own(given: TrainingSet) -> TrainedModel:
        given.to_arrow()
        return TrainedModel(tmp_path / "model.bin", evaluation=rows.to_pandas())

    (own_key,) = own.keys
    assert {spec.name: spec.blocking for spec in own.check_specs}["given_value"] is True
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [people, own], resources={"registry": TrainingRegistry()}, instance=instance, raise_on_error=False
        )
    said = {e.check_name: e for e in done.get_asset_check_evaluations()}
    assert {name: e.passed for name, e in said.items()} == {
        "given_value": True,
        "selection_difference": True,
        "raising": False,
    }
    one = said["selection_difference"]
    assert (one.asset_key, value(one, "observed")) == (own_key, 0.5)
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        (run,) = ComplianceManager(log, actor=ACTOR).get_checks("own@v1")
        assert run.problem == ""
        assert not any(b"Anna" in file.read_bytes() for file in tmp_path.rglob("*evaluation_data*/*.parquet"))
