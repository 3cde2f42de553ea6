"""A tenant moves verbatim, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import transfer
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import DamagedExport, NotFound, TenantExists
from ml_registry_pipelines.registry.events import Event, event_hash, from_arrow, to_arrow
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.transfer import export_tenant, import_tenant
from tests.registry.conftest import ACTOR

DAY = timedelta(days=1)


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


def forged(exported: Path, target: Path, change: Callable[[list[Event]], list[Event]]) -> Path:
    """The export with other events, every hash of which fits."""
    shutil.copytree(exported, target)
    events, previous = [], ""
    for event in change(from_arrow(pq.read_table(target / "events.parquet"))):
        linked = replace(event, previous_hash=previous)
        previous = event_hash(vars(linked))
        events.append(replace(linked, hash=previous))
    pq.write_table(to_arrow(events), target / "events.parquet")
    digest = hashlib.sha256((target / "events.parquet").read_bytes()).hexdigest()
    (target / "events.sha256").write_text(f"{digest}  events.parquet\n")
    return target


def saying(number: int, payload: Callable[[str], str]) -> Callable[[list[Event]], list[Event]]:
    def change(events: list[Event]) -> list[Event]:
        event = events[number - 1]
        return [*events[: number - 1], replace(event, payload=payload(event.payload)), *events[number:]]

    return change


def another_of_the_name(events: list[Event]) -> list[Event]:
    last = events[-1]
    twin = replace(events[0], entity_id="f" * 32, recorded_at=last.recorded_at, idempotency_key=None)
    return [*events, replace(twin, sequence=len(events) + 1, position=len(events) + 1)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (saying(1, lambda _: "{}"), "event 1 cannot be read"),
        (saying(1, lambda _: "nope"), "event 1 cannot be read"),
        (saying(1, lambda _: '{"change":{},"state":{}}'), "event 1: .*no name"),
        (saying(1, lambda p: p.replace('"tags":{}', '"tags":7')), "event 1: the tags of"),
        (saying(2, lambda p: p.replace('"stage":"registered"', '"stage":"x"')), "event 2: the state of"),
        (saying(4, lambda p: p.replace('"entities":5', '"entities":6')), "does not list the 6 entities"),
        (another_of_the_name, "two living things of kind model with the name 'fraud'"),
        (
            lambda events: [*events[:-1], replace(events[-1], recorded_at=events[0].recorded_at - DAY)],
            "recorded before its predecessor",
        ),
    ],
)
def test_a_forged_export_whose_hashes_fit_is_refused_and_harms_nobody(exported, tmp_path, change, said):
    export = forged(exported, tmp_path / "export", change)
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as log:
        with pytest.raises(DamagedExport, match=said):
            import_tenant(log, export, actor=ACTOR)
        assert log.tenants() == []


def test_a_long_history_moves_in_portions(exported, log, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "AT_ONCE", 3)
    export_tenant(log, "moving", tmp_path / "out", actor=ACTOR)
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as other:
        assert import_tenant(other, tmp_path / "out", actor=ACTOR) == ("moving", 4)
        assert other.head("moving") == log.head("moving")


def test_a_tenant_without_history_is_not_exported(log, tmp_path):
    with pytest.raises(NotFound):
        export_tenant(log, "nobody", tmp_path, actor=ACTOR)
