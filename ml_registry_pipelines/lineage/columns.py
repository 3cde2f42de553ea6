"""Which way a column goes: through datasets that were made from it, to what learned from it.

An edge from a dataset version says what it carries on: `columns` lists the columns that were
used; `column_lineage` says for each column of the dataset that was made which ones it comes
from, `*` standing for all of it. An edge that says nothing carries everything on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ml_registry_pipelines.registry.errors import NotFound
from ml_registry_pipelines.registry.references import named
from ml_registry_pipelines.registry.relationships import Relationship, edges_at
from ml_registry_pipelines.registry.states import DATASET_VERSION, State
from ml_registry_pipelines.registry.view import View

EVERYTHING = "*"


@dataclass
class Carried:
    """Where a column leads by itself, with the way to each.

    `columns`: dataset versions that only some columns of are affected, and which.
    `wholes`: what is affected as a whole, from where a walk goes on.
    """

    columns: dict[str, set[str]] = field(default_factory=dict)
    wholes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ways: dict[str, tuple[str, ...]] = field(default_factory=dict)


def roots_with(
    view: View, dataset: State, versions: Sequence[str], column: str
) -> tuple[list[str], list[str]]:
    """Versions of a dataset that may hold a column, and things of kind column that stand for it.

    A version whose columns nobody told may hold any; so does one that an edge says it was read from.

    Raises:
        NotFound: the columns of all versions are known, none is that one, and no edge names it.
    """
    states = [s for s in view.by_any("things", "id", list(versions)) if s.entity_type == DATASET_VERSION]
    told = {s.id: {c["name"] for c in s.data["metadata"].get("columns") or ()} for s in states}
    lacking = [version for version, columns in told.items() if columns and column not in columns]
    named_by_edges = (
        {e.upstream[1] for e in edges_at(view, lacking) if column in _named(e)} if lacking else set()
    )
    holding = [s.id for s in states if s.id not in lacking or s.id in named_by_edges]
    nodes = [s.id for s in named(view, "column", f"{dataset.name}.{column}") if not s.deleted]
    if not holding and not nodes:
        raise NotFound("column", f"{dataset.name}.{column}", view.tenant)
    return holding, nodes


def carry(
    view: View, holding: Sequence[str], column: str, *, relations: set[str] | None, depth: int | None
) -> Carried:
    """Follow a column from the dataset versions that hold it, as far as edges say which columns they carry."""
    found = Carried()
    known: dict[str, set[str]] = {i: {column} for i in holding}
    ways: dict[str, tuple[str, ...]] = {i: (i,) for i in holding}
    frontier, level = dict(known), 0
    while frontier and (depth is None or level < depth):
        level += 1
        following: dict[str, set[str]] = {}
        for edge in edges_at(view, list(frontier)):
            up, down = edge.upstream[1], edge.downstream[1]
            if up not in frontier or (relations is not None and edge.type not in relations):
                continue
            carried = _carried(edge, known[up])
            if carried is None:
                found.wholes.setdefault(down, (*ways[up], down))
            elif new := carried - known.get(down, set()):
                known.setdefault(down, set()).update(new)
                ways.setdefault(down, (*ways[up], down))
                following.setdefault(down, set()).update(new)
        frontier = following
    found.columns = {i: columns for i, columns in known.items() if i not in holding}
    found.ways = ways
    return found


def _named(edge: Relationship) -> set[str]:
    """The columns that an edge says were used."""
    mapping = edge.properties.get("column_lineage")
    if isinstance(mapping, Mapping):
        return {str(name) for of in mapping.values() for name in of}
    return set(edge.properties.get("columns") or ())


def _carried(edge: Relationship, columns: set[str]) -> set[str] | None:
    """The columns that an edge carries on of some columns; None: it affects all that lies behind."""
    mapping = edge.properties.get("column_lineage")
    if isinstance(mapping, Mapping):
        hit = {str(out) for out, of in mapping.items() if columns & set(of)}
        return None if EVERYTHING in hit else hit
    used = edge.properties.get("columns")
    if not used or columns & set(used):
        return None
    return set()
