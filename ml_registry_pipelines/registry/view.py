"""What holds at one moment: projections, the tail, and what a command is about to add.

Commands decide on a view and readers read from one, so both see the same. With `at`, a view
shows what had been recorded up to that event of the tenant, and nothing of what came later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_registry_pipelines.registry.projections import Snapshot
from ml_registry_pipelines.registry.states import State, from_rows
from ml_registry_pipelines.registry.tail import Tail, newest

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class View:
    """The states of one tenant."""

    tenant: str
    snapshot: Snapshot
    tails: tuple[Tail, ...]
    at: int | None = None
    upto: int = 2**62
    """Position up to which the tails are looked at, so that a view does not change while it is read."""

    def by_id(self, table: str, entity: str) -> State | None:
        """The newest state of an entity, be it deleted."""
        recent = self._recent(table, entity)
        return recent or self.snapshot.by_id(table, self.tenant, entity, self.at)

    def by_column(self, table: str, column: str, value: str) -> list[State]:
        """The entities that have the value now, deleted ones included, in the order of their ids."""
        found = dict(self.snapshot.by_column(table, self.tenant, column, value, self.at))
        return self._current(table, column, {value}, found, self._ids(table, column, [value]))

    def by_any(self, table: str, column: str, values: Sequence[str]) -> list[State]:
        """`by_column` for many values at once."""
        found = {s.id: s for s in self.snapshot.by_any(table, self.tenant, column, values, self.at)}
        return self._current(table, column, set(values), found, self._ids(table, column, values))

    def _ids(self, table: str, column: str, values: Sequence[str]) -> list[str]:
        if column == "id":
            return list(values)
        return [
            i for tail in self.tails for value in values for i in tail.ids(table, self.tenant, column, value)
        ]

    def _recent(self, table: str, entity: str) -> State | None:
        return newest(tail.by_id(table, self.tenant, entity, self.at, self.upto) for tail in self.tails)

    def _current(
        self, table: str, column: str, values: set[str], found: dict[str, State], recent: Sequence[str]
    ) -> list[State]:
        for entity in {*recent, *found}:
            newer = self._recent(table, entity)
            older = found.get(entity)
            state = newest([newer, older])
            if state is not None:
                found[entity] = state
        return [
            found[entity]
            for entity in sorted(found)
            if (entity if column == "id" else found[entity].data.get(column)) in values
        ]

    def history(self, table: str, entity: str) -> list[State]:
        """Every state of an entity up to `at`, oldest first."""
        states = {s.sequence: s for s in self.snapshot.history(table, self.tenant, entity)}
        for tail in self.tails:
            states.update((s.sequence, s) for s in tail.history(table, self.tenant, entity, self.upto))
        return [states[n] for n in sorted(states) if self.at is None or n <= self.at]

    def query(
        self, name: str, table: str, sql: str, parameters: Mapping[str, object] | None = None
    ) -> pa.Table:
        """Run a statement over relation `current`: the newest state of every entity of the table.

        `$tenant` and `$at` are set; the statement begins after a `WITH`.
        """
        statement = f"""
        , current AS (
          SELECT * FROM states WHERE from_sequence <= $at
          QUALIFY row_number() OVER (PARTITION BY id ORDER BY from_sequence DESC) = 1
        )
        {sql}
        """
        return self.over_states(name, table, statement, parameters)

    def select(
        self,
        name: str,
        table: str,
        where: str,
        *,
        order: str = "id",
        limit: int | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> list[State]:
        """The newest states that a condition holds for."""
        most = 2**62 if limit is None else min(int(limit), 2**62)
        # Which states are the newest is asked about those alone that meet the condition.
        sql = f"""
        , found AS (
          SELECT * FROM states WHERE from_sequence <= $at AND ({where})
        ), newest AS (
          SELECT id, max(from_sequence) AS from_sequence
          FROM states
          WHERE from_sequence <= $at AND id IN (SELECT id FROM found)
          GROUP BY id
        )
        SELECT found.* FROM found JOIN newest USING (id, from_sequence) ORDER BY {order} LIMIT {most}
        """
        return from_rows(table, self.over_states(name, table, sql, parameters))

    def over_states(
        self, name: str, table: str, statement: str, parameters: Mapping[str, object] | None
    ) -> pa.Table:
        """Run a statement over relation `states`: every state of the tenant; `$at` is set."""
        at = 2**62 if self.at is None else self.at
        given = {**(parameters or {}), "tenant": self.tenant, "at": at}
        return self._over_states(name, table, statement, given, self.tenant)

    def of_all_tenants(
        self, name: str, table: str, sql: str, parameters: Mapping[str, object] | None = None
    ) -> pa.Table:
        """As `query`, for the operator's own views: over the entities of all tenants, as they are now."""
        statement = f"""
        , current AS (
          SELECT * FROM states
          QUALIFY row_number() OVER (PARTITION BY tenant, id ORDER BY from_sequence DESC) = 1
        )
        {sql}
        """
        return self._over_states(name, table, statement, dict(parameters or {}), None)

    def _over_states(
        self, name: str, table: str, statement: str, parameters: Mapping[str, object], tenant: str | None
    ) -> pa.Table:
        import pyarrow as pa

        # Another projection may be a block behind, and then a state is in this one and in the tail.
        after = self.snapshot.blocks[table]
        newer = [rows for tail in self.tails for rows in tail.rows(table, tenant, after, self.upto)]
        return self.snapshot.query(name, table, statement, parameters, pa.concat_tables(newer))
