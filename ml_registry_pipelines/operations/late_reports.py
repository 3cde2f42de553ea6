"""Which reports are older than the figures that they show.

Figures change with a newer batch, or without one when days are priced anew or other attribution
rules hold on them: then the rollup was computed from another version of `model_costs`, or with
other rules, than the report's.
"""

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
    """Days whose daily report is older than their rollups, whether the overview is, and what the newest are made of.

    `figures` names the newest batch and version of `model_costs` in the rollups.
    """

    days: tuple[date, ...]
    overview: bool
    figures: str


NOTHING = LateReports((), overview=False, figures="0")


def late_reports(lake: Lake) -> LateReports:
    """Compare what each report was made from with what its day's rollups were."""
    if not lake.exists("cost_rollup") or not lake.exists("performance_rollup"):
        return NOTHING
    with lake.read("cost_rollup", "performance_rollup", "reports") as reading:
        rows = reading.query(
            "late_reports",
            """
            WITH rolled AS (
                SELECT day, max(sequence) AS sequence, max(costs_version) AS costs_version,
                       -- Of a day the digest of its rules, of all days that of their digests.
                       (hash(day, max(attribution_version)) >> 1)::BIGINT AS digest,
                       CASE WHEN max(attribution_version) IS NOT NULL THEN digest END AS attribution_version
                FROM (
                    SELECT day, sequence, costs_version, attribution_version
                    FROM cost_rollup WHERE grain = 'day'
                    UNION ALL
                    SELECT day, sequence, NULL, NULL FROM performance_rollup WHERE grain = 'day'
                )
                GROUP BY day
            ),
            newest AS (
                SELECT max(sequence) AS sequence, max(costs_version) AS costs_version,
                       bit_xor(attribution_version) AS attribution_version
                FROM rolled
            ),
            written AS (
                SELECT * FROM reports
                QUALIFY row_number() OVER (PARTITION BY report, partition ORDER BY recorded_at DESC) = 1
            )
            SELECT
                rolled.day,
                coalesce(daily.sequence, 0) < rolled.sequence
                    OR daily.costs_version IS DISTINCT FROM rolled.costs_version
                    OR daily.attribution_version IS DISTINCT FROM rolled.attribution_version AS late,
                coalesce(overview.sequence, 0) < newest.sequence
                    OR overview.costs_version IS DISTINCT FROM newest.costs_version
                    OR overview.attribution_version IS DISTINCT FROM newest.attribution_version AS overview,
                concat_ws('.', newest.sequence, newest.costs_version, newest.attribution_version) AS figures
            FROM rolled
            CROSS JOIN newest
            LEFT JOIN written AS overview ON overview.report = $overview
            LEFT JOIN written AS daily
                ON daily.report = $daily AND daily.partition = strftime(rolled.day, '%Y-%m-%d')
            ORDER BY rolled.day
            """,
            {"daily": DAILY, "overview": OVERVIEW},
        ).to_pylist()
    if not rows:
        return NOTHING
    today = datetime.now(UTC).date()
    return LateReports(
        days=tuple(row["day"] for row in rows if row["late"] and FIRST_DAY <= row["day"] <= today),
        overview=rows[0]["overview"],
        figures=rows[0]["figures"],
    )
