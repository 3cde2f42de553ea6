"""What something living needs stays: what a version learned from, and what is deployed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ml_registry_pipelines.registry.artifacts import HostedModel, Uri
from ml_registry_pipelines.registry.errors import (
    Deleted,
    IllegalTransition,
    InvalidInput,
    StillNeeded,
)
from ml_registry_pipelines.registry.relationships import NewEdge
from ml_registry_pipelines.registry.versions import Stage, VersionFacts

HOSTED = HostedModel("o", "x")
DATA = Uri("s3://x/d", "ab" * 32)
OTHER_DATA = Uri("s3://x/e", "cd" * 32)


@pytest.fixture
def trained(registry, tracker):
    """A model `p`, trained on `d@v1`."""
    tracker.track_dataset("d", DATA)
    registry.register_model("p")
    return registry.create_model_version("p", HOSTED, VersionFacts(trained_on={"d@v1": None}))


def test_nobody_rewrites_by_hand_what_a_version_was_made_from_or_where_it_is_deployed(
    registry, tracker, relationships, trained
):
    registry.promote_to_production("p@v1")
    tracker.track_deployment("eu", "p@v1", environment="production")
    tracker.track_dataset("more", OTHER_DATA)
    version, by_id = ("model_version", "p@v1"), ("model_version", trained.id)
    for type_, source, target in [
        ("trained_on", version, ("dataset_version", "d@v1")),
        ("evaluated_on", by_id, ("dataset_version", "more@v1")),
        ("derived_from", version, version),
        ("deployed_to", version, ("deployment", "eu")),
        ("deployed_to", ("model", "p"), ("deployment", "eu")),
    ]:
        for verb in (relationships.relate, relationships.unrelate):
            with pytest.raises(InvalidInput, match="by hand"):
                verb(type_, source, target)
        with pytest.raises(InvalidInput, match="by hand"):
            relationships.relate_many(type_, [NewEdge(source, target)])
    with pytest.raises(StillNeeded):
        registry.things.delete("dataset_version", "d@v1")
    assert [r.node.name for r in tracker.get_full_lineage(*version).upstream] == ["d@v1"]
    assert [r.node.name for r in tracker.get_impact_analysis("model", "p").deployments] == ["eu"]


def test_between_other_kinds_those_relationships_are_free(registry, relationships, things, trained):
    things.register("application", "till")
    things.register("cluster", "west")
    relationships.relate("deployed_to", ("application", "till"), ("cluster", "west"))
    relationships.relate("derived_from", ("application", "till"), ("model_version", "p@v1"))
    relationships.unrelate("derived_from", ("application", "till"), ("model_version", "p@v1"))
    assert [r.type for r in relationships.list("application", "till")] == ["deployed_to"]


def test_a_deployment_serves_until_it_is_ended_and_by_no_other_verb(registry, tracker, trained):
    tracker.track_deployment("eu", "p@v1", environment="production")
    for verb in (
        lambda: registry.things.deprecate("deployment", "eu", reason="old"),
        lambda: registry.things.reinstate("deployment", "eu"),
    ):
        with pytest.raises(InvalidInput, match="track_deployment records it"):
            verb()
    assert [d.version for d in tracker.deployments_on(datetime.now(UTC))] == ["p@v1"]
    with pytest.raises(StillNeeded, match="it is live"):
        registry.things.delete("deployment", "eu")
    assert tracker.end_deployment("eu").status == "ended"


def test_versions_of_what_is_deleted_are_not_used_by_id_either(registry, tracker, relationships, trained):
    data = tracker.dataset_versions("d")[0].id
    registry.register_model("m")
    registry.things.register("application", "till")
    registry.delete_model("p")
    registry.things.delete("dataset", "d")
    for use in (
        lambda: registry.get_version(trained.id),
        lambda: tracker.track_deployment("eu", trained.id, environment="production"),
        lambda: registry.create_model_version("m", HOSTED, VersionFacts(base_model=trained.id)),
        lambda: relationships.relate("used_by", ("model_version", trained.id), ("application", "till")),
        lambda: relationships.relate_many(
            "used_by", [NewEdge(("model_version", trained.id), ("application", "till"))]
        ),
    ):
        with pytest.raises(Deleted, match="model 'p' is deleted"):
            use()
    with pytest.raises(Deleted, match="dataset 'd' is deleted"):
        registry.create_model_version("m", HOSTED, VersionFacts(trained_on=[data]))


def test_a_version_comes_back_only_to_a_dataset_that_is_there(registry, tracker, things):
    version = tracker.track_dataset("d", DATA)
    things.delete("dataset_version", "d@v1")
    things.delete("dataset", "d")
    for given in ("d@v1", version.id):
        with pytest.raises(Deleted, match="dataset 'd' is deleted; restore it first"):
            things.restore("dataset_version", given)
    things.restore("dataset", "d")
    assert things.restore("dataset_version", "d@v1").id == version.id


def test_a_model_that_a_live_version_derives_from_is_not_deleted(registry):
    for name in ("base", "m"):
        registry.register_model(name)
    registry.create_model_version("base", HOSTED)
    registry.create_model_version("base", HOSTED, VersionFacts(base_model="base@v1"))
    registry.create_model_version("m", HOSTED, VersionFacts(base_model="base@v1"))
    registry.promote_to_production("m@v1")
    with pytest.raises(StillNeeded, match="version v1 of 'm' is in production and was derived from it"):
        registry.delete_model("base")
    registry.set_stage("m@v1", Stage.ARCHIVED)
    registry.set_stage("base@v2", Stage.STAGING)
    assert registry.delete_model("base").deleted


def test_what_learned_from_something_deleted_is_not_promoted(registry, things, trained):
    things.delete("dataset", "d")
    with pytest.raises(IllegalTransition, match="made from 'd@v1', which is deleted"):
        registry.promote_to_production("p@v1")
    registry.register_model("child")
    registry.create_model_version("child", HOSTED, VersionFacts(base_model="p@v1"))
    registry.delete_version("p@v1")
    with pytest.raises(IllegalTransition, match="made from 'p@v1', which is deleted; restore it first"):
        registry.promote_to_production("child@v1")
    things.restore("dataset", "d")
    registry.restore_version("p@v1")
    assert registry.promote_to_production("p@v1").stage is Stage.PRODUCTION


def test_the_versions_of_a_renamed_dataset_go_by_its_name(registry, tracker, things):
    before = tracker.track_dataset("d", DATA)
    things.rename("dataset", "d", "renamed")
    new = tracker.track_dataset("d", OTHER_DATA)
    assert things.get("dataset_version", "renamed@v1").id == before.id
    assert things.get("dataset_version", "d@v1").id == new.id
    lineage = tracker.get_full_lineage("dataset", "renamed")
    assert [n.name for n in lineage.roots if n.type == "dataset_version"] == ["renamed@v1"]
    assert things.delete("dataset_version", "d@v1").id == new.id
    assert [s.name for s in tracker.dataset_versions("renamed")] == ["renamed@v1"]


def test_a_version_of_a_deleted_dataset_is_not_taken_for_that_of_its_namesake(tracker, things):
    tracker.track_dataset("d", DATA)
    things.delete("dataset", "d")
    new = tracker.track_dataset("d", OTHER_DATA)
    assert things.delete("dataset_version", "d@v1").id == new.id
