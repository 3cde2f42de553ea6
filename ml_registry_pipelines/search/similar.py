"""`Similarity`: models like a model, models for a text, a dataset or a task, each hit with why it is there.

Who may read which models, and which of them a filter keeps, is asked of the one search engine
(`search/models.py`) and is a condition of each search here. Answers come from the vectors as they are;
a model that is asked about and has none yet, or one of an earlier text, is embedded on the spot. What full
text and vectors find is fused by places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ml_registry_pipelines.registry.actors import READ, Request
from ml_registry_pipelines.registry.desk import Desk
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.names import TagValue, tag_values
from ml_registry_pipelines.registry.references import dataset_versions_of, living
from ml_registry_pipelines.registry.states import DATASET, MODEL
from ml_registry_pipelines.search.cards import Card, cards_of, split_name
from ml_registry_pipelines.search.embedding.embedder import Embedder, EmbedderUnusable
from ml_registry_pipelines.search.fusion import fuse
from ml_registry_pipelines.search.likeness import Why, said_in, shared, words_of
from ml_registry_pipelines.search.models import ModelSearch
from ml_registry_pipelines.search.results import Matches
from ml_registry_pipelines.search.vectors.nearest import Nearest, Neighbour, nearest_in
from ml_registry_pipelines.search.vectors.store import Record, VectorStore
from ml_registry_pipelines.search.vectors.table import VectorsDamaged, VectorsMissing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.states import State
    from ml_registry_pipelines.registry.view import View

    Floats = npt.NDArray[np.float32]

T = TypeVar("T")

MOST = 1_000
"""Hits that can be asked for at once."""
POOL = 5
"""Times k: how far down each list is looked at before they are fused."""
LEAST_POOL = 50
LONGEST_QUESTION = 10_000
RELATED = 2.0
"""Weight of models that belong to what is asked about, beside those that are only like it."""


@dataclass(frozen=True)
class Relative:
    """One hit. `score` orders the hits of one answer: a cosine, or what the fusion of several lists gave."""

    id: str
    name: str
    description: str
    status: str
    tags: Mapping[str, TagValue]
    owners: tuple[str, ...]
    latest_version: int | None
    framework: str | None
    score: float
    why: Why


@dataclass(frozen=True)
class Answer:
    """Hits, best first.

    Args:
        sequence: the event of the tenant up to which models and filter were read.
        behind: events of the log that the vectors do not know yet.
        note: what the answer lacks, as a sentence; None: nothing.
    """

    hits: tuple[Relative, ...]
    sequence: int
    behind: int = 0
    note: str | None = None


@dataclass(frozen=True)
class _Vectors:
    """The vectors of one question."""

    store: VectorStore
    record: Record
    nearest: Nearest

    def embedder(self) -> Embedder:
        return self.store.embedder(self.record)


class Similarity(Desk):
    """Likeness of the models of one tenant, for one actor. Cheap to make.

    Args:
        log: the log of the lake, one per process.
        actor: who asks, as the door has stamped it.
        tenant: the organisation.
        search: which models may answer; by default `ModelSearch` of the same log, actor and tenant.

    Example:
        >>> Similarity(log, actor=actor).find_similar("fraud", k=3)  # doctest: +SKIP
    """

    def __init__(
        self,
        log: Log,
        *,
        actor: Actor,
        tenant: str = "default",
        run_id: str | None = None,
        search: ModelSearch | None = None,
    ) -> None:
        super().__init__(log, actor=actor, tenant=tenant, run_id=run_id)
        self._engine = search or ModelSearch(log, actor=actor, tenant=tenant)
        self._store = VectorStore.of(log.lake)

    # -- questions ----------------------------------------------------------------------------

    def find_similar(
        self, model: str, *, query: str = "", k: int = 10, include_deprecated: bool = False
    ) -> Answer:
        """The k models that are most like one, by its name or id, without it.

        Args:
            query: a filter in the query language; empty: none.

        Raises:
            NotFound: there is no such model.
            NotAllowed: the policy does not let the actor read.
            InvalidInput: the filter cannot be read, or k is none.
            VectorsMissing, VectorsDamaged: there are no vectors that could be compared.
        """
        k = _checked(k)
        view = self.view(about=(MODEL, model))
        state = living(view, MODEL, model)
        matches = self._engine.matching(query, include_deprecated=include_deprecated)
        card = self._card(view, state.id)

        def ask(vectors: _Vectors) -> list[Neighbour]:
            vector = self._vector(vectors, card)
            return self._near(vectors, vector, k, matches, but=[card.id])

        vectors, found = self._asked(ask)
        cards = self.cards([near.id for near in found])
        hits = tuple(
            _relative(
                cards[near.id],
                near.similarity,
                Why(shared(card, cards[near.id]), near.similarity, vector_rank=place),
            )
            for place, near in enumerate(found, start=1)
            if near.id in cards
        )
        return Answer(hits, matches.sequence, self._behind(vectors))

    def search(self, text: str, *, query: str = "", k: int = 10, include_deprecated: bool = False) -> Answer:
        """The k models that a text asks for: full text and vectors, fused by places.

        Where there are no vectors yet, or none that can be used, full text answers alone and the note says so.

        Raises:
            InvalidInput: the text is empty, longer than 10,000 characters, or the filter cannot be read.
            NotAllowed: the policy does not let the actor read.
        """
        k = _checked(k)
        text = _question(text)
        matches = self._engine.matching(query, include_deprecated=include_deprecated)
        return self._hybrid(text, matches, k, [], {})

    def recommend(
        self,
        *,
        dataset: str | None = None,
        task: str | None = None,
        query: str = "",
        k: int = 10,
        include_deprecated: bool = False,
    ) -> Answer:
        """The k models to look at first for a dataset (its name or id) or a task in words.

        Models whose newest version was trained or evaluated on the dataset, or that are tagged with the task,
        weigh most; others follow by what they say.

        Raises:
            InvalidInput: not exactly one of dataset and task is given.
            NotFound: there is no such dataset.
            NotAllowed: the policy does not let the actor read.
        """
        k = _checked(k)
        if (dataset is None) == (task is None):
            raise InvalidInput("name either a dataset or a task to recommend models for")
        matches = self._engine.matching(query, include_deprecated=include_deprecated)
        if dataset is not None:
            view = self.view(about=(DATASET, dataset))
            state = living(view, DATASET, dataset)
            related = self._of_dataset(view, state, matches)
            text = _text_of_dataset(view, state)
        else:
            text = _question(str(task))
            related = self._of_task(text, matches, k)
        return self._hybrid(text, matches, k, list(related), related)

    def readable(self) -> Matches:
        """All living models that the actor may read, deprecated ones too."""
        return self._engine.matching("", include_deprecated=True)

    def near_card(self, card: Card, matches: Matches, k: int) -> list[Neighbour]:
        """The k models nearest to what a card says, which need not be of a model that is registered."""
        _, found = self._asked(
            lambda held: self._near(held, held.embedder().embed([card.text])[0], k, matches)
        )
        return found

    # -- ranking --------------------------------------------------------------------------------

    def _hybrid(
        self,
        text: str,
        matches: Matches,
        k: int,
        related: Sequence[str],
        relations: Mapping[str, tuple[str, ...]],
    ) -> Answer:
        pool = max(POOL * k, LEAST_POOL)
        by_text = [hit.id for hit in self._engine.full_text(text, matches, pool)]
        note: str | None = None
        behind, near = 0, list[Neighbour]()
        try:
            vectors, near = self._asked(
                lambda held: self._near(held, held.embedder().embed_query(text), pool, matches)
            )
            behind = self._behind(vectors)
        except (VectorsMissing, VectorsDamaged, EmbedderUnusable) as failure:
            note = f"full text alone: {failure}"
        by_vector = [one.id for one in near]
        fused = fuse([related, by_text, by_vector], weights=[RELATED, 1.0, 1.0])
        cards = self.cards([one for one, _ in fused[: 2 * k]])
        similarity = {one.id: one.similarity for one in near}
        asked = words_of(text)
        hits = [
            _relative(
                cards[one],
                score,
                Why(
                    similarity=similarity.get(one),
                    text_rank=_place(by_text, one),
                    vector_rank=_place(by_vector, one),
                    relation_rank=_place(related, one),
                    relations=relations.get(one, ()),
                    terms=said_in(cards[one], asked),
                ),
            )
            for one, score in fused[: 2 * k]
            if one in cards
        ]
        return Answer(tuple(hits[:k]), matches.sequence, behind, note)

    def _near(
        self, vectors: _Vectors, vector: Floats, k: int, matches: Matches, *, but: Iterable[str] = ()
    ) -> list[Neighbour]:
        """The k nearest that may answer. A vector of a model that is gone since is passed over."""
        left = set(but)
        if matches.ids is not None:
            return vectors.nearest.to(self.tenant, vector, k, ids=matches.ids, but=left)
        wanted = k
        lives: dict[str, bool] = {}
        while True:
            found = vectors.nearest.to(self.tenant, vector, wanted, but=left)
            lives |= {near.id: matches.contains(near.id) for near in found if near.id not in lives}
            kept = [near for near in found if lives[near.id]]
            if len(kept) >= k or len(found) < wanted:
                return kept[:k]
            wanted *= 2

    def _asked(self, ask: Callable[[_Vectors], T]) -> tuple[_Vectors, T]:
        """Ask the table that holds. One that another embedder's has replaced meanwhile is asked no more."""
        vectors = self._vectors()
        try:
            return vectors, ask(vectors)
        except (VectorsMissing, VectorsDamaged):
            newer = self._vectors()
            if newer.record.table == vectors.record.table:
                raise
            return newer, ask(newer)

    def _vectors(self) -> _Vectors:
        record = self._store.record()
        return _Vectors(self._store, record, nearest_in(self._store, record))

    def _vector(self, vectors: _Vectors, card: Card) -> Floats:
        held = vectors.nearest.vector_of(self.tenant, card.id)
        if held is not None and held[1] == card.digest:
            return held[0]
        row: Floats = vectors.embedder().embed([card.text])[0]
        return row

    def _behind(self, vectors: _Vectors) -> int:
        return max(self.log.position() - vectors.record.position, 0)

    # -- what the registry says -----------------------------------------------------------------

    def _card(self, view: View, model_id: str) -> Card:
        for card in cards_of(self.log.lake, view, [model_id]):
            return card
        raise NotFound(MODEL, model_id, self.tenant)  # Deleted between two looks.

    def cards(self, ids: Sequence[str]) -> dict[str, Card]:
        """Cards of models that matched, by id; they name those base models and datasets that the actor may read."""
        found = list(cards_of(self.log.lake, self.now(), ids))
        # A grant for one model is none for what it was trained on.
        datasets = self.log.decision(Request(self.actor, self.tenant, READ, DATASET)).allowed
        if not datasets or any(card.base_ids for card in found):
            readable = self.readable()
            found = [card.told_to(readable.contains, datasets=datasets) for card in found]
        return {card.id: card for card in found}

    def _of_dataset(self, view: View, dataset: State, matches: Matches) -> dict[str, tuple[str, ...]]:
        """Models whose newest version was made with the dataset: trained on its newest versions first."""
        versions = {s.id: int(s.data["metadata"]["number"]) for s in dataset_versions_of(view, dataset.id)}
        edges = view.by_any("relationships", "target_id", sorted(versions)) if versions else []
        uses: dict[str, tuple[int, int]] = {}
        for edge in edges:
            kind = str(edge.data["type"])
            if edge.deleted or kind not in ("trained_on", "evaluated_on"):
                continue
            rank = (int(kind == "trained_on"), versions[str(edge.data["target_id"])])
            source = str(edge.data["source_id"])
            uses[source] = max(rank, uses.get(source, rank))
        users = view.by_any("model_versions", "id", sorted(uses)) if uses else []
        best: dict[str, tuple[int, int]] = {}
        for state in users:
            model = str(state.data["model_id"])
            if not state.deleted and matches.contains(model):
                best[model] = max(uses[state.id], best.get(model, uses[state.id]))
        verbs = ("evaluated on", "trained on")
        ordered = sorted(best, key=lambda one: (-best[one][0], -best[one][1], one))
        return {one: (f"{verbs[best[one][0]]} {dataset.name}@v{best[one][1]}",) for one in ordered}

    def _of_task(self, task: str, matches: Matches, k: int) -> dict[str, tuple[str, ...]]:
        """Models that full text finds and that have the task as the value of a tag."""
        pool = [hit.id for hit in self._engine.full_text(task, matches, max(POOL * k, LEAST_POOL))]
        wanted = split_name(task).lower()
        found = {}
        for one, card in self.cards(pool).items():
            tags = [f"{key}={value}" for key, value in sorted(card.tags.items()) if _says(value, wanted)]
            if tags:
                found[one] = tuple(f"tagged {tag}" for tag in tags)
        return {one: found[one] for one in pool if one in found}


