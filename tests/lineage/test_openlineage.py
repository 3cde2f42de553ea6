"""Lineage from the outside and to it, as OpenLineage events."""

from __future__ import annotations

import gzip
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import requests

from ml_registry_pipelines.lineage.openlineage import transport
from ml_registry_pipelines.lineage.openlineage.events import parse_event
from ml_registry_pipelines.lineage.openlineage.exporting import events_of
from ml_registry_pipelines.lineage.openlineage.files import NoEvents, import_files, write_events
from ml_registry_pipelines.lineage.openlineage.importing import Importer
from ml_registry_pipelines.lineage.openlineage.transport import LineageServer, NotDelivered, post
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.artifacts import HostedModel, Uri
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import Stage, VersionFacts
from tests.lineage.openlineage_schema import RUN_EVENT
from tests.registry.conftest import ACTOR

SPARK = "spark://cluster"
BASE = {"_producer": "https://example.com/p", "_schemaURL": "https://example.com/s"}


def dataset(name: str, *, namespace: str = "s3://lake", **facets: Any) -> dict[str, Any]:
    return {"namespace": namespace, "name": name, "facets": {k: {**BASE, **v} for k, v in facets.items()}}


def run_event(
    number: int, type_: str, minute: int, *, inputs=(), outputs=(), job: str = "etl"
) -> dict[str, Any]:
    return {
        "eventType": type_,
        "eventTime": f"2026-03-01T10:{minute:02}:00Z",
        "producer": "https://example.com/p",
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": str(uuid.UUID(int=number))},
        "job": {"namespace": SPARK, "name": job},
        "inputs": list(inputs),
        "outputs": list(outputs),
    }


@pytest.fixture
def importer(log, tenant) -> Importer:
    return Importer(log, actor=ACTOR, tenant=tenant)


def take(importer: Importer, *events: dict[str, Any]) -> tuple[int, int, list[str]]:
    done = importer.take(parse_event(e) for e in events)
    return done.new, done.before, [reason for _, reason in done.refused]


def names(reached) -> set[str]:
    return {r.node.name for r in reached}


def upstream(tracker: LineageTracker, name: str) -> set[str]:
    return names(tracker.get_full_lineage("dataset_version", name).upstream)


def test_a_completed_run_derives_its_outputs_from_its_inputs_and_names_its_job(importer, tracker):
    start = run_event(1, "START", 0, inputs=[dataset("raw")])
    assert take(importer, start) == (1, 0, [])
    assert tracker.dataset_versions("s3://lake/raw")[-1].name == "s3://lake/raw@v1"
    complete = run_event(
        1, "COMPLETE", 5, outputs=[dataset("clean", schema={"fields": [{"name": "a", "type": "int"}]})]
    )
    assert take(importer, complete) == (1, 0, [])
    (clean,) = tracker.dataset_versions("s3://lake/clean")
    assert clean.metadata["columns"] == [{"name": "a", "type": "int"}]
    assert upstream(tracker, clean.name) == {"s3://lake/raw@v1", str(uuid.UUID(int=1)), "spark://cluster/etl"}
    assert "s3://lake/clean@v1" in names(
        tracker.get_impact_analysis("job", "spark://cluster/etl").affected["dataset_version"]
    )


def test_an_event_counts_once_however_often_and_in_whatever_groups_it_comes(importer, log, tenant):
    events = [
        run_event(1, "START", 0, inputs=[dataset("raw")]),
        run_event(1, "COMPLETE", 5, outputs=[dataset("clean")]),
    ]
    assert take(importer, *events) == (2, 0, [])
    head = log.head(tenant)
    assert take(importer, *events) == (0, 2, [])
    assert take(importer, events[1]) == (0, 1, [])
    assert log.head(tenant) == head


def test_a_stream_that_says_nothing_new_leaves_nothing_in_the_log(importer, log, tenant):
    take(importer, run_event(1, "RUNNING", 0, inputs=[dataset("raw")]))
    head = log.head(tenant)
    assert take(importer, *(run_event(1, "RUNNING", n, inputs=[dataset("raw")]) for n in range(1, 9))) == (
        0,
        8,
        [],
    )
    assert log.head(tenant) == head
    assert take(importer, run_event(1, "RUNNING", 30, inputs=[dataset("more")])) == (1, 0, [])


def test_a_run_that_reads_and_writes_one_dataset_makes_a_new_version_and_no_circle(importer, tracker):
    for n in (1, 2):
        table = [dataset("table")]
        take(importer, run_event(n, "COMPLETE", n * 10, inputs=table, outputs=table))
    assert [v.name for v in tracker.dataset_versions("s3://lake/table")] == [
        f"s3://lake/table@v{n}" for n in (1, 2, 3)
    ]
    datasets = {n for n in upstream(tracker, "s3://lake/table@v3") if "@" in n}
    assert datasets == {"s3://lake/table@v1", "s3://lake/table@v2"}


