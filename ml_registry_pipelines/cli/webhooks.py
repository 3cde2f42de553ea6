"""`mlreg webhooks`: who is told about events. A door and no more; the work is in `webhooks/`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import desk, key_option, open_log, show_lines, tenant

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.webhooks.outbox import Standing
    from ml_registry_pipelines.webhooks.subscriptions import Subscription, Webhooks


@click.group()
def webhooks() -> None:
    """Tell other systems about every event: signed, at least once, in order."""


@webhooks.command("add")
@click.argument("name")
@click.argument("url")
@click.option("--secret-env", metavar="NAME", help="Environment variable that holds the secret.")
@click.option("--secret-file", metavar="PATH", help="File that holds the secret.")
@click.option(
    "--action", "actions", multiple=True, help="Only this action; `delete_*` for all that begin so."
)
@click.option("--entity-type", "entity_types", multiple=True, help="Only entities of this type.")
@click.option("--from", "first", type=int, metavar="EVENT", help="Begin with this event; default: the next.")
@key_option
def webhooks_add(
    name: str,
    url: str,
    secret_env: str | None,
    secret_file: str | None,
    actions: tuple[str, ...],
    entity_types: tuple[str, ...],
    first: int | None,
    key: str | None,
) -> None:
    """Subscribe URL, or the one in an environment variable (env:NAME), to the tenant's events."""
    from ml_registry_pipelines.webhooks.subscriptions import Secret

    with open_log() as log:
        added = _webhooks(log).add(
            name,
            url,
            Secret(secret_env, secret_file),
            actions=actions,
            entity_types=entity_types,
            first=first,
            idempotency_key=key,
        )
    click.echo(f"{added.name} gets events from {added.first} on")


@webhooks.command("list")
def webhooks_list() -> None:
    """List subscriptions."""
    with open_log() as log:
        for found in _webhooks(log).list():
            click.echo(f"{found.name}  {found.url}  {_filters(found)}")


@webhooks.command("remove")
@click.argument("name")
def webhooks_remove(name: str) -> None:
    """End a subscription."""
    with open_log() as log:
        click.echo(f"{_webhooks(log).remove(name)} gets nothing any more")


@webhooks.command("replay")
@click.argument("name")
@click.option("--from", "first", type=int, required=True, metavar="EVENT")
def webhooks_replay(name: str, first: int) -> None:
    """Tell a subscriber all events from EVENT on; with the number after a refused one, go past it."""
    with open_log() as log:
        found = _webhooks(log).replay(name, first)
    click.echo(f"{found.name} gets events from {found.first} on, with the next delivery")


@webhooks.command("status")
@click.argument("name", required=False)
def webhooks_status(name: str | None) -> None:
    """How far every subscriber is; exit status 1 when one takes nothing any more."""
    from ml_registry_pipelines.webhooks.outbox import Outbox

    with open_log() as log:
        if name is not None:
            _webhooks(log).get(name)
        found = [s for s in Outbox(log).standings(tenant()) if name in {None, s.subscription.name}]
    for standing in found:
        _show(standing)
    if any(standing.mark.dead for standing in found):
        sys.exit(1)


@webhooks.command("deliver")
@click.option("--seconds", default=60.0, show_default=True, help="About how long.")
def webhooks_deliver(seconds: float) -> None:
    """Deliver what waits, of all tenants; the sensor `deliver_webhooks` does it every few seconds."""
    from ml_registry_pipelines.webhooks.outbox import Outbox

    with open_log() as log:
        told = Outbox(log).deliver(seconds=seconds)
    click.echo(f"{told.sent:,} events delivered")
    failing = [s for s in told.standings if s.mark.failures]
    for standing in failing:
        click.echo(f"{standing.subscription.name}: {standing.mark.last_failure}", err=True)
    if failing:
        sys.exit(1)


def _webhooks(log: Log) -> Webhooks:
    from ml_registry_pipelines.webhooks.subscriptions import Webhooks

    return Webhooks(log, **desk())


def _filters(found: Subscription) -> str:
    wanted = [*found.actions, *(f"on {kind}" for kind in found.entity_types)]
    return ", ".join(wanted) or "every event"


def _show(standing: Standing) -> None:
    mark = standing.mark
    failing = ""
    if mark.failures and mark.failing_since and mark.next_attempt_at:
        failing = (
            f"{mark.failures} times since {mark.failing_since:%Y-%m-%d %H:%M:%S}Z, "
            f"tried again at {mark.next_attempt_at:%H:%M:%S}Z: {mark.last_failure}"
        )
    show_lines(
        {
            "webhook": standing.subscription.name,
            "to": standing.subscription.url,
            "wants": _filters(standing.subscription),
            "secret": standing.subscription.secret.place,
            "told": f"up to event {mark.delivered} of {standing.head}; {mark.sent:,} were taken",
            "failing": failing,
        }
    )


def attach(cli: click.Group) -> None:
    """Add these commands to `mlreg`."""
    cli.add_command(webhooks)
