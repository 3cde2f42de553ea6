"""The class of a model under the EU AI Act as a job: the intake form in the Launchpad."""

from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, create_model

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.ai_act.table import Fact


class Known(Enum):
    """An answer. What is unknown never counts as no."""

    UNKNOWN = "unknown"
    TRUE = "true"
    FALSE = "false"


class OneModel(InTenant):
    """A model by name."""

    model: str
    note: str = Field(default="", description="Why, for those who read the log.")


def _field(fact: "Fact") -> tuple[Any, Any]:
    """The field of a question. Dagster checks enums and plain types alone; the rest is checked by the command."""
    from ml_registry_pipelines.compliance.ai_act.table import FactKind

    asked = f"{fact.ask} (Art. {fact.article})"
    match fact.kind:
        case FactKind.FLAG:
            return Known, Field(default=Known.UNKNOWN, description=asked)
        case FactKind.SET:
            members = "; ".join(f"{name}: {text}" for name, text in fact.members.items())
            return list[str], Field(
                default=["unknown"],
                description=f"{asked} [] for none of them; unknown leaves the others open. {members}",
            )
        case _:
            return str, Field(default="unknown", description=asked)


def _classify(given: OneModel, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.ai_act.classifications import AiAct
    from ml_registry_pipelines.compliance.ai_act.form import given_of

    desk = at.models
    said = given.model_dump(exclude={"tenant", "model", "note"})
    answers = given_of({n: v.value if isinstance(v, Enum) else v for n, v in said.items()})
    done = AiAct(desk.log, actor=desk.actor, tenant=desk.tenant, run_id=desk.run_id).classify(
        given.model, answers, note=given.note, idempotency_key=at.key
    )
    return {
        "model": done.model,
        "class": done.tier.value,
        "gates as": done.gate_tier.value,
        "open questions": ", ".join(done.missing),
        "duties": len(done.duties),
        "legal text": done.text_version,
        "event": done.sequence,
    }


@cache
def ai_act_jobs() -> tuple[dg.JobDefinition, ...]:
    """The command that a person gives in the UI."""
    from ml_registry_pipelines.compliance.ai_act.table import current

    fields: dict[str, Any] = {name: _field(fact) for name, fact in current().facts.items()}
    form = create_model(
        "ClassifyAiAct",
        __base__=OneModel,
        __doc__="What is known about a model, for the EU AI Act.",
        **fields,
    )
    return (
        command_job(
            "classify_ai_act",
            form,
            _classify,
            "Records what is known about a model and gives its class under the EU AI Act. Answers take the place "
            "of those of before; what is left unknown is unknown.",
        ),
    )