def test_what_a_run_read_is_told_after_it_ended_and_is_still_from_before_it(importer, tracker):
    take(
        importer,
        run_event(1, "COMPLETE", 10, outputs=[dataset("x")]),
        run_event(2, "COMPLETE", 20, inputs=[dataset("x")], outputs=[dataset("y")]),
        # Late, and of a dataset that has a newer version made from this run's own output.
        run_event(1, "OTHER", 30, inputs=[dataset("y")]),
    )
    assert {n for n in upstream(tracker, "s3://lake/x@v1") if "@" in n} == {"s3://lake/y@v2"}
    assert {n for n in upstream(tracker, "s3://lake/y@v1") if "@" in n} == {
        "s3://lake/x@v1",
        "s3://lake/y@v2",
    }


def test_a_run_reads_the_newest_version_from_before_it_in_whatever_order_they_were_told(importer, tracker):
    for n, minute in ((1, 50), (2, 30), (3, 10)):
        take(importer, run_event(n, "COMPLETE", minute, outputs=[dataset("x")]))
    take(importer, run_event(4, "COMPLETE", 40, inputs=[dataset("x")], outputs=[dataset("y")]))
    assert {n for n in upstream(tracker, "s3://lake/y@v1") if "@" in n} == {"s3://lake/x@v2"}


def test_a_circle_between_named_versions_is_refused_with_both_names(importer, tracker):
    def version(name: str) -> dict[str, Any]:
        return dataset(name, version={"datasetVersion": "7"})

    assert take(importer, run_event(1, "COMPLETE", 1, inputs=[version("a")], outputs=[version("b")])) == (
        1,
        0,
        [],
    )
    new, before, refused = take(
        importer, run_event(2, "COMPLETE", 2, inputs=[version("b")], outputs=[version("a")])
    )
    assert (new, before) == (0, 0)
    assert refused == ["'a' would be derived from 'b', which was made from it"]
    assert not {n for n in upstream(tracker, "s3://lake/a@v1") if "@" in n}


def test_outside_lineage_joins_a_dataset_of_ours_at_the_same_place(importer, tracker, registry):
    tracker.track_dataset("credit", Uri("s3://lake/credit", "ab" * 32))
    take(importer, run_event(1, "COMPLETE", 59, inputs=[dataset("credit")], outputs=[dataset("features")]))
    registry.register_model("fraud")
    registry.create_model_version(
        "fraud", HostedModel("p", "s"), VersionFacts(trained_on=["s3://lake/features@latest"])
    )
    found = tracker.get_full_lineage("model_version", "fraud@v1")
    assert any(name.startswith("credit@") for name in names(found.upstream))


def test_a_column_is_followed_through_the_jobs_of_others_to_what_learned_from_it(importer, tracker, registry):
    columns = {
        "fields": {
            "wealth": {"inputFields": [{"namespace": "s3://lake", "name": "raw", "field": "income"}]},
            "years": {"inputFields": [{"namespace": "s3://lake", "name": "raw", "field": "age"}]},
        }
    }
    schema = {"fields": [{"name": n, "type": "int"} for n in ("income", "age", "city")]}
    made = {"fields": [{"name": n, "type": "int"} for n in ("wealth", "years")]}
    take(
        importer,
        run_event(
            1, "COMPLETE", 1, inputs=[dataset("raw", schema=schema)],
            outputs=[dataset("features", schema=made, columnLineage=columns)],
        ),
    )  # fmt: skip
    for model, column in (("rich", "wealth"), ("old", "years")):
        registry.register_model(model)
        registry.create_model_version(
            model, HostedModel("p", "s"), VersionFacts(trained_on={"s3://lake/features@v1": [column]})
        )
        tracker.track_deployment(
            f"{model}-eu", f"{model}@v1", environment="production", owners=[f"team:{model}"]
        )

    def hit(column: str) -> set[str]:
        return names(tracker.get_impact_analysis("dataset", "s3://lake/raw", column=column).deployments)

    assert (hit("income"), hit("age"), hit("city")) == ({"rich-eu"}, {"old-eu"}, set())
    found = tracker.get_impact_analysis("dataset", "s3://lake/raw", column="income")
    (features,) = tracker.dataset_versions("s3://lake/features")
    assert found.columns == {features.id: ("wealth",)}
    assert found.owners == ("team:rich",)
    (live,) = found.deployments
    assert (live.depth, len(live.path)) == (3, 4)


