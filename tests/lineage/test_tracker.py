"""Lineage as its users ask for it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from ml_registry_pipelines.lineage.fingerprints import DatasetUnreadable
from ml_registry_pipelines.lineage.tracker import LineageTracker, oversubscribed
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel, Uri
from ml_registry_pipelines.registry.errors import (
    IllegalTransition,
    InvalidInput,
    LineageCycle,
    NotFound,
    StillNeeded,
    VersionNotFound,
)
from ml_registry_pipelines.registry.relationships import Flow
from ml_registry_pipelines.registry.versions import VersionFacts

HOSTED = HostedModel("p", "s")


def day(n: int) -> datetime:
    return datetime(2026, 3, n, tzinfo=UTC)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "credit.csv"
    path.write_text("age,income,label\n30,1000,0\n40,2000,1\n")
    return path


def shape(thing) -> tuple[str, int | None, list[str]]:
    return thing.metadata["format"], thing.metadata["rows"], [c["name"] for c in thing.metadata["columns"]]


def test_a_csv_file_a_parquet_folder_and_a_delta_table_are_fingerprinted(tracker, csv, tmp_path):
    assert shape(tracker.track_dataset("a", csv)) == ("csv", 2, ["age", "income", "label"])
    rows = pa.table({"x": [1, 2, 3], "y": ["a", "b", "c"]})
    (tmp_path / "parts" / "_tmp").mkdir(parents=True)
    for n in range(2):
        pq.write_table(rows, tmp_path / "parts" / f"{n}.parquet")
    (tmp_path / "parts" / "_tmp" / "half.parquet").write_bytes(b"not yet")
    assert shape(tracker.track_dataset("b", tmp_path / "parts")) == ("parquet", 6, ["x", "y"])
    write_deltalake(str(tmp_path / "delta"), rows)
    first = tracker.track_dataset("c", tmp_path / "delta")
    assert (shape(first), first.metadata["delta_version"]) == (("delta", 3, ["x", "y"]), 0)
    write_deltalake(str(tmp_path / "delta"), rows, mode="append")
    assert shape(tracker.track_dataset("c", str(tmp_path / "delta"))) == ("delta", 6, ["x", "y"])
    far = tracker.track_dataset("d", Uri("https://example.com/d.csv", "ab" * 32), columns=[("x", "int64")])
    assert (far.metadata["location"], shape(far)) == ("https://example.com/d.csv", ("uri", None, ["x"]))


def test_a_dataset_gets_a_new_version_only_when_its_content_changed(tracker, csv, log):
    first = tracker.track_dataset("credit", csv)
    head = log.head(tracker.tenant)
    assert tracker.track_dataset("credit", csv).id == first.id
    assert log.head(tracker.tenant) == head
    csv.write_text("age,income,label\n30,1000,1\n")
    assert tracker.track_dataset("credit", csv).name == "credit@v2"
    assert [v.metadata["number"] for v in tracker.dataset_versions("credit")] == [1, 2]


def test_a_dataset_gets_a_new_version_only_when_its_content_or_origin_changed(tracker, csv, log):
    for name in ("raw", "other"):
        tracker.track_dataset(name, Uri(f"https://example.com/{name}", "aa" * 32))
    first = tracker.track_dataset("credit", csv, derived_from=["raw@v1", "raw@latest"])
    head = log.head(tracker.tenant)
    for origins in (["raw@v1"], []):
        assert tracker.track_dataset("credit", csv, derived_from=origins).id == first.id
    assert log.head(tracker.tenant) == head
    assert tracker.track_dataset("credit", csv, derived_from=["other@v1"]).name == "credit@v2"
    assert names(tracker.get_full_lineage("dataset_version", "credit@v1").upstream) == {"raw@v1"}


def test_what_cannot_be_read_is_no_dataset(tracker, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    (tmp_path / "notes.txt").write_text("x")
    for source in (tmp_path / "absent", tmp_path / "broken.parquet", tmp_path / "notes.txt"):
        with pytest.raises(DatasetUnreadable):
            tracker.track_dataset("x", source)
    with pytest.raises(NotFound):
        tracker.dataset_versions("x")


@pytest.fixture
def world(registry, tracker, relationships, csv) -> None:
    """raw -> clean -> fraud v1 (age), v2 (all) -> base of chat v1; v1 live in the EU; an app uses fraud."""
    tracker.track_dataset("raw", Uri("https://example.com/raw.csv", "aa" * 32))
    tracker.track_dataset("credit", csv, derived_from=["raw@v1"])
    registry.register_model("fraud", owners=["team:risk"])
    registry.create_model_version("fraud", HOSTED, VersionFacts(trained_on={"credit@v1": ["age"]}))
    registry.create_model_version("fraud", HOSTED, VersionFacts(trained_on=["credit@latest"]))
    registry.register_model("chat", owners=["team:chat"])
    registry.create_model_version("chat", HOSTED, VersionFacts(base_model="fraud@v2"))
    tracker.track_deployment("eu", "fraud@v1", environment="production", owners=["team:ops"])
    registry.things.register("application", "till")
    relationships.relate("used_by", ("model", "fraud"), ("application", "till"))


def names(reached) -> set[str]:
    return {r.node.name for r in reached}


@pytest.mark.usefixtures("world")
def test_full_lineage_goes_both_ways_to_any_depth_with_the_shortest_path(tracker):
    found = tracker.get_full_lineage("model_version", "fraud@v2")
    assert names(found.upstream) == {"credit@v1", "raw@v1"}
    assert names(found.downstream) == {"fraud", "till", "chat@v1", "chat"}
    raw = next(r for r in found.upstream if r.node.name == "raw@v1")
    assert raw.depth == 2
    assert len(raw.path) == 3
    assert names(tracker.get_full_lineage("model_version", "fraud@v2", depth=1).upstream) == {"credit@v1"}
    of_kind = tracker.get_full_lineage("dataset", "raw", types=["deployment"])
    assert names(of_kind.downstream) == {"eu"}
    followed = tracker.get_full_lineage("dataset_version", "raw@v1", relations=["derived_from"])
    assert names(followed.downstream) == {"credit@v1"}


@pytest.mark.usefixtures("world")
def test_impact_names_live_deployments_and_their_owners_first(tracker):
    found = tracker.get_impact_analysis("dataset", "raw")
    assert names(found.deployments) == {"eu"}
    assert found.owners == ("team:ops", "team:risk")
    assert next(iter(found.counts)) == "deployment"
    assert found.counts == {
        "deployment": 1,
        "model_version": 3,
        "dataset": 1,
        "dataset_version": 1,
        "model": 2,
        "application": 1,
    }


@pytest.mark.usefixtures("world")
def test_a_column_affects_what_learned_from_it_or_did_not_say_from_which(tracker):
    age = tracker.get_impact_analysis("dataset", "credit", column="age")
    income = tracker.get_impact_analysis("dataset", "credit", column="income")
    assert names(age.deployments) == {"eu"}
    assert names(income.deployments) == set()
    assert names(income.affected["model_version"]) == {"fraud@v2", "chat@v1"}
    with pytest.raises(NotFound, match=r"credit\.salary"):
        tracker.get_impact_analysis("dataset", "credit", column="salary")


def test_a_version_whose_columns_nobody_told_may_hold_any_column(registry, tracker):
    tracker.track_dataset("d", Uri("s3://x/d", "aa" * 32))
    registry.register_model("m")
    registry.create_model_version("m", HOSTED, VersionFacts(trained_on={"d@v1": ["age"]}))
    registry.create_model_version("m", HOSTED, VersionFacts(trained_on=["d@v1"]))
    registry.create_model_version("m", HOSTED, VersionFacts(trained_on={"d@v1": ["income"]}))
    registry.create_model_version("m", HOSTED, VersionFacts(trained_on={"d@v1": []}))
    for number, name in enumerate(("says", "silent", "other", "empty"), 1):
        tracker.track_deployment(name, f"m@v{number}", environment="production")

    def hit() -> set[str]:
        return names(tracker.get_impact_analysis("dataset", "d", column="age").deployments)

    assert hit() == {"says", "silent", "empty"}
    tracker.track_dataset("d", Uri("s3://x/d", "ab" * 32), columns=[("age", "int")])
    assert hit() == {"says", "silent", "empty"}


def test_a_dataset_version_that_is_named_twice_is_trained_on_with_the_columns_of_both(registry, tracker):
    named = [("age", "int"), ("income", "int"), ("city", "str")]
    tracker.track_dataset("c", Uri("s3://x/c", "ab" * 32), columns=named)
    registry.register_model("m")
    twice = VersionFacts(
        trained_on={"c@v1": ["age"], "c@latest": ["income"]}, evaluated_on=["c@v1", "c@latest"]
    )
    made = registry.create_model_version("m", HOSTED, twice)
    assert len(made.trained_on) == len(made.evaluated_on) == 1
    registry.create_model_version("m", HOSTED, VersionFacts(trained_on={"c@v1": ["age"], "c@latest": None}))
    hit = {
        column: names(
            tracker.get_impact_analysis("dataset", "c", column=column, relations=["trained_on"]).affected[
                "model_version"
            ]
        )
        for column in ("age", "income", "city")
    }
    assert hit == {"age": {"m@v1", "m@v2"}, "income": {"m@v1", "m@v2"}, "city": {"m@v2"}}


@pytest.mark.usefixtures("world")
def test_columns_and_features_can_be_nodes_of_their_own(tracker, registry, relationships):
    registry.things.register("column", "credit.income")
    registry.things.register("feature", "wealth")
    relationships.relate("derived_from", ("feature", "wealth"), ("column", "credit.income"))
    relationships.relate("feeds", ("feature", "wealth"), ("model_version", "fraud@v1"))
    assert names(tracker.get_impact_analysis("dataset", "credit", column="income").deployments) == {"eu"}


@pytest.mark.usefixtures("world")
def test_the_graph_for_drawing_has_every_node_and_edge_once(tracker):
    graph = tracker.get_lineage_graph("dataset_version", "credit@v1")
    assert {n.name for n in graph.nodes} == {
        "raw",
        "raw@v1",
        "credit",
        "credit@v1",
        "fraud@v1",
        "fraud@v2",
        "chat@v1",
        "fraud",
        "chat",
        "eu",
        "till",
    } - {"raw"}
    assert len(graph.edges) == len(set(graph.edges))
    ids = {n.id for n in graph.nodes}
    assert all(e.upstream in ids and e.downstream in ids for e in graph.edges)


@pytest.mark.usefixtures("world")
def test_a_removed_edge_still_answers_as_of_earlier(tracker, relationships):
    before = datetime.now(UTC)
    relationships.unrelate("used_by", ("model", "fraud"), ("application", "till"))
    assert "till" not in names(tracker.get_full_lineage("model", "fraud").downstream)
    assert "till" in names(tracker.get_full_lineage("model", "fraud", as_of=before).downstream)
    with pytest.raises(NotFound):
        relationships.unrelate("used_by", ("model", "fraud"), ("application", "till"))


@pytest.mark.usefixtures("world")
def test_a_cycle_is_refused_with_its_path_and_nothing_is_written(tracker, relationships, log):
    head = log.head(tracker.tenant)
    with pytest.raises(LineageCycle) as refused:
        relationships.relate("derived_from", ("dataset_version", "raw@v1"), ("model_version", "chat@v1"))
    assert refused.value.path == ("chat@v1", "raw@v1", "credit@v1", "fraud@v2", "chat@v1")
    assert "'chat@v1' -> 'raw@v1' -> 'credit@v1'" in str(refused.value)
    with pytest.raises(LineageCycle):
        relationships.relate("used_by", ("model", "fraud"), ("model", "fraud"))
    assert log.head(tracker.tenant) == head


def test_a_deployment_serves_no_version_that_was_made_from_what_it_feeds(registry, tracker, relationships):
    tracker.track_dataset("answers", Uri("https://example.com/a", "aa" * 32))
    registry.register_model("m")
    registry.create_model_version("m", HOSTED)
    registry.create_model_version("m", HOSTED, VersionFacts(trained_on=["answers@v1"]))
    tracker.track_deployment("eu", "m@v1", environment="production")
    relationships.relate("feeds", ("deployment", "eu"), ("dataset_version", "answers@v1"))
    with pytest.raises(LineageCycle, match="'m@v2' -> 'eu' -> 'answers@v1' -> 'm@v2'"):
        tracker.track_deployment("eu", "m@v2", environment="production")
    assert names(tracker.get_full_lineage("deployment", "eu").upstream) == {"m@v1"}


def test_relationships_of_any_type_are_listed_and_know_which_way_influence_flows(registry, relationships):
    for name in ("a", "b"):
        registry.things.register("team", name)
    drawn = relationships.relate(
        "advises", ("team", "a"), ("team", "b"), flow=Flow.TO_TARGET, properties={"n": 1}
    )
    again = relationships.relate(
        "advises", ("team", "a"), ("team", "b"), flow=Flow.TO_TARGET, properties={"n": 2}
    )
    assert drawn.id == again.id
    (found,) = relationships.list("team", "b", type_="advises")
    assert (found.properties, found.upstream[0], found.downstream) == (
        {"n": 2},
        "team",
        ("team", again.target_id),
    )
    with pytest.raises(NotFound):
        relationships.relate("advises", ("team", "a"), ("team", "c"))


def test_a_dataset_version_that_a_live_version_needs_is_not_deleted(registry, tracker, csv):
    tracker.track_dataset("credit", csv)
    registry.register_model("fraud")
    registry.create_model_version("fraud", HOSTED, VersionFacts(trained_on=["credit@v1"]))
    registry.promote_to_production("fraud@v1")
    for kind, name in (("dataset", "credit"), ("dataset_version", "credit@v1")):
        with pytest.raises(StillNeeded, match="v1 of 'fraud' is in production"):
            registry.things.delete(kind, name)


def test_training_on_what_is_not_there_is_refused(registry, tracker, csv):
    tracker.track_dataset("credit", csv)
    registry.register_model("fraud")
    with pytest.raises(VersionNotFound, match="dataset 'credit' has no version 'v7'; it has v1"):
        registry.create_model_version("fraud", HOSTED, VersionFacts(trained_on=["credit@v7"]))
    with pytest.raises(InvalidInput, match="no column 'salary'"):
        registry.create_model_version("fraud", HOSTED, VersionFacts(trained_on={"credit@v1": ["salary"]}))
    with pytest.raises(NotFound):
        registry.create_model_version("fraud", HOSTED, VersionFacts(evaluated_on=["other@v1"]))
    assert registry.list_versions("fraud") == []


def test_what_was_deployed_on_a_day_and_by_whom(registry, tracker):
    registry.register_model("fraud")
    for _ in range(2):
        registry.create_model_version("fraud", HOSTED)
    tracker.track_deployment(
        "eu", "fraud@v1", environment="production", endpoint="/s", traffic_share=0.5, start=day(1)
    )
    tracker.track_deployment("eu", "fraud@v2", environment="production", start=day(10))
    tracker.track_deployment("lab", "fraud@v2", environment="staging", start=day(10))
    tracker.end_deployment("eu", end=day(20))

    def on(n: int, **options) -> list[tuple[str, str]]:
        return [(d.deployment.name, d.version) for d in tracker.deployments_on(day(n), **options)]

    assert on(5) == [("eu", "fraud@v1")]
    (first,) = tracker.deployments_on(day(5))
    assert (first.traffic_share, first.endpoint, first.since, first.actor) == (0.5, "/s", day(1), "p1")
    assert on(15) == [("eu", "fraud@v2"), ("lab", "fraud@v2")]
    assert on(15, environment="staging") == [("lab", "fraud@v2")]
    assert on(25) == [("lab", "fraud@v2")]
    with pytest.raises(IllegalTransition):
        tracker.end_deployment("eu")
    # The lineage of now follows the version that is served now.
    assert names(tracker.get_impact_analysis("model_version", "fraud@v1").deployments) == set()
    assert names(tracker.get_impact_analysis("model_version", "fraud@v2").deployments) == {"lab"}
    with pytest.raises(StillNeeded, match="is deployed to 'lab'"):
        registry.delete_version("fraud@v2")
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        tracker.track_deployment("x", "fraud@v1", environment="production", traffic_share=1.5)


def test_an_endpoint_that_is_told_to_get_more_than_all_its_requests_is_named(registry, tracker):
    registry.register_model("m")
    registry.create_model_version("m", HOSTED)
    for name, share, start in (("a", 0.8, 1), ("b", 0.8, 3), ("c", 0.2, 5)):
        tracker.track_deployment(
            name, "m@v1", environment="prod", endpoint="e", traffic_share=share, start=day(start)
        )
    tracker.end_deployment("a", end=day(4))
    tracker.track_deployment("d", "m@v1", environment="prod", endpoint="f", start=day(1))
    told = [oversubscribed(tracker.deployments_on(date(2026, 3, n))) for n in (2, 3, 6)]
    assert told == [{}, {("prod", "e"): 1.6}, {}]
    with pytest.raises(InvalidInput, match="a number between 0 and 1"):
        tracker.track_deployment("a", "m@v1", environment="prod", traffic_share="0.5")


def test_a_day_tells_all_that_was_served_on_it_and_when_each_thing_ended(registry, tracker):
    registry.register_model("fraud")
    for _ in range(2):
        registry.create_model_version("fraud", HOSTED)
    noon = day(10) + timedelta(hours=12)
    tracker.track_deployment("eu", "fraud@v1", environment="production", start=day(1))
    tracker.track_deployment("eu", "fraud@v2", environment="production", start=noon)
    tracker.end_deployment("eu", end=day(11))

    def on(when: date | datetime) -> list[tuple[str, datetime, datetime | None]]:
        return [(d.version, d.since, d.until) for d in tracker.deployments_on(when)]

    assert on(day(10).date()) == [("fraud@v1", day(1), noon), ("fraud@v2", noon, day(11))]
    assert on(noon) == [("fraud@v2", noon, day(11))]
    assert on(noon - timedelta(microseconds=1)) == [("fraud@v1", day(1), noon)]
    assert on(day(11).date()) == []


def test_what_was_in_production_can_be_asked_as_it_was_known(registry, tracker):
    registry.register_model("fraud")
    for _ in range(2):
        registry.create_model_version("fraud", HOSTED)
    known = tracker.track_deployment("eu", "fraud@v1", environment="production", start=day(1)).recorded_at
    # It is found out later that another version had been there since the third day.
    tracker.track_deployment("eu", "fraud@v2", environment="production", start=day(3))
    before = [d.version for d in tracker.deployments_on(day(5), as_of=known)]
    after = [d.version for d in tracker.deployments_on(day(5))]
    assert (before, after) == (["fraud@v1"], ["fraud@v2"])


def test_a_stretch_that_is_over_is_told_afterwards(registry, tracker):
    registry.register_model("fraud")
    for _ in range(3):
        registry.create_model_version("fraud", HOSTED)
    other = LineageTracker(tracker.log, actor=Actor("p2"), tenant=tracker.tenant)
    tracker.track_deployment("eu", "fraud@v3", environment="production", start=day(10))
    other.track_deployment("eu", "fraud@v1", environment="test", start=day(2), end=day(5), traffic_share=0.5)
    other.track_deployment("eu", "fraud@v2", environment="production", start=day(9), end=day(11))
    registry.things.tag("deployment", "eu", {"tier": 1})

    found = [tracker.deployments_on(day(n)) for n in (1, 3, 6, 10, 12)]
    assert [[(d.version, d.since, d.until, d.actor) for d in on] for on in found] == [
        [],
        [("fraud@v1", day(2), day(5), "p2")],
        [],
        [("fraud@v2", day(9), day(11), "p2")],
        [("fraud@v3", day(11), None, "p1")],
    ]
    assert (found[1][0].environment, found[1][0].traffic_share) == ("test", 0.5)
    # What it serves now stays, in its record and in the lineage.
    assert names(tracker.get_impact_analysis("model_version", "fraud@v3").deployments) == {"eu"}
    assert names(tracker.get_impact_analysis("model_version", "fraud@v1").deployments) == set()
    with pytest.raises(IllegalTransition, match="serves since"):
        tracker.end_deployment("eu", end=day(10))
    tracker.end_deployment("eu", end=day(15))
    assert [len(tracker.deployments_on(day(n))) for n in (3, 12, 16)] == [1, 1, 0]
    with pytest.raises(InvalidInput, match="lies ahead"):
        tracker.track_deployment(
            "eu", "fraud@v1", environment="e", start=day(1), end=datetime.now(UTC) + timedelta(1)
        )
    with pytest.raises(InvalidInput, match="needs a start"):
        tracker.track_deployment("eu", "fraud@v1", environment="e", end=day(1))
    with pytest.raises(InvalidInput, match="is not after the start"):
        tracker.track_deployment("eu", "fraud@v1", environment="e", start=day(2), end=day(2))


def test_a_deployment_that_was_over_when_it_was_first_told(registry, tracker):
    registry.register_model("fraud")
    registry.create_model_version("fraud", HOSTED)
    told = tracker.track_deployment("old", "fraud@v1", environment="production", start=day(2), end=day(5))
    assert told.status == "ended"
    assert [d.deployment.name for d in tracker.deployments_on(day(4))] == ["old"]
    assert tracker.deployments_on(day(6)) == tracker.deployments_on(datetime.now(UTC)) == []
    with pytest.raises(IllegalTransition, match="already ended"):
        tracker.end_deployment("old")
    tracker.track_deployment("old", "fraud@v1", environment="production")
    assert [d.version for d in tracker.deployments_on(datetime.now(UTC))] == ["fraud@v1"]


def test_a_deleted_deployment_serves_nothing_any_more(registry, tracker):
    registry.register_model("fraud")
    registry.create_model_version("fraud", HOSTED)
    tracker.track_deployment("eu", "fraud@v1", environment="production", start=day(1))
    with pytest.raises(StillNeeded, match="end it first"):
        registry.things.delete("deployment", "eu")
    tracker.end_deployment("eu")
    registry.things.delete("deployment", "eu")
    assert tracker.deployments_on(datetime.now(UTC)) == []
    assert [d.version for d in tracker.deployments_on(day(2))] == ["fraud@v1"]
