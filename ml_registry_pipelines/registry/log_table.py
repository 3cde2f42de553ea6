"""Reading `governance_events`: what is new since a position, and events by their number.

What others have just committed is read from their commits, which carry a few short events as text
beside the file that holds them: a handle that follows the table costs some milliseconds per commit,
a commit with its file one, the text a tenth of that. All else goes by a handle,
which is kept and refreshed. Writing is in `log.py`, checking the chain in `chain.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ml_registry_pipelines.lake.committing import as_declared
from ml_registry_pipelines.lake.files import FilesError, open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.maintenance import CHECKPOINT_EVERY
from ml_registry_pipelines.lake.outcomes import LakeError, reason, store_errors
from ml_registry_pipelines.registry.events import Event, from_arrow, from_note
from ml_registry_pipelines.registry.places import unreadable
from ml_registry_pipelines.registry.tail import BLOCK, Filling, follow, whole_blocks

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

TABLE = "governance_events"
SPAN = 16_384
"""Events that are read at once where many blocks are folded."""
NOTE = "mlreg_events"
"""Key in the commit info for the events that a commit carries."""
FOLLOWED = 200
"""Commits that are read one by one; what is further behind is read by a handle."""


class _Otherwise(Exception):
    """A commit that is no plain append."""


@dataclass(frozen=True)
class Appended:
    """What a commit appends: files, how many rows they hold, and the events themselves where it carries them."""

    paths: list[str]
    rows: int
    events: list[Event] | None


def appended(commit: bytes) -> Appended:
    """What a commit appends; nothing where it only rewrites what is there.

    Raises:
        _Otherwise: it removes rows or changes the table, or cannot be read.
    """
    paths: list[str] = []
    rows, events = 0, None
    for line in commit.splitlines():
        try:
            ((kind, action),) = json.loads(line).items()
        except ValueError as wrong:
            raise _Otherwise from wrong
        if kind not in {"add", "remove", "commitInfo", "txn"} or (kind == "remove" and action["dataChange"]):
            raise _Otherwise
        if kind == "add" and action["dataChange"]:
            paths.append(str(action["path"]))
            rows += json.loads(action["stats"])["numRecords"] if action.get("stats") else 0
        if kind == "commitInfo" and NOTE in action:
            events = from_note(action[NOTE])
    return Appended(paths, rows, events)


class LogTable:
    """`governance_events` of one lake. Not thread-safe: the log guards it."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._handle: DeltaTable | None = None
        self._opened_at = 0

    def refresh(self) -> int:
        """Look at the newest version; return its number, -1 where nobody has written yet."""
        handle = self._handle
        if handle is not None and self._lake.is_newest(TABLE, handle.version()):
            return int(handle.version())
        # An old handle does not adopt a checkpoint and grows slower with every commit.
        if handle is not None and handle.version() - self._opened_at < CHECKPOINT_EVERY:
            try:
                handle.update_incremental()
                return int(handle.version())
            except store_errors():
                pass
        self._handle = handle = self._lake.find(TABLE)
        self._opened_at = -1 if handle is None else int(handle.version())
        return self._opened_at

    def since(self, version: int) -> tuple[int, list[Event]] | None:
        """The newest version, and the events that were appended after `version`, in order.

        None where the commits do not tell: they are cut, many, of another kind, or in an object store.
        """
        if not self._lake.is_local:
            return None
        events: list[Event] = []
        newest = version
        try:
            while (commit := self._commit(newest + 1)) is not None:
                if newest - version >= FOLLOWED:
                    return None
                found = appended(commit)
                if found.events is not None and len(found.events) == found.rows:
                    events += found.events
                else:
                    for path in found.paths:
                        events += self._events_of(path)
                newest += 1
        except _Otherwise:
            return None
        except unreadable():
            # The files of old commits go once upkeep has rewritten them.
            return None
        return (newest, events) if self._lake.is_newest(TABLE, newest) else None

    def _commit(self, version: int) -> bytes | None:
        try:
            return Path(self._lake.uri(TABLE), "_delta_log", f"{version:020}.json").read_bytes()
        except FileNotFoundError:
            return None

    def _events_of(self, path: str) -> list[Event]:
        rows = self._whole(f"{self._lake.uri(TABLE)}/{unquote(path)}")
        return from_arrow(as_declared(rows, self._lake.declaration(TABLE)))

    @staticmethod
    def _whole(path: str) -> pa.Table:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as opened:
            return opened.read(use_threads=False)

    def after(self, position: int) -> list[Event]:
        """Events newer than a position, in order."""
        return self.between(position + 1, 2**62)

    def between(self, first: int, last: int) -> list[Event]:
        """Events whose position is first to last, in order."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for again in (True, False):
            handle = self._handle or self._lake.find(TABLE)
            if handle is None:
                return []
            try:
                rows = self._rows(handle, first, last)
                break
            except (*store_errors(), pa.ArrowException) as failure:
                if not again:
                    raise LakeError(
                        f"{TABLE} cannot be read: {reason(failure)}; `mlreg audit verify` says which events are lost"
                    ) from failure
                # Upkeep may have removed the files of an old version.
                self._handle = None
                self.refresh()
        else:
            raise AssertionError
        inside = pc.and_(pc.greater_equal(rows["position"], first), pc.less_equal(rows["position"], last))
        return from_arrow(rows.filter(inside))

    def last_position(self) -> int:
        """Position of the newest event; 0 without any."""
        import pyarrow as pa

        handle = self._handle or self._lake.find(TABLE)
        if handle is None:
            return 0
        files = pa.table(handle.get_add_actions(flatten=True))
        return max((int(last) for last in files["max.position"].to_pylist()), default=0) if len(files) else 0

    def start_of(self, block: int) -> int:
        """Position of the first event of a block or a later one; one after the newest event without any."""
        import pyarrow as pa

        handle = self._handle or self._lake.find(TABLE)
        if handle is None:
            return 1
        files = pa.table(handle.get_add_actions(flatten=True))
        after = max((int(last) for last in files["max.position"].to_pylist()), default=0) if len(files) else 0
        names = ("min.block", "max.block", "null_count.block", "min.position")
        if not set(names) <= set(files.column_names):
            return self._first_of(handle, block) or after + 1
        found = []
        for low, high, nulls, first in zip(*(files[name].to_pylist() for name in names), strict=True):
            if high is not None and high < block:
                continue
            if low is None or low < block or nulls:
                # A compacted file holds many blocks, and an old one does not say which.
                return self._first_of(handle, block) or after + 1
            found.append(int(first))
        return min(found, default=after + 1)

    def _first_of(self, handle: DeltaTable, block: int) -> int | None:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.dataset as pads

        try:
            dataset = handle.to_pyarrow_dataset(schema=self._lake.declaration(TABLE).schema)
            field = pads.field("block")
            # Before blocks were recorded, each had 512 events.
            old = field.is_null() & (pads.field("position") > (block - 1) * 512)
            found = dataset.to_table(columns=["position"], filter=(field >= block) | old)
        except (*store_errors(), pa.ArrowException) as failure:
            raise LakeError(f"{TABLE} cannot be read: {reason(failure)}") from failure
        return int(pc.min(found["position"]).as_py()) if len(found) else None

    def blocks(self, first: int) -> Iterator[tuple[int, list[Event]]]:
        """The full blocks from number `first` on, in order, read many events at a time.

        Raises:
            LogDamaged: an event is missing, or stands in another block than it must.
        """
        position, held = self.start_of(first), list[Event]()
        filling = Filling(first - 1, BLOCK)
        while events := self.between(position, position + SPAN - 1):
            follow(events, filling, after=position - 1)
            position = events[-1].position + 1
            held += events
            last = held[-1].block
            yield from whole_blocks((e for e in held if e.block < last), last=last)
            held = [event for event in held if event.block == last]
        if held:
            yield from whole_blocks(held, last=held[-1].block)

    def _rows(self, handle: DeltaTable, first: int, last: int) -> pa.Table:
        import pyarrow as pa
        import pyarrow.dataset as pads
        import pyarrow.parquet as pq

        declared = self._lake.declaration(TABLE)
        if not self._lake.is_local:
            field = pads.field("position")
            dataset = handle.to_pyarrow_dataset(schema=declared.schema)
            return dataset.to_table(filter=(field >= first) & (field <= last))
        files = pa.table(handle.get_add_actions(flatten=True)).select(
            ["path", "min.position", "max.position"]
        )
        wanted = [("position", ">=", first), ("position", "<=", last)]
        parts = []
        for name, low, high in zip(*(column.to_pylist() for column in files.columns), strict=True):
            path = f"{self._lake.uri(TABLE)}/{unquote(name)}"
            if high is not None and first <= low and high <= last:
                # The files of single commands, which are many: a tenth of the time that a filter takes.
                parts.append(self._whole(path))
            elif high is None or (high >= first and low <= last):
                parts.append(pq.read_table(path, partitioning=None, filters=wanted))
        # Files from before a column was declared lack it.
        return (
            as_declared(pa.concat_tables(parts, promote_options="default"), declared)
            if parts
            else (declared.empty())
        )

    def by_sequence(self, tenant: str, sequences: Sequence[int]) -> list[Event]:
        """Events of a tenant by number."""
        with self._lake.read(TABLE) as reading:
            rows = reading.query(
                "registry.events_by_number",
                f"""
                SELECT * FROM {TABLE}
                WHERE tenant = $tenant AND sequence BETWEEN $first AND $last
                  AND sequence IN (SELECT unnest($sequences::BIGINT[]))
                """,
                {
                    "tenant": tenant,
                    "first": min(sequences, default=0),
                    "last": max(sequences, default=0),
                    "sequences": list(sequences),
                },
            )
        return from_arrow(rows)

    def head(self, tenant: str) -> Event | None:
        """The newest event of a tenant."""
        with self._lake.read(TABLE) as reading:
            rows = reading.query(
                "registry.head",
                f"SELECT * FROM {TABLE} WHERE tenant = $tenant ORDER BY sequence DESC LIMIT 1",
                {"tenant": tenant},
            )
        found = from_arrow(rows)
        return found[0] if found else None

    def sequence_at(self, tenant: str, when: datetime) -> int:
        """Number of the last event that had been recorded at an instant; 0 before the first."""
        with self._lake.read(TABLE) as reading:
            rows = reading.query(
                "registry.sequence_at",
                f"SELECT max(sequence) AS n FROM {TABLE} WHERE tenant = $tenant AND recorded_at <= $until",
                {"tenant": tenant, "until": when},
            )
        return int(rows["n"][0].as_py() or 0)

    def tenants(self) -> list[str]:
        """Tenants that have a history, in order."""
        with self._lake.read(TABLE) as reading:
            rows = reading.query("registry.tenants", f"SELECT DISTINCT tenant FROM {TABLE} ORDER BY tenant")
        found: list[str] = rows["tenant"].to_pylist()
        return found


def lost_file(lake: Lake) -> str | None:
    """The first file of the log that is gone or damaged, and which events it held; None where all can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = open_folder(lake.uri(TABLE), lake.storage_options)
    files = pa.table(lake.snapshot(TABLE).get_add_actions(flatten=True)).to_pylist()
    for file in sorted(files, key=lambda file: file.get("min.position") or 0):
        path = unquote(file["path"])
        try:
            pq.read_table(io.BytesIO(folder.read(path)))
        except (FilesError, OSError, pa.ArrowException) as failure:
            tenants = {file.get("min.tenant"), file.get("max.tenant")}
            of = f" of tenant {tenants.pop()!r}" if len(tenants) == 1 else ""
            return (
                f"{folder.uri}/{path} is gone or damaged ({reason(failure)}): it held "
                f"{file['num_records']:,} events, at positions {file.get('min.position')} to "
                f"{file.get('max.position')} of the log, numbers {file.get('min.sequence')} to "
                f"{file.get('max.sequence')}{of}"
            )
    return None
