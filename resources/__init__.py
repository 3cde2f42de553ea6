"""What assets, checks and sensors work with. Differences between environments are here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping

import dagster as dg

from ml_registry_pipelines.settings import Environment, Settings
from resources.alerts import AlertsResource
from resources.artifacts import ArtifactsResource
from resources.bills import BillsResource
from resources.deliveries import DeliveriesResource
from resources.lake import LakeResource
from resources.outside import AnchorsResource, MlflowResource, WebhooksResource
from resources.prices import PricesResource
from resources.registry import RegistryResource
from resources.sources import SourcesResource
from resources.webservers import WebServersResource

WEBHOOK = "MLREG_ALERT_WEBHOOK"
WEB_SERVERS = "MLREG_DAGSTER_URL"
"""Addresses of the web servers that show the graph, divided by commas; `mlreg ui` sets its own."""

__all__ = [
    "AlertsResource",
    "AnchorsResource",
    "ArtifactsResource",
    "BillsResource",
    "DeliveriesResource",
    "LakeResource",
    "MlflowResource",
    "PricesResource",
    "RegistryResource",
    "SourcesResource",
    "WebServersResource",
    "WebhooksResource",
    "resources_for",
]


def resources_for(settings: Settings) -> Mapping[str, object]:
    """The resources of an environment by name.

    `dev` is one machine, where a bucket that does not answer is soon given up. `staging` and
    `production` ride out an object store's bad minute instead.
    """
    s3_attempts = 3 if settings.environment is Environment.DEV else 10
    # An EnvVar, because the UI shows a resource's plain values and the address may hold a secret.
    webhook = dg.EnvVar(WEBHOOK) if os.environ.get(WEBHOOK, "").strip() else None
    return {
        "lake": LakeResource(root=settings.home),
        "sources": SourcesResource(
            home=settings.home, sources_file=settings.sources_file, s3_attempts=s3_attempts
        ),
        "prices": PricesResource(home=settings.home, contract_file=settings.contract_file),
        "bills": BillsResource(home=settings.home, bills_file=settings.bills_file),
        "mlflow": MlflowResource(root=settings.home, tenant=settings.tenant or "default"),
        "deliveries": DeliveriesResource(root=settings.home),
        "webhooks": WebhooksResource(root=settings.home),
        "anchors": AnchorsResource(root=settings.home),
        "registry": RegistryResource(root=settings.home, form_folders=list(settings.form_folders)),
        "web_servers": WebServersResource(
            addresses=[a.strip() for a in os.environ.get(WEB_SERVERS, "").split(",") if a.strip()]
        ),
        "artifacts": ArtifactsResource(root=settings.home, s3_attempts=s3_attempts),
        "alerts": AlertsResource(root=settings.home, webhook=webhook),
    }
