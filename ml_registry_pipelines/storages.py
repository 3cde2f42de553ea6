"""Dagster's own tables of one home: made once, before any of its services starts.

Dagster makes them in whatever process opens them first, and two that do so at once get in each
other's way: one ends with "table ... already exists". What they hold is Dagster's business.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from ml_registry_pipelines.errors import MlregError

LOCK = ".storages.lock"
MADE = ".storages.json"
"""Lists the files that the tables are in, as paths below the home; none where they are in a server."""


class StoragesError(MlregError):
    """Dagster's tables cannot be made."""


def make_storages(home: Path) -> None:
    """Make the tables that the `dagster.yaml` of a home asks for, where that was not done before.

    Any number of processes may do so at once: one makes them, the others wait for it.

    Raises:
        StoragesError: Dagster refuses its configuration, or its tables cannot be made.
        OSError: the home cannot be written.
    """
    if _made(home):
        return
    with (home / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _made(home):
            _make(home)
            files = sorted(path.relative_to(home).as_posix() for path in home.rglob("*.db"))
            aside = home / f"{MADE}.{os.getpid()}"
            aside.write_text(json.dumps(files), encoding="utf-8")
            aside.replace(home / MADE)


def _made(home: Path) -> bool:
    """Whether they were made, and are still there: somebody may have removed them to begin anew."""
    try:
        files = json.loads((home / MADE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return all((home / file).exists() for file in files)


def _make(home: Path) -> None:
    # Here, because it takes more than a second, and most starts need none of it.
    import dagster as dg
    from sqlalchemy.exc import SQLAlchemyError
    from yaml import YAMLError

    given = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(home)  # for the configuration, which may speak of it
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            # They are made when they are asked for.
            _ = instance.run_storage, instance.event_log_storage, instance.schedule_storage
    except (dg.DagsterError, SQLAlchemyError, YAMLError) as failure:
        raise StoragesError(
            f"Dagster's tables of {home} cannot be made; see {home / 'dagster.yaml'}: "
            f"{' '.join(str(failure).split())[:500]}"
        ) from failure
    finally:
        if given is None:
            del os.environ["DAGSTER_HOME"]
        else:
            os.environ["DAGSTER_HOME"] = given
