"""Ingestion: every record lands exactly once, and the counts add up."""

import gzip
import itertools
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake.files import FilesError, LocalFolder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry import ingestion, splitting
from ml_registry_pipelines.telemetry.ingestion import Ingestion, IngestionError
from ml_registry_pipelines.telemetry.quarantine import open_rows, show, summary
from ml_registry_pipelines.telemetry.replay import replay
from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources
from tests.examples import examples


def record(number: int, **fields: object) -> dict[str, Any]:
    day = 1 + number % 3
    return {
        "event_id": f"r{number}",
        "ts": f"2026-10-0{day}T10:00:{number % 60:02d}Z",
        "tenant": f"t{number % 2}",
        "provider": "openai",
        "model": "gpt-4o",
        "latency_ms": 100 + number,
        "usage": {"in_uncached": number, "out_text": 1, "total": number + 1},
        **fields,
    }


def write(folder: Path, name: str, records: Sequence[object], *, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
    if packed:
        (folder / name).write_bytes(gzip.compress(text.encode()))
    else:
        (folder / name).write_text(text)


class World:
    """A landing folder, a lake, and the way from one to the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.landing = root / "landing"
        self.landing.mkdir(parents=True, exist_ok=True)
        self.lake = Lake(str(root / "home"))
        self.sources = Sources([Source("landing", str(self.landing))])

    def take(self, lake: Lake | None = None):
        lake = lake or self.lake
        look = self.sources.look(lake, scope=Scope.ALL, settled=True)
        return Ingestion(lake, self.sources, salt="salt").take(look.files)

    def rows(self, sql: str, *tables: str) -> list[dict[str, Any]]:
        with self.lake.read(*tables) as reading:
            return list(reading.query("test", sql).to_pylist())

    def events(self) -> list[str]:
        return [
            str(row["event_id"])
            for row in self.rows("SELECT event_id FROM inference_events ORDER BY 1", "inference_events")
        ]

    def balance(self) -> dict[str, int]:
        (row,) = self.rows(
            """
            SELECT coalesce(sum(rows_in), 0)::BIGINT AS rows_in, coalesce(sum(taken), 0)::BIGINT AS taken,
                   coalesce(sum(duplicates), 0)::BIGINT AS duplicates,
                   coalesce(sum(quarantined), 0)::BIGINT AS quarantined
            FROM ingested_files
            """,
            "ingested_files",
        )
        assert row["rows_in"] == row["taken"] + row["duplicates"] + row["quarantined"]
        return {k: int(str(v)) for k, v in row.items()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_every_record_lands_exactly_once_and_a_second_look_finds_nothing(world):
    write(world.landing / "native", "a.jsonl", [record(n) for n in range(10)])
    done = world.take()
    assert (done.rows_in, done.taken, done.duplicates, done.quarantined) == (10, 10, 0, 0)
    assert [d.isoformat() for d in done.days] == ["2026-10-01", "2026-10-02", "2026-10-03"]
    assert world.take().batches == ()
    assert world.events() == sorted(f"r{n}" for n in range(10))


def test_hour_12_then_hour_09_then_yesterday_all_land(world):
    for number, place in enumerate(("dt=2026-10-02/hh=12", "dt=2026-10-02/hh=09", "dt=2026-10-01/hh=23")):
        write(world.landing / "native" / place, "x.jsonl", [record(number)])
        assert world.take().taken == 1
    assert world.events() == ["r0", "r1", "r2"]


@pytest.mark.parametrize(
    "again", ["same file", "another file", "another day", "another source", "another batch"]
)
def test_a_duplicate_is_found_wherever_it_comes_again(world, again):
    first = record(1)
    folder = world.landing / "native"
    if again == "same file":
        write(folder, "a.jsonl", [first, first])
    elif again == "another file":
        write(folder, "a.jsonl", [first])
        write(folder, "b.jsonl", [first])
    elif again == "another source":
        write(folder, "a.jsonl", [first])
        write(world.root / "other", "a.jsonl", [first])
        world.sources = world.sources.with_source(Source("other", str(world.root / "other")))
    else:
        write(folder, "a.jsonl", [first])
        world.take()
        moved = first | ({"ts": "2026-10-20T00:00:00Z"} if again == "another day" else {})
        write(folder, "b.jsonl", [moved], packed=True)
    world.take()
    assert world.events() == ["r1"]
    assert world.balance() == {"rows_in": 2, "taken": 1, "duplicates": 1, "quarantined": 0}


def test_a_bill_beside_a_log_is_set_aside_as_one_file_and_counts_no_request(world):
    answer = {"object": "chat.completion", "created": 1790848800, "model": "gpt-4o", "choices": []}
    usage = {"prompt_tokens": 1200, "completion_tokens": 38, "total_tokens": 1238}
    write(world.landing / "openai", "a.jsonl", [{**answer, "id": f"c{n}", "usage": usage} for n in range(3)])
    bucket = {
        "object": "bucket",
        "start_time": 1790812800,
        "end_time": 1790899200,
        "results": [
            {"object": "organization.usage.completions.result", "input_tokens": 3600, "num_model_requests": 3}
        ],
    }
    write(world.landing / "openai", "usage.jsonl", [bucket, bucket])
    done = world.take()
    assert (done.taken, done.quarantined, done.files) == (3, 1, 2)
    assert world.events() == ["c0", "c1", "c2"]
    world.balance()
    (held,) = open_rows(world.lake, limit=10).to_pylist()
    assert (held["file"], held["line"], held["reason"]) == ("openai/usage.jsonl", 0, "bill")
    assert "put it into a bills source" in held["message"]
    tried = replay(Ingestion(world.lake, world.sources, salt="salt"), open_rows(world.lake, limit=10))
    assert (tried.taken, world.events()) == (0, ["c0", "c1", "c2"])


def test_another_attempt_and_another_tenant_are_no_duplicates(world):
    rows = [record(1), record(1, attempt=2), record(1, tenant="else"), record(1, source_system="gateway")]
    write(world.landing / "native", "a.jsonl", rows)
    assert world.take().taken == 4


def test_the_same_id_with_other_content_is_set_aside_and_nothing_is_overwritten(world):
    write(world.landing / "native", "a.jsonl", [record(1)])
    world.take()
    write(world.landing / "native", "b.jsonl", [record(1, model="gpt-5"), record(2)])
    done = world.take()
    assert (done.taken, done.duplicates, done.quarantined) == (1, 0, 1)
    (held,) = open_rows(world.lake, limit=10).to_pylist()
    assert (held["reason"], held["file"], held["line"]) == ("conflicting_duplicate", "native/b.jsonl", 1)
    assert "gpt-5" in held["raw"]
    assert world.rows("SELECT DISTINCT model FROM inference_events", "inference_events") == [
        {"model": "gpt-4o"}
    ]


def test_bad_rows_are_set_aside_with_file_line_and_reason(world):
    write(
        world.landing / "native",
        "a.jsonl",
        [record(1), "{not json", record(2, usage={"in_uncached": -5}), record(3, ts="yesterday"), record(4)],
    )
    done = world.take()
    assert (done.rows_in, done.taken, done.quarantined) == (5, 2, 3)
    held = open_rows(world.lake, limit=10).to_pylist()
    assert [row["line"] for row in held] == [2, 3, 4]
    assert all(row["file"] == "native/a.jsonl" and row["reason"] and row["message"] for row in held)
    assert held[0]["raw"] == "{not json"
    assert show(world.lake, held[0]["quarantine_id"][:12])["raw"] == "{not json"
    assert sum(summary(world.lake)["rows"].to_pylist()) == 3


def test_an_empty_file_and_a_file_of_nothing_but_bad_rows_are_taken_once(world):
    write(world.landing / "native", "empty.jsonl", [])
    write(world.landing / "native", "bad.jsonl", ["nonsense"])
    assert world.take().files == 2
    assert world.take().files == 0
    assert world.balance() == {"rows_in": 1, "taken": 0, "duplicates": 0, "quarantined": 1}


def test_a_truncated_gzip_gives_what_it_holds_and_says_where_it_broke(world):
    whole = gzip.compress("".join(json.dumps(record(n)) + "\n" for n in range(2000)).encode())
    folder = world.landing / "native"
    folder.mkdir()
    (folder / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    done = world.take()
    assert done.quarantined == 1
    assert 0 < done.taken < 2000
    assert open_rows(world.lake, limit=5).to_pylist()[0]["reason"] == "truncated_gzip"
    assert world.balance()["rows_in"] == done.taken + 1


def test_a_replay_takes_what_can_be_taken_now_and_moves_the_counts(world):
    write(
        world.root / "logs",
        "trace.csv",
        [
            "TIMESTAMP,ContextTokens,GeneratedTokens",
            "2023-11-16 18:17:03.97,10,5",
            "2023-11-16 18:17:04,-1,5",
        ],
    )
    write(world.landing / "native", "a.jsonl", [record(1, tenant=None), "broken"])
    world.sources = Sources([Source("landing", str(world.landing), tenant_field="team")])
    assert world.take().quarantined == 2
    world.sources = Sources([Source("landing", str(world.landing), tenant="acme")])
    ingestion = Ingestion(world.lake, world.sources, salt="salt")
    done = replay(ingestion, open_rows(world.lake, limit=10))
    assert (done.taken, done.duplicates) == (1, 0)
    assert world.balance() == {"rows_in": 2, "taken": 1, "duplicates": 0, "quarantined": 1}
    assert [row["line"] for row in open_rows(world.lake, limit=10).to_pylist()] == [2]
    (row,) = world.rows("SELECT tenant, file, line FROM inference_events", "inference_events")
    assert row == {"tenant": "acme", "file": "native/a.jsonl", "line": 1}
    assert replay(ingestion, open_rows(world.lake, limit=10)).taken == 0
    assert world.balance() == {"rows_in": 2, "taken": 1, "duplicates": 0, "quarantined": 1}


def test_a_file_that_cannot_be_read_does_not_keep_the_others_out(world):
    write(world.landing / "native", "a.jsonl", [record(1)])
    write(world.landing / "native", "b.jsonl", [record(2)])
    look = world.sources.look(world.lake, settled=True)
    (world.landing / "native" / "a.jsonl").unlink()
    with pytest.raises(IngestionError, match=r"native/a\.jsonl"):
        Ingestion(world.lake, world.sources, salt="s").take(look.files)
    assert world.events() == ["r2"]


def test_a_long_file_goes_in_by_parts_and_is_taken_up_where_it_was_left(world, monkeypatch):
    from ml_registry_pipelines.telemetry import ingestion, splitting

    monkeypatch.setattr(ingestion, "BATCH_ROWS", 50)
    monkeypatch.setattr(splitting, "CHUNK_ROWS", 20)
    write(world.landing / "native", "a.jsonl", [record(n) for n in range(170)], packed=True)
    look = world.sources.look(world.lake, settled=True)
    worker = Ingestion(world.lake, world.sources, salt="s")
    steps = worker._take(worker.left(look.files), 1, [])
    next(steps)
    steps.close()  # The worker stops here.
    assert 0 < len(world.events()) < 170
    done = world.take()
    assert done.duplicates == 0
    assert world.events() == sorted(f"r{n}" for n in range(170))
    assert world.balance() == {"rows_in": 170, "taken": 170, "duplicates": 0, "quarantined": 0}
    parts = world.rows(
        "SELECT part, first_line, last_line, complete FROM ingested_files ORDER BY part", "ingested_files"
    )
    assert [p["complete"] for p in parts] == [False] * (len(parts) - 1) + [True]
    assert all(a["last_line"] + 1 == b["first_line"] for a, b in itertools.pairwise(parts))


def test_followers_that_were_not_written_are_written_at_the_next_start(world, monkeypatch):
    write(world.landing / "native", "a.jsonl", [record(1), "broken"])
    look = world.sources.look(world.lake, settled=True)
    worker = Ingestion(world.lake, world.sources, salt="s")

    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    monkeypatch.setattr(worker, "follow", die)
    with pytest.raises(Died):
        worker.take(look.files)
    assert world.lake.sequence("inference_events", "ingestion") == 1
    assert world.lake.sequence("ingested_files", "inference_events") == 0
    assert Ingestion(Lake(str(world.root / "home")), world.sources, salt="s").take(look.files).batches == ()
    assert world.balance() == {"rows_in": 2, "taken": 1, "duplicates": 0, "quarantined": 1}
    assert not list((world.root / "home" / "staging").iterdir())


def test_a_worker_that_lost_the_race_takes_what_is_left(world):
    write(world.landing / "native", "a.jsonl", [record(1), record(2)])
    write(world.landing / "native", "b.jsonl", [record(3)])
    look = world.sources.look(world.lake, settled=True)
    slow = Ingestion(Lake(str(world.root / "home")), world.sources, salt="s")
    fast = Ingestion(world.lake, world.sources, salt="s")
    commit = slow.commit
    raced = iter([True])

    def while_another_commits(pending, batch):
        if next(raced, False):
            fast.take(look.files[:1])
        return commit(pending, batch)

    slow.commit = while_another_commits  # type: ignore[method-assign]
    done = slow.take(look.files)
    assert world.events() == ["r1", "r2", "r3"]
    assert done.taken == 1
    assert world.balance() == {"rows_in": 3, "taken": 3, "duplicates": 0, "quarantined": 0}


class Stubborn(LocalFolder):
    """A folder in which nothing can be deleted."""

    def delete(self, path):
        raise FilesError(f"{path} cannot be deleted: the store answers 503")


def test_a_clean_up_that_fails_neither_stops_a_batch_nor_counts_a_part_twice(world, monkeypatch):
    monkeypatch.setattr(ingestion, "BATCH_ROWS", 10)
    monkeypatch.setattr(splitting, "CHUNK_ROWS", 5)
    write(world.landing / "native", "a.jsonl", [record(n) for n in range(40)])
    worker = Ingestion(world.lake, world.sources, salt="s")
    worker._staging = Stubborn(world.root / "home" / "staging")
    done = worker.take(world.sources.look(world.lake, settled=True).files)
    assert (done.taken, len(done.batches) > 3) == (40, True)
    assert world.balance() == {"rows_in": 40, "taken": 40, "duplicates": 0, "quarantined": 0}
    assert len(world.events()) == 40


def test_user_ids_are_never_stored_as_they_came(world):
    write(world.landing / "native", "a.jsonl", [record(1, user_id="ada@example.org", session_id="s-77")])
    world.take()
    for path in (world.root / "home").rglob("*"):
        if path.is_file():
            assert b"ada@example.org" not in path.read_bytes()
    (row,) = world.rows("SELECT user_hash, session_hash FROM inference_events", "inference_events")
    assert len({row["user_hash"], row["session_hash"], None}) == 3


@settings(max_examples=examples(15, least=3), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plan=st.lists(
        st.lists(st.one_of(st.integers(0, 15), st.just("bad")), min_size=0, max_size=8),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 2**16),
)
def test_any_mixture_of_files_in_any_order_ends_with_each_record_once(plan, seed, tmp_path_factory):
    world = World(tmp_path_factory.mktemp("mixture"))
    chance = random.Random(seed)
    names = [f"{n}.jsonl" for n in range(len(plan))]
    chance.shuffle(names)
    for name, entries in zip(names, plan, strict=True):
        write(world.landing / "native", name, [record(e) if isinstance(e, int) else "bad" for e in entries])
        if chance.random() < 0.5:
            world.take(Lake(str(world.root / "home")))
    world.take()
    good = [e for entries in plan for e in entries if isinstance(e, int)]
    assert world.events() == sorted(f"r{n}" for n in set(good))
    balance = world.balance()
    assert balance["taken"] == len(set(good))
    assert balance["duplicates"] == len(good) - len(set(good))
    assert balance["quarantined"] == sum(entries.count("bad") for entries in plan)


def test_the_time_of_taking_is_recorded(world):
    before = datetime.now(UTC)
    write(world.landing / "native", "a.jsonl", [record(1)])
    world.take()
    (row,) = world.rows("SELECT recorded_at, batch FROM inference_events", "inference_events")
    assert before <= row["recorded_at"] <= datetime.now(UTC)
    assert row["batch"] == 1


def test_a_file_that_nothing_can_decode_is_named_and_the_others_are_taken(world):
    """With a time zone that DuckDB does not know, as no checked configuration can say it."""
    write(world.root / "odd", "b.jsonl", [record(0)])
    write(world.landing, "a.jsonl", [record(1)])
    write(world.landing, "c.jsonl", [record(2)])
    odd = Source("odd", str(world.root / "odd"), time_zone="Mars/Olympus")
    world.sources = Sources([odd, *world.sources])
    with pytest.raises(IngestionError, match=r"^b\.jsonl of source 'odd' cannot be decoded: ") as failure:
        world.take()
    assert "\n" not in str(failure.value)
    assert world.events() == ["r1", "r2"]
    world.sources = world.sources.with_source(Source("odd", str(world.root / "odd")))
    assert world.take().taken == 1


def test_quarantined_rows_that_nothing_can_decode_stay_and_others_are_tried(world):
    write(world.landing, "a.jsonl", [record(1), "oops"])
    write(world.root / "odd", "b.jsonl", [record(2), "oops"])
    odd = Source("odd", str(world.root / "odd"))
    world.sources = Sources([odd, *world.sources])
    world.take()
    before = world.balance()
    sources = world.sources.with_source(Source("odd", odd.folder, time_zone="Mars/Olympus"))
    done = replay(Ingestion(world.lake, sources, salt="salt"), open_rows(world.lake, limit=10))
    assert (done.tried, done.kept, len(done.failures)) == (2, 2, 1)
    assert done.failures[0].startswith("b.jsonl of source 'odd' cannot be decoded")
    assert world.balance() == before
