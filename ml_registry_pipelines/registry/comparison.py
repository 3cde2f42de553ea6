"""What two versions have different, name by name: metrics, parameters, schema, data, files, the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_registry_pipelines.registry.artifacts import ArtifactStore
from ml_registry_pipelines.registry.relationships import label
from ml_registry_pipelines.registry.states import DATASET_VERSION, State
from ml_registry_pipelines.registry.versions import Stage, Version, artifacts_of
from ml_registry_pipelines.registry.view import View

Fields = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Difference:
    """What two versions have different, by field: the first one's value and the second one's."""

    first: str
    second: str
    fields: Mapping[str, tuple[Any, Any]]


def difference(first: Version, second: Version) -> Difference:
    """Compare what the versions themselves record."""
    fields: Fields = {}
    for name in ("metrics", "parameters", "tags"):
        fields |= _changed(name, dict(getattr(first, name)), dict(getattr(second, name)))
    fields |= _changed("signature", flat(first.signature), flat(second.signature))
    for name in ("content_digest", "size", "framework", "code_commit", "licence", "stage", "description"):
        one, two = getattr(first, name), getattr(second, name)
        if one != two:
            fields[name] = (one.value, two.value) if isinstance(one, Stage) else (one, two)
    return Difference(first.reference, second.reference, fields)


def data_differences(view: View, first: Version, second: Version) -> Fields:
    """Datasets that one was trained or evaluated on and the other not, or on another version; the base model.

    Where both used the same dataset, also how the dataset's own version changed: rows and columns.
    """
    fields: Fields = {}
    for name in ("trained_on", "evaluated_on"):
        one, two = (_datasets(view, getattr(version, name)) for version in (first, second))
        for dataset in sorted({*one, *two}):
            old, new = one.get(dataset, []), two.get(dataset, [])
            if [s.id for s in old] == [s.id for s in new]:
                continue
            fields[f"{name}.{dataset}"] = (_numbers(old), _numbers(new))
            if len(old) == len(new) == 1:
                fields |= _dataset_changes(f"{name}.{dataset}", old[0], new[0])
    if first.base_version != second.base_version:
        one_base, two_base = (
            base and label(view, base) for base in (first.base_version, second.base_version)
        )
        fields["base_version"] = (one_base, two_base)
    return fields


def file_differences(store: ArtifactStore, first: Version, second: Version) -> Fields:
    """Files that were added, removed or changed, with size and the beginning of their digest."""
    fields: Fields = {}
    for kind in sorted({a.kind for v in (first, second) for a in artifacts_of(v)}):
        one, two = (
            [a.digest for a in artifacts_of(version) if a.kind == kind] for version in (first, second)
        )
        if one == two:
            continue
        old, new = (
            {f.path: f"{f.size:,} bytes {f.sha256[:12]}" for digest in digests for f in store.files(digest)}
            for digests in (one, two)
        )
        fields |= _changed(f"files.{kind}", old, new)
    return fields


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested JSON as one level of names with dots; entries of a list go by their `name`, or by number."""
    if isinstance(value, Mapping) and value:
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= flat(inner, f"{path}.{key}" if path else str(key))
        return found
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        found = {}
        for number, inner in enumerate(value):
            named = isinstance(inner, Mapping) and isinstance(inner.get("name"), str)
            name = inner["name"] if named else str(number)
            rest = {k: v for k, v in inner.items() if k != "name"} if named else inner
            if named and set(rest) == {"type"}:
                rest = rest["type"]
            found |= flat(rest, f"{path}.{name}" if path else name)
        return found
    return {} if value is None else {path: value}


def _changed(prefix: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> Fields:
    return {
        f"{prefix}.{key}": (one.get(key), two.get(key))
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key)
    }


def _datasets(view: View, ids: Sequence[str]) -> dict[str, list[State]]:
    """Dataset versions by the name of their dataset."""
    found: dict[str, list[State]] = {}
    for state in view.by_any("things", "id", list(ids)):
        if state.entity_type == DATASET_VERSION:
            parent = view.by_id("things", str(state.data["parent_id"]))
            found.setdefault(parent.name if parent else state.name, []).append(state)
    return found


def _numbers(states: Sequence[State]) -> str | None:
    numbers = sorted(int(s.data["metadata"]["number"]) for s in states)
    return ", ".join(f"v{number}" for number in numbers) or None


def _dataset_changes(prefix: str, old: State, new: State) -> Fields:
    one, two = old.data["metadata"], new.data["metadata"]
    fields = _changed(f"{prefix}.columns", _columns(one), _columns(two))
    if one.get("rows") != two.get("rows"):
        fields[f"{prefix}.rows"] = (one.get("rows"), two.get("rows"))
    return fields


def _columns(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {column["name"]: column.get("type") for column in metadata.get("columns", ())}
