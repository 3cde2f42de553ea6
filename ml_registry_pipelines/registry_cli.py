"""`mlreg models|datasets|deployments|lineage|audit|history`: the registry from a shell.

A door and no more, like `cli.py`, which attaches these groups by `attach(cli)`.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.lineage.graph import Reached
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.names import TagValue
    from ml_registry_pipelines.registry.things import Thing
    from ml_registry_pipelines.registry.versions import Version

F = TypeVar("F", bound=Callable[..., Any])

_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])


@contextmanager
def _log() -> Iterator[Log]:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log

    with Lake(Settings.from_environment().home, process="cli") as lake, Log(lake) as log:
        yield log


def _desk() -> dict[str, Any]:
    """Who acts, and where: nobody has checked who sits at a shell, and the log holds no names."""
    return {"actor": _shell_actor(), "tenant": _tenant()}


def _shell_actor() -> Actor:
    from ml_registry_pipelines.registry.actors import Actor

    user = hashlib.sha256(getpass.getuser().encode()).hexdigest()
    return Actor(f"shell-{user[:16]}")


def _tenant() -> str:
    given: str | None = click.get_current_context().find_root().params.get("tenant")
    return given or Settings.from_environment().tenant or "default"


def _utc(moment: datetime | None) -> datetime | None:
    """Times without a zone are UTC."""
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def _as_of(command: F) -> F:
    return click.option("--as-of", type=_TIME, help="As had been recorded at this time (UTC).")(command)


def _key(command: F) -> F:
    return click.option("--key", help="Idempotency key: the same command under it is done once.")(command)


def _tags(given: tuple[str, ...]) -> dict[str, TagValue]:
    return {name: _tag(value) for name, _, value in (tag.partition("=") for tag in given)}


def _tag(value: str) -> TagValue:
    if value in {"true", "false"}:
        return value == "true"
    for kind in (int, float, date.fromisoformat):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _show(thing: Thing) -> None:
    lines: dict[str, object] = {
        "name": thing.name,
        "kind": thing.kind,
        "id": thing.id,
        "status": "deleted" if thing.deleted else thing.status,
        "description": thing.description,
        "owners": ", ".join(thing.owners),
        "tags": ", ".join(f"{k}={v}" for k, v in sorted(thing.tags.items())),
        "aliases": ", ".join(f"{k}=v{v}" for k, v in sorted(thing.aliases.items())),
        "metadata": json.dumps(thing.metadata, sort_keys=True) if thing.metadata else "",
        "since": f"{thing.recorded_at:%Y-%m-%d %H:%M:%S}Z by {thing.actor} (event {thing.sequence})",
    }
    _lines(lines)


def _show_version(version: Version) -> None:
    _lines(
        {
            "version": version.reference,
            "stage": "deleted" if version.deleted else version.stage.value,
            "content": f"{version.content['form']} {version.content_digest}",
            "size": "" if version.size is None else f"{version.size:,} bytes",
            "framework": version.framework or "",
            "licence": version.licence or "",
            "metrics": ", ".join(f"{k}={v}" for k, v in sorted(version.metrics.items())),
            "parameters": json.dumps(version.parameters, sort_keys=True) if version.parameters else "",
            "artifacts": ", ".join(f"{a['kind']} {a['digest'][:12]}" for a in version.artifacts),
            "tags": ", ".join(f"{k}={v}" for k, v in sorted(version.tags.items())),
            "description": version.description,
        }
    )


def _lines(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if value not in (None, ""):
            click.echo(f"{name:>12}  {value}")


def _registry(log: Log) -> Any:
    from ml_registry_pipelines.registry.models import ModelRegistry

    return ModelRegistry(log, **_desk())


def _tracker(log: Log) -> Any:
    from ml_registry_pipelines.lineage.tracker import LineageTracker

    return LineageTracker(log, **_desk())


# -- models ----------------------------------------------------------------------------------


@click.group()
def models() -> None:
    """Models and their versions. A version is MODEL@v3, MODEL@ALIAS, MODEL@production or MODEL@latest."""


@models.command("register")
@click.argument("name")
@click.option("--description", default="")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE")
@click.option("--owner", "owners", multiple=True, help="A team, or a person's pseudonym.")
@_key
def models_register(
    name: str, description: str, tags: tuple[str, ...], owners: tuple[str, ...], key: str | None
) -> None:
    """Register a model."""
    with _log() as log:
        _show(
            _registry(log).register_model(
                name, description=description, tags=_tags(tags), owners=owners, idempotency_key=key
            )
        )


@models.command("list")
@click.option("--text", help="Occurs in name or description.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE")
@click.option("--owner")
@click.option("--stage", help="A version is in this stage.")
@click.option("--alias", help="The model has this alias.")
@click.option("--limit", default=100, show_default=True)
@_as_of
def models_list(
    text: str | None,
    tags: tuple[str, ...],
    owner: str | None,
    stage: str | None,
    alias: str | None,
    limit: int,
    as_of: datetime | None,
) -> None:
    """List or search models."""
    from ml_registry_pipelines.registry.versions import Stage

    with _log() as log:
        found = _registry(log).search_models(
            text,
            tags=_tags(tags),
            owner=owner,
            stage=Stage(stage) if stage else None,
            alias=alias,
            limit=limit,
            as_of=_utc(as_of),
        )
    for model in found:
        aliases = " ".join(f"{name}=v{number}" for name, number in sorted(model.aliases.items()))
        click.echo("  ".join(part for part in (model.name, model.status, aliases) if part))


@models.command("show")
@click.argument("name")
@_as_of
def models_show(name: str, as_of: datetime | None) -> None:
    """Show a model with its versions, or one version."""
    with _log() as log:
        registry = _registry(log)
        if "@" in name:
            _show_version(registry.get_version(name, as_of=_utc(as_of)))
            return
        _show(registry.get_model(name, as_of=_utc(as_of)))
        for version in registry.list_versions(name, as_of=_utc(as_of)):
            click.echo(
                f"{'v' + str(version.number):>12}  {version.stage.value}  {version.content_digest[:12]}"
            )


@models.command("add-version")
@click.argument("model")
@click.argument("content")
@click.option("--metric", "metrics", multiple=True, metavar="NAME=NUMBER")
@click.option("--framework")
@click.option("--licence")
@click.option("--code-commit")
@click.option("--trained-on", multiple=True, metavar="DATASET@v2")
@click.option("--base-model", metavar="MODEL@v1")
@click.option("--description", default="")
@_key
def models_add_version(
    model: str,
    content: str,
    metrics: tuple[str, ...],
    framework: str | None,
    licence: str | None,
    code_commit: str | None,
    trained_on: tuple[str, ...],
    base_model: str | None,
    description: str,
    key: str | None,
) -> None:
    """Store a file or folder as the next version of a model."""
    from ml_registry_pipelines.registry.versions import VersionFacts

    try:
        numbers = {name: float(value) for name, _, value in (m.partition("=") for m in metrics)}
    except ValueError as wrong:
        raise click.UsageError(f"--metric wants NAME=NUMBER: {wrong}") from wrong
    facts = VersionFacts(
        metrics=numbers,
        framework=framework,
        licence=licence,
        code_commit=code_commit,
        trained_on=trained_on,
        base_model=base_model,
    )
    with _log() as log:
        registry = _registry(log)
        _show_version(
            registry.create_model_version(model, content, facts, description=description, idempotency_key=key)
        )


@models.command("promote")
@click.argument("version")
@click.option("--reason", default="")
@_key
def models_promote(version: str, reason: str, key: str | None) -> None:
    """Put a version into production; the former one is archived."""
    with _log() as log:
        _show_version(_registry(log).promote_to_production(version, reason=reason, idempotency_key=key))


@models.command("rollback")
@click.argument("model")
@click.option("--reason", default="")
def models_rollback(model: str, reason: str) -> None:
    """Put the version back into production that was there before."""
    with _log() as log:
        _show_version(_registry(log).rollback(model, reason=reason))


@models.command("stage")
@click.argument("version")
@click.argument("stage", type=click.Choice(["registered", "staging", "shadow", "archived"]))
def models_stage(version: str, stage: str) -> None:
    """Move a version to another stage."""
    from ml_registry_pipelines.registry.versions import Stage

    with _log() as log:
        _show_version(_registry(log).set_stage(version, Stage(stage)))


@models.command("alias")
@click.argument("version")
@click.argument("alias")
@click.option("--protect", is_flag=True, help="Let it not be moved until it is unprotected.")
def models_alias(version: str, alias: str, protect: bool) -> None:
    """Let an alias mean a version."""
    with _log() as log:
        registry = _registry(log)
        model = registry.set_alias(version, alias)
        _show(registry.protect_alias(model.id, alias) if protect else model)


@models.command("tag")
@click.argument("name")
@click.argument("tags", nargs=-1, metavar="NAME=VALUE...")
@click.option("--remove", multiple=True)
def models_tag(name: str, tags: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Set and remove tags of a model; numbers, true, false and dates keep their type."""
    with _log() as log:
        _show(_registry(log).tag_model(name, _tags(tags), remove=remove))


