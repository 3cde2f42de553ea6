"""Reciprocal rank fusion: several lists of the same things become one, by places and not by scores.

Scores of a full-text search and cosines are of no common scale; places are. A thing at place r of a list gets
1 / (60 + r) from it (Cormack, Clarke and Büttcher, SIGIR 2009, https://doi.org/10.1145/1571941.1572114).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

CONSTANT = 60


def fuse(lists: Sequence[Sequence[T]], *, weights: Sequence[float] | None = None) -> list[tuple[T, float]]:
    """All things of the lists with their scores, best first; of equal scores the one named first.

    Example:
        >>> [thing for thing, _ in fuse([["a", "b"], ["b", "c"]])]
        ['b', 'a', 'c']
    """
    scores: dict[T, float] = {}
    for weight, ranked in zip(weights or [1.0] * len(lists), lists, strict=True):
        for place, thing in enumerate(dict.fromkeys(ranked), start=1):
            scores[thing] = scores.get(thing, 0.0) + weight / (CONSTANT + place)
    return sorted(scores.items(), key=lambda item: -item[1])
