"""`mlreg`: the platform from a shell.

A door and no more: it parses, calls the rooms and prints. An error of ours is printed as
its one sentence, exit status 1; a wrong command line is click's, exit status 2.
"""

from __future__ import annotations

import io
import os
import re
import sys
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from ml_registry_pipelines.cli import ai_act as ai_act_cli
from ml_registry_pipelines.cli import alerts as alerts_cli
from ml_registry_pipelines.cli import approvals as approvals_cli
from ml_registry_pipelines.cli import attribution as attribution_cli
from ml_registry_pipelines.cli import bills as bills_cli
from ml_registry_pipelines.cli import budgets as budgets_cli
from ml_registry_pipelines.cli import checks as checks_cli
from ml_registry_pipelines.cli import costs as costs_cli
from ml_registry_pipelines.cli import costs_analytics as costs_analytics_cli
from ml_registry_pipelines.cli import dossier as dossier_cli
from ml_registry_pipelines.cli import exchange as exchange_cli
from ml_registry_pipelines.cli import experiments as experiments_cli
from ml_registry_pipelines.cli import fairness as fairness_cli
from ml_registry_pipelines.cli import gdpr as gdpr_cli
from ml_registry_pipelines.cli import gdpr_erasure as gdpr_erasure_cli
from ml_registry_pipelines.cli import governance as governance_cli
from ml_registry_pipelines.cli import performance as performance_cli
from ml_registry_pipelines.cli import registry as registry_cli
from ml_registry_pipelines.cli import reports as reports_cli
from ml_registry_pipelines.cli import search as search_cli
from ml_registry_pipelines.cli import security as security_cli
from ml_registry_pipelines.cli import similar as similar_cli
from ml_registry_pipelines.cli import statements as statements_cli
from ml_registry_pipelines.cli import users as users_cli
from ml_registry_pipelines.cli import webhooks as webhooks_cli
from ml_registry_pipelines.cli.support import (
    LIMIT,
    Number,
    only_tenant,
    open_lake,
    purpose_option,
    shell_actor,
)
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.interrupts import is_interrupt
from ml_registry_pipelines.lake.lean import without_pandas
from ml_registry_pipelines.settings import Environment, Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.batch import Taken
    from ml_registry_pipelines.telemetry.sources import FileRef, Source, Sources


DAY = click.DateTime(["%Y-%m-%d"])
LONGEST_WORD = 400
"""Characters of a word in a sentence about a mistake; a longer one is cut."""
LEAN = frozenset({"get", "diff", "rollback", "models", "artifacts", "search"})
"""Commands that are waited for and need no pandas, whose import is a third of their time."""


def main() -> None:
    """Entry point of the `mlreg` script."""
    if sys.argv[1:2] and sys.argv[1] in LEAN:
        without_pandas()
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as wrong:
        said = io.StringIO()
        wrong.show(said)
        click.echo(_shortened(said.getvalue()), err=True, nl=False)
        sys.exit(wrong.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _stopped()
    except MlregError as failure:
        if is_interrupt(failure):
            _stopped()
        _failed(str(failure))
    except BrokenPipeError:
        # The reader of our output has gone; nothing more to say to it.
        sys.stderr.close()
        sys.exit(0)
    except Exception as failure:
        if is_interrupt(failure):
            _stopped()
        if (sentence := _about_what_was_given(failure)) is None:
            raise
        _failed(sentence)


def _failed(sentence: str) -> NoReturn:
    click.echo(f"mlreg: {_shortened(sentence)}", err=True)
    sys.exit(1)


def _about_what_was_given(failure: Exception) -> str | None:
    """The sentence about a name or a text of the command line that no file can have; None for all else."""
    if isinstance(failure, OSError) and failure.filename is not None:
        return f"{os.fsdecode(failure.filename)!r} cannot be read or written: {failure.strerror}"
    if isinstance(failure, UnicodeEncodeError) and failure.reason == "surrogates not allowed":
        return f"{failure.object!r} is not UTF-8; give another name or text"
    return None


def _shortened(sentence: str) -> str:
    """A sentence that quotes no more of an argument than a person would read."""
    return re.sub(
        rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:80]}... ({len(word[0]):,} characters)", sentence
    )


