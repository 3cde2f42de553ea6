"""`mlreg allocation` and `mlreg statements`: who bears shared costs, and what tenants are charged."""

from __future__ import annotations

import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.support import desk, key_option, open_log, tenant_option
from ml_registry_pipelines.costs.allocation_rules import COSTS, OVER

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.allocation_rules import Allocation, AllocationRules
    from ml_registry_pipelines.costs.statements.issuing import Statements
    from ml_registry_pipelines.costs.statements.statement import Statement
    from ml_registry_pipelines.registry.log import Log

MONTH = click.DateTime(["%Y-%m"])
FORMS = ("table", "csv", "html")


@click.group()
def allocation() -> None:
    """Rules for shared costs, recorded in the operator's tenant."""


@click.group()
def statements() -> None:
    """What tenants are charged for a month."""


def attach(cli: click.Group) -> None:
    """Add the groups to `mlreg`."""
    cli.add_command(allocation)
    cli.add_command(statements)


@allocation.command("add")
@click.argument("name")
@click.argument("cost", type=click.Choice(COSTS))
@click.argument("over", type=click.Choice(OVER))
@click.option("--amount", help="Of a fee: so much a month.")
@click.option("--currency", help="Of a fee.")
@click.option("--provider", help="Whose bill.")
@click.option("--sub-account", help="Bill lines of this project, workspace ..., or a pattern with *.")
@click.option("--line-item", help="Bill lines of this item, or a pattern with *.")
@click.option("--charge", help="Bill lines of this kind: usage, purchase, tax, credit or adjustment.")
@click.option(
    "--to", "tenants", multiple=True, help="Who bears it; by default all with traffic in the month."
)
@click.option("--share", "shares", multiple=True, metavar="TENANT=WEIGHT", help="Of fixed shares.")
@click.option("--from", "first_month", type=MONTH, help="First month; by default since ever.")
@click.option("--until", "last_month", type=MONTH, help="Last month, itself included; by default none.")
@click.option("--priority", type=int, default=0, show_default=True, help="The highest has a bill line first.")
@click.option("--note", default="", help="Why.")
@tenant_option
@key_option
def allocation_add(
    name: str,
    cost: str,
    over: str,
    amount: str | None,
    shares: tuple[str, ...],
    first_month: datetime | None,
    last_month: datetime | None,
    key: str | None,
    **given: Any,
) -> None:
    """Share a cost over tenants."""
    from ml_registry_pipelines.costs.allocation_rules import NewAllocation, parse_amount

    rule = NewAllocation(
        name,
        cost,
        over,
        amount=None if amount is None else parse_amount(amount, "amount"),
        shares=_shares(shares),
        first_month=_day(first_month),
        last_month=_day(last_month),
        **given,
    )
    with open_log() as log:
        _show_rule(_rules(log).add(rule, idempotency_key=key))


@allocation.command("list")
@tenant_option
def allocation_list() -> None:
    """List the rules, those first that take a bill line before the others."""
    with open_log() as log:
        found = _rules(log).rules()
    if not found:
        click.echo("there is no rule; every tenant is charged its own usage alone")
    for rule in found:
        _show_rule(rule)


@allocation.command("end")
@click.argument("name")
@click.argument("last_month", type=MONTH, metavar="LAST_MONTH")
@tenant_option
@key_option
def allocation_end(name: str, last_month: datetime, key: str | None) -> None:
    """Let a rule end with a month, itself included."""
    with open_log() as log:
        _show_rule(_rules(log).end(name, last_month=last_month.date(), idempotency_key=key))


@allocation.command("remove")
@click.argument("name")
@tenant_option
@key_option
def allocation_remove(name: str, key: str | None) -> None:
    """Take back a rule that was never right; the log keeps that it was there."""
    with open_log() as log:
        click.echo(f"{_rules(log).remove(name, idempotency_key=key).name}  removed")


@allocation.command("preview")
@click.argument("month", type=MONTH)
@tenant_option
def allocation_preview(month: datetime) -> None:
    """Say who would bear what of a month's shared costs, and what nobody would."""
    from ml_registry_pipelines.costs.allocation import allocate
    from ml_registry_pipelines.costs.statements.computing import TABLES

    with open_log() as log:
        rules = _rules(log).rules()
        with log.lake.read(*TABLES) as reading:
            found = allocate(reading, rules, month.date())
    for part in found.parts:
        click.echo(f"{part.tenant}  {part.amount:f} {part.currency}  {part.description}")
    for left in found.left:
        click.echo(f"nobody: {left.amount:f} {left.currency}  {left.rule}: {left.reason}", err=True)
    if not found.parts and not found.left:
        click.echo("nothing is shared in this month")


