"""Verify, then sign: one step for a schedule, so that no damaged log ever gets an anchor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.anchors import read_anchors, write_anchor
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.events import now as present


class LogNotWhole(RegistryError):
    """The log is damaged, so nothing was signed."""


@dataclass(frozen=True)
class Anchored:
    """The anchor that was written, and how much it covers."""

    file: str
    tenants: int
    events: int


def anchor(
    lake: Lake, folder: Path | str, key: Path, *, public: Path, now: Callable[[], datetime] = present
) -> Anchored:
    """Check all chains against themselves and the anchors of the folder, then write the next anchor.

    Raises:
        LogNotWhole: names the first event that was changed, dropped, inserted or reordered.
        AnchorError: folder or keys cannot be used.
    """
    verdicts = verify(lake, anchors=read_anchors(folder, public))
    for verdict in verdicts:
        if verdict.damage is not None:
            raise LogNotWhole(
                f"the log of tenant {verdict.tenant} is damaged and was not signed: {verdict.damage.text}"
            )
    written = write_anchor(lake, folder, key, public=public, now=now())
    return Anchored(written, len(verdicts), sum(verdict.events for verdict in verdicts))
