"""Writers that are killed at random moments: afterwards every batch is there once."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from ml_registry_pipelines.lake.lake import Lake
from tests.lake.points import TABLE, points, values
from tests.lake.processes import go, writers

KILLS = int(os.environ.get("MLREG_TEST_KILLS", "2"))
"""`make kills` kills many more, in a run of its own."""


@pytest.mark.kill
@pytest.mark.timeout(120 + 10 * KILLS)
def test_killed_writers_leave_every_batch_once_and_nothing_that_stays(lake, home):
    chance = random.Random(KILLS)
    told = landed = 0
    for _ in range(KILLS):
        with writers(("once", home, "s")) as (writer,):
            go(writer)
            assert writer.stdout is not None
            for _ in range(chance.randint(1, 8)):
                told = int(writer.stdout.readline())
            # Between two commits, or in the middle of one: what is said reaches us late by chance.
            for _ in range(chance.randint(0, 40_000)):
                pass
            writer.kill()
            # Not `communicate`, which leaves out what came together with the lines that were read.
            told = max([told, *map(int, writer.stdout.read().split())])
        landed = lake.sequence(TABLE, "s")
        assert told <= landed <= told + 1
        assert values(lake) == Counter({float(n): 2 for n in range(1, landed + 1)})
    assert lake.append_next(TABLE, points([0]), source="s") == landed + 1
    with Lake(str(home)) as fresh:
        fresh.maintain(TABLE)
        (status,) = [table for table in fresh.status() if table.name == TABLE]
    assert status.rows == 2 * landed + 1
