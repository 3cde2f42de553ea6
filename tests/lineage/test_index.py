"""The index as a thing on disk: built by several at once, read while it is built, damaged, in an object store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.index import LineageIndex, index_of
from ml_registry_pipelines.lineage.layers import IndexDamaged
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.relationships import Relationships
from ml_registry_pipelines.registry.states import State
from ml_registry_pipelines.registry.tail import BLOCK
from ml_registry_pipelines.registry.things import NewThing, Things
from tests.lineage.test_graph import IDS, Step, compare, land, states_of
from tests.registry.conftest import ACTOR


def chain(block: int) -> list[State]:
    """One edge per block, so that a reader can tell how much it has been told."""
    first, second = IDS[block % 4], IDS[block % 4 + 1]
    (state,) = states_of([Step("a", "relationship", first, second, "feeds", True, False)])
    return [replace(state, position=(block - 1) * BLOCK + 1, sequence=block)]


def test_of_builders_at_once_one_publishes_and_nothing_is_lost_or_doubled(tmp_path):
    root, states = str(tmp_path / "lake"), []
    with Lake(root) as lake:
        for block in range(1, 4):
            states += chain(block)
            land(lake, states[-1:], block, block * BLOCK)
        start = threading.Barrier(4)

        def build(_: int) -> int:
            start.wait()
            return LineageIndex(lake).build().generation.until

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(build, range(4))) == {3 * BLOCK}
        index = LineageIndex(lake)
        named = {row.file for row in index.published().layers}
        assert {p.name for p in (tmp_path / "lake" / "lineage_index").iterdir()} == named
        from ml_registry_pipelines.lineage.walking import Stack

        compare(Stack(index._layers()), states)


@pytest.mark.soak
def test_a_reader_has_one_generation_or_the_next_while_others_are_published(tmp_path):
    from ml_registry_pipelines.lineage.walking import Stack

    with Lake(str(tmp_path)) as lake:
        land(lake, chain(1), 1, BLOCK)
        LineageIndex(lake).build()
        done, wrong = threading.Event(), []

        def read() -> None:
            index = LineageIndex(lake)
            while not done.is_set():
                layers = index._layers()
                edges = sum(layer.edges for layer in layers)
                if layers[-1].until != edges * BLOCK:
                    wrong.append((layers[-1].until, edges))

        reader = threading.Thread(target=read)
        reader.start()
        for block in range(2, 5):
            land(lake, chain(block), block, block * BLOCK)
            LineageIndex(lake).build(whole=block == 3)
        done.set()
        reader.join()
        assert wrong == []
        assert len(Stack(LineageIndex(lake)._layers()).layers) >= 1


def test_answers_are_the_same_before_and_after_a_build_and_a_fold(tmp_path):
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        things = Things(log, actor=ACTOR)
        relationships = Relationships(log, actor=ACTOR)
        tracker = LineageTracker(log, actor=ACTOR)
        things.register_many("node", [NewThing(f"n{i}") for i in range(12)])
        for i in range(10):
            relationships.relate("feeds", ("node", f"n{i}"), ("node", f"n{i + 1}"))

        def below(name: str) -> list[tuple[str, int]]:
            return [(r.node.name, r.depth) for r in tracker.get_full_lineage("node", name).downstream]

        expected = [(f"n{i}", i) for i in range(1, 11)]
        assert below("n0") == expected
        # At once, so that they share commits.
        with ThreadPoolExecutor(64) as pool:
            list(pool.map(lambda n: things.describe("node", "n11", str(n)), range(BLOCK)))
        log.settle()
        assert below("n0") == expected
        built = index_of(log).build()
        assert (built.fresh, built.generation.edges, built.generation.until) == (True, 10, BLOCK)
        assert not index_of(log).build().fresh
        relationships.unrelate("feeds", ("node", "n5"), ("node", "n6"))
        things.delete("node", "n3")
        with Log(lake) as other:
            tracker = LineageTracker(other, actor=ACTOR)
            assert below("n0") == [(f"n{i}", i) for i in (1, 2, 4, 5)]
        things.restore("node", "n3")
        tracker = LineageTracker(log, actor=ACTOR)
        assert below("n0") == expected[:5]


def test_a_file_that_is_cut_changed_or_gone_is_named_and_a_whole_build_mends_it(tmp_path):
    with Lake(str(tmp_path)) as lake:
        land(lake, chain(1), 1, BLOCK)
        LineageIndex(lake).build()

        def file() -> Path:
            (row,) = LineageIndex(lake).published().layers
            return Path(tmp_path, "lineage_index", row.file)

        def changed(data: bytes) -> bytes:
            return data[:-60] + b"x" + data[-59:]

        for damage in (lambda d: d[:-9], changed, None):
            path = file()
            path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
            with pytest.raises(IndexDamaged, match="--whole"):
                LineageIndex(lake)._layers()
            LineageIndex(lake).build(whole=True)
            assert len(LineageIndex(lake)._layers()) == 1


def test_the_index_works_in_a_bucket_by_a_copy_that_is_checked(s3_root, tmp_path, monkeypatch):
    from ml_registry_pipelines.lake.files import open_folder
    from ml_registry_pipelines.lineage.walking import Stack

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    with Lake(s3_root) as lake:
        states = chain(1)
        land(lake, states, 1, BLOCK)
        (row,) = LineageIndex(lake).build().generation.layers
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
        compare(Stack(LineageIndex(lake)._layers()), states)
        folder = open_folder(f"{s3_root}/lineage_index")
        data = folder.read(row.file)
        folder.write(row.file, data[:100] + b"?" + data[101:])
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "three"))
        with pytest.raises(IndexDamaged, match="SHA-256"):
            LineageIndex(lake)._layers()


def test_a_long_answer_comes_in_pages_that_later_writes_do_not_shift(log, tenant):
    things = Things(log, actor=ACTOR, tenant=tenant)
    relationships = Relationships(log, actor=ACTOR, tenant=tenant)
    tracker = LineageTracker(log, actor=ACTOR, tenant=tenant)
    things.register_many("node", [NewThing(f"n{i}") for i in range(9)])
    for i in range(1, 8):
        relationships.relate("feeds", ("node", "n0"), ("node", f"n{i}"))
    first = tracker.get_full_lineage("node", "n0", limit=3)
    assert (first.partial, first.counts, len(first.downstream)) == (True, {"node": 7}, 3)
    relationships.relate("feeds", ("node", "n0"), ("node", "n8"))
    seen, page = {r.node.name for r in first.downstream}, first
    while page.cursor:
        page = tracker.get_full_lineage("node", "n0", limit=3, cursor=page.cursor)
        assert not seen & {r.node.name for r in page.downstream}
        seen |= {r.node.name for r in page.downstream}
    assert seen == {f"n{i}" for i in range(1, 8)}
    with pytest.raises(InvalidInput, match="another question"):
        tracker.get_full_lineage("node", "n1", cursor=first.cursor)
    with pytest.raises(InvalidInput, match="no cursor"):
        tracker.get_full_lineage("node", "n0", cursor="%%%")
    with pytest.raises(InvalidInput, match="at least 1"):
        tracker.get_full_lineage("node", "n0", limit=0)
    with pytest.raises(InvalidInput, match="at least 1"):
        tracker.get_full_lineage("node", "n0", depth=0)


def test_the_asset_adds_what_is_newer_and_says_what_the_index_holds(tmp_path):
    import dagster as dg

    from assets.lineage import lineage_index
    from resources import LakeResource

    with Lake(str(tmp_path)) as lake:
        land(lake, chain(1), 1, BLOCK)

    def built() -> dict[str, object]:
        done = dg.materialize([lineage_index], resources={"lake": LakeResource(root=str(tmp_path))})
        (event,) = done.asset_materializations_for_node("lineage__lineage_index")
        return {name: value.value for name, value in event.metadata.items()}

    first, again = built(), built()
    assert (first["edges"], first["entities"], first["position"], first["was_newer"]) == (1, 2, BLOCK, True)
    assert (again["generation"], again["was_newer"]) == (first["generation"], False)
