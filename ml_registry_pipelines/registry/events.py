"""One event of the log: its fields, its hash, and its way to and from Arrow.

The hash covers the stored bytes of every column of `governance_events` but the hash itself,
`position` and `block`, as netstrings (`5:hello,`; NULL is `-,`) in declared order: text as UTF-8,
integers in decimal, times as microseconds since 1970. Any SHA-256 and a few lines check it.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.tables.registry import GOVERNANCE_EVENTS
from ml_registry_pipelines.registry.canonical import spelled
from ml_registry_pipelines.registry.errors import EventUnreadable

if TYPE_CHECKING:
    import pyarrow as pa

HASHED = tuple(name for name in GOVERNANCE_EVENTS.column_names if name not in {"hash", "position", "block"})
"""Columns that the hash covers, in order."""
BULK = "bulk"
"""Entity type of an event that stands for many entities, which a file lists."""
MAX_PAYLOAD = 4 * 1024 * 1024
"""Bytes of one event's payload, and of one state that a bulk event's file lists."""
NOTED_EVENTS, NOTED_BYTES = 8, 16_384
"""Events that a commit carries as text too, and their length: who follows the log reads one file, not two."""
_COLUMNS = tuple(GOVERNANCE_EVENTS.column_names)
_TIMES = ("occurred_at", "recorded_at", "valid_from")
_ID = re.compile(r"[0-9a-f]{32}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Event:
    """One row of `governance_events`."""

    tenant: str
    sequence: int
    event_id: str
    command_id: str
    part: int
    parts: int
    occurred_at: datetime
    recorded_at: datetime
    valid_from: datetime
    actor: str
    actor_kind: str
    authenticated_by: str
    action: str
    entity_type: str
    entity_id: str
    payload: str
    idempotency_key: str | None
    run_id: str | None
    previous_hash: str
    hash: str
    position: int
    block: int = 0

    @cached_property
    def content(self) -> dict[str, Any]:
        """The payload: `change` and `state`.

        Raises:
            EventUnreadable: it is none.
        """
        try:
            found: dict[str, Any] = json.loads(self.payload)
            if isinstance(found["change"], dict) and isinstance(found["state"], dict):
                return found
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise EventUnreadable(self.tenant, self.sequence, "its payload has no `change` and `state`")

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.content["state"]
        return state

    @cached_property
    def state_text(self) -> str:
        """The state as canonical JSON."""
        return spelled(self.state)

    @property
    def weight(self) -> int:
        """How many entities get a state by it; 1 where it does not say."""
        if self.entity_type != BULK:
            return 1
        try:
            return int(self.state["entities"])
        except (EventUnreadable, KeyError, ValueError, TypeError):
            return 1

    @property
    def change(self) -> dict[str, Any]:
        change: dict[str, Any] = self.content["change"]
        return change


def payload_of(change: str, state: str) -> str:
    """The payload of an event, of canonical JSON, as canonical JSON."""
    return f'{{"change":{change},"state":{state}}}'


def event_hash(fields: dict[str, Any]) -> str:
    """The hash over the fields of an event, by column name."""
    return hashlib.sha256(b"".join(_netstring(fields[name]) for name in HASHED)).hexdigest()


def _netstring(value: object) -> bytes:
    match value:
        case None:
            return b"-,"
        case datetime():
            text = str((value - _EPOCH) // _MICROSECOND).encode()
        case _:
            text = str(value).encode()
    return b"%d:%b," % (len(text), text)


def hash_sql(sequence: str = "sequence") -> str:
    """The same hash as a DuckDB expression over the columns; `sequence` may be another expression."""

    def text(name: str) -> str:
        if name == "sequence":
            return f"CAST({sequence} AS VARCHAR)"
        if name.endswith("_at") or name == "valid_from":
            return f"CAST(epoch_us({name}) AS VARCHAR)"
        return f"CAST({name} AS VARCHAR)"

    parts = (f"coalesce(CAST(strlen({text(n)}) AS VARCHAR) || ':' || {text(n)} || ',', '-,')" for n in HASHED)
    return f"sha256({' || '.join(parts)})"


def new_id() -> str:
    """A random id that sorts by the time of its making: milliseconds, then 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def is_id(text: str) -> bool:
    """Whether a text has the form of an id that `new_id` makes."""
    return _ID.fullmatch(text) is not None


def now() -> datetime:
    """The present instant in UTC."""
    return datetime.now(UTC)


def to_arrow(events: Iterable[Event]) -> pa.Table:
    """Events as rows of `governance_events`."""
    import pyarrow as pa

    rows = list(events)
    return pa.table(
        {name: [getattr(event, name) for event in rows] for name in GOVERNANCE_EVENTS.column_names},
        schema=GOVERNANCE_EVENTS.schema,
    )


def from_arrow(rows: pa.Table) -> list[Event]:
    """Rows of `governance_events` as events, in the order of their position."""
    names: Sequence[str] = GOVERNANCE_EVENTS.column_names
    found = [Event(**_with_block(row)) for row in rows.select(list(names)).to_pylist()]
    return sorted(found, key=lambda event: event.position)


def to_note(events: Sequence[Event]) -> str | None:
    """A few short events as text that their commit can carry; None where they are too long for it."""
    if len(events) > NOTED_EVENTS:
        return None
    text = json.dumps([[_plain(getattr(event, name)) for name in _COLUMNS] for event in events])
    return text if len(text) <= NOTED_BYTES else None


def from_note(text: str) -> list[Event] | None:
    """The events of such a text; None where it is damaged: their hashes tell."""
    try:
        rows = [dict(zip(_COLUMNS, row, strict=True)) for row in json.loads(text)]
        for row in rows:
            row.update({name: _EPOCH + row[name] * _MICROSECOND for name in _TIMES})
        if any(event_hash(row) != row["hash"] for row in rows):
            return None
        return [Event(**row) for row in rows]
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def _plain(value: object) -> object:
    return (value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value


def _with_block(row: dict[str, Any]) -> dict[str, Any]:
    return row if row["block"] is not None else {**row, "block": old_block(row["position"])}


def old_block(position: int) -> int:
    """The block of an event from before blocks were recorded, when each had 512 events."""
    return (position - 1) // 512 + 1
