"""What callers of any verb rely on: keys, pages, tags and clear words about odd values."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.errors import InvalidInput, KeyReused
from ml_registry_pipelines.registry.relationships import NewEdge
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import Stage
from ml_registry_pipelines.telemetry.attribution import Attribution, NewRule, RuleChange

HOSTED = HostedModel("o", "x")


def test_a_key_gives_the_first_answer_whatever_became_of_the_names_in_it(registry, relationships, things):
    registry.register_model("a")
    first = registry.create_model_version("a", HOSTED, idempotency_key="k")
    registry.rename_model("a", "b")
    assert registry.create_model_version("a", HOSTED, idempotency_key="k").id == first.id
    registry.delete_model("b")
    assert registry.create_model_version("a", HOSTED, idempotency_key="k").id == first.id
    with pytest.raises(KeyReused):
        registry.create_model_version("nowhere", HOSTED, idempotency_key="k")
    things.register_many("feature", [NewThing("p"), NewThing("q")], idempotency_key="k")
    edges = [NewEdge(("feature", "p"), ("feature", "q"))]
    relationships.relate_many("feeds", edges, idempotency_key="k")
    things.rename("feature", "q", "r")
    things.delete("feature", "p")
    assert relationships.relate_many("feeds", edges, idempotency_key="k") == 1
    assert things.register_many("feature", [NewThing("p"), NewThing("q")], idempotency_key="k") == 2
    assert [t.name for t in things.find("feature")] == ["r"]


def test_pages_hold_every_namesake(registry, things):
    for kind in ("alpha", "beta", "gamma"):
        things.register(kind, "same")
    for _ in range(3):
        registry.register_model("gone")
        registry.delete_model("gone")
    for wanted in ({"text": "same"}, {"kind": "model", "deleted": True}):
        first = things.find(limit=2, **wanted)
        rest = things.find(limit=2, after=first[-1].cursor, **wanted)
        assert len({t.id for t in first + rest}) == 3
        assert not things.find(limit=2, after=rest[-1].cursor, **wanted)
    with pytest.raises(InvalidInput, match="'same' is no place in a list; give the cursor"):
        things.find(after="same")


def test_tags_keep_large_numbers_and_go_by_either_spelling_of_their_name(registry):
    registry.register_model("m", tags={"n": 1e22, "whole": 2.0, "caf\u00e9": "x", "date": 1})
    assert registry.get_model("m").tags == {"n": 1e22, "whole": 2, "caf\u00e9": "x", "date": 1}
    assert "caf\u00e9" not in registry.tag_model("m", remove=["cafe\u0301"]).tags
    registry.create_model_version("m", HOSTED, tags={"caf\u00e9": 1})
    assert registry.tag_version("m@v1", remove=["cafe\u0301"]).tags == {}
    for tag in (registry.tag_model, registry.tag_version):
        with pytest.raises(InvalidInput, match="not the text 'date'"):
            tag("m" if tag == registry.tag_model else "m@v1", remove="date")


def test_an_id_means_its_own_thing_whatever_has_been_named_like_it(registry):
    made = registry.register_model("m")
    registry.register_model(made.id, description="another")
    assert registry.get_model(made.id).name == "m"


def test_the_relationships_of_something_deleted_are_found_by_either_spelling(relationships, things):
    for name in ("caf\u00e9", "q"):
        things.register("feature", name)
    relationships.relate("feeds", ("feature", "cafe\u0301"), ("feature", "q"))
    things.delete("feature", "caf\u00e9")
    assert len(relationships.list("feature", "cafe\u0301")) == 1


def test_stages_and_flows_may_be_given_by_name(registry, relationships, things):
    registry.register_model("m")
    for _ in range(2):
        registry.create_model_version("m", HOSTED)
        registry.promote_to_production("m@latest", former="staging")
    assert registry.get_version("m@v1").stage is Stage.STAGING
    assert registry.set_stage("m@v1", "archived").stage is Stage.ARCHIVED
    assert [m.name for m in registry.search_models(stage="archived")] == ["m"]
    things.register("team", "t")
    assert (
        relationships.relate("owns", ("team", "t"), ("model", "m"), flow="to_target").flow.value
        == "to_target"
    )


@pytest.mark.parametrize(
    "odd",
    [
        lambda r, _: r.register_model("x", idempotency_key="\ud800"),
        lambda r, _: r.register_model("x", idempotency_key=5),
        lambda r, _: r.get_model(None),
        lambda r, _: r.get_version(None),
        lambda r, _: r.set_stage("m@v1", "live"),
        lambda r, _: r.rollback("m", former=None),
        lambda r, _: r.register_model("x", valid_from="2026-01-01"),
        lambda r, _: r.get_model("m", as_of="2026-01-01"),
        lambda r, _: r.production_on("m", "2026-01-01"),
        lambda r, _: r.search_models("\ud800"),
        lambda r, _: r.search_models(framework="\ud800"),
        lambda r, _: r.search_models(limit="1"),
        lambda _, t: t.deployments_on(date.max),
        lambda _, t: t.deployments_on(datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_an_odd_value_gets_one_sentence(registry, tracker, odd):
    registry.register_model("m")
    registry.create_model_version("m", HOSTED)
    with pytest.raises(InvalidInput):
        odd(registry, tracker)
    assert [m.name for m in registry.list_models(limit=2**70)] == ["m"]


def test_an_odd_rule_gets_one_sentence(log, registry, tracker):
    registry.register_model("m")
    registry.create_model_version("m", HOSTED)
    tracker.track_deployment("eu", "m@v1", environment="production")
    rules = Attribution(log, actor=registry.actor, tenant=registry.tenant)
    rules.add_rule(NewRule("eu", {"endpoint": "e"}, name="r"))
    with pytest.raises(InvalidInput, match="whole number"):
        rules.add_rule(NewRule("eu", {"endpoint": "f"}, priority=1.5))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="text, not a NoneType"):
        rules.change_rule("r", RuleChange(deployment=None))  # type: ignore[arg-type]
