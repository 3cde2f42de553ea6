"""Runs whose worker process is gone without a word: killed, or lost with the machine's power.

On one machine Dagster itself notices only those that die while their code server lives; the
others would count as running for ever and hold up every later run.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import dagster as dg

GRACE_SECONDS = 20
"""A run that says "started" may be this young before its process is looked for."""


def fail_lost_runs(instance: dg.DagsterInstance, *, grace_seconds: float = GRACE_SECONDS) -> list[str]:
    """Mark started runs as failed whose process is no longer there, give back their slots, and return their ids.

    Does nothing where the run launcher can look after its workers itself.
    """
    if instance.run_launcher.supports_check_run_worker_health:
        return []
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    lost = []
    for record in instance.get_run_records(started):
        run = record.dagster_run
        if time.time() - (record.start_time or time.time()) < grace_seconds:
            continue
        worker = _worker(instance, run.run_id)
        if worker is not None and not _is_alive(*worker):
            pid, _ = worker
            instance.report_run_failed(
                run, f"The process of this run (pid {pid}) is gone; it was killed or lost."
            )
            free_slots(instance, run.run_id)
            lost.append(run.run_id)
    return lost


def free_slots(instance: dg.DagsterInstance, run_id: str) -> None:
    """Give back what a run that is over holds of its pools.

    A step gives it back at its end, and a process that was killed has none: with one slot per writer, every
    later run of that table would stay queued for ever.
    """
    if instance.event_log_storage.supports_global_concurrency_limits:
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def _worker(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """The process id of the run's worker, and when it said so."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        if pid is not None:
            return int(str(pid.value)), entry.timestamp
    return None


def _is_alive(pid: int, said_at: float) -> bool:
    """Whether that process runs, and is not another that got its number later."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except OSError:
        return Path("/proc/self").exists() is False
    state, started_ticks = fields[0], int(fields[19])
    started_at = time.time() - uptime + started_ticks / os.sysconf("SC_CLK_TCK")
    return state != "Z" and started_at < said_at + 1
