"""What a user of the model registry sees."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor, Decision, Request
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.errors import (
    Deleted,
    IllegalTransition,
    InvalidInput,
    KeyReused,
    ModelIsDeprecated,
    NameTaken,
    NotAllowed,
    NotFound,
    ProtectedAlias,
    StillNeeded,
    VersionNotFound,
)
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.relationships import NewEdge, Relationships
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import Artifact, Stage, VersionFacts
from tests.registry.conftest import ACTOR

HOSTED = HostedModel("openai", "gpt-5-2026-10-01", {"temperature": 0}, "ab" * 32)


def with_versions(registry: ModelRegistry, count: int, name: str = "fraud") -> None:
    registry.register_model(name)
    for n in range(count):
        registry.create_model_version(name, HostedModel("p", f"s{n}"))


def test_a_registered_model_is_read_back_with_everything_that_was_given(registry):
    made = registry.register_model(
        "credit/größe v2.1",
        description="scores",
        tags={"risk": "high", "seats": 3, "share": 0.5, "live": True, "review": date(2026, 3, 1)},
        owners=["team:risk"],
        metadata={"a": [1, {"b": None}]},
    )
    assert registry.get_model("credit/größe v2.1") == made == registry.get_model(made.id)
    assert made.tags == {"risk": "high", "seats": 3, "share": 0.5, "live": True, "review": date(2026, 3, 1)}
    assert made.owners == ("team:risk",)
    assert made.metadata == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    "name",
    [
        "",
        " x",
        "a\x00b",
        "a\nb",
        "\u2028",
        "x" * 10_000,
        "\ud800",
        "\U000f0000",
        "fra\u200bud",
        "fra\u200dud",
        "fraud\u200d",
        "\u202etxt.fraud",
        "fra\xadud",
        "\u3164",
    ],
)
def test_a_name_that_nobody_can_read_is_refused(registry, name):
    with pytest.raises(InvalidInput):
        registry.register_model(name)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "a@b",
        "模型",
        "\u0646\u0627\u0645\u0647\u200c\u0647\u0627",
        "👩\u200d🔬",
        "x" * 500,
        "'; DROP TABLE things; --",
        "$tenant",
        "{x}",
    ],
)
def test_any_other_name_is_a_name(registry, name):
    registry.register_model(name)
    assert [m.name for m in registry.search_models(text=name)] == [name]


def test_two_spellings_of_the_same_characters_are_one_name(registry):
    registry.register_model("caf\u00e9")
    with pytest.raises(NameTaken):
        registry.register_model("cafe\u0301")


def test_a_name_is_taken_once_per_kind_and_tenant(log, registry):
    registry.register_model("fraud")
    with pytest.raises(NameTaken, match="already has a model 'fraud'"):
        registry.register_model("fraud")
    registry.things.register("application", "fraud")
    ModelRegistry(log, actor=ACTOR, tenant=registry.tenant + "-other").register_model("fraud")


def test_an_unknown_name_is_not_found(registry):
    with pytest.raises(NotFound, match="no model 'fruad'"):
        registry.get_model("fruad")


def test_an_owner_that_points_at_a_person_is_refused(registry):
    with pytest.raises(InvalidInput, match="never an e-mail address"):
        registry.register_model("m", owners=["jane@example.com"])


def test_a_number_that_json_cannot_hold_is_refused(registry):
    registry.register_model("m")
    with pytest.raises(InvalidInput, match="finite"):
        registry.create_model_version("m", HOSTED, VersionFacts(metrics={"auc": float("nan")}))
    with pytest.raises(InvalidInput, match="metric is a number"):
        registry.create_model_version("m", HOSTED, VersionFacts(metrics={"auc": True}))


def test_a_rename_keeps_versions_aliases_and_the_old_name_becomes_free(registry):
    with_versions(registry, 1)
    registry.set_alias("fraud@v1", "champion")
    registry.rename_model("fraud", "fraud 2")
    assert registry.get_version("fraud 2@champion").number == 1
    registry.register_model("fraud")
    with pytest.raises(NameTaken):
        registry.rename_model("fraud", "fraud 2")


def test_tags_are_set_and_removed_one_by_one(registry):
    registry.register_model("m", tags={"a": 1, "b": 2})
    assert registry.tag_model("m", {"c": "x"}, remove=["a"]).tags == {"b": 2, "c": "x"}


def test_search_meets_all_conditions_and_a_tag_matches_by_type_and_value(registry):
    registry.register_model("Fraud EU", tags={"n": 1, "t": "1"}, owners=["team:a"], description="cards")
    registry.register_model("fraud US", tags={"n": 2})
    registry.create_model_version("fraud US", HOSTED, VersionFacts(metrics={"auc": 0.9}, framework="xgboost"))
    registry.set_alias("fraud US@v1", "champion")

    def names(query="", **conditions):
        return [m.name for m in registry.search_models(query, **conditions)]

    assert names(text="FRAUD") == ["Fraud EU", "fraud US"]
    assert names(text="card") == ["Fraud EU"]
    assert names(tags={"n": 1.0}) == ["Fraud EU"]
    assert names(tags={"n": "1"}) == []
    assert names(tags={"n": 1, "t": "1"}, owner="team:a") == ["Fraud EU"]
    assert names(owner="team") == []
    assert names(alias="champion") == ["fraud US"]
    assert names(framework="xgboost", min_metrics={"auc": 0.9}) == ["fraud US"]
    assert names(min_metrics={"auc": 0.91}) == []
    assert names(stage=Stage.PRODUCTION) == []
    assert names(limit=1) == ["Fraud EU"]
    assert names(after=registry.get_model("Fraud EU").cursor, limit=1) == ["fraud US"]


def test_versions_are_numbered_from_one_and_a_deleted_number_never_comes_again(registry):
    with_versions(registry, 2)
    registry.delete_version("fraud@v2")
    assert [v.number for v in registry.list_versions("fraud")] == [1]
    assert registry.create_model_version("fraud", HOSTED).number == 3
    with pytest.raises(Deleted):
        registry.get_version("fraud@v2")
    assert registry.restore_version("fraud@v2").number == 2


def test_a_version_holds_what_was_recorded_of_it(registry):
    registry.register_model("fraud")
    facts = VersionFacts(
        signature={"inputs": [{"name": "age", "type": "double"}]},
        metrics={"auc": 0.91},
        parameters={"depth": 6},
        framework="xgboost",
        code_commit="c0ffee",
        licence="Apache-2.0",
    )
    version = registry.create_model_version("fraud", HOSTED, facts, tags={"n": 1}, description="first")
    again = registry.get_version("fraud@v1")
    assert again == version
    assert (again.metrics, again.parameters, again.licence) == ({"auc": 0.91}, {"depth": 6}, "Apache-2.0")
    assert again.stage is Stage.REGISTERED


@pytest.mark.parametrize("selector", ["v9", "champion", "production", "0", "v-1"])
def test_an_unknown_version_says_what_there_is(registry, selector):
    with_versions(registry, 1)
    with pytest.raises(VersionNotFound, match="it has v1"):
        registry.get_version(f"fraud@{selector}")


def test_promotion_records_what_became_of_the_former_production_version(registry):
    with_versions(registry, 2)
    registry.promote_to_production("fraud@v1", reason="launch")
    registry.promote_to_production("fraud@v2", former=Stage.STAGING)
    assert [(v.number, v.stage) for v in registry.list_versions("fraud")] == [
        (1, Stage.STAGING),
        (2, Stage.PRODUCTION),
    ]
    last = registry.history("fraud")[-1]
    assert (last.action, last.change) == (
        "promote_to_production",
        {"replaced_by": "fraud@v2", "stage": "staging"},
    )


def test_rollback_is_one_command_back_to_what_was_there_before(registry):
    with_versions(registry, 3)
    with pytest.raises(IllegalTransition, match="nothing in production"):
        registry.rollback("fraud")
    for n in (1, 3, 2):
        registry.promote_to_production(f"fraud@v{n}")
    assert registry.rollback("fraud").number == 3
    assert registry.get_version("fraud@production").number == 3
    assert registry.rollback("fraud").number == 1, "and not the one that was rolled back just now"
    with pytest.raises(IllegalTransition, match="that was not rolled back itself"):
        registry.rollback("fraud")


@pytest.mark.parametrize(("first", "then"), [(Stage.ARCHIVED, Stage.SHADOW), (Stage.STAGING, Stage.STAGING)])
def test_a_step_between_stages_that_leads_nowhere_is_refused(registry, first, then):
    with_versions(registry, 1)
    registry.set_stage("fraud@v1", first)
    with pytest.raises(IllegalTransition):
        registry.set_stage("fraud@v1", then)


def test_an_archived_version_is_not_promoted_and_a_promoted_one_not_again(registry):
    with_versions(registry, 2)
    registry.set_stage("fraud@v1", Stage.ARCHIVED)
    with pytest.raises(IllegalTransition, match="from archived to production"):
        registry.promote_to_production("fraud@v1")
    registry.promote_to_production("fraud@v2")
    with pytest.raises(IllegalTransition, match="already in production"):
        registry.promote_to_production("fraud@v2")


def test_a_deprecated_model_gets_no_version_and_no_promotion_until_it_is_reinstated(registry):
    with_versions(registry, 1)
    registry.register_model("fraud 2")
    registry.deprecate_model("fraud", reason="old", replacement="fraud 2")
    with pytest.raises(ModelIsDeprecated):
        registry.create_model_version("fraud", HOSTED)
    with pytest.raises(ModelIsDeprecated):
        registry.promote_to_production("fraud@v1")
    with pytest.raises(IllegalTransition, match="already deprecated"):
        registry.deprecate_model("fraud", reason="again")
    assert [m.name for m in registry.search_models(status="deprecated")] == ["fraud"]
    registry.reinstate_model("fraud")
    registry.promote_to_production("fraud@v1")


def test_a_deleted_model_can_be_restored_and_nothing_else(registry):
    with_versions(registry, 1)
    registry.delete_model("fraud")
    assert registry.list_models() == []
    for act in (
        lambda: registry.create_model_version("fraud", HOSTED),
        lambda: registry.get_version("fraud@v1"),
        lambda: registry.describe_model("fraud", "x"),
    ):
        with pytest.raises(Deleted, match="restore it first"):
            act()
    registry.restore_model("fraud")
    assert registry.get_version("fraud@v1").number == 1


def test_a_restore_is_refused_when_the_name_has_been_taken_since(registry):
    old = registry.register_model("fraud")
    registry.delete_model("fraud")
    registry.register_model("fraud")
    with pytest.raises(NameTaken):
        registry.restore_model(old.id)


def test_a_model_with_a_version_in_production_is_not_deleted(registry):
    with_versions(registry, 1)
    registry.promote_to_production("fraud@v1")
    with pytest.raises(StillNeeded, match="v1 is in production"):
        registry.delete_model("fraud")
    with pytest.raises(StillNeeded, match="archive it first"):
        registry.delete_version("fraud@v1")


def test_an_alias_moves_unless_it_is_protected(registry):
    with_versions(registry, 2)
    registry.set_alias("fraud@v1", "champion")
    registry.set_alias("fraud@v2", "champion")
    registry.protect_alias("fraud", "champion")
    registry.set_alias("fraud@v2", "champion")
    with pytest.raises(ProtectedAlias):
        registry.set_alias("fraud@v1", "champion")
    with pytest.raises(ProtectedAlias):
        registry.remove_alias("fraud", "champion")
    registry.unprotect_alias("fraud", "champion")
    assert registry.remove_alias("fraud", "champion").aliases == {}


@pytest.mark.parametrize("alias", ["latest", "production", "v3", "3", "a b", ""])
def test_an_alias_that_would_mean_two_things_is_refused(registry, alias):
    with_versions(registry, 1)
    with pytest.raises(InvalidInput):
        registry.set_alias("fraud@v1", alias)


def test_the_same_command_under_one_key_is_done_once(registry):
    first = registry.register_model("fraud", idempotency_key="k")
    assert registry.register_model("fraud", idempotency_key="k") == first
    with pytest.raises(KeyReused):
        registry.register_model("other", idempotency_key="k")
    # The key is the action's own.
    registry.describe_model("fraud", "x", idempotency_key="k")
    version = registry.create_model_version("fraud", HOSTED, idempotency_key="k")
    assert registry.create_model_version("fraud", HOSTED, idempotency_key="k").id == version.id
    assert len(registry.list_versions("fraud")) == 1


def test_as_of_shows_what_had_been_recorded_then(registry):
    with_versions(registry, 1)
    before = datetime.now(UTC)
    registry.rename_model("fraud", "renamed")
    registry.promote_to_production("renamed@v1")
    assert registry.get_model("fraud", as_of=before).name == "fraud"
    assert registry.get_version("fraud@v1", as_of=before).stage is Stage.REGISTERED
    assert [m.name for m in registry.list_models(as_of=before)] == ["fraud"]
    assert registry.list_models(as_of=before - timedelta(days=1)) == []
    with pytest.raises(InvalidInput, match="no zone"):
        registry.list_models(as_of=datetime(2026, 1, 1))  # noqa: DTZ001 - the missing zone is the point


def test_what_was_in_production_on_a_day_is_one_call_with_who_did_it(log, registry):
    def day(n: int) -> datetime:
        return datetime(2026, 3, n, tzinfo=UTC)

    with_versions(registry, 2)
    registry.promote_to_production("fraud@v1", valid_from=day(1))
    other = ModelRegistry(log, actor=Actor("p2"), tenant=registry.tenant)
    known_before = datetime.now(UTC)
    other.promote_to_production("fraud@v2", valid_from=day(10))
    found = registry.production_on("fraud", day(5))
    assert (found.version.number, found.actor, found.since) == (1, "p1", day(1))
    found = registry.production_on("fraud", day(10))
    assert (found.version.number, found.actor, found.since) == (2, "p2", day(10))
    assert registry.production_on("fraud", day(10), as_of=known_before).version.number == 1
    assert registry.production_on("fraud", day(1) - timedelta(seconds=1)) is None


def test_what_is_recorded_later_overrides_from_its_effective_time_on(registry):
    def day(n: int) -> datetime:
        return datetime(2026, 3, n, tzinfo=UTC)

    def holds(when: datetime) -> tuple[int, datetime] | None:
        found = registry.production_on("fraud", when)
        return found and (found.version.number, found.since)

    with_versions(registry, 3)
    registry.promote_to_production("fraud@v1", valid_from=day(1))
    # The version itself was recorded after that day, and is in production all the same.
    assert holds(datetime.now(UTC)) == (1, day(1))
    registry.promote_to_production("fraud@v2", valid_from=day(10))
    registry.promote_to_production("fraud@v3", valid_from=day(5))
    assert [holds(day(n)) for n in (4, 6, 12)] == [(1, day(1)), (3, day(5)), (3, day(5))]
    assert registry.get_version("fraud@production").number == 3
    # The second was never there, then, and from the day on which the third left nothing is.
    registry.set_stage("fraud@v3", Stage.STAGING, valid_from=day(7))
    assert [holds(day(n)) for n in (2, 6, 8, 12)] == [(1, day(1)), (3, day(5)), None, None]
    registry.tag_version("fraud@v3", {"x": 1})
    assert holds(datetime.now(UTC)) is None


def test_an_effective_time_does_not_lie_ahead(registry):
    with_versions(registry, 1)
    with pytest.raises(InvalidInput, match="lies ahead; record the act when it holds"):
        registry.promote_to_production("fraud@v1", valid_from=datetime.now(UTC) + timedelta(days=1))
    assert registry.get_version("fraud@v1").stage is Stage.REGISTERED


def test_two_versions_are_compared_field_by_field(registry):
    registry.register_model("m")
    registry.create_model_version("m", HOSTED, VersionFacts(metrics={"auc": 0.8, "f1": 1}, framework="a"))
    registry.create_model_version("m", HOSTED, VersionFacts(metrics={"auc": 0.9, "f1": 1}, framework="a"))
    assert registry.compare_versions("m@v1", "m@v2").fields == {"metrics.auc": (0.8, 0.9)}


def test_many_models_are_registered_whole_or_not_at_all(registry):
    registry.register_model("m7")
    with pytest.raises(NameTaken, match="m7"):
        registry.register_many(NewThing(f"m{n}") for n in range(10))
    with pytest.raises(NameTaken, match="twice"):
        registry.register_many([NewThing("twice"), NewThing("twice")])
    assert [m.name for m in registry.list_models()] == ["m7"]
    assert (
        registry.register_many((NewThing(f"b{n}", tags={"n": n}) for n in range(30)), idempotency_key="k")
        == 30
    )
    assert (
        registry.register_many((NewThing(f"b{n}", tags={"n": n}) for n in range(30)), idempotency_key="k")
        == 30
    )
    assert len(registry.list_models()) == 31
    assert registry.tag_model("b3", {"x": 1}).tags == {"n": 3, "x": 1}
    with pytest.raises(NameTaken):
        registry.register_model("b3")
    assert [e.action for e in registry.history("b3")] == ["register_many_model", "tag_model"]


def test_the_policy_is_asked_about_every_command_and_its_word_is_final(log, tenant):
    asked: list[Request] = []

    def policy(request: Request) -> Decision:
        asked.append(request)
        return Decision(request.action != "promote_to_production", "wait for the review")

    with Log(log.lake, policy=policy) as guarded:
        registry = ModelRegistry(guarded, actor=ACTOR, tenant=tenant)
        with_versions(registry, 1)
        with pytest.raises(NotAllowed, match=r"may not promote_to_production .* wait for the review"):
            registry.promote_to_production("fraud@v1")
    # About a version before its bytes are stored, and once more with all that is recorded.
    versions = ["create_model_version"] * 2
    assert [r.action for r in asked] == ["register_model", *versions, "promote_to_production"]
    assert asked[0].actor == ACTOR
    assert registry.get_version("fraud@v1").stage is Stage.REGISTERED


def test_a_refused_command_stores_nothing(tmp_path):
    (tmp_path / "w").write_bytes(b"w")
    with Lake(str(tmp_path / "lake")) as lake:
        with Log(lake) as log:
            with_versions(ModelRegistry(log, actor=ACTOR), 1)
        before = sorted(Path(lake.root, "artifacts").rglob("*"))
        with Log(lake, policy=lambda request: Decision(request.action == "read", "no")) as log:
            registry = ModelRegistry(log, actor=ACTOR)
            for act in (
                lambda: registry.create_model_version("fraud", tmp_path / "w"),
                lambda: registry.add_artifact("fraud@v1", Artifact("model_card", tmp_path / "w")),
                lambda: registry.register_many([NewThing("z")]),
                lambda: Relationships(log, actor=ACTOR).relate_many(
                    "feeds", [NewEdge(("model", "fraud"), ("model", "nobody"))]
                ),
            ):
                with pytest.raises(NotAllowed):
                    act()
        assert sorted(Path(lake.root, "artifacts").rglob("*")) == before


def test_other_kinds_of_things_have_the_same_verbs(things):
    things.register("prompt", "greeting", tags={"lang": "de"})
    things.describe("prompt", "greeting", "hello")
    things.set_owners("prompt", "greeting", ["team:x"])
    things.set_metadata("prompt", "greeting", {"text": "Guten Tag"})
    things.rename("prompt", "greeting", "hi")
    found = things.get("prompt", "hi")
    assert (found.description, found.owners, found.metadata) == ("hello", ("team:x",), {"text": "Guten Tag"})
    things.delete("prompt", "hi")
    assert things.find("prompt") == []
    assert [t.name for t in things.find("prompt", deleted=True)] == ["hi"]
    things.restore("prompt", "hi")
    assert [e.action for e in things.history("prompt", "hi")] == [
        "register_prompt",
        "describe_prompt",
        "set_owners_of_prompt",
        "set_metadata_of_prompt",
        "rename_prompt",
        "delete_prompt",
        "restore_prompt",
    ]
    with pytest.raises(InvalidInput, match="is no kind"):
        things.register("bulk", "x")
