"""Near duplicates: models that are there already and look like one that is registered, for a warning at the door.

Four signs, measured in `benchmarks/retrieval.py`: the same content digest; the same name but for case and
separators, or a name that is nearly the same with the same numbers in it (`llama-3-8b` and `llama-3-70b` are two
models); the same description; and a vector that is nearly the same. A warning never keeps a model out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.names import TagValue
from ml_registry_pipelines.search.cards import Card
from ml_registry_pipelines.search.similar import Similarity

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View
    from ml_registry_pipelines.search.results import Matches

ALIKE = 0.92
"""Cosine from which on two models say nearly the same: 73 % of copies with a word in fifty left out, 9 % of others."""
NAMES_ALIKE = 0.95
"""Jaro-Winkler similarity from which on two names are nearly the same."""
TELLING = 20
"""Characters from which on a description is somebody's own."""
_NUMBERS = re.compile(r"\d+")
_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class NearDuplicate:
    """A model that may be the same as the one that is registered.

    Args:
        reasons: each a part of a sentence: `the same content`, `the name fraud_cards`.
        similarity: cosine of the angle between the vectors; None where no vector was compared.
    """

    id: str
    name: str
    reasons: tuple[str, ...]
    similarity: float | None = None

    @property
    def sentence(self) -> str:
        return f"{self.name} has {' and '.join(self.reasons)}"


@dataclass
class _Found:
    name: str = ""
    reasons: list[str] = field(default_factory=list)
    similarity: float | None = None


def near_duplicates(
    log: Log,
    name: str,
    *,
    actor: Actor,
    tenant: str = "default",
    description: str = "",
    tags: Mapping[str, TagValue] | None = None,
    content_digest: str | None = None,
    k: int = 5,
    similarity: Similarity | None = None,
) -> list[NearDuplicate]:
    """Models that the actor may read and that may be the same as one of this name, the likeliest first.

    The model of this very name is not among them. What cannot be found out (vectors that are missing or
    damaged, a registry that may not be read) is left out: registering goes on whatever this says.

    Args:
        content_digest: of the version that is registered, where there is one already.
        k: most that are named.
    """
    similarity = similarity or Similarity(log, actor=actor, tenant=tenant)
    found: dict[str, _Found] = {}
    try:
        matches = similarity.readable()
        view = log.view(tenant)
        _by_content(view, content_digest, found)
        _by_name(view, name, description, found)
    except RegistryError:
        return []
    _by_vector(similarity, matches, _card(tenant, name, description, tags or {}), k, found)
    living = similarity.cards([one for one in found if matches.contains(one)])
    listed = [
        NearDuplicate(one, card.name, tuple(found[one].reasons), found[one].similarity)
        for one, card in living.items()
        if card.name != name and found[one].reasons
    ]
    return sorted(listed, key=lambda near: (-len(near.reasons), -(near.similarity or 0.0), near.name))[:k]


def same_name(one: str, other: str) -> bool:
    """Whether two names differ by case and separators alone."""
    return _LETTERS.sub("", one).casefold() == _LETTERS.sub("", other).casefold() != ""


def numbers_in(name: str) -> list[str]:
    return _NUMBERS.findall(name)


def _card(tenant: str, name: str, description: str, tags: Mapping[str, TagValue]) -> Card:
    return Card(
        tenant,
        "",
        name,
        "active",
        description,
        tags,
        (),
        None,
        None,
        None,
        (),
        (),
        (),
        (),
        (),
        (),
        (),
        None,
        "",
    )


def _by_content(view: View, digest: str | None, found: dict[str, _Found]) -> None:
    if not digest:
        return
    same = view.select(
        "search.same_content",
        "model_versions",
        "NOT deleted AND content_digest = $digest",
        parameters={"digest": digest},
    )
    for state in same:
        reasons = found.setdefault(str(state.data["model_id"]), _Found()).reasons
        if "the same content" not in reasons:
            reasons.append("the same content")


def _by_name(view: View, name: str, description: str, found: dict[str, _Found]) -> None:
    """Names that are close, of all models: a scan of one column."""
    close = view.query(
        "search.close_names",
        "things",
        """
        SELECT id, name, trim(description) = trim($description) AS same,
          jaro_winkler_similarity(lower(name), lower($name)) >= $alike AS close
        FROM current
        WHERE type = 'model' AND NOT deleted AND name <> $name
          AND (
            length(trim($description)) >= $telling AND trim(description) = trim($description)
            OR regexp_replace(lower(name), '[^[:alnum:]]', '', 'g')
              = regexp_replace(lower($name), '[^[:alnum:]]', '', 'g')
            OR jaro_winkler_similarity(lower(name), lower($name)) >= $alike
          )
        """,
        {"name": name, "description": description, "alike": NAMES_ALIKE, "telling": TELLING},
    ).to_pylist()
    for row in close:
        reasons = found.setdefault(row["id"], _Found()).reasons
        if same_name(row["name"], name) or (row["close"] and numbers_in(row["name"]) == numbers_in(name)):
            reasons.append("nearly the same name")
        if row["same"] and len(description.strip()) >= TELLING:
            reasons.append("the same description")


def _by_vector(
    similarity: Similarity, matches: Matches, card: Card, k: int, found: dict[str, _Found]
) -> None:
    try:
        near = similarity.near_card(card, matches, k + 1)
    except RegistryError:
        return
    for one in near:
        if one.similarity >= ALIKE:
            found.setdefault(one.id, _Found()).reasons.append(f"a description {one.similarity:.0%} alike")
        if one.id in found:
            found[one.id].similarity = one.similarity
