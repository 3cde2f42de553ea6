"""What is said at every door when a model or version is registered that may be there already.

It is said after the command: nobody is kept from registering, and nothing that goes wrong here is the
command's fault. How it is said is the door's: Python warns, the shell prints, a run logs and shows it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.names import TagValue
from ml_registry_pipelines.search.duplicates import near_duplicates
from ml_registry_pipelines.search.similar import Similarity

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

SETTING = "MLREG_NEAR_DUPLICATES"
"""`off` asks nothing, for who registers thousands one by one: a look takes some 10 ms."""
LARGE = 20_000
"""States of things up to which code that registers is held up for a look; of 100,000 it takes a quarter of a second."""
MOST = 3
"""Models that are named."""
_logger = logging.getLogger(__name__)


class NearDuplicateWarning(UserWarning):
    """A model was registered that may be the same as another."""


def warn_in_python(sentence: str) -> None:
    """Warn where the verb was called: beyond this function and the verb itself."""
    warnings.warn(sentence, NearDuplicateWarning, stacklevel=3)


def like_model(
    log: Log,
    name: str,
    *,
    actor: Actor,
    tenant: str,
    description: str = "",
    tags: Mapping[str, TagValue] | None = None,
    patient: bool = True,
) -> list[str]:
    """A sentence for each model that one of this name and description may be the same as.

    Args:
        patient: whether somebody waits for it, as at a shell; if not, a large registry is not looked through.
    """
    if _off():
        return []
    try:
        if not patient and log.view(tenant).snapshot.states("things") > LARGE:
            return []
        found = near_duplicates(
            log, name, actor=actor, tenant=tenant, description=description, tags=tags, k=MOST
        )
    except (MlregError, OSError, sqlite3.Error) as failure:
        _logger.debug("near duplicates of %s are not known: %s", name, failure)
        return []
    return [f"{name} may be there already: {near.sentence}" for near in found]


def like_version(
    log: Log, reference: str, model_id: str, content_digest: str, *, actor: Actor, tenant: str
) -> list[str]:
    """A sentence for each other model that has a version of the same content."""
    if _off():
        return []
    try:
        same = log.view(tenant).select(
            "search.same_content",
            "model_versions",
            "NOT deleted AND content_digest = $digest AND model_id <> $model",
            parameters={"digest": content_digest, "model": model_id},
        )
        if not same:
            return []
        similarity = Similarity(log, actor=actor, tenant=tenant)
        readable = similarity.readable()
        others = {str(s.data["model_id"]) for s in same}
        cards = similarity.cards(sorted(one for one in others if readable.contains(one)))
    except (MlregError, OSError, sqlite3.Error) as failure:
        _logger.debug("whether others have the content of %s is not known: %s", reference, failure)
        return []
    numbers = {str(s.data["model_id"]): s.data["version"] for s in same}
    return [
        f"{reference} may be there already: {card.name}@v{numbers[card.id]} has the same content"
        for card in list(cards.values())[:MOST]
    ]


def _off() -> bool:
    return os.environ.get(SETTING, "").strip().lower() == "off"
