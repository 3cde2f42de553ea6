"""Files that bulk events refer to: what one event says about many entities, as Parquet.

The event names the file by the SHA-256 of its bytes, so the chain covers the file too.
`Listed` is such a file as the states that it begins, found by id or by an indexed column.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.declarations import Column
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.registry.blobs import BULK_FILES, keep_bytes
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.events import Event
from ml_registry_pipelines.registry.states import OWN, State, from_rows, table_of

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 100_000
"""Entities of one bulk event. A command that lists more makes several, in one commit."""
COLUMNS = ("entity_type", "entity_id", "state")
FILES_HELD = 10
"""Files whose states are held, since a command, its readers and the folding need the same one."""
WORTH_INDEXING = 20
"""Questions about a column of a file after which a dictionary of it is built; a scan takes 0.1 ms."""


class BulkFileDamaged(RegistryError):
    """The file of a bulk event is not what the event says."""


class Listed:
    """The states that one bulk event begins: rows of each projection that it touches."""

    def __init__(self, event: Event, tables: Mapping[str, pa.Table]) -> None:
        self.tenant = event.tenant
        self.sequence = event.sequence
        self.block = event.block
        self.position = event.position
        self.tables = tables
        self._asked: dict[tuple[str, str], int] = {}
        self._places: dict[tuple[str, str], dict[str, list[int]]] = {}

    def find(self, table: str, column: str, value: str) -> list[State]:
        """The states whose column has that value."""
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = self.tables.get(table)
        if rows is None:
            return []
        places = self._index(table, column, rows)
        if places is not None:
            found = places.get(value)
            return from_rows(table, rows.take(pa.array(found, pa.int64()))) if found else []
        return from_rows(table, rows.filter(pc.equal(rows[column], value)))

    def states(self) -> list[State]:
        """All of them."""
        return [state for table, rows in self.tables.items() for state in from_rows(table, rows)]

    def _index(self, table: str, column: str, rows: pa.Table) -> dict[str, list[int]] | None:
        key = (table, column)
        self._asked[key] = self._asked.get(key, 0) + 1
        if self._asked[key] > WORTH_INDEXING and key not in self._places:
            places: dict[str, list[int]] = {}
            for place, value in enumerate(rows[column].to_pylist()):
                places.setdefault(value, []).append(place)
            self._places[key] = places
        return self._places.get(key)


class BulkFiles:
    """The files below `artifacts/bulk` of one lake. Thread-safe."""

    def __init__(self, lake: Lake) -> None:
        self._folder = open_folder(f"{lake.root}/artifacts", lake.storage_options)
        self._held: OrderedDict[str, dict[str, pa.Table]] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, entities: Sequence[tuple[str, str, str]]) -> str:
        """Keep (entity type, entity id, canonical state) of many entities; return the digest."""
        import pyarrow as pa

        schema = pa.schema([(name, pa.string()) for name in COLUMNS])
        columns = zip(*entities, strict=True)
        return self.write_rows(
            pa.table({n: list(c) for n, c in zip(COLUMNS, columns, strict=True)}, schema=schema)
        )

    def write_rows(self, rows: pa.Table) -> str:
        """The same from columns `entity_type`, `entity_id` and `state`."""
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        digest = self.keep(buffer.getvalue())
        self._hold(digest, _own_columns(rows))
        return digest

    def keep(self, data: bytes) -> str:
        """Keep a file's bytes; return the digest."""
        digest = hashlib.sha256(data).hexdigest()
        keep_bytes(self._folder, _path(digest), data)
        return digest

    def bytes_of(self, digest: str) -> bytes:
        """The file, verified.

        Raises:
            BulkFileDamaged: it is gone, or other bytes lie in its place.
        """
        if not self._folder.exists(_path(digest)):
            raise BulkFileDamaged(f"{self._folder.uri}/{_path(digest)} is gone, which a bulk event refers to")
        data = self._folder.read(_path(digest))
        if hashlib.sha256(data).hexdigest() != digest:
            raise BulkFileDamaged(
                f"{self._folder.uri}/{_path(digest)} was changed: its SHA-256 is not what its name and "
                "the log state"
            )
        return data

    def read(self, event: Event) -> Iterable[tuple[str, str, str]]:
        """What a bulk event lists: type, id and state of each entity."""
        rows = self._rows(event)
        return zip(*(column.to_pylist() for column in rows.columns), strict=True)

    def listed(self, event: Event) -> Listed:
        """The states that a bulk event begins.

        Raises:
            BulkFileDamaged: its file is not what the event says.
        """
        import pyarrow as pa

        digest = str(event.state["file"])
        with self._lock:
            own = self._held.get(digest)
        if own is None:
            own = _own_columns(self._rows(event))
        self._hold(digest, own)
        common = {
            "tenant": event.tenant,
            "from_sequence": event.sequence,
            "position": event.position,
            "recorded_at": event.recorded_at,
            "valid_from": event.valid_from,
            "actor": event.actor,
            "action": event.action,
        }
        tables = {}
        for table, rows in own.items():
            schema = TABLES[table].schema
            tables[table] = pa.table(
                [
                    pa.repeat(pa.scalar(common[field.name], field.type), len(rows))
                    if field.name in common
                    else rows[field.name].cast(field.type)
                    for field in schema
                ],
                schema=schema,
            )
        return Listed(event, tables)

    def _hold(self, digest: str, own: dict[str, pa.Table]) -> None:
        with self._lock:
            self._held[digest] = own
            self._held.move_to_end(digest)
            while len(self._held) > FILES_HELD:
                self._held.popitem(last=False)

    def _rows(self, event: Event) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        digest = str(event.state["file"])
        try:
            rows = pq.read_table(io.BytesIO(self.bytes_of(digest)))
        except pa.ArrowException as failure:
            raise BulkFileDamaged(
                f"{self._folder.uri}/{_path(digest)} is no Parquet file: {failure}"
            ) from failure
        if tuple(rows.column_names) != COLUMNS or len(rows) != event.weight:
            raise BulkFileDamaged(
                f"{self._folder.uri}/{_path(digest)} does not list the {event.weight:,} entities that "
                f"event {event.sequence} of {event.tenant} speaks of"
            )
        return rows


