"""Costs kept in step with events, and rolled up for the days that changed."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.costs.contracts import Contract, read_contract
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.prices import catalog_rows
from ml_registry_pipelines.costs.pricing import PriceBook
from ml_registry_pipelines.costs.queries import Coverage, UnknownKey, cost_by, coverage, unpriced_models
from ml_registry_pipelines.costs.repricing import reprice
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, TOKEN_BUCKETS
from ml_registry_pipelines.operations.audits import costs_equal_rollup
from tests.made_events import event, land

DAY = date(2026, 10, 5)
NEXT = DAY + timedelta(days=1)


def at(hour: int, minute: int = 0, day: date = DAY) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


def call(ts: datetime, **given: object) -> dict[str, object]:
    return event(ts, **({"provider": "acme", "model": "m", "in_uncached": 10, "out_text": None} | given))


CONTRACT = """
contract: test
currency: USD
prices:
  - {provider: acme, model: m, per_million_tokens: {input: 1000000, output: 2000000}}
  - {provider: acme, model: guess, assumed: true, per_million_tokens: {input: 1000000, output: 1000000}}
  - {provider: acme, model: euro, currency: EUR, per_million_tokens: {input: 3000000, output: 1000000}}
  - {provider: acme, model: mixed, valid_to: 2026-10-05T12:30:00Z, per_million_tokens: {input: 1000000}}
  - provider: acme
    model: mixed
    currency: EUR
    valid_from: 2026-10-05T12:30:00Z
    per_million_tokens: {input: 1000000}
