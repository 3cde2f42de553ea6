"""Workers in processes of their own that are killed at random moments, until one of them comes to its end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

KILLS = int(os.environ.get("MLREG_TEST_KILLS", "1"))
"""`make kills` kills many more, in a run of its own."""
SECONDS = 60 + 12 * KILLS
"""Time that such a test may take."""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A worker that has said that it is ready: its code reads a line before it begins, and says `done` at its end."""
    worker = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout
    assert worker.stdout.readline() == "ready\n"
    return worker


def go(worker: subprocess.Popen[str]) -> None:
    """Let it begin."""
    assert worker.stdin
    worker.stdin.write("\n")
    worker.stdin.flush()


def run_killed(code: str, *arguments: object, most: int, longest: float = 1.5) -> int:
    """Run workers one after the other, killing up to `most`; the last one ends by itself. How many were killed."""
    chance = random.Random()
    worker, killed = start(code, *arguments), 0
    while killed < min(most, 8):
        spare = start(code, *arguments)  # Imports while the other works.
        go(worker)
        try:
            worker.wait(chance.uniform(0.01, longest))
        except subprocess.TimeoutExpired:
            worker.send_signal(signal.SIGKILL)
            killed += 1
        worker.communicate()
        worker = spare
    go(worker)
    assert worker.stdout
    assert worker.stdout.readline() == "done\n"
    worker.communicate()
    return killed
