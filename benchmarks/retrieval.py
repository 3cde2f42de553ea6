"""Recall@10 and mean reciprocal rank of a model's relatives: embedder, plain full text, hybrid, side by side.

Three sets with labels that nobody gave by hand:

* `families`: the models of the shipped catalogue of providers, over 2,000. Relatives are of one family
  (claude, llama ...) at whatever provider. The tag and the sentence that state the family are taken out; names
  still tell it, as they do for people.
* `families, masked`: the same, and the family's name is struck from every name and text, so that only what is
  said beside it is left: makers, versions, sizes, context windows, prose.
* `derived`: 200 of these models as base models, with five models made from each; relatives are of one base. A
  derived model has a name and a description of its own that speak of its task and half of the words that its
  base's description has; what it was made from is recorded as registries do, or (`masked`) not at all.

Each model asks with its own text, without itself among the answers; full text is asked with the same words.

    python -m benchmarks.retrieval
    python -m benchmarks.retrieval --duplicates
    MLREG_EMBEDDER=sentence-transformers:all-mpnet-base-v2 python -m benchmarks.retrieval
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine, peak_mb
from ml_registry_pipelines.exchange.hosted_facts import HostedEntry, family_of, hosted_entries
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.names import TagValue
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.search.cards import Card, all_cards
from ml_registry_pipelines.search.duplicates import ALIKE
from ml_registry_pipelines.search.embedding.embedder import make_embedder
from ml_registry_pipelines.search.models import ModelSearch
from ml_registry_pipelines.search.similar import LONGEST_QUESTION, Similarity
from ml_registry_pipelines.search.vectors.updating import update

ACTOR = Actor("bench")
K = 10
LEAST, BASES, CHILDREN = 5, 200, 5
TASKS = (
    "summarises support tickets for the service desk",
    "writes unit tests for our Python services",
    "sorts incoming invoices by cost centre",
    "answers questions of new employees",
    "translates product descriptions into German",
    "extracts terms and dates from contracts",
    "moderates comments under articles",
    "drafts replies to reviews",
    "labels medical notes with codes",
    "explains anomalies in dashboards",
)


@dataclass(frozen=True)
class Labelled:
    """A model and the group of its relatives; `asks` says whether it is a question too."""

    name: str
    description: str
    tags: dict[str, TagValue]
    label: str
    asks: bool = True


def families(*, masked: bool) -> list[Labelled]:
    """The catalogue, without what states the family; masked: without its name anywhere."""
    found = []
    for entry in hosted_entries():
        label = family_of(entry.model)
        tags = {k: v for k, v in entry.tags.items() if k in ("provider", "context_window", "maker")}
        text = (
            re.sub(rf"Family {re.escape(label)}\b[^.]*\. ?", "", entry.description)
            if label
            else entry.description
        )
        name = entry.name
        if masked and label:
            strike = re.compile(re.escape(label), re.IGNORECASE)
            name, text = strike.sub("", name), strike.sub("", text)
            tags = {k: strike.sub("", v) if isinstance(v, str) else v for k, v in tags.items()}
        found.append(Labelled(name, text, tags, label))
    sizes: dict[str, int] = defaultdict(int)
    for one in found:
        sizes[one.label] += 1
    taken: dict[str, int] = defaultdict(int)
    labelled = []
    for one in found:
        taken[one.name.lower()] += 1
        number = taken[one.name.lower()]
        name = one.name if number == 1 else f"{one.name} {number}"
        labelled.append(replace(one, name=name, asks=bool(one.label) and sizes[one.label] > LEAST))
    return labelled


def derived(*, masked: bool) -> list[Labelled]:
    """Base models of the catalogue with a group of models made from each."""
    draw = random.Random(6)
    described = [entry for entry in hosted_entries() if len(entry.description) > 200]
    found = []
    for number, base in enumerate(draw.sample(described, min(BASES, len(described)))):
        label = str(number)
        found.append(Labelled(base.name, base.description, {"provider": base.provider}, label, asks=False))
        words = base.description.split()
        for child in range(CHILDREN):
            task = draw.choice(TASKS)
            kept = " ".join(word for word in words if draw.random() < 0.5)
            made = "" if masked else f" Made from {base.model}."
            team = draw.choice(("desk", "legal", "care", "shop", "data"))
            found.append(
                Labelled(
                    f"{team}-{task.split()[0]}-{number * CHILDREN + child}",
                    f"This model {task}. {kept}{made}",
                    {"team": team},
                    label,
                )
            )
    return found


SETS: dict[str, Callable[[], list[Labelled]]] = {
    "families": lambda: families(masked=False),
    "families, masked": lambda: families(masked=True),
    "derived": lambda: derived(masked=False),
    "derived, masked": lambda: derived(masked=True),
}


@dataclass
class Scores:
    """Sums over questions."""

    recall: float = 0.0
    reciprocal: float = 0.0
    seconds: float = 0.0
    asked: int = 0

    def add(self, found: Sequence[str], relevant: set[str], seconds: float) -> None:
        places = [n for n, one in enumerate(found[:K], start=1) if one in relevant]
        self.recall += len(places) / min(K, len(relevant))
        self.reciprocal += 1 / places[0] if places else 0.0
        self.seconds += seconds
        self.asked += 1

    @property
    def row(self) -> str:
        n = max(self.asked, 1)
        return f"{self.recall / n:.3f}  {self.reciprocal / n:.3f}  {1000 * self.seconds / n:7.1f} ms"


def register(log: Log, models: Sequence[Labelled]) -> None:
    registry = ModelRegistry(log, actor=ACTOR)
    registry.register_many(NewThing(m.name, description=m.description, tags=m.tags) for m in models)


def measure(models: Sequence[Labelled], questions: int) -> Iterator[str]:
    """A line for each way to search."""
    label = {m.name: m.label for m in models}
    with tempfile.TemporaryDirectory() as root, Lake(root) as lake, Log(lake) as log:
        register(log, models)
        done = update(log)
        yield f"  {len(models):,} models, {done.embedded / done.seconds:,.0f} a second with reading and writing"
        cards = list(all_cards(lake, log.view("default")))
        groups: dict[str, set[str]] = defaultdict(set)
        for card in cards:
            groups[label[card.name]].add(card.id)
        asking = {m.name for m in models if m.asks}
        asked = sorted((c for c in cards if c.name in asking), key=lambda c: c.name)
        asked = random.Random(7).sample(asked, min(questions, len(asked)))
        search, like = ModelSearch(log, actor=ACTOR), Similarity(log, actor=ACTOR)
        everything = search.matching()
        search.full_text("warm", everything, 1)
        like.find_similar(asked[0].id, k=1)

        def by_text(card: Card) -> list[str]:
            return [h.id for h in search.full_text(card.text[:LONGEST_QUESTION], everything, K + 1)]

        def by_vector(card: Card) -> list[str]:
            return [h.id for h in like.find_similar(card.id, k=K).hits]

        def by_both(card: Card) -> list[str]:
            return [h.id for h in like.search(card.text[:LONGEST_QUESTION], k=K + 1).hits]

        for name, ask in (
            ("plain full text (BM25)", by_text),
            (done.embedder, by_vector),
            ("hybrid (fused by places)", by_both),
        ):
            scores = Scores()
            for card in asked:
                started = time.perf_counter()
                found = [one for one in ask(card) if one != card.id]
                scores.add(found, groups[label[card.name]] - {card.id}, time.perf_counter() - started)
            yield f"  {name:<34}{scores.row}"


def duplicates() -> Iterator[str]:
    """How often a threshold finds a copy, and how often it warns of a model that is none.

    Entries of the catalogue are as near as models get: texts of one form, many variants of one model. Where the
    same model is offered by another provider, a warning would be right, so such pairs are left out.
    """
    draw = random.Random(8)
    entries = hosted_entries()
    texts = [_card(entry.name, entry.description).text for entry in entries]
    embedder = make_embedder().fitted(texts)
    vectors = embedder.embed(texts)
    near = vectors @ vectors.T
    own = np.array([re.sub(r"[^a-z0-9]", "", entry.model.rpartition("/")[2].lower()) for entry in entries])
    near[own[:, None] == own[None, :]] = -1.0
    nearest = near.max(axis=1)
    chosen = draw.sample(range(len(entries)), 500)
    found = {}
    for part in (0.02, 0.125):
        changed = [_card(*_changed(draw, entries[n], part)).text for n in chosen]
        found[part] = np.einsum("ij,ij->i", embedder.embed(changed), vectors[chosen])
    renamed = [_card(f"team-{n}-model", entries[n].description).text for n in chosen]
    again = np.einsum("ij,ij->i", embedder.embed(renamed), vectors[chosen])
    yield f"{len(entries):,} models of the catalogue, 500 copies of them"
    yield "          copies found, name put otherwise and words left out      copies under    models with another"
    yield "  cosine          1 in 50          1 in 8                          another name    one as near"
    for least in (0.85, 0.88, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99):
        mark = " <- in use" if least == ALIKE else ""
        few, many = ((found[part] >= least).mean() for part in (0.02, 0.125))
        yield (
            f"  {least:.2f}    {few:15.1%} {many:15.1%}    {(again >= least).mean():32.1%}"
            f"    {(nearest >= least).mean():11.1%}{mark}"
        )


def _changed(draw: random.Random, entry: HostedEntry, part: float) -> tuple[str, str]:
    """The same model as somebody else would register it."""
    words = [word for word in entry.description.split() if draw.random() > part]
    return entry.model.rpartition("/")[2].replace("-", "_"), " ".join(words)


def _card(name: str, description: str) -> Card:
    return Card(
        "default",
        "",
        name,
        "active",
        description,
        {},
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


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--questions", type=int, default=500)
    options.add_argument("--duplicates", action="store_true", help="measure the threshold of near duplicates")
    options.add_argument("--set", choices=list(SETS), help="one of the sets alone")
    given = options.parse_args()
    print(describe_machine())
    if given.duplicates:
        for line in duplicates():
            print(line)
        return
    print(f"{'':<36}recall@{K}  MRR     per question")
    for name, make in SETS.items():
        if given.set in (None, name):
            print(name)
            for line in measure(make(), given.questions):
                print(line, flush=True)
    print(f"peak memory {peak_mb():,.0f} MB; {Path(__file__).stem}")


if __name__ == "__main__":
    main()
