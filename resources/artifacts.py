"""Artifacts as a Dagster resource: how their bucket is reached, and links into it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ml_registry_pipelines.registry.artifacts import ArtifactStore, File
from ml_registry_pipelines.registry.links import HOUR, DownloadLink, Links, Ticket
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.purging import GRACE, Purged, purge
from resources.lake import kept_open

if TYPE_CHECKING:
    from dagster_aws.s3 import S3Resource


class ArtifactsResource(dg.ConfigurableResource["ArtifactsResource"]):
    """The files that versions are made of. In a bucket they are reached by Dagster's S3 resource."""

    root: str
    s3_attempts: int = 10
    """Tries per request to a bucket."""

    def s3(self) -> S3Resource:
        """What reaches the bucket; region, endpoint and credentials come from `AWS_*` variables."""
        from dagster_aws.s3 import S3Resource

        return S3Resource(max_attempts=self.s3_attempts)

    def store(self) -> ArtifactStore:
        """The files, by digest."""
        client = self.s3().get_client() if self.root.startswith("s3://") else None
        return ArtifactStore(kept_open(self.root, "run"), client=client)

    def download_links(self, artifact: str, *, tenant: str, holds: timedelta = HOUR) -> list[DownloadLink]:
        """Links by which the files of an artifact can be fetched; the caller has looked it up for somebody."""
        return Links(self.store(), tenant).download(artifact, holds=holds)

    def upload(self, files: list[File], *, tenant: str, holds: timedelta = HOUR) -> Ticket:
        """Links by which the files of a new artifact can be put."""
        return Links(self.store(), tenant).begin(files, holds=holds)

    def purge(self, *, dry_run: bool, grace: timedelta = GRACE) -> Purged:
        """Remove what no version has ever needed."""
        with Log(kept_open(self.root, "run")) as log:
            return purge(log, self.store(), grace=grace, dry_run=dry_run)
