"""Which catalogue entry the provider and model strings of a log mean.

The rules for models are those of the genai-prices library. Around them stands a table of
provider names as gateways and instrumentations write them, because a log's provider may be
a host that sells another maker's model: an Azure price must not come from OpenAI's list
merely because the name holds "openai". What the tables and the library do not resolve stays
unmatched; nothing is guessed across providers. Prices are not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, Provider

ALIASES: Mapping[str, str | None] = {
    # OpenTelemetry gen_ai.provider.name and the older gen_ai.system
    "aws_bedrock": "aws",
    "azure_ai_openai": "azure",
    "azure_ai_inference": "azure",
    "az_ai_openai": "azure",
    "az_ai_inference": "azure",
    "gcp_gemini": "google",
    "gcp_gen_ai": "google",
    "gcp_vertex_ai": "google",
    "x_ai": "x-ai",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    # LiteLLM custom_llm_provider
    "text_completion_openai": "openai",
    "codestral": "mistral",
    "text_completion_codestral": "mistral",
    "fireworks_ai": "fireworks",
    "palm": "google",
    "meta_llama": "meta",
    "z_ai": "zai",
    "zhipu": "zhipuai",
    # Cloudflare AI Gateway provider
    "grok": "x-ai",
    "perplexity_ai": "perplexity",
    "custom_openai": None,
    "openai_like": None,
    "sagemaker": None,
    "sagemaker_chat": None,
}
"""Names of providers with `.`, `-`, `/` and spaces written `_`. None: known to be no provider with a
price list."""

HOSTS: tuple[tuple[str, str], ...] = (
    ("azure", "azure"),
    ("bedrock", "aws"),
    ("vertex", "google"),
    ("databricks", "databricks"),
    ("openrouter", "openrouter"),
    ("copilot", "github-copilot"),
)
"""Fragments that name who sells, before any fragment that names who made the model:
`vertex_ai-anthropic_models` is Google's price, not Anthropic's."""

NOT_A_SELLER: tuple[str, ...] = (
    "compatible", "_like", "proxy", "gateway", "self_hosted", "local", "custom", "vllm", "mock",
)  # fmt: skip
"""Fragments of names that hide who answered: an address that speaks a maker's protocol need not be it."""

UNSTATED = ("litellm", "litellm_proxy", "unknown")
"""Names that say nothing about who answered; the model string may."""

CLOSED_MAKERS = ("anthropic", "cohere", "google", "openai", "voyageai", "x-ai")
"""Whose models are their own service's first of all, so that a model's name alone says who answered.
Open weights (DeepSeek, Mistral, Kimi, GLM) are run by anybody at any price."""

_SEPARATORS = re.compile(r"[\s./-]+")
_INNER = ("converse/", "invoke/", "converse_like/", "responses/", "chat/")
"""What LiteLLM puts between the provider and the model to choose an API of the provider."""


@dataclass(frozen=True)
class Match:
    """An entry of the price lists. `own` is False where one provider sells at another's list price."""

    provider: str
    model: str
    own: bool


@lru_cache(maxsize=50_000)
def match(provider: str | None, model: str | None) -> Match | None:
    """The list entry that a log's provider and model strings mean; None where none does.

    Without a provider the model decides only if exactly one maker of closed models names its models so.
    """
    if not model or not model.strip():
        return None
    wanted = model.strip().lower()
    snapshot = _snapshot()
    if provider is None or not provider.strip() or _normal(provider) in UNSTATED:
        return _without_provider(wanted, snapshot, prefixed=provider is not None and bool(provider.strip()))
    known = canonical_provider(provider)
    if known is None:
        return None
    return _within(known, wanted, snapshot)


@lru_cache(maxsize=10_000)
def canonical_provider(name: str) -> str | None:
    """The catalogue's id of a provider, however a log spells it; None where it has none."""
    lowered = name.strip().lower()
    if not lowered:
        return None
    providers = _snapshot().providers
    if any(provider.id == lowered for provider in providers):
        return lowered
    if "://" in lowered:
        return next((p.id for p in providers if re.match(p.api_pattern, lowered)), None)
    normal = _normal(lowered)
    if normal in ALIASES:
        return ALIASES[normal]
    if any(fragment in normal for fragment in NOT_A_SELLER):
        return None
    for fragment, provider_id in HOSTS:
        if fragment in normal:
            return provider_id
    from genai_prices.data_snapshot import find_provider_by_id

    found = find_provider_by_id(providers, lowered)
    if found is None and "." in lowered:
        return next((p.id for p in providers if re.match(p.api_pattern, f"https://{lowered}")), None)
    return found.id if found else None


def same_provider(contract: str, provider: str | None) -> bool:
    """Whether a contract's provider is the one of a log: as written, or as the catalogue spells both."""
    if provider is None:
        return False
    if contract.strip().lower() == provider.strip().lower():
        return True
    known = canonical_provider(contract)
    return known is not None and known == canonical_provider(provider)


def names_model(pattern: str, provider: str | None, model: str | None) -> bool:
    """Whether a contract's model, a name or a pattern with `*`, means a log's model string.

    The string is tried as it stands, without what gateways put in front of it, and as the
    price list calls the model.
    """
    if not model:
        return False
    listed = match(provider, model)
    known = canonical_provider(provider) if provider else None
    spellings = [*_spellings(known, model.strip().lower()), *([listed.model.lower()] if listed else [])]
    wanted = _pattern(pattern)
    return any(wanted.fullmatch(spelling) for spelling in spellings)


@lru_cache(maxsize=10_000)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.strip().lower().split("*")))


def _snapshot() -> DataSnapshot:
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


def _normal(name: str) -> str:
    return _SEPARATORS.sub("_", name.strip().lower())


def _within(provider_id: str, wanted: str, snapshot: DataSnapshot) -> Match | None:
    provider = next(p for p in snapshot.providers if p.id == provider_id)
    for spelling in _spellings(provider_id, wanted):
        model = provider.find_model(spelling, all_providers=snapshot.providers)
        if model is not None:
            return _placed(provider, model, snapshot)
    return None


def _without_provider(wanted: str, snapshot: DataSnapshot, *, prefixed: bool) -> Match | None:
    """By the model alone; `prefixed`: a gateway wrote it, as provider/model."""
    head, slash, rest = wanted.partition("/")
    if prefixed and slash and (known := canonical_provider(head)):
        return _within(known, rest, snapshot)
    makers = [
        (provider, model)
        for provider in snapshot.providers
        if provider.id in CLOSED_MAKERS
        and provider.model_match is not None
        and provider.model_match.is_match(wanted)
        and (model := provider.find_model(wanted)) is not None
    ]
    return _placed(*makers[0], snapshot) if len(makers) == 1 else None


def _placed(provider: Provider, model: ModelInfo, snapshot: DataSnapshot) -> Match:
    """Where the model's price stands: with the provider itself, or with one at whose price it sells."""
    if any(model is listed for listed in provider.models):
        return Match(provider.id, model.id, own=True)
    lender = next(p for p in snapshot.providers if any(model is listed for listed in p.models))
    return Match(lender.id, model.id, own=False)


def _spellings(provider_id: str | None, wanted: str) -> Iterator[str]:
    """The model string, then what is left of it without the parts that gateways and clouds prepend."""
    yield wanted
    head, slash, rest = wanted.partition("/")
    if slash and provider_id is not None and canonical_provider(head) == provider_id:
        yield rest
        for inner in _INNER:
            if rest.startswith(inner):
                yield rest.removeprefix(inner)
    if provider_id == "google" and "models/" in wanted:
        yield wanted.rpartition("models/")[2]
