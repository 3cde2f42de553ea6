"""The advisory lock makes writers take turns, and no hanging holder stops them."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

from ml_registry_pipelines.registry import turns
from ml_registry_pipelines.registry.turns import turn


def test_one_holder_at_a_time(tmp_path):
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(20):
            with turn(str(tmp_path), "x"):
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_holder_that_hangs_does_not_stop_a_command(registry, monkeypatch):
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.05)
    registry.register_model("before")
    with Path(registry.log.lake.root, "locks", "governance_events").open("wb") as hanging:
        fcntl.flock(hanging, fcntl.LOCK_EX)
        registry.register_model("during")
    registry.register_model("after")
    assert [m.name for m in registry.list_models()] == ["after", "before", "during"]
