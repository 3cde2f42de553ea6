"""Experiments that have not been looked at for an hour become runs of `decide_experiments`."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from resources import LakeResource, RegistryResource
from resources.instigators import SENSOR_SECONDS
from sensors.requests import in_flight, next_attempt

JOB = "decide_experiments"
TAG = "mlreg/experiments"


@dg.sensor(
    name="experiment_looks",
    job_name=JOB,
    minimum_interval_seconds=SENSOR_SECONDS["experiment_looks"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def experiment_looks(
    context: dg.SensorEvaluationContext, lake: LakeResource, registry: RegistryResource
) -> dg.RunRequest | dg.SkipReason:
    """Requests one run for all experiments, of any tenant, whose last look is an hour ago."""
    from ml_registry_pipelines.costs.experiments.looking import due

    if registry.is_empty():
        return dg.SkipReason("there is no registry yet")
    now = datetime.now(UTC)
    waiting = due(lake.open(), registry.log(), now=now)
    if not waiting:
        return dg.SkipReason("no experiment waits for a look")
    if in_flight(context.instance, JOB):
        return dg.SkipReason(f"{len(waiting)} experiments wait: a run is in flight")
    mark = f"{now:%Y-%m-%dT%H}"
    attempt = next_attempt(context.instance, TAG, mark)
    if (reason := attempt.waits(now)) is not None:
        return dg.SkipReason(reason)
    return dg.RunRequest(run_key=f"{mark}/{attempt.number}", tags={TAG: mark, "dagster/max_retries": "0"})
