"""Reports that are due become runs of `deliver_reports`. What was delivered is known to the ledger alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import dagster as dg

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.operations.alerts import Alert, Severity
from resources import AlertsResource, DeliveriesResource
from resources.instigators import SENSOR_SECONDS
from sensors.requests import in_flight, next_attempt

JOB = "deliver_reports"
DUE_TAG = "mlreg/due_reports"
UNUSABLE = "report_recipients_unusable"
NOTHING_DUE = "no report is due"


@dataclass(frozen=True)
class _Seen:
    """Cursor: versions of the tables when nothing was due, and when something may be all the same."""

    versions: list[int] = field(default_factory=list)
    next_at: str | None = None
    busy: bool = False

    @classmethod
    def parse(cls, cursor: str | None) -> _Seen:
        try:
            return cls(**json.loads(cursor)) if cursor else cls()
        except (ValueError, TypeError):
            return cls()

    def holds(self, versions: list[int], now: datetime, *, busy: bool) -> bool:
        """Whether still nothing can be due."""
        waits = self.next_at is None or now < datetime.fromisoformat(self.next_at)
        return self.versions == versions and self.busy == busy and waits


@dg.sensor(
    name="due_reports",
    job_name=JOB,
    minimum_interval_seconds=SENSOR_SECONDS["due_reports"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def due_reports(
    context: dg.SensorEvaluationContext, deliveries: DeliveriesResource, alerts: AlertsResource
) -> dg.RunRequest | dg.SkipReason:
    """Requests a run when a report is due to somebody, or one that was delivered came out otherwise since."""
    now = datetime.now(UTC)
    versions = deliveries.versions()
    busy = in_flight(context.instance, "ingest_logs")
    if not versions or _Seen.parse(context.cursor).holds(versions, now, busy=busy):
        return dg.SkipReason(NOTHING_DUE)
    try:
        outlook = deliveries.look(busy=busy)
    except MlregError as wrong:
        alerts.settle({UNUSABLE}, [_unusable(wrong)], because="")
        return dg.SkipReason(str(wrong))
    alerts.settle({UNUSABLE}, [], because="Recipients of reports can be read again.")
    if not outlook.due:
        next_at = outlook.next_at.isoformat() if outlook.next_at else None
        context.update_cursor(json.dumps(asdict(_Seen(versions, next_at, busy))))
        return dg.SkipReason("; ".join(outlook.waiting[:5]) or NOTHING_DUE)
    if in_flight(context.instance, JOB):
        return dg.SkipReason(f"{outlook.due} subscriptions wait: a run is in flight")
    about = hashlib.sha256(json.dumps([versions, outlook.due]).encode()).hexdigest()[:16]
    attempt = next_attempt(context.instance, DUE_TAG, about)
    if (reason := attempt.waits(now)) is not None:
        return dg.SkipReason(f"{outlook.due} subscriptions wait: {reason}")
    return dg.RunRequest(
        run_key=f"{about}/{attempt.number}/{now:%Y-%m-%dT%H:%M:%S}",
        run_config={"ops": {"report_deliveries": {"config": {"files_under_way": busy}}}},
        tags={DUE_TAG: about, "dagster/max_retries": "0"},
    )


def _unusable(wrong: MlregError) -> Alert:
    return Alert(
        UNUSABLE,
        "recipients",
        Severity.ERROR,
        "Reports cannot be delivered: their recipients cannot be read",
        f"{wrong}. Nothing is lost; what is due is sent when the file is mended.",
    )
