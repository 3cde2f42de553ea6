"""`mlreg costs`: the ledger from a shell: price anew, close months, rates of exchange, export. A door and no more.

The group's questions (summary, trends, roi, compare) are in `costs_analytics.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import LIMIT, key_option, open_lake, open_log, shell_actor
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.catalog import CatalogSync
    from ml_registry_pipelines.costs.closing import Closings
    from ml_registry_pipelines.costs.repricing import Repriced
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log

DAY = click.DateTime(["%Y-%m-%d"])
MONTH = click.DateTime(["%Y-%m"])
SHOWN_DAYS = 10


@click.group()
def costs() -> None:
    """What requests cost and returned; price anew, close months, rates of exchange, export."""


def attach(cli: click.Group) -> None:
    """Add the group to `mlreg`."""
    cli.add_command(costs)


def sync_prices(lake: Lake) -> CatalogSync:
    """Bring the catalogue up to price lists and contracts, and the rates of exchange up to their file."""
    from ml_registry_pipelines.costs.catalog import sync_catalog
    from ml_registry_pipelines.costs.contracts import configured_contracts
    from ml_registry_pipelines.costs.currencies import add_rates, configured_rates

    settings = Settings.from_environment()
    if rates := configured_rates(settings.home):
        add_rates(lake, rates)
    return sync_catalog(lake, configured_contracts(settings.home, settings.contract_file))


# -- pricing anew ----------------------------------------------------------------------------------


@costs.command("reprice")
@click.option("--since", type=DAY, help="First day (UTC); default: the first with costs.")
@click.option("--until", type=DAY, help="Last day, itself included; default: the last with costs.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and leave all costs as they are.")
def costs_reprice(since: datetime | None, until: datetime | None, dry_run: bool) -> None:
    """Sync prices, price past days anew, and roll them up: open months are replaced, closed ones corrected."""
    from ml_registry_pipelines.costs.attribution_gaps import refresh_gaps
    from ml_registry_pipelines.costs.ledger import days_priced
    from ml_registry_pipelines.costs.repricing import reprice
    from ml_registry_pipelines.costs.rollups import roll_up_costs

    first, last = (None if day is None else day.date() for day in (since, until))
    if first and last and first > last:
        raise click.UsageError(f"--since {first} is after --until {last}")
    with open_lake() as lake:
        sync_prices(lake)
        days = days_priced(lake, since=first, until=last)
        for line in _repricing(reprice(lake, days, dry_run=dry_run), dry_run=dry_run):
            click.echo(line)
        rolled = () if dry_run else roll_up_costs(lake, days).and_then(refresh_gaps(lake, days)).days
        if rolled:
            click.echo(f"rolled up {len(rolled)} days, {min(rolled)} to {max(rolled)}")


def _repricing(done: list[Repriced], *, dry_run: bool) -> Iterator[str]:
    """The days that changed, the newest of many, by tenant and currency, and their sum."""
    changed = [day for day in done if day.changed]
    if not changed:
        yield f"nothing changes: {sum(day.rows for day in done):,} rows of {len(done)} days"
        return
    if len(changed) > SHOWN_DAYS:
        yield f"... {len(changed) - SHOWN_DAYS} earlier days"
    for day in changed[-SHOWN_DAYS:]:
        yield f"{day.day}  {day.changed:,} of {day.rows:,} rows  {_amounts([day])}"
        for one in day.changes:
            if one.before != one.after:
                booked = "  booked as a correction" if one.corrected else ""
                yield f"  {one.tenant}  {_amount(one.before)} -> {_amount(one.after)} {one.currency}{booked}"
    corrected = sum(day.corrected for day in changed)
    yield (
        f"{sum(day.changed for day in changed):,} rows of {len(changed)} days "
        f"{'would change' if dry_run else 'changed'}: {_amounts(changed)}"
        + (f"; {corrected:,} of them in closed months, by corrections" if corrected else "")
    )


def _amount(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount:,.6f}"


def _amounts(days: list[Repriced]) -> str:
    sums: dict[str, Decimal] = {}
    for day in days:
        for currency, amount in day.difference.items():
            sums[currency] = sums.get(currency, Decimal(0)) + amount
    return ", ".join(f"{amount:+,.6f} {currency}" for currency, amount in sorted(sums.items())) or "same cost"


# -- closing ---------------------------------------------------------------------------------------


@costs.command("close")
@click.argument("month", type=MONTH, required=False)
@click.option("--note", default="", help="Why, or under which number it was sent.")
@click.option(
    "--after",
    "after_days",
    type=int,
    metavar="DAYS",
    help="Let every month close so many days after its end.",
)
@click.option("--by-hand", is_flag=True, help="End that rule: months close by this command alone.")
@key_option
def costs_close(
    month: datetime | None, note: str, after_days: int | None, by_hand: bool, key: str | None
) -> None:
    """Close a month for good, or say when months do by themselves; of all tenants, unless MLREG_TENANT names one."""
    if (month is not None) + (after_days is not None) + by_hand != 1:
        raise click.UsageError("name a MONTH such as 2026-10, or give --after DAYS, or --by-hand")
    with open_log() as log:
        first = month.date() if month else None
        tenants = _tenants(log, first)
        if not tenants:
            raise click.UsageError("no tenant has costs then; take logs first, or name one with MLREG_TENANT")
        for tenant in tenants:
            desk = _closings(log, tenant)
            if first is None:
                desk.close_after(after_days, idempotency_key=key)
                says = "by hand" if by_hand else f"{after_days} days after their end"
                click.echo(f"{tenant}: months close {says}")
                continue
            if any(closing.month == first for closing in desk.closed()) and len(tenants) > 1:
                click.echo(f"{tenant}: {first:%Y-%m} was closed before")
                continue
            closing = desk.close(first, note=note, idempotency_key=key)
            booked = ", ".join(
                f"{_amount(one.cost)} {one.currency}" for one in closing.booked if one.currency
            )
            click.echo(f"{tenant}: {first:%Y-%m} is closed with {booked or 'nothing priced'}")


@costs.command("closed")
def costs_closed() -> None:
    """List closed months and what they were closed with; exit status 1 where the ledger says otherwise."""
    from ml_registry_pipelines.costs.closing import booked_in

    wrong = False
    with open_log() as log:
        for tenant in _tenants(log, None):
            desk = _closings(log, tenant)
            if (rule := desk.rule()) is not None:
                click.echo(f"{tenant}  months close {rule} days after their end")
            for closing in desk.closed():
                holds = booked_in(log.lake, tenant, closing.month) == closing.booked
                wrong = wrong or not holds
                booked = ", ".join(
                    f"{_amount(one.cost)} {one.currency}" for one in closing.booked if one.currency
                )
                click.echo(
                    f"{tenant}  {closing.month:%Y-%m}  {booked or 'nothing priced'}  "
                    f"{'holds' if holds else 'DIFFERS from the ledger'}  closed {closing.closed_at:%Y-%m-%d %H:%M}Z "
                    f"by {closing.actor}{f'  ({closing.note})' if closing.note else ''}"
                )
    if wrong:
        sys.exit(1)


def _tenants(log: Log, month: date | None) -> list[str]:
    from ml_registry_pipelines.costs.closing import tenants_with_costs

    only = Settings.from_environment().tenant
    return [only] if only else tenants_with_costs(log.lake, month)


def _closings(log: Log, tenant: str) -> Closings:
    from ml_registry_pipelines.costs.closing import Closings

    return Closings(log, actor=shell_actor(), tenant=tenant)


# -- rates of exchange -----------------------------------------------------------------------------


@costs.group("rates")
def rates() -> None:
    """Dated rates of exchange."""


@rates.command("add")
@click.argument("day", type=DAY)
@click.argument("base")
@click.argument("quote")
@click.argument("rate")
@click.option("--source", required=True, help="Who says so.")
def rates_add(day: datetime, base: str, quote: str, rate: str, source: str) -> None:
    """Say what one unit of BASE costs in QUOTE from DAY on: `add 2026-10-01 EUR USD 1.0842 --source ECB`."""
    from ml_registry_pipelines.costs.currencies import Rate, add_rates, parsed_rate

    with open_lake(needed=False) as lake:
        done = add_rates(lake, [Rate(day.date(), base.upper(), quote.upper(), parsed_rate(rate), source)])
    click.echo("1 rate added" if done.added else "this rate was there already")


@rates.command("sync")
@click.argument("file", required=False)
def rates_sync(file: str | None) -> None:
    """Take the rates of FILE, or of currency-rates.yaml below MLREG_HOME."""
    from ml_registry_pipelines.costs.currencies import add_rates, configured_rates

    home = Settings.from_environment().home
    with open_lake(needed=False) as lake:
        done = add_rates(lake, configured_rates(home, file))
    click.echo(f"{done.added:,} rates added, {done.unchanged:,} unchanged")


@rates.command("list")
@click.option("--since", type=DAY, help="First day (UTC).")
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="The newest so many.")
def rates_list(since: datetime | None, limit: int) -> None:
    """List rates, the newest last."""
    from ml_registry_pipelines.costs.currencies import rates_known

    with open_lake() as lake, lake.read("currency_rates") as reading:
        found = rates_known(reading, since=since.date() if since else None)
    for one in found[-limit:]:
        click.echo(f"{one.day}  {one.base}/{one.quote}  {one.rate:f}  {one.source}")
    if not found:
        click.echo("no rate is known; `mlreg costs rates add` adds one")


# -- export ----------------------------------------------------------------------------------------


@costs.command("export")
@click.option(
    "--focus", "form", flag_value="focus", default="focus", help="As FOCUS 1.2 rows (the only form)."
)
@click.option("--month", type=MONTH, required=True, help="Billing month, such as 2026-10.")
@click.option("--last-month", type=MONTH, help="Up to and including this one; default: the month alone.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help=".parquet or .csv."
)
@click.option("--tenant", help="Only this organisation's rows; default: MLREG_TENANT, else all.")
@click.option(
    "--currency", help="Billing currency, converted at the rate of each day; default: the prices' own."
)
@click.option("--account", default="default", show_default=True, help="BillingAccountId.")
def costs_export(
    form: str,  # noqa: ARG001 - there is one form; it is named so that a second one changes no call
    month: datetime,
    last_month: datetime | None,
    output: Path,
    tenant: str | None,
    currency: str | None,
    account: str,
) -> None:
    """Write the ledger as FOCUS 1.2, corrections included."""
    from ml_registry_pipelines.access.access_log import AccessLog
    from ml_registry_pipelines.costs.focus_files import FocusWish, export_focus

    wish = FocusWish(
        month.date(),
        last_month.date() if last_month else None,
        tenant or Settings.from_environment().tenant,
        account,
        currency,
    )
    with open_lake() as lake:
        done = export_focus(lake, wish, output)
        AccessLog(lake).note(
            shell_actor(), "export", "model_costs as FOCUS", tenant=wish.tenant, rows=done.rows
        )
    billed = ", ".join(f"{amount:,.6f} {code}" for code, amount in done.billed.items()) or "nothing billed"
    click.echo(f"{done.path}: {done.rows:,} rows, {billed}")
    if done.left_out:
        why = ", ".join(f"{count:,} {status}" for status, count in done.left_out.items())
        click.echo(
            f"left out, because their cost is not known: {why} (`mlreg prices missing` lists them)", err=True
        )
