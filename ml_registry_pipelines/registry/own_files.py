"""Which files are the platform's own, and so never the content of a version.

A form of the Launchpad is carried out by the service, which can read what the person who filled it in cannot:
the log, other tenants' artifacts and logs, the secret that seals sessions and runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ml_registry_pipelines.registry.content import ArtifactRefused

_FOLDERS = frozenset(
    {
        "alerts",
        "artifacts",
        "bills",
        "bills-pulled",
        "certificates",
        "dagster",
        "data_docs",
        "keys",
        "landing",
        "lineage_index",
        "locks",
        "openlineage",
        "reports",
        "search_index",
        "staging",
        "tables",
        "vectors",
    }
)
"""Folders of a home that people do not put files of models into."""
_VARIABLES = ("MLREG_SECRET_FILE", "MLREG_PROXY_SECRET_FILE", "MLREG_ANCHOR_KEY", "DAGSTER_HOME")
"""They name secrets, or the folder that holds them, outside the home."""


def refuse_own(root: str, given: str | Path) -> None:
    """Refuse a path or address of what the platform keeps, or of a folder that holds it.

    Args:
        root: of the lake.
        given: a path, `file://` or `s3://` address; a path's links are followed.

    Raises:
        ArtifactRefused: it is the platform's own.
    """
    address = str(given).removeprefix("file://")
    if address.startswith("s3://"):
        inside = address.removeprefix(f"{root}/") if address.startswith(f"{root}/") else None
        if inside is not None and inside.partition("/")[0] in _FOLDERS:
            raise _refused(given)
    elif "://" not in address:
        path = Path(os.path.realpath(address))
        if any(path == own or own in path.parents or path in own.parents for own in _own(root)):
            raise _refused(given)


def _own(root: str) -> Iterator[Path]:
    if not root.startswith("s3://"):
        home = Path(os.path.realpath(root))
        yield from (home / folder for folder in _FOLDERS)
    yield from (Path(os.path.realpath(os.environ[name])) for name in _VARIABLES if os.environ.get(name))


def _refused(given: str | Path) -> ArtifactRefused:
    return ArtifactRefused(
        f"{given} is, or holds, what the platform keeps for itself; put what the version is made of into a "
        "folder of its own"
    )
