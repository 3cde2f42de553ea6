"""Commands about experiments as jobs: what a person declares, starts, stops and looks at in the UI."""

from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.costs.experiments.declaring import Mode, Per, Unit
from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job, instant

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.experiments.experiments import Experiment, Experiments
    from ml_registry_pipelines.costs.experiments.looking import Decision


class ArmForm(dg.Config):
    """One arm: the models that it runs, or a version of the registry."""

    name: str
    models: list[str] = Field(default_factory=list, description="As the logs name them.")
    version: str | None = Field(default=None, description="Such as support-bot@v3.")
    share: float = Field(default=1.0, description="Of the units, in any measure.")


class GuardrailForm(dg.Config):
    """What must not get worse by the margin or more."""

    metric: str = Field(description="error_rate, slow_share, or a metric of the outcomes.")
    margin: float
    threshold_ms: float | None = Field(default=None, description="For slow_share.")
    lower_is_better: bool = True


class DeclareExperiment(InTenant):
    """An experiment, declared before it starts. The first arm is the control."""

    name: str
    arms: list[ArmForm]
    quality: str = Field(description="The primary metric of the outcomes.")
    quality_lower_is_better: bool = False
    mode: Mode
    unit: Unit = Unit.USER
    margin: float | None = Field(default=None, description="CHEAPER: by how much less quality is as good.")
    min_saving: float = Field(default=0.0, description="CHEAPER: least share of the cost to be saved.")
    max_extra_cost: float | None = Field(default=None, description="BETTER: how much more it may cost.")
    value_per_point: float | None = Field(default=None, description="VALUE: what a point is worth.")
    effect: float | None = Field(default=None, description="BETTER, VALUE: what the sample is planned for.")
    cost_per: Per = Per.UNIT
    currency: str = "USD"
    guardrails: list[GuardrailForm] = Field(default_factory=list)
    alpha: float = 0.05
    power: float = 0.8
    min_days: float = 7.0
    min_sample: int = Field(default=1000, description="Labelled units that every arm needs.")
    planned_sample: int | None = Field(default=None, description="Labelled units per arm; or `deviation`.")
    deviation: float | None = Field(default=None, description="Standard deviation of a unit's quality.")
    pre_period_days: float = 0.0
    window_days: float | None = None
    different_catalogues: bool = False
    description: str = ""
    new_version: bool = Field(default=False, description="The next version of one that was stopped.")


class OneExperiment(InTenant):
    """An experiment by its name."""

    name: str


class StartExperiment(OneExperiment):
    """From when on assignments count."""

    at: str | None = Field(default=None, description="A time such as 2026-11-01T09:00; by default now.")


class StopExperiment(OneExperiment):
    """Why it is stopped."""

    reason: str = ""


def _experiments(at: Desks) -> "Experiments":
    from ml_registry_pipelines.costs.experiments.experiments import Experiments

    desk = at.models
    return Experiments(desk.log, actor=desk.actor, tenant=desk.tenant, run_id=desk.run_id)


def _declare(given: DeclareExperiment, at: Desks) -> "Experiment":
    held: dict[str, Any] = given.model_dump()
    own = ("tenant", "new_version", "quality_lower_is_better", "cost_per", "currency")
    asked = {name: value for name, value in held.items() if name not in own}
    declaration = {
        **asked,
        "quality": {"metric": given.quality, "lower_is_better": given.quality_lower_is_better},
        "cost": {"per": given.cost_per, "currency": given.currency},
    }
    return _experiments(at).declare(declaration, new_version=given.new_version, idempotency_key=at.key)


def _start(given: StartExperiment, at: Desks) -> "Experiment":
    return _experiments(at).start(given.name, at=instant(given.at, "at"), idempotency_key=at.key)


def _decide(given: OneExperiment, at: Desks) -> "Decision":
    from ml_registry_pipelines.costs.experiments.looking import look

    return look(_experiments(at), given.name)


@cache
def experiments_jobs() -> tuple[dg.JobDefinition, ...]:
    """The commands about experiments that a person gives in the UI."""
    return (
        command_job(
            "declare_experiment",
            DeclareExperiment,
            _declare,
            "Declares an experiment, or declares it otherwise before it has started.",
        ),
        command_job(
            "start_experiment",
            StartExperiment,
            _start,
            "Starts an experiment; from then on nothing of it can be changed.",
        ),
        command_job(
            "stop_experiment",
            StopExperiment,
            lambda g, at: _experiments(at).stop(g.name, reason=g.reason, idempotency_key=at.key),
            "Stops an experiment; labels may still come.",
        ),
        command_job(
            "decide_experiment",
            OneExperiment,
            _decide,
            "Looks at one experiment now, and stores what is decided.",
        ),
    )
