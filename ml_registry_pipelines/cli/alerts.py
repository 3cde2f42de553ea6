"""`mlreg alerts`: what is wrong, who has it, what is worth an alert and where it goes. A door and no more."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import (
    LIMIT,
    TIME,
    Number,
    desk,
    in_utc,
    key_option,
    only_tenant,
    open_lake,
    open_log,
    show_lines,
    tenant_option,
)
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.operations.acknowledging import Acknowledgements
    from ml_registry_pipelines.operations.messages import Messages, SinkStanding
    from ml_registry_pipelines.registry.log import Log

WEBHOOK = "MLREG_ALERT_WEBHOOK"


_concerned = click.option(
    "--tenant", help="Only alerts that concern this organisation; default: MLREG_TENANT, else all."
)


@click.group(invoke_without_command=True)
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="At most so many.")
@_concerned
@click.pass_context
def alerts(context: click.Context, limit: int, tenant: str | None) -> None:
    """Open alerts, and what is done about them."""
    if context.invoked_subcommand is None:
        _list(limit, tenant)


@alerts.command("list")
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="At most so many.")
@_concerned
def alerts_list(limit: int, tenant: str | None) -> None:
    """List open alerts, the newest first."""
    _list(limit, tenant)


@alerts.command("show")
@click.argument("alert")
@_concerned
def alerts_show(alert: str, tenant: str | None) -> None:
    """Show the states of ALERT, a key or the beginning of an id."""
    from ml_registry_pipelines.operations.alerts import alert_history
    from ml_registry_pipelines.registry.errors import NotFound

    with open_lake() as lake:
        rows = alert_history(lake, alert, tenant=only_tenant(tenant))
    if not rows:
        raise NotFound("alert", alert, "*", hint="; `mlreg alerts` lists those that are open")
    for row in rows:
        quiet = row["quiet_until"]
        show_lines(
            {
                "alert": f"{row['alert_key']}  ({row['alert_id'][:12]})",
                "state": f"{row['state']}, {row['severity']}, {row['recorded_at'].astimezone(UTC):%Y-%m-%d %H:%M:%S}Z",
                "what": row["title"],
                "message": row["message"],
                "who has it": row["acknowledged_by"] or "",
                "quiet until": f"{quiet.astimezone(UTC):%Y-%m-%d %H:%M}Z" if quiet else "",
                "told": "to the file of the day alone" if row["silent"] else "",
                "run": row["run_id"] or "",
                "tenant": row["tenant"] or "",
            }
        )


@alerts.command("ack")
@click.argument("alert")
@click.option("--hours", type=Number(0, 87_600, min_open=True), help="For so long from now on.")
@click.option("--until", type=TIME, help="Until this time (UTC).")
@click.option("--note", default="", help="What is done about it.")
@key_option
@tenant_option
def alerts_ack(alert: str, hours: float | None, until: datetime | None, note: str, key: str | None) -> None:
    """Take on ALERT, a key or the beginning of an id: sinks hear of it only if it gets worse, or is over."""
    if (hours is None) == (until is None):
        raise click.UsageError("say how long: --hours or --until")
    ends = in_utc(until) if until is not None else datetime.now(UTC) + timedelta(hours=hours or 0)
    with open_log() as log:
        done = _acknowledgements(log).acknowledge(alert, ends, note=note, idempotency_key=key)
    click.echo(f"{done.key} is yours until {ends:%Y-%m-%d %H:%M}Z")


@alerts.command("unack")
@click.argument("alert")
@tenant_option
def alerts_unack(alert: str) -> None:
    """Give ALERT back; sinks are reminded of it."""
    with open_log() as log:
        click.echo(f"{_acknowledgements(log).withdraw(alert).key} is nobody's any more")


@alerts.command("rules")
def alerts_rules() -> None:
    """Show what is worth an alert; `alert-rules.yaml` below MLREG_HOME changes it."""
    from ml_registry_pipelines.operations.alert_rules import configured_rules, shown_rules

    before = ""
    for rule, setting, value, default, meaning in shown_rules(
        configured_rules(Settings.from_environment().home)
    ):
        if rule != before:
            click.echo(f"{rule}:")
        before = rule
        click.echo(f"  {setting}: {value}{'' if default else '  (set)'}")
        click.echo(f"      {meaning}")


@alerts.command("sinks")
def alerts_sinks() -> None:
    """Show where alerts go and how far each sink is; exit status 1 when one takes none."""
    with open_lake() as lake:
        messages, wrong = _messages(lake)
        found = messages.standings()
    if wrong is not None:
        click.echo(wrong, err=True)
    elif not found:
        click.echo(f"no sink is configured: alert-sinks.yaml below MLREG_HOME, or {WEBHOOK}")
    for standing in found:
        _show(standing)
    if wrong is not None or any(standing.mark.failures for standing in found):
        sys.exit(1)


@alerts.command("deliver")
def alerts_deliver() -> None:
    """Tell sinks what they were not told yet; the sensor `watch` does it once a minute."""
    with open_lake() as lake:
        messages, wrong = _messages(lake)
        told = messages.tell(seconds=60.0)
    click.echo(f"{told.to_files:,} to files, {sum((told.sent or {}).values()):,} to sinks")
    for name, why in sorted((told.failures or {}).items()):
        click.echo(f"{name}: {why}", err=True)
    if wrong is not None:
        click.echo(wrong, err=True)
    if told.failures or wrong is not None:
        sys.exit(1)


@alerts.command("evaluate")
def alerts_evaluate() -> None:
    """Look at all rules now; the sensor `evaluate_alert_rules` does it every five minutes."""
    from ml_registry_pipelines.operations.evaluating import evaluate_rules

    with open_log() as log:
        done = evaluate_rules(log.lake, log)
    settled = done.settled
    click.echo(
        f"{done.found:,} findings: {len(settled.opened):,} alerts opened, {len(settled.escalated):,} worse, "
        f"{len(settled.resolved):,} resolved, {len(settled.reminded):,} reminded of"
    )
    for name, why in sorted(done.failed.items()):
        click.echo(f"{name}: {why}", err=True)
    if done.failed:
        sys.exit(1)


def _list(limit: int, tenant: str | None) -> None:
    from ml_registry_pipelines.lake.output import write_result
    from ml_registry_pipelines.operations.alerts import open_alerts

    with open_lake() as lake:
        rows = open_alerts(lake, limit=limit, tenant=only_tenant(tenant))
    if len(rows):
        write_result(rows, form="table", output=None)
    else:
        click.echo("no alert is open")


def _acknowledgements(log: Log) -> Acknowledgements:
    from ml_registry_pipelines.operations.acknowledging import Acknowledgements

    return Acknowledgements(log, **desk())


def _messages(lake: Lake) -> tuple[Messages, str | None]:
    """What tells the sinks that can be used, and what is wrong with others."""
    import os

    from ml_registry_pipelines.operations.messages import Messages
    from ml_registry_pipelines.operations.sinks import usable_sinks

    sinks, wrong = usable_sinks(lake.root, os.environ.get(WEBHOOK, "").strip() or None)
    return Messages(lake, sinks, wrong), wrong


def _show(standing: SinkStanding) -> None:
    mark = standing.mark
    failing = ""
    if mark.failures and mark.failing_since and mark.next_attempt_at:
        failing = (
            f"{mark.failures} times since {mark.failing_since.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z, tried again at "
            f"{mark.next_attempt_at.astimezone(UTC):%H:%M:%S}Z: {mark.last_failure}"
        )
    show_lines(
        {
            "sink": f"{standing.sink.name}  ({standing.sink.form.value})",
            "to": standing.sink.place,
            "wants": standing.sink.filter.says(),
            "told": f"{mark.sent:,}; {standing.waiting:,} wait",
            "failing": failing,
        }
    )


def attach(cli: click.Group) -> None:
    """Add these commands to `mlreg`."""
    cli.add_command(alerts)
