"""Storing a report: its file below `<root>/reports`, and one row of the table `reports` per content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.tables.operations import REPORTS

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

FOLDER = "reports"


@dataclass(frozen=True)
class Written:
    """A report as it lies below the root. `recorded`: whether its content is new."""

    report: str
    partition: str | None
    path: str
    size: int
    digest: str
    sequence: int
    recorded: bool
    draw: Callable[[], bytes | None] = field(repr=False, compare=False)

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
    draw: Callable[[], bytes | None],
) -> Written:
    """Put the page in its place, and record it unless the last one there had the same content."""
    content = page.encode()
    path = f"{FOLDER}/{report}/{partition}.html" if partition else f"{FOLDER}/{report}.html"
    digest = hashlib.sha256(content).hexdigest()
    recorded = _last_digest(lake, report, partition) != digest
    folder = open_folder(lake.root)
    if recorded or not folder.exists(path):
        folder.write(path, content)
    if recorded:
        _record(lake, report, partition, path, digest, len(content), sequence)
    return Written(report, partition, path, len(content), digest, sequence, recorded, draw)


def _last_digest(lake: Lake, report: str, partition: str | None) -> str | None:
    with lake.read("reports") as reading:
        rows = reading.query(
            "reports.last",
            """
            SELECT arg_max(digest, recorded_at) AS digest
            FROM reports
            WHERE report = $report AND partition IS NOT DISTINCT FROM $partition
            """,
            {"report": report, "partition": partition},
        ).to_pylist()
    found: str | None = rows[0]["digest"]
    return found


def _record(
    lake: Lake, report: str, partition: str | None, path: str, digest: str, size: int, sequence: int
) -> None:
    import pyarrow as pa

    row = {
        "report": report,
        "partition": partition,
        "path": path,
        "digest": digest,
        "size": size,
        "sequence": sequence,
        "recorded_at": datetime.now(UTC),
    }
    lake.append_next("reports", pa.Table.from_pylist([row], schema=REPORTS.schema), source="reports")
