"""What an attempt costs, and when it has no cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.costs.pricing import PriceBook, price
from ml_registry_pipelines.lake.tables.costs import COST_STATUSES, MODEL_COSTS
from ml_registry_pipelines.lake.tables.telemetry import STATUSES, TOKEN_BUCKETS
from tests.costs.conftest import NOON, catalogue, events, offer, priced

PLAIN = offer({"in_uncached": "0.000003", "in_cache_read": "0.0000003", "out_text": "0.000015"})
STEPS = offer([
    ("in_uncached", 0, "0.001"), ("in_uncached", 200_000, "0.002"),
    ("in_cache_read", 0, "0.001"), ("in_cache_read", 200_000, "0.002"),
    ("out_text", 0, "0.01"), ("out_text", 200_000, "0.05"),
    ("requests", 0, "0.5"),
])  # fmt: skip


def cost_of(prices: Any, **row: object) -> tuple[str, Decimal | int | None]:
    (cost,) = priced(prices, row)
    return cost["cost_status"], cost["cost"]


def test_a_cost_row_names_its_price_and_carries_the_request() -> None:
    row = {
        "in_uncached": 1_000,
        "in_cache_read": 2_000,
        "out_text": 10,
        "tenant": "t",
        "application": "chatbot",
    }
    (cost,) = priced([PLAIN], row)
    assert cost["price_id"] == PLAIN.price_id
    assert (cost["tenant"], cost["application"], cost["provider"], cost["model"]) == (
        "t",
        "chatbot",
        "acme",
        "m",
    )
    assert (cost["day"], cost["event_ts"], cost["batch"], cost["tokens"]) == (NOON.date(), NOON, 1, 3_010)
    assert (cost["input_cost"], cost["cache_read_cost"]) == (Decimal("0.003"), Decimal("0.0006"))
    assert (cost["cache_write_cost"], cost["output_cost"], cost["other_cost"]) == (0, Decimal("0.00015"), 0)
    assert (cost["cost"], cost["currency"], cost["assumed"]) == (Decimal("0.00375"), "USD", False)


def test_the_answer_has_the_declared_columns_and_one_row_per_attempt() -> None:
    given = events({"in_uncached": 1}, {"model": "unknown", "in_uncached": 1}, {})
    costs = price(given, catalogue([PLAIN]))
    assert costs.schema.equals(MODEL_COSTS.schema)
    assert sorted(costs["event_key"].to_pylist()) == sorted(given["event_key"].to_pylist())


def test_no_rows_cost_nothing_and_fail_nothing() -> None:
    assert price(events({"in_uncached": 1}).slice(0, 0), catalogue([PLAIN])).num_rows == 0


def test_an_empty_catalogue_leaves_everything_unpriced() -> None:
    assert cost_of([], in_uncached=1) == ("unpriced", None)


@pytest.mark.parametrize(
    ("row", "status", "cost"),
    [
        ({"model": "other", "in_uncached": 5}, "unpriced", None),
        ({"provider": None, "in_uncached": 5}, "unpriced", None),
        ({"model": None, "in_uncached": 5}, "unpriced", None),
        ({"usage_quality": "inconsistent", "in_uncached": 5}, "inconsistent", None),
        ({"usage_quality": "missing"}, "no_usage", None),
        ({"in_uncached": 0, "out_text": 0}, "no_usage", None),
        ({"in_audio": 5, "in_uncached": 5}, "incomplete", None),
        ({"out_reasoning": 1, "out_text": 1}, "incomplete", None),
        ({"n_search": 1, "in_uncached": 5}, "incomplete", None),
        ({"pages": 3}, "incomplete", None),
        ({"audio_seconds": 2.5}, "incomplete", None),
        ({"n_tool": 1}, "incomplete", None),
        ({"in_uncached": 5, "pages": 3, "audio_seconds": 2.5, "n_tool": 1}, "priced", Decimal("0.000015")),
        ({"status": "cache_hit", "in_uncached": 5}, "not_billed", 0),
        ({"status": "error_unbilled"}, "not_billed", 0),
        ({"span_kind": "aggregate", "in_uncached": 5}, "not_billed", 0),
        ({"span_kind": "tool"}, "not_billed", 0),
        ({"span_kind": "aggregate", "model": "other", "usage_quality": "inconsistent"}, "not_billed", 0),
        ({"status": "error_billed", "in_uncached": 5}, "priced", Decimal("0.000015")),
        ({"status": "cancelled_billed", "in_uncached": 5}, "priced", Decimal("0.000015")),
        ({"status": "error_billed"}, "no_usage", None),
    ],
)
def test_an_attempt_without_a_certain_cost_has_none_and_says_why(
    row: dict[str, object], status: str, cost: Decimal | None
) -> None:
    assert status in COST_STATUSES
    assert row.get("status", "success") in STATUSES
    assert cost_of([PLAIN], **row) == (status, cost)


@pytest.mark.parametrize("count", [-1, 100_000_001, 2**62])
def test_a_count_that_cannot_be_true_is_inconsistent_and_spares_its_neighbours(count: int) -> None:
    absurd, neighbour = priced([PLAIN], {"in_uncached": count, "out_text": 1}, {"in_uncached": 1_000})
    assert (absurd["cost_status"], absurd["cost"]) == ("inconsistent", None)
    assert neighbour["cost"] == Decimal("0.003")


def test_the_largest_counts_at_the_highest_price_still_add_up() -> None:
    dearest = offer(dict.fromkeys(TOKEN_BUCKETS, "99999.999999999999999999999999"))
    (cost,) = priced([dearest], dict.fromkeys(TOKEN_BUCKETS, 100_000_000))
    assert cost["cost"] == 15 * 100_000_000 * Decimal("99999.999999999999999999999999")


def test_a_price_per_request_alone_holds_whatever_was_used_or_logged() -> None:
    flat = offer({"requests": "0.02"})
    assert cost_of([flat], in_uncached=7, in_audio=3) == ("priced", Decimal("0.02"))
    assert cost_of([flat], usage_quality="missing") == ("priced", Decimal("0.02"))
    assert cost_of([flat], usage_quality="missing", status="cache_hit") == ("not_billed", 0)


def test_seconds_pages_searches_and_calls_are_charged_beside_tokens() -> None:
    everything = offer(
        {"in_uncached": "1", "requests": "0.1", "n_search": "0.01", "n_tool": "0.001", "pages": "0.5",
         "audio_seconds": "2"}
    )  # fmt: skip
    row = {"in_uncached": 1, "n_search": 3, "n_tool": 4, "pages": 2, "audio_seconds": 1.5}
    (cost,) = priced([everything], row)
    assert (cost["input_cost"], cost["other_cost"]) == (1, Decimal("4.134"))


def test_short_audio_is_billed_at_the_least_length_that_the_list_states(book: PriceBook) -> None:
    call = {"provider": "groq", "model": "whisper-large-v3"}
    rows = [call | {"audio_seconds": seconds} for seconds in (1.0, 10.0, 3_600.0)]
    given = events(*rows)
    costs = {row["event_key"]: row["cost"] for row in book.price(given).to_pylist()}
    short, least, hour = (costs[key] for key in given["event_key"].to_pylist())
    assert short == least
    assert least == (Decimal("0.111") / 360).quantize(Decimal("1e-12"))
    assert hour == Decimal("0.111")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"in_uncached": 200_000, "out_text": 1}, Decimal("200.51")),
        ({"in_uncached": 200_001, "out_text": 1}, Decimal("400.552")),
        ({"in_uncached": 1, "in_cache_read": 200_000, "out_text": 1}, Decimal("400.552")),
        ({"in_uncached": 200_000, "out_text": 999}, Decimal("210.49")),
        ({"out_text": 1}, Decimal("0.51")),
    ],
)
def test_above_a_step_of_the_input_the_whole_request_pays_the_higher_price(
    tokens: dict[str, object], expected: Decimal
) -> None:
    assert cost_of([STEPS], **tokens) == ("priced", expected)


def test_a_component_without_a_step_of_its_own_keeps_its_price_above_the_step() -> None:
    (cost,) = priced([STEPS], {"in_uncached": 200_001})
    assert cost["other_cost"] == Decimal("0.5")


def test_list_steps_are_a_cliff_at_the_listed_number(book: PriceBook) -> None:
    call = {"provider": "google", "model": "gemini-2.5-pro"}
    given = events(call | {"in_uncached": 200_000}, call | {"in_uncached": 200_001})
    costs = {row["event_key"]: row["cost"] for row in book.price(given).to_pylist()}
    below, above = (costs[key] for key in given["event_key"].to_pylist())
    assert (below, above) == (Decimal("0.25"), Decimal("0.5000025"))


def test_validity_begins_with_its_first_instant_and_ends_before_its_last() -> None:
    first = datetime(2026, 3, 1, tzinfo=UTC)
    change = datetime(2026, 4, 1, 12, tzinfo=UTC)
    last = datetime(2026, 5, 1, tzinfo=UTC)
    terms = [
        offer({"in_uncached": "1"}, valid_from=first, valid_to=change),
        offer({"in_uncached": "2"}, valid_from=change, valid_to=last),
    ]
    tick = timedelta(microseconds=1)
    moments = [first - tick, first, change - tick, change, last - tick, last]
    costs = priced(terms, *({"in_uncached": 1, "event_ts": moment} for moment in moments))
    assert [cost["cost"] for cost in costs] == [None, 1, 1, 2, 2, None]


def test_a_daily_window_is_half_open_and_may_run_past_midnight() -> None:
    terms = [
        offer({"in_uncached": "1"}, precedence=1),
        offer({"in_uncached": "9"}, precedence=2, day_from="22:30", day_to="01:00"),
    ]
    day = datetime(2026, 3, 1, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    start = timedelta(hours=22, minutes=30)
    edges = [start - tick, start, timedelta(hours=24) - tick,
             timedelta(0), timedelta(hours=1) - tick, timedelta(hours=1), timedelta(hours=12)]  # fmt: skip
    costs = priced(terms, *({"in_uncached": 1, "event_ts": day + edge} for edge in edges))
    assert [cost["cost"] for cost in costs] == [1, 9, 9, 9, 9, 1, 1]


def test_the_cheap_hours_of_a_list_are_those_hours(book: PriceBook) -> None:
    call = {"provider": "deepseek", "model": "deepseek-chat", "in_uncached": 1_000_000}
    edges = [
        datetime(2025, 3, 1, hour, minute, tzinfo=UTC)
        for hour, minute in ((0, 29), (0, 30), (16, 29), (16, 30))
    ]
    given = events(*(call | {"event_ts": edge} for edge in edges))
    costs = {row["event_key"]: row["cost"] for row in book.price(given).to_pylist()}
    found = [costs[key] for key in given["event_key"].to_pylist()]
    assert found == [Decimal("0.135"), Decimal("0.27"), Decimal("0.27"), Decimal("0.135")]


def test_the_highest_precedence_wins_among_prices_that_hold() -> None:
    terms = [offer({"in_uncached": str(n)}, precedence=n) for n in (3, 1, 2)]
    assert cost_of(terms, in_uncached=1) == ("priced", 3)


def test_a_price_for_a_tier_or_region_is_for_those_requests_only() -> None:
    terms = [
        offer({"in_uncached": "4"}),
        offer({"in_uncached": "2"}, service_tier="batch", precedence=3002),
        offer({"in_uncached": "5"}, region="eu", precedence=3001),
    ]
    kinds = [(None, None), ("Batch", None), ("standard", None), (None, "EU"), ("batch", "eu"), (None, "us")]
    costs = priced(
        terms, *({"in_uncached": 1, "service_tier": tier, "region": region} for tier, region in kinds)
    )
    assert [cost["cost"] for cost in costs] == [4, 2, 4, 5, 2, 4]


def test_batch_requests_pay_the_batch_list_price_from_the_day_it_is_listed(book: PriceBook) -> None:
    call = {"provider": "openai", "model": "gpt-5", "in_uncached": 1_000_000, "service_tier": "batch"}
    given = events(
        call | {"event_ts": datetime(2026, 10, 13, 23, 59, tzinfo=UTC)},
        call | {"event_ts": datetime(2026, 10, 14, tzinfo=UTC)},
        call | {"event_ts": datetime(2026, 10, 14, tzinfo=UTC), "provider": "azure"},
    )
    costs = {row["event_key"]: row["cost"] for row in book.price(given).to_pylist()}
    found = [costs[key] for key in given["event_key"].to_pylist()]
    assert found == [Decimal("1.25"), Decimal("0.625"), Decimal("1.25")]


def test_an_amount_is_rounded_once_at_the_twelfth_decimal() -> None:
    fine = offer({"in_uncached": "0.000000000000499999999999", "out_text": "0.000000000000500000000000"})
    (cost,) = priced([fine], {"in_uncached": 1, "out_text": 1})
    assert (cost["input_cost"], cost["output_cost"]) == (0, Decimal("0.000000000001"))
    (many,) = priced([fine], {"in_uncached": 1_000_000})
    assert many["cost"] == Decimal("0.0000005")


def test_what_the_log_says_it_cost_is_kept_and_never_used() -> None:
    said = {"logged_cost": Decimal("9.99"), "logged_currency": "EUR"}
    (cost,) = priced([PLAIN], {"in_uncached": 1_000, **said})
    assert (cost["cost"], cost["currency"]) == (Decimal("0.003"), "USD")
    assert (cost["logged_cost"], cost["logged_currency"]) == (Decimal("9.99"), "EUR")
    (unknown,) = priced([], {"in_uncached": 1_000, **said})
    assert (unknown["cost"], unknown["currency"], unknown["logged_cost"]) == (None, None, Decimal("9.99"))
