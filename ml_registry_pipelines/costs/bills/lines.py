"""One line of a provider's bill as a value, and how its amounts and times are read exactly.

What a report calls things is in `formats/`; how lines get into the table is in `intake.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import cached_property, lru_cache
from typing import Any

DECIMALS = Decimal(1).scaleb(-12)
EXACT = Context(prec=76, rounding=ROUND_HALF_EVEN)
"""For sums and products of such amounts: Python's own context would round at 28 digits."""
LARGEST = Decimal(10) ** 26
"""What DECIMAL(38,12) holds stays below this."""
LONGEST_TEXT = 2000
_EXACT = 60
"""Characters that an amount may have; beyond, it is no amount."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}")

NO_MINOR_UNIT = frozenset(
    {
        "BIF",
        "CLP",
        "DJF",
        "GNF",
        "ISK",
        "JPY",
        "KMF",
        "KRW",
        "PYG",
        "RWF",
        "UGX",
        "VND",
        "VUV",
        "XAF",
        "XOF",
        "XPF",
    }
)
THREE_DECIMALS = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})
"""Currencies whose smallest unit is not a hundredth (ISO 4217)."""


class LineError(Exception):
    """A record that cannot be taken: a reason for programs, and a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Given:
    """What a source or pull says about all its lines.

    `providers` translates names of the bill into the provider ids of the logs; `known` are the ids
    that may stand without that. `categories` are the FOCUS service categories that are taken, `*` all.
    """

    account: str | None = None
    tenant: str | None = None
    currency: str | None = None
    provider: str | None = None
    providers: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    categories: tuple[str, ...] = ("AI and Machine Learning",)

    def provider_of(self, name: str) -> str:
        """The provider id that a bill's name means.

        Raises:
            LineError: nobody has said which one it is.
        """
        wanted = name.strip()
        given = {key.lower(): value for key, value in self.providers.items()}
        if found := given.get(wanted.lower()):
            return found
        plain = ALIASES.get(wanted.lower(), wanted.lower())
        if plain in self.known:
            return plain
        raise LineError(
            "unknown_provider",
            f"no provider is known as {wanted[:80]!r}; say which one of the logs it is under `providers` of the source",
        )


ALIASES: Mapping[str, str] = {
    "amazon web services": "aws",
    "amazon": "aws",
    "microsoft": "azure",
    "microsoft azure": "azure",
    "google cloud": "google",
    "google cloud platform": "google",
    "mistral ai": "mistral",
    "x.ai": "x-ai",
    "xai": "x-ai",
}
"""Names that bills use for providers of the price lists."""


@dataclass(frozen=True)
class Line:
    """One billed line. Amounts are in `currency`; `identity` holds dimensions that no column has."""

    report: str
    kind: str
    provider: str
    issuer: str
    period_start: datetime
    period_end: datetime
    tenant: str | None = None
    account: str | None = None
    sub_account: str | None = None
    api_key_id: str | None = None
    product: str | None = None
    model: str | None = None
    line_item: str | None = None
    charge: str | None = None
    charge_class: str | None = None
    token_kind: str | None = None
    service_tier: str | None = None
    quantity: Decimal | None = None
    unit: str | None = None
    list_amount: Decimal | None = None
    amount: Decimal | None = None
    currency: str | None = None
    estimated: bool = False
    provider_line_id: str | None = None
    grouping: str | None = None
    identity: tuple[str, ...] = ()
    occurrence: int = 0

    @property
    def day(self) -> date:
        return self.period_start.date()

    @property
    def bucket(self) -> tuple[str, str, str | None, datetime, datetime]:
        """What a complete report states anew as a whole: report, issuer, account and period."""
        return (self.report, self.issuer, self.account, self.period_start, self.period_end)

    @cached_property
    def dimensions(self) -> tuple[object, ...]:
        """All that tells the line from others, without amounts, quantity and occurrence."""
        if self.provider_line_id is not None:
            return (self.report, self.issuer, self.account, self.kind, self.provider_line_id)
        return (
            *(self.report, self.issuer, self.account, self.kind, self.provider),
            *(self.period_start.isoformat(), self.period_end.isoformat()),
            *(self.sub_account, self.api_key_id, self.product, self.model, self.line_item),
            *(self.charge, self.charge_class, self.token_kind, self.service_tier, *self.identity),
        )

    @cached_property
    def key(self) -> int:
        """The identity of the line, the same in every file that states it."""
        text = json.dumps([*self.dimensions, self.occurrence], ensure_ascii=False, separators=(",", ":"))
        return int.from_bytes(
            hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big", signed=True
        )

    @property
    def content(self) -> tuple[object, ...]:
        """What a later bill may state differently."""
        return (self.quantity, self.unit, self.list_amount, self.amount, self.currency)

    def nth(self, occurrence: int) -> Line:
        """The same, as one of several equal lines."""
        return replace(self, occurrence=occurrence) if occurrence else self


@dataclass(frozen=True)
class Record:
    """One record of a file: its lines, or why there are none. `ignored`: it is about another service."""

    number: int
    report: str | None
    lines: tuple[Line, ...] = ()
    reason: str | None = None
    message: str = ""
    raw: str = ""
    ignored: bool = False
    bucket: tuple[datetime, datetime] | None = None
    """The period that it belongs to, where that is known although the record cannot be taken."""