"""


def put_prices(lake: Lake, text: str = CONTRACT) -> None:
    """Contract prices alone: the list is not what is tested here."""
    contract: Contract = read_contract(text, file="prices.yaml")
    generation = lake.sequence("price_catalog", "catalog") + 1
    rows = catalog_rows(contract.prices, version="1", generation=generation, recorded_at=at(0))
    lake.append_once("price_catalog", rows, source="catalog", sequence=generation)


@pytest.fixture
def lake(lake: Lake) -> Lake:
    put_prices(lake)
    return lake


def rollup(lake: Lake, grain: str = "day", **where: object) -> list[dict[str, Any]]:
    with lake.read("cost_rollup") as reading:
        rows = reading.query(
            "rollup",
            "SELECT * FROM cost_rollup WHERE grain = $grain ORDER BY period_start, model, status, currency",
            {"grain": grain},
        ).to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def figures(lake: Lake, grain: str = "day") -> list[tuple[Any, ...]]:
    return [
        (row["period_start"], row["model"], row["currency"], row["requests"], row["cost"])
        for row in rollup(lake, grain)
    ]


def test_every_batch_that_lags_is_priced_once(lake: Lake) -> None:
    land(lake, [call(at(9)), call(at(10), model="unknown")])
    land(lake, [call(at(9, day=NEXT))])
    assert catch_up_costs(lake) == [1, 2]
    assert catch_up_costs(lake) == []
    land(lake, [call(at(11))])
    assert catch_up_costs(lake) == [3]
    with lake.read("inference_events", "model_costs") as reading:
        unmatched = reading.query(
            "unmatched",
            """SELECT count(*) AS n FROM inference_events AS e
            FULL JOIN model_costs AS c USING (tenant, event_key, batch, day)
            WHERE e.event_id IS NULL OR c.status IS NULL""",
        )
        costs = reading.query(
            "costs", "SELECT cost_status, cost FROM model_costs ORDER BY batch, event_ts"
        ).to_pylist()
    assert unmatched["n"][0].as_py() == 0
    assert [(row["cost_status"], row["cost"]) for row in costs] == [
        ("priced", 10), ("unpriced", None), ("priced", 10), ("priced", 10),
    ]  # fmt: skip


def test_a_batch_of_no_rows_is_caught_up_too(lake: Lake) -> None:
    land(lake, [])
    land(lake, [call(at(9))])
    assert catch_up_costs(lake) == [1, 2]


def test_rows_in_memory_get_the_costs_that_a_catch_up_would_give_them(lake: Lake) -> None:
    land(lake, [call(at(9)), call(at(10), model="unknown", out_text=3)])
    with lake.read("inference_events") as reading:
        rows = reading.query("rows", "SELECT * FROM inference_events")
    direct = PriceBook.of(lake).price(rows)
    catch_up_costs(lake)
    with lake.read("model_costs") as reading:
        stored = reading.query("costs", "SELECT * FROM model_costs")
    order = [("event_key", "ascending")]
    assert direct.sort_by(order).to_pylist() == stored.cast(direct.schema).sort_by(order).to_pylist()


def test_hours_and_days_add_up_to_the_events(lake: Lake) -> None:
    land(lake, [
        call(at(9, 1), out_text=5), call(at(9, 59), in_cache_read=3), call(at(23)),
        call(at(9), tenant="other"),
        call(at(0, day=NEXT)),
    ])  # fmt: skip
    catch_up_costs(lake)
    done = roll_up_costs(lake)
    assert (done.days, done.sequence) == ((DAY, NEXT), 1)
    assert len(rollup(lake, "hour")) + len(rollup(lake, "day")) == done.rows
    hours = rollup(lake, "hour", tenant="acme", day=DAY)
    assert [(r["period_start"].hour, r["requests"], r["cost"]) for r in hours] == [(9, 2, 33), (23, 1, 10)]
    (whole,) = rollup(lake, "day", tenant="acme", day=DAY)
    assert (whole["period_start"], whole["requests"], whole["cost"]) == (at(0), 3, 43)
    assert (whole["in_uncached"], whole["in_cache_read"], whole["out_text"]) == (30, 3, 5)
    assert whole["in_audio"] is None
    assert (whole["input_cost"], whole["cache_read_cost"], whole["output_cost"]) == (30, 3, 10)
    assert (whole["billable_requests"], whole["priced_requests"], whole["priced_tokens"]) == (3, 3, 38)


def test_every_counted_column_is_summed(lake: Lake) -> None:
    counts = {name: number for number, name in enumerate((*TOKEN_BUCKETS, *COUNTERS), start=1)}
    land(lake, [call(at(9), **counts), call(at(9), **counts)])
    catch_up_costs(lake)
    roll_up_costs(lake)
    for grain in ("hour", "day"):
        (row,) = rollup(lake, grain)
        assert {name: row[name] for name in counts} == {name: 2 * number for name, number in counts.items()}


def test_coverage_counts_what_should_have_a_price_and_unknown_costs_stay_unknown(lake: Lake) -> None:
    land(lake, [
        call(at(9)), call(at(9), usage_quality="inconsistent"), call(at(9), model="guess"),
        call(at(9), status="cache_hit"), call(at(9), model="unknown"),
        call(at(9), model="unknown", status="cache_hit"),
    ])  # fmt: skip
    catch_up_costs(lake)
    roll_up_costs(lake)
    rows = {(r["model"], r["status"]): r for r in rollup(lake)}
    plain = rows["m", "success"]
    assert (plain["currency"], plain["requests"], plain["priced_requests"], plain["cost"]) == (
        "USD",
        2,
        1,
        10,
    )
    assert (plain["in_uncached"], plain["priced_tokens"]) == (20, 10)
    guess = rows["guess", "success"]
    assert (guess["assumed_requests"], guess["cost"]) == (1, 10)
    unknown = rows["unknown", "success"]
    assert (unknown["currency"], unknown["billable_requests"], unknown["cost"]) == (None, 1, None)
    for model in ("m", "unknown"):
        hit = rows[model, "cache_hit"]
        assert (hit["billable_requests"], hit["priced_requests"], hit["cost"]) == (0, 0, 0)
    with lake.read("cost_rollup", "model_costs", "cost_corrections") as reading:
        assert coverage(reading) == Coverage(billable=4, priced=2, assumed=1)
        assert coverage(reading, where={"model": "m"}).share == 0.5
        assert coverage(reading, since=NEXT) == Coverage(0, 0, 0)
        assert coverage(reading, since=NEXT).share is None
        missing = unpriced_models(reading).to_pylist()
    assert [
        (r["tenant"], r["provider"], r["model"], r["cost_status"], r["requests"], r["tokens"])
        for r in missing
    ] == [
        ("acme", "acme", "m", "inconsistent", 1, 10),
        ("acme", "acme", "unknown", "unpriced", 1, 10),
    ]


def test_currencies_are_never_added_and_each_token_stays_with_its_own(lake: Lake) -> None:
    land(lake, [
        call(at(12, 0), model="mixed", in_uncached=1), call(at(12, 30), model="mixed", in_uncached=2),
        call(at(12, 45), model="mixed", in_uncached=4),
        call(at(12, 50), model="mixed", in_uncached=8, out_text=1),
        call(at(8), model="mixed", in_uncached=16), call(at(9), model="m"), call(at(9), model="euro"),
    ])  # fmt: skip
    catch_up_costs(lake)
    roll_up_costs(lake)
    hours = [
        (r["period_start"].hour, r["currency"], r["requests"], r["in_uncached"], r["cost"])
        for r in rollup(lake, "hour", model="mixed")
    ]
    assert hours == [
        (8, "USD", 1, 16, 16),
        (12, "EUR", 2, 6, 6),
        (12, "USD", 1, 1, 1),
        (12, None, 1, 8, None),
    ]
    days = [(r["currency"], r["requests"], r["in_uncached"], r["cost"]) for r in rollup(lake, model="mixed")]
    assert days == [("EUR", 2, 6, 6), ("USD", 2, 17, 17), (None, 1, 8, None)]
    with lake.read("cost_rollup") as reading:
        total = cost_by(reading, []).to_pylist()
    assert [(r["currency"], r["requests"], r["cost"]) for r in total] == [
        ("EUR", 3, 36), ("USD", 3, 27), (None, 1, None),
    ]  # fmt: skip


def test_attempts_without_a_cost_stand_beside_the_priced_ones_of_the_only_currency(lake: Lake) -> None:
    land(lake, [call(at(9)), call(at(10), usage_quality="missing", in_uncached=None)])
    catch_up_costs(lake)
    roll_up_costs(lake)
    assert [(r["period_start"].hour, r["currency"]) for r in rollup(lake, "hour")] == [(9, "USD"), (10, None)]
    (day,) = rollup(lake, "day")
    assert (day["currency"], day["requests"], day["priced_requests"], day["cost"]) == ("USD", 2, 1, 10)
    assert costs_equal_rollup(lake).passed


def test_logged_costs_are_summed_in_the_currency_of_their_row_only(lake: Lake) -> None:
    def said(amount: str, currency: str | None) -> Mapping[str, object]:
        return {"logged_cost": Decimal(amount), "logged_currency": currency}

    land(lake, [
        call(at(9), **said("9", "USD")), call(at(9), **said("70", "EUR")), call(at(9), **said("5", None)),
        call(at(9), model="unknown", **said("3", "USD")),
    ])  # fmt: skip
    catch_up_costs(lake)
    roll_up_costs(lake)
    found = [(r["model"], r["currency"], r["cost"], r["logged_cost"]) for r in rollup(lake)]
    assert found == [("m", "USD", 30, 9), ("unknown", "USD", None, 3)]


def test_only_days_with_new_batches_are_rolled_up_again(lake: Lake) -> None:
    land(lake, [call(at(9)), call(at(9, day=NEXT))])
    catch_up_costs(lake)
    roll_up_costs(lake)
    assert roll_up_costs(lake).days == ()
    version = lake.version("cost_rollup")
    land(lake, [call(at(3))])
    catch_up_costs(lake)
    late = roll_up_costs(lake)
    assert (late.days, late.sequence) == ((DAY,), 2)
    assert lake.version("cost_rollup") == version + 1
    assert [row["sequence"] for row in rollup(lake)] == [2, 1]
    assert [row["cost"] for row in rollup(lake)] == [20, 10]


def test_a_batch_that_is_not_priced_yet_waits(lake: Lake) -> None:
    land(lake, [call(at(9))])
    assert roll_up_costs(lake).days == ()
    catch_up_costs(lake)
    land(lake, [call(at(10))])
    done = roll_up_costs(lake)
    assert (done.days, done.sequence) == ((DAY,), 1)
    assert figures(lake) == [(at(0), "m", "USD", 1, 10)]
    catch_up_costs(lake)
    roll_up_costs(lake)
    assert figures(lake) == [(at(0), "m", "USD", 2, 20)]


@pytest.mark.soak
def test_roll_ups_at_the_same_time_leave_the_same_figures_as_one(lake: Lake) -> None:
    for hour in range(2):
        land(lake, [call(at(hour, day=DAY + timedelta(days=n))) for n in (0, 2, 4)])
        catch_up_costs(lake)
        with ThreadPoolExecutor(3) as pool:
            rollers = [Lake(lake.root) for _ in range(3)]
            assert {done.sequence for done in pool.map(roll_up_costs, rollers)} == {hour + 1}
    assert [(row[3], row[4]) for row in figures(lake)] == [(2, 20)] * 3
    assert [row["sequence"] for row in rollup(lake)] == [2] * 3


def test_on_an_object_store_the_figures_are_the_same(s3_root: str) -> None:
    with Lake(s3_root) as stored:
        put_prices(stored)
        land(stored, [call(at(9)), call(at(10)), call(at(9, day=NEXT), model="mixed")])
        assert catch_up_costs(stored) == [1]
        assert roll_up_costs(stored).days == (DAY, NEXT)
        assert figures(stored) == [(at(0), "m", "USD", 2, 20), (at(0, day=NEXT), "mixed", "EUR", 1, 10)]
        with stored.read("cost_rollup") as reading:
            assert [row["cost"] for row in cost_by(reading, ["day"]).to_pylist()] == [20, 10]


def test_shuffled_batches_give_the_same_figures(tmp_path: Path) -> None:
    calls = [call(at(hour, day=day)) for day in (DAY, NEXT) for hour in (1, 23)]
    found = []
    for name, order in (("one", [0, 1, 2, 3]), ("other", [3, 1, 2, 0])):
        made = Lake(str(tmp_path / name))
        put_prices(made)
        for position in order:
            land(made, [calls[position]])
            catch_up_costs(made)
            roll_up_costs(made)
        found.append((figures(made), figures(made, "hour")))
    assert found[0] == found[1]


def test_many_days_are_computed_in_stretches_and_all_are_there(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_registry_pipelines.lake.slices.ROWS_AT_ONCE", 2)
    days = [DAY + timedelta(days=n) for n in (0, 1, 2, 5, 6)]
    land(lake, [call(at(9, day=day)) for day in days])
    catch_up_costs(lake)
    assert roll_up_costs(lake).days == tuple(days)
    assert [row[0].date() for row in figures(lake)] == days


@pytest.mark.soak
def test_a_new_contract_reaches_old_days_only_when_they_are_priced_anew(lake: Lake) -> None:
    land(lake, [call(at(9), model="late"), call(at(10)), call(at(9, day=NEXT))])
    catch_up_costs(lake)
    roll_up_costs(lake)
    put_prices(
        lake,
        "contract: more\ncurrency: USD\nprices:\n"
        "  - {provider: acme, model: late, per_million_tokens: {input: 1000000}}",
    )
    assert catch_up_costs(lake) == []
    assert [row["cost"] for row in rollup(lake, day=DAY)] == [None, 10]
    done = reprice(lake, [DAY, NEXT])
    assert [(one.day, one.rows, one.changed) for one in done] == [(DAY, 2, 1), (NEXT, 1, 0)]
    assert [one.changed for one in reprice(lake, [DAY, NEXT])] == [0, 0]
    assert roll_up_costs(lake).days == ()
    roll_up_costs(lake, [DAY])
    assert [row["cost"] for row in rollup(lake, day=DAY)] == [10, 10]
    land(lake, [call(at(11))])
    assert catch_up_costs(lake) == [2]


def test_costs_are_told_by_any_keys_with_their_coverage(lake: Lake) -> None:
    land(lake, [
        call(at(9), application="chat", out_text=10), call(at(9), application="search"),
        call(at(10), model="unknown", application="chat"), call(at(9, day=NEXT), tenant="other"),
    ])  # fmt: skip
    catch_up_costs(lake)
    roll_up_costs(lake)
    with lake.read("cost_rollup") as reading:
        by_model = cost_by(reading, ["model"]).to_pylist()
        by_hour = cost_by(reading, ["hour", "model"], until=NEXT, where={"tenant": "acme"}).to_pylist()
        by_day = cost_by(reading, ["day"], since=NEXT)
    assert [(r["model"], r["requests"], r["coverage"], r["cost"]) for r in by_model] == [
        ("m", 3, 1.0, 50), ("unknown", 1, 0.0, None),
    ]  # fmt: skip
    assert by_model[0]["input_tokens"] == 30
    assert by_model[0]["output_tokens"] == 10
    assert by_model[0]["cost_per_1k_tokens"] == 1250.0
    assert by_model[1]["cost_per_1k_tokens"] is None
    assert [(r["hour"], r["model"], r["cost"]) for r in by_hour] == [
        (at(9), "m", 40),
        (at(10), "unknown", None),
    ]
    assert by_day.column_names[:2] == ["day", "currency"]
    assert [(r["day"], r["cost"]) for r in by_day.to_pylist()] == [(NEXT, 10)]


def test_an_unknown_key_or_filter_is_told_with_those_there_are(lake: Lake) -> None:
    with lake.read("cost_rollup") as reading:
        with pytest.raises(UnknownKey, match="not kept by 'team'; the keys are day, hour"):
            cost_by(reading, ["team"])
        with pytest.raises(UnknownKey, match="limited by 'day'; the filters are tenant"):
            cost_by(reading, ["model"], where={"day": "x"})


def test_the_price_book_is_read_again_when_the_catalogue_changes(lake: Lake) -> None:
    book = PriceBook.of(lake)
    assert PriceBook.of(lake) is book
    put_prices(lake, "contract: x\ncurrency: USD\nprices: [{provider: a, model: b, per_unit: {requests: 1}}]")
    assert PriceBook.of(lake) is not book
