"""Which catalogue entry the strings of real logs mean, and which they must not."""

from __future__ import annotations

import pytest

from ml_registry_pipelines.costs.matching import ALIASES, HOSTS, Match, canonical_provider, match


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("openai", "openai"),
        (" OpenAI ", "openai"),
        ("text-completion-openai", "openai"),
        ("aws.bedrock", "aws"),
        ("bedrock_converse", "aws"),
        ("Amazon Bedrock", "aws"),
        ("azure.ai.openai", "azure"),
        ("az.ai.inference", "azure"),
        ("azure_ai", "azure"),
        ("azure_openai", "azure"),
        ("gcp.gemini", "google"),
        ("gcp.vertex_ai", "google"),
        ("gcp.gen_ai", "google"),
        ("vertex_ai", "google"),
        ("vertex_ai-anthropic_models", "google"),
        ("gemini", "google"),
        ("x_ai", "x-ai"),
        ("xai", "x-ai"),
        ("mistral_ai", "mistral"),
        ("codestral", "mistral"),
        ("grok", "x-ai"),
        ("perplexity-ai", "perplexity"),
        ("google-ai-studio", "google"),
        ("fireworks_ai", "fireworks"),
        ("together_ai", "together"),
        ("cohere_chat", "cohere"),
        ("github_copilot", "github-copilot"),
        ("huggingface_fireworks-ai", "huggingface_fireworks-ai"),
        ("api.openai.com", "openai"),
        ("https://api.openai.com/v1/chat/completions", "openai"),
        ("https://acme.openai.azure.com/openai/deployments/x", "azure"),
    ],
)
def test_a_provider_is_known_by_the_names_that_instrumentations_give_it(name: str, provider: str) -> None:
    assert canonical_provider(name) == provider


@pytest.mark.parametrize(
    "name",
    ["anyscale", "lepton", "ollama", "hosted_vllm", "openai_like", "openai-compatible", "custom_openai",
     "my-openai-proxy", "https://openai.example.com/v1", "sagemaker", ""],
)  # fmt: skip
def test_an_address_that_only_speaks_a_makers_protocol_is_not_the_maker(name: str) -> None:
    assert canonical_provider(name) is None


@pytest.mark.parametrize(
    ("provider", "model", "found"),
    [
        ("openai", "gpt-4o-2024-08-06", Match("openai", "gpt-4o", own=True)),
        ("openai", "OPENAI/GPT-4o", Match("openai", "gpt-4o", own=True)),
        ("openai", "gpt-5.2-20251211", Match("openai", "gpt-5.2", own=True)),
        ("gcp.gemini", "models/gemini-2.5-pro", Match("google", "gemini-2.5-pro", own=True)),
        (
            "vertex_ai",
            "publishers/google/models/gemini-2.5-flash",
            Match("google", "gemini-2.5-flash", own=True),
        ),
        ("azure.ai.openai", "gpt-4o", Match("openai", "gpt-4o", own=False)),
        ("azure", "azure/gpt-4o", Match("openai", "gpt-4o", own=False)),
        ("openrouter", "openai/gpt-5", Match("openrouter", "openai/gpt-5", own=True)),
        ("openrouter", "openrouter/openai/gpt-5", Match("openrouter", "openai/gpt-5", own=True)),
        ("xai", "xai/grok-4", Match("x-ai", "grok-4-0709", own=True)),
        ("litellm", "groq/llama-3.3-70b-versatile", Match("groq", "llama-3.3-70b-versatile", own=True)),
        (None, "gpt-4o-2024-08-06", Match("openai", "gpt-4o", own=True)),
        ("", "claude-sonnet-4-5", Match("anthropic", "claude-sonnet-4-5", own=True)),
        (
            "bedrock",
            "bedrock/converse/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            Match("aws", "regional.anthropic.claude-sonnet-4-5-20250929-v1:0", own=True),
        ),
    ],
)
def test_a_model_string_is_found_in_its_providers_list(
    provider: str | None, model: str, found: Match
) -> None:
    assert match(provider, model) == found


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anyscale", "gpt-4o"),
        ("openai", "claude-sonnet-4-5"),
        ("openai", "gpt-4o-mini-of-our-own"),
        ("anthropic", "gpt-4o"),
        ("openai", None),
        ("openai", " "),
        (None, None),
        (None, "openai/gpt-5"),
        (None, "deepseek-r1-distill-llama-70b"),
        (None, "mixtral-8x7b"),
        (None, "llama-3"),
    ],
)
def test_nothing_is_guessed_across_providers(provider: str | None, model: str | None) -> None:
    assert match(provider, model) is None


def test_every_provider_that_the_tables_name_is_in_the_catalogue() -> None:
    from genai_prices.data_snapshot import get_snapshot

    known = {provider.id for provider in get_snapshot().providers}
    assert {provider for provider in ALIASES.values() if provider} | {
        provider for _, provider in HOSTS
    } <= known
