"""What is newer than the projections, held in memory: events, the states they begin, and keys.

Here is also told which block an event goes into. A block is what the projections fold in one
commit, and is full with `BLOCK` events, or as soon as its events are about `HEAVY` entities:
what a bulk event lists is in memory only until it is folded. All processes must agree on when
a block is full, since nothing is added to one that somebody may have folded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ml_registry_pipelines.registry.bulk import BulkFileDamaged, BulkFiles, Listed
from ml_registry_pipelines.registry.errors import RESTORE, EventUnreadable, LogDamaged, RegistryError
from ml_registry_pipelines.registry.events import BULK, Event, old_block
from ml_registry_pipelines.registry.states import INDEXES, State, begun, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 512
"""Events of one block at most. A process that starts reads at most two blocks of single commits from the log."""
HEAVY = 10_000
"""Entities with which a block is full."""


class Filling:
    """How full the newest block of the log is."""

    def __init__(self, block: int, events: int = 0, weight: int = 0) -> None:
        self.block = block
        self.events = events
        self.weight = weight

    @property
    def full(self) -> bool:
        return self.events >= BLOCK or self.weight >= HEAVY

    def place(self, weight: int) -> int:
        """The block of the next event."""
        if self.full or not self.block:
            self.block, self.events, self.weight = self.block + 1, 0, 0
        self.events += 1
        self.weight += weight
        return self.block

    def take(self, event: Event) -> None:
        """Note an event that has its block."""
        if event.block != self.block:
            self.block, self.events, self.weight = event.block, 0, 0
        self.events += 1
        self.weight += event.weight

    def copy(self) -> Filling:
        return Filling(self.block, self.events, self.weight)


def follow(events: Iterable[Event], filling: Filling, *, after: int) -> None:
    """See that events come right after a position, each in the block that it must be in; `filling` moves on.

    Raises:
        LogDamaged: the first one that does not. Were it folded, it would be lost, or others would.
    """
    for expected, event in enumerate(events, start=after + 1):
        if event.position != expected:
            raise LogDamaged(
                f"the log has no event at position {expected} but one at {event.position}; {RESTORE}"
            )
        block = filling.block + (filling.full or not filling.block)
        if event.block != block and not (
            event.block == old_block(expected) and event.block in {filling.block, filling.block + 1}
        ):
            raise LogDamaged(
                f"event {event.sequence} of tenant {event.tenant!r} stands in block {event.block} of the log "
                f"and not in block {block}; {RESTORE}"
            )
        filling.take(event)


def too_many(events: int) -> bool:
    """Whether no process should hold so many events in memory."""
    return events > 4 * BLOCK


def whole_blocks(events: Iterable[Event], *, last: int) -> Iterator[tuple[int, list[Event]]]:
    """The events by block, as far as the blocks are full. `last` is the log's newest block or less."""
    for block, found in groupby(events, key=lambda event: event.block):
        inside = list(found)
        filling = Filling(0)
        for event in inside:
            filling.take(event)
        if block < last or filling.full:
            yield block, inside


