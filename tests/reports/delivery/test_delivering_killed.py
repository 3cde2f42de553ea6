"""Couriers that are killed at random moments: every report arrives, and each time as the same message."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

import pytest

from tests.killing import KILLS, SECONDS, run_killed
from tests.webhooks.sinks import sink

DAYS = 5
WORKER = """
import sys
from datetime import datetime, timedelta
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.reports.delivery.courier import Courier
home, at = sys.argv[1:]
at = datetime.fromisoformat(at)
print("ready", flush=True)
sys.stdin.readline()
with Lake(home) as lake, Log(lake) as log:
    # A claim of a courier that is gone holds no longer: each look is half an hour after the one before.
    for look in range(1, 4):
        Courier(log, now=lambda: at + look * timedelta(minutes=30), seconds_each=5.0).deliver()
print("done", flush=True)
"""


@pytest.mark.soak
@pytest.mark.kill
@pytest.mark.timeout(SECONDS)
def test_killed_couriers_deliver_every_report_and_a_repeated_one_under_its_id(post, monkeypatch):
    monkeypatch.setenv("MLREG_WEBHOOK_HOSTS", "127.0.0.1")
    monkeypatch.setenv("REPORTS_HOOK_SECRET", "0123456789abcdef")
    with sink() as box:
        post.recipients(
            "recipients:\n  - {name: archive, folder: archive}\n"
            f"  - {{name: warehouse, webhook: '{box.url}', secret: 'env:REPORTS_HOOK_SECRET'}}\n"
        )
        post.take(post.clock.at - timedelta(hours=14))
        killed = number = 0
        while killed < KILLS:
            number += 1
            names = [f"hook-{number}", f"files-{number}"]
            for name, recipient in zip(names, ("warehouse", "archive"), strict=True):
                post.subscribe(name, recipient=recipient)
            now = post.clock.at + timedelta(days=DAYS - 1)
            box.got.clear()
            killed += run_killed(WORKER, post.home, now.isoformat(), most=KILLS - killed)
            mine = {each.id for each in post.desk().list() if each.name in names}
            states = [each.state for each in post.ledger() if each.subscription_id in mine]
            assert states == ["delivered"] * 2 * DAYS
            ids = defaultdict(set)
            for got in box.got:
                ids[got.content["data"]["period"]].add(got.headers["webhook-id"])
            assert len(ids) == DAYS
            assert all(len(each) == 1 for each in ids.values())
            assert len(post.files()) == DAYS
            for name in names:
                post.desk().remove(name)
