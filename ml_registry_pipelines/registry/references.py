"""What a person writes for a version: `fraud@champion`, `fraud@v3`, `fraud@production`, `fraud@latest`.

The last `@` divides, so that a model's name may hold one.
"""

from __future__ import annotations

import re

from ml_registry_pipelines.registry.errors import Deleted, InvalidInput, VersionNotFound, shown
from ml_registry_pipelines.registry.names import sought
from ml_registry_pipelines.registry.states import DATASET, DATASET_VERSION, MODEL, State
from ml_registry_pipelines.registry.things import living
from ml_registry_pipelines.registry.view import View

_NUMBER = re.compile(r"v?([1-9]\d{0,17})")


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
        Deleted: the version is deleted, and `deleted` does not allow it.
    """
    found = view.by_id("model_versions", reference) if "@" not in reference and sought(reference) else None
    if found is None:
        name, selector = split(reference)
        model = living(view, MODEL, name)
        found = _selected(view, model, selector)
        if found is None:
            numbers = [f"v{s.data['version']}" for s in versions_of(view, model.id)]
            known = ", ".join([*numbers[-5:], *sorted(model.data.get("aliases", {}))]) or "none yet"
            raise VersionNotFound(name, selector, known)
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
        Deleted: it is deleted.
    """
    by_id = view.by_id("things", reference) if "@" not in reference and sought(reference) else None
    if by_id is not None and by_id.entity_type == DATASET_VERSION:
        return living(view, DATASET_VERSION, reference)
    name, selector = split(reference)
    dataset = living(view, DATASET, name)
    versions = dataset_versions_of(view, dataset.id, deleted=True)
    if selector == "latest":
        found = next((s for s in reversed(versions) if not s.deleted), None)
    else:
        match = _NUMBER.fullmatch(selector)
        number = int(match[1]) if match else 0
        found = next((s for s in versions if s.data["metadata"]["number"] == number), None)
    if found is None:
        known = ", ".join(f"v{s.data['metadata']['number']}" for s in versions[-5:]) or "none yet"
        raise VersionNotFound(name, selector, known, kind=DATASET)
    if found.deleted:
        raise Deleted("dataset version", reference)
    return found
