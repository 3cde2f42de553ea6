"""What all commands as jobs share: a form in the Launchpad becomes one op, which gives one command.

The forms are in `registry.py` and `things.py`. No form asks who acts: that is
stamped by the door. A run that is retried or executed again gives its command once.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, get_args, get_origin

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.errors import InvalidInput
from resources.registry import RegistryResource

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.allocation_rules import Allocation
    from ml_registry_pipelines.costs.experiments.experiments import Experiment
    from ml_registry_pipelines.costs.experiments.looking import Decision
    from ml_registry_pipelines.lineage.tracker import LineageTracker
    from ml_registry_pipelines.registry.models import ModelRegistry
    from ml_registry_pipelines.registry.names import TagValue
    from ml_registry_pipelines.registry.relationships import Relationship, Relationships
    from ml_registry_pipelines.registry.things import Thing
    from ml_registry_pipelines.registry.versions import Version
    from ml_registry_pipelines.telemetry.attribution import Attribution, Rule

    Done = (
        Thing | Version | Rule | Relationship | Allocation | Experiment | Decision | int | Mapping[str, Any]
    )
    """What a command gives: what it is about now, or how many, or what the run is to show of it."""


@dataclass(frozen=True)
class Desks:
    """Where a command is given, and the key under which it is given once."""

    models: "ModelRegistry"
    lineage: "LineageTracker"
    rules: "Attribution"
    edges: "Relationships"
    key: str


class InTenant(dg.Config):
    """What every command may be told."""

    tenant: str = Field(default="default", description="Organisation that it is about.")


def instant(text: str | None, field: str) -> datetime | None:
    """A date is its first instant; without a zone it is UTC."""
    if not text:
        return None
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{field} {text!r} is no time; write 2026-09-01 or 2026-09-01T12:00Z") from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def tags_of(given: Mapping[str, str]) -> "dict[str, TagValue]":
    from ml_registry_pipelines.cli.support import parsed_tags

    return {name: parsed_tags((f"value={text}",))["value"] for name, text in given.items()}


def json_object(text: str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as wrong:
        raise InvalidInput(f"{field} is no JSON: {wrong}") from wrong
    if not isinstance(value, dict):
        raise InvalidInput(f"{field} is a JSON {type(value).__name__}; give an object")
    return value


def command_job(
    name: str,
    form: type[InTenant],
    does: "Callable[[Any, Desks], Done]",
    description: str,
    *,
    owners: Sequence[str] = (),
) -> dg.JobDefinition:
    """A job whose configuration is the form itself, without the ops that Dagster would ask for."""

    @dg.op(name=f"{name}_command", description=description)
    def command(context: dg.OpExecutionContext, config: form, registry: RegistryResource) -> None:  # type: ignore[valid-type]
        given: InTenant = config
        run = context.run
        warnings_of: list[str] = []
        try:
            refuse_variables(form, run.run_config)
            at = Desks(
                registry.models(given.tenant, run.run_id),
                registry.lineage(given.tenant, run.run_id),
                registry.rules(given.tenant, run.run_id),
                registry.edges(given.tenant, run.run_id),
                f"run/{run.root_run_id or run.run_id}",
            )
            at.models.warn = warnings_of.append
            done = does(given, at)
        except MlregError as wrong:
            # Asked again, it would be as wrong.
            raise dg.Failure(str(wrong), allow_retries=False) from None
        for sentence in warnings_of:
            context.log.warning(sentence)
        warned = {"near duplicates": "; ".join(warnings_of)} if warnings_of else {}
        context.add_output_metadata({**_told(done), **warned})

    @dg.config_mapping
    def as_form(config: form) -> dict[str, Any]:  # type: ignore[valid-type]
        asked: InTenant = config
        values = {k: v.name if isinstance(v, Enum) else v for k, v in asked.model_dump().items()}
        return {"ops": {f"{name}_command": {"config": values}}}

    # Owners of jobs are in beta; by them a reviewer may launch two jobs, which our own web server looks at.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Parameter `owners` of ")

        @dg.job(
            name=name,
            description=description,
            config=as_form,
            executor_def=dg.in_process_executor,
            owners=list(owners) or None,
        )
        def job() -> None:
            command()

    return job


def refuse_variables(form: type[InTenant], given: Mapping[str, Any]) -> None:
    """Refuse `{env: NAME}`, by which Dagster fills a field from the environment of the service.

    Whoever may fill in a form could have the service's credentials recorded in the log, which cannot forget.

    Raises:
        InvalidInput: a field says it.
    """
    for name, value in given.items():
        field = form.model_fields.get(name)
        of_pairs = field is not None and any(
            get_origin(each) in {dict, Mapping} for each in (field.annotation, *get_args(field.annotation))
        )
        if _says_variable(list(value.values()) if of_pairs and isinstance(value, Mapping) else value):
            raise InvalidInput(f"{name} asks for a variable of the environment; write the value itself")


def _says_variable(value: object) -> bool:
    if isinstance(value, Mapping):
        return set(value) == {"env"} or any(map(_says_variable, value.values()))
    return isinstance(value, list) and any(map(_says_variable, value))


def _told(done: "Done") -> dict[str, Any]:
    from ml_registry_pipelines.costs.experiments.looking import Decision
    from ml_registry_pipelines.registry.relationships import Relationship
    from ml_registry_pipelines.registry.versions import Version
    from ml_registry_pipelines.telemetry.attribution import Rule

    if isinstance(done, Mapping):
        return {name: value for name, value in done.items() if value not in (None, "")}
    if isinstance(done, int):
        return {"entities": done}
    if isinstance(done, Decision):
        return {"outcome": done.outcome.value, "because": done.message, "decision": done.decision_id}
    if isinstance(done, Rule):
        return {"name": done.name, "registry id": done.id}
    if isinstance(done, Relationship):
        return {"type": done.type, "state": "removed" if done.removed else "drawn", "registry id": done.id}
    name = done.reference if isinstance(done, Version) else done.name
    state = done.stage.value if isinstance(done, Version) else done.status
    return {"name": name, "state": state, "registry id": done.id, "event": done.sequence}
