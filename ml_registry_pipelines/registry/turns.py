"""Whose turn it is to write: an advisory lock that spares processes lost races.

Nothing rests on it but speed. An object store has none; and who has waited for
`PATIENCE_SECONDS`, because a holder hangs, goes on without.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ml_registry_pipelines.lake.outcomes import LakeError

PATIENCE_SECONDS = 2.0


@contextmanager
def turn(root: str, name: str) -> Iterator[None]:
    """Hold the lock `name` of a folder while the block runs.

    Raises:
        LakeError: the folder cannot be written.
    """
    if root.startswith("s3://"):
        yield
        return
    folder = Path(root, "locks")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Path(folder, name).open("wb")  # noqa: SIM115 - a waiter that was given up closes it later
    except OSError as failure:
        raise LakeError(f"{folder} cannot be written: {failure.strerror}; check MLREG_HOME") from failure
    waiting = _take(lock)
    try:
        yield
    finally:
        if waiting is None or not waiting.given_up():
            lock.close()


def _take(lock: IO[bytes]) -> _Waiter | None:
    """Take the lock, or give up after a while and leave a waiter behind."""
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # The system wakes waiters as soon as it is free, which no polling does as fairly.
        waiter = _Waiter(lock)
        waiter.start()
        waiter.held.wait(PATIENCE_SECONDS)
        return waiter
    return None


class _Waiter(threading.Thread):
    """Waits for a lock, and lets it go at once when nobody wants it any more."""

    def __init__(self, lock: IO[bytes]) -> None:
        super().__init__(name="mlreg-turn", daemon=True)
        self.held = threading.Event()
        self._lock = lock
        self._deciding = threading.Lock()
        self._unwanted = False

    def run(self) -> None:
        import fcntl

        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with self._deciding:
            self.held.set()
            if self._unwanted:
                self._lock.close()

    def given_up(self) -> bool:
        """Say that the turn is over; whether the lock is still waited for, and will be closed then."""
        with self._deciding:
            self._unwanted = not self.held.is_set()
            return self._unwanted
