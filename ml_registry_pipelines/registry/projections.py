"""The projections of the log: grown block by block, and looked up by id, name and end.

A block is a run of consecutive events of the log, which each event names (`tail.py` says how
long one gets). Block n is the batch n of source `governance_events` in each projection, so a
projection says in its own commits how far it is, and folding a block twice gives the same
rows and lands once. What is newer than the last full block is in `tail.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.lake import Lake, SnapshotGone
from ml_registry_pipelines.lake.outcomes import LakeError, reason
from ml_registry_pipelines.lake.tables.registry import IDEMPOTENCY_KEYS
from ml_registry_pipelines.registry.bulk import BulkFiles
from ml_registry_pipelines.registry.events import BULK, Event
from ml_registry_pipelines.registry.lookups import Lookups
from ml_registry_pipelines.registry.places import Places, newest_of, opener, unreadable
from ml_registry_pipelines.registry.states import FIXED, STATE_COLUMNS, State, begun, rows_of, state_of

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading

SOURCE = "governance_events"
LOADED_AT_ONCE = 100_000
"""Rows of which an index takes a tenth of a second; that of more is made beside the callers."""
CONSTANTS = 50
"""Values of one question that are written as constants."""
FEW = 500
"""Values that are looked up one by one; for more, a scan by DuckDB costs less."""
REBUILD = "`mlreg audit rebuild` computes it anew from the log"
STATES = ("things", "relationships", "model_versions", "approvals")
PROJECTIONS = (*STATES, "idempotency_keys")


def folded(lake: Lake) -> dict[str, int]:
    """The last block that each projection holds."""
    return {table: lake.sequence(table, SOURCE) for table in PROJECTIONS}


def fold_blocks(lake: Lake, blocks: Iterable[tuple[int, Sequence[Event]]], bulk: BulkFiles) -> int:
    """Bring all projections up to the last of the blocks, which come in order; return how many were folded.

    Raises:
        BulkFileDamaged: the file of a bulk event is not what the event says.
    """
    have = folded(lake)
    count = 0
    for block, events in blocks:
        if block <= min(have.values()):
            continue
        states = [begun(event) for event in events if event.entity_type != BULK]
        listed = [bulk.listed(event) for event in events if event.entity_type == BULK]
        for table in PROJECTIONS:
            if have[table] < block:
                if table == "idempotency_keys":
                    rows = _keys(events)
                else:
                    rows = _rows(table, states, [found.tables.get(table) for found in listed])
                lake.append_once(table, rows, source=SOURCE, sequence=block)
                have[table] = block
        count += 1
    return count


def _rows(table: str, states: Iterable[State], listed: Iterable[pa.Table | None]) -> pa.Table:
    import pyarrow as pa

    single = rows_of(table, [state for state in states if state.table == table])
    return pa.concat_tables([single, *(rows for rows in listed if rows is not None)])


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
    """All projections as they were at one moment: complete up to block `block`."""

    def __init__(self, lake: Lake, before: Snapshot | None = None) -> None:
        self._lake = lake
        self._lock = threading.RLock()
        self._reading: Reading = lake.read(*PROJECTIONS)
        self.blocks = {table: self._reading.sequence(table, SOURCE) for table in PROJECTIONS}
        self.block = min(self.blocks.values())
        self.lookups = Lookups()
        self._loading: set[tuple[str, str]] = set()
        self._rows: dict[str, int] = {}
        self._places: dict[str, Places] = {}
        if before is not None:
            grown = {table: self._grown(table, known) for table, known in before._places.copy().items()}
            self._places = {table: places for table, places in grown.items() if places is not None}
        self._registered: dict[str, pa.Table] = {}

    def end(self) -> int:
        """Position of the last event that the tables which are not ahead hold a state of."""
        found = [0]
        for table in STATES:
            if self.blocks[table] == self.block:
                files = self._reading.files(table)
                if "max.position" in files.column_names:
                    found += [int(last) for last in files["max.position"].to_pylist() if last is not None]
        return max(found)

    def states(self, table: str) -> int:
        """How many states a projection holds, of all tenants, by what its files say of themselves."""
        return sum(n or 0 for n in self._reading.files(table)["num_records"].to_pylist())

    def by_id(self, table: str, tenant: str, entity: str, at: int | None) -> State | None:
        """The newest state of an entity up to event `at` of the tenant."""
        if not self.blocks[table]:
            return None
        return self.by_column(table, tenant, "id", entity, at).get(entity)

    def by_column(self, table: str, tenant: str, column: str, value: str, at: int | None) -> dict[str, State]:
        """The newest state of every entity that ever had the value, by id; it may have another one since."""
        if not self.blocks[table]:
            return {}
        question = (table, tenant, column, value)
        if at is None and (known := self.lookups.get(question)) is not None:
            return known
        with self._lock:
            answer = self._by_places(table, tenant, column, [value], at)
            if answer is None:
                answer = self._by_duckdb(table, tenant, column, [value], at)
        if at is None and answer:
            self.lookups.put(question, answer)
        return answer

    def _by_duckdb(
        self, table: str, tenant: str, column: str, values: Sequence[str], at: int | None
    ) -> dict[str, State]:
        """What `_by_places` gives, from the files."""
        if not _is_fixed(table, column):
            # Two questions: where nobody ever had the value, the second would read every id for nothing.
            among, given = _among(column, values)
            sql = f"SELECT DISTINCT id FROM {table} WHERE tenant = $tenant AND {among}"
            column, values = "id", [row[0] for row in self._rows_of(table, sql, {**given, "tenant": tenant})]
        if not values:
            return {}
        among, given = _among(column, values)
        found = self._fetch(
            table,
            f"""
            SELECT {{columns}} FROM {table}
            WHERE tenant = $tenant AND from_sequence <= $at AND {among}
            QUALIFY row_number() OVER (PARTITION BY id ORDER BY from_sequence DESC) = 1
            """,
            {**given, "tenant": tenant, "at": _bound(at)},
        )
        return {state.id: state for state in found}

    def _by_places(
        self, table: str, tenant: str, column: str, values: Sequence[str], at: int | None
    ) -> dict[str, State] | None:
        """The newest states of entities that ever had one of the values; None where DuckDB has to say."""
        places = self._loaded(table, column)
        if places is None:
            return None
        try:
            found = [state for value in values for state in places.find(tenant, column, value)]
            if not _is_fixed(table, column):
                ids = {state.id for state in found}
                found = [state for entity in ids for state in places.find(tenant, "id", entity)]
        except unreadable():
            # Upkeep has removed a file; DuckDB's snapshot is renewed in that case.
            self._forget(table)
            return None
        return newest_of(found, at)

    def _loaded(self, table: str, column: str) -> Places | None:
        places = self._places.get(table)
        if places is not None and places.covers(column):
            return places
        if (table, column) in self._loading:
            return None
        if table not in self._rows:
            self._rows[table] = sum(self._reading.files(table)["num_records"].to_pylist())
        if self.lookups.worth_loading(table, column, self._rows[table]):
            # Of a million rows it takes seconds; until then DuckDB answers.
            self._loading.add((table, column))
            known = places or Places(table, opener(self._lake, table))
            given = (known, self._paths(table), column)
            if self._rows[table] <= LOADED_AT_ONCE:
                self._load(*given)
                return self._places.get(table)
            threading.Thread(target=self._load, args=given, name="mlreg-places").start()
        return None

    def _load(self, known: Places, paths: Sequence[str], column: str) -> None:
        try:
            loaded = known.loaded(paths, column)
        except unreadable():
            # Upkeep was faster, or a file is damaged, which DuckDB will say; the next snapshot tries again.
            return
        with self._lock:
            present = self._places.get(known.table)
            # Another column may have been loaded meanwhile: then this one waits for the next snapshot.
            if loaded is not None and (present is None or present is known or not present.columns):
                self._places[known.table] = loaded
            elif loaded is not None:
                self._loading.discard((known.table, column))

    def _grown(self, table: str, known: Places) -> Places | None:
        """The index of the snapshot before, with the files that are new; None where it is to be loaded anew."""
        try:
            return known.with_files(self._paths(table))
        except unreadable():
            return None

    def _forget(self, table: str) -> None:
        self._places.pop(table, None)
        self._loading = {asked for asked in self._loading if asked[0] != table}

    def _paths(self, table: str) -> list[str]:
        paths: list[str] = self._reading.files(table)["path"].to_pylist()
        return paths

    def by_any(
        self, table: str, tenant: str, column: str, values: Sequence[str], at: int | None
    ) -> list[State]:
        """`by_column` for many values at once."""
        if not self.blocks[table] or not values:
            return []
        if len(values) <= FEW:
            with self._lock:
                answer = self._by_places(table, tenant, column, values, at)
            if answer is not None:
                return list(answer.values())
        return list(self._by_duckdb(table, tenant, column, values, at).values())

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
        self, name: str, table: str, sql: str, parameters: Mapping[str, object], newer: pa.Table
    ) -> pa.Table:
        """Run a statement over relation `states`: all states of `table` of `$tenant`, and newer ones.

        Without a `tenant` among the parameters: those of all tenants.
        """
        mine = "tenant = $tenant" if "tenant" in parameters else "true"
        with self._lock:
            self._register("tail_states", newer)
            return self._query(
                name,
                f"""
                WITH states AS (
                  SELECT * FROM {table} WHERE {mine}
                  UNION ALL BY NAME
                  SELECT * FROM tail_states
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

        rows = self._rows_of(table, sql.format(columns=", ".join(STATE_COLUMNS)), parameters)
        return [state_of(table, *row) for row in rows]

    def _rows_of(self, table: str, statement: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        import duckdb

        with self._lock:
            try:
                return self._reading.connection.execute(statement, dict(parameters)).fetchall()
            except (duckdb.IOException, duckdb.InvalidInputException):
                self._renew()
                try:
                    return self._reading.connection.execute(statement, dict(parameters)).fetchall()
                except (duckdb.IOException, duckdb.InvalidInputException) as failure:
                    raise LakeError(f"{table} cannot be read: {reason(failure)}; {REBUILD}") from failure

    def _register(self, name: str, rows: pa.Table) -> None:
        self._registered = {name: rows}
        self._reading.register(name, rows)

    def _renew(self) -> None:
        """Upkeep has removed files after an hour: a newer snapshot holds all that this one held."""
        self._reading.close()
        self._reading = self._lake.read(*PROJECTIONS)
        self.blocks = {table: self._reading.sequence(table, SOURCE) for table in PROJECTIONS}
        for table in list(self._places):
            self._forget(table)
        for name, rows in self._registered.items():
            self._reading.register(name, rows)


def _is_fixed(table: str, column: str) -> bool:
    return column == "id" or (table, column) in FIXED


def _among(column: str, values: Sequence[str]) -> tuple[str, dict[str, object]]:
    """That a column has one of the values, with its parameters. Few stand as constants, which pass row groups over."""
    if len(values) > CONSTANTS:
        return f"{column} IN (SELECT unnest($values::VARCHAR[]))", {"values": list(values)}
    given = {f"value_{n}": value for n, value in enumerate(values)}
    return f"{column} IN ({', '.join(f'${name}' for name in given)})", dict(given)


def _bound(at: int | None) -> int:
    return 2**62 if at is None else at
