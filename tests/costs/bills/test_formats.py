"""What each format says, worked out by hand from the providers' descriptions, with its traps."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.costs.bills.documents import read_document
from ml_registry_pipelines.costs.bills.lines import Given, Line, LineError, Record, amount, from_minor_units
from tests.costs.bills.made import (
    DAY,
    FOCUS_HEAD,
    anthropic_bucket,
    anthropic_cost,
    cloudflare_answer,
    focus_row,
    openai_bucket,
    openai_cost,
    page,
)

KNOWN = Given(known=frozenset({"openai", "anthropic", "aws"}))


def records(content: object, name: str = "a.json", given: Given = KNOWN) -> list[Record]:
    data = (
        content.encode()
        if isinstance(content, str)
        else content
        if isinstance(content, bytes)
        else json.dumps(content).encode()
    )
    return list(read_document(name, data, given).records)


def only(content: object, name: str = "a.json", given: Given = KNOWN) -> Line:
    (record,) = records(content, name, given)
    assert record.reason is None, record.message
    (line,) = record.lines
    return line


def quantities(content: object) -> dict[str, Decimal | None]:
    return {str(line.token_kind): line.quantity for record in records(content) for line in record.lines}


def reasons(content: object, name: str = "a.json", given: Given = KNOWN) -> list[str | None]:
    return [record.reason for record in records(content, name, given)]


def test_openai_states_whole_units_of_a_lower_case_currency() -> None:
    line = only(page(openai_bucket(DAY, openai_cost(0.06, quantity=24_000))))
    assert (line.amount, line.currency) == (Decimal("0.060000000000"), "USD")
    assert (line.provider, line.sub_account, line.model, line.token_kind) == (
        "openai",
        "proj_1",
        "gpt-4o",
        "input",
    )
    assert (line.period_start, line.period_end) == (
        datetime(2026, 10, 5, tzinfo=UTC),
        datetime(2026, 10, 6, tzinfo=UTC),
    )


def test_an_amount_is_read_from_its_digits_and_not_from_a_binary_fraction() -> None:
    text = json.dumps(page(openai_bucket(DAY, openai_cost("X")))).replace(
        '"X"', "0.1000000000000000055511151231257827"
    )
    assert only(text).amount == Decimal("0.100000000000")
    assert only(page(openai_bucket(DAY, openai_cost("12.5")))).amount == Decimal("12.5")


def test_anthropic_states_cents_as_text() -> None:
    line = only(page(anthropic_bucket(DAY, anthropic_cost("123.45"))))
    assert line.amount == Decimal("1.2345")
    assert (line.sub_account, line.token_kind, line.currency) == ("wrkspc_1", "output_tokens", "USD")
    assert only(
        page(anthropic_bucket(DAY, anthropic_cost("0.000123", list_amount="0.0002")))
    ).list_amount == Decimal("0.000002")


def test_a_number_where_cents_are_text_is_not_guessed_at() -> None:
    assert reasons(page(anthropic_bucket(DAY, anthropic_cost(123.45)))) == ["not_in_cents"]


def test_the_smallest_unit_of_a_currency_is_its_own() -> None:
    assert from_minor_units("1234", "JPY", "amount") == 1234
    assert from_minor_units("1234", "KWD", "amount") == Decimal("1.234")
    assert from_minor_units("1234", "EUR", "amount") == Decimal("12.34")


def test_openai_usage_is_made_disjoint() -> None:
    result = {
        "object": "organization.usage.completions.result", "input_tokens": 1000, "input_cached_tokens": 600,
        "input_cache_write_tokens": 50, "output_tokens": 500, "num_model_requests": 5, "model": "gpt-4o",
    }  # fmt: skip
    assert quantities(page(openai_bucket(DAY, result))) == {
        "input_uncached": 350, "input_cached": 600, "input_cache_write": 50, "output": 500, "requests": 5,
    }  # fmt: skip
    result["input_cached_tokens"] = 951
    assert reasons(page(openai_bucket(DAY, result))) == ["contradiction"]


def test_anthropic_usage_is_disjoint_already() -> None:
    result = {
        "uncached_input_tokens": 10, "cache_read_input_tokens": 20, "output_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
        "server_tool_use": {"web_search_requests": 2}, "model": "claude-sonnet-4-5",
    }  # fmt: skip
    assert quantities(page(anthropic_bucket(DAY, result))) == {
        "input_uncached": 10, "input_cached": 20, "output": 7, "input_cache_write_5m": 3,
        "input_cache_write_1h": 4, "web_search": 2,
    }  # fmt: skip


def test_cloudflare_estimates_what_a_provider_behind_it_costs() -> None:
    (record,) = records(cloudflare_answer(("2026-10-05T07:00:00Z", "openai", "gpt-4o", 0.012)))
    cost, *usage = record.lines
    assert (cost.provider, cost.issuer, cost.amount, cost.currency) == (
        "openai",
        "cloudflare",
        Decimal("0.012"),
        "USD",
    )
    assert cost.estimated
    assert cost.period_end - cost.period_start == timedelta(hours=1)
    assert {line.token_kind: line.quantity for line in usage} == {"input": 700, "output": 90, "requests": 3}


def test_focus_rows_come_as_csv_with_what_they_are_about() -> None:
    line = only(f"{FOCUS_HEAD}\n{focus_row('1.25', ListCost='2.50', InvoiceId='inv-1')}\n", "focus.csv")
    assert (line.amount, line.list_amount, line.provider, line.account) == (
        Decimal("1.25"),
        Decimal("2.50"),
        "openai",
        "org-1",
    )
    assert (line.charge, line.quantity, line.unit) == ("usage", Decimal(1000), "Tokens")
    later = only(f"{FOCUS_HEAD}\n{focus_row('1.30', InvoiceId='inv-2')}\n", "focus.csv")
    assert later.key == line.key, "an invoice number that is given later must not make it another line"


def test_focus_rows_come_as_parquet_too(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = datetime(2026, 10, 5, 3, tzinfo=UTC)
    rows = {
        "BilledCost": pa.array([Decimal("0.10"), Decimal("-0.04")], pa.decimal128(20, 4)),
        "BillingCurrency": ["EUR", "EUR"],
        "ChargePeriodStart": [start, start],
        "ChargePeriodEnd": [start + timedelta(hours=1)] * 2,
        "ProviderName": ["Amazon Web Services"] * 2,
        "ChargeCategory": ["Usage", "Credit"],
    }
    pq.write_table(pa.table(rows), tmp_path / "f.parquet")
    found = [
        line
        for record in records((tmp_path / "f.parquet").read_bytes(), "f.parquet")
        for line in record.lines
    ]
    assert [(x.provider, x.amount, x.charge) for x in found] == [
        ("aws", Decimal("0.10"), "usage"), ("aws", Decimal("-0.04"), "credit"),
    ]  # fmt: skip


def test_what_a_bill_has_for_other_services_is_left_out_unless_it_is_asked_for() -> None:
    text = f"{FOCUS_HEAD}\n{focus_row('9', ServiceCategory='Storage')}\n"
    (record,) = records(text, "focus.csv")
    assert record.ignored
    assert only(text, "focus.csv", Given(known=KNOWN.known, categories=("*",))).amount == 9


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"BillingCurrency": ""}, "missing_currency"),
        ({"BillingCurrency": "dollars"}, "no_currency"),
        ({"BilledCost": "NaN"}, "not_a_number"),
        ({"BilledCost": "1e40"}, "too_large"),
        ({"BilledCost": ""}, "missing_column"),
        ({"ChargePeriodEnd": f"{DAY}T00:00:00Z"}, "no_period"),
        ({"ChargePeriodStart": "yesterday"}, "no_time"),
        ({"ProviderName": "Foo AI"}, "unknown_provider"),
        ({"ChargeCategory": "Gift"}, "unknown_charge"),
    ],
)
def test_a_row_that_cannot_be_taken_says_why(given: dict[str, str], reason: str) -> None:
    text = f"{FOCUS_HEAD}\n{focus_row('1', **given)}\n"
    (record,) = records(text, "focus.csv")
    assert (record.number, record.reason) == (2, reason)
    assert record.message


def test_a_source_says_what_its_bills_do_not() -> None:
    given = Given(currency="EUR", providers={"Foo AI": "foo"})
    line = only(
        f"{FOCUS_HEAD}\n{focus_row('1', BillingCurrency='', ProviderName='foo ai')}\n", "focus.csv", given
    )
    assert (line.currency, line.provider) == ("EUR", "foo")


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        ("", "a.json", "empty"),
        ("{", "a.json", "not_json"),
        ('{"a": NaN}', "a.json", "not_json"),
        ({"some": "thing"}, "a.json", "unknown_format"),
        ([1, 2], "a.json", "unknown_format"),
        ("a,b\n1,2\n", "a.csv", "unknown_format"),
        (b"\xff\xfe\x00", "a.csv", "not_utf8"),
        (b"\x1f\x8b\x08broken", "a.json.gz", "damaged"),
        (b"PAR1 and no more", "a.parquet", "damaged"),
        ("[" * 100_000, "a.json", "not_json"),
    ],
)
def test_a_file_that_is_no_bill_says_why_as_a_whole(content: object, name: str, reason: str) -> None:
    assert reason in reasons(content, name)


def test_pages_may_come_as_lines_of_json_one_of_which_is_broken() -> None:
    lines = [
        json.dumps(page(openai_bucket(DAY, openai_cost(1)))),
        "{broken",
        json.dumps(openai_bucket(DAY, openai_cost(2, "x"))),
    ]
    found = {record.number: record.reason for record in records("\n".join(lines))}
    assert found == {1: None, 2: "not_json", 3: None}


def test_equal_lines_of_one_file_are_different_lines() -> None:
    rows = "\n".join([FOCUS_HEAD, focus_row("1"), focus_row("1")])
    first, second = (record.lines[0] for record in records(rows, "focus.csv"))
    assert first.key != second.key


def test_a_line_is_the_same_whatever_it_costs_and_another_when_it_is_about_something_else() -> None:
    def key(**given: Any) -> int:
        return only(page(openai_bucket(DAY, openai_cost(given.pop("value", 1), **given)))).key

    assert key() == key(value=-7) == key(currency="eur")
    others = {key(), key(item="gpt-4o, output"), key(project="proj_2"), key(api_key_id="k")}
    assert len(others) == 4


def test_amounts_that_the_table_cannot_hold_are_refused() -> None:
    assert amount("12345678901234567890123456.123456789012", "x") == Decimal(
        "12345678901234567890123456.123456789012"
    )
    wrong: object
    for wrong in ("1e26", "1e9999", "1e99999999", True, None, [], "1_000", "Infinity", "0" * 80):
        with pytest.raises(LineError):
            amount(wrong, "x")
