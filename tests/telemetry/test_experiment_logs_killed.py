"""Workers that take assignments and labels and are killed at random moments: every record once, and true counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.lake import Lake
from tests.killing import KILLS, SECONDS, run_killed

FILES, ROWS = 4, 9
WORKER = """
import sys
from ml_registry_pipelines.telemetry import experiment_ingestion, splitting
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources
home, landing = sys.argv[1:]
experiment_ingestion.BATCH_ROWS = 5  # Many commits, so that a kill finds one under way.
splitting.CHUNK_BYTES = 300
lake, sources = Lake(home), Sources([Source("landing", landing)])
worker = Ingestion(lake, sources, salt="salt")
print("ready", flush=True)
sys.stdin.readline()
worker.recover()
while files := sources.look(lake, scope=Scope.ALL, settled=True, limit_files=3).files:
    worker.take(files)
print("done", flush=True)
"""


def put(landing: Path) -> None:
    """Files of both kinds: the last records of one come again in the next, and each has a broken line."""
    for kind in ("assignments", "outcomes"):
        folder = landing / kind
        folder.mkdir(parents=True)
        for file in range(FILES):
            lines = []
            for row in range(ROWS):
                unit, ts = f"u{file * (ROWS - 2) + row}", "2026-10-01T10:00:00Z"
                given: dict[str, object] = {"experiment": "e", "arm": "a"}
                if kind == "outcomes":
                    given = {"metric": "m", "value": int(unit[1:]) % 2}
                lines.append(json.dumps({"unit": unit, "ts": ts, **given}))
            (folder / f"{file}.jsonl").write_text("\n".join([*lines, "broken"]) + "\n")


@pytest.mark.soak
@pytest.mark.kill
@pytest.mark.timeout(SECONDS)
def test_killed_workers_take_each_assignment_and_label_once(tmp_path: Path) -> None:
    units = (FILES - 1) * (ROWS - 2) + ROWS
    killed = number = 0
    while killed < KILLS:
        number += 1
        home, landing = tmp_path / f"home{number}", tmp_path / f"landing{number}"
        put(landing)
        killed += run_killed(WORKER, home, landing, most=KILLS - killed)
        with (
            Lake(str(home)) as lake,
            lake.read("assignments", "outcomes", "ingested_files", "quarantined_rows") as reading,
        ):
            for kind in ("assignments", "outcomes"):
                (counts,) = reading.query(
                    "t", f"SELECT count(*) AS n, count(DISTINCT unit_hash) AS units FROM {kind}"
                ).to_pylist()
                assert counts == {"n": units, "units": units}
                (sums,) = reading.query(
                    "t",
                    """
                    SELECT sum(rows_in)::INT AS rows_in, sum(taken)::INT AS taken, sum(duplicates)::INT AS duplicates,
                           sum(quarantined)::INT AS quarantined, count(*) FILTER (WHERE complete)::INT AS files
                    FROM ingested_files WHERE starts_with(path, $kind)
                    """,
                    {"kind": kind},
                ).to_pylist()
                assert sums == {
                    "rows_in": FILES * (ROWS + 1),
                    "taken": units,
                    "duplicates": FILES * ROWS - units,
                    "quarantined": FILES,
                    "files": FILES,
                }
            held = reading.query("t", "SELECT file, line FROM quarantined_rows").to_pylist()
            assert len(held) == len({(row["file"], row["line"]) for row in held}) == 2 * FILES
