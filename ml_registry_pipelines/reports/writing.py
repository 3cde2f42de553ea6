"""Storing a report: its file below `<root>/reports`, and a row of the table `reports`.

A row is added when the content is new, or when the same content was made of newer figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.tables.operations import REPORTS

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

FOLDER = "reports"


@dataclass(frozen=True)
class Written:
    """A report as it lies below the root. `recorded`: whether its content or what it was made of is new."""

    report: str
    partition: str | None
    path: str
    size: int
    digest: str
    sequence: int
    costs_version: int | None
    attribution_version: int | None
    recorded: bool
    draw: Callable[[], bytes | None] = field(repr=False, compare=False)
    markdown: str | None = None
    """Its short form, for a report that has one."""

    @cached_property
    def chart(self) -> bytes | None:
        """The key chart as a PNG of at most 100 kB, drawn when asked for; None without a figure."""
        return self.draw()


def write_report(
    lake: Lake,
    report: str,
    *,
    partition: str | None,
    page: str,
    sequence: int,
    costs_version: int | None,
    attribution_version: int | None,
    draw: Callable[[], bytes | None],
    csv: str | None = None,
    markdown: str | None = None,
) -> Written:
    """Put the page in its place, and its CSV beside it; record it unless the last one had the same content."""
    content = page.encode()
    path = f"{FOLDER}/{report}/{partition}.html" if partition else f"{FOLDER}/{report}.html"
    digest = hashlib.sha256(content).hexdigest()
    made_of = {
        "digest": digest,
        "sequence": sequence,
        "costs_version": costs_version,
        "attribution_version": attribution_version,
    }
    recorded = _last(lake, report, partition) != made_of
    folder = open_folder(lake.root)
    if recorded or not folder.exists(path):
        folder.write(path, content)
        if csv is not None:
            folder.write(f"{path.removesuffix('.html')}.csv", csv.encode())
    if recorded:
        _record(
            lake, {"report": report, "partition": partition, "path": path, "size": len(content), **made_of}
        )
    return Written(
        report,
        partition,
        path,
        len(content),
        digest,
        sequence,
        costs_version,
        attribution_version,
        recorded,
        draw,
        markdown,
    )


def _last(lake: Lake, report: str, partition: str | None) -> dict[str, Any] | None:
    """Content of the newest row about a report, and what it was made of."""
    with lake.read("reports") as reading:
        rows = reading.query(
            "reports.last",
            """
            SELECT digest, sequence, costs_version, attribution_version
            FROM reports
            WHERE report = $report AND partition IS NOT DISTINCT FROM $partition
            ORDER BY recorded_at DESC
            LIMIT 1
            """,
            {"report": report, "partition": partition},
        ).to_pylist()
    return rows[0] if rows else None


def _record(lake: Lake, row: Mapping[str, object]) -> None:
    import pyarrow as pa

    recorded = {**row, "recorded_at": datetime.now(UTC)}
    lake.append_next("reports", pa.Table.from_pylist([recorded], schema=REPORTS.schema), source="reports")
