"""Decisions on experiments, as the hourly look makes them. How, is in costs/experiments/."""

import dagster as dg

from assets.tables import RARE, table_spec, written
from resources import LakeResource, RegistryResource

ROOM = "costs"


@dg.multi_asset(
    name="decisions",
    specs=[
        table_spec(
            "decisions",
            room=ROOM,
            kinds={"duckdb"},
            deps=[
                ["telemetry", "assignments"],
                ["telemetry", "outcomes"],
                ["telemetry", "inference_events"],
                [ROOM, "model_costs"],
            ],
            freshness=RARE,
            remarks="A winner is proposed for promotion, and promoted by nobody but people.",
        )
    ],
    pool="decisions_writer",
)
def decisions(
    context: dg.AssetExecutionContext, lake: LakeResource, registry: RegistryResource
) -> dg.MaterializeResult[None]:
    """Look at every experiment that has not been looked at for an hour."""
    from datetime import UTC, datetime

    from ml_registry_pipelines.costs.experiments.looking import look_at_due

    made = look_at_due(lake.open(), registry.log(), registry.actor(), now=datetime.now(UTC))
    for each in made:
        context.log.info("%s of %s: %s: %s", each.experiment, each.tenant, each.outcome.value, each.message)
    figures = {"looks": len(made), **{each.experiment: each.outcome.value for each in made}}
    return dg.MaterializeResult(metadata=written(lake.open(), "decisions", figures))
