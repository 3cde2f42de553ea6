"""The projections, or many states, as the draft of a layer: with DuckDB, in bounded memory.

It gives the same records as `building.py` does of a handful of states.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.reading import arrow_dataset
from ml_registry_pipelines.lineage.drafts import (
    PART_OF,
    Draft,
    TooLarge,
    checked_size,
    extended_kinds,
    gone_records,
    numbers,
    sequence_type,
)
from ml_registry_pipelines.lineage.layers import (
    Adjacency,
    Array,
    Kind,
    Layer,
    Tenant,
    extended,
    words,
)
from ml_registry_pipelines.registry.states import (
    DATASET,
    DATASET_VERSION,
    MODEL,
    MODEL_VERSION,
    State,
    rows_of,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SOURCES = ("relationships", "model_versions", "things")
MEMORY = "2000MB"
"""What DuckDB may hold of a build before it spills; the arrays of 100 million edges take as much again."""
BATCH = 1 << 20


@contextmanager
def _connected() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own: a build would push everything else out of the shared one."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="mlreg-lineage-") as spill:
        connection = duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "temp_directory": spill,
                "preserve_insertion_order": "false",
                "python_enable_replacements": "false",
                "enable_external_file_cache": "false",
            }
        )
        try:
            connection.execute("SET enable_progress_bar = false")
            yield connection
        finally:
            connection.close()


def _attach(connection: duckdb.DuckDBPyConnection, lake: Lake, table: str) -> None:
    snapshot, declared = lake.snapshot(table), lake.declaration(table)
    files = snapshot.file_uris()
    if not files or not lake.is_local:
        connection.register(table, arrow_dataset(snapshot, declared) if files else declared.empty())
        return
    listing = ", ".join("'" + unquote(path).replace("'", "''") + "'" for path in files)
    connection.register(f"{table}$declared", declared.empty())
    columns = ", ".join(f'"{column}"' for column in declared.column_names)
    connection.execute(
        f"""
        CREATE TEMP VIEW "{table}" AS SELECT {columns} FROM (
          SELECT * FROM read_parquet([{listing}], union_by_name = true)
          UNION ALL BY NAME SELECT * FROM "{table}$declared"
        )
        """
    )


def _edges(flow: str, after: int, until: int, *, wholes: str = "things") -> str:
    """All states of all edges of a span of the log, as one statement; `wholes` are what things may be part of."""
    span = f"position > {after} AND position <= {until}"
    return f"""
    SELECT tenant, type AS relation, ({flow}) = 'to_target' AS forward, false AS implied,
           CASE WHEN forward THEN source_type ELSE target_type END AS up_type,
           CASE WHEN forward THEN source_id ELSE target_id END AS up_id,
           CASE WHEN forward THEN target_type ELSE source_type END AS down_type,
           CASE WHEN forward THEN target_id ELSE source_id END AS down_id,
           from_sequence, deleted
    FROM relationships WHERE {span}
    UNION ALL
    SELECT tenant, '{PART_OF}', true, true, '{MODEL_VERSION}', id, '{MODEL}', model_id, from_sequence, deleted
    FROM model_versions WHERE {span}
    UNION ALL
    SELECT tenant, '{PART_OF}', true, true, type, id, '{DATASET}', parent_id, from_sequence, deleted
    FROM things WHERE {span} AND type = '{DATASET_VERSION}' AND parent_id IS NOT NULL
    UNION ALL
    SELECT c.tenant, '{PART_OF}', true, true, c.type, c.id, coalesce(p.type, ''), c.parent_id, c.from_sequence,
           c.deleted
    FROM things c
    LEFT JOIN (
      SELECT tenant, id, any_value(type) AS type FROM {wholes} WHERE position <= {until} GROUP BY ALL
    ) p ON p.tenant = c.tenant AND p.id = c.parent_id
    WHERE c.position > {after} AND c.position <= {until}
      AND c.type <> '{DATASET_VERSION}' AND c.parent_id IS NOT NULL
    """


def _bits(column: str) -> str:
    """`bits_of` in SQL."""
    return f"""
    (CASE WHEN strlen({column}) = 32 AND {column} = lower({column})
          THEN coalesce(TRY_CAST({column} AS UUID), md5({column})::UUID)
          ELSE md5({column})::UUID END)::UHUGEINT
    """


def _plain(column: str) -> str:
    return (
        f"(strlen({column}) = 32 AND {column} = lower({column}) AND TRY_CAST({column} AS UUID) IS NOT NULL)"
    )


def draft_of_tables(lake: Lake, below: Sequence[Layer], *, after: int, until: int) -> Draft:
    """A draft of the projections' rows of positions `after` to `until`, beside the layers below.

    Raises:
        TooLarge: there are more entities than can be numbered.
    """
    with _connected() as connection:
        for table in SOURCES:
            _attach(connection, lake, table)
        rows = connection.execute("SELECT count(*) FROM relationships WHERE flow IS NULL").fetchall()
        # Rows from before the column was declared say it in their state, which is long to read.
        flow = "coalesce(flow, json_extract_string(state, '$.flow'))" if rows[0][0] else "flow"
        connection.execute(f"CREATE TEMP VIEW edges AS {_edges(flow, after, until)}")
        return _Tables(connection, below, after, until).draft()


def draft_of_rows(
    rows: Mapping[str, pa.Table],
    below: Sequence[Layer],
    *,
    after: int,
    until: int,
    wholes: Iterable[State] = (),
) -> Draft:
    """The same of rows in memory, by projection: those of all `SOURCES`.

    Raises:
        TooLarge: there are more entities than can be numbered.
    """
    import pyarrow as pa

    with _connected() as connection:
        for table in SOURCES:
            connection.register(table, rows[table])
        connection.register("wholes", pa.concat_tables([rows["things"], rows_of("things", wholes)]))
        connection.execute(f"CREATE TEMP VIEW edges AS {_edges('flow', after, until, wholes='wholes')}")
        return _Tables(connection, below, after, until, newer_alone=True).draft()


class _Tables:
    """One build over relation `edges`."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        below: Sequence[Layer],
        after: int,
        until: int,
        *,
        newer_alone: bool = False,
    ) -> None:
        self._connection = connection
        self._below = below
        self._top = below[-1] if below else None
        self._after, self._until = after, until
        self._newer_alone = newer_alone

    def draft(self) -> Draft:
        found = self._connection.execute(
            """
            SELECT tenant, relation, forward, implied, up_type, down_type, count(*), max(from_sequence)
            FROM edges GROUP BY ALL
            """
        ).fetchall()
        self._names(found)
        count = sum(row[6] for row in found)
        newest = max((row[7] for row in found), default=0)
        dtype = sequence_type(newest) if self._top is None else self._top.down.since.dtype
        if newest >= np.iinfo(dtype).max - 1:
            raise TooLarge("events have outgrown the index's numbers; run `mlreg lineage index --whole`")
        high, low, types, tenants, odd_ids, dense = self._entities()
        ups, downs, kind, since, dead = self._records(count, dense, dtype)
        own = _OwnPlaces(self._top.size if self._top else 0, high, low, tenants)
        gone = self._gone_before() if self._newer_alone else self._gone_ever()
        return Draft(
            self._after,
            self._until,
            self._top,
            high,
            low,
            types,
            tenants,
            self._type_names,
            self._kinds,
            odd_ids,
            ups,
            downs,
            kind,
            since,
            dead,
            gone_records(gone, self._below, own.of({(t, i) for t, i, _, _ in gone}), dtype),
        )

    def _gone_ever(self) -> list[tuple[str, str, int, bool]]:
        """The states of the span, of entities that were deleted at some time up to its end."""
        return self._connection.execute(
            " UNION ALL ".join(
                f"""
                SELECT tenant, id, from_sequence, deleted FROM {table}
                WHERE position > {self._after} AND position <= {self._until}
                  AND id IN (SELECT id FROM {table} WHERE deleted AND position <= {self._until})
                """
                for table in ("things", "model_versions")
            )
        ).fetchall()

    def _gone_before(self) -> list[tuple[str, str, int, bool]]:
        """The same where the tables hold the span alone: what was deleted before it, the layers below say."""
        states = " UNION ALL ".join(
            f"SELECT tenant, id, from_sequence, deleted FROM {table}"
            for table in ("things", "model_versions")
        )
        rows: pa.Table = self._connection.execute(
            f"""
            SELECT tenant, id, from_sequence, deleted, bool_or(deleted) OVER (PARTITION BY tenant, id) AS ever,
                   ({_bits("id")} >> 64)::UBIGINT AS high,
                   ({_bits("id")} & 18446744073709551615)::UBIGINT AS low
            FROM ({states})
            """
        ).to_arrow_table()
        kept: Array = np.array(rows["ever"].to_numpy(), bool)
        tenants = np.asarray(rows["tenant"].to_numpy())
        high, low = np.asarray(rows["high"].to_numpy()), np.asarray(rows["low"].to_numpy())
        for tenant in set(tenants.tolist()):
            some = np.flatnonzero(tenants == tenant)
            places = numbers(self._below, tenant, high[some], low[some])
            for layer in self._below:
                kept[some[(places >= 0) & np.isin(places, layer.gone)]] = True
        few = rows.select(["tenant", "id", "from_sequence", "deleted"]).take(np.flatnonzero(kept))
        return list(zip(*(column.to_pylist() for column in few.columns), strict=True))

    def _names(self, found: Sequence[Sequence[Any]]) -> None:
        top = self._top
        types = {name for row in found for name in row[4:6]}
        kinds = {Kind(row[1], bool(row[2]), bool(row[3])) for row in found}
        self._type_names = extended(top.type_names if top else (), types)
        self._kinds = extended_kinds(top.kinds if top else (), kinds)
        self._tenants = sorted({str(row[0]) for row in found})
        relations = sorted({kind.relation for kind in kinds})
        for name, values in (
            ("tenants", self._tenants),
            ("relations", relations),
            ("types", sorted(self._type_names)),
        ):
            listed = ", ".join("'" + value.replace("'", "''") + "'" for value in values) or "''"
            self._connection.execute(f"CREATE TYPE {name} AS ENUM ({listed})")
        # An edge's relation, direction and whether it is implied, as one small number and back to its kind.
        self._kind_of = np.zeros(4 * max(len(relations), 1), np.uint16)
        place = {name: n for n, name in enumerate(relations)}
        for code, kind in enumerate(self._kinds):
            if kind.relation in place:
                self._kind_of[place[kind.relation] * 4 + kind.forward * 2 + kind.implied] = code
        in_order = {name: n for n, name in enumerate(self._type_names)}
        self._type_of = np.array([in_order[name] for name in sorted(self._type_names)] or [0], np.uint16)

    def _entities(self) -> tuple[Array, Array, Array, tuple[Tenant, ...], dict[int, str], Array | None]:
        """Own entities in order, and for every place of table `nodes` its number, None where they are equal."""
        connection = self._connection
        ends = " UNION ALL ".join(
            f"""
            SELECT enum_code(tenant::tenants)::UINTEGER AS t, {_bits(f"{end}_id")} AS bits,
                   enum_code({end}_type::types)::USMALLINT AS type,
                   NOT {_plain(f"{end}_id")} AS odd
            FROM edges
            """
            for end in ("up", "down")
        )
        connection.execute(
            f"""
            CREATE TEMP TABLE nodes AS
            SELECT *, (row_number() OVER (ORDER BY t, bits) - 1)::UINTEGER AS place
            FROM (SELECT t, bits, max(type) AS type, bool_or(odd) AS odd FROM ({ends}) GROUP BY t, bits)
            """
        )
        size = int(connection.execute("SELECT count(*) FROM nodes").fetchall()[0][0])
        checked_size(size + (self._top.size if self._top else 0))
        high, low = np.empty(size, np.uint64), np.empty(size, np.uint64)
        types, tenant = np.empty(size, np.uint16), np.empty(size, np.uint32)
        reader: pa.RecordBatchReader = connection.execute(
            """
            SELECT place, (bits >> 64)::UBIGINT AS high, (bits & 18446744073709551615)::UBIGINT AS low, type, t
            FROM nodes
            """
        ).to_arrow_reader(BATCH)
        for batch in reader:
            place, *columns = (np.asarray(column.to_numpy(zero_copy_only=False)) for column in batch.columns)
            high[place], low[place], types[place], tenant[place] = columns
        types = self._type_of[types] if size else types
        odd = self._odd_ids()
        if self._top is None:
            return high, low, types, self._owned(tenant, 0), odd, None
        return self._beside(high, low, types, tenant, odd)

    def _odd_ids(self) -> dict[int, str]:
        """The ids, by place, that their bits do not tell: none, wherever the registry itself made them."""
        if not self._connection.execute("SELECT count(*) FROM nodes WHERE odd").fetchall()[0][0]:
            return {}
        ends = " UNION ".join(
            f"""
            SELECT enum_code(tenant::tenants)::UINTEGER AS t, {end}_id AS id FROM edges
            WHERE NOT {_plain(f"{end}_id")}
            """
            for end in ("up", "down")
        )
        found = self._connection.execute(
            f"""
            SELECT place, id FROM ({ends}) e JOIN nodes n ON n.t = e.t AND n.bits = {_bits("e.id")} AND n.odd
            ORDER BY place
            """
        ).fetchall()
        return dict(found)

    def _beside(
        self, high: Array, low: Array, types: Array, tenant: Array, odd: Mapping[int, str]
    ) -> tuple[Array, Array, Array, tuple[Tenant, ...], dict[int, str], Array]:
        """The entities that no layer below has, and the numbers of all."""
        assert self._top is not None
        dense = np.full(len(high), -1, np.int64)
        for code, name in enumerate(self._tenants):
            some = np.flatnonzero(tenant == code)
            dense[some] = numbers(self._below, name, high[some], low[some])
        new = np.flatnonzero(dense < 0)
        base = self._top.size
        dense[new] = base + np.arange(len(new))
        own = {int(place): n for n, place in enumerate(new.tolist()) if place in odd} if odd else {}
        odd_ids = {own[place]: entity for place, entity in odd.items() if place in own}
        return high[new], low[new], types[new], self._owned(tenant[new], base), odd_ids, dense

    def _owned(self, tenant: Array, base: int) -> tuple[Tenant, ...]:
        counts = np.bincount(tenant, minlength=len(self._tenants)).tolist()
        found, first = [], base
        for name, count in zip(self._tenants, counts, strict=False):
            if count:
                found.append(Tenant(name, first, first + count))
            first += count
        return tuple(found)

    def _records(self, count: int, dense: Array | None, dtype: np.dtype[Any]) -> tuple[Array, ...]:
        """The two ends, kind, event and end of every state of every edge."""
        ups, downs = np.empty(count, np.uint32), np.empty(count, np.uint32)
        kind, since, dead = np.empty(count, np.uint16), np.empty(count, dtype), np.empty(count, bool)
        wide = "UINTEGER" if dtype == np.uint32 else "UBIGINT"
        reader: pa.RecordBatchReader = self._connection.execute(
            f"""
            SELECT u.place, d.place,
                   (enum_code(e.relation::relations) * 4 + e.forward::INT * 2 + e.implied::INT)::USMALLINT,
                   e.from_sequence::{wide}, e.deleted::UTINYINT
            FROM (
              SELECT *, enum_code(tenant::tenants)::UINTEGER AS t,
                     {_bits("up_id")} AS up_bits, {_bits("down_id")} AS down_bits
              FROM edges
            ) e
            JOIN nodes u ON u.t = e.t AND u.bits = e.up_bits
            JOIN nodes d ON d.t = e.t AND d.bits = e.down_bits
            """
        ).to_arrow_reader(BATCH)
        at = 0
        for batch in reader:
            to = slice(at, at + batch.num_rows)
            parts = [np.asarray(column.to_numpy(zero_copy_only=False)) for column in batch.columns]
            ups[to] = parts[0] if dense is None else dense[parts[0]]
            downs[to] = parts[1] if dense is None else dense[parts[1]]
            kind[to] = self._kind_of[parts[2]]
            since[to], dead[to] = parts[3], parts[4] != 0
            at = to.stop
        assert at == count
        self._connection.execute("DROP TABLE nodes")
        return ups, downs, kind, since, dead


@dataclass
class _OwnPlaces:
    """Numbers of the entities that the layer under construction has itself."""

    base: int
    high: Array
    low: Array
    tenants: tuple[Tenant, ...]

    def of(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        nothing = np.zeros(0, np.uint32)
        empty = Adjacency(None, *(nothing for _ in range(5)))
        layer = Layer(
            0,
            0,
            self.base,
            self.high,
            self.low,
            nothing,
            self.tenants,
            (),
            (),
            {},
            empty,
            empty,
            nothing,
            nothing,
            nothing,
        )
        found: dict[tuple[str, str], int] = {}
        pairs = sorted(wanted)
        for tenant in {tenant for tenant, _ in pairs}:
            ids = [entity for t, entity in pairs if t == tenant]
            for entity, number in zip(ids, layer.find(tenant, *words(ids)).tolist(), strict=True):
                if number >= 0:
                    found[tenant, entity] = number
        return found
