"""Conditions of prices as data, and list and contracted cost beside the effective one; worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.costs.contracts import read_contract
from ml_registry_pipelines.costs.list_prices import CATALOG
from ml_registry_pipelines.costs.prices import Price
from ml_registry_pipelines.lake.tables.costs import COST_COMPONENTS
from tests.costs.conftest import offer, priced

# Prices of a million tokens in USD, in the manner of hosted models: cache writes at 1.25 and 2 times the input
# price, reads at a tenth, batch at half, a region at 1.1 times, above 200,000 tokens twice and one and a half times.
CONDITIONS = """
contract: conditions
currency: USD
prices:
  - provider: acme
    model: m
    per_million_tokens:
      input: "3"
      cached_input: "0.30"
      in_cache_write_5m: "3.75"
      in_cache_write_1h: "6"
      in_audio: "32"
      in_cache_read_audio: "0.40"
      in_image: "5"
      output: "15"
      out_audio: "64"
      out_image: "40"
    steps:
      - over: 200000
        per_million_tokens: {input: "6", output: "22.50"}
  - provider: acme
    model: m
    service_tier: batch
    per_million_tokens: {input: "1.50", cached_input: "0.15", output: "7.50"}
  - provider: acme
    model: m
    region: eu
    per_million_tokens: {input: "3.30", cached_input: "0.33", output: "16.50"}
  - provider: acme
    model: m
    service_tier: batch
    region: eu
    per_million_tokens: {input: "1.65", cached_input: "0.165", output: "8.25"}
