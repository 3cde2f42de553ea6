"""Contract-price files: what they mean, and one clear sentence for each mistake."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from ml_registry_pipelines.costs.contracts import Contract, ContractError, read_contract
from ml_registry_pipelines.lake.tables.telemetry import TOKEN_BUCKETS
from tests.costs.conftest import contract_catalogue, priced

FULL = """
contract: acme-2026
currency: EUR
assumed: true
note: order form
prices:
  - provider: anyscale
    model: meta-llama/*
    valid_from: 2026-01-01
    valid_to: 2027-01-01T00:00:00+01:00
    service_tier: Batch
    per_million_tokens:
      input: "0.15"
      cached_input: "0.03"
      output: "0.60"
      in_audio: "1.00"
    per_unit:
      requests: "0.002"
      n_search: 0.01
    steps:
      - over: 200000
        per_million_tokens: {input: "0.30"}
"""


def entry(**fields: object) -> str:
    """A file of one price with some fields set, or left out where None."""
    known = {"provider": "acme", "model": "m", "per_million_tokens": "{input: 1, output: 2}"}
    lines = [f"    {key}: {value}" for key, value in (known | fields).items() if value is not None]
    return "contract: c\ncurrency: USD\nprices:\n  -\n" + "\n".join(lines) + "\n"


def read(text: str) -> Contract:
    return read_contract(text, file="prices.yaml")


def test_a_full_entry_says_everything_about_a_price() -> None:
    (price,) = read(FULL).prices
    assert (price.catalog, price.provider, price.model) == ("acme-2026", "anyscale", "meta-llama/*")
    assert (price.currency, price.assumed, price.note) == ("EUR", True, "order form")
    assert (price.service_tier, price.region) == ("batch", None)
    assert price.valid_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert price.valid_to == datetime(2026, 12, 31, 23, tzinfo=UTC)
    of = {(component.name, component.context_over): component.unit_price for component in price.components}
    assert of["in_uncached", 0] == of["in_cache_write_1h", 0] == of["in_image", 0] == Decimal("0.00000015")
    assert of["in_cache_read", 0] == of["in_cache_read_audio", 0] == Decimal("0.00000003")
    assert of["in_audio", 0] == Decimal("0.000001")
    assert of["out_reasoning", 0] == Decimal("0.0000006")
    assert (of["requests", 0], of["n_search", 0]) == (Decimal("0.002"), Decimal("0.01"))
    assert of["in_uncached", 200_000] == Decimal("0.0000003")
    assert ("in_audio", 200_000) not in of
    assert ("out_text", 200_000) not in of


def test_a_price_never_passes_through_a_binary_fraction() -> None:
    (price,) = read(entry(per_million_tokens="{input: 0.100000000000000055}")).prices
    assert price.components[0].unit_price == Decimal("0.000000100000000000000055")


def test_input_and_output_together_price_every_bucket() -> None:
    (price,) = read(entry()).prices
    assert {component.name for component in price.components} == set(TOKEN_BUCKETS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "prices.yaml: has to be a mapping with contract and prices"),
        ("a: [", "prices.yaml, line 1: is no valid YAML"),
        ("contract: c\ncontract: d\n", "prices.yaml, line 1: is no valid YAML: 'contract' stands twice"),
        ("prices: []\n", "prices.yaml: contract is missing"),
        ("contract: Our Prices\nprices: [{}]\n", "prices.yaml: contract 'Our Prices' has to be lower-case"),
        ("contract: genai-prices\nprices: [{}]\n", "prices.yaml: contract 'genai-prices' has to be"),
        ("contract: c\nprices: []\n", "prices has to be a list of at least one entry"),
        ("contract: c\nprices: [x]\n", "prices.yaml, price 1: has to be a mapping"),
        ("contract: c\nvalid: 2026\nprices: [{}]\n", "prices.yaml: unknown field 'valid'"),
        (entry(price="1"), "prices.yaml, price 1 (acme/m): unknown field 'price'"),
        (entry(provider=None), "prices.yaml, price 1 (m): provider is missing"),
        (entry(model='""'), "model has to be a text"),
        (entry(model='"gpt-4["'), "model 'gpt-4[' has half a pair of brackets"),
        (entry(model='"gpt-4]*"'), "model 'gpt-4]*' has half a pair of brackets"),
        (entry(currency="dollars"), "currency 'dollars' is no ISO 4217 code"),
        (entry(valid_from="soon"), "valid_from 'soon' is no date; write 2026-01-31"),
        (entry(valid_from="2026-01-01T12:00"), "has no time zone"),
        (
            entry(valid_from="2026-02-01", valid_to="2026-02-01"),
            "valid_to 2026-02-01 is not after valid_from",
        ),
        (entry(assumed="maybe"), "assumed is 'maybe'; it has to be true or false"),
        (entry(per_million_tokens=None), "names no price; give per_million_tokens or per_unit"),
        (entry(per_million_tokens="3"), "per_million_tokens has to be a mapping"),
        (entry(per_million_tokens="{tokens: 3}"), "per_million_tokens has no 'tokens'; it has input,"),
        (entry(per_unit="{in_uncached: 3}"), "per_unit has no 'in_uncached'; it has n_search, n_tool, pages"),
        (entry(per_million_tokens="{input: cheap}"), "input 'cheap' is no number"),
        (entry(per_million_tokens="{input: -1}"), "input -1 is no price; it has to be 0 or more"),
        (entry(per_million_tokens="{input: .nan}"), "input '.nan' is no number"),
        (entry(per_million_tokens="{input: Infinity}"), "input Infinity is no price"),
        (entry(per_million_tokens="{input: 1e-19}"), "needs more than 24 decimals per unit"),
        (entry(per_unit="{requests: 1000000}"), "is outside 0 to 100000 per unit"),
        (
            entry(per_million_tokens="{input: 1e400}"),
            "input: 1E+400 for 1000000 units is outside 0 to 100000",
        ),
        (entry(per_million_tokens="{input: 1e999999999}"), "is outside 0 to 100000 per unit"),
        (entry(per_million_tokens="{input: 1e-999999999}"), "needs more than 24 decimals per unit"),
        (entry(per_million_tokens=f"{{input: {'9' * 5000}}}"), "has more than 60 digits; round it"),
        (entry(valid_from="0001-01-01T00:00:00+14:00"), "is outside the years 1 to 9999 in UTC"),
        (entry(valid_to="9999-12-31T23:59:59-10:00"), "is outside the years 1 to 9999 in UTC"),
        (entry(steps=f"[{{over: {'9' * 5000}, per_unit: {{pages: 1}}}}]"), "of at most 12 digits"),
        (entry(steps="{over: 1}"), "steps has to be a list"),
        (
            entry(steps="[{over: 0, per_million_tokens: {input: 1}}]"),
            "step: over is '0'; it has to be a whole",
        ),
        (entry(steps="[{over: 10}]"), "step: names no price"),
        (
            entry(
                per_million_tokens="{input: 1, cached_input: 1, cache_write: 1, in_uncached: 1, in_audio: 1, "
                "in_image: 1, in_video: 1}",
                steps="[{over: 9, per_million_tokens: {input: 2}}]",
            ),
            "step: changes no price, since narrower names below it price all that it names; name those",
        ),
        (
            entry(steps="[{over: 9, per_unit: {pages: 1}}, {over: 9, per_unit: {pages: 1}}]"),
            "two steps start over the same number of tokens",
        ),
        (
            entry() + "  - {provider: ACME, model: M, per_unit: {requests: 1}}\n",
            "prices.yaml, price 2 (ACME/M): is valid at the same time as price 1",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(ContractError) as told:
        read(text)
    assert sentence in str(told.value)
    assert str(told.value).startswith("prices.yaml")
    assert "\n" not in str(told.value)


def test_a_step_leaves_narrower_prices_that_it_does_not_name() -> None:
    base = '{input: "3", cached_input: "0.3", in_audio: "7", output: "4"}'
    steps = """
      - {over: 2000, per_million_tokens: {cached_input: "0.9", output: "50"}}
      - {over: 1000, per_million_tokens: {input: "30", output: "40"}}
      - {over: 3000, per_million_tokens: {input: "60"}}"""
    used = [
        {"in_uncached": 901, "in_cache_read": 100, "out_text": 10},
        {"in_uncached": 2000, "in_cache_read": 100, "out_text": 10},
        {"in_uncached": 3000, "in_cache_read": 100, "in_audio": 1, "out_text": 10},
    ]
    calls = [{"provider": "acme", "model": "m", **counts} for counts in used]
    found = priced(contract_catalogue(entry(per_million_tokens=base, steps=steps)), *calls)
    assert [row["cost"] for row in found] == [Decimal("0.02746"), Decimal("0.06059"), Decimal("0.180597")]


def test_one_model_may_have_prices_that_follow_each_other() -> None:
    text = entry(valid_to="2026-06-01") + (
        "  - {provider: acme, model: m, valid_from: 2026-06-01, per_unit: {requests: 1}}\n"
    )
    assert len(read(text).prices) == 2


def test_a_contract_wins_over_the_list_while_it_is_valid(listed: object) -> None:
    import pyarrow as pa

    contract = contract_catalogue(
        "contract: c\ncurrency: USD\nprices:\n"
        "  - {provider: openai, model: gpt-4o*, valid_from: 2026-01-01, per_million_tokens: {input: 1}}\n"
    )
    call = {"provider": "openai", "model": "gpt-4o-2024-08-06", "in_uncached": 1_000_000}
    before, after, sold_elsewhere = priced(
        pa.concat_tables([listed, contract]),
        call | {"event_ts": datetime(2025, 12, 31, 23, 59, 59, 999_999, UTC)},
        call | {"event_ts": datetime(2026, 1, 1, tzinfo=UTC)},
        call | {"event_ts": datetime(2026, 1, 1, tzinfo=UTC), "provider": "azure"},
    )
    assert (before["cost"], after["cost"], sold_elsewhere["cost"]) == (Decimal("2.5"), 1, Decimal("2.5"))


def test_a_full_name_wins_over_a_pattern_and_a_longer_pattern_over_a_shorter() -> None:
    catalogue = contract_catalogue(
        "contract: c\ncurrency: USD\nprices:\n"
        '  - {provider: acme, model: "*", per_unit: {requests: 1}}\n'
        '  - {provider: acme, model: "llama-*", per_unit: {requests: 2}}\n'
        '  - {provider: acme, model: "llama-3-*", per_unit: {requests: 3}}\n'
        "  - {provider: acme, model: llama-3-8b, per_unit: {requests: 4}}\n"
    )
    models = ["mixtral", "llama-2-7b", "Llama-3-70b", "llama-3-8b"]
    costs = priced(catalogue, *({"model": model, "in_uncached": 1} for model in models))
    assert [cost["cost"] for cost in costs] == [1, 2, 3, 4]


def test_a_pattern_means_its_dots_literally() -> None:
    catalogue = contract_catalogue(
        'contract: c\ncurrency: USD\nprices: [{provider: acme, model: "v1.5*", per_unit: {requests: 1}}]\n'
    )
    dotted, other = priced(catalogue, {"model": "v1.5-pro"}, {"model": "v1-5-pro"})
    assert (dotted["cost_status"], other["cost_status"]) == ("priced", "no_usage")


def test_brackets_in_pairs_are_part_of_a_name() -> None:
    (price,) = read(entry(model='"claude-opus-4[1m]"')).prices
    assert price.model == "claude-opus-4[1m]"


def test_a_contract_names_a_provider_as_the_log_or_as_the_catalogue_does() -> None:
    catalogue = contract_catalogue(
        "contract: c\ncurrency: USD\nprices:\n"
        "  - {provider: bedrock, model: llama-2-13b-chat, per_unit: {requests: 1}}\n"
        "  - {provider: Our GPUs, model: llama-2-13b-chat, per_unit: {requests: 2}}\n"
    )
    names = ["aws.bedrock", "Amazon Bedrock", "our gpus", "lepton"]
    costs = priced(
        catalogue, *({"provider": n, "model": "llama-2-13b-chat", "in_uncached": 1} for n in names)
    )
    assert [cost["cost"] for cost in costs] == [1, 1, 2, None]


def test_an_illustrative_price_marks_the_cost_and_its_currency_stays_its_own() -> None:
    (cost,) = priced(
        contract_catalogue(entry(assumed="true", currency="EUR").replace("currency: USD\n", "")),
        {"in_uncached": 1_000_000},
    )
    assert (cost["assumed"], cost["currency"], cost["cost"]) == (True, "EUR", 1)
