"""`mlreg attribution`: which log records belong to which deployment and version, from a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ml_registry_pipelines.cli.support import (
    LIMIT,
    TIME,
    admit_to,
    as_of_option,
    desk,
    in_utc,
    key_option,
    only_tenant,
    open_log,
    tenant,
    utc,
)
from ml_registry_pipelines.lake.tables.attribution import CONDITIONS

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.attributing import Outcome
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.telemetry.attribution import Attribution, Rule

F = TypeVar("F", bound=Callable[..., Any])

DAY = click.DateTime(["%Y-%m-%d"])
MOST_ROWS = 50


@click.group()
def attribution() -> None:
    """Rules that assign logged requests to deployments, and so to model versions."""


def attach(cli: click.Group) -> None:
    """Add the group to `mlreg`."""
    cli.add_command(attribution)


def _conditions(command: F) -> F:
    for name in reversed(CONDITIONS):
        command = click.option(f"--{name}", help=f"The {name} in the log, or a pattern with *.")(command)
    return command


def _rule_options(command: F) -> F:
    for option in (
        click.option("--from", "valid_from", type=TIME, help="First instant (UTC); by default since ever."),
        click.option("--to", "valid_to", type=TIME, help="First instant after (UTC); by default none."),
        click.option("--priority", type=int, default=0, show_default=True, help="The highest wins."),
    ):
        command = option(command)
    return _conditions(command)


def _later_option(command: F) -> F:
    return click.option(
        "--later", is_flag=True, help="Leave past days to the next rollup, and do not compute them now."
    )(command)


@attribution.command("add")
@click.argument("deployment")
@_rule_options
@click.option("--name", help="By default rule-1, rule-2 ...")
@click.option("--note", default="", help="Why.")
@_later_option
@key_option
def attribution_add(
    deployment: str,
    valid_from: datetime | None,
    valid_to: datetime | None,
    priority: int,
    name: str | None,
    note: str,
    later: bool,
    key: str | None,
    **conditions: str | None,
) -> None:
    """Assign requests to a deployment, and compute the days again that this covers."""
    from ml_registry_pipelines.telemetry.attribution import NewRule

    wanted = NewRule(deployment, conditions, priority, utc(valid_from), utc(valid_to), note, name)
    with open_log() as log:
        _show(_rules(log).add_rule(wanted, idempotency_key=key))
        _apply(log, later=later)


@attribution.command("change")
@click.argument("rule")
@_conditions
@click.option("--any", "cleared", multiple=True, type=click.Choice(CONDITIONS), help="Drop this condition.")
@click.option("--deployment")
@click.option("--priority", type=int)
@click.option("--from", "valid_from", type=TIME)
@click.option("--to", "valid_to", type=TIME)
@click.option("--open", "opened", is_flag=True, help="Let it hold without an end again.")
@_later_option
@key_option
def attribution_change(
    rule: str,
    cleared: tuple[str, ...],
    deployment: str | None,
    priority: int | None,
    valid_from: datetime | None,
    valid_to: datetime | None,
    opened: bool,
    later: bool,
    key: str | None,
    **conditions: str | None,
) -> None:
    """Correct a rule for all of its time."""
    from ml_registry_pipelines.telemetry.attribution import UNCHANGED, RuleChange

    if opened and valid_to is not None:
        raise click.UsageError("--open and --to contradict each other")
    given = {name: wanted for name, wanted in conditions.items() if wanted is not None}
    change = RuleChange(
        deployment=UNCHANGED if deployment is None else deployment,
        conditions={**given, **dict.fromkeys(cleared)},
        priority=UNCHANGED if priority is None else priority,
        valid_from=UNCHANGED if valid_from is None else in_utc(valid_from),
        valid_to=None if opened else UNCHANGED if valid_to is None else in_utc(valid_to),
    )
    with open_log() as log:
        _show(_rules(log).change_rule(rule, change, idempotency_key=key))
        _apply(log, later=later)


@attribution.command("end")
@click.argument("rule")
@click.option("--at", "end", type=TIME, help="First instant after it (UTC); by default now.")
@_later_option
@key_option
def attribution_end(rule: str, end: datetime | None, later: bool, key: str | None) -> None:
    """Let a rule hold no longer than to some instant."""
    with open_log() as log:
        _show(_rules(log).end_rule(rule, end=utc(end), idempotency_key=key))
        _apply(log, later=later)


@attribution.command("remove")
@click.argument("rule")
@_later_option
@key_option
def attribution_remove(rule: str, later: bool, key: str | None) -> None:
    """Take back a rule that was never right; the log keeps that it was there."""
    with open_log() as log:
        removed = _rules(log).remove_rule(rule, idempotency_key=key)
        click.echo(f"{removed.name}  removed")
        _apply(log, later=later)


@attribution.command("list")
@click.option("--on", "valid_at", type=TIME, help="Only rules that hold at this time (UTC).")
@as_of_option
def attribution_list(valid_at: datetime | None, as_of: datetime | None) -> None:
    """List the rules, those that win first."""
    with open_log() as log:
        found = _rules(log).rules(as_of=utc(as_of), valid_at=utc(valid_at))
    if not found:
        click.echo("there is no rule; `mlreg attribution gaps` lists what they could be about")
    for rule in found:
        _show(rule)


@attribution.command("preview")
@click.argument("deployment")
@_rule_options
def attribution_preview(
    deployment: str,
    valid_from: datetime | None,
    valid_to: datetime | None,
    priority: int,
    **conditions: str | None,
) -> None:
    """Say what `add` would change, and change nothing."""
    from ml_registry_pipelines.telemetry.attribution import NewRule
    from ml_registry_pipelines.telemetry.attribution_preview import preview

    wanted = NewRule(deployment, conditions, priority, utc(valid_from), utc(valid_to))
    with open_log() as log:
        admit_to(log, tenant())
        found = preview(log.lake, log, tenant(), wanted)
        named = _names(log, {o.deployment_id for m in found.moved for o in (m.before, m.after) if o})
        models = _names(
            log, {o.model_id for m in found.moved for o in (m.before, m.after) if o and o.model_id}
        )
    if not found.moved:
        click.echo("nothing that was logged would be assigned otherwise")
        return
    for moved in found.moved[:MOST_ROWS]:
        strings = " ".join(
            f"{n}={v}" for n, v in zip(CONDITIONS, moved.strings, strict=True) if v is not None
        )
        before, after = (_said(o, named, models) for o in (moved.before, moved.after))
        click.echo(
            f"{moved.requests:>12,} requests  {moved.tokens:>15,} tokens  {strings}: {before} -> {after}"
        )
    if more := found.moved[MOST_ROWS:]:
        click.echo(f"... and {len(more):,} more, with {sum(m.requests for m in more):,} requests")
    total = sum(m.requests for m in found.moved)
    click.echo(f"{total:,} requests would change, and {len(found.days)} days be rolled up again")


@attribution.command("gaps")
@click.option("--since", type=DAY, help="First day (UTC).")
@click.option("--until", type=DAY, help="Last day, itself included.")
@click.option("--limit", type=LIMIT, default=MOST_ROWS, show_default=True, help="At most so many rows.")
def attribution_gaps(since: datetime | None, until: datetime | None, limit: int) -> None:
    """List what leads to no version, the largest first, with its volume and cost."""
    from ml_registry_pipelines.costs.attribution_gaps import gaps, refresh_gaps

    with open_log() as log:
        admit_to(log, only_tenant())
        # Days that were rolled up before there were gaps, or that a run has not come to yet.
        refresh_gaps(log.lake)
        with log.lake.read("attribution_gaps") as reading:
            rows = gaps(reading, tenant=only_tenant(), **_between(since, until))
    if not len(rows):
        click.echo("every request of these days leads to a version")
        return
    _print(rows.slice(0, limit).drop_columns(["deployment_id"]))
    if len(rows) > limit:
        click.echo(f"... and {len(rows) - limit:,} more; --limit shows them")


@attribution.command("coverage")
@click.option("--since", type=DAY, help="First day (UTC).")
@click.option("--until", type=DAY, help="Last day, itself included.")
def attribution_coverage(since: datetime | None, until: datetime | None) -> None:
    """Say how much of the traffic leads to a version, and what each deployment and version cost."""
    from ml_registry_pipelines.costs.queries import attribution_coverage as covered_by
    from ml_registry_pipelines.costs.queries import cost_by, coverage

    only = only_tenant()
    limits = {**_between(since, until), "where": {} if only is None else {"tenant": only}}
    with open_log() as log:
        admit_to(log, only)
        with log.lake.read("cost_rollup") as reading:
            covered, priced = covered_by(reading, **limits), coverage(reading, **limits)
            rows = cost_by(reading, ["tenant", "deployment_id", "model_id", "model_version"], **limits)
        shown = _named(log, rows)
    if covered.share is None:
        click.echo("nothing billable is rolled up for these days")
        return
    click.echo(
        f"{covered.share:.1%} of {covered.billable:,} billable requests lead to a version "
        f"({covered.ambiguous:,} ambiguous, {covered.not_serving:,} to a deployment that served nothing then, "
        f"{covered.no_rule:,} without a rule); {priced.share or 0:.1%} are priced"
    )
    _print(shown)


@attribution.command("apply")
def attribution_apply() -> None:
    """Compute again whatever the rules of now say otherwise about."""
    with open_log() as log:
        _apply(log, later=False)


# -- what they share -----------------------------------------------------------------------------


def _rules(log: Log) -> Attribution:
    from ml_registry_pipelines.telemetry.attribution import Attribution

    return Attribution(log, **desk())


def _apply(log: Log, *, later: bool) -> None:
    from ml_registry_pipelines.costs.reattribution import reattribute
    from ml_registry_pipelines.telemetry.compiling import compile_rules

    if later:
        compile_rules(log.lake, log)
        return
    days = reattribute(log.lake, log).days
    click.echo(
        f"rolled up {len(days)} days, {days[0]} to {days[-1]}" if days else "no day that was logged changes"
    )


def _show(rule: Rule) -> None:
    start = "since ever" if rule.valid_from is None else f"from {rule.valid_from:%Y-%m-%d %H:%M:%S}Z"
    end = "" if rule.valid_to is None else f" to {rule.valid_to:%Y-%m-%d %H:%M:%S}Z"
    priority = f"  priority {rule.priority}" if rule.priority else ""
    note = f"  ({rule.note})" if rule.note else ""
    click.echo(
        f"{rule.name}  {rule.says()} -> {rule.deployment}  {start}{end}{priority}  by {rule.actor}{note}"
    )


def _said(outcome: Outcome | None, deployments: dict[str, str], models: dict[str, str]) -> str:
    if outcome is None:
        return "nothing"
    deployment = deployments.get(outcome.deployment_id, outcome.deployment_id)
    if outcome.model_id is None:
        return f"{deployment} ({outcome.attribution.replace('_', ' ')})"
    return f"{deployment} ({models.get(outcome.model_id, outcome.model_id)}@v{outcome.model_version})"


def _names(log: Log, ids: Iterable[str], of: str | None = None) -> dict[str, str]:
    return {s.id: s.name for s in log.view(of or tenant()).by_any("things", "id", sorted(set(ids)))}


def _named(log: Log, rows: pa.Table) -> pa.Table:
    """Costs by deployment and version with names in the place of ids."""
    import pyarrow as pa

    found = rows.to_pylist()
    ids: dict[str, set[str]] = {}
    for row in found:
        ids.setdefault(row["tenant"], set()).update(i for i in (row["deployment_id"], row["model_id"]) if i)
    names = {i: n for of, wanted in ids.items() for i, n in _names(log, wanted, of).items()}
    return pa.table(
        {
            "tenant": pa.array([row["tenant"] for row in found], pa.string()),
            "deployment": pa.array([names.get(row["deployment_id"]) for row in found], pa.string()),
            "model": pa.array([names.get(row["model_id"]) for row in found], pa.string()),
            "version": rows["model_version"],
            **{name: rows[name] for name in ("requests", "billable_requests")},
            "price_coverage": rows["coverage"],
            **{name: rows[name] for name in ("cost", "currency")},
        }
    )


def _between(since: datetime | None, until: datetime | None) -> dict[str, Any]:
    from datetime import timedelta

    return {
        "since": None if since is None else since.date(),
        "until": None if until is None else until.date() + timedelta(days=1),
    }


def _print(rows: pa.Table) -> None:
    from ml_registry_pipelines.lake.output import write_result

    write_result(rows, form="table", output=None)
