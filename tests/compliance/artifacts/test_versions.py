"""Versions whose artifacts are scanned, signed and billed, by Python, from a shell and as jobs."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import dagster as dg
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from ml_registry_pipelines.cli.security import attach
from ml_registry_pipelines.compliance.artifact_security import scans
from ml_registry_pipelines.compliance.artifact_security.bom import BomFormat, bom_text, invalidity, store_bom
from ml_registry_pipelines.compliance.artifact_security.checks import METRICS
from ml_registry_pipelines.compliance.artifact_security.findings import FileVerdict
from ml_registry_pipelines.compliance.artifact_security.guard import Limits, Scanner
from ml_registry_pipelines.compliance.artifact_security.scans import formats_of_version, kept, scan_version
from ml_registry_pipelines.compliance.artifact_security.signatures import (
    SignatureError,
    make_signing_keys,
    sign_version,
    trusted_keys,
    verify_version_signatures,
)
from ml_registry_pipelines.compliance.evidence import record
from ml_registry_pipelines.compliance.metrics import Context
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
from ml_registry_pipelines.compliance.suites.files import shipped
from ml_registry_pipelines.compliance.suites.suite import parse
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import Version, VersionFacts
from tests.compliance.artifacts.harmful import SYSTEM

ENGINEER = Actor("engineer")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def log(root: Path) -> Iterator[Log]:
    with Lake(str(root / "home")) as lake, Log(lake) as opened:
        yield opened


@pytest.fixture(scope="module")
def keys(root: Path) -> tuple[Path, Path]:
    make_signing_keys(root / "private.pem", root / "public.pem")
    return root / "private.pem", root / "public.pem"


def made(
    log: Log, tenant: str, folder: Path, *, facts: VersionFacts | None = None
) -> tuple[ModelRegistry, Version]:
    models = ModelRegistry(log, actor=ENGINEER, tenant=tenant)
    models.register_model("fraud")
    folder.mkdir()
    save_file({"w": np.arange(4.0)}, folder / "model.safetensors")
    (folder / "requirements.txt").write_text(
        "numpy==2.4.6\nscikit-learn[x] == 1.9.1 ; python_version > '3' # why\n"
    )
    (folder / ".gitattributes").write_text("* text\n")
    return models, models.create_model_version("fraud", folder, facts)


def blob(log: Log, models: ModelRegistry, reference: str, path: str) -> Path:
    """Where the bytes of a file lie, for somebody who reaches the folder behind the registry's back."""
    (sha256,) = (f.sha256 for f in models.artifact_files(reference) if f.path == path)
    found = Path(log.lake.root) / "artifacts" / "blobs" / sha256[:2] / sha256
    found.chmod(0o644)
    return found


def measured(log: Log, version: Version, tenant: str) -> dict[str, list[Measured]]:
    """All metrics with the parameters of the shipped suite."""
    suite = parse(shipped()["security"].read_text(), "security", place="security.yaml")
    assert not suite.problems
    subject = Subject(tenant, version.model_id, version.id, version.reference, version.content_digest)
    context = Context(log.lake, log, tenant, datetime.now(UTC), subject)
    metrics = {metric.name: metric for metric in METRICS}
    assert {e.metric.name for e in suite.expectations} == metrics.keys()
    return {
        e.metric.name.split("_")[1]: list(e.metric.measure(context, e.parameters)) for e in suite.expectations
    }


def test_what_was_scanned_once_is_not_scanned_again_and_says_how_old_that_is(log, tmp_path, monkeypatch):
    models, version = made(log, "cached", tmp_path / "m")
    first = scan_version(log.lake, "cached", version, models.artifacts)
    assert (first.verdict, first.formats) == (FileVerdict.CLEAN, ("safetensors", "text"))
    monkeypatch.setattr(Scanner, "scan", lambda *a, **k: pytest.fail("it was scanned again"))
    again = scan_version(log.lake, "cached", version, models.artifacts)
    assert again == first
    assert timedelta(0) <= again.oldest(datetime.now(UTC)) < timedelta(minutes=5)
    digests = [file.sha256 for file in first.files]
    assert len(kept(log.lake, "cached", digests)) == 3
    assert kept(log.lake, "other", digests) == {}
    monkeypatch.setattr(scans, "scanner_version", lambda: "scan-of-tomorrow")
    assert kept(log.lake, "cached", digests) == {}


