"""The registry as a Dagster resource: its log, opened once per process, and who acts through a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

from resources.lake import kept_log, kept_open

if TYPE_CHECKING:
    from ml_registry_pipelines.lineage.tracker import LineageTracker
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.models import ModelRegistry
    from ml_registry_pipelines.registry.relationships import Relationships
    from ml_registry_pipelines.telemetry.attribution import Attribution


class RegistryResource(dg.ConfigurableResource["RegistryResource"]):
    """Models, datasets, deployments and the graph between them."""

    root: str
    form_folders: list[str] = Field(
        default_factory=list,
        description="Folders, or s3:// addresses, that a run reads from for a form, beside the home's own.",
    )

    _log: Log | None = PrivateAttr(default=None)
    _actor: Actor | None = PrivateAttr(default=None)

    def log(self) -> Log:
        """The log. In a sensor it stays open from tick to tick; a run closes its own."""
        return self._log or kept_log(self.root)

    def is_empty(self) -> bool:
        """Whether nothing was ever recorded."""
        return not kept_open(self.root, "sensor").exists("governance_events")

    def actor(self) -> Actor:
        """Who acts: in a run whoever has launched it, in a sensor the platform itself."""
        from ml_registry_pipelines.access.stamps import service

        return self._actor or service()

    def models(self, tenant: str, run_id: str) -> ModelRegistry:
        """Commands about models, for a run."""
        from ml_registry_pipelines.registry.models import ModelRegistry

        return ModelRegistry(self.log(), actor=self.actor(), tenant=tenant, run_id=run_id)

    def lineage(self, tenant: str, run_id: str) -> LineageTracker:
        """Commands about datasets and deployments, for a run."""
        from ml_registry_pipelines.lineage.tracker import LineageTracker

        return LineageTracker(self.log(), actor=self.actor(), tenant=tenant, run_id=run_id)

    def rules(self, tenant: str, run_id: str) -> Attribution:
        """Commands about attribution rules, for a run."""
        from ml_registry_pipelines.telemetry.attribution import Attribution

        return Attribution(self.log(), actor=self.actor(), tenant=tenant, run_id=run_id)

    def edges(self, tenant: str, run_id: str) -> Relationships:
        """Commands about relationships, for a run."""
        from ml_registry_pipelines.registry.relationships import Relationships

        return Relationships(self.log(), actor=self.actor(), tenant=tenant, run_id=run_id)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        if context.run is not None:
            from ml_registry_pipelines.access.stamps import actor_of_run
            from ml_registry_pipelines.lake.lake import Lake
            from ml_registry_pipelines.lake.readable import Readable
            from ml_registry_pipelines.registry.log import Log

            readable = Readable(self.root, self.form_folders)
            self._log = Log(Lake(self.root, process="run", readable=readable))
            self._actor = actor_of_run(self._log, context.run.tags, context.run.run_id)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - as it is called
        if self._log is not None:
            self._log.close()
            self._log.lake.close()
            self._log = None
