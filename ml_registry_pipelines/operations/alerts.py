"""Alerts: what a person should know, once per occurrence, as a row and a message.

An alert has a key, and one occurrence is open per key: what stays wrong is said once, again
where it gets worse, and once more when it is over. The row comes first; sinks are told
afterwards, from the rows, and whatever could not be told is told the next time.

Sinks are not told of a key that goes wrong again within the cooldown of its rule, nor while
somebody has acknowledged it, unless it is worse than before. The row says so, and once the
time is over they are reminded of what is still open.

What is worth an alert is decided by those who call; how a message travels is in
`messages.py`, who acknowledges in `acknowledging.py`.
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


LONGEST_MESSAGE = 5_000
"""Characters of a message that repeats an earlier one."""


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
    ESCALATED = "escalated"
    ACKNOWLEDGED = "acknowledged"
    REMINDED = "reminded"
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
    """One alert as its newest row says; `since` is when it was opened, `severity` the worst that it was."""

    alert_id: str
    key: str
    kind: str
    severity: Severity
    title: str
    message: str
    run_id: str | None
    tenant: str | None
    state: State
    since: datetime
    recorded_at: datetime
    silent: bool = False
    quiet_until: datetime | None = None
    acknowledged_by: str | None = None
    acknowledgement: str | None = None

    @property
    def about(self) -> str:
        return self.key.removeprefix(f"{self.kind}/")

    @property
    def is_open(self) -> bool:
        return self.state is not State.RESOLVED


@dataclass(frozen=True)
class Acknowledged:
    """Somebody has taken on an occurrence until a time, or given it back. `event`: TENANT/SEQUENCE in the log."""

    alert_id: str
    by: str
    until: datetime
    event: str
    note: str = ""
    withdrawn: bool = False


@dataclass(frozen=True)
class Settled:
    """Keys that changed their state."""

    opened: tuple[str, ...] = ()
    resolved: tuple[str, ...] = ()
    escalated: tuple[str, ...] = ()
    reminded: tuple[str, ...] = ()
    acknowledged: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(vars(self).values())


Row = dict[str, Any]
Latest = Mapping[str, Occurrence]
"""The newest occurrence of every key that ever had one."""


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
        wanted = {alert.key: alert for alert in alerts}

        def decide(latest: Latest, now: datetime) -> list[Row]:
            return [
                _opened(alert, latest.get(key), now, timedelta(0))
                for key, alert in wanted.items()
                if key not in latest or not latest[key].is_open
            ]

        return self._record(decide)

    def announce(self, *alerts: Alert) -> Settled:
        """Open an occurrence for each alert whose key never had one: it is told once, however often it is given."""
        wanted = {alert.key: alert for alert in alerts}

        def decide(latest: Latest, now: datetime) -> list[Row]:
            return [
                _opened(alert, None, now, timedelta(0)) for key, alert in wanted.items() if key not in latest
            ]

        return self._record(decide) if wanted else Settled()

    def resolve(self, *keys: str, because: str) -> Settled:
        """End the open occurrences of these keys."""

        def decide(latest: Latest, now: datetime) -> list[Row]:
            found = (latest[key] for key in dict.fromkeys(keys) if key in latest)
            return [_resolved(each, because, now) for each in found if each.is_open]

        return self._record(decide)

    def settle(
        self,
        kinds: Collection[str],
        current: Iterable[Alert],
        *,
        because: str,
        cooldown: Mapping[str, timedelta] | None = None,
    ) -> Settled:
        """Make the open alerts of `kinds` those that hold now: open what is new, resolve what is gone.

        What got worse escalates, with its new severity and words.

        Args:
            cooldown: by kind, how long after it was over sinks do not hear of a key that is wrong again.
        """
        held = {alert.key: alert for alert in _bounded(current)}
        if strangers := {alert.kind for alert in held.values()} - set(kinds):
            raise ValueError(f"alerts of kind {sorted(strangers)} given, {sorted(kinds)} to settle")
        pauses = cooldown or {}

        def decide(latest: Latest, now: datetime) -> list[Row]:
            rows: list[Row] = []
            for key, alert in held.items():
                last = latest.get(key)
                if last is None or not last.is_open:
                    rows.append(_opened(alert, last, now, pauses.get(alert.kind, timedelta(0))))
                elif alert.severity.above(last.severity):
                    rows.append(_escalated(alert, last))
            gone = (o for key, o in latest.items() if o.is_open and o.kind in kinds and key not in held)
            return [*rows, *(_resolved(occurrence, because, now) for occurrence in gone)]

        return self._record(decide)

    def acknowledge(self, *given: Acknowledged) -> Settled:
        """Note on open occurrences who has them. What is noted already stays as it is."""
        by_id = {each.alert_id: each for each in given}

        def decide(latest: Latest, now: datetime) -> list[Row]:  # noqa: ARG001 - one form for all
            return [
                _acknowledged(occurrence, by_id[occurrence.alert_id])
                for occurrence in latest.values()
                if occurrence.is_open
                and occurrence.alert_id in by_id
                and occurrence.acknowledgement != by_id[occurrence.alert_id].event
            ]

        return self._record(decide) if by_id else Settled()

    def remind(self) -> Settled:
        """Tell sinks again of what is still open after its cooldown or acknowledgement."""

        def decide(latest: Latest, now: datetime) -> list[Row]:
            return [
                _reminded(occurrence)
                for occurrence in latest.values()
                if occurrence.is_open and occurrence.quiet_until is not None and occurrence.quiet_until <= now
            ]

        return self._record(decide)

    def standing(self, *kinds: str) -> list[Occurrence]:
        """Open occurrences of these kinds, or of all; the oldest first."""
        if not self._lake.exists(ALERTS.name):
            return []
        latest, _, _ = self._latest()
        return [o for o in latest.values() if o.is_open and (not kinds or o.kind in kinds)]

    def _latest(self) -> tuple[dict[str, Occurrence], datetime | None, int]:
        """The newest occurrence of every key, the time of the newest row, and the version of the table."""
        with self._lake.read(ALERTS.name) as reading:
            rows = reading.query(
                "alerts.standing",
                """
                SELECT *, max(recorded_at) OVER () AS newest,
                       min(recorded_at) OVER (PARTITION BY alert_id) AS since
                FROM alerts
                QUALIFY row_number() OVER (PARTITION BY alert_key ORDER BY recorded_at DESC) = 1
                ORDER BY recorded_at
                """,
            ).to_pylist()
            version = reading.version(ALERTS.name)
        newest = rows[0]["newest"] if rows else None
        return {row["alert_key"]: _occurrence(row) for row in rows}, newest, version

    def _record(self, decide: Callable[[Latest, datetime], list[Row]]) -> Settled:
        """Write what `decide` makes of the newest occurrences, in one commit on the table that it saw.

        Times of rows strictly increase over the whole table, so that "all rows after this time"
        means the same to every reader.

        Raises:
            AlertsError: other writers kept getting in between.
        """
        import pyarrow as pa

        for _ in range(RACES):
            latest, newest, version = self._latest()
            now = self._now()
            rows = decide(latest, now)
            if not rows:
                return Settled()
            if newest is not None and now <= newest:
                now = newest + timedelta(microseconds=1)
            for number, row in enumerate(rows):
                row["recorded_at"] = now + timedelta(microseconds=number)
                row.setdefault("alert_id", _occurrence_id(row["alert_key"], row["recorded_at"]))
            try:
                self._lake.append_expecting(
                    ALERTS.name, pa.Table.from_pylist(rows, schema=ALERTS.schema), version=version
                )
            except LostRace:
                continue
            keys = {s: tuple(r["alert_key"] for r in rows if r["state"] == s.value) for s in State}
            return Settled(**{state.value: found for state, found in keys.items()})
        raise AlertsError(f"{RACES} attempts to record an alert lost against other writers; try again")


def open_alerts(lake: Lake, *, limit: int = 50, tenant: str | None = None) -> pa.Table:
    """Open alerts for a person to read, the newest first; with `tenant`, those that concern it."""
    with lake.read(ALERTS.name) as reading:
        return reading.query(
            "alerts.open",
            """
            SELECT alert_id[:12] AS alert, alert_key, severity, title, message, run_id, since, acknowledged_by,
                   CASE WHEN acknowledged_by IS NOT NULL THEN quiet_until END AS acknowledged_until
            FROM (
                SELECT *, min(recorded_at) OVER (PARTITION BY alert_id) AS since
                FROM alerts
                QUALIFY row_number() OVER (PARTITION BY alert_key ORDER BY recorded_at DESC) = 1
            )
            WHERE state <> 'resolved' AND ($tenant IS NULL OR tenant = $tenant)
            ORDER BY since DESC
            LIMIT $limit
            """,
            {"limit": limit, "tenant": tenant},
        )


def alert_history(
    lake: Lake, given: str, *, limit: int = 100, tenant: str | None = None
) -> list[dict[str, Any]]:
    """The states of an alert by its key, or by the beginning of its id, the newest last; rows of `alerts`.

    With `tenant`, of an alert that concerns it.
    """
    with lake.read(ALERTS.name) as reading:
        rows: list[dict[str, Any]] = reading.query(
            "alerts.history",
            """
            SELECT * FROM alerts
            WHERE (alert_key = $given OR (length($given) >= 4 AND starts_with(alert_id, $given)))
                  AND ($tenant IS NULL OR tenant = $tenant)
            ORDER BY recorded_at DESC
            LIMIT $limit
            """,
            {"given": given, "limit": limit, "tenant": tenant},
        ).to_pylist()
    return rows[::-1]


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


def _opened(alert: Alert, last: Occurrence | None, now: datetime, cooldown: timedelta) -> Row:
    """A new occurrence; sinks are not told of it while its key is quiet, unless it is worse than the last one."""
    row: Row = {
        "alert_key": alert.key,
        "kind": alert.kind,
        "severity": alert.severity.value,
        "state": State.OPENED.value,
        "title": alert.title,
        "message": alert.message,
        "run_id": alert.run_id,
        "tenant": alert.tenant,
    }
    if last is None or alert.severity.above(last.severity):
        return row
    quiet = max(filter(None, [last.quiet_until, last.recorded_at + cooldown]))
    if quiet <= now:
        return row
    held = {"acknowledged_by": last.acknowledged_by} if quiet == last.quiet_until else {}
    return {**row, "silent": True, "quiet_until": quiet, **held}


def _next(occurrence: Occurrence, state: State, message: str) -> Row:
    """Another state of an occurrence, with what stays as it is."""
    return {
        "alert_id": occurrence.alert_id,
        "alert_key": occurrence.key,
        "kind": occurrence.kind,
        "severity": occurrence.severity.value,
        "state": state.value,
        "title": occurrence.title,
        "message": message,
        "run_id": occurrence.run_id,
        "tenant": occurrence.tenant,
        "acknowledgement": occurrence.acknowledgement,
    }


def _escalated(alert: Alert, last: Occurrence) -> Row:
    return {
        **_next(last, State.ESCALATED, alert.message),
        "severity": alert.severity.value,
        "title": alert.title,
        "run_id": alert.run_id,
    }


def _acknowledged(occurrence: Occurrence, given: Acknowledged) -> Row:
    if given.withdrawn:
        back = _next(occurrence, State.REMINDED, f"{given.by} has given it back. {occurrence.message}")
        return {**back, "acknowledgement": given.event}
    note = f": {given.note}" if given.note else ""
    return {
        **_next(
            occurrence,
            State.ACKNOWLEDGED,
            f"{given.by} has it until {given.until.astimezone(UTC):%Y-%m-%d %H:%M}Z{note}. {occurrence.message}",
        ),
        "quiet_until": given.until,
        "acknowledged_by": given.by,
        "acknowledgement": given.event,
    }


def _reminded(occurrence: Occurrence) -> Row:
    since = f"It is so since {occurrence.since.astimezone(UTC):%Y-%m-%d %H:%M}Z"
    why = f", and {occurrence.acknowledged_by}'s time for it is over" if occurrence.acknowledged_by else ""
    return _next(occurrence, State.REMINDED, f"{since}{why}. {occurrence.message}"[:LONGEST_MESSAGE])


def _resolved(occurrence: Occurrence, because: str, now: datetime) -> Row:
    """Its end. Sinks that did not hear of it do not hear of its end; a key that somebody has stays quiet."""
    held: Row = {}
    if occurrence.quiet_until is not None and occurrence.quiet_until > now and occurrence.acknowledged_by:
        held = {"quiet_until": occurrence.quiet_until, "acknowledged_by": occurrence.acknowledged_by}
    return {**_next(occurrence, State.RESOLVED, because), **held, "silent": occurrence.silent or None}


def _occurrence(row: Mapping[str, Any]) -> Occurrence:
    return Occurrence(
        alert_id=row["alert_id"],
        key=row["alert_key"],
        kind=row["kind"],
        severity=Severity(row["severity"]),
        title=row["title"],
        message=row["message"],
        run_id=row["run_id"],
        tenant=row["tenant"],
        state=State(row["state"]),
        since=row["since"],
        recorded_at=row["recorded_at"],
        silent=bool(row["silent"]),
        quiet_until=row["quiet_until"],
        acknowledged_by=row["acknowledged_by"],
        acknowledgement=row["acknowledgement"],
    )


def _occurrence_id(key: str, opened_at: datetime) -> str:
    return hashlib.sha256(f"{key}\0{opened_at.isoformat()}".encode()).hexdigest()[:32]
