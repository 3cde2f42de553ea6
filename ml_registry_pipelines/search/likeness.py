"""Why one model is like another, or answers a question: what both say, in facts that a person can check."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ml_registry_pipelines.search.cards import Card, split_name

WORDS = 6
"""Shared words that are named."""
COLUMNS = 6
_WORD = re.compile(r"[^\W_]+(?:[.'-][^\W_]+)*")
_STOP = frozenset(
    _WORD.findall(
        "a about after all also an and any are as at be been before being but by can could do does for from had has "
        "have how if in into is it its made may model models more most no not of off on one only or other our out "
        "over own same so some such than that the their them then there these they this those to under up use used "
        "uses using very was we were what when where which while who will with within without would you your"
    )
)
"""Words that say nothing about a model."""


@dataclass(frozen=True)
class Why:
    """Why a hit is there.

    Args:
        shared: by kind (tags, datasets, base models, framework, licence, inputs, outputs, owners, words) what
            hit and question have in common.
        similarity: cosine of the angle between their vectors, at most 1; None where a vector was not compared.
        text_rank, vector_rank, relation_rank: place of the hit in each of the lists that were fused, from 1.
        relations: how the hit belongs to what was asked about: `trained on credit`.
        terms: words of the question that its text holds.
    """

    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    similarity: float | None = None
    text_rank: int | None = None
    vector_rank: int | None = None
    relation_rank: int | None = None
    relations: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        told = [*self.relations]
        told += [
            f"same {kind}: {', '.join(values)}" for kind, values in self.shared.items() if kind != "words"
        ]
        if words := self.shared.get("words"):
            told.append(f"both say {', '.join(words)}")
        if self.terms:
            told.append(f"text has {', '.join(self.terms)}")
        if self.similarity is not None:
            told.append(f"similarity {self.similarity:.2f}")
        return "; ".join(told) or "nearest of what is left"


def words_of(*texts: str) -> list[str]:
    """Words that say something, lower-case, each once, in their order."""
    found = (word.lower() for text in texts for word in _WORD.findall(text))
    return [word for word in dict.fromkeys(found) if len(word) > 1 and word not in _STOP]


def card_words(card: Card) -> list[str]:
    return words_of(split_name(card.name), card.description, card.words)


def shared(one: Card, other: Card) -> dict[str, tuple[str, ...]]:
    """What two models have in common, by kind; kinds without anything are left out."""
    theirs = set(card_words(other))
    found = {
        "base model": _both(one.base_models, other.base_models),
        "datasets": _both((*one.trained_on, *one.evaluated_on), (*other.trained_on, *other.evaluated_on)),
        "tags": tuple(
            f"{key}={value}" for key, value in sorted(one.tags.items()) if other.tags.get(key) == value
        ),
        "framework": _both((one.framework,), (other.framework,)),
        "licence": _both((one.licence,), (other.licence,)),
        "inputs": _both(one.inputs, other.inputs)[:COLUMNS],
        "outputs": _both(one.outputs, other.outputs)[:COLUMNS],
        "owners": _both(one.owners, other.owners),
        "words": tuple(word for word in card_words(one) if word in theirs)[:WORDS],
    }
    if one.name in other.base_models:
        found["base model"] = (*found["base model"], f"made from {one.name}")
    if other.name in one.base_models:
        found["base model"] = (*found["base model"], f"{one.name} was made from it")
    return {kind: values for kind, values in found.items() if values}


def said_in(card: Card, question: Iterable[str]) -> tuple[str, ...]:
    """The words of a question that the text of a card has."""
    said = set(words_of(card.text))
    return tuple(word for word in question if word in said)[:WORDS]


def _both(one: Iterable[str | None], other: Iterable[str | None]) -> tuple[str, ...]:
    theirs = set(other)
    return tuple(dict.fromkeys(value for value in one if value and value in theirs))
