"""What a person may have (Art. 15 and 20), personal fields of the log, the checks, and the commands of the shell."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ml_registry_pipelines.access.policy import owner_of, platform
from ml_registry_pipelines.access.users import Users, actor_for_key
from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.compliance.erasure.contacts import PersonalFields
from ml_registry_pipelines.compliance.erasure.exports import Article, export
from ml_registry_pipelines.compliance.erasure.lifting import lift
from ml_registry_pipelines.compliance.erasure.requests import ErasureRequests
from ml_registry_pipelines.compliance.erasure.tables import COVERED, OF_THE_LOG, PERSON_COLUMNS
from ml_registry_pipelines.compliance.gdpr.measuring import NoParameters
from ml_registry_pipelines.compliance.gdpr.registers import Registers
from ml_registry_pipelines.compliance.gdpr.retention import enforce_retention
from ml_registry_pipelines.compliance.metrics import Context, catalogue
from ml_registry_pipelines.compliance.results import Measured
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.operations.audits import counts_add_up
from ml_registry_pipelines.registry.artifacts import HostedModel, Uri
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import InvalidInput, NotAllowed
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import VersionFacts
from tests.access.test_users import signed_in
from tests.compliance.erasure.people import BOB, JANE, OFFICER, eraser, fill, land, lines, request, take


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    home = tmp_path_factory.mktemp("rights") / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        fill(home, lake)
        yield lake, log


@pytest.fixture
def kek(monkeypatch):
    monkeypatch.setenv("MLREG_KEK", "ab" * 32)


@pytest.mark.parametrize("article", list(Article))
def test_a_bundle_is_valid_by_its_own_schemas_and_holds_the_person_alone(filled, article):
    at = eraser(*filled)
    bundle = export(at, at.subject([JANE]), article)
    assert bundle.complete
    assert bundle.rows == {"inference_events": 6, "quarantined_rows": 1, "raw_records": 7}
    with zipfile.ZipFile(io.BytesIO(bundle.data)) as archive:
        for name, rows in bundle.rows.items():
            told = json.loads(archive.read(f"{name}.json"))
            jsonschema.validate(told, json.loads(archive.read(f"{name}.schema.json")))
            assert len(told) == rows == archive.read(f"{name}.csv").decode().count("\r\n") - 1
        raw = json.loads(archive.read("raw_records.json"))
        manifest = json.loads(archive.read("manifest.json"))
    users = {r["record"].get("user_id") for r in raw if isinstance(r["record"], dict)}
    assert users <= {JANE, None}
    assert manifest["parts"]["raw_records"]["origin"] == "provided"
    assert manifest["article"] == f"GDPR Art. {article.value}"


def test_a_personal_field_reads_erased_in_every_as_of_and_the_chain_holds(tmp_path, kek):
    with Lake(str(tmp_path / "home")) as lake, Log(lake) as log:
        fields = PersonalFields(log, actor=OFFICER)
        fields.set("model:credit", "contact", JANE, f"Jane, {JANE}")
        fields.set("model:fraud", "contact", BOB, "Bob")
        before = datetime.now(UTC)
        assert [one.value for one in fields.list()] == [f"Jane, {JANE}", "Bob"]
        at = eraser(lake, log)
        subject = at.subject([JANE])
        assert "keys" in {item.id for item in at.plan(subject).items}
        assert at.erase(subject).keys_destroyed == 1
        assert [one.value for one in fields.list()] == ["erased", "Bob"]
        assert [one.value for one in fields.list(as_of=before)] == ["erased", "Bob"]
        assert [verdict.damage for verdict in verify(lake)] == [None]


def test_a_sealed_field_says_nothing_in_another_tenant_and_nothing_without_its_key(
    tmp_path, kek, monkeypatch
):
    from ml_registry_pipelines.registry.shredding import SubjectKeys

    with Lake(str(tmp_path / "home")) as lake:
        keys = SubjectKeys(lake)
        sealed = keys.seal("default", JANE, "contact", "Jane")
        assert keys.opened("default", {"a": [sealed]}) == {"a": ["Jane"]}
        assert keys.opened("acme", sealed) == "erased"
        moved = {"sealed": {**sealed["sealed"], "field": "other"}}
        with pytest.raises(InvalidInput, match="was changed, or belongs elsewhere"):
            keys.opened("default", moved)
        monkeypatch.setenv("MLREG_KEK", "cd" * 32)
        with pytest.raises(InvalidInput, match="is another than it was made under"):
            keys.opened("default", sealed)
        monkeypatch.delenv("MLREG_KEK")
        (tmp_path / "home" / "kek").write_text("ab" * 32)
        monkeypatch.setenv("MLREG_KEK_FILE", str(tmp_path / "home" / "kek"))
        with pytest.raises(InvalidInput, match="lies below the storage root"):
            keys.seal("default", JANE, "contact", "Jane")


@pytest.mark.parametrize(
    "given",
    [
        {"description": f"ask {JANE}"},
        {"tags": {"contact": JANE}},
        {"metadata": {"team": [{"lead": JANE}]}},
    ],
)
def test_no_command_takes_an_address_into_the_log(tmp_path, given):
    with Lake(str(tmp_path / "home")) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=OFFICER)
        with pytest.raises(InvalidInput, match=r"an e-mail address in .*the log cannot forget"):
            registry.register_model("m", **given)
        registry.register_model("m", description="code in git@github.com:acme/m.git, image m@sha256:ab")


def test_models_that_learned_from_the_person_are_to_be_retrained_live_ones_first(tmp_path):
    with Lake(str(tmp_path / "home")) as lake, Log(lake) as log:
        tracker, registry = LineageTracker(log, actor=OFFICER), ModelRegistry(log, actor=OFFICER)
        tracker.track_dataset("customers", Uri("s3://lake/customers", "ab" * 32))
        for name in ("idle", "live"):
            registry.register_model(name)
            registry.create_model_version(
                name, HostedModel("p", name), VersionFacts(trained_on=["customers@latest"])
            )
        tracker.track_deployment("scoring", "live@v1", environment="production")
        at = eraser(lake, log)
        planned = at.plan(at.subject([JANE]), datasets=["customers"])
        retrained = [item for item in planned.items if item.action.value == "retrain"]
        assert [(item.where, bool(item.live)) for item in retrained] == [
            ("live@v1", True),
            ("idle@v1", False),
        ]
        done = at.erase(at.subject([JANE]), datasets=["customers"])
        assert (done.complete, done.open_items) == (False, len(planned.open))


def measured(log: Log, name: str) -> list[Measured]:
    metric = catalogue()[name]
    return list(metric.measure(Context(log.lake, log, "default", datetime.now(UTC)), NoParameters()))


def test_erasures_and_exports_are_what_the_checks_of_rights_measure(filled):
    lake, log = filled
    worker = eraser(lake, log)
    received = datetime.now(UTC) - timedelta(days=40)
    ErasureRequests(log, actor=OFFICER).request(worker.subject([BOB]), received_at=received)
    export(worker, worker.subject([JANE]))
    worker.erase(worker.subject([JANE]))
    (late,) = measured(log, "gdpr_g9_requests_answered")
    assert (late.value, late.n) == (1, 2)
    (plan,) = measured(log, "gdpr_g10_erasure_plan_complete")
    assert (plan.value, bool(plan.n)) == (0, True)
    (needle,) = measured(log, "gdpr_g11_needle_test")
    assert (needle.value, needle.detail["unread"]) == (0, 0)
    assert needle.detail["planted"] == needle.detail["found"]
    (bundles,) = measured(log, "gdpr_g12_exports")
    assert (bundles.value, bundles.n) == (0, bundles.detail["bundles"])
    secrets = measured(log, "gdpr_g18_pseudonym_keys")
    assert [(one.about, one.value) for one in secrets] == [("", None), ("secrets", 2.0)]
    assert [one.value for one in measured(log, "gdpr_g20_addresses_in_log")] == [0]


@pytest.mark.soak
def test_an_erasure_whose_search_found_something_fails_although_it_is_still_open(tmp_path):
    with Lake(str(tmp_path / "home")) as lake, Log(lake) as log:
        (tmp_path / "home").mkdir(exist_ok=True)
        (tmp_path / "home" / "notes.txt").write_text(f"ask {JANE}")
        worker = eraser(lake, log)
        assert not worker.erase(worker.subject([JANE])).complete
        (found,) = measured(log, "gdpr_g11_needle_test")
        assert found.value
        (tmp_path / "home" / "notes.txt").unlink()
        (tmp_path / "home" / "notes.parquet").write_bytes(b"PAR1, but no more")
        assert not worker.erase(worker.subject([JANE])).complete
        (unread,) = measured(log, "gdpr_g11_needle_test")
        assert (unread.value, "could not be searched" in unread.problem) == (None, True)
        (tmp_path / "home" / "notes.parquet").unlink()
        assert worker.erase(worker.subject([JANE])).complete
        (passed,) = measured(log, "gdpr_g11_needle_test")
        assert passed.value == 0


@pytest.mark.soak
def test_a_request_of_the_register_is_shown_by_the_certificate_that_closed_it(tmp_path):
    with Lake(str(tmp_path / "home")) as lake, Log(lake) as log:
        fill(tmp_path / "home", lake)
        registers = Registers(log, actor=OFFICER)
        registers.open_request("s-1", "erasure", name="e-1")
        worker = eraser(lake, log)
        done = worker.erase(worker.subject([JANE]))
        registers.close_request("e-1", outcome="erased", certificate=done.digest)
        assert [(m.about == "e-1", m.value) for m in measured(log, "gdpr_g11_needle_test")] == [
            (True, 0.0),
            (False, 0.0),
        ]
        registers.open_request("s-2", "erasure", name="e-2")
        registers.close_request("e-2", outcome="erased", certificate="made up")
        assert "without a search" in measured(log, "gdpr_g11_needle_test")[1].problem


def test_who_was_erased_by_mistake_is_taken_again_once_the_list_lets_them_with_a_reason(tmp_path):
    home = tmp_path / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        fill(home, lake)
        worker = eraser(lake, log)
        jane = worker.subject([JANE])
        with pytest.raises(InvalidInput, match="nobody with these identifiers is on the suppression list"):
            lift(worker.requests, jane, "the wrong person")
        worker.erase(jane)
        with pytest.raises(InvalidInput, match="for a reason alone"):
            lift(worker.requests, jane, " ")
        with pytest.raises(InvalidInput, match="e-mail address"):
            lift(worker.requests, jane, f"asked by {JANE}")
        land(home, "before.jsonl", lines([request(100, JANE)]))
        assert (take(lake).suppressed, lake.exists("suppression_list")) == (1, True)
        assert lift(worker.requests, jane, "the wrong person") == 2  # her own entry, and that of her chat
        land(home, "after.jsonl", lines([request(101, JANE), request(0, JANE)]))
        taken = take(lake)
        assert (taken.taken, taken.duplicates, taken.suppressed) == (1, 1, 0)
        assert counts_add_up(lake).passed
        assert [verdict.damage for verdict in verify(lake)] == [None]
        with lake.read("suppression_list") as reading:
            assert reading.query("t", "SELECT count(*) AS n FROM suppression_list")["n"].to_pylist() == [0]


def test_who_looks_up_exports_or_erases_is_on_record_with_the_purpose(tmp_path):
    home = tmp_path / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        fill(home, lake)
        worker = replace(eraser(lake, log), purpose="rights of subjects")
        export(worker, worker.subject([JANE]))
        done = worker.erase(worker.subject([JANE]))
        with lake.read("access_log") as reading:
            rows = reading.query(
                "t", "SELECT action, subject, purpose, actor, rows FROM access_log ORDER BY access_id"
            ).to_pylist()
    assert {(row["purpose"], row["actor"]) for row in rows} == {("rights of subjects", OFFICER.id)}
    assert {row["action"] for row in rows} == {"read", "export", "request_erasure"}
    assert "inference_events" in next(row["subject"] for row in rows if row["action"] == "export")
    assert next(row["subject"] for row in rows if row["action"] == "request_erasure") == done.request


def test_an_export_closes_the_request_that_it_answers_and_no_other(home: Path, tmp_path: Path):
    with Lake(str(home)) as lake, Log(lake) as log:
        fill(home, lake)
        registers = Registers(log, actor=OFFICER)
        registers.open_request("s-1", "portability", name="p-1")
    given = ["gdpr", "export", "--subject", JANE, "--request", "p-1"]
    run = CliRunner()
    wrong = run.invoke(cli, [*given, "--to", str(tmp_path / "15.zip")])
    assert "answers one for access" in str(wrong.exception)
    assert not (tmp_path / "15.zip").exists()
    done = run.invoke(cli, [*given, "--article", "20", "--to", str(tmp_path / "20.zip")])
    assert done.exit_code == 0, (done.output, done.exception)
    with Lake(str(home)) as lake, Log(lake) as log:
        (found,) = measured(log, "gdpr_g12_exports")
    assert (found.value, found.n, found.detail) == (0, 2, {"requests": 1, "bundles": 1})
    again = run.invoke(cli, [*given, "--article", "20", "--to", str(tmp_path / "again.zip")])
    assert "was closed on" in str(again.exception)


def test_a_person_goes_from_every_version_of_a_lance_dataset(tmp_path):
    import lancedb

    home = tmp_path / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        fill(home, lake)
        store = lancedb.connect(str(home / "vectors"))
        rows = {
            "text": [f"{JANE} asked", "of mary-" + JANE, BOB] * 50,
            "by": [{"who": BOB}] * 149 + [{"who": JANE}],
        }
        notes = store.create_table("notes", pa.table(rows))
        older = store.create_table("older", pa.table({"text": [JANE, BOB]}))
        older.delete(f"text = '{JANE}'")
        notes.create_index("text", config=lancedb.index.FTS())
        # One of so many that compaction would leave the file as it is.
        store.create_table("many", pa.table({"text": [BOB] * 999 + [f"u {JANE}"]}))
        worker = eraser(lake, log)
        done = worker.erase(worker.subject([JANE]))
        assert done.complete, done.sentence()
        assert store.open_table("notes").count_rows() == 99
        assert store.open_table("many").count_rows() == 999
        assert store.open_table("older").to_arrow()["text"].to_pylist() == [BOB]
        assert done.proof.planted["storage: Lance, of an older version"]
    assert not [
        p for p in (home / "vectors").rglob("*") if p.is_file() and b" " + JANE.encode() in p.read_bytes()
    ]


def test_every_column_that_is_declared_personal_is_one_that_an_erasure_knows():
    declared = {
        name: frozenset(column.name for column in table.columns if column.personal)
        for name, table in TABLES.items()
        if name not in OF_THE_LOG
    }
    assert {name: columns for name, columns in declared.items() if columns} == COVERED
    texts = [c for table in TABLES.values() for c in table.columns if c.personal and c.type != "string"]
    assert not texts, "only texts are searched for identifiers"
    # Who a row is about stands in a column that erasures go by.
    hashes = {c.name for t in TABLES.values() for c in t.columns if c.name.endswith("_hash") and c.personal}
    assert hashes == set(PERSON_COLUMNS)


def test_an_officer_may_do_all_of_an_erasure_and_nobody_else_may_look_anybody_up(tmp_path):
    home = tmp_path / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        fill(home, lake)
        _, key = Users(log, actor=owner_of(lake)).init()
        users = Users(log, actor=actor_for_key(log, key.text))
        engineer, officer = (
            replace(eraser(lake, log), actor=signed_in(users, role)) for role in ("engineer", "compliance")
        )
        person = officer.subject([JANE])
        with pytest.raises(NotAllowed, match="plan_erasure"):
            engineer.plan(person)
        for refused in (
            lambda: engineer.erase(person),
            lambda: export(engineer, person),
            lambda: lift(engineer.requests, person, "curious"),
            lambda: enforce_retention(log, actor=engineer.actor),
        ):
            with pytest.raises(NotAllowed):
                refused()
        request = officer.requests.request(person)
        officer.requests.extend(request.id, "many systems")
        assert officer.erase(person).complete
        assert lift(officer.requests, person, "the wrong person") == 2
        enforce_retention(log, actor=officer.actor)
        enforce_retention(log, actor=platform("schedule"))


def test_the_shell_plans_erases_and_shows_the_certificate(home: Path, tmp_path: Path):
    with Lake(str(home)) as lake:
        fill(home, lake)
    run = CliRunner()
    given = ["--subject-file", "-"]
    planned = run.invoke(cli, ["gdpr", "plan", *given], input=f"{JANE}\n")
    assert "table:inference_events" in planned.output, planned.output
    bundle = run.invoke(cli, ["gdpr", "export", "--subject", JANE, "--to", str(tmp_path / "jane.zip")])
    assert bundle.exit_code == 0, (bundle.output, bundle.exception)
    refused = run.invoke(cli, ["gdpr", "export", "--subject", JANE, "--to", str(home / "jane.zip")])
    assert "lies below the storage root" in str(refused.exception)
    erased = run.invoke(cli, ["gdpr", "erase", *given, "--yes"], input=f"{JANE}\n")
    assert erased.exit_code == 0, (erased.output, erased.exception)
    assert "is complete: 8 rows in 2 tables" in erased.output
    listed = run.invoke(cli, ["gdpr", "requests"]).output
    assert "completed" in listed
    page = run.invoke(cli, ["gdpr", "certificate", listed.split()[0], "--format", "html"]).output
    assert page.startswith("<!doctype html>")
    assert JANE not in planned.output + erased.output + listed + page
    with pytest.raises(MlregError, match="no identifier is given"):
        run.invoke(cli, ["gdpr", "plan"], catch_exceptions=False)
