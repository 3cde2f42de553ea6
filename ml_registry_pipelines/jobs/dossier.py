"""Statements for a dossier and its documents as jobs, with a form in the Launchpad each."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.dossier.dossier import Dossiers


class AttestField(InTenant):
    """What holds for a version, or for a model with all its versions."""

    about: str = Field(description="Such as credit-risk@v3, or credit-risk.")
    field: str = Field(description="Of Annex IV, such as 2(e), or a record such as quality_management.")
    text: str = Field(description="About the system; never about a person.")


class OneVersion(InTenant):
    """A version."""

    version: str = Field(description="Such as credit-risk@v3 or credit-risk@production.")


def _desk(at: Desks) -> "Dossiers":
    from ml_registry_pipelines.compliance.dossier.dossier import Dossiers

    models = at.models
    return Dossiers(models.log, actor=models.actor, tenant=models.tenant, run_id=models.run_id)


def _attest(given: AttestField, at: Desks) -> Mapping[str, Any]:
    done = _desk(at).attest(given.about, given.field, given.text, idempotency_key=at.key)
    return {"about": done.about, "field": done.field, "event": done.sequence}


def _write(given: OneVersion, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.dossier.writing import write_reports

    found = _desk(at).dossier(given.version)
    root = at.models.log.lake.root
    return {
        "version": found.reference,
        "filled": f"{len(found.fields) - len(found.missing)} of {len(found.fields)}",
        "missing": ", ".join(found.missing),
        **{str(w.partition).rpartition("/")[2]: f"{root}/{w.path}" for w in write_reports(found)},
    }


@cache
def dossier_jobs() -> tuple[dg.JobDefinition, ...]:
    """What a person does about dossiers in the UI."""
    return (
        command_job(
            "attest_dossier_field",
            AttestField,
            _attest,
            "States a field of Annex IV, or another record, that the registry cannot know by itself.",
        ),
        command_job(
            "write_dossier",
            OneVersion,
            _write,
            "Writes technical documentation, model card, instructions, oversight measures and notice of a version.",
        ),
    )
