"""Marks: how far a receiver has been told, and when it is tried again after a failure.

Subscribers of events and sinks of alerts have them alike. A mark moves only after the
receiver has answered, so that nothing is lost; who is killed in between tells some again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.lake import CommitUnknown, LostRace, StaleSlice

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.declarations import Table
    from ml_registry_pipelines.lake.lake import Lake

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(hours=1)
DEAD_AFTER = 5
"""Failures in a row after which a person should know: about a minute and a half."""
RACES = 5


@dataclass(frozen=True)
class Mark:
    """How far a receiver has been told: `delivered` only grows within an `epoch`."""

    tenant: str
    receiver: str
    epoch: int
    delivered: int
    sent: int = 0
    failures: int = 0
    failing_since: datetime | None = None
    next_attempt_at: datetime | None = None
    last_failure: str | None = None
    revision: int = 0

    @property
    def dead(self) -> bool:
        return self.failures >= DEAD_AFTER

    def took(self, *, delivered: int, sent: int = 1) -> Mark:
        """The receiver took something, and so is well."""
        return replace(
            self,
            delivered=delivered,
            sent=self.sent + sent,
            failures=0,
            failing_since=None,
            next_attempt_at=None,
            last_failure=None,
        )

    def failed(self, why: str, now: datetime, *, longest_pause: timedelta = LONGEST_PAUSE) -> Mark:
        """Try again after a pause that doubles, with jitter, so that many do not come back at once."""
        longest = min(FIRST_PAUSE * 2 ** min(self.failures, 20), longest_pause)
        return replace(
            self,
            failures=self.failures + 1,
            failing_since=self.failing_since or now,
            next_attempt_at=now + longest * random.uniform(0.5, 1.0),
            last_failure=why[:1000],
        )

    def pauses(self, now: datetime) -> bool:
        """Whether it is too early to try again."""
        return self.next_attempt_at is not None and now < self.next_attempt_at


class Marks:
    """The marks of one kind of receivers, in a table of their own.

    Args:
        column: the column that names the receiver, whose values need no quoting.
        now: the clock, for tests about time.
    """

    def __init__(self, lake: Lake, table: Table, column: str, now: Callable[[], datetime]) -> None:
        self._lake = lake
        self._table = table
        self._column = column
        self._now = now

    def all(self) -> dict[str, Mark]:
        """Marks by receiver."""
        if not self._lake.exists(self._table.name):
            return {}
        with self._lake.read(self._table.name) as reading:
            rows: list[Mapping[str, Any]] = reading.query(
                f"marks.{self._table.name}", f"SELECT * FROM {self._table.name}"
            ).to_pylist()
        names = set(Mark.__dataclass_fields__) - {"tenant", "receiver"}
        return {
            row[self._column]: Mark(
                row.get("tenant", ""), row[self._column], **{name: row[name] for name in names}
            )
            for row in rows
        }

    def keep(self, mark: Mark) -> Mark:
        """Write a mark. Whoever was further, or knows of a later replay, is not set back.

        Raises:
            LostRace: others kept changing it.
        """
        for _ in range(RACES):
            stored = self.all().get(mark.receiver)
            if stored is not None and (stored.epoch, stored.delivered) > (mark.epoch, mark.delivered):
                return stored
            new = replace(mark, revision=1 + max(mark.revision, stored.revision if stored else 0))
            try:
                self._lake.replace(
                    self._table.name,
                    self._row(new),
                    predicate=f"{self._column} = '{new.receiver}'",
                    source=f"{self._column.removesuffix('_id')}/{new.receiver}",
                    sequence=new.revision,
                )
            except (LostRace, StaleSlice, CommitUnknown):
                continue
            return new
        raise LostRace(f"the mark of {mark.receiver} was changed by others {RACES} times; try again")

    def _row(self, mark: Mark) -> pa.Table:
        import pyarrow as pa

        values = {**vars(mark), self._column: mark.receiver, "recorded_at": self._now()}
        row = {name: values[name] for name in self._table.column_names}
        return pa.Table.from_pylist([row], schema=self._table.schema)
