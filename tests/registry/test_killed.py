"""Writers that are killed at random moments leave whole commands or none."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import tail
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.relationships import Relationships
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.transfer import export_tenant
from ml_registry_pipelines.registry.versions import Stage
from tests.registry.conftest import ACTOR
from tests.registry.test_log_machine import check_projections

KILLS = int(os.environ.get("MLREG_TEST_KILLS", "1"))

WORKER = """
import sys
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import tail
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.relationships import NewEdge, Relationships
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.transfer import import_tenant
from pathlib import Path
tail.BLOCK = 8  # Folding is under way at many moments.
tail.HEAVY = 30
root, weights, worker, exported = sys.argv[1:]
registry = ModelRegistry(Log(Lake(root)), actor=Actor("p1"), tenant="a")
registry.list_models()
print("ready", flush=True)
n = 0
while True:
    n += 1
    name = f"{worker}-{n}"
    registry.register_model(name, idempotency_key=name)
    registry.create_model_version(name, weights)
    registry.promote_to_production(f"{name}@v1")
    registry.create_model_version(name, weights)
    registry.promote_to_production(f"{name}@v2")
    registry.things.register_many("feature", [NewThing(f"{name}.{i}") for i in range(40)])
    edges = [NewEdge(("feature", f"{name}.0"), ("feature", f"{name}.{i}")) for i in range(1, 40)]
    Relationships(registry.log, actor=registry.actor, tenant="a").relate_many("feeds", edges)
    if n == 1:
        import_tenant(registry.log, Path(exported, worker), actor=registry.actor)
    print(name, flush=True)
"""


def export(folder: Path, weights: Path) -> None:
    """A tenant for every worker to import."""
    with Lake(str(folder / "lake")) as lake, Log(lake) as log:
        for kill in range(KILLS):
            registry = ModelRegistry(log, actor=ACTOR, tenant=f"w{kill}")
            registry.register_model("m")
            registry.create_model_version("m", weights)
            registry.register_many([NewThing(f"b{n}") for n in range(40)])
            export_tenant(log, f"w{kill}", folder / f"w{kill}", actor=ACTOR)


@pytest.mark.kill
def test_killed_writers_leave_whole_commands_a_whole_chain_and_true_projections(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tail, "BLOCK", 8)
    monkeypatch.setattr(tail, "HEAVY", 30)
    root, weights = tmp_path / "lake", tmp_path / "w.bin"
    weights.write_bytes(b"w" * 300_000)
    chance = random.Random(os.environ.get("MLREG_TEST_SEED"))
    said: set[str] = set()
    export(tmp_path / "exported", weights)
    for kill in range(KILLS):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(root), str(weights), f"w{kill}", str(tmp_path / "exported")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.05, 0.8))
        worker.send_signal(signal.SIGKILL)
        said |= set(worker.stdout.read().split("\n")) - {""}
        worker.wait()
    with Lake(str(root)) as lake, Log(lake) as log:
        assert [v.damage for v in verify(lake) if v.damage] == []
        registry = ModelRegistry(log, actor=ACTOR, tenant="a")
        names = {m.name for m in registry.list_models()}
        assert {name for name in said if name.count("-") == 1 and name in names} == said
        for name in names:
            versions = registry.list_versions(name)
            assert [v.number for v in versions] == list(range(1, len(versions) + 1))
            # A promotion is two events, and never one of them.
            assert len([v for v in versions if v.stage is Stage.PRODUCTION]) <= 1
            for version in versions:
                registry.verify_version(version.reference)
        features = [t.name for t in registry.things.find("feature")]
        for name in {feature.rpartition(".")[0] for feature in features}:
            # A bulk command is all of its things, and all of its edges or none.
            assert sum(f.rpartition(".")[0] == name for f in features) == 40
            drawn = Relationships(log, actor=ACTOR, tenant="a").list("feature", f"{name}.0")
            assert len(drawn) in ({39} if name in said else {0, 39})
        imported = [t for t in log.tenants() if t != "a"]
        for tenant in imported:
            theirs = ModelRegistry(log, actor=ACTOR, tenant=tenant)
            assert len(theirs.list_models()) == 41
            theirs.verify_version("m@v1")
        log.settle()
        check_projections(lake, log, ("a", *imported))
