"""Several writers at once, in threads and in processes: every row lands exactly once."""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from ml_registry_pipelines.lake.lake import Lake, Landed, LostRace
from tests.lake.points import DAY, TABLE, points, values
from tests.lake.processes import go, said, writers


def test_threads_that_append_through_one_lake_take_a_number_each(lake):
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: lake.append_next(TABLE, points([n]), source="s"), range(60)))
    assert sorted(taken) == list(range(1, 61))
    assert values(lake) == Counter(map(float, range(60)))


def test_threads_that_send_the_same_batches_land_each_once_while_others_look(lake, home):
    other = Lake(str(home))

    def send(by: Lake) -> int:
        return sum(
            by.append_once(TABLE, points([n]), source="s", sequence=n) is Landed.NOW for n in range(1, 16)
        )

    def look(by: Lake) -> bool:
        found = [by.sequence(TABLE, "s") for _ in range(60)]
        return found == sorted(found)

    lake.version(TABLE)
    with ThreadPoolExecutor(6) as pool:
        sent = [pool.submit(send, by) for by in (lake, other, lake, other)]
        looked = [pool.submit(look, by) for by in (lake, other)]
        assert sum(done.result() for done in sent) == 15
        assert all(done.result() for done in looked)
    assert values(lake) == Counter(map(float, range(1, 16)))
    other.close()


def test_of_threads_that_expect_the_same_version_one_is_let_in(lake, home):
    lakes: list[Lake] = [lake, Lake(str(home)), Lake(str(home))]

    def attempt(number: int) -> int:
        by = lakes[number % 3]
        for _ in itertools.count():
            try:
                version: int = by.version(TABLE)
                by.append_expecting(TABLE, points([number]), version=version)
                return version
            except LostRace:
                continue
        raise AssertionError

    with ThreadPoolExecutor(3) as pool:
        versions = list(pool.map(attempt, range(15)))
    assert len(set(versions)) == 15
    assert values(lake) == Counter(map(float, range(15)))


def test_slices_replaced_at_once_hold_the_figures_of_one_writer(lake, home):
    lakes = [lake, Lake(str(home))]
    lake.version(TABLE)

    def replace(number: int) -> bool:
        try:
            lakes[number % 2].replace(
                TABLE, points([number] * 3), predicate=f"day = '{DAY}'", source="r", sequence=1
            )
        except LostRace:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert any(list(pool.map(replace, range(12))))
    ((_, times),) = values(lake).items()
    assert times == 3


def test_processes_append_beside_compaction_and_no_row_is_lost_or_doubled(lake, home):
    count = 15
    with writers(*(("next", home, "s", 1000 * n, count) for n in range(4))) as running:
        for writer in running:
            go(writer)
        rounds = 0
        while any(writer.poll() is None for writer in running) and rounds < 30:
            lake.maintain(TABLE, full=True)
            rounds += 1
        landed = [value for writer in running for value in said(writer)]
        assert all(writer.returncode == 0 for writer in running)
    expected = [float(1000 * n + i) for n in range(4) for i in range(count)]
    assert sorted(landed) == expected
    assert values(lake) == Counter(expected)
    assert lake.sequence(TABLE, "s") == len(expected)


def test_processes_that_send_the_same_batches_land_each_once(lake, home):
    with writers(("once", home, "s"), ("once", home, "s")) as running:
        for writer in running:
            go(writer)
        for writer in running:
            assert writer.stdout is not None
            while int(writer.stdout.readline()) < 10:
                pass
    landed = lake.sequence(TABLE, "s")
    assert landed >= 10
    assert values(lake) == Counter({float(n): 2 for n in range(1, landed + 1)})
