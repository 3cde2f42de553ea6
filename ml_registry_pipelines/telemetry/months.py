"""Which months of performance_months may stand for their days: those that were merged from just these files.

A month's digest is of the files of performance_rollup that its days are in. It is computed anew from the list
of live files at every question: a day that was rolled up again, came later or was erased makes
another one, and the month is passed over, and its days are read, until it is merged again
(`month_rollups.py`). No file is opened for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.tables.telemetry import PERFORMANCE_MONTHS

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading

TABLE = PERFORMANCE_MONTHS.name
BY_TENANT, TOGETHER = "month", "whole_month"
"""Grains: each tenant for itself with what attribution says, and all tenants together."""


@dataclass(frozen=True)
class Month:
    """The days of a month that performance_rollup holds, and the digest of their files."""

    days: frozenset[date]
    digest: str


def months_held(reading: Reading) -> dict[date, Month]:
    """The months of performance_rollup by their first day, as its files are now."""
    files = reading.files("performance_rollup")
    if not files.num_rows:
        return {}
    days: dict[date, set[date]] = {}
    paths: dict[date, list[str]] = {}
    for path, day in zip(files["path"].to_pylist(), files["partition.day"].to_pylist(), strict=True):
        month = day.replace(day=1)
        days.setdefault(month, set()).add(day)
        paths.setdefault(month, []).append(path)
    return {
        month: Month(
            frozenset(held), hashlib.sha256("\n".join(sorted(paths[month])).encode()).hexdigest()[:32]
        )
        for month, held in sorted(days.items())
    }


def months_merged(reading: Reading) -> Mapping[date, str]:
    """The months that performance_months holds, with the digest that each was merged from."""
    files = reading.files(TABLE)
    if not files.num_rows:
        return {}
    names = ("partition.month", "min.digest", "max.digest")
    found: dict[date, str] = {}
    for month, least, greatest in zip(*(files[name].to_pylist() for name in names), strict=True):
        # Of two digests none is the month's.
        found[month] = least if least == greatest == found.get(month, least) else ""
    return found
