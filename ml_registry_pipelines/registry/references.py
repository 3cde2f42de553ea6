"""What a person writes for a thing or a version, and the state that it means.

A thing is written by name or id, a version as `fraud@champion`, `fraud@v3`, `fraud@production` or
`fraud@latest`, or by id. The last `@` divides, so that a model's name may hold one.
"""

from __future__ import annotations

import re

from ml_registry_pipelines.registry.errors import (
    Deleted,
    InvalidInput,
    NameTaken,
    NotFound,
    VersionNotFound,
    shown,
)
from ml_registry_pipelines.registry.events import is_id
from ml_registry_pipelines.registry.names import sought
from ml_registry_pipelines.registry.states import DATASET, DATASET_VERSION, MODEL, MODEL_VERSION, State
from ml_registry_pipelines.registry.view import View

_NUMBER = re.compile(r"v?([1-9]\d{0,17})")


def named(view: View, kind: str, name: str) -> list[State]:
    """All things of a kind with the name, deleted ones included; of the living there is one at most."""
    looked_for = sought(name)
    if looked_for is None:
        return []
    return [state for state in view.by_column("things", "name", looked_for) if state.entity_type == kind]


def known(view: View, kind: str, given: str) -> list[State]:
    """The things of a kind that a name or id means, deleted ones included.

    An id means what it is the id of, whatever has been named like it.
    """
    wanted = sought(given)
    by_id = view.by_id("things", wanted) if wanted and is_id(wanted) else None
    if by_id is None or by_id.entity_type != kind:
        if kind == DATASET_VERSION and "@" in given:
            # Of the dataset that has the name now: versions of another one may be recorded under it.
            name, selector = split(given)
            datasets = known(view, DATASET, name)
            return [s for d in datasets if (s := _numbered(view, d, selector)) is not None]
        if found := named(view, kind, given):
            return found
        by_id = view.by_id("things", wanted) if wanted else None
    return [by_id] if by_id is not None and by_id.entity_type == kind else []


def living(view: View, kind: str, given: str) -> State:
    """The living thing with that name or id.

    Raises:
        NotFound: there is none and never was.
        Deleted: it is deleted, or the dataset that it is a version of.
    """
    if kind == DATASET_VERSION:
        return dataset_state(view, given)
    found = known(view, kind, given)
    for state in found:
        if not state.deleted:
            return state
    if found:
        raise Deleted(kind, found[0].name)
    raise NotFound(kind.replace("_", " "), given, view.tenant)


def check_parent(view: View, version: State) -> None:
    """Raises `Deleted` when the model or dataset of a version is deleted, and so the version with it."""
    field = "model_id" if version.entity_type == MODEL_VERSION else "parent_id"
    parent = view.by_id("things", str(version.data.get(field)))
    if parent is not None and parent.deleted:
        raise Deleted(parent.entity_type, parent.name)


def check_free(view: View, kind: str, name: str, *, but: str | None = None) -> None:
    """Raises `NameTaken` when a living thing, other than `but`, has the name."""
    if any(not state.deleted and state.id != but for state in named(view, kind, name)):
        raise NameTaken(kind.replace("_", " "), name, view.tenant)


def split(reference: str) -> tuple[str, str]:
    """Model and selector.

    Raises:
        InvalidInput: there is no `@`.
    """
    model, divider, selector = reference.rpartition("@")
    if not divider or not model or not selector:
        raise InvalidInput(
            f"{shown(reference)} is no version; write MODEL@v3, MODEL@ALIAS, MODEL@production or MODEL@latest"
        )
    return model, selector


def versions_of(view: View, model_id: str, *, deleted: bool = False) -> list[State]:
    """The versions of a model by number."""
    found = [s for s in view.by_column("model_versions", "model_id", model_id) if deleted or not s.deleted]
    return sorted(found, key=lambda s: int(s.data["version"]))


def version_state(view: View, reference: str, *, deleted: bool = False) -> State:
    """The version that a reference, or an id, means now.

    Raises:
        VersionNotFound: the model has none under that number, alias or stage.
        Deleted: the model is deleted, or the version is and `deleted` does not allow it.
    """
    found = view.by_id("model_versions", reference) if sought(reference) and "@" not in reference else None
    if found is not None:
        check_parent(view, found)
    else:
        name, selector = split(reference)
        model = living(view, MODEL, name)
        found = _selected(view, model, selector)
        if found is None:
            numbers = [f"v{s.data['version']}" for s in versions_of(view, model.id)]
            listed = ", ".join([*numbers[-5:], *sorted(model.data.get("aliases", {}))]) or "none yet"
            raise VersionNotFound(name, selector, listed)
    if found.deleted and not deleted:
        raise Deleted("version", reference)
    return found


def _selected(view: View, model: State, selector: str) -> State | None:
    versions = versions_of(view, model.id, deleted=True)
    by_number = {int(s.data["version"]): s for s in versions}
    if match := _NUMBER.fullmatch(selector):
        return by_number.get(int(match[1]))
    number = model.data.get("aliases", {}).get(selector)
    if number is not None:
        return by_number.get(int(number))
    living_ones = [s for s in versions if not s.deleted]
    if selector == "latest":
        return living_ones[-1] if living_ones else None
    staged = [s for s in living_ones if s.data["stage"] == selector]
    return staged[-1] if staged else None


def dataset_version_name(dataset: str, number: int) -> str:
    """The name of a version of a dataset."""
    return f"{dataset[:480]}@v{number}"


def dataset_versions_of(view: View, dataset_id: str, *, deleted: bool = False) -> list[State]:
    """The versions of a dataset by number."""
    found = [s for s in view.by_column("things", "parent_id", dataset_id) if s.entity_type == DATASET_VERSION]
    return sorted(
        (s for s in found if deleted or not s.deleted), key=lambda s: int(s.data["metadata"]["number"])
    )


def dataset_state(view: View, reference: str) -> State:
    """The living dataset version that `credit@v2`, `credit@latest`, or an id means.

    Raises:
        VersionNotFound: the dataset has none under that number.
        NotFound: there is no such dataset.
        Deleted: it is deleted, or its dataset is.
    """
    found = view.by_id("things", reference) if sought(reference) and "@" not in reference else None
    if found is not None and found.entity_type == DATASET_VERSION:
        check_parent(view, found)
    else:
        name, selector = split(reference)
        dataset = living(view, DATASET, name)
        found = _numbered(view, dataset, selector)
        if found is None:
            numbers = [
                s.data["metadata"]["number"] for s in dataset_versions_of(view, dataset.id, deleted=True)
            ]
            listed = ", ".join(f"v{number}" for number in numbers[-5:]) or "none yet"
            raise VersionNotFound(name, selector, listed, kind=DATASET)
    if found.deleted:
        raise Deleted("dataset version", reference)
    return found


def _numbered(view: View, dataset: State, selector: str) -> State | None:
    """The version of a dataset that a number means, be it deleted, or its latest living one."""
    versions = dataset_versions_of(view, dataset.id, deleted=True)
    if selector == "latest":
        return next((s for s in reversed(versions) if not s.deleted), None)
    match = _NUMBER.fullmatch(selector)
    number = int(match[1]) if match else 0
    return next((s for s in versions if s.data["metadata"]["number"] == number), None)
