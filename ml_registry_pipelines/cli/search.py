"""`mlreg search`: models and versions by a query, by words, or both."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.support import as_of_option, desk, open_log, tenant_option, utc

if TYPE_CHECKING:
    from ml_registry_pipelines.search.results import Hit, Page


class QueryGroup(click.Group):
    """A group that takes what is none of its commands as a query."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["find", *args]
        return super().parse_args(ctx, args)


@click.group("search", cls=QueryGroup)
def search() -> None:
    """Find models: `mlreg search "tags.team = 'fraud' AND any(metrics.auc > 0.9)"`.

    What is none of the commands below is a query, and `mlreg search find --help` tells its options;
    `mlreg search fields` lists what a query may name.
    """


@search.command("find")
@click.argument("query", default="")
@click.option("--text", help="Words that occur in name, description or card; the most relevant come first.")
@click.option(
    "--hybrid", metavar="TEXT", help="Words and meaning together: full text and vectors, with reasons."
)
@click.option("--order", "order", multiple=True, metavar="FIELD [DESC]", help="What to sort by.")
@click.option("--versions", is_flag=True, help="Find versions, not models.")
@click.option("--deprecated", is_flag=True, help="Deprecated models too.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--cursor", help="Where the page before ended, as it said.")
@click.option("--count", "counted", is_flag=True, help="Only say how many there are.")
@click.option("--json", "as_json", is_flag=True, help="Print the page as JSON.")
@as_of_option
@tenant_option
def find(
    query: str,
    text: str | None,
    hybrid: str | None,
    order: tuple[str, ...],
    versions: bool,
    deprecated: bool,
    limit: int,
    cursor: str | None,
    counted: bool,
    as_json: bool,
    as_of: datetime | None,
) -> None:
    """List the models, or versions, that meet QUERY; without one, all."""
    from ml_registry_pipelines.search.models import Kind, ModelSearch

    if hybrid is not None:
        if text or order or versions or cursor or counted or as_of:
            raise click.UsageError("--hybrid goes with QUERY, --limit, --deprecated and --json alone")
        _find_hybrid(hybrid, query, limit, deprecated, as_json)
        return
    what: dict[str, Any] = {
        "text": text,
        "include_deprecated": deprecated,
        "as_of": utc(as_of),
        "kind": Kind.VERSION if versions else Kind.MODEL,
    }
    with open_log() as log:
        searching = ModelSearch(log, **desk())
        if counted:
            click.echo(searching.count(query, **what))
            return
        page = searching.search(query, order_by=order, limit=limit, cursor=cursor, **what)
    if as_json:
        click.echo(json.dumps(_document(page), ensure_ascii=False, default=date.isoformat))
        return
    for hit in page.hits:
        click.echo(_line(hit))
    if page.cursor is not None:
        click.echo(f"there are more: --cursor {page.cursor}", err=True)


def _find_hybrid(text: str, query: str, limit: int, deprecated: bool, as_json: bool) -> None:
    from ml_registry_pipelines.cli.similar import show_answer
    from ml_registry_pipelines.search.similar import Similarity

    with open_log() as log:
        found = Similarity(log, **desk()).search(text, query=query, k=limit, include_deprecated=deprecated)
    show_answer(found, as_json=as_json)


@search.command("rebuild")
def rebuild() -> None:
    """Make the search index anew from the log."""
    from ml_registry_pipelines.search.models import ModelSearch

    with open_log() as log:
        standing = ModelSearch(log, **desk()).rebuild()
    click.echo(
        f"{standing.path}: {standing.states:,} states up to event {standing.position:,} of the log, "
        f"{standing.size / 1e6:,.1f} MB, in {standing.seconds:,.1f} s"
    )


@search.command("fields")
@click.option("--versions", is_flag=True, help="Of a search of versions.")
def fields(versions: bool) -> None:
    """List the fields that a query may name."""
    from ml_registry_pipelines.search.language.fields import MEASURES, OF_MODELS, OF_VERSIONS

    known = OF_VERSIONS if versions else OF_MODELS
    for field in sorted(known.values(), key=lambda one: one.name):
        name = f"{field.name}.<name>" if field.keyed else field.name
        several = ", one or several" if field.many else ""
        click.echo(f"{name:<18}  {field.type.value:<29}  {field.meaning}{several}")
    for measure, meaning in MEASURES.items():
        click.echo(f"{measure + '_<N>d':<18}  {'number':<29}  {meaning}")


def _line(hit: Hit) -> str:
    aliases = " ".join(f"{name}=v{number}" for name, number in sorted(hit.aliases.items()))
    latest = "" if hit.latest_version is None or hit.version is not None else f"v{hit.latest_version}"
    score = "" if hit.score is None else f"{hit.score:.2f}"
    parts = (hit.reference, hit.stage or "", latest, hit.status, aliases, score, ", ".join(hit.matched))
    return "  ".join(part for part in parts if part)


def _document(page: Page) -> dict[str, Any]:
    return {"hits": [asdict(hit) for hit in page.hits], "cursor": page.cursor, "sequence": page.sequence}
