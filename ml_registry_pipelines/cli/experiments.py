"""`mlreg experiments`: A/B decisions from a shell. A door and no more; the work is in `costs/experiments/`."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.support import (
    TIME,
    Number,
    ask_for,
    desk,
    key_option,
    open_log,
    shell_actor,
    show_lines,
    tenant,
    utc,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.experiments.experiments import Experiment, Experiments
    from ml_registry_pipelines.costs.experiments.looking import Decision
    from ml_registry_pipelines.costs.experiments.paired import PairedArm
    from ml_registry_pipelines.registry.log import Log

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def experiments() -> None:
    """A/B experiments: declared beforehand, looked at every hour, decided by rules."""


def attach(cli: click.Group) -> None:
    """Add these commands to `mlreg`."""
    cli.add_command(experiments)


@experiments.command("declare")
@click.argument("file", type=FILE)
@click.option("--new-version", is_flag=True, help="Begin the next version of one that was stopped.")
@key_option
def experiments_declare(file: Path, new_version: bool, key: str | None) -> None:
    """Declare the experiment of a YAML FILE; until it starts, it may be declared again."""
    given = _yaml(file)
    with open_log() as log:
        made = _experiments(log).declare(given, new_version=new_version, idempotency_key=key)
    sample = made.declaration.sample
    click.echo(
        f"{made.name} version {made.version} is declared: {sample:,} labelled units per arm are planned"
    )


@experiments.command("start")
@click.argument("name")
@click.option("--at", type=TIME, help="From this time on (UTC); by default now.")
@key_option
def experiments_start(name: str, at: datetime | None, key: str | None) -> None:
    """Start an experiment; from then on nothing of it can be changed."""
    with open_log() as log:
        made = _experiments(log).start(name, at=utc(at), idempotency_key=key)
    click.echo(f"{made.name} version {made.version} runs from {made.started_at:%Y-%m-%d %H:%M:%S}Z on")
    if made.retrospective:
        click.echo("it was declared after that, so no promotion will be proposed from it", err=True)


@experiments.command("stop")
@click.argument("name")
@click.option("--reason", default="", help="Why.")
@click.option("--at", type=TIME, help="At this time (UTC); by default now.")
@key_option
def experiments_stop(name: str, reason: str, at: datetime | None, key: str | None) -> None:
    """Stop an experiment; labels may still come."""
    with open_log() as log:
        made = _experiments(log).stop(name, reason=reason, at=utc(at), idempotency_key=key)
    click.echo(f"{made.name} version {made.version} stopped on {made.stopped_at:%Y-%m-%d %H:%M:%S}Z")


@experiments.command("list")
def experiments_list() -> None:
    """List the experiments with what was decided last."""
    from ml_registry_pipelines.costs.experiments.looking import decisions

    with open_log() as log:
        found = _experiments(log).list()
        last = {e.name: decisions(log.lake, tenant=tenant(), experiment=e.name, limit=1) for e in found}
    if not found:
        click.echo("there is no experiment; `mlreg experiments declare FILE` makes one")
    for each in found:
        said = last[each.name][0].outcome.value if last[each.name] else "not looked at"
        click.echo(
            f"{each.name}  version {each.version}  {each.status}  {each.declaration.mode.value}  {said}"
        )


@experiments.command("show")
@click.argument("name")
@click.option("--version", type=int, help="Of its declaration; by default the newest.")
@click.option("--looks", default=5, show_default=True, help="So many of its last decisions.")
def experiments_show(name: str, version: int | None, looks: int) -> None:
    """Show an experiment and its last decisions."""
    from ml_registry_pipelines.costs.experiments.looking import decisions

    with open_log() as log:
        found = _experiments(log).show(name, version=version)
        last = decisions(log.lake, tenant=tenant(), experiment=found.name, limit=looks)
    _show(found)
    for each in last:
        click.echo(
            f"{each.looked_at:%Y-%m-%d %H:%M}Z  {each.outcome.value}  {each.winner or ''}  {each.message}"
        )


@experiments.command("decide")
@click.argument("name")
@click.option("--version", type=int, help="Of its declaration; by default the newest.")
@click.option("--now", type=TIME, help="Look at data up to this time (UTC).")
def experiments_decide(name: str, version: int | None, now: datetime | None) -> None:
    """Look at an experiment now, as the sensor does every hour, and store what is decided."""
    from ml_registry_pipelines.costs.experiments.looking import look

    with open_log() as log:
        ask_for(log, "decide_experiment", "experiment")
        _show_decision(look(_experiments(log), name, version=version, now=utc(now)))


@experiments.command("plan")
@click.option("--effect", type=Number(), required=True, help="Difference to be seen, or the margin.")
@click.option("--deviation", type=Number(), help="Standard deviation of a unit's quality.")
@click.option("--rate", type=Number(0, 1), help="Or the share of units that succeed.")
@click.option("--alpha", type=Number(0, 0.5, min_open=True, max_open=True), default=0.05, show_default=True)
@click.option("--power", type=Number(0.5, 1, min_open=True, max_open=True), default=0.8, show_default=True)
def experiments_plan(
    effect: float, deviation: float | None, rate: float | None, alpha: float, power: float
) -> None:
    """Say how many labelled units per arm an experiment needs that is looked at every hour."""
    from ml_registry_pipelines.costs.experiments.statistics import planned_units

    if (deviation is None) == (rate is None):
        raise click.UsageError("give one of --deviation and --rate")
    spread = deviation if deviation is not None else ((rate or 0) * (1 - (rate or 0))) ** 0.5
    if not spread > 0 or not effect > 0:
        raise click.UsageError("the effect and the spread are above 0; a rate of 0 or 1 has no spread")
    units = planned_units(spread, effect, alpha=alpha, power=power)
    click.echo(
        f"{-(-units // 2):,} labelled units per arm (deviation {spread:.4g}, alpha {alpha:g}, power {power:g})"
    )


@experiments.command("evaluate")
@click.argument("file", type=FILE)
@click.option(
    "--arm", "arms", multiple=True, required=True, metavar="NAME=SCORE,COST[,FAILED]",
    help="An arm and its columns, the control first.",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(["cheaper", "better", "value"]), default="cheaper", show_default=True
)
@click.option("--margin", type=Number(), help="cheaper: by how much less quality is as good.")
@click.option("--max-extra-cost", type=Number(), help="better: how much more a prompt may cost.")
@click.option("--value-per-point", type=Number(), help="value: what a point of quality is worth.")
@click.option("--error-margin", type=Number(), help="By how much more often a candidate may fail.")
@click.option("--cluster", help="Column that says which prompts belong together.")
@click.option("--alpha", type=Number(), default=0.05, show_default=True)
@click.option("--name", help="How the decision is called; by default the file's name.")
def experiments_evaluate(
    file: Path, arms: tuple[str, ...], mode: str, name: str | None, **asked: Any
) -> None:
    """Decide on a table of evaluations (CSV or Parquet, a row per prompt), prompt by prompt."""
    from ml_registry_pipelines.costs.experiments.declaring import Mode
    from ml_registry_pipelines.costs.experiments.looking import store_evaluation
    from ml_registry_pipelines.costs.experiments.paired import (
        PairedTest,
        decide_paired,
        read_table,
        told_arms,
    )

    test = PairedTest(tuple(_paired_arm(each) for each in arms), Mode(mode), **asked)
    table = read_table(file)
    verdict = decide_paired(table, test)
    with open_log() as log:
        ask_for(log, "decide_experiment", "experiment")
        stored = store_evaluation(
            log.lake,
            verdict,
            tenant=tenant(),
            name=name or file.name,
            parameters=test.recorded(),
            arms=told_arms(table, test),
            currency=test.currency,
            data_digest=hashlib.sha256(file.read_bytes()).hexdigest(),
            actor=shell_actor().id,
        )
    _show_decision(stored)


# -- what they share -----------------------------------------------------------------------------


def _experiments(log: Log) -> Experiments:
    from ml_registry_pipelines.costs.experiments.experiments import Experiments

    return Experiments(log, **desk())


def _yaml(file: Path) -> Any:
    import yaml

    from ml_registry_pipelines.registry.errors import InvalidInput
    from ml_registry_pipelines.strict_yaml import strict_loader

    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=strict_loader(texts=False))  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = getattr(failure, "problem", None) or str(failure)
        raise InvalidInput(f"{file} is no YAML{where}: {said}") from None


def _paired_arm(given: str) -> PairedArm:
    from ml_registry_pipelines.costs.experiments.paired import PairedArm

    name, _, columns = given.partition("=")
    parts = columns.split(",")
    if not name or not 2 <= len(parts) <= 3 or not all(parts):
        raise click.UsageError(f"an arm is NAME=SCORE,COST or NAME=SCORE,COST,FAILED, not {given!r}")
    return PairedArm(name, *parts)


def _show(found: Experiment) -> None:
    said = found.declaration
    show_lines(
        {
            "experiment": f"{found.name} version {found.version}",
            "status": found.status,
            "declared": f"{found.declared_at:%Y-%m-%d %H:%M:%S}Z by {found.actor}",
            "started": "" if found.started_at is None else f"{found.started_at:%Y-%m-%d %H:%M:%S}Z",
            "stopped": ""
            if found.stopped_at is None
            else f"{found.stopped_at:%Y-%m-%d %H:%M:%S}Z {found.stop_reason}",
            "unit": said.unit.value,
            "arms": ", ".join(f"{arm.name} ({arm.version or ', '.join(arm.models)})" for arm in said.arms),
            "mode": said.mode.value,
            "quality": said.quality.metric,
            "sample": f"{said.sample:,} labelled units per arm planned, {said.min_sample:,} at least",
            "proposal": "" if found.proposal is None else f"promote {found.proposal['arm']}",
        }
    )


def _show_decision(made: Decision) -> None:
    show_lines(
        {
            "outcome": made.outcome.value,
            "winner": made.winner or "",
            "because": made.message,
            "needed": "" if made.units_needed is None else f"{made.units_needed:,} more per arm",
            "proposes": made.proposes or "",
            "decision": made.decision_id,
        }
    )
    for arm in made.arms:
        click.echo(
            f"{arm['arm']:>12}  {arm['units']:,} units, {arm['labelled']:,} labelled, cost {arm['cost']}"
        )
