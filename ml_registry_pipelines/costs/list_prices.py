"""List prices of providers, from the data that the genai-prices library ships.

Only that library's data is read, never the network. Its prices are laid out in time and
over the hours of the day, and every bucket of ours gets the price that the library would
charge its tokens, so that pricing needs no rule of its own about what falls back to what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.prices import Component, Price, PriceError, per_unit
from ml_registry_pipelines.lake.tables.telemetry import TOKEN_BUCKETS

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices
    from genai_prices.units import UnitDef, UnitRegistry

    _Priced = list[tuple[UnitDef, Decimal | TieredPrices]]

CATALOG = "genai-prices"

_TOKENS_IN = {"family": "tokens", "direction": "input"}
_TOKENS_OUT = {"family": "tokens", "direction": "output"}
_READ = {**_TOKENS_IN, "token_type": "cache_read"}
_WRITE = {**_TOKENS_IN, "token_type": "cache_write", "modality": "text"}

MEANING: Mapping[str, Mapping[str, str]] = {
    "in_uncached": {**_TOKENS_IN, "modality": "text"},
    "in_cache_read": {**_READ, "modality": "text"},
    "in_cache_read_audio": {**_READ, "modality": "audio"},
    "in_cache_read_image": {**_READ, "modality": "image"},
    "in_cache_write_5m": {**_WRITE, "cache_ttl": "5m"},
    "in_cache_write_30m": {**_WRITE, "cache_ttl": "30m"},
    "in_cache_write_1h": {**_WRITE, "cache_ttl": "1h"},
    "in_cache_write_12h": {**_WRITE, "cache_ttl": "12h"},
    "in_audio": {**_TOKENS_IN, "modality": "audio"},
    "in_image": {**_TOKENS_IN, "modality": "image"},
    "in_video": {**_TOKENS_IN, "modality": "video"},
    "out_text": {**_TOKENS_OUT, "modality": "text"},
    "out_reasoning": {**_TOKENS_OUT, "modality": "text", "token_type": "reasoning"},
    "out_audio": {**_TOKENS_OUT, "modality": "audio"},
    "out_image": {**_TOKENS_OUT, "modality": "image"},
    "n_search": {"family": "tool_calls", "tool_type": "web_search"},
    "pages": {"family": "document_pages", "direction": "input"},
    "audio_seconds": {"family": "durations", "direction": "input", "modality": "audio"},
    "requests": {"family": "requests"},
}
"""What a unit of each component is in the library's dimensions. `n_tool` is missing: the library
prices file searches and code runs apart, which the count does not tell apart."""

SERVICE_TIERS: Mapping[str, Mapping[str, str]] = {
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}
"""The tiers that a log can state, in the library's words. Any other tier pays the standard price. Where
a list has no price for one of these, its standard price is applied and marked as assumed (`pricing.py`).
The library's `route` and `search_type` conditions have no column in a log and are left out."""

AUDIO_MINIMUM: Mapping[tuple[str, str], int] = {
    ("groq", "whisper-large-v3"): 10,
    ("groq", "whisper-large-v3-turbo"): 10,
}
"""Seconds that a request is billed at least; the library keeps this rule in its code, not its data."""

FREE = ":free"
"""Models so named are offered without charge. Any other model whose list holds no price has an
unknown one, not the price 0."""

TIER_PRECEDENCE = 2
"""A price for one tier wins over the standard price of the same list."""


def library_version() -> str:
    """The version of the library, which is the version of its data."""
    from importlib.metadata import version

    return version("genai-prices")


@cache
def list_prices() -> tuple[Price, ...]:
    """Every list price of every provider and model that can be put in our components."""
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.data_units import unit_data
    from genai_prices.units import UnitRegistry

    registry = UnitRegistry(unit_data)
    return tuple(
        price
        for provider in get_snapshot().providers
        for model in provider.models
        for price in model_prices(provider.id, model, registry)
    )


