"""Walks over random graphs are compared with the plain closure of the same edges."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from ml_registry_pipelines.lineage.graph import walk
from ml_registry_pipelines.registry.errors import LineageCycle
from tests.registry.conftest import ACTOR

NODES = 7


def closure(edges: set[tuple[int, int]], start: int) -> dict[int, int]:
    """Distance of everything downstream."""
    found, frontier, depth = {start: 0}, {start}, 0
    while frontier:
        depth += 1
        frontier = {b for a, b in edges if a in frontier} - found.keys()
        found.update(dict.fromkeys(frontier, depth))
    return {node: d for node, d in found.items() if d}


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    wanted=st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=10),
    data=st.data(),
)
def test_a_walk_finds_everything_at_its_distance_and_no_circle_is_ever_drawn(log, wanted, data):
    from ml_registry_pipelines.registry.relationships import Relationships
    from ml_registry_pipelines.registry.things import NewThing, Things
    from tests.registry.conftest import _numbers

    tenant = f"g{next(_numbers)}"
    things = Things(log, actor=ACTOR, tenant=tenant)
    relationships = Relationships(log, actor=ACTOR, tenant=tenant)
    things.register_many("node", [NewThing(str(n)) for n in range(NODES)])
    drawn: set[tuple[int, int]] = set()
    for a, b in wanted:
        try:
            relationships.relate("feeds", ("node", str(a)), ("node", str(b)))
            assert a != b
            assert a not in closure(drawn, b)
            drawn.add((a, b))
        except LineageCycle:
            assert a == b or a in closure(drawn, b)
    if drawn and data.draw(st.booleans()):
        a, b = data.draw(st.sampled_from(sorted(drawn)))
        relationships.unrelate("feeds", ("node", str(a)), ("node", str(b)))
        drawn.discard((a, b))
    view = log.view(tenant)
    ids = {t.name: t.id for t in things.find("node")}
    for start in range(NODES):
        down = walk(view, [ids[str(start)]], down=True)
        assert {int(r.node.name): r.depth for r in down.reached} == closure(drawn, start)
        assert all(len(r.path) == r.depth + 1 for r in down.reached)
        up = walk(view, [ids[str(start)]], down=False)
        assert {int(r.node.name): r.depth for r in up.reached} == closure({(b, a) for a, b in drawn}, start)
