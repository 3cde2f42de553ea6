"""The lake in a dozen lines: what went in, what it cost, how fast answers came, where the report is.

Every figure says how much of the traffic it covers, and whether it rests on something assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.queries import AttributionCoverage, Coverage
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.performance import GroupStatistics

TOP_MODELS = 5


@dataclass(frozen=True)
class ModelCost:
    """What one model cost, and for how many of its requests the price is illustrative."""

    provider: str | None
    model: str | None
    cost: Decimal
    currency: str
    requests: int
    assumed: int


@dataclass(frozen=True)
class Summary:
    """What the tables hold. `report` is the newest overview, below the root."""

    files: int
    rows_in: int
    taken: int
    duplicates: int
    quarantined: int
    suppressed: int
    days: tuple[date, date] | None
    costs: tuple[tuple[str, Decimal], ...]
    coverage: Coverage
    attribution: AttributionCoverage
    models: tuple[ModelCost, ...]
    statistics: GroupStatistics | None
    relative_error: float
    report: str | None

    def lines(self) -> Iterator[str]:
        """The summary for a terminal."""
        period = f", {self.days[0]} to {self.days[1]}" if self.days else ""
        suppressed = f" + {self.suppressed:,} suppressed" if self.suppressed else ""
        yield (
            f"rows      {self.rows_in:,} in = {self.taken:,} taken + {self.duplicates:,} duplicates "
            f"+ {self.quarantined:,} quarantined{suppressed}, from {self.files:,} files{period}"
        )
        yield f"cost      {self._money()}; {self._covered()}"
        yield f"versions  {self._attributed()}"
        for number, model in enumerate(self.models):
            name = f"{model.provider}/{model.model}"
            assumed = "  (price assumed)" if model.assumed else ""
            cost = f"{model.cost:,.2f} {model.currency}"
            yield f"{'models' if not number else '':<8}  {name:<44} {cost:>14}  {model.requests:>7,} requests{assumed}"
        yield f"latency   {self._latency()}"
        if self.statistics is not None and self.statistics.assumed:
            parts = ", ".join(self.statistics.assumed)
            yield f"assumed   {parts} of {self.statistics.assumed_requests:,} requests, as their records say"
        yield f"report    {self.report or 'not written yet'}"

    def _money(self) -> str:
        return (
            " + ".join(f"{amount:,.2f} {currency}" for currency, amount in self.costs)
            or "nothing is priced yet"
        )

    def _covered(self) -> str:
        share = self.coverage.share
        covered = (
            "no request is billable" if share is None else f"{share:.1%} of billable requests are priced"
        )
        assumed = self.coverage.assumed
        return covered + (f", {assumed:,} of them at assumed prices" if assumed else "")

    def _attributed(self) -> str:
        found = self.attribution
        if not found.billable:
            return "no request is billable"
        if found.no_rule == found.billable:
            return (
                "no request is assigned to a model version yet; `mlreg attribution gaps` lists what could be"
            )
        lost = ", ".join(
            f"{count:,} {words}"
            for count, words in (
                (found.no_rule, "without a rule"),
                (found.ambiguous, "ambiguous"),
                (found.not_serving, "of deployments that served nothing then"),
            )
            if count
        )
        return f"{found.share:.1%} of billable requests lead to a model version{f'; {lost}' if lost else ''}"

    def _latency(self) -> str:
        found = self.statistics
        if found is None or found.latency.p50 is None:
            return "no successful request states one"
        p50, p95, p99 = (
            f"{(value or 0) / 1000:.2f} s"
            for value in (found.latency.p50, found.latency.p95, found.latency.p99)
        )
        within = f" (each within {self.relative_error:.1%})" if self.relative_error else ""
        assumed = ", assumed latencies" if "latency" in found.assumed else ""
        return (
            f"p50 {p50}   p95 {p95}   p99 {p99}{within}, of {found.latency.n:,} successful requests{assumed}"
        )


def summarise(lake: Lake) -> Summary:
    """The figures of all days and tenants."""
    from ml_registry_pipelines.costs.queries import attribution_coverage, cost_by, coverage
    from ml_registry_pipelines.operations.late_reports import OVERVIEW
    from ml_registry_pipelines.telemetry.performance import PerformanceTracker

    with lake.read("ingested_files", "cost_rollup", "reports") as reading:
        files = reading.query(
            "summary.files",
            """
            SELECT count(DISTINCT (source, path)) AS files, coalesce(sum(rows_in), 0) AS rows_in,
                   coalesce(sum(taken), 0) AS taken, coalesce(sum(duplicates), 0) AS duplicates,
                   coalesce(sum(quarantined), 0) AS quarantined,
                   coalesce(sum(suppressed), 0) AS suppressed
            FROM ingested_files
            """,
        ).to_pylist()[0]
        bounds = reading.query(
            "summary.days", "SELECT min(day) AS first, max(day) AS last FROM cost_rollup"
        ).to_pylist()[0]
        report = reading.query(
            "summary.report",
            "SELECT path FROM reports WHERE report = $report ORDER BY recorded_at DESC LIMIT 1",
            {"report": OVERVIEW},
        ).to_pylist()
        models = cost_by(reading, ["provider", "model"]).to_pylist()
        totals = cost_by(reading, []).to_pylist()
        covered = coverage(reading)
        attributed = attribution_coverage(reading)
    priced = sorted((row for row in models if row["cost"]), key=lambda row: row["cost"], reverse=True)
    days = (bounds["first"], bounds["last"]) if bounds["first"] else None
    statistics = None
    relative_error = 0.0
    if days is not None:
        start = datetime.combine(days[0], time(), UTC)
        found = PerformanceTracker(lake).get_statistics(
            start, datetime.combine(days[1], time(), UTC) + timedelta(days=1)
        )
        statistics, relative_error = (found.groups[0] if found.groups else None), found.relative_error
    return Summary(
        files=int(files["files"]),
        rows_in=int(files["rows_in"]),
        taken=int(files["taken"]),
        duplicates=int(files["duplicates"]),
        quarantined=int(files["quarantined"]),
        suppressed=int(files["suppressed"]),
        days=days,
        costs=tuple(
            (row["currency"], row["cost"]) for row in totals if row["cost"] is not None and row["currency"]
        ),
        coverage=covered,
        attribution=attributed,
        models=tuple(
            ModelCost(
                r["provider"], r["model"], r["cost"], r["currency"], r["requests"], r["assumed_requests"]
            )
            for r in priced[:TOP_MODELS]
        ),
        statistics=statistics,
        relative_error=relative_error,
        report=f"{lake.root}/{report[0]['path']}" if report else None,
    )
