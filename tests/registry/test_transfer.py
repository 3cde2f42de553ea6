"""A tenant moves verbatim, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import DamagedExport, NotFound, TenantExists
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.transfer import export_tenant, import_tenant
from tests.registry.conftest import ACTOR


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, log: Log) -> Path:
    registry = ModelRegistry(log, actor=ACTOR, tenant="moving")
    weights = tmp_path_factory.mktemp("weights") / "w.bin"
    weights.write_bytes(b"w" * 1000)
    registry.register_model("fraud", idempotency_key="k")
    registry.create_model_version("fraud", weights)
    registry.promote_to_production("fraud@v1")
    registry.register_many([NewThing(f"b{n}") for n in range(5)])
    target = tmp_path_factory.mktemp("export") / "out"
    assert export_tenant(log, "moving", target, actor=ACTOR) == 4
    return target


def test_an_import_has_the_history_the_chain_and_the_bytes(exported, log, tmp_path):
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as other:
        ModelRegistry(other, actor=ACTOR, tenant="local").register_model("before")
        assert import_tenant(other, exported, actor=ACTOR) == ("moving", 4)
        theirs = ModelRegistry(other, actor=ACTOR, tenant="moving")
        ours = ModelRegistry(log, actor=ACTOR, tenant="moving")
        assert other.head("moving") == log.head("moving")
        assert [v.damage for v in verify(lake)] == [None, None]
        assert theirs.list_models() == ours.list_models()
        assert theirs.list_versions("fraud") == ours.list_versions("fraud")
        assert theirs.download("fraud@production", tmp_path / "out")[0].read_bytes() == b"w" * 1000
        # Life goes on where it was: keys, names and numbers.
        assert theirs.register_model("fraud", idempotency_key="k").id == ours.get_model("fraud").id
        with pytest.raises(TenantExists):
            import_tenant(other, exported, actor=ACTOR)
        export_tenant(other, "moving", tmp_path / "again", actor=ACTOR)
        assert {p.relative_to(exported): p.read_bytes() for p in exported.rglob("*") if p.is_file()} == {
            p.relative_to(tmp_path / "again"): p.read_bytes()
            for p in (tmp_path / "again").rglob("*")
            if p.is_file()
        }


@pytest.mark.parametrize(
    "pattern", ["events.parquet", "events.sha256", "bulk/*", "artifacts/blobs/*/*", "artifacts/manifests/*/*"]
)
@pytest.mark.parametrize("how", ["changed", "lost"])
def test_a_damaged_export_is_refused_and_nothing_is_imported(exported, log, tmp_path, pattern, how):
    shutil.copytree(exported, tmp_path / "export")
    file = next((tmp_path / "export").glob(pattern))
    if how == "lost":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as other:
        with pytest.raises((DamagedExport, NotFound)):
            import_tenant(other, tmp_path / "export", actor=ACTOR)
        assert other.head("moving") == (0, "")


def test_a_tenant_without_history_is_not_exported(log, tmp_path):
    with pytest.raises(NotFound):
        export_tenant(log, "nobody", tmp_path, actor=ACTOR)
