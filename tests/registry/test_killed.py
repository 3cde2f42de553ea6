"""Writers that are killed at random moments leave whole commands or none."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import projections, tail
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.states import fold, row_of
from ml_registry_pipelines.registry.versions import Stage
from tests.registry.conftest import ACTOR

KILLS = int(os.environ.get("MLREG_TEST_KILLS", "3"))

WORKER = """
import sys
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import tail
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
tail.BLOCK = 8  # Folding is under way at many moments.
root, weights, worker = sys.argv[1:]
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
    print(name, flush=True)
"""


@pytest.mark.kill
def test_killed_writers_leave_whole_commands_a_whole_chain_and_true_projections(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tail, "BLOCK", 8)
    root, weights = tmp_path / "lake", tmp_path / "w.bin"
    weights.write_bytes(b"w" * 300_000)
    chance = random.Random(os.environ.get("MLREG_TEST_SEED"))
    said: set[str] = set()
    for kill in range(KILLS):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(root), str(weights), f"w{kill}"],
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
        log.settle()
        events = log.events("a", range(1, log.head("a")[0] + 1))
        states = [row_of(s) for s in fold(events, log.bulk.read)]
        with lake.read(*projections.STATES) as reading:
            stored = [
                r for t in projections.STATES for r in reading.query("t", f"SELECT * FROM {t}").to_pylist()
            ]
            last = min(reading.sequence(t, "governance_events") for t in projections.STATES)
        upto = max((e.position for e in events if e.block <= last), default=0)

        def key(row: dict[str, Any]) -> tuple[int, str]:
            return (row["position"], row["id"])

        folded = sorted((r for r in states if r["position"] <= upto), key=key)
        assert sorted((r for r in stored if r["position"] <= upto), key=key) == folded
