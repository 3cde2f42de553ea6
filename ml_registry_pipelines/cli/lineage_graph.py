"""`mlreg lineage`: questions about the graph, its exports and imports, and its index, from a shell.

A door and no more, attached with `registry_cli`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.support import (
    F,
    as_of_option,
    ask_for,
    desk,
    open_log,
    tenant,
    tracker_of,
    utc,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.lineage.graph import Reached
    from ml_registry_pipelines.lineage.tracker import Graph, LineageTracker
    from ml_registry_pipelines.registry.log import Log

TOKEN = "MLREG_OPENLINEAGE_TOKEN"  # noqa: S105 - the name of the variable
GRAPHS = ("json", "graphml", "mermaid", "html")
SHOWN = 20
"""Refused events that are printed; all are kept."""


@click.group()
def lineage() -> None:
    """What came from what. KIND is model, model_version, dataset, dataset_version, deployment ..."""


def _entity_argument(*, required: bool) -> Callable[[F], F]:
    def entity(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, str] | None:
        match given:
            case (kind, name):
                return kind, name
            case (name,) if "@" in name:
                return "model_version", name
            case () if not required:
                return None
        raise click.UsageError(
            "give KIND and NAME, or a model's version alone, such as fraud@v3"
            + ("" if required else ", or nothing for the whole graph")
        )

    return click.argument(
        "entity", nargs=-1, callback=entity, metavar="[KIND] NAME" if required else "[[KIND] NAME]"
    )


def _walk_options(command: F) -> F:
    for option in (
        click.option("--depth", type=click.IntRange(1), help="Steps to go at most."),
        click.option(
            "--type", "types", multiple=True, help="List these kinds alone; ways lead through others too."
        ),
        click.option(
            "--relation", "relations", multiple=True, help="Follow relationships of this type alone."
        ),
        click.option("--limit", type=click.IntRange(1), help="Entities to list at most, the nearest first."),
        click.option("--cursor", help="Where the last answer ended."),
        as_of_option,
    ):
        command = option(command)
    return command


def _asked(
    depth: int | None,
    types: tuple[str, ...],
    relations: tuple[str, ...],
    limit: int | None,
    cursor: str | None,
    as_of: datetime | None,
) -> dict[str, Any]:
    return {
        "depth": depth,
        "types": types or None,
        "relations": relations or None,
        "limit": limit,
        "cursor": cursor,
        "as_of": utc(as_of),
    }


@lineage.command("show")
@_entity_argument(required=True)
@_walk_options
def lineage_show(entity: tuple[str, str], **options: Any) -> None:
    """Everything up and down of an entity, nearest first."""
    with open_log() as log:
        found = tracker_of(log).get_full_lineage(*entity, **_asked(**options))
    for title, reached in (("upstream", found.upstream), ("downstream", found.downstream)):
        click.echo(f"{title}: {len(reached)}")
        for item in reached:
            _reached(item)
    _more(found.cursor)


@lineage.command("impact")
@_entity_argument(required=True)
@click.option("--column", help="Of a dataset: only what learned from this column.")
@_walk_options
def lineage_impact(entity: tuple[str, str], column: str | None, **options: Any) -> None:
    """What a change would affect: live deployments and their owners first."""
    with open_log() as log:
        found = tracker_of(log).get_impact_analysis(*entity, column=column, **_asked(**options))
    click.echo(f"live deployments: {len(found.deployments)}")
    for item in found.deployments:
        _reached(item)
    click.echo(f"owners: {', '.join(found.owners) or 'none'}")
    for type_, count in found.counts.items():
        click.echo(f"{type_}: {count}")
    if options["limit"] is not None:
        for reached in found.affected.values():
            for item in reached:
                _reached(item)
    _more(found.cursor)


@lineage.command("graph")
@_entity_argument(required=True)
@_walk_options
def lineage_graph(entity: tuple[str, str], **options: Any) -> None:
    """Nodes and edges as JSON."""
    from ml_registry_pipelines.lineage.exports import as_json

    with open_log() as log:
        found = tracker_of(log).get_lineage_graph(*entity, **_asked(**options))
    click.echo(as_json(found, _title(entity)), nl=False)


@lineage.command("export")
@_entity_argument(required=False)
@click.option(
    "--format", "form", type=click.Choice([*GRAPHS, "openlineage"]), help="By default by the file's name."
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File; by default the standard output.")
@click.option("--url", help=f"Post OpenLineage events there; {TOKEN} may hold a token.")
@_walk_options
def lineage_export(
    entity: tuple[str, str] | None, form: str | None, output: Path | None, url: str | None, **options: Any
) -> None:
    """The graph around an entity, or the whole one: JSON, GraphML, Mermaid, a page, or OpenLineage events."""
    form = form or ("openlineage" if url else _form_of(output))
    if url and form != "openlineage":
        raise click.UsageError("only OpenLineage events are posted")
    asked = _asked(**options)
    with open_log() as log:
        graph = _graph(tracker_of(log), entity, asked)
        if form == "openlineage":
            _export_events(log, None if entity is None else graph, asked["as_of"], output, url)
        else:
            _export_graph(graph, form, _title(entity), asked["as_of"], output)
    _more(graph.cursor)


def _graph(tracker: LineageTracker, entity: tuple[str, str] | None, asked: dict[str, Any]) -> Graph:
    if entity is not None:
        return tracker.get_lineage_graph(*entity, **asked)
    if any(asked[option] for option in ("depth", "types", "relations", "limit", "cursor")):
        raise click.UsageError("the whole graph takes --as-of alone; give KIND and NAME to limit it")
    return tracker.get_whole_graph(as_of=asked["as_of"])


def _form_of(output: Path | None) -> str:
    forms = {
        ".json": "json", ".graphml": "graphml", ".xml": "graphml", ".mmd": "mermaid", ".html": "html", ".htm": "html",
        ".jsonl": "openlineage", ".ndjson": "openlineage",
    }  # fmt: skip
    if output is None:
        return "json"
    if output.suffix.lower() not in forms:
        raise click.UsageError(f"{output.name} says no format; give --format")
    return forms[output.suffix.lower()]


def _export_graph(graph: Graph, form: str, title: str, as_of: datetime | None, output: Path | None) -> None:
    from ml_registry_pipelines.lineage.exports import FORMATS, as_html

    text = as_html(graph, title, as_of=as_of) if form == "html" else FORMATS[form](graph, title)
    if output is None:
        click.echo(text, nl=False)
        return
    _written(output, lambda path: path.write_text(text, encoding="utf-8"))
    click.echo(f"{output}: {len(graph.nodes)} entities, {len(graph.edges)} edges", err=True)


def _export_events(
    log: Log, graph: Graph | None, as_of: datetime | None, output: Path | None, url: str | None
) -> None:
    from ml_registry_pipelines.lineage.openlineage.events import described
    from ml_registry_pipelines.lineage.openlineage.exporting import events_of
    from ml_registry_pipelines.lineage.openlineage.files import write_events
    from ml_registry_pipelines.lineage.openlineage.transport import post

    ids = None if graph is None else [node.id for node in graph.nodes]
    events = events_of(log.view(tenant(), as_of=as_of), ids)
    if url:
        click.echo(
            f"{post(events, url, token=os.environ.get(TOKEN) or None)} events posted to {url}", err=True
        )
    elif output is None:
        for event in events:
            click.echo(described(event))
    else:
        counts: list[int] = []
        _written(output, lambda path: counts.append(write_events(events, path)))
        click.echo(f"{output}: {counts[0]} events", err=True)


def _written(output: Path, write: Callable[[Path], object]) -> None:
    try:
        write(output)
    except OSError as failure:
        raise click.ClickException(f"{output} cannot be written: {failure.strerror}") from failure


@lineage.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--datasets-only", is_flag=True, help="Take our own facets for nothing: no models, no deployments."
)
def lineage_import(paths: tuple[Path, ...], datasets_only: bool) -> None:
    """Take OpenLineage events from files and folders; what was taken before changes nothing."""
    from ml_registry_pipelines.lineage.openlineage.files import import_files
    from ml_registry_pipelines.lineage.openlineage.importing import Importer

    with open_log() as log:
        done = import_files(Importer(log, **desk()), paths, entities=not datasets_only)
    click.echo(f"{done.new} events taken, {done.before} known already, {len(done.refused)} refused")
    for refused in done.refused[:SHOWN]:
        click.echo(f"{refused.file}:{refused.line}: {refused.reason}", err=True)
    if done.refused:
        click.echo(f"what was refused is kept in {done.kept_at}", err=True)
        sys.exit(1)


@lineage.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help=f"Others need a token: {TOKEN}.")
@click.option("--port", type=click.IntRange(0, 65535), default=5050, show_default=True)
def lineage_serve(host: str, port: int) -> None:
    """Take OpenLineage events over HTTP, from Spark, dbt or Airflow, until it is stopped."""
    from ml_registry_pipelines.lineage.openlineage.importing import Importer
    from ml_registry_pipelines.lineage.openlineage.transport import LineageServer

    with open_log() as log:
        try:
            server = LineageServer(
                Importer(log, **desk()), host=host, port=port, token=os.environ.get(TOKEN) or None
            )
        except OSError as failure:
            raise click.ClickException(
                f"{host}:{port} cannot be listened on: {failure.strerror}"
            ) from failure
        with server:
            click.echo(f"taking events at {server.address}")
            server.serve_forever()


@lineage.command("index")
@click.option("--build", is_flag=True, help="Bring it up to the projections, and publish it.")
@click.option("--whole", is_flag=True, help="Make it anew.")
def lineage_index(build: bool, whole: bool) -> None:
    """The index that lineage is walked on: what it holds, and building it."""
    from ml_registry_pipelines.access.roles import OPERATE
    from ml_registry_pipelines.lineage.index import index_of

    with open_log() as log:
        index = index_of(log)
        if build or whole:
            ask_for(log, OPERATE, "lineage_index", everywhere=True)
            done = index.build(whole=whole)
            click.echo(f"{'built' if done.fresh else 'nothing newer to build'} in {done.seconds:.1f} s")
        generation = index.published()
    click.echo(
        f"generation {generation.number}: {generation.edges:,} edges, {generation.nodes:,} entities, "
        f"{generation.size:,} bytes, up to position {generation.until:,} of the log"
    )
    for layer in generation.layers:
        click.echo(
            f"  {layer.layer}  {layer.edges:,} edges  {layer.size:,} bytes  {layer.after:,} to {layer.until:,}  "
            f"built {layer.built_at:%Y-%m-%d %H:%M}Z in {layer.seconds:.1f} s"
        )


def _title(entity: tuple[str, str] | None) -> str:
    return f"Lineage of {' '.join(entity).replace('_', ' ', 1)}" if entity else f"Lineage of {tenant()}"


def _reached(item: Reached) -> None:
    click.echo(f"  {item.depth}  {item.node.type}  {item.node.name}")


def _more(cursor: str | None) -> None:
    if cursor is not None:
        click.echo(f"partial; go on with --cursor {cursor}", err=True)
