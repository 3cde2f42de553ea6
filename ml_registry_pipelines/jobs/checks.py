"""Compliance checks and what they rest on as jobs, with a form in the Launchpad each."""

from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.manager import ComplianceManager


class TaskOf(Enum):
    """What is predicted."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    RANKING = "ranking"
    GENERATION = "generation"


class ClassOf(Enum):
    """One of the two classes."""

    POSITIVE = "positive"
    NEGATIVE = "negative"


class OneVersion(InTenant):
    """A version."""

    version: str = Field(description="Such as credit-risk@v3.")


class RunChecks(OneVersion):
    """Which suites are run on which version."""

    suites: list[str] = Field(default_factory=list, description="By default those that are declared with it.")


class DeclareEvaluation(OneVersion):
    """By which data, columns and suites a version is checked."""

    suites: list[str] = Field(description="Names of suites: files of MLREG_HOME/suites without .yaml.")
    data: str | None = Field(
        default=None, description="File, folder, Delta table or dataset version; none: recorded rows."
    )
    task: TaskOf = TaskOf.CLASSIFICATION
    label: str | None = Field(default=None, description="Column of what was true.")
    prediction: str | None = Field(default=None, description="Column of what was predicted.")
    score: str | None = Field(default=None, description="Column of the score.")
    groups: dict[str, str] = Field(default_factory=dict, description="Group attributes with their columns.")
    positive: list[str] = Field(default_factory=list, description="Labels of the positive class.")
    positive_predictions: list[str] = Field(
        default_factory=list, description="Predictions of the positive class, if spelt otherwise."
    )
    favourable: ClassOf = Field(default=ClassOf.POSITIVE, description="Which class is good for the person.")
    further: dict[str, str] = Field(default_factory=dict, description="Other roles with their columns.")
    subject: str | None = Field(default=None, description="Column of the person; kept as a salted hash.")
    observed: str | None = Field(default=None, description="Column of the time of a prediction.")
    served: bool = Field(
        default=False,
        description="Predictions in production are the requests that it answered: tags under the columns' names.",
    )
    label_metric: str | None = Field(default=None, description="Metric of outcomes that is their label.")
    label_days: int = Field(default=0, description="Days that a label has to arrive.")
    note: str = ""


def _manager(at: Desks) -> "ComplianceManager":
    from ml_registry_pipelines.compliance.manager import ComplianceManager

    models = at.models
    return ComplianceManager(models.log, actor=models.actor, tenant=models.tenant, run_id=models.run_id)


def _run(given: RunChecks, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.suites.data_docs import build_data_docs

    done = _manager(at).run_compliance_checks(
        given.version, suites=given.suites or None, idempotency_key=at.key
    )
    said = {
        f"{r.suite}: {r.check} {r.about}".strip(): f"{r.verdict.value}: {r.message}" for r in done.results
    }
    page = build_data_docs(at.models.log.lake, done)
    shown = page if page.startswith("s3://") else dg.MetadataValue.path(page)
    return {"verdict": done.verdict.value, "evidence": done.evidence_id, "data docs": shown, **said}


def _declare(given: DeclareEvaluation, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.evaluation_rows import Columns, Outcome, Task
    from ml_registry_pipelines.compliance.served_rows import served_of

    columns = Columns(
        task=Task(given.task.value),
        label=given.label or None,
        prediction=given.prediction or None,
        score=given.score or None,
        groups=given.groups,
        positive=tuple(given.positive),
        positive_predictions=tuple(given.positive_predictions),
        favourable=Outcome(given.favourable.value),
        further=given.further,
        subject=given.subject or None,
        observed=given.observed or None,
    )
    done = _manager(at).declare_evaluation(
        given.version,
        columns,
        suites=given.suites,
        data=given.data or None,
        served=served_of(given.label_metric, given.label_days, served=given.served),
        note=given.note,
        idempotency_key=at.key,
    )
    return {"suites": ", ".join(done.suites), "registry id": done.id, "event": done.sequence}


def _withdraw(given: OneVersion, at: Desks) -> Mapping[str, Any]:
    done = _manager(at).withdraw_evaluation(given.version, idempotency_key=at.key)
    return {"registry id": done.id, "state": "withdrawn"}


@cache
def checks_jobs() -> tuple[dg.JobDefinition, ...]:
    """What a person does about checks in the UI."""
    return (
        command_job(
            "run_compliance_checks",
            RunChecks,
            _run,
            "Runs the declared suites on a version, keeps the results as evidence and builds their Data Docs.",
        ),
        command_job(
            "declare_evaluation",
            DeclareEvaluation,
            _declare,
            "Says by which data, columns and suites a version is checked.",
        ),
        command_job(
            "withdraw_evaluation",
            OneVersion,
            _withdraw,
            "Takes back what was declared of a version: nothing checks it any more.",
        ),
    )
