"""`mlreg dossier`: the technical documentation of a version, and what people attest for it. A door and no more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import desk, key_option, open_log, registry_of, tenant_option

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.dossier.dossier import Dossiers
    from ml_registry_pipelines.registry.log import Log

KINDS = ("annex_iv", "model_card", "instructions_for_use", "oversight_measures", "transparency_notice")


@click.group()
def dossier() -> None:
    """Technical documentation of versions: each field derived, attested or missing."""


@dossier.command("show")
@click.argument("version")
@click.option("--document", type=click.Choice(KINDS), help="Print this document in Markdown instead.")
@tenant_option
def dossier_show(version: str, document: str | None) -> None:
    """Show the fields of Annex IV of VERSION, and where each comes from."""
    from ml_registry_pipelines.compliance.dossier.pages import markdown

    with open_log() as log:
        found = _dossiers(log).dossier(version)
        if document is not None:
            click.echo(markdown(found.document(document), found.at), nl=False)
            return
        filled = len(found.fields) - len(found.missing)
        click.echo(
            f"{found.reference}: {filled} of {len(found.fields)} fields, {len(found.derived)} derived, "
            f"{len(found.attested)} attested, {len(found.missing)} missing"
        )
        for field in found.fields:
            by = field.attestation
            said = (
                f"  by {by.actor} ({by.authenticated_by}) on {by.recorded_at:%Y-%m-%d} about {by.about}"
                if by
                else ""
            )
            why = f"  {field.why_missing}" if field.why_missing else ""
            click.echo(f"{field.asked.id:>6}  {field.status.value:<8}  {field.asked.title}{said}{why}")


@dossier.command("fields")
def dossier_fields() -> None:
    """List the fields and records that can be attested, with what each asks for."""
    from ml_registry_pipelines.compliance.ai_act.table import current
    from ml_registry_pipelines.compliance.dossier.fields import ANNEX_IV

    for asked in ANNEX_IV:
        click.echo(f"{asked.id:>8}  {'model or version' if asked.of_model else 'version':<16}  {asked.asks}")
    for name, asks in current().records.items():
        click.echo(f"{name}  {asks}")


@dossier.command("attest")
@click.argument("about")
@click.argument("field")
@click.option("--text", help="What holds for the system; never about a person.")
@click.option(
    "--file", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read it from here."
)
@key_option
@tenant_option
def dossier_attest(about: str, field: str, text: str | None, file: Path | None, key: str | None) -> None:
    """State FIELD, such as 2(e) or quality_management, of a version, or of a model for all its versions."""
    if (text is None) is (file is None):
        raise click.UsageError("give --text or --file")
    said = text if text is not None else file.read_text("utf-8", "replace") if file else ""
    with open_log() as log:
        done = _dossiers(log).attest(about, field, said, idempotency_key=key)
    click.echo(f"{done.field} of {about} is attested by {done.actor} (event {done.sequence})")


@dossier.command("withdraw")
@click.argument("about")
@click.argument("field")
@key_option
@tenant_option
def dossier_withdraw(about: str, field: str, key: str | None) -> None:
    """Take back what was stated for FIELD."""
    with open_log() as log:
        _dossiers(log).withdraw(about, field, idempotency_key=key)
    click.echo(f"{field} of {about} is no longer attested")


@dossier.command("write")
@click.argument("version")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option(
    "--document", "documents", type=click.Choice(KINDS), multiple=True, help="Only this one; repeatable."
)
@click.option("--attach", is_flag=True, help="Add them to the artifacts of the version, as they are now.")
@tenant_option
def dossier_write(version: str, folder: Path | None, documents: tuple[str, ...], attach: bool) -> None:
    """Write the documents of VERSION as HTML and Markdown into FOLDER; without one, below reports/dossiers."""
    from ml_registry_pipelines.compliance.dossier import writing

    kinds = documents or KINDS
    with open_log() as log:
        found = _dossiers(log).dossier(version)
        if attach:
            writing.attach(registry_of(log), found, kinds)
            click.echo(f"{', '.join(kinds)} of {found.reference} are among its artifacts")
        if folder is not None:
            for path in writing.write_folder(found, folder, kinds):
                click.echo(str(path))
        elif not attach:
            for written in writing.write_reports(found, kinds):
                click.echo(f"{log.lake.root}/{written.path}")
        if found.missing:
            click.echo(f"{found.reference} lacks {', '.join(found.missing)}", err=True)


def _dossiers(log: Log) -> Dossiers:
    from ml_registry_pipelines.compliance.dossier.dossier import Dossiers

    return Dossiers(log, **desk())


def attach(cli: click.Group) -> None:
    """Add these commands to `mlreg`."""
    cli.add_command(dossier)
