"""The graph of a tenant as OpenLineage events: one completed run per entity, upstream before downstream.

Others see jobs that read and write datasets. Our own facets say what each dataset stands for,
so that an import gives the same graph again: `mlreg_entity` on outputs, `mlreg_relationships`
on inputs. Both are described in `docs/lineage.md`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from ml_registry_pipelines.lineage.openlineage.events import ENTITY, RELATIONSHIPS, SPEC
from ml_registry_pipelines.registry.relationships import Relationship, relationship_of
from ml_registry_pipelines.registry.states import DATASET_VERSION, MODEL_VERSION, State
from ml_registry_pipelines.registry.view import View

PRODUCER = "https://pypi.org/project/ml-registry-pipelines"
FACETS = f"{PRODUCER}#lineage-facets"
SPACE = uuid.UUID("6f1d7a52-5d3e-5c1c-9b4e-2f7c1f0f6a11")
"""Names of runs are made from ids of entities in this space, so that an export repeats them."""


def events_of(view: View, ids: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The events of a tenant's whole graph, or of some entities and the edges between them."""
    states = {
        s.id: s
        for table in ("things", "model_versions")
        for s in (
            view.select(f"lineage.export_{table}", table, "NOT deleted")
            if ids is None
            else view.by_any(table, "id", ids)
        )
        if not s.deleted
    }
    drawn = (
        view.select("lineage.export_edges", "relationships", "NOT deleted")
        if ids is None
        else [s for s in view.by_any("relationships", "source_id", ids) if not s.deleted]
    )
    edges = [r for r in map(relationship_of, drawn) if r.source_id in states and r.target_id in states]
    into: dict[str, list[Relationship]] = {i: [] for i in states}
    before: dict[str, set[str]] = {i: set() for i in states}
    for relationship in edges:
        into[relationship.downstream[1]].append(relationship)
        before[relationship.downstream[1]].add(relationship.upstream[1])
    # What they are part of comes with them, and first; it need not be among those asked for.
    wholes = {i: _whole(s) for i, s in states.items()}
    missing = sorted({w for w in wholes.values() if w is not None} - states.keys())
    for state in view.by_any("things", "id", missing):
        states[state.id], into[state.id], before[state.id] = state, [], set()
    for entity in _in_order(states, before, wholes):
        yield _event(view, states, entity, into[entity], wholes.get(entity))


def _in_order(
    states: Mapping[str, State], before: Mapping[str, set[str]], wholes: Mapping[str, str | None]
) -> list[str]:
    """Upstream and wholes first, else by id, so that equal graphs give equal files."""
    sorter = TopologicalSorter(dict.fromkeys(sorted(states), ()))
    for entity in sorted(states):
        whole = wholes.get(entity)
        sorter.add(
            entity, *sorted(before[entity]), *([whole] if whole is not None and whole in states else [])
        )
    try:
        return list(sorter.static_order())
    except CycleError:
        # A model may depend on what its version made: then wholes, which are never versions, come first.
        return sorted(states, key=lambda i: (wholes.get(i) is not None, states[i].sequence, i))


def _whole(state: State) -> str | None:
    found = state.data.get("model_id") if state.entity_type == MODEL_VERSION else state.data.get("parent_id")
    return None if found is None else str(found)


def _event(
    view: View, states: Mapping[str, State], entity: str, into: Sequence[Relationship], whole: str | None
) -> dict[str, Any]:
    state = states[entity]
    facet: dict[str, Any] = {**_base(), **_named(states, entity), "state": dict(state.data)}
    if whole in states:
        facet["part_of"] = _named(states, str(whole))
    by_input: dict[str, list[Relationship]] = {}
    for relationship in sorted(into, key=lambda r: r.id):
        by_input.setdefault(relationship.upstream[1], []).append(relationship)
    return {
        "eventType": "COMPLETE",
        "eventTime": state.recorded_at.isoformat(),
        "producer": PRODUCER,
        "schemaURL": f"{SPEC}#/$defs/RunEvent",
        "run": {"runId": str(uuid.uuid5(SPACE, f"{view.tenant}/{entity}"))},
        "job": {
            "namespace": f"mlreg://{view.tenant}",
            "name": f"{state.entity_type}/{_name(states, entity)}",
        },
        "inputs": [
            {
                **_dataset(view, states, up),
                "inputFacets": {
                    RELATIONSHIPS: {**_base(), "relationships": [_relationship(states, r) for r in drawn]}
                },
            }
            for up, drawn in by_input.items()
        ],
        "outputs": [_dataset(view, states, entity, facet=facet, into=into)],
    }


