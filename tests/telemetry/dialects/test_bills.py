"""Bills among logs: recognised as what they are, and refused as a whole instead of being counted as requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ml_registry_pipelines.telemetry.dialects import DIALECTS
from ml_registry_pipelines.telemetry.dialects.bills import BILL_FORMATS, bill_format, bill_format_of
from tests.telemetry.logs import lines, native, read

OPENAI_USAGE: dict[str, Any] = {
    "object": "organization.usage.completions.result",
    "input_tokens": 120000,
    "input_cached_tokens": 80000,
    "output_tokens": 9000,
    "num_model_requests": 100,
    "model": "gpt-4o-2024-08-06",
}
OPENAI_COSTS: dict[str, Any] = {
    "object": "organization.costs.result",
    "amount": {"value": 12.34, "currency": "usd"},
    "line_item": "gpt-4o-2024-08-06, input",
}
ANTHROPIC_USAGE: dict[str, Any] = {
    "uncached_input_tokens": 1500,
    "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
    "cache_read_input_tokens": 200,
    "output_tokens": 500,
    "model": "claude-sonnet-4-5",
}
ANTHROPIC_COST: dict[str, Any] = {
    "currency": "USD",
    "amount": "123.45",
    "cost_type": "tokens",
    "token_type": "uncached_input_tokens",
}
FOCUS: dict[str, Any] = {
    "ChargePeriodStart": "2026-10-22T14:00:00Z",
    "ChargePeriodEnd": "2026-10-22T15:00:00Z",
    "BilledCost": 0.0875,
    "ServiceName": "Chat Completions",
}
GROUPS: dict[str, Any] = {
    "data": {
        "viewer": {"accounts": [{"aiGatewayRequestsAdaptiveGroups": [{"count": 3, "sum": {"cost": 0.1}}]}]}
    }
}


def openai(*results: dict[str, Any]) -> dict[str, Any]:
    return {"object": "bucket", "start_time": 1793404800, "end_time": 1793408400, "results": list(results)}


def anthropic(*results: dict[str, Any]) -> dict[str, Any]:
    return {
        "starting_at": "2026-10-31T00:00:00Z",
        "ending_at": "2026-11-01T00:00:00Z",
        "results": list(results),
    }


def page(*buckets: dict[str, Any]) -> dict[str, Any]:
    return {"object": "page", "data": list(buckets), "has_more": False, "next_page": None}


BILLS = {
    "openai_usage": [
        openai(OPENAI_USAGE), page(openai(), openai(OPENAI_USAGE)), OPENAI_USAGE, openai(), page(openai()),
    ],
    "openai_costs": [openai(OPENAI_COSTS), page(openai(OPENAI_COSTS)), OPENAI_COSTS],
    "anthropic_usage_report": [
        anthropic(ANTHROPIC_USAGE), page(anthropic(ANTHROPIC_USAGE)), anthropic(), page(anthropic()),
        {**ANTHROPIC_USAGE, "starting_at": "2026-10-31T00:00:00Z", "ending_at": "2026-11-01T00:00:00Z"},
    ],
    "anthropic_cost_report": [
        anthropic(ANTHROPIC_COST), page(anthropic(), anthropic(ANTHROPIC_COST)),
        {**ANTHROPIC_COST, "starting_at": "2026-10-31T00:00:00Z", "ending_at": "2026-11-01T00:00:00Z"},
    ],
    "cloudflare_ai_gateway_groups": [GROUPS],
    "focus": [FOCUS],
}  # fmt: skip


def test_every_bill_is_recognised_as_one_kind_of_bill_and_as_no_log():
    assert set(BILLS) == set(BILL_FORMATS)
    for name, records in BILLS.items():
        for record in records:
            assert [kind.name for kind in BILL_FORMATS.values() if kind.recognises(record)] == [name]
            assert [d.name for d in DIALECTS.values() if d.recognises(record)] == []


@pytest.mark.parametrize("name", BILLS)
@pytest.mark.parametrize("dialect", [None, "openai_api", "anthropic_api", "native"])
def test_a_file_of_bills_is_refused_with_one_sentence_whatever_the_source_says(
    name: str, dialect: str | None
):
    found = read([BILLS[name][0]] * 3, "b.jsonl", dialect=dialect)
    assert (found.rows, found.dialect) == ([], None)
    assert (found.reject["line"], found.reject["reason"]) == (0, "bill")
    assert found.reject["message"] == (
        f"b.jsonl: it holds {BILL_FORMATS[name].describes} ({name}): a bill, whose lines sum up requests and are none; "
        "put it into a bills source, where it is compared with what the logged requests cost"
    )


def test_a_page_over_several_lines_and_a_table_of_charges_are_refused_as_well():
    assert read(json.dumps(page(openai(OPENAI_USAGE)), indent=1), "u.json").reject["reason"] == "bill"
    table = "ChargePeriodStart,BilledCost,BillingCurrency\n2026-10-22T14:00:00Z,0.0875,USD\n"
    assert read(table, "focus.csv").reject["reason"] == "bill"


def test_a_stray_bill_in_a_log_does_not_keep_the_log_from_being_taken():
    found = read([native(1), openai(OPENAI_USAGE), native(2)])
    assert (found.ids, found.reasons) == (["r1", "r2"], [(2, "missing_field")])


def test_what_only_looks_a_little_like_a_bill_is_none():
    others: list[dict[str, Any]] = [
        {}, {"results": []}, {"data": []}, {"object": "page"}, {"BilledCost": 1}, {"data": "x"}, native(),
    ]  # fmt: skip
    for record in others:
        assert bill_format(record) is None
    assert bill_format_of(["oops", "[1]", lines([native()])]) is None
    assert bill_format_of([json.dumps(FOCUS), json.dumps(native())]) is None
