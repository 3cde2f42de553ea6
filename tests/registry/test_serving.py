"""Content of versions for a browser: whole and right, or not whole."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from ml_registry_pipelines.registry.artifacts import ArtifactError, HostedModel
from ml_registry_pipelines.registry.errors import NotFound
from ml_registry_pipelines.registry.serving import PIECE, NotServed, serve


@pytest.fixture
def model(registry):
    return registry.register_model("team/fraud")


def version(registry, content):
    return registry.create_model_version("team/fraud", content).id


def test_a_file_is_sent_as_it_was_registered(log, registry, tenant, model, tmp_path):
    data = bytes(range(256)) * (3 * PIECE // 256 + 1)
    (tmp_path / "w.bin").write_bytes(data)
    served = serve(log, tenant, version(registry, tmp_path / "w.bin"))
    assert (served.name, served.size) == ("w.bin", len(data))
    assert b"".join(served.pieces) == data


def test_a_folder_is_sent_as_a_zip_that_is_the_same_every_time(log, registry, tenant, model, tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a" * 10)
    (folder / "sub" / "empty").write_bytes(b"")
    one = version(registry, folder)
    data = b"".join(serve(log, tenant, one).pieces)
    assert serve(log, tenant, one).name == "team_fraud-v1.zip"
    assert b"".join(serve(log, tenant, one).pieces) == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {n: archive.read(n) for n in archive.namelist()} == {"a.bin": b"a" * 10, "sub/empty": b""}


def test_changed_bytes_are_never_sent_whole(log, registry, tenant, model, tmp_path):
    content = b"marked for this test" * PIECE
    (tmp_path / "w.bin").write_bytes(content)
    one = version(registry, tmp_path / "w.bin")
    (blob,) = [b for b in Path(log.lake.root).rglob("blobs/*/*") if b.stat().st_size == len(content)]
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(b"X")
    sent: list[bytes] = []
    served = serve(log, tenant, one)
    with pytest.raises(ArtifactError, match="was changed"):
        sent.extend(served.pieces)
    assert served.size is not None
    assert sum(map(len, sent)) < served.size
    blob.unlink()
    with pytest.raises(ArtifactError, match="gone"):
        serve(log, tenant, one)


def test_a_version_of_another_tenant_a_deleted_one_and_a_hosted_model_are_not_sent(
    log, registry, tenant, model, tmp_path
):
    (tmp_path / "w.bin").write_bytes(b"w")
    one = version(registry, tmp_path / "w.bin")
    with pytest.raises(NotFound):
        serve(log, "another", one)
    with pytest.raises(NotFound):
        serve(log, tenant, model.id)
    hosted = version(registry, HostedModel("p", "s"))
    with pytest.raises(NotServed, match="is a hosted version"):
        serve(log, tenant, hosted)
    registry.delete_version("team/fraud@v1")
    with pytest.raises(NotFound):
        serve(log, tenant, one)