def model_prices(provider: str, model: ModelInfo, registry: UnitRegistry) -> Iterator[Price]:
    """The prices of one model: standard first, then those of tiers, where they differ from it."""
    for span, offer in schedule(model, None):
        yield from _price(provider, model, span, offer, registry, None)
    if not model.price_variants:
        return  # Nothing but a variant heeds a tier.
    for tier, context in SERVICE_TIERS.items():
        for span, offer in schedule(model, context):
            yield from _price(provider, model, span, offer, registry, tier)


@dataclass(frozen=True)
class Span:
    """Days from and to (exclusive), and the daily window, of one offer."""

    first: date | None
    last: date | None
    window: tuple[time, time] | None


def schedule(model: ModelInfo, context: Mapping[str, str] | None) -> list[tuple[Span, ModelPrice]]:
    """What the library charges, as spans that do not overlap.

    The library decides which of its prices applies at a moment; it is asked once for every
    stretch between two moments at which its answer can change. With a context, only stretches
    in which that context changes the price are kept; without, there is no gap.
    """
    days, hours = _boundaries(model)
    schedule: list[tuple[Span, ModelPrice]] = []
    for first, last in zip([None, *days], [*days, None], strict=True):
        day = first or (last or date(2000, 1, 2)) - timedelta(days=1)
        answers: list[ModelPrice | None] = []
        for hour in hours:
            moment = datetime.combine(day, hour, tzinfo=UTC)
            standard = model.get_prices(moment)
            answer = standard if context is None else model.get_prices(moment, context)
            answers.append(None if context is not None and answer == standard else answer)
        schedule += [
            (Span(first, last, window), answer)
            for window, answer in _windows(hours, answers)
            if answer is not None
        ]
    return _joined(schedule)


def _boundaries(model: ModelInfo) -> tuple[list[date], list[time]]:
    """The days and the times of day at which the library's answer for a model can change."""
    from genai_prices.types import ModelPrice, StartDateConstraint, TimeOfDateConstraint

    offers = [] if isinstance(model.prices, ModelPrice) else list(model.prices)
    days: set[date] = set()
    hours = {time()}
    for constraint in [o.constraint for o in offers] + [v.constraint for v in model.price_variants or []]:
        match constraint:
            case StartDateConstraint(start_date=start):
                days.add(start)
            case TimeOfDateConstraint(start_time=start, end_time=end):
                hours |= {_utc(start), _utc(end)}
    return sorted(days), sorted(hours)


def _utc(clock: time) -> time:
    if clock.second or clock.microsecond:
        raise PriceError(f"a daily window at {clock} is not on a full minute; genai-prices has changed")
    moment = datetime.combine(date(2000, 1, 2), clock if clock.tzinfo else clock.replace(tzinfo=UTC))
    return moment.astimezone(UTC).time()


def _windows(
    hours: list[time], answers: list[ModelPrice | None]
) -> list[tuple[tuple[time, time] | None, ModelPrice | None]]:
    """Neighbouring hours with one price put together, across midnight too."""
    runs: list[tuple[time, ModelPrice | None]] = []
    for hour, answer in zip(hours, answers, strict=True):
        if not runs or runs[-1][1] != answer:
            runs.append((hour, answer))
    if len(runs) == 1:
        return [(None, runs[0][1])]
    if runs[0][1] == runs[-1][1]:
        runs.pop(0)
    ends = [start for start, _ in runs[1:]] + [runs[0][0]]
    return [((start, end), answer) for (start, answer), end in zip(runs, ends, strict=True)]


def _joined(schedule: list[tuple[Span, ModelPrice]]) -> list[tuple[Span, ModelPrice]]:
    """Spans that follow each other at one price, put together."""
    joined: list[tuple[Span, ModelPrice]] = []
    for span, offer in schedule:
        for position, (before, same) in enumerate(joined):
            if before.window == span.window and before.last == span.first and same == offer:
                joined[position] = (replace(before, last=span.last), offer)
                break
        else:
            joined.append((span, offer))
    return joined


