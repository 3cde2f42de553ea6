"""The gate with what other rooms hand to it: doors of the platform, evidence, signatures, pickles, dossier, imports."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_registry_pipelines.access.policy import owner_of, platform
from ml_registry_pipelines.compliance.approvals.approval import Status
from ml_registry_pipelines.compliance.artifact_security.signatures import (
    TRUSTED,
    make_signing_keys,
    sign_version,
)
from ml_registry_pipelines.compliance.dossier.dossier import Dossiers
from ml_registry_pipelines.compliance.gate.sources import dossier_standing
from ml_registry_pipelines.compliance.gdpr.entries import Breach
from ml_registry_pipelines.compliance.gdpr.registers import Registers
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.registry.actors import BY_KEY, Actor, ActorKind
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.errors import NotAllowed
from ml_registry_pipelines.registry.gate import GateRefused
from ml_registry_pipelines.registry.transfer import export_tenant, import_tenant
from ml_registry_pipelines.registry.versions import Artifact, Version
from ml_registry_pipelines.reports.governance_page import governance_page
from ml_registry_pipelines.training.models import TrainedModel
from ml_registry_pipelines.training.recording import Recorder
from tests.compliance.office import POLICY, Office

PLATFORM = platform("mlflow-import")


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    opened = Office(tmp_path_factory.mktemp("joined"))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _as_it_was(office: Office) -> Iterator[None]:
    yield
    office.write_policy(POLICY)


def unmet(office: Office, version: Version) -> str:
    return "; ".join(office.approvals(office.author).standing(version.id).unmet)


# -- who counts as a person -----------------------------------------------------------------------


def test_a_broken_glass_is_for_people_who_signed_in_and_no_service_walks_through_it(office: Office) -> None:
    version = office.version("glass")
    office.measure(version, Verdict.FAIL)
    office.approvals(office.officer).break_glass(version.id, "nothing else answers at all")
    for door in (
        lambda: office.models(PLATFORM).promote_to_production(version.id),
        lambda: office.models(PLATFORM).set_alias(version.id, "champion"),
        lambda: office.tracker(PLATFORM).track_deployment("glass", version.id, environment="prod"),
    ):
        with pytest.raises(GateRefused, match="failed"):
            door()
    office.models(office.author).promote_to_production(version.id)


def test_neither_services_nor_the_folders_owner_ask_or_decide(office: Office) -> None:
    version = office.version("nobody")
    asked = office.approvals(office.requester).request(version.id)
    for who in (
        PLATFORM,
        owner_of(office.lake),
        replace(office.reviewer, kind=ActorKind.SERVICE),
        Actor(office.officer.id, authenticated_by="platform"),
    ):
        with pytest.raises(NotAllowed):
            office.approvals(who).request(version.id)
        with pytest.raises(NotAllowed):
            office.approvals(who).review(asked.id, "approve", digest=asked.bound.digest)
        with pytest.raises(NotAllowed):
            office.approvals(who).break_glass(version.id, "nothing else answers at all")


def test_a_reviewer_may_ask_and_then_does_not_decide(office: Office) -> None:
    version = office.version("asks")
    asked = office.approvals(office.reviewer).request(version.id)
    with pytest.raises(GateRefused, match="who asked for it does not decide"):
        office.approvals(office.reviewer).review(asked.id, "approve", digest=asked.bound.digest)


def test_who_added_to_a_version_does_not_approve_it(office: Office, tmp_path: Path) -> None:
    both = office.person("engineer", "reviewer")
    version = office.version("added")
    (tmp_path / "adapter.bin").write_bytes(b"adapter")
    office.models(both).add_artifact(version.id, Artifact("adapter", tmp_path / "adapter.bin"))
    (tmp_path / "bom.json").write_text("{}")
    office.models(office.requester).add_artifact(version.id, Artifact("bom", tmp_path / "bom.json"))
    asked = office.approvals(office.author).request(version.id)
    with pytest.raises(GateRefused, match="or added to it, does not decide"):
        office.approvals(both).review(asked.id, "approve", digest=asked.bound.digest)
    # Who only described it may.
    office.approvals(office.requester).review(asked.id, "approve", digest=asked.bound.digest)


def test_a_version_of_which_nobody_knows_the_author_takes_one_person_more(office: Office) -> None:
    version = office.version("foreign", PLATFORM)
    asked = office.approvals(office.requester).request(version.id)
    assert (asked.author, asked.author_known, asked.people) == (PLATFORM.id, False, 3)
    digest = asked.bound.digest
    office.approvals(office.reviewer).review(asked.id, "approve", digest=digest)
    second = office.approvals(office.officer).review(asked.id, "approve", digest=digest)
    assert second.status is Status.REQUESTED
    third = office.approvals(office.second).review(asked.id, "approve", digest=digest)
    assert third.status is Status.APPROVED
    office.models(office.author).promote_to_production(version.id)


# -- evidence ---------------------------------------------------------------------------------------


def test_an_older_run_does_not_stand_in_for_one_that_was_removed(office: Office) -> None:
    version = office.version("removed")
    office.granted(version)
    office.measure(version, Verdict.FAIL)
    newest = ComplianceManager(office.log, actor=office.author).get_checks(version.id)[0].evidence
    office.lake.erase("compliance_results", f"evidence_id = '{newest.evidence_id}'")
    with pytest.raises(GateRefused, match="are gone; run suite fairness again"):
        office.models(office.author).promote_to_production(version.id)


def test_an_older_run_does_not_stand_in_for_one_that_was_changed(office: Office) -> None:
    import pyarrow as pa

    version = office.version("changed")
    office.granted(version)
    office.measure(version, Verdict.FAIL)
    newest = ComplianceManager(office.log, actor=office.author).get_checks(version.id)[0].evidence
    with office.lake.read("compliance_results") as reading:
        rows = reading.query(
            "t", "SELECT * FROM compliance_results WHERE evidence_id = $id", {"id": newest.evidence_id}
        )
    office.lake.erase("compliance_results", f"evidence_id = '{newest.evidence_id}'")
    passing = rows.set_column(
        rows.schema.get_field_index("verdict"), "verdict", pa.array(["pass"] * len(rows))
    )
    from ml_registry_pipelines.lake.tables import TABLES

    changed = passing.cast(TABLES["compliance_results"].schema)
    office.lake.append_next("compliance_results", changed, source="forger")
    with pytest.raises(GateRefused, match="are not those that were recorded"):
        office.models(office.author).promote_to_production(version.id)


# -- signatures and pickles, by the real checks -----------------------------------------------------

SUITE = """suite: artifacts
expectations:
  - {metric: security_s2_disallowed_formats, severity: critical, at_most: 0, parameters: {allowed: [numpy, text]}}
  - {metric: security_s3_pickle_findings, severity: critical, at_most: 0}
  - {metric: security_s6_unsigned_artifacts, severity: warning, at_most: 9, parameters: {kinds: [content]}}
