"""Editions: every report that was made, kept as files under the digest of its figures, with what it rests on.

An edition never changes. When figures do, there is another one beside it; when the same figures
are computed from newer tables, another row says so, and nothing has to be made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.tables.reports import REPORT_EDITIONS
from ml_registry_pipelines.reports.made import Made, Sheet, json_text

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

FOLDER = "reports/editions"
Slot = tuple[str, str | None, str, str]
"""Report, scope, period and time zone: what an edition is one of."""


@dataclass(frozen=True)
class Edition:
    """One edition of one report, as its row says."""

    edition_id: str
    report: str
    tenant: str | None
    period: str
    period_start: datetime
    period_end: datetime
    time_zone: str
    title: str
    path: str
    keys: int
    final: bool
    mark: str
    made_of: Mapping[str, Any]
    coverage: Mapping[str, Any]
    assumptions: Mapping[str, Any]
    recorded_at: datetime

    @property
    def slot(self) -> Slot:
        return self.report, self.tenant, self.period, self.time_zone

    @property
    def whom(self) -> str:
        """The scope in words."""
        return "all tenants" if self.tenant is None else self.tenant

    @property
    def about(self) -> str:
        """Title, period and scope in a line."""
        return f"{self.title}, {self.period}, {self.whom}"


class Editions:
    """The editions of one lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def newest(self) -> dict[Slot, Edition]:
        """The last edition that was made for each slot."""
        if not self._lake.exists(REPORT_EDITIONS.name):
            return {}
        with self._lake.read(REPORT_EDITIONS.name) as reading:
            rows = reading.query(
                "reports.newest_editions",
                """
                SELECT * FROM report_editions
                QUALIFY row_number() OVER (
                    PARTITION BY report, tenant, period, time_zone ORDER BY recorded_at DESC, edition_id
                ) = 1
                """,
            ).to_pylist()
        found = [_edition(row) for row in rows]
        return {edition.slot: edition for edition in found}

    def get(self, edition_id: str) -> Edition | None:
        """One edition by its id, as it was made last."""
        with self._lake.read(REPORT_EDITIONS.name) as reading:
            rows = reading.query(
                "reports.edition",
                "SELECT * FROM report_editions WHERE edition_id = $id ORDER BY recorded_at DESC LIMIT 1",
                {"id": edition_id},
            ).to_pylist()
        return _edition(rows[0]) if rows else None

    def keep(self, made: Made) -> Edition:
        """Keep a report that was made: its files first, then its row."""
        import pyarrow as pa

        whom = "all" if made.scope is None else f"tenants/{quote(made.scope, safe='')}"
        path = f"{FOLDER}/{made.report}/{whom}/{made.period.label}/{made.id[:32]}{'' if made.final else '-provisional'}"
        folder = open_folder(self._lake.root)
        for ending, text in (("html", made.page), ("csv", made.sheet.csv()), ("md", made.markdown)):
            # What lies there under the digest of the figures is that edition; a later page of the
            # same figures differs in versions of tables alone.
            folder.create(f"{path}.{ending}", text.encode())
        row = {
            "edition_id": made.id,
            "report": made.report,
            "tenant": made.scope,
            "period": made.period.label,
            "period_start": made.period.start,
            "period_end": made.period.end,
            "time_zone": made.period.zone.key,
            "title": made.title,
            "path": path,
            "keys": made.sheet.keys,
            "final": made.final,
            "mark": made.mark,
            "made_of": json_text(made.made_of),
            "coverage": json_text(made.coverage),
            "assumptions": json_text(made.assumptions),
            "recorded_at": datetime.now(UTC),
        }
        table = pa.Table.from_pylist([row], schema=REPORT_EDITIONS.schema)
        self._lake.append_next(REPORT_EDITIONS.name, table, source="report_editions")
        return _edition(row)

    def file(self, edition: Edition, ending: str) -> bytes:
        """The edition as `html`, `csv` or `md`.

        Raises:
            NoSuchFile: somebody removed it.
        """
        return open_folder(self._lake.root).read(f"{edition.path}.{ending}")

    def sheet(self, edition: Edition) -> Sheet:
        """Its figures."""
        return Sheet.parse(self.file(edition, "csv").decode(), edition.keys)


def _edition(row: Mapping[str, Any]) -> Edition:
    values = {name: row[name] for name in Edition.__dataclass_fields__}
    read = {name: json.loads(row[name]) for name in ("made_of", "coverage", "assumptions")}
    return Edition(**{**values, **read})
