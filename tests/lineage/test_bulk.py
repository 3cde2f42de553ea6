"""Edges of bulk commands in the index: as long as they are in the tail, once they are folded, and once it is built."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage import index
from ml_registry_pipelines.lineage.index import index_of
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry import tail
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.errors import LineageCycle
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.relationships import NewEdge, Relationships
from ml_registry_pipelines.registry.things import NewThing, Things
from tests.examples import examples
from tests.lineage.test_graph import plain_walk
from tests.registry.conftest import ACTOR

NAMES = [str(n) for n in range(8)]
PAIRS = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES))
ACTS = st.one_of(
    st.tuples(st.just("relate"), PAIRS),
    st.tuples(st.just("many"), st.lists(PAIRS, min_size=1, max_size=12, unique=True)),
    st.tuples(st.just("many"), st.lists(PAIRS, min_size=1, max_size=12, unique=True)),
    st.tuples(st.just("unrelate"), st.integers(0, 20)),
    st.tuples(st.just("gone"), st.sampled_from(NAMES)),
    st.tuples(st.just("more"), st.integers(1, 6)),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("build"), st.none()),
)
_tenants = itertools.count(1)


def ticking() -> Iterator[datetime]:
    for second in itertools.count():
        yield datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=second)


@pytest.fixture
def small_log(tmp_path: Path) -> Iterator[Log]:
    """A log of small blocks, in which every event has an instant of its own."""
    clock = ticking()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail, "BLOCK", 7)
        patch.setattr(tail, "HEAVY", 25)
        with (
            Lake(str(tmp_path)) as lake,
            Log(lake, clock=lambda: next(clock)) as log,
        ):
            yield log


class Graph:
    """One tenant, and the plain account of it after every command, by instant."""

    def __init__(self, log: Log) -> None:
        self.log, self.tenant = log, f"bulk{next(_tenants)}"
        self.things = Things(log, actor=ACTOR, tenant=self.tenant)
        self.relationships = Relationships(log, actor=ACTOR, tenant=self.tenant)
        self.edges: set[tuple[str, str, str]] = set()
        self.gone: set[str] = set()
        self.known: dict[datetime, tuple[set[tuple[str, str, str]], set[str]]] = {}
        self.things.register_many("node", [NewThing(name) for name in NAMES])
        self.note()

    def note(self) -> None:
        number = self.log.head(self.tenant)[0]
        (event,) = self.log.events(self.tenant, [number])
        self.known[event.recorded_at] = (set(self.edges), set(self.gone))

    def draw(self, pairs: list[tuple[str, str]], *, one: bool) -> None:
        pairs = [pair for pair in pairs if not self.gone & set(pair)]
        if not pairs:
            return
        wanted = self.edges | {(a, b, "feeds") for a, b in pairs}
        ends = [NewEdge(("node", a), ("node", b)) for a, b in pairs]

        def act() -> None:
            if one:
                self.relationships.relate("feeds", ends[0].source, ends[0].target)
            else:
                self.relationships.relate_many("feeds", ends)

        if any(a in plain_walk(wanted, b, down=True, depth=None) for a, b in pairs):
            with pytest.raises(LineageCycle) as refused:
                act()
            circle = refused.value.path
            assert circle[0] == circle[-1]
            assert {(a, b, "feeds") for a, b in itertools.pairwise(circle)} <= wanted
        else:
            act()
            self.edges = wanted

    def do(self, act: str, what: object) -> None:
        match act, what:
            case "relate", (str(a), str(b)):
                self.draw([(a, b)], one=True)
            case "many", list(pairs):
                self.draw(pairs, one=False)
            case "unrelate", int(n) if self.edges:
                a, b, _ = edge = sorted(self.edges)[n % len(self.edges)]
                if not self.gone & {a, b}:
                    self.relationships.unrelate("feeds", ("node", a), ("node", b))
                    self.edges = self.edges - {edge}
            case "gone", str(name):
                if name in self.gone:
                    self.things.restore("node", name)
                else:
                    self.things.delete("node", name)
                self.gone = self.gone ^ {name}
            case "more", int(n):
                self.things.register_many("other", [NewThing(f"{len(self.known)}-{i}") for i in range(n)])
            case "settle", _:
                self.log.settle()
            case "build", _:
                index_of(self.log).build()
        self.note()

    def check(self, log: Log, start: str, as_of: datetime | None = None) -> None:
        edges, gone = (self.edges, self.gone) if as_of is None else self.known[as_of]
        if start in gone:
            return
        tracker = LineageTracker(log, actor=ACTOR, tenant=self.tenant)
        found = tracker.get_full_lineage("node", start, as_of=as_of)
        for reached, down in ((found.downstream, True), (found.upstream, False)):
            expected = plain_walk(edges, start, down=down, depth=None)
            assert {r.node.name: r.depth for r in reached} == {
                name: depth for name, depth in expected.items() if depth and name not in gone
            }


@settings(
    max_examples=examples(4, least=2),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(acts=st.lists(ACTS, min_size=4, max_size=14), many=st.sampled_from([1, 4, 2000]), data=st.data())
def test_whatever_is_drawn_singly_and_in_bulk_a_walk_sees_it_then_and_as_of_then(small_log, acts, many, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "MANY", many)
        graph = Graph(small_log)
        for act, what in acts:
            graph.do(act, what)
            graph.check(small_log, data.draw(st.sampled_from(NAMES)))
        for start in NAMES[::3]:
            for instant in [None, *list(graph.known)[::3]]:
                graph.check(small_log, start, instant)
        # And somebody else who opens the lake, with folding behind or not.
        with Log(small_log.lake) as other:
            for start in NAMES[1::3]:
                graph.check(other, start)


@pytest.mark.parametrize("many", [1, 2000])
def test_what_was_deleted_before_the_index_was_built_is_back_once_it_is_restored(
    small_log, monkeypatch, many
):
    monkeypatch.setattr(index, "MANY", many)
    graph = Graph(small_log)
    graph.do("many", [("0", "1"), ("1", "2")])
    graph.do("gone", "1")
    graph.do("more", 25)
    graph.do("settle", None)
    graph.do("build", None)
    graph.check(small_log, "0")
    graph.do("gone", "1")
    assert graph.gone == set()
    for instant in (None, *graph.known):
        graph.check(small_log, "0", instant)


@pytest.mark.soak
def test_thousands_of_edges_of_one_command_are_found_at_once_and_stay_after_folding_and_building(tmp_path):
    count = 2_500
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        things, relationships = Things(log, actor=ACTOR), Relationships(log, actor=ACTOR)
        nodes = [f"n{i}" for i in range(count + 1)]
        things.register_many("node", [NewThing(name) for name in nodes])
        index_of(log).stack(log.view("default"))
        relationships.relate_many("feeds", [NewEdge(("node", "n0"), ("node", name)) for name in nodes[1:]])
        drawn = relationships.list("node", "n1")[0].recorded_at
        for i in (1, 17, count):
            relationships.unrelate("feeds", ("node", "n0"), ("node", f"n{i}"))
        removed = relationships.log.events("default", [log.head("default")[0]])[0].recorded_at
        relationships.relate("feeds", ("node", "n2"), ("node", "n1"))
        with pytest.raises(LineageCycle):
            relationships.relate_many("feeds", [NewEdge(("node", "n1"), ("node", "n0"))])

        def check(on: Log) -> None:
            tracker = LineageTracker(on, actor=ACTOR)

            def below(as_of: datetime | None) -> dict[str, int]:
                found = tracker.get_full_lineage("node", "n0", as_of=as_of)
                return {r.node.name: r.depth for r in found.downstream}

            every = dict.fromkeys(nodes[1:], 1)
            left = {name: 1 for name in nodes[1:] if name not in {"n1", "n17", f"n{count}"}}
            assert below(drawn - timedelta(microseconds=1)) == {}
            assert below(drawn) == every
            assert below(removed) == left
            assert below(None) == {**left, "n1": 2}
            assert [r.node.name for r in tracker.get_full_lineage("node", "n17").upstream] == []

        assert lake.sequence("relationships", "governance_events") == 0, "folded already"
        check(log)
        things.register_many("other", [NewThing(f"o{i}") for i in range(10_000)])
        log.settle()
        assert lake.sequence("relationships", "governance_events") == 1
        check(log)
        built = index_of(log).build()
        assert (built.fresh, built.generation.until) == (True, log.view("default").tails[0].base)
        check(log)
        with Log(lake) as other:
            check(other)


@pytest.mark.parametrize("many", [index.MANY, 1], ids=["states", "rows"])
def test_what_a_thing_is_part_of_has_its_type_wherever_both_are_held(small_log, monkeypatch, many):
    monkeypatch.setattr(index, "MANY", many)
    things, tracker = Things(small_log, actor=ACTOR), LineageTracker(small_log, actor=ACTOR)
    team = things.register("team", "t")
    things.register_many("other", [NewThing(f"o{n}") for n in range(30)])
    small_log.settle()
    assert small_log.lake.sequence("things", "governance_events")

    def part(name: str) -> None:
        state = {**NewThing(name).recorded(), "parent_id": team.id}
        things.do("register_part", "part", state, lambda _: [Change("part", new_id(), state)])

    part("one")
    found = tracker.get_full_lineage("part", "one", types=["team"])
    assert [r.node.name for r in found.downstream] == ["t"]
    assert found.counts == {"team": 1}
