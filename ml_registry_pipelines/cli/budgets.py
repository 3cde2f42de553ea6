"""`mlreg budgets` and `mlreg tenants`: what may be spent, and where a tenant's days begin. A door and no more."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import (
    admit_to,
    as_of_option,
    desk,
    key_option,
    open_log,
    show_lines,
    tenant,
    tenant_option,
    utc,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from ml_registry_pipelines.costs.budget_spend import BudgetStatus
    from ml_registry_pipelines.costs.budgets import Budget, Budgets
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.tenants import Tenants


@click.group()
def budgets() -> None:
    """How much may be spent on what in a day, week or month; what is spent is read from the ledger."""


@budgets.command("set")
@click.argument("name")
@click.option("--amount", required=True, help="Such as 1500 or 99.50; 0: nothing may be spent.")
@click.option("--currency", default="USD", show_default=True, help="ISO 4217 code.")
@click.option("--period", type=click.Choice(["day", "week", "month"]), default="month", show_default=True)
@click.option("--provider", help="Only this provider; * stands for anything.")
@click.option("--model", help="Only this model, as logs name it; * stands for anything.")
@click.option("--application", help="Only this application; * stands for anything.")
@click.option("--registered-model", help="Only what attribution assigns to this model of the registry.")
@click.option("--tag", metavar="NAME=VALUE", help="Only requests with this tag.")
@click.option(
    "--alert-at", multiple=True, metavar="SHARE", help="Share to alert at, such as 0.8; repeatable."
)
@click.option("--note", default="")
@key_option
@tenant_option
def budgets_set(
    name: str,
    amount: str,
    currency: str,
    period: str,
    alert_at: tuple[str, ...],
    note: str,
    key: str | None,
    **conditions: str | None,
) -> None:
    """Make the budget NAME, or give it other terms."""
    from ml_registry_pipelines.costs.budgets import NewBudget

    given = NewBudget(name, amount, currency, period, conditions, alert_at, note)
    with open_log() as log:
        done = _budgets(log).set(given, idempotency_key=key)
    click.echo(_sentence(done))


@budgets.command("load")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@key_option
@tenant_option
def budgets_load(file: Path, key: str | None) -> None:
    """Set all budgets of a YAML FILE, or none; others stay as they are."""
    from ml_registry_pipelines.costs.budget_file import read_budgets

    given = read_budgets(file.read_text("utf-8", "replace"), file=str(file))
    with open_log() as log:
        for done in _budgets(log).set_many(given, idempotency_key=key):
            click.echo(_sentence(done))


@budgets.command("list")
@as_of_option
@tenant_option
def budgets_list(as_of: datetime | None) -> None:
    """List budgets and what is spent of them in the period under way; with --as-of, only their terms then."""
    from ml_registry_pipelines.operations.evaluating import budgets_now

    with open_log() as log:
        if as_of is not None:
            for budget in _budgets(log).list(as_of=utc(as_of)):
                click.echo(_sentence(budget))
            return
        admit_to(log, tenant())
        found = budgets_now(log.lake, log, now=datetime.now(UTC), tenant=tenant())
    for status in found:
        share = "" if status.share is None else f"  {status.share:.1%}"
        unsure = "" if _certain(status) else "  (more than is known)"
        click.echo(
            f"{_sentence(status.budget)}: {_money(status.spent, status.budget.currency)} spent in "
            f"{status.period.label}{share}{unsure}"
        )
    if not found:
        click.echo(f"tenant {tenant()} has no budget; `mlreg budgets set` makes one")


@budgets.command("show")
@click.argument("name")
@tenant_option
def budgets_show(name: str) -> None:
    """Show all about a budget: spent, burn rates, forecast, coverage, and what it was read from."""
    from ml_registry_pipelines.operations.alert_rules import configured_rules
    from ml_registry_pipelines.operations.budget_alerts import windows
    from ml_registry_pipelines.operations.evaluating import budgets_now

    with open_log() as log:
        wanted = _budgets(log).get(name)
        hours = windows(configured_rules(log.lake.root).budgets)
        found = budgets_now(log.lake, log, now=datetime.now(UTC), windows=hours, tenant=tenant())
    _show(next(status for status in found if status.budget.id == wanted.id))


@budgets.command("remove")
@click.argument("name")
@key_option
@tenant_option
def budgets_remove(name: str, key: str | None) -> None:
    """End a budget."""
    with open_log() as log:
        click.echo(f"{_budgets(log).remove(name, idempotency_key=key).name} is no budget any more")


@click.group()
def tenants() -> None:
    """Settings of a tenant."""


@tenants.command("show")
@tenant_option
def tenants_show() -> None:
    """Show the tenant's settings."""
    with open_log() as log:
        found = _tenants(log).settings()
    since = (
        f"since {found.recorded_at:%Y-%m-%d %H:%M:%S}Z by {found.actor}"
        if found.recorded_at
        else "by default"
    )
    show_lines({"tenant": found.tenant, "time zone": f"{found.time_zone}, {since}"})