def amount(value: object, what: str) -> Decimal:
    """An exact amount with twelve decimals, rounded half to even beyond.

    Raises:
        LineError: it is no finite number, or none that the table can hold.
    """
    if isinstance(value, bool) or value is None or not isinstance(value, int | float | Decimal | str):
        raise LineError("not_a_number", f"{what} is {_shown(value)}; it has to be a number")
    # A binary fraction is read as the shortest decimal that means it.
    found = _decimal(str(value).strip())
    if found is None:
        raise LineError("not_a_number", f"{what} is {_shown(value)}; it has to be a finite number")
    if abs(found) >= LARGEST:
        raise LineError("too_large", f"{what} is {_shown(value)}; the table holds less than 10^26")
    return found.quantize(DECIMALS, context=EXACT)


def from_minor_units(value: object, currency: str, what: str) -> Decimal:
    """An amount that is stated in cents, or whatever the smallest unit of the currency is.

    Raises:
        LineError: it is no decimal text. A number could be in whole units already, a hundred times as much.
    """
    if not isinstance(value, str):
        raise LineError(
            "not_in_cents",
            f'{what} is the number {_shown(value)}; this report states cents as text, such as "123.45": '
            "take its answer as it was given, so that cents and whole units cannot be mixed up",
        )
    places = 0 if currency in NO_MINOR_UNIT else 3 if currency in THREE_DECIMALS else 2
    stated = _decimal(value.strip())
    if stated is None:
        raise LineError("not_a_number", f"{what} is {_shown(value)}; it has to be a finite number")
    if stated and stated.adjusted() > LARGEST.adjusted():
        raise LineError("too_large", f"{what} is {_shown(value)}; the table holds less than 10^26")
    return amount(stated.scaleb(-places, context=EXACT), what)


def currency_of(value: object, given: Given, what: str) -> str:
    """An ISO 4217 code in capitals.

    Raises:
        LineError: there is none, or something that is no code.
    """
    if value is None or value == "":
        if given.currency is not None:
            return given.currency
        raise LineError(
            "missing_currency",
            f"{what} is missing; set `currency` of the source if its bills never state one",
        )
    code = str(value).strip().upper()
    if not _CURRENCY.fullmatch(code):
        raise LineError(
            "no_currency", f"{what} is {_shown(value)}; it has to be an ISO 4217 code such as USD"
        )
    return code


def count(value: object, what: str) -> int:
    """A whole number from 0 on; int64 may come as text.

    Raises:
        LineError: it is none.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        value = int(value)
    if isinstance(value, Decimal | float) and 0 <= value < 2**63 and value == int(value):
        value = int(value)
    if type(value) is not int or not 0 <= value < 2**63:
        raise LineError("not_a_count", f"{what} is {_shown(value)}; it has to be a whole number from 0 on")
    return value


def from_epoch(value: object, what: str) -> datetime:
    """Unix seconds as an instant.

    Raises:
        LineError: it is none of the years 2000 to 2100; milliseconds are not guessed at.
    """
    seconds = count(value, what)
    if not 946_684_800 <= seconds < 4_102_444_800:
        raise LineError("no_time", f"{what} is {_shown(value)}; it has to be Unix seconds")
    return datetime.fromtimestamp(seconds, UTC)


def instant(value: object, what: str) -> datetime:
    """RFC 3339 text, or a time, as an instant; without a zone it is UTC, as bills are.

    Raises:
        LineError: it is none.
    """
    try:
        found = value if isinstance(value, datetime) else _moment(str(value))
    except ValueError:
        raise LineError(
            "no_time", f"{what} is {_shown(value)}; it has to be a time such as 2026-10-01T00:00:00Z"
        ) from None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    if not 2000 <= found.year < 2100:
        raise LineError("no_time", f"{what} is {_shown(value)}; it has to be in the years 2000 to 2099")
    return found


@lru_cache(maxsize=1 << 12)
def _moment(value: str) -> datetime:
    return datetime.fromisoformat(value.strip())


def period(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Both, checked.

    Raises:
        LineError: it does not end after its start.
    """
    if end <= start:
        raise LineError(
            "no_period",
            f"the billed period from {start.isoformat()} ends at {end.isoformat()}, before it began",
        )
    return start, end


def text(value: object) -> str | None:
    """A text without what cannot be stored; None where there is none."""
    if value is None or value == "":
        return None
    return _stored(value if type(value) is str else str(value))


@lru_cache(maxsize=1 << 16)
def _stored(value: str) -> str | None:
    # Rows of a bill repeat nearly all of their texts.
    return value.strip()[:LONGEST_TEXT].encode("utf-8", "replace").decode() or None


def raw_of(value: Any) -> str:
    """A record as JSON, for quarantine."""
    return json.dumps(value, default=str, ensure_ascii=False)


def _decimal(stated: str) -> Decimal | None:
    """A number as JSON and CSV write it; Python's own reading takes more."""
    return Decimal(stated) if len(stated) <= _EXACT and _NUMBER.fullmatch(stated) else None


def _shown(value: object) -> str:
    return repr(value if not isinstance(value, Decimal) else str(value))[:80]
