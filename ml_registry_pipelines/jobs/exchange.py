"""What others hold, taken over by a job. What it does is in the room `exchange`."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job


class ImportHostedModels(InTenant):
    """The models that providers host, as the genai-prices library lists them."""

    providers: list[str] = Field(
        default_factory=list, description="Only these, such as openai; left out: every provider."
    )


def _import_hosted(given: ImportHostedModels, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.exchange.hosted_import import HostedImport

    desk = at.models
    done = HostedImport(desk.log, actor=desk.actor, tenant=desk.tenant, run_id=desk.run_id).run(
        given.providers, idempotency_key=at.key
    )
    return {
        "outcome": done.sentence,
        "in the catalogue": done.listed,
        "added": done.added,
        "changed": done.changed,
        "deprecated": done.deprecated,
        "reinstated": done.reinstated,
        "left as it is": "; ".join(done.left[:20]),
    }


@cache
def exchange_jobs() -> tuple[dg.JobDefinition, ...]:
    """The imports that a person launches."""
    return (
        command_job(
            "import_hosted_models",
            ImportHostedModels,
            _import_hosted,
            "Records the models that providers host, with context window and list prices; again, what changed.",
        ),
    )
