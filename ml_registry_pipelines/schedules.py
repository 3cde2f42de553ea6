"""What happens by the clock, in UTC; all of it is on from the start."""

import os
from datetime import timedelta
from typing import Any

import dagster as dg

from ml_registry_pipelines.jobs.platform import ONE_AT_A_TIME
from resources import BillsResource, LakeResource

WEEKS_BACK = 8
"""Weeks that a schedule looks back for what was missed, or has changed since."""
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


@dg.schedule(
    name="compare_providers_weekly",
    job_name="compare_providers",
    cron_schedule="30 1 * * 1",
    default_status=RUNNING,
    description="Writes last week's comparison of providers, and those of the weeks before that are missing or old.",
)
def compare_providers_weekly(
    context: dg.ScheduleEvaluationContext, deliveries: dg.ResourceParam[Any]
) -> list[dg.RunRequest] | dg.SkipReason:
    at = context.scheduled_execution_time
    weeks = deliveries.stale_weeks(at, back=WEEKS_BACK)
    requests = [
        dg.RunRequest(run_key=f"{at:%Y-%m-%d}/{week}", partition_key=week.isoformat()) for week in weeks
    ]
    return requests or dg.SkipReason("every week is as new as its figures")


def _where_set(job: str, *variables: str) -> dg.RunRequest | dg.SkipReason:
    """A run where the environment names what it needs."""
    missing = [name for name in variables if not os.environ.get(name, "").strip()]
    return (
        dg.SkipReason(f"{', '.join(missing)} not set")
        if missing
        else dg.RunRequest(tags={ONE_AT_A_TIME: job})
    )


@dg.schedule(
    name="import_mlflow_daily",
    job_name="import_mlflow",
    cron_schedule="50 1 * * *",
    default_status=RUNNING,
    description="Looks at the MLflow server once a day, whether or not the sensor saw a change.",
)
def import_mlflow_daily() -> dg.RunRequest | dg.SkipReason:
    return _where_set("import_mlflow", "MLREG_MLFLOW")


@dg.schedule(
    name="anchor_log_daily",
    job_name="anchor_log",
    cron_schedule="15 2 * * *",
    default_status=RUNNING,
    description="Verifies the log and signs its heads, where a folder and keys for it are set.",
)
def anchor_log_daily() -> dg.RunRequest | dg.SkipReason:
    return _where_set("anchor_log", "MLREG_ANCHORS", "MLREG_ANCHOR_KEY", "MLREG_ANCHOR_PUBLIC_KEY")


@dg.schedule(
    name="pull_bills_daily",
    job_name="pull_bills",
    cron_schedule="35 5 * * *",
    default_status=RUNNING,
    description="Pulls the bills of the last days and compares them with our costs, where there are bills at all.",
)
def pull_bills_daily(bills: BillsResource, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
    if not bills.are_expected(lake.open()):
        return dg.SkipReason("no bill was ever taken, and no pull is configured")
    return dg.RunRequest(tags={ONE_AT_A_TIME: "pull_bills"})


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
        pull_bills_daily,
        compare_providers_weekly,
        import_mlflow_daily,
        anchor_log_daily,
        dg.ScheduleDefinition(
            name="check_production_daily",
            job_name="check_production",
            cron_schedule="15 2 * * *",
            default_status=RUNNING,
            description="Runs the declared suites again on what live versions predicted in production.",
        ),
        dg.ScheduleDefinition(
            name="write_governance_pages_hourly",
            job_name="write_governance_pages",
            cron_schedule="55 * * * *",
            default_status=RUNNING,
            description="Writes what waits, what is stale and what is late, since deadlines pass without an event.",
        ),
        dg.ScheduleDefinition(
            name="write_dossiers_daily",
            job_name="write_dossiers",
            cron_schedule="45 2 * * *",
            default_status=RUNNING,
            description="Writes the dossiers of live versions anew: costs and metrics in them change every day.",
        ),
        dg.ScheduleDefinition(
            name="build_lineage_index_hourly",
            job_name="build_lineage_index",
            cron_schedule="50 * * * *",
            default_status=RUNNING,
            description="Adds the lineage of the last hour to the index; with none, nothing is written.",
        ),
        dg.ScheduleDefinition(
            name="enforce_retention_daily",
            job_name="enforce_retention",
            cron_schedule="20 3 * * *",
            default_status=RUNNING,
            run_config={"tenant": "default", "dry_run": False},
            description="Erases rows whose retention is over; what it did is in retention_runs.",
        ),
        dg.ScheduleDefinition(
            name="embed_models_daily",
            job_name="embed_models",
            cron_schedule="25 4 * * *",
            default_status=RUNNING,
            run_config={"ops": {"search__model_embeddings": {"config": {"whole": True}}}},
            description="Compares all models with their vectors, and lets no file keep what was removed.",
        ),
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
