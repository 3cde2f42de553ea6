"""What Dagster's pages let whom do: roles as permissions of Dagster's own request context.

Two locks, one behind the other. A request that holds a mutation is let through by its name, and
one that nobody has classified is for admins alone. Then Dagster asks the context for each
permission, as it does to grey out what a person may not do.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagster._core.definitions.selector import JobSelector
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.permissions import (
    LOCATION_SCOPED_PERMISSIONS,
    PermissionResult,
    Permissions,
    get_user_permissions,
)

from ml_registry_pipelines.access.roles import APPROVAL_JOBS, APPROVAL_TEAM, Role
from ml_registry_pipelines.access.sessions import Visitor
from ml_registry_pipelines.access.stamps import BACKFILL, stamped

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.execution.backfill import PartitionBackfill

_ENGINEER = frozenset(
    {
        Permissions.LAUNCH_PIPELINE_EXECUTION,
        Permissions.LAUNCH_PIPELINE_REEXECUTION,
        Permissions.TERMINATE_PIPELINE_EXECUTION,
        Permissions.LAUNCH_PARTITION_BACKFILL,
        Permissions.CANCEL_PARTITION_BACKFILL,
        Permissions.RELOAD_REPOSITORY_LOCATION,
        Permissions.RELOAD_WORKSPACE,
        Permissions.REFRESH_COMPONENT_STATE,
    }
)
ROLES: Mapping[Role, frozenset[Permissions]] = {
    Role.VIEWER: frozenset(),
    Role.REVIEWER: frozenset(),
    Role.COMPLIANCE: frozenset(
        {Permissions.LAUNCH_PIPELINE_EXECUTION, Permissions.LAUNCH_PIPELINE_REEXECUTION}
    ),
    Role.ENGINEER: _ENGINEER,
    Role.ADMIN: frozenset(Permissions),
}
"""Dagster's permissions of each role. What a job's commands may do is asked again by the registry."""
SERVICE = frozenset(
    {
        Permissions.RELOAD_REPOSITORY_LOCATION,
        Permissions.RELOAD_WORKSPACE,
        Permissions.REFRESH_COMPONENT_STATE,
    }
)
"""Those of the platform's own services: the refresh of the catalogue."""

_ALL = frozenset(Role)
_ADMIN = frozenset({Role.ADMIN})
_BUILDS = frozenset({Role.ENGINEER, Role.ADMIN})
_RUNS = frozenset({Role.ENGINEER, Role.COMPLIANCE, Role.ADMIN})
_LAUNCHES = _RUNS | {Role.REVIEWER}
MUTATIONS: Mapping[str, frozenset[Role]] = {
    "launchRun": _LAUNCHES,
    "launchPipelineExecution": _LAUNCHES,
    "launchMultipleRuns": _LAUNCHES,
    "launchRunReexecution": _RUNS,
    "launchPipelineReexecution": _RUNS,
    "launchPartitionBackfill": _BUILDS,
    "resumePartitionBackfill": _BUILDS,
    "reexecutePartitionBackfill": _BUILDS,
    "cancelPartitionBackfill": _BUILDS,
    "terminateRun": _BUILDS,
    "terminateRuns": _BUILDS,
    "terminatePipelineExecution": _BUILDS,
    "reloadRepositoryLocation": _BUILDS,
    "reloadWorkspace": _BUILDS,
    "refreshComponentState": _BUILDS,
    # Evidence: they make or remove what gates read, or history.
    "reportAssetCheckEvaluations": _ADMIN,
    "reportRunlessAssetEvents": _ADMIN,
    "wipeAssets": _ADMIN,
    "deleteRun": _ADMIN,
    "deletePipelineRun": _ADMIN,
    # What is taken in, and when.
    "setSensorCursor": _ADMIN,
    "startSensor": _ADMIN,
    "stopSensor": _ADMIN,
    "resetSensor": _ADMIN,
    "startSchedule": _ADMIN,
    "stopRunningSchedule": _ADMIN,
    "resetSchedule": _ADMIN,
    "sensorDryRun": _ADMIN,
    "scheduleDryRun": _ADMIN,
    "addDynamicPartition": _ADMIN,
    "deleteDynamicPartitions": _ADMIN,
    # Operations.
    "shutdownRepositoryLocation": _ADMIN,
    "setAppManagedComponent": _ADMIN,
    "deleteAppManagedComponent": _ADMIN,
    "setAutoMaterializePaused": _ADMIN,
    "setConcurrencyLimit": _ADMIN,
    "deleteConcurrencyLimit": _ADMIN,
    "freeConcurrencySlots": _ADMIN,
    "freeConcurrencySlotsForRun": _ADMIN,
    # They change nothing that anybody else sees: telemetry is off.
    "logTelemetry": _ALL,
    "setNuxSeen": _ADMIN,
}
"""Every mutation of Dagster's schema, and the roles that may send it at all."""
SERVICE_MUTATIONS = frozenset({"reloadRepositoryLocation", "reloadWorkspace", "refreshComponentState"})
RESTAMPS = frozenset({"reexecutePartitionBackfill", "resumePartitionBackfill"})
"""Mutations by which Dagster would let a backfill go on in the name of who launched it first."""


