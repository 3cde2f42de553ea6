"""An eraser that is killed at any moment, and erasure in an object store."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_registry_pipelines.compliance.erasure.erasing import Eraser
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.audits import counts_add_up
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources
from tests.compliance.erasure.people import (
    BOB,
    JANE,
    OFFICER,
    eraser,
    fill,
    fill_dagster,
    land,
    lines,
    others,
    records,
    request,
    sums,
    take,
)

KILLS = int(os.environ.get("MLREG_TEST_KILLS", "1"))
WORKER = """
import sys
from pathlib import Path
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.log import Log
from tests.compliance.erasure.people import JANE, eraser
home = sys.argv[1]
with Lake(home) as lake, Log(lake) as log:
    at = eraser(lake, log, dagster=Path(home) / "dagster")
    print("ready", flush=True)
    sys.stdin.readline()
    at.erase(at.subject([JANE]))
print("done", flush=True)
"""


@pytest.mark.soak
@pytest.mark.kill
@pytest.mark.parametrize("number", range(KILLS))
def test_an_eraser_that_was_killed_is_simply_given_again(tmp_path, number):
    home = tmp_path / "home"
    chance = random.Random(number)
    with Lake(str(home)) as lake:
        fill(home, lake)
        before = sums(lake)
    fill_dagster(home)
    for _ in range(3):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(home)],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdin
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
        worker.stdin.write("\n")
        worker.stdin.flush()
        time.sleep(chance.random() * 1.5)  # the moment is what is drawn
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdin.close()
        worker.stdout.close()
    with Lake(str(home)) as lake, Log(lake) as log:
        at = eraser(lake, log, dagster=home / "dagster")
        certificate = at.erase(at.subject([JANE]))
        assert certificate.complete, (certificate.sentence(), certificate.left, certificate.proof)
        assert sums(lake) == before
        rest = others(lake)
        land(home, "again.jsonl", lines(records()))
        done = take(lake)
        assert (done.rows_in, done.taken) == (15, 0)
        assert others(lake) == rest
        assert counts_add_up(lake).passed, counts_add_up(lake).sentence
        assert [verdict.damage for verdict in verify(lake)] == [None]


@pytest.mark.soak
def test_a_person_goes_from_an_object_store_too(s3_root, tmp_path):
    import lancedb
    import pyarrow as pa

    sources = Sources([Source(name="landing", folder=f"{s3_root}/landing", made_by_use=True)])
    with Lake(s3_root) as lake, Log(lake) as log:
        landing = open_folder(f"{s3_root}/landing")
        notes = lancedb.connect(str(tmp_path)).create_table(
            "notes", pa.table({"text": [f"of {JANE}", BOB] * 9})
        )
        for file in (path for path in tmp_path.rglob("*") if path.is_file()):
            name = file.relative_to(tmp_path).as_posix()
            open_folder(s3_root).write(f"vectors/{name}", file.read_bytes())
        landing.write("native/dt=2026-10-06/hh=00/a.jsonl", lines([request(1, JANE), request(2, BOB)]))
        look = sources.look(lake, scope=Scope.ALL, settled=True)
        Ingestion(lake, sources).take(look.files)
        at = Eraser(log, OFFICER, "default", sources)
        certificate = at.erase(at.subject([JANE]))
        assert certificate.proof.verdict is Verdict.PASS, (certificate.sentence(), certificate.proof)
        assert certificate.complete
        look = sources.look(lake, scope=Scope.ALL, settled=True)
        assert (look.files, look.changed) == ((), ())
        assert b"bob@" in landing.read("native/dt=2026-10-06/hh=00/a.jsonl")
        assert [row["event_id"] for row in others(lake)] == ["req-2"]
        left = [entry.path for entry in open_folder(s3_root).entries("vectors")]
        assert len([path for path in left if "/data/" in path]) == 1
        assert notes.count_rows() == 18
