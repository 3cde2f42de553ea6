"""`mlreg fairness`: the fairness metrics of a file of predictions, without registering anything."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.support import Number

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.fairness.overview import Overview
    from ml_registry_pipelines.compliance.results import Measured

SHARE = Number(0, 1)


def attach(cli: click.Group) -> None:
    """Add the command to `mlreg`."""
    cli.add_command(fairness)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--label", help="Column of what was true.")
@click.option("--prediction", help="Column of what the model said.")
@click.option("--score", help="Column of the probability of the positive class, for calibration.")
@click.option("--by", multiple=True, required=True, metavar="COLUMN", help="Group column; several times.")
@click.option(
    "--cross", is_flag=True, help="Also cross the group columns, up to three (intersectional groups)."
)
@click.option(
    "--positive", multiple=True, metavar="VALUE", help="Value of the positive class; several times."
)
@click.option(
    "--positive-prediction",
    multiple=True,
    metavar="VALUE",
    help="The same of predictions, where they differ.",
)
@click.option(
    "--favourable", type=click.Choice(["positive", "negative"]), help="The class that is good for the person."
)
@click.option("--regression", is_flag=True, help="Label and prediction are numbers.")
@click.option("--reference", default="max-min", show_default=True, help="max-min, overall or ref=GROUP.")
@click.option("--min-group-n", default=30, show_default=True, type=click.IntRange(1))
@click.option("--min-positives", default=10, show_default=True, type=click.IntRange(1))
@click.option("--min-negatives", default=10, show_default=True, type=click.IntRange(1))
@click.option(
    "--max-missing", default=0.0, show_default=True, type=SHARE, help="Share of rows that may lack a value."
)
@click.option("--confidence", default=0.95, show_default=True, type=Number(0.5, 1, max_open=True))
@click.option(
    "--correction",
    default="holm",
    show_default=True,
    type=click.Choice(["holm", "benjamini-hochberg", "none"]),
)
@click.option(
    "--agg",
    default="worst_case",
    show_default=True,
    type=click.Choice(["worst_case", "mean"]),
    help="Of equalized odds: the larger gap, or the mean.",
)
@click.option("--bins", default=10, show_default=True, type=click.IntRange(2, 100), help="Bins of the score.")
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--resamples", default=1000, show_default=True, type=click.IntRange(200, 100_000))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON: tests, intervals, bins.")
def fairness(
    file: Path,
    label: str | None,
    prediction: str | None,
    score: str | None,
    by: tuple[str, ...],
    cross: bool,
    positive: tuple[str, ...],
    positive_prediction: tuple[str, ...],
    favourable: str | None,
    regression: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure how fair the predictions in a CSV or Parquet FILE are, per group and between groups.

    Nothing is registered or kept. Values whose interval is wide say little, whatever they are; groups
    that are too small are listed, and not judged.
    """
    from ml_registry_pipelines.compliance.evaluation_rows import Columns, Outcome, Task
    from ml_registry_pipelines.compliance.fairness.overview import data_of_file, overview

    if not regression and favourable is None:
        raise click.UsageError("say which class is good for the person: --favourable positive or negative")
    if len(set(by)) < len(by):
        raise click.UsageError("name each group column once")
    if given["reference"] not in ("max-min", "overall") and not given["reference"].startswith("ref="):
        raise click.UsageError("--reference is max-min, overall or ref=GROUP")
    data = data_of_file(
        file,
        Columns(
            task=Task.REGRESSION if regression else Task.CLASSIFICATION,
            label=label,
            prediction=prediction,
            score=score,
            groups={_role(column, i): column for i, column in enumerate(by)},
            positive=positive,
            positive_predictions=positive_prediction,
            favourable=Outcome(favourable or "positive"),
        ),
    )
    roles = data.evaluation.attributes
    deepest = min(3, len(roles)) if cross else 1
    sets = [list(one) for depth in range(1, deepest + 1) for one in combinations(roles, depth)]
    found = overview(data, sets, {**given, "favourable": favourable, "binning": "uniform"})
    if as_json:
        click.echo(json.dumps(_finite(found.recorded()), indent=2, ensure_ascii=False))
    else:
        _show(found)


def _role(column: str, index: int) -> str:
    """A column's name as that of an attribute: its letters, digits and `_`."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in column.lower())
    return plain if plain[:1].isalpha() and len(plain) < 60 else f"group{index + 1}"


def _show(found: Overview) -> None:
    import pyarrow as pa

    from ml_registry_pipelines.lake.output import as_table

    if found.groups:
        names = list(dict.fromkeys(name for row in found.groups for name in row))
        rows = [{name: _short(row.get(name)) for name in names} for row in found.groups]
        for line in as_table(pa.Table.from_pylist(rows)):
            click.echo(line)
        click.echo()
    values = [m for m in found.metrics if not m.problem]
    if values:
        for line in as_table(pa.Table.from_pylist([_line(m) for m in values])):
            click.echo(line)
    for metric in found.metrics:
        if metric.problem:
            click.echo(f"{metric.metric} of {metric.about}: not measured: {metric.problem}")
    left_out = {g.name: g.left_out for m in values for g in m.groups if g.left_out}
    for name, reason in left_out.items():
        click.echo(f"{name}: left out, at least once: {reason}")
    stated = ", ".join(f"{name} {value}" for name, value in found.given.items())
    click.echo(f"{found.rows:,} rows; {stated}")


def _line(metric: Measured) -> dict[str, Any]:
    interval = metric.interval
    return {
        "metric": metric.metric,
        "between": metric.about,
        "value": _short(metric.value),
        "low": _short(interval.low if interval else None),
        "high": _short(interval.high if interval else None),
        "groups": sum(not group.left_out for group in metric.groups),
        "left out": sum(bool(group.left_out) for group in metric.groups),
        "unit": metric.unit,
    }


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    match value:
        case float():
            return value if abs(value) < float("inf") else None
        case dict():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case _:
            return value
