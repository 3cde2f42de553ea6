"""The index over the files of a projection finds what a scan finds."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import lookups, tail
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.places import Places, digest32, opener
from ml_registry_pipelines.registry.states import from_rows
from tests.examples import examples
from tests.registry.conftest import ACTOR


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail, "BLOCK", 6)
        with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as log:
            for tenant in ("a", "b"):
                registry = ModelRegistry(log, actor=ACTOR, tenant=tenant)
                for n in range(12):
                    registry.register_model(f"m{n}")
                    registry.rename_model(f"m{n}", f"ü{n % 4} {n}")
                    log.settle()
            yield lake


def paths(lake: Lake) -> list[str]:
    with lake.read("things") as reading:
        return sorted(reading.files("things")["path"].to_pylist())


@pytest.mark.soak
@given(data=st.data())
@settings(
    max_examples=examples(15, least=3),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_an_index_that_grows_with_new_files_finds_what_a_scan_finds(filled, data):
    files = paths(filled)
    assert len(files) > 4
    first = data.draw(st.integers(0, len(files)))
    places = Places("things", opener(filled, "things")).loaded(files[:first], "name")
    assert places is not None
    grown = places.with_files(files)
    assert grown is not None
    with filled.read("things") as reading:
        every = from_rows("things", reading.query("t", "SELECT * FROM things"))
    for state in every:
        for column, value in (("id", state.id), ("name", state.name)):
            wanted = [
                s for s in every if s.tenant == state.tenant and (s.id if column == "id" else s.name) == value
            ]
            found = grown.find(state.tenant, column, value)
            assert sorted(found, key=lambda s: s.sequence) == sorted(wanted, key=lambda s: s.sequence)
    assert grown.find("a", "name", "nobody") == []


def test_digests_that_agree_by_chance_are_told_apart(filled, monkeypatch):
    import numpy as np

    from ml_registry_pipelines.registry import places as module

    monkeypatch.setattr(module, "digest32", lambda *_: 7)
    monkeypatch.setattr(module, "_digests", lambda values, _: np.full(len(values), 7, np.uint32))
    places = Places("things", opener(filled, "things")).loaded(paths(filled), "name")
    assert places is not None
    assert {s.name for s in places.find("a", "name", "m3")} == {"m3"}


def test_the_digest_is_the_same_in_python_and_in_sql(filled):
    with filled.read() as reading:
        found = reading.query("t", "SELECT (md5_number_lower('t' || chr(31) || 'größe') & 4294967295) AS d")
    assert found["d"][0].as_py() == digest32("t", "größe")


def test_an_index_whose_files_are_gone_is_left_and_answers_stay_right(filled, monkeypatch):
    before = set(paths(filled))
    places = Places("things", opener(filled, "things")).loaded(sorted(before), "name")
    assert places is not None
    assert places.with_files(sorted(before)[1:]) is None
    monkeypatch.setattr(lookups, "MOST_QUESTIONS", 1)
    with Log(filled) as log:
        registry = ModelRegistry(log, actor=ACTOR, tenant="a")
        ids = [registry.get_model(f"ü{n % 4} {n}").id for n in range(3)]
        assert [registry.get_model(f"ü{n % 4} {n}").id for n in range(3)] == ids
        filled.maintain("things")
        for file in before - set(paths(filled)):
            Path(filled.uri("things"), file).unlink()
        assert [registry.get_model(i).id for i in ids] == ids
