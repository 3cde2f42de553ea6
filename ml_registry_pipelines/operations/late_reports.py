"""Which reports are older than the figures that they show."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

DAILY = "daily_cost_report"
OVERVIEW = "cost_overview"
FIRST_DAY = date(2023, 1, 1)
"""Logs of earlier days are taken, priced and rolled up, but get no daily report."""


@dataclass(frozen=True)
class LateReports:
    """Days whose daily report is older than their rollups, whether the overview is, and the newest batch shown."""

    days: tuple[date, ...]
    overview: bool
    sequence: int


def late_reports(lake: Lake) -> LateReports:
    """Compare the batch that each report was made from with the one of its day's rollups."""
    if not lake.exists("cost_rollup") or not lake.exists("performance_rollup"):
        return LateReports((), overview=False, sequence=0)
    with lake.read("cost_rollup", "performance_rollup", "reports") as reading:
        rows = reading.query(
            "late_reports",
            """
            WITH rolled AS (
                SELECT day, max(sequence) AS sequence
                FROM (
                    SELECT day, sequence FROM cost_rollup WHERE grain = 'day'
                    UNION ALL
                    SELECT day, sequence FROM performance_rollup WHERE grain = 'day'
                )
                GROUP BY day
            ),
            written AS (
                SELECT report, partition, max(sequence) AS sequence FROM reports GROUP BY report, partition
            )
            SELECT rolled.day, rolled.sequence, coalesce(daily.sequence, 0) < rolled.sequence AS late,
                   coalesce((SELECT max(sequence) FROM written WHERE report = $overview), 0) AS overview
            FROM rolled
            LEFT JOIN written AS daily
                ON daily.report = $daily AND daily.partition = strftime(rolled.day, '%Y-%m-%d')
            ORDER BY rolled.day
            """,
            {"daily": DAILY, "overview": OVERVIEW},
        ).to_pylist()
    if not rows:
        return LateReports((), overview=False, sequence=0)
    newest = max(row["sequence"] for row in rows)
    today = datetime.now(UTC).date()
    return LateReports(
        days=tuple(row["day"] for row in rows if row["late"] and FIRST_DAY <= row["day"] <= today),
        overview=rows[0]["overview"] < newest,
        sequence=int(newest),
    )
