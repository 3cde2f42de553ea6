"""A purge takes what no version ever needed, and never what one needs or is about to."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.files import LocalFolder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import purging
from ml_registry_pipelines.registry.artifacts import ArtifactChanged, ArtifactStore
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import (
    IllegalTransition,
    InvalidInput,
    NameTaken,
    NotFound,
    StillNeeded,
)
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.purging import delete_artifact, purge
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import Artifact
from tests.registry.conftest import ACTOR


@pytest.fixture
def own(tmp_path: Path):
    """A registry in a lake of its own, with one version and its card."""
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        registry.register_model("m")
        (tmp_path / "w").write_bytes(b"weights")
        (tmp_path / "card").write_bytes(b"card")
        registry.create_model_version(
            "m", tmp_path / "w", artifacts=[Artifact("model_card", tmp_path / "card")]
        )
        yield registry


def stray(registry: ModelRegistry, tmp_path: Path, name: str) -> str:
    (tmp_path / name).write_bytes(name.encode())
    return registry.artifacts.store(tmp_path / name).digest


def age(registry: ModelRegistry, days: float) -> None:
    """Let everything in the store be so old."""
    then = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    for path in Path(registry.log.lake.root, "artifacts").rglob("*"):
        os.utime(path, (then, then))


def test_what_no_version_ever_needed_goes_after_the_grace_period_and_nothing_else(own, tmp_path):
    stray(own, tmp_path, "stray")
    age(own, 6)
    assert purge(own.log, own.artifacts).files == 0
    age(own, 8)
    said = purge(own.log, own.artifacts, dry_run=True)
    assert (said.files, said.kept_files) == (2, 4)
    assert sorted(path.split("/")[0] for path in said.shown) == ["blobs", "manifests"]
    assert said.sentence().startswith("2 unreferenced files (0.0 MB) and 0 leftovers would be removed")
    done = purge(own.log, own.artifacts)
    assert (done.files, done.bytes, done.shown) == (2, said.bytes, said.shown)
    assert purge(own.log, own.artifacts).files == 0
    own.verify_version("m@v1")


def test_what_a_deleted_version_needs_stays_since_it_can_be_restored(own):
    own.delete_version("m@v1")
    age(own, 100)
    assert purge(own.log, own.artifacts).files == 0
    own.restore_version("m@v1")
    own.verify_version("m@v1")


def test_a_file_that_lies_there_and_is_used_again_is_claimed_before_its_command(own, tmp_path):
    digest = stray(own, tmp_path, "again")
    age(own, 30)
    assert stray(own, tmp_path, "again") == digest
    assert purge(own.log, own.artifacts).files == 0
    own.create_model_version("m", tmp_path / "again")
    age(own, 30)
    done = purge(own.log, own.artifacts)
    assert (done.files, done.leftovers) == (0, 2)  # The claims have served.
    own.verify_version("m@v2")


def test_a_version_that_comes_while_the_purge_looks_keeps_its_files(own, tmp_path, monkeypatch):
    stray(own, tmp_path, "late")
    age(own, 30)
    removing = purging._remove

    def after_a_command(log, store, doomed, heads, before):
        assert len(doomed) == 2
        # Without the claims, only the second look at the log is left to see it.
        monkeypatch.setattr(type(own.artifacts.blobs), "claim", lambda self, path: None)
        own.create_model_version("m", tmp_path / "late")
        return removing(log, store, doomed, heads, before)

    monkeypatch.setattr(purging, "_remove", after_a_command)
    assert purge(own.log, own.artifacts).files == 0
    own.verify_version("m@v2")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("how", ["purge", "delete"])
def test_a_version_that_comes_while_a_file_is_removed_keeps_it(own, tmp_path, monkeypatch, how, after):
    digest = stray(own, tmp_path, "late")
    age(own, 30)
    move = LocalFolder.move
    made: list[object] = []

    def beside_a_command(self, path, to):
        if after:
            move(self, path, to)
        if not made:
            made.append(own.create_model_version("m", tmp_path / "late"))
        if not after:
            move(self, path, to)

    monkeypatch.setattr(LocalFolder, "move", beside_a_command)
    if how == "purge":
        purge(own.log, own.artifacts)
    else:
        with suppress(IllegalTransition):
            delete_artifact(own.log, own.artifacts, digest)
    assert made
    own.verify_version("m@v2")


def test_what_a_killed_purge_had_taken_aside_is_put_back(own):
    digest = own.get_version("m@v1").content_digest
    path = f"manifests/{digest[:2]}/{digest}.json"
    own.artifacts.blobs.folder.move(path, f"removed/{path}")
    assert purge(own.log, own.artifacts).files == 0
    own.verify_version("m@v1")


def test_lists_of_commands_that_failed_go_and_those_of_the_log_stay(own):
    own.register_many([NewThing("listed")])
    with pytest.raises(NameTaken):
        own.register_many([NewThing("other"), NewThing("m")])
    age(own, 8)
    assert purge(own.log, own.artifacts).files == 1
    assert [v.damage for v in verify(own.log.lake)] == [None]


def test_a_purge_between_storing_and_claiming_again_stores_anew(own, tmp_path):
    stray(own, tmp_path, "s")
    age(own, 30)
    purge(own.log, own.artifacts)
    own.create_model_version("m", tmp_path / "s")
    own.verify_version("m@v2")


def test_nothing_is_purged_while_a_versions_manifest_is_gone_or_damaged(own, tmp_path):
    stray(own, tmp_path, "stray")
    age(own, 30)
    digest = own.get_version("m@v1").content_digest
    manifest = Path(own.log.lake.root, "artifacts", "manifests", digest[:2], f"{digest}.json")
    text = manifest.read_text()
    for break_it in (lambda: manifest.write_text(text + " "), manifest.unlink):
        break_it()
        with pytest.raises(ArtifactChanged, match=digest):
            purge(own.log, own.artifacts)
    manifest.write_text(text)
    own.verify_version("m@v1")
    assert purge(own.log, own.artifacts).files == 2


def test_a_purge_beside_a_command_that_is_storing_goes_on(own):
    manifests = Path(own.log.lake.root, "artifacts", "manifests", "ab")
    manifests.mkdir(exist_ok=True)
    (manifests / ".abc.json.0123.tmp").write_bytes(b"half")
    assert purge(own.log, own.artifacts).files == 0
    age(own, 8)
    assert purge(own.log, own.artifacts).files == 1


def test_what_broken_off_uploads_left_goes_too(own):
    incoming = Path(own.log.lake.root, "artifacts", "incoming")
    incoming.mkdir(exist_ok=True)
    (incoming / f"{'0' * 64}.part").write_bytes(b"half")
    assert purge(own.log, own.artifacts).leftovers == 0
    age(own, 8)
    assert purge(own.log, own.artifacts).leftovers == 1
    assert not list(incoming.iterdir())


def test_a_grace_period_too_short_for_an_upload_is_refused(own):
    with pytest.raises(InvalidInput, match="at least 1 day"):
        purge(own.log, own.artifacts, grace=timedelta(hours=1))


def test_an_artifact_that_something_needs_cannot_be_deleted(own, tmp_path):
    version = own.get_version("m@v1")
    for digest in (version.content_digest, version.artifacts[0]["digest"]):
        with pytest.raises(StillNeeded, match="m@v1 needs it"):
            delete_artifact(own.log, own.artifacts, digest)
    free = stray(own, tmp_path, "free")
    with pytest.raises(IllegalTransition, match="within the last day"):
        delete_artifact(own.log, own.artifacts, free)
    age(own, 2)
    delete_artifact(own.log, own.artifacts, free)
    with pytest.raises(NotFound):
        delete_artifact(own.log, own.artifacts, free)
    own.verify_version("m@v1")


def test_the_asset_says_what_it_would_remove_and_removes_it(own, tmp_path, home):
    import dagster as dg

    from assets.artifacts import artifact_store
    from resources import ArtifactsResource

    stray(own, tmp_path, "stray")
    age(own, 8)
    root = own.log.lake.root
    removed = []
    for config, left in (({"dry_run": True}, 6), ({}, 4), ({}, 4)):
        result = dg.materialize(
            [artifact_store],
            resources={"artifacts": ArtifactsResource(root=root)},
            run_config={"ops": {"operations__artifact_store": {"config": config}}},
        )
        (done,) = result.asset_materializations_for_node("operations__artifact_store")
        removed.append(done.metadata["files_removed"].value)
        store = ArtifactStore(own.log.lake)
        assert len([p for p in Path(store.blobs.folder.uri).rglob("*") if p.is_file()]) == left
    assert removed == [2, 2, 0]
