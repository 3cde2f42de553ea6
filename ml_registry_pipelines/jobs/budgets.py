"""Budgets, acknowledgements of alerts and settings of tenants as jobs, with a form in the Launchpad each."""

from datetime import timedelta
from enum import Enum
from functools import cache
from typing import Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job


class PeriodOf(Enum):
    """What a budget is for."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class OneBudget(InTenant):
    """A budget by name."""

    name: str


class SetBudget(OneBudget):
    """A budget's terms, in the place of those that it has."""

    amount: str = Field(description="Such as 1500 or 99.50; 0: nothing may be spent.")
    currency: str = Field(default="USD", description="ISO 4217 code.")
    period: PeriodOf = PeriodOf.MONTH
    provider: str | None = Field(default=None, description="Only this provider; * stands for anything.")
    model: str | None = Field(
        default=None, description="Only this model, as logs name it; * stands for anything."
    )
    application: str | None = Field(default=None, description="Only this application.")
    registered_model: str | None = Field(default=None, description="Only this model of the registry.")
    tag: str | None = Field(default=None, description="Only requests with this tag, NAME=VALUE.")
    alert_at: list[str] = Field(default_factory=list, description="Shares to alert at, such as 0.8.")
    note: str = ""


class AcknowledgeAlert(InTenant):
    """Who launches it takes on an alert."""

    alert: str = Field(description="Its key, or the beginning of its id.")
    hours: float = Field(default=4.0, description="For so long.", gt=0)
    note: str = Field(default="", description="What is done about it.")


class SetTimeZone(InTenant):
    """Where a tenant's days begin."""

    time_zone: str = Field(description="Such as Europe/Berlin.")


def _desk(at: Desks) -> dict[str, Any]:
    models = at.models
    return {"actor": models.actor, "tenant": models.tenant, "run_id": models.run_id}


def _set_budget(given: SetBudget, at: Desks) -> dict[str, str]:
    from ml_registry_pipelines.costs.budgets import CONDITIONS, Budgets, NewBudget

    conditions = {name: getattr(given, name) or None for name in CONDITIONS}
    new = NewBudget(
        given.name, given.amount, given.currency, given.period.value, conditions, given.alert_at, given.note
    )
    done = Budgets(at.models.log, **_desk(at)).set(new, idempotency_key=at.key)
    return {"name": done.name, "covers": done.covers(), "registry id": done.id}


def _remove_budget(given: OneBudget, at: Desks) -> dict[str, str]:
    from ml_registry_pipelines.costs.budgets import Budgets

    done = Budgets(at.models.log, **_desk(at)).remove(given.name, idempotency_key=at.key)
    return {"name": done.name, "registry id": done.id}


def _acknowledge(given: AcknowledgeAlert, at: Desks) -> dict[str, str]:
    from ml_registry_pipelines.operations.acknowledging import Acknowledgements
    from ml_registry_pipelines.registry.events import now

    until = now() + timedelta(hours=given.hours)
    done = Acknowledgements(at.models.log, **_desk(at)).acknowledge(given.alert, until, note=given.note)
    return {"alert": done.key, "until": until.isoformat()}


def _set_time_zone(given: SetTimeZone, at: Desks) -> dict[str, str]:
    from ml_registry_pipelines.registry.tenants import Tenants

    done = Tenants(at.models.log, **_desk(at)).set_time_zone(given.time_zone, idempotency_key=at.key)
    return {"tenant": done.tenant, "time zone": done.time_zone}


@cache
def budget_jobs() -> tuple[dg.JobDefinition, ...]:
    """The commands that a person gives in the UI."""
    return (
        command_job("set_budget", SetBudget, _set_budget, "Makes a budget, or gives it other terms."),
        command_job("remove_budget", OneBudget, _remove_budget, "Ends a budget."),
        command_job(
            "acknowledge_alert",
            AcknowledgeAlert,
            _acknowledge,
            "Takes on an alert for some hours: sinks hear of it only if it gets worse, or is over.",
        ),
        command_job(
            "set_time_zone",
            SetTimeZone,
            _set_time_zone,
            "Lets days, weeks and months of a tenant begin at midnight in a time zone.",
        ),
    )