"""
SIGNED = POLICY.replace('high_risk: {suites: ["*"]', 'high_risk: {signature: required, suites: ["*"]')
EXCEPTION = "pickle_exceptions: [{model: %s, until: %s, reason: rebuilt next quarter}]\n"


def of_file(office: Office, model: str, data: bytes, folder: Path, suite: str = SUITE) -> Version:
    """A version made of one file, which declares the suite `artifacts`."""
    (folder / "model.bin").write_bytes(data)
    registry = office.models(office.author)
    registry.register_model(model)
    made = registry.create_model_version(model, folder / "model.bin")
    office.declare(made, "artifacts")
    (office.root / "suites" / "artifacts.yaml").write_text(suite, encoding="utf-8")
    return made


def array_of(number: float) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, np.array([number]))
    return file.getvalue()


def checked(office: Office, version: Version) -> str:
    ComplianceManager(office.log, actor=office.author).run_compliance_checks(version.id, suites=["artifacts"])
    return unmet(office, version)


def test_a_signature_counts_where_the_content_is_found_signed_whatever_a_suite_tolerates(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_signing_keys(tmp_path / "signing.pem", tmp_path / "trusted.pem")
    monkeypatch.setenv(TRUSTED, str(tmp_path / "trusted.pem"))
    office.write_policy(SIGNED)
    version = of_file(office, "signed", array_of(1), tmp_path)
    # At most nine may be unsigned, says the suite, and passes.
    assert checked(office, version) == "no suite that it has to pass found a valid signature"
    sign_version(office.models(office.author), version.id, tmp_path / "signing.pem")
    assert checked(office, version) == ""


def test_a_signature_of_something_else_is_none_of_the_content(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_signing_keys(tmp_path / "signing.pem", tmp_path / "trusted.pem")
    monkeypatch.setenv(TRUSTED, str(tmp_path / "trusted.pem"))
    office.write_policy(SIGNED)
    version = of_file(office, "beside", array_of(2), tmp_path, SUITE.replace("[content]", "[bom]"))
    (tmp_path / "bom.json").write_text("{}")
    office.models(office.author).add_artifact(version.id, Artifact("bom", tmp_path / "bom.json"))
    sign_version(office.models(office.author), version.id, tmp_path / "signing.pem")
    assert "no suite that it has to pass found a valid signature" in checked(office, version)


def test_an_exception_excuses_a_raw_pickle_until_its_day_and_never_what_it_would_call(
    office: Office, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    version = of_file(office, "legacy", pickle.dumps({"weights": [0.1]}), tmp_path)
    refused = "check security_s2_disallowed_formats of suite artifacts (model.bin) failed"
    assert checked(office, version) == refused
    office.write_policy(POLICY + EXCEPTION % ("legacy", today))
    assert unmet(office, version) == ""
    office.write_policy(POLICY + EXCEPTION % ("legacy", today - timedelta(days=1)))
    assert unmet(office, version) == refused
    office.write_policy(POLICY + EXCEPTION % ("another", today))
    assert unmet(office, version) == refused
    # Without the check of what pickles call, nobody knows what is excused.
    office.write_policy(POLICY + EXCEPTION % ("legacy", today))
    lines = [line for line in SUITE.splitlines() if "_s3_" not in line]
    (office.root / "suites" / "artifacts.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert checked(office, version) == refused
    evil = of_file(office, "evil", b"cos\nsystem\n(S'echo harmful'\ntR.", tmp_path)
    office.write_policy(POLICY + EXCEPTION % ("evil", today))
    assert "check security_s3_pickle_findings of suite artifacts (model.bin) failed" in checked(office, evil)


# -- the dossier --------------------------------------------------------------------------------------


def test_a_high_risk_version_waits_for_its_dossier_and_says_who_stated_it(office: Office) -> None:
    office.write_policy(POLICY.replace("high_risk: {suites", "high_risk: {dossier: complete, suites"))
    version = office.version("documented")
    asked = office.approvals(office.requester).request(version.id)
    assert any("the dossier is not complete" in why for why in asked.unmet)
    with pytest.raises(GateRefused, match="the dossier is not complete"):
        office.approvals(office.reviewer).review(asked.id, "approve", digest=asked.bound.digest)
    with pytest.raises(GateRefused, match="the dossier is not complete"):
        office.models(office.author).promote_to_production(version.id)
    desk = Dossiers(office.log, actor=office.author)
    for field in desk.dossier(version.id).missing:
        said = desk.attest(version.id, field, "It is as described in the manual of the system.")
        assert (said.actor, said.authenticated_by) == (office.author.id, BY_KEY)
    approval = office.granted(version)
    assert office.approvals(office.author).get(asked.id).status is Status.STALE
    # Who approved has read what was stated.
    desk.attest(version.id, "2(e)", "Nobody looks at the scores at all.")
    with pytest.raises(GateRefused, match="what is stated in the dossier changed"):
        office.models(office.author).promote_to_production(version.id)
    office.approvals(office.requester).withdraw(approval)
    office.granted(version)
    office.models(office.author).promote_to_production(version.id)
    # What is taken back is missing again, for the next place that it goes to.
    desk.withdraw(version.id, "2(e)")
    with pytest.raises(GateRefused, match=r"the dossier is not complete: 2\(e\) is missing"):
        office.models(office.author).set_alias(version.id, "champion")


def test_what_nobody_who_signed_in_has_stated_is_missing_at_the_gate(tmp_path: Path) -> None:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.models import ModelRegistry

    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        models = ModelRegistry(log, actor=Actor("shell"))
        models.register_model("early")
        made = models.create_model_version("early", HostedModel("o", "x"))
        desk = Dossiers(log, actor=Actor("shell"))
        said = desk.attest(made.id, "2(e)", "An officer sees each score and decides.")
        assert said.authenticated_by == "unauthenticated"
        assert "2(e)" in desk.dossier(made.id).attested
        view = log.view("default")
        state = view.by_id("model_versions", made.id)
        assert state is not None
        assert "2(e)" in dossier_standing(log, view, state, datetime.now(UTC)).missing


# -- doors from outside ---------------------------------------------------------------------------------


def test_a_history_from_elsewhere_is_taken_in_by_who_may_break_the_glass_and_is_gated_from_then_on(
    office: Office, tmp_path: Path
) -> None:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.models import ModelRegistry

    with Lake(str(tmp_path / "other")) as lake, Log(lake) as log:
        there = ModelRegistry(log, actor=Actor("shell"), tenant="acme")
        there.register_model("taken")
        for snapshot in ("x", "y"):
            there.create_model_version("taken", HostedModel("o", snapshot))
        there.promote_to_production("taken@v1")
        export_tenant(log, "acme", tmp_path / "export", actor=Actor("shell"))
    admin = office.users.actor
    for who in (office.author, office.officer, PLATFORM, Actor(admin.id), owner_of(office.lake)):
        with pytest.raises(NotAllowed):
            import_tenant(office.log, tmp_path / "export", actor=who)
    office.write_policy(POLICY + "break_glass: {roles: [compliance]}\n")
    with pytest.raises(GateRefused, match="only compliance may take it in"):
        import_tenant(office.log, tmp_path / "export", actor=admin)
    assert office.log.head("acme")[0] == 0
    office.write_policy(POLICY)
    assert import_tenant(office.log, tmp_path / "export", actor=admin)[0] == "acme"
    here = ModelRegistry(office.log, actor=admin, tenant="acme")
    assert here.get_version("taken@v1").stage.value == "production"
    for door in (
        lambda: here.promote_to_production("taken@v2"),
        lambda: here.set_alias("taken@v1", "champion"),
    ):
        with pytest.raises(GateRefused):
            door()
    assert "Live without approval" in governance_page(office.log, actor=admin, tenants=["acme"])


def test_what_an_import_or_a_training_step_registers_waits_for_approval_too(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLREG_API_KEY", office.users.add_key(office.author.id).text)
    (tmp_path / "model.txt").write_text("weights: 3\n")
    recorder = Recorder(office.log, tenant="default", run_id="r-1", step="train")
    made = recorder.record("trained", TrainedModel(tmp_path / "model.txt"), trained_on=[]).version
    first = office.log.view("default").history("model_versions", made.id)[0]
    assert first.actor == office.author.id
    foreign = office.version("mirrored", PLATFORM)
    for actor, version in ((recorder.registry.actor, made), (PLATFORM, foreign)):
        with pytest.raises(GateRefused):
            office.models(actor).promote_to_production(version.id)
        with pytest.raises(GateRefused):
            office.models(actor).set_alias(version.id, "champion")
    # The alias of what people have approved may be followed, its promotion is theirs.
    approved = office.version("followed", office.author)
    office.granted(approved)
    with pytest.raises(GateRefused, match="on behalf of an approval alone"):
        office.models(PLATFORM).promote_to_production(approved.id)
    office.models(PLATFORM).set_alias(approved.id, "champion")


# -- the page ---------------------------------------------------------------------------------------------


def test_the_governance_page_tells_what_registers_want_done_and_what_is_late(office: Office) -> None:
    registers = Registers(office.log, actor=office.officer)
    now = datetime.now(UTC)
    registers.put(
        Breach(name="lost-laptop", aware_at=now - timedelta(hours=80)),
        Breach(name="open-bucket", aware_at=now - timedelta(hours=60)),
        Breach(name="told", aware_at=now - timedelta(hours=80), notified_at=now - timedelta(hours=70)),
    )
    page = governance_page(office.log, actor=office.officer, tenants=["default"])
    section = page.split("Deadlines of data protection")[-1].split("</section>")[0]
    assert section.index("breach lost-laptop") < section.index("late") < section.index("breach open-bucket")
    assert "due soon" in section
    assert "breach told" not in section
