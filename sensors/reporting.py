"""Days whose figures changed get their reports again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from ml_registry_pipelines.operations.late_reports import late_reports
from resources import LakeResource
from resources.instigators import SENSOR_SECONDS
from sensors.requests import in_flight, next_attempt

JOB = "write_reports"
REPORT_TAG = "mlreg/report"
DAILY = dg.AssetKey(["reports", "daily_cost_report"])
OVERVIEW = dg.AssetKey(["reports", "cost_overview"])
DAYS_PER_RUN = 92
RUNS_PER_TICK = 4
OVERDUE = timedelta(minutes=10)
"""Reports wait for a lull in ingestion, but no longer than this."""
TABLES = ("cost_rollup", "performance_rollup", "reports")
NOTHING_LATE = "every report is as new as its figures"


@dataclass(frozen=True)
class _Seen:
    """Cursor: versions of `TABLES` at which nothing was late, or since when something is."""

    versions: list[int] | None = None
    late_since: str | None = None

    @classmethod
    def parse(cls, cursor: str | None) -> _Seen:
        try:
            return cls(**json.loads(cursor)) if cursor else cls()
        except (ValueError, TypeError):
            return cls()

    def text(self) -> str:
        return json.dumps(asdict(self))


@dg.sensor(
    name="reports_of_touched_days",
    job_name=JOB,
    minimum_interval_seconds=SENSOR_SECONDS["reports_of_touched_days"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def reports_of_touched_days(
    context: dg.SensorEvaluationContext, lake: LakeResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Requests the reports of days whose rollups are newer than their report, neighbouring days in one run."""
    now = datetime.now(UTC)
    versions = [lake.open().version(table) for table in TABLES]
    before = _Seen.parse(context.cursor)
    if before.versions == versions:
        return dg.SkipReason(NOTHING_LATE)
    late = late_reports(lake.open())
    days = late.days
    if not days and not late.overview:
        context.update_cursor(_Seen(versions=versions).text())
        return dg.SkipReason(NOTHING_LATE)
    since = datetime.fromisoformat(before.late_since) if before.late_since else now
    context.update_cursor(_Seen(late_since=since.isoformat()).text())
    if in_flight(context.instance, JOB):
        return dg.SkipReason(f"{len(days)} days wait: a run is in flight")
    if in_flight(context.instance, "ingest_logs") and now - since < OVERDUE:
        return dg.SkipReason(f"{len(days)} days wait for files that are being taken")
    requests = list(_requests(context.instance, days, late.figures, now))
    return requests or dg.SkipReason(f"{len(days)} days wait: their last attempts failed a moment ago")


def _requests(
    instance: dg.DagsterInstance, days: Sequence[date], figures: str, now: datetime
) -> Iterator[dg.RunRequest]:
    """One run per stretch of days, the first of which also writes the overview."""
    stretches = [(f"{first}..{last}", first, last) for first, last in _stretches(days)]
    for number, (name, first, last) in enumerate(stretches[:RUNS_PER_TICK] or [("overview", None, None)]):
        about = f"{name}@{figures}"
        attempt = next_attempt(instance, REPORT_TAG, about)
        if attempt.waits(now) is not None:
            continue
        tags = {REPORT_TAG: about, "dagster/max_retries": "0"}
        if first is not None and last is not None:
            tags["dagster/asset_partition_range_start"] = first.isoformat()
            tags["dagster/asset_partition_range_end"] = last.isoformat()
        selection = ([DAILY] if first is not None else []) + ([] if number else [OVERVIEW])
        yield dg.RunRequest(run_key=f"{about}/{attempt.number}", asset_selection=selection, tags=tags)


def _stretches(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """First and last of each run of neighbouring days, at most `DAYS_PER_RUN` long."""
    first: date | None = None
    last = date.min
    for day in sorted(days):
        if first is not None and day == last + timedelta(days=1) and (day - first).days < DAYS_PER_RUN:
            last = day
            continue
        if first is not None:
            yield first, last
        first = last = day
    if first is not None:
        yield first, last
