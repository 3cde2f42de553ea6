"""Rules that join log records to deployments and so to versions, and what rollups make of them."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.attribution_gaps import gaps
from ml_registry_pipelines.costs.queries import attribution_coverage, cost_by
from ml_registry_pipelines.lake.sandbox import run_sql
from ml_registry_pipelines.registry.actors import Decision, Request
from ml_registry_pipelines.registry.errors import (
    IllegalTransition,
    InvalidInput,
    KeyReused,
    NameTaken,
    NotAllowed,
    NotFound,
)
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.telemetry.attribution import (
    Attribution,
    NewRule,
    RuleChange,
    RuleConflict,
    patterns_meet,
)
from ml_registry_pipelines.telemetry.compiling import compile_rules
from ml_registry_pipelines.telemetry.performance import PerformanceTracker
from tests.examples import examples
from tests.made_events import land
from tests.telemetry.attributed import ACTOR, DAY, World, at, call, opened, opened_again, rows_of

NEXT = DAY + timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with opened(tmp_path) as made:
        made.versions("fraud")
        made.deploy("prod", "fraud@v1", at(0, day=-30))
        yield made


def test_requests_that_a_rule_covers_bear_the_version_that_its_deployment_served(world: World) -> None:
    rule = world.rule("prod", model="m")
    world.take(call(at(9)), call(at(10)), call(at(9), model="other"))
    done = world.apply()
    assert done.days == (DAY,)
    assert world.attributed() == [(1, "version", 2, Decimal(20)), (None, None, 1, None)]
    model = world.registry.get_model("fraud")
    assert world.costs("deployment_id", "model_id")[0] == (rule.deployment_id, model.id)


@pytest.mark.soak
def test_an_instant_belongs_to_what_begins_there(world: World) -> None:
    world.deploy("prod", "fraud@v2", at(12))
    world.rule("prod", model="m", valid_from=at(9), valid_to=at(18))
    just = timedelta(microseconds=1)
    for moment in (at(9) - just, at(9), at(12) - just, at(12), at(18) - just, at(18)):
        world.take(call(moment))
    world.apply()
    assert world.attributed() == [(1, "version", 2, 20), (2, "version", 2, 20), (None, None, 2, 20)]
    hours = {
        (r[0].hour, r[1]): r[2]
        for r in world.costs("period_start", "model_version", "requests", grain="hour")
    }
    assert hours == {(8, None): 1, (9, 1): 1, (11, 1): 1, (12, 2): 1, (17, 2): 1, (18, None): 1}


def test_midnight_is_the_first_instant_of_its_day(world: World) -> None:
    world.deploy("prod", "fraud@v2", at(0, day=1))
    world.rule("prod", model="m", valid_to=at(0, day=2))
    just = timedelta(microseconds=1)
    world.take(*(call(m) for m in (at(0, day=1) - just, at(0, day=1), at(0, day=2) - just, at(0, day=2))))
    world.apply()
    assert world.costs("day", "model_version") == [
        (DAY, 1), (NEXT, 2), (NEXT + timedelta(days=1), None),
    ]  # fmt: skip


def test_a_rule_changes_exactly_the_days_that_it_covers(world: World) -> None:
    world.take(*(call(at(9, day=n)) for n in range(5)))
    world.apply()
    world.rule("prod", model="m", valid_from=at(0, day=1), valid_to=at(0, day=3))
    assert world.apply().days == (NEXT, NEXT + timedelta(days=1))
    assert [row[0] for row in world.attributed()] == [None, 1, 1, None, None]
    assert world.apply().days == ()
    world.attribution.end_rule("rule-1", end=at(0, day=2))
    assert world.apply().days == (NEXT + timedelta(days=1),)
    world.attribution.remove_rule("rule-1")
    assert world.apply().days == (NEXT,)
    assert [row[0] for row in world.attributed()] == [None] * 5


def test_a_deployment_that_is_recorded_late_reaches_the_days_that_it_served(world: World) -> None:
    world.rule("prod", model="m")
    world.take(*(call(at(9, day=n)) for n in range(3)))
    world.apply()
    world.deploy("prod", "fraud@v2", at(0, day=2))
    assert world.apply().days == (DAY + timedelta(days=2),)
    assert [row[0] for row in world.attributed()] == [1, 1, 2]


def test_the_more_exact_rule_wins_and_a_priority_before_it(world: World) -> None:
    for name, version in (("exact", 2), ("pattern", 1), ("first", 2)):
        world.deploy(name, f"fraud@v{version}", at(0, day=-9), endpoint=name)
    world.rule("prod", endpoint="ch*")
    world.rule("pattern", endpoint="chat*")
    world.rule("exact", endpoint="chat", application="a*")
    world.rule("first", provider="acme", application="ab*", priority=1)
    world.take(call(at(9), application=None), call(at(9), application="ax"), call(at(9), application="abc"),
               call(at(9), application=None, endpoint="char"))  # fmt: skip
    world.apply()
    names = {world.registry.things.get("deployment", n).id: n for n in ("prod", "pattern", "exact", "first")}
    found = {(names[d], a) for d, a in world.costs("deployment_id", "application")}
    assert found == {("pattern", None), ("exact", "ax"), ("first", "abc"), ("prod", None)}


def test_a_condition_is_met_as_it_stands_and_never_by_nothing(world: World) -> None:
    world.rule("prod", model="100%_\\it's*", application="*")
    world.take(
        call(at(9), model="100%_\\it's-me", application="x"), call(at(9), model="100%_\\IT'S", application="x"),
        call(at(9), model="100zz\\it's", application="x"), call(at(9), model="100%_\\it's"),
    )  # fmt: skip
    world.apply()
    assert [(m, v) for m, v in world.costs("model", "model_version") if v] == [("100%_\\it's-me", 1)]


def test_other_tenants_are_not_covered(world: World) -> None:
    world.rule("prod", model="m")
    world.take(call(at(9)), call(at(9), tenant="other"))
    world.apply()
    assert sorted(world.costs("tenant", "model_version")) == [("acme", 1), ("other", None)]


def test_two_rules_that_contradict_each_other_are_refused_with_both_names(world: World) -> None:
    world.deploy("beta", "fraud@v2", at(0), endpoint="beta")
    world.rule("prod", model="gpt-4*", name="old")
    world.rule("beta", model="*-4o", name="less")
    with pytest.raises(
        RuleConflict, match=r"'new' \(model='g\*t-4o', to 'beta'\) and 'old' .*equally prec"
    ) as told:
        world.rule("beta", model="g*t-4o", name="new")
    assert told.value.rules == ("new", "old")


def test_rules_that_never_meet_or_agree_are_no_contradiction(world: World) -> None:
    world.deploy("beta", "fraud@v2", at(0), endpoint="beta")
    world.rule("prod", model="m", valid_to=at(12))
    world.rule("beta", model="m", valid_from=at(12))
    world.rule("beta", model="n", valid_to=at(12))
    world.rule("prod", model="m", endpoint="chat")
    world.rule("prod", model="m", valid_to=at(1))
    world.rule("beta", model="m", priority=5)
    with pytest.raises(RuleConflict):
        world.rule("prod", model="m", valid_from=at(12, day=3))
    with pytest.raises(RuleConflict):
        world.attribution.change_rule("rule-3", RuleChange(conditions={"model": "m"}))
    with pytest.raises(RuleConflict):
        world.attribution.change_rule("rule-1", RuleChange(valid_to=None))


def test_a_rule_that_makes_no_sense_is_refused_and_nothing_is_recorded(world: World) -> None:
    with pytest.raises(InvalidInput, match="would cover everything"):
        world.rule("prod")
    with pytest.raises(InvalidInput, match="never holds"):
        world.rule("prod", model="m", valid_from=at(9), valid_to=at(9))
    with pytest.raises(InvalidInput, match="no time zone"):
        world.rule("prod", model="m", valid_from=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidInput, match="no condition on 'colour'"):
        world.rule("prod", colour="red")
    with pytest.raises(InvalidInput, match="can be shown"):
        world.rule("prod", model="m\x00")
    with pytest.raises(NotFound, match="no deployment 'nobody'"):
        world.rule("nobody", model="m")
    world.rule("prod", model="m", name="mine", valid_from=at(9))
    with pytest.raises(NameTaken):
        world.rule("prod", model="n", name="mine")
    with pytest.raises(IllegalTransition, match="remove it"):
        world.attribution.end_rule("mine", end=at(8))
    world.attribution.end_rule("mine", end=at(12))
    with pytest.raises(IllegalTransition, match="already"):
        world.attribution.end_rule("mine", end=at(13))
    with pytest.raises(InvalidInput, match="no kind"):
        world.registry.things.delete("attribution_rule", "mine")
    assert [(r.name, r.valid_to) for r in world.attribution.rules()] == [("mine", at(12))]


def test_who_made_a_rule_and_what_was_known_when_can_be_asked(world: World) -> None:
    before = world.rule("prod", model="m", name="mine").recorded_at
    world.attribution.change_rule(
        "mine", RuleChange(conditions={"model": None, "endpoint": "chat"}, note="typo")
    )
    (now,) = world.attribution.rules()
    (then,) = world.attribution.rules(as_of=before)
    assert (then.conditions, now.conditions, now.note) == ({"model": "m"}, {"endpoint": "chat"}, "typo")
    assert now.actor == ACTOR.id
    world.attribution.remove_rule("mine")
    assert world.attribution.rules() == []
    with pytest.raises(NotFound):
        world.attribution.end_rule("mine")


def test_a_rule_comes_once_under_its_key_and_only_where_the_policy_allows(
    tmp_path: Path, world: World
) -> None:
    wanted = NewRule("prod", {"model": "m"})
    first = world.attribution.add_rule(wanted, idempotency_key="k")
    assert world.attribution.add_rule(wanted, idempotency_key="k").id == first.id
    with pytest.raises(KeyReused):
        world.attribution.add_rule(NewRule("prod", {"model": "n"}), idempotency_key="k")

    def policy(request: Request) -> Decision:
        return Decision(not request.action.endswith("attribution_rule"), "ask an owner")

    with Log(world.lake, policy=policy) as guarded, pytest.raises(NotAllowed, match="ask an owner"):
        Attribution(guarded, actor=ACTOR, tenant="acme").add_rule(NewRule("prod", {"model": "x"}))


def test_split_traffic_is_not_guessed(world: World) -> None:
    world.deploy("prod", "fraud@v1", at(12), traffic_share=0.9)
    world.deploy("canary", "fraud@v2", at(12), traffic_share=0.1)
    world.rule("prod", endpoint="chat")
    world.take(call(at(11)), call(at(13)), call(at(13), model="m2"))
    world.apply()
    prod = world.registry.things.get("deployment", "prod").id
    assert world.costs("deployment_id", "model_version", "attribution", "requests") == [
        (prod, 1, "version", 1), (prod, None, "ambiguous", 1), (prod, None, "ambiguous", 1),
    ]  # fmt: skip
    # A rule of the canary's own tells the parts apart.
    world.rule("canary", endpoint="chat", model="m2")
    world.apply()
    assert world.costs("model", "model_version", "attribution") == [
        ("m", 1, "version"), ("m2", 2, "version"),
    ]  # fmt: skip


def test_traffic_that_nobody_accounts_for_and_a_deployment_that_had_ended_have_no_version(
    world: World,
) -> None:
    world.deploy("prod", "fraud@v1", at(6), traffic_share=0.5)
    world.deploy("shadow", "fraud@v2", at(0), traffic_share=0.0, endpoint="mirror")
    world.tracker.end_deployment("prod", end=at(18))
    world.rule("prod", endpoint="chat")
    world.rule("shadow", endpoint="mirror")
    world.take(call(at(3)), call(at(9)), call(at(20)), call(at(9), endpoint="mirror"))
    world.apply()
    assert {(e[0], e[1], e[2]) for e in world.attributed("hour")} == {
        (1, "version", 1), (None, "ambiguous", 1), (None, "not_serving", 1), (2, "version", 1),
    }  # fmt: skip


@pytest.mark.soak
def test_a_tag_or_another_name_does_not_change_what_a_deployment_serves(world: World) -> None:
    world.rule("prod", model="m")
    world.registry.things.tag("deployment", "prod", {"tier": "gold"})
    world.registry.things.rename("deployment", "prod", "main")
    now = datetime.now(UTC)
    (deployed,) = world.tracker.deployments_on(now)
    assert (deployed.deployment.name, deployed.version) == ("main", "fraud@v1")
    world.take(call(now))
    world.apply()
    assert [row[0] for row in world.attributed()] == [1]


def test_endpoints_that_share_all_else_get_their_own_requests_tokens_and_costs(world: World) -> None:
    world.deploy("other", "fraud@v2", at(0, day=-9), endpoint="two")
    world.rule("prod", endpoint="chat")
    world.rule("other", endpoint="two")
    world.take(
        call(at(9)), call(at(9), endpoint="two", in_uncached=3), call(at(9), endpoint="three", in_uncached=5),
        call(at(9), endpoint="two", in_uncached=None, usage_quality="missing"),
    )  # fmt: skip
    world.apply()
    found = world.costs(
        "model_version", "requests", "billable_requests", "priced_requests", "in_uncached", "cost"
    )
    assert found == [(1, 1, 1, 1, 10, 10), (2, 2, 2, 1, 3, 3), (None, 1, 1, 1, 5, 5)]
    with world.lake.read("cost_rollup") as reading:
        by_version = cost_by(reading, ["model_version"]).to_pylist()
        by_model = cost_by(reading, ["model"], where={"model_id": world.registry.get_model("fraud").id})
    assert [(r["model_version"], r["cost"]) for r in by_version] == [(1, 10), (2, 3), (None, 5)]
    assert [(r["cost"], r["attribution_coverage"]) for r in by_model.to_pylist()] == [(13, 1.0)]


@pytest.mark.soak
def test_statistics_by_version_are_those_of_its_requests(world: World) -> None:
    world.deploy("prod", "fraud@v2", at(12))
    world.rule("prod", model="m")
    slow, fast = 5_000.0, 50.0
    world.take(
        *(call(at(9, n % 60), latency_ms=slow) for n in range(250)),
        *(call(at(15, n % 60), latency_ms=fast) for n in range(30)),
        *(call(at(15, n % 60), latency_ms=fast, model="other") for n in range(10)),
    )
    world.apply()
    tracker = PerformanceTracker(world.lake)
    for start, end in ((at(0), at(0, day=1)), (at(8, 30), at(16))):
        for exact in (False, True):
            found = tracker.get_statistics(start, end, by=["model_version"], exact=exact).groups
            assert [(g.model_version, g.requests, g.latency.n) for g in found] == [
                (1, 250, 250), (2, 30, 30), (None, 10, 10),
            ]  # fmt: skip
            assert [g.latency.p95 for g in found] == [
                pytest.approx(ms, rel=0.01) for ms in (slow, fast, fast)
            ]
            (everything,) = tracker.get_statistics(start, end, exact=exact).groups
            assert (everything.requests, everything.latency.n) == (290, 290)
            (one,) = tracker.get_statistics(start, end, model_version=2, exact=exact).groups
            assert one.requests == 30
            assert one.latency.p50 == pytest.approx(fast, rel=0.01)


def test_statistics_are_right_between_a_new_rule_and_the_next_rollup(world: World) -> None:
    world.take(*(call(at(9, n % 60)) for n in range(300)))
    world.apply()
    world.rule("prod", model="m")
    compile_rules(world.lake, world.log)
    (found,) = PerformanceTracker(world.lake).get_statistics(at(0), at(0, day=1), by=["model_version"]).groups
    assert (found.model_version, found.requests, found.latency.n) == (1, 300, 300)


@pytest.mark.soak
def test_gaps_name_what_no_rule_covers_with_its_volume(world: World) -> None:
    world.rule("prod", model="m", endpoint="chat")
    world.take(
        call(at(9)), call(at(10), endpoint="two", application="x"), call(at(35), endpoint="two", application="x"),
        call(at(12), endpoint="three", application="x", in_uncached=1), call(at(12), model="euro"),
        call(at(12), model="unknown"), call(at(12), model="m", span_kind="aggregate", endpoint="four"),
    )  # fmt: skip
    world.apply()
    with world.lake.read("attribution_gaps", "cost_rollup") as reading:
        found = gaps(reading).to_pylist()
        covered = attribution_coverage(reading)
        assert gaps(reading, tenant="nobody").num_rows == 0
    keys = (
        "model",
        "endpoint",
        "reason",
        "requests",
        "tokens",
        "cost",
        "currency",
        "first_seen",
        "last_seen",
    )
    assert [tuple(row[k] for k in keys) for row in found] == [
        ("m", "two", "no_rule", 2, 20, 20, "USD", at(10), at(11, day=1)),
        ("euro", "chat", "no_rule", 1, 10, 10, "EUR", at(12), at(12)),
        ("unknown", "chat", "no_rule", 1, 10, None, None, at(12), at(12)),
        ("m", "three", "no_rule", 1, 1, 1, "USD", at(12), at(12)),
    ]
    assert (covered.billable, covered.versions, covered.no_rule) == (6, 1, 5)
    assert covered.share == pytest.approx(1 / 6)


def test_gaps_close_when_a_rule_is_added(world: World) -> None:
    world.take(call(at(9)), call(at(9), model="other"))
    world.apply()
    world.rule("prod", model="m")
    world.apply()
    with world.lake.read("attribution_gaps") as reading:
        assert [row["model"] for row in gaps(reading).to_pylist()] == ["other"]
    world.rule("prod", model="other")
    assert world.apply().days == (DAY,)
    with world.lake.read("attribution_gaps") as reading:
        assert gaps(reading).num_rows == 0
    assert world.apply().days == ()


def test_sql_shows_the_version_of_every_request_before_anything_is_rolled_up(world: World) -> None:
    world.rule("prod", model="m")
    compile_rules(world.lake, world.log)
    land(world.lake, [call(at(9)), call(at(9), model="other"), call(at(9), tenant="else")])
    query = "SELECT model, model_version, attribution, count(*) AS n FROM inference_events GROUP BY ALL ORDER BY ALL"
    rows = run_sql(world.lake, query, tenant=None).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("m", 1, "version", 1), ("m", None, None, 1), ("other", None, None, 1),
    ]  # fmt: skip
    (row,) = run_sql(
        world.lake, "SELECT * FROM inference_events WHERE model_version = 1", tenant="acme"
    ).to_pylist()
    assert (row["deployment_id"], row["event_ts"]) == (world.attribution.rules()[0].deployment_id, at(9))
    assert run_sql(world.lake, "SELECT rule FROM attribution_rules", tenant="else").num_rows == 0


@pytest.mark.soak
def test_rollups_of_an_older_version_keep_working_and_are_attributed(tmp_path: Path, world: World) -> None:
    world.take(*(call(at(9, day=n)) for n in range(2)))
    world.apply()
    for table in ("cost_rollup", "performance_rollup"):
        _strip(world, table)
    with opened(tmp_path) as again:
        (found,) = PerformanceTracker(again.lake).get_statistics(at(0), at(0, day=3)).groups
        assert found.requests == 2
        assert run_sql(again.lake, "SELECT sum(requests) AS n FROM cost_rollup", tenant=None)[
            "n"
        ].to_pylist() == [4]
        again.rule("prod", model="m", valid_from=at(0, day=1))
        assert again.apply().days == (NEXT,)
        assert [row[0] for row in again.attributed()] == [None, 1]
        assert again.apply().days == ()


def _strip(world: World, table: str) -> None:
    """Put the table there as it was before attribution: without its columns and their statistics."""
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

    uri = Path(world.lake.uri(table))
    new = {"deployment_id", "model_id", "model_version", "attribution", "attribution_version"}
    handle = DeltaTable(str(uri))
    rows: pa.Table = handle.to_pyarrow_table()
    sequence = handle.transaction_version("inference_events")
    assert sequence is not None
    configuration: dict[str, str | None] = dict(handle.metadata().configuration)
    key = "delta.dataSkippingStatsColumns"
    configuration[key] = ",".join(n for n in str(configuration[key]).split(",") if n not in new)
    shutil.rmtree(uri)
    declared = world.lake.declaration(table).schema
    kept = pa.schema([field for field in declared if field.name not in new])
    DeltaTable.create(str(uri), schema=kept, partition_by=["day"], configuration=configuration)
    write_deltalake(
        str(uri), rows.select(kept.names).cast(kept), mode="append",
        commit_properties=CommitProperties(app_transactions=[Transaction("inference_events", sequence)]),
    )  # fmt: skip


# -- properties --------------------------------------------------------------------------------

_TEXT = st.text("ab*", min_size=1, max_size=6)


@given(_TEXT, _TEXT)
@example("a*", "*b")
@example("ab", "a*b*")
def test_patterns_meet_exactly_where_some_string_is_meant_by_both(one: str, other: str) -> None:
    from itertools import product

    def means(pattern: str) -> re.Pattern[str]:
        return re.compile(".*".join(map(re.escape, pattern.split("*"))))

    # The shortest string that both mean is no longer than all their letters.
    longest = len(one.replace("*", "")) + len(other.replace("*", ""))
    strings = ("".join(letters) for n in range(longest + 1) for letters in product("ab", repeat=n))
    met = any(means(one).fullmatch(s) and means(other).fullmatch(s) for s in strings)
    assert patterns_meet(one, other) == met == patterns_meet(other, one)


_hours = st.integers(0, 71)
_steps = st.one_of(
    st.tuples(
        st.just("rule"), st.sampled_from(["prod", "canary"]), st.sampled_from(["m", "m*", None]),
        st.sampled_from(["chat", "c*", None]), st.none() | _hours, st.none() | _hours, st.integers(0, 1),
    ),
    st.tuples(st.just("end"), st.integers(0, 3), _hours),
    st.tuples(st.just("remove"), st.integers(0, 3)),
    st.tuples(st.just("deploy"), st.sampled_from(["prod", "canary"]), st.integers(1, 2), _hours,
              st.sampled_from([0.0, 0.5, 1.0])),
    st.tuples(st.just("stop"), st.sampled_from(["prod", "canary"]), _hours),
    st.tuples(st.just("take"), st.lists(st.tuples(_hours, st.sampled_from(["m", "m2"]),
                                                  st.sampled_from(["chat", "other", None])), min_size=1, max_size=5)),
    st.tuples(st.just("apply")),
)  # fmt: skip


@settings(max_examples=examples(4, least=2), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(_steps, min_size=3, max_size=7))
@example([
    ("take", [(9, "m", "chat"), (9, "m", "other"), (30, "m2", None)]), ("apply",),
    ("rule", "prod", "m", None, 9, 31, 0), ("deploy", "canary", 2, 9, 0.5), ("deploy", "prod", 2, 10, 0.5),
    ("take", [(10, "m", "chat"), (9, "m", "chat")]), ("apply",), ("rule", "canary", None, "chat", None, None, 1),
    ("end", 0, 20),
])  # fmt: skip
def test_after_any_rules_and_late_files_rollups_are_those_of_a_rebuild(steps: list[tuple[Any, ...]]) -> None:
    with TemporaryDirectory() as root, opened(root) as world:
        world.versions("fraud")
        for name in ("prod", "canary"):
            world.deploy(name, "fraud@v1", at(0, day=-30), endpoint=name)
        taken: list[dict[str, object]] = []
        for step in [*steps, ("take", [(5, "m", "chat")])]:
            _do(world, step, taken)
        world.apply()
        tables = ("cost_rollup", "performance_rollup", "attribution_gaps")
        found = {table: rows_of(world.lake, table, ("sequence", "costs_version")) for table in tables}
        assert world.apply().days == ()
        columns = ("deployment_id", "model_version", "attribution")
        assert _counted(world.costs(*columns, "requests")) == _by_hand(world, taken)
        with world.lake.read("performance_rollup") as reading:
            rows = reading.query(
                "test", f"SELECT {', '.join(columns)}, requests FROM performance_rollup WHERE grain = 'day'"
            )
        assert _counted(tuple(row.values()) for row in rows.to_pylist()) == _by_hand(world, taken)
        for table in tables:
            shutil.rmtree(world.lake.uri(table))
        with opened_again(root) as rebuilt:
            rebuilt.apply()
            for table in tables:
                assert rows_of(rebuilt.lake, table, ("sequence", "costs_version")) == found[table]


def _do(world: World, step: tuple[Any, ...], taken: list[dict[str, object]]) -> None:
    """Take a step; what the door refuses is no step."""
    with suppress(RuleConflict, InvalidInput, IllegalTransition, NotFound):
        match step:
            case "rule", deployment, model, endpoint, start, end, priority:
                conditions = {"model": model, "endpoint": endpoint}
                since, until = (None if hour is None else at(hour) for hour in (start, end))
                world.attribution.add_rule(NewRule(deployment, conditions, priority, since, until))
            case "end", number, hour:
                world.attribution.end_rule(f"rule-{number + 1}", end=at(hour))
            case "remove", number:
                world.attribution.remove_rule(f"rule-{number + 1}")
            case "deploy", name, version, hour, share:
                world.deploy(name, f"fraud@v{version}", at(hour), traffic_share=share)
            case "stop", name, hour:
                world.tracker.end_deployment(name, end=at(hour))
            case "take", calls:
                made = [call(at(h, 30 if h % 2 else 0), model=m, endpoint=e) for h, m, e in calls]
                taken += made
                world.take(*made)
            case "apply", *_:
                world.apply()


def _by_hand(world: World, taken: list[dict[str, object]]) -> Counter[tuple[Any, ...]]:
    """Requests by deployment, version and attribution, one request after the other, by the words of the rules."""
    rules = world.attribution.rules()
    counted: Counter[tuple[Any, ...]] = Counter()
    for one in taken:
        when = one["event_ts"]
        assert isinstance(when, datetime)
        rule = next((r for r in rules if r.holds_at(when) and _covers(r.conditions, one)), None)
        if rule is None:
            counted[None, None, None] += 1
            continue
        serving = {d.deployment.id: d for d in world.tracker.deployments_on(when)}
        own = serving.get(rule.deployment_id)
        if own is None:
            counted[rule.deployment_id, None, "not_serving"] += 1
            continue
        beside = [
            d
            for i, d in serving.items()
            if i != rule.deployment_id and d.endpoint == own.endpoint and d.traffic_share
        ]
        ruled = {r.deployment_id for r in rules if r.holds_at(when)}
        known = sum(d.traffic_share for d in beside) + own.traffic_share >= 1 or not own.traffic_share
        if known and all(d.deployment.id in ruled for d in beside):
            counted[rule.deployment_id, int(own.version.rpartition("@v")[2]), "version"] += 1
        else:
            counted[rule.deployment_id, None, "ambiguous"] += 1
    return counted


def _covers(conditions: Mapping[str, str], one: Mapping[str, object]) -> bool:
    return all(
        one.get(name) is not None and re.fullmatch(wanted.replace("*", ".*"), str(one[name]))
        for name, wanted in conditions.items()
    )


def _counted(rows: Iterable[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    counted: Counter[tuple[Any, ...]] = Counter()
    for *key, requests in rows:
        counted[tuple(key)] += requests
    return counted
