"""`mlreg governance`: who did what to which version, and what people record of their own."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import (
    TIME,
    as_of_option,
    ask_for,
    desk,
    key_option,
    open_log,
    parsed_tags,
    utc,
)
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.events import Event


@click.group()
def governance() -> None:
    """The records of governance: the history of events, and notes of people's own."""


def attach(cli: click.Group) -> None:
    """Add the group to `mlreg`."""
    cli.add_command(governance)


@governance.command("history")
@click.option("--entity", help="A model with its versions and approvals, a version (MODEL@v3), or an id.")
@click.option("--actor", help="By this pseudonym.")
@click.option("--action", help="This command, or all that begin so: set_*")
@click.option("--since", type=TIME, help="Recorded from this time on (UTC).")
@click.option("--until", type=TIME, help="Recorded before this time (UTC).")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--cursor", type=int, help="From where the page before ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per event.")
@as_of_option
def governance_history(
    entity: str | None,
    actor: str | None,
    action: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    cursor: int | None,
    as_json: bool,
    as_of: datetime | None,
) -> None:
    """Events that meet all conditions, the newest first."""
    from ml_registry_pipelines.compliance.manager import ComplianceManager

    with open_log() as log:
        page = ComplianceManager(log, **desk()).get_governance_history(
            entity=entity,
            actor=actor,
            action=action,
            since=utc(since),
            until=utc(until),
            as_of=utc(as_of),
            limit=limit,
            cursor=cursor,
        )
    for event in page.events:
        click.echo(_json(event) if as_json else _line(event))
    if page.cursor is not None:
        click.echo(f"there are more: --cursor {page.cursor}", err=True)


@governance.command("page")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="By default below the home.")
def governance_page_command(out: Path | None) -> None:
    """Write the page of what waits, is stale, live without approval, failed or overdue."""
    from ml_registry_pipelines.lake.files import open_folder
    from ml_registry_pipelines.reports.governance_page import governance_page

    with open_log() as log:
        how = desk()
        if out is None:
            ask_for(log, "make_report", "report")
        page = governance_page(log, actor=how["actor"], tenants=[how["tenant"]])
    if out is not None:
        out.write_text(page, encoding="utf-8")
        click.echo(out)
        return
    home, path = Settings.from_environment().home, f"reports/governance/{how['tenant']}.html"
    open_folder(home).write(path, page.encode())
    click.echo(f"{home}/{path}")


@governance.command("log")
@click.argument("kind")
@click.argument("description")
@click.option("--about", help="A model, a version (MODEL@v3), or an id.")
@click.option("--detail", multiple=True, metavar="NAME=VALUE", help="A plain value; may come more than once.")
@click.option("--at", "valid_from", type=TIME, help="When it happened (UTC); by default now.")
@key_option
def governance_log(
    kind: str,
    description: str,
    about: str | None,
    detail: tuple[str, ...],
    valid_from: datetime | None,
    key: str | None,
) -> None:
    """Record what people did outside the registry: KIND in snake case, DESCRIPTION without e-mail addresses."""
    from ml_registry_pipelines.compliance.manager import ComplianceManager

    details = {
        name: v if isinstance(v, str | int | float) else str(v) for name, v in parsed_tags(detail).items()
    }
    with open_log() as log:
        event = ComplianceManager(log, **desk()).log_event(
            kind, description, about=about, details=details, idempotency_key=key, valid_from=utc(valid_from)
        )
    click.echo(_line(event))


def _line(event: Event) -> str:
    change = json.dumps(event.change, sort_keys=True, ensure_ascii=False)
    how = "" if event.authenticated_by != "unauthenticated" else " (unauthenticated)"
    return (
        f"{event.sequence:>8}  {event.recorded_at:%Y-%m-%d %H:%M:%S}Z  {event.actor}{how}  {event.action}  "
        f"{change if len(change) <= 120 else change[:117] + '...'}"
    )


def _json(event: Event) -> str:
    return json.dumps(
        {
            "sequence": event.sequence,
            "recorded_at": event.recorded_at.isoformat(),
            "valid_from": event.valid_from.isoformat(),
            "actor": event.actor,
            "authenticated_by": event.authenticated_by,
            "action": event.action,
            "entity_type": event.entity_type,
            "entity_id": event.entity_id,
            "change": event.change,
            "run_id": event.run_id,
            "hash": event.hash,
        },
        sort_keys=True,
        ensure_ascii=False,
    )
