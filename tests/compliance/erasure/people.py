"""A storage with three people in every kind of store, for the tests of erasure."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml_registry_pipelines.compliance.erasure.erasing import Eraser
from ml_registry_pipelines.costs.catalog import sync_catalog
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.telemetry.batch import Taken
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources

JANE, JOANN, BOB = "jane@example.com", "mary-jane@example.com", "bob@example.com"
OFFICER = Actor("officer-1", authenticated_by="api_key")


def request(number: int, user: str | None, **more: Any) -> dict[str, Any]:
    """One native record of a request."""
    return {
        "event_id": f"req-{number}",
        "ts": f"2026-10-0{1 + number % 5}T12:00:00Z",
        "provider": "openai",
        "model": "gpt-4o",
        "usage": {"in_uncached": 100 + number, "out_text": 10},
        "latency_ms": 100 + number,
        **({"user_id": user} if user else {}),
        **more,
    }


def records() -> list[dict[str, Any]]:
    """Twelve requests of three people, a child span of Jane's without a user, and one that mentions her."""
    people = (JANE, JOANN, BOB)
    made = [request(n, people[n % 3], session_id=f"chat-{n % 3}") for n in range(12)]
    made.append(request(12, None, trace_id="trace-of-jane"))
    made.append(request(15, JANE, trace_id="trace-of-jane"))
    made.append(request(13, BOB, tags={"said": f"ask {JANE} about it"}))
    return made


def lines(of: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in of).encode()


def sources(home: str) -> Sources:
    return Sources([Source(name="landing", folder=f"{home}/landing", made_by_use=True)])


def land(home: Path, name: str, data: bytes) -> None:
    path = home / "landing" / "native" / "dt=2026-10-06" / "hh=00" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def take(lake: Lake) -> Taken:
    known = sources(lake.root)
    look = known.look(lake, scope=Scope.ALL, settled=True)
    assert not look.changed, look.changed
    assert not look.problems, look.problems
    return Ingestion(lake, known).take(look.files)


def fill(home: Path, lake: Lake) -> Taken:
    """Land the records in four forms, with a line that nobody can read, and take them."""
    made = records()
    land(home, "a.jsonl", lines(made[:5]) + f'{{"user_id": "{JANE}", broken\n'.encode())
    land(home, "b.jsonl.gz", gzip.compress(lines(made[5:10])))
    land(home, "c.json", json.dumps(made[10:13]).encode())
    columns = sorted({name for record in made[13:] for name in record})
    table = pa.table({name: pa.array([r.get(name) for r in made[13:]]) for name in columns})
    path = home / "landing" / "native" / "dt=2026-10-06" / "hh=00" / "d.parquet"
    pq.write_table(table, path)
    return take(lake)


def fill_dagster(home: Path, who: str = JANE) -> Path:
    """A home of Dagster's with a person in its database, in a freed page, and in a process log."""
    place = home / "dagster"
    (place / "storage" / "run-1" / "compute_logs").mkdir(parents=True, exist_ok=True)
    (place / "storage" / "run-1" / "compute_logs" / "step.out").write_text(f"signed in: {who}\nand bob\n")
    with closing(sqlite3.connect(place / "runs.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS logs (id INTEGER PRIMARY KEY, body TEXT)")
        body = json.dumps({"said": f"loaded rows of {who}", "other": BOB})
        connection.execute("INSERT INTO logs (body) VALUES (?)", (body,))
        connection.execute("INSERT INTO logs (body) VALUES (?)", (f"{who} " * 400,))
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("DELETE FROM logs WHERE id = 2")
    return place


def eraser(lake: Lake, log: Log, *, dagster: Path | None = None) -> Eraser:
    return Eraser(log, OFFICER, "default", sources(lake.root), dagster_home=dagster)


def others(lake: Lake) -> list[dict[str, Any]]:
    """The requests of everybody else, by what is in them; where they lie in the lake does not matter."""
    with lake.read("inference_events") as reading:
        found: list[dict[str, Any]] = reading.query(
            "test.others",
            """
            SELECT * EXCLUDE (recorded_at, batch) FROM inference_events
            WHERE NOT starts_with(event_id, 'erased-') ORDER BY ALL
            """,
        ).to_pylist()
    return found


def sums(lake: Lake) -> dict[str, Any]:
    """Requests and tokens of everybody together, and what they cost."""
    sync_catalog(lake)
    catch_up_costs(lake)
    with lake.read("inference_events", "model_costs") as reading:
        (found,) = reading.query(
            "test.sums",
            """
            SELECT (SELECT count(*) FROM inference_events) AS requests,
                   (SELECT sum(in_uncached) FROM inference_events) AS tokens,
                   (SELECT sum(cost) FROM model_costs) AS cost, (SELECT count(*) FROM model_costs) AS priced
            """,
        ).to_pylist()
    return dict(found)
