"""The log: atomic, gapless, chained, shared by many writers, and found again after a lost answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import deltalake
import pytest

from ml_registry_pipelines.lake.lake import CommitUnknown, Lake
from ml_registry_pipelines.registry import tail
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.commands import Change, Command
from ml_registry_pipelines.registry.errors import InvalidInput, NameTaken
from ml_registry_pipelines.registry.events import HASHED, event_hash, hash_sql, new_id, to_arrow
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.log_table import NOTE, TABLE
from ml_registry_pipelines.registry.models import ModelRegistry
from tests.registry.conftest import ACTOR


def damages(lake: Lake, tenant: str | None = None) -> list[str]:
    return [v.damage.text for v in verify(lake, tenant=tenant) if v.damage]


def test_canonical_json_has_one_spelling():
    assert (
        canonical({"b": [1, 1.5, None, True], "a": "ü\u2028\n"}) == '{"a":"ü\u2028\\n","b":[1,1.5,null,true]}'
    )


@pytest.mark.parametrize("value", [float("inf"), {1: 2}, "\ud800", {"a": b"x"}, 2**63, "\x00"])
def test_what_json_cannot_say_everywhere_the_same_way_is_refused(value):
    with pytest.raises(InvalidInput):
        canonical({"k": value})


def test_a_write_is_visible_to_the_next_read_of_another_process(log, registry):
    registry.register_model("fraud")
    with Log(Lake(log.lake.root)) as other:
        theirs = ModelRegistry(other, actor=ACTOR, tenant=registry.tenant)
        assert theirs.get_model("fraud").name == "fraud"
        theirs.describe_model("fraud", "by another")
        assert registry.get_model("fraud").description == "by another"
        registry.rename_model("fraud", "x")
        assert theirs.get_model("x").description == "by another"


@pytest.mark.parametrize("damaged", ["", "[]", "[[1]]", "x", "NAME"])
def test_what_a_commit_carries_of_its_events_counts_only_where_it_is_them(log, registry, damaged):
    """Commits carry short events as text for those who follow; the file beside it holds them in any case."""
    registry.register_model("first")
    with Log(Lake(log.lake.root)) as other:
        theirs = ModelRegistry(other, actor=ACTOR, tenant=registry.tenant)
        assert theirs.get_model("first").name == "first"
        registry.register_model("second")
        commit = max(Path(log.lake.uri(TABLE), "_delta_log").glob("*.json"))
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        (info,) = [action["commitInfo"] for action in actions if "commitInfo" in action]
        assert "second" in info[NOTE]
        info[NOTE] = info[NOTE].replace("second", "forged") if damaged == "NAME" else damaged
        commit.write_text("\n".join(map(json.dumps, actions)))
        assert [model.name for model in theirs.list_models()] == ["first", "second"]


def test_the_sequence_is_gapless_per_tenant_and_time_never_runs_backwards(log, registry):
    for n in range(3):
        registry.register_model(f"m{n}")
    events = log.events(registry.tenant, range(1, 10))
    assert [e.sequence for e in events] == [1, 2, 3]
    assert [e.previous_hash for e in events] == ["", events[0].hash, events[1].hash]
    assert sorted(e.recorded_at for e in events) == [e.recorded_at for e in events]
    assert damages(log.lake, registry.tenant) == []


def test_a_clock_that_is_set_back_does_not_turn_the_log_back(log, tenant):
    times = iter([datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)])
    with Log(log.lake, clock=lambda: next(times)) as own:
        registry = ModelRegistry(own, actor=ACTOR, tenant=tenant)
        assert registry.register_model("a").recorded_at == registry.register_model("b").recorded_at


def test_the_hash_in_sql_is_the_hash_in_python(log, registry):
    registry.register_model("größe", idempotency_key="k;,:", valid_from=datetime(1960, 1, 1, 1, 2, 3, 4, UTC))
    (event,) = log.events(registry.tenant, [1])
    with log.lake.read() as reading:
        reading.register("e", to_arrow([event]))
        computed = reading.query("test", f"SELECT {hash_sql()} AS h FROM e")["h"][0].as_py()
    assert computed == event.hash == event_hash(vars(event))


def test_every_column_but_the_position_is_covered_by_the_hash(log, registry):
    registry.register_model("m", idempotency_key="k")
    (event,) = log.events(registry.tenant, [1])
    fields = dict(vars(event))
    for name in HASHED:
        value = fields[name]
        match value:
            case datetime():
                other: object = value + timedelta(microseconds=1)
            case int():
                other = value + 1
            case None:
                other = ""
            case _:
                other = f"{value}x"
        assert event_hash({**fields, name: other}) != event.hash, name


def test_many_callers_share_commits_and_one_that_fails_fails_alone(log, registry):
    registry.register_model("taken")
    before = log.lake.version("governance_events")
    barrier = threading.Barrier(32)

    def call(n):
        barrier.wait()
        try:
            return registry.register_model("taken" if n % 4 == 0 else f"m{n}").name
        except NameTaken:
            return "refused"

    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(call, range(32)))
    assert results.count("refused") == 8
    assert len(registry.list_models()) == 25
    assert log.lake.version("governance_events") - before < 24
    assert damages(log.lake, registry.tenant) == []


def test_a_defect_in_one_command_reaches_its_own_caller_and_nobody_else(log, tenant):
    def broken(_: object) -> list[Change]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        log.run(Command(tenant, ACTOR, "x", "model", {}, broken))
    ModelRegistry(log, actor=ACTOR, tenant=tenant).register_model("works")


def test_callers_with_the_same_key_at_once_get_the_same_result(log, registry):
    barrier = threading.Barrier(8)

    def call(_):
        barrier.wait()
        return registry.register_model("fraud", idempotency_key="k").id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(call, range(8)))) == 1
    assert log.head(registry.tenant)[0] == 1


def test_two_logs_that_race_decide_anew_and_lose_nothing(log, tenant):
    with Log(Lake(log.lake.root)) as other:
        desks = [ModelRegistry(one, actor=ACTOR, tenant=tenant) for one in (log, other)]

        def work(desk: ModelRegistry) -> int:
            made = 0
            for n in range(12):
                try:
                    desk.register_model(f"m{n}")
                    made += 1
                except NameTaken:
                    continue
            return made

        with ThreadPoolExecutor(2) as pool:
            assert sum(pool.map(work, desks)) == 12
    assert [e.sequence for e in log.events(tenant, range(1, 99))] == list(range(1, 13))
    assert damages(log.lake, tenant) == []


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets the store answer the next commits of the log with an error, whether they land or not."""
    real: Any = deltalake.write_deltalake

    def fail(*, times: int, lands: bool) -> None:
        left = [times]

        def write(table: deltalake.DeltaTable, *args: object, **options: object) -> None:
            if "governance_events" in table.table_uri and left[0]:
                left[0] -= 1
                if lands:
                    real(table, *args, **options)
                raise OSError("Generic S3 error: 503 Service Unavailable")
            real(table, *args, **options)

        monkeypatch.setattr(deltalake, "write_deltalake", write)

    return fail


