"""The nearest models among those that may answer: the right ones, and as many as asked for, however few may."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.search.vectors import nearest
from ml_registry_pipelines.search.vectors.nearest import Nearest
from ml_registry_pipelines.search.vectors.table import VectorTable, key_of, rows

DIMENSION, MODELS = 16, 400
IDS = [f"{n:04d}" for n in range(MODELS)]


def vectors_of(count: int, seed: int = 1):
    found = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


VECTORS = vectors_of(MODELS)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> VectorTable:
    made = VectorTable(str(tmp_path_factory.mktemp("vectors")), "models-x", None, DIMENSION)
    made.create()
    for tenant, vectors in (("a", VECTORS), ("a-b", vectors_of(50, 2)), ("b", vectors_of(50, 3))):
        some = IDS[: len(vectors)]
        made.put(rows([tenant] * len(some), some, ["d"] * len(some), 1, vectors))
    return made


@pytest.fixture(scope="module")
def in_memory(table) -> Nearest:
    return Nearest(table)


@pytest.fixture(scope="module")
def too_large(table) -> Nearest:
    """As a table is searched that does not fit into memory."""
    return Nearest(table, in_memory=0)


def exactly(vector, k, allowed):
    near = VECTORS[allowed] @ vector
    return [IDS[allowed[n]] for n in np.argsort(-near, kind="stable")[:k]]


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 20),
    st.none() | st.sets(st.integers(0, MODELS - 1)),
    st.booleans(),
)
def test_the_nearest_of_those_that_may_answer_come_in_order_and_are_all_that_there_are(
    in_memory, too_large, seed, k, chosen, large
):
    search = too_large if large else in_memory
    (vector,) = vectors_of(1, seed)
    allowed = sorted(range(MODELS) if chosen is None else chosen)
    ids = None if chosen is None else [IDS[n] for n in chosen]
    found = search.to("a", vector, k, ids=ids)
    assert [near.id for near in found] == exactly(vector, k, np.array(allowed, int))
    assert len(found) == min(k, len(allowed))
    assert all(near.similarity <= 1 for near in found)


def test_a_large_table_is_asked_by_its_index_for_more_until_enough_of_its_answers_may_answer(
    too_large, monkeypatch
):
    monkeypatch.setattr(nearest, "TAKEN", 20)
    asked = []
    real = VectorTable.nearest

    def counted(table, vector, k, **how):
        asked.append((k, how["where"]))
        return real(table, vector, k, **how)

    monkeypatch.setattr(VectorTable, "nearest", counted)
    allowed = np.arange(0, MODELS, 7)
    (vector,) = vectors_of(1, 9)
    found = too_large.to("a", vector, 10, ids=[IDS[n] for n in allowed])
    assert [near.id for near in found] == exactly(vector, 10, allowed)
    assert {where for _, where in asked} == {"tenant = 'a'"}
    (best,) = exactly(vector, 1, np.arange(MODELS))
    others = too_large.to("a", vector, 10, but=[best])
    assert [near.id for near in others] == exactly(vector, 11, np.arange(MODELS))[1:]
    # The farthest of all are found too: what the index does not give is compared one by one.
    worst = np.argsort(VECTORS @ vector)[:25]
    found = too_large.to("a", vector, 10, ids=[IDS[n] for n in worst])
    assert [near.id for near in found] == exactly(vector, 10, np.sort(worst))


def test_a_tenant_whose_name_begins_like_another_one_answers_for_itself(in_memory, too_large):
    for search in (in_memory, too_large):
        vector = vectors_of(50, 2)[7]
        (first, *_) = search.to("a-b", vector, 3)
        assert (first.id, round(first.similarity, 5)) == (IDS[7], 1.0)
        assert search.to("nobody", vector, 3) == []
        assert search.to("a", vector, 3, ids=["unknown"]) == []
        assert search.to("a", vector, 0) == []


def test_what_changed_is_seen_by_the_next_question_and_only_what_changed_is_read(tmp_path, monkeypatch):
    table = VectorTable(str(tmp_path), "models-x", None, DIMENSION)
    table.create()
    table.put(rows(["a"] * 100, IDS[:100], ["d"] * 100, 1, VECTORS[:100]))
    search = Nearest(table)
    assert search.to("a", VECTORS[3], 1)[0].id == IDS[3]
    taken = []
    real = VectorTable.vectors_at

    def counted(table, row_ids):
        taken.append(len(row_ids))
        return real(table, row_ids)

    monkeypatch.setattr(VectorTable, "vectors_at", counted)
    table.put(rows(["a"], [IDS[3]], ["e"], 2, VECTORS[200:201]))
    table.put(rows(["a"], ["new"], ["e"], 2, VECTORS[300:301]))
    table.delete([key_of("a", IDS[5])])
    assert search.to("a", VECTORS[200], 1)[0].id == IDS[3]
    assert search.to("a", VECTORS[300], 1)[0].id == "new"
    assert search.to("a", VECTORS[5], 1)[0].id != IDS[5]
    assert taken == [2]
    table.scrub()
    assert search.to("a", VECTORS[300], 1)[0].id == "new"


def test_of_two_writers_the_one_that_has_read_more_of_the_log_stays(tmp_path):
    table = VectorTable(str(tmp_path), "models-x", None, DIMENSION)
    table.create()
    table.put(rows(["a"], ["m"], ["new"], 9, VECTORS[:1]))
    table.put(rows(["a"], ["m"], ["old"], 4, VECTORS[1:2]))
    assert table.columns("digest")["digest"].to_pylist() == ["new"]
