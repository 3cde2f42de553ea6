"""Pulls: asking the APIs for the last days, keeping their answers, and taking them as any file of bills.

An answer is kept below the home before it is taken, as evidence and so that nothing has to be asked twice.
Every pull reads the last days again, because providers restate them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.bills.apis import Report, reports
from ml_registry_pipelines.costs.bills.calling import Caller
from ml_registry_pipelines.costs.bills.credentials import key_of, secrets_manager
from ml_registry_pipelines.costs.bills.documents import envelope
from ml_registry_pipelines.costs.bills.intake import BillIntake, BillsError, TakenBills
from ml_registry_pipelines.lake.files import FilesError, NoSuchFile, open_folder
from ml_registry_pipelines.operations.alerts import Alert, Severity
from ml_registry_pipelines.telemetry.sources import FileRef

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.bills.settings import BillSettings, BillSource, Pull
    from ml_registry_pipelines.lake.lake import Lake

PULL_FAILED = "bill_pull_failed"


@dataclass(frozen=True)
class Pulled:
    """What came of one pull. `failures` are sentences; what landed before them stays."""

    name: str
    since: date
    until: date
    taken: TakenBills
    failures: tuple[str, ...] = ()


def pull_bills(
    lake: Lake,
    settings: BillSettings,
    *,
    names: Iterable[str] = (),
    since: date | None = None,
    until: date | None = None,
    secrets: Callable[[], Any] = secrets_manager,
    caller: Callable[..., Caller] = Caller,
    now: datetime | None = None,
) -> list[Pulled]:
    """Ask the configured APIs, or those that are named, and take what they answer.

    Args:
        since: first UTC day; by default `look_back_days` before today.
        until: first UTC day that is left out; by default today, whose bill is not complete.

    Returns:
        One outcome per pull. One that fails does not keep the others from it.

    Raises:
        BillsError: no pull has one of the names, or the days are none.
    """
    today = (now or datetime.now(UTC)).date()
    first = since or today - timedelta(days=settings.look_back_days)
    last = until or today
    if first >= last:
        raise BillsError(f"from {first} up to, not including, {last} there is no day; give a later end")
    intake = BillIntake(lake, settings.all_sources)
    kept = {source.name: source for source in settings.pulled}
    return [
        _pull(pull, kept[f"pull-{pull.name}"], intake, first, last, secrets, caller)
        for pull in _chosen(settings.pulls, set(names))
    ]


def failed_pulls(outcomes: Sequence[Pulled]) -> list[Alert]:
    """An alert per pull that failed."""
    return [
        Alert(
            PULL_FAILED,
            outcome.name,
            Severity.ERROR,
            f"Bills of {outcome.name!r} could not be pulled",
            f"{'; '.join(outcome.failures)}. Nothing is lost: the next pull reads these days again.",
        )
        for outcome in outcomes
        if outcome.failures
    ]


def _chosen(pulls: Sequence[Pull], names: set[str]) -> list[Pull]:
    if unknown := names - {pull.name for pull in pulls}:
        known = ", ".join(pull.name for pull in pulls) or "none; add one under `pulls` of bills.yaml"
        raise BillsError(f"no pull is called {min(unknown)!r}; configured are {known}")
    return [pull for pull in pulls if not names or pull.name in names]


def _pull(
    pull: Pull,
    source: BillSource,
    intake: BillIntake,
    since: date,
    until: date,
    secrets: Callable[[], Any],
    caller: Callable[..., Caller],
) -> Pulled:
    taken, failures = TakenBills(), []
    try:
        key = key_of(pull, secrets)
    except BillsError as failure:
        return Pulled(pull.name, since, until, taken, (str(failure),))
    for ask in reports(pull, key, since, until, caller):
        try:
            report = ask()
            taken = taken.plus(intake.take([_keep(pull, source, report)]))
        except (BillsError, FilesError) as failure:
            failures.append(str(failure))
    return Pulled(pull.name, since, until, taken, tuple(failures))


def _keep(pull: Pull, source: BillSource, report: Report) -> FileRef:
    """Write the answer below the home, under a name that sorts by time."""
    now = datetime.now(UTC)
    path = f"{now:%Y-%m}/{now:%Y%m%dT%H%M%S%fZ}-{report.report}.json"
    said = {
        "report": report.report,
        "issuer": report.issuer,
        "account": pull.account,
        "days": [day.isoformat() for day in report.days],
        "pulled_at": now.isoformat(),
    }
    folder = open_folder(source.folder)
    folder.write(path, envelope(said, list(report.pages)))
    try:
        entry = folder.entry(path)
    except NoSuchFile:
        raise BillsError(f"the answer of pull {pull.name!r} was kept as {path} and is gone") from None
    return FileRef(source.name, entry.path, entry.size, entry.modified_at, entry.etag)
