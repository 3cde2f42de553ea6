"""Approvals as jobs: ask for one, decide on one, and promote what was approved.

The forms are for the Launchpad; evidence pages link to `review_approval` with all but decision and comment
filled in. Who acts is stamped by the door, and the gate looks at everything again.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.access.roles import APPROVAL_TEAM
from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.approvals.approval import Approval
    from ml_registry_pipelines.compliance.manager import ComplianceManager

OWNERS: Mapping[str, tuple[str, ...]] = {
    "request_approval": (APPROVAL_TEAM,),
    "review_approval": (APPROVAL_TEAM,),
    "promote_approved": ("team:ml-platform",),
}


class Verdict(Enum):
    """What a reviewer decides."""

    APPROVE = "approve"
    REJECT = "reject"
    CHANGES_REQUESTED = "changes_requested"


class RequestApproval(InTenant):
    """Ask for approval."""

    version: str = Field(description="Such as credit@v3, or credit@challenger.")
    note: str = Field(default="", description="To the reviewers; no e-mail addresses.")


class ReviewApproval(InTenant):
    """Decide on a request."""

    approval: str = Field(description="Its id, as the evidence page has it.")
    digest: str = Field(description="Of what you looked at, as the evidence page has it.")
    decision: Verdict = Field(description="APPROVE, REJECT or CHANGES_REQUESTED.")
    comment: str = Field(
        default="", description="Why; needed to reject or ask for changes. No e-mail addresses."
    )


class PromoteApproved(InTenant):
    """Promote what was approved."""

    approval: str = Field(description="Its id.")


def _request(given: RequestApproval, at: Desks) -> Mapping[str, Any]:
    return _told(_manager(at).request_approval(given.version, note=given.note, idempotency_key=at.key))


def _review(given: ReviewApproval, at: Desks) -> Mapping[str, Any]:
    done = _manager(at).review_approval(
        given.approval,
        given.decision.value,
        digest=given.digest,
        comment=given.comment,
        idempotency_key=at.key,
    )
    return _told(done)


def _promote(given: PromoteApproved, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.approvals.promoting import promote_approved

    desk = at.models
    version = promote_approved(
        desk.log, given.approval, tenant=desk.tenant, run_id=desk.run_id, idempotency_key=at.key
    )
    return {"name": version.reference, "state": version.stage.value, "registry id": version.id}


def _manager(at: Desks) -> "ComplianceManager":
    from ml_registry_pipelines.compliance.manager import ComplianceManager

    desk = at.models
    return ComplianceManager(desk.log, actor=desk.actor, tenant=desk.tenant, run_id=desk.run_id)


def _told(done: "Approval") -> dict[str, Any]:
    return {
        "approval": done.id,
        "version": done.reference,
        "state": done.status.value,
        "digest": done.bound.digest,
        "votes": f"{len(done.votes)} of {done.people}",
        "missing": "; ".join(done.unmet),
    }


_Does = Callable[[Any, Desks], Mapping[str, Any]]
_FORMS: tuple[tuple[str, type[InTenant], _Does, str], ...] = (
    (
        "request_approval",
        RequestApproval,
        _request,
        "Runs the checks that the policy demands of a version and asks reviewers for its approval.",
    ),
    (
        "review_approval",
        ReviewApproval,
        _review,
        "Approves a version, rejects it or asks for changes, as somebody who neither registered it nor asked.",
    ),
    (
        "promote_approved",
        PromoteApproved,
        _promote,
        "Promotes a version by a granted approval, once all that it rests on was looked at again; a sensor's job.",
    ),
)


def approvals_jobs() -> list[dg.JobDefinition]:
    """All of them."""
    return [
        command_job(name, form, does, description, owners=OWNERS[name])
        for name, form, does, description in _FORMS
    ]
