"""The projections of the log: grown block by block, and looked up by id, name and end.

A block is `BLOCK` consecutive events of the log. Block n is the batch n of source
`governance_events` in each projection, so a projection says in its own commits how far it
is, and folding a block twice gives the same rows and lands once. What is newer than the
last whole block is in `tail.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.lake import Lake, SnapshotGone
from ml_registry_pipelines.lake.tables.registry import IDEMPOTENCY_KEYS
from ml_registry_pipelines.registry.events import Event
from ml_registry_pipelines.registry.lookups import Lookups, Question
from ml_registry_pipelines.registry.states import STATE_COLUMNS, BulkReader, State, fold, rows_of, state_of

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading

BLOCK = 512
"""Events of one block. A process that starts reads at most two blocks of single commits from the log."""
SOURCE = "governance_events"
STATES = ("things", "relationships", "model_versions", "approvals")
PROJECTIONS = (*STATES, "idempotency_keys")


def folded(lake: Lake) -> dict[str, int]:
    """The last block that each projection holds."""
    return {table: lake.sequence(table, SOURCE) for table in PROJECTIONS}


def fold_blocks(
    lake: Lake, *, head: int, events: Callable[[int, int], Sequence[Event]], read_bulk: BulkReader
) -> int:
    """Bring all projections up to the last whole block before `head`; return how many blocks were folded.

    Args:
        head: position of the newest event.
        events: gives the events of positions first to last.
        read_bulk: gives what a bulk event lists.
    """
    have = folded(lake)
    target = head // BLOCK
    for block in range(min(have.values()) + 1, target + 1):
        found = events((block - 1) * BLOCK + 1, block * BLOCK)
        states = list(fold(found, read_bulk))
        for table in PROJECTIONS:
            if have[table] < block:
                rows = _keys(found) if table == "idempotency_keys" else rows_of(table, _of(table, states))
                lake.append_once(table, rows, source=SOURCE, sequence=block)
    return max(0, target - min(have.values()))


def _of(table: str, states: Iterable[State]) -> list[State]:
    return [state for state in states if state.table == table]


def _keys(events: Iterable[Event]) -> pa.Table:
    import pyarrow as pa

    rows = [
        {
            "tenant": e.tenant,
            "action": e.action,
            "idempotency_key": e.idempotency_key,
            "first_sequence": e.sequence,
            "parts": e.parts,
            "position": e.position,
        }
        for e in events
        if e.idempotency_key is not None and e.part == 1
    ]
    return pa.Table.from_pylist(rows, schema=IDEMPOTENCY_KEYS.schema)


class Snapshot:
    """All projections as they were at one moment: complete up to position `base`."""

    def __init__(self, lake: Lake, lookups: Lookups | None = None) -> None:
        self._lake = lake
        self._lock = threading.RLock()
        self._reading: Reading = lake.read(*PROJECTIONS)
        self.blocks = {table: self._reading.sequence(table, SOURCE) for table in PROJECTIONS}
        self.base = min(self.blocks.values()) * BLOCK
        self.lookups = lookups or Lookups()
        self._registered: dict[str, pa.Table] = {}

    def by_id(self, table: str, tenant: str, entity: str, at: int | None) -> State | None:
        """The newest state of an entity up to event `at` of the tenant."""
        if not self.blocks[table]:
            return None
        return self._ask(
            (table, tenant, "id", entity),
            at,
            f"""
            SELECT {{columns}} FROM {table}
            WHERE tenant = $tenant AND id = $value AND from_sequence <= $at
            ORDER BY from_sequence DESC
            LIMIT 1
            """,
        ).get(entity)

    def by_column(self, table: str, tenant: str, column: str, value: str, at: int | None) -> dict[str, State]:
        """The newest state of every entity that ever had the value, by id; it may have another one since."""
        if not self.blocks[table]:
            return {}
        return self._ask(
            (table, tenant, column, value),
            at,
            f"""
            SELECT {{columns}} FROM {table}
            WHERE tenant = $tenant AND from_sequence <= $at
              AND id IN (SELECT id FROM {table} WHERE tenant = $tenant AND {column} = $value)
            QUALIFY row_number() OVER (PARTITION BY id ORDER BY from_sequence DESC) = 1
            """,
        )

    def _ask(self, question: Question, at: int | None, sql: str) -> dict[str, State]:
        if at is None and (known := self.lookups.get(question)) is not None:
            return known
        table, tenant, column, value = question
        with self._lock:
            if at is None and self.lookups.worth_loading(table, column):
                self.lookups.load(table, column, self._digests(table, column))
                if (known := self.lookups.get(question)) is not None:
                    return known
            found = self._fetch(table, sql, {"tenant": tenant, "value": value, "at": _bound(at)})
        answer = {state.id: state for state in found}
        if at is None:
            self.lookups.put(question, answer)
        return answer

    def _digests(self, table: str, column: str) -> pa.Table:
        return self._query(
            f"registry.{table}.digests",
            f"""
            SELECT md5_number_lower(tenant || chr(31) || {column}) AS digest
            FROM {table} WHERE {column} IS NOT NULL
            """,
            {},
        )

    def by_any(
        self, table: str, tenant: str, column: str, values: Sequence[str], at: int | None
    ) -> list[State]:
        """`by_column` for many values at once."""
        if not self.blocks[table] or not values:
            return []
        return self._fetch(
            table,
            f"""
            SELECT {{columns}} FROM {table}
            WHERE tenant = $tenant AND from_sequence <= $at
              AND id IN (
                SELECT id FROM {table}
                WHERE tenant = $tenant AND {column} IN (SELECT unnest($values::VARCHAR[]))
              )
            QUALIFY row_number() OVER (PARTITION BY id ORDER BY from_sequence DESC) = 1
            """,
            {"tenant": tenant, "values": list(values), "at": _bound(at)},
        )

    def history(self, table: str, tenant: str, entity: str) -> list[State]:
        """Every state of an entity, oldest first."""
        if not self.blocks[table]:
            return []
        return self._fetch(
            table,
            f"SELECT {{columns}} FROM {table} WHERE tenant = $tenant AND id = $value ORDER BY from_sequence",
            {"tenant": tenant, "value": entity},
        )

    def key(self, tenant: str, action: str, key: str) -> tuple[int, int] | None:
        """First sequence and number of events of the command that was given under the key."""
        if not self.blocks["idempotency_keys"]:
            return None
        rows = self._query(
            "registry.idempotency_key",
            """
            SELECT first_sequence, parts FROM idempotency_keys
            WHERE tenant = $tenant AND action = $action AND idempotency_key = $key
            ORDER BY first_sequence
            LIMIT 1
            """,
            {"tenant": tenant, "action": action, "key": key},
        ).to_pylist()
        return (rows[0]["first_sequence"], rows[0]["parts"]) if rows else None

    def query(
        self, name: str, table: str, sql: str, parameters: Mapping[str, object], tail: Sequence[State]
    ) -> pa.Table:
        """Run a statement over relation `states`: all states of `table` of `$tenant`, with the tail's.

        Without a `tenant` among the parameters: those of all tenants.
        """
        newer = rows_of(table, tail)
        mine = "tenant = $tenant" if "tenant" in parameters else "true"
        with self._lock:
            self._register("tail_states", newer)
            # Another projection may be a block behind, and then a state is here and in the tail.
            return self._query(
                name,
                f"""
                WITH states AS (
                  SELECT * FROM {table} WHERE {mine}
                  UNION ALL BY NAME
                  SELECT * FROM tail_states WHERE position > {self.blocks[table] * BLOCK}
                )
                {sql}
                """,
                parameters,
            )

    # -- DuckDB ------------------------------------------------------------------------

    def _query(self, name: str, sql: str, parameters: Mapping[str, object]) -> pa.Table:
        with self._lock:
            try:
                return self._reading.query(name, sql, parameters)
            except SnapshotGone:
                self._renew()
                return self._reading.query(name, sql, parameters)

    def _fetch(self, table: str, sql: str, parameters: Mapping[str, object]) -> list[State]:
        """A question that is asked all the time: without the timing and the detour over Arrow."""
        import duckdb

        statement = sql.format(columns=", ".join(STATE_COLUMNS))
        with self._lock:
            try:
                rows = self._reading.connection.execute(statement, dict(parameters)).fetchall()
            except duckdb.IOException:
                self._renew()
                rows = self._reading.connection.execute(statement, dict(parameters)).fetchall()
        return [state_of(table, *row) for row in rows]

    def _register(self, name: str, rows: pa.Table) -> None:
        self._registered = {name: rows}
        self._reading.register(name, rows)

    def _renew(self) -> None:
        """Upkeep has removed files after an hour: a newer snapshot holds all that this one held."""
        self._reading.close()
        self._reading = self._lake.read(*PROJECTIONS)
        self.blocks = {table: self._reading.sequence(table, SOURCE) for table in PROJECTIONS}
        for name, rows in self._registered.items():
            self._reading.register(name, rows)


def _bound(at: int | None) -> int:
    return 2**62 if at is None else at