@models.command("rename")
@click.argument("name")
@click.argument("to")
def models_rename(name: str, to: str) -> None:
    """Give a model another name."""
    with _log() as log:
        _show(_registry(log).rename_model(name, to))


@models.command("deprecate")
@click.argument("name")
@click.option("--reason", required=True)
@click.option("--replacement", help="Model to use in its place.")
def models_deprecate(name: str, reason: str, replacement: str | None) -> None:
    """Mark a model as deprecated."""
    with _log() as log:
        _show(_registry(log).deprecate_model(name, reason=reason, replacement=replacement))


@models.command("delete")
@click.argument("name")
def models_delete(name: str) -> None:
    """Delete a model, or a version, so that it can be restored."""
    with _log() as log:
        registry = _registry(log)
        if "@" in name:
            _show_version(registry.delete_version(name))
        else:
            _show(registry.delete_model(name))


@models.command("restore")
@click.argument("name")
def models_restore(name: str) -> None:
    """Take back the deletion of a model or version."""
    with _log() as log:
        registry = _registry(log)
        if "@" in name:
            _show_version(registry.restore_version(name))
        else:
            _show(registry.restore_model(name))


@models.command("get")
@click.argument("version")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kind", help="Not the content but its artifact of this kind.")
def models_get(version: str, path: Path, kind: str | None) -> None:
    """Download a version below PATH, verified; what is there already is left alone."""
    with _log() as log:
        for file in _registry(log).download(version, path, kind=kind):
            click.echo(file)


