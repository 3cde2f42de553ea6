"""What happens by the clock, in UTC; all of it is on from the start."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

RUNNING = dg.DefaultScheduleStatus.RUNNING


@dg.schedule(
    name="write_reports_daily",
    job_name="write_reports",
    cron_schedule="20 0 * * *",
    default_status=RUNNING,
    description="Writes yesterday's report and the overview, whether or not anything landed.",
)
def write_reports_daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    yesterday = context.scheduled_execution_time.date() - timedelta(days=1)
    return dg.RunRequest(partition_key=yesterday.isoformat())


def all_schedules() -> list[dg.ScheduleDefinition]:
    """Every schedule of this location."""
    return [
        dg.ScheduleDefinition(
            name="sync_prices_daily",
            job_name="sync_prices",
            cron_schedule="5 3 * * *",
            default_status=RUNNING,
            description="Brings the price catalogue up to date every day, so that its age is known.",
        ),
        write_reports_daily,
        dg.ScheduleDefinition(
            name="maintain_tables_hourly",
            job_name="maintain_tables",
            cron_schedule="40 * * * *",
            default_status=RUNNING,
            description="Compacts tables that were written to slowly; busy ones have been already, by count.",
        ),
        dg.ScheduleDefinition(
            name="maintain_tables_weekly",
            job_name="maintain_tables",
            cron_schedule="10 4 * * 0",
            default_status=RUNNING,
            run_config={"ops": {"operations__table_upkeep": {"config": {"full": True}}}},
            description="Also removes files that no commit names.",
        ),
        dg.ScheduleDefinition(
            name="purge_artifacts_weekly",
            job_name="purge_artifacts",
            cron_schedule="30 4 * * 0",
            default_status=RUNNING,
            description="Removes what failed commands and broken-off uploads left among the artifacts.",
        ),
    ]