def _dataset(
    view: View,
    states: Mapping[str, State],
    entity: str,
    *,
    facet: Mapping[str, Any] | None = None,
    into: Sequence[Relationship] = (),
) -> dict[str, Any]:
    """An entity as a dataset: under the name that OpenLineage knows it by, where it came from there."""
    state = states[entity]
    namespace, name = f"mlreg://{view.tenant}", f"{state.entity_type}/{_name(states, entity)}"
    facets: dict[str, Any] = {} if facet is None else {ENTITY: dict(facet)}
    metadata = state.data.get("metadata", {})
    if state.entity_type == DATASET_VERSION:
        told = metadata.get("openlineage") or {}
        whole = states.get(str(state.data["parent_id"]))
        name = f"dataset/{whole.name}" if whole else name
        namespace, name = told.get("namespace", namespace), told.get("name", name)
        said = told.get("version") or f"v{metadata['number']}"
        facets["version"] = {
            "_producer": PRODUCER,
            "_schemaURL": "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json",
            "datasetVersion": str(said),
        }
        if metadata.get("columns"):
            facets["schema"] = {
                "_producer": PRODUCER,
                "_schemaURL": "https://openlineage.io/spec/facets/1-1-1/SchemaDatasetFacet.json",
                "fields": [{"name": c["name"], "type": c["type"]} for c in metadata["columns"]],
            }
        if lineage := _column_lineage(view, states, into):
            facets["columnLineage"] = lineage
    elif state.entity_type == MODEL_VERSION:
        model = states[str(state.data["model_id"])]
        name = f"model/{model.name}"
        facets["version"] = {
            "_producer": PRODUCER,
            "_schemaURL": "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json",
            "datasetVersion": f"v{state.data['version']}",
        }
    return {"namespace": namespace, "name": name, "facets": facets}


def _column_lineage(
    view: View, states: Mapping[str, State], into: Sequence[Relationship]
) -> dict[str, Any] | None:
    fields: dict[str, list[dict[str, str]]] = {}
    for relationship in sorted(into, key=lambda r: r.id):
        mapping = relationship.properties.get("column_lineage")
        if not isinstance(mapping, Mapping):
            continue
        source = _dataset(view, states, relationship.upstream[1])
        for column, used in mapping.items():
            fields.setdefault(str(column), []).extend(
                {"namespace": source["namespace"], "name": source["name"], "field": str(f)} for f in used
            )
    if not fields:
        return None
    whole = fields.pop("*", [])
    return {
        "_producer": PRODUCER,
        "_schemaURL": "https://openlineage.io/spec/facets/1-2-0/ColumnLineageDatasetFacet.json",
        "fields": {column: {"inputFields": used} for column, used in sorted(fields.items())},
        **({"dataset": whole} if whole else {}),
    }


def _relationship(states: Mapping[str, State], relationship: Relationship) -> dict[str, Any]:
    return {
        "type": relationship.type,
        "flow": relationship.flow.value,
        "source": _named(states, relationship.source_id),
        "target": _named(states, relationship.target_id),
        "properties": dict(relationship.properties),
    }


def _named(states: Mapping[str, State], entity: str) -> dict[str, str]:
    return {"id": entity, "type": states[entity].entity_type, "name": _name(states, entity)}


def _name(states: Mapping[str, State], entity: str) -> str:
    state = states[entity]
    if state.entity_type != MODEL_VERSION:
        return state.name
    model = states.get(str(state.data["model_id"]))
    return f"{model.name if model else state.data['model_id']}@v{state.data['version']}"


def _base() -> dict[str, str]:
    return {"_producer": PRODUCER, "_schemaURL": FACETS}
