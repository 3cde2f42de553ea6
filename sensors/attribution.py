"""Rules that join logs to deployments, and what deployments served: changes become runs of `attribute_logs`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import dagster as dg

from resources import LakeResource
from resources.instigators import SENSOR_SECONDS
from sensors.requests import in_flight, last_failed, next_attempt

JOB = "attribute_logs"
TAG = "mlreg/attribution"
TABLES = ("governance_events", "attribution_rules")


@dg.sensor(
    name="new_attribution",
    job_name=JOB,
    minimum_interval_seconds=SENSOR_SECONDS["new_attribution"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_attribution(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
    """Requests a run when the registry's log says something else about logged requests than the rollups do."""
    from ml_registry_pipelines.costs.reattribution import attribution_is_late

    opened = lake.open()
    if not opened.exists("governance_events"):
        return dg.SkipReason("there is no registry yet")
    mark = json.dumps([opened.version(table) for table in TABLES if opened.exists(table)])
    if mark == context.cursor and not last_failed(context.instance, JOB):
        return dg.SkipReason("the registry's log is what it was")
    if in_flight(context.instance, JOB):
        return dg.SkipReason("a run is in flight")
    if not attribution_is_late(opened):
        context.update_cursor(mark)
        return dg.SkipReason("every day is attributed by the rules of now")
    attempt = next_attempt(context.instance, TAG, mark)
    if (reason := attempt.waits(datetime.now(UTC))) is not None:
        return dg.SkipReason(reason)
    return dg.RunRequest(run_key=f"{mark}/{attempt.number}", tags={TAG: mark, "dagster/max_retries": "0"})
