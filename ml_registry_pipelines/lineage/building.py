"""A handful of states as the draft of a layer.

Edges are those of `relationships`, and from every version to what it is a version of. Many
states go by `table_drafts.py`, which gives the same; where layers are published is in `index.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ml_registry_pipelines.lineage.drafts import (
    IMPLIED,
    Draft,
    extended_kinds,
    gone_records,
    numbers,
    sequence_type,
    spans,
)
from ml_registry_pipelines.lineage.layers import (
    Kind,
    Layer,
    bits_of,
    extended,
    is_plain,
    words,
)
from ml_registry_pipelines.registry.states import (
    DATASET,
    DATASET_VERSION,
    MODEL,
    MODEL_VERSION,
    State,
)


class Drawn(NamedTuple):
    """One state of one edge."""

    tenant: str
    kind: Kind
    up: tuple[str, str]
    down: tuple[str, str]
    sequence: int
    dead: bool


def drawn(state: State, type_of: Mapping[tuple[str, str], str]) -> Drawn | None:
    """The edge that a state is about; `type_of` gives the type of an entity by tenant and id."""
    data = state.data
    match state.table:
        case "relationships":
            forward = data["flow"] == "to_target"
            ends = (data["source_type"], data["source_id"]), (data["target_type"], data["target_id"])
            kind = Kind(data["type"], forward, False)
            up, down = ends if forward else ends[::-1]
            return Drawn(state.tenant, kind, up, down, state.sequence, state.deleted)
        case "model_versions":
            whole = (MODEL, data["model_id"])
            part = (MODEL_VERSION, state.id)
            return Drawn(state.tenant, IMPLIED, part, whole, state.sequence, state.deleted)
        case "things" if data.get("parent_id") is not None:
            parent = data["parent_id"]
            kind_of = (
                DATASET if state.entity_type == DATASET_VERSION else type_of.get((state.tenant, parent), "")
            )
            part = (state.entity_type, state.id)
            return Drawn(state.tenant, IMPLIED, part, (kind_of, parent), state.sequence, state.deleted)
    return None


def draft_of_states(
    states: Iterable[State], below: Sequence[Layer], *, after: int, until: int, wholes: Iterable[State] = ()
) -> Draft:
    """A draft of what states, in the order of the log, say beside the layers below.

    `wholes`: older states of what they are part of, since layers below know nothing without an edge.
    """
    given = list(states)
    type_of = {(s.tenant, s.id): s.entity_type for s in (*wholes, *given) if s.table == "things"}
    edges = [d for d in (drawn(s, type_of) for s in given) if d is not None]
    top = below[-1] if below else None
    base = top.size if top else 0
    ends: dict[tuple[str, str], str] = {}
    for edge in edges:
        for type_, entity in (edge.up, edge.down):
            if not ends.get((edge.tenant, entity)):
                ends[edge.tenant, entity] = type_
    place: dict[tuple[str, str], int] = {}
    new: list[tuple[str, int, str]] = []
    for tenant in sorted({tenant for tenant, _ in ends}):
        ids = [entity for t, entity in ends if t == tenant]
        for entity, number in zip(ids, numbers(below, tenant, *words(ids)).tolist(), strict=True):
            if number >= 0:
                place[tenant, entity] = number
            else:
                new.append((tenant, bits_of(entity), entity))
    new.sort()
    for n, (tenant, _, entity) in enumerate(new):
        place[tenant, entity] = base + n
    type_names = extended(top.type_names if top else (), ends.values())
    kinds = extended_kinds(top.kinds if top else (), {edge.kind for edge in edges})
    code, kind_code = {n: i for i, n in enumerate(type_names)}, {k: i for i, k in enumerate(kinds)}
    high, low = words(entity for _, _, entity in new)
    newest = max((s.sequence for s in given), default=0)
    dtype = sequence_type(newest) if not below else below[0].down.since.dtype
    gone = [(s.tenant, s.id, s.sequence, s.deleted) for s in given if s.table in {"things", "model_versions"}]
    return Draft(
        after,
        until,
        top,
        high,
        low,
        np.array([code[ends[t, i]] for t, _, i in new], np.uint16),
        spans([t for t, _, _ in new], base),
        type_names,
        kinds,
        {n: i for n, (_, _, i) in enumerate(new) if not is_plain(i)},
        np.array([place[e.tenant, e.up[1]] for e in edges], np.uint32),
        np.array([place[e.tenant, e.down[1]] for e in edges], np.uint32),
        np.array([kind_code[e.kind] for e in edges], np.uint16),
        np.array([e.sequence for e in edges], dtype),
        np.array([e.dead for e in edges], bool),
        gone_records(gone, below, place, dtype),
    )
