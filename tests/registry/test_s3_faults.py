"""Commands on an object store that fails: done once, or one clear error and not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import tail
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.transfer import export_tenant, import_tenant
from ml_registry_pipelines.registry.versions import Stage
from tests.lake.proxy import Fate, Proxy, proxy_before
from tests.registry.conftest import ACTOR


@pytest.fixture(scope="module")
def proxy(s3) -> Iterator[Proxy]:
    with proxy_before(s3.url) as proxy:
        yield proxy


@pytest.fixture
def behind(s3, s3_root, proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setattr(tail, "BLOCK", 8)
    with Lake(s3_root, storage_options=s3.settings(proxy.url)) as lake, Log(lake) as log:
        yield log
        proxy.fail_every(0)


@pytest.mark.parametrize("fate", [pytest.param(Fate.DROPPED, marks=pytest.mark.soak), Fate.FALSIFIED])
def test_every_command_whose_answer_got_lost_is_done_once(behind, proxy, s3_root, tmp_path, fate):
    (tmp_path / "w.bin").write_bytes(b"w" * 1000)
    registry = ModelRegistry(behind, actor=ACTOR)
    before = proxy.lost
    for act in (
        lambda: registry.register_model("fraud"),
        lambda: registry.create_model_version("fraud", tmp_path / "w.bin"),
        lambda: registry.promote_to_production("fraud@v1"),
        lambda: registry.register_many([NewThing(f"b{n}") for n in range(20)]),
    ):
        proxy.lose(fate)
        act()
    assert proxy.lost == before + 4
    with Lake(s3_root) as lake, Log(lake) as direct:
        assert direct.head("default")[0] == 4
        assert [v.damage for v in verify(lake)] == [None]
        theirs = ModelRegistry(direct, actor=ACTOR)
        assert len(theirs.list_models()) == 21
        assert theirs.get_version("fraud@production").number == 1


@pytest.mark.soak
def test_an_import_whose_answer_got_lost_is_there_once(behind, proxy, tmp_path):
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as log:
        ModelRegistry(log, actor=ACTOR, tenant="moving").register_many([NewThing(f"b{n}") for n in range(20)])
        export_tenant(log, "moving", tmp_path / "out", actor=ACTOR)
    behind.head("moving")
    proxy.lose(Fate.FALSIFIED)
    assert import_tenant(behind, tmp_path / "out", actor=ACTOR) == ("moving", 1)
    assert len(ModelRegistry(behind, actor=ACTOR, tenant="moving").list_models()) == 20


@pytest.mark.soak
def test_a_store_that_fails_one_call_in_five_loses_and_doubles_nothing(
    behind, proxy, s3_root, tmp_path: Path, caplog
):
    caplog.set_level(logging.ERROR)
    (tmp_path / "w.bin").write_bytes(b"w" * 1000)
    behind.head("default")
    before = proxy.lost
    proxy.fail_every(5)
    done, failed = list[str](), list[str]()

    def work(worker: int) -> None:
        registry = ModelRegistry(behind, actor=ACTOR)
        for n in range(2):
            name = f"{worker}-{n}"
            try:
                registry.register_model(name)
                registry.create_model_version(name, tmp_path / "w.bin")
                registry.promote_to_production(f"{name}@v1")
                done.append(name)
            except MlregError:
                failed.append(name)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    proxy.fail_every(0)
    assert proxy.lost > before + 5
    assert len(done) > len(failed)
    behind.settle()
    with Lake(s3_root) as lake, Log(lake) as direct:
        assert [v.damage for v in verify(lake)] == [None]
        theirs = ModelRegistry(direct, actor=ACTOR)
        names = [m.name for m in theirs.list_models()]
        assert len(set(names)) == len(names)
        assert set(done) <= set(names) <= {*done, *failed}
        for name in done:
            assert [v.stage for v in theirs.list_versions(name)] == [Stage.PRODUCTION]
            theirs.verify_version(f"{name}@v1")
