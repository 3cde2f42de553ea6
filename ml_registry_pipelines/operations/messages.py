"""How alerts leave the table: to files of JSON lines below the home, and to the sinks that are configured.

All are fed from the rows of `alerts`, and each keeps a mark of its own of the last row that it
has, in `alert_marks`. A sink that fails keeps its mark and is tried again after growing pauses;
it gets everything afterwards, in order, and holds no other one up. A sink may hear the same
state twice, never not at all. What a sink is sent is in `sinks.py`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.files import FilesError, open_folder
from ml_registry_pipelines.lake.tables.operations import ALERTS
from ml_registry_pipelines.lake.tables.webhooks import ALERT_MARKS
from ml_registry_pipelines.operations.alerts import Alert, Alerts, Severity
from ml_registry_pipelines.operations.sinks import (
    Filter,
    Form,
    NotTold,
    Refused,
    Sink,
    microseconds,
    plain,
)
from ml_registry_pipelines.webhooks.marks import Mark, Marks

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

LOOK_BACK = timedelta(hours=24)
"""What a sink that is new hears of."""
ROWS_AT_ONCE = 200
SECONDS = 15.0
"""About how long one call delivers to each sink; the next one goes on."""
LONGEST_PAUSE = timedelta(minutes=5)
AT_ONCE = 8
"""Sinks that are told at the same time."""
SINK_FAILING = "sink_failing"
SINKS_UNUSABLE = "sinks_unusable"
FILES = "files"


@dataclass(frozen=True)
class Told:
    """How many rows a call of `tell` passed on, by sink, and which sinks fail, in words."""

    to_files: int = 0
    sent: Mapping[str, int] | None = None
    failures: Mapping[str, str] | None = None


@dataclass(frozen=True)
class SinkStanding:
    """A sink, how far it is, and what is left for it."""

    sink: Sink
    mark: Mark
    waiting: int


class Messages:
    """Passes rows of `alerts` on.

    Args:
        sinks: where they go beside the files below the home.
        unusable: why there should be more of them, where what is configured cannot be used.
        now: the clock, for tests about time.
    """

    def __init__(
        self,
        lake: Lake,
        sinks: Sequence[Sink] = (),
        unusable: str | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._lake = lake
        self._unusable = unusable
        self._sinks = tuple(sinks)
        self._now = now
        self._marks = Marks(lake, ALERT_MARKS, "sink", now)
        self._alerts = Alerts(lake, now=now)

    def tell(self, *, seconds: float = SECONDS) -> Told:
        """Pass on what has not been passed on yet. A sink that fails is itself an alert, for all the others.

        Where another thread is at it, that one goes on alone.

        Raises:
            FilesError: the files below the home cannot be written; the rows are safe and told the next time.
        """
        with _alone(self._lake.root) as first:
            if not first:
                return Told()
            self._note_unusable()
            if not self._lake.exists(ALERTS.name):
                return Told()
            to_files = self._to_files()
            marks = self._marks.all()
            due = [sink for sink in self._sinks if not self._mark(sink, marks).pauses(self._now())]
            until = time.monotonic() + seconds
            sent: dict[str, int] = {}
            failures = {
                s.name: m.last_failure for s in self._sinks if (m := marks.get(s.name)) and m.failures
            }
            if due:
                with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mlreg-alerts") as pool:
                    told = {s.name: pool.submit(self._tell, s, self._mark(s, marks), until) for s in due}
                for name, done in told.items():
                    sent[name], failures[name] = done.result()
            failing = {name: why for name, why in failures.items() if why is not None}
            if self._note_failing(failing):
                to_files += self._to_files()
            return Told(to_files, sent, failing)

    def standings(self) -> list[SinkStanding]:
        """All sinks with their marks, and how many rows they were not told of yet."""
        marks = self._marks.all()
        found = []
        for sink in self._sinks:
            mark = self._mark(sink, marks)
            waiting = sum(sink.filter.passes(row) for row in self._rows_after(mark.delivered, limit=10_000))
            found.append(SinkStanding(sink, mark, waiting))
        return found

    # -- telling one -------------------------------------------------------------------

    def _mark(self, sink: Sink, marks: Mapping[str, Mark]) -> Mark:
        return marks.get(sink.name) or Mark("", sink.name, 0, microseconds(self._now() - LOOK_BACK))

    def _tell(self, sink: Sink, mark: Mark, until: float) -> tuple[int, str | None]:
        """How many rows a sink took, and what went wrong, if anything did."""
        if sink.form is Form.FOLDER:
            try:
                return self._write_files(sink.to[0], sink.name, sink.filter), None
            except FilesError as wrong:
                return 0, self._marks.keep(mark.failed(str(wrong), self._now())).last_failure
        rows = self._rows_after(mark.delivered, limit=ROWS_AT_ONCE)
        taken, refused = 0, None
        for row in rows:
            at = microseconds(row["recorded_at"])
            if sink.filter.passes(row):
                try:
                    sink.tell(row)
                except Refused as wrong:
                    refused = str(wrong)
                    mark = mark.took(delivered=at, sent=0)
                except NotTold as wrong:
                    failed = mark.failed(str(wrong), self._now(), longest_pause=LONGEST_PAUSE)
                    self._marks.keep(failed)
                    return taken, str(wrong)
                else:
                    taken += 1
                    mark = mark.took(delivered=at)
            else:
                mark = replace(mark, delivered=at)
            if time.monotonic() > until:
                break
        if rows:
            self._marks.keep(mark)
        # A sink that failed at last and has nothing to take since is not known to be well.
        return taken, refused or mark.last_failure

    # -- files -------------------------------------------------------------------------

    def _to_files(self) -> int:
        return self._write_files(f"{self._lake.root}/alerts", FILES, None)

    def _write_files(self, place: str, name: str, wanted: Filter | None) -> int:
        """Write the file of every day that has new rows, whole: a file never holds half a line, nor one twice.

        Whoever finds that another process has been further writes once more, since its own files lack those rows.
        """
        folder = open_folder(place)
        written = 0
        mark = self._marks.all().get(name) or Mark("", name, 0, 0)
        while True:
            new = self._rows_after(mark.delivered)
            told = [row for row in new if wanted is None or wanted.passes(row)]
            for day in sorted({row["recorded_at"].astimezone(UTC).date() for row in told}):
                start = datetime(day.year, day.month, day.day, tzinfo=UTC)
                rows = self._rows_after(microseconds(start) - 1, until=start + timedelta(days=1))
                kept = (row for row in rows if wanted is None or wanted.passes(row))
                lines = "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in kept)
                folder.write(f"{day.isoformat()}.jsonl", lines.encode())
            if not new:
                return written
            written += len(told)
            reached = microseconds(new[-1]["recorded_at"])
            kept_mark = self._marks.keep(mark.took(delivered=reached, sent=len(told)))
            if kept_mark.delivered <= reached:
                return written
            # What lies between may be in files of the other process, over which ours came: write those days anew.
            mark = replace(kept_mark, delivered=mark.delivered)

    # -- what is wrong with sinks --------------------------------------------------------

    def _note_unusable(self) -> None:
        current = []
        if self._unusable is not None:
            current.append(
                Alert(
                    SINKS_UNUSABLE,
                    "file",
                    Severity.ERROR,
                    "Sinks of alerts cannot be used",
                    f"{self._unusable}. Alerts are kept, and told once it is mended.",
                )
            )
        if current or any(self._alerts.standing(SINKS_UNUSABLE)):
            self._alerts.settle({SINKS_UNUSABLE}, current, because="The sinks can be used again.")

    def _note_failing(self, failing: Mapping[str, str]) -> bool:
        """Open or resolve the alerts about sinks themselves."""
        places = {sink.name: sink.place for sink in self._sinks}
        current = [
            Alert(
                SINK_FAILING,
                name,
                Severity.WARNING,
                f"Sink {name} ({places[name]}) does not take alerts",
                f"{why}. Alerts are kept, and told in order once it takes them; `mlreg alerts sinks` says more.",
            )
            for name, why in sorted(failing.items())
        ]
        because = "The sink takes alerts again, or is gone."
        return bool(self._alerts.settle({SINK_FAILING}, current, because=because))

    def _rows_after(
        self, delivered: int, *, until: datetime | None = None, limit: int = 1_000_000
    ) -> Sequence[Mapping[str, Any]]:
        with self._lake.read(ALERTS.name) as reading:
            found: list[Mapping[str, Any]] = reading.query(
                "alerts.after",
                """
                SELECT * FROM alerts
                WHERE recorded_at > $after AND recorded_at < $until
                ORDER BY recorded_at
                LIMIT $limit
                """,
                {
                    "after": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=delivered),
                    "until": until or datetime(9999, 1, 1, tzinfo=UTC),
                    "limit": limit,
                },
            ).to_pylist()
        return found


@cache
def _lock(_root: str) -> threading.Lock:
    return threading.Lock()


@contextmanager
def _alone(root: str) -> Iterator[bool]:
    """Whether no other thread of this process tells alerts of that lake now."""
    lock = _lock(root)
    first = lock.acquire(blocking=False)
    try:
        yield first
    finally:
        if first:
            lock.release()
