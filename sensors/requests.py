"""When a run may be requested: none in flight, and after failures only with growing patience."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from resources.workers import fail_lost_runs

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=15)
"""A request that keeps failing is made every quarter of an hour: 96 failed runs a day, not thousands."""


@dataclass(frozen=True)
class Attempt:
    """The next attempt at something: its number, from 1, and when it may be made."""

    number: int
    not_before: datetime | None

    def waits(self, now: datetime) -> str | None:
        """Why it cannot be made yet, as a sentence; None when it can."""
        if self.not_before is None or now >= self.not_before:
            return None
        return f"{self.number - 1} attempts failed; the next is made at {self.not_before:%H:%M:%S} UTC"


def in_flight(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of the job is queued, starting or running; one whose process is gone is not."""
    return _unfinished(instance, dg.RunsFilter(job_name=job, statuses=UNFINISHED))


def in_flight_for(instance: dg.DagsterInstance, tag: str, value: str) -> bool:
    """The same of runs that carry a tag."""
    return _unfinished(instance, dg.RunsFilter(tags={tag: value}, statuses=UNFINISHED))


def _unfinished(instance: dg.DagsterInstance, unfinished: dg.RunsFilter) -> bool:
    if not instance.get_runs(unfinished, limit=1):
        return False
    return not fail_lost_runs(instance) or bool(instance.get_runs(unfinished, limit=1))


def last_failed(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether the newest run of the job failed."""
    newest = instance.get_runs(dg.RunsFilter(job_name=job), limit=1)
    return bool(newest) and newest[0].status is dg.DagsterRunStatus.FAILURE


def next_attempt(instance: dg.DagsterInstance, tag: str, value: str) -> Attempt:
    """The attempt after those whose runs carry the tag; pauses double from one to the next."""
    records = instance.get_run_records(dg.RunsFilter(tags={tag: value}))
    ended = [datetime.fromtimestamp(r.end_time, UTC) for r in records if r.end_time]
    if not ended:
        return Attempt(len(records) + 1, None)
    pause = min(FIRST_PAUSE * 2 ** min(len(records) - 1, 20), LONGEST_PAUSE)
    return Attempt(len(records) + 1, max(ended) + pause)
