"""Dossiers as a report: technical documentation and model cards. What is in them, is in compliance/dossier/."""

import dagster as dg

from assets.tables import OWNERS, RARE
from resources import RegistryResource

ROOM = "reports"


@dg.multi_asset(
    name="dossiers",
    specs=[
        dg.AssetSpec(
            key=[ROOM, "dossiers"],
            deps=[dg.AssetKey(["registry", "governance_events"])],
            group_name=ROOM,
            owners=OWNERS,
            kinds={"html", "markdown"},
            freshness_policy=RARE,
            description="For each version in production, staging or shadow: technical documentation (Annex IV), model "
            "card, instructions for use, oversight measures and transparency notice, as self-contained HTML and "
            "Markdown below reports/dossiers. Each field is derived, attested or missing.",
        )
    ],
    pool="reports_writer",
)
def dossiers(context: dg.AssetExecutionContext, registry: RegistryResource) -> dg.MaterializeResult[None]:
    """One row of the metadata is one live version with the fields that it lacks."""
    from ml_registry_pipelines.compliance.dossier.writing import write_live

    made = write_live(registry.log(), registry.actor(), run_id=context.run_id)
    lacking = {f"{tenant}: {name}": ", ".join(missing) or "nothing" for tenant, name, missing in made}
    return dg.MaterializeResult(
        metadata={"versions": len(made), "lacking": dg.MetadataValue.json(lacking)},
    )
