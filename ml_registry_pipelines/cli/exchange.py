"""`mlreg import`: what other registries hold, taken over. A door and no more; the work is in `exchange/`."""

from __future__ import annotations

import sys

import click

from ml_registry_pipelines.cli.support import desk, open_log, tenant_option


@click.group("import")
def import_group() -> None:
    """Take over what another registry holds."""


@import_group.command("mlflow")
@click.option(
    "--uri", required=True, envvar="MLREG_MLFLOW", help="Address of the tracking server (MLREG_MLFLOW)."
)
@click.option("--server-name", help="What the server is called here; default: its address.")
@click.option(
    "--without-artifacts", is_flag=True, help="Record versions whose files it does not hand out, too."
)
@click.option("--quiet", is_flag=True, help="Only the counts, and what was left out.")
@tenant_option
def import_mlflow(uri: str, server_name: str | None, without_artifacts: bool, quiet: bool) -> None:
    """Copy models, versions, aliases, stages, runs and artifacts from an MLflow tracking server.

    Again: only what changed. Exit status 1 if something could not be taken over.
    """
    from ml_registry_pipelines.exchange.mlflow_import import MlflowImport
    from ml_registry_pipelines.exchange.mlflow_server import TrackingServer

    with open_log() as log:
        done = MlflowImport(
            log,
            TrackingServer(uri),
            **desk(),
            name=server_name,
            without_artifacts=without_artifacts,
            progress=(lambda _: None) if quiet else click.echo,
        ).run()
    click.echo(done.sentence())
    for sentence in done.left_out:
        click.echo(f"not mapped: {sentence}")
    for sentence in done.failed:
        click.echo(f"failed: {sentence}", err=True)
    if done.failed:
        sys.exit(1)


@import_group.command("hosted")
@click.option(
    "--provider", "providers", multiple=True, help="Only this one, such as openai; may be given again."
)
@tenant_option
def import_hosted(providers: tuple[str, ...]) -> None:
    """Record the models that providers host, as the genai-prices library lists them.

    Again: only what changed, such as a price or a context window.
    """
    from ml_registry_pipelines.exchange.hosted_import import HostedImport

    with open_log() as log:
        done = HostedImport(log, **desk()).run(providers)
    click.echo(done.sentence)
    for sentence in done.left:
        click.echo(f"left as it is: {sentence}")


def attach(cli: click.Group) -> None:
    """Add these commands to `mlreg`."""
    cli.add_command(import_group)
