"""Relatives on asset pages and the map: what is shown, when it is made anew, and what is never shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_registry_pipelines.catalog import RegistryCatalog, show
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.catalogue import read_catalogue
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.reports.similarity_map import Point, map_png, projected, sample
from ml_registry_pipelines.search.relatives import (
    MAP_FILE,
    RELATIVES_FILE,
    keep_relatives,
    map_picture,
    relatives_mark,
    with_relatives,
)
from ml_registry_pipelines.search.vectors.table import VectorsMissing
from ml_registry_pipelines.search.vectors.updating import update

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """Two models about fraud, one about something else, and another tenant's that is like the first two."""
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as log:
        here, there = (ModelRegistry(log, actor=Actor("p1"), tenant=t) for t in ("default", "acme"))
        here.register_model("fraud", description="Finds fraud in card payments.", tags={"family": "risk"})
        here.register_model("fraud-eu", description="Finds fraud in card payments of Europe.")
        here.register_model("weather", description="Tomorrow's temperature at an airport.")
        there.register_model("fraud", description="Finds fraud in card payments, too.")
        yield log


def facts(log: Log) -> dict[tuple[str, str], str | None]:
    entries = with_relatives(log, read_catalogue(log).entries)
    return {(e.tenant, e.name): e.facts.get("nearest relatives") for e in entries}


def test_without_vectors_pages_are_as_before(log: Log) -> None:
    assert set(facts(log).values()) == {None}
    assert relatives_mark(log.lake) == ""
    with pytest.raises(VectorsMissing):
        keep_relatives(log)


def test_a_models_page_names_its_nearest_relatives_of_its_own_tenant(log: Log) -> None:
    update(log)
    assert keep_relatives(log) == 4
    told = facts(log)
    assert (told["default", "fraud"] or "").startswith("fraud-eu (0.")
    assert told["acme", "fraud"] is None
    shown = show(RegistryCatalog(home=log.lake.root).read(log).catalogue)
    (page,) = [s for s in shown.specs if s.key.path == ["models", "default", "fraud"]]
    assert "fraud-eu" in str(page.metadata["nearest relatives"])
    assert str(page.metadata["search"].value).startswith("/mlreg/search?tenant=default&model=")


def test_relatives_that_are_deprecated_or_gone_are_not_named_any_more(log: Log) -> None:
    here = ModelRegistry(log, actor=Actor("p1"))
    before = relatives_mark(log.lake)
    here.deprecate_model("fraud-eu", reason="old")
    assert "fraud-eu" not in (facts(log)["default", "fraud"] or "")
    here.reinstate_model("fraud-eu")
    here.delete_model("fraud-eu")
    assert "fraud-eu" not in (facts(log)["default", "fraud"] or "")
    here.restore_model("fraud-eu")
    update(log)
    keep_relatives(log)
    assert relatives_mark(log.lake) == before  # Nothing to load again for.
    assert "fraud-eu" in (facts(log)["default", "fraud"] or "")


def test_a_damaged_file_costs_relatives_and_no_page(log: Log) -> None:
    file = Path(log.lake.root) / "vectors" / RELATIVES_FILE
    kept = file.read_bytes()
    for damage in (b"", b"[]", b'{"relatives": {"a": 1}}', b"\xff"):
        file.write_bytes(damage)
        assert set(facts(log).values()) == {None}
    file.write_bytes(kept)


def test_the_map_is_drawn_again_only_when_a_vector_of_it_is_another(log: Log) -> None:
    update(log)
    first = map_picture(log)
    assert first is not None
    assert first.startswith(PNG)
    kept = Path(log.lake.root) / "vectors" / MAP_FILE
    written = kept.stat().st_mtime_ns
    assert map_picture(log) == first
    assert kept.stat().st_mtime_ns == written
    ModelRegistry(log, actor=Actor("p1")).describe_model("weather", "Tomorrow's rain at an airport.")
    update(log)
    assert map_picture(log) is not None
    assert kept.stat().st_mtime_ns > written


def test_a_registry_with_no_model_or_one_has_no_map_and_loses_the_one_it_had(lake: Lake) -> None:
    with Log(lake) as log:
        models = ModelRegistry(log, actor=Actor("p1"))
        for name, related, drawn in (("", 0, False), ("one", 1, False), ("two", 2, True), ("-", 1, False)):
            if name == "-":
                models.delete_model("two")
            elif name:
                models.register_model(name)
            update(log)
            assert keep_relatives(log) == related
            assert (map_picture(log) is not None) == drawn
        assert not (Path(lake.root) / "vectors" / MAP_FILE).exists()


def test_the_same_vectors_give_the_same_places_and_alike_ones_lie_together() -> None:
    made = np.random.default_rng(3)
    centres = np.eye(3, 16, dtype=np.float32)
    vectors = np.repeat(centres, 8, axis=0) + made.normal(0, 0.05, (24, 16)).astype(np.float32)
    places = projected(vectors)
    assert np.array_equal(places, projected(vectors))
    assert places.min() >= 0
    assert places.max() <= 1
    away = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert np.array_equal(away.argmin(axis=1) // 8, np.arange(24) // 8)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_few_or_equal_vectors_are_drawn_as_well(count: int) -> None:
    zeros = np.zeros((count, 4), np.float32)
    assert np.array_equal(projected(zeros), np.full((count, 2), 0.5, np.float32))
    picture = map_png(np.eye(count, 4, dtype=np.float32), [Point(f"m{n}", own=True) for n in range(count)])
    assert picture is not None
    assert picture.startswith(PNG)
    assert map_png(zeros[:1], [Point("alone")]) is None


def test_of_many_models_the_same_are_drawn_each_time_and_own_ones_first() -> None:
    names = [f"m{n}" for n in range(5_000)]
    own = [n % 1_000 == 0 for n in range(5_000)]
    chosen = sample(names, own)
    assert len(chosen) == 1_500
    assert {0, 1_000, 2_000, 3_000, 4_000} <= set(chosen)
    assert {names[i] for i in sample(names[:-1], own[:-1])} >= {names[i] for i in chosen} - {names[-1]}
