"""The lineage index of a lake: built from the projections, published as a whole, read with what is newer.

A generation is a list of files, and table `lineage_index` says which: whoever lands its row
has published it, and a reader has one generation or the next and nothing between. The index
is never needed for a right answer, only for a quick one: what it lacks, a reader adds from
the projections and from the tail of the log.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ml_registry_pipelines.lake.files import LocalFolder, NoSuchFile, S3Folder, open_folder
from ml_registry_pipelines.lake.lake import Lake, Landed, OutOfSequence
from ml_registry_pipelines.lineage.building import draft_of_states
from ml_registry_pipelines.lineage.layers import IndexDamaged, Layer, open_layer
from ml_registry_pipelines.lineage.table_drafts import SOURCES, draft_of_rows, draft_of_tables
from ml_registry_pipelines.lineage.walking import Stack
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.log_table import LogTable
from ml_registry_pipelines.registry.projections import folded
from ml_registry_pipelines.registry.states import DATASET_VERSION, State, rows_of
from ml_registry_pipelines.registry.tail import Tail
from ml_registry_pipelines.registry.view import View

TABLE = "lineage_index"
SOURCE = "lineage_index"
GROWTH = 4
"""A layer is merged into a newer one unless it is so many times as large: few layers, each edge merged rarely."""
IN_MEMORY = 3_000_000
"""Edges newer than the index that a reader keeps in memory; with more it builds the index itself."""
MANY = 2_000
"""States of which a layer is made with DuckDB, in 50 ms and more, and is not made again with the next event."""
TRIES = 5
GRACE = timedelta(hours=1)
"""How long files stay that no generation names any more: a builder may be about to name them."""

_logger = logging.getLogger(__name__)


class IndexBusy(RegistryError):
    """Other builders kept publishing first."""


@dataclass(frozen=True)
class LayerRow:
    """One layer of a generation, as table `lineage_index` has it."""

    generation: int
    layer: int
    file: str
    digest: str
    size: int
    after: int
    until: int
    nodes: int
    edges: int
    seconds: float
    built_at: datetime


@dataclass(frozen=True)
class Generation:
    """One published index."""

    number: int
    layers: tuple[LayerRow, ...]

    @property
    def until(self) -> int:
        """Position of the newest event that it holds."""
        return self.layers[-1].until if self.layers else 0

    @property
    def edges(self) -> int:
        return sum(layer.edges for layer in self.layers)

    @property
    def nodes(self) -> int:
        return sum(layer.nodes for layer in self.layers)

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True)
class Built:
    """What a build came to. `fresh` is False where nothing was newer, or another builder was first."""

    generation: Generation
    fresh: bool
    seconds: float


@dataclass(frozen=True)
class _Overlay:
    """The layers of the projections with what a tail holds on them, up to a position.

    `settled` are the layers below the uppermost one, which is made anew as the tail grows.
    """

    tail: Tail
    settled: Stack
    stack: Stack
    upto: int


class LineageIndex:
    """The index of one lake, for one process. Thread-safe."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._lock = threading.RLock()
        self._folder = open_folder(f"{lake.root}/{TABLE}", lake.storage_options)
        self._opened: dict[str, Layer] = {}
        self._generation: Generation | None = None
        self._base = -1
        self._stack = Stack(())
        self._overlay: _Overlay | None = None

    # -- reading -----------------------------------------------------------------------------

    def stack(self, view: View) -> Stack:
        """Layers that hold everything a view does."""
        with self._lock:
            base = view.tails[0].end_of(view.snapshot.block)
            if base > self._base:
                self._stack, self._base, self._overlay = self._up_to(base), base, None
            return self._with_tail(view)

    def way(self, view: View, start: str, goal: str) -> list[str] | None:
        """The shortest way along drawn edges from one entity down to another, both included."""
        import numpy as np

        stack = self.stack(view)
        numbers = stack.numbers(view.tenant, [start, goal])
        if min(numbers.tolist()) < 0:
            return None
        drawn = np.array([not kind.implied for kind in stack.kinds], bool)
        found = stack.walk(numbers[:1], down=True, at=view.at, kinds=drawn, goal=int(numbers[1]))
        if not np.isin(numbers[1], found.nodes):
            return None
        return stack.ids(np.array(found.way(int(numbers[1]))))

    def drawn_below(self, view: View, starts: Sequence[str]) -> list[tuple[str, str]]:
        """All drawn edges that lie below some entities: their ends, the upper one first."""
        import numpy as np

        stack = self.stack(view)
        roots = stack.numbers(view.tenant, starts)
        drawn = np.array([not kind.implied for kind in stack.kinds], bool)
        found = stack.walk(np.unique(roots[roots >= 0]), down=True, at=view.at, kinds=drawn)
        return list(zip(stack.ids(found.near), stack.ids(found.far), strict=True))

    def _up_to(self, base: int) -> Stack:
        """The published layers, and some in memory for what the projections have beside them."""
        layers = self._layers()
        until = layers[-1].until if layers else 0
        if until < base and self._rows_after(until) > IN_MEMORY:
            self.build()
            layers = self._layers()
            until = layers[-1].until if layers else 0
        if until < base:
            layers = self._with_memory(layers)
            after = layers[-1].until if layers else 0
            layers = (*layers, draft_of_tables(self._lake, layers, after=after, until=base).layer())
        return Stack(layers)

    def _with_memory(self, published: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """The published layers, with those in memory that stay below a new one."""
        before = self._stack.layers
        if len(before) < len(published) or any(a is not b for a, b in zip(published, before, strict=False)):
            return published
        kept = list(before)
        new = self._rows_after(kept[-1].until) if kept else 0
        while len(kept) > len(published) and kept[-1].edges < GROWTH * new:
            new += kept.pop().edges
        return tuple(kept)

    def _rows_after(self, position: int) -> int:
        """How many states of relationships the projection may hold beyond a position, by its files."""
        with self._lake.read("relationships") as reading:
            files = reading.files("relationships")
        if not len(files):
            return 0
        newest, counts = files["max.position"].to_pylist(), files["num_records"].to_pylist()
        return sum(n or 0 for last, n in zip(newest, counts, strict=True) if last is None or last > position)

    def _with_tail(self, view: View) -> Stack:
        """The layers with more for the events that the projections lack, and for what a command is about to add."""
        tail, *drafts = view.tails
        stack = self._over_tail(tail, view, min(view.upto, tail.head))
        for draft in drafts:
            stack, _ = _on(stack, draft, view, after=draft.base, upto=draft.head)
        return stack

    def _over_tail(self, tail: Tail, view: View, upto: int) -> Stack:
        base = self._stack
        held = self._overlay
        if held is None or held.tail is not tail:
            held = _Overlay(tail, base, base, base.until)
        if upto < held.upto:
            # An older view than the one before: of another thread, or one that pages go on with.
            return _on(base, tail, view, after=base.until, upto=upto)[0]
        if upto > held.upto:
            stack, count = _on(held.settled, tail, view, after=held.settled.until, upto=upto)
            held = _Overlay(tail, stack if count >= MANY else held.settled, stack, upto)
        self._overlay = held
        return held.stack

    def _layers(self) -> tuple[Layer, ...]:
        """The layers of the newest generation, opened."""
        for again in reversed(range(TRIES)):
            generation = self.published()
            try:
                found = {row.file: self._opened.get(row.file) or self._open(row) for row in generation.layers}
            except (FileNotFoundError, NoSuchFile) as failure:
                # A newer generation may have been published since, and these files cleaned up.
                if not again or self.published().number == generation.number:
                    raise _gone(failure) from failure
                continue
            self._opened, self._generation = found, generation
            return tuple(found[row.file] for row in generation.layers)
        raise AssertionError

    def _open(self, row: LayerRow) -> Layer:
        return open_layer(self._local(row), row.size)

    def _local(self, row: LayerRow) -> Path:
        """The layer's file on this machine, fetched where the lake is in an object store."""
        if isinstance(self._folder, LocalFolder):
            return self._folder.root / row.file
        path = self._cache / row.file
        if not path.exists():
            with _aside(path) as temporary:
                digest = hashlib.sha256()
                with self._folder.open(row.file) as source, temporary.open("wb") as target:
                    while piece := source.read(1 << 22):
                        digest.update(piece)
                        target.write(piece)
                if digest.hexdigest() != row.digest:
                    raise IndexDamaged(
                        f"{self._folder.uri}/{row.file} was changed: its SHA-256 is not what was published; "
                        "run `mlreg lineage index --whole`"
                    )
                temporary.replace(path)
            self._clean_cache(row.file)
        return path

    @property
    def _cache(self) -> Path:
        """Where layers of an object store lie on this machine."""
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = hashlib.sha256(self._lake.root.encode()).hexdigest()[:16]
        folder = Path(base) / "mlreg" / TABLE / root
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _clean_cache(self, kept: str) -> None:
        named = {row.file for row in self.published().layers} | {kept}
        for path in self._cache.glob("*.layer"):
            if path.name not in named:
                # A process that has it mapped keeps it all the same.
                path.unlink(missing_ok=True)

    def published(self) -> Generation:
        """The newest generation; number 0, without layers, before the first."""
        if self._lake.find(TABLE) is None:
            return Generation(0, ())
        with self._lake.read(TABLE) as reading:
            rows = reading.query(
                "lineage.published",
                f"""
                SELECT * FROM {TABLE}
                WHERE generation = (SELECT max(generation) FROM {TABLE})
                ORDER BY layer
                """,
            ).to_pylist()
        layers = tuple(LayerRow(**row) for row in rows)
        return Generation(layers[0].generation if layers else 0, layers)

    # -- building ------------------------------------------------------------------------------

    def build(self, *, whole: bool = False) -> Built:
        """Bring the index up to the projections, or make it anew, and publish it.

        Two builders at once are safe: one publishes, the other takes what was published, or
        builds on it what that one lacks.

        Raises:
            IndexBusy: others published first, again and again.
        """
        started = time.perf_counter()
        for _ in range(TRIES):
            current = self.published()
            until = complete_to(self._lake)
            if until <= current.until and not whole:
                return Built(current, fresh=False, seconds=time.perf_counter() - started)
            kept = () if whole else _kept(current.layers, self._rows_after(current.until))
            after = kept[-1].until if kept else 0
            try:
                row = self._write(kept, after=after, until=until)
            except (FileNotFoundError, NoSuchFile) as failure:
                if self.published().number == current.number:
                    raise _gone(failure) from failure
                # Another builder has published since, and cleaned up what it no longer needs.
                continue
            published = self._publish(current, (*kept, row))
            if published is not None:
                self._clean(published)
                return Built(published, fresh=True, seconds=time.perf_counter() - started)
            self._folder.delete(row.file)
            if whole and self.published().until >= until and len(self.published().layers) == 1:
                whole = False
        raise IndexBusy("the lineage index was published by other builders five times; try again")

    def _write(self, kept: Sequence[LayerRow], *, after: int, until: int) -> LayerRow:
        """Build one layer on the kept ones and put its file where it belongs, under a name of its own."""
        started = time.perf_counter()
        below = tuple(self._open(row) for row in kept)
        draft = draft_of_tables(self._lake, below, after=after, until=until)
        name = f"{uuid.uuid4().hex}.layer"
        target = (self._folder.root if isinstance(self._folder, LocalFolder) else self._cache) / name
        with _aside(target) as temporary:
            digest, size, edges = draft.write(temporary)
            temporary.replace(target)
        if isinstance(self._folder, S3Folder):
            _upload(self._folder, target)
        seconds = time.perf_counter() - started
        return LayerRow(
            0, len(kept), name, digest, size, after, until, len(draft.high), edges, seconds, datetime.now(UTC)
        )

    def _publish(self, current: Generation, layers: Sequence[LayerRow]) -> Generation | None:
        """Publish the next generation; None where another builder did."""
        import pyarrow as pa

        number = current.number + 1
        rows = [{**vars(row), "generation": number, "layer": place} for place, row in enumerate(layers)]
        table = pa.Table.from_pylist(rows, schema=Lake.declaration(TABLE).schema)
        try:
            landed = self._lake.append_once(TABLE, table, source=SOURCE, sequence=number)
        except OutOfSequence:
            return None
        if landed is not Landed.NOW:
            return None
        return Generation(number, tuple(LayerRow(**row) for row in rows))

    def _clean(self, published: Generation) -> None:
        """Remove files that this generation does not name, once nobody can be about to name them."""
        named = {row.file for row in published.layers}
        for entry in list(self._folder.entries()):
            # What is left half-written has a temporary name and is an hour old at most, too.
            if entry.path not in named and datetime.now(UTC) - entry.modified_at > GRACE:
                self._folder.delete(entry.path)


def _gone(failure: Exception) -> IndexDamaged:
    return IndexDamaged(f"a file of the lineage index is gone: {failure}; run `mlreg lineage index --whole`")


def _kept(layers: Sequence[LayerRow], new: int) -> tuple[LayerRow, ...]:
    """The layers that stay below a new one: each `GROWTH` times as large as all that is newer."""
    kept = list(layers)
    while kept and kept[-1].edges < GROWTH * new:
        new += kept.pop().edges
    return tuple(kept)


def _wholes(view: View, parts: Iterable[tuple[str, str | None]]) -> list[State]:
    """What things of some tenants are part of."""
    wanted: dict[str, set[str]] = {}
    for tenant, whole in parts:
        if whole is not None:
            wanted.setdefault(tenant, set()).add(whole)
    return [
        state
        for tenant, ids in wanted.items()
        for state in replace(view, tenant=tenant, at=None).by_any("things", "id", sorted(ids))
    ]


def _on(stack: Stack, tail: Tail, view: View, *, after: int, upto: int) -> tuple[Stack, int]:
    """The layers with one more on them for events of a tail, and how many states that one is about."""
    import pyarrow as pa
    import pyarrow.compute as pc

    single, listed = tail.begun(after=after, upto=upto)
    count = len(single) + sum(len(rows) for found in listed for rows in found.tables.values())
    if not count:
        return stack, 0
    if count < MANY:
        states = [*single, *(state for found in listed for state in found.states())]
        states.sort(key=lambda state: state.position)
        parts = [
            (state.tenant, state.data.get("parent_id"))
            for state in states
            if state.table == "things" and state.entity_type != DATASET_VERSION
        ]
        draft = draft_of_states(states, stack.layers, after=after, until=upto, wholes=_wholes(view, parts))
    else:
        rows = {
            table: pa.concat_tables(
                [
                    rows_of(table, [state for state in single if state.table == table]),
                    *(found.tables[table] for found in listed if table in found.tables),
                ]
            )
            for table in SOURCES
        }
        parts = [
            (row["tenant"], row["parent_id"])
            for row in rows["things"]
            .select(["tenant", "parent_id", "type"])
            .filter((pc.field("type") != DATASET_VERSION) & pc.field("parent_id").is_valid())
            .to_pylist()
        ]
        draft = draft_of_rows(rows, stack.layers, after=after, until=upto, wholes=_wholes(view, parts))
    return Stack((*stack.layers, draft.layer())), count


def complete_to(lake: Lake) -> int:
    """Position of the last event of a lake up to which the projections hold all; 0 without any."""
    block = min(folded(lake).values())
    # The log is looked at after the projections: it holds at least what they do.
    return LogTable(lake).start_of(block + 1) - 1 if block else 0


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A name beside the target, under which nothing is left afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _upload(folder: S3Folder, path: Path) -> None:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    from ml_registry_pipelines.lake.files import FilesError

    try:
        folder.client.upload_file(str(path), folder.bucket, folder.prefix + path.name)
    except (Boto3Error, BotoCoreError, ClientError) as failure:
        raise FilesError(f"{path.name} cannot be stored in {folder.uri}: {failure}") from failure


_indexes: weakref.WeakKeyDictionary[Log, LineageIndex] = weakref.WeakKeyDictionary()
_indexes_lock = threading.Lock()


def index_of(log: Log) -> LineageIndex:
    """The index of a log's lake, one per log."""
    with _indexes_lock:
        if log not in _indexes:
            _indexes[log] = LineageIndex(log.lake)
        return _indexes[log]
