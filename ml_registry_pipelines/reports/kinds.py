"""The reports that can be delivered: what each is about, how often it is made, when it can be, and from what.

A new report is one module that makes a `Made`, and one entry here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.periods import Period, PeriodKind
from ml_registry_pipelines.lake.slices import days_behind
from ml_registry_pipelines.reports.calendar import utc_days
from ml_registry_pipelines.reports.made import Made
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log

DAY, WEEK, MONTH = PeriodKind.DAY, PeriodKind.WEEK, PeriodKind.MONTH


@dataclass(frozen=True)
class Surroundings:
    """What tells whether a report can be made, and whether it would come out otherwise than before.

    `marks`: of each UTC day what differs when a figure of it could. `behind`: days that lack requests
    which were taken. `busy`: files are being taken. `operator`: the tenant of who runs the registry.
    """

    log: Log
    marks: Mapping[date, str] = field(default_factory=dict)
    behind: frozenset[date] = frozenset()
    busy: bool = False
    operator: str = "default"
    known: dict[str, Any] = field(default_factory=dict)
    """What was looked up once for all periods, by what it is."""

    @property
    def lake(self) -> Lake:
        return self.log.lake


Mark = Callable[[Surroundings, Period, str | None], str | None]
Make = Callable[[Surroundings, Period, str | None, str], Made | None]


@dataclass(frozen=True)
class ReportKind:
    """One report.

    `cadences`: the periods that it is made for, its usual one first. `of_all`: whether it can be about
    all tenants together. `mark` is None while there is nothing to report. `from_logs`: whether it waits
    until all that was logged in its period is counted.
    """

    name: str
    about: str
    cadences: tuple[PeriodKind, ...]
    of_all: bool
    from_logs: bool
    mark: Mark
    make: Make


def surroundings(log: Log, *, busy: bool = False) -> Surroundings:
    """How things stand now. Read once per round: it looks at the rollups' rows by day, and no others."""
    with log.lake.read(
        "cost_rollup", "performance_rollup", "inference_events", "attribution_rules"
    ) as reading:
        rows = reading.query(
            "reports.marks",
            """
            SELECT day, max(sequence) AS sequence, max(costs_version) AS costs_version,
                   max(attribution_version) AS attribution_version
            FROM (
                SELECT day, sequence, costs_version, attribution_version FROM cost_rollup WHERE grain = 'day'
                UNION ALL
                SELECT day, sequence, NULL, NULL FROM performance_rollup WHERE grain = 'day'
            )
            GROUP BY day
            """,
        ).to_pylist()
        leading = reading.sequence("inference_events", "ingestion")
        behind = {
            d for table in ("cost_rollup", "performance_rollup") for d in days_behind(reading, table, leading)
        }
    marks = {
        row["day"]: f"{row['sequence']}.{row['costs_version']}.{row['attribution_version']}" for row in rows
    }
    return Surroundings(log, marks, frozenset(behind), busy, Settings.from_environment().tenant or "default")


def days_of(period: Period) -> list[date]:
    """UTC days that the period has a part of."""
    first, last = utc_days(period)
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def figures_mark(around: Surroundings, period: Period, scope: str | None) -> str | None:  # noqa: ARG001 - as all marks
    """Differs when a day of the period was computed anew."""
    held = [f"{day}:{around.marks[day]}" for day in days_of(period) if day in around.marks]
    return hashlib.sha256("\n".join(held).encode()).hexdigest()[:32]


def _costs(around: Surroundings, period: Period, scope: str | None, mark: str) -> Made:
    from ml_registry_pipelines.reports.cost_report import cost_report

    return cost_report(around.lake, period, scope, mark=mark)


def _providers(around: Surroundings, period: Period, scope: str | None, mark: str) -> Made:
    from ml_registry_pipelines.reports.providers import provider_comparison

    return provider_comparison(around.lake, period, scope, mark=mark)


def _statement_mark(around: Surroundings, period: Period, scope: str | None) -> str | None:
    from ml_registry_pipelines.reports.statement_report import issued_statements

    if "statements" not in around.known:
        around.known["statements"] = issued_statements(around.log, around.operator)
    digest: str | None = around.known["statements"].get((str(scope), period.label))
    return digest


def _statement(around: Surroundings, period: Period, scope: str | None, mark: str) -> Made:
    from ml_registry_pipelines.reports.statement_report import tenant_statement

    return tenant_statement(around.log, period, str(scope), operator=around.operator, mark=mark)


def _decisions_mark(around: Surroundings, period: Period, scope: str | None) -> str | None:
    from ml_registry_pipelines.reports.experiment_readout import all_decided, decided_in, mark_of

    if "decided" not in around.known:
        around.known["decided"] = all_decided(around.lake)
    return mark_of(decided_in(around.known["decided"], period, scope))


def _decisions(around: Surroundings, period: Period, scope: str | None, mark: str) -> Made | None:
    from ml_registry_pipelines.reports.experiment_readout import experiment_readout

    return experiment_readout(around.lake, period, scope, mark=mark)


def _roi_mark(around: Surroundings, period: Period, scope: str | None) -> str | None:
    from ml_registry_pipelines.reports.roi_report import labels_by_day, mark_of, value_models

    known = f"roi of {scope}"
    if known not in around.known:
        around.known[known] = (value_models(around.log, str(scope)), labels_by_day(around.lake, str(scope)))
    declared, labels = around.known[known]
    return mark_of(declared, labels, around.marks, period)


def _roi(around: Surroundings, period: Period, scope: str | None, mark: str) -> Made | None:
    from ml_registry_pipelines.reports.roi_report import roi_report

    return roi_report(around.log, period, str(scope), mark=mark)


KINDS: dict[str, ReportKind] = {
    kind.name: kind
    for kind in (
        ReportKind(
            "cost_report",
            "what was spent, by model, provider and tenant",
            (DAY, WEEK, MONTH),
            of_all=True,
            from_logs=True,
            mark=figures_mark,
            make=_costs,
        ),
        ReportKind(
            "provider_comparison",
            "providers side by side: cost by type of token, latency, errors",
            (WEEK, DAY, MONTH),
            of_all=True,
            from_logs=True,
            mark=figures_mark,
            make=_providers,
        ),
        ReportKind(
            "roi_report",
            "what models returned by each value model, as an interval",
            (MONTH, WEEK),
            of_all=False,
            from_logs=True,
            mark=_roi_mark,
            make=_roi,
        ),
        ReportKind(
            "tenant_statement",
            "what a tenant is charged for a month, once its statement is issued",
            (MONTH,),
            of_all=False,
            from_logs=False,
            mark=_statement_mark,
            make=_statement,
        ),
        ReportKind(
            "experiment_readout",
            "experiments that were looked at: outcome, intervals, gates, arms",
            (WEEK, DAY, MONTH),
            of_all=True,
            from_logs=False,
            mark=_decisions_mark,
            make=_decisions,
        ),
    )
}
"""Every report by name."""
