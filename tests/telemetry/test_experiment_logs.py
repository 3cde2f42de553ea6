"""Assignment logs and labels: taken exactly once from every kind of file, and what cannot be taken is told."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.audits import counts_add_up
from ml_registry_pipelines.telemetry.batch import Taken
from ml_registry_pipelines.telemetry.identity import salted_hash
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.telemetry.preview import preview
from ml_registry_pipelines.telemetry.quarantine import open_rows
from ml_registry_pipelines.telemetry.replay import replay
from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources

NOON = "2026-10-02T12:00:00Z"


class World:
    def __init__(self, root: Path, **source: Any) -> None:
        self.landing = root / "landing"
        self.landing.mkdir(parents=True)
        self.lake = Lake(str(root / "home"))
        self.sources = Sources([Source("landing", str(self.landing), **source)])

    def write(self, path: str, records: Iterable[dict[str, Any] | str]) -> Path:
        lines = (each if isinstance(each, str) else json.dumps(each) for each in records)
        target = self.landing / path
        target.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(line + "\n" for line in lines).encode()
        target.write_bytes(gzip.compress(text) if path.endswith(".gz") else text)
        return target

    def take(self) -> Taken:
        files = self.sources.look(self.lake, scope=Scope.ALL, settled=True).files
        return Ingestion(self.lake, self.sources, salt="s").take(files)

    def rows(self, table: str, columns: str = "*") -> list[dict[str, Any]]:
        with self.lake.read(table) as reading:
            found: list[dict[str, Any]] = reading.query("test", f"SELECT {columns} FROM {table}").to_pylist()
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def assigned(unit: str, arm: str = "a", ts: str = NOON, **more: Any) -> dict[str, Any]:
    return {"experiment": "e", "unit": unit, "arm": arm, "ts": ts, **more}


def label(unit: str, value: Any = True, ts: str = NOON, **more: Any) -> dict[str, Any]:
    return {"metric": "solved", "value": value, "ts": ts, "unit": unit, **more}


def test_files_of_every_form_land_once_beside_logs_of_requests(world):
    world.write("assignments/dt=2026-10-02/a.jsonl", [assigned("u1"), assigned("u2", "b")])
    world.write("assignments/dt=2026-10-02/b.jsonl.gz", [assigned("u3"), assigned("u1")])
    world.write(
        "outcomes/l.csv", ["metric,value,observed_at,user_id", f"solved,1,{NOON},u1", f"solved,0.5,{NOON},u2"]
    )
    rows = {"metric": ["solved"], "value": [False], "ts": [NOON], "event_id": ["r1"]}
    pq.write_table(pa.table(rows), world.landing / "outcomes" / "l.parquet")
    request = {"event_id": "r1", "ts": NOON, "provider": "openai", "model": "gpt-4o", "user_id": "u1"}
    world.write("native/r.jsonl", [request])

    done = world.take()
    assert (done.files, done.rows_in, done.taken, done.duplicates, done.quarantined) == (5, 8, 7, 1, 0)
    assert world.take() == Taken()
    found = {(row["unit_hash"], row["arm"]) for row in world.rows("assignments")}
    assert found == {(salted_hash("s", "default", f"u{n}"), arm) for n, arm in ((1, "a"), (2, "b"), (3, "a"))}
    # A request's user and an assigned unit have one hash: that is how they are joined.
    assert world.rows("inference_events", "user_hash")[0]["user_hash"] in {unit for unit, _ in found}
    assert sorted(row["value"] for row in world.rows("outcomes")) == [0.0, 0.5, 1.0]
    assert counts_add_up(world.lake).passed


@pytest.mark.parametrize(
    ("kind", "record", "reason", "says"),
    [
        ("assignments", {"experiment": "e", "unit": "u", "ts": NOON}, "missing_field", "`arm` is missing"),
        ("assignments", assigned("u", ts="yesterday"), "bad_timestamp", "`ts` is yesterday: neither"),
        ("assignments", assigned("u", ts="2199-01-01T00:00:00Z"), "absurd_timestamp", "2199"),
        ("assignments", "{broken", "invalid_json", "not JSON"),
        ("assignments", "[1, 2]", "not_an_object", "not an object"),
        ("assignments", assigned("u" * 501), "too_long", "longer than 500"),
        ("outcomes", label("u", "good"), "wrong_type", "`value` is good: neither a number nor true"),
        (
            "outcomes",
            {"metric": "m", "value": 1, "ts": NOON},
            "missing_field",
            "one of `event_id`, `trace_id`",
        ),
        ("outcomes", label("u", 1e300), "absurd_value", "beyond 1000000000000"),
        ("outcomes", label("u", None), "missing_field", "`value` is missing"),
    ],
)
def test_what_cannot_be_taken_is_told_with_file_line_and_reason(world, kind, record, reason, says):
    good = assigned("u1") if kind == "assignments" else label("u1")
    world.write(f"{kind}/x.jsonl", [good, record])
    done = world.take()
    assert (done.rows_in, done.taken, done.quarantined) == (2, 1, 1)
    (row,) = world.rows("quarantined_rows")
    assert (row["file"], row["line"], row["reason"], row["dialect"]) == (f"{kind}/x.jsonl", 2, reason, kind)
    assert says in row["message"]
    assert row["raw"] == (record if isinstance(record, str) else json.dumps(record))


def test_a_label_that_comes_again_with_another_value_is_held_and_not_taken(world):
    world.write("outcomes/a.jsonl", [label("u1"), label("u1", True), label("u2", 1, label_id="x")])
    assert (world.take().taken, counts_add_up(world.lake).passed) == (2, True)
    later = label("u2", 0, "2026-10-03T12:00:00Z", label_id="x")
    world.write("outcomes/b.jsonl", [label("u1", False), later, label("u2", 1, label_id="y")])
    done = world.take()
    assert (done.taken, done.duplicates, done.quarantined) == (1, 0, 2)
    assert {row["reason"] for row in world.rows("quarantined_rows")} == {"conflicting_duplicate"}


def test_a_unit_in_two_arms_and_at_two_times_is_taken_with_all_of_them(world):
    world.write(
        "assignments/a.jsonl",
        [assigned("u1"), assigned("u1", "b"), assigned("u1", ts="2026-10-03T00:00:00Z")],
    )
    assert world.take().taken == 3


def test_the_source_says_whose_rows_they_are(tmp_path):
    world = World(tmp_path / "fixed", tenant="acme", dialect="assignments")
    world.write("anywhere.jsonl", [assigned("u1", tenant="evil")])
    assert (world.take().taken, world.rows("assignments", "tenant")) == (1, [{"tenant": "acme"}])
    world = World(tmp_path / "field", tenant_field="org.id")
    world.write("outcomes/a.jsonl", [label("u1", org={"id": "acme"}), label("u2")])
    assert (world.take().quarantined, world.rows("outcomes", "tenant")) == (1, [{"tenant": "acme"}])
    assert world.rows("quarantined_rows", "reason") == [{"reason": "missing_tenant"}]


def test_followers_that_were_not_written_are_written_at_the_next_start(world, monkeypatch):
    world.write("outcomes/a.jsonl", [label("u1"), "broken"])
    files = world.sources.look(world.lake, settled=True).files
    worker = Ingestion(world.lake, world.sources, salt="s")

    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    monkeypatch.setattr(worker, "follow", die)
    with pytest.raises(Died):
        worker.take(files)
    assert world.lake.sequence("outcomes", "experiment_logs") == 1
    assert not world.lake.exists("ingested_files")
    assert Ingestion(world.lake, world.sources, salt="s").take(files) == Taken()
    assert (len(world.rows("outcomes")), len(world.rows("quarantined_rows"))) == (1, 1)
    assert counts_add_up(world.lake).passed


def test_a_worker_that_lost_the_race_takes_what_is_left(world):
    world.write("assignments/a.jsonl", [assigned("u1")])
    world.write("assignments/b.jsonl", [assigned("u2")])
    files = world.sources.look(world.lake, settled=True).files
    slow, fast = (Ingestion(Lake(world.lake.root), world.sources, salt="s") for _ in range(2))
    left = slow.left

    def overtaken(given: Any) -> Any:
        found = left(given)
        fast.take(files[:1])
        return found

    slow.left = overtaken  # type: ignore[method-assign, assignment]
    assert slow.take(files).taken == 1
    assert len(world.rows("assignments")) == 2
    assert counts_add_up(world.lake).passed


def test_a_long_file_goes_in_by_parts(world, monkeypatch):
    monkeypatch.setattr("ml_registry_pipelines.telemetry.experiment_ingestion.BATCH_ROWS", 1)
    monkeypatch.setattr("ml_registry_pipelines.telemetry.splitting.CHUNK_BYTES", 200)
    world.write("assignments/a.jsonl", [assigned(f"u{n}") for n in range(8)])
    assert world.take().taken == 8
    assert world.take() == Taken()
    assert counts_add_up(world.lake).passed


def tried_again(world, **source):
    sources = Sources([Source("landing", str(world.landing), **source)])
    done = replay(Ingestion(world.lake, sources, salt="s"), open_rows(world.lake, limit=100))
    assert counts_add_up(world.lake).passed
    return done


def test_rows_that_a_mended_source_can_take_are_replayed_once_under_their_lines(world):
    world.sources = Sources([Source("landing", str(world.landing), tenant_field="team")])
    world.write(
        "assignments/a.jsonl", [assigned("u1", team="acme"), assigned("u2"), "{broken", assigned("u3")]
    )
    world.write("outcomes/l.jsonl", [label("u2"), label("u1", team="acme")])
    assert world.take().quarantined == 4
    assert (tried_again(world, tenant_field="team").kept, len(world.rows("assignments"))) == (4, 1)
    done = tried_again(world, tenant="acme")
    assert (done.tried, done.taken, done.duplicates, done.kept, done.failures) == (4, 3, 0, 1, ())
    found = {(row["unit_hash"], row["tenant"], row["line"]) for row in world.rows("assignments")}
    assert found == {
        (salted_hash("s", "acme", f"u{n}"), "acme", line) for n, line in ((1, 1), (2, 2), (3, 4))
    }
    assert sorted(row["line"] for row in world.rows("outcomes")) == [1, 2]
    (left,) = open_rows(world.lake, limit=10).to_pylist()
    assert (left["line"], left["reason"]) == (3, "invalid_json")
    assert tried_again(world, tenant="acme").taken == 0


def test_a_whole_file_is_read_again_and_a_label_of_another_value_is_left(world):
    (world.landing / "outcomes").mkdir()
    file = world.landing / "outcomes" / "a.jsonl.gz"
    file.write_bytes(b"BZh91AY")
    world.write("outcomes/b.jsonl", [label("u1", True, label_id="1")])
    world.write("outcomes/c.jsonl", [label("u1", False, label_id="1")])
    assert world.take().quarantined == 2
    done = tried_again(world)
    assert (done.tried, done.taken, done.kept) == (2, 0, 2)
    assert "taken before with another value; land the right ones under a new name" in done.failures[0]
    world.write("outcomes/a.jsonl.gz", [label("u2"), label("u3")])
    done = tried_again(world)
    assert (done.taken, done.kept) == (2, 1)
    assert len(world.rows("outcomes")) == 3


def test_a_dry_run_counts_and_writes_nothing(world):
    world.write("assignments/a.jsonl", [assigned("u1"), "broken"])
    (file,) = world.sources.look(world.lake, settled=True).files
    text = "\n".join(preview(world.sources.get("landing"), file).lines())
    assert "assignments/a.jsonl: assignments" in text
    assert "2 records: 1 can be taken, 1 would be quarantined" in text
    assert "tokens" not in text
    assert not world.lake.exists("assignments")