def _stopped() -> NoReturn:
    click.echo("mlreg: stopped; what was recorded stays, and the command can be given again", err=True)
    sys.exit(130)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ml-registry-pipelines")
def cli() -> None:
    """A model registry that is a Dagster data platform. MLREG_HOME says where it lives."""


registry_cli.attach(cli)
exchange_cli.attach(cli)
webhooks_cli.attach(cli)
checks_cli.attach(cli)
attribution_cli.attach(cli)
alerts_cli.attach(cli)
budgets_cli.attach(cli)
experiments_cli.attach(cli)
bills_cli.attach(cli)
statements_cli.attach(cli)
performance_cli.attach(cli)
gdpr_cli.attach(cli)
costs_cli.attach(cli)
costs_analytics_cli.attach(cli)
reports_cli.attach(cli)
gdpr_erasure_cli.attach(cli)
fairness_cli.attach(cli)
ai_act_cli.attach(cli)
approvals_cli.attach(cli)
governance_cli.attach(cli)
dossier_cli.attach(cli)
security_cli.attach(cli)
cli.add_command(search_cli.search)
similar_cli.attach(cli)
users_cli.attach(cli)


# -- running -------------------------------------------------------------------------------


@cli.command()
def demo() -> None:
    """Take the shipped logs through the real sensor and assets, and print what came of them."""
    from ml_registry_pipelines.demo import run

    sys.exit(run())


@cli.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=3000,
    show_default=True,
    help="Port of the web interface.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def ui(port: int, host: str) -> None:
    """Serve the Dagster UI, with sensors and schedules on."""
    from ml_registry_pipelines.ui import run

    sys.exit(run(host=host, port=port))


# -- taking logs ----------------------------------------------------------------------------


@cli.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--dry-run", is_flag=True, help="Decode and count; write nothing.")
@click.option("--rescan", is_flag=True, help="Look at every file of every source and every day.")
@click.option("--dialect", help="Log format of the files; by default it is detected.")
@click.option("--tenant", help="Organisation that the rows belong to.")
@click.option("--tenant-field", help="Field of the record that names the organisation.")
@click.option("--time-zone", default="UTC", show_default=True, help="For times that state no zone.")
@click.option("--base-time", type=click.DateTime(), help="For formats without absolute times.")
@click.option("--cost-unit", help="For formats that do not say it: currency or cents.")
def ingest(
    files: tuple[str, ...],
    dry_run: bool,
    rescan: bool,
    dialect: str | None,
    tenant: str | None,
    tenant_field: str | None,
    time_zone: str,
    base_time: datetime | None,
    cost_unit: str | None,
) -> None:
    """Take the given files, or what the configured sources hold; then price and roll up."""
    from ml_registry_pipelines.telemetry.sources import Sources, parse_source

    named: Source = parse_source(
        "the command line",
        {
            "name": "files",
            "folder": "/",
            "dialect": dialect,
            "tenant": tenant,
            "tenant_field": tenant_field,
            "time_zone": time_zone,
            "base_time": base_time,
            "cost_unit": cost_unit,
        },
    )
    if dry_run:
        if not files:
            raise click.UsageError("--dry-run needs at least one FILE")
        for file in files:
            _preview(file, named)
        return
    if files and rescan:
        raise click.UsageError("--rescan is about the configured sources; leave out the files")
    sources = Sources.load(Settings.from_environment())
    with open_lake() as lake:
        if files:
            refs = list({ref.path: ref for ref in (_named_file(file, named) for file in files)}.values())
            done, wrong = _take(lake, sources.with_source(named), refs)
            before = 0 if wrong else len(refs) - done.files
            click.echo(_sentence(done) + (f"; {before:,} files were taken before" if before else ""))
        else:
            wrong = _take_everything(lake, sources, rescan=rescan)
        for sentence in wrong:
            click.echo(sentence, err=True)
        _derive(lake)
    if wrong:
        sys.exit(1)


