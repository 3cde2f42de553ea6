"""Everything that follows from the attribution rules, brought up to the log: rules, rollups, gaps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.attribution_gaps import refresh_gaps
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.telemetry.compiling import compile_rules
from ml_registry_pipelines.telemetry.rollups import refresh_performance

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log


@dataclass(frozen=True)
class Reattributed:
    """The days that were computed again, in order, and how many stretches of rules there are."""

    days: tuple[date, ...]
    rules: int


def reattribute(lake: Lake, log: Log | None = None) -> Reattributed:
    """Compile the rules, and compute again the days that they change, or that are behind anyway.

    Raises:
        LostRace, AttributionBusy: other writers kept changing the same tables; try again.
    """
    compiled = compile_rules(lake, log)
    days = {*roll_up_costs(lake).days, *refresh_performance(lake).days, *refresh_gaps(lake).days}
    return Reattributed(tuple(sorted(days)), compiled.rows)
