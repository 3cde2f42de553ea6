"""What is newer than the projections, held in memory: events, the states they begin, and keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ml_registry_pipelines.registry.events import Event
from ml_registry_pipelines.registry.states import INDEXES, BulkReader, State, fold


class Tail:
    """Events after position `base`, and what follows from them. Only ever grows."""

    def __init__(self, base: int, read_bulk: BulkReader) -> None:
        self.base = base
        self._read_bulk = read_bulk
        self.events: list[Event] = []
        self.states: list[State] = []
        self._by_id: dict[tuple[str, str], list[State]] = {}
        self._by_column: dict[tuple[str, str, str, str], dict[str, None]] = {}
        self._keys: dict[tuple[str, str, str], tuple[int, int]] = {}

    @property
    def head(self) -> int:
        """Position of the newest event."""
        return self.base + len(self.events)

    def add(self, events: Sequence[Event]) -> None:
        """Take the next events of the log."""
        for state in fold(events, self._read_bulk):
            self._by_id.setdefault((state.tenant, state.id), []).append(state)
            for column in INDEXES[state.table]:
                if (value := state.data.get(column)) is not None:
                    ids = self._by_column.setdefault((state.table, state.tenant, column, str(value)), {})
                    ids[state.id] = None
            self.states.append(state)
        for event in events:
            if event.idempotency_key is not None and event.part == 1:
                key = (event.tenant, event.action, event.idempotency_key)
                self._keys.setdefault(key, (event.sequence, event.parts))
        self.events.extend(events)

    def by_id(self, tenant: str, entity: str, at: int | None) -> State | None:
        """The newest state of an entity up to event `at` of the tenant."""
        for state in reversed(self._by_id.get((tenant, entity), ())):
            if at is None or state.sequence <= at:
                return state
        return None

    def history(self, tenant: str, entity: str) -> list[State]:
        return list(self._by_id.get((tenant, entity), ()))

    def ids(self, table: str, tenant: str, column: str, value: str) -> list[str]:
        """Entities that had the value in some state."""
        return list(self._by_column.get((table, tenant, column, value), ()))

    def key(self, tenant: str, action: str, key: str) -> tuple[int, int] | None:
        return self._keys.get((tenant, action, key))

    def of(self, tenant: str, first: int, last: int) -> list[Event]:
        """Events of a tenant by sequence, as far as they are in the tail."""
        return [e for e in self.events if e.tenant == tenant and first <= e.sequence <= last]

    def between(self, first: int, last: int) -> list[Event]:
        """Events by position; all of them must be in the tail."""
        return self.events[first - self.base - 1 : last - self.base]


def newest(states: Iterable[State | None]) -> State | None:
    """The state with the highest sequence."""
    found = [state for state in states if state is not None]
    return max(found, key=lambda state: state.sequence, default=None)
