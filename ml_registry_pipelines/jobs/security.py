"""Scans of artifacts and bills of materials as jobs. What they do is in `compliance/artifact_security/`."""

from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.versions import Version


class CycloneDx(Enum):
    """Versions of the format."""

    V1_6 = "1.6"
    V1_7 = "1.7"


class ScanArtifacts(InTenant):
    """Looks for harm in the files of versions, without loading anything of them."""

    version: str | None = Field(
        default=None,
        description="Such as fraud@v3; by default all versions in production, staging and shadow.",
    )
    again: bool = Field(default=False, description="Scan anew what the same scanner has scanned before.")


class MakeBom(InTenant):
    """The bill of materials of a version, as one of its artifacts."""

    version: str = Field(description="Such as fraud@v3.")
    cyclonedx: CycloneDx = Field(default=CycloneDx.V1_6)


def _scan(given: ScanArtifacts, at: Desks) -> dict[str, Any]:
    from ml_registry_pipelines.compliance.artifact_security.scans import scan_all

    return scan_all(at.models, given.version, again=given.again)


def _bom(given: MakeBom, at: Desks) -> "Version":
    from ml_registry_pipelines.compliance.artifact_security.bom import BomFormat, store_bom

    return store_bom(at.models, given.version, BomFormat(given.cyclonedx.value))


@cache
def security_jobs() -> tuple[dg.JobDefinition, ...]:
    """What a person asks about the artifacts of versions in the UI."""
    return (
        command_job(
            "scan_artifacts",
            ScanArtifacts,
            _scan,
            "Looks for harm in the files of a version or of all live ones; fails unless all are clean.",
        ),
        command_job(
            "make_bom", MakeBom, _bom, "Makes and keeps the CycloneDX bill of materials of a version."
        ),
    )
