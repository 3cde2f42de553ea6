"""The store takes a commit and does not say so: whichever write it was, it is there once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ml_registry_pipelines.lake.lake import Lake, Landed, LostRace
from tests.lake.points import DAY, TABLE, points, values
from tests.lake.proxy import Fate, Proxy, proxy_before

pytestmark = pytest.mark.parametrize("fate", [Fate.DROPPED, Fate.FALSIFIED], ids=lambda fate: fate.value)


@pytest.fixture(scope="module")
def proxy(s3) -> Iterator[Proxy]:
    with proxy_before(s3.url) as proxy:
        yield proxy


@pytest.fixture
def behind(s3, s3_root, proxy) -> Iterator[Lake]:
    """A lake behind the proxy, with one row."""
    before = proxy.lost
    with Lake(s3_root, storage_options=s3.settings(proxy.url)) as lake:
        lake.append_next(TABLE, points([1]), source="s")
        yield lake
        assert proxy.lost > before, "no answer was lost"


def test_every_append_lands_once(behind, proxy, s3_root, fate):
    proxy.lose(fate)
    assert behind.append_once(TABLE, points([2]), source="s", sequence=2) is Landed.NOW
    assert behind.append_once(TABLE, points([2]), source="s", sequence=2) is Landed.BEFORE
    proxy.lose(fate)
    assert behind.append_next(TABLE, points([3]), source="s") == 3
    version = behind.version(TABLE)
    proxy.lose(fate)
    assert behind.append_expecting(TABLE, points([4]), version=version) == version + 1
    with pytest.raises(LostRace):
        behind.append_expecting(TABLE, points([4]), version=version)
    with Lake(s3_root) as direct:
        assert values(direct) == {1: 1, 2: 1, 3: 1, 4: 1}
        assert direct.sequence(TABLE, "s") == 3


def test_replace_lands_once_and_erase_removes_and_says_how_many(behind, proxy, s3_root, fate):
    proxy.lose(fate)
    arguments = {"predicate": f"day = '{DAY}'", "source": "r", "sequence": 1}
    assert behind.replace(TABLE, points([5, 6, 7]), **arguments) is Landed.NOW
    proxy.lose(fate)
    erased = behind.erase(TABLE, "value > 5.0")
    assert (erased.rows, erased.files_pending) == (2, 0)
    with Lake(s3_root) as direct:
        assert values(direct) == {5: 1}


def test_a_table_is_made_once(behind, proxy, s3_root, fate):
    proxy.lose(fate)
    assert behind.append_next("alerts", behind.declaration("alerts").empty(), source="s") == 1
    with Lake(s3_root) as direct:
        assert direct.sequence("alerts", "s") == 1


def test_upkeep_that_is_not_answered_changes_no_row(behind, proxy, s3_root, fate):
    for number in (2, 3):
        behind.append_next(TABLE, points([number]), source="s")
    proxy.lose(fate)
    behind.maintain(TABLE)
    with Lake(s3_root) as direct:
        assert values(direct) == {1: 1, 2: 1, 3: 1}


def test_a_lost_commit_is_found_behind_those_of_other_writers(behind, proxy, s3_root, fate):
    with Lake(s3_root) as direct:
        for number in (2, 3):
            proxy.lose(fate)
            assert behind.append_next(TABLE, points([number]), source="s") == 2 * number - 2
            assert direct.append_next(TABLE, points([-number]), source="s") == 2 * number - 1
        assert values(direct) == {1: 1, 2: 1, 3: 1, -2: 1, -3: 1}
