"""Approvals from outside: the shell, the jobs and their sensor, the pages, the records, and who is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlparse

import pytest
import yaml
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.compliance.approvals.approval import Status
from ml_registry_pipelines.compliance.approvals.notices import settle_all, tell_turns
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.operations.alerts import Alerts
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.events import Event
from ml_registry_pipelines.registry.gate import GateRefused
from ml_registry_pipelines.reports.evidence_page import evidence_page
from ml_registry_pipelines.reports.governance_page import governance_page
from tests.compliance.office import POLICY, Office


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    opened = Office(tmp_path_factory.mktemp("doors"))
    yield opened
    opened.close()


def compliance(office: Office, actor: Actor) -> ComplianceManager:
    return ComplianceManager(office.log, actor=actor)


# -- records -----------------------------------------------------------------------------------


def test_the_history_of_a_model_holds_its_versions_approvals_and_refusals(office: Office) -> None:
    version = office.version("storied")
    with pytest.raises(GateRefused):
        office.models(office.author).promote_to_production(version.id)
    office.granted(version)
    office.models(office.author).promote_to_production(version.id)
    manager = compliance(office, office.officer)
    actions = [e.action for e in manager.get_governance_history(entity="storied").events]
    assert actions[0] == "promote_to_production"
    assert {"register_model", "create_model_version", "request_approval", "refuse_at_gate"} <= set(actions)
    assert actions.count("review_approval") == 2
    (by_one,) = manager.get_governance_history(entity="storied@v1", actor=office.reviewer.id).events
    assert by_one.action == "review_approval"
    with pytest.raises(NotFound, match="there is no model, version or id 'nowhere'"):
        manager.get_governance_history(entity="nowhere")


def test_pages_of_the_history_join_without_a_gap_and_as_of_leaves_out_what_came_later(office: Office) -> None:
    office.version("leafed")
    manager = compliance(office, office.officer)
    whole = manager.get_governance_history(limit=10_000).events
    pages, cursor = list[Event](), None
    while True:
        page = manager.get_governance_history(limit=7, cursor=cursor)
        pages += page.events
        cursor = page.cursor
        if cursor is None:
            break
    assert [e.sequence for e in pages] == [e.sequence for e in whole]
    middle = whole[len(whole) // 2]
    before = manager.get_governance_history(limit=10_000, as_of=middle.recorded_at).events
    assert before[0].sequence >= middle.sequence
    assert all(e.recorded_at <= middle.recorded_at for e in before)
    since = manager.get_governance_history(limit=10_000, since=middle.recorded_at, action="review_*").events
    assert {e.action for e in since} <= {"review_approval"}


def test_people_record_what_happened_outside_and_no_address(office: Office) -> None:
    manager = compliance(office, office.officer)
    office.version("noted")
    event = manager.log_event("incident", "wrong limits for an hour", about="noted@v1", details={"hours": 1})
    assert event.state["metadata"] == {"kind": "incident", "details": {"hours": 1}}
    assert event in manager.get_governance_history(entity="noted").events
    for kind, text, details in [
        ("Incident", "x", {}),
        ("incident", " ", {}),
        ("incident", "told ada@example.org", {}),
        ("incident", "x", {"who": "ada@example.org"}),
    ]:
        with pytest.raises(InvalidInput):
            manager.log_event(kind, text, details=details)


# -- the manager -------------------------------------------------------------------------------


def test_a_request_runs_the_demanded_suites_itself(office: Office) -> None:
    version = office.version("runs")
    before = len(compliance(office, office.requester).get_checks("runs@v1"))
    asked = compliance(office, office.requester).request_approval("runs@v1", idempotency_key="k")
    assert len(compliance(office, office.requester).get_checks("runs@v1")) == before + 1
    # The suite of this test is none that could be measured, which never passes.
    assert any("could not run" in unmet for unmet in asked.unmet)
    again = compliance(office, office.requester).request_approval("runs@v1", idempotency_key="k")
    assert again.id == asked.id
    assert len(compliance(office, office.requester).get_checks("runs@v1")) == before + 1
    with pytest.raises(GateRefused, match="the policy is not met"):
        compliance(office, office.reviewer).review_approval(asked.id, "approve", digest=asked.bound.digest)
    assert office.models(office.author).get_version(version.id).stage.value == "registered"


# -- pages -------------------------------------------------------------------------------------


def test_the_evidence_page_shows_what_to_decide_on_and_leads_to_the_form(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLREG_DAGSTER_URL", "http://dagster:3000")
    live = office.version("paged")
    office.granted(live)
    office.models(office.author).promote_to_production(live.id)
    version = office.version("paged", snapshot="<script>")
    asked = office.approvals(office.requester).request(version.id, note="<b>new</b>")
    page = evidence_page(office.log, asked.id, actor=office.officer)
    assert "demographic_parity_difference of sex" in page
    assert "Against paged@v1, which is in production" in page
    assert "<b>new</b>" not in page
    assert "<script" not in page
    found = re.search(r'href="([^"]+)"', page)
    assert found
    address = urlparse(found[1].replace("&amp;", "&"))
    assert address.path.endswith("/jobs/review_approval/playground/setup")
    form = yaml.safe_load(parse_qs(address.query)["config"][0])
    assert form == {
        "tenant": "default",
        "approval": asked.id,
        "digest": asked.bound.digest,
        "decision": None,
        "comment": "",
    }
    office.measure(version, high=0.3)
    assert "No longer what was asked for" in evidence_page(office.log, asked.id, actor=office.officer)


def test_the_governance_page_shows_what_waits_and_broken_glass_stands_on_every_page(office: Office) -> None:
    version = office.version("shown")
    office.measure(version, Verdict.FAIL)
    glass = office.approvals(office.officer).break_glass("shown@v1", "there is nothing else to answer")
    office.models(office.author).promote_to_production("shown@v1")
    page = governance_page(office.log, actor=office.officer, tenants=["default"])
    assert "Broken glass: shown@v1" in page
    assert "check demographic_parity_difference of sex of suite fairness failed" in page
    other = office.version("shown", snapshot="2")
    asked = office.approvals(office.requester).request(other.id)
    assert "Broken glass: shown@v1" in evidence_page(office.log, asked.id, actor=office.officer)
    office.approvals(office.reviewer).review_break_glass(glass.id, "there was nothing else indeed")
    assert "Broken glass: shown@v1" not in governance_page(
        office.log, actor=office.officer, tenants=["default"]
    )


def test_a_policy_that_cannot_be_read_is_said_on_top_of_the_page(office: Office) -> None:
    office.write_policy(POLICY + "brake_glass: {}\n")
    try:
        page = governance_page(office.log, actor=office.officer, tenants=["default"])
    finally:
        office.write_policy(POLICY)
    assert "The policy cannot be read" in page
    assert "did you mean &#x27;break_glass&#x27;" in page


# -- who is told -------------------------------------------------------------------------------


def test_every_turn_is_told_once_even_if_nobody_looked_in_between(office: Office) -> None:
    alerts = Alerts(office.lake)
    tell_turns(office.log, alerts)
    version = office.version("told")
    asked = office.approvals(office.requester).request(version.id)
    for who in (office.reviewer, office.officer):
        office.approvals(who).review(asked.id, "approve", digest=asked.bound.digest)
    assert tell_turns(office.log, alerts) == 3
    assert tell_turns(office.log, alerts) == 0
    titles = {o.title for o in alerts.standing("approval_turn") if asked.id in o.key}
    assert titles == {"told@v1: approval is granted"}
    office.measure(version, high=0.2)
    assert settle_all(office.log) >= 1
    tell_turns(office.log, alerts)
    with office.lake.read("alerts") as reading:
        told = reading.query(
            "t",
            "SELECT title FROM alerts WHERE state = 'opened' AND contains(alert_key, $id)",
            {"id": asked.id},
        )["title"].to_pylist()
    assert "told@v1: approval is stale" in told
    assert len(told) == len(set(told)) == 4


def test_what_is_about_to_expire_is_told_before_it_lapses(office: Office) -> None:
    version = office.version("late")
    asked = office.approvals(office.requester).request(version.id)
    alerts = Alerts(office.lake)
    try:
        office.clock.ahead = timedelta(days=28)
        tell_turns(office.log, alerts)
        assert any(asked.id in o.key for o in alerts.standing("approval_expires"))
        office.clock.ahead = timedelta(days=31)
        settle_all(office.log)
        tell_turns(office.log, alerts)
        assert not any(asked.id in o.key for o in alerts.standing("approval_expires"))
        assert office.approvals(office.author).get(asked.id).status is Status.EXPIRED
    finally:
        office.clock.ahead = timedelta(0)


# -- the shell and the jobs -----------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLREG_HOME", str(tmp_path))
    office = Office(tmp_path, POLICY.replace('suites: ["*"], ', ""))
    keys = {
        name: office.users.add_key(actor.id).text
        for name, actor in {
            "author": office.author,
            "requester": office.requester,
            "reviewer": office.reviewer,
            "officer": office.officer,
        }.items()
    }
    registry = office.models(office.author)
    registry.register_model("credit")
    from ml_registry_pipelines.registry.artifacts import HostedModel

    registry.create_model_version("credit", HostedModel("o", "x"))
    office.close()

    def run(who: str, *words: str) -> str:
        monkeypatch.setenv("MLREG_API_KEY", keys[who])
        done = CliRunner().invoke(cli, words)
        return f"{done.output}\n{done.exception}" if done.exit_code else done.output

    return run


def test_the_shell_asks_decides_and_promotes(shell, tmp_path: Path) -> None:
    assert "nobody has asked for any; request one" in shell("author", "models", "promote", "credit@v1")
    asked = shell("requester", "approvals", "request", "credit@v1", "--note", "first one")
    identity = re.search(r"approval  (\w+)", asked)
    digest = re.search(r"digest  (\w+)", asked)
    assert identity, asked
    assert digest, asked
    review = ["approvals", "review", identity[1][:12], "--digest", digest[1][:12]]
    assert "who asked for it does not decide" in shell("requester", *review, "--approve")
    assert "is not that of what it is for" in shell(
        "reviewer", "approvals", "review", identity[1], "--digest", "0" * 12, "--approve"
    )
    assert "status  requested" in shell("reviewer", *review, "--approve")
    assert "status  approved" in shell("officer", *review, "--approve", "--comment", "fine")
    assert "approved" in shell("officer", "approvals", "list")
    page = shell("officer", "approvals", "page", identity[1][:12]).strip()
    assert "Evidence for credit@v1" in Path(page).read_text()
    assert "Governance" in Path(shell("officer", "governance", "page").strip()).read_text()
    lines = shell("officer", "governance", "history", "--entity", "credit", "--json").splitlines()
    assert json.loads(lines[0])["action"] == "review_approval"
    assert "is a policy" in shell("officer", "approvals", "policy", "validate")
    (tmp_path / "bad.yaml").write_text(POLICY.replace("gates:", "gate:"))
    assert "line 3" in shell("officer", "approvals", "policy", "validate", str(tmp_path / "bad.yaml"))
    _the_job_promotes(tmp_path, identity[1])


def _the_job_promotes(home: Path, approval: str) -> None:
    """The sensor finds what was granted, and the job that it asks for looks at everything itself."""
    import dagster as dg

    from ml_registry_pipelines.jobs.approvals import approvals_jobs
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log
    from resources import AlertsResource, RegistryResource
    from sensors.approvals import approval_turns, granted_approvals

    resources = {"registry": RegistryResource(root=str(home)), "alerts": AlertsResource(root=str(home))}
    with dg.DagsterInstance.ephemeral() as instance:
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            (request,) = cast("list[dg.RunRequest]", granted_approvals(context))
        assert request.run_config == {"tenant": "default", "approval": approval}
        # As long as that run is on its way, no other one is asked for.
        on_its_way = dg.DagsterRun(
            job_name="promote_approved", status=dg.DagsterRunStatus.NOT_STARTED, tags=dict(request.tags)
        )
        instance.add_run(on_its_way)
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            assert isinstance(granted_approvals(context), dg.SkipReason)
        instance.delete_run(on_its_way.run_id)
        job = next(j for j in approvals_jobs() if j.name == "promote_approved")
        outcomes = [
            job.execute_in_process(
                run_config=request.run_config, resources=resources, instance=instance, raise_on_error=False
            ).success
            for _ in range(2)
        ]
        # The second time it was used.
        assert outcomes == [True, False]
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            assert "turns were told" in str(cast("dg.SkipReason", approval_turns(context)).skip_message)
    with Lake(str(home)) as lake, Log(lake) as log:
        (promoted,) = [
            e for e in log.events("default", range(1, 100)) if e.action == "promote_to_production"
        ][:1]
        assert promoted.actor == f"system-on-behalf-of-{approval}"
