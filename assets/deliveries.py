"""Reports that go to recipients, and the ledger of their deliveries. What is in them, is in the reports room."""

from base64 import b64encode
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from assets.reports import LARGEST_CHART, ROLLUPS, ROOM
from assets.tables import OWNERS, RARE, WEEKLY, table_spec, written
from ml_registry_pipelines.operations.late_reports import FIRST_DAY
from resources import AlertsResource, DeliveriesResource, LakeResource

WEEKS = dg.WeeklyPartitionsDefinition(start_date=FIRST_DAY.isoformat(), day_offset=1, end_offset=1)
"""A week is named by its Monday; `end_offset` adds the one that is not over yet."""
SECONDS = 600.0
"""For one run; what is not sent then is sent by the next."""
COMPARISON = dg.AssetKey([ROOM, "provider_comparison"])


class Deliver(dg.Config):
    """Whether files are being taken, so that reports of periods that just ended wait for them."""

    files_under_way: bool = Field(default=False, description="Reports of periods that just ended wait then.")


@dg.multi_asset(
    name="provider_comparison",
    specs=[
        dg.AssetSpec(
            key=COMPARISON,
            deps=ROLLUPS,
            group_name=ROOM,
            owners=OWNERS,
            kinds={"html", "altair"},
            freshness_policy=WEEKLY,
            description="One partition is one ISO week, in UTC and of all tenants: providers side by side, with cost "
            "by type of token, latency percentiles, error rates and their samples, as a page and as CSV.",
        )
    ],
    partitions_def=WEEKS,
    pool="reports_writer",
)
def provider_comparison(
    context: dg.AssetExecutionContext, deliveries: DeliveriesResource, lake: LakeResource
) -> dg.MaterializeResult[None]:
    edition, chart = deliveries.week(date.fromisoformat(context.partition_key))
    address = f"{lake.root}/{edition.path}"
    metadata: dict[str, Any] = {
        "dagster/uri": f"{address}.html",
        "report": dg.MetadataValue.path(f"{address}.html"),
        "figures": dg.MetadataValue.path(f"{address}.csv"),
        "summary": dg.MetadataValue.md(deliveries.short_form(edition)),
        "final": edition.final,
        "coverage": dg.MetadataValue.json(dict(edition.coverage)),
        "assumptions": dg.MetadataValue.json(dict(edition.assumptions)),
        "made_of": dg.MetadataValue.json(dict(edition.made_of)),
    }
    if chart is not None and len(chart) <= LARGEST_CHART:
        picture = b64encode(chart).decode()
        metadata["chart"] = dg.MetadataValue.md(f"![latency](data:image/png;base64,{picture})")
    return dg.MaterializeResult(metadata=metadata)


@dg.multi_asset(
    name="report_deliveries",
    specs=[
        table_spec(
            "report_deliveries",
            room=ROOM,
            kinds={"python"},
            deps=[["costs", "cost_rollup"], ["telemetry", "performance_rollup"]],
            freshness=RARE,
            remarks="A run sends what is due: each missed period once, oldest first; what came out otherwise since is "
            "one correction.",
        )
    ],
    pool="report_deliveries_writer",
)
def report_deliveries(
    config: Deliver, deliveries: DeliveriesResource, lake: LakeResource, alerts: AlertsResource
) -> dg.MaterializeResult[None]:
    from ml_registry_pipelines.reports.delivery.courier import NOT_DELIVERED

    done = deliveries.deliver(busy=config.files_under_way, seconds=SECONDS)
    alerts.settle(
        {NOT_DELIVERED}, done.alerts, because="The reports arrive again, or nobody wants them any more."
    )
    lake.open().version("report_deliveries")
    if done.problems:
        raise dg.Failure(
            "; ".join(done.problems), metadata={"delivered": done.delivered}, allow_retries=False
        )
    figures = {
        "delivered": done.delivered,
        "corrected": done.corrected,
        "failed": dg.MetadataValue.json(done.failures),
        "waiting": dg.MetadataValue.json(done.waiting),
    }
    return dg.MaterializeResult(metadata=written(lake.open(), "report_deliveries", figures))
