"""Upkeep of tables, by count of commits and off the writer's path.

A checkpoint with log clean-up comes every `CHECKPOINT_EVERY` commits and a compaction every
`COMPACT_EVERY`; both on one background thread per `Lake`. Whoever commits the version that
is due does it, so writers in several processes need no coordination. Two checkpoints at once
are one done twice; of two compactions only one may land (`Maintainer._claimed`). A failure
here is no failure of a write: it is logged, and the next round makes good for it.

The log is cut by count too, because every append lists it: with 20,000 log files, which is
what ten minutes of single commits leave, an append takes 50 ms and more.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.files import Entry, FilesError, Folder, NoSuchFile
from ml_registry_pipelines.lake.outcomes import LakeError, reason, store_errors
from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    from deltalake import DeltaTable, PostCommitHookProperties, WriterProperties

CHECKPOINT_EVERY = 20
COMPACT_EVERY = 250
LOG_KEPT = 100
"""Commits that the log keeps before a checkpoint: for the notes in them, for handles that are
behind, and for writes that look for themselves. Of an older handle delta-rs refuses the commit."""
SMALL_WRITE = 32 << 10
BLOOM_WRONG = 0.01
"""Share of row groups that are read for a value that they do not hold."""
KEEP_REMOVED_HOURS = 1
"""Removed files stay this long, for readers that are still on an older snapshot."""

COMPACTING = "mlreg.compacting"
"""Table property that names whoever compacts."""
COMPACTED_SIZE = 100 << 20
"""Bytes that a compaction makes files of."""

_CHECKPOINT = re.compile(r"\d{20}\.checkpoint\.")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Maintained:
    """What one round of upkeep did to a table."""

    table: str
    files_before: int
    files_after: int
    files_removed: int
    version: int


@dataclass(frozen=True)
class TableStatus:
    """One line of `mlreg tables`. `bytes` are of live files; `orphans` are files that no commit names."""

    name: str
    rows: int
    files: int
    bytes: int
    version: int
    commits_since_checkpoint: int
    log_files: int
    orphans: int

    @property
    def warning(self) -> str | None:
        """What a person should do about the table, if anything."""
        if self.commits_since_checkpoint > 5 * CHECKPOINT_EVERY:
            return f"{self.commits_since_checkpoint} commits since the last checkpoint; run `mlreg maintain`"
        if self.orphans > 100:
            return f"{self.orphans} orphan files; run `mlreg maintain --full`"
        return None


class Maintainer:
    """Runs what is due on one thread beside the writers."""

    def __init__(
        self,
        open_table: Callable[[str], DeltaTable],
        folder: Callable[[str], Folder],
        checkpointed: Callable[[str], None],
    ) -> None:
        self._open = open_table
        self._folder = folder
        self._checkpointed = checkpointed
        self._lock = Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []
        self._waiting: set[tuple[str, bool]] = set()

    def committed(self, table: str, version: int) -> None:
        """Note a commit; set off what its version makes due."""
        if version and (version % CHECKPOINT_EVERY == 0 or version % COMPACT_EVERY == 0):
            self._submit(table, compact=version % COMPACT_EVERY == 0)

    def maintain(self, table: str, *, full: bool = False) -> Maintained:
        """Compact small files, checkpoint, cut the log, remove what nobody reads any more.

        `full` also removes files that no commit names and that are older than an hour: what
        lost races and kills left, and removed files that the log has meanwhile forgotten.

        Raises:
            LakeError: the store failed.
        """
        from deltalake.exceptions import CommitFailedError

        declared = TABLES[table]
        handle = self._open(table)
        before = len(handle.file_uris())
        try:
            if _fragmented(handle) and (claimed := self._claimed(table)) is not None:
                # What it read may be replaced meanwhile, or claimed by somebody else: the next round has it.
                with contextlib.suppress(CommitFailedError):
                    claimed.optimize.compact(
                        target_size=COMPACTED_SIZE,
                        writer_properties=writer_properties(declared),
                        post_commithook_properties=no_hooks(),
                    )
            self._checkpoint(table)
            # Anew, because a handle reads the log again to find removed files.
            removed = self._open(table).vacuum(
                retention_hours=KEEP_REMOVED_HOURS,
                enforce_retention_duration=False,
                dry_run=False,
                full=full,
                post_commithook_properties=no_hooks(),
            )
        except store_errors() as failure:
            raise LakeError(f"{table} cannot be maintained: {reason(failure)}") from failure
        folder = self._folder(table)
        oldest = datetime.now(UTC) - timedelta(hours=KEEP_REMOVED_HOURS)
        leftovers = [e.path for e in unfinished(folder) if e.modified_at < oldest] if full else []
        for path in leftovers:
            folder.delete(path)
        handle = self._open(table)
        return Maintained(
            table=table,
            files_before=before,
            files_after=len(handle.file_uris()),
            files_removed=len(removed) + len(leftovers),
            version=handle.version(),
        )

    def _claimed(self, table: str) -> DeltaTable | None:
        """The table for the one compaction of it that can land; None while somebody else's is under way.

        delta-rs 1.6.6 lets two compactions of one version land, as neither changes data, and every row
        is there twice from then on. It refuses what was read before a property of the table changed:
        so of all who compact only the last to name itself can commit, and it has seen what others did.
        """
        mark = uuid.uuid4().hex
        with contextlib.suppress(*store_errors()):  # Whether it landed, the table itself says.
            self._open(table).alter.set_table_properties(
                {COMPACTING: mark}, raise_if_not_exists=False, post_commithook_properties=no_hooks()
            )
        handle = self._open(table)
        return handle if handle.metadata().configuration.get(COMPACTING) == mark else None

    def _checkpoint(self, table: str) -> None:
        self._open(table).create_checkpoint()
        cut_log(self._folder(table))
        self._checkpointed(table)

    def _submit(self, table: str, *, compact: bool) -> None:
        """Have a round of upkeep done; one that still waits will see this commit too."""
        with self._lock:
            if (table, compact) in self._waiting:
                return
            self._waiting.add((table, compact))
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlreg-upkeep")
            self._pending = [future for future in self._pending if not future.done()]
            self._pending.append(self._thread.submit(self._round, table, compact))

    def _round(self, table: str, compact: bool) -> None:
        with self._lock:
            self._waiting.discard((table, compact))
        failures: tuple[type[Exception], ...] = (LakeError, FilesError, *store_errors())
        try:
            if compact:
                # Full, because a checkpoint forgets removed files after an hour, and a vacuum of
                # what the log still knows would leave them for ever.
                self.maintain(table, full=True)
            else:
                self._checkpoint(table)
        except failures as failure:
            _log.warning("upkeep of %s failed, the next round tries again: %s", table, reason(failure))

    def settle(self) -> None:
        """Wait for what is under way."""
        with self._lock:
            pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def close(self) -> None:
        """Wait for what is under way and end the thread."""
        self.settle()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=True)


def _fragmented(handle: DeltaTable) -> bool:
    """Whether some partition has two files that a compaction would make one of."""
    import pyarrow as pa
    import pyarrow.compute as pc

    files = pa.table(handle.get_add_actions(flatten=True))
    small = files.filter(pc.less(files["size_bytes"], COMPACTED_SIZE))
    keys = [name for name in small.column_names if name.startswith("partition.")]
    return (
        small.num_rows > small.select(keys).group_by(keys).aggregate([]).num_rows if keys else len(small) > 1
    )


def cut_log(folder: Folder) -> None:
    """Remove what the log holds from long before its last checkpoint, the oldest first."""
    try:
        last = int(json.loads(folder.read("_delta_log/_last_checkpoint"))["version"])
    except NoSuchFile:
        return
    for entry in folder.entries("_delta_log"):
        version = PurePosixPath(entry.path).name[:20]
        if version.isdigit() and int(version) < last - LOG_KEPT:
            folder.delete(entry.path)


def table_status(handle: DeltaTable, declared: Table, folder: Folder) -> TableStatus:
    """Figures of one table from its log, and what lies around it.

    Raises:
        LakeError: the table's folder cannot be listed.
    """
    import pyarrow as pa

    adds = pa.table(handle.get_add_actions(flatten=True))
    log = [PurePosixPath(entry.path).name for entry in folder.entries("_delta_log")]
    checkpoints = [int(name.split(".", 1)[0]) for name in log if _CHECKPOINT.match(name)]
    try:
        unnamed = _vacuumable(handle, full=True) - _vacuumable(handle, full=False)
    except store_errors() as failure:
        raise LakeError(f"{declared.name} cannot be listed: {reason(failure)}") from failure
    return TableStatus(
        name=declared.name,
        rows=sum(n or 0 for n in adds["num_records"].to_pylist()),
        files=len(adds),
        bytes=sum(adds["size_bytes"].to_pylist()),
        version=handle.version(),
        commits_since_checkpoint=handle.version() - max(checkpoints, default=0),
        log_files=len(log),
        orphans=len(unnamed) + len(unfinished(folder)),
    )


def _vacuumable(handle: DeltaTable, *, full: bool) -> set[str]:
    return set(handle.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=True, full=full))


def unfinished(folder: Folder) -> list[Entry]:
    """Files of a folder that a writer has begun: delta-rs calls them `name#1` until they are whole.

    Its own vacuum does not see what a killed writer left of them. An object store has none.
    """
    return [entry for entry in folder.entries() if "#" in entry.path] if folder.settles else []


def writer_properties(declared: Table, *, size: int | None = None) -> WriterProperties:
    """How the table's Parquet files are written, by writers and by compaction alike.

    Args:
        size: of the rows in memory, in bytes. To pack a few rows, only until they are compacted,
            takes a fifth of the time of a commit, and to unpack them half of reading it.
    """
    from deltalake import BloomFilterProperties, ColumnProperties, WriterProperties

    packs = size is None or size > SMALL_WRITE
    # Comparing decimals and texts for bounds that no query uses is a tenth of writing a file.
    properties = {
        name: ColumnProperties(
            dictionary_enabled=packs and name not in declared.plain,
            statistics_enabled="CHUNK" if name in declared.statistics else "NONE",
            bloom_filter_properties=(
                BloomFilterProperties(True, fpp=BLOOM_WRONG, ndv=declared.row_group)
                if packs and name in declared.bloom
                else None
            ),
        )
        for name in {*declared.plain, *declared.statistics, *declared.bloom} - {*declared.partition_by}
    }
    return WriterProperties(
        max_row_group_size=declared.row_group,
        compression="ZSTD" if packs else "UNCOMPRESSED",
        compression_level=1 if packs else None,
        column_properties=properties or None,
        default_column_properties=ColumnProperties(dictionary_enabled=packs, statistics_enabled="NONE"),
    )


def no_hooks() -> PostCommitHookProperties:
    """Commits do no upkeep of their own: it would be on the writer's path."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
