"""Deciding commands and committing their events: whole or not at all, each tenant's in one gapless chain.

Every commit is the one right after the version that was decided on; a lost race decides anew. A
commit without an answer is looked for by its command id.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.lake import CommitUnknown, LostRace
from ml_registry_pipelines.registry.actors import Request
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.command_queue import Waiting
from ml_registry_pipelines.registry.commands import Change, Done
from ml_registry_pipelines.registry.errors import InvalidInput, KeyReused
from ml_registry_pipelines.registry.events import (
    BULK,
    MAX_PAYLOAD,
    Event,
    event_hash,
    new_id,
    payload_of,
    to_arrow,
    to_note,
)
from ml_registry_pipelines.registry.gate import concerns
from ml_registry_pipelines.registry.log_state import Head, LogState
from ml_registry_pipelines.registry.log_table import NOTE, TABLE
from ml_registry_pipelines.registry.personal import refuse_addresses
from ml_registry_pipelines.registry.tail import Tail
from ml_registry_pipelines.registry.turns import turn
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.registry.log import Log

PATIENCE_SECONDS = 60.0
STORE_TRIES = 3


class Committer:
    """Writes the log of one lake. Of its methods, `commit` is called by one thread at a time.

    Args:
        log: whose policy, gate and clock are asked.
        state: what commands are decided on.
    """

    def __init__(self, log: Log, state: LogState) -> None:
        self._log = log
        self._state = state
        self._beside: ThreadPoolExecutor | None = None

    def commit(self, group: list[Waiting]) -> None:
        """Decide commands one after the other, commit those that succeed, and give all their outcome."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        unsure = tries = decided_at = 0
        open_ones = group
        while open_ones:
            with turn(self._log.lake.root, TABLE):
                self._ready_to_write()
                with self._state.steady():
                    version = self._state.version
                    if unsure:
                        open_ones = self._landed(open_ones, decided_at)
                    decided_at = self._state.tail.head
                    events = self._decide(open_ones)
                open_ones = [waiting for waiting in open_ones if waiting.outcome is None]
                if not events:
                    break
                try:
                    note = to_note(events)
                    written = self._log.lake.append_expecting(
                        TABLE, to_arrow(events), version=version, note=None if note is None else {NOTE: note}
                    )
                except LostRace:
                    if time.monotonic() > deadline:
                        raise
                except CommitUnknown:
                    unsure += 1
                    if unsure >= STORE_TRIES or time.monotonic() > deadline:
                        with self._state.lock:
                            self._state.refresh()
                            if not self._landed(open_ones, decided_at):
                                break
                        raise
                else:
                    self._state.adopt(events, written)
                    for waiting in open_ones:
                        waiting.outcome = Done(waiting.events)
                    break
            tries += 1
            time.sleep(random.uniform(0, 0.01 * min(tries, 10)))
        self._state.fold_soon()

    def _ready_to_write(self) -> None:
        """Bring the writer's handle to what others have committed, beside the reading of it."""
        if self._state.version < 0 or self._log.lake.is_newest(TABLE, self._state.version):
            return
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, thread_name_prefix="mlreg-writer")
        # Who writes waits for the handle, and is told what is wrong with the store.
        self._beside.submit(self._log.lake.catch_up, TABLE)

    def _landed(self, group: list[Waiting], after: int) -> list[Waiting]:
        """Settle the commands whose events are in the log after all; return the others."""
        ids: dict[str, list[Event]] = {}
        # From the table, because what had been in the tail may have been folded meanwhile.
        self._state.table.refresh()
        for event in self._state.table.after(after):
            ids.setdefault(event.command_id, []).append(event)
        for waiting in group:
            if waiting.id in ids:
                waiting.outcome = Done(tuple(ids[waiting.id]))
        return [waiting for waiting in group if waiting.outcome is None]

    def _decide(self, group: list[Waiting]) -> list[Event]:
        """Decide the commands one after the other; those that fail are settled here."""
        draft = self._state.tail.draft()
        heads: dict[str, Head] = {}
        for waiting in group:
            command = waiting.command
            view = View(command.tenant, self._state.snapshot, (self._state.tail, draft))
            try:
                if waiting.ask:
                    # Here, on the state that is committed: who loses a right now has lost it.
                    self._log.ask(
                        Request(
                            command.actor, command.tenant, command.action, command.entity_type, command.change
                        )
                    )
                self._state.check_readable(command.tenant)
                if (done := self._done_before(view, waiting)) is not None:
                    waiting.outcome = done
                    continue
                changes = command.decide(view)
                if not changes:
                    waiting.outcome = Done(())
                    continue
                if concerns(changes):
                    changes = [*changes, *self._log.gate.decide(self._log, command, view, changes)]
                head = heads.get(command.tenant) or self._state.head_of(command.tenant)
                waiting.events = self._events(waiting, changes, head, draft)
                draft.add(waiting.events)
            except Exception as failure:  # noqa: BLE001 - its own caller gets it; the neighbours go on
                waiting.outcome = failure
                continue
            last = waiting.events[-1]
            heads[command.tenant] = (last.sequence, last.hash, last.recorded_at)
        return draft.events

    def _done_before(self, view: View, waiting: Waiting) -> Done | None:
        command = waiting.command
        key = command.idempotency_key
        if key is None:
            return None
        found = self._state.tail.key(command.tenant, command.action, key) or view.snapshot.key(
            command.tenant, command.action, key
        )
        if found is None:
            return None
        first, parts = found
        events = self._state.events(command.tenant, range(first, first + parts))
        since = command.valid_from or events[0].valid_from
        if canonical(events[0].change) != waiting.change or since != events[0].valid_from:
            raise KeyReused(key, command.action, first)
        return Done(tuple(events), before=True)

    def _events(
        self, waiting: Waiting, changes: Sequence[Change], head: Head, draft: Tail
    ) -> tuple[Event, ...]:
        command = waiting.command
        sequence, previous, before = head
        recorded_at = max(self._log.clock(), before)
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
            with turn(self._log.lake.root, TABLE):
                absent(self._state.view(tenant))
                with self._state.lock:
                    version, head, filling = (
                        self._state.version,
                        self._state.tail.head,
                        self._state.tail.filling.copy(),
                    )
                placed = _placed(rows, head, [filling.place(weights.get(n, 1)) for n in range(1, last + 1)])
                try:
                    self._log.lake.append_expecting(TABLE, placed, version=version)
                    break
                except LostRace:
                    if time.monotonic() > deadline:
                        raise
                except CommitUnknown:
                    # Nobody but this import could have written its last hash.
                    if self._state.head(tenant) == (last, digest):
                        break
                    tries += 1
                    if tries >= STORE_TRIES or time.monotonic() > deadline:
                        raise
        # A long history is folded before anything is held of it.
        self._state.drop()
        self._state.view(tenant)
        self._state.fold_soon()

    def close(self) -> None:
        """End the thread."""
        if self._beside is not None:
            self._beside.shutdown(wait=True)
            self._beside = None


def _placed(rows: pa.Table, head: int, blocks: Sequence[int]) -> pa.Table:
    """A tenant's events behind position `head`, in those blocks."""
    import pyarrow as pa

    for name, values in {"position": range(head + 1, head + len(rows) + 1), "block": blocks}.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, pa.int64()))
    return rows
