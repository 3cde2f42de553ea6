"""Delivery of reports as a Dagster resource: what is due, and sending it."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg

from ml_registry_pipelines.costs.periods import PeriodKind
from resources.lake import kept_log, kept_open

if TYPE_CHECKING:
    from ml_registry_pipelines.reports.delivery.courier import Outlook, Round
    from ml_registry_pipelines.reports.delivery.editions import Edition

TABLES = (
    "governance_events",
    "report_deliveries",
    "report_editions",
    "inference_events",
    "cost_rollup",
    "performance_rollup",
)
"""What has to change before anything else is due than at the last look, but for the time."""


class DeliveriesResource(dg.ConfigurableResource["DeliveriesResource"]):
    """Reports to recipients; who gets what is in the log, where they are in `report-recipients.yaml`."""

    root: str

    def versions(self) -> list[int]:
        """Versions of `TABLES`, -1 for one that is not there; without a log there is none."""
        lake = kept_open(self.root, "sensor")
        if not lake.exists(TABLES[0]):
            return []
        return [lake.version(table) if lake.exists(table) else -1 for table in TABLES]

    def look(self, *, busy: bool) -> Outlook:
        """What is due, without making or sending anything.

        Raises:
            RecipientsError: the file of recipients cannot be used.
        """
        from ml_registry_pipelines.reports.delivery.courier import Courier

        return Courier(kept_log(self.root)).look(busy=busy)

    def deliver(self, *, busy: bool, seconds: float) -> Round:
        """Send what is due, for about so long.

        Raises:
            RecipientsError: the file of recipients cannot be used.
        """
        from ml_registry_pipelines.registry.log import Log
        from ml_registry_pipelines.reports.delivery.courier import Courier

        with Log(kept_open(self.root, "run")) as log:
            return Courier(log).deliver(busy=busy, seconds=seconds)

    def week(self, first: date) -> tuple[Edition, bytes | None]:
        """The comparison of providers of a UTC week, all tenants, as it is now; and its key chart."""
        from ml_registry_pipelines.registry.log import Log
        from ml_registry_pipelines.reports.calendar import period_of
        from ml_registry_pipelines.reports.delivery.making import make_now

        with Log(kept_open(self.root, "run")) as log:
            period = period_of(PeriodKind.WEEK, first, ZoneInfo("UTC"))
            edition, made = make_now(log, "provider_comparison", period, None)
            return edition, made.draw()

    def short_form(self, edition: Edition) -> str:
        """The edition in Markdown."""
        from ml_registry_pipelines.reports.delivery.editions import Editions

        return Editions(kept_open(self.root, "run")).file(edition, "md").decode()

    def stale_weeks(self, at: datetime, *, back: int) -> list[date]:
        """First days of UTC weeks that are over and whose comparison is missing, or older than its figures."""
        from ml_registry_pipelines.reports.calendar import period_of
        from ml_registry_pipelines.reports.delivery.making import is_stale

        log = kept_log(self.root)
        days = [at.date() - timedelta(days=7 * n) for n in range(back, 0, -1)]
        weeks = [period_of(PeriodKind.WEEK, day, ZoneInfo("UTC")) for day in days]
        return [week.first for week in is_stale(log, "provider_comparison", weeks)]
