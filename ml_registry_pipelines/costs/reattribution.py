"""Everything that follows from the attribution rules, brought up to the log: rules, rollups, gaps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.attribution_gaps import refresh_gaps
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.attributing import RULES
from ml_registry_pipelines.lake.slices import LEADING, days_attributed_otherwise, days_held
from ml_registry_pipelines.telemetry.compiling import compile_rules, rules_are_behind
from ml_registry_pipelines.telemetry.rollups import refresh_performance

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log


DERIVED = ("cost_rollup", "performance_rollup", "attribution_gaps")


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


def attribution_is_late(lake: Lake) -> bool:
    """Whether the rules have changed since they were compiled, or since some day was computed."""
    if rules_are_behind(lake):
        return True
    if not all(lake.exists(table) for table in (*DERIVED, RULES, LEADING)):
        return False
    with lake.read(*DERIVED, RULES, LEADING) as reading:
        # Days whose raw rows are gone stay as they are.
        raw = days_held(reading, LEADING)
        return any(days_attributed_otherwise(reading, table) & raw for table in DERIVED)
