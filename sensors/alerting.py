"""What goes wrong in runs, checks and figures becomes an alert, and its end resolves it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import dagster as dg

from ml_registry_pipelines.operations.alerts import Alert, Severity
from resources import AlertsResource
from resources.instigators import SENSOR_SECONDS

RUN_FAILED = "run_failed"
CHECK_FAILED = "check_failed"
SHOWN_BY_OTHERS = frozenset(
    {"files_are_taken_in_time", "no_file_changed", "sensors_are_running", "trained_on_current_data"}
)
"""Checks that only show on the asset's page what is an alert of its own already, or no alarm: stale versions."""
HISTORY = 25
"""Evaluations of one check that are looked at per tick, the newest."""


@dg.run_failure_sensor(
    name="run_failures",
    minimum_interval_seconds=SENSOR_SECONDS["run_failures"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def run_failures(context: dg.RunFailureSensorContext, alerts: AlertsResource) -> None:
    """Opens an alert when a run fails; one per job, however often it fails."""
    run = context.dagster_run
    alerts.open(
        Alert(
            RUN_FAILED,
            run.job_name,
            Severity.ERROR,
            f"A run of {run.job_name} failed",
            f"{_why(context)} Its log is under Runs in the UI, run {run.run_id}.",
            run_id=run.run_id,
        )
    )


def _why(context: dg.RunFailureSensorContext) -> str:
    """The innermost error of the first failed step, else what the run says; one line."""
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None:
            return f"{event.step_key}: {_line(error.message)}"
    return _line(context.failure_event.message or "No reason was given.")


def _line(text: str) -> str:
    line = " ".join(text.split())[:500]
    return line if line.endswith(".") else f"{line}."


@dg.sensor(
    name="check_failures",
    minimum_interval_seconds=SENSOR_SECONDS["check_failures"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def check_failures(context: dg.SensorEvaluationContext, alerts: AlertsResource) -> dg.SkipReason:
    """Opens an alert when an asset check fails, which fails no run, and resolves it when the check passes."""
    seen: dict[str, float] = json.loads(context.cursor or "{}")
    opened = resolved = 0
    now: dict[str, float] = {}
    for key in _checks(context):
        about = f"{key.asset_key.to_user_string()}/{key.name}"
        now[about] = seen.get(about, 0.0)
        for at, run_id, evaluation in _evaluations(context.instance, key, after=now[about]):
            now[about] = at
            if evaluation.passed:
                resolved += len(
                    alerts.resolve(f"{CHECK_FAILED}/{about}", because="The check passes.").resolved
                )
            else:
                opened += len(alerts.open(_alert(about, run_id, evaluation)).opened)
    context.update_cursor(json.dumps(now))
    return dg.SkipReason(f"{len(now)} checks: {opened} alerts opened, {resolved} resolved")


def _checks(context: dg.SensorEvaluationContext) -> list[dg.AssetCheckKey]:
    if context.repository_def is None:
        return []
    keys = context.repository_def.asset_graph.asset_check_keys
    return sorted((key for key in keys if key.name not in SHOWN_BY_OTHERS), key=str)


def _evaluations(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, *, after: float
) -> Iterator[tuple[float, str, dg.AssetCheckEvaluation]]:
    """Time, run and outcome of the check's evaluations after a time, the oldest first."""
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=HISTORY)
    for record in sorted(history, key=lambda r: r.event.timestamp if r.event else 0.0):
        event = record.event
        evaluation = event.dagster_event.event_specific_data if event and event.dagster_event else None
        if event is not None and isinstance(evaluation, dg.AssetCheckEvaluation) and event.timestamp > after:
            yield event.timestamp, record.run_id, evaluation


def _alert(about: str, run_id: str, evaluation: dg.AssetCheckEvaluation) -> Alert:
    warning = evaluation.severity is dg.AssetCheckSeverity.WARN
    return Alert(
        CHECK_FAILED,
        about,
        Severity.WARNING if warning else Severity.ERROR,
        f"Check {evaluation.check_name} of {evaluation.asset_key.to_user_string()} failed",
        evaluation.description or "The check gave no reason.",
        run_id=run_id or None,
    )


@dg.sensor(
    name="evaluate_alert_rules",
    minimum_interval_seconds=SENSOR_SECONDS["evaluate_alert_rules"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def evaluate_alert_rules(alerts: AlertsResource) -> dg.SkipReason:
    """Looks at budgets, errors, latency, drift, late data, queries and space; a rule that fails is an alert, too."""
    done = alerts.evaluate()
    settled = done.settled
    failed = f"; could not be looked at: {', '.join(sorted(done.failed))}" if done.failed else ""
    return dg.SkipReason(
        f"{done.found} findings: {len(settled.opened)} alerts opened, {len(settled.escalated)} worse, "
        f"{len(settled.resolved)} resolved, {len(settled.reminded)} reminded of{failed}"
    )
