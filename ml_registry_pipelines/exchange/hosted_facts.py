"""What is known of the models that providers offer: the catalogue that the genai-prices library ships.

Only that library's data is read, never the network. A description is put together from facts
alone; what the catalogue says in its own words is quoted. Recording it is in `hosted_import.py`,
what a request costs is in `costs/list_prices.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.list_prices import CATALOG, FREE, SERVICE_TIERS, library_version, schedule
from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.registry.names import TagValue

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

    from ml_registry_pipelines.costs.list_prices import Span

__all__ = ["CATALOG", "HostedEntry", "family_of", "hosted_entries", "library_version", "maker_of"]

TAGS = frozenset(
    {
        "provider",
        "family",
        "maker",
        "context_window",
        "input_usd_per_mtok",
        "output_usd_per_mtok",
        "priced_since",
    }
)
"""Tags that belong to the import; whatever else a model bears is people's."""

_REGIONS = r"(?:(?:global|regional|us|eu|apac|au|jp)\.)*"
_DOTTED = re.compile(rf"{_REGIONS}([a-z0-9-]+)\.(?=[a-z])(.+)", re.IGNORECASE)
"""Amazon's way: `eu.anthropic.claude-…`."""
_MAKERS_FIRST = re.compile(r"(?:(?:meta|nvidia|databricks|zai)-|ft:)+(?=[a-z])", re.IGNORECASE)
"""What stands before the own name of a model in some providers' lists."""
_FAMILY = re.compile(r"[a-z]{2,}|o(?=\d)", re.IGNORECASE)
"""One letter alone says nothing, but for OpenAI's o1, o3 and their like."""
_UNITS = {"input_mtok": "input", "output_mtok": "output", "cache_read_mtok": "cached input"}


@dataclass(frozen=True)
class HostedEntry:
    """A model at a provider.

    Args:
        prices: by span of time and tier, in US dollars per million tokens (`…_mtok`), per thousand
            (`…_kcount`) or as the library's name of the price says; decimals as text.
        deprecated: the provider has said so.
    """

    provider: str
    model: str
    description: str
    tags: Mapping[str, TagValue]
    context_window: int | None = None
    prices: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    deprecated: bool = False

    @property
    def name(self) -> str:
        """Unique, since models are within a provider."""
        return f"{self.provider}/{self.model}"

    def facts(self) -> dict[str, Any]:
        """What the metadata of the model says under `hosted`."""
        return {
            "catalog": CATALOG,
            "provider": self.provider,
            "model": self.model,
            "context_window": self.context_window,
            "list_prices": [dict(price) for price in self.prices],
        }


def hosted_entries(
    providers: Sequence[str] = (), *, on: date | None = None, among: Sequence[Provider] | None = None
) -> list[HostedEntry]:
    """Every model of the catalogue, or of some of its providers, by provider and name.

    Args:
        on: the day (UTC) whose prices the tags state; default: today.
        among: the providers that there are; default: those that the library ships.

    Raises:
        InvalidInput: there is no such provider.
    """
    if among is None:
        from genai_prices.data_snapshot import get_snapshot

        among = get_snapshot().providers
    known = {provider.id: provider for provider in among}
    for given in providers:
        if given not in known:
            near = get_close_matches(given, known, n=3, cutoff=0.5)
            raise InvalidInput(
                f"the catalogue has no provider {shown(given)}; "
                + (f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(known))}")
            )
    day = on or datetime.now(UTC).date()
    chosen = sorted(set(providers)) or sorted(known)
    return [
        _entry(known[provider], model, day)
        for provider in chosen
        for model in sorted(known[provider].models, key=lambda m: m.id)
    ]


def family_of(model: str) -> str:
    """The letters that a model's own name begins with, such as `claude`; empty where it begins with none.

    >>> family_of("eu.anthropic.claude-3-5-haiku-20241022-v1:0"), family_of("meta-llama/Meta-Llama-3.1-8B")
    ('claude', 'llama')
    """
    own = _MAKERS_FIRST.sub("", _own_name(model)[1])
    found = _FAMILY.match(own)
    return found[0].lower() if found else ""


def maker_of(model: str) -> str:
    """Who made it, where its name says so before its own name; else empty.

    >>> maker_of("@cf/meta/llama-3.1-8b-instruct"), maker_of("gpt-5")
    ('meta', '')
    """
    return _own_name(model)[0]


