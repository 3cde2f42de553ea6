"""`mlreg demo`: the shipped logs through the real sensors and assets, and a summary of what came of them.

The demo only lands files and watches. Everything else is done by the same daemon, sensors
and runs as in `mlreg ui`, in the same Dagster home, so the UI shows all of it afterwards.
It can be interrupted at any point and run again: what is done stays, and is not done twice.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.demo_governance import land_rules
from ml_registry_pipelines.demo_models import DemoModels, close_broken_off, taken_names
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.slices import days_behind, days_held
from ml_registry_pipelines.operations.late_reports import late_reports
from ml_registry_pipelines.operations.summary import summarise
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.services import REPOSITORY, Service, dagster_home, prepare, running_daemon
from ml_registry_pipelines.settings import Settings
from ml_registry_pipelines.telemetry.sources import Scope, Sources

if TYPE_CHECKING:
    import dagster as dg

SHIPPED = REPOSITORY / "demo"
POLL_SECONDS = 2.0
"""Between two looks at the runs."""
LOOK_SECONDS = 8.0
"""Between two looks at the tables while a run goes on, which take some tenths of a second of what it needs, too."""
PATIENCE_SECONDS = 240.0
"""How long nothing may change before the demo gives up; the slowest single step takes a tenth of it."""


class DemoError(MlregError):
    """The demo cannot start, or did not get through."""


@dataclass(frozen=True)
class Left:
    """What is still to be done, of what there is."""

    files: int
    all_files: int
    batches: int
    """Batches without costs."""
    days: int
    """Days whose rollups are behind."""
    all_days: int
    reports: int
    """Daily reports and the overview that are older than their figures, or wait for them."""

    def __bool__(self) -> bool:
        return bool(self.files or self.batches or self.days or self.reports)

    def __str__(self) -> str:
        days = self.all_days
        return (
            f"{self.all_files - self.files} of {self.all_files} files taken, "
            f"{days - self.days} of {days} days rolled up, "
            f"{max(0, days + 1 - self.reports)} of {days + 1} reports written"
        )


def run() -> int:
    """Land the shipped files, wait until everything is made of them, print the summary; the exit status.

    Raises:
        DemoError: the home holds other logs, a run failed, or nothing moved for minutes.
    """
    settings = Settings.from_environment()
    if settings.sources_file is not None:
        raise DemoError(
            "MLREG_SOURCES is set, and the demo lands its files in the default source; unset it for the demo"
        )
    refuse_a_home_in_use(settings)
    prepare(settings)
    click.echo(f"demo in {settings.home}")
    landed = land(settings)
    land_rules(settings)
    sources = Sources.load(settings)
    with Lake(settings.home, process="demo") as lake, Log(lake) as log:
        models = DemoModels(log, settings)
        left = bool(what_is_left(lake, sources)) or bool(models.left())
        if left:
            click.echo(
                f"{landed} files landed; sensors and assets do the rest, and the UI shows it afterwards"
            )
            _work(settings, lake, sources, models)
        click.echo()
        for line in (
            *summarise(lake).lines(),
            "",
            *models.lines(),
            "",
            models.hosted_line(),
            "",
            *models.governance_lines(),
        ):
            click.echo(line)
        click.echo()
        if not left:
            click.echo(
                "nothing has changed: every shipped file was taken and every model trained before; "
                "only query timings were recorded"
            )
        click.echo("`make ui` shows assets, runs and ticks at http://127.0.0.1:3000")
    return 0


def land(settings: Settings) -> int:
    """Put the shipped logs and contract prices where they belong, as a producer would; how many were new.

    Raises:
        DemoError: this installation does not hold the demo's files.
    """
    shipped = shipped_files()
    home = open_folder(settings.home)
    # First the prices, which the logs are to be priced with.
    home.create("contract-prices.yaml", (SHIPPED / "contract-prices.yaml").read_bytes())
    return sum(home.create(f"landing/{path}", file.read_bytes()) for path, file in shipped.items())


def shipped_files() -> dict[str, Path]:
    """The shipped logs by their path in the landing folder.

    Raises:
        DemoError: this installation does not hold them.
    """
    shipped = SHIPPED / "data" / "landing"
    if not shipped.is_dir():
        raise DemoError(f"{shipped} is missing: the demo runs from the repository, not from a wheel")
    files = sorted(path for path in shipped.rglob("*") if path.is_file())
    return {path.relative_to(shipped).as_posix(): path for path in files}


def refuse_a_home_in_use(settings: Settings) -> None:
    """Let the demo into a home that is new or holds nothing but (part of) the demo. Writes the time of its query alone.

    Raises:
        DemoError: log files lie there, or were taken there, that are not the demo's, or the
            registry there has something of its own under a name that the demo uses.
    """
    import pyarrow as pa

    shipped = shipped_files()
    for source in Sources.load(settings):
        for entry in source.files.entries(source.prefix):
            if source.wants(entry.path) and entry.path not in shipped:
                raise _in_use(settings, f"{source.folder}/{entry.path}")
    with Lake(settings.home, process="demo") as lake:
        # A log that is opened is made where there is none.
        if lake.exists("governance_events"):
            with Log(lake) as log:
                taken = next(taken_names(log), None)
            if taken is not None:
                raise DemoError(
                    f"{settings.home} has a {taken} that is not the demo's; "
                    "unset MLREG_HOME or set it to a new folder for the demo"
                )
            if DemoModels(log, settings).has_strangers():
                raise DemoError(
                    f"{settings.home} has users that are not the demo's, or the demo's keys are gone from it; "
                    "unset MLREG_HOME or set it to a new folder for the demo"
                )
        if not lake.exists("ingested_files"):
            return
        with lake.read("ingested_files") as reading:
            reading.register("shipped", pa.table({"path": list(shipped)}))
            others = reading.query(
                "demo.others",
                """
                SELECT source, path FROM ingested_files
                WHERE source <> 'landing' OR path NOT IN (SELECT path FROM shipped)
                LIMIT 1
                """,
            ).to_pylist()
    if others:
        raise _in_use(settings, f"rows of {others[0]['path']} of source {others[0]['source']!r}")


def _in_use(settings: Settings, what: str) -> DemoError:
    return DemoError(
        f"{settings.home} holds logs that are not the demo's ({what}); "
        "unset MLREG_HOME or set it to a new folder for the demo"
    )


def what_is_left(lake: Lake, sources: Sources) -> Left:
    """Compare what lies in the sources with what the tables hold."""
    look = sources.look(lake, scope=Scope.ALL, settled=True)
    waiting = len(look.files) + look.waiting
    late = late_reports(lake)
    with lake.read(
        "ingested_files",
        "inference_events",
        "model_costs",
        "performance_rollup",
        "cost_rollup",
        "attribution_rules",
    ) as reading:
        taken = reading.query(
            "demo.taken", "SELECT count(DISTINCT (source, path)) AS files FROM ingested_files WHERE complete"
        )
        batch = reading.sequence("inference_events", "ingestion")
        priced = reading.sequence("model_costs", "inference_events")
        behind = {
            day
            for rollup in ("performance_rollup", "cost_rollup")
            for day in days_behind(reading, rollup, batch)
        }
        days = behind | days_held(reading, "cost_rollup")
    return Left(
        files=waiting,
        all_files=waiting + int(taken["files"][0].as_py()),
        batches=batch - priced,
        days=len(behind),
        all_days=len(days),
        # Of a day that is not rolled up yet, and of all days together, the report is still to come.
        reports=len(behind.union(late.days)) + (late.overview or bool(waiting or behind)),
    )


def _work(settings: Settings, lake: Lake, sources: Sources, models: DemoModels) -> None:
    """Run the daemon until nothing is left, and train the models meanwhile."""
    import dagster as dg

    os.environ["DAGSTER_HOME"] = str(dagster_home(settings))
    with dg.DagsterInstance.get() as instance, running_daemon(settings) as daemon, _line() as line:
        if daemon is None:
            line.show("Dagster already runs for this home and does the work")
        began = time.time()
        close_broken_off(instance)
        models.work(instance, line.show)
        changed = time.monotonic()
        seen = None
        look, left, looked = True, what_is_left(lake, sources), time.monotonic()
        while True:
            _refuse_failures(instance, settings, since=began)
            running = _running(instance)
            # A run that has just ended may have left work for others: then the tables are looked at first.
            if look and not left and not running:
                return
            if (left, running) != seen:
                seen, changed = (left, running), time.monotonic()
            elif time.monotonic() - changed > PATIENCE_SECONDS:
                raise DemoError(
                    f"nothing has changed for {PATIENCE_SECONDS:.0f} seconds ({left}); "
                    f"see {dagster_home(settings)}/daemon.log"
                )
            line.show(f"{left}{f'; running: {running}' if running else ''}")
            _pause(daemon)
            if look := not running or time.monotonic() - looked >= LOOK_SECONDS:
                left, looked = what_is_left(lake, sources), time.monotonic()


def _running(instance: dg.DagsterInstance) -> str:
    """Jobs with an unfinished run, in words."""
    import dagster as dg

    unfinished = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.QUEUED,
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
        ]
    )
    return ", ".join(sorted({run.job_name for run in instance.get_runs(unfinished)}))


def _refuse_failures(instance: dg.DagsterInstance, settings: Settings, *, since: float) -> None:
    """Raises `DemoError` when a run failed since then."""
    import dagster as dg

    records = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), limit=5)
    failed = [record.dagster_run for record in records if (record.end_time or 0) >= since]
    if failed:
        run = failed[0]
        raise DemoError(
            f"run {run.run_id} of {run.job_name} failed; `make ui` shows why under Runs, "
            f"and the logs are in {dagster_home(settings)}"
        )


def _pause(daemon: Service | None) -> None:
    if daemon is not None:
        daemon.check()
    time.sleep(POLL_SECONDS)


class _Line:
    """One line that is written over; where nobody watches, a line whenever it says something new."""

    def __init__(self) -> None:
        self._watched = sys.stdout.isatty()
        self._started = time.monotonic()
        self._last = ""
        self._width = 0

    def show(self, text: str) -> None:
        timed = f"{time.monotonic() - self._started:5.0f} s  {text}"
        if self._watched:
            # Cut to the terminal: a wrapped line cannot be written over.
            timed = timed[: shutil.get_terminal_size().columns - 1]
            click.echo("\r" + timed.ljust(self._width), nl=False)
            self._width = len(timed)
        elif text != self._last:
            click.echo(timed)
        self._last = text

    def end(self) -> None:
        if self._watched and self._last:
            click.echo()


@contextmanager
def _line() -> Iterator[_Line]:
    line = _Line()
    try:
        yield line
    finally:
        line.end()