def test_bad_events_are_named_by_file_and_line_and_kept_and_the_others_taken(importer, tmp_path, tracker):
    good = run_event(1, "COMPLETE", 1, outputs=[dataset("x")])
    lines = [
        json.dumps(good),
        "{broken",
        json.dumps({**good, "run": {"runId": "no uuid"}}),
        "",
        json.dumps({**good, "eventTime": "2026-03-01T10:00:00"}),
        json.dumps({**good, "outputs": [{"name": "x"}]}),
        json.dumps({"eventTime": "2026-03-01T10:00:00Z"}),
        "[1]",
        json.dumps({**good, "outputs": [dataset("\u0007")]}),
        "{\0",
    ]
    (tmp_path / "e.jsonl").write_text("\n".join(lines), encoding="utf-8-sig")
    done = import_files(importer, [tmp_path])
    assert done.before == 0
    told = {refused.line: refused.reason for refused in done.refused}
    assert set(told) == {2, 3, 5, 6, 7, 8, 10}
    assert "no UUID" in told[3]
    assert "no time zone" in told[5]
    assert "outputs[0].namespace" in told[6]
    assert done.kept_at is not None
    kept = [json.loads(p.read_text()) for p in Path(done.kept_at).glob("*.json")]
    assert {k["text"] for k in kept} >= {lines[1], lines[2], lines[4], lines[9]}
    assert tracker.dataset_versions("s3://lake/x")
    with pytest.raises(NoEvents):
        import_files(importer, [tmp_path / "absent"])


@pytest.fixture
def world(registry, tracker, relationships, importer) -> None:
    take(
        importer,
        run_event(1, "START", 0, inputs=[dataset("raw")]),
        run_event(
            1, "COMPLETE", 5,
            outputs=[
                dataset(
                    "clean", schema={"fields": [{"name": "a", "type": "int"}]},
                    columnLineage={
                        "fields": {"a": {"inputFields": [{"namespace": "s3://lake", "name": "raw", "field": "b"}]}}
                    },
                )
            ],
        ),
    )  # fmt: skip
    tracker.track_dataset("credit", Uri("https://example.com/c", "ab" * 32), columns=[("x", "int")])
    registry.register_model("fraud", owners=["team:risk"], tags={"n": 1})
    registry.create_model_version(
        "fraud", HostedModel("p", "s"), VersionFacts(trained_on=["s3://lake/clean@v1", "credit@v1"])
    )
    registry.promote_to_production("fraud@v1")
    tracker.track_deployment("eu", "fraud@v1", environment="production", owners=["team:ops"])
    registry.things.register("application", "till / ü")
    relationships.relate("used_by", ("model", "fraud"), ("application", "till / ü"), properties={"n": 1})


def shape(tracker: LineageTracker) -> tuple[set[Any], set[Any]]:
    graph = tracker.get_whole_graph()
    named = {n.id: (n.type, n.name) for n in graph.nodes}
    return set(named.values()), {(named[e.upstream], named[e.downstream], e.type) for e in graph.edges}


@pytest.mark.usefixtures("world")
def test_what_is_exported_comes_back_as_the_same_graph_once(log, tracker, tmp_path):
    path = tmp_path / "graph.jsonl"
    assert write_events(events_of(log.view(tracker.tenant)), path) == len(tracker.get_whole_graph().nodes)
    other = Importer(log, actor=ACTOR, tenant=f"{tracker.tenant}-copy")
    done = import_files(other, [path])
    assert done.refused == ()
    copy = LineageTracker(log, actor=ACTOR, tenant=other.tenant)
    assert shape(copy) == shape(tracker)
    assert names(copy.get_impact_analysis("dataset", "s3://lake/raw").deployments) == {"eu"}
    head = log.head(other.tenant)
    again = import_files(other, [path])
    assert (again.new, again.refused) == (0, ())
    assert log.head(other.tenant) == head
    second = tmp_path / "again.jsonl"
    write_events(events_of(log.view(tracker.tenant)), second)
    assert second.read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("world")
def test_no_file_puts_a_version_into_production(log, tracker, tmp_path):
    from ml_registry_pipelines.registry.models import ModelRegistry

    path = tmp_path / "graph.jsonl"
    write_events(events_of(log.view(tracker.tenant)), path)
    other = Importer(log, actor=ACTOR, tenant=f"{tracker.tenant}-copy")
    import_files(other, [path])
    registry = ModelRegistry(log, actor=ACTOR, tenant=other.tenant)
    version = registry.get_version("fraud@v1")
    assert version.stage is Stage.REGISTERED


