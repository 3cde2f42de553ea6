"""What the history of an asset should hold: events of the log as materializations and observations.

A dataset version is a materialization of its dataset, a model version one of its model and of
its own asset, a move of a deployment one of the deployment; what else becomes of a version is
an observation. Reporting them to Dagster is in `sensors/registry.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_registry_pipelines.lineage.catalogue import Entry
from ml_registry_pipelines.lineage.keys import Key, dataset_key, key_of
from ml_registry_pipelines.registry.events import Event
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.states import DATASET_VERSION, State, fold
from ml_registry_pipelines.registry.view import View


@dataclass(frozen=True)
class Report:
    """One thing that happened to one asset.

    Args:
        position: of the event in the log; what is reported for an asset only ever grows by it.
        run_id: Dagster run that brought it about, which may have said so itself.
        inputs: keys of the datasets that it was made from, with the digest of their version.
    """

    key: Key
    position: int
    run_id: str | None
    materialized: bool
    description: str
    facts: Mapping[str, Any]
    data_version: str | None = None
    code_version: str | None = None
    inputs: Mapping[Key, str] = field(default_factory=dict)


def reports(log: Log, event: Event, shown: Mapping[str, Entry], *, skip: int = 0) -> Iterator[Report | None]:
    """What an event means for the assets that are shown; None for each of its entities that means nothing.

    Args:
        shown: entries of the catalogue by id.
        skip: how many entities of a bulk event are done.
    """
    view = log.view(event.tenant)
    for number, state in enumerate(fold([event], log.bulk.read)):
        if number < skip:
            continue
        found: list[Report | None] = [*_of_state(view, state, event.run_id, shown)]
        yield from found or [None]


def _of_state(view: View, state: State, run_id: str | None, shown: Mapping[str, Entry]) -> Iterator[Report]:
    match state.entity_type:
        case "dataset_version":
            dataset = shown.get(str(state.data.get("parent_id")))
            if dataset is not None and _is_first(view, state):
                yield _dataset_version(state, run_id, dataset)
        case "model_version":
            yield from _model_version(view, state, run_id, shown)
        case "deployment":
            if (deployment := shown.get(state.id)) is not None:
                yield _deployment(view, state, run_id, deployment)


def _dataset_version(state: State, run_id: str | None, dataset: Entry) -> Report:
    seen = dict(state.data.get("metadata") or {})
    return Report(
        _key(dataset),
        state.position,
        run_id,
        True,
        f"Version {seen.get('number')} of dataset {dataset.name}",
        {
            "version": seen.get("number"),
            "dagster/row_count": seen.get("rows"),
            "columns": len(columns) if isinstance(columns := seen.get("columns"), list) else None,
            "digest": seen.get("digest"),
            "location": seen.get("location"),
        },
        data_version=str(seen.get("digest") or state.id),
    )


def _model_version(
    view: View, state: State, run_id: str | None, shown: Mapping[str, Entry]
) -> Iterator[Report]:
    data = state.data
    model, version = shown.get(str(data["model_id"])), shown.get(state.id)
    if model is None and version is None:
        return  # As most of a catalogue of thousands: not even its history is looked at.
    if _is_first(view, state):
        facts = {
            **_metrics(data),
            "version": data["version"],
            "size in bytes": data.get("size"),
            "framework": data.get("framework"),
            "content digest": data.get("content_digest"),
        }
        inputs = _inputs(view, data.get("trained_on", ()))
        for entry in (model, version):
            if entry is not None:
                yield Report(
                    _key(entry),
                    state.position,
                    run_id,
                    True,
                    f"Version {data['version']} of model {entry.name}",
                    facts,
                    data_version=str(data.get("content_digest") or state.id),
                    code_version=str(data.get("code_commit") or "none recorded"),
                    inputs=inputs,
                )
    elif version is not None:
        yield Report(
            _key(version),
            state.position,
            run_id,
            False,
            f"{state.action} by {state.actor}",
            {"stage": data["stage"], "action": state.action, "actor": state.actor},
        )


def _deployment(view: View, state: State, run_id: str | None, deployment: Entry) -> Report:
    served = dict(state.data.get("metadata") or {})
    version = view.by_id("model_versions", str(served.get("version_id")))
    number = version.data["version"] if version is not None else None
    status = str(state.data.get("status"))
    return Report(
        _key(deployment),
        state.position,
        run_id,
        True,
        f"{deployment.name} serves v{number}" if status == "live" else f"{deployment.name} is {status}",
        {
            "version": number,
            "traffic share": served.get("traffic_share"),
            "status": status,
            "actor": state.actor,
        },
        data_version=str(version.data["content_digest"]) if version is not None else None,
    )


def _metrics(data: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics under their own names, as floats, so that the UI plots them over versions."""
    own = {"version", "size in bytes", "framework", "content digest"}
    return {
        f"metric {name}" if name in own or name.startswith("dagster/") else name: float(value)
        for name, value in dict(data.get("metrics") or {}).items()
    }


def _inputs(view: View, trained_on: Sequence[str]) -> dict[Key, str]:
    """Of several versions of one dataset the newest counts, as in the question of staleness."""
    used = [s for s in view.by_any("things", "id", list(trained_on)) if s.entity_type == DATASET_VERSION]
    used.sort(
        key=lambda s: (isinstance(n := s.data["metadata"].get("number"), int), n if isinstance(n, int) else 0)
    )
    names = {
        s.id: s.name
        for s in view.by_any("things", "id", sorted({str(s.data.get("parent_id")) for s in used}))
    }
    return {
        dataset_key(state.tenant, names[str(state.data.get("parent_id"))]): str(
            state.data["metadata"].get("digest") or state.id
        )
        for state in used
        if str(state.data.get("parent_id")) in names
    }


def _is_first(view: View, state: State) -> bool:
    return view.history(state.table, state.id)[0].sequence == state.sequence


def _key(entry: Entry) -> Key:
    return key_of(entry.kind, entry.tenant, entry.name, number=entry.number, place=entry.place)
