"""`mlreg similar|recommend|embeddings`: models by likeness, and the vectors that it rests on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.support import desk, open_log, show_lines, tenant_option
from ml_registry_pipelines.registry.names import TagValue

if TYPE_CHECKING:
    from ml_registry_pipelines.search.similar import Answer
    from ml_registry_pipelines.search.vectors.updating import Updated


def attach(cli: click.Group) -> None:
    """Add the commands to `mlreg`."""
    cli.add_command(similar)
    cli.add_command(recommend)
    cli.add_command(embeddings)


def answer_options(command: Callable[..., None]) -> Callable[..., None]:
    """What all questions of likeness take: `how` has the filter, k, and whether deprecated models answer."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--deprecated", is_flag=True, help="Deprecated models, too."),
        click.option(
            "-k", "k", type=click.IntRange(1, 1000), default=10, show_default=True, help="Most hits."
        ),
        click.option("--filter", "query", default="", metavar="QUERY", help="As `mlreg search` takes it."),
        tenant_option,
    ):
        command = option(command)
    return command


@click.command()
@click.argument("model")
@answer_options
def similar(model: str, query: str, k: int, deprecated: bool, as_json: bool) -> None:
    """List the models that are most like MODEL, and why."""
    from ml_registry_pipelines.search.similar import Similarity

    with open_log() as log:
        found = Similarity(log, **desk()).find_similar(model, query=query, k=k, include_deprecated=deprecated)
    show_answer(found, as_json=as_json)


@click.command()
@click.option("--dataset", help="Models for this dataset, by name or id.")
@click.option("--task", help="Models for a task, in words.")
@answer_options
def recommend(
    dataset: str | None, task: str | None, query: str, k: int, deprecated: bool, as_json: bool
) -> None:
    """List the models to look at first for a dataset or a task, and why."""
    from ml_registry_pipelines.search.similar import Similarity

    if (dataset is None) == (task is None):
        raise click.UsageError("give either --dataset or --task")
    with open_log() as log:
        found = Similarity(log, **desk()).recommend(
            dataset=dataset, task=task, query=query, k=k, include_deprecated=deprecated
        )
    show_answer(found, as_json=as_json)


def show_answer(answer: Answer, *, as_json: bool) -> None:
    """Print hits, a line each, or all of the answer as JSON."""
    if as_json:
        click.echo(json.dumps(answer_as_data(answer), ensure_ascii=False))
        return
    for hit in answer.hits:
        version = f"v{hit.latest_version}" if hit.latest_version is not None else "no version"
        status = f"  {hit.status}" if hit.status != "active" else ""
        click.echo(f"{hit.score:.3f}  {hit.name}  {version}{status}  {hit.why.sentence}")
    if not answer.hits:
        click.echo("no model answers")
    if answer.note:
        click.echo(answer.note, err=True)
    if answer.behind:
        click.echo(f"{answer.behind} newer events are not in the vectors yet", err=True)


def answer_as_data(answer: Answer) -> dict[str, Any]:
    """An answer as what JSON can hold."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(answer), default=_plain))
    for hit, told in zip(data["hits"], answer.hits, strict=True):
        hit["why"]["sentence"] = told.why.sentence
    return data


def _plain(value: object) -> TagValue | list[object]:
    return list(value) if isinstance(value, tuple | set | frozenset) else str(value)


@click.group()
def embeddings() -> None:
    """The vectors of models: whether they are current, and making them anew."""


@embeddings.command("status")
@click.option("--fail", is_flag=True, help="Exit with status 1 when something is missing or stale.")
def embeddings_status(fail: bool) -> None:
    """Compare the vectors with all models of all tenants."""
    from ml_registry_pipelines.search.vectors.updating import status

    with open_log() as log:
        found = status(log)
    show_lines(
        {
            "embedder": found.embedder or "none yet",
            "setting": found.configured,
            "dimension": found.dimension,
            "models": found.models,
            "vectors": found.vectors,
            "missing": len(found.missing),
            "stale": len(found.stale),
            "surplus": len(found.surplus),
            "events behind": found.behind,
        }
    )
    click.echo(found.sentence)
    if fail and not found.is_current:
        sys.exit(1)


@embeddings.command("update")
@click.option("--whole", is_flag=True, help="Compare all models, not only those that changed.")
def embeddings_update(whole: bool) -> None:
    """Embed what changed, as the asset does; with another embedder set, everything into a new table."""
    from ml_registry_pipelines.search.vectors.updating import update

    with open_log() as log:
        _show(update(log, whole=whole))


@embeddings.command("rebuild")
def embeddings_rebuild() -> None:
    """Make all vectors anew, whatever state they are in."""
    from ml_registry_pipelines.search.vectors.updating import rebuild

    with open_log() as log:
        _show(rebuild(log))


def _show(done: Updated) -> None:
    what = "made anew" if done.backfilled else "brought up to date"
    click.echo(
        f"{what}: {done.vectors} vectors of {done.dimension} numbers by {done.embedder}; "
        f"{done.embedded} embedded, {done.unchanged} as they were, {done.removed} removed, "
        f"{done.seconds:.1f} s" + (", indexed" if done.indexed else "")
    )
