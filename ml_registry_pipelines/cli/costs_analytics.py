"""`mlreg costs` and `mlreg value-models`: what models cost and returned, from a shell. The work is in `costs/`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.costs import DAY, costs
from ml_registry_pipelines.cli.performance import output_options, tell, write
from ml_registry_pipelines.cli.support import (
    ask_for,
    desk,
    key_option,
    only_tenant,
    open_lake,
    open_log,
    show_lines,
    tenant_option,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.provenance import Provenance
    from ml_registry_pipelines.costs.roi import MoneyInterval, Roi
    from ml_registry_pipelines.costs.trends import Trend
    from ml_registry_pipelines.costs.value_models import Declared, ValueModels
    from ml_registry_pipelines.registry.log import Log

SERIES = timedelta(days=28)
SHOWN = (
    "currency", "requests", "coverage", "attribution_coverage", "cost", "list_cost", "contracted_cost", "savings",
    "corrections", "unconverted_cost", "cost_per_request", "cost_per_1k_tokens",
)  # fmt: skip
"""What a printed summary shows beside its keys; the other formats have every column."""


@click.group("value-models")
def value_models() -> None:
    """What successes are worth: the assumptions that returns are computed with."""


def attach(cli: click.Group) -> None:
    """Add the group to `mlreg`; the questions about costs are in its group `costs` already."""
    cli.add_command(value_models)


def _days(since: datetime | None, until: datetime | None) -> dict[str, date | None]:
    """The days of two options, the last one included."""
    return {
        "since": None if since is None else since.date(),
        "until": None if until is None else until.date() + timedelta(days=1),
    }


def _where(given: tuple[str, ...], tenant: str | None) -> dict[str, str]:
    if wrong := [limit for limit in given if "=" not in limit]:
        raise click.UsageError(f"--where is NAME=VALUE, not {wrong[0]!r}")
    limits = dict(limit.split("=", 1) for limit in given)
    only = only_tenant(tenant)
    return limits if only is None else {**limits, "tenant": only}


def _provenance(provenance: Provenance) -> None:
    if provenance.pending:
        click.echo(
            f"{provenance.pending:,} requests are not rolled up yet; `mlreg ingest` does that", err=True
        )
    versions = ", ".join(f"{table} {version}" for table, version in provenance.versions.items())
    click.echo(f"computed up to batch {provenance.sequence} from {versions}")


@costs.command("summary")
@click.option("--since", type=DAY, help="First day (UTC).")
@click.option("--until", type=DAY, help="Last day, itself included.")
@click.option(
    "--by", multiple=True, help="day, tenant, application, provider, model, model_version ... or tag:NAME."
)
@click.option("--where", "limits", multiple=True, metavar="NAME=VALUE", help="Only these.")
@click.option("--tenant", help="Only this organisation; default: MLREG_TENANT, else all.")
@click.option(
    "--currency", help="Convert to this currency at the rate of each day; default: none is converted."
)
@click.option(
    "--basis",
    type=click.Choice(["use", "booked", "closed"]),
    default="use",
    show_default=True,
    help="Corrections of closed months by the day of the requests, by the day they were booked, or left out.",
)
@output_options
def costs_summary(
    since: datetime | None,
    until: datetime | None,
    by: tuple[str, ...],
    limits: tuple[str, ...],
    tenant: str | None,
    currency: str | None,
    basis: str,
    form: str,
    output: Path | None,
) -> None:
    """Effective, list and contracted costs of some days by any key, with coverage."""
    from ml_registry_pipelines.costs.integration import VibeCodingIntegration
    from ml_registry_pipelines.costs.queries import Basis

    with open_lake() as lake:
        found = VibeCodingIntegration(lake).get_cost_summary(
            **_days(since, until),
            by=by,
            where=_where(limits, tenant),
            basis=Basis(basis),
            currency=currency,
        )
    if not found.lines.num_rows:
        click.echo("nothing is rolled up for these days")
        return
    lines = found.lines
    if form == "table":
        lines = lines.select([name for name in lines.column_names if name in (*found.by, *SHOWN)])
    write(lines, form, output)
    if form == "table":
        for code, total in sorted(found.totals.items()):
            click.echo(f"total  {total:,.6f} {code}")
        share, known = found.coverage.share, found.attribution_share
        click.echo(
            f"{'-' if share is None else format(share, '.2%')} of the billable requests have a price, "
            f"of {'-' if known is None else format(known, '.2%')} the version is known"
        )
        for remark in found.remarks():
            click.echo(remark)
        _provenance(found.provenance)


@costs.command("trends")
@click.option("--since", type=DAY, help="First day (UTC); default: 27 days before the last.")
@click.option("--until", type=DAY, help="Last day, itself included; default: today.")
@click.option("--where", "limits", multiple=True, metavar="NAME=VALUE", help="Only these.")
@click.option("--tenant", help="Only this organisation; default: MLREG_TENANT, else all.")
@output_options
def costs_trends(
    since: datetime | None,
    until: datetime | None,
    limits: tuple[str, ...],
    tenant: str | None,
    form: str,
    output: Path | None,
) -> None:
    """Costs day by day, what the month will come to, and hours out of the ordinary."""
    from ml_registry_pipelines.costs.integration import VibeCodingIntegration

    end = (datetime.now(UTC).date() if until is None else until.date()) + timedelta(days=1)
    start = end - SERIES if since is None else since.date()
    with open_lake() as lake:
        found = VibeCodingIntegration(lake).get_cost_trends(start, end, where=_where(limits, tenant))
    if not found.trends:
        click.echo("nothing is rolled up for these days")
        return
    rows = [
        {
            "currency": trend.currency,
            "day": day.day,
            "cost": day.cost,
            "requests": day.requests,
            "coverage": day.priced / day.billable if day.billable else None,
            "odd_hours": sum(odd.hour.date() == day.day for odd in trend.anomalies),
            "complete": day.complete,
        }
        for trend in found.trends
        for day in trend.days
    ]
    write(rows, form, output)
    if form == "table":
        for trend in found.trends:
            _show_trend(trend)
        _provenance(found.provenance)


def _show_trend(trend: Trend) -> None:
    month, currency = trend.month_end, trend.currency or "(no currency)"
    if month.expected is None:
        why = {
            "too_few_days": f"{month.history_days} complete days are too few to forecast the month",
            "nothing_lately": "nothing was logged in the last week, so that the month is not forecast",
        }[month.outlook.value]
        click.echo(f"{currency}: {month.outlook.value}: {why}; {month.so_far:,.6f} so far")
    else:
        click.echo(
            f"{currency}: {month.month:%B %Y} comes to {month.expected:,.2f}, in {month.band:.0%} of cases "
            f"{month.lower:,.2f} to {month.upper:,.2f}; {month.so_far:,.2f} on its complete days, {month.days_ahead} "
            f"days ahead, from {month.history_days} days"
        )
    for odd in trend.anomalies:
        click.echo(
            f"{currency}: {odd.hour:%Y-%m-%d %H}h cost {odd.cost:,.6f}, usually {odd.usual:,.6f} (z {odd.z:.1f})"
        )
    if trend.unjudged_hours:
        click.echo(
            f"{currency}: {trend.unjudged_hours:,} hours have fewer than four weeks before them to be judged by"
        )


@costs.command("roi")
@click.argument("value_model")
@click.option("--since", type=DAY, required=True, help="First day (UTC).")
@click.option("--until", type=DAY, required=True, help="Last day, itself included.")
@click.option("--no-store", is_flag=True, help="Do not keep the answer in roi_results.")
@tenant_option
def costs_roi(value_model: str, since: datetime, until: datetime, no_store: bool) -> None:
    """What models returned by a value model: net value with its interval, and all assumptions."""
    from ml_registry_pipelines.costs.integration import VibeCodingIntegration

    with open_log() as log:
        declared = _models(log).get(value_model)
        if not no_store:
            ask_for(log, "keep_return", "value_model")
        answer = VibeCodingIntegration(log.lake).get_roi(
            declared, since.date(), until.date() + timedelta(days=1), store=not no_store
        )
    show_roi(answer)


def show_roi(answer: Roi) -> None:
    """An answer for a person."""
    show_lines({name: value for name, value in roi_lines(answer).items() if name != "remarks"})
    for remark in answer.remarks:
        click.echo(f"{'remark':>12}  {remark}")
    _provenance(answer.provenance)


def roi_lines(answer: Roi) -> Mapping[str, Any]:
    """An answer as texts by name."""

    def money(amount: Any) -> str | None:
        return None if amount is None else f"{amount:,.2f} {answer.currency}"

    def bounded(found: MoneyInterval | None) -> str | None:
        if found is None:
            return None
        return f"{found.estimate:,.2f} {answer.currency} ({found.lower:,.2f} to {found.upper:,.2f})"

    back = answer.returns
    return {
        "status": answer.status,
        "reason": answer.reason,
        "days": f"{answer.since} to {answer.until - timedelta(days=1)}",
        "value model": f"{answer.value_model.model.name} (event {answer.value_model.sequence})",
        "net value": bounded(answer.net_value),
        "return": back and f"{back.estimate:.1%} ({back.lower:.1%} to {back.upper:.1%})",
        "saving": bounded(answer.saving),
        "answers": f"{answer.answers:,}",
        "judged": None if answer.labels is None else f"{answer.labels:,}",
        "successes": None if answer.successes is None else f"{answer.successes:,.1f}",
        "value": money(answer.value),
        "models": money(answer.model_cost),
        "unpriced": money(answer.unpriced_cost) if answer.unpriced_cost else None,
        "judges": money(answer.judge_cost),
        "platform": money(answer.platform_cost),
        "priced": None if answer.price_coverage is None else f"{answer.price_coverage:.2%}",
        "kept as": answer.result_id,
        "remarks": "; ".join(answer.remarks),
    }


@costs.command("compare")
@click.argument("providers", nargs=-1, metavar="[PROVIDER]...")
@click.option("--since", type=DAY, required=True, help="First day (UTC).")
@click.option("--until", type=DAY, required=True, help="Last day, itself included.")
@click.option("--model", help="Only this model.")
@click.option("--tenant", help="Only this organisation; default: MLREG_TENANT, else all.")
@output_options
def costs_compare(
    providers: tuple[str, ...],
    since: datetime,
    until: datetime,
    model: str | None,
    tenant: str | None,
    form: str,
    output: Path | None,
) -> None:
    """Providers side by side: cost per 1,000 tokens by type, latency, errors, with sample sizes."""
    from ml_registry_pipelines.costs.integration import VibeCodingIntegration

    with open_lake() as lake:
        found = VibeCodingIntegration(lake).compare_providers(
            *providers,
            since=since.date(),
            until=until.date() + timedelta(days=1),
            tenant=only_tenant(tenant),
            model=model,
        )
    rows = [
        {
            "provider": line.provider,
            "currency": cost and cost.currency,
            "requests": line.group.requests if line.group else 0,
            "error_rate": line.group.error_rate if line.group else None,
            "latency_p50_ms": line.group.latency.p50 if line.group else None,
            "latency_p95_ms": line.group.latency.p95 if line.group else None,
            "ttft_p50_ms": line.group.ttft.p50 if line.group else None,
            "cost": cost and cost.cost,
            "priced": cost and cost.coverage,
            **({f"{kind}_per_1k": rate for kind, rate in cost.per_1k.items()} if cost else {}),
            "cost_per_request": cost and cost.cost_per_request,
        }
        for line in found.lines
        for cost in (line.costs or (None,))
    ]
    write(rows, form, output)
    if form == "table":
        for line in found.lines:
            for remark in line.remarks:
                click.echo(f"{line.provider}: {remark}")
        tell(found.comparison)
        _provenance(found.provenance)


@value_models.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@tenant_option
def value_models_apply(file: Path) -> None:
    """Declare the value models of a YAML file; what is declared so already stays."""
    from ml_registry_pipelines.costs.value_models import read_value_models

    wanted = read_value_models(file.read_text(encoding="utf-8", errors="replace"), file=str(file))
    with open_log() as log:
        models = _models(log)
        before = {declared.model.name: declared.sequence for declared in models.list()}
        for model in wanted:
            done = models.declare(model)
            same = before.get(done.model.name) == done.sequence
            click.echo(f"{done.model.name}  {'unchanged' if same else 'declared'} (event {done.sequence})")


@value_models.command("list")
@tenant_option
def value_models_list() -> None:
    """List value models."""
    with open_log() as log:
        found = _models(log).list()
    for declared in found:
        _show_model(declared)
    if not found:
        click.echo("no value model is declared")


@value_models.command("remove")
@click.argument("name")
@key_option
@tenant_option
def value_models_remove(name: str, key: str | None) -> None:
    """End a value model; results that were computed with it stay."""
    with open_log() as log:
        click.echo(f"{_models(log).remove(name, idempotency_key=key)} is ended")


def _show_model(declared: Declared) -> None:
    model = declared.model
    holds = f"{model.valid_from or 'since ever'} to {model.valid_to or 'further notice'}"
    scope = " ".join(f"{name}={value}" for name, value in model.where.items())
    click.echo(
        f"{model.name}  {model.value_per_success.normalize():f} {model.currency} per "
        f"{model.success or 'answer'}{f' judged by {model.judge}' if model.judge else ''}"
        f"{f'  where {scope}' if scope else ''}  {holds}"
        f"  (event {declared.sequence} by {declared.actor})"
    )


def _models(log: Log) -> ValueModels:
    from ml_registry_pipelines.costs.value_models import ValueModels

    return ValueModels(log, **desk())