class Tail:
    """Events after position `base`, the end of block `block`, and what follows from them. Only ever grows."""

    def __init__(self, base: int, bulk: BulkFiles, *, block: int = 0, filling: Filling | None = None) -> None:
        self.base = base
        self.block = block
        self._bulk = bulk
        self.events: list[Event] = []
        self.filling = filling or Filling(block, BLOCK)
        self._states: list[tuple[int, State]] = []
        self._listed: list[Listed] = []
        self._by_id: dict[tuple[str, str], list[State]] = {}
        self._by_column: dict[tuple[str, str, str, str], dict[str, None]] = {}
        self._keys: dict[tuple[str, str, str], tuple[int, int]] = {}
        self.unreadable: dict[str, RegistryError] = {}
        """Why nothing can be said about a tenant, by its name."""
        self._ends = 2**62
        """The first block that cannot be folded, because of an event that cannot be read."""

    @property
    def head(self) -> int:
        """Position of the newest event."""
        return self.base + len(self.events)

    @property
    def weight(self) -> int:
        """Entities that got states."""
        return len(self._states) + sum(len(rows) for found in self._listed for rows in found.tables.values())

    def draft(self) -> Tail:
        """An empty tail behind this one, for what is being decided."""
        return Tail(self.head, self._bulk, filling=self.filling.copy())

    def add(self, events: Sequence[Event]) -> None:
        """Take the next events of the log.

        Raises:
            BulkFileDamaged: the file of a bulk event is not what it says; nothing was taken.
            EventUnreadable: one of them cannot be read; nothing was taken.
        """
        listed = [self._bulk.listed(event) for event in events if event.entity_type == BULK]
        states = [(event.block, begun(event)) for event in events if event.entity_type != BULK]
        self._listed.extend(listed)
        for block, state in states:
            self._add(block, state)
        for event in events:
            self.filling.take(event)
            if event.idempotency_key is not None and event.part == 1:
                key = (event.tenant, event.action, event.idempotency_key)
                self._keys.setdefault(key, (event.sequence, event.parts))
        self.events.extend(events)

    def take(self, events: Sequence[Event]) -> None:
        """Take the next events of the log, and note the tenants of those that cannot be read."""
        try:
            self.add(events)
        except (BulkFileDamaged, EventUnreadable):
            for event in events:
                try:
                    self.add([event])
                except (BulkFileDamaged, EventUnreadable) as failure:
                    self.unreadable.setdefault(event.tenant, failure)
                    self._ends = min(self._ends, event.block)
                    self.filling.take(event)
                    self.events.append(event)

    def _add(self, block: int, state: State) -> None:
        self._by_id.setdefault((state.tenant, state.id), []).append(state)
        for column in INDEXES[state.table]:
            if (value := state.data.get(column)) is not None:
                ids = self._by_column.setdefault((state.table, state.tenant, column, str(value)), {})
                ids[state.id] = None
        self._states.append((block, state))

    def full_blocks(self) -> list[tuple[int, list[Event]]]:
        """The blocks that can be folded."""
        whole = whole_blocks(self.events, last=self.filling.block)
        return [(block, events) for block, events in whole if block < self._ends]

    @property
    def long(self) -> bool:
        """Whether folding is overdue."""
        return len(self.events) > 2 * BLOCK or self.weight > 2 * HEAVY

    @property
    def foldable(self) -> bool:
        """Whether a block is full."""
        if not self.events or self.events[0].block >= self._ends:
            return False
        return self.filling.full or self.events[0].block < self.filling.block

    def end_of(self, block: int) -> int:
        """Position of the last event, of those that are known, of a block and the ones before it."""
        return self.base + bisect_right(self.events, block, key=lambda event: event.block)

    def since(self, block: int) -> list[Event]:
        """The events of later blocks."""
        return [event for event in self.events if event.block > block]

    # -- looking -------------------------------------------------------------------------

    def by_id(self, table: str, tenant: str, entity: str, at: int | None, upto: int) -> State | None:
        """The newest state of an entity up to event `at` of the tenant, and up to a position."""
        states = self.history(table, tenant, entity, upto)
        return newest(state for state in states if at is None or state.sequence <= at)

    def history(self, table: str, tenant: str, entity: str, upto: int) -> list[State]:
        """All states of an entity up to a position, oldest first."""
        known = self._by_id.get((tenant, entity), ())
        single = [s for s in known if s.position <= upto and s.table == table]
        listed = [s for f in self._of(tenant) if f.position <= upto for s in f.find(table, "id", entity)]
        return sorted((*single, *listed), key=lambda state: state.sequence) if listed else single

    def ids(self, table: str, tenant: str, column: str, value: str) -> list[str]:
        """Entities that had the value in some state."""
        single = self._by_column.get((table, tenant, column, value), ())
        return [*single, *(s.id for found in self._of(tenant) for s in found.find(table, column, value))]

    def key(self, tenant: str, action: str, key: str) -> tuple[int, int] | None:
        return self._keys.get((tenant, action, key))

    def rows(self, table: str, tenant: str | None, after: int, upto: int) -> list[pa.Table]:
        """States of a table from blocks later than `after`, up to a position, as rows of it.

        Those of all tenants where none is named.
        """
        single = [
            s
            for block, s in list(self._states)
            if block > after and s.position <= upto and tenant in (None, s.tenant) and s.table == table
        ]
        listed = (f.tables.get(table) for f in self._of(tenant) if f.block > after and f.position <= upto)
        return [rows_of(table, single), *(rows for rows in listed if rows is not None)]

    def begun(self, *, after: int, upto: int) -> tuple[list[State], list[Listed]]:
        """What events of positions after `after`, up to `upto`, began: states of single ones, lists of bulk ones."""
        return (
            [state for _, state in list(self._states) if after < state.position <= upto],
            [found for found in list(self._listed) if after < found.position <= upto],
        )

    def states(self, *, upto: int) -> list[State] | None:
        """The states that events up to a block began; None where a bulk event began some too."""
        if any(found.block <= upto for found in self._listed):
            return None
        return [state for block, state in self._states if block <= upto]

    def cut(self, rest: Sequence[Event], *, block: int) -> Tail:
        """A tail of the last events alone, once the others are folded up to a block."""
        filling = self.filling.copy() if not rest else None
        tail = Tail(self.head - len(rest), self._bulk, block=block, filling=filling)
        tail.take(rest)
        return tail

    def _of(self, tenant: str | None) -> list[Listed]:
        return [found for found in list(self._listed) if tenant in (None, found.tenant)]


def newest(states: Iterable[State | None]) -> State | None:
    """The state with the highest sequence."""
    found = [state for state in states if state is not None]
    return max(found, key=lambda state: state.sequence, default=None)
