"""The lake as a Dagster resource: which one, and how long it stays open. What it can do is the lake's own."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

from ml_registry_pipelines.lake.lake import Lake

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log


class LakeResource(dg.ConfigurableResource["LakeResource"]):
    """Delta tables below one root, a folder or `s3://bucket/prefix`."""

    root: str

    _process: str = PrivateAttr(default="sensor")

    def open(self) -> Lake:
        """The lake, opened once per process: a sensor ticks every few seconds, and handles stay warm."""
        return kept_open(self.root, self._process)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        self._process = "run" if context.run is not None else "sensor"

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        # A run writes its query timings at its end, sensors theirs once a minute (`watch`).
        if context.run is not None:
            self.open().close()


@cache
def kept_open(root: str, process: str) -> Lake:
    """The lake below a root, one object per process and role."""
    return Lake(root, process=process)


@cache
def kept_log(root: str) -> Log:
    """The log of the registry below a root, one object per process: it holds what is not folded yet."""
    from ml_registry_pipelines.registry.log import Log

    return Log(kept_open(root, "sensor"))
