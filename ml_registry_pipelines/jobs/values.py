"""Value models and returns as jobs: what a success is worth is declared, and what models returned computed.

How a form becomes a job is in `commands.py`; the work is in the costs room.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job
from ml_registry_pipelines.registry.errors import InvalidInput

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.value_models import ValueModels


class DeclareValueModel(InTenant):
    """What a success is worth and what else it costs. Amounts as text, such as 1.20; days as 2026-01-31."""

    name: str
    currency: str = Field(description="ISO 4217 code, such as USD; of all amounts.")
    value_per_success: str
    success: str | None = Field(
        default=None, description="A recorded metric of True and False; left out: any answer."
    )
    judge: str | None = Field(default=None, description="Whose scores count, where several judge.")
    counterfactual_per_request: str | None = Field(
        default=None, description="What an answer would cost otherwise, say by hand."
    )
    platform_per_month: str = Field(default="0", description="What runs beside the models.")
    judge_per_label: str | None = Field(
        default=None, description="Of a label whose own cost is not recorded."
    )
    where: dict[str, str] = Field(
        default_factory=dict,
        description="Whose requests: application, provider, model, deployment_id, model_id.",
    )
    valid_from: str | None = Field(default=None, description="First UTC day; left out: since ever.")
    valid_to: str | None = Field(default=None, description="First UTC day after; left out: none.")
    note: str = ""


class OneValueModel(InTenant):
    """A value model by name."""

    name: str


class ReturnOnInvestment(InTenant):
    """What models returned over some days, by a value model."""

    value_model: str
    since: str = Field(description="First UTC day, such as 2026-09-01.")
    until: str = Field(description="Last UTC day, itself included.")


def _models(at: Desks) -> "ValueModels":
    from ml_registry_pipelines.costs.value_models import ValueModels

    desk = at.models
    return ValueModels(desk.log, actor=desk.actor, tenant=desk.tenant, run_id=desk.run_id)


def _declare(given: DeclareValueModel, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.costs.value_models import FIELDS, value_model_of

    said = {name: getattr(given, name) for name in FIELDS}
    done = _models(at).declare(value_model_of(said, "this form"), idempotency_key=at.key)
    return {"name": done.model.name, "registry id": done.id, "event": done.sequence}


def _return(given: ReturnOnInvestment, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.cli.costs_analytics import roi_lines
    from ml_registry_pipelines.costs.integration import VibeCodingIntegration

    since, until = _day(given.since, "since"), _day(given.until, "until")
    declared = _models(at).get(given.value_model)
    answer = VibeCodingIntegration(at.models.log.lake).get_roi(declared, since, until + timedelta(days=1))
    return roi_lines(answer)


def _day(text: str, field: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{field} {text!r} is no day; write 2026-01-31") from None


@cache
def value_jobs() -> tuple[dg.JobDefinition, ...]:
    """What a person does about value models and returns in the UI."""
    return (
        command_job(
            "declare_value_model",
            DeclareValueModel,
            _declare,
            "Declares what a success is worth and what else it costs; results keep what they were computed with.",
        ),
        command_job(
            "remove_value_model",
            OneValueModel,
            lambda g, at: {"name": _models(at).remove(g.name, idempotency_key=at.key), "state": "ended"},
            "Ends a value model; results that were computed with it stay.",
        ),
        command_job(
            "return_on_investment",
            ReturnOnInvestment,
            _return,
            "Computes what models returned by a value model, with an interval, and keeps it in roi_results.",
        ),
    )
