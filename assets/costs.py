"""What requests cost: prices, priced attempts and their rollup. How, is in the costs room."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from assets.tables import DAILY, FIRST, FLOWING, table_spec, written
from assets.telemetry import rolled_up
from resources import LakeResource, PricesResource

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.repricing import Repriced
    from ml_registry_pipelines.lake.lake import Lake

ROOM = "costs"
EVENTS = ["telemetry", "inference_events"]
RULES = ["telemetry", "attribution_rules"]


class PastDays(dg.Config):
    """Past days, from `since` to `until` (YYYY-MM-DD, UTC, both included; none: no limit), that were or are repriced.

    Nothing is done about past days unless `reprice` says so.
    """

    reprice: bool = False
    since: str | None = None
    until: str | None = None

    def of(self, lake: "Lake") -> list[date]:
        """The days that have costs, among them."""
        from ml_registry_pipelines.costs.ledger import days_priced

        if not self.reprice:
            return []
        since, until = (None if day is None else date.fromisoformat(day) for day in (self.since, self.until))
        return days_priced(lake, since=since, until=until)


@dg.multi_asset(
    name="price_catalog",
    specs=[
        table_spec(
            "price_catalog",
            room=ROOM,
            kinds={"python"},
            freshness=DAILY,
            remarks="Filled from the genai-prices library, which works offline, and from the contract-price file.",
        ),
        table_spec(
            "currency_rates",
            room=ROOM,
            kinds={"python"},
            freshness=DAILY,
            remarks="Filled from the rates file, and by `mlreg costs rates add`.",
        ),
    ],
    pool="price_catalog_writer",
)
def price_catalog(lake: LakeResource, prices: PricesResource) -> Iterator[dg.MaterializeResult[None]]:
    """Bring the catalogue up to the price lists and contracts of now, and the rates up to their file."""
    done = prices.sync(lake.open())
    figures = {
        "added": done.added,
        "withdrawn": done.withdrawn,
        "unchanged": done.unchanged,
        "library": done.version,
    }
    yield dg.MaterializeResult(
        asset_key=[ROOM, "price_catalog"], metadata=written(lake.open(), "price_catalog", figures)
    )
    taken = prices.sync_rates(lake.open())
    found = {"added": taken.added, "unchanged": taken.unchanged}
    yield dg.MaterializeResult(
        asset_key=[ROOM, "currency_rates"], metadata=written(lake.open(), "currency_rates", found)
    )


@dg.multi_asset(
    name="model_costs",
    specs=[
        table_spec(
            "model_costs",
            room=ROOM,
            kinds={"duckdb"},
            deps=[EVENTS, [ROOM, "price_catalog"]],
            freshness=FLOWING,
        ),
        table_spec(
            "cost_corrections",
            room=ROOM,
            kinds={"duckdb"},
            deps=[EVENTS, [ROOM, "price_catalog"]],
            freshness=FLOWING,
            remarks="Empty until a closed month is priced anew.",
        ),
    ],
    pool="model_costs_writer",
    op_tags=FIRST,
)
def model_costs(
    config: PastDays, lake: LakeResource, prices: PricesResource
) -> Iterator[dg.MaterializeResult[None]]:
    """Price the batches that inference_events holds and model_costs lacks, and past days anew where asked to.

    In closed months the difference becomes a correction; the costs that they were closed with stay.
    """
    from ml_registry_pipelines.costs.ledger import catch_up_costs
    from ml_registry_pipelines.costs.repricing import reprice

    prices.sync_first(lake.open())
    batches = catch_up_costs(lake.open())
    figures: dict[str, object] = {"batches_priced": ", ".join(map(str, batches)) or "none"}
    if config.reprice:
        figures |= repriced(reprice(lake.open(), config.of(lake.open())))
    for table in ("model_costs", "cost_corrections"):
        yield dg.MaterializeResult(asset_key=[ROOM, table], metadata=written(lake.open(), table, figures))


@dg.multi_asset(
    name="cost_rollup",
    specs=[
        table_spec(
            "cost_rollup",
            room=ROOM,
            kinds={"duckdb"},
            deps=[EVENTS, [ROOM, "model_costs"], [ROOM, "cost_corrections"], RULES],
            freshness=FLOWING,
        )
    ],
    pool="cost_rollup_writer",
    op_tags=FIRST,
)
def cost_rollup(config: PastDays, lake: LakeResource) -> dg.MaterializeResult[None]:
    """Compute again the days that got new costs, or other attribution rules."""
    from ml_registry_pipelines.costs.rollups import roll_up_costs

    done = roll_up_costs(lake.open())
    if config.reprice:
        done = done.and_then(roll_up_costs(lake.open(), config.of(lake.open())))
    return dg.MaterializeResult(metadata=written(lake.open(), "cost_rollup", rolled_up(done.days, done.rows)))


@dg.multi_asset(
    name="attribution_gaps",
    specs=[
        table_spec(
            "attribution_gaps",
            room=ROOM,
            kinds={"duckdb"},
            deps=[EVENTS, [ROOM, "model_costs"], [ROOM, "cost_corrections"], RULES],
            freshness=FLOWING,
        )
    ],
    pool="attribution_gaps_writer",
)
def attribution_gaps(config: PastDays, lake: LakeResource) -> dg.MaterializeResult[None]:
    """Compute again the days that got new rows, or other rules, and say how much leads to no version."""
    from ml_registry_pipelines.costs.attribution_gaps import refresh_gaps, volume

    done = refresh_gaps(lake.open())
    if config.reprice:
        done = done.and_then(refresh_gaps(lake.open(), config.of(lake.open())))
    figures = {**rolled_up(done.days, done.rows), **volume(lake.open())}
    return dg.MaterializeResult(metadata=written(lake.open(), "attribution_gaps", figures))


def repriced(days: "Sequence[Repriced]") -> dict[str, object]:
    """What pricing past days anew did, for the materialization."""
    changed = [day for day in days if day.changed]
    currencies = sorted({currency for day in changed for currency in day.difference})
    return {
        "rows_repriced": sum(day.changed for day in changed),
        "rows_corrected": sum(day.corrected for day in changed),
        "days_repriced": ", ".join(str(day.day) for day in changed[-31:]) or "none",
        **{
            f"difference_{currency}": str(sum(day.difference.get(currency, 0) for day in changed))
            for currency in currencies
        },
    }
