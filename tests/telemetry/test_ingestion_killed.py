"""Workers that are killed at random moments, and workers that race: the counts are exact afterwards."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources

KILLS = int(os.environ.get("MLREG_TEST_KILLS", "1"))
"""`make kills` kills many more, in a run of its own."""
FILES, ROWS = 7, 10

WORKER = """
import sys
import ml_registry_pipelines.telemetry.ingestion as ingestion
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources
home, landing = sys.argv[1:3]
ingestion.BATCH_ROWS = 15  # Many commits, so that a kill finds one under way.
lake, sources = Lake(home), Sources([Source("landing", landing)])
worker = ingestion.Ingestion(lake, sources, salt="salt")
print("ready", flush=True)
sys.stdin.readline()
worker.recover()
while files := sources.look(lake, scope=Scope.ALL, settled=True, limit_files=3).files:
    worker.take(files)
print("done", flush=True)
"""


def start(home: Path, landing: Path) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(home), str(landing)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout
    assert worker.stdout.readline() == "ready\n"
    return worker


def go(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin
    worker.stdin.write("\n")
    worker.stdin.flush()


def land(landing: Path) -> set[str]:
    """Files with records, some records twice, and one broken line per file."""
    folder = landing / "native" / "dt=2026-10-01" / "hh=10"
    folder.mkdir(parents=True)
    ids = set()
    for file in range(FILES):
        lines = []
        for row in range(ROWS):
            number = file * ROWS + row - (file % 3)  # Some of the file before come again.
            ids.add(f"r{number}")
            lines.append(
                json.dumps(
                    {
                        "event_id": f"r{number}",
                        "ts": "2026-10-01T10:00:00Z",
                        "provider": "p",
                        "model": "m",
                        "usage": {"in_uncached": 1},
                    }
                )
            )
        (folder / f"{file:03d}.jsonl").write_text("\n".join([*lines, "broken"]) + "\n")
    return ids


def check(home: Path, ids: set[str]) -> None:
    lake = Lake(str(home))
    with lake.read("inference_events", "ingested_files", "quarantined_rows") as reading:
        events = [
            row["event_id"] for row in reading.query("t", "SELECT event_id FROM inference_events").to_pylist()
        ]
        (sums,) = reading.query(
            "t",
            """
            SELECT sum(rows_in)::INT AS rows_in, sum(taken)::INT AS taken, sum(duplicates)::INT AS duplicates,
                   sum(quarantined)::INT AS quarantined, count(*) FILTER (WHERE complete)::INT AS files
            FROM ingested_files
            """,
        ).to_pylist()
        held = reading.query("t", "SELECT count(*) AS n FROM quarantined_rows").to_pylist()[0]["n"]
    assert len(events) == len(set(events))
    assert set(events) == ids
    total = FILES * (ROWS + 1)
    assert sums == {
        "rows_in": total,
        "taken": len(ids),
        "duplicates": FILES * ROWS - len(ids),
        "quarantined": FILES,
        "files": FILES,
    }
    assert held == FILES
    assert list((home / "staging").glob("*")) == [] or lake.sequence("ingested_files", "inference_events")


@pytest.mark.kill
@pytest.mark.timeout(60 + 12 * KILLS)
def test_a_worker_killed_at_random_points_loses_and_doubles_nothing(tmp_path):
    chance = random.Random()
    killed = 0
    round_number = 0
    while killed < KILLS:
        round_number += 1
        home, landing = tmp_path / f"home{round_number}", tmp_path / f"landing{round_number}"
        ids = land(landing)
        worker = start(home, landing)
        for _ in range(8):
            if killed >= KILLS:
                break
            spare = start(home, landing)  # Imports while the other works.
            go(worker)
            try:
                worker.wait(chance.uniform(0.01, 1.5))
            except subprocess.TimeoutExpired:
                worker.send_signal(signal.SIGKILL)
                worker.wait()
                killed += 1
                worker = spare
                continue
            worker = spare
            break
        go(worker)
        assert worker.stdout
        assert worker.stdout.readline() == "done\n"
        worker.wait()
        check(home, ids)


@pytest.mark.soak
@pytest.mark.kill
def test_two_workers_on_the_same_files_at_once_take_each_record_once(tmp_path):
    home, landing = tmp_path / "home", tmp_path / "landing"
    ids = land(landing)
    workers = [start(home, landing) for _ in range(2)]
    for worker in workers:
        go(worker)
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "done\n"
        assert worker.wait() == 0
    check(home, ids)


@pytest.mark.soak
@pytest.mark.kill
def test_a_worker_that_is_stopped_for_long_cannot_land_an_old_batch(tmp_path):
    home, landing = tmp_path / "home", tmp_path / "landing"
    ids = land(landing)
    slow = start(home, landing)
    go(slow)
    deadline = time.monotonic() + 30
    while not (home / "tables" / "inference_events" / "_delta_log").exists() and time.monotonic() < deadline:
        pass
    slow.send_signal(signal.SIGSTOP)
    lake, sources = Lake(str(home)), Sources([Source("landing", str(landing))])
    other = Ingestion(lake, sources, salt="salt")
    while files := sources.look(lake, scope=Scope.ALL, settled=True).files:
        other.take(files)
    slow.send_signal(signal.SIGCONT)
    assert slow.stdout
    assert slow.stdout.readline() == "done\n"
    slow.wait()
    check(home, ids)