def test_a_commit_that_landed_without_an_answer_counts_once(log, registry, store):
    store(times=1, lands=True)
    registry.register_model("fraud")
    assert log.head(registry.tenant)[0] == 1


def test_a_commit_that_the_store_refused_is_tried_again(log, registry, store):
    store(times=2, lands=False)
    registry.register_model("fraud")
    assert log.head(registry.tenant)[0] == 1


def test_a_store_that_keeps_failing_is_one_clear_error_and_nothing_half_done(log, registry, store):
    store(times=99, lands=False)
    with pytest.raises(CommitUnknown, match="503"):
        registry.register_model("fraud")
    store(times=0, lands=False)
    assert registry.list_models() == []
    registry.register_model("fraud")


def test_projections_grow_in_whole_blocks_and_answers_stay_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(tail, "BLOCK", 8)
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        for n in range(10):
            registry.register_model(f"m{n}", idempotency_key=f"k{n}")
            registry.tag_model(f"m{n}", {"n": n})
            log.settle()
        names = [m.name for m in registry.list_models()]
        assert lake.sequence("things", "governance_events") == 2
        with Log(lake) as cold:
            theirs = ModelRegistry(cold, actor=ACTOR)
            assert [m.name for m in theirs.list_models()] == names == [f"m{n}" for n in range(10)]
            assert [theirs.get_model(f"m{n}").tags for n in range(10)] == [{"n": n} for n in range(10)]
            # Known from the projection, and its first result comes from the log.
            assert theirs.register_model("m0", idempotency_key="k0").id == registry.get_model("m0").id
            with pytest.raises(NameTaken):
                theirs.register_model("m0")


def test_dropped_projections_are_folded_again_from_the_log(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(tail, "BLOCK", 4)
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        for n in range(22):
            registry.register_model(f"m{n:02}")
        log.settle()
        before = registry.list_models()
    for table in ("things", "relationships", "model_versions", "approvals", "idempotency_keys"):
        shutil.rmtree(Path(tmp_path, "tables", table))
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        assert ModelRegistry(log, actor=ACTOR).list_models() == before
        assert lake.sequence("things", "governance_events") == 5


def test_an_event_has_a_bounded_payload(registry):
    with pytest.raises(InvalidInput, match="put large values into an artifact"):
        registry.register_model("m", metadata={"x": "y" * 5_000_000})


def test_ids_sort_by_the_time_of_their_making():
    assert len({new_id() for _ in range(1000)}) == 1000
