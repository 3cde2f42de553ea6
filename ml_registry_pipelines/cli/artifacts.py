"""`mlreg get|diff|rollback` and `mlreg artifacts ...`: what versions are made of, from a shell.

A door and no more; `registry.py` attaches these commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ml_registry_pipelines.cli.support import (
    Number,
    as_of_option,
    key_option,
    open_log,
    purpose_option,
    registry_of,
    show_version,
    tenant_option,
    utc,
)
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.artifacts import Content, File
    from ml_registry_pipelines.registry.cache import Cache
    from ml_registry_pipelines.registry.versions import Artifact

F = TypeVar("F", bound=Callable[..., Any])
KIND_HELP = "Its artifact of this kind; default: the content itself."


# -- what add-version takes ------------------------------------------------------------------


def content_options(command: F) -> F:
    """Options that say what CONTENT is, where it is no path; collected as `described`."""

    def collect(context: click.Context, option: click.Parameter, value: object) -> None:
        described = context.params.setdefault("described", {})
        if value not in (None, False, ()):
            described[option.name] = value

    for names, more in (
        (("--sha256",), {"help": "CONTENT is an address, and this the digest of what is there."}),
        (("--size",), {"type": click.IntRange(0), "help": "Bytes at the address, where known."}),
        (("--hosted",), {"is_flag": True, "help": "CONTENT is PROVIDER/SNAPSHOT of a hosted model."}),
        (
            ("--hosted-parameter", "hosted_parameters"),
            {"multiple": True, "metavar": "NAME=VALUE", "help": "What it is called with; JSON or text."},
        ),
        (("--prompt-digest",), {"help": "SHA-256 of the prompt that belongs to it."}),
        (("--upload",), {"is_flag": True, "help": "CONTENT is the ticket of an upload."}),
    ):
        attributes: dict[str, Any] = dict(more)
        command = click.option(*names, callback=collect, expose_value=False, **attributes)(command)
    return command


def content_of(content: str, described: dict[str, Any]) -> Content:
    """What a version is made of, from CONTENT and its options."""
    from ml_registry_pipelines.registry.artifacts import HostedModel, Uploaded, Uri

    forms = {"sha256", "hosted", "upload"} & described.keys()
    if len(forms) > 1:
        raise click.UsageError(f"--{' and --'.join(sorted(forms))} say different things about CONTENT")
    of_hosted = {"hosted_parameters", "prompt_digest"} & described.keys()
    if of_hosted and "hosted" not in described:
        raise click.UsageError("--hosted-parameter and --prompt-digest belong to --hosted")
    if "size" in described and "sha256" not in described:
        raise click.UsageError("--size belongs to --sha256")
    if "hosted" in described:
        provider, _, snapshot = content.partition("/")
        given = dict(named(each, "--hosted-parameter") for each in described.get("hosted_parameters", ()))
        return HostedModel(provider, snapshot, given, described.get("prompt_digest"))
    if "upload" in described:
        return Uploaded(content)
    if "sha256" in described:
        return Uri(content, described["sha256"], described.get("size"))
    if "://" in content and not Path(content).exists():
        raise click.UsageError(f"{content} is an address; give its --sha256 with it")
    return content


def named(given: str, option: str) -> tuple[str, Any]:
    """NAME=VALUE of an option; what is no JSON is text."""
    name, divider, value = given.partition("=")
    if not divider or not name:
        raise click.UsageError(f"{option} wants NAME=VALUE, not {given!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def kind_and_path(given: str) -> Artifact:
    """KIND=PATH as an artifact."""
    from ml_registry_pipelines.registry.versions import Artifact

    kind, divider, path = given.partition("=")
    if not divider or not kind or not path:
        raise click.UsageError(f"--artifact wants KIND=PATH, not {given!r}")
    return Artifact(kind, path)


# -- the three short ones --------------------------------------------------------------------


@click.command("get")
@click.argument("version")
@click.argument("path", type=click.Path(file_okay=False, path_type=Path))
@click.option("--kind", help=KIND_HELP)
@click.option("--no-cache", is_flag=True, help="Neither look into the cache nor keep anything there.")
@purpose_option
@as_of_option
@tenant_option
def get(
    version: str, path: Path, kind: str | None, no_cache: bool, purpose: str | None, as_of: datetime | None
) -> None:
    """Download a version below the folder PATH, verified.

    VERSION is MODEL@v3, MODEL@ALIAS, MODEL@production or MODEL@latest. Files that are there with
    the right bytes are left alone; others that lie there stay.
    """
    with open_log() as log:
        cache = None if no_cache else _cache()
        for file in registry_of(log).fetch(
            version, path, kind=kind, cache=cache, as_of=utc(as_of), purpose=purpose
        ):
            origin = {"store": "", "cache": "  (from the cache)", "there": "  (was there)"}[file.origin]
            click.echo(f"{file.path}{origin}")


@click.command("diff")
@click.argument("versions", nargs=-1, required=True, metavar="NAME v3 v5 | NAME@v3 NAME@v5")
@click.option("--json", "as_json", is_flag=True, help="As JSON: field, first value, second value.")
@as_of_option
@tenant_option
def diff(versions: tuple[str, ...], as_json: bool, as_of: datetime | None) -> None:
    """Compare two versions: metrics, schema, data, parameters, files."""
    match versions:
        case (name, one, two):
            first, second = f"{name}@{one}", f"{name}@{two}"
        case (first, second):
            pass
        case _:
            raise click.UsageError("diff wants NAME v3 v5, or two versions such as NAME@v3 NAME@v5")
    with open_log() as log:
        found = registry_of(log).compare_versions(first, second, as_of=utc(as_of))
    if as_json:
        fields = {name: list(values) for name, values in found.fields.items()}
        click.echo(json.dumps({"first": found.first, "second": found.second, "fields": fields}, indent=2))
        return
    if not found.fields:
        click.echo(f"{found.first} and {found.second} are alike")
    for field, (one, two) in found.fields.items():
        click.echo(f"{field}: {json.dumps(one)} -> {json.dumps(two)}{_change(one, two)}")


def _change(one: object, two: object) -> str:
    if isinstance(one, bool) or isinstance(two, bool):
        return ""
    if isinstance(one, int | float) and isinstance(two, int | float):
        return f" ({two - one:+.6g})"
    return ""


former_option = click.option(
    "--former",
    type=click.Choice(["archived", "staging", "shadow", "registered"]),
    default="archived",
    show_default=True,
    help="What becomes of the version that is in production now.",
)


@click.command("rollback")
@click.argument("model")
@click.option("--reason", default="")
@former_option
@key_option
@tenant_option
def rollback(model: str, reason: str, former: str, key: str | None) -> None:
    """Put the version back into production that was there before."""
    from ml_registry_pipelines.registry.versions import Stage

    with open_log() as log:
        show_version(
            registry_of(log).rollback(model, former=Stage(former), reason=reason, idempotency_key=key)
        )


# -- artifacts -------------------------------------------------------------------------------


@click.group()
def artifacts() -> None:
    """What versions are made of: content, checkpoints, evaluation results, model cards, any kind."""


@artifacts.command("list")
@click.argument("version")
@click.option("--files", is_flag=True, help="Every file, with its SHA-256.")
@as_of_option
@tenant_option
def artifacts_list(version: str, files: bool, as_of: datetime | None) -> None:
    """List all that a version is made of."""
    with open_log() as log:
        registry = registry_of(log)
        for artifact in registry.list_artifacts(version, as_of=utc(as_of)):
            size = "" if artifact.size is None else f"{artifact.size:,} bytes"
            parts = (artifact.kind, artifact.form, artifact.digest[:12], artifact.name, size)
            click.echo("  ".join(part for part in parts if part))
            for file in registry.artifacts.files(artifact.digest) if files else ():
                click.echo(f"    {file.sha256}  {file.size:>15,}  {file.path}")


@artifacts.command("add")
@click.argument("version")
@click.argument("kind")
@click.argument("content")
@content_options
@key_option
@tenant_option
def artifacts_add(version: str, kind: str, content: str, described: dict[str, Any], key: str | None) -> None:
    """Add an artifact to a version; what the version has already stays as it is."""
    from ml_registry_pipelines.registry.versions import Artifact

    with open_log() as log:
        artifact = Artifact(kind, content_of(content, described))
        show_version(registry_of(log).add_artifact(version, artifact, idempotency_key=key))


artifacts.add_command(get)


@artifacts.command("verify")
@click.argument("versions", nargs=-1)
@click.option("--kind", help="Only its artifact of this kind.")
@click.option("--all", "everything", is_flag=True, help="Every version of every model of the tenant.")
@tenant_option
def artifacts_verify(versions: tuple[str, ...], kind: str | None, everything: bool) -> None:
    """Read all files and compare digests; exit status 1 and the file's name where one was changed."""
    from ml_registry_pipelines.registry.artifacts import ArtifactChanged, ArtifactElsewhere

    if everything == bool(versions):
        raise click.UsageError("name versions, or say --all")
    damaged = 0
    with open_log() as log:
        registry = registry_of(log)
        named = versions or [
            version.reference
            for model in registry.list_models()
            for version in registry.list_versions(model.id)
        ]
        for name in named:
            try:
                registry.verify_version(name, kind=kind)
                click.echo(f"{name} is what was registered")
            except ArtifactElsewhere as elsewhere:
                click.echo(f"{name} is not read from here: {elsewhere}")
            except ArtifactChanged as failure:
                damaged += 1
                click.echo(f"DAMAGED {failure}")
    if damaged:
        sys.exit(1)


