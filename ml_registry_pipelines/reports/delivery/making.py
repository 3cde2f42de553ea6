"""Reports made without being sent: for a person who asks, and for the asset graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.reports.delivery.editions import Edition, Editions
from ml_registry_pipelines.reports.kinds import KINDS, days_of, surroundings

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.reports.made import Made


def make_now(log: Log, report: str, period: Period, scope: str | None) -> tuple[Edition, Made]:
    """Make a report as it is now, whether or not its period is over, and keep it as an edition.

    Raises:
        InvalidInput: there is no such report, it is not made for such periods, or has nothing to say.
    """
    kind = KINDS.get(report)
    if kind is None:
        raise InvalidInput(f"there is no report {shown(report)}; there are {', '.join(KINDS)}")
    if period.kind not in kind.cadences:
        known = " or ".join(each.value for each in kind.cadences)
        raise InvalidInput(
            f"the report {report} is made by {known}, and {period.label} is a {period.kind.value}"
        )
    if scope is None and not kind.of_all:
        raise InvalidInput(f"the report {report} is about one tenant; give its name")
    around = surroundings(log)
    mark = kind.mark(around, period, scope)
    made = None if mark is None else kind.make(around, period, scope, mark)
    if made is None:
        raise InvalidInput(f"there is nothing to report of {period.label} in {report}")
    return Editions(log.lake).keep(made), made


def is_stale(log: Log, report: str, periods: Sequence[Period]) -> list[Period]:
    """Those of some periods, of all tenants, that have requests and no edition as new as their figures."""
    around, newest, kind = surroundings(log), Editions(log.lake).newest(), KINDS[report]
    found = []
    for period in periods:
        edition = newest.get((report, None, period.label, period.zone.key))
        logged = any(day in around.marks for day in days_of(period))
        if logged and (edition is None or edition.mark != kind.mark(around, period, None)):
            found.append(period)
    return found
