"""Files of bills that land become runs of `take_bills`. What was taken is known to the tables alone."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import dagster as dg

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.operations.alerts import Alert, Severity
from ml_registry_pipelines.telemetry.sources import Look
from resources import AlertsResource, BillsResource, LakeResource
from resources.instigators import SENSOR_SECONDS
from sensors.requests import in_flight, next_attempt

JOB = "take_bills"
FILES_TAG = "mlreg/bill_files"
UNREADABLE, CHANGED = "bills_unreadable", "bill_changed"


@dg.sensor(
    name="new_bills",
    job_name=JOB,
    minimum_interval_seconds=SENSOR_SECONDS["new_bills"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_bills(
    context: dg.SensorEvaluationContext,
    lake: LakeResource,
    bills: BillsResource,
    alerts: AlertsResource,
) -> dg.RunRequest | dg.SkipReason:
    """Requests one run for the files of bills that have landed and stopped growing."""
    try:
        look = bills.look(lake.open(), memory=context.cursor)
    except MlregError as wrong:
        alerts.settle({UNREADABLE}, [_unreadable(str(wrong))], because="")
        return dg.SkipReason(str(wrong))
    context.update_cursor(look.memory)
    alerts.settle({UNREADABLE, CHANGED}, _problems(look), because="A look at all files no longer finds it.")
    if not look.files:
        growing = f", {look.growing} are still growing" if look.growing else ""
        return dg.SkipReason(f"no new bill{growing}")
    if in_flight(context.instance, JOB):
        return dg.SkipReason(f"{len(look.files)} files wait: a run is in flight")
    named = "\0".join(f"{file.source}/{file.path}/{file.entry.mark}" for file in look.files)
    digest = hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    attempt = next_attempt(context.instance, FILES_TAG, digest)
    if (reason := attempt.waits(datetime.now(UTC))) is not None:
        return dg.SkipReason(f"{len(look.files)} files wait: {reason}")
    return dg.RunRequest(
        run_key=f"bills/{digest}/{attempt.number}",
        run_config={
            "ops": {"provider_bills": {"config": {"files": [file.to_config() for file in look.files]}}}
        },
        tags={FILES_TAG: digest, "dagster/max_retries": "0"},
    )


def _problems(look: Look) -> list[Alert]:
    changed = [
        Alert(
            CHANGED,
            f"{file.source}/{file.path}",
            Severity.ERROR,
            f"The bill {file.path} of source {file.source!r} changed after it was taken",
            file.message,
        )
        for file in look.changed
    ]
    return [*(_unreadable(problem) for problem in look.problems), *changed]


def _unreadable(problem: str) -> Alert:
    return Alert(
        UNREADABLE,
        problem[:200],
        Severity.ERROR,
        "Bills cannot be read",
        f"{problem}. Other sources and files are taken meanwhile.",
    )
