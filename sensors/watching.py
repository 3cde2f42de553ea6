"""A look at the platform itself once a minute: what is stale, stands still or was lost, and what has recovered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState

from ml_registry_pipelines.operations.alerts import Alert, Severity
from resources import AlertsResource, LakeResource
from resources.instigators import SENSOR_SECONDS, WATCHED, failing_sensors, idle_instigators
from resources.workers import fail_lost_runs
from sensors.alerting import RUN_FAILED

STALE = "stale"
STOPPED = "sensor_stopped"
FAILING = "sensor_failing"


@dg.sensor(
    name="watch",
    minimum_interval_seconds=SENSOR_SECONDS["watch"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def watch(context: dg.SensorEvaluationContext, lake: LakeResource, alerts: AlertsResource) -> dg.SkipReason:
    """Alerts on stale tables and on sensors that stand still or fail; resolves what is over; tells what was not."""
    # Those that sensors ask for are looked at by their sensors; those of people by nobody else.
    fail_lost_runs(context.instance)
    idle = {i.name: i for i in idle_instigators(context.instance, WATCHED)}
    # At the daemon's start every sensor looks idle: only what was so a minute ago, too, is.
    before = set(json.loads(context.cursor or "[]"))
    context.update_cursor(json.dumps(sorted(idle)))
    current = [
        *_stale(context),
        *(
            Alert(
                STOPPED,
                name,
                Severity.ERROR,
                f"{name} {idle[name].reason}",
                "What it does is not done meanwhile. Turn it on under Automation in the UI, "
                "or look at the daemon's log.",
            )
            for name in sorted(before & set(idle))
        ),
        *(
            Alert(
                FAILING,
                failing.name,
                Severity.ERROR,
                f"{failing.name} fails at every tick",
                f"{failing.reason} Its ticks are under Automation in the UI.",
            )
            for failing in failing_sensors(context.instance, WATCHED)
        ),
    ]
    settled = alerts.settle({STALE, STOPPED, FAILING}, current, because="It is as it should be again.")
    for job in _recovered(context.instance, [o.about for o in alerts.standing(RUN_FAILED)]):
        alerts.resolve(f"{RUN_FAILED}/{job}", because=f"A later run of {job} succeeded.")
    alerts.tell()
    # Ticks of all sensors collect the timings of their queries; once a minute is often enough for a commit.
    lake.open().flush_timings()
    return dg.SkipReason(f"{len(settled.opened)} alerts opened, {len(settled.resolved)} resolved")


def _stale(context: dg.SensorEvaluationContext) -> Iterator[Alert]:
    """Assets that the daemon finds stale by their freshness policy."""
    if context.repository_def is None:
        return
    keys = sorted(context.repository_def.asset_graph.materializable_asset_keys, key=str)
    for key, record in context.instance.get_freshness_state_records(keys).items():
        if record.freshness_state in {FreshnessState.WARN, FreshnessState.FAIL}:
            failed = record.freshness_state is FreshnessState.FAIL
            name = key.to_user_string()
            yield Alert(
                STALE,
                name,
                Severity.ERROR if failed else Severity.WARNING,
                f"{name} is {'older than' if failed else 'almost as old as'} its freshness policy allows",
                "Nothing was written to it for long. See whether files still land, and whether its runs succeed.",
            )


def _recovered(instance: dg.DagsterInstance, jobs: Sequence[str]) -> Iterator[str]:
    """Jobs whose newest finished run succeeded."""
    finished = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    for job in jobs:
        newest = instance.get_runs(dg.RunsFilter(job_name=job, statuses=finished), limit=1)
        if newest and newest[0].status is dg.DagsterRunStatus.SUCCESS:
            yield job
