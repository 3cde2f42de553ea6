"""Requests, reviews and promotions that are killed at random moments leave whole acts or none."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_registry_pipelines.compliance.approvals.approval import Status
from ml_registry_pipelines.compliance.approvals.verbs import Approvals
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from tests.compliance.office import POLICY, Office

KILLS = int(os.environ.get("MLREG_TEST_KILLS", "1"))

WORKER = """
import sys
from ml_registry_pipelines.access.users import actor_for_key
from ml_registry_pipelines.compliance.approvals.promoting import promote_approved
from ml_registry_pipelines.compliance.approvals.verbs import Approvals
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
root, worker, *keys = sys.argv[1:]
log = Log(Lake(root))
author, requester, reviewer, officer = (actor_for_key(log, key) for key in keys)
models = ModelRegistry(log, actor=author)
print("ready", flush=True)
n = 0
while True:
    n += 1
    name = f"{worker}-{n}"
    models.register_model(name)
    models.create_model_version(name, HostedModel("o", name))
    asked = Approvals(log, actor=requester).request(f"{name}@v1")
    for who in (reviewer, officer):
        Approvals(log, actor=who).review(asked.id, "approve", digest=asked.bound.digest)
    promote_approved(log, asked.id)
    print(name, flush=True)
"""


@pytest.mark.kill
def test_killed_approvals_leave_whole_acts(tmp_path: Path) -> None:
    office = Office(tmp_path / "lake", POLICY.replace('suites: ["*"], ', ""))
    people = (office.author, office.requester, office.reviewer, office.officer)
    keys = [office.users.add_key(person.id).text for person in people]
    office.close()
    chance = random.Random(7)
    for kill in range(KILLS):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "lake"), f"w{kill}", *keys],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.05, 2.0))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as log:
        assert not [found for found in verify(lake) if found.damage]
        view = log.view("default")
        live = {s.id for s in view.select("t.live", "model_versions", "stage = 'production'")}
        every = Approvals(log, actor=people[0]).list()
        assert live == {a.version_id for a in every if a.status is Status.USED}
        for approval in every:
            if approval.status is Status.USED:
                (used,) = log.events("default", [approval.sequence])
                assert (used.action, used.parts) == ("promote_to_production", 2)
