"""Upkeep of all tables in one go, and how they look afterwards. What upkeep is, is in `lake/maintenance.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.maintenance import TableStatus
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.telemetry.sources import Sources

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake


@dataclass(frozen=True)
class Upkept:
    """All tables after their upkeep, and the number of files that it removed."""

    tables: Sequence[TableStatus]
    files_removed: int

    @property
    def warnings(self) -> list[str]:
        return [f"{table.name}: {table.warning}" for table in self.tables if table.warning]

    def markdown(self) -> str:
        """The tables as a Markdown table."""
        head = (
            "| table | rows | files | MB | version | commits since checkpoint | orphans |\n"
            "|---|--:|--:|--:|--:|--:|--:|\n"
        )
        return head + "".join(
            f"| {t.name} | {t.rows:,} | {t.files:,} | {t.bytes / 1e6:,.1f} | {t.version:,} "
            f"| {t.commits_since_checkpoint} | {t.orphans} |\n"
            for t in self.tables
        )


def maintain_tables(lake: Lake, *, full: bool = False) -> Upkept:
    """Compact, checkpoint and clean up every table that exists; `full` also removes orphan files.

    Batches that a killed worker left incomplete are completed first: what tells how is in the
    commits that are about to be cut off.
    """
    Ingestion(lake, Sources(())).sweep(datetime.now(UTC))
    removed = sum(lake.maintain(table.name, full=full).files_removed for table in lake.status())
    return Upkept(lake.status(), removed)