def _own_columns(rows: pa.Table) -> dict[str, pa.Table]:
    """What of each projection's rows comes from the entities themselves, by projection."""
    from ml_registry_pipelines.lake.reading import open_duckdb

    kinds = set(rows["entity_type"].unique().to_pylist())
    found = {}
    connection = open_duckdb(ordered=True, over=rows.num_rows)
    try:
        connection.register("listed", rows)
        for table in sorted({table_of(kind) for kind in kinds}):
            chosen = [kind for kind in kinds if table_of(kind) == table]
            columns = {column.name: column for column in TABLES[table].columns}
            own = ", ".join(f"{_extracted(columns[name])} AS {name}" for name in OWN[table])
            type_ = "json_extract_string(state, '$.type')" if table == "relationships" else "entity_type"
            found[table] = connection.execute(
                f"""
                SELECT {type_} AS type, entity_id AS id,
                  coalesce(CAST(json_extract_string(state, '$.deleted') AS BOOLEAN), false) AS deleted,
                  state, {own}
                FROM listed
                WHERE entity_type IN (SELECT unnest($kinds::VARCHAR[]))
                """,
                {"kinds": chosen},
            ).to_arrow_table()
    finally:
        connection.close()
    return found


def _extracted(column: Column) -> str:
    text = f"json_extract_string(state, '$.{column.name}')"
    return text if column.type == "string" else f"CAST({text} AS BIGINT)"


def _path(digest: str) -> str:
    return f"{BULK_FILES}/{digest[:2]}/{digest}.parquet"
