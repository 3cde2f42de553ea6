"""`mlreg models|audit|history`: the registry from a shell.

A door and no more, like `main.py`, which attaches these groups, and those of `lineage.py`,
by `attach(cli)`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ml_registry_pipelines.cli.artifacts import (
    artifacts,
    content_of,
    content_options,
    diff,
    former_option,
    get,
    kind_and_path,
    named,
    rollback,
)
from ml_registry_pipelines.cli.lineage import datasets, deployments
from ml_registry_pipelines.cli.lineage_graph import lineage
from ml_registry_pipelines.cli.staleness import stale
from ml_registry_pipelines.cli.support import (
    act_options,
    admit_to,
    as_of_option,
    open_log,
    parsed_tags,
    registry_of,
    shell_actor,
    show_events,
    show_more,
    show_thing,
    show_version,
    tenant,
    utc,
)
from ml_registry_pipelines.cli.things import extend, relationships, things
from ml_registry_pipelines.registry.errors import RESTORE, LogDamaged, NotFound

STAGES = ("registered", "staging", "shadow", "production", "archived")

# -- models ----------------------------------------------------------------------------------


@click.group()
def models() -> None:
    """Models and their versions. A version is MODEL@v3, MODEL@ALIAS, MODEL@production or MODEL@latest."""


@models.command("register")
@click.argument("name")
@click.option("--description", default="")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE")
@click.option("--owner", "owners", multiple=True, help="A team, or a person's pseudonym.")
@act_options
def models_register(
    name: str, description: str, tags: tuple[str, ...], owners: tuple[str, ...], how: dict[str, Any]
) -> None:
    """Register a model."""
    with open_log() as log:
        show_thing(
            registry_of(log).register_model(
                name, description=description, tags=parsed_tags(tags), owners=owners, **how
            )
        )


@models.command("list")
@click.option("--text", help="Occurs in name or description.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE")
@click.option("--owner")
@click.option("--stage", type=click.Choice(STAGES), help="A version is in this stage.")
@click.option("--alias", help="The model has this alias.")
@click.option("--after", help="Where the page before ended, as it said.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@as_of_option
def models_list(
    text: str | None,
    tags: tuple[str, ...],
    owner: str | None,
    stage: str | None,
    alias: str | None,
    after: str | None,
    limit: int,
    as_of: datetime | None,
) -> None:
    """List or search models."""
    from ml_registry_pipelines.registry.versions import Stage

    with open_log() as log:
        found = registry_of(log).search_models(
            text=text,
            tags=parsed_tags(tags),
            owner=owner,
            stage=Stage(stage) if stage else None,
            alias=alias,
            after=after,
            limit=limit + 1,
            as_of=utc(as_of),
            include_deprecated=True,
        )
    for model in found[:limit]:
        aliases = " ".join(f"{name}=v{number}" for name, number in sorted(model.aliases.items()))
        click.echo("  ".join(part for part in (model.name, model.status, aliases) if part))
    show_more(found, limit)


@models.command("show")
@click.argument("name")
@as_of_option
def models_show(name: str, as_of: datetime | None) -> None:
    """Show a model with its versions, or one version."""
    with open_log() as log:
        registry = registry_of(log)
        if registry.is_version(name):
            show_version(registry.get_version(name, as_of=utc(as_of)))
            return
        show_thing(registry.get_model(name, as_of=utc(as_of)))
        for version in registry.list_versions(name, as_of=utc(as_of)):
            click.echo(
                f"{'v' + str(version.number):>12}  {version.stage.value}  {version.content_digest[:12]}"
            )


@models.command("add-version")
@click.argument("model")
@click.argument("content")
@content_options
@click.option("--metric", "metrics", multiple=True, metavar="NAME=NUMBER")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Hyperparameter; JSON or text."
)
@click.option("--framework")
@click.option("--licence")
@click.option("--code-commit")
@click.option("--trained-on", multiple=True, metavar="DATASET@v2")
@click.option("--evaluated-on", multiple=True, metavar="DATASET@v2")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE")
@click.option("--base-model", metavar="MODEL@v1")
@click.option("--description", default="")
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="KIND=PATH", help="Checkpoint, model card ..."
)
@act_options
def models_add_version(
    model: str,
    content: str,
    described: dict[str, Any],
    artifacts: tuple[str, ...],
    metrics: tuple[str, ...],
    parameters: tuple[str, ...],
    framework: str | None,
    licence: str | None,
    code_commit: str | None,
    trained_on: tuple[str, ...],
    evaluated_on: tuple[str, ...],
    tags: tuple[str, ...],
    base_model: str | None,
    description: str,
    how: dict[str, Any],
) -> None:
    """Record the next version of a model.

    CONTENT is a file or folder, which is stored; with --sha256 an address; with --hosted
    PROVIDER/SNAPSHOT of a model behind an endpoint; with --upload the ticket of an upload.
    """
    from ml_registry_pipelines.registry.versions import VersionFacts

    try:
        numbers = {name: float(value) for name, _, value in (m.partition("=") for m in metrics)}
    except ValueError as wrong:
        raise click.UsageError(f"--metric wants NAME=NUMBER: {wrong}") from wrong
    facts = VersionFacts(
        metrics=numbers,
        parameters=dict(named(each, "--parameter") for each in parameters),
        framework=framework,
        licence=licence,
        code_commit=code_commit,
        trained_on=trained_on,
        evaluated_on=evaluated_on,
        base_model=base_model,
    )
    with open_log() as log:
        registry = registry_of(log)
        show_version(
            registry.create_model_version(
                model,
                content_of(content, described),
                facts,
                description=description,
                tags=parsed_tags(tags),
                artifacts=[kind_and_path(given) for given in artifacts],
                **how,
            )
        )


@models.command("promote")
@click.argument("version")
@click.option("--reason", default="")
@former_option
@act_options
def models_promote(version: str, reason: str, former: str, how: dict[str, Any]) -> None:
    """Put a version into production."""
    from ml_registry_pipelines.registry.versions import Stage

    with open_log() as log:
        registry = registry_of(log)
        show_version(registry.promote_to_production(version, former=Stage(former), reason=reason, **how))


@models.command("stage")
@click.argument("version")
@click.argument("stage", type=click.Choice(["registered", "staging", "shadow", "archived"]))
@act_options
def models_stage(version: str, stage: str, how: dict[str, Any]) -> None:
    """Move a version to another stage."""
    from ml_registry_pipelines.registry.versions import Stage

    with open_log() as log:
        show_version(registry_of(log).set_stage(version, Stage(stage), **how))


@models.command("alias")
@click.argument("version")
@click.argument("alias")
@click.option("--protect", is_flag=True, help="Let it not be moved until it is unprotected.")
@act_options
def models_alias(version: str, alias: str, protect: bool, how: dict[str, Any]) -> None:
    """Let an alias mean a version."""
    with open_log() as log:
        registry = registry_of(log)
        model = registry.set_alias(version, alias, **how)
        show_thing(registry.protect_alias(model.id, alias) if protect else model)


@models.command("tag")
@click.argument("name")
@click.argument("tags", nargs=-1, metavar="NAME=VALUE...")
@click.option("--remove", multiple=True)
@act_options
def models_tag(name: str, tags: tuple[str, ...], remove: tuple[str, ...], how: dict[str, Any]) -> None:
    """Set and remove tags of a model or version; numbers, true, false and dates keep their type."""
    with open_log() as log:
        registry = registry_of(log)
        if registry.is_version(name):
            show_version(registry.tag_version(name, parsed_tags(tags), remove=remove, **how))
        else:
            show_thing(registry.tag_model(name, parsed_tags(tags), remove=remove, **how))


@models.command("rename")
@click.argument("name")
@click.argument("to")
@act_options
def models_rename(name: str, to: str, how: dict[str, Any]) -> None:
    """Give a model another name."""
    with open_log() as log:
        show_thing(registry_of(log).rename_model(name, to, **how))


@models.command("deprecate")
@click.argument("name")
@click.option("--reason", required=True)
@click.option("--replacement", help="Model to use in its place.")
@act_options
def models_deprecate(name: str, reason: str, replacement: str | None, how: dict[str, Any]) -> None:
    """Mark a model as deprecated."""
    with open_log() as log:
        show_thing(registry_of(log).deprecate_model(name, reason=reason, replacement=replacement, **how))


@models.command("delete")
@click.argument("name")
@act_options
def models_delete(name: str, how: dict[str, Any]) -> None:
    """Delete a model, or a version, so that it can be restored."""
    with open_log() as log:
        registry = registry_of(log)
        if registry.is_version(name):
            show_version(registry.delete_version(name, **how))
        else:
            show_thing(registry.delete_model(name, **how))


@models.command("restore")
@click.argument("name")
@act_options
def models_restore(name: str, how: dict[str, Any]) -> None:
    """Take back the deletion of a model or version."""
    with open_log() as log:
        registry = registry_of(log)
        if registry.is_version(name):
            show_version(registry.restore_version(name, **how))
        else:
            show_thing(registry.restore_model(name, **how))


@models.command("verify")
@click.argument("version")
def models_verify(version: str) -> None:
    """Read everything that a version is made of and compare digests."""
    with open_log() as log:
        registry_of(log).verify_version(version)
    click.echo(f"{version} is what was registered")


for _command in (get, diff, rollback):
    models.add_command(_command)


# -- audit ---------------------------------------------------------------------------------------


@click.group()
def audit() -> None:
    """The log itself."""


@audit.command("verify")
@click.option("--tenant", "only", help="Only this organisation.")
@click.option("--anchors", help="Folder or s3://bucket/prefix of the anchors.")
@click.option("--public-key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def audit_verify(only: str | None, anchors: str | None, public_key: Path | None) -> None:
    """Check every chain; exit status 1 and the first damaged event if one is not whole."""
    from ml_registry_pipelines.registry.anchors import read_anchors
    from ml_registry_pipelines.registry.chain import verify
    from ml_registry_pipelines.registry.rebuilding import difference

    if (anchors is None) != (public_key is None):
        raise click.UsageError("--anchors and --public-key belong together")
    with open_log() as log:
        admit_to(log, only)
        known = read_anchors(anchors, public_key) if anchors and public_key else []
        if anchors and not known:
            raise click.UsageError(f"there is no anchor in {anchors}")
        verdicts = verify(log.lake, tenant=only, anchors=known)
        differs = difference(log.lake) if only is None and not any(v.damage for v in verdicts) else None
    for verdict in verdicts:
        if verdict.damage:
            click.echo(f"{verdict.tenant}: DAMAGED, {verdict.damage.what}: {verdict.damage.text}")
        else:
            caveat = f"; {verdict.caveat}" if verdict.caveat else ""
            click.echo(f"{verdict.tenant}: {verdict.events:,} events are whole{caveat}")
    if not verdicts and only is not None:
        raise click.UsageError(f"the log has no event of tenant {only!r}")
    if not verdicts:
        click.echo("the log is empty; that it was removed as a whole, an anchor alone would show")
    if differs is not None:
        click.echo(f"the projections are DAMAGED: {differs}")
    if differs is not None or any(verdict.damage for verdict in verdicts):
        sys.exit(1)


@audit.command("rebuild")
def audit_rebuild() -> None:
    """Compute the projections anew from the log, which is verified first. Stop other processes before.

    Nothing is lost by it: all that they hold comes from the log.
    """
    from ml_registry_pipelines.registry.chain import verify
    from ml_registry_pipelines.registry.rebuilding import rebuild

    with open_log() as log:
        for verdict in verify(log.lake):
            if verdict.damage is not None:
                raise LogDamaged(
                    f"the log of tenant {verdict.tenant} is damaged: {verdict.damage.text}; {RESTORE}"
                )
        click.echo(f"{rebuild(log.lake):,} blocks of the log were folded anew")


@audit.command("log")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Newest events.")
def audit_log(limit: int) -> None:
    """List the newest events."""
    with open_log() as log:
        registry_of(log).view()  # Asks the policy, as other reads do.
        head, _ = log.head(tenant())
        if not head:
            raise NotFound("history", tenant(), tenant())
        show_events(log, range(max(1, head - limit + 1), head + 1))


@audit.command("keys")
@click.argument("private", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("public", type=click.Path(dir_okay=False, path_type=Path))
def audit_keys(private: Path, public: Path) -> None:
    """Make a key pair for anchors; keep the private one off the platform's machines."""
    from ml_registry_pipelines.registry.anchors import make_keys

    make_keys(private, public)
    click.echo(f"{private} signs anchors, {public} verifies them")