def _says(value: TagValue, wanted: str) -> bool:
    return isinstance(value, str) and split_name(value).lower() == wanted


def _text_of_dataset(view: View, dataset: State) -> str:
    newest = dataset_versions_of(view, dataset.id)[-1:]
    columns = [str(c["name"]) for s in newest for c in s.data["metadata"].get("columns") or ()]
    tags = " ".join(f"{key} {value}" for key, value in tag_values(dataset.data.get("tags") or {}).items())
    parts = (
        split_name(dataset.name),
        str(dataset.data.get("description") or ""),
        tags,
        " ".join(columns[:40]),
    )
    return " ".join(part for part in parts if part)[:LONGEST_QUESTION]


def _relative(card: Card, score: float, why: Why) -> Relative:
    return Relative(
        card.id,
        card.name,
        card.description,
        card.status,
        card.tags,
        card.owners,
        card.version,
        card.framework,
        score,
        why,
    )


def _place(ranked: Sequence[str], one: str) -> int | None:
    return ranked.index(one) + 1 if one in ranked else None


def _checked(k: int) -> int:
    if not 1 <= k <= MOST:
        raise InvalidInput(f"{k} hits cannot be asked for; 1 to {MOST:,} can")
    return k


def _question(text: str) -> str:
    found = " ".join(text.split())
    if not found:
        raise InvalidInput("there is no text to search for; say in words what the models are to do")
    if len(found) > LONGEST_QUESTION:
        raise InvalidInput(
            f"the text to search for has {len(found):,} characters, and {LONGEST_QUESTION:,} is the most"
        )
    return found