def _take_everything(lake: Lake, sources: Sources, *, rescan: bool) -> list[str]:
    """Take what the sources hold, and say what of it cannot be taken."""
    from ml_registry_pipelines.telemetry.batch import Taken
    from ml_registry_pipelines.telemetry.sources import Scope

    done, unread = Taken(), list[str]()
    while True:
        look = sources.look(lake, scope=Scope.ALL if rescan else Scope.RECENT, settled=True, changes=True)
        if unread or not look.files:
            break
        taken, unread = _take(lake, sources, look.files)
        done = done.plus(taken)
    click.echo(_sentence(done))
    changed = [f"changed: {changed.message}" for changed in look.changed]
    return [*changed, *(f"problem: {problem}" for problem in look.problems), *unread]


def _take(
    lake: Lake, sources: Sources, files: tuple[FileRef, ...] | list[FileRef]
) -> tuple[Taken, list[str]]:
    """Take files, and say which of them could not be read."""
    from ml_registry_pipelines.telemetry.ingestion import FilesUnread, Ingestion

    try:
        return Ingestion(lake, sources).take(files), []
    except FilesUnread as some:
        return some.taken, [f"mlreg: {some}"]


def _derive(lake: Lake) -> None:
    """Price and roll up what is new, as the assets of the job `ingest_logs` do."""
    from ml_registry_pipelines.costs.ledger import catch_up_costs
    from ml_registry_pipelines.costs.reattribution import reattribute

    costs_cli.sync_prices(lake)
    catch_up_costs(lake)
    days = reattribute(lake).days
    if days:
        click.echo(f"rolled up {len(days)} days, {min(days)} to {max(days)}")


def _named_file(file: str, source: Source) -> FileRef:
    from ml_registry_pipelines.lake.files import FilesError
    from ml_registry_pipelines.telemetry.sources import FileRef, unnamable

    if not file.strip():
        raise click.UsageError("a FILE has an empty name; leave it out, or name the file")
    path = _plain(file)
    if problem := unnamable(source, str(path)):
        raise FilesError(problem)
    if path.is_dir():
        raise FilesError(f"{file} is a folder; name its files, or make it a source")
    entry = source.files.entry(str(path).lstrip("/"))
    return FileRef(source.name, entry.path, entry.size, entry.modified_at, entry.etag)


def _plain(file: str) -> Path:
    """One name for one file, without `..`; a link keeps its own name where that leads to the same."""
    plain = os.path.abspath(file)  # noqa: PTH100 - resolve() would rename links
    return Path(plain if os.path.realpath(plain) == os.path.realpath(file) else os.path.realpath(file))


def _preview(file: str, source: Source) -> None:
    from ml_registry_pipelines.telemetry.preview import preview

    for line in preview(source, _named_file(file, source), named=file).lines():
        click.echo(line)


def _sentence(done: Taken) -> str:
    ignored = f" ({done.ignored:,} records of other kinds ignored)" if done.ignored else ""
    suppressed = f" + {done.suppressed:,} suppressed" if done.suppressed else ""
    return (
        f"{done.files:,} files: {done.rows_in:,} rows in = {done.taken:,} taken + {done.duplicates:,} duplicates "
        f"+ {done.quarantined:,} quarantined{suppressed}{ignored}"
    )


@cli.command()
def sources() -> None:
    """List the configured sources and what waits in them."""
    from ml_registry_pipelines.telemetry.sources import Scope, Sources

    configured = Sources.load(Settings.from_environment())
    for source in configured:
        where = f"{source.folder}/{source.prefix}".rstrip("/")
        named = f"from {source.tenant_field}" if source.tenant_field else "from the record"
        click.echo(
            f"{source.name}  {where}  {source.pattern}  dialect {source.dialect or 'detected'}  "
            f"tenant {source.tenant or named}"
        )
    with open_lake(needed=False) as lake:
        look = configured.look(lake, scope=Scope.ALL, settled=True)
    click.echo(f"{len(look.files) + look.waiting:,} files wait to be taken")
    for line in [*(c.message for c in look.changed), *look.problems]:
        click.echo(f"problem: {line}", err=True)
    if look.changed or look.problems:
        sys.exit(1)