@audit.command("anchor")
@click.argument("folder")
@click.option("--key", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--public-key", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def audit_anchor(folder: str, key: Path, public_key: Path) -> None:
    """Sign the heads of all chains into FOLDER (or s3://bucket/prefix), outside MLREG_HOME."""
    from ml_registry_pipelines.registry.anchors import write_anchor

    with open_log() as log:
        admit_to(log, None)
        click.echo(write_anchor(log.lake, folder, key, public=public_key, now=datetime.now(UTC)))


@audit.command("export")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def audit_export(folder: Path) -> None:
    """Write the tenant's whole history and artifacts below FOLDER."""
    from ml_registry_pipelines.registry.transfer import export_tenant

    with open_log() as log:
        click.echo(
            f"{export_tenant(log, tenant(), folder, actor=shell_actor()):,} events written to {folder}"
        )


@audit.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def audit_import(folder: Path) -> None:
    """Take in what `audit export` wrote, verified, into an absent tenant."""
    from ml_registry_pipelines.registry.transfer import import_tenant

    with open_log() as log:
        tenant, events = import_tenant(log, folder, actor=shell_actor())
        click.echo(f"{events:,} events of tenant {tenant} imported")


@click.command("history")
@click.argument("name")
@click.option("--kind", default="model", show_default=True)
@as_of_option
def history(name: str, kind: str, as_of: datetime | None) -> None:
    """Every event about a thing, and about a model's versions."""
    with open_log() as log:
        registry = registry_of(log)
        events = (
            registry.history(name, as_of=utc(as_of))
            if kind == "model"
            else registry.things.history(kind, name, as_of=utc(as_of))
        )
        show_events(log, [event.sequence for event in events])


def attach(cli: click.Group) -> None:
    """Add the registry's commands to `mlreg`."""
    extend(models)
    models.add_command(stale)
    registry_groups = (models, artifacts, things, relationships, datasets, deployments, lineage, audit)
    for command in (*registry_groups, get, diff, rollback, history):
        cli.add_command(command)
