"""What providers bill, and how much of it our costs account for. How, is in the costs room."""

from collections.abc import Iterator
from datetime import date

import dagster as dg
from pydantic import Field

from assets.tables import DAILY, table_spec, written
from assets.telemetry import LogFile
from resources import AlertsResource, BillsResource, LakeResource

ROOM = "costs"
BILLS = dg.AssetKey([ROOM, "provider_bills"])
RECONCILIATION = dg.AssetKey([ROOM, "bill_reconciliation"])


class BillBatch(dg.Config):
    """Files to take, as the sensor saw them; none: whatever lies in the sources. And whether to ask the APIs first.

    `since` and `until` (left out) are UTC days of what is asked for; `pulls` the names of some pulls.
    """

    files: list[LogFile] = Field(default_factory=list)
    pull: bool = False
    since: str | None = None
    until: str | None = None
    pulls: list[str] = Field(default_factory=list)


@dg.multi_asset(
    name="provider_bills",
    specs=[
        table_spec(
            "provider_bills",
            room=ROOM,
            kinds={"python"},
            freshness=DAILY,
            remarks="From files that land in the sources of bills, and from the cost APIs of OpenAI, Anthropic and "
            "Cloudflare. Nothing is overwritten: a later bill of a line stands beside the earlier one and counts.",
        )
    ],
    pool="provider_bills_writer",
)
def provider_bills(
    config: BillBatch, lake: LakeResource, bills: BillsResource, alerts: AlertsResource
) -> dg.MaterializeResult[None]:
    """Take bills, each line once."""
    from ml_registry_pipelines.costs.bills.intake import BillsUnread
    from ml_registry_pipelines.costs.bills.pulling import PULL_FAILED, failed_pulls
    from ml_registry_pipelines.telemetry.sources import FileRef

    into = lake.open()
    figures: dict[str, object] = {}
    if config.pull:
        since, until = (
            None if day is None else date.fromisoformat(day) for day in (config.since, config.until)
        )
        outcomes = bills.pull(into, names=config.pulls, since=since, until=until)
        alerts.open(*failed_pulls(outcomes))
        succeeded = [f"{PULL_FAILED}/{each.name}" for each in outcomes if not each.failures]
        alerts.resolve(*succeeded, because="A later pull succeeded.")
        figures |= {
            f"pull_{each.name}": "; ".join(each.failures) or each.taken.sentence() for each in outcomes
        }
    try:
        taken = bills.take(into, [FileRef.from_config(file.model_dump()) for file in config.files])
    except BillsUnread as some:
        # A failed run would keep what was taken from being compared; the sensor asks for the others again.
        taken = some.taken
        figures["unread"] = str(some)
    figures |= {"rows_in": taken.rows_in, "taken": taken.taken, "quarantined": taken.quarantined}
    into.version("provider_bills")
    return dg.MaterializeResult(
        metadata=written(into, "provider_bills", {**figures, "files_taken": taken.files})
    )


@dg.multi_asset(
    name="bill_reconciliation",
    specs=[
        table_spec(
            "bill_reconciliation",
            room=ROOM,
            kinds={"duckdb"},
            deps=[[ROOM, "provider_bills"], [ROOM, "cost_rollup"]],
            freshness=DAILY,
            remarks="Capture rate: our cost per amount billed. Recent days are compared anew at every run.",
        )
    ],
    pool="bill_reconciliation_writer",
)
def bill_reconciliation(
    lake: LakeResource, bills: BillsResource, alerts: AlertsResource
) -> dg.MaterializeResult[None]:
    """Compare costs with bills, and alert where they part."""
    from ml_registry_pipelines.costs.bills.capture_alerts import CAPTURE, CAPTURED, capture_alerts
    from ml_registry_pipelines.costs.bills.reconciliation import reconcile

    settings = bills.settings()
    done = reconcile(lake.open(), settings)
    found = capture_alerts(lake.open(), settings)
    alerts.settle({CAPTURE}, found, because=CAPTURED)
    lake.open().version("bill_reconciliation")
    figures = {"days": len(done.days), "alerts": len(found)}
    return dg.MaterializeResult(metadata=written(lake.open(), "bill_reconciliation", figures))


@dg.multi_asset_check(
    name="bill_checks",
    specs=[
        dg.AssetCheckSpec(
            "bills_are_captured",
            asset=RECONCILIATION,
            description="What providers bill is in our costs, within the tolerance of bills.yaml.",
        ),
        dg.AssetCheckSpec(
            "bill_lines_are_taken",
            asset=BILLS,
            description="No record of a bill of the last month lies in quarantine, and no pull fails.",
        ),
    ],
    can_subset=True,
)
def bill_checks(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, bills: BillsResource
) -> Iterator[dg.AssetCheckResult]:
    from ml_registry_pipelines.costs.bills.capture_alerts import bill_lines_are_taken, bills_are_captured

    for key in sorted(context.selected_asset_check_keys, key=lambda key: key.name):
        asset, name = key.asset_key, key.name
        if name == "bills_are_captured":
            finding = bills_are_captured(lake.open(), bills.settings())
        else:
            finding = bill_lines_are_taken(lake.open())
        yield dg.AssetCheckResult(
            asset_key=asset,
            check_name=name,
            passed=finding.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=finding.sentence,
            metadata=dict(finding.figures),
        )