@models.command("verify")
@click.argument("version")
def models_verify(version: str) -> None:
    """Read everything that a version is made of and compare digests."""
    with _log() as log:
        _registry(log).verify_version(version)
    click.echo(f"{version} is what was registered")


@models.command("diff")
@click.argument("first")
@click.argument("second")
def models_diff(first: str, second: str) -> None:
    """Compare two versions: metrics, schema, data, parameters."""
    with _log() as log:
        found = _registry(log).compare_versions(first, second)
    for field, (one, two) in found.fields.items():
        click.echo(f"{field}: {json.dumps(one)} -> {json.dumps(two)}")


# -- datasets and deployments ------------------------------------------------------------------


@click.group()
def datasets() -> None:
    """Datasets and their versions."""


@datasets.command("track")
@click.argument("name")
@click.argument("source")
@click.option("--sha256", help="Digest of an address that is not read from here.")
@click.option("--owner", "owners", multiple=True)
@_key
def datasets_track(
    name: str, source: str, sha256: str | None, owners: tuple[str, ...], key: str | None
) -> None:
    """Record what a dataset is now: a Delta table, Parquet or CSV, or an address with its digest."""
    from ml_registry_pipelines.registry.artifacts import Uri

    with _log() as log:
        given = Uri(source, sha256) if sha256 else source
        _show(_tracker(log).track_dataset(name, given, owners=owners, idempotency_key=key))


