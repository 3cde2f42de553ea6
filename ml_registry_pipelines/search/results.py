"""What a search gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ml_registry_pipelines.registry.names import TagValue


@dataclass(frozen=True)
class Hit:
    """A model or a version that was found, as it is at the event that the search reads as of.

    `matched` says, in words, which words of a text were found where; `score` is the relevance, higher
    is better, where there was a text. A version's hit has its model's owners, aliases that mean it, its
    own description and tags, its number and stage.
    """

    id: str
    name: str
    kind: str
    description: str
    status: str
    tags: Mapping[str, TagValue]
    aliases: Mapping[str, int]
    owners: tuple[str, ...]
    latest_version: int | None
    model_id: str
    version: int | None = None
    stage: str | None = None
    score: float | None = None
    matched: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """`fraud`, or `fraud@v3`."""
        return self.name if self.version is None else f"{self.name}@v{self.version}"


@dataclass(frozen=True)
class Page:
    """Hits in order, and the cursor of the next page; None after the last one.

    `sequence` is the newest event of the tenant that the search knows of; all pages of one search have
    the same.
    """

    hits: tuple[Hit, ...]
    cursor: str | None
    sequence: int


@dataclass(frozen=True)
class Matches:
    """Ids of the models that an actor may read and a filter keeps; `ids` None: all living ones of the tenant."""

    tenant: str
    sequence: int
    ids: Sequence[str] | None
    known: Callable[[str], bool] = field(repr=False, compare=False)
    """Whether a model lives, by the index; asked where `ids` is None."""
    total: int = 0

    def contains(self, identity: str) -> bool:
        return self.known(identity) if self.ids is None else identity in self._set

    @property
    def _set(self) -> frozenset[str]:
        found: frozenset[str] | None = self.__dict__.get("_kept")
        if found is None:
            found = frozenset(self.ids or ())
            self.__dict__["_kept"] = found
        return found

    def __len__(self) -> int:
        return self.total


@dataclass(frozen=True)
class TextHit:
    """A model that has words of a text: BM25, higher is better, and which word occurs where."""

    id: str
    score: float
    terms: Mapping[str, tuple[str, ...]]