@statements.command("show")
@click.argument("tenant")
@click.argument("month", type=MONTH)
@click.option("--draft", is_flag=True, help="What it would say now, whether or not it was issued.")
@click.option("--format", "form", type=click.Choice(FORMS), default="table", show_default=True)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file, instead of the terminal."
)
@click.option("--operator", help="Tenant that issues statements; default: MLREG_TENANT.")
def statements_show(
    tenant: str, month: datetime, draft: bool, form: str, output: Path | None, operator: str | None
) -> None:
    """Show a statement as it was issued, or as a draft."""
    from ml_registry_pipelines.reports.statements import statement_csv, statement_page

    with open_log() as log:
        held = _statements(log, operator)
        statement = held.draft(tenant, month.date()) if draft else held.show(tenant, month.date())
    match form:
        case "csv":
            text = statement_csv(statement)
        case "html":
            text = statement_page(statement)
        case _:
            text = _as_text(statement)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


@statements.command("issue")
@click.argument("month", type=MONTH)
@click.argument("tenants", nargs=-1, metavar="[TENANT]...")
@click.option("--operator", help="Tenant that issues statements; default: MLREG_TENANT.")
@key_option
def statements_issue(
    month: datetime, tenants: tuple[str, ...], operator: str | None, key: str | None
) -> None:
    """Issue the statements of a month: to these tenants, or to all that have something in it."""
    from ml_registry_pipelines.reports.statements import issue_and_write

    with open_log() as log:
        held = _statements(log, operator)
        done = issue_and_write(held, month.date(), tenants, key=key)
        left = held.unallocated(month.date())
    for statement in done:
        click.echo(f"{statement.tenant}  {statement.month:%Y-%m}  {_total(statement)}  {statement.id[:16]}")
    if not done:
        click.echo(f"no tenant lacks a statement for {month:%Y-%m}")
    for one in left:
        click.echo(f"nobody bears {one.amount:f} {one.currency} of {one.rule}: {one.reason}", err=True)
    if left:
        sys.exit(1)


@statements.command("list")
@click.argument("tenant", required=False)
@click.option("--operator", help="Tenant that issues statements; default: MLREG_TENANT.")
def statements_list(tenant: str | None, operator: str | None) -> None:
    """List the statements that were issued."""
    with open_log() as log:
        found = _statements(log, operator).issued(tenant)
    if not found:
        click.echo("no statement was issued")
    for statement in found:
        click.echo(
            f"{statement.tenant}  {statement.month:%Y-%m}  {_total(statement)}  "
            f"issued {statement.issued_at:%Y-%m-%d %H:%M}Z by {statement.actor}  {statement.id[:16]}"
        )


def _as_text(statement: Statement) -> str:
    when = (
        "draft"
        if statement.issued_at is None
        else f"issued {statement.issued_at:%Y-%m-%d %H:%M}Z by {statement.actor}"
    )
    lines = [f"{statement.tenant}  {statement.month:%Y-%m}  {when}"]
    for line in statement.lines:
        amount = "not priced" if line.amount is None else f"{line.amount:f} {line.currency}"
        if line.amount is None and not line.billable_requests:
            amount = "not billed"
        counted = "" if line.requests is None else f"  {line.requests:,} requests, {line.tokens:,} tokens"
        lines.append(f"{line.number:>4}  {line.kind:<10}  {amount:>28}  {line.description}{counted}")
    share = f"{statement.priced:,} of {statement.billable:,} billable requests are priced"
    lines.append(f"total  {_total(statement)}  ({share})")
    lines.append(f"digest {statement.id}")
    return "".join(f"{line}\n" for line in lines)


def _total(statement: Statement) -> str:
    return (
        " + ".join(f"{amount:f} {currency}" for currency, amount in statement.totals.items()) or "not priced"
    )


def _shares(given: tuple[str, ...]) -> dict[str, Decimal]:
    from ml_registry_pipelines.costs.allocation_rules import parse_amount

    if wrong := [share for share in given if "=" not in share]:
        raise click.UsageError(f"a share is TENANT=WEIGHT, not {wrong[0]!r}")
    pairs = (share.rpartition("=") for share in given)
    return {tenant: parse_amount(weight, f"the share of {tenant}") for tenant, _, weight in pairs}


def _show_rule(held: Allocation) -> None:
    rule = held.rule
    start = "since ever" if rule.first_month is None else f"from {rule.first_month:%Y-%m}"
    end = "" if rule.last_month is None else f" to {rule.last_month:%Y-%m}"
    shares = " ".join(f"{tenant}={share:f}" for tenant, share in rule.shares.items())
    to = shares or ", ".join(rule.tenants) or "all with traffic"
    note = f"  ({rule.note})" if rule.note else ""
    click.echo(f"{rule.name}  {rule.says()} -> {rule.over}: {to}  {start}{end}  by {held.actor}{note}")


def _rules(log: Log) -> AllocationRules:
    from ml_registry_pipelines.costs.allocation_rules import AllocationRules

    return AllocationRules(log, **desk())


def _statements(log: Log, operator: str | None) -> Statements:
    from ml_registry_pipelines.costs.statements.issuing import Statements

    acting = desk()
    return Statements(log, **(acting if operator is None else {**acting, "tenant": operator}))


def _day(month: datetime | None) -> date | None:
    return None if month is None else month.date()