@datasets.command("list")
@_as_of
def datasets_list(as_of: datetime | None) -> None:
    """List datasets with their newest versions."""
    with _log() as log:
        tracker = _tracker(log)
        for dataset in _registry(log).things.find("dataset", as_of=_utc(as_of)):
            versions = tracker.dataset_versions(dataset.name, as_of=_utc(as_of))
            newest = versions[-1].metadata if versions else {}
            click.echo(
                f"{dataset.name}  v{newest.get('number', 0)}  {newest.get('rows')} rows  {newest.get('location')}"
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
@click.option("--start", type=_TIME, help="Since when (UTC); by default now.")
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
    with _log() as log:
        _show(
            _tracker(log).track_deployment(
                name,
                version,
                environment=environment,
                endpoint=endpoint,
                traffic_share=share,
                start=_utc(start),
                owners=owners,
            )
        )


@deployments.command("end")
@click.argument("name")
@click.option("--end", type=_TIME, help="When (UTC); by default now.")
def deployments_end(name: str, end: datetime | None) -> None:
    """Record that a deployment serves nothing any more."""
    with _log() as log:
        _show(_tracker(log).end_deployment(name, end=_utc(end)))


@deployments.command("on")
@click.argument("instant", type=_TIME)
@click.option("--environment")
@_as_of
def deployments_on(instant: datetime, environment: str | None, as_of: datetime | None) -> None:
    """What was served at a time, and by whose act."""
    with _log() as log:
        for d in _tracker(log).deployments_on(_utc(instant), environment=environment, as_of=_utc(as_of)):
            click.echo(
                f"{d.deployment.name}  {d.version}  {d.environment}  {d.traffic_share:.0%}  "
                f"since {d.since:%Y-%m-%d %H:%M}Z by {d.actor}"
            )


# -- lineage -------------------------------------------------------------------------------------


@click.group()
def lineage() -> None:
    """What came from what. KIND is model, model_version, dataset, dataset_version, deployment ..."""


@lineage.command("show")
@click.argument("kind")
@click.argument("name")
@click.option("--depth", type=int)
@_as_of
def lineage_show(kind: str, name: str, depth: int | None, as_of: datetime | None) -> None:
    """Everything up and down of an entity, nearest first."""
    with _log() as log:
        found = _tracker(log).get_full_lineage(kind, name, depth=depth, as_of=_utc(as_of))
    for title, reached in (("upstream", found.upstream), ("downstream", found.downstream)):
        click.echo(f"{title}: {len(reached)}")
        for item in reached:
            _reached(item)


@lineage.command("impact")
@click.argument("kind")
@click.argument("name")
@click.option("--column", help="Of a dataset: only what learned from this column.")
@_as_of
def lineage_impact(kind: str, name: str, column: str | None, as_of: datetime | None) -> None:
    """What a change would affect: live deployments and their owners first."""
    with _log() as log:
        found = _tracker(log).get_impact_analysis(kind, name, column=column, as_of=_utc(as_of))
    click.echo(f"live deployments: {len(found.deployments)}")
    for item in found.deployments:
        _reached(item)
    click.echo(f"owners: {', '.join(found.owners) or 'none'}")
    for type_, count in found.counts.items():
        click.echo(f"{type_}: {count}")


@lineage.command("graph")
@click.argument("kind")
@click.argument("name")
@click.option("--depth", type=int)
@_as_of
def lineage_graph(kind: str, name: str, depth: int | None, as_of: datetime | None) -> None:
    """Nodes and edges as JSON."""
    with _log() as log:
        found = _tracker(log).get_lineage_graph(kind, name, depth=depth, as_of=_utc(as_of))
    nodes = [{"id": n.id, "type": n.type, "name": n.name, **dict(n.detail)} for n in found.nodes]
    edges = [{"from": e.upstream, "to": e.downstream, "type": e.type} for e in found.edges]
    click.echo(json.dumps({"nodes": nodes, "edges": edges}, indent=1))


def _reached(item: Reached) -> None:
    click.echo(f"  {item.depth}  {item.node.type}  {item.node.name}")


# -- audit ---------------------------------------------------------------------------------------


@click.group()
def audit() -> None:
    """The log itself."""


@audit.command("verify")
@click.option("--tenant", "only", help="Only this organisation.")
@click.option("--anchors", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--public-key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def audit_verify(only: str | None, anchors: Path | None, public_key: Path | None) -> None:
    """Check every chain; exit status 1 and the first damaged event if one is not whole."""
    from ml_registry_pipelines.registry.anchors import read_anchors
    from ml_registry_pipelines.registry.chain import verify

    if (anchors is None) != (public_key is None):
        raise click.UsageError("--anchors and --public-key belong together")
    with _log() as log:
        known = read_anchors(anchors, public_key) if anchors and public_key else []
        verdicts = verify(log.lake, tenant=only, anchors=known)
    for verdict in verdicts:
        if verdict.damage:
            click.echo(f"{verdict.tenant}: DAMAGED, {verdict.damage.what}: {verdict.damage.text}")
        else:
            caveat = f"; {verdict.caveat}" if verdict.caveat else ""
            click.echo(f"{verdict.tenant}: {verdict.events:,} events are whole{caveat}")
    if not verdicts:
        click.echo("the log is empty")
    if any(verdict.damage for verdict in verdicts):
        sys.exit(1)


@audit.command("log")
@click.option("--limit", default=50, show_default=True, help="Newest events.")
def audit_log(limit: int) -> None:
    """List the newest events."""
    with _log() as log:
        head, _ = log.head(_tenant())
        _events(log, range(max(1, head - limit + 1), head + 1))


@audit.command("keys")
@click.argument("private", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("public", type=click.Path(dir_okay=False, path_type=Path))
def audit_keys(private: Path, public: Path) -> None:
    """Make a key pair for anchors; keep the private one off the platform's machines."""
    from ml_registry_pipelines.registry.anchors import make_keys

    make_keys(private, public)
    click.echo(f"{private} signs anchors, {public} verifies them")


@audit.command("anchor")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--key", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--public-key", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def audit_anchor(folder: Path, key: Path, public_key: Path) -> None:
    """Sign the heads of all chains into FOLDER, which lies outside MLREG_HOME."""
    from ml_registry_pipelines.registry.anchors import write_anchor

    with _log() as log:
        click.echo(write_anchor(log.lake, folder, key, public=public_key, now=datetime.now(UTC)))


@audit.command("export")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def audit_export(folder: Path) -> None:
    """Write the tenant's whole history and artifacts below FOLDER."""
    from ml_registry_pipelines.registry.transfer import export_tenant

    with _log() as log:
        click.echo(f"{export_tenant(log, _tenant(), folder):,} events written to {folder}")


@audit.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def audit_import(folder: Path) -> None:
    """Take in what `audit export` wrote, verified, into an absent tenant."""
    from ml_registry_pipelines.registry.transfer import import_tenant

    with _log() as log:
        tenant, events = import_tenant(log, folder)
        click.echo(f"{events:,} events of tenant {tenant} imported")


@click.command("history")
@click.argument("name")
@click.option("--kind", default="model", show_default=True)
def history(name: str, kind: str) -> None:
    """Every event about a thing, and about a model's versions."""
    with _log() as log:
        registry = _registry(log)
        events = registry.history(name) if kind == "model" else registry.things.history(kind, name)
        _events(log, [event.sequence for event in events])


def _events(log: Log, sequences: Any) -> None:
    for event in log.events(_tenant(), sequences):
        change = json.dumps(event.change, sort_keys=True, ensure_ascii=False)
        click.echo(
            f"{event.sequence:>8}  {event.recorded_at:%Y-%m-%d %H:%M:%S}Z  {event.actor}  {event.action}  "
            f"{change if len(change) <= 120 else change[:117] + '...'}"
        )


def attach(cli: click.Group) -> None:
    """Add the registry's commands to `mlreg`."""
    for command in (models, datasets, deployments, lineage, audit, history):
        cli.add_command(command)
