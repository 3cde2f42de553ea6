"""What a version needs to run and what it was made from, as its own files say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ml_registry_pipelines.compliance.artifact_security.headers import json_object
from ml_registry_pipelines.compliance.artifact_security.symbols import Broken
from ml_registry_pipelines.registry.artifacts import ArtifactChanged, ArtifactStore, File
from ml_registry_pipelines.registry.versions import Version, artifacts_of

MOST_BYTES = 4 << 20
MOST_LISTED = 5_000
_LISTS = re.compile(
    r"requirements[\w.-]*\.txt|conda\.ya?ml|environment\.ya?ml|python_env\.ya?ml|pyproject\.toml|(uv|poetry)\.lock"
)
_REQUIREMENT = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(===?|=)?\s*([A-Za-z0-9][\w.+!-]*)?"
)
_BASES = ("base_model_name_or_path", "_name_or_path", "base_model")


@dataclass(frozen=True, order=True)
class Dependency:
    """A package by name; `version` is None where it is not exact."""

    name: str
    version: str | None


def dependencies_of(store: ArtifactStore, version: Version) -> tuple[Dependency, ...] | None:
    """All packages that the lists among a version's artifacts name; None: there is no list.

    Raises:
        ArtifactChanged: a list was changed in the store.
    """
    found: set[Dependency] = set()
    seen = False
    for file in _files(store, version):
        name = PurePosixPath(file.path).name.lower()
        if _LISTS.fullmatch(name) and file.size <= MOST_BYTES:
            seen = True
            found |= set(_parsed(name, _text(store, file)))
    return tuple(sorted(found, key=lambda d: (d.name, d.version or "")))[:MOST_LISTED] if seen else None


def _parsed(name: str, text: str) -> Iterator[Dependency]:
    try:
        if name.endswith((".yaml", ".yml")):
            import yaml

            yield from (d for line in _strings(yaml.safe_load(text)) for d in _requirement(line))
        elif name.endswith(".lock"):
            for package in tomllib.loads(text).get("package", []):
                yield Dependency(_normal(str(package["name"])), str(package["version"]))
        elif name == "pyproject.toml":
            for line in tomllib.loads(text).get("project", {}).get("dependencies", []):
                yield from _requirement(str(line))
        else:
            for line in text.splitlines():
                yield from _requirement(line)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as failure:
        raise ArtifactChanged(f"the list of dependencies {name} cannot be read: {failure}") from None
    except Exception as failure:
        if type(failure).__module__.startswith("yaml"):
            raise ArtifactChanged(f"the list of dependencies {name} is no YAML") from None
        raise


def _strings(value: Any) -> Iterator[str]:
    """Requirements of a conda or python environment, wherever they are listed."""
    if isinstance(value, dict):
        for key in ("dependencies", "build_dependencies", "pip"):
            if key in value:
                yield from _strings(value[key])
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner) if not isinstance(inner, str) else [inner]


def _requirement(line: str) -> Iterator[Dependency]:
    line = line.partition("#")[0].partition(";")[0].strip().rstrip("\\").strip()
    line = line.partition(" --hash")[0].strip()
    if not line or line.startswith("-"):
        return
    found = _REQUIREMENT.match(line)
    if found:
        exact = found.group(2) and found.group(3) and found.end() == len(line)
        yield Dependency(_normal(found.group(1)), found.group(3) if exact else None)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named_bases(store: ArtifactStore, version: Version) -> list[str]:
    """Files of a version that say from which model it was made."""
    found = []
    for file in _files(store, version):
        if (
            PurePosixPath(file.path).name in {"adapter_config.json", "config.json"}
            and file.size <= MOST_BYTES
        ):
            try:
                given = json_object(_text(store, file).encode())
            except Broken:
                continue
            if any(isinstance(given.get(key), str) and given[key] for key in _BASES):
                found.append(file.path)
    return found


def known_licence(text: str) -> bool:
    """Whether it is an SPDX licence id or expression."""
    from cyclonedx.spdx import is_expression, is_supported_id

    return is_supported_id(text) or is_expression(text)


def _files(store: ArtifactStore, version: Version) -> Iterator[File]:
    for artifact in artifacts_of(version):
        if artifact.form in {"file", "folder"}:
            yield from store.files(artifact.digest)


def _text(store: ArtifactStore, file: File) -> str:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="mlreg-read-") as folder:
        target = Path(folder) / "file"
        store.blobs.fetch(file.sha256, file.size, target, file.path)
        return target.read_bytes().decode("utf-8", "replace")
