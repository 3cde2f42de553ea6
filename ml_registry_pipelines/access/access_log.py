"""`AccessLog`: who read restricted data, logged in, downloaded, asked in SQL, or was refused.

Every door notes it here. What people *decide* is in the log of events; this table is no part of
that chain, and goes after its retention. No personal value belongs into it: actors are
pseudonyms, subjects are names of tables and ids, and of a query only known words are kept.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakSet

from ml_registry_pipelines.lake.outcomes import LakeError, reason, store_errors
from ml_registry_pipelines.lake.tables.access import ACCESS_LOG

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.actors import Actor

TABLE = ACCESS_LOG.name
SOURCE = "access"
HELD_SECONDS = 2.0
"""How long a note waits for company: what a process that is killed may lose. A commit takes 15 ms."""
HELD = 500
"""Notes that are written at once without waiting."""
LONGEST = 500

_log = logging.getLogger(__name__)


class Outcome(Enum):
    ALLOWED = "allowed"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Access:
    """What is noted about one access. `tenant` None: all tenants, which is the operator's."""

    tenant: str | None
    actor: Actor
    action: str
    subject: str
    outcome: Outcome = Outcome.ALLOWED
    reason: str = ""
    purpose: str | None = None
    statement: str | None = None
    rows: int | None = None
    door: str | None = None


class AccessLog:
    """The access log of one lake. Cheap to make: all of one lake share what waits to be written.

    Thread-safe. A note is written within `HELD_SECONDS`, when the lake is closed and when the
    process ends. Where the store fails, notes are kept and tried again with the next ones.
    """

    def __init__(self, lake: Lake) -> None:
        self._notes = _notes_of(lake)

    def note(
        self,
        actor: Actor,
        action: str,
        subject: str,
        *,
        tenant: str | None,
        outcome: Outcome = Outcome.ALLOWED,
        reason: str = "",
        purpose: str | None = None,
        statement: str | None = None,
        rows: int | None = None,
        door: str | None = None,
    ) -> None:
        """Note one access; never waits for the store.

        Args:
            statement: a query as it was typed; only its known words are kept.
            purpose: as the register of purposes names it.
            door: by default what the lake was opened for: `cli`, `web`, `run`, `sensor`.
        """
        self._notes.add(
            Access(tenant, actor, action, subject, outcome, reason, purpose, statement, rows, door)
        )

    def flush(self) -> None:
        """Write what waits, in one commit.

        A door that must not answer without a record calls this before it does.

        Raises:
            LakeError: the store failed; the notes are kept for the next time.
        """
        self._notes.flush()


class _Notes:
    """What waits to be written to one lake."""

    def __init__(self, lake: Lake) -> None:
        from weakref import ref

        self._lake = ref(lake)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._rows: list[dict[str, object]] = []
        self._timer: threading.Timer | None = None
        lake.before_closing(self.flush_or_warn)

    def add(self, access: Access) -> None:
        lake = self._lake()
        row: dict[str, object] = {
            "access_id": f"{int(datetime.now(UTC).timestamp() * 1000):012x}{uuid4().hex[:20]}",
            "tenant": access.tenant,
            "recorded_at": datetime.now(UTC),
            "actor": access.actor.id,
            "actor_kind": access.actor.kind.value,
            "authenticated_by": access.actor.authenticated_by,
            "door": access.door or (lake.process if lake is not None else "python"),
            "action": access.action,
            "subject": access.subject[:LONGEST],
            "statement": None if access.statement is None else without_literals(access.statement),
            "purpose": access.purpose or None,
            "outcome": access.outcome.value,
            "reason": access.reason[:LONGEST],
            "rows": access.rows,
        }
        with self._lock:
            self._rows.append(row)
            delay = 0.0 if len(self._rows) == HELD else HELD_SECONDS
            if self._timer is None or not delay:
                self._timer = threading.Timer(delay, self.flush_or_warn)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        import pyarrow as pa

        with self._writing:
            with self._lock:
                rows, self._rows = self._rows, []
                timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            lake = self._lake()
            if not rows or lake is None or (lake.is_local and not Path(lake.root).is_dir()):
                # Where there is no lake, nothing was there to be read.
                return
            failures: tuple[type[Exception], ...] = (LakeError, *store_errors())
            try:
                lake.append_next(TABLE, pa.Table.from_pylist(rows, schema=ACCESS_LOG.schema), source=SOURCE)
            except failures as failure:
                with self._lock:
                    self._rows = rows + self._rows
                raise LakeError(
                    f"{len(rows)} notes of the access log could not be written: {reason(failure)}; "
                    "they are kept and tried again"
                ) from failure

    def flush_or_warn(self) -> None:
        try:
            self.flush()
        except LakeError as failure:
            _log.warning("%s", failure)


