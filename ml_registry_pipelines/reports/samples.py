"""How much a sample says: intervals of shares, and percentiles that rest on too few values."""

from __future__ import annotations

import math

BEYOND = 10
"""Values that have to lie beyond a percentile for it to say much: p99 of 1,000, p95 of 200."""
CONFIDENCE_Z = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


def wilson(hits: int, n: int) -> tuple[float, float] | None:
    """Bounds of a share, two-sided 95 %: the score interval of E. B. Wilson, JASA 22 (1927); None of nothing."""
    if not n:
        return None
    z2, share = CONFIDENCE_Z**2, hits / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = CONFIDENCE_Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def says_little(n: int, quantile: float) -> bool:
    """Whether a percentile of n values rests on under `BEYOND` values beyond it."""
    return n > 0 and n * (1 - quantile) < BEYOND - 1e-9