@pytest.mark.usefixtures("world")
def test_every_exported_event_is_what_the_specification_asks_for(log, tenant):
    checker = jsonschema.Draft202012Validator(RUN_EVENT)
    events = list(events_of(log.view(tenant)))
    assert len(events) > 8
    assert [error.message for event in events for error in checker.iter_errors(event)] == []
    assert not checker.is_valid({**events[0], "run": {}})
    (clean,) = [
        e
        for e in events
        if e["outputs"][0]["name"] == "clean" and "columnLineage" in e["outputs"][0]["facets"]
    ]
    assert clean["outputs"][0]["facets"]["columnLineage"]["fields"]["a"]["inputFields"][0]["field"] == "b"


@pytest.fixture
def door(importer) -> Iterator[LineageServer]:
    server = LineageServer(importer, token="secret")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_events_come_in_over_http_and_nothing_else_does(door, importer, tracker):
    event = run_event(1, "COMPLETE", 1, inputs=[dataset("a")], outputs=[dataset("b")])
    assert post([event, event], door.address, token="secret") == 2
    assert [v.name for v in tracker.dataset_versions("s3://lake/b")] == ["s3://lake/b@v1"]
    with pytest.raises(NotDelivered, match="401"):
        post([event], door.address, token="wrong")
    with pytest.raises(NotDelivered, match=r"400: .*no UUID"):
        post([{**event, "run": {"runId": "x"}}], door.address, token="secret")
    headers = {"Authorization": "Bearer secret"}
    assert requests.post(door.address, data="{", headers=headers, timeout=60).status_code == 415
    assert requests.get(door.address, headers=headers, timeout=60).status_code == 405
    assert (
        requests.post(
            door.address.replace("lineage", "x"), json=event, headers=headers, timeout=60
        ).status_code
        == 404
    )
    with pytest.raises(InvalidInput, match="MLREG_OPENLINEAGE_TOKEN"):
        LineageServer(importer, host="0.0.0.0")


def test_packed_events_come_in_too_within_bounds_and_what_is_refused_is_kept(door, tracker, log, monkeypatch):
    def status(body: bytes, encoding: str) -> int:
        headers = {
            "Authorization": "Bearer secret",
            "Content-Type": "application/json",
            "Content-Encoding": encoding,
        }
        return requests.post(door.address, data=body, headers=headers, timeout=60).status_code

    packed = gzip.compress(json.dumps(run_event(1, "COMPLETE", 1, outputs=[dataset("b")])).encode())
    assert status(packed, "gzip") == 201
    assert tracker.dataset_versions("s3://lake/b")
    assert [status(body, "gzip") for body in (packed[:-9], packed + b"x", b"\x1f\x8b\0")] == [400] * 3
    assert status(b"x", "br") == 415
    assert status(packed, "identity") == 400
    folder = Path(log.lake.root, "openlineage/refused")
    kept = [json.loads(path.read_text())["text"] for path in folder.glob("*.json")]
    assert packed in [text.encode(errors="surrogateescape") for text in kept]
    monkeypatch.setattr(transport, "LARGEST", 1000)
    assert status(gzip.compress(b" " * 1001), "gzip") == 413


def test_a_run_that_was_not_told_by_events_costs_no_other_event(importer, tracker, registry):
    name = str(uuid.UUID(int=1))
    state = NewThing(name).recorded()
    registry.do("register_run", "run", state, lambda _: [Change("run", new_id(), state)])
    events = [run_event(n, "COMPLETE", n, outputs=[dataset(f"d{n}")]) for n in (1, 2)]
    new, _, [refused] = take(importer, *events)
    assert (new, f"mlreg things delete run {name}" in refused) == (1, True)
    registry.things.delete("run", name)
    assert take(importer, *events) == (1, 1, [])


def test_no_event_brings_a_webhook(importer):
    entity = {"id": "a" * 32, "type": "webhook", "name": "w", "state": {"metadata": {}}}
    event = run_event(1, "COMPLETE", 1, outputs=[dataset("w", mlreg_entity=entity)])
    done = importer.take([parse_event(event)], entities=True)
    assert "`mlreg webhooks add` records it" in done.refused[0][1]


@pytest.mark.usefixtures("world")
def test_what_stands_for_a_model_comes_through_no_http_door(door, importer, log, tenant, tmp_path):
    other = Importer(log, actor=ACTOR, tenant=f"{tenant}-http")
    door.importer = other
    post(events_of(log.view(tenant)), door.address, token="secret")
    nodes, _ = shape(LineageTracker(log, actor=ACTOR, tenant=other.tenant))
    assert {kind for kind, _ in nodes} == {"dataset", "dataset_version", "run", "job"}
