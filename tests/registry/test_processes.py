"""Eight processes write at once while upkeep runs: everything is there once, and nothing by half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import tail
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import Stage
from tests.registry.conftest import ACTOR
from tests.registry.test_log_machine import check_projections

PROCESSES = 8
ROUNDS = 2

WORKER = """
import sys
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import tail
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.errors import NameTaken
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
tail.BLOCK, tail.HEAVY = 8, 30
root, worker, rounds = sys.argv[1:]
with Lake(root) as lake, Log(lake) as log:
    registry = ModelRegistry(log, actor=Actor("p1"), tenant="a")
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(int(rounds)):
        try:
            registry.register_model(f"shared {n}")
            print(f"made {n}", flush=True)
        except NameTaken:
            pass
        registry.register_model(f"{worker} {n}", idempotency_key=f"{worker} {n}")
        registry.create_model_version(f"{worker} {n}", HostedModel("p", "s"))
        registry.create_model_version(f"shared {n}", HostedModel("p", worker))
        registry.promote_to_production(f"{worker} {n}@v1")
        registry.things.register_many("feature", [NewThing(f"{worker} {n} {i}") for i in range(20)])
        if worker in {"w0", "w1"}:
            lake.maintain("governance_events" if n % 2 else "things")
"""


@pytest.mark.soak
def test_eight_processes_lose_double_and_halve_nothing_while_upkeep_runs(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tail, "BLOCK", 8)
    monkeypatch.setattr(tail, "HEAVY", 30)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), f"w{n}", str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    said = [worker.communicate("go\n")[0].split("\n") for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * PROCESSES
    made = sorted(line for lines in said for line in lines if line)
    assert made == [f"made {n}" for n in range(ROUNDS)]
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        assert [v.damage for v in verify(lake)] == [None]
        registry = ModelRegistry(log, actor=ACTOR, tenant="a")
        own = {f"w{p} {n}" for p in range(PROCESSES) for n in range(ROUNDS)}
        assert [m.name for m in registry.list_models()] == sorted(
            own | {f"shared {n}" for n in range(ROUNDS)}
        )
        assert all([v.stage for v in registry.list_versions(name)] == [Stage.PRODUCTION] for name in own)
        for n in range(ROUNDS):
            numbers = [v.number for v in registry.list_versions(f"shared {n}")]
            assert numbers == list(range(1, PROCESSES + 1))
        assert len(registry.things.find("feature")) == PROCESSES * ROUNDS * 20
        log.settle()
        check_projections(lake, log, ("a",))
