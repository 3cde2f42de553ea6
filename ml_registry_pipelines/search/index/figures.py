"""Costs and latencies of models over the last days, taken from the rollups and kept for the pages of a search."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from ml_registry_pipelines.lake.lake import Lake


def figures_for(
    connection: sqlite3.Connection, lake: Lake, tenant: str, days: Sequence[int], given: Mapping[int, str]
) -> dict[int, str]:
    """For each number of days the snapshot that holds the figures; `given` are those of a page before."""
    return {}
