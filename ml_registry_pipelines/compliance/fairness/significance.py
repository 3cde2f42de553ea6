"""Whether two groups differ by more than chance: tests of pairs, and their correction for many of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

FEW = 5
"""A cell below which the normal approximation is not used."""
MOST_SHOWN = 50


class Correction(Enum):
    """What the p values of several pairs are corrected for."""

    HOLM = "holm"
    BENJAMINI_HOCHBERG = "benjamini-hochberg"
    NONE = "none"


@dataclass(frozen=True)
class Tested:
    """Two groups, compared by a test; two-sided p value."""

    first: str
    second: str
    test: str
    p: float


def two_shares(hits: int, n: int, of_hits: int, of_n: int) -> tuple[str, float]:
    """Test of equal shares: z with pooled variance, or Fisher's exact test where a cell has under 5."""
    cells = (hits, n - hits, of_hits, of_n - of_hits)
    if min(cells) < FEW:
        return "fisher", fisher(hits, n, of_hits, of_n)
    pooled = (hits + of_hits) / (n + of_n)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / of_n))
    return "z", math.erfc(abs(hits / n - of_hits / of_n) / spread / math.sqrt(2))


def fisher(hits: int, n: int, of_hits: int, of_n: int) -> float:
    """Two-sided p value of Fisher's exact test."""
    from scipy.stats import fisher_exact

    return float(fisher_exact([[hits, n - hits], [of_hits, of_n - of_hits]]).pvalue)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact McNemar test of paired answers, from those that differ. Q. McNemar, Psychometrika 12, 1947."""
    from scipy.stats import binomtest

    differ = only_first + only_second
    return float(binomtest(only_first, differ).pvalue) if differ else 1.0


def corrected(values: Sequence[float], correction: Correction) -> list[float]:
    """Adjusted p values, in the order given.

    S. Holm, Scandinavian Journal of Statistics 6, 1979; Y. Benjamini, Y. Hochberg, JRSS B 57, 1995.
    """
    if correction is Correction.NONE:
        return list(values)
    if correction is Correction.BENJAMINI_HOCHBERG:
        from scipy.stats import false_discovery_control

        return [float(p) for p in false_discovery_control(values)] if values else []
    m = len(values)
    adjusted, before = [0.0] * m, 0.0
    for rank, index in enumerate(sorted(range(m), key=values.__getitem__)):
        before = max(before, min(1.0, (m - rank) * values[index]))
        adjusted[index] = before
    return adjusted


def shown(tests: Sequence[Tested], correction: Correction) -> dict[str, object]:
    """Tests as evidence: the pairs by p value, with how they were corrected and over how many."""
    adjusted = corrected([t.p for t in tests], correction)
    pairs = sorted(zip(tests, adjusted, strict=True), key=lambda pair: (pair[0].p, pair[0].first))
    return {
        "pairs": [
            {"groups": [t.first, t.second], "test": t.test, "p": t.p, "p_corrected": p}
            for t, p in pairs[:MOST_SHOWN]
        ],
        "pairs_tested": len(tests),
        "correction": correction.value,
    }
