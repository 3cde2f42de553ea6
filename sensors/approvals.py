"""What becomes of approvals: a granted one is a run of `promote_approved`, and each turn is told."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import dagster as dg

from resources import AlertsResource, RegistryResource
from resources.instigators import SENSOR_SECONDS
from sensors.requests import in_flight_for, next_attempt

JOB = "promote_approved"
TAG = "mlreg/approval"
LOOK_SECONDS = 300


@dg.sensor(
    name="granted_approvals",
    job_name=JOB,
    minimum_interval_seconds=SENSOR_SECONDS["granted_approvals"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def granted_approvals(
    context: dg.SensorEvaluationContext, registry: RegistryResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Requests one run per granted approval; one that was refused is tried again with growing patience."""
    from ml_registry_pipelines.compliance.approvals.promoting import granted_approvals as granted

    if registry.is_empty():
        return dg.SkipReason("there is no registry yet")
    requests = []
    for approval in granted(registry.log()):
        if in_flight_for(context.instance, TAG, approval.id):
            continue
        attempt = next_attempt(context.instance, TAG, approval.id)
        if attempt.waits(datetime.now(UTC)) is None:
            config = {"tenant": approval.tenant, "approval": approval.id}
            requests.append(
                dg.RunRequest(
                    run_key=f"{approval.id}/{attempt.number}", run_config=config, tags={TAG: approval.id}
                )
            )
    return requests or dg.SkipReason("no approval waits for its promotion")


@dg.sensor(
    name="approval_turns",
    minimum_interval_seconds=SENSOR_SECONDS["approval_turns"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def approval_turns(
    context: dg.SensorEvaluationContext, registry: RegistryResource, alerts: AlertsResource
) -> dg.SkipReason:
    """Notes what went stale or expired, and tells requesters and reviewers of every turn, through the sinks."""
    from ml_registry_pipelines.compliance.approvals.notices import settle_all, tell_turns

    if registry.is_empty():
        return dg.SkipReason("there is no registry yet")
    # Time alone makes approvals expire and evidence is no event, so that it is looked every few minutes too.
    mark = f"{registry.log().last_position()}/{int(time.time()) // LOOK_SECONDS}"
    if mark == context.cursor:
        return dg.SkipReason("nothing has happened since")
    settled = settle_all(registry.log())
    told = tell_turns(registry.log(), alerts)
    context.update_cursor(mark)
    return dg.SkipReason(f"{settled} approvals went stale or expired, {told} turns were told")
