"""What a search finds, against a naive evaluation of the same query over the same models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings

from ml_registry_pipelines.compliance.ai_act.classifications import AiAct
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.content import HostedModel
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import Artifact, VersionFacts
from ml_registry_pipelines.search.language.ast import Node
from ml_registry_pipelines.search.language.errors import CursorError, QueryError
from ml_registry_pipelines.search.language.fields import Kind
from ml_registry_pipelines.search.models import ModelSearch
from tests.examples import examples
from tests.registry.conftest import ACTOR
from tests.search.queries import World, holds, living, queries

HOSTED = HostedModel("openai", "gpt-4o")
TENANT = "world"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MODELS = [
    NewThing("alpha", "Alpha beta", {"a": 1, "b": "x", "c d": True}, ["team:x"]),
    NewThing("Alpha", "", {"a": 2.5, "b": date(2026, 1, 31), "über": "alpha"}, ["team:x", "team:y"]),
    NewThing("beta_1", "100%", {"a": "1", "b": "2026-01-31"}),
    NewThing("betax1", "it's", {"a": 1.0, "x.y-z": 2**53 + 1}, ["alpha"]),
    NewThing("γάμμα", "gamma 1", {"a": False, "b": "ΓΆΜΜΑ"}),
    NewThing("straße", 'a\\b "quo"te', {"c d": "STRASSE"}, ["team:y"]),
    NewThing("%", "", {}),
    NewThing("gone", "alpha", {"a": 1}),
    NewThing("old", "beta", {"a": 1}, ["team:x"]),
]


@dataclass
class Made:
    search: ModelSearch
    registry: ModelRegistry
    world: World


@pytest.fixture(scope="module")
def made(log: Log) -> Made:
    """Some models and versions with all that a query asks about."""
    registry = ModelRegistry(log, actor=ACTOR, tenant=TENANT)
    registry.register_many(MODELS)
    add = registry.create_model_version
    add("alpha", HOSTED, VersionFacts(metrics={"a": 1.0, "b": 0.5}, framework="alpha", licence="MIT"))
    add(
        "alpha",
        HOSTED,
        VersionFacts(metrics={"a": 2.5}, parameters={"a": 1, "b": "x", "c d": [1]}),
        tags={"a": "x"},
    )
    add("Alpha", HOSTED, VersionFacts(metrics={"a": -1}, framework="Alpha"), description="beta_1")
    add("Alpha", HOSTED, VersionFacts(metrics={"c d": 0}, parameters={"a": True, "b": 1e300}))
    add("γάμμα", HOSTED, VersionFacts(framework="γάμμα"), tags={"a": 1, "b": True, "über": date(2025, 12, 1)})
    add("old", HOSTED, VersionFacts(metrics={"a": 1}))
    registry.set_stage("alpha@v1", "staging")
    registry.set_stage("Alpha@v1", "archived")
    registry.delete_version("Alpha@v2")
    registry.set_alias("alpha@v1", "alpha")
    registry.set_alias("alpha@v2", "beta_1")
    registry.set_alias("γάμμα@v1", "alpha")
    registry.delete_model("gone")
    registry.deprecate_model("old", reason="newer")
    AiAct(log, actor=ACTOR, tenant=TENANT).classify("alpha", {"is_ai_system": False})
    tracker = LineageTracker(log, actor=ACTOR, tenant=TENANT)
    tracker.track_deployment("eu", "alpha@v1", environment="alpha")
    tracker.track_deployment("us", "γάμμα@v1", environment="beta_1")
    tracker.track_deployment("it", "alpha@v2", environment="Alpha")
    tracker.end_deployment("it")
    return Made(ModelSearch(log, actor=ACTOR, tenant=TENANT), registry, World(list(_world(registry))))


def _world(registry: ModelRegistry) -> Iterator[dict[str, Any]]:
    """The models as the registry itself tells them."""
    environments = {("alpha", 1): ["alpha"], ("γάμμα", 1): ["beta_1"]}
    tiers = {c.model: c.recorded_tier.value for c in AiAct(registry.log, actor=ACTOR, tenant=TENANT).all()}
    for model in registry.list_models():
        first = registry.history(model.name)[0]
        yield {
            "id": model.id,
            "name": model.name,
            "description": model.description,
            "status": model.status,
            "owners": model.owners,
            "aliases": model.aliases,
            "tags": model.tags,
            "created": micros(first.recorded_at),
            "updated": micros(model.recorded_at),
            "risk_class": tiers.get(model.name),
            "versions": [
                {
                    "id": v.id,
                    "number": v.number,
                    "stage": v.stage.value,
                    "framework": v.framework,
                    "licence": v.licence,
                    "size": v.size,
                    "digest": v.content_digest,
                    "form": v.content["form"],
                    "metrics": v.metrics,
                    "params": v.parameters,
                    "description": v.description,
                    "tags": v.tags,
                    "created": micros(next(registry.things.history_of("model_versions", v.id)).recorded_at),
                    "updated": micros(v.recorded_at),
                    "deleted": v.deleted,
                    "environments": environments.get((model.name, v.number), []),
                }
                for v in registry.list_versions(model.name, deleted=True)
            ],
        }


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


@settings(max_examples=examples(400, least=50), deadline=None)
@given(query=queries(Kind.MODEL))
def test_a_query_finds_the_models_that_meet_it(made: Made, query: Node):
    expected = sorted(m["name"] for m in made.world.models if holds(query, m))
    page = made.search.search(query, include_deprecated=True)
    assert [hit.name for hit in page.hits] == expected
    assert made.search.count(query, include_deprecated=True) == len(expected)
    matches = made.search.matching(query, include_deprecated=True)
    assert {m["name"] for m in made.world.models if matches.contains(m["id"])} == set(expected)
    assert len(matches) == len(expected)


@settings(max_examples=examples(400, least=50), deadline=None)
@given(query=queries(Kind.VERSION))
def test_a_query_finds_the_versions_that_meet_it(made: Made, query: Node):
    expected = [
        f"{m['name']}@v{v['number']}"
        for m in sorted(made.world.models, key=lambda m: m["name"])
        for v in living(m)
        if holds(query, m, v)
    ]
    page = made.search.search(query, include_deprecated=True, kind="version")
    assert [hit.reference for hit in page.hits] == expected
    assert made.search.count(query, include_deprecated=True, kind="version") == len(expected)


@settings(max_examples=examples(200, least=25), deadline=None)
@given(query=queries(Kind.MODEL, any_text=True))
def test_no_text_of_a_query_becomes_sql(made: Made, query: Node):
    expected = sorted(m["name"] for m in made.world.models if holds(query, m))
    assert [hit.name for hit in made.search.search(query, include_deprecated=True).hits] == expected


@pytest.mark.parametrize(
    "text",
    [
        "'; DROP TABLE models; --",
        '" OR 1=1 --',
        "x' OR '1'='1",
        ":p0",
        "?",
        "%",
        "_",
        "\\",
        '"alpha"',
        "NEAR(a b)",
        "a*",
    ],
)
def test_what_looks_like_sql_is_a_text(registry, searching, text):
    registry.register_model(text, tags={text: text, "k": text}, description=text)
    registry.register_model("bystander")
    quoted, key = text.replace("'", "''"), text.replace('"', '""')
    escaped = "".join(f"\\{c}" if c in "%_\\" else c for c in quoted)
    for query in (
        f"name = '{quoted}'",
        f"name LIKE '%{escaped}%'",
        f"name ILIKE '{escaped}'",
        f"tags.k IN ('{quoted}')",
        f"tags.\"{key}\" = '{quoted}'",
        f"description = '{quoted}' AND NOT tags.\"{key}\" IS NULL",
    ):
        assert [hit.name for hit in searching.search(query).hits] == [text]
    assert searching.search("", text=text).hits == searching.search("", text=text).hits
    assert searching.count() == 2


def test_deprecated_models_are_hidden_unless_asked_for(made):
    assert "old" not in [hit.name for hit in made.search.search().hits]
    assert [hit.name for hit in made.search.search("status = 'deprecated'").hits] == ["old"]
    assert "old" in [hit.name for hit in made.search.search("status IS NOT NULL").hits]
    assert "old" in [hit.name for hit in made.search.search(include_deprecated=True).hits]
    assert not made.search.matching().contains(made.registry.get_model("old").id)


def test_what_is_asked_of_one_version_is_met_by_one(made):
    def found(query):
        return [hit.name for hit in made.search.search(query).hits]

    assert found("any.metrics.a = 1 AND any.metrics.a = 2.5") == ["alpha"]
    assert found("any(metrics.a = 1 AND metrics.a = 2.5)") == []
    assert found("any(metrics.a = 1 AND stage = 'staging')") == ["alpha"]
    assert found("latest(metrics.a = 2.5 AND params.a = 1)") == ["alpha"]
    assert found("metrics.a = 1") == []
    assert found("stage != 'staging'") == ["Alpha", "γάμμα"]


def test_results_are_sorted_by_any_field_and_what_has_no_value_comes_last(made):
    def found(*order):
        return [hit.name for hit in made.search.search(order_by=order).hits]

    names = sorted(m["name"] for m in made.world.models if m["status"] == "active")
    assert found("any.metrics.a DESC")[:2] == ["alpha", "Alpha"]
    assert found("any.metrics.a")[:2] == ["Alpha", "alpha"]
    assert found("any.metrics.a")[2:] == [n for n in names if n not in {"alpha", "Alpha"}]
    assert found("name DESC") == names[::-1]
    assert found("versions DESC, name DESC")[0] == "alpha"
    assert sorted(found("tags.a", "created DESC")) == names
    assert found(f"owner, {'risk_class'}")[0] == "betax1"


@pytest.mark.parametrize(
    "order", ["", "tags.a", "tags.a DESC", "metrics.a, owner DESC", "created", "stage DESC, name"]
)
@pytest.mark.parametrize("kind", ["model", "version"])
def test_pages_one_after_the_other_are_the_whole(made, order, kind):
    whole = [hit.id for hit in made.search.search(order_by=order, kind=kind).hits]
    pages, cursor = [], None
    while True:
        page = made.search.search(order_by=order, kind=kind, limit=2, cursor=cursor)
        pages += [hit.id for hit in page.hits]
        cursor = page.cursor
        if cursor is None:
            break
    assert pages == whole


def test_texts_of_any_length_are_paged_through(registry, searching):
    long = [f"{begin}{'本' * 16_000}" for begin in "ba"]
    words = " ".join(f"{'模' * 60}{n}" for n in range(210))
    registry.register_many(
        NewThing(name, description, {"t": "日" * 4000, "n": n})
        for n, (name, description) in enumerate(zip("xyzw", (*long, words, words), strict=True))
    )
    for order, text, expected in (
        ("description, tags.t", None, "yxwz"),
        ("tags.t DESC, description DESC, name", None, "wzxy"),
        ("tags.n DESC, tags.t", None, "wzyx"),
        ("", words, "wz"),
    ):
        found, cursor = "", None
        while found == "" or cursor is not None:
            page = searching.search(text=text, order_by=order, limit=1, cursor=cursor)
            found, cursor = found + page.hits[0].name, page.cursor
        assert found == expected


def test_a_search_reads_as_of_a_time(registry, searching):
    registry.register_model("a", tags={"n": 1})
    before = registry.get_model("a").recorded_at
    registry.tag_model("a", {"n": 2})
    registry.register_model("b")
    assert [h.tags for h in searching.search("tags.n = 1", as_of=before).hits] == [{"n": 1}]
    assert [h.name for h in searching.search(as_of=before).hits] == ["a"]
    assert searching.search("tags.n = 1").hits == ()
    with pytest.raises(InvalidInput, match="no zone"):
        searching.search(as_of=datetime(2026, 1, 1))  # noqa: DTZ001 - the naive time is the point


def test_a_search_reads_what_was_written_just_now(registry, searching):
    for n in range(5):
        registry.register_model(f"m{n}")
        assert searching.count(f"name = 'm{n}'") == 1
    registry.rename_model("m0", "x")
    assert [h.name for h in searching.search("name IN ('m0', 'x')").hits] == ["x"]
    registry.delete_model("x")
    assert searching.count() == 4
    registry.restore_model("x")
    assert searching.count("name = 'x'") == 1


def test_words_are_found_in_name_description_and_card_by_relevance(registry, searching, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("# Card\nTrained on cheques of Français customers.")
    registry.register_model("cheque reader", description="reads amounts")
    registry.register_model(
        "other", description="knows nothing of it, but has a long text about many other matters"
    )
    registry.register_model("third", description="unlike")
    registry.create_model_version("third", HOSTED, artifacts=[Artifact("model_card", card)])
    found = searching.search(text="cheque amounts").hits
    assert [h.name for h in found] == ["cheque reader"]
    assert found[0].matched == ("'cheque' in name", "'amounts' in description")
    assert [h.name for h in searching.search(text="FRANCAIS cheques").hits] == ["third"]
    assert [h.name for h in searching.search("text MATCHES 'français cheques'").hits] == ["third"]
    assert searching.search("text MATCHES 'français amounts'").hits == ()
    assert searching.search(text="nobody").hits == ()
    assert searching.search(text="!?").hits == ()
    # What is said of the version that was deleted is not found any more.
    registry.delete_version("third@v1")
    assert searching.search(text="cheques").hits == ()
    (hit,) = searching.full_text("amounts unlike anything", searching.matching("name LIKE 'cheque%'"), 5)
    assert hit.terms == {"amounts": ("description",)}
    assert hit.score > 0


def test_relevance_puts_the_rarer_word_and_the_name_first(registry, searching):
    registry.register_model("common one", description="word")
    registry.register_model("common two", description="rare")
    registry.register_model("common three", description="more")
    assert searching.search(text="common rare").hits[0].name == "common two"
    registry.register_model("rare", description="nothing")
    hits = searching.search(text="rare").hits
    assert [h.name for h in hits] == ["rare", "common two"]
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    pages = [searching.search(text="common rare", limit=1)]
    while pages[-1].cursor:
        pages.append(searching.search(text="common rare", limit=1, cursor=pages[-1].cursor))
    assert [h for p in pages for h in p.hits] == list(searching.search(text="common rare").hits)


def test_a_cursor_goes_with_its_search_alone(made):
    cursor = made.search.search(limit=1).cursor
    assert cursor
    for wrong in (
        {"query": "name != ''"},
        {"order_by": "created"},
        {"include_deprecated": True},
        {"text": "alpha"},
        {"kind": "version"},
        {"as_of": datetime.now(UTC)},
    ):
        with pytest.raises(CursorError, match="another search"):
            made.search.search(**{"query": "", **wrong}, cursor=cursor)
    other = ModelSearch(made.search.log, actor=ACTOR, tenant="elsewhere")
    with pytest.raises(CursorError, match="another search"):
        other.search(cursor=cursor)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:-3],
        lambda c: ("A" if c[0] != "A" else "B") + c[1:],
        lambda c: c + "AAAA",
        lambda _: "",
        lambda _: "é",
        lambda _: "x" * 30_000,
    ],
)
def test_a_cursor_that_was_changed_is_refused(made, change):
    cursor = made.search.search(limit=1).cursor
    with pytest.raises(CursorError, match="no cursor"):
        made.search.search(limit=1, cursor=change(cursor))


@pytest.mark.parametrize("limit", [0, -1, 1001, "1", True, 1.0])
def test_a_limit_is_a_number_within_bounds(made, limit):
    with pytest.raises(InvalidInput, match="limit"):
        made.search.search(limit=limit)


def test_an_empty_registry_is_searched(searching):
    assert searching.search().hits == ()
    assert searching.search("any.metrics.a > 1", text="x", order_by="relevance DESC").hits == ()
    assert searching.count("name = 'x'") == 0
    assert searching.matching().contains("x") is False
    assert len(searching.matching()) == 0


def test_relevance_needs_a_text_and_unknown_kinds_are_named(made):
    with pytest.raises(QueryError, match="relevance is an order for a text"):
        made.search.search(order_by="relevance DESC")
    with pytest.raises(InvalidInput, match="model or version"):
        made.search.search(kind="dataset")


def test_the_registry_itself_takes_queries(made):
    names = [m.name for m in made.registry.search_models("tags.a >= 1 AND NOT tags.a = 1", owner="team:y")]
    assert names == ["Alpha"]
    assert [m.name for m in made.registry.search_models("tags.b = '2026-01-31'")] == ["Alpha", "beta_1"]
    assert [m.name for m in made.registry.search_models(tags={"b": "2026-01-31"})] == ["beta_1"]
    assert [m.name for m in made.registry.search_models(tags={"b": date(2026, 1, 31)})] == ["Alpha"]
    assert [m.name for m in made.registry.search_models(order_by="any.metrics.a DESC", limit=2)] == [
        "alpha",
        "Alpha",
    ]
    assert [m.name for m in made.registry.search_models(text="100%")] == ["beta_1"]
    with pytest.raises(QueryError, match="did you mean"):
        made.registry.search_models("nam = 'x'")
    assert [m.name for m in made.registry.search_models(status="deprecated")] == ["old"]
