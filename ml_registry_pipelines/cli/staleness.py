"""`mlreg models stale`: live versions and deployments whose training data has moved on."""

from __future__ import annotations

import sys
from datetime import datetime

import click

from ml_registry_pipelines.cli.support import as_of_option, desk, open_log, utc


@click.command("stale")
@click.argument("model", required=False)
@click.option("--all", "every", is_flag=True, help="List those that are up to date, too.")
@click.option("--every-version", is_flag=True, help="Versions of every stage, not the live ones alone.")
@click.option("--fail", is_flag=True, help="Exit with status 1 when something is stale, for scripts.")
@as_of_option
def stale(model: str | None, every: bool, every_version: bool, fail: bool, as_of: datetime | None) -> None:
    """List versions and deployments that were trained on data of which there is a newer version."""
    from ml_registry_pipelines.lineage.staleness import Staleness

    with open_log() as log:
        question = Staleness(log, **desk())
        standings = question.of_models(model, every_version=every_version, as_of=utc(as_of))
        if model is None:
            standings += question.of_deployments(as_of=utc(as_of))
    shown = [s for s in standings if every or s.stale]
    for standing in shown:
        mark = "stale" if standing.stale else "ok" if standing.compared else "unknown"
        kind = "deployment" if standing.kind == "deployment" else "version"
        click.echo(f"{mark:<7}  {kind:<10}  {standing.name}  {standing.stage}  {standing.sentence}")
    behind = sum(s.stale for s in standings)
    click.echo(f"{behind} of {len(standings)} are stale")
    if fail and behind:
        sys.exit(1)