"""


def usd(*micros: str) -> Decimal:
    """A sum of products, each written as tokens x USD a million."""
    total = Decimal(0)
    for product in micros:
        tokens, price = product.split("x")
        total += Decimal(tokens) * Decimal(price) / 1_000_000
    return total


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"in_uncached": 1000, "out_text": 100}, usd("1000x3", "100x15")),
        ({"in_uncached": 1000, "in_cache_read": 5000}, usd("1000x3", "5000x0.30")),
        # Two counts, two prices: 5 minutes and 1 hour are never lumped together.
        ({"in_cache_write_5m": 2000, "in_cache_write_1h": 3000}, usd("2000x3.75", "3000x6")),
        # A time for which nobody stated a price of its own pays the input's.
        ({"in_cache_write_12h": 1000}, usd("1000x3")),
        (
            {"in_audio": 700, "in_cache_read_audio": 300, "out_audio": 200},
            usd("700x32", "300x0.40", "200x64"),
        ),
        ({"in_uncached": 50, "in_image": 1500, "out_image": 1000}, usd("50x3", "1500x5", "1000x40")),
        # The step looks at all input, cached or not, and reprices the whole request; reads keep their price.
        ({"in_uncached": 200_000, "out_text": 10}, usd("200000x3", "10x15")),
        ({"in_uncached": 200_001, "out_text": 10}, usd("200001x6", "10x22.50")),
        ({"in_uncached": 1, "in_cache_read": 200_000}, usd("1x6", "200000x0.30")),
        ({"in_uncached": 1000, "service_tier": "batch", "out_text": 10}, usd("1000x1.50", "10x7.50")),
        ({"in_uncached": 1000, "service_tier": "Batch", "region": "EU"}, usd("1000x1.65")),
        ({"in_uncached": 1000, "region": "eu", "out_reasoning": 10}, usd("1000x3.30", "10x16.50")),
        # A tier or region that no price names pays the standard one.
        ({"in_uncached": 1000, "service_tier": "priority", "region": "us"}, usd("1000x3")),
    ],
)
def test_tier_context_time_to_live_region_and_modality_each_have_their_price(
    usage: Mapping[str, Any], cost: Decimal
) -> None:
    (row,) = priced(read_contract(CONDITIONS, file="prices.yaml").prices, usage)
    assert (row["cost_status"], row["cost"]) == ("priced", cost)
    assert sum(row[name] for name in COST_COMPONENTS) == cost


def listed(components: Mapping[str, str] | list[tuple[str, int, str]], **given: Any) -> Price:
    # OpenAI's name, so that the rules of the library match it.
    return offer(
        components, **{"catalog": CATALOG, "provider": "openai", "model": "gpt-4o", "precedence": 0} | given
    )


def agreed(components: Mapping[str, str] | list[tuple[str, int, str]], **given: Any) -> Price:
    return offer(components, **{"provider": "openai", "model": "gpt-4o"} | given)


CALL = {"provider": "openai", "model": "gpt-4o", "in_uncached": 1000, "out_text": 100}
LIST = listed({"in_uncached": "0.0000025", "out_text": "0.00001"})
CONTRACT = agreed({"in_uncached": "0.000002", "out_text": "0.000008"})


def costs(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["price_kind"], row["cost"], row["list_cost"], row["contracted_cost"]


def test_a_list_price_is_what_is_paid_where_nothing_else_was_agreed() -> None:
    (row,) = priced([LIST], CALL)
    assert costs(row) == ("list", Decimal("0.0035"), Decimal("0.0035"), Decimal("0.0035"))
    assert row["list_price_id"] == row["price_id"] == LIST.price_id


def test_a_standard_list_price_stands_in_for_a_tier_without_one_and_says_that_it_is_assumed() -> None:
    half = listed({"in_uncached": "0.00000125", "out_text": "0.000005"}, service_tier="batch", precedence=2)
    tiers = ("batch", "flex", "priority", "Fast", "standard", "default", None)
    rows = priced([LIST, half], *({**CALL, "service_tier": tier} for tier in tiers))
    assert [row["assumed"] for row in rows] == [False, True, True, True, False, False, False]
    assert [row["cost"] for row in rows] == [Decimal("0.00175"), *[Decimal("0.0035")] * 6]
    # What was agreed for every tier holds for every tier.
    (row,) = priced([LIST, CONTRACT], {**CALL, "service_tier": "flex"})
    assert (row["assumed"], row["price_kind"]) == (False, "contract")


def test_a_contract_is_set_beside_the_list_component_by_component() -> None:
    (row,) = priced([LIST, CONTRACT], CALL)
    assert costs(row) == ("contract", Decimal("0.0028"), Decimal("0.0035"), Decimal("0.0028"))
    assert (row["input_cost"], row["list_input_cost"]) == (Decimal("0.002"), Decimal("0.0025"))
    assert (row["output_cost"], row["list_output_cost"]) == (Decimal("0.0008"), Decimal("0.001"))
    assert (row["price_id"], row["list_price_id"]) == (CONTRACT.price_id, LIST.price_id)


def test_an_illustrative_price_is_no_contract() -> None:
    guess = agreed({"in_uncached": "0.000001", "out_text": "0.000001"}, assumed=True)
    (row,) = priced([LIST, guess], CALL)
    assert costs(row) == ("assumed", Decimal("0.0011"), Decimal("0.0035"), Decimal("0.0035"))
    (row,) = priced([guess], CALL)
    assert costs(row) == ("assumed", Decimal("0.0011"), None, None)


def test_where_no_list_names_a_price_the_list_cost_is_unknown() -> None:
    (row,) = priced([CONTRACT], CALL)
    assert costs(row) == ("contract", Decimal("0.0028"), None, Decimal("0.0028"))
    assert row["list_price_id"] is None
    assert row["list_input_cost"] is None


def test_a_list_that_lacks_a_price_of_something_used_is_no_comparison() -> None:
    only_input = listed({"in_uncached": "0.0000025"})
    (row,) = priced([only_input, CONTRACT], CALL)
    assert costs(row) == ("contract", Decimal("0.0028"), None, Decimal("0.0028"))


def test_amounts_of_two_currencies_are_not_set_side_by_side() -> None:
    euros = agreed({"in_uncached": "0.000002", "out_text": "0.000008"}, currency="EUR")
    (row,) = priced([LIST, euros], CALL)
    assert costs(row) == ("contract", Decimal("0.0028"), None, Decimal("0.0028"))


def test_a_flat_contract_is_compared_where_the_list_can_price_the_usage() -> None:
    flat = agreed({"requests": "0.01"})
    told, silent = priced([LIST, flat], CALL, CALL | {"in_uncached": None, "out_text": None})
    assert costs(told) == ("contract", Decimal("0.01"), Decimal("0.0035"), Decimal("0.01"))
    assert costs(silent) == ("contract", Decimal("0.01"), None, Decimal("0.01"))


def test_a_step_of_the_list_alone_changes_the_list_cost_alone() -> None:
    stepped = listed([("in_uncached", 0, "0.000002"), ("in_uncached", 200_000, "0.000004")])
    flat = agreed({"in_uncached": "0.000001"})
    low, high = priced(
        [stepped, flat],
        CALL | {"in_uncached": 200_000, "out_text": None},
        CALL | {"in_uncached": 300_000, "out_text": None},
    )
    assert costs(low) == ("contract", Decimal("0.2"), Decimal("0.4"), Decimal("0.2"))
    assert costs(high) == ("contract", Decimal("0.3"), Decimal("1.2"), Decimal("0.3"))


def test_what_nobody_bills_costs_nothing_by_any_price_and_what_is_unknown_is_unknown_by_all() -> None:
    hit, odd = priced(
        [LIST, CONTRACT], CALL | {"status": "cache_hit"}, CALL | {"usage_quality": "inconsistent"}
    )
    assert costs(hit) == (None, 0, 0, 0)
    assert costs(odd) == (None, None, None, None)
