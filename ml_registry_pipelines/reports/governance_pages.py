"""The pages of governance as files below the home: the platform's own, of all tenants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.users import ACCESS_TENANT
from ml_registry_pipelines.compliance.approvals.approval import Kind, Status
from ml_registry_pipelines.compliance.approvals.verbs import Approvals
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.registry.actors import BY_PLATFORM, Actor, ActorKind
from ml_registry_pipelines.reports.evidence_page import evidence_page
from ml_registry_pipelines.reports.governance_page import governance_page

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

READER = Actor("reports", ActorKind.SYSTEM, BY_PLATFORM)
PATH = "reports/governance_page.html"


@dataclass(frozen=True)
class Pages:
    """What was written."""

    path: str
    size: int
    evidence: int


def write_pages(log: Log) -> Pages:
    """Write the governance page of all tenants, and an evidence page for each approval that waits."""
    exists = log.lake.exists("governance_events")
    tenants = [t for t in log.tenants() if t != ACCESS_TENANT] if exists else []
    folder = open_folder(log.lake.root, log.lake.storage_options)
    page = governance_page(log, actor=READER, tenants=tenants).encode()
    folder.write(PATH, page)
    waiting = [
        a
        for tenant in tenants
        for a in Approvals(log, actor=READER, tenant=tenant).list(
            statuses=(Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED), kind=Kind.APPROVAL
        )
    ]
    for one in waiting:
        evidence = evidence_page(log, one.id, actor=READER, tenant=one.tenant).encode()
        folder.write(f"reports/evidence/{one.tenant}/{one.id}.html", evidence)
    return Pages(PATH, len(page), len(waiting))
