"""Reports for people: one per day, and an overview. What is in them, is in the reports room."""

from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.tables import DAILY, OWNERS
from ml_registry_pipelines.operations.late_reports import FIRST_DAY
from resources import LakeResource

if TYPE_CHECKING:
    from ml_registry_pipelines.reports.writing import Written

ROOM = "reports"
ROLLUPS = [dg.AssetKey(["costs", "cost_rollup"]), dg.AssetKey(["telemetry", "performance_rollup"])]
DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY.isoformat(), end_offset=1)
"""Late data of any day since then gets its report; `end_offset` adds the day that is not over yet."""
REPORTS_AT_ONCE = 2
LARGEST_CHART = 100_000
"""Bytes of a chart in metadata, which lie in Dagster's database; a larger one stays in the report."""


def _report_spec(name: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=[ROOM, name],
        deps=ROLLUPS,
        group_name=ROOM,
        owners=OWNERS,
        kinds={"html", "altair"},
        freshness_policy=DAILY,
        description=description,
    )


@dg.multi_asset(
    name="daily_cost_report",
    specs=[
        _report_spec(
            "daily_cost_report",
            "One partition is one UTC day: a self-contained HTML page with its costs, their coverage, latency "
            "percentiles and error rates, by provider, model and tenant. Written again when late logs change the day.",
        )
    ],
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="reports_writer",
)
def daily_cost_report(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
    from ml_registry_pipelines.reports.costs import daily_cost_report as write

    into = lake.open()
    # Half of a report's time is drawing, which has no use for a second core.
    with ThreadPoolExecutor(REPORTS_AT_ONCE) as pool:
        reports = list(pool.map(lambda day: write(into, date.fromisoformat(day)), context.partition_keys))
    return dg.MaterializeResult(metadata={"reports": len(reports), **_metadata(lake, reports[-1])})


@dg.multi_asset(
    name="cost_overview",
    specs=[
        _report_spec(
            "cost_overview",
            "One self-contained HTML page about all days: cost by model over time, cost per 1,000 tokens by provider, "
            "latency percentiles and error rates. Its key chart is in the metadata.",
        )
    ],
    pool="reports_writer",
)
def cost_overview(lake: LakeResource) -> dg.MaterializeResult[None]:
    from ml_registry_pipelines.reports.costs import cost_overview as write

    report = write(lake.open())
    return dg.MaterializeResult(metadata={**_metadata(lake, report), **_chart(report)})


def _metadata(lake: LakeResource, report: "Written") -> dict[str, Any]:
    address = f"{lake.root}/{report.path}"
    return {
        "dagster/uri": address,
        "report": dg.MetadataValue.path(address),
        "bytes": report.size,
        "digest": report.digest,
        "batch": report.sequence,
        **({} if report.markdown is None else {"summary": dg.MetadataValue.md(report.markdown)}),
    }


def _chart(report: "Written") -> dict[str, Any]:
    """The report's key chart as a picture that the UI shows."""
    if report.chart is None or len(report.chart) > LARGEST_CHART:
        return {}
    picture = b64encode(report.chart).decode()
    return {"chart": dg.MetadataValue.md(f"![{report.report}](data:image/png;base64,{picture})")}
