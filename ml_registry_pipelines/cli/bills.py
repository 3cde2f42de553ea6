"""`mlreg bills`: what providers bill, beside what we think that it costs. A door and no more."""

from __future__ import annotations

import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.support import LIMIT, open_lake
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.costs.bills.settings import BillSettings
    from ml_registry_pipelines.telemetry.sources import FileRef

DAY = click.DateTime(["%Y-%m-%d"])
MOST_ROWS = 50


@click.group()
def bills() -> None:
    """What providers bill, and how much of it our costs account for."""


def attach(cli: click.Group) -> None:
    """Add the group to `mlreg`."""
    cli.add_command(bills)


@bills.command("take")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--provider", help="Whose bill, in the logs' words, where the lines do not say.")
@click.option("--account", help="Billing account, where the lines do not say.")
@click.option("--currency", help="ISO 4217 code, where the lines do not say.")
@click.option(
    "--whole-days", is_flag=True, help="The files hold all lines of their days: what they lack is withdrawn."
)
def bills_take(
    files: tuple[str, ...], provider: str | None, account: str | None, currency: str | None, whole_days: bool
) -> None:
    """Take the given files of bills, or what the sources of bills.yaml hold."""
    from ml_registry_pipelines.costs.bills.intake import BillIntake, BillsUnread
    from ml_registry_pipelines.costs.bills.settings import BillSource
    from ml_registry_pipelines.telemetry.sources import Scope, Sources

    settings = _settings()
    named = BillSource(
        name="files",
        folder="/",
        provider=provider,
        account=account,
        currency=currency,
        restates_days=whole_days,
    )
    problems: list[str] = []
    with open_lake(needed=False) as lake:
        refs: list[FileRef] = [_named_file(file, named) for file in files]
        if not files:
            look = Sources(settings.all_sources, taken="bill_files").look(lake, scope=Scope.ALL, settled=True)
            refs, problems = list(look.files), [*(c.message for c in look.changed), *look.problems]
        try:
            done = BillIntake(lake, [*settings.all_sources, named]).take(refs)
        except BillsUnread as some:
            done = some.taken
            problems.append(str(some))
        click.echo(done.sentence())
        if done.quarantined:
            click.echo("`mlreg bills quarantine` lists what could not be taken", err=True)
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    if problems:
        sys.exit(1)


@bills.command("pull")
@click.argument("names", nargs=-1, metavar="[PULL]...")
@click.option("--since", type=DAY, help="First day (UTC); by default `look_back_days` ago.")
@click.option("--until", type=DAY, help="Last day, itself included; by default yesterday.")
def bills_pull(names: tuple[str, ...], since: datetime | None, until: datetime | None) -> None:
    """Ask the cost APIs of bills.yaml, and take what they answer."""
    from ml_registry_pipelines.costs.bills.pulling import pull_bills

    settings = _settings()
    with open_lake(needed=False) as lake:
        first, after = _between(since, until)
        outcomes = pull_bills(lake, settings, names=names, since=first, until=after)
    if not outcomes:
        click.echo("no pull is configured; add one under `pulls` of bills.yaml")
    for outcome in outcomes:
        click.echo(
            f"{outcome.name}  {outcome.since} to {outcome.until - timedelta(days=1)}  {outcome.taken.sentence()}"
        )
        for failure in outcome.failures:
            click.echo(f"{outcome.name}: {failure}", err=True)
    if any(outcome.failures for outcome in outcomes):
        sys.exit(1)


@bills.command("list")
@click.option("--since", type=DAY, help="First day (UTC).")
@click.option("--until", type=DAY, help="Last day, itself included.")
@click.option("--provider", help="Only this provider's.")
@click.option("--lines", is_flag=True, help="Each line, and not their sums by month.")
@click.option(
    "--history", is_flag=True, help="With --lines: what earlier bills said, and lines that were withdrawn."
)
@click.option("--limit", type=LIMIT, default=MOST_ROWS, show_default=True, help="At most so many rows.")
def bills_list(
    since: datetime | None,
    until: datetime | None,
    provider: str | None,
    lines: bool,
    history: bool,
    limit: int,
) -> None:
    """List what is billed: sums by month, provider and kind of bill; or line by line."""
    from ml_registry_pipelines.costs.bills.queries import bill_lines, billed_by_month

    with open_lake() as lake, lake.read("provider_bills") as reading:
        first, after = _between(since, until)
        asked: dict[str, Any] = {"provider": provider, "since": first, "until": after}
        rows = (
            bill_lines(reading, history=history, **asked)
            if lines or history
            else billed_by_month(reading, **asked)
        )
    if not len(rows):
        click.echo(
            "nothing is billed in these days; `mlreg bills take` and `mlreg bills pull` bring bills in"
        )
        return
    _print(rows.slice(0, limit))
    if len(rows) > limit:
        click.echo(f"... and {len(rows) - limit:,} more; --limit shows them")


