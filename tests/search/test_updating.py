"""Vectors follow the registry: what is new, what changed, what is gone, and another embedder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import Uri
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import VersionFacts
from ml_registry_pipelines.search.embedding.embedder import EmbedderUnusable, make_embedder
from ml_registry_pipelines.search.similar import Similarity
from ml_registry_pipelines.search.vectors.nearest import nearest_in
from ml_registry_pipelines.search.vectors.store import VectorStore
from ml_registry_pipelines.search.vectors.table import VectorsDamaged, VectorsMissing
from ml_registry_pipelines.search.vectors.updating import late, rebuild, status, update
from tests.killing import KILLS, SECONDS, run_killed

ACTOR = Actor("p1")
MODELS = {
    "fraud-cards": "finds fraud in card payments",
    "fraud-transfers": "finds fraud in bank transfers",
    "churn": "customers that will leave",
    "weather": "rain in the mountains",
}

TOLD = (
    "tenure",
    "leaves",
    "brier",
    "xgboost",
    "crm-events",
    "crm-holdout",
    "weather",
    "MIT",
    "pensioners",
    "q3",
    "Second",
)


class Small:
    """Another embedder: few numbers, each the count of a letter."""

    learns_from = None
    state = None
    dimension = 8

    def __init__(self, name: str = "small", fails_after: int | None = None) -> None:
        self.spec = f"lancedb:{name}"
        self.fingerprint = name.ljust(32, "0")
        self.left = fails_after

    def embed(self, texts):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise EmbedderUnusable("out of order")
        found = np.array([[1.0 + text.count(c) for c in "abcdefgh"] for text in texts], np.float32)
        return found.reshape(-1, 8) / np.linalg.norm(found.reshape(-1, 8), axis=1, keepdims=True)

    def embed_query(self, text):
        return self.embed([text])[0]

    def fitted(self, texts):
        list(texts)
        return self

    def with_state(self, state):
        return self


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as opened:
        yield opened


@pytest.fixture
def registry(log: Log) -> ModelRegistry:
    made = ModelRegistry(log, actor=ACTOR)
    made.register_many(NewThing(name, description=text) for name, text in MODELS.items())
    return made


def files(log: Log) -> list[Path]:
    return sorted(p for p in Path(log.lake.root, "vectors").rglob("*") if p.is_file())


def held(log: Log) -> dict[str, str]:
    store = VectorStore.of(log.lake)
    rows = store.table_of(store.record()).columns("id", "digest")
    return dict(zip(rows["id"].to_pylist(), rows["digest"].to_pylist(), strict=True))


def vector(log: Log, name: str):
    store = VectorStore.of(log.lake)
    found = nearest_in(store, store.record()).vector_of(
        "default", ModelRegistry(log, actor=ACTOR).get_model(name).id
    )
    assert found is not None
    return found[0]


def test_only_what_changed_is_embedded_again_and_what_is_deleted_goes(log, registry):
    done = update(log)
    assert (done.backfilled, done.embedded, done.vectors) == (True, 4, 4)
    before = held(log)
    registry.describe_model("churn", "customers that will stay")
    registry.tag_model("weather", {"region": "alps"})
    registry.delete_model("fraud-cards")
    registry.set_model_owners("fraud-transfers", ["team-a"])  # Not in the text.
    done = update(log)
    assert (done.embedded, done.unchanged, done.removed, done.vectors) == (2, 1, 1, 3)
    after = held(log)
    changed = {i for i, digest in after.items() if before[i] != digest}
    assert changed == {registry.get_model("churn").id, registry.get_model("weather").id}
    assert not late(log).is_late
    registry.restore_model("fraud-cards")
    assert late(log).is_late
    assert update(log).embedded == 1
    assert held(log)[registry.get_model("fraud-cards").id] == before[registry.get_model("fraud-cards").id]


def test_everything_that_a_model_is_made_of_is_in_its_vector(log, registry, tmp_path):
    def text() -> str:
        from ml_registry_pipelines.search.cards import all_cards

        (card,) = [c for c in all_cards(log.lake, log.view("default")) if c.name == "churn"]
        return card.text

    from ml_registry_pipelines.lineage.tracker import LineageTracker
    from ml_registry_pipelines.registry.versions import Artifact

    update(log)
    tracker = LineageTracker(log, actor=ACTOR)
    for name in ("crm-events", "crm-holdout"):
        tracker.track_dataset(name, Uri(f"https://example.org/{name}.csv", "0" * 64))
    card = tmp_path / "card.md"
    card.write_text("Gentle with pensioners.")
    registry.create_model_version("weather", Uri("https://example.org/w", "1" * 64))
    registry.create_model_version(
        "churn",
        Uri("https://example.org/c", "2" * 64),
        VersionFacts(
            signature={
                "inputs": [{"name": "tenure", "type": "long"}],
                "outputs": [{"name": "leaves", "type": "double"}],
            },
            metrics={"brier": 0.1},
            framework="xgboost",
            trained_on=["crm-events@v1"],
            evaluated_on=["crm-holdout@v1"],
            base_model="weather@v1",
            licence="MIT",
        ),
        description="Second try.",
        tags={"quarter": "q3"},
        artifacts=[Artifact("model_card", card)],
    )
    told = text()
    for word in TOLD:
        assert word in told, word
    assert update(log).embedded == 1  # What is only bytes changes no text.
    registry.things.rename("dataset", "crm-events", "customer-events")
    assert update(log).embedded == 1
    assert "customer-events" in text()
    digest = held(log)[registry.get_model("churn").id]
    registry.delete_version("churn@v1")
    update(log)
    assert held(log)[registry.get_model("churn").id] != digest


def test_no_file_keeps_a_vector_that_was_deleted_or_replaced(log, registry):
    update(log)
    gone = [vector(log, name)[5:21].tobytes() for name in ("churn", "weather")]
    stays = vector(log, "fraud-cards")[5:21].tobytes()
    registry.delete_model("churn")
    registry.describe_model("weather", "sun on the coast")
    update(log)
    held_bytes = [path.read_bytes() for path in files(log)]
    assert not any(part in data for data in held_bytes for part in gone)
    assert any(stays in data for data in held_bytes)


def test_another_embedder_fills_a_table_of_its_own_and_the_old_one_answers_until_it_is_whole(log, registry):
    update(log)
    store = VectorStore.of(log.lake)
    old = store.record()
    with pytest.raises(EmbedderUnusable, match="out of order"):
        update(log, embedder=Small(fails_after=0))
    assert store.record() == old
    assert [hit.name for hit in Similarity(log, actor=ACTOR).find_similar("fraud-cards", k=1).hits] == [
        "fraud-transfers"
    ]
    assert len(store.tables()) == 2
    done = update(log, embedder=Small())
    assert (done.backfilled, done.embedded, done.dimension, done.replaced) == (True, 4, 8, (old.table,))
    assert store.tables() == [done.table]
    assert store.record().dimension == 8
    assert [p for p in files(log) if old.table in str(p)] == []
    # And back again, with the default one.
    assert update(log).replaced == (done.table,)


def test_a_backfill_that_broke_off_is_gone_on_with(log, registry, monkeypatch):
    from ml_registry_pipelines.search.vectors import updating

    monkeypatch.setattr(updating, "AT_ONCE", 2)
    with pytest.raises(EmbedderUnusable):
        update(log, embedder=Small(fails_after=1))
    with pytest.raises(VectorsMissing, match="mlreg embeddings rebuild"):
        Similarity(log, actor=ACTOR).find_similar("churn")
    done = update(log, embedder=Small())
    assert (done.embedded, done.unchanged) == (2, 2)


def test_an_embedder_that_changed_behind_its_name_is_never_mixed_with_what_it_made_before(
    log, registry, monkeypatch
):
    class Other(Small):
        def embed(self, texts):
            return super().embed(texts)[:, ::-1]

    update(log, embedder=Small())
    store = VectorStore.of(log.lake)
    monkeypatch.setattr("ml_registry_pipelines.search.vectors.store.make_embedder", lambda _: Other())
    found = Similarity(log, actor=ACTOR).search("fraud")
    assert found.note is not None
    assert "made by another lancedb:small than is installed here" in found.note
    done = update(log, embedder=Other())
    assert (done.backfilled, done.embedded) == (True, 4)
    assert len(store.tables()) == 1


def test_the_default_embedder_learns_again_when_the_catalogue_has_doubled(log, registry):
    update(log)
    store = VectorStore.of(log.lake)
    first = store.record()
    assert first.fingerprint == first.base
    registry.register_many(
        NewThing(f"model-{n}", description=f"scores loans of branch {n}") for n in range(40)
    )
    done = update(log)
    assert (done.backfilled, done.vectors, done.replaced) == (True, 44, (first.table,))
    second = store.record()
    assert (second.fitted_to, second.base) == (44, first.base)
    assert second.fingerprint != second.base
    registry.register_model("one-more", description="scores loans of a branch")
    assert update(log).backfilled is False
    assert Similarity(log, actor=ACTOR).search("loans of branch", k=3).note is None
    (Path(store.base) / f"{second.table}.state").unlink()
    from ml_registry_pipelines.search.vectors import store as stores

    stores._fitted.clear()
    assert "is gone, without which no text can be compared" in str(
        Similarity(log, actor=ACTOR).search("loans").note
    )
    with pytest.raises(VectorsDamaged, match="mlreg embeddings rebuild"):
        update(log)
    assert rebuild(log).vectors == 45
    assert update(log).backfilled is False


def test_status_says_what_is_missing_stale_or_left_over(log, registry):
    assert "mlreg embeddings rebuild" in status(log).sentence
    update(log)
    assert status(log).is_current
    registry.register_model("new")
    registry.describe_model("churn", "other")
    registry.delete_model("weather")
    found = status(log)
    assert (len(found.missing), len(found.stale), len(found.surplus), found.behind) == (1, 1, 1, 3)
    assert (
        "1 models have no vector; 1 vectors are of an earlier text; 1 vectors are of models that are gone"
        in found.sentence
    )
    update(log)
    assert status(log).is_current


def test_status_says_when_another_embedder_is_set(log, registry, monkeypatch):
    update(log)
    monkeypatch.setenv("MLREG_EMBEDDER", "lancedb:other")
    assert not status(log).is_current
    assert "they are by wordllama, and the setting is lancedb:other" in status(log).sentence
    # What no update could do, none is advised to do.
    monkeypatch.setenv("MLREG_EMBEDDER", "wordllamas")
    assert status(log).sentence.endswith(
        "'wordllamas' is no embedder; MLREG_EMBEDDER is one of wordllama, sentence-transformers:MODEL, "
        "lancedb:NAME?parameter=value."
    )


def test_an_empty_registry_has_an_empty_table_and_no_complaint(log):
    assert status(log).is_current
    assert update(log).vectors == 0
    assert update(log).backfilled is False
    assert status(log).is_current


@pytest.mark.parametrize("harm", ["folder", "table", "manifest", "data", "record", "dimension"])
def test_whatever_happened_to_the_folder_is_said_and_mended_by_one_command(log, registry, harm):
    update(log)
    store = VectorStore.of(log.lake)
    record = store.record()
    base = Path(store.base)
    table = base / f"{record.table}.lance"
    from ml_registry_pipelines.search.vectors import nearest

    nearest._kept.clear()
    match harm:
        case "folder":
            import shutil

            shutil.rmtree(base)
        case "table":
            import shutil

            shutil.rmtree(table)
        case "manifest":
            for path in (table / "_versions").iterdir():
                path.write_bytes(b"x" * 100)
        case "data":
            for path in (table / "data").iterdir():
                path.write_bytes(b"x" * 100)
        case "record":
            (base / "current.json").write_text("{")
        case "dimension":
            text = json.loads((base / "current.json").read_text())
            (base / "current.json").write_text(
                json.dumps({**text, "dimension": 8, "probe": text["probe"][:8]})
            )
    like = Similarity(log, actor=ACTOR)
    with pytest.raises((VectorsMissing, VectorsDamaged), match="`mlreg embeddings rebuild`"):
        like.find_similar("fraud-cards")
    # Full text answers, and says what is missing.
    answer = like.search("fraud in card payments", k=2)
    assert answer.hits[0].name == "fraud-cards"
    assert answer.note is not None
    assert not status(log).is_current
    assert rebuild(log).vectors == 4
    assert like.find_similar("fraud-cards", k=1).hits[0].name == "fraud-transfers"
    assert status(log).is_current


def test_a_folder_that_cannot_be_written_is_named(log, registry):
    Path(log.lake.root, "vectors").write_text("a file where the folder should be")
    for make in (update, rebuild):
        with pytest.raises(
            VectorsDamaged, match=r"vectors cannot be written: File exists; vectors are made where"
        ):
            make(log)


def test_what_is_damaged_is_said_without_places_in_the_source_of_others(log, registry):
    update(log)
    for manifest in Path(log.lake.root, "vectors").glob("*.lance/_versions/*.manifest"):
        manifest.write_text("garbage")
    with pytest.raises(VectorsDamaged, match="cannot be read or written") as told:
        update(log)
    assert ".rs" not in str(told.value)


def test_writers_at_once_leave_one_whole_table(log, registry):
    def work(how) -> None:
        try:
            how(log)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is to be seen
            failures.append(failure)

    failures: list[Exception] = []
    threads = [threading.Thread(target=work, args=(how,)) for how in (update, rebuild, update, rebuild)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert status(log).is_current
    assert len(VectorStore.of(log.lake).tables()) == 1
    assert len(held(log)) == 4


def test_vectors_live_in_a_bucket_as_they_do_in_a_folder(s3_root):
    with Lake(s3_root) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        like = Similarity(log, actor=ACTOR)
        registry.register_many(NewThing(name, description=text) for name, text in MODELS.items())
        with pytest.raises(VectorsMissing):
            like.find_similar("churn")
        assert update(log).vectors == 4
        registry.delete_model("churn")
        registry.describe_model("weather", "sun")
        assert (update(log).embedded, status(log).is_current) == (1, True)
        assert like.find_similar("fraud-cards", k=1).hits[0].name == "fraud-transfers"
        first = VectorStore.of(lake).record().table
        assert update(log, embedder=Small()).replaced == (first,)
        assert rebuild(log).vectors == 3
        store = VectorStore.of(lake)
        assert store.tables() == [store.record().table]
        assert not [
            e.path for e in store.folder.entries() if first in e.path and first != store.record().table
        ]


KILLED = """
import sys
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.search.embedding.embedder import make_embedder
from ml_registry_pipelines.search.vectors import updating
import lancedb
updating.AT_ONCE = 3
log = Log(Lake(sys.argv[1]))
registry = ModelRegistry(log, actor=Actor("p1"))
registry.list_models()
make_embedder()
print("ready", flush=True)
sys.stdin.readline()
for n in range(10):
    registry.describe_model(f"model-{n}", f"scores loans of branch {n} {sys.argv[2]}")
    updating.update(log)
