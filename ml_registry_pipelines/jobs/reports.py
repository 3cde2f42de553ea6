"""Decisions about who gets which report, as jobs: a form in the Launchpad becomes one command."""

from datetime import date
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.reports.kinds import KINDS

if TYPE_CHECKING:
    from ml_registry_pipelines.reports.delivery.subscriptions import ReportSubscriptions

Report = Enum("Report", {name: name for name in KINDS})  # type: ignore[misc]
"""The reports that can be delivered."""


class Cadence(Enum):
    """How often."""

    USUAL = "usual"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class SubscribeToReport(InTenant):
    """A recipient gets a report of every day, week or month that is over."""

    name: str = Field(description="Of the subscription.")
    report: Report = Field(description="Which report.")
    recipient: str = Field(description="A name in report-recipients.yaml, which the operator keeps.")
    about: str | None = Field(
        default=None,
        description="The tenant that it is about; none: this one; * for all (the operator's alone).",
    )
    cadence: Cadence = Cadence.USUAL
    formats: list[str] = Field(default_factory=lambda: ["html", "csv"], description="html, csv, markdown.")
    first_day: str | None = Field(
        default=None, description="YYYY-MM-DD in the first period; none: the period under way."
    )


class OneSubscription(InTenant):
    """A subscription by its name."""

    name: str


class RedeliverReports(OneSubscription):
    """Reports that are sent again."""

    first_day: str = Field(
        description="YYYY-MM-DD in the first period that is sent again; all later ones follow."
    )


def _desk(at: Desks) -> "ReportSubscriptions":
    from ml_registry_pipelines.reports.delivery.subscriptions import ReportSubscriptions

    models = at.models
    return ReportSubscriptions(models.log, actor=models.actor, tenant=models.tenant, run_id=models.run_id)


def _day(text: str | None) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"first_day {text!r} is no day; write such as 2026-09-01") from None


def _subscribe(given: SubscribeToReport, at: Desks) -> Any:
    from ml_registry_pipelines.reports.delivery.subscriptions import NewSubscription

    return _desk(at).add(
        NewSubscription(
            given.name,
            str(given.report.value),
            given.recipient,
            scope=given.about,
            cadence=None if given.cadence is Cadence.USUAL else given.cadence.value,
            formats=given.formats,
            first=_day(given.first_day),
        ),
        idempotency_key=at.key,
    )


def _redeliver(given: RedeliverReports, at: Desks) -> Any:
    first = _day(given.first_day)
    if first is None:
        raise InvalidInput("first_day is empty; write such as 2026-09-01")
    return _desk(at).redeliver(given.name, first, idempotency_key=at.key)


def _remove(given: OneSubscription, at: Desks) -> Any:
    return _desk(at).remove(given.name, idempotency_key=at.key)


@cache
def reports_jobs() -> tuple[dg.JobDefinition, ...]:
    """Every command about deliveries of reports."""
    return (
        command_job(
            "subscribe_to_report",
            SubscribeToReport,
            _subscribe,
            "Lets a recipient get a report by e-mail, webhook or folder, as soon as its period is over.",
        ),
        command_job("end_report_subscription", OneSubscription, _remove, "Ends a subscription to a report."),
        command_job(
            "redeliver_reports",
            RedeliverReports,
            _redeliver,
            "Sends the reports of a subscription again from some day on, those that were given up included.",
        ),
    )
