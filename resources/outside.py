"""What lies outside the platform, as Dagster resources: an MLflow server, webhooks' receivers, a folder of anchors.

Addresses and keys come from the environment of the machine that runs, and the UI shows none of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from resources.lake import kept_log, kept_open

if TYPE_CHECKING:
    from ml_registry_pipelines.exchange.mlflow_import import Imported
    from ml_registry_pipelines.registry.anchoring import Anchored
    from ml_registry_pipelines.webhooks.outbox import Told

MLFLOW = "MLREG_MLFLOW"
ANCHORS, ANCHOR_KEY, ANCHOR_PUBLIC_KEY = "MLREG_ANCHORS", "MLREG_ANCHOR_KEY", "MLREG_ANCHOR_PUBLIC_KEY"


def _set(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


class MlflowResource(dg.ConfigurableResource["MlflowResource"]):
    """An MLflow tracking server whose models are copied into a tenant, where `MLREG_MLFLOW` names one."""

    root: str
    tenant: str

    def configured(self) -> bool:
        """Whether there is a server to read."""
        return _set(MLFLOW) is not None

    def mark(self) -> str:
        """Changes when anything changed there.

        Raises:
            TrackingServerError: the server cannot be read.
        """
        from ml_registry_pipelines.exchange.mlflow_import import mark
        from ml_registry_pipelines.exchange.mlflow_server import TrackingServer

        return mark(TrackingServer(_set(MLFLOW) or ""))

    def take_over(self, *, run_id: str, without_artifacts: bool) -> Imported:
        """Take over what changed.

        Raises:
            TrackingServerError: the server cannot be read.
        """
        from ml_registry_pipelines.access.policy import platform
        from ml_registry_pipelines.exchange.mlflow_import import MlflowImport
        from ml_registry_pipelines.exchange.mlflow_server import TrackingServer
        from ml_registry_pipelines.registry.log import Log

        with Log(kept_open(self.root, "run")) as log:
            return MlflowImport(
                log,
                TrackingServer(_set(MLFLOW) or ""),
                actor=platform("mlflow-import"),
                tenant=self.tenant,
                run_id=run_id,
                without_artifacts=without_artifacts,
            ).run()


class WebhooksResource(dg.ConfigurableResource["WebhooksResource"]):
    """Subscribers of the log's events."""

    root: str

    def version(self) -> int | None:
        """Version of the log, which grows with every event; None while there is no log."""
        lake = kept_open(self.root, "sensor")
        return lake.version("governance_events") if lake.exists("governance_events") else None

    def deliver(self, *, seconds: float) -> Told:
        """Tell every subscriber what it was not told yet, for about so long."""
        from ml_registry_pipelines.webhooks.outbox import Outbox

        return Outbox(kept_log(self.root)).deliver(seconds=seconds)


class AnchorsResource(dg.ConfigurableResource["AnchorsResource"]):
    """Where anchors of the log go, and the key that signs them: `MLREG_ANCHORS`, `MLREG_ANCHOR_KEY` ..."""

    root: str

    def configured(self) -> bool:
        """Whether a folder and both keys are named."""
        return all(_set(name) for name in (ANCHORS, ANCHOR_KEY, ANCHOR_PUBLIC_KEY))

    def anchor(self) -> Anchored:
        """Verify the log against the anchors there are, then sign its heads.

        Raises:
            LogNotWhole: it is damaged; nothing was signed.
            AnchorError: folder or keys cannot be used.
        """
        from ml_registry_pipelines.registry.anchoring import anchor
        from ml_registry_pipelines.registry.anchors import AnchorError

        folder, key, public = _set(ANCHORS), _set(ANCHOR_KEY), _set(ANCHOR_PUBLIC_KEY)
        if folder is None or key is None or public is None:
            raise AnchorError(
                f"{ANCHORS}, {ANCHOR_KEY} and {ANCHOR_PUBLIC_KEY} must name a folder and two key files"
            )
        return anchor(kept_open(self.root, "run"), folder, Path(key), public=Path(public))