def _own_name(model: str) -> tuple[str, str]:
    """Maker and own name. Some lists mark a name that moves to the newest model by `~`."""
    path, _, own = model.lstrip("~").rpartition("/")
    if path:
        return path.rsplit("/", 1)[-1].lower(), own
    dotted = _DOTTED.fullmatch(own)
    return (dotted[1].lower(), dotted[2]) if dotted else ("", own)


def _entry(provider: Provider, model: ModelInfo, day: date) -> HostedEntry:
    prices = list(_prices(model))
    now = _in_force(prices, day)
    family, maker = family_of(model.id), maker_of(model.id)
    tags: dict[str, TagValue] = {"provider": provider.id}
    if family:
        tags["family"] = family
    if maker:
        tags["maker"] = maker
    if model.context_window:
        tags["context_window"] = model.context_window
    for unit in ("input", "output"):
        if (amount := _base(now.get(f"{unit}_mtok"))) is not None:
            tags[f"{unit}_usd_per_mtok"] = float(amount)
    if "from" in now:
        tags["priced_since"] = date.fromisoformat(now["from"])
    return HostedEntry(
        provider.id,
        model.id,
        _description(provider, model, now),
        tags,
        model.context_window,
        tuple(prices),
        bool(model.deprecated),
    )


def _prices(model: ModelInfo) -> Iterator[dict[str, Any]]:
    """Standard prices first, then those of tiers that differ from them."""
    free = model.id.endswith(FREE)
    for span, offer in schedule(model, None):
        yield _price(span, offer, None, free=free)
    for tier, context in SERVICE_TIERS.items() if model.price_variants else ():
        for span, offer in schedule(model, context):
            yield _price(span, offer, tier, free=free)


def _price(span: Span, offer: ModelPrice, tier: str | None, *, free: bool) -> dict[str, Any]:
    priced = {name: _amount(value) for name, value in vars(offer).items() if value is not None}
    if not priced and free:
        priced = {"input_mtok": "0", "output_mtok": "0"}
    return {
        **({"from": span.first.isoformat()} if span.first else {}),
        **({"until": span.last.isoformat()} if span.last else {}),
        **({"hours": f"{span.window[0]:%H:%M}-{span.window[1]:%H:%M}"} if span.window else {}),
        **({"service_tier": tier} if tier else {}),
        **priced,
    }


def _amount(value: Any) -> Any:
    """A price; one that changes with the length of the request as its steps, by the tokens above which they hold."""
    if isinstance(value, Decimal):
        return _plain(value)
    return {"0": _plain(value.base), **{str(tier.start): _plain(tier.price) for tier in value.tiers}}


def _plain(amount: Decimal) -> str:
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _in_force(prices: Sequence[Mapping[str, Any]], day: date) -> Mapping[str, Any]:
    """The standard price of a day; with daily hours the first of them."""
    at = day.isoformat()
    for price in prices:
        standard = "service_tier" not in price
        if standard and price.get("from", "") <= at and ("until" not in price or at < price["until"]):
            return price
    return {}


def _base(amount: Any) -> str | None:
    """What the first token costs."""
    found = amount.get("0") if isinstance(amount, Mapping) else amount
    return None if found is None else str(found)


def _description(provider: Provider, model: ModelInfo, price: Mapping[str, Any]) -> str:
    family, maker = family_of(model.id), maker_of(model.id)
    said = [f"{_title(model)}, a model hosted by {provider.name}."]
    if family:
        said.append(f"Family {family}{f', made by {maker}' if maker else ''}.")
    if model.context_window:
        said.append(f"Context window {model.context_window:,} tokens.")
    amounts = [f"{word} {_spoken(price[name])}" for name, word in _UNITS.items() if name in price]
    if amounts:
        said.append(f"List price in US dollars per million tokens: {', '.join(amounts)}.")
    elif others := sorted(n for n in price if n not in {"from", "until", "hours"}):
        said.append(f"List price by {', '.join(n.replace('_', ' ') for n in others)}.")
    else:
        said.append("The catalogue states no price.")
    if model.deprecated:
        said.append("Deprecated by its provider.")
    if own := " ".join((model.description or "").split()):
        said.append(f"The catalogue says: “{own}”")
    return " ".join(said)


def _title(model: ModelInfo) -> str:
    return " ".join((model.name or model.id).split())


def _spoken(amount: Any) -> str:
    if not isinstance(amount, Mapping):
        return str(amount)
    first, *others = amount.items()
    return " ".join([first[1], *(f"({value} above {int(start):,} tokens)" for start, value in others)])
