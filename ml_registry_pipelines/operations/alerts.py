"""Alerts: what a person should know, once per occurrence, as a row and a message.

An alert has a key, and one occurrence is open per key: what stays wrong is said once,
and once more when it is over. The row comes first; files and webhook are told
afterwards, from the rows, and whatever could not be told is told the next time.

What is worth an alert is decided by those who call; how a message travels is in
`messages.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import LostRace
from ml_registry_pipelines.lake.tables.operations import ALERTS

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake

RACES = 20
"""Lost races after which recording gives up; every alert of every process is one commit."""
MOST_PER_KIND = 20
"""Alerts of one kind that `settle` opens at most; beyond, the last one tells how many more there are."""


class AlertsError(MlregError):
    """An alert could not be recorded."""


class Severity(Enum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    def above(self, other: Severity) -> bool:
        """Whether this is worse than the other."""
        order = list(Severity)
        return order.index(self) > order.index(other)


class State(Enum):
    OPENED = "opened"
    RESOLVED = "resolved"


@dataclass(frozen=True)
class Alert:
    """What is wrong now.

    `key` says what it is about and starts with `kind`, so that two findings about the same
    thing are one alert. `title` is one sentence: what, where. `message`: what was seen, and
    what to do.
    """

    kind: str
    about: str
    severity: Severity
    title: str
    message: str
    run_id: str | None = None
    tenant: str | None = None

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.about}"


@dataclass(frozen=True)
class Occurrence:
    """One open alert, as its row says."""

    alert_id: str
    key: str
    kind: str
    severity: Severity
    title: str
    run_id: str | None
    tenant: str | None
    since: datetime

    @property
    def about(self) -> str:
        return self.key.removeprefix(f"{self.kind}/")


@dataclass(frozen=True)
class Settled:
    """Keys that changed their state."""

    opened: tuple[str, ...] = ()
    resolved: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.opened or self.resolved)


class Alerts:
    """The alerts of one lake.

    Args:
        now: the clock, for tests about time.
    """

    def __init__(self, lake: Lake, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._lake = lake
        self._now = now

    def open(self, *alerts: Alert) -> Settled:
        """Open an occurrence for each alert whose key has none."""
        return self._record(lambda standing: ([a for a in alerts if a.key not in standing], []))

    def resolve(self, *keys: str, because: str) -> Settled:
        """End the open occurrences of these keys."""
        return self._record(
            lambda standing: ([], [standing[key] for key in keys if key in standing]), because
        )

    def settle(self, kinds: Collection[str], current: Iterable[Alert], *, because: str) -> Settled:
        """Make the open alerts of `kinds` those that hold now: open what is new, resolve what is gone.

        What got worse is opened again, with its new severity and words.
        """
        held = {alert.key: alert for alert in _bounded(current)}
        if strangers := {alert.kind for alert in held.values()} - set(kinds):
            raise ValueError(f"alerts of kind {sorted(strangers)} given, {sorted(kinds)} to settle")

        def decide(standing: Mapping[str, Occurrence]) -> tuple[list[Alert], list[Occurrence]]:
            opening = [
                a
                for key, a in held.items()
                if key not in standing or a.severity.above(standing[key].severity)
            ]
            ending = [o for key, o in standing.items() if o.kind in kinds and key not in held]
            return opening, ending

        return self._record(decide, because)

    def standing(self, *kinds: str) -> list[Occurrence]:
        """Open occurrences of these kinds, or of all; the oldest first."""
        if not self._lake.exists(ALERTS.name):
            return []
        found, _, _ = self._standing()
        return [o for o in found.values() if not kinds or o.kind in kinds]

    def _standing(self) -> tuple[dict[str, Occurrence], datetime | None, int]:
        """Open occurrences by key, the time of the newest row, and the version of the table."""
        with self._lake.read(ALERTS.name) as reading:
            rows = reading.query(
                "alerts.standing",
                """
                SELECT *, max(recorded_at) OVER () AS newest
                FROM alerts
                QUALIFY row_number() OVER (PARTITION BY alert_key ORDER BY recorded_at DESC) = 1
                ORDER BY recorded_at
                """,
            ).to_pylist()
            version = reading.version(ALERTS.name)
        open_now = {row["alert_key"]: _occurrence(row) for row in rows if row["state"] == State.OPENED.value}
        return open_now, (rows[0]["newest"] if rows else None), version

    def _record(
        self,
        decide: Callable[[Mapping[str, Occurrence]], tuple[list[Alert], list[Occurrence]]],
        because: str = "",
    ) -> Settled:
        """Write what `decide` makes of the open occurrences, in one commit on the table that it saw.

        Times of rows strictly increase over the whole table, so that "all rows after this time"
        means the same to every reader.

        Raises:
            AlertsError: other writers kept getting in between.
        """
        import pyarrow as pa

        for _ in range(RACES):
            standing, newest, version = self._standing()
            opening, ending = decide(standing)
            if not opening and not ending:
                return Settled()
            now = self._now()
            if newest is not None and now <= newest:
                now = newest + timedelta(microseconds=1)
            rows = [_opened(alert) for alert in opening] + [_resolved(o, because) for o in ending]
            for number, row in enumerate(rows):
                row["recorded_at"] = now + timedelta(microseconds=number)
                row.setdefault("alert_id", _occurrence_id(row["alert_key"], row["recorded_at"]))
            try:
                self._lake.append_expecting(
                    ALERTS.name, pa.Table.from_pylist(rows, schema=ALERTS.schema), version=version
                )
            except LostRace:
                continue
            return Settled(tuple(a.key for a in opening), tuple(o.key for o in ending))
        raise AlertsError(f"{RACES} attempts to record an alert lost against other writers; try again")


def open_alerts(lake: Lake, *, limit: int = 50) -> pa.Table:
    """Open alerts for a person to read, the newest first."""
    with lake.read(ALERTS.name) as reading:
        return reading.query(
            "alerts.open",
            """
            SELECT alert_key, severity, title, message, run_id, recorded_at AS since
            FROM (
                SELECT * FROM alerts
                QUALIFY row_number() OVER (PARTITION BY alert_key ORDER BY recorded_at DESC) = 1
            )
            WHERE state = 'opened'
            ORDER BY recorded_at DESC
            LIMIT $limit
            """,
            {"limit": limit},
        )


def _bounded(alerts: Iterable[Alert]) -> list[Alert]:
    """At most `MOST_PER_KIND` of each kind: the rest of a storm is one alert with their number."""
    kept: dict[str, list[Alert]] = {}
    for alert in alerts:
        kept.setdefault(alert.kind, []).append(alert)
    bounded: list[Alert] = []
    for kind, found in kept.items():
        bounded += found[:MOST_PER_KIND]
        if more := found[MOST_PER_KIND:]:
            bounded.append(
                Alert(
                    kind,
                    "and more",
                    max((a.severity for a in more), key=list(Severity).index),
                    f"{len(more)} more alerts of the kind {kind}",
                    "The first of them: " + "; ".join(a.title for a in more[:5]),
                )
            )
    return bounded


def _opened(alert: Alert) -> dict[str, Any]:
    return {
        "alert_key": alert.key,
        "kind": alert.kind,
        "severity": alert.severity.value,
        "state": State.OPENED.value,
        "title": alert.title,
        "message": alert.message,
        "run_id": alert.run_id,
        "tenant": alert.tenant,
    }


def _resolved(occurrence: Occurrence, because: str) -> dict[str, Any]:
    return {
        "alert_id": occurrence.alert_id,
        "alert_key": occurrence.key,
        "kind": occurrence.kind,
        "severity": occurrence.severity.value,
        "state": State.RESOLVED.value,
        "title": occurrence.title,
        "message": because,
        "run_id": occurrence.run_id,
        "tenant": occurrence.tenant,
    }


def _occurrence(row: Mapping[str, Any]) -> Occurrence:
    return Occurrence(
        alert_id=row["alert_id"],
        key=row["alert_key"],
        kind=row["kind"],
        severity=Severity(row["severity"]),
        title=row["title"],
        run_id=row["run_id"],
        tenant=row["tenant"],
        since=row["recorded_at"],
    )


def _occurrence_id(key: str, opened_at: datetime) -> str:
    return hashlib.sha256(f"{key}\0{opened_at.isoformat()}".encode()).hexdigest()[:32]
