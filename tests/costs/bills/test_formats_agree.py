"""What log sources refuse as a bill, sources of bills take, or say what is missing."""

import json
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.costs.bills.documents import read_document
from ml_registry_pipelines.costs.bills.lines import Given, Record
from ml_registry_pipelines.telemetry.dialects.bills import BILL_FORMATS
from tests.telemetry.dialects.test_bills import BILLS

REPORTS = {
    "openai_costs": "openai_costs",
    "openai_usage": "openai_usage",
    "anthropic_cost_report": "anthropic_costs",
    "anthropic_usage_report": "anthropic_usage",
    "cloudflare_ai_gateway_groups": "cloudflare_costs",
    "focus": "focus",
}


def records(document: Any) -> list[Record]:
    given = Given(currency="USD", provider="openai")
    return list(read_document("b.json", json.dumps(document).encode(), given).records)


@pytest.mark.parametrize("name", BILL_FORMATS)
def test_every_format_that_logs_refuse_is_read_as_its_report(name: str) -> None:
    document = next(each for each in BILLS[name] if "data" in each or "results" in each or name == "focus")
    assert {record.report for record in records(document)} == {REPORTS[name]}


@pytest.mark.parametrize("name", ["openai_usage", "openai_costs", "anthropic_cost_report"])
def test_a_result_without_its_period_is_named(name: str) -> None:
    bare = next(each for each in BILLS[name] if "data" not in each and "results" not in each)
    (record,) = records(bare)
    assert record.reason == "unknown_format"
    assert f"{BILL_FORMATS[name].describes} ({name}), but lacks what tells its period" in record.message


def test_rows_of_focus_as_json_lines_are_billed_exactly() -> None:
    row = {**BILLS["focus"][0], "ProviderName": "OpenAI", "BillingCurrency": "EUR"}
    text = "\n".join(
        [json.dumps(row), json.dumps({**row, "BilledCost": 0.1}), json.dumps({**row, "BilledCost": None})]
    )
    found = list(read_document("b.jsonl", text.encode(), Given(known=frozenset({"openai"}))).records)
    assert [[line.amount for line in record.lines] for record in found] == [
        [Decimal("0.0875")],
        [Decimal("0.1")],
        [],
    ]
    assert (found[2].number, found[2].reason) == (3, "missing_column")