@bills.command("reconcile")
@click.option("--since", type=DAY, help="First day (UTC); by default two months ago.")
@click.option("--until", type=DAY, help="Last day, itself included; by default today.")
@click.option("--all", "everything", is_flag=True, help="Show days that agree, too.")
@click.option("--limit", type=LIMIT, default=MOST_ROWS, show_default=True, help="At most so many rows.")
def bills_reconcile(since: datetime | None, until: datetime | None, everything: bool, limit: int) -> None:
    """Compare bills with our costs, day by day, say where they part, and alert on the last days."""
    from ml_registry_pipelines.costs.bills.capture_alerts import CAPTURE, CAPTURED, capture_alerts
    from ml_registry_pipelines.costs.bills.reconciliation import capture, reconcile
    from ml_registry_pipelines.operations.alerts import Alerts

    settings = _settings()
    first, after = _between(since, until)
    with open_lake() as lake:
        done = reconcile(lake, settings, since=first, until=after)
        with lake.read("bill_reconciliation") as reading:
            found = capture(reading, since=done.days[0], until=done.days[-1] + timedelta(days=1))
        Alerts(lake).settle({CAPTURE}, capture_alerts(lake, settings), because=CAPTURED)
    apart = [row for row in found if row["status"] != "captured"]
    shown = found if everything else apart
    if shown:
        _print(_capture_table(shown[:limit]))
    if len(shown) > limit:
        click.echo(f"... and {len(shown) - limit:,} more; --limit shows them")
    click.echo(
        f"{len(found) - len(apart):,} of {len(found):,} days of a provider agree within {settings.tolerance:.1%}, "
        f"from {done.days[0]} to {done.days[-1]}"
    )


@bills.command("quarantine")
@click.option("--limit", type=LIMIT, default=MOST_ROWS, show_default=True, help="At most so many rows.")
def bills_quarantine(limit: int) -> None:
    """List records of bills that could not be taken, the newest first."""
    from ml_registry_pipelines.costs.bills.queries import quarantined

    with open_lake() as lake, lake.read("quarantined_bill_lines") as reading:
        rows = quarantined(reading, limit=limit)
    if not len(rows):
        click.echo("every record of a bill was taken")
        return
    _print(rows)


def _capture_table(rows: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    from ml_registry_pipelines.lake.tables.bills import BILL_RECONCILIATION

    columns = (
        *("day", "provider", "currency", "status", "capture_rate", "cost", "billed", "difference"),
        *("requests", "priced_requests", "report"),
    )
    return pa.Table.from_pylist(rows, schema=BILL_RECONCILIATION.schema).select(list(columns))


def _settings() -> BillSettings:
    from ml_registry_pipelines.costs.bills.settings import load_settings

    settings = Settings.from_environment()
    return load_settings(settings.home, settings.bills_file)


def _named_file(file: str, source: Any) -> FileRef:
    from ml_registry_pipelines.telemetry.sources import FileRef

    entry = source.files.entry(str(Path(file).absolute()).lstrip("/"))
    return FileRef(source.name, entry.path, entry.size, entry.modified_at, entry.etag)


def _between(since: datetime | None, until: datetime | None) -> tuple[date | None, date | None]:
    """The first day, and the first that is left out."""
    return (
        None if since is None else since.date(),
        None if until is None else until.date() + timedelta(days=1),
    )


def _print(rows: pa.Table) -> None:
    from ml_registry_pipelines.lake.output import write_result

    write_result(rows, form="table", output=None)