@tenants.command("set-time-zone")
@click.argument("zone")
@key_option
@tenant_option
def tenants_set_time_zone(zone: str, key: str | None) -> None:
    """Let days, weeks and months of the tenant begin at midnight in ZONE, such as Europe/Berlin."""
    with open_log() as log:
        done = _tenants(log).set_time_zone(zone, idempotency_key=key)
    click.echo(f"days of {done.tenant} begin at midnight in {done.time_zone}")


def _budgets(log: Log) -> Budgets:
    from ml_registry_pipelines.costs.budgets import Budgets

    return Budgets(log, **desk())


def _tenants(log: Log) -> Tenants:
    from ml_registry_pipelines.registry.tenants import Tenants

    return Tenants(log, **desk())


def _sentence(budget: Budget) -> str:
    return f"{budget.name}  {_money(budget.amount, budget.currency)} a {budget.period.value} for {budget.covers()}"


def _certain(status: BudgetStatus) -> bool:
    return status.billable == status.priced and not status.unconverted and not status.pending_days


def _show(status: BudgetStatus) -> None:
    from ml_registry_pipelines.costs.forecasting import BAND, LEAST_DAYS

    budget, period = status.budget, status.period
    currency = budget.currency
    start, end = (moment.astimezone(period.zone) for moment in (period.start, period.end))
    forecast = status.forecast
    lines: dict[str, object] = {
        "budget": _sentence(budget),
        "period": f"{period.label}, {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} {period.zone.key}",
        "spent": f"{_money(status.spent, currency)}{'' if status.share is None else f', {status.share:.1%}'}",
        "beside it": ", ".join(
            f"{_money(amount, other)} (no rate to {currency})" for other, amount in status.unconverted.items()
        ),
        "coverage": (
            "nothing was billable"
            if status.coverage is None
            else f"{status.coverage:.1%} of {status.billable:,} billable requests are priced"
            + (f", {status.assumed:,} at assumed prices" if status.assumed else "")
        ),
        "not summed up": f"{status.pending_days} days" if status.pending_days else "",
        "forecast": (
            f"none: it takes {LEAST_DAYS} whole days"
            if forecast is None
            else f"{_money(forecast.cost, currency)} by the end, {_money(forecast.low, currency)} to "
            f"{_money(forecast.high, currency)} ({BAND:.0%}, {forecast.days} days)"
        ),
        "alerts at": ", ".join(f"{share:.0%}" for share in budget.alert_at) or "as the rules say",
        "note": budget.note,
        "from": f"batch {status.sequence}, version {status.costs_version} of model_costs",
    }
    for burn in status.burns:
        rate = "-" if burn.rate is None else f"{burn.rate:.2f}"
        lines[f"last {burn.hours} h"] = f"{_money(burn.spent, currency)}, {rate} times as fast as planned"
    show_lines(lines)


def _money(amount: Decimal, currency: str) -> str:
    from ml_registry_pipelines.operations.budget_alerts import money

    return money(amount, currency)


def attach(cli: click.Group) -> None:
    """Add these commands to `mlreg`."""
    cli.add_command(budgets)
    cli.add_command(tenants)
