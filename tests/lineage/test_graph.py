"""Walks over the index are compared with a plain walk over the states that the log holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.building import draft_of_states
from ml_registry_pipelines.lineage.index import LineageIndex
from ml_registry_pipelines.lineage.layers import Layer, open_layer, write
from ml_registry_pipelines.lineage.walking import Stack, follows
from ml_registry_pipelines.registry.errors import LineageCycle
from ml_registry_pipelines.registry.events import Event, to_arrow
from ml_registry_pipelines.registry.projections import PROJECTIONS, SOURCE
from ml_registry_pipelines.registry.relationships import Relationships, edge_id
from ml_registry_pipelines.registry.states import State, rows_of
from ml_registry_pipelines.registry.things import NewThing, Things
from tests.examples import examples
from tests.registry.conftest import ACTOR

NOW = datetime(2026, 3, 1, tzinfo=UTC)
QUIET = list(HealthCheck)
UNSHRUNK = [Phase.explicit, Phase.reuse, Phase.generate]
# Ids as the registry makes them, with equal first halves, and ones that were never made by it.
IDS = [f"{n % 3:016x}{n:016x}" for n in range(5)] + ["plain", "Ünïcode / id", "A" * 32]
TYPES = ["dataset_version", "feature", "deployment"]
RELATIONS = ["feeds", "derived_from"]


@dataclass(frozen=True)
class Step:
    """One state that an event begins, of one tenant."""

    tenant: str
    kind: str
    first: str
    second: str
    relation: str
    forward: bool
    deleted: bool


def type_of(entity: str) -> str:
    return TYPES[IDS.index(entity) % len(TYPES)]


def states_of(steps: Sequence[Step]) -> list[State]:
    """The states, numbered as the log would."""
    found, sequences = [], dict.fromkeys(("a", "b"), 0)
    for position, step in enumerate(steps, start=1):
        sequences[step.tenant] += 1
        if step.kind == "relationship":
            entity = edge_id(step.relation, step.first, step.second)
            data: dict[str, object] = {
                "type": step.relation,
                "source_type": type_of(step.first),
                "source_id": step.first,
                "target_type": type_of(step.second),
                "target_id": step.second,
                "flow": "to_target" if step.forward else "to_source",
                "properties": {},
                "deleted": step.deleted,
            }
        else:
            entity = step.first
            # What a thing is part of never changes.
            parent = IDS[(IDS.index(step.first) + 1) % len(IDS)]
            data = {"name": entity, "parent_id": parent, "deleted": step.deleted}
        kind = step.kind if step.kind == "relationship" else type_of(step.first)
        text = json.dumps(data)
        found.append(
            State(step.tenant, kind, entity, sequences[step.tenant], position, NOW, NOW, "p", "do", text)
        )
    return found


def edges_at(states: Iterable[State], tenant: str, at: int | None) -> set[tuple[str, str, str]]:
    """Up, down and relation of what holds: the newest state of each edge, the plain way."""
    newest: dict[str, State] = {}
    for state in states:
        if state.tenant == tenant and (at is None or state.sequence <= at):
            newest[state.id] = state
    found = set()
    for state in newest.values():
        data = state.data
        if state.deleted:
            continue
        if state.entity_type == "relationship":
            ends = (data["source_id"], data["target_id"])
            found.add((*(ends if data["flow"] == "to_target" else ends[::-1]), data["type"]))
        else:
            found.add((state.id, data["parent_id"], "part_of"))
    return found


def plain_walk(
    edges: set[tuple[str, str, str]], start: str, *, down: bool, depth: int | None
) -> dict[str, int]:
    """Distance of everything that lies up or down."""
    pairs = {(up, to) if down else (to, up) for up, to, _ in edges}
    found, frontier, level = {start: 0}, {start}, 0
    while frontier and (depth is None or level < depth):
        level += 1
        frontier = {b for a, b in pairs if a in frontier} - found.keys()
        found.update(dict.fromkeys(frontier, level))
    return found


def compare(stack: Stack, states: Sequence[State], *, depths: Sequence[int | None] = (None, 2)) -> None:
    """Every walk from every entity, now and as of some events, with and without a filter."""
    for tenant in ("a", "b"):
        last = max((s.sequence for s in states if s.tenant == tenant), default=0)
        for at in {None, last, last // 2, 1}:
            held = edges_at(states, tenant, at)
            for start in IDS:
                root = stack.numbers(tenant, [start])
                for down in (True, False):
                    for depth in depths:
                        for relations in (None, ["feeds", "part_of"]):
                            edges = {e for e in held if relations is None or e[2] in relations}
                            found = stack.walk(
                                root[root >= 0],
                                down=down,
                                at=at,
                                depth=depth,
                                kinds=follows(stack.kinds, relations),
                            )
                            reached = dict(zip(stack.ids(found.nodes), found.depths.tolist(), strict=True))
                            expected = plain_walk(edges, start, down=down, depth=depth)
                            assert {start: 0, **reached} == expected
                            check_ways(stack, found, edges, down=down)


def check_ways(stack, found, edges, *, down: bool) -> None:
    pairs = {(up, to) if down else (to, up) for up, to, _ in edges}
    for node, depth in zip(found.nodes.tolist(), found.depths.tolist(), strict=True):
        way = stack.ids(np.array(found.way(node)))
        assert len(way) == depth + 1
        assert all(pair in pairs for pair in pairwise(way))
    near, far = stack.ids(found.near), stack.ids(found.far)
    relations = [stack.kinds[k].relation for k in found.kinds.tolist()]
    gone_along = list(zip(near, far, relations, strict=True))
    assert len(set(gone_along)) == len(gone_along)
    assert {((a, b) if down else (b, a)) + (r,) for a, b, r in gone_along} <= edges


STEPS = st.builds(
    Step,
    tenant=st.sampled_from(["a", "a", "a", "b"]),
    kind=st.sampled_from(["relationship", "relationship", "relationship", "thing"]),
    first=st.sampled_from(IDS),
    second=st.sampled_from(IDS),
    relation=st.sampled_from(RELATIONS),
    forward=st.just(True),
    deleted=st.sampled_from([False, False, True]),
).map(lambda s: Step(**{**vars(s), "forward": s.relation == "feeds"}))


def cut(states: Sequence[State], cuts: Sequence[int]) -> list[Sequence[State]]:
    places = [0, *sorted(cuts), len(states)]
    return [states[a:b] for a, b in pairwise(places)]


@settings(max_examples=examples(25), deadline=None, suppress_health_check=QUIET, phases=UNSHRUNK)
@given(steps=st.lists(STEPS, max_size=30), cuts=st.lists(st.integers(0, 30), max_size=3))
def test_layers_however_they_are_cut_give_what_a_plain_walk_gives(steps, cuts, tmp_path_factory):
    states = states_of(steps)
    layers: list[Layer] = []
    for n, part in enumerate(cut(states, [min(c, len(states)) for c in cuts])):
        until = part[-1].position if part else (layers[-1].until if layers else 0)
        layer = draft_of_states(part, layers, after=0, until=until).layer()
        if n % 2 == 0:
            path = tmp_path_factory.mktemp("layer") / "x.layer"
            layer = open_layer(path, write(layer, path)[1])
        layers.append(layer)
    compare(Stack(layers), states)


def last_event(block: int, position: int) -> Event:
    """The event at the end of a block, about something that no edge touches."""
    return Event(
        "z", block, f"e{block}", f"c{block}", 1, 1, NOW, NOW, NOW, "p", "person", "test", "do", "thing", "x",
        json.dumps({"change": {}, "state": {}}), None, None, "", f"{block:064x}", position, block,
    )  # fmt: skip


def land(lake: Lake, states: Sequence[State], block: int, end: int) -> None:
    """States as one block of the projections, whose last event has position `end` in the log."""
    version = lake.snapshot("governance_events").version()
    lake.append_expecting("governance_events", to_arrow([last_event(block, end)]), version=version)
    for table in PROJECTIONS:
        if table == "idempotency_keys":
            rows = Lake.declaration(table).empty()
        else:
            rows = rows_of(table, [s for s in states if s.table == table])
        lake.append_once(table, rows, source=SOURCE, sequence=block)


@settings(max_examples=examples(8, least=3), deadline=None, suppress_health_check=QUIET, phases=UNSHRUNK)
@given(
    steps=st.lists(STEPS, min_size=4, max_size=30),
    cuts=st.lists(st.integers(0, 30), min_size=2, max_size=2),
    whole=st.booleans(),
)
def test_an_index_built_piece_by_piece_or_whole_gives_what_a_plain_walk_gives(
    steps, cuts, whole, tmp_path_factory
):
    placed: list[State] = []
    end = 0
    parts = cut(states_of(steps), [min(c, len(steps)) for c in cuts])
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake:
        for block, part in enumerate(parts, start=1):
            moved = [replace(s, position=end + n + 1) for n, s in enumerate(part)]
            placed += moved
            # Blocks are of any length.
            end += len(moved) + 1
            land(lake, moved, block, end)
            if block != 2:
                # The second block is built together with the third.
                built = LineageIndex(lake).build(whole=whole and block == 3)
                assert built.generation.until == end
        index = LineageIndex(lake)
        stack = Stack(index._layers())
        compare(stack, placed, depths=(None,))


@settings(max_examples=examples(12), deadline=None, suppress_health_check=QUIET, phases=UNSHRUNK)
@given(
    wanted=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=10),
    data=st.data(),
)
def test_a_walk_sees_every_write_and_no_circle_is_ever_drawn(log, wanted, data):
    from ml_registry_pipelines.lineage.tracker import LineageTracker
    from tests.registry.conftest import _numbers

    tenant = f"g{next(_numbers)}"
    things = Things(log, actor=ACTOR, tenant=tenant)
    relationships = Relationships(log, actor=ACTOR, tenant=tenant)
    tracker = LineageTracker(log, actor=ACTOR, tenant=tenant)
    things.register_many("node", [NewThing(str(n)) for n in range(7)])
    drawn: set[tuple[str, str, str]] = set()

    def below(start: str) -> dict[str, int]:
        return plain_walk(drawn, start, down=True, depth=None)

    for a, b in (map(str, pair) for pair in wanted):
        if a in below(b):
            with pytest.raises(LineageCycle) as refused:
                relationships.relate("feeds", ("node", a), ("node", b))
            assert refused.value.path[0] == refused.value.path[-1] == a
        else:
            relationships.relate("feeds", ("node", a), ("node", b))
            drawn.add((a, b, "feeds"))
    if drawn and data.draw(st.booleans()):
        a, b, _ = data.draw(st.sampled_from(sorted(drawn)))
        relationships.unrelate("feeds", ("node", a), ("node", b))
        drawn.discard((a, b, "feeds"))
    for start in map(str, range(7)):
        found = tracker.get_full_lineage("node", start)
        assert {start: 0, **{r.node.name: r.depth for r in found.downstream}} == below(start)
        up = plain_walk(drawn, start, down=False, depth=None)
        assert {start: 0, **{r.node.name: r.depth for r in found.upstream}} == up


def test_an_edge_may_be_drawn_the_other_way_after_it_was_removed(log, tenant):
    from ml_registry_pipelines.lineage.tracker import LineageTracker
    from ml_registry_pipelines.registry.relationships import Flow

    things = Things(log, actor=ACTOR, tenant=tenant)
    relationships = Relationships(log, actor=ACTOR, tenant=tenant)
    for name in ("x", "y"):
        things.register("node", name)
    relationships.relate("links", ("node", "x"), ("node", "y"), flow=Flow.TO_TARGET)
    with pytest.raises(LineageCycle):
        relationships.relate("links", ("node", "x"), ("node", "y"), flow=Flow.TO_SOURCE)
    relationships.unrelate("links", ("node", "x"), ("node", "y"))
    relationships.relate("links", ("node", "x"), ("node", "y"), flow=Flow.TO_SOURCE)
    tracker = LineageTracker(log, actor=ACTOR, tenant=tenant)
    found = tracker.get_full_lineage("node", "x")
    assert ([r.node.name for r in found.upstream], found.downstream) == (["y"], ())
