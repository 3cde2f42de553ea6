"""The configured log sources as a Dagster resource: where files come from, and how buckets are reached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import dagster as dg

from ml_registry_pipelines.lake.files import Folder, S3Folder
from ml_registry_pipelines.settings import Environment, Settings
from ml_registry_pipelines.telemetry.sources import Look, Scope, Source, Sources

if TYPE_CHECKING:
    from dagster_aws.s3 import S3Resource
    from mypy_boto3_s3 import S3Client

    from ml_registry_pipelines.lake.lake import Lake


class SourcesResource(dg.ConfigurableResource["SourcesResource"]):
    """Log sources: those of the sources file, or the landing folder below the home where there is none."""

    home: str
    sources_file: str | None = None
    settle_seconds: float = 1.1
    """How long a look waits to see whether a new file still grows: less than another tick would take.

    0 takes the word of producers that every file is complete when it appears.
    """
    s3_attempts: int = 3
    """Tries per request to a bucket."""

    def open(self) -> Sources:
        """The sources as they are configured now.

        Raises:
            SourcesError: the sources file cannot be used.
        """
        settings = Settings(
            home=self.home, environment=Environment.DEV, sources_file=self.sources_file, tenant=None
        )
        return Sources(self._reached(Sources.load(settings)))

    def look(self, lake: Lake, *, scope: Scope = Scope.RECENT, memory: str | None = None) -> Look:
        """Find files to take; where all that is new may still be growing, look a second time."""
        sources = self.open()
        look = sources.look(lake, scope=scope, memory=memory, settled=not self.settle_seconds)
        if look.files or not look.growing:
            return look
        time.sleep(self.settle_seconds)
        return sources.look(lake, scope=scope, memory=look.memory)

    def s3(self) -> S3Resource:
        """What reaches buckets; region, endpoint and credentials come from `AWS_*` variables."""
        from dagster_aws.s3 import S3Resource

        return S3Resource(max_attempts=self.s3_attempts)

    def _reached(self, sources: Sources) -> Iterator[Source]:
        client: S3Client | None = None
        for source in sources:
            if not source.folder.startswith("s3://"):
                yield source
                continue
            client = client or self.s3().get_client()
            values = {field.name: getattr(source, field.name) for field in fields(source)}
            yield _BucketSource(**values, client=client)


@dataclass(frozen=True)
class _BucketSource(Source):
    """A source in a bucket, read with the client of Dagster's S3 resource."""

    client: S3Client | None = None

    @cached_property
    def files(self) -> Folder:
        parts = urlsplit(self.folder)
        return S3Folder(parts.netloc, parts.path.strip("/"), client=self.client)
