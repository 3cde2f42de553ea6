"""The log: commands become events, whole or not at all, each tenant's in one gapless chain.

Callers of one process share commits: whoever gets the turn decides all commands that wait,
one after the other on what the ones before it did, and commits them together. A command
that fails, fails alone. Every commit is the one right after the version that was decided
on; a lost race decides anew. A commit without an answer is looked for by its command id.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from ml_registry_pipelines.access.access_log import AccessLog, Outcome
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import CommitUnknown, Lake, LostRace
from ml_registry_pipelines.registry.actors import Decision, Policy, Request
from ml_registry_pipelines.registry.bulk import BulkFileDamaged, BulkFiles
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.commands import Change, Command, Done
from ml_registry_pipelines.registry.errors import (
    RESTORE,
    EventUnreadable,
    InvalidInput,
    KeyReused,
    LogDamaged,
    NotAllowed,
)
from ml_registry_pipelines.registry.events import (
    BULK,
    MAX_PAYLOAD,
    Event,
    event_hash,
    new_id,
    now,
    payload_of,
    to_arrow,
    to_note,
)
from ml_registry_pipelines.registry.gate import GATED, Gate, GateRefused, concerns
from ml_registry_pipelines.registry.log_table import NOTE, TABLE, LogTable
from ml_registry_pipelines.registry.names import checked_key, checked_pseudonym, checked_tenant
from ml_registry_pipelines.registry.personal import refuse_addresses
from ml_registry_pipelines.registry.projections import Snapshot, fold_blocks, folded
from ml_registry_pipelines.registry.tail import Tail, follow, too_many, whole_blocks
from ml_registry_pipelines.registry.turns import turn
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 500
"""Commands of one commit at most."""
PATIENCE_SECONDS = 60.0
GATHER_SECONDS = 0.002
"""How long a leader that had company waits for more, against a commit of some 10 ms."""
STORE_TRIES = 3
UNSEEN = -2
"""Version of a log that was not looked at; -1 is that of one which nobody has written yet."""

_logger = logging.getLogger(__name__)


class _Waiting:
    """A command in the queue, until it is done or has failed."""

    def __init__(self, command: Command, change: str, *, ask: bool) -> None:
        self.command = command
        self.change = change
        """What was asked, as canonical JSON."""
        self.ask = ask
        self.id = new_id()
        self.occurred_at = now()
        self.events: tuple[Event, ...] = ()
        self.outcome: Done | BaseException | None = None
        # A fifth of what a future and an event cost to make and to wait for.
        self._woken: SimpleQueue[None] = SimpleQueue()
        self.leads = False

    def wake(self) -> None:
        self._woken.put(None)

    def wait(self) -> None:
        self._woken.get()

    def result(self) -> Done:
        assert self.outcome is not None
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class Log:
    """The log of one lake, and the one place where its events are written.

    One per process and lake; thread-safe. `close` waits for folding under way.

    Args:
        lake: where the tables are.
        policy: asked about every command and read; by default, who the users are and what they may do.
        clock: the present instant in UTC.
        gate: asked on the state that a command is decided on, where that would put something live; by
            default that of `compliance/gate`, so that no door is open because somebody forgot to give one.
    """

    def __init__(
        self,
        lake: Lake,
        *,
        policy: Policy | None = None,
        clock: Callable[[], datetime] = now,
        gate: Gate | None = None,
    ) -> None:
        self.lake = lake
        self.bulk = BulkFiles(lake)
        self._policy = policy
        self._clock = clock
        self._gate = gate
        self._table = LogTable(lake)
        self._state_lock = threading.RLock()
        self._steady = 0
        self._led = False
        self._grouped = 1
        self._queue: list[_Waiting] = []
        self._queue_lock = threading.Lock()
        self._heads: dict[str, tuple[int, str, datetime]] = {}
        self._version = UNSEEN
        self._snapshot: Snapshot | None = None
        self._tail = Tail(0, self.bulk)
        self._folding: Future[None] | None = None
        self._folder: ThreadPoolExecutor | None = None
        self._beside: ThreadPoolExecutor | None = None

    # -- reading -----------------------------------------------------------------------

    def view(self, tenant: str, *, as_of: datetime | None = None) -> View:
        """What holds now, or what had been recorded at an instant."""
        tenant = checked_tenant(tenant)
        with self._state_lock:
            self._refresh()
            assert self._snapshot is not None
            self._check_readable(tenant)
            at = None if as_of is None else self._sequence_at(tenant, as_of)
            return View(tenant, self._snapshot, (self._tail,), at, self._tail.head)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Let several questions of this thread see one and the same state, the newest, and look for it once."""
        with self._state_lock:
            self._refresh()
            self._steady += 1
            try:
                yield
            finally:
                self._steady -= 1

    def events(self, tenant: str, sequences: Sequence[int]) -> list[Event]:
        """Events of a tenant by number."""
        with self._state_lock:
            self._refresh()
            wanted = set(sequences)
            found = {e.sequence: e for e in self._tail.events if e.tenant == tenant and e.sequence in wanted}
            if missing := sorted(wanted - found.keys()):
                found.update((e.sequence, e) for e in self._table.by_sequence(tenant, missing))
        return [found[n] for n in sorted(found)]

    def done_under(self, tenant: str, action: str, key: str) -> list[Event]:
        """The events of the command that was given under an idempotency key; none where there was none."""
        with self._state_lock:
            self._refresh()
            assert self._snapshot is not None
            found = self._tail.key(tenant, action, key) or self._snapshot.key(tenant, action, key)
            return [] if found is None else self.events(tenant, range(found[0], sum(found)))

    def head(self, tenant: str) -> tuple[int, str]:
        """Number and hash of the newest event of a tenant; 0 and the empty text without any."""
        with self._state_lock:
            self._refresh()
            sequence, digest, _ = self._head(checked_tenant(tenant))
        return sequence, digest

    def position(self) -> int:
        """Position of the newest event of all tenants; what a view shows is complete up to there."""
        with self._state_lock:
            self._refresh()
            return self._tail.head

    def last_position(self) -> int:
        """The same from the table's file list alone, without opening projections and tail."""
        with self._state_lock:
            self._table.refresh()
            return self._table.last_position()

    def between(self, first: int, last: int) -> list[Event]:
        """Events of all tenants by position, in order."""
        with self._state_lock:
            self._table.refresh()
            return self._table.between(first, last)

    def tenants(self) -> list[str]:
        """Tenants that have a history, in order."""
        return self._table.tenants()

    def ask(self, request: Request) -> None:
        """Ask the policy, as every door does before it answers or acts.

        Raises:
            NotAllowed: it refuses.
        """
        decision = self.decision(request)
        if not decision.allowed:
            AccessLog(self.lake).note(
                request.actor,
                request.action,
                request.entity_type,
                tenant=request.tenant,
                outcome=Outcome.REFUSED,
                reason=decision.reason,
            )
            raise NotAllowed(
                f"{request.actor.id!r} may not {request.action} in tenant {request.tenant!r}: "
                f"{decision.reason}"
            )

    def decision(self, request: Request) -> Decision:
        """What the policy says, for who asks about one thing after another and notes the refusal itself."""
        if self._policy is None:
            from ml_registry_pipelines.access.policy import policy_of

            self._policy = policy_of(self)
        return self._policy(request)

    # -- writing -----------------------------------------------------------------------

    def run(self, command: Command) -> Done:
        """Do a command, or return what it did when it first came under its idempotency key.

        Raises:
            NotAllowed: the policy refuses it.
            RegistryError: what the command itself finds wrong.
            KeyReused: the idempotency key stands for something else.
            LakeError: the store failed; the text says whether something may have landed.
        """
        change = self._checked(command)
        try:
            return self._done(command, change, ask=True)
        except GateRefused as refusal:
            AccessLog(self.lake).note(
                command.actor,
                command.action,
                command.entity_type,
                tenant=command.tenant,
                outcome=Outcome.REFUSED,
                reason=refusal.reason,
            )
            self.gate.refused(self, command, refusal)
            raise
        except NotAllowed as refusal:
            if command.action in GATED:
                self.gate.refused(self, command, GateRefused(str(refusal)))
            raise

    def record(self, command: Command) -> Done:
        """Do a command that nobody asks for: what the log itself has to say, such as that it refused one."""
        return self._done(command, canonical(command.change), ask=False)

    def _done(self, command: Command, change: str, *, ask: bool) -> Done:
        waiting = _Waiting(command, change, ask=ask)
        with self._queue_lock:
            self._queue.append(waiting)
            if not self._led:
                self._led = waiting.leads = True
                waiting.wake()
        while True:
            waiting.wait()
            if waiting.leads:
                waiting.leads = False
                self._lead()
            if waiting.outcome is not None:
                return waiting.result()

    @property
    def gate(self) -> Gate:
        """What is asked where something would go live."""
        if self._gate is None:
            # Made when it is first needed: most processes put nothing live.
            from ml_registry_pipelines.compliance.gate.deciding import ComplianceGate

            self._gate = ComplianceGate()
        return self._gate

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present instant in UTC."""
        return self._clock

    def _lead(self) -> None:
        """Commit what waits, and hand the lead to the next in the queue."""
        group: list[_Waiting] = []
        try:
            group = self._next_group()
            self._settle(group)
        finally:
            for waiting in group:
                waiting.wake()
            with self._queue_lock:
                self._led = bool(self._queue)
                if self._led:
                    self._queue[0].leads = True
                    self._queue[0].wake()

    def _checked(self, command: Command) -> str:
        """What is asked, as canonical JSON."""
        checked_tenant(command.tenant)
        checked_pseudonym(command.actor.id, "actor")
        if command.idempotency_key is not None:
            checked_key(command.idempotency_key)
        if command.valid_from is not None and command.valid_from.tzinfo is None:
            raise InvalidInput(f"valid_from {command.valid_from.isoformat()} has no time zone")
        if command.valid_from is not None and command.valid_from > self._clock():
            # What is recorded is what holds: nothing would put a plan into force when its time comes.
            raise InvalidInput(
                f"the effective time {command.valid_from.isoformat()} lies ahead; record the act when it holds"
            )
        return canonical(command.change)

    def _next_group(self) -> list[_Waiting]:
        """The commands to commit together: of those under one idempotency key, only the first."""
        if self._grouped > 1:
            # There was company just now, and it is about to come back: worth a moment.
            time.sleep(GATHER_SECONDS)
        keys: set[tuple[str, str, str]] = set()
        group: list[_Waiting] = []
        with self._queue_lock:
            later = []
            for waiting in self._queue:
                command = waiting.command
                key = (command.tenant, command.action, command.idempotency_key or waiting.id)
                if len(group) < GROUP and key not in keys:
                    keys.add(key)
                    group.append(waiting)
                else:
                    later.append(waiting)
            self._queue = later
        self._grouped = len(group)
        return group

    def _settle(self, group: list[_Waiting]) -> None:
        try:
            self._commit(group)
        except MlregError as failure:
            for waiting in group:
                if waiting.outcome is None:
                    waiting.outcome = failure
        finally:
            # A defect must not leave neighbours waiting for ever.
            for waiting in group:
                if waiting.outcome is None:
                    waiting.outcome = RuntimeError("the commit of this command was broken off")

    def _commit(self, group: list[_Waiting]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        unsure = tries = decided_at = 0
        open_ones = group
        while open_ones:
            with turn(self.lake.root, TABLE):
                self._ready_to_write()
                with self.steady():
                    version = self._version
                    if unsure:
                        open_ones = self._landed(open_ones, decided_at)
                    decided_at = self._tail.head
                    events = self._decide(open_ones)
                open_ones = [waiting for waiting in open_ones if waiting.outcome is None]
                if not events:
                    break
                try:
                    note = to_note(events)
                    written = self.lake.append_expecting(
                        TABLE, to_arrow(events), version=version, note=None if note is None else {NOTE: note}
                    )
                except LostRace:
                    if time.monotonic() > deadline:
                        raise
                except CommitUnknown:
                    unsure += 1
                    if unsure >= STORE_TRIES or time.monotonic() > deadline:
                        with self._state_lock:
                            self._refresh()
                            if not self._landed(open_ones, decided_at):
                                break
                        raise
                else:
                    self._adopt(events, written)
                    for waiting in open_ones:
                        waiting.outcome = Done(waiting.events)
                    break
            tries += 1
            time.sleep(random.uniform(0, 0.01 * min(tries, 10)))
        self._fold_soon()

    def _ready_to_write(self) -> None:
        """Bring the writer's handle to what others have committed, beside the reading of it."""
        if self._version < 0 or self.lake.is_newest(TABLE, self._version):
            return
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, thread_name_prefix="mlreg-writer")
        # Who writes waits for the handle, and is told what is wrong with the store.
        self._beside.submit(self.lake.catch_up, TABLE)

    def _landed(self, group: list[_Waiting], after: int) -> list[_Waiting]:
        """Settle the commands whose events are in the log after all; return the others."""
        ids: dict[str, list[Event]] = {}
        # From the table, because what had been in the tail may have been folded meanwhile.
        self._table.refresh()
        for event in self._table.after(after):
            ids.setdefault(event.command_id, []).append(event)
        for waiting in group:
            if waiting.id in ids:
                waiting.outcome = Done(tuple(ids[waiting.id]))
        return [waiting for waiting in group if waiting.outcome is None]

    def _decide(self, group: list[_Waiting]) -> list[Event]:
        """Decide the commands one after the other; those that fail are settled here."""
        assert self._snapshot is not None
        draft = self._tail.draft()
        heads: dict[str, tuple[int, str, datetime]] = {}
        for waiting in group:
            command = waiting.command
            view = View(command.tenant, self._snapshot, (self._tail, draft))
            try:
                if waiting.ask:
                    # Here, on the state that is committed: who loses a right now has lost it.
                    self.ask(
                        Request(
                            command.actor, command.tenant, command.action, command.entity_type, command.change
                        )
                    )
                self._check_readable(command.tenant)
                if (done := self._done_before(view, waiting)) is not None:
                    waiting.outcome = done
                    continue
                changes = command.decide(view)
                if not changes:
                    waiting.outcome = Done(())
                    continue
                if concerns(changes):
                    changes = [*changes, *self.gate.decide(self, command, view, changes)]
                head = heads.get(command.tenant) or self._head(command.tenant)
                waiting.events = self._events(waiting, changes, head, draft)
                draft.add(waiting.events)
            except Exception as failure:  # noqa: BLE001 - its own caller gets it; the neighbours go on
                waiting.outcome = failure
                continue
            last = waiting.events[-1]
            heads[command.tenant] = (last.sequence, last.hash, last.recorded_at)
        return draft.events

    def _done_before(self, view: View, waiting: _Waiting) -> Done | None:
        command = waiting.command
        key = command.idempotency_key
        if key is None:
            return None
        found = self._tail.key(command.tenant, command.action, key) or view.snapshot.key(
            command.tenant, command.action, key
        )
        if found is None:
            return None
        first, parts = found
        events = self.events(command.tenant, range(first, first + parts))
        since = command.valid_from or events[0].valid_from
        if canonical(events[0].change) != waiting.change or since != events[0].valid_from:
            raise KeyReused(key, command.action, first)
        return Done(tuple(events), before=True)

    def _events(
        self, waiting: _Waiting, changes: Sequence[Change], head: tuple[int, str, datetime], draft: Tail
    ) -> tuple[Event, ...]:
        command = waiting.command
        sequence, previous, before = head
        recorded_at = max(self._clock(), before)
        made = []
        filling = draft.filling.copy()
        for part, change in enumerate(changes, start=1):
            asked = waiting.change if part == 1 else canonical(change.change or {})
            state = canonical(change.state)
            payload = payload_of(asked, state)
            refuse_addresses(payload, command.action)
            if len(payload.encode()) > MAX_PAYLOAD:
                raise InvalidInput(
                    f"{command.action} would record {len(payload):,} characters about one "
                    f"{change.entity_type} and the log keeps {MAX_PAYLOAD:,} bytes at most; "
                    "put large values into an artifact"
                )
            fields: dict[str, Any] = {
                "tenant": command.tenant,
                "sequence": sequence + part,
                "event_id": new_id(),
                "command_id": waiting.id,
                "part": part,
                "parts": len(changes),
                "occurred_at": waiting.occurred_at,
                "recorded_at": recorded_at,
                "valid_from": (command.valid_from or recorded_at).astimezone(UTC),
                "actor": command.actor.id,
                "actor_kind": command.actor.kind.value,
                "authenticated_by": command.actor.authenticated_by,
                "action": command.action,
                "entity_type": change.entity_type,
                "entity_id": change.entity_id,
                "payload": payload,
                "idempotency_key": command.idempotency_key,
                "run_id": command.run_id,
                "previous_hash": previous,
            }
            previous = event_hash(fields)
            weight = int(str(change.state["entities"])) if change.entity_type == BULK else 1
            event = Event(**fields, hash=previous, position=draft.head + part, block=filling.place(weight))
            event.__dict__["state_text"] = state  # known here; else it is spelled anew
            made.append(event)
        return tuple(made)

    def append_verbatim(
        self, rows: pa.Table, weights: Mapping[int, int], *, absent: Callable[[View], None]
    ) -> None:
        """Append a tenant's whole history, by sequence, in one commit, as it is but for its places.

        For imports alone, which have verified it; `weights` says how many entities its bulk events
        are about, by sequence; `absent` raises if the tenant is there.
        """
        tenant, last, digest = (rows[name][-1].as_py() for name in ("tenant", "sequence", "hash"))
        deadline = time.monotonic() + PATIENCE_SECONDS
        tries = 0
        while True:
            with turn(self.lake.root, TABLE):
                absent(self.view(tenant))
                with self._state_lock:
                    version, head, filling = self._version, self._tail.head, self._tail.filling.copy()
                placed = _placed(rows, head, [filling.place(weights.get(n, 1)) for n in range(1, last + 1)])
                try:
                    self.lake.append_expecting(TABLE, placed, version=version)
                    break
                except LostRace:
                    if time.monotonic() > deadline:
                        raise
                except CommitUnknown:
                    # Nobody but this import could have written its last hash.
                    if self.head(tenant) == (last, digest):
                        break
                    tries += 1
                    if tries >= STORE_TRIES or time.monotonic() > deadline:
                        raise
        with self._state_lock:
            # A long history is folded before anything is held of it.
            self._snapshot, self._version = None, UNSEEN
        self.view(tenant)
        self._fold_soon()

    # -- what is known -------------------------------------------------------------------

    def _check_readable(self, tenant: str) -> None:
        if (failure := self._tail.unreadable.get(tenant)) is not None:
            raise failure

    def _head(self, tenant: str) -> tuple[int, str, datetime]:
        if tenant not in self._heads:
            event = self._table.head(tenant)
            self._heads[tenant] = (
                (0, "", datetime.min.replace(tzinfo=UTC))
                if event is None
                else (event.sequence, event.hash, event.recorded_at)
            )
        return self._heads[tenant]

    def _sequence_at(self, tenant: str, when: datetime) -> int:
        if when.tzinfo is None:
            raise InvalidInput(f"the time {when.isoformat()} has no zone; add one, such as +00:00")
        known = [e.sequence for e in self._tail.events if e.tenant == tenant and e.recorded_at <= when]
        return known[-1] if known else self._table.sequence_at(tenant, when)

    def _refresh(self) -> None:
        """Take what the log has got since the last look."""
        if self._steady:
            return
        found = None if self._snapshot is None else self._table.since(self._version)
        if found is not None:
            version, new = found
        else:
            version, new = self._table.refresh(), None
        if version == self._version:
            return
        if self._snapshot is None:
            self._open()
        else:
            self._take(self._table.after(self._tail.head) if new is None else new)
        self._version = version
        if self._tail.long:
            # Others write and fold; this process has only been reading.
            self._fold_soon()

    def _open(self) -> None:
        snapshot, base = self._begin()
        if too_many(self._table.last_position() - base):
            # The projections were dropped, or an import was large: no process holds all that in memory.
            self._fold_now(self._table.blocks(snapshot.block + 1))
            snapshot, base = self._begin()
        new = self._table.after(base)
        full = list(whole_blocks(new, last=new[-1].block)) if new else []
        if any(event.entity_type == BULK for _, events in full for event in events):
            # Somebody was killed before a bulk command was folded.
            self._fold_now(full)
            snapshot, base = self._begin()
            new = self._table.after(base)
        self._snapshot, self._tail, self._heads = snapshot, Tail(base, self.bulk, block=snapshot.block), {}
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
        self._table.refresh()  # At least as new as what others have folded of it.
        base = self._table.start_of(snapshot.block + 1) - 1
        last = self._table.between(base, base) if base else []
        if (last[0].block if last else 0) != snapshot.block or snapshot.end() > base:
            raise LogDamaged(
                f"the projections hold {snapshot.block} blocks of the log, the last of which does not end at "
                f"position {base} there; {RESTORE}, or run `mlreg audit rebuild` where it is whole"
            )
        return snapshot, base

    def _take(self, events: Iterable[Event]) -> None:
        new = [event for event in events if event.position > self._tail.head]
        follow(new, self._tail.filling.copy(), after=self._tail.head)
        self._tail.take(new)
        for event in new:
            self._heads[event.tenant] = (event.sequence, event.hash, event.recorded_at)

    def _adopt(self, events: Sequence[Event], version: int) -> None:
        """Take what this process has just committed, unless a reader took it from the table already."""
        with self._state_lock:
            if self._tail.head < events[0].position:
                self._take(events)
            self._version = max(self._version, version)

    # -- folding ---------------------------------------------------------------------------

    def _fold_soon(self) -> None:
        """Fold whole blocks beside the callers."""
        with self._state_lock:
            if not self._tail.foldable:
                return
            if self._folding is not None and not self._folding.done():
                return
            if self._folder is None:
                self._folder = ThreadPoolExecutor(1, thread_name_prefix="mlreg-folding")
            # The blocks are listed here, since the tail grows while they are folded.
            self._folding = self._folder.submit(self._fold, self._tail.block, self._tail.full_blocks())

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
        with self._state_lock:
            before = self._tail
            if self._snapshot is None or snapshot.block <= before.block or not before.events:
                return
            # What others have folded and this tail has not seen yet stays to come: it may be in both.
            rest = before.since(snapshot.block)
            snapshot.lookups = self._snapshot.lookups.after(before.states(upto=snapshot.block))
            self._snapshot, self._tail = snapshot, before.cut(rest, block=snapshot.block)

    def settle(self) -> None:
        """Wait until folding under way is done."""
        folding = self._folding
        if folding is not None:
            folding.result()

    def close(self) -> None:
        """Wait for folding and end the threads."""
        self.settle()
        for threads in (self._folder, self._beside):
            if threads is not None:
                threads.shutdown(wait=True)
        self._folder = self._beside = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _placed(rows: pa.Table, head: int, blocks: Sequence[int]) -> pa.Table:
    """A tenant's events behind position `head`, in those blocks."""
    import pyarrow as pa

    for name, values in {"position": range(head + 1, head + len(rows) + 1), "block": blocks}.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, pa.int64()))
    return rows