@artifacts.command("link")
@click.argument("version")
@click.option("--kind", help=KIND_HELP)
@click.option("--hours", type=Number(0, 168, min_open=True), default=1.0, show_default=True)
@purpose_option
@tenant_option
def artifacts_link(version: str, kind: str | None, hours: float, purpose: str | None) -> None:
    """Print links by which a version's files can be fetched from the bucket for a while."""
    with open_log() as log:
        for link in registry_of(log).download_links(
            version, kind=kind, holds=timedelta(hours=hours), purpose=purpose
        ):
            click.echo(f"{link.sha256}  {link.path}  {link.url}")


@artifacts.command("upload")
@click.argument("files", nargs=-1, required=True, metavar="SHA256:SIZE:PATH...")
@click.option("--hours", type=Number(0, 168, min_open=True), default=1.0, show_default=True)
@tenant_option
def artifacts_upload(files: tuple[str, ...], hours: float) -> None:
    """Print a ticket, and links to PUT these files into the bucket, as JSON.

    Then give the ticket to `mlreg models add-version MODEL TICKET --upload`, which reads what has
    arrived and takes it only if the digests are right.
    """
    from ml_registry_pipelines.registry.states import MODEL_VERSION

    with open_log() as log:
        registry = registry_of(log)
        registry.ask("add_artifact", MODEL_VERSION, {})
        ticket = registry.links.begin([_announced(file) for file in files], holds=timedelta(hours=hours))
    links = [{**vars(link), "headers": dict(link.headers)} for link in ticket.links]
    answer = {"ticket": ticket.id, "expires_at": ticket.expires_at.isoformat(), "links": links}
    click.echo(json.dumps(answer, indent=2))


