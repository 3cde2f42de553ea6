"""Classes of models on the log, dossiers of their versions, and the duties as metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from ml_registry_pipelines import catalog
from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.compliance.ai_act import classifications, metrics
from ml_registry_pipelines.compliance.ai_act.classifications import AiAct
from ml_registry_pipelines.compliance.ai_act.table import Tier, current
from ml_registry_pipelines.compliance.dossier.content import Status
from ml_registry_pipelines.compliance.dossier.documents import KINDS
from ml_registry_pipelines.compliance.dossier.dossier import Dossier, Dossiers
from ml_registry_pipelines.compliance.dossier.fields import ANNEX_IV
from ml_registry_pipelines.compliance.dossier.pages import html, markdown
from ml_registry_pipelines.compliance.dossier.writing import attach, write_live
from ml_registry_pipelines.compliance.evidence import record
from ml_registry_pipelines.compliance.metrics import Context, catalogue
from ml_registry_pipelines.compliance.results import (
    Area,
    Group,
    Interval,
    Measured,
    Result,
    Severity,
    Subject,
    Verdict,
)
from ml_registry_pipelines.jobs.ai_act import ai_act_jobs
from ml_registry_pipelines.jobs.dossier import dossier_jobs
from ml_registry_pipelines.lineage.catalogue import read_catalogue
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.versions import Version, VersionFacts
from resources import RegistryResource
from tests.compliance.test_ai_act import HARMLESS
from tests.telemetry.attributed import World, at, call, opened

OFFICER = Actor("officer-7", authenticated_by="api_key")
NOW = at(12, day=1)
MODEL = "credit-risk"
CREDIT = {**HARMLESS, "annex_iii": ["5b"], "performs_profiling": True}
CHECK = Result(
    tenant="acme",
    area=Area.FAIRNESS,
    suite="fairness",
    suite_digest="0" * 64,
    check="demographic parity difference of sex",
    metric="demographic_parity_difference",
    verdict=Verdict.PASS,
    severity=Severity.CRITICAL,
    message="0.04 is at most 0.1",
    observed=0.04,
    interval=Interval(0.01, 0.07, 0.95, "newcombe"),
    high=0.1,
    groups=(
        Group("sex=female", 310, 92, 218, 0.31, Interval(0.26, 0.36, 0.95, "wilson")),
        Group("sex=<script>", 12, left_out="n < 30"),
    ),
)


def document_well(world: World, folder: Any) -> Version:
    """A version that is registered with all that can be, checked, deployed and called."""
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "applicants.csv").write_text("age,income,sex\n30,1,f\n40,2,m\n")
    world.tracker.track_dataset("applicants", folder / "applicants.csv", description="Applicants of 2025.")
    world.registry.register_model(
        MODEL,
        description="Whether an applicant for consumer credit defaults within two years.",
        owners=["team:risk"],
    )
    made = world.registry.create_model_version(
        MODEL,
        folder / "model.bin",
        VersionFacts(
            metrics={"auc": 0.81, "accuracy": 0.77},
            parameters={"depth": 3, "learning_rate": 0.1},
            framework="scikit-learn 1.9",
            code_commit="4f1c2d7",
            trained_on={"applicants@v1": ["age", "income"]},
            evaluated_on=["applicants@v1"],
            signature={
                "inputs": [{"name": "age", "type": "int64"}, {"name": "income", "type": "double"}],
                "outputs": [{"name": "risk_is_bad", "type": "bool"}],
            },
        ),
        tags={"hardware": "2 CPU cores, no accelerator"},
    )
    world.registry.promote_to_production(made.reference)
    world.deploy("credit-api", made.reference, at(0), endpoint="https://models.example/credit")
    world.rule("credit-api", provider="acme")
    world.take(*(call(at(9, minute)) for minute in range(5)))
    world.apply()
    subject = Subject("acme", made.model_id, made.id, made.reference, made.content_digest)
    scan = replace(
        CHECK,
        area=Area.SECURITY,
        suite="artifacts",
        check="pickle scan",
        metric="pickle_scan",
        groups=(),
        interval=None,
        observed=0.0,
        high=0.0,
        subject=subject,
    )
    record(world.lake, [replace(CHECK, subject=subject), scan], tenant="acme", actor=OFFICER)
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with opened(tmp_path_factory.mktemp("home")) as made:
        made.registry.register_model("bare")
        (tmp_path_factory.getbasetemp() / "bare.bin").write_bytes(b"x")
        made.registry.create_model_version("bare", tmp_path_factory.getbasetemp() / "bare.bin")
        document_well(made, tmp_path_factory.mktemp("files"))
        AiAct(made.log, actor=OFFICER, tenant="acme").classify(MODEL, CREDIT)
        yield made


@pytest.fixture
def act(world: World) -> AiAct:
    return AiAct(world.log, actor=OFFICER, tenant="acme")


@pytest.fixture
def desk(world: World) -> Dossiers:
    return Dossiers(world.log, actor=OFFICER, tenant="acme")


@pytest.fixture(scope="module")
def full(world: World) -> Dossier:
    """The dossier of the documented version before anybody attests anything."""
    return Dossiers(world.log, actor=OFFICER, tenant="acme").dossier(f"{MODEL}@v1", at=NOW)


# -- classes -----------------------------------------------------------------------------------------


def test_a_class_is_recorded_with_answers_text_and_history(act, world):
    assert act.classification("bare") is None
    first = act.classify("bare", {"is_ai_system": True})
    assert (first.tier, first.gate_tier, first.stale) == (Tier.UNDETERMINED, Tier.PROHIBITED, False)
    between = datetime.now(UTC)
    second = act.classify("bare", HARMLESS, note="asked the team")
    assert (second.tier, second.missing, second.actor) == (Tier.MINIMAL, (), "officer-7")
    assert first.digest != second.digest
    assert act.classification("bare").digest == second.digest
    assert act.classification("bare", between).tier is Tier.UNDETERMINED
    assert [c.recorded_tier for c in act.history("bare")] == [Tier.UNDETERMINED, Tier.MINIMAL]
    assert {c.model: c.tier for c in act.all()}.items() >= {
        "bare": Tier.MINIMAL,
        MODEL: Tier.HIGH_RISK,
    }.items()
    (event,) = world.log.events("acme", [second.sequence])
    assert event.action == "classify_ai_act"
    assert event.change["answers"]["is_ai_system"] is True


def test_a_wrong_answer_is_refused_and_changes_nothing(act, world):
    before = world.log.head("acme")
    for wrong in ({"is_ai_sytem": True}, {"annex_iii": ["9z"]}, {"performs_profiling": 1}):
        with pytest.raises(InvalidInput):
            act.classify(MODEL, wrong)
    with pytest.raises(InvalidInput, match="e-mail address"):
        act.classify(MODEL, HARMLESS, note="as ada@example.org said")
    with pytest.raises(NotFound):
        act.classify("nobody", HARMLESS)
    assert world.log.head("acme") == before


def test_another_legal_text_makes_a_class_stale_and_the_gate_keeps_the_worse(act, monkeypatch):
    assert not act.classification(MODEL).stale
    newer = replace(current(), version="2027-01-01.1", digest="f" * 64)
    monkeypatch.setattr(classifications, "current", lambda: newer)
    found = act.classification(MODEL)
    assert found.stale
    assert "2027-01-01.1" in found.stale_because
    assert found.gate_tier is Tier.HIGH_RISK


def test_a_class_that_the_day_changes_is_stale_and_gates_as_the_worse(act):
    act.classify("bare", {**HARMLESS, "a5_ba": True})
    before = act.classification("bare", on=date(2026, 11, 22))
    after = act.classification("bare", on=date(2026, 12, 2))
    recorded = before.recorded_gate_tier
    assert after.gate_tier is Tier.PROHIBITED
    assert after.stale is (recorded is not Tier.PROHIBITED)
    act.classify("bare", HARMLESS)


def test_the_page_of_a_model_shows_its_class_and_its_open_questions(act, world):
    act.classify(
        "bare",
        {
            **HARMLESS,
            "annex_iii": ["4a"],
            "cond_a": True,
            "art6_4_documented": True,
            "performs_profiling": "unknown",
        },
    )
    shown = catalog.show(read_catalogue(world.log))
    specs = {spec.key.path[-1]: spec for spec in shown.specs}
    said = {name: value.value for name, value in specs["bare"].metadata.items() if name.startswith("AI Act")}
    assert said == {
        "AI Act class": "undetermined",
        "AI Act gates as": "high_risk",
        "AI Act open questions": "performs_profiling",
        "AI Act text": current().version,
    }
    checks = {e.asset_key.path[-1]: e for e in catalog.evaluations(shown) if e.check_name == catalog.AI_ACT}
    assert checks["bare"].passed is False
    assert checks["bare"].description == "Gates treat it as high_risk, because performs_profiling is unknown."
    assert checks[MODEL].passed is True
    act.classify("bare", HARMLESS)


# -- dossiers ----------------------------------------------------------------------------------------


def test_annex_iv_has_23_leaf_fields():
    assert len({asked.id for asked in ANNEX_IV}) == len(ANNEX_IV) == 23


def test_at_least_14_fields_of_a_well_documented_version_are_derived_with_their_source(full):
    assert len(full.derived) >= 14
    assert {"1(g)", "2(e)", "2(f)", "4", "5", "7", "8"} <= set(full.missing), "no table can say these"
    for field in full.fields:
        if field.status is Status.DERIVED:
            assert field.derived.blocks
            assert all(source.version for source in field.derived.sources), field.asked.id


def test_of_a_version_without_anything_nothing_is_made_up(desk):
    bare = desk.dossier("bare@v1", at=NOW)
    assert set(bare.derived) <= {"1(d)", "1(f)", "2(c)", "6"}
    for kind in KINDS:
        assert bare.document(kind).missing
    text = markdown(bare.document("annex_iv"), NOW).lower()
    assert not re.search(r"todo|tbd|lorem|placeholder|n/a", text)
    assert text.count("**missing.**") == len(bare.missing)


def test_figures_of_the_dossier_are_those_of_the_tables(full):
    text = markdown(full.document("annex_iv"), NOW)
    assert "5 in 30 days" in text
    assert "| auc | 0.81 |" in text
    assert "applicants@v1" in text
    assert "2 of 3" in text
    assert "n &lt; 30" in text, "a group that is too small is listed"


def test_a_statement_fills_a_field_and_says_who_and_when(desk):
    said = desk.attest(MODEL, "2(e)", "A loan officer sees each score with its reasons and decides.")
    field = desk.dossier(f"{MODEL}@v1", at=NOW).field("2(e)")
    assert (field.status, field.attestation.actor, field.attestation.about) == (
        Status.ATTESTED,
        "officer-7",
        MODEL,
    )
    desk.attest(f"{MODEL}@v1", "2(e)", "Two loan officers decide on each application of this version.")
    nearer = desk.dossier(f"{MODEL}@v1", at=NOW).field("2(e)").attestation
    assert nearer.text.startswith("Two")
    desk.withdraw(f"{MODEL}@v1", "2(e)")
    assert desk.dossier(f"{MODEL}@v1", at=NOW).field("2(e)").attestation.sequence == said.sequence
    desk.withdraw(MODEL, "2(e)")
    assert desk.dossier(f"{MODEL}@v1", at=NOW).field("2(e)").status is Status.MISSING
    with pytest.raises(NotFound):
        desk.withdraw(MODEL, "2(e)")
    assert len(desk.history(MODEL, "2(e)")) == 1


@pytest.mark.parametrize(
    ("about", "field", "text", "told"),
    [
        (MODEL, "2(z)", "It is what it is.", "there is no field '2(z)'"),
        (MODEL, "quality_managment", "It is what it is.", "did you mean quality_management"),
        (MODEL, "5", "Ask ada@example.org about the risks.", "e-mail address"),
        (MODEL, "5", "TODO write this down later", "says nothing"),
        (MODEL, "5", "tbd", "says nothing"),
        (MODEL, "5", "  ", "says nothing"),
        (MODEL, "2(g)", "It was tested on last year's applicants.", "differs between versions"),
    ],
)
def test_a_statement_that_says_nothing_or_names_a_person_is_refused(desk, world, about, field, text, told):
    before = world.log.head("acme")
    with pytest.raises(InvalidInput) as refused:
        desk.attest(about, field, text)
    assert told in str(refused.value)
    assert world.log.head("acme") == before


def test_pages_load_nothing_and_what_is_given_is_no_markup(full):
    for kind in KINDS:
        page = html(full.document(kind), NOW)
        assert "default-src 'none'" in page
        assert "<script" not in page
        assert not re.search(r"(src|href)=", page)
    assert "sex=&lt;script&gt;" in html(full.document("model_card"), NOW)


def test_instructions_for_use_fill_1h_only_when_they_are_complete(desk):
    assert "1(h)" in desk.dossier(f"{MODEL}@v1", at=NOW).missing
    for field in ("2(e)", "2(f)", "5"):
        desk.attest(MODEL, field, f"What holds for {field} is written in the handbook of the team.")
    found = desk.dossier(f"{MODEL}@v1", at=NOW)
    assert "1(h)" in found.derived
    assert found.document("instructions_for_use").missing == ()
    for field in ("2(e)", "2(f)", "5"):
        desk.withdraw(MODEL, field)


def test_the_notice_tells_what_article_50_asks_and_what_of_it_is_missing(act, desk):
    act.classify("bare", {**HARMLESS, "interacts_with_persons": True, "synthetic_modalities": ["text"]})
    notice = desk.dossier("bare@v1", at=NOW).document("transparency_notice")
    by_title = {section.title: section for section in notice.sections}
    assert "ai_disclosure" in by_title["You interact with an AI system"].missing[0]
    assert "Content is artificial" not in by_title, "a notice claims nothing that is not so"
    desk.attest("bare", "ai_disclosure", "The chat opens with the sentence that a machine answers.")
    again = desk.dossier("bare@v1", at=NOW).document("transparency_notice")
    assert {s.title: s for s in again.sections}["You interact with an AI system"].missing == ()
    desk.withdraw("bare", "ai_disclosure")
    act.classify("bare", HARMLESS)


def test_documents_are_kept_as_reports_and_as_artifacts(world, desk):
    made = write_live(world.log, OFFICER)
    assert [(tenant, name) for tenant, name, _ in made] == [("acme", f"{MODEL}@v1")]
    with world.lake.read("reports") as reading:
        rows = reading.query(
            "test", "SELECT partition, path FROM reports WHERE report = 'dossiers'"
        ).to_pylist()
    assert {row["partition"] for row in rows} == {f"acme/{MODEL}/v1/{kind}" for kind in KINDS}
    attach(world.registry, desk.dossier(f"{MODEL}@v1", at=NOW), ["model_card"])
    files = world.registry.artifact_files(f"{MODEL}@v1", kind="model_card")
    assert sorted(file.path for file in files) == ["model_card.html", "model_card.md"]


# -- duties as metrics ---------------------------------------------------------------------------------


def measured(world: World, name: str, version: str = f"{MODEL}@v1", **parameters: object) -> Measured:
    found = world.registry.get_version(version)
    subject = Subject("acme", found.model_id, found.id, found.reference, found.content_digest)
    metric = catalogue()[name]
    given = (
        metric.parameters(**parameters)
        if parameters
        else metric.parameters.model_construct(before_it_applies=True)
    )
    (one,) = metric.measure(Context(world.lake, world.log, "acme", NOW, subject), given)
    return one


def test_each_duty_is_a_metric():
    names = {metric.name for metric in metrics.metrics()}
    assert {f"ai_act_{duty.id}" for duty in current().duties} < names
    assert names <= set(catalogue())


def test_a_duty_is_met_by_what_is_recorded_and_by_nothing_else(world, desk):
    assert measured(world, "ai_act_data_governance").value == 1
    assert measured(world, "ai_act_record_keeping").value == 1
    assert measured(world, "ai_act_keep_logs").value == 1
    assert measured(world, "ai_act_accuracy_and_robustness").value == 1
    assert measured(world, "ai_act_quality_management").value == 0
    assert measured(world, "ai_act_technical_documentation").value == 0
    desk.attest(
        MODEL, "quality_management", "The handbook of quality, part 3, kept by the team of compliance."
    )
    assert measured(world, "ai_act_quality_management").value == 1
    desk.withdraw(MODEL, "quality_management")
    waits = measured(world, "ai_act_quality_management", before_it_applies=False)
    assert (waits.value, waits.detail["applies_from"], waits.detail["counted"]) == (1, "2027-12-02", False)


def test_a_duty_that_does_not_follow_is_met_and_says_so(world):
    told = measured(world, "ai_act_mark_content")
    assert (told.value, told.detail["follows"]) == (1, False)


def test_a_prohibited_model_meets_no_prohibition(world, act):
    act.classify("bare", {**HARMLESS, "a5_e": True})
    assert measured(world, "ai_act_prohibition", "bare@v1").value == 0
    act.classify("bare", HARMLESS)


def test_without_a_class_or_with_a_stale_one_nothing_was_measured(world, act, monkeypatch):
    world.registry.register_model("unclassified")
    world.registry.create_model_version("unclassified", world.registry.get_version("bare@v1") and _hosted())
    told = measured(world, "ai_act_literacy", "unclassified@v1")
    assert (told.value, "not classified" in told.problem) == (None, True)
    monkeypatch.setattr(classifications, "current", lambda: replace(current(), digest="f" * 64))
    assert measured(world, "ai_act_literacy").value is None


def test_open_questions_and_the_score_are_metrics(world, act):
    act.classify("bare", {**HARMLESS, "eu_nexus": "unknown", "annex_iii": ["5b"]})
    assert measured(world, "ai_act_open_questions", "bare@v1").value == 1
    assert measured(world, "ai_act_dossier_score").value == pytest.approx(15 / 23)
    act.classify("bare", HARMLESS)


def _hosted() -> Any:
    from ml_registry_pipelines.registry.artifacts import HostedModel

    return HostedModel("acme", "m-1")


# -- doors ----------------------------------------------------------------------------------------------


def test_the_form_goes_from_the_shell_to_a_class_and_a_dossier(home, tmp_path):
    def mlreg(*words: str, fails: bool = False) -> str:
        done = CliRunner().invoke(cli, words)
        assert bool(done.exception) is fails, done.output
        return str(done.exception) if fails and done.exception and not done.output else done.output

    mlreg("models", "register", "fraud", "--description", "Whether a payment is fraudulent.")
    (tmp_path / "w.bin").write_bytes(b"w")
    mlreg("models", "add-version", "fraud", str(tmp_path / "w.bin"))
    file = tmp_path / "fraud.yaml"
    mlreg("ai-act", "form", "fraud", "--output", str(file))
    assert "is there already" in mlreg("ai-act", "form", "fraud", "--output", str(file), fails=True)
    assert "undetermined" in mlreg("ai-act", "classify", "fraud", str(file))
    text = file.read_text().replace("is_ai_system: unknown", "is_ai_system: false")
    text = text.replace("is_gpai: unknown", "is_gpai: false")
    file.write_text(text)
    assert "out_of_scope" in mlreg("ai-act", "classify", "fraud", str(file), "--note", "a rule")
    assert "is_ai_system: false" in mlreg("ai-act", "form", "fraud")
    assert "out_of_scope" in mlreg("ai-act", "show", "fraud", "--on", "2027-12-02")
    assert "no duty follows" in mlreg("ai-act", "duties", "fraud")
    assert len(mlreg("ai-act", "history", "fraud").splitlines()) == 2
    assert "attested by shell" in mlreg(
        "dossier", "attest", "fraud", "1(g)", "--text", "A page with one field."
    )
    shown = mlreg("dossier", "show", "fraud@v1")
    assert re.search(r"1\(g\) +attested", shown)
    assert re.search(r"2\(h\) +missing", shown)
    assert "# Model card" in mlreg("dossier", "show", "fraud@v1", "--document", "model_card")
    mlreg("dossier", "write", "fraud@v1", str(tmp_path / "out"))
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(KINDS)
    mlreg("dossier", "withdraw", "fraud", "1(g)")


def test_the_launchpad_classifies_and_attests_once_per_run(world):
    jobs = {job.name: job for job in (*ai_act_jobs(), *dossier_jobs())}
    with dg.DagsterInstance.ephemeral() as instance:

        def run(name: str, **form: Any) -> dg.ExecuteInProcessResult:
            return jobs[name].execute_in_process(
                run_config=form,
                instance=instance,
                raise_on_error=False,
                resources={"registry": RegistryResource(root=world.lake.root)},
            )

        done = run(
            "classify_ai_act",
            tenant="acme",
            model="bare",
            is_ai_system="TRUE",
            eu_nexus="TRUE",
            annex_iii=["5b"],
            performs_profiling="TRUE",
            exclusion=[],
            roles=["provider"],
        )
        assert done.success
        assert not run("classify_ai_act", tenant="acme", model="bare", annex_iii=["9z"]).success
        assert run(
            "attest_dossier_field", tenant="acme", about="bare", field="1(g)", text="A page with a form."
        ).success
        assert run("write_dossier", tenant="acme", version="bare@v1").success
    world.log.view("acme")
    found = AiAct(world.log, actor=OFFICER, tenant="acme").classification("bare")
    assert found is not None
    assert (found.tier, found.gate_tier) == (Tier.HIGH_RISK, Tier.PROHIBITED)


def test_checks_that_fail_or_could_not_run_meet_no_duty_and_fill_no_field(world, desk):
    """On a version of its own, so that the order of tests does not matter."""
    world.registry.register_model("scanned")
    made = world.registry.create_model_version("scanned", _hosted(), VersionFacts(metrics={"auc": 0.7}))
    AiAct(world.log, actor=OFFICER, tenant="acme").classify("scanned", CREDIT)
    subject = Subject("acme", made.model_id, made.id, made.reference, made.content_digest)
    scan = replace(CHECK, area=Area.SECURITY, suite="artifacts", check="scan", groups=(), subject=subject)
    blind = [
        replace(result, verdict=Verdict.COULD_NOT_RUN, observed=None, interval=None)
        for result in (scan, replace(CHECK, subject=subject))
    ]
    record(world.lake, blind, tenant="acme", actor=OFFICER)
    assert {"2(g)", "2(h)", "3"} <= set(desk.dossier("scanned@v1", at=NOW).missing)
    record(world.lake, [replace(scan, verdict=Verdict.FAIL)], tenant="acme", actor=OFFICER)
    assert "2(h)" in desk.dossier("scanned@v1", at=NOW).derived
    assert measured(world, "ai_act_accuracy_and_robustness", "scanned@v1").value == 0
    other = replace(subject, content_digest="f" * 64)
    record(world.lake, [replace(CHECK, subject=other)], tenant="acme", actor=OFFICER)
    assert "3" in desk.dossier("scanned@v1", at=NOW).missing, "results of other content are not its own"
