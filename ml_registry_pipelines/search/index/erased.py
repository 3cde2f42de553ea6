"""Texts without people who were erased.

The log keeps what was written into it, by law, and the index is made from the log. So that an index which is
made anew after an erasure does not hold the person again, what the suppression list knows is left out of
every text: an address, a name, an id, as up to five words in a row with what stands between them, or a value as
a whole. The list holds hashes alone, so each of these is looked up.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.telemetry.identity import salted_hash
from ml_registry_pipelines.telemetry.ingestion import user_salt
from ml_registry_pipelines.telemetry.suppression import Suppression

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

ERASED = "erased"
IN_A_ROW = 5
"""Words of `jane.doe-ext@example.com`, and of an id in five groups."""
_WORD = re.compile(r"[^\W_]+")

_logger = logging.getLogger(__name__)
Told = Callable[[str, str], str]
"""Gives a tenant's text without who was erased there."""


def without_erased(lake: Lake) -> Told:
    """What leaves out of texts who is on the suppression list of a lake now; nothing where nobody is."""
    try:
        listed = Suppression(lake)
        salt = user_salt(lake.root) if listed else ""
    except MlregError as failure:
        # A copy of the registry without its keys: nobody can tell there who was erased.
        _logger.warning("the search index cannot tell who was erased: %s", failure)
        return lambda _, text: text
    if not listed:
        return lambda _, text: text

    @lru_cache(maxsize=100_000)
    def named(tenant: str, text: str) -> bool:
        return listed.holds(tenant, salted_hash(salt, tenant, text))

    def told(tenant: str, text: str) -> str:
        if named(tenant, text.strip()):
            return ERASED
        words = [found.span() for found in _WORD.finditer(text)]
        parts, at, number = [], 0, 0
        while number < len(words):
            first, taken = words[number][0], 1
            for length in range(min(IN_A_ROW, len(words) - number), 0, -1):
                last = words[number + length - 1][1]
                if named(tenant, text[first:last]):
                    parts += [text[at:first], ERASED]
                    at, taken = last, length
                    break
            number += taken
        return "".join((*parts, text[at:]))

    return told
