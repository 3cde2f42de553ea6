"""The demo's models, without its logs: trained for real, interrupted anywhere, and in nobody's way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ml_registry_pipelines.access.policy import owner_of, platform
from ml_registry_pipelines.access.roles import Role
from ml_registry_pipelines.access.secret import make_secret
from ml_registry_pipelines.access.users import Users, accounts, actor_for_key
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.demo import DemoError, refuse_a_home_in_use
from ml_registry_pipelines.demo_governance import land_rules
from ml_registry_pipelines.demo_models import PROCESS, DemoModels, close_broken_off
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.staleness import Staleness
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.settings import Settings

ME = platform("tester")
PUBLISHED = {
    ("false_positive_rate_difference", "African-American"): 44.85,
    ("false_positive_rate_difference", "Caucasian"): 23.45,
    ("false_negative_rate_difference", "African-American"): 27.99,
    ("false_negative_rate_difference", "Caucasian"): 47.72,
}
"""In percent, as ProPublica printed them."""


class BrokenOff(Exception):
    """Somebody ended the demo."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def log(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setenv("MLREG_DEMO_DATA", "")  # which the demo sets, to be undone after the test
    monkeypatch.delenv("MLREG_API_KEY", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    (home / "dagster").mkdir(parents=True)
    make_secret(home / "dagster")
    land_rules(Settings.from_environment())
    with Lake(str(home), process="test") as lake, Log(lake) as log:
        yield log


def models(log: Log) -> DemoModels:
    return DemoModels(log, Settings.from_environment())


@pytest.mark.soak  # each break-off trains a model
@pytest.mark.parametrize("at_once", [4, 1])
def test_it_is_broken_off_between_steps_and_goes_on_where_it_ended(
    log: Log, instance: dg.DagsterInstance, at_once: int
) -> None:
    registry, tracker = ModelRegistry(log, actor=ME), LineageTracker(log, actor=ME)
    taken: list[str] = []

    def few_steps(title: str) -> None:
        if len(taken) == at_once:
            raise BrokenOff
        taken.append(title)

    steps = len(models(log).left())
    while models(log).left():
        taken.clear()
        try:
            models(log).work(instance, few_steps)
        except BrokenOff:
            assert len(models(log).left()) == steps - at_once
        steps -= len(taken)
    assert steps == 0

    stages = {
        version.reference: version.stage.value
        for model in registry.list_models()
        if "hosted" not in model.metadata
        for version in registry.list_versions(model.name)
    }
    assert stages == {
        "recidivism@v1": "shadow",
        "recidivism@v2": "staging",
        "credit-risk@v1": "production",
        "recidivism-rule@v1": "shadow",
    }
    stale = {s.name: s.stale for s in Staleness(log, actor=ME).of_models()}
    assert stale == {
        "recidivism@v1": True,
        "recidivism-rule@v1": True,
        "recidivism@v2": False,
        "credit-risk@v1": False,
    }
    assert [v.metadata["rows"] for v in tracker.dataset_versions("compas")] == [7214, 6172]
    assert [v.metadata["rows"] for v in tracker.dataset_versions("german-credit")] == [1000]
    assert registry.get_version("recidivism-rule@v1").metrics["accuracy"] == pytest.approx(0.6537, abs=1e-4)
    for reference, estimator in (
        ("recidivism@v1", "logisticregression__C"),
        ("credit-risk@v1", "n_estimators"),
    ):
        version = registry.get_version(reference)
        assert version.framework == "scikit-learn"
        assert 0.6 < version.metrics["accuracy"] < 0.9
        assert any(estimator in name for name in version.parameters), version.parameters
        registry.verify_version(reference)

    # Race is in the data, and no model that is deployed has looked at it.
    reached = tracker.get_impact_analysis("dataset", "compas", column="priors_count").deployments
    assert [r.node.name for r in reached] == ["recidivism-api"]
    assert tracker.get_impact_analysis("dataset", "compas", column="race").deployments == ()

    # The rule is refused with ProPublica's figures; the credit model is approved by another person than asked.
    compliance = ComplianceManager(log, actor=ME)
    (rule,) = compliance.get_checks("recidivism-rule@v1")
    assert rule.evidence.verdict is Verdict.FAIL
    rates = {
        (result.metric, group.name.removeprefix("race=")): round(100 * group.value, 2)
        for result in rule.evidence.results
        for group in result.groups
        if group.value is not None
    }
    assert {key: rates[key] for key in PUBLISHED} == PUBLISHED
    assert sum(group.n for group in rule.evidence.results[0].groups) == 7214
    history = compliance.get_governance_history(limit=1000).events
    (refused,) = [event for event in history if event.action == "refuse_at_gate"]
    assert "check wrongly taken for recidivists of suite demo-recidivism (race) failed" in refused.payload
    asked, approved = compliance.approvals.list(version="credit-risk@v1")[0], accounts(log).users
    assert [vote.decision.value for vote in asked.votes] == ["approve"]
    assert asked.author == asked.requested_by != asked.votes[0].by
    assert [role.value for role in approved[asked.votes[0].by].roles] == ["reviewer"]
    (promoted,) = [e for e in history if e.action == "promote_to_production" and e.entity_type != "approval"]
    assert promoted.actor == f"system-on-behalf-of-{asked.id}"
    assert all(event.authenticated_by != "unauthenticated" for event in history)
    assert all(verdict.damage is None for verdict in verify(log.lake))

    keys = Path(log.lake.root) / "demo-keys"
    assert {file.name: oct(file.stat().st_mode)[-3:] for file in keys.iterdir()} == {
        f"{role}.key": "600" for role in ("admin", "engineer", "reviewer", "compliance")
    }
    told = "\n".join(models(log).governance_lines())
    assert "African-American 44.85%, Caucasian 23.45%" in told
    assert "asked for by the engineer, approved by the reviewer; in production" in told
    assert not any(file.read_text().strip() in told for file in keys.iterdir())

    assert re.fullmatch(
        r"hosted    \d,\d{3} models of \d\d providers to search, .*", models(log).hosted_line()
    )
    said = models(log).lines()
    assert said[0].startswith("training  recidivism@v1")
    assert "stale: trained on compas@v1, which is at v2" in said[0]
    assert "current" in said[1]

    head = log.head("default")
    models(log).work(instance, taken.append)
    assert log.head("default") == head

    admin = actor_for_key(log, (keys / "admin.key").read_text().strip())
    registry = ModelRegistry(log, actor=admin)
    registry.rename_model("recidivism", "relapse")
    registry.delete_model("recidivism-rule")
    assert models(log).left() == []
    said = models(log).lines()
    assert [line.removeprefix("training").split()[0] for line in said] == [
        *("relapse@v1", "relapse@v2", "credit-risk@v1")
    ]


@pytest.mark.soak
def test_a_run_that_was_killed_after_the_data_changed_is_made_up_for(
    log: Log, instance: dg.DagsterInstance
) -> None:
    def until_the_change(title: str) -> None:
        if title.startswith("changing a dataset"):
            raise BrokenOff

    with pytest.raises(BrokenOff):
        models(log).work(instance, until_the_change)
    tracker = LineageTracker(log, actor=ME)
    (first,) = tracker.dataset_versions("compas")
    screened = Path(first.metadata["location"]).with_name("screened.parquet")
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = pq.read_table(first.metadata["location"])
    day = rows["days_b_screening_arrest"]
    kept = rows.filter(pc.and_(pc.greater_equal(day, -30), pc.less_equal(day, 30)))
    kept.to_pandas().to_parquet(screened, index=False)
    tracker.track_dataset("compas", screened)

    models(log).work(instance, lambda _: None)
    assert len(tracker.dataset_versions("compas")) == 2
    assert len(ModelRegistry(log, actor=ME).list_versions("recidivism")) == 2


def test_a_home_with_users_of_its_own_is_left_alone(home: Path, log: Log) -> None:
    Users(log, actor=owner_of(log.lake)).init()
    head = log.head("mlreg-access")
    with pytest.raises(DemoError, match="has users that are not the demo's"):
        refuse_a_home_in_use(Settings.from_environment())
    assert log.head("mlreg-access") == head


def test_a_key_that_was_kept_before_the_demo_was_killed_is_made_anew(log: Log) -> None:
    def killed(_: object) -> None:
        keys = models(log).people.folder
        keys.mkdir(parents=True, exist_ok=True)
        (keys / "admin.key").write_text(f"mlreg_{'0' * 16}_{'x' * 43}\n")
        raise BrokenOff

    with pytest.raises(BrokenOff):
        Users(log, actor=owner_of(log.lake)).init(keep=killed)
    people = models(log).people
    assert not people.has_key(Role.ADMIN)
    assert not people.strangers()
    people.make(Role.ADMIN)
    assert people.has_key(Role.ADMIN)
    assert people.actor(Role.ADMIN).authenticated_by == "api_key"


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_registry_that_uses_a_name_of_the_demo_is_left_alone(kind: str, home: Path, log: Log) -> None:
    registry = ModelRegistry(log, actor=ME)
    name = {"model": "recidivism", "dataset": "compas"}[kind]
    registry.things.register(kind, name)
    head = log.head("default")
    with pytest.raises(DemoError, match=f"has a {kind} '{name}' that is not the demo's"):
        refuse_a_home_in_use(Settings.from_environment())
    assert log.head("default") == head
    registry.things.delete(kind, name)
    refuse_a_home_in_use(Settings.from_environment())


def test_runs_of_a_killed_demo_are_closed_and_those_of_a_living_one_are_not(
    instance: dg.DagsterInstance,
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()

    @dg.op
    def nothing() -> None: ...

    @dg.job
    def idle() -> None:
        nothing()

    def started(process: int | None) -> str:
        tags = {} if process is None else {PROCESS: str(process)}
        run = instance.create_run_for_job(job_def=idle, tags=tags, status=dg.DagsterRunStatus.STARTED)
        return run.run_id

    killed, alive, others = started(dead.pid), started(os.getpid()), started(None)
    close_broken_off(instance)
    status = {run.run_id: run.status for run in instance.get_runs()}
    assert status[killed] is dg.DagsterRunStatus.CANCELED
    assert {status[alive], status[others]} == {dg.DagsterRunStatus.STARTED}
