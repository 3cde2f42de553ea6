"""Versions that come with a number keep it, and their datasets are the same ones from version to version."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_registry_pipelines.registry.errors import InvalidInput, ModelIsDeprecated
from ml_registry_pipelines.registry.foreign import (
    ForeignDataset,
    ForeignVersion,
    ForeignVersions,
    NumberTaken,
)
from ml_registry_pipelines.registry.models import ModelRegistry
from tests.registry.conftest import ACTOR


@pytest.fixture
def foreign(log, tenant) -> ForeignVersions:
    return ForeignVersions(log, actor=ACTOR, tenant=tenant)


@pytest.fixture
def stored(registry: ModelRegistry, tmp_path: Path):
    (tmp_path / "w.bin").write_bytes(b"w")
    return registry.artifacts.store(tmp_path / "w.bin")


def _dataset(digest: str, identity: str = "here") -> ForeignDataset:
    return ForeignDataset("credit", identity, digest, "/data/credit.csv")


def test_a_number_is_kept_and_given_once(registry, foreign, stored, tmp_path):
    registry.register_model("m")
    assert foreign.record("m", ForeignVersion(7, stored, origin={"from": "there"}))
    assert not foreign.record("m", ForeignVersion(7, stored, origin={"from": "there"}))
    with pytest.raises(NumberTaken):
        foreign.record("m", ForeignVersion(7, stored, origin={"from": "elsewhere"}))
    registry.delete_version("m@v7")
    with pytest.raises(NumberTaken):
        foreign.record("m", ForeignVersion(7, stored, origin={"from": "elsewhere"}))
    assert foreign.record("m", ForeignVersion(3, stored))
    assert registry.create_model_version("m", tmp_path / "w.bin").number == 8
    assert [v.number for v in registry.list_versions("m")] == [3, 8]
    with pytest.raises(InvalidInput, match="at least 1"):
        foreign.record("m", ForeignVersion(0, stored))
    registry.deprecate_model("m", reason="old")
    with pytest.raises(ModelIsDeprecated):
        foreign.record("m", ForeignVersion(9, stored))


def test_a_dataset_version_is_recorded_once_however_often_it_is_named(registry, tracker, foreign, stored):
    registry.register_model("m")
    foreign.record("m", ForeignVersion(1, stored, datasets=[_dataset("one")]))
    foreign.record(
        "m",
        ForeignVersion(
            2, stored, datasets=[_dataset("two"), _dataset("one"), _dataset("three"), _dataset("two")]
        ),
    )
    versions = tracker.dataset_versions("credit")
    assert [v.metadata["digest"] for v in versions] == ["one", "two", "three"]
    assert [v.metadata["number"] for v in versions] == [1, 2, 3]
    assert registry.get_version("m@v1").trained_on == (versions[0].id,)
    assert set(registry.get_version("m@v2").trained_on) == {v.id for v in versions}


def test_datasets_of_one_name_and_another_place_are_others_and_ours_stays_ours(
    registry, tracker, foreign, stored, tmp_path
):
    (tmp_path / "credit.csv").write_text("a\n1\n")
    ours = tracker.track_dataset("credit", tmp_path / "credit.csv")
    registry.register_model("m")
    foreign.record("m", ForeignVersion(1, stored, datasets=[_dataset("one", "a"), _dataset("one", "b")]))
    foreign.record("m", ForeignVersion(2, stored, datasets=[_dataset("two", "a")]))
    assert [v.id for v in tracker.dataset_versions("credit")] == [ours.id]
    first, second = (registry.get_version(f"m@v{n}").trained_on for n in (1, 2))
    assert len({*first, *second}) == 3
    names = [d.name for d in registry.things.find("dataset")]
    assert len(names) == 3
    assert sorted(len(tracker.dataset_versions(n)) for n in names if n != "credit") == [1, 2]