updating.rebuild(log)
log.close()
print("done", flush=True)
"""


@pytest.mark.kill
@pytest.mark.timeout(SECONDS)
def test_a_writer_that_is_killed_leaves_vectors_that_the_next_one_goes_on_with(tmp_path):
    root = str(tmp_path / "lake")
    with Lake(root) as lake, Log(lake) as log:
        ModelRegistry(log, actor=ACTOR).register_many(NewThing(f"model-{n}") for n in range(40))
    run_killed(KILLED, root, "x", most=KILLS)
    with Lake(root) as lake, Log(lake) as log:
        assert status(log).is_current
        assert len(VectorStore.of(lake).tables()) == 1
        assert make_embedder().spec == VectorStore.of(lake).record().spec


@pytest.mark.kill
@pytest.mark.soak  # the test above shows what a killed writer leaves
@pytest.mark.timeout(SECONDS)
def test_vectors_of_a_killed_writer_answer_for_what_they_know(tmp_path):
    root = str(tmp_path / "lake")
    with Lake(root) as lake, Log(lake) as log:
        ModelRegistry(log, actor=ACTOR).register_many(NewThing(f"model-{n}") for n in range(40))
        update(log)
    run_killed(KILLED, root, "y", most=KILLS)
    with Lake(root) as lake, Log(lake) as log:
        found = Similarity(log, actor=ACTOR).find_similar("model-3", k=39)
        assert len({hit.id for hit in found.hits}) == 39
