"""What a price is: one dated offer for one model, and its rows in `price_catalog`.

Where prices come from is in `list_prices.py` and `contracts.py`; how they get into the
lake is in `catalog.py`; how they are applied is in `pricing.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.tables.costs import PRICE_CATALOG
from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, TOKEN_BUCKETS

if TYPE_CHECKING:
    import pyarrow as pa

COMPONENTS: tuple[str, ...] = (*TOKEN_BUCKETS, *COUNTERS, "audio_seconds", "requests")
"""Everything that a price can charge for. `requests` is one per attempt."""

_UNITS: Mapping[str, str] = {
    "n_search": "search",
    "n_tool": "call",
    "pages": "page",
    "audio_seconds": "second",
    "requests": "request",
}

PRICE_DECIMALS = 24
MOST_PER_UNIT = Decimal(100_000)
"""Above this a single unit costs more than the arithmetic has room for."""


class PriceError(MlregError):
    """A price cannot be used as it stands."""


@dataclass(frozen=True, order=True)
class Component:
    """What one unit of `name` costs in requests with more than `context_over` input tokens.

    0 is the lowest step: it takes every request that no higher step takes. `minimum` is the
    least quantity that is billed where any is.
    """

    name: str
    context_over: int
    unit_price: Decimal
    minimum: int | None = None


@dataclass(frozen=True)
class Price:
    """One dated offer for one model.

    `valid_from` (inclusive) and `valid_to` (exclusive) are UTC; None is open. `day_from` and
    `day_to` (`HH:MM`, UTC) limit it to a daily window, which may run past midnight.
    `service_tier` and `region` None fit any request.
    """

    catalog: str
    provider: str
    model: str
    components: tuple[Component, ...]
    currency: str = "USD"
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    day_from: str | None = None
    day_to: str | None = None
    service_tier: str | None = None
    region: str | None = None
    precedence: int = 0
    assumed: bool = False
    note: str | None = None
    stored_id: str | None = field(default=None, compare=False, repr=False)
    """The `price_id` under which the catalogue holds it."""

    @cached_property
    def price_id(self) -> str:
        """Digest over everything that decides what the price is and when it applies."""
        if self.stored_id is not None:
            return self.stored_id
        offered = [
            [c.name, c.context_over, _plain(c.unit_price), c.minimum]
            for c in sorted(self.components, key=attrgetter("name", "context_over", "unit_price"))
        ]
        said = [
            self.catalog, self.provider, self.model, self.service_tier, self.region, self.currency,
            _text(self.valid_from), _text(self.valid_to), self.day_from, self.day_to,
            self.precedence, self.assumed, offered,
        ]  # fmt: skip
        canonical = json.dumps(said, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:24]

    @property
    def flat(self) -> bool:
        """Whether it charges per request alone, whatever the request used."""
        return {component.name for component in self.components} == {"requests"}

    def fits(self, service_tier: str | None, region: str | None) -> bool:
        """Whether its conditions hold for a request of that tier and region."""
        return self.service_tier in (None, service_tier) and self.region in (None, region)

    def covers(self, moment: datetime) -> bool:
        """Whether `moment` is within its validity; the daily window is not looked at."""
        return (self.valid_from is None or self.valid_from <= moment) and (
            self.valid_to is None or moment < self.valid_to
        )

    def covers_minute(self, minute: int) -> bool:
        """Whether a minute of the UTC day is within its daily window."""
        if self.day_from is None or self.day_to is None:
            return True
        start, end = minute_of_day(self.day_from), minute_of_day(self.day_to)
        return start <= minute < end if start < end else minute >= start or minute < end


def per_unit(amount: Decimal, units: int, what: str, *, may_round: bool = False) -> Decimal:
    """`amount` for `units` units as a price of one, exactly.

    `may_round`: a price per hour need not end within any number of decimals per second;
    it is rounded at the 24th, which is under 1e-19 of the currency for a day of audio.

    Raises:
        PriceError: it does not fit the catalogue's 24 decimals, is negative, or is absurdly high.
    """
    # Compared first: dividing what is far too high overflows.
    if not 0 <= amount < MOST_PER_UNIT * units:
        raise PriceError(f"{what}: {amount} for {units} units is outside 0 to {MOST_PER_UNIT} per unit")
    stored, exact = _divided(amount, units)
    if not exact and not may_round:
        raise PriceError(
            f"{what}: {amount} for {units} units needs more than {PRICE_DECIMALS} decimals per unit; "
            "round it where it comes from"
        )
    return stored


# Price lists have 42,000 prices, and a few thousand different ones.
@lru_cache(maxsize=20_000)
def _divided(amount: Decimal, units: int) -> tuple[Decimal, bool]:
    """A price of one unit as it can be stored, and whether that is exact."""
    with localcontext() as context:
        context.prec = 60
        stored = (amount / units).quantize(Decimal(1).scaleb(-PRICE_DECIMALS), rounding=ROUND_HALF_EVEN)
        return stored.normalize() + Decimal(0), stored * units == amount


@lru_cache(maxsize=20_000)
def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def minute_of_day(clock: str) -> int:
    """Minutes since midnight of `HH:MM`."""
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def catalog_rows(
    prices: Iterable[Price], *, version: str, generation: int, recorded_at: datetime
) -> pa.Table:
    """The rows of `price_catalog` for some prices, in force from this generation on."""
    import pyarrow as pa

    schema = PRICE_CATALOG.schema
    offered = list(prices)
    components = [component for price in offered for component in price.components]
    of_each = {
        "component": [component.name for component in components],
        "context_over": [component.context_over for component in components],
        "unit_price": [component.unit_price for component in components],
        "unit": [_UNITS.get(component.name, "token") for component in components],
        "minimum": [component.minimum for component in components],
    }
    # A price has sixteen components: what they share is converted once and repeated.
    of_all = {name: [getattr(price, name) for price in offered] for name in (*_HEAD, "price_id")}
    same = {
        "catalog_version": version,
        "state": "in_force",
        "generation": generation,
        "recorded_at": recorded_at,
    }
    numbers = [number for number, price in enumerate(offered) for _ in price.components]
    places = pa.array(numbers, pa.int64())
    columns = []
    for column in schema:
        name, of = column.name, column.type
        if name in of_each:
            columns.append(pa.array(of_each[name], of))
        elif name in of_all:
            columns.append(pa.array(of_all[name], of).take(places))
        else:
            columns.append(pa.repeat(pa.scalar(same[name], of), len(components)))
    return pa.Table.from_arrays(columns, schema=schema)


def prices_from(rows: Sequence[Mapping[str, object]]) -> list[Price]:
    """Prices from rows of `price_catalog` in force, as dictionaries, in order of precedence."""
    components: dict[str, list[Component]] = {}
    heads: dict[str, Mapping[str, object]] = {}
    for row in rows:
        identity = str(row["price_id"])
        heads.setdefault(identity, row)
        components.setdefault(identity, []).append(
            Component(row["component"], row["context_over"], row["unit_price"], row["minimum"])  # type: ignore[arg-type]
        )
    found = [
        Price(
            components=tuple(components[identity]),
            stored_id=identity,
            **{name: head[name] for name in _HEAD},  # type: ignore[arg-type]
        )
        for identity, head in heads.items()
    ]
    return sorted(found, key=lambda price: (price.precedence, price.catalog, price.price_id))


_HEAD = (
    "catalog", "provider", "model", "service_tier", "region", "currency", "valid_from", "valid_to",
    "day_from", "day_to", "precedence", "assumed", "note",
)  # fmt: skip


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
