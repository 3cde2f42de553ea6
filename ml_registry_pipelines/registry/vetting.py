"""Whether a history that others have written can be folded and read here: each state, and living names.

The chain says that nobody changed an event since it was written; here is looked at what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ml_registry_pipelines.registry.bulk import BulkFiles
from ml_registry_pipelines.registry.content import checked_sha256
from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.registry.events import BULK, Event
from ml_registry_pipelines.registry.relationships import relationship_of
from ml_registry_pipelines.registry.states import DATASET_VERSION, State, fold
from ml_registry_pipelines.registry.things import thing_of
from ml_registry_pipelines.registry.versions import version_of

_PARTS: Mapping[str, Mapping[str, type]] = {
    "things": {"tags": dict, "owners": list, "metadata": dict, "aliases": dict, "protected_aliases": list},
    "relationships": {"properties": dict},
    "model_versions": {
        "tags": dict,
        "content": dict,
        "artifacts": list,
        "metrics": dict,
        "parameters": dict,
        "trained_on": list,
        "evaluated_on": list,
    },
    "approvals": {},
}
"""Parts of a state that readers look into."""


class Vetting:
    """Takes a tenant's events in their order."""

    def __init__(self, bulk: BulkFiles) -> None:
        self._bulk = bulk
        self._living: dict[tuple[str, str], str] = {}
        self._names: dict[str, tuple[str, str]] = {}
        self.artifacts: set[str] = set()
        """Digests of what the versions are made of."""

    def take(self, event: Event) -> None:
        """Look at an event.

        Raises:
            RegistryError: it cannot be folded or read, or gives a name that something else has.
        """
        if event.entity_type == BULK:
            self._bulk.listed(event)  # Makes its rows, as folding does.
        for state in fold([event], self._bulk.read):
            try:
                self._check(state)
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as failure:
                raise InvalidInput(f"the state of {shown(state.id)} cannot be read: {failure!r}") from failure

    def _check(self, state: State) -> None:
        for name, type_ in _PARTS[state.table].items():
            if not isinstance(state.data.get(name, type_()), type_):
                raise InvalidInput(f"the {name} of {shown(state.id)} are no {type_.__name__}")
        match state.entity_type:
            case "model_version":
                version_of(state, "")
                for digest in content_digests(state):
                    self.artifacts.add(checked_sha256(digest))
            case "relationship":
                relationship_of(state)
            case _ if state.table == "things":
                thing_of(state)
                self._name(state)

    def _name(self, state: State) -> None:
        if state.entity_type == DATASET_VERSION:
            return  # It has the name of its dataset.
        if (before := self._names.pop(state.id, None)) is not None:
            del self._living[before]
        if not state.deleted:
            key = (state.entity_type, state.name)
            if self._living.setdefault(key, state.id) != state.id:
                raise InvalidInput(
                    f"there are two living things of kind {key[0]} with the name {shown(key[1])}"
                )
            self._names[state.id] = key


def content_digests(state: State) -> Iterable[str]:
    """Digests of what a version is made of."""
    return [str(state.data["content_digest"]), *(str(a["digest"]) for a in state.data["artifacts"])]
