"""Vectors follow the registry: what changed since the last event that they know is embedded again.

The text of a model decides: one whose text is as it was keeps its vector, one that is deleted loses it. With
another embedder every model is embedded into a table of that embedder's own, which begins to hold when it is
whole; then the old one goes. Whatever breaks off is gone on with by the next update, since what is embedded
already is known by its digest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from ml_registry_pipelines.registry.events import BULK
from ml_registry_pipelines.registry.states import DATASET, MODEL, MODEL_VERSION
from ml_registry_pipelines.search.cards import Card, all_cards, cards_of
from ml_registry_pipelines.search.embedding.embedder import Embedder, configured, make_embedder, refused
from ml_registry_pipelines.search.vectors.nearest import INDEX_FROM
from ml_registry_pipelines.search.vectors.store import (
    Record,
    VectorStore,
    probe_of,
    table_name,
)
from ml_registry_pipelines.search.vectors.table import (
    VectorsDamaged,
    VectorsMissing,
    VectorTable,
    key_of,
    rows,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

T = TypeVar("T")

AT_ONCE = 4_000
"""Models that are embedded and written in one go."""
GROWTH = 2
"""Times as many models as the embedder learnt from, at which it learns again and all are embedded anew."""
MOST_EVENTS = 20_000
"""Events since the last update beyond which all models are compared instead."""
SCRUBBED = 64 << 20
"""Bytes of vectors up to which a table is written anew at once when some went; larger ones wait for a whole update."""


@dataclass(frozen=True)
class Updated:
    """What an update did.

    Args:
        whole: whether all models were compared, not only those that events were about.
        backfilled: whether it went into a new table, for another embedder or because there was none.
        replaced: tables of other embedders that were removed.
    """

    embedder: str
    dimension: int
    table: str
    vectors: int
    embedded: int
    unchanged: int
    removed: int
    whole: bool
    backfilled: bool
    indexed: bool
    position: int
    seconds: float
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """How vectors stand to the models, by comparing all of them.

    Args:
        missing, stale: living models without a vector, or with one of another text.
        surplus: vectors of models that are deleted or unknown.
        behind: events that no update has looked at yet.
        problem: why the vectors cannot be used at all; then the numbers say nothing.
        changing: the setting names another embedder than the vectors are of.
    """

    embedder: str
    configured: str
    dimension: int
    models: int
    vectors: int
    missing: tuple[str, ...]
    stale: tuple[str, ...]
    surplus: tuple[str, ...]
    behind: int
    changing: bool = False
    problem: str | None = None

    @property
    def is_current(self) -> bool:
        return not (self.problem or self.changing or self.missing or self.stale or self.surplus)

    @property
    def sentence(self) -> str:
        if self.problem:
            return self.problem
        if self.is_current:
            return f"All {self.models} models have a vector of what they are now."
        told = [
            f"{len(found)} {what}"
            for found, what in (
                (self.missing, "models have no vector"),
                (self.stale, "vectors are of an earlier text"),
                (self.surplus, "vectors are of models that are gone"),
            )
            if found
        ]
        if self.changing:
            told.append(f"they are by {self.embedder}, and the setting is {self.configured}")
        wrong = refused(self.configured)
        return "; ".join(told) + f"; {wrong or '`mlreg embeddings update` brings them up to date'}."


@dataclass
class _Counts:
    embedded: int = 0
    unchanged: int = 0
    removed: int = 0
    gone: list[str] = field(default_factory=list)


def update(log: Log, *, embedder: Embedder | None = None, whole: bool = False) -> Updated:
    """Bring the vectors of all tenants up to date with the log.

    Args:
        embedder: by default the one that the setting names.
        whole: compare all models, also those that no new event is about; drop what is left over.

    Raises:
        EmbedderUnusable: the embedder cannot be loaded, or failed.
        VectorsDamaged: the table cannot be read or written; `rebuild` makes it anew.
    """
    started = time.perf_counter()
    store = VectorStore.of(log.lake)
    embedder = embedder or make_embedder(configured())
    with store.writing():
        usable = _usable(store, embedder)
        if usable is None:
            return _fill(log, store, embedder, started)
        record, fitted = usable
        position, counts = log.position(), _Counts()
        table = store.table_of(record)
        touched = None if whole else _touched(log, record.position, position)
        if touched is None:
            _compare_all(log, table, fitted, position, counts)
        else:
            _follow(log, table, fitted, position, touched, counts)
        if _outgrown(fitted, record, table.count() - len(counts.gone)):
            return _fill(log, store, embedder, started)
        indexed = _settle(table, counts, whole=touched is None)
        record = store.advance(record, position)
        replaced = store.drop_others(record) if touched is None else []
        return _updated(record, table, counts, started, indexed, replaced, whole=touched is None)


def rebuild(log: Log, *, embedder: Embedder | None = None) -> Updated:
    """Make all vectors anew, whatever lies there; what can be read of the old ones is read until they are made."""
    started = time.perf_counter()
    store = VectorStore.of(log.lake)
    embedder = embedder or make_embedder(configured())
    with store.writing():
        return _fill(log, store, embedder, started, anew=True)


def _fill(log: Log, store: VectorStore, embedder: Embedder, started: float, *, anew: bool = False) -> Updated:
    """Embed every model into a table that does not hold yet, then let it hold; goes on where one broke off."""
    fitted, models = _fitted_to(log, embedder)
    name = table_name(fitted)
    name = next(one for one in (name, f"{name}-1") if one != _holds(store))
    table = store.table(name, fitted.dimension)
    if anew or (table.exists and not _is_sound(table)):
        store.remove(name)
    table.create()
    store.keep_state(name, fitted)
    position, counts = log.position(), _Counts()
    _compare_all(log, table, fitted, position, counts)
    indexed = _settle(table, counts, whole=True)
    record = Record(
        name,
        fitted.spec,
        embedder.fingerprint,
        fitted.fingerprint,
        models,
        fitted.dimension,
        position,
        probe_of(fitted),
    )
    store.keep(record)
    replaced = store.drop_others(record)
    return _updated(record, table, counts, started, indexed, replaced, whole=True, backfilled=True)


def _fitted_to(log: Log, embedder: Embedder) -> tuple[Embedder, int]:
    """The embedder that has learnt from all models, and how many these were."""
    models = 0

    def texts() -> Iterator[str]:
        nonlocal models
        for card in _cards(log):
            models += 1
            yield card.text

    return embedder.fitted(texts()), models


def _outgrown(embedder: Embedder, record: Record, models: int) -> bool:
    """Whether so many models came since that what words are rare is to be learnt again."""
    least = embedder.learns_from
    return least is not None and models >= max(GROWTH * record.fitted_to, least)


def _updated(
    record: Record,
    table: VectorTable,
    counts: _Counts,
    started: float,
    indexed: bool,
    replaced: Sequence[str],
    *,
    whole: bool,
    backfilled: bool = False,
) -> Updated:
    return Updated(
        embedder=record.spec,
        dimension=record.dimension,
        table=record.table,
        vectors=table.count(),
        embedded=counts.embedded,
        unchanged=counts.unchanged,
        removed=counts.removed,
        whole=whole,
        backfilled=backfilled,
        indexed=indexed,
        position=record.position,
        seconds=time.perf_counter() - started,
        replaced=tuple(replaced),
    )


def _is_sound(table: VectorTable) -> bool:
    try:
        table.columns("key", "digest")
    except (VectorsDamaged, VectorsMissing):
        return False
    return True


@dataclass(frozen=True)
class Late:
    """Whether vectors wait for an update, and how many there are."""

    is_late: bool
    vectors: int


def late(log: Log) -> Late:
    """Whether an update would find something to do, from the events since the last one alone.

    Raises:
        EmbedderUnusable: the embedder that is set cannot be loaded.
        VectorsDamaged: the vectors cannot be read.
    """
    store = VectorStore.of(log.lake)
    try:
        record = store.record()
        vectors = store.table_of(record).count()
    except VectorsMissing:
        return Late(True, 0)
    if record.spec != configured():
        return Late(True, vectors)
    touched = _touched(log, record.position, log.last_position())
    return Late(touched is None or any(touched.values()), vectors)


def status(log: Log) -> Status:
    """How the vectors stand to the models of all tenants; compares every model."""
    store = VectorStore.of(log.lake)
    wanted = configured()
    try:
        record = store.record()
        here = _digests(store.table_of(record))
    except (VectorsMissing, VectorsDamaged) as failure:
        models = sum(1 for _ in _cards(log))
        return Status("", wanted, 0, models, 0, (), (), (), 0, problem=None if not models else str(failure))
    missing, stale, models = [], [], 0
    left = set(here)
    for card in _cards(log):
        models += 1
        key = key_of(card.tenant, card.id)
        left.discard(key)
        if key not in here:
            missing.append(key)
        elif here[key] != card.digest:
            stale.append(key)
    return Status(
        embedder=record.spec,
        configured=wanted,
        dimension=record.dimension,
        models=models,
        vectors=len(here),
        missing=tuple(missing),
        stale=tuple(stale),
        surplus=tuple(sorted(left)),
        behind=max(log.position() - record.position, 0),
        changing=wanted != record.spec,
    )


def _usable(store: VectorStore, embedder: Embedder) -> tuple[Record, Embedder] | None:
    """The record that an update goes on from, and its embedder; None where a table has to be filled first."""
    try:
        record = store.record()
        fitted = store.fitted(embedder, record)
        if fitted is None:
            return None
        store.table_of(record).count()
    except VectorsMissing:
        return None
    return record, fitted


def _holds(store: VectorStore) -> str | None:
    try:
        return store.record().table
    except (VectorsMissing, VectorsDamaged):
        return None


def _touched(log: Log, after: int, until: int) -> dict[str, set[str]] | None:
    """Models by tenant that events are about; None where all have to be compared."""
    if until - after > MOST_EVENTS or until < after:
        return None
    found: dict[str, set[str]] = {}
    for event in log.between(after + 1, until):
        match event.entity_type:
            case entity if entity == BULK:
                return None
            case entity if entity in (MODEL, DATASET) and event.action.startswith("rename"):
                return None  # What refers to it names it.
            case entity if entity == MODEL:
                found.setdefault(event.tenant, set()).add(event.entity_id)
            case entity if entity == MODEL_VERSION:
                found.setdefault(event.tenant, set()).add(str(event.state["model_id"]))
    return found


def _follow(
    log: Log,
    table: VectorTable,
    embedder: Embedder,
    position: int,
    touched: Mapping[str, set[str]],
    counts: _Counts,
) -> None:
    if not any(touched.values()):
        return
    here = _digests(table)
    for tenant, ids in sorted(touched.items()):
        view = log.view(tenant)
        for some in _in_parts(sorted(ids), AT_ONCE):
            cards = list(cards_of(log.lake, view, some))
            _embed(table, embedder, position, cards, here, counts)
            alive = {card.id for card in cards}
            counts.gone += [key_of(tenant, i) for i in some if i not in alive and key_of(tenant, i) in here]


def _compare_all(log: Log, table: VectorTable, embedder: Embedder, position: int, counts: _Counts) -> None:
    here = _digests(table)
    left = set(here)
    for some in _in_parts(_cards(log), AT_ONCE):
        _embed(table, embedder, position, some, here, counts)
        left -= {key_of(card.tenant, card.id) for card in some}
    counts.gone += sorted(left)


def _cards(log: Log) -> Iterator[Card]:
    for tenant in log.tenants():
        yield from all_cards(log.lake, log.view(tenant))


def _embed(
    table: VectorTable,
    embedder: Embedder,
    position: int,
    cards: Sequence[Card],
    here: Mapping[str, str],
    counts: _Counts,
) -> None:
    new = [card for card in cards if here.get(key_of(card.tenant, card.id)) != card.digest]
    counts.unchanged += len(cards) - len(new)
    if not new:
        return
    vectors = embedder.embed([card.text for card in new])
    table.put(rows([c.tenant for c in new], [c.id for c in new], [c.digest for c in new], position, vectors))
    counts.embedded += len(new)


def _settle(table: VectorTable, counts: _Counts, *, whole: bool) -> bool:
    """Take out what is gone, for good, and index what is large; whether there is an index."""
    if counts.gone:
        table.delete(counts.gone)
        counts.removed += len(counts.gone)
    size = table.count() * table.dimension * 4
    if (counts.gone or counts.embedded) and (whole or size <= SCRUBBED):
        table.scrub()
    elif counts.gone or counts.embedded:
        table.tidy()
    if size <= INDEX_FROM:
        return False
    if not table.is_indexed:
        table.build_index()
    return True


def _digests(table: VectorTable) -> dict[str, str]:
    held = table.columns("key", "digest")
    return dict(zip(held["key"].to_pylist(), held["digest"].to_pylist(), strict=True))


def _in_parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while some := list(islice(left, size)):
        yield some
