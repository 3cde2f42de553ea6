"""How much a sample says: percentiles that rest on too few values."""

from __future__ import annotations

BEYOND = 10
"""Values that have to lie beyond a percentile for it to say much: p99 of 1,000, p95 of 200."""


def says_little(n: int, quantile: float) -> bool:
    """Whether a percentile of n values rests on under `BEYOND` values beyond it."""
    return n > 0 and n * (1 - quantile) < BEYOND - 1e-9
