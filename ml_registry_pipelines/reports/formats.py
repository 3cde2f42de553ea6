"""How figures are written for people: exact decimals, units, and words where there is no figure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import date
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
"""Stands where a figure does not apply."""
NOT_PRICED = "not priced"
"""Stands where a cost is not known, which is never written as 0."""


def count(value: int | None) -> str:
    """1234567 -> `1,234,567`."""
    return NOTHING if value is None else f"{value:,}"


def short_count(value: int) -> str:
    """1234567 -> `1.23 M`, for headlines."""
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size - size // 2000:
            return f"{value / size:.3g} {letter}"
    return str(value)


def money(value: Decimal, *, decimals: int = 4) -> str:
    """An amount with a fixed number of decimals, rounded half to even; a tiny one is not written as 0."""
    least = Decimal(1).scaleb(-decimals)
    if 0 < abs(value) < least:
        return f"{_MINUS if value < 0 else ''}<{least:f}"
    return f"{value.quantize(least, rounding=ROUND_HALF_EVEN):,f}".replace("-", _MINUS)


def amounts(costs: Sequence[tuple[str, Decimal]]) -> str:
    """Amounts of one or several currencies, never added: `112.17 USD + 0.0300 EUR`."""
    return " + ".join(
        f"{money(cost, decimals=2 if abs(cost) >= 1 else 4)} {currency}" for currency, cost in costs
    )


def exact(value: Decimal) -> str:
    """All digits of an amount, without trailing zeros."""
    return f"{value.normalize(Context(prec=50)):f}" if value else "0"


def unit_price(value: Decimal) -> str:
    """A price of 1,000 tokens, with six decimals."""
    return money(value, decimals=6)


def share(part: int, whole: int) -> str:
    """A share in percent that says 0% and 100% only where it is exactly that."""
    if not whole:
        return NOTHING
    tenths = (Decimal(part) * 1000 / whole).quantize(
        Decimal(1), rounding=ROUND_FLOOR if part < whole else None
    )
    if part and not tenths:
        return "<0.1%"
    return f"{tenths / 10:.1f}%" if tenths % 1000 else f"{tenths // 10}%"


def milliseconds(value: float | None) -> str:
    """A time in whole ms, for a column whose head names the unit."""
    return NOTHING if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def duration(value: float | None) -> str:
    """A time with its unit: `457 ms`, `3.01 s`, `124 s`."""
    if value is None:
        return NOTHING
    if value < 999.5:
        return f"{value:.3g} ms"
    return (
        f"{value / 1000:.2f} s"
        if value < 9_995
        else f"{value / 1000:.1f} s"
        if value < 99_950
        else f"{value / 1000:,.0f} s"
    )


def durations(values: Sequence[float | None]) -> str:
    """Times side by side, the unit once where it is the same: `3.01 / 12.5 / 19.0 s`."""
    parts = [duration(value).split(" ") for value in values]
    if len({part[-1] for part in parts}) == 1 and len(parts[0]) == 2:
        return f"{' / '.join(part[0] for part in parts)} {parts[0][1]}"
    return " / ".join(" ".join(part) for part in parts)


def speed(value: float | None) -> str:
    """Tokens per second."""
    return NOTHING if value is None else f"{value:,.1f}"


def days(first: date, last: date) -> str:
    """`2026-10-02`, or `2026-10-02 to 2026-10-31`."""
    return first.isoformat() if first == last else f"{first.isoformat()} to {last.isoformat()}"


def name(value: str | None, otherwise: str) -> str:
    """A name out of a log, as it can be shown: without characters that control the page's text."""
    if not value:
        return otherwise
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") else c for c in value)


def short_names(values: Sequence[str], *, longest: int) -> dict[str, str]:
    """Names for a chart, cut where they are long, and still different from one another.

    The cut is in the middle, or elsewhere if that tells all of them apart; failing that, they are numbered.
    """
    for head in (longest // 2, longest * 3 // 4, longest // 4, longest - 1, 0):
        tail = longest - 1 - head
        cut = {v: v if len(v) <= longest else f"{v[:head]}…{v[len(v) - tail :]}" for v in values}
        if len(set(cut.values())) == len(cut):
            return cut
    return {
        value: f"{value[: longest - 6]}… ({number})"
        for number, value in enumerate(dict.fromkeys(values), start=1)
    }