@cli.group()
def quarantine() -> None:
    """Rows that could not be taken."""


@quarantine.command("list")
@click.option("--reason", help="Only rows with this reason.")
@click.option("--source", help="Only rows of this source.")
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="At most so many rows.")
@click.option("--tenant", help="Only this organisation's rows; default: MLREG_TENANT, else all.")
def quarantine_list(reason: str | None, source: str | None, limit: int, tenant: str | None) -> None:
    """List open rows by reason, then one by one."""
    from ml_registry_pipelines.telemetry.quarantine import listing, summary

    tenant = only_tenant(tenant)
    with open_lake() as lake:
        overview = summary(lake, tenant=tenant)
        if not len(overview):
            click.echo("quarantine is empty")
            return
        _print(overview.drop_columns(["first_seen", "last_seen"]))
        click.echo()
        _print(
            listing(lake, reason=reason, source=source, limit=limit, tenant=tenant).select(
                ["quarantine_id", "source", "file", "line", "reason", "message"]
            )
        )


@quarantine.command("show")
@click.argument("quarantine_id")
@click.option("--tenant", help="Only this organisation's rows; default: MLREG_TENANT, else all.")
@purpose_option
def quarantine_show(quarantine_id: str, tenant: str | None, purpose: str | None) -> None:
    """Show one row, its raw text included."""
    from ml_registry_pipelines.access.access_log import AccessLog
    from ml_registry_pipelines.telemetry.quarantine import show

    tenant = only_tenant(tenant)
    with open_lake() as lake:
        found = show(lake, quarantine_id, tenant=tenant)
        owner = tenant if found["tenant"] is None else str(found["tenant"])
        access = AccessLog(lake)
        access.note(shell_actor(), "read", "quarantined_rows", tenant=owner, purpose=purpose, rows=1)
        access.flush()
        for name, value in found.items():
            click.echo(f"{name:>14}  {value}")


@quarantine.command("replay")
@click.argument("ids", nargs=-1, metavar="[QUARANTINE_ID]...")
@click.option("--reason", help="Rows with this reason.")
@click.option("--source", help="Rows of this source.")
@click.option("--all", "everything", is_flag=True, help="All open rows.")
@click.option(
    "--limit", type=LIMIT, default=100_000, show_default=True, help="At most so many rows, oldest first."
)
def quarantine_replay(
    ids: tuple[str, ...], reason: str | None, source: str | None, everything: bool, limit: int
) -> None:
    """Try rows again with today's dialects and sources."""
    from ml_registry_pipelines.telemetry.ingestion import Ingestion, IngestionError
    from ml_registry_pipelines.telemetry.quarantine import open_rows
    from ml_registry_pipelines.telemetry.replay import replay
    from ml_registry_pipelines.telemetry.sources import Sources

    if not (ids or reason or source or everything):
        raise click.UsageError("say which rows: ids, --reason, --source or --all")
    with open_lake() as lake:
        tried = open_rows(lake, ids=ids, reason=reason, source=source, limit=limit)
        done = replay(Ingestion(lake, Sources.load(Settings.from_environment())), tried)
        records = done.taken + done.duplicates + done.kept + done.ignored
        held = f", which hold {records:,} records" if records != done.tried else ""
        ignored = f" ({done.ignored:,} records of other kinds ignored)" if done.ignored else ""
        click.echo(
            f"{done.tried:,} rows tried{held}: {done.taken:,} taken, {done.duplicates:,} duplicates, "
            f"{done.kept:,} still in quarantine{ignored}"
        )
        _derive(lake)
        if done.failures:
            raise IngestionError("; ".join(done.failures))


# -- looking --------------------------------------------------------------------------------


