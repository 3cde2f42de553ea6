"""Commands that wait to be committed: whoever gets the turn commits all that wait, and hands the turn on.

How they are decided and committed is in `committing.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.commands import Command, Done
from ml_registry_pipelines.registry.events import Event, new_id, now

GROUP = 500
"""Commands of one commit at most."""
GATHER_SECONDS = 0.002
"""How long a leader that had company waits for more, against a commit of some 10 ms."""


class Waiting:
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


class CommandQueue:
    """The queue of one process and log.

    Args:
        commit: decides and commits a group, and gives each its outcome; what it raises is the outcome of those
            that have none.
    """

    def __init__(self, commit: Callable[[list[Waiting]], None]) -> None:
        self._commit = commit
        self._led = False
        self._grouped = 1
        self._queue: list[Waiting] = []
        self._lock = threading.Lock()

    def do(self, waiting: Waiting) -> Done:
        """Have a command committed with those that wait; its outcome."""
        with self._lock:
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

    def _lead(self) -> None:
        """Commit what waits, and hand the lead to the next in the queue."""
        group: list[Waiting] = []
        try:
            group = self._next_group()
            self._settle(group)
        finally:
            for waiting in group:
                waiting.wake()
            with self._lock:
                self._led = bool(self._queue)
                if self._led:
                    self._queue[0].leads = True
                    self._queue[0].wake()

    def _next_group(self) -> list[Waiting]:
        """The commands to commit together: of those under one idempotency key, only the first."""
        if self._grouped > 1:
            # There was company just now, and it is about to come back: worth a moment.
            time.sleep(GATHER_SECONDS)
        keys: set[tuple[str, str, str]] = set()
        group: list[Waiting] = []
        with self._lock:
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

    def _settle(self, group: list[Waiting]) -> None:
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
