"""`mlreg gdpr plan | erase | requests | extend | export | certificate | lift | contact`: the rights of one person."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import TIME, desk, open_log, purpose_option, tenant, utc
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.erasure.erasing import Eraser
    from ml_registry_pipelines.compliance.erasure.subjects import Subject

GROUP = "gdpr"


def attach(cli: click.Group) -> None:
    """Attach the commands to the group `gdpr`, which is made where nobody has."""
    group = cli.commands.get(GROUP)
    if not isinstance(group, click.Group):
        group = click.Group(GROUP, help="Data protection: what is held about people, and their rights.")
        cli.add_command(group)
    for command in (plan, erase, requests, extend, export, certificate, lift, contact):
        group.add_command(command)


def subject_options(command: Callable[..., None]) -> Callable[..., None]:
    """Who it is about: identifiers, or a file of them, which no shell history keeps."""
    file = click.option(
        "--subject-file",
        metavar="FILE",
        help="File with one identifier per line; - reads from standard input, so that no history keeps them.",
    )
    one = click.option(
        "--subject", multiple=True, help="User id, e-mail address ... as the logs name the person."
    )
    return one(file(command))


@contextmanager
def _eraser(purpose: str | None = None) -> Iterator[Eraser]:
    from ml_registry_pipelines.compliance.erasure.erasing import Eraser
    from ml_registry_pipelines.services import dagster_home
    from ml_registry_pipelines.telemetry.sources import Sources

    settings = Settings.from_environment()
    home = dagster_home(settings)
    with open_log() as log:
        stamped = desk()
        yield Eraser(
            log,
            stamped["actor"],
            tenant(),
            Sources.load(settings),
            dagster_home=home if home.is_dir() else None,
            purpose=purpose,
        )


def _subject(at: Eraser, given: tuple[str, ...], file: str | None) -> Subject:
    from ml_registry_pipelines.registry.errors import InvalidInput

    lines: list[str] = []
    if file is not None:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text()
        except (OSError, UnicodeDecodeError) as failure:
            raise InvalidInput(f"the file of identifiers {file} cannot be read as text") from failure
        lines = [line.strip() for line in text.splitlines() if line.strip()]
    return at.subject([*given, *lines])


def _grounds(given: tuple[str, ...]) -> dict[str, str]:
    if wrong := [one for one in given if "=" not in one]:
        raise click.UsageError(f"a justification is ITEM=GROUND, not {wrong[0]!r}")
    return dict(one.split("=", 1) for one in given)


datasets_option = click.option(
    "--dataset", multiple=True, help="A dataset that holds the person somewhere else."
)
justify_option = click.option(
    "--justify", multiple=True, metavar="ITEM=GROUND", help="An item that stays, by a ground: 17(3)(b): why."
)


@click.command()
@subject_options
@datasets_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@purpose_option
def plan(
    subject: tuple[str, ...],
    subject_file: str | None,
    dataset: tuple[str, ...],
    as_json: bool,
    purpose: str | None,
) -> None:
    """List everything that may hold a person or derive from them; change nothing."""
    with _eraser(purpose) as at:
        found = at.plan(_subject(at, subject, subject_file), datasets=dataset)
    if as_json:
        click.echo(
            json.dumps({"subject": found.subject, "items": [i.recorded() for i in found.items]}, indent=2)
        )
    else:
        for item in found.items:
            who = "" if item.done_by_us else "  (people)"
            live = f"  serves {', '.join(item.live)}" if item.live else ""
            click.echo(
                f"{item.action.value:<15} {item.amount:>7,}  {item.id}{live}{who}  {item.ground or item.reason}"
            )
        click.echo(f"{len(found.items)} things hold or derive from subject {found.subject}")
    for problem in found.problems:
        click.echo(f"problem: {problem}", err=True)


@click.command()
@subject_options
@datasets_option
@justify_option
@click.option("--received", type=TIME, help="When the person asked (UTC); by default now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@purpose_option
def erase(
    subject: tuple[str, ...],
    subject_file: str | None,
    dataset: tuple[str, ...],
    justify: tuple[str, ...],
    received: datetime | None,
    yes: bool,
    purpose: str | None,
) -> None:
    """Erase a person everywhere, prove it, and leave a certificate. Given again, it goes on where it stopped."""
    if not yes:
        click.confirm("What is erased cannot be restored. Go on?", abort=True)
    with _eraser(purpose) as at:
        done = at.erase(
            _subject(at, subject, subject_file),
            received_at=utc(received),
            datasets=dataset,
            justified=_grounds(justify),
        )
    click.echo(done.sentence())
    for line in [*done.left, *done.proof.problems]:
        click.echo(f"left: {line}", err=True)
    for hit in done.proof.hits:
        click.echo(f"left: {hit.root}/{hit.path} ({hit.needle}, {hit.form})", err=True)
    for item in done.items:
        if not item["done_by_us"] and item["action"] != "justify":
            click.echo(f"open: {item['action']} {item['where']} ({item['id']})", err=True)
    if not done.complete:
        sys.exit(1)


@click.command()
def requests() -> None:
    """List requests for erasure with their deadlines."""
    from ml_registry_pipelines.compliance.erasure.requests import ErasureRequests

    with open_log() as log:
        for one in ErasureRequests(log, **desk()).list():
            done = (
                f"completed {one.completed_at:%Y-%m-%d}" if one.completed_at else f"due {one.due_at:%Y-%m-%d}"
            )
            click.echo(
                f"{one.id}  {one.status:<9}  received {one.received_at:%Y-%m-%d}  {done}  {one.verdict}"
            )


@click.command()
@click.argument("request")
@click.option("--reason", required=True, help="Why it takes longer, as the person was told.")
def extend(request: str, reason: str) -> None:
    """Give a request two months more, which the person has been told of."""
    from ml_registry_pipelines.compliance.erasure.requests import ErasureRequests

    with open_log() as log:
        done = ErasureRequests(log, **desk()).extend(request, reason)
    click.echo(f"{done.id} is due on {done.due_at:%Y-%m-%d}")


@click.command()
@subject_options
@click.option("--article", type=click.Choice(["15", "20"]), default="15", show_default=True)
@click.option(
    "--to", type=click.Path(path_type=Path), required=True, help="Zip file to write, outside the storage."
)
@click.option(
    "--request", "answers", metavar="NAME", help="Request of the register that it answers, and closes."
)
@purpose_option
def export(
    subject: tuple[str, ...],
    subject_file: str | None,
    article: str,
    to: Path,
    answers: str | None,
    purpose: str | None,
) -> None:
    """Write all that is held about a person (Art. 15), or what they may take along (Art. 20)."""
    from ml_registry_pipelines.compliance.erasure.exports import Article, answerable, written
    from ml_registry_pipelines.compliance.erasure.exports import export as exported
    from ml_registry_pipelines.compliance.gdpr.registers import Registers

    wanted = Article(article)
    with _eraser(purpose) as at:
        registers = Registers(at.log, actor=at.actor, tenant=at.tenant)
        if answers is not None:
            answerable(registers, answers, wanted)
        bundle = exported(at, _subject(at, subject, subject_file), wanted)
        written(bundle, to, at.log.lake.root)
        if answers is not None and bundle.complete and bundle.valid:
            registers.close_request(answers, outcome="exported", bundle=bundle.proof())
    rows = ", ".join(f"{n:,} of {name}" for name, n in bundle.rows.items()) or "nothing"
    click.echo(f"{to}: {rows}; {'complete' if bundle.complete else 'not complete'}")
    for problem in bundle.problems:
        click.echo(f"left: {problem}", err=True)
    if not (bundle.complete and bundle.valid):
        sys.exit(1)


@click.command()
@subject_options
@click.option("--reason", required=True, help="Why they may be taken again, such as: erased by mistake.")
def lift(subject: tuple[str, ...], subject_file: str | None, reason: str) -> None:
    """Take a person off the suppression list, so that new records of theirs are taken. What was erased stays erased."""
    from ml_registry_pipelines.compliance.erasure.lifting import lift as lifted

    with _eraser() as at:
        gone = lifted(at.requests, _subject(at, subject, subject_file), reason)
    click.echo(f"{gone} entries of the suppression list are lifted")


@click.command()
@click.argument("request")
@click.option("--format", "kind", type=click.Choice(["json", "html"]), default="json", show_default=True)
def certificate(request: str, kind: str) -> None:
    """Print the certificate of an erasure."""
    from ml_registry_pipelines.compliance.erasure.certificates import kept
    from ml_registry_pipelines.compliance.erasure.requests import ErasureRequests

    with open_log() as log:
        ErasureRequests(log, **desk()).view()
        click.echo(kept(log.lake, tenant(), request, kind=kind), nl=False)


@click.group()
def contact() -> None:
    """Personal values in the log, such as the contact of a model: encrypted per person, so that they can be erased."""


@contact.command("set")
@click.argument("about")
@click.option("--field", default="contact", show_default=True)
@click.option("--person", required=True, help="Identifier by which the person would be erased.")
@click.option("--value", required=True)
def set_contact(about: str, field: str, person: str, value: str) -> None:
    """Record a value about something, such as `model:credit-risk`."""
    from ml_registry_pipelines.compliance.erasure.contacts import PersonalFields

    with open_log() as log:
        done = PersonalFields(log, **desk()).set(about, field, person, value)
    click.echo(f"{done.about} {done.field} is recorded")


@contact.command("list")
@click.option("--as-of", type=TIME, help="As had been recorded at this time (UTC).")
def list_contacts(as_of: datetime | None) -> None:
    """List the values; one whose person was erased reads `erased`."""
    from ml_registry_pipelines.compliance.erasure.contacts import PersonalFields

    with open_log() as log:
        for one in PersonalFields(log, **desk()).list(as_of=utc(as_of)):
            click.echo(f"{one.about}  {one.field}  {one.value}  {one.recorded_at:%Y-%m-%d}")
