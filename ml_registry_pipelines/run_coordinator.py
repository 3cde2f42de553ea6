"""Dagster's run queue, which stamps on every run who has launched it: named in `dagster.yaml`.

Whatever a client, a sensor or a parent run has put there is overwritten.

- Through the web server: whoever the request was authenticated as.
- By the daemon: a backfill's runs have its launcher, a retry its parent's, and what a sensor,
  a schedule or automation asks for has the platform itself.
- Through a shell: whose API key it has, else nobody in particular.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.storage.tags import BACKFILL_ID_TAG

from ml_registry_pipelines.access.stamps import BACKFILL, LAUNCHPAD, actor_of, service, stamped

if TYPE_CHECKING:
    from dagster._core.run_coordinator.base import SubmitRunContext
    from dagster._core.storage.dagster_run import DagsterRun

    from ml_registry_pipelines.registry.actors import Actor

DAEMON = "MLREG_DAEMON"
"""Environment variable of the daemon's process: what it submits, the platform itself has asked for."""


class StampingRunCoordinator(QueuedRunCoordinator[Any]):
    """`QueuedRunCoordinator`, with the same configuration."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        run = context.dagster_run
        self._instance.add_run_tags(run.run_id, stamped(self._launcher(context), run.run_id))
        return super().submit_run(context)

    def _launcher(self, context: SubmitRunContext) -> Actor:
        run, source = context.dagster_run, getattr(context.workspace, "source", None)
        if source is not None:
            actor: Actor | None = getattr(getattr(source, "state", None), "actor", None)
            return actor or LAUNCHPAD
        if os.environ.get(DAEMON) != "1":
            return actor_of_the_shell() or LAUNCHPAD
        if run.parent_run_id is not None:
            parent = self._instance.get_run_by_id(run.parent_run_id)
            # A parent whose own stamp is not ours gives none to its retry.
            return (parent and actor_of(parent.tags, parent.run_id)) or LAUNCHPAD
        if BACKFILL_ID_TAG in run.tags:
            return actor_of(run.tags, BACKFILL) or LAUNCHPAD
        return service()


def actor_of_the_shell() -> Actor | None:
    """Whose API key the process was given; None without one.

    Raises:
        KeyRefused: the key lets nobody in.
    """
    from ml_registry_pipelines.access.doors import given_key
    from ml_registry_pipelines.access.users import actor_for_key
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.settings import Settings

    key = given_key()
    if key is None:
        return None
    with Lake(Settings.from_environment().home, process="cli") as lake, Log(lake) as log:
        return actor_for_key(log, key, door="cli")
