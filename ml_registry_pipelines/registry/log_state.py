"""What a process knows of the log: the projections, what is newer than they are, and each tenant's newest event.

Read again whenever somebody asks, as far as the log has grown; folded beside the callers as it does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.bulk import BulkFileDamaged, BulkFiles
from ml_registry_pipelines.registry.errors import RESTORE, EventUnreadable, InvalidInput, LogDamaged
from ml_registry_pipelines.registry.events import BULK, Event
from ml_registry_pipelines.registry.log_table import LogTable
from ml_registry_pipelines.registry.names import checked_tenant
from ml_registry_pipelines.registry.projections import Snapshot, fold_blocks, folded
from ml_registry_pipelines.registry.tail import Tail, follow, too_many, whole_blocks
from ml_registry_pipelines.registry.view import View

UNSEEN = -2
"""Version of a log that was not looked at; -1 is that of one which nobody has written yet."""

Head = tuple[int, str, datetime]
"""Number, hash and time of a tenant's newest event; 0, the empty text and the first of all times without any."""

_logger = logging.getLogger(__name__)


class LogState:
    """The state of one lake's log in this process; thread-safe.

    Who writes holds it `steady` from reading to deciding, and says by `adopt` what was committed.
    """

    def __init__(self, lake: Lake, bulk: BulkFiles) -> None:
        self.lake = lake
        self.bulk = bulk
        self.table = LogTable(lake)
        self.lock = threading.RLock()
        self.version = UNSEEN
        self.tail = Tail(0, bulk)
        self._snapshot: Snapshot | None = None
        self._steady = 0
        self._heads: dict[str, Head] = {}
        self._folding: Future[None] | None = None
        self._folder: ThreadPoolExecutor | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The projections; there once the state was refreshed."""
        assert self._snapshot is not None
        return self._snapshot

    # -- reading -----------------------------------------------------------------------

    def view(self, tenant: str, *, as_of: datetime | None = None) -> View:
        """What holds now, or what had been recorded at an instant."""
        tenant = checked_tenant(tenant)
        with self.lock:
            self.refresh()
            self.check_readable(tenant)
            at = None if as_of is None else self._sequence_at(tenant, as_of)
            return View(tenant, self.snapshot, (self.tail,), at, self.tail.head)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Let several questions of this thread see one and the same state, the newest, and look for it once."""
        with self.lock:
            self.refresh()
            self._steady += 1
            try:
                yield
            finally:
                self._steady -= 1

    def events(self, tenant: str, sequences: Sequence[int]) -> list[Event]:
        """Events of a tenant by number."""
        with self.lock:
            self.refresh()
            wanted = set(sequences)
            found = {e.sequence: e for e in self.tail.events if e.tenant == tenant and e.sequence in wanted}
            if missing := sorted(wanted - found.keys()):
                found.update((e.sequence, e) for e in self.table.by_sequence(tenant, missing))
        return [found[n] for n in sorted(found)]

    def done_under(self, tenant: str, action: str, key: str) -> list[Event]:
        """The events of the command that was given under an idempotency key; none where there was none."""
        with self.lock:
            self.refresh()
            found = self.tail.key(tenant, action, key) or self.snapshot.key(tenant, action, key)
            return [] if found is None else self.events(tenant, range(found[0], sum(found)))

    def head(self, tenant: str) -> tuple[int, str]:
        """Number and hash of the newest event of a tenant; 0 and the empty text without any."""
        with self.lock:
            self.refresh()
            sequence, digest, _ = self.head_of(checked_tenant(tenant))
        return sequence, digest

    def position(self) -> int:
        """Position of the newest event of all tenants; what a view shows is complete up to there."""
        with self.lock:
            self.refresh()
            return self.tail.head

    def last_position(self) -> int:
        """The same from the table's file list alone, without opening projections and tail."""
        with self.lock:
            self.table.refresh()
            return self.table.last_position()

    def between(self, first: int, last: int) -> list[Event]:
        """Events of all tenants by position, in order."""
        with self.lock:
            self.table.refresh()
            return self.table.between(first, last)

    # -- keeping up -------------------------------------------------------------------------

    def check_readable(self, tenant: str) -> None:
        """Raise what stands in the way of saying anything about a tenant."""
        if (failure := self.tail.unreadable.get(tenant)) is not None:
            raise failure

    def head_of(self, tenant: str) -> Head:
        """The newest event of a tenant, as far as the state goes."""
        if tenant not in self._heads:
            event = self.table.head(tenant) if self.tail.base else None  # else the tail is the whole log
            self._heads[tenant] = (
                (0, "", datetime.min.replace(tzinfo=UTC))
                if event is None
                else (event.sequence, event.hash, event.recorded_at)
            )
        return self._heads[tenant]

    def _sequence_at(self, tenant: str, when: datetime) -> int:
        if when.tzinfo is None:
            raise InvalidInput(f"the time {when.isoformat()} has no zone; add one, such as +00:00")
        known = [e.sequence for e in self.tail.events if e.tenant == tenant and e.recorded_at <= when]
        if known or not self.tail.base:
            return known[-1] if known else 0
        return self.table.sequence_at(tenant, when)

    def refresh(self) -> None:
        """Take what the log has got since the last look."""
        if self._steady:
            return
        found = None if self._snapshot is None else self.table.since(self.version)
        if found is not None:
            version, new = found
        else:
            version, new = self.table.refresh(), None
        if version == self.version:
            return
        if self._snapshot is None:
            self._open()
        else:
            self._take(self.table.after(self.tail.head) if new is None else new)
        self.version = version
        if self.tail.long:
            # Others write and fold; this process has only been reading.
            self.fold_soon()

    def _open(self) -> None:
        snapshot, base = self._begin()
        if too_many(self.table.last_position() - base):
            # The projections were dropped, or an import was large: no process holds all that in memory.
            self._fold_now(self.table.blocks(snapshot.block + 1))
            snapshot, base = self._begin()
        new = self.table.after(base)
        full = list(whole_blocks(new, last=new[-1].block)) if new else []
        if any(event.entity_type == BULK for _, events in full for event in events):
            # Somebody was killed before a bulk command was folded.
            self._fold_now(full)
            snapshot, base = self._begin()
            new = self.table.after(base)
        self._snapshot, self.tail, self._heads = snapshot, Tail(base, self.bulk, block=snapshot.block), {}
        self._take(new)

    def _fold_now(self, blocks: Iterable[tuple[int, Sequence[Event]]]) -> None:
        try:
            fold_blocks(self.lake, blocks, self.bulk)
        except (EventUnreadable, BulkFileDamaged) as failure:
            # Its tenant is told so; the others go on, with what cannot be folded in memory.
            _logger.warning("the log was not folded to its end: %s", failure)

    def _begin(self) -> tuple[Snapshot, int]:
        """The projections, and the position up to which they hold all."""
        snapshot = Snapshot(self.lake)
        self.table.refresh()  # At least as new as what others have folded of it.
        base = self.table.start_of(snapshot.block + 1) - 1
        last = self.table.between(base, base) if base else []
        if (last[0].block if last else 0) != snapshot.block or snapshot.end() > base:
            raise LogDamaged(
                f"the projections hold {snapshot.block} blocks of the log, the last of which does not end at "
                f"position {base} there; {RESTORE}, or run `mlreg audit rebuild` where it is whole"
            )
        return snapshot, base

    def _take(self, events: Iterable[Event]) -> None:
        new = [event for event in events if event.position > self.tail.head]
        follow(new, self.tail.filling.copy(), after=self.tail.head)
        self.tail.take(new)
        for event in new:
            self._heads[event.tenant] = (event.sequence, event.hash, event.recorded_at)

    def adopt(self, events: Sequence[Event], version: int) -> None:
        """Take what this process has just committed, unless a reader took it from the table already."""
        with self.lock:
            if self.tail.head < events[0].position:
                self._take(events)
            self.version = max(self.version, version)

    # -- folding ---------------------------------------------------------------------------

    def fold_soon(self) -> None:
        """Fold whole blocks beside the callers."""
        with self.lock:
            if not self.tail.foldable:
                return
            if self._folding is not None and not self._folding.done():
                return
            if self._folder is None:
                self._folder = ThreadPoolExecutor(1, thread_name_prefix="mlreg-folding")
            # The blocks are listed here, since the tail grows while they are folded.
            self._folding = self._folder.submit(self._fold, self.tail.block, self.tail.full_blocks())

    def _fold(self, begins_after: int, blocks: Sequence[tuple[int, Sequence[Event]]]) -> None:
        try:
            have = min(folded(self.lake).values())
            # What the tail no longer holds is missing where somebody has dropped a projection.
            fold_blocks(
                self.lake,
                blocks if have >= begins_after else LogTable(self.lake).blocks(have + 1),
                self.bulk,
            )
            snapshot = Snapshot(self.lake, self._snapshot)
        except MlregError as failure:
            _logger.warning("the projections were not folded, the next command tries again: %s", failure)
            return
        with self.lock:
            before = self.tail
            if self._snapshot is None or snapshot.block <= before.block or not before.events:
                return
            # What others have folded and this tail has not seen yet stays to come: it may be in both.
            rest = before.since(snapshot.block)
            snapshot.lookups = self._snapshot.lookups.after(before.states(upto=snapshot.block))
            self._snapshot, self.tail = snapshot, before.cut(rest, block=snapshot.block)

    def drop(self) -> None:
        """Forget what is held, so that the next look opens the log anew."""
        with self.lock:
            self._snapshot, self.version = None, UNSEEN

    def settle(self) -> None:
        """Wait until folding under way is done."""
        folding = self._folding
        if folding is not None:
            folding.result()

    def close(self) -> None:
        """Wait for folding and end its thread."""
        self.settle()
        if self._folder is not None:
            self._folder.shutdown(wait=True)
            self._folder = None
