"""`mlreg performance`: how models perform, from a shell. A door and no more; the work is in `telemetry/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ml_registry_pipelines.cli.support import TIME, only_tenant, open_lake, utc

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.comparing import Comparison
    from ml_registry_pipelines.telemetry.metrics import MetricStatistics
    from ml_registry_pipelines.telemetry.performance import GroupStatistics, Percentiles, Statistics

F = TypeVar("F", bound=Callable[..., Any])
WINDOW = timedelta(days=7)


@click.group()
def performance() -> None:
    """Latency, errors, throughput and scores of models."""


def attach(cli: click.Group) -> None:
    """Add the group to `mlreg`."""
    cli.add_command(performance)


def window_options(command: F) -> F:
    """`--since` and `--until`: the last seven days where neither is given."""
    command = click.option("--until", type=TIME, help="First instant after (UTC); default: now.")(command)
    return click.option("--since", type=TIME, help="First instant (UTC); default: seven days before.")(
        command
    )


def output_options(command: F) -> F:
    """`--format` and `--output`."""
    forms = click.Choice(["table", "csv", "json", "parquet"])
    command = click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="To this file.")(
        command
    )
    return click.option("--format", "form", type=forms, default="table", show_default=True)(command)


def window(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    end = utc(until) or datetime.now(UTC)
    return utc(since) or end - WINDOW, end


def write(rows: Sequence[dict[str, Any]] | pa.Table, form: str, output: Path | None) -> None:
    """Print or write rows; columns that are None in all rows are left out of a printed table."""
    import pyarrow as pa

    from ml_registry_pipelines.lake.output import write_result

    if form == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE")
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))
    if form == "table":
        table = table.select(
            [
                name
                for name in table.column_names
                if table[name].null_count < table.num_rows or not table.num_rows
            ]
        )
    write_result(table, form=form, output=output)


@performance.command("stats")
@window_options
@click.option(
    "--by", multiple=True, help="tenant, provider, model, day, deployment_id, model_id or model_version."
)
@click.option("--model", help="Only this model, by its name in the logs.")
@click.option("--provider", help="Only this provider.")
@click.option("--deployment-id", help="Only this deployment.")
@click.option("--model-id", help="Only this registered model.")
@click.option("--model-version", type=int, help="Only this version of it.")
@click.option("--tenant", help="Only this organisation; default: MLREG_TENANT, else all.")
@click.option("--exact", is_flag=True, help="Percentiles from the raw rows, without an error.")
@output_options
def performance_stats(
    since: datetime | None,
    until: datetime | None,
    by: tuple[str, ...],
    tenant: str | None,
    form: str,
    output: Path | None,
    **only: Any,
) -> None:
    """Requests, errors, percentiles and throughput of a window."""
    from ml_registry_pipelines.telemetry.performance import PerformanceTracker

    start, end = window(since, until)
    with open_lake() as lake:
        found = PerformanceTracker(lake).get_statistics(
            start, end, by=by, tenant=only_tenant(tenant), intervals=True, **only
        )
    if not found.groups:
        click.echo(f"no request from {start:%Y-%m-%d %H:%M:%S}Z to {end:%Y-%m-%d %H:%M:%S}Z")
        return
    write([_line(group, by) for group in found.groups], form, output)
    if form == "table":
        click.echo(_precision(found))


def _line(group: GroupStatistics, by: Sequence[str]) -> dict[str, Any]:
    errors = group.error_rate_interval
    return {
        **{name: getattr(group, name) for name in by},
        "requests": group.requests,
        "error_rate": group.error_rate,
        "error_rate_lower": errors and errors.lower,
        "error_rate_upper": errors and errors.upper,
        **_percentiles("latency", group.latency),
        **_percentiles("ttft", group.ttft),
        "requests_per_second": group.requests_per_second,
        "output_tokens_per_second": group.output_tokens_per_second,
        "input_tokens": group.input_tokens,
        "output_tokens": group.output_tokens,
        "cache_hits": group.cache_hits,
        "assumed": " ".join(group.assumed) or None,
    }


def _percentiles(name: str, found: Percentiles) -> dict[str, Any]:
    figures: dict[str, Any] = {f"{name}_n": found.n}
    for q, value in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        lower, upper = found.bounds.get(q, (None, None))
        figures |= {f"{name}_p{q * 100:.0f}_ms": value}
        if q > 0.5:
            figures |= {f"{name}_p{q * 100:.0f}_from": lower, f"{name}_p{q * 100:.0f}_to": upper}
    return figures


def _precision(found: Statistics) -> str:
    error = f"within {found.relative_error:.0%} of the exact ones" if found.relative_error else "exact"
    return f"percentiles are {error}; up to batch {found.sequence}"


@performance.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="NAME NAME...")
@click.option(
    "--by", type=click.Choice(["model", "provider", "deployment_id", "model_version"]), default="model"
)
@click.option("--model-id", help="Whose versions are compared.")
@click.option("--metrics-of", help="Under which name points of versions are recorded.")
@click.option("--provider", help="Only this provider.")
@click.option("--tenant", help="Only this organisation; default: MLREG_TENANT, else all.")
@click.option("--exact", is_flag=True, help="Percentiles from the raw rows, without an error.")
@window_options
@output_options
def performance_compare(
    names: tuple[str, ...],
    by: str,
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    form: str,
    output: Path | None,
    **only: Any,
) -> None:
    """Put models side by side, and say what can be told apart."""
    from ml_registry_pipelines.telemetry.performance import PerformanceError, PerformanceTracker

    wanted: list[str | int] = list(names)
    if by == "model_version":
        try:
            wanted = [int(name.removeprefix("v")) for name in names]
        except ValueError:
            raise PerformanceError(f"versions are numbers such as v3, not {', '.join(names)}") from None
    start, end = window(since, until)
    with open_lake() as lake:
        found = PerformanceTracker(lake).compare_models(
            wanted, start, end, by=by, tenant=only_tenant(tenant), **only
        )
    write(
        [{by: c.name, **(_line(c.group, ()) if c.group else {"requests": 0})} for c in found.candidates],
        form,
        output,
    )
    if form == "table":
        tell(found)


def tell(found: Comparison) -> None:
    """Remarks, what can be told apart of each pair, and by which rules."""
    for candidate in found.candidates:
        for remark in candidate.remarks:
            click.echo(f"{candidate.name}: {remark}")
    words = {True: "differs", False: "not told apart", None: "cannot be told"}
    for pair in found.pairs:
        for finding in pair.findings:
            click.echo(
                f"{pair.one} / {pair.other}  {finding.figure}: {words[finding.differs]} ({finding.remark})"
            )
    for rule in found.rules:
        click.echo(f"rule: {rule}")
    click.echo("side by side is no experiment: who got which was not drawn by lot")


@performance.command("metrics")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--metric", help="Only this one.")
@click.option("--since", type=TIME, help="First instant (UTC); default: since ever.")
@click.option("--until", type=TIME, help="First instant after (UTC).")
@click.option("--by-version", is_flag=True)
@click.option("--tenant", help="Only this organisation; default: MLREG_TENANT, else all.")
@output_options
def performance_metrics(
    models: tuple[str, ...],
    metric: str | None,
    since: datetime | None,
    until: datetime | None,
    by_version: bool,
    tenant: str | None,
    form: str,
    output: Path | None,
) -> None:
    """What recorded points come to: accuracy, scores, anything, by metric and judge."""
    from ml_registry_pipelines.telemetry.performance import PerformanceTracker

    with open_lake() as lake:
        found = PerformanceTracker(lake).get_metric_statistics(
            *models,
            metric=metric,
            tenant=only_tenant(tenant),
            start=utc(since),
            end=utc(until),
            by_version=by_version,
        )
    if not found:
        click.echo(f"nothing is recorded of {', '.join(models)}")
        return
    write([_metric_line(one) for one in found], form, output)


def _metric_line(one: MetricStatistics) -> dict[str, Any]:
    labels = ", ".join(f"{label}={n:,}" for label, n in one.labels.items())
    costs = ", ".join(f"{cost.normalize():f} {currency}" for currency, cost in one.judge_costs.items())
    return {
        "model": one.model,
        "model_version": one.model_version,
        "metric": one.metric,
        "kind": one.kind.value,
        "judge": one.judge,
        "n": one.n,
        "mean": one.single if one.labels == {} else None,
        "lower": one.average and one.average.lower,
        "upper": one.average and one.average.upper,
        "p50": one.p50,
        "p95": one.p95,
        "labels": labels or None,
        "not_finite": one.not_finite or None,
        "judge_cost": costs or None,
        "remark": "fewer than 30: the interval is too narrow" if one.too_few and one.average else None,
    }


@performance.command("record")
@click.argument("model")
@click.argument("metric")
@click.argument("value", required=False)
@click.option("--label", help="A category, in the place of a value.")
@click.option("--model-version", type=int)
@click.option("--step", type=int, help="Training step.")
@click.option("--at", type=TIME, help="When it was measured (UTC); default: now.")
@click.option("--judge", help="Who gave the score: a model with its version, or a pseudonym.")
@click.option("--judge-cost", metavar="AMOUNT", help="What that cost.")
@click.option("--judge-currency", metavar="CODE", help="Its currency, such as USD.")
@click.option("--request-id", help="Event id of the request that was judged.")
@click.option("--point-id", help="The same point told again counts once.")
@click.option("--tenant", help="Organisation; default: MLREG_TENANT, else `default`.")
def performance_record(
    model: str,
    metric: str,
    value: str | None,
    at: datetime | None,
    tenant: str | None,
    judge_cost: str | None,
    **point: Any,
) -> None:
    """Record one point: VALUE is a number, true or false."""
    from ml_registry_pipelines.telemetry.performance import PerformanceTracker

    with open_lake(needed=False) as lake:
        PerformanceTracker(lake).record_metric(
            model,
            metric,
            _value(value),
            event_ts=utc(at),
            tenant=only_tenant(tenant) or "default",
            judge_cost=None if judge_cost is None else _amount(judge_cost),
            **point,
        )
    click.echo(f"recorded {metric} of {model}")


def _value(text: str | None) -> float | bool | None:
    if text is None:
        return None
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(
            f"{text!r} is no number, true or false; a category goes into --label"
        ) from None


def _amount(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise click.UsageError(f"{text!r} is no amount") from None
