"""Pages of governance as assets: one of all that waits, and the evidence of each open approval."""

import dagster as dg

from assets.tables import HOURLY, OWNERS
from resources import RegistryResource

ROOM = "compliance"


@dg.multi_asset(
    name="governance_pages",
    specs=[
        dg.AssetSpec(
            key=[ROOM, "governance_page"],
            group_name=ROOM,
            owners=OWNERS,
            kinds={"html"},
            freshness_policy=HOURLY,
            description="One self-contained HTML page: pending and stale approvals, what is live and what it lacks, "
            "models by risk class, failed checks, overdue duties, broken glass, attempts that were refused. Beside it "
            "one evidence page per approval that waits.",
        )
    ],
    pool="reports_writer",
)
def governance_pages(registry: RegistryResource) -> dg.MaterializeResult[None]:
    from ml_registry_pipelines.reports.governance_pages import write_pages

    written = write_pages(registry.log())
    address = f"{registry.root}/{written.path}"
    return dg.MaterializeResult(
        metadata={
            "dagster/uri": address,
            "report": dg.MetadataValue.path(address),
            "bytes": written.size,
            "evidence pages": written.evidence,
        }
    )
