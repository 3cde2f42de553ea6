"""`mlreg datasets|deployments`: what lineage is about, from a shell; questions are in `lineage_graph_cli`."""

from __future__ import annotations

from datetime import datetime

import click

from ml_registry_pipelines.cli_support import (
    TIME,
    as_of_option,
    in_utc,
    key_option,
    open_log,
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
@click.option("--owner", "owners", multiple=True)
@key_option
def datasets_track(
    name: str, source: str, sha256: str | None, owners: tuple[str, ...], key: str | None
) -> None:
    """Record what a dataset is now: a Delta table, Parquet or CSV, or an address with its digest."""
    from ml_registry_pipelines.registry.artifacts import Uri

    with open_log() as log:
        given = Uri(source, sha256) if sha256 else source
        show_thing(tracker_of(log).track_dataset(name, given, owners=owners, idempotency_key=key))


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
@click.option("--owner", "owners", multiple=True)
def deployments_track(
    name: str,
    version: str,
    environment: str,
    endpoint: str,
    share: float,
    start: datetime | None,
    owners: tuple[str, ...],
) -> None:
    """Record that a deployment serves a version."""
    with open_log() as log:
        show_thing(
            tracker_of(log).track_deployment(
                name,
                version,
                environment=environment,
                endpoint=endpoint,
                traffic_share=share,
                start=utc(start),
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
@click.argument("instant", type=TIME)
@click.option("--environment")
@as_of_option
def deployments_on(instant: datetime, environment: str | None, as_of: datetime | None) -> None:
    """What was served at a time, and by whose act."""
    with open_log() as log:
        for d in tracker_of(log).deployments_on(in_utc(instant), environment=environment, as_of=utc(as_of)):
            click.echo(
                f"{d.deployment.name}  {d.version}  {d.environment}  {d.traffic_share:.0%}  "
                f"since {d.since:%Y-%m-%d %H:%M}Z by {d.actor}"
            )