def refused(visitor: Visitor, mutations: Sequence[str]) -> str | None:
    """The first of the mutations that a visitor may not send; None where all are let through."""
    if visitor.is_open:
        return None
    for name in mutations:
        if visitor.is_service:
            if name not in SERVICE_MUTATIONS:
                return name
        elif not visitor.roles & MUTATIONS.get(name, _ADMIN):
            return name
    return None


class RequestContext(WorkspaceRequestContext):
    """Dagster's context of one request, for one visitor."""

    restamps = False

    @property
    def visitor(self) -> Visitor | None:
        """Who sent it; None for what no request has asked for."""
        found = getattr(getattr(self.source, "state", None), "visitor", None)
        return found if isinstance(found, Visitor) else None

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._stamping() if self.restamps else super().instance

    def _held(self) -> frozenset[Permissions]:
        visitor = self.visitor
        if visitor is None:
            # Without a request it is the server itself; a request that nobody looked at may do nothing.
            return frozenset(Permissions) if self.source is None else frozenset()
        if visitor.is_service:
            return SERVICE
        return frozenset().union(*(ROLES[role] for role in visitor.roles))

    @property
    def permissions(self) -> Mapping[str, PermissionResult]:
        # What Dagster itself does not let an editor do, no role does.
        most, held = get_user_permissions(self._read_only), self._held()
        return {
            name: PermissionResult(
                enabled=result.enabled and name in held,
                disabled_reason=None if name in held else "Your role does not allow it",
            )
            for name, result in most.items()
        }

    def permissions_for_location(self, *, location_name: str) -> Mapping[str, PermissionResult]:  # noqa: ARG002 - as it is called
        """What the pages show, and nothing that is asked before something is done.

        Dagster's form of a job looks here before it knows what holds for that job, and would send a reviewer
        away from the form to which evidence pages link.
        """
        shown = {name: r for name, r in self.permissions.items() if name in LOCATION_SCOPED_PERMISSIONS}
        if self.viewer_has_any_owner_definition_permissions():
            may = PermissionResult(enabled=True, disabled_reason=None)
            shown[Permissions.LAUNCH_PIPELINE_EXECUTION] = may
        return shown

    def has_permission_for_location(self, permission: str, location_name: str) -> bool:  # noqa: ARG002 - as it is called
        return self.has_permission(permission)

    def viewer_has_any_owner_definition_permissions(self) -> bool:
        return self.visitor is not None and bool(self.visitor.roles & {Role.REVIEWER, Role.COMPLIANCE})

    def permissions_for_owner(self, *, owner: str) -> Mapping[str, PermissionResult]:
        if owner != APPROVAL_TEAM or not self.viewer_has_any_owner_definition_permissions():
            return {}
        return {Permissions.LAUNCH_PIPELINE_EXECUTION: PermissionResult(enabled=True, disabled_reason=None)}

    def has_permission_for_selector(self, permission: str, selector: Any) -> bool:
        if super().has_permission_for_selector(permission, selector):
            # An owner alone is not enough: anybody who writes code or registers a model names owners.
            by_owner = not self.has_permission(permission)
            approves = isinstance(selector, JobSelector) and selector.job_name in APPROVAL_JOBS
            return not by_owner or approves
        return False

    def get_viewer_tags(self) -> dict[str, str]:
        return {} if self.visitor is None else stamped(self.visitor.actor, BACKFILL)

    def get_reporting_user_tags(self) -> dict[str, str]:
        return {} if self.visitor is None else {"mlreg/reported_by": self.visitor.actor.id}

    def _stamping(self) -> dg.DagsterInstance:
        """The instance, as one that stamps the visitor on every backfill that it begins anew."""
        instance, tags = super().instance, self.get_viewer_tags()
        shadow = copy.copy(instance)

        def add(backfill: PartitionBackfill) -> None:
            instance.add_backfill(backfill._replace(tags={**backfill.tags, **tags}))

        def update(backfill: PartitionBackfill) -> None:
            begun = backfill.status is BulkActionStatus.REQUESTED
            instance.update_backfill(backfill._replace(tags={**backfill.tags, **tags}) if begun else backfill)

        shadow.__dict__.update(add_backfill=add, update_backfill=update)
        return shadow


class ProcessContext(WorkspaceProcessContext):
    """Dagster's context of the web server's process, which makes our context for each request."""

    def create_request_context(self, source: Any | None = None) -> RequestContext:
        return RequestContext(
            instance=self._instance,
            current_workspace=self.get_current_workspace(),
            process_context=self,
            version=self.version,
            source=source,
            read_only=self._read_only,
        )
