"""`mlreg datasets|deployments`: what lineage is about, from a shell; questions are in `lineage_graph_cli`."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import click

from ml_registry_pipelines.cli.support import (
    TIME,
    act_options,
    as_of_option,
    in_utc,
    open_log,
    parsed_tags,
    registry_of,
    show_thing,
    tracker_of,
    utc,
)

# -- datasets and deployments ------------------------------------------------------------------


@click.group()
def datasets() -> None:
    """Datasets and their versions."""


@datasets.command("track")
@click.argument("name")
@click.argument("source")
@click.option("--sha256", help="Digest of an address that is not read from here.")
@click.option("--column", "columns", multiple=True, metavar="NAME:TYPE", help="Of an address with a digest.")
@click.option("--derived-from", multiple=True, metavar="DATASET@v2")
@click.option("--description", default="", help="Of a new dataset.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="Of a new dataset.")
@click.option("--owner", "owners", multiple=True)
@act_options
def datasets_track(
    name: str,
    source: str,
    sha256: str | None,
    columns: tuple[str, ...],
    derived_from: tuple[str, ...],
    description: str,
    tags: tuple[str, ...],
    owners: tuple[str, ...],
    how: dict[str, Any],
) -> None:
    """Record what a dataset is now: a Delta table, Parquet or CSV, or an address with its digest."""
    from ml_registry_pipelines.registry.artifacts import Uri

    typed = [(column, kind) for column, _, kind in (given.rpartition(":") for given in columns)]
    if any(not column or not kind for column, kind in typed):
        raise click.UsageError("--column wants NAME:TYPE, such as age:int64")
    with open_log() as log:
        show_thing(
            tracker_of(log).track_dataset(
                name,
                Uri(source, sha256) if sha256 else source,
                columns=typed,
                derived_from=derived_from,
                description=description,
                tags=parsed_tags(tags),
                owners=owners,
                **how,
            )
        )


@datasets.command("versions")
@click.argument("name")
@as_of_option
def datasets_versions(name: str, as_of: datetime | None) -> None:
    """The versions of a dataset."""
    with open_log() as log:
        for version in tracker_of(log).dataset_versions(name, as_of=utc(as_of)):
            found = version.metadata
            rows = "" if found.get("rows") is None else f"{found['rows']:,} rows"
            parts = (
                f"v{found['number']}",
                found["format"],
                rows,
                str(found["digest"])[:12],
                found["location"],
            )
            click.echo("  ".join(part for part in parts if part))


@datasets.command("list")
@as_of_option
def datasets_list(as_of: datetime | None) -> None:
    """List datasets with their newest versions."""
    with open_log() as log:
        tracker = tracker_of(log)
        for dataset in registry_of(log).things.find("dataset", as_of=utc(as_of)):
            versions = tracker.dataset_versions(dataset.name, as_of=utc(as_of))
            newest = versions[-1].metadata if versions else {}
            click.echo(
                f"{dataset.name}  v{newest.get('number', 0)}  {newest.get('rows')} rows  "
                f"{newest.get('location')}"
            )


@click.group()
def deployments() -> None:
    """Deployments and what they serve."""


@deployments.command("track")
@click.argument("name")
@click.argument("version")
@click.option("--environment", required=True)
@click.option("--endpoint", default="")
@click.option("--share", default=1.0, show_default=True, help="Part of the endpoint's traffic.")
@click.option("--start", type=TIME, help="Since when (UTC); by default now.")
@click.option("--end", type=TIME, help="Until when (UTC), for what is over; what it serves now stays.")
@click.option("--owner", "owners", multiple=True)
def deployments_track(
    name: str,
    version: str,
    environment: str,
    endpoint: str,
    share: float,
    start: datetime | None,
    end: datetime | None,
    owners: tuple[str, ...],
) -> None:
    """Record that a deployment serves a version, or served it until an end."""
    with open_log() as log:
        show_thing(
            tracker_of(log).track_deployment(
                name,
                version,
                environment=environment,
                endpoint=endpoint,
                traffic_share=share,
                start=utc(start),
                end=utc(end),
                owners=owners,
            )
        )


@deployments.command("end")
@click.argument("name")
@click.option("--end", type=TIME, help="When (UTC); by default now.")
def deployments_end(name: str, end: datetime | None) -> None:
    """Record that a deployment serves nothing any more."""
    with open_log() as log:
        show_thing(tracker_of(log).end_deployment(name, end=utc(end)))


@deployments.command("on")
@click.argument("when", metavar="DAY|TIME")
@click.option("--environment")
@as_of_option
def deployments_on(when: str, environment: str | None, as_of: datetime | None) -> None:
    """What was served on a day, at any time of it, or at one instant (UTC), and by whose act."""
    from ml_registry_pipelines.lineage.tracker import oversubscribed

    with open_log() as log:
        found = tracker_of(log).deployments_on(_day_or_time(when), environment=environment, as_of=utc(as_of))
    if not found:
        click.echo("nothing was deployed then, as far as is recorded")
    for d in found:
        until = "" if d.until is None else f" until {d.until:%Y-%m-%d %H:%M}Z"
        at = f" at {d.endpoint}" if d.endpoint else ""
        click.echo(
            f"{d.deployment.name}  {d.version}  {d.environment}  {d.traffic_share:.0%}  "
            f"since {d.since:%Y-%m-%d %H:%M}Z{until} by {d.actor}{at}"
        )
    for (where, endpoint), share in sorted(oversubscribed(found).items()):
        click.echo(f"{endpoint} in {where} is told to get {share:.0%} of its requests at one time", err=True)


def _day_or_time(given: str) -> date | datetime:
    try:
        return date.fromisoformat(given)
    except ValueError:
        return in_utc(TIME.convert(given, None, click.get_current_context()))
