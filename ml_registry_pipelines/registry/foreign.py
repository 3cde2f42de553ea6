"""Versions that another registry has numbered: recorded under the number that they have there.

Gaps in the numbers stay gaps, and a number that is taken is never given twice. The next
version of our own follows the highest. What is read from which registry, and how, is in
the room `exchange`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ml_registry_pipelines.registry.artifacts import Stored
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk
from ml_registry_pipelines.registry.errors import InvalidInput, ModelIsDeprecated, shown
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.names import TagValue, checked_kind, checked_text, typed_tags
from ml_registry_pipelines.registry.references import (
    dataset_version_name,
    dataset_versions_of,
    living,
    named,
    versions_of,
)
from ml_registry_pipelines.registry.relationships import edge
from ml_registry_pipelines.registry.states import DATASET, DATASET_VERSION, MODEL, MODEL_VERSION, State
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import Stage, VersionFacts
from ml_registry_pipelines.registry.view import View

MAX_NUMBER = 2**53
TRAINED_ON, EVALUATED_ON = "trained_on", "evaluated_on"


class NumberTaken(InvalidInput):
    """The model has another version under that number."""

    def __init__(self, model: str, number: int) -> None:
        super().__init__(
            f"model {shown(model)} already has another version {number}, and a number is never given twice"
        )


@dataclass(frozen=True)
class ForeignDataset:
    """A dataset as another registry knows it: its digest is theirs, and nothing here can compute it anew.

    Args:
        identity: what tells two datasets of one name apart, such as their location.
        digest: changes with the content.
        relation: trained_on or evaluated_on.
        context: what it was used for, in the other registry's word.
    """

    name: str
    identity: str
    digest: str
    location: str
    columns: tuple[tuple[str, str], ...] = ()
    rows: int | None = None
    relation: str = TRAINED_ON
    context: str = ""


@dataclass(frozen=True)
class ForeignVersion:
    """What is recorded about a numbered version.

    Args:
        origin: where it comes from, as JSON; never changes, and tells it from another of its number.
        followed: what was last seen there of what may change, as JSON.
    """

    number: int
    content: Stored
    facts: VersionFacts = field(default_factory=VersionFacts)
    description: str = ""
    tags: Mapping[str, TagValue] = field(default_factory=dict)
    artifacts: Sequence[tuple[str, Stored]] = ()
    datasets: Sequence[ForeignDataset] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    followed: Mapping[str, Any] = field(default_factory=dict)


class ForeignVersions(Desk):
    """The verb that records versions with their numbers, for one actor in one tenant."""

    def record(self, model: str, version: ForeignVersion, *, valid_from: datetime | None = None) -> bool:
        """Record a version, with the datasets that it was made from, in one command; whether it was new.

        It begins as `registered`: into other stages it goes by the verbs that everybody uses, so
        that no gate is passed by.

        Raises:
            NumberTaken: another version has that number, be it deleted.
            ModelIsDeprecated: the model takes no versions any more.
        """
        if not 1 <= version.number < MAX_NUMBER:
            raise InvalidInput(f"a version's number is at least 1, not {version.number}")
        first = {
            "version": version.number,
            "stage": Stage.REGISTERED.value,
            "deleted": False,
            "description": checked_text(version.description, "description"),
            "tags": typed_tags(version.tags),
            "content": version.content.recorded(),
            "content_digest": version.content.digest,
            "size": version.content.size,
            "artifacts": [{"kind": checked_kind(k), **stored.recorded()} for k, stored in version.artifacts],
            **version.facts.recorded(),
            "origin": dict(version.origin),
            "followed": dict(version.followed),
        }

        def decide(view: View) -> list[Change]:
            owner = living(view, MODEL, model)
            for known in versions_of(view, owner.id, deleted=True):
                if known.data["version"] == version.number:
                    if known.data.get("origin") == first["origin"]:
                        return []
                    raise NumberTaken(owner.name, version.number)
            if owner.data["status"] == "deprecated":
                raise ModelIsDeprecated(owner.name)
            return _changes(view, owner, first, version)

        change = {
            "model": model,
            **{name: value for name, value in first.items() if name not in {"stage", "deleted"}},
            "datasets": [vars(dataset) for dataset in version.datasets],
        }
        done = self.do("import_model_version", MODEL_VERSION, change, decide, valid_from=valid_from)
        return bool(done.events)


def _changes(view: View, owner: State, first: Mapping[str, Any], version: ForeignVersion) -> list[Change]:
    identity = new_id()
    drawn: list[Change] = []
    used: dict[str, list[str]] = {TRAINED_ON: [], EVALUATED_ON: []}
    made: dict[tuple[str, str], tuple[str, int]] = {}
    for dataset in version.datasets:
        dataset_version, changes = _dataset(view, dataset, made)
        drawn += changes
        if dataset_version not in used[dataset.relation]:
            used[dataset.relation].append(dataset_version)
            drawn.append(
                edge(
                    dataset.relation,
                    (MODEL_VERSION, identity),
                    (DATASET_VERSION, dataset_version),
                    properties={"context": dataset.context} if dataset.context else {},
                )
            )
    state = {
        "model_id": owner.id,
        **first,
        "trained_on": used[TRAINED_ON],
        "evaluated_on": used[EVALUATED_ON],
        "base_version": None,
    }
    return [Change(MODEL_VERSION, identity, state), *drawn]


def _dataset(
    view: View, dataset: ForeignDataset, made: dict[tuple[str, str], tuple[str, int]]
) -> tuple[str, list[Change]]:
    """The id of the dataset's version with that digest, and the changes that bring it about.

    `made` holds what the same command made before: id and highest number per dataset, id per version.
    """
    key, version_key = (
        (dataset.name, dataset.identity),
        (f"{dataset.name}\0{dataset.identity}", dataset.digest),
    )
    if version_key in made:
        return made[version_key][0], []
    changes: list[Change] = []
    number = 0
    known = _known(view, dataset)
    versions = [] if known is None else dataset_versions_of(view, known.id, deleted=True)
    for state in versions:
        if state.data["metadata"]["digest"] == dataset.digest and not state.deleted:
            return state.id, []
    name = known.name if known else _apart(dataset) if _living(view, dataset.name) else dataset.name
    if key in made:
        identity, number = made[key]
    elif known is not None:
        identity = known.id
        number = max((int(s.data["metadata"]["number"]) for s in versions), default=0)
    else:
        identity = new_id()
        of = {"foreign": {"name": dataset.name, "identity": dataset.identity}}
        changes.append(Change(DATASET, identity, NewThing(name, metadata=of).recorded()))
    version = new_id()
    state_of_version = {
        **NewThing(dataset_version_name(name, number + 1)).recorded(),
        "parent_id": identity,
        "metadata": {
            "number": number + 1,
            "format": "foreign",
            "location": dataset.location,
            "digest": dataset.digest,
            "columns": [{"name": name, "type": type_} for name, type_ in dataset.columns],
            "rows": dataset.rows,
        },
    }
    made[key], made[version_key] = (identity, number + 1), (version, 0)
    changes.append(Change(DATASET_VERSION, version, state_of_version, {"digest": dataset.digest}))
    return version, changes


def _known(view: View, dataset: ForeignDataset) -> State | None:
    """The dataset that an earlier import made of this one; one of our own with that name is another."""
    of = {"name": dataset.name, "identity": dataset.identity}
    for name in (dataset.name, _apart(dataset)):
        for state in named(view, DATASET, name):
            if not state.deleted and state.data.get("metadata", {}).get("foreign") == of:
                return state
    return None


def _living(view: View, name: str) -> bool:
    return any(not state.deleted for state in named(view, DATASET, name))


def _apart(dataset: ForeignDataset) -> str:
    """Another name for a dataset whose own is taken."""
    import hashlib

    mark = hashlib.sha256(f"{dataset.name}\0{dataset.identity}".encode()).hexdigest()[:8]
    return f"{dataset.name[:480]} ({mark})"
