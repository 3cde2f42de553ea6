"""A writer for tests, to be run as a process: appends to a lake and says on stdout what has landed.

`python -m tests.lake.writer once ROOT SOURCE` sends batches in turn, each exactly once, until
it is killed; `next ROOT SOURCE FIRST COUNT` appends COUNT single rows, FIRST and those after.
It begins at the first line on stdin, so that several can be let go together.
"""

from __future__ import annotations

import sys

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.lean import without_pandas

without_pandas()

from tests.lake.points import TABLE, points  # noqa: E402 - it makes Arrow's first values


def once(lake: Lake, source: str) -> None:
    sequence = lake.sequence(TABLE, source)
    while True:
        sequence += 1
        lake.append_once(TABLE, points([sequence, sequence]), source=source, sequence=sequence)
        print(sequence, flush=True)


def following(lake: Lake, source: str, first: int, count: int) -> None:
    for value in range(first, first + count):
        lake.append_next(TABLE, points([value]), source=source)
        print(value, flush=True)


if __name__ == "__main__":
    how, root, source, *numbers = sys.argv[1:]
    with Lake(root, process=source) as lake:
        lake.version(TABLE)
        print("ready", flush=True)
        sys.stdin.readline()
        if how == "once":
            once(lake, source)
        else:
            following(lake, source, *map(int, numbers))
