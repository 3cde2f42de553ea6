"""Which sensors and schedules have to run, how often, and which of them do not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickStatus,
)

SENSOR_SECONDS: Mapping[str, int] = {
    # The daemon looks at sensors every 5 seconds; 1 means at every look.
    "new_inference_logs": 1,
    "reconcile_inference_logs": 60,
    "new_prices": 10,
    "new_bills": 30,
    "new_attribution": 10,
    "reports_of_touched_days": 10,
    "experiment_looks": 60,
    "due_reports": 30,
    "deliver_webhooks": 5,
    "mlflow_changes": 60,
    "registry_changes": 1,
    "registry_events": 1,
    "granted_approvals": 10,
    "approval_turns": 15,
    "changed_models": 10,
    "run_failures": 5,
    "check_failures": 15,
    "evaluate_alert_rules": 300,
    "watch": 60,
}
"""Least seconds between two ticks of a sensor."""
SCHEDULES = (
    "sync_prices_daily",
    "pull_bills_daily",
    "write_reports_daily",
    "compare_providers_weekly",
    "check_production_daily",
    "write_governance_pages_hourly",
    "write_dossiers_daily",
    "build_lineage_index_hourly",
    "enforce_retention_daily",
    "embed_models_daily",
    "maintain_tables_hourly",
    "maintain_tables_weekly",
    "import_mlflow_daily",
    "anchor_log_daily",
    "purge_artifacts_weekly",
)
WATCHED = (*SENSOR_SECONDS, *SCHEDULES)
PATIENCE_SECONDS = 180
"""How much longer than its interval a sensor may stay silent: a tick can wait for a busy machine."""


@dataclass(frozen=True)
class Idle:
    """A sensor or schedule that should run and does not. `reason` continues its name to a sentence."""

    name: str
    reason: str


def idle_instigators(
    instance: dg.DagsterInstance, watched: tuple[str, ...], *, now: float | None = None
) -> list[Idle]:
    """Those of `watched` that were turned off, or have not ticked for much longer than they should.

    One that the daemon has not seen yet is not idle, unless it has seen none at all.
    """
    if instance.schedule_storage is None:
        return []  # An instance in memory knows no daemon.
    states = {state.name: state for state in instance.all_instigator_state() if state.name in watched}
    if not states:
        return [Idle("no sensor", "has ever ticked; start the daemon (`make ui`)")]
    found = [(name, _reason(states[name], now or time.time())) for name in watched if name in states]
    return [Idle(name, reason) for name, reason in found if reason is not None]


def _reason(state: InstigatorState, now: float) -> str | None:
    if state.status is InstigatorStatus.STOPPED:
        return "was turned off"
    if state.instigator_type is not InstigatorType.SENSOR:
        return None
    data = state.instigator_data
    if not isinstance(data, SensorInstigatorData):
        return None
    last = max(data.last_tick_timestamp or 0, data.last_sensor_start_timestamp or 0)
    silent = now - last
    if not last or silent <= (data.min_interval or 30) + PATIENCE_SECONDS:
        return None
    return f"has not ticked for {silent / 60:.0f} minutes"


def failing_sensors(instance: dg.DagsterInstance, watched: tuple[str, ...], *, ticks: int = 2) -> list[Idle]:
    """Sensors whose newest ticks all failed, with the last error in a line."""
    failing = []
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.name not in watched or state.status is InstigatorStatus.STOPPED:
            continue
        newest = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=ticks + 1)
        finished = [tick for tick in newest if tick.status is not TickStatus.STARTED][:ticks]
        if len(finished) == ticks and all(tick.status is TickStatus.FAILURE for tick in finished):
            error = finished[0].error
            while error is not None and error.cause is not None:
                error = error.cause
            failing.append(
                Idle(state.name, " ".join((error.message if error else "no reason given").split())[:500])
            )
    return failing
