"""`mlreg ai-act`: the class of a model under the EU AI Act, its open questions and its duties. A door and no more."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import (
    as_of_option,
    desk,
    key_option,
    open_log,
    show_lines,
    tenant_option,
    utc,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.ai_act.classifications import AiAct, Classification
    from ml_registry_pipelines.compliance.ai_act.evaluation import Duty
    from ml_registry_pipelines.registry.log import Log

DAY = click.DateTime(["%Y-%m-%d"])


@click.group("ai-act")
def ai_act() -> None:
    """Classes of models under the EU AI Act."""


@ai_act.command("form")
@click.argument("model")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it here; a file that is there stays.",
)
@tenant_option
def ai_act_form(model: str, output: Path | None) -> None:
    """Print the form of MODEL, with what has been answered, to be filled in and handed to `classify`."""
    from ml_registry_pipelines.compliance.ai_act.form import form
    from ml_registry_pipelines.compliance.ai_act.table import current

    with open_log() as log:
        known = _desk(log).classification(model)
    text = form(current(), model, known.answers if known else None)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.ClickException(
            f"{output} is there already, perhaps with answers; give another file"
        ) from None
    click.echo(
        f"fill in {output}, then: mlreg ai-act classify {shlex.quote(model)} {shlex.quote(str(output))}"
    )


@ai_act.command("classify")
@click.argument("model")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--note", default="", help="Why, for those who read the log.")
@key_option
@tenant_option
def ai_act_classify(model: str, file: Path, note: str, key: str | None) -> None:
    """Record the answers of FILE about MODEL, and show its class."""
    from ml_registry_pipelines.compliance.ai_act.form import read_form
    from ml_registry_pipelines.compliance.ai_act.table import current

    answers = read_form(current(), file.read_text("utf-8", "replace"), file=str(file))
    with open_log() as log:
        _show(_desk(log).classify(model, answers, note=note, idempotency_key=key))


@ai_act.command("show")
@click.argument("model")
@click.option("--on", type=DAY, help="By what the text says on this day.")
@as_of_option
@tenant_option
def ai_act_show(model: str, on: datetime | None, as_of: datetime | None) -> None:
    """Show the class of MODEL, why, and what has still to be answered."""
    with open_log() as log:
        _show(_known(log, model, as_of, on))


@ai_act.command("duties")
@click.argument("model")
@click.option("--on", type=DAY, help="As they are in force on this day.")
@as_of_option
@tenant_option
def ai_act_duties(model: str, on: datetime | None, as_of: datetime | None) -> None:
    """List the duties that follow for MODEL, each with its article and from when on it applies."""
    with open_log() as log:
        found = _known(log, model, as_of, on)
    for duty in found.duties:
        click.echo(duty_line(duty))
    if not found.duties:
        click.echo(f"no duty follows for {found.model}, which is {found.tier.value}")


@ai_act.command("history")
@click.argument("model")
@tenant_option
def ai_act_history(model: str) -> None:
    """List how MODEL was classified over time."""
    with open_log() as log:
        for found in _desk(log).history(model):
            click.echo(
                f"{found.sequence:>8}  {found.recorded_at:%Y-%m-%d %H:%M:%S}Z  {found.actor}  "
                f"{found.recorded_tier.value}, gates as {found.recorded_gate_tier.value}  (text {found.recorded_text})"
                + (f"  {found.note}" if found.note else "")
            )


def duty_line(duty: Duty) -> str:
    """One duty in a line."""
    if duty.applies_from is None:
        since = "from a significant change of its design on (Art. 111(2))"
    else:
        since = f"{'since' if duty.in_force else 'from'} {duty.applies_from}"
    read = "".join(f"; read as {r.date}: {r.says}" for r in duty.readings)
    marks = "".join(
        mark
        for mark, holds in (
            ("  [if an open question says so]", not duty.certain),
            ("  [amended text]", duty.amended),
        )
        if holds
    )
    return f"Art. {duty.article:<24} {duty.role:<9} {duty.title}, {since}{read}{marks}"


def _desk(log: Log) -> AiAct:
    from ml_registry_pipelines.compliance.ai_act.classifications import AiAct

    return AiAct(log, **desk())


def _known(log: Log, model: str, as_of: datetime | None, on: datetime | None) -> Classification:
    found = _desk(log).classification(model, utc(as_of), on=on.date() if on else None)
    if found is None:
        raise click.ClickException(
            f"{model} is not classified; `mlreg ai-act form {model}` prints the form to be filled in"
        )
    return found


def _show(found: Classification) -> None:
    evaluated = found.evaluation
    show_lines(
        {
            "model": found.model,
            "class": found.tier.value,
            "gates as": found.gate_tier.value if found.gate_tier is not found.tier else "",
            "GPAI": "" if evaluated.gpai == "none" else evaluated.gpai,
            "on": evaluated.as_of,
            "text": found.text_version,
            "recorded": f"{found.recorded_at:%Y-%m-%d %H:%M:%S}Z by {found.actor} (event {found.sequence})",
            "stale": found.stale_because,
        }
    )
    for outcome in evaluated.outcomes:
        if outcome.certain:
            mark = "  [amended text]" if outcome.amended else ""
            click.echo(f"{outcome.rule:>12}  Art. {outcome.article}: {outcome.says}{mark}")
    for day, tier in evaluated.upcoming:
        click.echo(f"{day}  it will be {tier.value}")
    for question in found.questions:
        click.echo(
            f"{'open':>12}  {question.name} (Art. {question.article}): {question.ask} "
            f"Could make it {question.could_be.value}."
        )


def attach(cli: click.Group) -> None:
    """Add these commands to `mlreg`."""
    cli.add_command(ai_act)
