"""Whose turn it is to write: an advisory lock that spares processes lost races.

Nothing rests on it but speed. An object store has none; and who has waited for
`PATIENCE_SECONDS`, because a holder hangs, goes on without.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_SECONDS = 2.0


@contextmanager
def turn(root: str, name: str) -> Iterator[None]:
    """Hold the lock `name` of a folder while the block runs."""
    if root.startswith("s3://"):
        yield
        return
    import fcntl

    folder = Path(root, "locks")
    folder.mkdir(parents=True, exist_ok=True)
    with Path(folder, name).open("wb") as lock:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                time.sleep(random.uniform(0.001, 0.004))
        yield
