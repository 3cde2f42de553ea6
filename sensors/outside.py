"""What is told to the outside, and what is noticed there: webhooks' receivers, and an MLflow server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import dagster as dg

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.operations.alerts import Alert, Severity
from resources import AlertsResource
from resources.instigators import SENSOR_SECONDS
from resources.outside import MLFLOW, MlflowResource, WebhooksResource
from sensors.requests import in_flight, last_failed, next_attempt

IMPORT_JOB = "import_mlflow"
MARK_TAG = "mlreg/mlflow"
SUBSCRIBER_FAILING = "subscriber_failing"
MLFLOW_FAILING = "mlflow_failing"
DELIVERY_SECONDS = 15.0
"""For one tick, of the 60 that Dagster gives it."""


@dataclass(frozen=True)
class _Told:
    """Cursor: version of the log up to which all was told, and when the first of those that failed is due."""

    version: int | None = None
    due: str | None = None

    @classmethod
    def parse(cls, cursor: str | None) -> _Told:
        try:
            return cls(**json.loads(cursor)) if cursor else cls()
        except (ValueError, TypeError):
            return cls()

    def waits(self, now: datetime) -> bool:
        return self.due is None or now < datetime.fromisoformat(self.due)


@dg.sensor(
    name="deliver_webhooks",
    minimum_interval_seconds=SENSOR_SECONDS["deliver_webhooks"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def deliver_webhooks(
    context: dg.SensorEvaluationContext, webhooks: WebhooksResource, alerts: AlertsResource
) -> dg.SkipReason:
    """Tells subscribers of new events; alerts on those that take none any more."""
    version = webhooks.version()
    before = _Told.parse(context.cursor)
    if version is None or (version == before.version and before.waits(datetime.now(UTC))):
        return dg.SkipReason("every subscriber was told")
    told = webhooks.deliver(seconds=DELIVERY_SECONDS)
    due = told.next_attempt_at
    after = _Told(version if told.all_told else None, due.isoformat() if due else None)
    context.update_cursor(json.dumps(asdict(after)))
    failing = [
        Alert(
            SUBSCRIBER_FAILING,
            f"{s.subscription.tenant}/{s.subscription.name}",
            Severity.ERROR,
            f"Webhook {s.subscription.name} of tenant {s.subscription.tenant} takes no events",
            f"{s.mark.last_failure}. It failed {s.mark.failures} times; {s.waiting:,} events wait in the log and none "
            "is lost. `mlreg webhooks status` says more, `mlreg webhooks replay` goes past one that it refuses.",
            tenant=s.subscription.tenant,
        )
        for s in told.dead
    ]
    alerts.settle({SUBSCRIBER_FAILING}, failing, because="The webhook takes events again, or is gone.")
    return dg.SkipReason(f"{told.sent} events delivered")


@dg.sensor(
    name="mlflow_changes",
    job_name=IMPORT_JOB,
    minimum_interval_seconds=SENSOR_SECONDS["mlflow_changes"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def mlflow_changes(
    context: dg.SensorEvaluationContext, mlflow: MlflowResource, alerts: AlertsResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Requests an import when the MLflow server lists anything else than at the last one."""
    if not mlflow.configured():
        yield dg.SkipReason(f"{MLFLOW} names no MLflow server")
        return
    try:
        mark = mlflow.mark()
    except MlregError as failure:
        alerts.settle({MLFLOW_FAILING}, [_unreadable(failure)], because="")
        yield dg.SkipReason(str(failure))
        return
    alerts.settle({MLFLOW_FAILING}, [], because="The MLflow server can be read again.")
    if in_flight(context.instance, IMPORT_JOB):
        yield dg.SkipReason("an import is under way")
        return
    if mark == context.cursor and not last_failed(context.instance, IMPORT_JOB):
        yield dg.SkipReason("nothing changed there")
        return
    attempt = next_attempt(context.instance, MARK_TAG, mark)
    if mark == context.cursor and (reason := attempt.waits(datetime.now(UTC))) is not None:
        yield dg.SkipReason(reason)
        return
    context.update_cursor(mark)
    yield dg.RunRequest(run_key=f"{mark}/{attempt.number}", tags={MARK_TAG: mark, "dagster/max_retries": "0"})


def _unreadable(failure: MlregError) -> Alert:
    return Alert(
        MLFLOW_FAILING,
        "server",
        Severity.ERROR,
        "The MLflow server cannot be read",
        f"{failure}. Models are not kept in step meanwhile; what was taken over stays.",
    )
