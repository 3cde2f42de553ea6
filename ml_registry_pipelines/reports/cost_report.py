"""The cost report of a day, week or month of a tenant's own calendar, as it is delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_registry_pipelines.reports.cost_sheet import cost_markdown, cost_sheet
from ml_registry_pipelines.reports.costs import cost_page, key_chart_png
from ml_registry_pipelines.reports.made import Made
from ml_registry_pipelines.reports.period_figures import figures_of_period
from ml_registry_pipelines.reports.providers import assumptions_of, coverage_of

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.lake.lake import Lake

REPORT = "cost_report"
TITLE = "Cost report"


def cost_report(lake: Lake, period: Period, tenant: str | None, *, mark: str) -> Made:
    """The report of one period; one without requests has a page that says so."""
    found = figures_of_period(lake, period, tenant)
    return Made(
        REPORT,
        tenant,
        period,
        TITLE,
        cost_page(TITLE, found),
        cost_sheet(found),
        cost_markdown(found),
        mark,
        dict(found.versions),
        coverage_of(found),
        assumptions_of(found),
        final=not found.pending_days,
        draw=lambda: key_chart_png(found),
    )
