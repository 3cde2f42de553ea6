"""Content is stored once, by its digest, and checked whenever it is read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ml_registry_pipelines.registry.artifacts import (
    ArtifactChanged,
    ArtifactElsewhere,
    ArtifactRefused,
    HostedModel,
    Uri,
    checked_path,
)
from ml_registry_pipelines.registry.blobs import keep_bytes, manifest_path
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.versions import Artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "weights.bin").write_bytes(os.urandom(3_000_000))
    (tmp_path / "model" / "deep" / "größe.json").write_text("{}")
    (tmp_path / "model" / "empty").write_bytes(b"")
    return tmp_path / "model"


def blobs(registry) -> dict[str, Path]:
    return {p.name: p for p in Path(registry.log.lake.root, "artifacts", "blobs").rglob("*") if p.is_file()}


def test_a_folder_comes_back_byte_by_byte(registry, folder, tmp_path):
    registry.register_model("m")
    version = registry.create_model_version("m", folder)
    assert (version.content["files"], version.size) == (3, 3_000_002)
    files = registry.download("m@v1", tmp_path / "out")
    assert {f.relative_to(tmp_path / "out").as_posix(): f.read_bytes() for f in files} == {
        f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()
    }
    registry.verify_version("m@v1")


def test_what_is_there_already_is_not_written_again(registry, folder, tmp_path):
    registry.register_model("m")
    registry.create_model_version("m", folder)
    files = registry.download("m@v1", tmp_path / "out")
    before = [f.stat().st_mtime_ns for f in files]
    files[0].write_bytes(b"spoilt")
    again = registry.download("m@v1", tmp_path / "out")
    assert [f.stat().st_mtime_ns for f in again][1:] == before[1:]
    assert files[0].read_bytes() != b"spoilt"


def test_the_same_content_is_stored_once_and_has_one_digest(registry, folder, tmp_path):
    registry.register_model("m")
    first = registry.create_model_version("m", folder)
    kept = blobs(registry)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    second = registry.create_model_version("m", folder)
    third = registry.create_model_version("m", tmp_path / "copy")
    assert first.content_digest == second.content_digest != third.content_digest
    assert blobs(registry).keys() == kept.keys()


def test_a_changed_file_behind_a_version_is_found_and_named_and_not_handed_out(registry, tmp_path):
    registry.register_model("m")
    (tmp_path / "w.bin").write_bytes(b"good" * 1000)
    registry.create_model_version("m", tmp_path / "w.bin")
    blob = blobs(registry)[hashlib.sha256(b"good" * 1000).hexdigest()]
    blob.write_bytes(b"evil" * 1000)
    with pytest.raises(ArtifactChanged, match=r"w\.bin .* was changed"):
        registry.verify_version("m@v1")
    with pytest.raises(ArtifactChanged):
        registry.download("m@v1", tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
    blob.unlink()
    with pytest.raises(ArtifactChanged, match="gone"):
        registry.verify_version("m@v1")


def test_a_changed_manifest_is_found(registry, tmp_path):
    registry.register_model("m")
    version = registry.create_model_version("m", HostedModel("p", f"{registry.tenant}"))
    (manifest,) = Path(registry.log.lake.root, "artifacts").rglob(f"{version.content_digest}.json")
    manifest.write_text(manifest.read_text().replace("hosted", "hostel"))
    with pytest.raises(ArtifactChanged, match="manifest"):
        registry.verify_version("m@v1")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "", "..", "a\\..\\b"])
def test_a_path_that_leads_out_of_an_artifact_is_refused(path):
    with pytest.raises(ArtifactRefused):
        checked_path(path)


def test_links_and_what_is_no_file_are_refused_and_leave_no_version(registry, folder, tmp_path):
    registry.register_model("m")
    (folder / "link").symlink_to("/etc/passwd")
    (tmp_path / "outside").symlink_to(folder)
    (tmp_path / "nothing").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (folder, "links are not stored"),
        (tmp_path / "outside", "is a link"),
        (tmp_path / "nothing", "holds no file"),
        (tmp_path / "absent", "is no file"),
        (tmp_path / "pipe", "is no file"),
    ):
        with pytest.raises(ArtifactRefused, match=why):
            registry.create_model_version("m", path)
    assert registry.list_versions("m") == []


def test_what_the_platform_keeps_for_itself_is_no_content(registry, tmp_path, monkeypatch):
    """A form is carried out by the service, which can read what the person who filled it in cannot."""
    registry.register_model("m")
    home = Path(registry.log.lake.root)
    inside = home / "dagster" / "mlreg-secret"
    outside = tmp_path / "secrets" / "seal"
    for secret in (inside, outside):
        secret.parent.mkdir(exist_ok=True)
        secret.write_bytes(b"secret")
    monkeypatch.setenv("MLREG_SECRET_FILE", str(outside))
    digest = hashlib.sha256(b"secret").hexdigest()
    (tmp_path / "by_link").symlink_to(inside.parent)
    for content in (
        inside,
        inside.parent,
        home,
        home.parent,
        home / "tables" / ".." / "dagster" / "mlreg-secret",
        tmp_path / "by_link" / "mlreg-secret",
        outside,
        outside.parent,
        Uri(f"file://{inside}", digest),
        Uri(str(inside), "0" * 64),
    ):
        with pytest.raises(ArtifactRefused, match="keeps for itself") as refused:
            registry.create_model_version("m", content)
        assert digest not in str(refused.value)
    assert registry.list_versions("m") == []
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / "w.bin").write_bytes(b"w")
    assert registry.create_model_version("m", home / "models").number == 1


def test_an_address_that_came_in_with_a_tenant_reads_nothing_of_the_platform(registry):
    secret = Path(registry.log.lake.root) / "dagster" / "mlreg-secret"
    secret.parent.mkdir(exist_ok=True)
    secret.write_bytes(b"secret")
    data = canonical(
        {"form": "uri", "uri": f"file://{secret}", "sha256": hashlib.sha256(b"secret").hexdigest(), "size": 6}
    ).encode()
    name = hashlib.sha256(data).hexdigest()
    keep_bytes(registry.artifacts.blobs.folder, manifest_path(name), data)
    with pytest.raises(ArtifactRefused, match="keeps for itself"):
        registry.artifacts.verify(name)


def test_an_address_is_checked_where_it_can_be_read(registry, tmp_path):
    registry.register_model("m")
    (tmp_path / "w.bin").write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    registry.create_model_version("m", Uri(f"file://{tmp_path}/w.bin", right, 7))
    assert registry.download("m@v1", tmp_path / "out") == [tmp_path / "out" / "w.bin"]
    (tmp_path / "w.bin").write_bytes(b"others!")
    with pytest.raises(ArtifactChanged):
        registry.verify_version("m@v1")
    registry.create_model_version("m", Uri("https://example.com/w.bin", right))
    with pytest.raises(ArtifactElsewhere, match="compare its SHA-256"):
        registry.verify_version("m@v2")
    with pytest.raises(InvalidInput, match="no SHA-256"):
        registry.create_model_version("m", Uri("https://example.com/w.bin", "abc"))
    with pytest.raises(InvalidInput, match="no SHA-256"):
        registry.create_model_version("m", HostedModel("p", "s", prompt_digest="abc"))


def test_an_address_that_is_wrong_now_or_holds_a_secret_is_refused(registry, tracker, tmp_path):
    registry.register_model("m")
    (tmp_path / "w.bin").write_bytes(b"weights")
    wrong = Uri(f"file://{tmp_path}/w.bin", "ab" * 32)
    secret = Uri("https://user:geheim@example.com/d", "ab" * 32)
    for give in (
        lambda uri: registry.create_model_version("m", uri),
        lambda uri: tracker.track_dataset("d", uri),
    ):
        with pytest.raises(ArtifactRefused, match=f"not {wrong.sha256}; say what it is now"):
            give(wrong)
        with pytest.raises(InvalidInput, match="leave it out") as refused:
            give(secret)
        assert "geheim" not in str(refused.value)
        give(Uri("abfss://container@account.dfs.core.windows.net/d", "ab" * 32))


def test_a_hosted_model_is_told_by_snapshot_parameters_and_prompt(registry):
    registry.register_model("m")
    first = registry.create_model_version("m", HostedModel("p", "s", {"t": 0}, "aa" * 32))
    same = registry.create_model_version("m", HostedModel("p", "s", {"t": 0}, "aa" * 32))
    other = registry.create_model_version("m", HostedModel("p", "s", {"t": 1}, "aa" * 32))
    assert first.content_digest == same.content_digest != other.content_digest
    with pytest.raises(ArtifactElsewhere, match="hosted model"):
        registry.verify_version("m@v1")


def test_artifacts_of_every_kind_are_kept_and_handed_out_the_same_way(registry, folder, tmp_path):
    registry.register_model("m")
    (tmp_path / "card.md").write_text("# Card")
    registry.create_model_version("m", folder, artifacts=[Artifact("model_card", tmp_path / "card.md")])
    assert [a["kind"] for a in registry.get_version("m@v1").artifacts] == ["model_card"]
    (file,) = registry.download("m@v1", tmp_path / "out", kind="model_card")
    assert file.read_text() == "# Card"
    with pytest.raises(NotFound, match="checkpoint artifact"):
        registry.download("m@v1", tmp_path / "out", kind="checkpoint")


def test_artifacts_of_one_kind_with_the_same_file_name_both_arrive(registry, tmp_path):
    registry.register_model("fraud")
    registry.create_model_version("fraud", HostedModel("p", "s"))
    for text in ("first", "second"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "card.md").write_text(text)
        registry.add_artifact("fraud@v1", Artifact("model_card", tmp_path / text / "card.md"))
    for _ in range(2):
        paths = registry.download("fraud@v1", tmp_path / "out", kind="model_card")
        assert [path.read_text() for path in paths] == ["first", "second"]


def test_nothing_is_written_through_a_link(registry, folder, tmp_path):
    registry.register_model("fraud")
    registry.create_model_version("fraud", folder)
    inner = next(path for path in folder.rglob("*") if path.is_dir()).relative_to(folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / inner).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactRefused, match="is a link"):
        registry.download("fraud@v1", tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_sparse_file_is_streamed(registry, tmp_path):
    registry.register_model("m")
    with (tmp_path / "sparse.bin").open("wb") as stream:
        stream.truncate(64 * 1024 * 1024)
    assert registry.create_model_version("m", tmp_path / "sparse.bin").size == 64 * 1024 * 1024
    registry.verify_version("m@v1")
