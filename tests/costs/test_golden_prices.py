"""Real usage objects, priced by us as the price library's own tests expect."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from ml_registry_pipelines.costs.matching import match
from ml_registry_pipelines.costs.pricing import PriceBook
from tests.costs.conftest import NOON, events

PAYLOADS = Path(__file__).parent / "data" / "usage_payloads.jsonl"

# The set states no time. Its prices are those of the library at any moment before the first dated change
# of a model in it, outside DeepSeek's cheap hours (16:30 to 00:30 UTC): noon of 1 December 2025 will do.
AT = NOON


def cases() -> list[tuple[str, str, dict[str, Any], dict[str, int]]]:
    """Provider, model string, expectation and the library's reading of the usage, for every payload."""
    from genai_prices.data_snapshot import get_snapshot

    providers = {provider.id: provider for provider in get_snapshot().providers}
    found = []
    for line in PAYLOADS.read_text().splitlines():
        payload = json.loads(line)
        for group in payload["expected"]:
            for expected in group["extractors"]:
                provider = providers[expected["provider_id"]]
                _, usage = provider.extract_usage(payload["body"], api_flavor=expected["api_flavor"])
                counts = {name: int(value) for name, value in vars(usage).items()}
                found.append((provider.id, payload["model"], expected, counts))
    return found


def buckets(usage: dict[str, int]) -> dict[str, int]:
    """The library's nested counts as our disjoint ones."""

    def count(name: str) -> int:
        return usage.get(f"{name}_tokens", 0)

    read_audio, read_image = count("cache_audio_read"), count("cache_image_read")
    made = {
        "in_cache_read": count("cache_read") - read_audio - read_image,
        "in_cache_read_audio": read_audio,
        "in_cache_read_image": read_image,
        "in_cache_write_5m": count("cache_write") - count("cache_write_1h"),
        "in_cache_write_1h": count("cache_write_1h"),
        "in_audio": count("input_audio") - read_audio,
        "in_image": count("input_image") - read_image,
        "in_video": count("input_video"),
    }
    made["in_uncached"] = count("input") - sum(made.values())
    made |= {
        "out_reasoning": count("output_reasoning"),
        "out_audio": count("output_audio"),
        "out_image": count("output_image"),
        "n_search": usage.get("web_searches", 0),
    }
    made["out_text"] = count("output") - made["out_reasoning"] - made["out_audio"] - made["out_image"]
    return made


def test_every_expected_price_of_the_golden_set_is_met_to_the_last_digit(book: PriceBook) -> None:
    golden = [case for case in cases() if "input_price" in case[2]]
    assert len(golden) == 814
    rows = [{"provider": p, "model": m, "event_ts": AT, **buckets(usage)} for p, m, _, usage in golden]
    given = events(*rows)
    costs = {row["event_key"]: row for row in book.price(given).to_pylist()}
    wrong = []
    for (provider, model, expected, usage), key in zip(golden, given["event_key"].to_pylist(), strict=True):
        cost = costs[key]
        if not any(usage.values()):
            assert (cost["cost_status"], cost["cost"]) == ("no_usage", None)
            continue
        assert cost["cost_status"] == "priced"
        ours = (cost["input_cost"] + cost["cache_read_cost"] + cost["cache_write_cost"], cost["output_cost"])
        if ours != (Decimal(expected["input_price"]), Decimal(expected["output_price"])):
            wrong.append((provider, model, expected, usage, cost))
    assert wrong == []


def test_a_model_that_the_provider_does_not_list_has_no_cost(book: PriceBook) -> None:
    strangers = [case for case in cases() if "input_price" not in case[2] and match(case[0], case[1]) is None]
    assert len(strangers) > 3_600
    rows = [{"provider": p, "model": m, "in_uncached": 10, "out_text": 10} for p, m, _, _ in strangers]
    costs = book.price(events(*rows))
    assert set(costs["cost_status"].to_pylist()) == {"unpriced"}
    assert costs["cost"].null_count == len(strangers)


def test_what_the_set_leaves_unpriced_and_we_price_is_a_newer_listing_or_a_gateway_prefix() -> None:
    ours = {(p, m) for p, m, expected, _ in cases() if "input_price" not in expected and match(p, m)}
    prefixed = {(p, m) for p, m in ours if "/" in m and m.split("/")[0] in (p, "openai", "models", "z-ai")}
    assert ours - prefixed == {
        ("cerebras", "zai-glm-4.7"),
        ("openrouter", "meta-llama/llama-4-scout-17b-16e-instruct"),
        ("openrouter", "meta-llama/llama-4-maverick-17b-128e-instruct"),
        ("aws", "gpt-5.6-sol"),
        ("azure", "deepseek-r1-distill-llama-70b"),
        ("azure", "deepseek-reasoner"),
        ("zai", "glm-4.7"),
    }
