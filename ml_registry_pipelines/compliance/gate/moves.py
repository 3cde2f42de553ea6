"""What a command would put live: found in its changes, whatever the command is called."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.registry.canonical import parse
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.events import BULK
from ml_registry_pipelines.registry.references import versions_of
from ml_registry_pipelines.registry.states import DEPLOYMENT, MODEL, MODEL_VERSION, State
from ml_registry_pipelines.registry.versions import Stage
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.policies.policy import Gates
    from ml_registry_pipelines.registry.log import Log

ROLLBACK = "rollback"
_LIVE = (MODEL, MODEL_VERSION, DEPLOYMENT)


class Place(Enum):
    PRODUCTION = "production"
    ALIAS = "alias"
    ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Move:
    """A version that would go live in a gated place. `version` None: the command names one that is not there."""

    place: Place
    name: str
    version_id: str
    version: State | None
    back: bool = False

    def says(self) -> str:
        return "production" if self.place is Place.PRODUCTION else f"{self.place.value} {self.name}"


def moves(log: Log, view: View, action: str, changes: Sequence[Change], gates: Gates) -> list[Move]:
    """What goes live by the changes and did not before, in places that the policy gates."""
    found: list[Move] = []
    for kind, identity, state in _states(log, changes):
        match kind:
            case "model_version" if gates.production:
                found += _into_production(view, action, identity, state)
            case "model":
                found += _aliases(view, identity, state, gates)
            case "deployment":
                found += _deployed(view, identity, state, gates)
    return found


def _into_production(view: View, action: str, identity: str, state: Mapping[str, Any]) -> Iterator[Move]:
    if state.get("stage") != Stage.PRODUCTION.value or state.get("deleted"):
        return
    before = view.by_id("model_versions", identity)
    there = before is not None and before.data["stage"] == Stage.PRODUCTION.value and not before.deleted
    if there and before is not None and _made_of(before.data) == _made_of(state):
        return
    # A version that is put there as it is made has no state yet that anything could be known of.
    yield Move(Place.PRODUCTION, "production", identity, before, back=action == ROLLBACK)


def _made_of(state: Mapping[str, Any]) -> tuple[Any, Any]:
    return state.get("content_digest"), sorted(str(a.get("digest")) for a in state.get("artifacts", ()))


def _aliases(view: View, identity: str, state: Mapping[str, Any], gates: Gates) -> Iterator[Move]:
    aliases = state.get("aliases") or {}
    if not aliases or state.get("deleted"):
        return
    before = view.by_id("things", identity)
    old = {} if before is None or before.deleted else before.data.get("aliases", {})
    changed = {alias: number for alias, number in aliases.items() if old.get(alias) != number}
    if not changed:
        return
    protected = set(state.get("protected_aliases", ()))
    if gates.protected_aliases:
        # Taking the protection back first would else be the way around.
        for past in view.history("things", identity):
            protected.update(past.data.get("protected_aliases", ()))
    versions = {int(s.data["version"]): s for s in versions_of(view, identity)}
    for alias, number in changed.items():
        if gates.gates_alias(alias) or (gates.protected_aliases and alias in protected):
            version = versions.get(int(number))
            yield Move(Place.ALIAS, alias, version.id if version else "", version)


def _deployed(view: View, identity: str, state: Mapping[str, Any], gates: Gates) -> Iterator[Move]:
    served = _served(state)
    if served is None or not gates.gates_environment(served[1]):
        return
    before = view.by_id("things", identity)
    if before is not None and not before.deleted and _served(before.data) == served:
        return
    yield Move(Place.ENVIRONMENT, served[1], served[0], view.by_id("model_versions", served[0]))


def _served(state: Mapping[str, Any]) -> tuple[str, str] | None:
    """Version and environment that a deployment serves; None where it serves nothing (any more)."""
    metadata = state.get("metadata") or {}
    version, environment = metadata.get("version_id"), metadata.get("environment")
    if state.get("deleted") or state.get("status") == "ended" or not version:
        return None
    return str(version), str(environment or "")


def _states(log: Log, changes: Sequence[Change]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for change in changes:
        if change.entity_type == BULK:
            yield from _listed(log, str(change.state["file"]))
        elif change.entity_type in _LIVE:
            yield change.entity_type, change.entity_id, change.state


def _listed(log: Log, file: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """What a bulk command says of models, versions and deployments: nothing, as a rule."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    data = io.BytesIO(log.bulk.bytes_of(file))
    kinds = pq.read_table(data, columns=["entity_type"])["entity_type"]
    live = pc.is_in(kinds, pa.array(_LIVE))
    if pc.any(live).as_py():
        data.seek(0)
        for row in pq.read_table(data).filter(live).to_pylist():
            yield row["entity_type"], row["entity_id"], parse(row["state"])
