"""What requests cost: prices, priced attempts and their rollup. How, is in the costs room."""

import dagster as dg

from assets.tables import DAILY, FIRST, FLOWING, table_spec, written
from assets.telemetry import rolled_up
from resources import LakeResource, PricesResource

ROOM = "costs"
EVENTS = ["telemetry", "inference_events"]


@dg.multi_asset(
    name="price_catalog",
    specs=[
        table_spec(
            "price_catalog",
            room=ROOM,
            kinds={"python"},
            freshness=DAILY,
            remarks="Filled from the genai-prices library, which works offline, and from the contract-price file.",
        )
    ],
    pool="price_catalog_writer",
)
def price_catalog(lake: LakeResource, prices: PricesResource) -> dg.MaterializeResult[None]:
    """Bring the catalogue up to the price lists and contracts of now."""
    done = prices.sync(lake.open())
    figures = {
        "added": done.added,
        "withdrawn": done.withdrawn,
        "unchanged": done.unchanged,
        "library": done.version,
    }
    return dg.MaterializeResult(metadata=written(lake.open(), "price_catalog", figures))


@dg.multi_asset(
    name="model_costs",
    specs=[
        table_spec(
            "model_costs",
            room=ROOM,
            kinds={"duckdb"},
            deps=[EVENTS, [ROOM, "price_catalog"]],
            freshness=FLOWING,
        )
    ],
    pool="model_costs_writer",
    op_tags=FIRST,
)
def model_costs(lake: LakeResource, prices: PricesResource) -> dg.MaterializeResult[None]:
    """Price the batches that inference_events holds and model_costs lacks."""
    from ml_registry_pipelines.costs.ledger import catch_up_costs

    prices.sync_first(lake.open())
    batches = catch_up_costs(lake.open())
    figures = {"batches_priced": ", ".join(map(str, batches)) or "none"}
    return dg.MaterializeResult(metadata=written(lake.open(), "model_costs", figures))


@dg.multi_asset(
    name="cost_rollup",
    specs=[
        table_spec(
            "cost_rollup",
            room=ROOM,
            kinds={"duckdb"},
            deps=[EVENTS, [ROOM, "model_costs"]],
            freshness=FLOWING,
        )
    ],
    pool="cost_rollup_writer",
    op_tags=FIRST,
)
def cost_rollup(lake: LakeResource) -> dg.MaterializeResult[None]:
    """Compute again the days that got new costs."""
    from ml_registry_pipelines.costs.rollups import roll_up_costs

    done = roll_up_costs(lake.open())
    return dg.MaterializeResult(metadata=written(lake.open(), "cost_rollup", rolled_up(done.days, done.rows)))
