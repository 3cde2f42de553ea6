"""List prices, laid out in time and by bucket, against the library that they come from."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from ml_registry_pipelines.costs.list_prices import MEANING, SERVICE_TIERS, list_prices
from ml_registry_pipelines.costs.prices import COMPONENTS, PriceError, per_unit
from ml_registry_pipelines.costs.pricing import PriceBook
from ml_registry_pipelines.lake.tables.telemetry import TOKEN_BUCKETS
from tests.costs.conftest import events


def nested(counts: dict[str, int]) -> dict[str, int]:
    """Our disjoint buckets as the library's nested counts."""
    read = counts["in_cache_read"] + counts["in_cache_read_audio"]
    write = counts["in_cache_write_5m"] + counts["in_cache_write_1h"]
    return {
        "input_tokens": counts["in_uncached"] + read + write + counts["in_audio"],
        "cache_read_tokens": read,
        "cache_audio_read_tokens": counts["in_cache_read_audio"],
        "cache_write_tokens": write,
        "cache_write_1h_tokens": counts["in_cache_write_1h"],
        "input_audio_tokens": counts["in_audio"] + counts["in_cache_read_audio"],
        "output_tokens": counts["out_text"] + counts["out_reasoning"] + counts["out_audio"],
        "output_reasoning_tokens": counts["out_reasoning"],
        "output_audio_tokens": counts["out_audio"],
    }


def test_any_model_at_any_moment_and_tier_costs_what_the_library_says(book: PriceBook) -> None:
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import Usage

    dice = random.Random(20261122)
    asked, rows = [], []
    for provider in get_snapshot().providers:
        for model in provider.models:
            moment = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(minutes=dice.randrange(200 * 24 * 60))
            tier = dice.choice([None, None, *SERVICE_TIERS])
            counts = {
                "in_uncached": dice.choice([1, 199_999, 200_000, 272_001, dice.randrange(300_000)]),
                "in_cache_read": dice.choice([0, dice.randrange(100_000)]),
                "in_cache_read_audio": dice.choice([0, 0, 77]),
                "in_cache_write_5m": dice.choice([0, 1_234]),
                "in_cache_write_1h": dice.choice([0, 567]),
                "in_audio": dice.choice([0, 0, 999]),
                "out_text": dice.choice([0, dice.randrange(9_000)]),
                "out_reasoning": dice.choice([0, 321]),
                "out_audio": dice.choice([0, 0, 55]),
            }
            if provider.find_model(model.id) is not model:
                continue  # its own id means another model of the list; no log can name it
            asked.append((provider, model, moment, tier, counts))
            named = {"provider": provider.id, "model": model.id, "event_ts": moment, "service_tier": tier}
            rows.append(named | counts)
    given = events(*rows)
    costs = {row["event_key"]: row for row in book.price(given).to_pylist()}
    compared, wrong = 0, []
    for case, key in zip(asked, given["event_key"].to_pylist(), strict=True):
        provider, model, moment, tier, counts = case
        cost = costs[key]
        if cost["cost_status"] != "priced" or model.id.endswith(":free"):
            continue
        expected = model.calc_price(
            Usage(**nested(counts)), provider,
            genai_request_timestamp=moment, price_context=SERVICE_TIERS.get(tier or ""),
        ).total_price  # fmt: skip
        compared += 1
        # Five amounts are rounded to twelve decimals each; list prices with more decimals are rare.
        if abs(cost["cost"] - expected) > Decimal("2.5e-12"):
            wrong.append((provider.id, model.id, moment, tier, counts, cost["cost"], expected))
    assert wrong == []
    assert compared > 1_500


def test_every_component_that_a_log_counts_has_a_meaning_in_the_library() -> None:
    assert set(COMPONENTS) - set(MEANING) == {"n_tool"}


def test_dated_prices_follow_each_other_without_gap_or_overlap() -> None:
    chains: dict[tuple[str, str], list[tuple[datetime | None, datetime | None]]] = {}
    for price in list_prices():
        if price.service_tier is None and price.day_from is None:
            chains.setdefault((price.provider, price.model), []).append((price.valid_from, price.valid_to))
    dated = {model: chain for model, chain in chains.items() if len(chain) > 1}
    assert dated
    for chain in dated.values():
        assert chain[0][0] is None
        assert chain[-1][1] is None
        assert [end for _, end in chain[:-1]] == [start for start, _ in chain[1:]]


def test_a_daily_window_of_the_list_covers_the_whole_day_together_with_the_others() -> None:
    windows: dict[tuple[str, datetime | None], int] = {}
    for price in list_prices():
        if price.provider == "deepseek" and price.model == "deepseek-chat":
            windows[price.model, price.valid_from] = windows.get((price.model, price.valid_from), 0) + sum(
                price.covers_minute(minute) for minute in range(24 * 60)
            )
    assert set(windows.values()) == {24 * 60}


def test_a_model_named_free_costs_nothing_and_says_so(book: PriceBook) -> None:
    row = {"provider": "openrouter", "model": "google/gemma-3-27b-it:free", "in_uncached": 10, "out_text": 5}
    (cost,) = book.price(events(row)).to_pylist()
    assert (cost["cost_status"], cost["cost"]) == ("priced", Decimal(0))


def test_a_model_listed_without_any_price_stays_unpriced(book: PriceBook) -> None:
    row = {"provider": "github-copilot", "model": "gpt-4o", "in_uncached": 10, "out_text": 5}
    (cost,) = book.price(events(row)).to_pylist()
    assert (cost["cost_status"], cost["cost"]) == ("unpriced", None)


def test_tokens_without_a_price_of_their_own_pay_what_the_next_wider_kind_pays() -> None:
    (gpt,) = [
        p for p in list_prices()
        if (p.provider, p.model, p.service_tier) == ("openai", "gpt-5", None)
    ]  # fmt: skip
    of = {component.name: component.unit_price for component in gpt.components}
    assert of["in_cache_read"] < of["in_uncached"]
    assert of["in_cache_read_audio"] == of["in_cache_read"]
    assert of["in_audio"] == of["in_image"] == of["in_cache_write_1h"] == of["in_uncached"]
    assert of["out_reasoning"] == of["out_audio"] == of["out_text"]


def test_every_list_price_is_stored_exactly_or_is_a_price_per_hour(listed: object) -> None:
    for price in list_prices():
        for component in price.components:
            exponent = component.unit_price.normalize().as_tuple().exponent
            assert isinstance(exponent, int)
            assert -exponent <= 24
            if component.name in TOKEN_BUCKETS:
                per_million = component.unit_price * 1_000_000
                assert per_unit(per_million, 1_000_000, "again") == component.unit_price


def test_a_price_that_needs_more_decimals_than_the_catalogue_has_is_refused() -> None:
    with pytest.raises(PriceError, match="more than 24 decimals"):
        per_unit(Decimal("0.0000000000000000001"), 1_000_000, "x/y in_uncached")


def test_an_absurd_price_is_refused() -> None:
    with pytest.raises(PriceError, match="outside 0 to 100000"):
        per_unit(Decimal(-1), 1, "x/y requests")
