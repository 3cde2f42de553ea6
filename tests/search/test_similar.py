"""Models like a model, for a text, a dataset or a task: who is among them, and why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from ml_registry_pipelines.access.policy import owner_of
from ml_registry_pipelines.access.users import Users, actor_for_key
from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import Uri
from ml_registry_pipelines.registry.errors import InvalidInput, NotAllowed, NotFound
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import VersionFacts
from ml_registry_pipelines.search.duplicates import near_duplicates
from ml_registry_pipelines.search.fusion import fuse
from ml_registry_pipelines.search.similar import MOST, Similarity
from ml_registry_pipelines.search.vectors.updating import update

ACTOR = Actor("p1")
MODELS = {
    "fraud-cards": ("Finds fraud in card payments.", {"task": "fraud detection", "region": "eu"}),
    "fraud-transfers": ("Finds fraud in bank transfers.", {"task": "fraud detection", "region": "us"}),
    "fraud-old": ("Finds fraud in card payments, the first one.", {"task": "fraud detection"}),
    "churn": ("Customers that will leave.", {"task": "churn"}),
    "weather": ("Rain in the mountains.", {"region": "eu"}),
}


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Iterator[Log]:
    """Five models, two of them trained on one dataset, one deprecated."""
    with Lake(str(tmp_path_factory.mktemp("home"))) as lake, Log(lake) as opened:
        registry = ModelRegistry(opened, actor=ACTOR)
        tracker = LineageTracker(opened, actor=ACTOR)
        for sha in "01":
            tracker.track_dataset(
                "payments",
                Uri("https://example.org/payments.csv", sha * 64),
                description="Card payments of a year.",
            )
        for number, (name, (description, tags)) in enumerate(MODELS.items()):
            registry.register_model(name, description=description, tags=tags, owners=["team-risk"])
            facts = VersionFacts(
                framework="xgboost" if name.startswith("fraud") else "sklearn",
                signature={"inputs": [{"name": "amount", "type": "double"}], "outputs": []},
                trained_on=["payments@v2"] if name == "fraud-cards" else (),
                evaluated_on=["payments@v1"] if name == "churn" else (),
                base_model="fraud-cards@v1" if name == "fraud-transfers" else None,
            )
            registry.create_model_version(name, Uri(f"https://example.org/{name}", str(number) * 64), facts)
        registry.deprecate_model("fraud-old", reason="replaced", replacement="fraud-cards")
        update(opened)
        yield opened


@pytest.fixture(scope="module")
def like(log: Log) -> Similarity:
    return Similarity(log, actor=ACTOR)


def names(answer) -> list[str]:
    return [hit.name for hit in answer.hits]


def test_the_most_like_model_comes_first_with_what_both_share(like):
    answer = like.find_similar("fraud-cards")
    assert names(answer)[0] == "fraud-transfers"
    first = answer.hits[0]
    assert first.why.shared["framework"] == ("xgboost",)
    assert first.why.shared["tags"] == ("task=fraud detection",)
    assert first.why.shared["base model"] == ("made from fraud-cards",)
    assert first.why.shared["inputs"] == ("amount",)
    assert "fraud" in first.why.shared["words"]
    assert first.why.similarity == first.score <= 1
    assert first.why.sentence.startswith(
        "same base model: made from fraud-cards; same tags: task=fraud detection"
    )
    assert sorted((h.score for h in answer.hits), reverse=True) == [h.score for h in answer.hits]
    assert (answer.behind, answer.note) == (0, None)
    # The other way round it is said too.
    (back,) = [h for h in like.find_similar("fraud-transfers").hits if h.name == "fraud-cards"]
    assert back.why.shared["base model"] == ("fraud-transfers was made from it",)


def test_deprecated_models_are_hidden_unless_asked_for(like):
    assert "fraud-old" not in names(like.find_similar("fraud-cards"))
    assert "fraud-old" in names(like.find_similar("fraud-cards", include_deprecated=True, k=2))
    assert names(like.find_similar("fraud-cards", query="status = 'deprecated'")) == ["fraud-old"]
    assert "fraud-old" not in names(like.search("fraud"))
    # Of a deprecated one relatives are wanted most.
    assert names(like.find_similar("fraud-old", k=2)) == ["fraud-cards", "fraud-transfers"]


def test_as_many_answer_as_are_asked_for_where_so_many_are_left(like):
    for k in range(1, 4):
        assert len(like.find_similar("fraud-cards", k=k).hits) == k
        assert len(like.search("something of which no model speaks", k=k).hits) == k
    assert names(like.find_similar("fraud-cards", query="tags.region = 'eu'")) == ["weather"]
    assert names(like.search("fraud", query="tags.region = 'eu'", k=1)) == ["fraud-cards"]
    assert like.find_similar("fraud-cards", query="name = 'nothing'").hits == ()


def test_a_text_is_answered_by_words_and_by_meaning(like):
    answer = like.search("fraud with stolen cards", k=4)
    assert names(answer)[0] == "fraud-cards"
    first = answer.hits[0]
    assert first.why.terms == ("fraud", "cards")
    assert (first.why.text_rank, first.why.vector_rank) == (1, 1)
    assert "text has fraud, cards; similarity 0." in first.why.sentence
    (last,) = [h for h in like.search("fraud", k=4).hits if h.name == "weather"]
    assert last.why.text_rank is None


def test_for_a_dataset_those_come_first_that_were_made_with_it(like):
    answer = like.recommend(dataset="payments", k=3)
    assert names(answer)[:2] == ["fraud-cards", "churn"]
    assert answer.hits[0].why.relations == ("trained on payments@v2",)
    assert answer.hits[1].why.relations == ("evaluated on payments@v1",)
    assert answer.hits[1].why.relation_rank == 2
    assert names(like.recommend(dataset="payments", query="name = 'churn'")) == ["churn"]


def test_for_a_task_those_come_first_that_are_tagged_with_it(like):
    answer = like.recommend(task="Fraud-Detection", k=3)
    assert set(names(answer)[:2]) == {"fraud-cards", "fraud-transfers"}
    assert answer.hits[0].why.relations == ("tagged task=fraud detection",)


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda like: like.find_similar("nothing"), NotFound, "there is no model 'nothing'"),
        (lambda like: like.find_similar("churn", k=0), InvalidInput, "0 hits cannot be asked for"),
        (lambda like: like.find_similar("churn", k=MOST + 1), InvalidInput, "1 to 1,000 can"),
        (lambda like: like.find_similar("churn", query="nmae = 'x'"), InvalidInput, "name"),
        (lambda like: like.search("  \n"), InvalidInput, "there is no text to search for"),
        (
            lambda like: like.search("x" * 100_000),
            InvalidInput,
            "has 100,000 characters, and 10,000 is the most",
        ),
        (lambda like: like.recommend(), InvalidInput, "name either a dataset or a task"),
        (lambda like: like.recommend(dataset="a", task="b"), InvalidInput, "name either a dataset or a task"),
        (lambda like: like.recommend(dataset="nothing"), NotFound, "there is no dataset 'nothing'"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(like, ask, error, said):
    with pytest.raises(error, match=said):
        ask(like)


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE models; --", '" OR 1=1', "ß 日本 🦊 \x00 é", "NOT AND ( NEAR *"]
)
def test_odd_texts_are_texts(like, text):
    assert len(like.search(text, k=2).hits) == 2


def test_near_duplicates_are_told_apart_from_relatives(log):
    def found(name: str, description: str = "", **more) -> dict[str, tuple[str, ...]]:
        return {
            d.name: d.reasons
            for d in near_duplicates(log, name, actor=ACTOR, description=description, **more)
        }

    assert found("Fraud_Cards")["fraud-cards"] == ("nearly the same name",)
    assert found("unlike", content_digest=digest_of(log, "churn")) == {"churn": ("the same content",)}
    assert found("llama-3-70b", "A chat model.") == {}
    (same,) = near_duplicates(
        log,
        "fraud-card",
        actor=ACTOR,
        description=MODELS["fraud-cards"][0],
        tags=MODELS["fraud-cards"][1],
        k=1,
    )
    assert same.name == "fraud-cards"
    assert same.sentence.startswith("fraud-cards has nearly the same name")
    assert found("rain", MODELS["weather"][0]) == {"weather": ("the same description",)}
    # The model itself is none.
    assert "churn" not in found("churn", MODELS["churn"][0])


def digest_of(log: Log, name: str) -> str:
    return ModelRegistry(log, actor=ACTOR).list_versions(name)[0].content_digest


def test_names_that_differ_in_their_numbers_are_two_models(tmp_path):
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        ModelRegistry(log, actor=ACTOR).register_model("llama-3-8b-instruct")
        # Without a vector, too.
        assert [d.name for d in near_duplicates(log, "llama-3-8B-instruct", actor=ACTOR)] == [
            "llama-3-8b-instruct"
        ]
        assert near_duplicates(log, "llama-3-9b-instruct", actor=ACTOR) == []


def test_lists_are_fused_by_places():
    assert [thing for thing, _ in fuse([["a", "b", "c"], ["c", "b"]])] == ["c", "b", "a"]
    assert [thing for thing, _ in fuse([["a"], ["b"]], weights=[1, 2])] == ["b", "a"]
    assert fuse([[], []]) == []


def test_who_may_read_one_model_is_told_of_no_other(tmp_path):
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        _, key = Users(log, actor=owner_of(lake)).init()
        users = Users(log, actor=actor_for_key(log, key.text))
        registry = ModelRegistry(log, actor=users.actor)
        for name in ("secret", "open", "open-too"):
            registry.register_model(name, description="finds fraud")
        registry.create_model_version("secret", Uri("https://example.org/1", "1" * 64))
        tracker = LineageTracker(log, actor=users.actor)
        tracker.track_dataset("salaries", Uri("https://example.org/s.csv", "5" * 64))
        for name in ("open", "open-too"):
            facts = VersionFacts(base_model="secret@v1", trained_on=["salaries@v1"])
            registry.create_model_version(name, Uri("https://example.org/2", "2" * 64), facts)
        update(log)
        user = users.add_user(["viewer"], tenants=())
        for name in ("open", "open-too"):
            users.grant(user.id, "default", model=name, role="viewer")
        actor = actor_for_key(log, users.add_key(user.id).text)
        like = Similarity(log, actor=actor)
        answer = like.find_similar("open")
        assert names(answer) == ["open-too"]
        assert "secret" not in repr(answer)
        # A grant for a model is none for its datasets: no reason names one, nor says that a text does.
        told = [answer, like.search("salaries"), like.recommend(task="salaries")]
        assert not any("salaries" in hit.why.sentence for one in told for hit in one.hits)
        assert set(names(like.search("secret fraud"))) == {"open", "open-too"}
        assert near_duplicates(log, "Secret", actor=actor) == []
        for ask in (lambda: like.find_similar("secret"), lambda: like.find_similar("nothing")):
            with pytest.raises(NotAllowed):
                ask()
        shared = Similarity(log, actor=users.actor).find_similar("open").hits[0].why.shared
        assert "base model" in shared
        assert shared["datasets"] == ("salaries",)
        stranger = Similarity(log, actor=Actor("nobody"))
        for refused in (lambda: stranger.search("fraud"), lambda: stranger.find_similar("open")):
            with pytest.raises(NotAllowed):
                refused()
        assert near_duplicates(log, "open", actor=Actor("nobody")) == []


def test_the_shell_answers_in_lines_and_in_json(log, monkeypatch):
    import json

    monkeypatch.setenv("MLREG_HOME", log.lake.root)

    def mlreg(*words: str, status: int = 0) -> str:
        result = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result.stdout

    assert "fraud-transfers  v1  same base model: made from fraud-cards" in mlreg(
        "similar", "fraud-cards", "-k", "1"
    )
    told = json.loads(mlreg("recommend", "--task", "churn", "--json", "-k", "1"))
    assert (told["hits"][0]["name"], told["hits"][0]["why"]["relations"]) == ("churn", ["tagged task=churn"])
    assert "fraud-cards" in mlreg(
        "recommend", "--dataset", "payments", "-k", "1", "--filter", "tags.region = 'eu'"
    )
    assert "fraud-cards" in mlreg("search", "--hybrid", "card fraud", "--limit", "1", "tags.region = 'eu'")
    assert "All 5 models have a vector" in mlreg("embeddings", "status", "--fail")
    assert "0 embedded" in mlreg("embeddings", "update")
    mlreg("recommend", status=2)
    mlreg("search", "--hybrid", "x", "--versions", status=2)
