"""Which code locations Dagster loads: the platform's own, a user's besides, and in a demo's home the demo's.

`MLREG_WORKSPACE` names a workspace file of Dagster's with the user's locations. Dagster's
services get one file, which is written into Dagster's home where there is more than ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ml_registry_pipelines.services import REPOSITORY, WORKSPACE, ServicesError, dagster_home, demo_data
from ml_registry_pipelines.settings import Settings

DEMO_LOCATION = REPOSITORY / "demo" / "training.py"
_CODE = ("python_file", "python_module", "python_package")


def workspace(settings: Settings) -> Path:
    """The file that lists the code locations; Dagster's home has been made.

    Raises:
        ServicesError: the user's file is no workspace file.
    """
    others: list[Any] = []
    if settings.workspace_file is not None:
        others += _entries(Path(settings.workspace_file).expanduser().absolute())
    if demo_data(settings).is_dir() and DEMO_LOCATION.exists():
        others.append(
            {"python_file": {"relative_path": str(DEMO_LOCATION), "location_name": "demo_training"}}
        )
    if not others:
        return WORKSPACE
    listed = {"load_from": [*_entries(WORKSPACE), *others]}
    file = dagster_home(settings) / "workspace.yaml"
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text(yaml.safe_dump(listed, sort_keys=False), encoding="utf-8")
        aside.replace(file)
    except OSError as failure:
        raise ServicesError(f"{file} cannot be written: {failure.strerror}") from failure
    return file


def _entries(file: Path) -> list[Any]:
    """The locations of a workspace file, with its relative paths made absolute."""
    try:
        held = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as failure:
        raise ServicesError(f"the workspace file {file} cannot be read: {failure}") from failure
    except yaml.YAMLError as failure:
        raise ServicesError(f"the workspace file {file} is no YAML: {failure}") from failure
    entries = held.get("load_from") if isinstance(held, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise ServicesError(
            f"the workspace file {file} lists no code location; it wants "
            "`load_from:` with entries such as `- python_file: training_location.py`"
        )
    return [_absolute(entry, file) for entry in entries]


def _absolute(entry: object, file: Path) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ServicesError(
            f"the workspace file {file} has an entry that names no kind of location: {entry!r}"
        )
    ((kind, given),) = entry.items()
    if kind not in _CODE:
        return {kind: given}
    place = dict(given) if isinstance(given, Mapping) else {_short(kind): given}
    if kind == "python_file" and isinstance(path := place.get("relative_path"), str):
        place["relative_path"] = str(file.parent / Path(path).expanduser())
    # Dagster takes paths from where it was started, and that is not here.
    folder = place.get("working_directory")
    place["working_directory"] = str(file.parent / folder if isinstance(folder, str) else file.parent)
    return {kind: place}


def _short(kind: str) -> str:
    """The field that a location's entry means when it is given as one text."""
    return {"python_file": "relative_path", "python_module": "module_name"}.get(kind, "package_name")
