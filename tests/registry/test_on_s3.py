"""The registry on an object store."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.anchors import AnchorError, make_keys, read_anchors, write_anchor
from ml_registry_pipelines.registry.artifacts import ArtifactChanged
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from tests.registry.conftest import ACTOR


def test_commands_artifacts_and_verification_work_on_an_object_store(s3_root: str, tmp_path: Path):
    (tmp_path / "w.bin").write_bytes(b"w" * 9_000_000)  # More than one part.
    with Lake(s3_root) as lake, Log(lake) as log:
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
    with Lake(s3_root) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        assert [m.name for m in registry.list_models()] == ["bulk", "fraud"]
        client, bucket = boto3.client("s3"), s3_root.split("/")[2]
        (blob,) = client.list_objects_v2(Bucket=bucket, Prefix="lake/artifacts/blobs")["Contents"]
        client.put_object(Bucket=bucket, Key=blob["Key"], Body=b"x" * 9_000_000)
        with pytest.raises(ArtifactChanged):
            registry.verify_version("fraud@v1")


def test_anchors_lie_in_a_bucket_and_not_below_the_root(s3_root: str, tmp_path: Path):
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    make_keys(private, public)
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as log:
        ModelRegistry(log, actor=ACTOR).register_model("fraud")
        for number in (1, 2):
            written = write_anchor(lake, s3_root, private, public=public, now=datetime.now(UTC))
            assert written == f"{s3_root}/anchor-0000000{number}.json"
        (verdict,) = verify(lake, anchors=read_anchors(s3_root, public))
        assert (verdict.anchored, verdict.caveat) == (1, None)
    with Lake(s3_root) as lake, pytest.raises(AnchorError, match="is inside"):
        write_anchor(lake, f"{s3_root}/anchors", private, public=public, now=datetime.now(UTC))
