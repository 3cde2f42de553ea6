"""Who launched a run, as a tag that nobody can forge: sealed, and bound to the one run that it is about.

Tags are open to every client, so the tag alone says nothing. The run coordinator seals it
where a run is submitted, and the run itself opens it. A seal that was copied from another
run, altered or made without the installation's secret is as good as none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ml_registry_pipelines.access.doors import given_key
from ml_registry_pipelines.access.policy import platform
from ml_registry_pipelines.access.secret import key_for, opened, sealed
from ml_registry_pipelines.access.users import actor_for_key
from ml_registry_pipelines.registry.actors import Actor, ActorKind
from ml_registry_pipelines.registry.log import Log

LAUNCHED_BY = "mlreg/launched_by"
"""For people to read and to filter by; nothing believes it."""
STAMP = "mlreg/actor"
"""What commands believe."""
USE = "runs"
BACKFILL = "backfill"
"""What the stamp of a backfill is about: the backfill's own id is not known when it is made."""
LAUNCHPAD = Actor("launchpad")
"""Nobody has made sure who launched the run."""


def stamped(actor: Actor, about: str, home: str | Path | None = None) -> dict[str, str]:
    """The tags that say who launched a run; `about` is its id, or `BACKFILL`.

    Without the installation's secret there is nothing to seal with: then the tags are there and empty.
    """
    key = key_for(USE, home)
    body = {"id": actor.id, "kind": actor.kind.value, "by": actor.authenticated_by, "about": about}
    seal = "" if key is None else sealed(key, json.dumps(body, sort_keys=True))
    return {LAUNCHED_BY: actor.id, STAMP: seal}


def actor_of(tags: Mapping[str, str], about: str, home: str | Path | None = None) -> Actor | None:
    """Who launched what bears the tags; None where no seal of ours says it."""
    text, key = tags.get(STAMP), key_for(USE, home)
    if not text or key is None or (body := opened(key, text)) is None:
        return None
    said: dict[str, str] = json.loads(body)
    if said["about"] != about:
        return None
    return Actor(said["id"], ActorKind(said["kind"]), said["by"])


def service() -> Actor:
    """Who acts in runs that sensors, schedules and automation have asked for."""
    return platform("dagster")


def actor_of_run(log: Log, tags: Mapping[str, str], run_id: str) -> Actor:
    """Who acts through a run: as the run coordinator has stamped it; neither config nor other tags are believed.

    A run that no coordinator has submitted, in the process of who asks for it, acts as the owner of the
    process's API key.

    Raises:
        KeyRefused: that key lets nobody in.
    """
    if (launcher := actor_of(tags, run_id)) is not None:
        return launcher
    key = None if STAMP in tags else given_key()
    return LAUNCHPAD if key is None else actor_for_key(log, key, door="run")
