"""The registry as a Dagster resource: which one. What a step does with it is in `recording.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.settings import Settings


class RegistryResource(dg.ConfigurableResource["RegistryResource"]):
    """The registry below one root, a folder or `s3://bucket/prefix`; by default that of `MLREG_HOME`."""

    home: str | None = None

    @contextmanager
    def open(self) -> Iterator[Log]:
        """The log, for one step."""
        home = self.home or Settings.from_environment().home
        with Lake(home, process="run") as lake, Log(lake) as log:
            yield log
