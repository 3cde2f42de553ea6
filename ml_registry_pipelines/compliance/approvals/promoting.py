"""What a granted approval leads to: its version is promoted, once everything was looked at again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.approvals.approval import (
    Approval,
    Kind,
    Status,
    approval_of,
    approval_state,
)
from ml_registry_pipelines.compliance.gate.deciding import on_behalf_of
from ml_registry_pipelines.registry.errors import IllegalTransition
from ml_registry_pipelines.registry.gate import GateRefused
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.states import from_rows
from ml_registry_pipelines.registry.versions import Stage, Version

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log


def promote_approved(
    log: Log,
    approval: str,
    *,
    tenant: str = "default",
    run_id: str | None = None,
    idempotency_key: str | None = None,
) -> Version:
    """Run the demanded checks again, and promote the version of an approval on its behalf.

    Nothing that the approval says is believed: the gate looks at all of it on the state that is committed.
    Of two who do so at once, one promotes, and the other finds that it is done.

    Raises:
        NotFound: there is no such approval.
        GateRefused: it does not hold, or not any more.
    """
    from ml_registry_pipelines.compliance.manager import ComplianceManager

    found = approval_of(approval_state(log.view(tenant), approval))
    actor = on_behalf_of(found.id)
    models = ModelRegistry(log, actor=actor, tenant=tenant, run_id=run_id)
    if models.given_before("promote_to_production", idempotency_key):
        return models.get_version(found.version_id)
    if found.kind is not Kind.APPROVAL:
        raise IllegalTransition(f"{found.says()} is a broken glass, by which a person promotes")
    if found.status is Status.APPROVED:
        ComplianceManager(log, actor=actor, tenant=tenant, run_id=run_id).run_demanded_checks(
            found.version_id
        )
    try:
        return models.promote_to_production(
            found.version_id, reason=f"approval {found.id}", idempotency_key=idempotency_key
        )
    except GateRefused:
        if found.status is Status.APPROVED and (done := _used_meanwhile(models, found)) is not None:
            return done
        raise


def _used_meanwhile(models: ModelRegistry, approval: Approval) -> Version | None:
    """The version, where somebody else has used the approval since it was looked at, and it is live."""
    now = approval_of(approval_state(models.log.view(approval.tenant), approval.id))
    version = models.get_version(approval.version_id)
    return version if now.status is Status.USED and version.stage is Stage.PRODUCTION else None


def granted_approvals(log: Log) -> list[Approval]:
    """The approvals of all tenants that nobody has used yet, the oldest first."""
    rows = log.view("default").of_all_tenants(
        "approvals.granted",
        "approvals",
        """
        SELECT * FROM current
        WHERE status = $status AND json_extract_string(state, '$.kind') = $kind
        ORDER BY recorded_at, id
        """,
        {"status": Status.APPROVED.value, "kind": Kind.APPROVAL.value},
    )
    return [approval_of(state) for state in from_rows("approvals", rows)]