@cli.command()
def tables() -> None:
    """List the tables: rows, files, bytes, version, and what they need."""
    import pyarrow as pa

    with open_lake() as lake:
        found = lake.status()
    if not found:
        click.echo(
            f"no tables below {Settings.from_environment().home}; `mlreg demo` or `mlreg ingest` makes them"
        )
        return
    _print(
        pa.table(
            {
                "table": [t.name for t in found],
                "rows": [t.rows for t in found],
                "files": [t.files for t in found],
                "bytes": [t.bytes for t in found],
                "version": [t.version for t in found],
                "since checkpoint": [t.commits_since_checkpoint for t in found],
                "log files": [t.log_files for t in found],
                "orphans": [t.orphans for t in found],
            }
        )
    )
    for table in found:
        if table.warning:
            click.echo(f"{table.name}: {table.warning}", err=True)


@cli.command()
@click.argument("query")
@click.option("--tenant", help="See only this organisation's rows; default: MLREG_TENANT.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@click.option(
    "--timeout",
    type=Number(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds after which the query is stopped.",
)
@purpose_option
def sql(
    query: str, tenant: str | None, form: str, output: Path | None, timeout: float, purpose: str | None
) -> None:
    """Run one SELECT over all tables by name. Read-only, and cut off from files and network."""
    from ml_registry_pipelines.access.sql import Asker, ask_sql
    from ml_registry_pipelines.lake.output import write_result
    from ml_registry_pipelines.lake.sandbox import SqlLimits

    settings = Settings.from_environment()
    if tenant is None and "MLREG_TENANT" in os.environ:
        tenant = settings.tenant or ""
    if tenant == "":
        raise click.UsageError("the tenant is empty; name one, or unset MLREG_TENANT to see all of them")
    if tenant is None and settings.environment is not Environment.DEV:
        raise MlregError(
            "outside dev a query needs a tenant; give --tenant or set MLREG_TENANT "
            f"(MLREG_ENV is {settings.environment.value})"
        )
    if form == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE")
    with open_lake() as lake:
        rows = ask_sql(lake, query, Asker(shell_actor(), tenant, purpose), limits=SqlLimits(seconds=timeout))
    write_result(rows, form=form, output=output)


def _print(rows: pa.Table) -> None:
    from ml_registry_pipelines.lake.output import write_result

    write_result(rows, form="table", output=None)


@cli.command()
@click.option("--full", is_flag=True, help="Also remove files that no commit names.")
def maintain(full: bool) -> None:
    """Compact all tables, checkpoint, cut logs and remove what nobody reads any more."""
    from ml_registry_pipelines.operations.upkeep import maintain_tables

    with open_lake() as lake:
        done = maintain_tables(lake, full=full)
    click.echo(f"{len(done.tables)} tables, {done.files_removed:,} files removed")
    for warning in done.warnings:
        click.echo(warning, err=True)


# -- prices and reports ---------------------------------------------------------------------


@cli.group()
def prices() -> None:
    """The price catalogue."""


@prices.command("sync")
def prices_sync() -> None:
    """Bring the catalogue up to the installed price list and the contract prices."""
    with open_lake() as lake:
        done = costs_cli.sync_prices(lake)
    click.echo(
        f"{done.added:,} prices added, {done.withdrawn:,} withdrawn, {done.unchanged:,} unchanged; "
        f"price list of genai-prices {done.version}"
    )


@prices.command("missing")
def prices_missing() -> None:
    """List what has tokens and no price."""
    from ml_registry_pipelines.costs.queries import unpriced_models

    with open_lake() as lake, lake.read("model_costs", "cost_corrections") as reading:
        rows = unpriced_models(reading)
    if len(rows):
        _print(rows)
    else:
        click.echo("everything that should have a price has one")


@cli.command()
@click.option("--day", type=DAY, help="The report of this day; default: the overview.")
def report(day: datetime | None) -> None:
    """Write the cost report and say where it is."""
    from ml_registry_pipelines.reports.costs import cost_overview, daily_cost_report

    with open_lake() as lake:
        written = (
            cost_overview(lake)
            if day is None
            else daily_cost_report(lake, date(day.year, day.month, day.day))
        )
        click.echo(f"{lake.root}/{written.path}")
