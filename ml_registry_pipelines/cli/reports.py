"""`mlreg reports`: who gets which report, and what became of each delivery. A door; the work is in `reports/`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import (
    LIMIT,
    ask_for,
    desk,
    key_option,
    open_log,
    shell_actor,
    show_lines,
    tenant,
    tenant_option,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.reports.delivery.ledger import Delivery
    from ml_registry_pipelines.reports.delivery.subscriptions import ReportSubscriptions, Subscription

DAY = click.DateTime(["%Y-%m-%d"])


@click.group()
def reports() -> None:
    """Reports that are delivered when their day, week or month is over."""


def attach(cli: click.Group) -> None:
    """Add the group to `mlreg`."""
    cli.add_command(reports)


@reports.command("kinds")
def reports_kinds() -> None:
    """List the reports there are."""
    from ml_registry_pipelines.reports.kinds import KINDS

    for kind in KINDS.values():
        usual, *others = (each.value for each in kind.cadences)
        also = f"; also by {', '.join(others)}" if others else ""
        whom = "" if kind.of_all else "; of one tenant"
        click.echo(f"{kind.name}  {kind.about} (by {usual}{also}{whom})")


@reports.command("recipients")
def reports_recipients() -> None:
    """Check the file of recipients, and list those that the tenant may send to."""
    from ml_registry_pipelines.reports.delivery.recipients import FILE, configured_recipients

    with open_log() as log:
        found = configured_recipients(log.lake.root)
        home = log.lake.root
    own = [each for each in found.values() if each.takes_from(tenant())]
    for each in own:
        click.echo(f"{each.name}  {each.channel.value}  {each.place}")
    if not own:
        click.echo(f"tenant {tenant()} has no recipient; the operator keeps them in {home}/{FILE}")


@reports.command("subscribe")
@click.argument("name")
@click.argument("report")
@click.option("--to", "recipient", required=True, help="Recipient, by its name in report-recipients.yaml.")
@click.option("--about", metavar="TENANT", help="Whom it is about; default: the tenant; * for all.")
@click.option("--every", "cadence", type=click.Choice(["day", "week", "month"]), help="Default: as is usual.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["html", "csv", "markdown"]),
    help="What is sent; default: html and csv.",
)
@click.option("--from", "first", type=DAY, help="Day in the first period; default: the one under way.")
@tenant_option
@key_option
def reports_subscribe(
    name: str,
    report: str,
    recipient: str,
    about: str | None,
    cadence: str | None,
    formats: tuple[str, ...],
    first: datetime | None,
    key: str | None,
) -> None:
    """Let a recipient get REPORT of every period that is over."""
    from ml_registry_pipelines.reports.delivery.subscriptions import NewSubscription

    with open_log() as log:
        added = _desk(log).add(
            NewSubscription(
                name,
                report,
                recipient,
                about,
                cadence,
                formats or ("html", "csv"),
                None if first is None else first.date(),
            ),
            idempotency_key=key,
        )
    click.echo(f"{added.name}: {_says(added)}")


@reports.command("list")
@tenant_option
def reports_list() -> None:
    """List subscriptions."""
    with open_log() as log:
        for found in _desk(log).list():
            click.echo(f"{found.name}  {_says(found)}")


@reports.command("unsubscribe")
@click.argument("name")
@tenant_option
@key_option
def reports_unsubscribe(name: str, key: str | None) -> None:
    """End a subscription."""
    with open_log() as log:
        click.echo(f"{_desk(log).remove(name, idempotency_key=key).name} gets nothing any more")


@reports.command("redeliver")
@click.argument("name")
@click.option("--from", "first", type=DAY, required=True, help="Day in the first period that is sent again.")
@tenant_option
@key_option
def reports_redeliver(name: str, first: datetime, key: str | None) -> None:
    """Send reports again from some day on, those that were given up included."""
    with open_log() as log:
        found = _desk(log).redeliver(name, first.date(), idempotency_key=key)
    click.echo(f"{found.name} gets its reports from {found.first} on again, with the next delivery")


@reports.command("deliver")
@click.option("--seconds", default=300.0, show_default=True, help="About how long.")
def reports_deliver(seconds: float) -> None:
    """Send what is due, of all tenants; the sensor `due_reports` does it by itself."""
    from ml_registry_pipelines.operations.alerts import Alerts
    from ml_registry_pipelines.reports.delivery.courier import NOT_DELIVERED, Courier

    with open_log() as log:
        done = Courier(log).deliver(seconds=seconds)
        Alerts(log.lake).settle({NOT_DELIVERED}, done.alerts, because="The reports arrive again.")
    click.echo(f"{done.delivered:,} reports delivered, {done.corrected:,} corrected")
    for line in done.waiting:
        click.echo(f"waits: {line}")
    for line in (*done.problems, *done.failures):
        click.echo(line, err=True)
    if done.unfinished:
        click.echo("there is more to send: run it again")
    if done.failures or done.problems:
        sys.exit(1)


@reports.command("deliveries")
@click.argument("name", required=False)
@click.option("--limit", type=LIMIT, default=20, show_default=True)
@tenant_option
def reports_deliveries(name: str | None, limit: int) -> None:
    """What became of each delivery, the newest first; exit status 1 when some were given up."""
    from ml_registry_pipelines.reports.delivery.ledger import GIVEN_UP, Ledger

    with open_log() as log:
        known = {each.id: each.name for each in _desk(log).list() if name in {None, each.name}}
        if name is not None:
            _desk(log).get(name)
        found = [
            each for each in Ledger(log.lake, "shell").newest().values() if each.subscription_id in known
        ]
    found.sort(key=lambda each: each.recorded_at, reverse=True)
    for each in found[:limit]:
        click.echo(f"{known[each.subscription_id]}  {_became(each)}")
    if any(each.state == GIVEN_UP for each in found):
        sys.exit(1)


@reports.command("make")
@click.argument("report")
@click.argument("period")
@click.option("--about", metavar="TENANT", help="Whom it is about; default: the tenant; * for all.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder to copy the files to.")
@tenant_option
def reports_make(report: str, period: str, about: str | None, output: Path | None) -> None:
    """Make REPORT of PERIOD (2026-11-23, 2026-W48 or 2026-11) now, send it to nobody, and say where it is."""
    from ml_registry_pipelines.access.policy import admit
    from ml_registry_pipelines.registry.errors import InvalidInput
    from ml_registry_pipelines.registry.tenants import zone_of
    from ml_registry_pipelines.reports.calendar import period_named
    from ml_registry_pipelines.reports.delivery.editions import Editions
    from ml_registry_pipelines.reports.delivery.making import make_now
    from ml_registry_pipelines.reports.delivery.subscriptions import operator_tenant

    scope = None if about == "*" else about or tenant()
    if scope != tenant() and tenant() != operator_tenant():
        raise InvalidInput(f"tenant {tenant()!r} gets reports about itself alone")
    with open_log() as log:
        admit(log, shell_actor(), scope, what="reports make")
        # What is made is kept as an edition, beside those that were delivered.
        ask_for(log, "make_report", "report")
        asked = period_named(period, zone_of(log, scope or tenant()))
        edition, made = make_now(log, report, asked, scope)
        click.echo(made.markdown)
        show_lines(
            {"page": f"{log.lake.root}/{edition.path}.html", "figures": f"{log.lake.root}/{edition.path}.csv"}
        )
        if output is not None:
            for ending in ("html", "csv", "md"):
                target = output / f"{edition.report}-{edition.period}.{ending}"
                output.mkdir(parents=True, exist_ok=True)
                target.write_bytes(Editions(log.lake).file(edition, ending))


def _desk(log: Log) -> ReportSubscriptions:
    from ml_registry_pipelines.reports.delivery.subscriptions import ReportSubscriptions

    return ReportSubscriptions(log, **desk())


def _says(found: Subscription) -> str:
    formats = ", ".join(each.value for each in found.formats)
    return (
        f"{found.report} about {found.about}, every {found.cadence.value} from the one of {found.first} on, "
        f"to {found.recipient} as {formats}"
    )


def _became(each: Delivery) -> str:
    what = each.period if not each.number else f"{each.period} correction {each.number}"
    said = [f"{what}  {each.state.replace('_', ' ')}  {each.recorded_at:%Y-%m-%d %H:%M:%S}Z"]
    if each.attempt > 1:
        said.append(f"{each.attempt} tries")
    if each.next_attempt_at and not each.is_over:
        said.append(f"tried again at {each.next_attempt_at:%Y-%m-%d %H:%M:%S}Z")
    if each.message:
        said.append(each.message)
    return "; ".join(said)
