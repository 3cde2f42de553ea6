"""Starts `tests.lake.writer` in processes of their own, and lets several go together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

Writer = subprocess.Popen[str]


@contextmanager
def writers(*arguments: tuple[object, ...]) -> Iterator[list[Writer]]:
    """A writer for each tuple of arguments, all of them ready; those still running are ended after."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lake.writer", *map(str, given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for given in arguments
    ]
    try:
        for writer in started:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        yield started
    finally:
        for writer in started:
            writer.kill()
            writer.communicate()


def go(writer: Writer) -> None:
    """Let a writer begin."""
    assert writer.stdin is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()


def said(writer: Writer) -> list[int]:
    """Wait for a writer's end; the numbers that it has said have landed."""
    output, _ = writer.communicate()
    return [int(line) for line in output.split()]
