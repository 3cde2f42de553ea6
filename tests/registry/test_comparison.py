"""What two versions have different, and what a live version keeps others from deleting."""

from __future__ import annotations

import pytest

from ml_registry_pipelines.registry.comparison import flat
from ml_registry_pipelines.registry.errors import InvalidInput, StillNeeded
from ml_registry_pipelines.registry.versions import Artifact, Stage, VersionFacts


def test_two_versions_are_compared_in_metrics_parameters_schema_data_and_files(registry, tracker, tmp_path):
    data = tmp_path / "credit.csv"
    data.write_text("age,label\n1,0\n")
    tracker.track_dataset("credit", data)
    data.write_text("age,label,income\n1,0,5\n2,1,6\n")
    tracker.track_dataset("credit", data)
    model = tmp_path / "model"
    model.mkdir()
    (model / "w.bin").write_bytes(b"one")
    (model / "same").write_bytes(b"same")
    registry.register_model("m")
    first = VersionFacts(
        metrics={"auc": 0.9, "f1": 0.5},
        parameters={"depth": 3},
        signature={"inputs": [{"name": "age", "type": "long"}, {"name": "zip", "type": "string"}]},
        trained_on=["credit@v1"],
    )
    registry.create_model_version("m", model, first)
    (model / "w.bin").write_bytes(b"three")
    (model / "new").write_bytes(b"new")
    second = VersionFacts(
        metrics={"auc": 0.95, "f1": 0.5},
        parameters={"depth": 4, "eta": 0.1},
        signature={"inputs": [{"name": "age", "type": "double"}, {"name": "income", "type": "long"}]},
        trained_on=["credit@v2"],
        base_model="m@v1",
    )
    registry.create_model_version("m", model, second)
    found = registry.compare_versions("m@v1", "m@v2")
    fields = dict(found.fields)
    assert (found.first, found.second) == ("m@v1", "m@v2")
    assert fields.pop("files.content.w.bin")[0].startswith("3 bytes ")
    assert fields.pop("files.content.new")[0] is None
    assert fields.pop("content_digest")
    columns = fields.pop("trained_on.credit.columns.income")
    assert columns[0] is None
    assert columns[1] is not None
    assert fields == {
        "metrics.auc": (0.9, 0.95),
        "parameters.depth": (3, 4),
        "parameters.eta": (None, 0.1),
        "signature.inputs.age": ("long", "double"),
        "signature.inputs.income": (None, "long"),
        "signature.inputs.zip": ("string", None),
        "size": (7, 12),
        "trained_on.credit": ("v1", "v2"),
        "trained_on.credit.rows": (1, 2),
        "base_version": (None, "m@v1"),
    }
    assert registry.compare_versions("m@v1", "m@v1").fields == {}


def test_nested_json_is_named_by_dots_names_and_numbers():
    assert flat({"a": {"b": 1}, "c": [1, {"x": 2}], "d": [], "e": None}) == {
        "a.b": 1,
        "c.0": 1,
        "c.1.x": 2,
        "d": [],
    }
    assert flat(None) == {}


def test_a_rollback_says_what_becomes_of_the_former_version_and_what_replaced_it(registry, tmp_path):
    registry.register_model("m")
    for number in (1, 2):
        (tmp_path / "w").write_text(str(number))
        registry.create_model_version("m", tmp_path / "w")
        registry.promote_to_production(f"m@v{number}")
    registry.rollback("m", former=Stage.SHADOW, reason="worse")
    assert [v.stage for v in registry.list_versions("m")] == [Stage.PRODUCTION, Stage.SHADOW]
    rolled = [e for e in registry.history("m") if e.action == "rollback"]
    assert rolled[0].change == {"model": "m", "former": "shadow", "reason": "worse"}
    assert rolled[1].change == {"replaced_by": "m@v1", "stage": "shadow"}
    with pytest.raises(InvalidInput, match="cannot stay in production"):
        registry.rollback("m", former=Stage.PRODUCTION)


def test_a_dataset_version_or_base_model_that_a_live_version_learned_from_cannot_be_deleted(
    registry, tracker, things, tmp_path
):
    data = tmp_path / "d.csv"
    data.write_text("a\n1\n")
    dataset = tracker.track_dataset("d", data)
    (tmp_path / "w").write_text("1")
    registry.register_model("m")
    registry.create_model_version("m", tmp_path / "w")
    registry.create_model_version("m", tmp_path / "w", VersionFacts(trained_on=["d@v1"], base_model="m@v1"))
    registry.set_alias("m@v2", "champion")
    why = "version v2 of 'm' has the alias champion and was"
    for delete in (
        lambda: things.delete("dataset_version", dataset.id),
        lambda: things.delete("dataset", "d"),
        lambda: registry.delete_version("m@v1"),
    ):
        with pytest.raises(StillNeeded, match=why):
            delete()
    registry.remove_alias("m", "champion")
    registry.delete_version("m@v1")
    things.delete("dataset", "d")


def test_artifacts_of_any_kind_can_be_added_later_and_none_is_replaced(registry, tmp_path):
    (tmp_path / "w").write_text("weights")
    (tmp_path / "card").write_text("card")
    registry.register_model("m")
    version = registry.create_model_version("m", tmp_path / "w")
    for _ in range(2):
        registry.add_artifact("m@v1", Artifact("model_card", tmp_path / "card"))
    (tmp_path / "card").write_text("card, second edition")
    now = registry.add_artifact("m@v1", Artifact("model_card", tmp_path / "card"))
    assert now.content_digest == version.content_digest
    assert [a.kind for a in registry.list_artifacts("m@v1")] == ["content", "model_card", "model_card"]
    assert [f.path for f in registry.artifact_files("m@v1", kind="model_card")] == ["card", "card"]
    registry.verify_version("m@v1", kind="model_card")
    with pytest.raises(InvalidInput, match="give the artifact another kind"):
        registry.add_artifact("m@v1", Artifact("content", tmp_path / "card"))
