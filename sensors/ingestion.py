"""Files that land become runs of `ingest_logs`; new prices become runs of `sync_prices`.

The sensors discover and request, no more: what was taken is known to the tables alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ml_registry_pipelines.operations.alerts import Alert, Severity
from ml_registry_pipelines.telemetry.sources import FileRef, Look, Scope
from resources import AlertsResource, LakeResource, PricesResource, SourcesResource
from resources.instigators import SENSOR_SECONDS
from sensors.requests import in_flight, last_failed, next_attempt

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

JOB = "ingest_logs"
BATCH_TAG = "mlreg/batch"
LAG = timedelta(minutes=10)
"""A file that waits longer is an alert: a late file of any day is to be in within ten minutes."""
SHARE_OF_TIME = 20
"""A look at everything may take one part in so many of the reconciling sensor's time ..."""
LOOK_PAUSES = (60.0, 300.0)
"""... but comes at least and at most so many seconds after the last."""


@dg.sensor(
    name="new_inference_logs",
    job_name=JOB,
    minimum_interval_seconds=SENSOR_SECONDS["new_inference_logs"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_inference_logs(
    context: dg.SensorEvaluationContext,
    lake: LakeResource,
    sources: SourcesResource,
    alerts: AlertsResource,
) -> dg.RunRequest | dg.SkipReason:
    """Requests one run for the files that have landed and stopped growing, at most 500 files or 256 MB."""
    look = sources.look(lake.open(), scope=Scope.RECENT, memory=context.cursor)
    context.update_cursor(look.memory)
    if look.problems:
        # Resolved by the sensor below, which sees every file: this one may not see the bad one again.
        alerts.open(*unreadable(look))
    return _request(context.instance, lake.open(), look, catch_up=True)


@dataclass(frozen=True)
class _Reconciled:
    """Cursor of `reconcile_inference_logs`. `first_seen` has the waiting files, by a digest of their name."""

    memory: str | None = None
    next_look: float = 0.0
    first_seen: Mapping[str, float] | None = None

    @classmethod
    def parse(cls, cursor: str | None) -> _Reconciled:
        try:
            return cls(**json.loads(cursor)) if cursor else cls()
        except (ValueError, TypeError):
            # A cursor that someone edited costs one look, not the sensor.
            return cls()


@dg.sensor(
    name="reconcile_inference_logs",
    job_name=JOB,
    minimum_interval_seconds=SENSOR_SECONDS["reconcile_inference_logs"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def reconcile_inference_logs(
    context: dg.SensorEvaluationContext,
    lake: LakeResource,
    sources: SourcesResource,
    alerts: AlertsResource,
) -> dg.RunRequest | dg.SkipReason:
    """Compares all files of all days with what was taken: requests late ones, names changed ones, sees lag.

    It requests what it has seen waiting before: whatever is new is the business of the sensor above.
    """
    before = _Reconciled.parse(context.cursor)
    now = time.time()
    if now < before.next_look:
        return dg.SkipReason(f"the next look at all files is due in {before.next_look - now:.0f} seconds")
    started = time.perf_counter()
    look = sources.look(lake.open(), scope=Scope.ALL, memory=before.memory)
    least, most = LOOK_PAUSES
    pause = min(max(SHARE_OF_TIME * (time.perf_counter() - started), least), least if look.files else most)
    known = before.first_seen or {}
    seen = {name: known.get(name, now) for name in map(_digest, look.files)}
    # The daemon comes a little late or early; a look due within seconds is made now.
    after = _Reconciled(look.memory, now + pause - 5, seen)
    context.update_cursor(json.dumps(asdict(after), separators=(",", ":")))
    late = [file for file in look.files if now - seen[_digest(file)] > LAG.total_seconds()]
    alerts.settle(
        {"source_unreadable", "file_changed", "lag"},
        [*unreadable(look), *_changed(look), *_lagging(late)],
        because="A look at all files no longer finds it.",
    )
    waiting = tuple(file for file in look.files if _digest(file) in known)
    return _request(context.instance, lake.open(), replace(look, files=waiting))


def _digest(file: FileRef) -> str:
    return hashlib.sha256(f"{file.source}\0{file.path}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dg.sensor(
    name="new_prices",
    job_name="sync_prices",
    minimum_interval_seconds=SENSOR_SECONDS["new_prices"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_prices(context: dg.SensorEvaluationContext, prices: PricesResource) -> dg.RunRequest | dg.SkipReason:
    """Requests a sync when the contract-price file or the version of the price library is another."""
    mark = prices.mark()
    if mark == context.cursor:
        return dg.SkipReason("prices are what they were")
    context.update_cursor(mark)
    return dg.RunRequest(run_key=mark)


def _request(
    instance: dg.DagsterInstance, lake: Lake, look: Look, *, catch_up: bool = False
) -> dg.RunRequest | dg.SkipReason:
    """One run for the files of a look; a reason where none.

    With `catch_up` also for what a failed run left, and for requests that were told of without a file,
    which are neither priced nor rolled up yet.
    """
    from ml_registry_pipelines.telemetry.ingestion import SOURCE, followers_lag

    if in_flight(instance, JOB):
        return dg.SkipReason(f"{len(look.files)} files wait: a run is in flight")
    if not look.files and not (catch_up and (last_failed(instance, JOB) or followers_lag(lake)[1])):
        growing = f", {look.growing} are still growing" if look.growing else ""
        return dg.SkipReason(f"no new file{growing}")
    batch = lake.sequence("inference_events", SOURCE) + 1
    attempt = next_attempt(instance, BATCH_TAG, str(batch))
    if (reason := attempt.waits(datetime.now(UTC))) is not None:
        return dg.SkipReason(f"batch {batch}: {reason}")
    return dg.RunRequest(
        run_key=f"inference_events/{batch}/{attempt.number}",
        run_config=take(look.files),
        tags={
            BATCH_TAG: str(batch),
            "mlreg/attempt": str(attempt.number),
            # This sensor asks again itself.
            "dagster/max_retries": "0",
        },
    )


def take(files: tuple[FileRef, ...]) -> dict[str, object]:
    """Run configuration that names the files to take."""
    return {"ops": {"inference_events": {"config": {"files": [file.to_config() for file in files]}}}}


def unreadable(look: Look) -> list[Alert]:
    """An alert per source that cannot be listed and file that cannot be read."""
    return [
        Alert(
            "source_unreadable",
            problem[:200],
            Severity.ERROR,
            "A log source or file cannot be read",
            f"{problem}. Other sources and files are taken meanwhile.",
        )
        for problem in look.problems
    ]


def _changed(look: Look) -> list[Alert]:
    return [
        Alert(
            "file_changed",
            f"{changed.source}/{changed.path}",
            Severity.ERROR,
            f"{changed.path} of source {changed.source!r} changed after it was taken",
            changed.message,
        )
        for changed in look.changed
    ]


def _lagging(late: Sequence[FileRef]) -> list[Alert]:
    if not late:
        return []
    return [
        Alert(
            "lag",
            "ingestion",
            Severity.ERROR,
            f"Log files have been waiting for more than {LAG.total_seconds() / 60:.0f} minutes",
            f"{len(late)} of them, first {late[0].path} of source {late[0].source!r}. Look at the runs of {JOB}: "
            "they fail, or stay in the queue.",
        )
    ]
