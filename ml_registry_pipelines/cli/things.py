"""`mlreg things|relationships`, and the verbs of `mlreg models` that things of any kind have too.

A door and no more; `registry_cli.attach` attaches it.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.support import (
    TIME,
    act_options,
    as_of_option,
    desk,
    open_log,
    parsed_tags,
    registry_of,
    show_events,
    show_lines,
    show_more,
    show_thing,
    show_version,
    utc,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.relationships import Relationship, Relationships
    from ml_registry_pipelines.registry.things import Things

LIST = click.Path(exists=True, dir_okay=False, path_type=Path)
FLOW = click.Choice(["to_target", "to_source"])


def _things(log: Log) -> Things:
    return registry_of(log).things


# -- things of any kind --------------------------------------------------------------------------


@click.group()
def things() -> None:
    """Things of any kind: application, feature, prompt, evaluation, team ... KIND is in lower case."""


@things.command("register")
@click.argument("kind")
@click.argument("name")
@click.option("--description", default="")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE")
@click.option("--owner", "owners", multiple=True, help="A team, or a person's pseudonym.")
@click.option("--metadata", help="A JSON object.")
@act_options
def things_register(
    kind: str,
    name: str,
    description: str,
    tags: tuple[str, ...],
    owners: tuple[str, ...],
    metadata: str | None,
    how: dict[str, Any],
) -> None:
    """Register a thing."""
    given = _json_object(metadata) if metadata else {}
    with open_log() as log:
        show_thing(
            _things(log).register(
                kind,
                name,
                description=description,
                tags=parsed_tags(tags),
                owners=owners,
                metadata=given,
                **how,
            )
        )


@things.command("register-many")
@click.argument("kind")
@click.argument("file", type=LIST)
@click.option("--key", help="Idempotency key: the same command under it is done once.")
def things_register_many(kind: str, file: Path, key: str | None) -> None:
    """Register the things of a .jsonl or .parquet FILE, all of them or none.

    A row has a name, and may have description, tags, owners and metadata.
    """
    from ml_registry_pipelines.registry.intake import register_file

    with open_log() as log:
        count = register_file(_things(log), kind, file, idempotency_key=key)
    click.echo(f"{count:,} of kind {kind} are registered")


@things.command("list")
@click.argument("kind", required=False)
@click.option("--text", help="Occurs in name or description.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE")
@click.option("--owner")
@click.option("--status", type=click.Choice(["active", "deprecated"]))
@click.option("--deleted", is_flag=True, help="The deleted ones.")
@click.option("--after", help="Where the page before ended, as it said.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@as_of_option
def things_list(
    kind: str | None, tags: tuple[str, ...], limit: int, as_of: datetime | None, **wanted: Any
) -> None:
    """List or search things, of one kind or of all."""
    with open_log() as log:
        found = _things(log).find(kind, tags=parsed_tags(tags), limit=limit + 1, as_of=utc(as_of), **wanted)
    for thing in found[:limit]:
        click.echo(f"{thing.kind}  {thing.name}  {'deleted' if thing.deleted else thing.status}")
    show_more(found, limit)


@things.command("show")
@click.argument("kind")
@click.argument("name")
@click.option("--valid-at", type=TIME, help="As held at this time (UTC), by effective time.")
@as_of_option
def things_show(kind: str, name: str, valid_at: datetime | None, as_of: datetime | None) -> None:
    """Show a thing."""
    with open_log() as log:
        show_thing(_things(log).get(kind, name, as_of=utc(as_of), valid_at=utc(valid_at)))


@things.command("rename")
@click.argument("kind")
@click.argument("name")
@click.argument("to")
@act_options
def things_rename(kind: str, name: str, to: str, how: dict[str, Any]) -> None:
    """Give a thing another name; what refers to it follows."""
    with open_log() as log:
        show_thing(_things(log).rename(kind, name, to, **how))


@things.command("describe")
@click.argument("kind")
@click.argument("name")
@click.argument("text")
@act_options
def things_describe(kind: str, name: str, text: str, how: dict[str, Any]) -> None:
    """Replace the description."""
    with open_log() as log:
        show_thing(_things(log).describe(kind, name, text, **how))


@things.command("tag")
@click.argument("kind")
@click.argument("name")
@click.argument("tags", nargs=-1, metavar="NAME=VALUE...")
@click.option("--remove", multiple=True)
@act_options
def things_tag(
    kind: str, name: str, tags: tuple[str, ...], remove: tuple[str, ...], how: dict[str, Any]
) -> None:
    """Set and remove tags; numbers, true, false and dates keep their type, NAME='"1"' is text."""
    with open_log() as log:
        show_thing(_things(log).tag(kind, name, parsed_tags(tags), remove=remove, **how))


@things.command("owners")
@click.argument("kind")
@click.argument("name")
@click.argument("owners", nargs=-1)
@act_options
def things_owners(kind: str, name: str, owners: tuple[str, ...], how: dict[str, Any]) -> None:
    """Replace the owners: teams, or pseudonyms of people."""
    with open_log() as log:
        show_thing(_things(log).set_owners(kind, name, owners, **how))


@things.command("metadata")
@click.argument("kind")
@click.argument("name")
@click.argument("metadata", metavar="JSON")
@act_options
def things_metadata(kind: str, name: str, metadata: str, how: dict[str, Any]) -> None:
    """Replace the metadata by a JSON object."""
    given = _json_object(metadata)
    with open_log() as log:
        show_thing(_things(log).set_metadata(kind, name, given, **how))


@things.command("deprecate")
@click.argument("kind")
@click.argument("name")
@click.option("--reason", required=True)
@click.option("--replacement", help="What to use in its place, of the same kind.")
@act_options
def things_deprecate(kind: str, name: str, reason: str, replacement: str | None, how: dict[str, Any]) -> None:
    """Mark a thing as deprecated."""
    with open_log() as log:
        show_thing(_things(log).deprecate(kind, name, reason=reason, replacement=replacement, **how))


@things.command("reinstate")
@click.argument("kind")
@click.argument("name")
@act_options
def things_reinstate(kind: str, name: str, how: dict[str, Any]) -> None:
    """Take back a deprecation."""
    with open_log() as log:
        show_thing(_things(log).reinstate(kind, name, **how))


@things.command("delete")
@click.argument("kind")
@click.argument("name")
@act_options
def things_delete(kind: str, name: str, how: dict[str, Any]) -> None:
    """Delete a thing so that it can be restored."""
    with open_log() as log:
        show_thing(_things(log).delete(kind, name, **how))


@things.command("restore")
@click.argument("kind")
@click.argument("name")
@act_options
def things_restore(kind: str, name: str, how: dict[str, Any]) -> None:
    """Take back a deletion."""
    with open_log() as log:
        show_thing(_things(log).restore(kind, name, **how))


@things.command("history")
@click.argument("kind")
@click.argument("name")
@as_of_option
def things_history(kind: str, name: str, as_of: datetime | None) -> None:
    """Every event about a thing."""
    with open_log() as log:
        show_events(log, [e.sequence for e in _things(log).history(kind, name, as_of=utc(as_of))])


# -- relationships of any type --------------------------------------------------------------------


@click.group()
def relationships() -> None:
    """Relationships of any type. An end is KIND:NAME, such as application:checkout or model_version:fraud@v3."""


def _relationships(log: Log) -> Relationships:
    from ml_registry_pipelines.registry.relationships import Relationships

    return Relationships(log, **desk())


@relationships.command("relate")
@click.argument("type_", metavar="TYPE")
@click.argument("source")
@click.argument("target")
@click.option("--properties", help="A JSON object.")
@click.option("--flow", type=FLOW, help="Which way influence goes; by default the type says.")
@act_options
def relationships_relate(
    type_: str, source: str, target: str, properties: str | None, flow: str | None, how: dict[str, Any]
) -> None:
    """Draw an edge, such as `relate used_by model:fraud application:checkout`."""
    from ml_registry_pipelines.registry.intake import parsed_end
    from ml_registry_pipelines.registry.relationships import Flow

    given = _json_object(properties) if properties else {}
    with open_log() as log:
        drawn = _relationships(log).relate(
            type_,
            parsed_end(source),
            parsed_end(target),
            properties=given,
            flow=Flow(flow) if flow else None,
            **how,
        )
        _show_edges(log, [drawn])


@relationships.command("relate-many")
@click.argument("type_", metavar="TYPE")
@click.argument("file", type=LIST)
@click.option("--flow", type=FLOW, help="Which way influence goes; by default the type says.")
@act_options
def relationships_relate_many(type_: str, file: Path, flow: str | None, how: dict[str, Any]) -> None:
    """Draw the edges of a .jsonl or .parquet FILE, all of them or none.

    A row has source and target, each KIND:NAME, and may have properties.
    """
    from ml_registry_pipelines.registry.intake import read_edges
    from ml_registry_pipelines.registry.relationships import Flow

    edges = read_edges(file)
    with open_log() as log:
        count = _relationships(log).relate_many(type_, edges, flow=Flow(flow) if flow else None, **how)
    click.echo(f"{count:,} relationships of type {type_} are drawn")


@relationships.command("unrelate")
@click.argument("type_", metavar="TYPE")
@click.argument("source")
@click.argument("target")
@act_options
def relationships_unrelate(type_: str, source: str, target: str, how: dict[str, Any]) -> None:
    """Remove an edge; as of earlier it is still there."""
    from ml_registry_pipelines.registry.intake import parsed_end

    with open_log() as log:
        removed = _relationships(log).unrelate(type_, parsed_end(source), parsed_end(target), **how)
        _show_edges(log, [removed])


@relationships.command("list")
@click.argument("entity", metavar="KIND:NAME")
@click.option("--type", "type_", help="Only of this type.")
@as_of_option
def relationships_list(entity: str, type_: str | None, as_of: datetime | None) -> None:
    """The relationships of a thing or version."""
    from ml_registry_pipelines.registry.intake import parsed_end

    with open_log() as log:
        kind, name = parsed_end(entity)
        _show_edges(log, _relationships(log).list(kind, name, type_=type_, as_of=utc(as_of)))


def _show_edges(log: Log, edges: list[Relationship]) -> None:
    from ml_registry_pipelines.registry.relationships import label

    view = _relationships(log).view()
    for edge in edges:
        properties = f"  {json.dumps(edge.properties, sort_keys=True)}" if edge.properties else ""
        click.echo(
            f"{edge.source_type}:{label(view, edge.source_id)}  {edge.type}  "
            f"{edge.target_type}:{label(view, edge.target_id)}{'  removed' if edge.removed else ''}{properties}"
        )


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as wrong:
        raise click.UsageError(f"that is no JSON: {wrong}") from wrong
    if not isinstance(found, dict):
        raise click.UsageError('give a JSON object, such as \'{"region": "eu"}\'')
    return found


# -- what models have beside ------------------------------------------------------------------------


@click.command("register-many")
@click.argument("file", type=LIST)
@click.option("--key", help="Idempotency key: the same command under it is done once.")
def models_register_many(file: Path, key: str | None) -> None:
    """Register the models of a .jsonl or .parquet FILE, all of them or none.

    A row has a name, and may have description, tags, owners and metadata.
    """
    from ml_registry_pipelines.registry.intake import register_file

    with open_log() as log:
        count = register_file(_things(log), "model", file, idempotency_key=key)
    click.echo(f"{count:,} models are registered")


@click.command("describe")
@click.argument("name")
@click.argument("text")
@act_options
def models_describe(name: str, text: str, how: dict[str, Any]) -> None:
    """Replace the description of a model, or of a version."""
    with open_log() as log:
        registry = registry_of(log)
        if registry.is_version(name):
            show_version(registry.describe_version(name, text, **how))
        else:
            show_thing(registry.describe_model(name, text, **how))


@click.command("owners")
@click.argument("name")
@click.argument("owners", nargs=-1)
@act_options
def models_owners(name: str, owners: tuple[str, ...], how: dict[str, Any]) -> None:
    """Replace the owners of a model: teams, or pseudonyms of people."""
    with open_log() as log:
        show_thing(registry_of(log).set_model_owners(name, owners, **how))


@click.command("unalias")
@click.argument("model")
@click.argument("alias")
@act_options
def models_unalias(model: str, alias: str, how: dict[str, Any]) -> None:
    """Take an alias away."""
    with open_log() as log:
        show_thing(registry_of(log).remove_alias(model, alias, **how))


@click.command("protect")
@click.argument("model")
@click.argument("alias")
@act_options
def models_protect(model: str, alias: str, how: dict[str, Any]) -> None:
    """Let an alias neither be moved nor removed until it is unprotected."""
    with open_log() as log:
        show_thing(registry_of(log).protect_alias(model, alias, **how))


@click.command("unprotect")
@click.argument("model")
@click.argument("alias")
@act_options
def models_unprotect(model: str, alias: str, how: dict[str, Any]) -> None:
    """Take the protection of an alias back."""
    with open_log() as log:
        show_thing(registry_of(log).unprotect_alias(model, alias, **how))


@click.command("reinstate")
@click.argument("name")
@act_options
def models_reinstate(name: str, how: dict[str, Any]) -> None:
    """Take back a deprecation."""
    with open_log() as log:
        show_thing(registry_of(log).reinstate_model(name, **how))


@click.command("production-on")
@click.argument("model")
@click.argument("instant", type=TIME)
@as_of_option
def models_production_on(model: str, instant: datetime, as_of: datetime | None) -> None:
    """What was in production at a time (UTC), and by whose act."""
    at = utc(instant)
    assert at is not None
    with open_log() as log:
        found = registry_of(log).production_on(model, at, as_of=utc(as_of))
    if found is None:
        click.echo(f"{model} had nothing in production at {at:%Y-%m-%d %H:%M:%S}Z")
        return
    show_lines(
        {
            "version": found.version.reference,
            "since": f"{found.since:%Y-%m-%d %H:%M:%S}Z by {found.actor}",
            "recorded": f"{found.recorded_at:%Y-%m-%d %H:%M:%S}Z",
        }
    )


def extend(models: click.Group) -> None:
    """Add what models have beside to `mlreg models`."""
    for command in (
        models_register_many,
        models_describe,
        models_owners,
        models_unalias,
        models_protect,
        models_unprotect,
        models_reinstate,
        models_production_on,
    ):
        models.add_command(command)
