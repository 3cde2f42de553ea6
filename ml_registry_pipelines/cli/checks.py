"""`mlreg suites`, `evaluations` and `checks`: what is checked, on which data, and what came of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import (
    LIMIT,
    TIME,
    as_of_option,
    ask_for,
    desk,
    in_utc,
    key_option,
    open_log,
    show_lines,
    tenant_option,
    utc,
)
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ml_registry_pipelines.compliance.evaluations import Columns, DeclaredEvaluation
    from ml_registry_pipelines.compliance.manager import Checked, ComplianceManager
    from ml_registry_pipelines.compliance.results import Group, Result
    from ml_registry_pipelines.compliance.suites.files import SuiteFiles
    from ml_registry_pipelines.registry.log import Log


# -- suites -------------------------------------------------------------------------------------


@click.group()
def suites() -> None:
    """Which metrics are checked against which thresholds: YAML files below MLREG_HOME/suites."""


def _files() -> SuiteFiles:
    from ml_registry_pipelines.compliance.suites.files import SuiteFiles

    return SuiteFiles(Settings.from_environment().home)


@suites.command("list")
def suites_list() -> None:
    """All suites, with where each stands and how many problems it has."""
    files = _files()
    for name in files.names():
        suite = files.read(name)
        state = f"{len(suite.problems)} problems" if suite.problems else suite.digest[:12]
        click.echo(f"{name:<24} {len(suite.expectations):>3} checks  {state:<12}  {suite.place}")


@suites.command("show")
@click.argument("name")
def suites_show(name: str) -> None:
    """A suite, as it is written."""
    text, place = _files().text(name)
    click.echo(f"# {place}\n{text}", nl=False)


@suites.command("validate")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def suites_validate(files: tuple[Path, ...]) -> None:
    """Say what is wrong, with lines: in the files given, else in all suites."""
    from ml_registry_pipelines.compliance.suites.files import read_file

    own = _files()
    found = [read_file(file) for file in files] if files else [own.read(name) for name in own.names()]
    for suite in found:
        for problem in suite.problems:
            click.echo(f"{suite.place}:{problem.line}: {problem.text}")
        if not suite.problems:
            click.echo(f"{suite.place}: {len(suite.expectations)} checks, digest {suite.digest[:12]}")
    if any(suite.problems for suite in found):
        sys.exit(1)


@suites.command("init")
@click.argument("names", nargs=-1)
def suites_init(names: tuple[str, ...]) -> None:
    """Copy shipped suites to MLREG_HOME/suites, to be edited; files that are there stay."""
    with open_log(open_to_all=True) as log:
        ask_for(log, "edit_suites", "suite", everywhere=True)
        for path in _files().init(list(names) or None):
            click.echo(path)


@suites.command("metrics")
@click.argument("word", default="")
def suites_metrics(word: str) -> None:
    """Metrics that a suite can name, with their thresholds and parameters."""
    from ml_registry_pipelines.compliance.metrics import catalogue

    for name, metric in sorted(catalogue().items()):
        if word in name:
            bounds = {"between": "at_least, at_most"}.get(metric.bound.value, metric.bound.value)
            click.echo(
                f"{name}: {metric.title}\n    {bounds}; {', '.join(metric.parameters.model_fields) or 'no parameters'}"
            )


# -- evaluations ----------------------------------------------------------------------------------


@click.group()
def evaluations() -> None:
    """Which data, columns and suites a version is checked with."""


def _manager(log: Log) -> ComplianceManager:
    from ml_registry_pipelines.compliance.manager import ComplianceManager

    return ComplianceManager(log, **desk())


def _pairs(given: Sequence[str]) -> dict[str, str]:
    """`race` or `race=column`."""
    return {name: column or name for name, _, column in (each.partition("=") for each in given)}


@evaluations.command("declare")
@click.argument("version")
@click.option(
    "--suite", "named", multiple=True, required=True, help="Suite that it is checked with; repeatable."
)
@click.option(
    "--data", help="File, folder, Delta table, or dataset version such as credit@v2; none: recorded rows."
)
@click.option(
    "--task",
    type=click.Choice(["classification", "regression", "ranking", "generation"]),
    default="classification",
    show_default=True,
)
@click.option("--label", help="Column of what was true.")
@click.option("--prediction", help="Column of what was predicted.")
@click.option("--score", help="Column of the score.")
@click.option("--group", multiple=True, metavar="NAME[=COLUMN]", help="Group attribute; repeatable.")
@click.option("--positive", multiple=True, help="Label of the positive class; repeatable.")
@click.option(
    "--positive-prediction", multiple=True, help="Prediction of the positive class, if spelt otherwise."
)
@click.option(
    "--favourable",
    type=click.Choice(["positive", "negative"]),
    default="positive",
    show_default=True,
    help="Which class is good for the person.",
)
@click.option("--further", multiple=True, metavar="ROLE[=COLUMN]", help="Another column that a metric reads.")
@click.option("--subject", help="Column of the person or case; kept as a salted hash alone.")
@click.option("--observed", help="Column of the time of a prediction.")
@click.option(
    "--served",
    is_flag=True,
    help="Predictions in production are the requests that it answered: tags under the columns' names.",
)
@click.option("--label-metric", metavar="METRIC", help="With --served: metric of outcomes that is the label.")
@click.option("--label-days", type=int, default=0, help="With --served: days that a label has to arrive.")
@click.option("--note", default="")
@key_option
@tenant_option
def evaluations_declare(
    version: str,
    named: tuple[str, ...],
    data: str | None,
    served: bool,
    label_metric: str | None,
    label_days: int,
    note: str,
    key: str | None,
    **given: str | tuple[str, ...] | None,
) -> None:
    """Say by which data, columns and suites VERSION is checked."""
    from ml_registry_pipelines.compliance.served_rows import served_of

    with open_log() as log:
        done = _manager(log).declare_evaluation(
            version,
            _columns(given),
            suites=named,
            data=data,
            served=served_of(label_metric, label_days, served=served),
            note=note,
            idempotency_key=key,
        )
        _show_declared(done)


def _columns(given: dict[str, str | tuple[str, ...] | None]) -> Columns:
    from ml_registry_pipelines.compliance.evaluation_rows import Columns, Outcome, Task

    def one(name: str) -> str | None:
        value = given[name]
        return value if isinstance(value, str) else None

    def many(name: str) -> tuple[str, ...]:
        value = given[name]
        return value if isinstance(value, tuple) else ()

    return Columns(
        task=Task(one("task")),
        label=one("label"),
        prediction=one("prediction"),
        score=one("score"),
        groups=_pairs(many("group")),
        positive=many("positive"),
        positive_predictions=many("positive_prediction"),
        favourable=Outcome(one("favourable")),
        further=_pairs(many("further")),
        subject=one("subject"),
        observed=one("observed"),
    )


@evaluations.command("show")
@click.argument("version")
@as_of_option
@tenant_option
def evaluations_show(version: str, as_of: datetime | None) -> None:
    """What VERSION is checked with."""
    with open_log() as log:
        _show_declared(_manager(log).get_evaluation(version, as_of=utc(as_of)))


@evaluations.command("withdraw")
@click.argument("version")
@key_option
@tenant_option
def evaluations_withdraw(version: str, key: str | None) -> None:
    """Take back what was declared of VERSION."""
    with open_log() as log:
        done = _manager(log).withdraw_evaluation(version, idempotency_key=key)
        click.echo(f"nothing is declared of {done.version_id} any more")


@evaluations.command("record")
@click.argument("version")
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--production", is_flag=True, help="Predictions that were served, with the labels that came later."
)
@tenant_option
def evaluations_record(version: str, file: Path, production: bool) -> None:
    """Keep the predictions of VERSION in a Parquet or CSV FILE, in the columns that are declared."""
    from ml_registry_pipelines.lineage.contents import read_content
    from ml_registry_pipelines.lineage.fingerprints import fingerprint

    printed = fingerprint(file).recorded()
    with open_log() as log:
        rows = read_content(printed, [column["name"] for column in printed["columns"]], reference=str(file))
        origin = "production" if production else "evaluation"
        identity = _manager(log).record_evaluation(version, rows, origin=origin)
        click.echo(f"{rows.num_rows:,} rows recorded for {origin} as {identity}")


def _show_declared(given: DeclaredEvaluation) -> None:
    columns = given.columns.recorded()
    show_lines(
        {
            "version": given.version_id,
            "suites": ", ".join(given.suites),
            "data": given.fingerprint.get("location") or "rows that are recorded in evaluation_data",
            **{
                name: ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict)
                else ", ".join(value) if isinstance(value, list) else value
                for name, value in columns.items()
            },
            "in production": _served(given),
            "digest": given.digest[:12],
            "note": given.note,
        }
    )  # fmt: skip


def _served(given: DeclaredEvaluation) -> str | None:
    if given.served is None:
        return None
    label = given.served.label_metric
    waits = f", labels {label} within {given.served.label_days} days" if label else ", without labels"
    return f"requests that it answers{waits}"


# -- checks -----------------------------------------------------------------------------------------


@click.group()
def checks() -> None:
    """What suites say of a version; `run` exits with status 1 where a critical check does not pass."""


@checks.command("run")
@click.argument("version", required=False)
@click.option("--suite", "named", multiple=True, help="By default those that are declared; repeatable.")
@click.option(
    "--production-from", type=TIME, help="Check what was predicted in production from this time on."
)
@click.option("--production-to", type=TIME, help="Up to, not including, this time.")
@click.option("--docs", is_flag=True, help="Build the Data Docs of it, too.")
@key_option
@tenant_option
def checks_run(
    version: str | None,
    named: tuple[str, ...],
    production_from: datetime | None,
    production_to: datetime | None,
    docs: bool,
    key: str | None,
) -> None:
    """Run suites on VERSION, or on the tenant as a whole, and keep the results as evidence."""
    from ml_registry_pipelines.compliance.manager import Checked
    from ml_registry_pipelines.compliance.results import Verdict

    if (production_from is None) != (production_to is None):
        raise click.UsageError("a window has a --production-from and a --production-to")
    window = None
    if production_from is not None and production_to is not None:
        window = (in_utc(production_from), in_utc(production_to))
    with open_log() as log:
        done = _manager(log).run_compliance_checks(
            version, suites=list(named) or None, production=window, idempotency_key=key
        )
        _show_checked(Checked(done))
        if docs:
            _build(log, Checked(done))
    if done.verdict is not Verdict.PASS:
        sys.exit(1)


@checks.command("show")
@click.argument("version", required=False)
@click.option("--evidence", help="Id of a run of suites; by default the newest.")
@click.option("--docs", is_flag=True, help="Build its Data Docs and say where they are.")
@tenant_option
def checks_show(version: str | None, evidence: str | None, docs: bool) -> None:
    """The newest run of suites on VERSION, or one by its id, each check with all that it rests on."""
    with open_log() as log:
        found = _manager(log).get_checks(version, evidence_id=evidence, limit=1)
        if not found:
            click.echo("nothing was checked")
            sys.exit(1)
        _show_checked(found[0], whole=True)
        if docs:
            _build(log, found[0])


@checks.command("history")
@click.argument("version", required=False)
@click.option("--since", type=TIME)
@click.option("--limit", type=LIMIT, default=20, show_default=True)
@tenant_option
def checks_history(version: str | None, since: datetime | None, limit: int) -> None:
    """Runs of suites, newest first."""
    with open_log() as log:
        for each in _manager(log).get_checks(version, since=utc(since), limit=limit):
            run = each.evidence
            names = ", ".join(sorted({result.suite for result in run.results}))
            of = next((result.subject.version_id for result in run.results if result.subject), "tenant")
            click.echo(
                f"{run.recorded_at:%Y-%m-%d %H:%M:%S}Z  {run.evidence_id}  {each.verdict.value:<13}  {of}  {names}"
                + (f"  {each.problem}" if each.problem else "")
            )


def _show_checked(checked: Checked, *, whole: bool = False) -> None:
    run = checked.evidence
    if checked.problem:
        click.echo(f"mlreg: {checked.problem}", err=True)
    click.echo(f"{checked.verdict.value}  evidence {run.evidence_id}  digest {run.digest[:12]}")
    for result in run.results:
        click.echo(
            f"{result.verdict.value:<13}  {result.severity.value:<8}  {result.suite}: {result.check}: {result.message}"
        )
        if whole:
            show_lines(_details(result))


def _details(result: Result) -> dict[str, object]:
    return {
        "article": result.article,
        "groups": "; ".join(map(_group, result.groups)),
        "reference": result.reference,
        "rows": result.n,
        "tables": ", ".join(f"{name} v{number}" for name, number in sorted(result.table_versions.items())),
        "data": (result.data_digest or "")[:12],
        "suite": result.suite_digest[:12],
    }


def _group(group: Group) -> str:
    value = "" if group.value is None else f" value={group.value:.4g}"
    return f"{group.name} n={group.n}{value}" + (f" ({group.left_out})" if group.left_out else "")


def _build(log: Log, checked: Checked) -> None:
    from ml_registry_pipelines.compliance.suites.data_docs import build_data_docs

    click.echo(f"Data Docs: {build_data_docs(log.lake, checked.evidence)}")


def attach(cli: click.Group) -> None:
    for group in (suites, evaluations, checks):
        cli.add_command(group)
