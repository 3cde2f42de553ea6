"""The registry on an object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.artifacts import ArtifactChanged
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from tests.registry.conftest import ACTOR


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="registry")
    yield url
    server.stop()


def test_commands_artifacts_and_verification_work_on_an_object_store(endpoint, tmp_path: Path):
    (tmp_path / "w.bin").write_bytes(b"w" * 9_000_000)  # More than one part.
    with Lake("s3://registry/home") as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        registry.register_model("fraud")
        first = registry.create_model_version("fraud", tmp_path / "w.bin")
        again = registry.create_model_version("fraud", tmp_path / "w.bin")
        assert first.content_digest == again.content_digest
        registry.promote_to_production("fraud@v1")
        registry.register_many([NewThing("bulk")])
        (file,) = registry.download("fraud@production", tmp_path / "out")
        assert file.read_bytes() == b"w" * 9_000_000
        assert [(v.events, v.damage) for v in verify(lake)] == [(5, None)]
    with Lake("s3://registry/home") as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        assert [m.name for m in registry.list_models()] == ["bulk", "fraud"]
        client = boto3.client("s3")
        (blob,) = client.list_objects_v2(Bucket="registry", Prefix="home/artifacts/blobs")["Contents"]
        client.put_object(Bucket="registry", Key=blob["Key"], Body=b"x" * 9_000_000)
        with pytest.raises(ArtifactChanged):
            registry.verify_version("fraud@v1")