_of_lakes: WeakKeyDictionary[Lake, _Notes] = WeakKeyDictionary()
_all: WeakSet[_Notes] = WeakSet()
_opening = threading.Lock()


def _notes_of(lake: Lake) -> _Notes:
    with _opening:
        notes = _of_lakes.get(lake)
        if notes is None:
            notes = _of_lakes[lake] = _Notes(lake)
            _all.add(notes)
        return notes


def _flush_all() -> None:
    for notes in list(_all):
        notes.flush_or_warn()


# Also at the end of a process that multiprocessing started, which `atexit` does not see.
Finalize(None, _flush_all, exitpriority=100)


# -- queries ---------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
      (?P<word> [A-Za-z_]\w* (?!\w*') )
    | (?P<text> [A-Za-z]?'(?:[^']|'')*'? | \$(\w*)\$.*?(?:\$\3\$|$) )
    | (?P<quoted> "(?:[^"]|"")*"? )
    | (?P<comment> --[^\n]* | /\*.*?(?:\*/|$) )
    | (?P<number> \d[\w.]* )
    | (?P<space> \s+ )
    | (?P<sign> [-+*/%<>=!|&^~(),.;:\[\]{}?] )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_SQL = """
    all and any array as asc asof between both by case cast coalesce collate columns cross cube current
    date day days decimal desc distinct double else end escape except exclude exists extract false fetch
    filter first following for from full glob group grouping groups having hour hours ilike in inner
    integer intersect interval into is isnull join last lateral leading left like limit materialized
    microsecond minute month not notnull null nulls of offset on only or order outer over partition
    percent pivot positional preceding qualify range recursive replace right rollup row rows sample
    second select semi anti separator set sets similar some struct symmetric table tablesample then ties
    time timestamp to trailing trim true try_cast unbounded union unnest unpivot using values varchar
    bigint boolean week when where window with within without year years zone
"""
_SQL_WORDS = frozenset(_SQL.split())


@cache
def _known_words() -> frozenset[str]:
    """Words that a query may keep: none of them can name a person."""
    from ml_registry_pipelines.lake.sql_functions import ALLOWED, TABLE_FUNCTIONS
    from ml_registry_pipelines.lake.tables import TABLES

    named = {name for table in TABLES.values() for name in (table.name, *table.column_names)}
    return _SQL_WORDS | frozenset(named) | {str(name) for name in (*ALLOWED, *TABLE_FUNCTIONS)}


def tables_of(sql: str) -> str:
    """Declared tables that a query names, in order, for `subject`: a comma between two."""
    from ml_registry_pipelines.lake.tables import TABLES

    words = {match[0].lower().strip('"') for match in _TOKEN.finditer(sql)}
    return ", ".join(sorted(words & TABLES.keys()))


def without_literals(sql: str) -> str:
    """A query without its literals and comments, and without any name that is not the lake's own.

    A literal may be an e-mail address, and so may an alias. So this keeps signs and the words of a
    closed list (SQL's, functions, declared tables and columns); whatever else stands there is `?`.
    However a text is taken apart, no other word can be left.
    """
    known, parts, end = _known_words(), list[str](), 0
    for match in _TOKEN.finditer(sql[: 4 * LONGEST]):
        if match.start() > end:
            parts.append("?")
        end = match.end()
        if match["space"] is not None or match["comment"] is not None:
            parts.append(" ")
        elif match["sign"] is not None:
            parts.append(match[0])
        elif (match["word"] or match["quoted"]) and match[0].strip('"').lower() in known:
            parts.append(match[0].strip('"'))
        else:
            parts.append("?")
    return " ".join("".join(parts).split())[: 2 * LONGEST]
