"""All rules looked at once: what they find becomes the open alerts, and a rule that fails one of its own.

A rule is a name, the kinds of its alerts and a function that finds them. Whoever has another one
adds it to `RULES`; its kinds are then opened, escalated and resolved like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from ml_registry_pipelines.costs.budget_spend import (
    BudgetStatus,
    budget_statuses,
    sum_up_budget_tags,
)
from ml_registry_pipelines.costs.budgets import Budget, all_budgets
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.operations import budget_alerts as of_budgets
from ml_registry_pipelines.operations import data_protection_alerts as of_data_protection
from ml_registry_pipelines.operations import platform_alerts as of_platform
from ml_registry_pipelines.operations import traffic_alerts as of_traffic
from ml_registry_pipelines.operations.acknowledging import note_acknowledgements
from ml_registry_pipelines.operations.alert_rules import AlertRules, RulesError, configured_rules
from ml_registry_pipelines.operations.alerts import Alert, Alerts, Settled, Severity
from ml_registry_pipelines.registry.tenants import zone_of

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.telemetry.performance import Statistics

RULE_FAILED = "rule_failed"
TAG_SECONDS = 15.0
"""How long one look sums up tags of budgets; the next one goes on."""


@dataclass
class Look:
    """What rules look at: the lake, the log where there is one, the thresholds and the time."""

    lake: Lake
    log: Log | None
    rules: AlertRules
    now: datetime
    _statistics: dict[int, Statistics] = field(default_factory=dict)

    def statistics(self, hours: int) -> Statistics:
        """Requests of the last hours by tenant, provider and model."""
        if hours not in self._statistics:
            self._statistics[hours] = of_traffic.recent_statistics(self.lake, hours, self.now)
        return self._statistics[hours]


@dataclass(frozen=True)
class Rule:
    """One rule. `name` is the field of `AlertRules` that holds its thresholds."""

    name: str
    kinds: tuple[str, ...]
    find: Callable[[Look], Iterable[Alert]]


@dataclass(frozen=True)
class Evaluated:
    """What a look came to. `failed`: rules that could not be looked at, and why."""

    settled: Settled
    found: int
    failed: Mapping[str, str]


def budgets_now(
    lake: Lake,
    log: Log | None,
    *,
    now: datetime,
    windows: tuple[int, ...] = (),
    tag_seconds: float = TAG_SECONDS,
    tenant: str | None = None,
) -> list[BudgetStatus]:
    """How the budgets of all tenants, or of one, stand, their tags summed up first."""
    if log is None or not lake.exists("governance_events"):
        return []
    budgets = [budget for budget in all_budgets(log) if tenant in {None, budget.tenant}]
    zones = _zones(log, budgets)
    sum_up_budget_tags(lake, budgets, zones, at=now, seconds=tag_seconds)
    return budget_statuses(lake, budgets, zones, at=now, windows=windows)


def _zones(log: Log, budgets: Iterable[Budget]) -> dict[str, ZoneInfo]:
    return {tenant: zone_of(log, tenant) for tenant in sorted({budget.tenant for budget in budgets})}


def _budgets(look: Look) -> Iterable[Alert]:
    rule = look.rules.budgets
    found = budgets_now(look.lake, look.log, now=look.now, windows=of_budgets.windows(rule))
    return of_budgets.budget_alerts(found, rule)


RULES: tuple[Rule, ...] = (
    Rule("budgets", of_budgets.KINDS, _budgets),
    Rule(
        "error_rate",
        (of_traffic.ERROR_RATE,),
        lambda look: of_traffic.error_rate_alerts(
            look.statistics(look.rules.error_rate.hours), look.rules.error_rate
        ),
    ),
    Rule(
        "slow_requests",
        (of_traffic.SLOW_REQUESTS,),
        lambda look: of_traffic.slow_request_alerts(
            look.statistics(look.rules.slow_requests.hours), look.rules.slow_requests
        ),
    ),
    Rule(
        "quality_drift",
        (of_traffic.QUALITY_DRIFT,),
        lambda look: of_traffic.quality_drift_alerts(look.lake, look.rules.quality_drift, look.now),
    ),
    Rule(
        "late_data",
        (of_traffic.LATE_DATA, of_traffic.SILENT_TENANT),
        lambda look: of_traffic.late_data_alerts(look.lake, look.rules.late_data, look.now),
    ),
    Rule(
        "slow_queries",
        (of_platform.SLOW_QUERIES,),
        lambda look: of_platform.slow_query_alerts(look.lake, look.rules.slow_queries, look.now),
    ),
    Rule(
        "storage",
        (of_platform.STORAGE,),
        lambda look: of_platform.storage_alerts(look.lake, look.rules.storage),
    ),
    Rule(
        "data_protection",
        (of_data_protection.DEADLINE,),
        lambda look: of_data_protection.deadline_alerts(look.log, look.rules.data_protection, look.now),
    ),
)


def evaluate_rules(
    lake: Lake,
    log: Log | None,
    *,
    rules: tuple[Rule, ...] = RULES,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Evaluated:
    """Look at all rules; open, escalate, resolve and remind accordingly, in one commit each.

    A rule that fails leaves its open alerts as they are. Where the file of the rules cannot be
    used, the defaults hold, and an alert says so.
    """
    alerts = Alerts(lake, now=now)
    failed: dict[str, str] = {}
    try:
        thresholds = configured_rules(lake.root)
    except RulesError as wrong:
        thresholds = AlertRules()
        failed["alert-rules.yaml"] = str(wrong)
    look = Look(lake, log, thresholds, now())
    current: list[Alert] = []
    kinds = {RULE_FAILED}
    cooldown: dict[str, timedelta] = {}
    for rule in rules:
        settings = getattr(thresholds, rule.name)
        cooldown |= dict.fromkeys(rule.kinds, timedelta(minutes=settings.cooldown_minutes))
        try:
            found = list(rule.find(look)) if settings.enabled else []
        except _faults() as wrong:
            failed[rule.name] = _words(wrong)
            continue
        kinds.update(rule.kinds)
        current += found
    current += [_failure(name, why) for name, why in failed.items()]
    settled = alerts.settle(kinds, current, because="It does not hold any more.", cooldown=cooldown)
    if log is not None:
        note_acknowledgements(log, alerts)
    reminded = alerts.remind()
    return Evaluated(_both(settled, reminded), len(current) - len(failed), failed)


def _failure(name: str, why: str) -> Alert:
    return Alert(
        RULE_FAILED,
        name,
        Severity.ERROR,
        f"Alerts of the rule {name} cannot be looked for"
        if name in AlertRules.model_fields
        else f"{name} cannot be used",
        f"{why}. {'Its open alerts stay as they are' if name in AlertRules.model_fields else 'The defaults hold'} "
        "meanwhile; other rules go on.",
    )


@cache
def _faults() -> tuple[type[Exception], ...]:
    """What bad data, a full disk or a store that is away raise: a fault of one rule, which must not stop the others."""
    import duckdb
    import pyarrow as pa

    return (
        MlregError,
        duckdb.Error,
        pa.ArrowException,
        ArithmeticError,
        LookupError,
        ValueError,
        TypeError,
        OSError,
    )


def _words(wrong: Exception) -> str:
    text = " ".join(str(wrong).split())[:500] or type(wrong).__name__
    return text if isinstance(wrong, MlregError) else f"{type(wrong).__name__}: {text}"


def _both(first: Settled, second: Settled) -> Settled:
    return Settled(**{name: value + getattr(second, name) for name, value in vars(first).items()})