def _announced(given: str) -> File:
    from ml_registry_pipelines.registry.artifacts import File

    sha256, _, rest = given.partition(":")
    size, divider, path = rest.partition(":")
    if not divider or not size.isdecimal():
        raise click.UsageError(f"a file is announced as SHA256:SIZE:PATH, not {given!r}")
    return File(path, sha256, int(size))


@artifacts.command("purge")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and leave it.")
@click.option(
    "--grace-days",
    type=Number(1, 36_500),
    default=7.0,
    show_default=True,
    help="How long a file without a version is left alone.",
)
def artifacts_purge(dry_run: bool, grace_days: float) -> None:
    """Remove stored files that no version of any tenant has ever needed."""
    from ml_registry_pipelines.registry.artifacts import ArtifactStore
    from ml_registry_pipelines.registry.purging import purge

    with open_log() as log:
        done = purge(log, ArtifactStore(log.lake), grace=timedelta(days=grace_days), dry_run=dry_run)
    for path in done.shown:
        click.echo(path)
    click.echo(done.sentence())


@artifacts.command("delete")
@click.argument("digest")
def artifacts_delete(digest: str) -> None:
    """Delete one artifact that nothing in the log needs."""
    from ml_registry_pipelines.registry.artifacts import ArtifactStore
    from ml_registry_pipelines.registry.purging import delete_artifact

    with open_log() as log:
        delete_artifact(log, ArtifactStore(log.lake), digest)
    click.echo(f"artifact {digest} is deleted; its files go with the next purge")


@artifacts.command("cache")
@click.option("--clear", is_flag=True, help="Empty it.")
def artifacts_cache(clear: bool) -> None:
    """Say what the cache of downloads holds."""
    from dataclasses import replace

    cache = _cache()
    if cache is None:
        click.echo("a home in a folder has no cache unless MLREG_CACHE names one")
        return
    if clear:
        click.echo(f"{replace(cache, limit=0).shrink():,} bytes removed from {cache.root}")
        return
    files = cache.files()
    held = sum(found.st_size for _, found in files)
    click.echo(f"{cache.root}: {len(files):,} files, {held:,} of at most {cache.limit:,} bytes")


def _cache() -> Cache | None:
    from ml_registry_pipelines.registry.cache import Cache

    return Cache.from_environment(Settings.from_environment().home)
