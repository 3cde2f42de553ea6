"""Upkeep of tables, by count of commits and off the writer's path.

A checkpoint comes every `CHECKPOINT_EVERY` commits and a compaction with log clean-up
every `COMPACT_EVERY`; both on one background thread per `Lake`. Whoever commits the
version that is due does it, so writers in several processes need no coordination, and
two that do the same at once only do it twice.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.declarations import Table

if TYPE_CHECKING:
    from deltalake import DeltaTable, PostCommitHookProperties

CHECKPOINT_EVERY = 20
COMPACT_EVERY = 250
KEEP_REMOVED_HOURS = 1
"""Removed files stay this long, for readers that are still on an older snapshot."""


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
    """One line of `mlreg tables`. `bytes` are of live files; `orphans` is None on an object store."""

    name: str
    rows: int
    files: int
    bytes: int
    version: int
    commits_since_checkpoint: int
    log_files: int | None
    orphans: int | None

    @property
    def warning(self) -> str | None:
        """What a person should do about the table, if anything."""
        if self.commits_since_checkpoint > 5 * CHECKPOINT_EVERY:
            return f"{self.commits_since_checkpoint} commits since the last checkpoint; run `mlreg maintain`"
        if self.orphans is not None and self.orphans > 100:
            return f"{self.orphans} orphan files; run `mlreg maintain --full`"
        return None


class Maintainer:
    """Runs what is due on one thread beside the writers."""

    def __init__(self, open_table: Callable[[str], DeltaTable]) -> None:
        self._open = open_table
        self._lock = Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._pending: list[Future[object]] = []

    def committed(self, table: str, version: int) -> None:
        """Note a commit; set off what its version makes due."""
        if version and version % COMPACT_EVERY == 0:
            self._submit(self.maintain, table)
        elif version and version % CHECKPOINT_EVERY == 0:
            self._submit(self._checkpoint, table)

    def maintain(self, table: str, *, full: bool = False) -> Maintained:
        """Compact small files, checkpoint, cut the log, remove what nobody reads any more.

        `full` also removes files that no commit names: what lost races and kills left.
        """
        from deltalake.exceptions import CommitFailedError

        handle = self._open(table)
        before = len(handle.file_uris())
        try:
            handle.optimize.compact(post_commithook_properties=no_hooks())
        except CommitFailedError:
            # A writer replaced a file that was being compacted: the next round has it.
            handle = self._open(table)
        handle.create_checkpoint()
        handle.cleanup_metadata()
        removed = handle.vacuum(
            retention_hours=KEEP_REMOVED_HOURS, enforce_retention_duration=False, dry_run=False, full=full
        )
        handle = self._open(table)
        return Maintained(
            table=table,
            files_before=before,
            files_after=len(handle.file_uris()),
            files_removed=len(removed),
            version=handle.version(),
        )

    def _checkpoint(self, table: str) -> None:
        self._open(table).create_checkpoint()

    def _submit(self, work: Callable[[str], object], table: str) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlreg-upkeep")
            self._pending = [future for future in self._pending if not future.done()]
            self._pending.append(self._thread.submit(work, table))

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


def table_status(handle: DeltaTable, declared: Table, *, local: bool) -> TableStatus:
    """Figures of one table from its log; on a folder also what lies around it."""
    import pyarrow as pa

    adds = pa.table(handle.get_add_actions(flatten=True))
    live = {str(path) for path in adds["path"].to_pylist()}
    log_files: int | None = None
    orphans: int | None = None
    checkpoint = 0
    if local:
        root = Path(handle.table_uri.removeprefix("file://"))
        log = list((root / "_delta_log").iterdir())
        log_files = len(log)
        checkpoint = max(
            (int(p.name.split(".", 1)[0]) for p in log if ".checkpoint" in p.name and p.name[0].isdigit()), default=0
        )
        on_disk = {str(p.relative_to(root)) for p in root.rglob("*.parquet") if "_delta_log" not in p.parts}
        orphans = len(on_disk - live)
    else:
        checkpoint = (handle.version() // CHECKPOINT_EVERY) * CHECKPOINT_EVERY
    return TableStatus(
        name=declared.name,
        rows=sum(n or 0 for n in adds["num_records"].to_pylist()),
        files=len(live),
        bytes=sum(adds["size_bytes"].to_pylist()),
        version=handle.version(),
        commits_since_checkpoint=handle.version() - checkpoint,
        log_files=log_files,
        orphans=orphans,
    )


def no_hooks() -> PostCommitHookProperties:
    """Commits do no upkeep of their own: it would be on the writer's path."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