def _price(
    provider: str, model: ModelInfo, span: Span, offer: ModelPrice, registry: UnitRegistry, tier: str | None
) -> Iterator[Price]:
    """The offer as a price of ours; none where it charges only for what no log of ours counts."""
    priced: _Priced = [
        (registry.unit_for_price_key(key), value) for key, value in vars(offer).items() if value is not None
    ]
    components = tuple(_components(provider, model, priced))
    if not priced and model.id.endswith(FREE):
        components = tuple(Component(bucket, 0, Decimal(0)) for bucket in TOKEN_BUCKETS)
    if not components:
        return
    left_out = sorted(
        unit.usage_key for unit, _ in priced if not any(_has(unit, m) for m in MEANING.values())
    )
    yield Price(
        catalog=CATALOG,
        provider=provider,
        model=model.id,
        components=components,
        valid_from=_midnight(span.first),
        valid_to=_midnight(span.last),
        day_from=f"{span.window[0]:%H:%M}" if span.window else None,
        day_to=f"{span.window[1]:%H:%M}" if span.window else None,
        service_tier=tier,
        precedence=0 if tier is None else TIER_PRECEDENCE,
        note=f"list price; not counted apart: {', '.join(left_out)}" if left_out else "list price",
    )


def _components(provider: str, model: ModelInfo, priced: _Priced) -> Iterator[Component]:
    from genai_prices.types import TieredPrices

    values = {unit.usage_key: value for unit, value in priced}
    for name, unit in _holding(tuple(unit for unit, _ in priced), f"{provider}/{model.id}"):
        what = f"{provider}/{model.id} {name}"
        value = values[unit.usage_key]
        steps: dict[int, Decimal] = {}
        if isinstance(value, TieredPrices):
            steps = {0: value.base, **{tier.start: tier.price for tier in value.tiers}}
            if len(steps) != len(value.tiers) + 1:
                raise PriceError(f"{what}: two context steps start at the same number of tokens")
        elif isinstance(value, Decimal):
            steps = {0: value}
        minimum = AUDIO_MINIMUM.get((provider, model.id)) if name == "audio_seconds" else None
        for over, amount in steps.items():
            exact = per_unit(amount, unit.per, what, may_round=unit.dimensions["family"] == "durations")
            yield Component(name, over, exact, minimum)


def _holding(units: tuple[UnitDef, ...], what: str) -> list[tuple[str, UnitDef]]:
    """Our components and the priced unit of each; found once for all models that price the same units."""
    identities = tuple(map(id, units))
    if identities not in _HOLDING:
        found = ((n, _most_specific(units, meaning, f"{what} {n}")) for n, meaning in MEANING.items())
        # With the units themselves, whose identities then stay theirs.
        _HOLDING[identities] = (units, [(name, unit) for name, unit in found if unit is not None])
    return _HOLDING[identities][1]


_HOLDING: dict[tuple[int, ...], tuple[tuple[UnitDef, ...], list[tuple[str, UnitDef]]]] = {}


def _most_specific(units: Sequence[UnitDef], meaning: Mapping[str, str], what: str) -> UnitDef | None:
    """The priced unit under which the library counts what `meaning` says.

    It takes what a narrower unit prices out of every wider one, so a token is charged at the
    narrowest priced unit that it belongs to: cached audio as cached audio, else as audio or
    as cached input, else as input.
    """
    fitting = [unit for unit in units if _has(unit, meaning)]
    if not fitting:
        return None
    narrowest = max(fitting, key=lambda unit: len(unit.dimensions))
    if any(not _has(unit, narrowest.dimensions) for unit in fitting):
        names = ", ".join(unit.usage_key for unit in fitting)
        raise PriceError(f"{what}: {names} overlap and no price says which holds; genai-prices has changed")
    return narrowest


def _has(unit: UnitDef, meaning: Mapping[str, str]) -> bool:
    return unit.dimensions.items() <= meaning.items()


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), tzinfo=UTC)
