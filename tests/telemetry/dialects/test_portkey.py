"""Portkey exports, with their traps: rows worked out by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.telemetry.identity import salted_hash
from tests.telemetry.logs import expected, read, shown

LOG: dict[str, Any] = {
    "id": "pk-1",
    "trace_id": "tr-77",
    "created_at": "2026-10-31T12:00:00Z",
    "request": {"messages": "SECRET"},
    "response": {"choices": "SECRET"},
    "is_success": True,
    "ai_org": "openai",
    "ai_model": "gpt-4o",
    "req_units": 1200,
    "res_units": 38,
    "total_units": 1238,
    "request_url": "https://user:key@api.openai.com/v1/chat/completions",
    "cost": 0.21,
    "cost_currency": "USD",
    "response_time": 2350,
    "response_status_code": 200,
    "mode": "single",
    "config": "cfg-1",
    "prompt_slug": "qa",
    "metadata": {"_user": "cust-9", "team": "a"},
}


def log(**fields: Any) -> dict[str, Any]:
    return {**LOG, **fields}


def test_an_exported_log_becomes_a_row():
    found = read([LOG], cost_unit="cents")
    row = shown(found.row)
    assert json.loads(row.pop("tags")) == {"team": "a", "mode": "single", "config": "cfg-1", "prompt": "qa"}
    assert row == expected(
        dialect="portkey",
        source_system="portkey",
        file="a.jsonl",
        event_id="pk-1",
        event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
        endpoint="api.openai.com",
        provider="openai",
        model="gpt-4o",
        operation="chat",
        latency_ms=2350.0,
        trace_id="tr-77",
        user_hash=salted_hash("salt", "default", "cust-9"),
        in_uncached=1200,
        out_text=38,
        provider_total_tokens=1238,
        logged_cost=Decimal("0.0021"),
        logged_currency="USD",
    )


@pytest.mark.parametrize(
    ("unit", "cost"), [("cents", Decimal("0.0021")), ("currency", Decimal("0.21")), (None, None)]
)
def test_a_cost_whose_unit_nobody_states_is_no_cost(unit: str | None, cost: Decimal | None):
    row = read([LOG], cost_unit=unit).row
    assert (row["logged_cost"], row["logged_currency"]) == (cost, None if cost is None else "USD")


CENTS: list[tuple[object, str | None]] = [
    ("1e-3", "0.00001"),
    (0, "0"),
    ("123.4567890123", "1.234567890123"),
    (None, None),
]


def test_cents_are_divided_exactly():
    rows = read([log(id=f"p{n}", cost=cents) for n, (cents, _) in enumerate(CENTS)], cost_unit="cents").rows
    wanted = [None if amount is None else Decimal(amount) for _, amount in CENTS]
    assert [row["logged_cost"] for row in rows] == wanted


def test_a_cost_that_is_no_amount_is_complained_about():
    assert "`cost` is much" in read([log(cost="much")], cost_unit="cents").reject["message"]


OUTCOMES: list[tuple[dict[str, Any], str]] = [
    ({"is_success": False, "response_status_code": 500}, "error_billed"),
    (
        {
            "is_success": "false",
            "response_status_code": 429,
            "req_units": 0,
            "res_units": 0,
            "total_units": 0,
        },
        "error_unbilled",
    ),
    ({"is_success": False, "response_status_code": 499}, "cancelled_billed"),
    ({"cache_status": "HIT"}, "cache_hit"),
    ({"cache_status": "SEMANTIC HIT"}, "cache_hit"),
    ({"cache_status": "MISS"}, "success"),
]


def test_who_is_billed():
    rows = read([log(id=f"p{n}", **fields) for n, (fields, _) in enumerate(OUTCOMES)]).rows
    assert [row["status"] for row in rows] == [status for _, status in OUTCOMES]


def test_contradictory_totals_make_a_row_inconsistent():
    assert read([log(total_units=2000)]).row["usage_quality"] == "inconsistent"


def test_bodies_of_a_rejected_log_are_not_kept():
    assert "SECRET" not in json.dumps(read([log(req_units=-1)]).reject)
