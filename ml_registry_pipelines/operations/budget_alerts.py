"""Alerts of budgets: spent, burning fast, to be exceeded by forecast, or not fully known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC
from decimal import Decimal

from ml_registry_pipelines.costs.budget_spend import BudgetStatus, Burn
from ml_registry_pipelines.costs.forecasting import BAND
from ml_registry_pipelines.operations.alert_rules import BudgetRule
from ml_registry_pipelines.operations.alerts import Alert, Severity

SPENT, BURN, FORECAST, COVERAGE = "budget_spent", "budget_burn", "budget_forecast", "budget_coverage"
KINDS = (SPENT, BURN, FORECAST, COVERAGE)


def windows(rule: BudgetRule) -> tuple[int, ...]:
    """Hours of the windows whose burn rates the rule needs."""
    return tuple(sorted({*rule.fast_hours, *rule.slow_hours}))


def budget_alerts(statuses: Sequence[BudgetStatus], rule: BudgetRule) -> Iterator[Alert]:
    """What is to be said of budgets; at most one alert of each kind for each."""
    for status in statuses:
        for found in (
            _spent(status, rule),
            _burning(status, rule),
            _forecast(status, rule),
            _unknown(status, rule),
        ):
            if found is not None:
                kind, severity, title, message = found
                yield Alert(
                    kind,
                    f"{status.budget.tenant}/{status.budget.name}/{status.period.label}",
                    severity,
                    title,
                    f"{message} {_figures(status)}",
                    tenant=status.budget.tenant,
                )


_Found = tuple[str, Severity, str, str] | None


def _spent(status: BudgetStatus, rule: BudgetRule) -> _Found:
    budget = status.budget
    if status.share is None:
        if not status.exceeded:
            return None
        amounts = {budget.currency: status.spent, **status.unconverted}
        said = " and ".join(money(amount, currency) for currency, amount in amounts.items() if amount)
        return (
            SPENT,
            Severity.ERROR,
            f"{_name(status)} is zero, and {said} is spent",
            "Nothing was to be spent at all.",
        )
    reached = [share for share in budget.alert_at or rule.shares if status.share >= share]
    if not reached:
        return None
    return (
        SPENT,
        Severity.ERROR if max(reached) >= 1 or status.share >= 1 else Severity.WARNING,
        f"{_name(status)}: {_percent(status.share)} is spent in {status.period.label}",
        f"An alert was asked for at {_percent(max(reached))}.",
    )


def _burning(status: BudgetStatus, rule: BudgetRule) -> _Found:
    """A fast burn needs both of its windows: the long one that it matters, the short one that it goes on.

    Multi-window, multi-burn-rate alerts: The Site Reliability Workbook, chapter 5.
    """
    burns = {burn.hours: burn for burn in status.burns}
    for severity, hours, least in (
        (Severity.ERROR, rule.fast_hours, rule.fast_rate),
        (Severity.WARNING, rule.slow_hours, rule.slow_rate),
    ):
        both = [burns[each] for each in hours]
        if all(burn.rate is not None and burn.rate >= Decimal(str(least)) for burn in both):
            return (
                BURN,
                severity,
                f"{_name(status)} burns {_rate(both[0])} times as fast as planned",
                f"{_said(both[0], status)} and {_said(both[1], status)}; an alert was asked for from {least:g} on.",
            )
    return None


def _forecast(status: BudgetStatus, rule: BudgetRule) -> _Found:
    found, budget = status.forecast, status.budget
    if found is None or not rule.forecast or status.exceeded or found.cost <= budget.amount:
        return None
    sure = found.low > budget.amount
    by_the_end = f"about {money(found.cost, budget.currency)} by the end of {status.period.label}"
    between = f"{money(found.low, budget.currency)} to {money(found.high, budget.currency)}"
    return (
        FORECAST,
        Severity.ERROR if sure else Severity.WARNING,
        f"{_name(status)} will be exceeded: {by_the_end}",
        f"By the weekdays of the last {found.days} days it comes to {between} ({BAND:.0%}).",
    )


def _unknown(status: BudgetStatus, rule: BudgetRule) -> _Found:
    """Where the figure is surely too low, silence would be taken for thrift."""
    reasons = []
    if status.coverage is not None and status.coverage < Decimal(str(rule.least_coverage)):
        missing = status.billable - status.priced
        reasons.append(f"{missing:,} of {status.billable:,} billable requests have no price")
    if status.unconverted:
        amounts = " and ".join(money(amount, currency) for currency, amount in status.unconverted.items())
        reasons.append(
            f"{amounts} beside it cannot be converted to {status.budget.currency}: no rate is known"
        )
    if status.pending_days:
        reasons.append(f"{status.pending_days} days are not summed up by tag yet")
    if not reasons:
        return None
    return (
        COVERAGE,
        Severity.WARNING,
        f"{_name(status)}: more is spent than is known",
        f"{'; '.join(reasons)}. `mlreg budgets show` says more; add prices or rates.",
    )


def _name(status: BudgetStatus) -> str:
    return f"Budget {status.budget.name} of tenant {status.budget.tenant}"


def _figures(status: BudgetStatus) -> str:
    budget, period = status.budget, status.period
    start = period.start.astimezone(period.zone)
    covered = f", {_percent(status.coverage)} of requests priced" if status.coverage is not None else ""
    version = "" if status.costs_version is None else f", version {status.costs_version} of model_costs"
    return (
        f"{money(status.spent, budget.currency)} of {money(budget.amount, budget.currency)} since "
        f"{start:%Y-%m-%d %H:%M} ({period.zone.key}) for {budget.covers()}{covered}; from batch "
        f"{status.sequence}{version}."
    )


def _said(burn: Burn, status: BudgetStatus) -> str:
    return (
        f"{money(burn.spent, status.budget.currency)} since {burn.start.astimezone(UTC):%H:%M}Z of "
        f"{burn.start.astimezone(UTC):%Y-%m-%d} ({_rate(burn)} times)"
    )


def _rate(burn: Burn) -> str:
    return f"{burn.rate or 0:.1f}"


def _percent(share: Decimal | None) -> str:
    return f"{(share or Decimal(0)) * 100:.1f} %"


def money(amount: Decimal, currency: str) -> str:
    """An amount in cents, and with more decimals where it would read as nothing."""
    decimals = 2 if amount == 0 or abs(amount) >= Decimal("0.005") else 12
    return f"{amount:,.{decimals}f} {currency}"