def test_every_check_passes_on_a_signed_and_billed_version_and_each_fails_when_its_subject_is_spoilt(
    log, keys, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLREG_TRUSTED_KEYS", str(keys[1]))
    models, version = made(log, "whole", tmp_path / "m", facts=VersionFacts(licence="Apache-2.0"))
    bare = {name: [m.value for m in found] for name, found in measured(log, version, "whole").items()}
    assert {name for name, values in bare.items() if values != [0.0] * len(values)} == {"s6", "s7"}
    store_bom(models, "fraud@v1")
    version, added = sign_version(models, "fraud@v1", keys[0])
    assert added == 2
    assert sign_version(models, "fraud@v1", keys[0])[1] == 0
    whole = measured(log, version, "whole")
    assert {m.value for found in whole.values() for m in found} == {0.0}

    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt" / "model.pkl").write_bytes(SYSTEM)
    (tmp_path / "spoilt" / "config.json").write_text('{"password": "hunter2hunter2"}')
    (tmp_path / "spoilt" / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}')
    (tmp_path / "spoilt" / "weights.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(40))
    spoilt = models.create_model_version("fraud", tmp_path / "spoilt", VersionFacts(licence="mine"))
    found = measured(log, spoilt, "whole")
    assert {name for name, values in found.items() if any(m.value for m in values)} == {
        "s2", "s3", "s6", "s7", "s8", "s9", "s10",
    }  # fmt: skip
    (refused,) = found["s4"]
    assert refused.value is None
    assert refused.problem.startswith("weights.7z was refused")
    assert "hunter2" not in repr(found)
    assert {m.about for m in found["s3"]} == {"model.pkl"}


def test_a_changed_or_missing_file_is_named_and_neither_clean_nor_verified(log, keys, tmp_path):
    models, version = made(log, "changed", tmp_path / "m")
    sign_version(models, "fraud@v1", keys[0])
    place = blob(log, models, "fraud@v1", "model.safetensors")
    place.write_bytes(place.read_bytes()[:-1] + b"\1")
    version = models.get_version("fraud@v1")
    (content,) = [
        s for s in verify_version_signatures(models.artifacts, version, [keys[1]]) if s.kind == "content"
    ]
    assert content.key == ""
    assert "model.safetensors" in content.problem
    scan = scan_version(log.lake, "changed", version, models.artifacts)
    assert scan.verdict is FileVerdict.FLAGGED
    assert "model.safetensors" in next(f for f in scan.files if f.findings).findings[0].what
    assert [m.value for m in measured(log, version, "changed")["s1"]] == [1.0, 0.0]
    with pytest.raises(MlregError, match=r"model\.safetensors"):
        sign_version(models, "fraud@v1", keys[0])


def test_a_signature_holds_for_its_own_artifact_and_by_a_trusted_key_alone(log, keys, tmp_path, monkeypatch):
    models, first = made(log, "keys", tmp_path / "m")
    (tmp_path / "m" / "more.txt").write_text("more")
    second = models.create_model_version("fraud", tmp_path / "m")
    first, _ = sign_version(models, "fraud@v1", keys[0])
    assert [s.key != "" for s in verify_version_signatures(models.artifacts, first, [keys[1]])] == [True]
    # The signature of one version, put beside another one.
    models.download("fraud@v1", tmp_path / "sig", kind="signature")
    from ml_registry_pipelines.registry.versions import Artifact

    (bundle,) = (tmp_path / "sig").iterdir()
    moved = models.add_artifact("fraud@v2", Artifact("signature", bundle))
    assert verify_version_signatures(models.artifacts, moved, [keys[1]])[0].problem == "it is not signed"
    # And one that was made to say that it is about that one.
    text = json.loads(bundle.read_text())
    import base64

    payload = base64.b64decode(text["dsseEnvelope"]["payload"]).decode()
    forged = payload.replace(first.content_digest, second.content_digest)
    text["dsseEnvelope"]["payload"] = base64.b64encode(forged.encode()).decode()
    (tmp_path / "forged.sig").write_text(json.dumps(text))
    moved = models.add_artifact("fraud@v2", Artifact("signature", tmp_path / "forged.sig"))
    assert verify_version_signatures(models.artifacts, moved, [keys[1]])[0].key == ""
    make_signing_keys(tmp_path / "other.pem", tmp_path / "other-public.pem", password="secret")
    (unknown,) = verify_version_signatures(models.artifacts, first, [tmp_path / "other-public.pem"])
    assert unknown.problem == "it is signed, and by no trusted key"
    with pytest.raises(SignatureError, match="needs a password"):
        sign_version(models, "fraud@v2", tmp_path / "other.pem")
    assert sign_version(models, "fraud@v2", tmp_path / "other.pem", password="secret")[1] == 1
    with pytest.raises(SignatureError, match="no private key"):
        sign_version(models, "fraud@v2", keys[1])
    with pytest.raises(SignatureError, match="is there already"):
        make_signing_keys(*keys)
    monkeypatch.delenv("MLREG_TRUSTED_KEYS", raising=False)
    with pytest.raises(SignatureError, match="no key is trusted"):
        trusted_keys()
    with pytest.raises(SignatureError, match="no public key"):
        trusted_keys(str(keys[0]))
    assert [m.value for m in measured(log, first, "keys")["s6"]] == [None]


def test_the_signature_is_one_that_the_tools_of_openssf_verify(log, keys, tmp_path):
    from model_signing.hashing import Config as Hashing
    from model_signing.verifying import Config

    models, _ = made(log, "openssf", tmp_path / "m")
    sign_version(models, "fraud@v1", keys[0])
    models.download("fraud@v1", tmp_path / "content")
    (bundle,) = models.download("fraud@v1", tmp_path / "sig", kind="signature")
    hashing = Hashing().set_ignored_paths(paths=[], ignore_git_paths=False)
    config = Config().use_elliptic_key_verifier(public_key=keys[1]).set_hashing_config(hashing)
    config.verify(tmp_path / "content", bundle)
    (tmp_path / "content" / ".gitattributes").write_text("changed")
    with pytest.raises(ValueError, match="gitattributes"):
        config.verify(tmp_path / "content", bundle)


def test_the_bill_lists_data_metrics_with_intervals_files_base_and_packages_and_is_valid(log, tmp_path):
    tracker = LineageTracker(log, actor=ENGINEER, tenant="billed")
    (tmp_path / "credit.csv").write_text("age,amount\n20,5\n30,6\n")
    tracker.track_dataset("credit", tmp_path / "credit.csv")
    models, _ = made(log, "billed", tmp_path / "m", facts=VersionFacts(licence="MIT"))
    facts = VersionFacts(
        metrics={"auc": 0.91}, licence="Apache-2.0", trained_on=["credit@v1"], base_model="fraud@v1"
    )
    version = models.create_model_version("fraud", tmp_path / "m", facts)
    result = Result(
        tenant="billed", area=Area.FAIRNESS, suite="fairness", suite_digest="0" * 64, check="parity of sex",
        metric="demographic_parity_difference", verdict=Verdict.FAIL, severity=Severity.CRITICAL,
        message="0.24 is above 0.1", observed=0.24, interval=Interval(0.2, 0.28, 0.95, "newcombe"), high=0.1,
        about="sex", groups=(Group("sex=F", 100), Group("sex=M", 90)),
        subject=Subject("billed", version.model_id, version.id, version.reference, version.content_digest),
    )  # fmt: skip
    record(log.lake, [result], tenant="billed", actor=ENGINEER)
    bills = {form: json.loads(bom_text(models, version, form)) for form in BomFormat}
    bill = bills[BomFormat.V1_6]
    component = bill["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    assert component["hashes"] == [{"alg": "SHA-256", "content": version.content_digest}]
    assert component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] == [
        {"type": "auc", "value": "0.91"},
        {
            "type": "demographic_parity_difference",
            "value": "0.24",
            "slice": "sex",
            "confidenceInterval": {"lowerBound": "0.2", "upperBound": "0.28"},
        },
    ]
    (assessment,) = component["modelCard"]["considerations"]["fairnessAssessments"]
    assert assessment["groupAtRisk"] == "sex=F, sex=M"
    assert assessment["harms"] == "demographic_parity_difference: fail; 0.24 is above 0.1"
    by_type: dict[str, list[str]] = {}
    for each in bill["components"]:
        by_type.setdefault(each["type"], []).append(each["name"])
    assert sorted(by_type["file"]) == [".gitattributes", "model.safetensors", "requirements.txt"]
    assert by_type["library"] == ["numpy", "scikit-learn"]
    assert by_type["machine-learning-model"] == ["fraud"]
    (data,) = [each for each in bill["components"] if each["type"] == "data"]
    assert any(p["name"] == "mlreg:digest" and p["value"] for p in data["properties"])
    assert component["modelCard"]["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    # The same facts are one bill, kept once.
    once = store_bom(models, "fraud@v2")
    assert store_bom(models, "fraud@v2").artifacts == once.artifacts
    assert measured(log, once, "billed")["s7"][0].value == 0.0
    assert invalidity(json.dumps({**bill, "surprise": 1}), BomFormat.V1_6).startswith("the document: ")


def test_a_bill_of_other_files_and_one_that_is_none_are_told(log, tmp_path):
    from ml_registry_pipelines.registry.versions import Artifact

    models, version = made(log, "misbilled", tmp_path / "m")
    bill = json.loads(bom_text(models, version))
    bill["components"] = [c for c in bill["components"] if c["name"] != "model.safetensors"]
    bill["metadata"]["component"]["hashes"][0]["content"] = "0" * 64
    for text, said in (
        (json.dumps(bill), ["another digest of the content", "lacks file model.safetensors"]),
        ("{}", ["no CycloneDX"]),
        (json.dumps({**bill, "surprise": 1}), ["not valid"]),
    ):
        (tmp_path / "bom.json").write_text(text)
        found = measured(
            log, models.add_artifact("fraud@v1", Artifact("bom", tmp_path / "bom.json")), "misbilled"
        )
        findings = str(found["s7"][0].detail["findings"])
        assert found["s7"][0].value
        assert all(each in findings for each in said)


def test_a_hosted_model_passes_no_check_of_files(log, tmp_path):
    models = ModelRegistry(log, actor=ENGINEER, tenant="hosted")
    models.register_model("chat")
    version = models.create_model_version("chat", HostedModel("openai", "gpt-4o-2024-11-20"))
    assert scan_version(log.lake, "hosted", version, models.artifacts).verdict is FileVerdict.REFUSED
    assert formats_of_version(models, "chat@v1") == ("elsewhere",)
    found = measured(log, version, "hosted")
    for name in ("s1", "s2", "s3", "s4", "s5", "s9", "s11", "s12", "s13", "s14"):
        assert [m.value for m in found[name]] == [None]


def test_from_a_shell_a_file_or_a_version_is_scanned_signed_verified_and_billed(
    root, log, keys, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLREG_HOME", str(root / "home"))
    monkeypatch.setenv("MLREG_TENANT", "shell")
    monkeypatch.setenv("MLREG_TRUSTED_KEYS", str(keys[1]))
    made(log, "shell", tmp_path / "m")
    group = click.Group("mlreg")
    attach(group)

    def mlreg(*arguments: object, status: int = 0) -> str:
        done = CliRunner().invoke(group, [str(a) for a in arguments])
        assert done.exit_code == status, done.output or done.exception
        return done.output if not isinstance(done.exception, MlregError) else str(done.exception)

    (tmp_path / "evil.pkl").write_bytes(SYSTEM)
    said = mlreg("scan", tmp_path / "evil.pkl", status=1)
    assert said.startswith("flagged  evil.pkl  (pickle")
    assert "S3: it names os.system, which is on no list of harmless globals" in said
    assert json.loads(mlreg("scan", tmp_path / "evil.pkl", "--json", status=1))["verdict"] == "flagged"
    assert "fraud@v1 is clean: 3 files" in mlreg("scan", "fraud@v1")
    assert "there is no model" in mlreg("scan", "nothing@v1", status=1)
    assert "NOT VERIFIED: it is not signed" in mlreg("verify-signature", "fraud@v1", status=1)
    assert "valid CycloneDX 1.7" in mlreg("bom", "fraud@v1", "--cyclonedx", "1.7")
    assert json.loads(mlreg("bom", "fraud@v1", "--show"))["specVersion"] == "1.6"
    assert "2 signatures added" in mlreg("sign", "fraud@v1", "--key", keys[0])
    assert mlreg("verify-signature", "fraud@v1").count("signed by") == 2
    mlreg("sign", status=2)
    mlreg("sign", "--make-keys", tmp_path / "a.pem", tmp_path / "b.pem")
    assert (tmp_path / "a.pem").stat().st_mode & 0o777 == 0o600
    assert "NOT VERIFIED" in mlreg("verify-signature", "fraud@v1", "--key", tmp_path / "b.pem", status=1)


def test_the_job_scans_a_version_and_fails_unless_all_of_it_is_clean(root, log, tmp_path):
    from ml_registry_pipelines.jobs.security import security_jobs
    from resources.registry import RegistryResource

    models, _ = made(log, "job", tmp_path / "m")
    (tmp_path / "evil.pkl").write_bytes(SYSTEM)
    models.create_model_version("fraud", tmp_path / "evil.pkl")
    scan, _bill = security_jobs()
    resource = {"registry": RegistryResource(root=str(root / "home"))}
    with dg.DagsterInstance.ephemeral() as instance:
        for version, success in (("fraud@v1", True), ("fraud@v2", False), (None, True)):
            ran = scan.execute_in_process(
                run_config={"tenant": "job", "version": version}, resources=resource, instance=instance,
                raise_on_error=False,
            )  # fmt: skip
            assert ran.success is success
    assert formats_of_version(models, "fraud@v2") == ("pickle",)


def test_the_files_of_a_bucket_are_scanned_signed_and_verified(s3_root, keys, tmp_path):
    with Lake(s3_root) as lake, Log(lake) as log:
        models, version = made(log, "bucket", tmp_path / "m")
        (tmp_path / "m" / "evil.pkl").write_bytes(pickle.dumps(os.getcwd))
        second = models.create_model_version("fraud", tmp_path / "m")
        assert (
            scan_version(lake, "bucket", version, models.artifacts, limits=Limits()).verdict
            is FileVerdict.CLEAN
        )
        assert scan_version(lake, "bucket", second, models.artifacts).verdict is FileVerdict.FLAGGED
        signed, _ = sign_version(models, "fraud@v1", keys[0])
        assert all(s.key for s in verify_version_signatures(models.artifacts, signed, [keys[1]]))
