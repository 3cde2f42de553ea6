"""What a version learned from, to any depth: its data, what they were made from, its base models and theirs.

Columns go as far as edges say which ones they carry on (`lineage/columns.py`); an edge that says nothing
carries everything. What a version was only evaluated on taught it nothing, nor did what lies behind that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.gdpr.measuring import view_of
from ml_registry_pipelines.lineage.columns import EVERYTHING
from ml_registry_pipelines.registry.relationships import Relationship, edges_at, label
from ml_registry_pipelines.registry.states import DATASET_VERSION, MODEL_VERSION, State

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.metrics import Context
    from ml_registry_pipelines.registry.view import View

EVALUATED_ON = "evaluated_on"
_TEACHES = frozenset({DATASET_VERSION, MODEL_VERSION})


@dataclass(frozen=True)
class Learned:
    """A version of a dataset that the subject learned from.

    Attributes:
        dataset: name of the dataset.
        used: columns that were read of it; None: it may have been all.
        learners: ids of the model versions that were trained on it, or on what was made from it: the subject,
            or a base model of it.
        sources: ids of the versions that it was made from; none: it was collected as it is.
        straight: whether the subject or a base model of it was trained on it itself.
        through: what was made from it, on the way to the subject; empty: the subject was trained on it.
    """

    dataset: str
    version: State
    used: frozenset[str] | None
    learners: frozenset[str]
    sources: frozenset[str]
    straight: bool
    through: str


@dataclass(frozen=True)
class _Known:
    """What is known of a node so far; it only grows."""

    used: frozenset[str] | None
    learners: frozenset[str]

    def joined(self, other: _Known) -> _Known:
        used = None if self.used is None or other.used is None else self.used | other.used
        return _Known(used, self.learners | other.learners)


def learned_from(context: Context) -> list[Learned]:
    """All versions of datasets that the subject learned from, those that it was trained on first."""
    key = "gdpr learned from"
    if key not in context.memo:
        assert context.subject is not None
        context.memo[key] = _walk(view_of(context), context.subject.version_id)
    found: list[Learned] = context.memo[key]
    return found


def _walk(view: View, subject: str) -> list[Learned]:
    known: dict[str, _Known] = {subject: _Known(None, frozenset({subject}))}
    towards: dict[str, str] = {}
    made_from: dict[str, set[str]] = {}
    straight: set[str] = set()
    frontier = {subject}
    while frontier:
        following: set[str] = set()
        for edge in sorted(edges_at(view, sorted(frontier)), key=lambda edge: edge.id):
            (kind, up), (taught, down) = edge.upstream, edge.downstream
            if down not in frontier or kind not in _TEACHES or edge.type == EVALUATED_ON:
                continue
            used = _read(edge, known[down].used)
            if used is not None and not used:
                continue
            learners = frozenset({up}) if kind == MODEL_VERSION else known[down].learners
            given = _Known(used, learners)
            before = known.get(up)
            new = given if before is None else before.joined(given)
            made_from.setdefault(down, set()).add(up)
            if taught == MODEL_VERSION:
                straight.add(up)
            if new != before:
                known[up] = new
                towards.setdefault(up, down)
                following.add(up)
        frontier = following
    found = []
    for node, of in known.items():
        state = view.by_id("things", node) if node != subject else None
        if state is None or state.entity_type != DATASET_VERSION:
            continue
        parent = view.by_id("things", str(state.data["parent_id"]))
        if parent is not None:
            through = "" if towards[node] == subject else label(view, towards[node])
            sources = frozenset(made_from.get(node, ()))
            found.append(
                Learned(parent.name, state, of.used, of.learners, sources, node in straight, through)
            )
    return found


def _read(edge: Relationship, wanted: frozenset[str] | None) -> frozenset[str] | None:
    """The columns that an edge reads, for some columns of what it leads to (None: all); None: all of them."""
    mapping = edge.properties.get("column_lineage")
    if isinstance(mapping, Mapping):
        read = {
            str(name)
            for out, names in mapping.items()
            if wanted is None or out == EVERYTHING or out in wanted
            for name in names
        }
        return None if EVERYTHING in read else frozenset(read)
    columns = edge.properties.get("columns")
    # As `lineage/columns.py` has it: an empty list says nothing.
    return frozenset(map(str, columns)) if columns else None
