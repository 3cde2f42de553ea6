"""The real code location over a folder of a test's own: files land, sensors tick, requested runs are executed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.sensor_definition import SensorExecutionData

from ml_registry_pipelines.definitions import build_defs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.settings import Environment, Settings
from resources import SourcesResource

NOON = "2026-05-02T12:00:00Z"


def record(event_id: str, ts: str = NOON, **more: Any) -> dict[str, Any]:
    """A native record of one successful request to a model with a list price."""
    return {
        "event_id": event_id,
        "ts": ts,
        "provider": "anthropic",
        "model": "claude-sonnet-4-5",
        "tenant": "acme",
        "latency_ms": 1200.0,
        "usage": {"in_uncached": 1000, "out_text": 200},
        **more,
    }


def land(home: Path, path: str, records: Sequence[Mapping[str, Any]]) -> Path:
    """Put a file into the landing folder as a producer does: under another name, then renamed."""
    target = home / "landing" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.tmp")
    aside.write_text("".join(json.dumps(each) + "\n" for each in records))
    return aside.rename(target)


class Location:
    """Definitions, an instance of Dagster's, and the cursors of its sensors."""

    def __init__(self, home: Path, instance: dg.DagsterInstance, **overrides: object) -> None:
        self.home = home
        if not (home / "tables").exists():
            shutil.copytree(priced_home().name, home, dirs_exist_ok=True)
        self.instance = instance
        settings = Settings(home=str(home), environment=Environment.DEV, sources_file=None, tenant=None)
        # Producers here rename, so nothing has to be seen twice; one test tries the waiting itself.
        patient = {"sources": SourcesResource(home=str(home), settle_seconds=0)}
        self.defs = build_defs(settings, overrides={**patient, **overrides})
        self.repository = self.defs.get_repository_def()
        self.cursors: dict[str, str | None] = {}
        self.lake = Lake(str(home))

    def land(self, path: str, *event_ids: str, **more: Any) -> Path:
        """A file of one record per event id, at the hour that its path names."""
        day, hour = path.split("dt=")[1][:10], path.split("hh=")[1][:2]
        records = [record(event_id, f"{day}T{hour}:30:00Z", **more) for event_id in event_ids]
        return land(self.home, path, records)

    def tick(self, sensor: str) -> SensorExecutionData:
        """One tick of a sensor, with the cursor that its last one left."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(sensor),
            repository_def=self.repository,
            resources=dict(self.defs.resources or {}),
            sensor_name=sensor,
        )
        with context:
            data = self.repository.get_sensor_def(sensor).evaluate_tick(context)
        self.cursors[sensor] = data.cursor
        return data

    def requested(self, sensor: str) -> list[dg.RunRequest]:
        """What one tick of a sensor requests."""
        return list(self.tick(sensor).run_requests or [])

    def execute(self, request: dg.RunRequest, *, job: str = "ingest_logs") -> dg.ExecuteInProcessResult:
        """Carry out a request, as the daemon would."""
        result: dg.ExecuteInProcessResult = self.repository.get_job(
            request.job_name or job
        ).execute_in_process(
            instance=self.instance,
            run_config=dict(request.run_config),
            tags=dict(request.tags),
            raise_on_error=False,
            asset_selection=list(request.asset_selection) if request.asset_selection else None,
        )
        return result

    def take(self, sensor: str = "new_inference_logs") -> list[dg.ExecuteInProcessResult]:
        """Tick, and carry out what is requested."""
        return [self.execute(request) for request in self.requested(sensor)]

    def under_way(
        self, job: str, status: dg.DagsterRunStatus, tags: Mapping[str, str] | None = None
    ) -> dg.DagsterRun:
        """A run of a job that somebody else works on."""
        return self.instance.create_run_for_job(
            job_def=self.repository.get_job(job), status=status, tags=dict(tags or {}), run_id=str(uuid4())
        )

    def events(self) -> dict[str, int]:
        """How often each event id is in inference_events."""
        rows = self.rows("SELECT event_id, count(*) AS n FROM inference_events GROUP BY ALL")
        return {row["event_id"]: row["n"] for row in rows}

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query over tables that have been made."""
        tables = [name for name in TABLES if name in sql and self.lake.exists(name)]
        with self.lake.read(*tables) as reading:
            return list(reading.query("test", sql).to_pylist())

    def alerts(self) -> list[tuple[str, str]]:
        """Keys and states of all alerts, in order of time."""
        if not self.lake.exists("alerts"):
            return []
        rows = self.rows("SELECT alert_key, state FROM alerts ORDER BY recorded_at")
        return [(row["alert_key"], row["state"]) for row in rows]


@cache
def priced_home() -> TemporaryDirectory[str]:
    """A home whose price catalogue is filled, made once per process: the list has thousands of prices."""
    from ml_registry_pipelines.costs.catalog import sync_catalog

    home = TemporaryDirectory(prefix="mlreg-priced-")
    with Lake(home.name) as lake:
        sync_catalog(lake, [])
    return home


@contextmanager
def open_location(home: Path, **overrides: object) -> Iterator[Location]:
    """A location with an instance in memory, which knows runs and events but no daemon."""
    with dg.DagsterInstance.ephemeral() as instance:
        location = Location(home, instance, **overrides)
        yield location
        location.lake.close()
