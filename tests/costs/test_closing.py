"""Closed months: nothing in them is replaced, differences are booked as corrections, sums come out the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.closing import Booked, ClosedMonths, Closings, closed_months, parsed_month
from ml_registry_pipelines.costs.integration import VibeCodingIntegration
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.pricing import PriceBook
from ml_registry_pipelines.costs.provenance import CostsError
from ml_registry_pipelines.costs.queries import Basis, cost_by, unpriced_models
from ml_registry_pipelines.costs.repricing import TenantChange, reprice
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.costs import MODEL_COSTS, TYPED_TOKENS
from ml_registry_pipelines.operations.audits import (
    closed_months_hold,
    costs_equal_rollup,
    costs_follow_events,
)
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput
from ml_registry_pipelines.registry.log import Log
from tests.costs.test_ledger_and_rollups import at, call, put_prices
from tests.examples import examples
from tests.made_events import land

DAY = date(2025, 11, 30)
NEXT = date(2025, 12, 1)
NOVEMBER = date(2025, 11, 1)
PRICE = """
contract: {name}
currency: {currency}
prices: [{{provider: acme, model: {model}, per_million_tokens: {{input: {price}}}}}]
"""


def offer(lake: Lake, price: int, *, model: str = "m", currency: str = "USD", name: str = "a") -> None:
    """A price of one token in force; of two contracts the last by name wins."""
    put_prices(lake, PRICE.format(name=name, currency=currency, model=model, price=price * 1_000_000))


@pytest.fixture
def log(lake: Lake) -> Iterator[Log]:
    with Log(lake) as opened:
        yield opened


def books(log: Log, tenant: str = "acme") -> Closings:
    return Closings(log, actor=Actor("p-cfo"), tenant=tenant)


def day_of(day: date, **given: Any) -> dict[str, object]:
    return call(at(9, day=day), **given)


def rows(lake: Lake, table: str) -> list[dict[str, Any]]:
    with lake.read(table) as reading:
        return list(reading.query("test", f"SELECT * FROM {table} ORDER BY ALL").to_pylist())


def cost(lake: Lake, basis: Basis = Basis.USE, **given: Any) -> list[tuple[Any, ...]]:
    with lake.read("cost_rollup") as reading:
        found = cost_by(reading, ["day"], basis=basis, **given).to_pylist()
    return [(row["day"], row["currency"], row["cost"], row["corrections"]) for row in found]


@pytest.fixture
def ledger(lake: Lake, log: Log) -> Lake:
    """Ten tokens a day at 1 USD: one tenant's November and December, November closed; and one open tenant."""
    offer(lake, 1)
    land(lake, [day_of(DAY), day_of(NEXT), day_of(DAY, tenant="open")])
    catch_up_costs(lake)
    roll_up_costs(lake)
    books(log).close(NOVEMBER, note="sent to the customer")
    return lake


def test_a_closed_month_is_corrected_and_an_open_one_replaced(ledger: Lake, log: Log) -> None:
    before = rows(ledger, "model_costs")
    offer(ledger, 3, name="b")
    told = reprice(ledger, [DAY, NEXT], dry_run=True)
    assert rows(ledger, "model_costs") == before
    assert rows(ledger, "cost_corrections") == []
    assert [(one.day, one.changed, one.corrected, one.difference) for one in told] == [
        (DAY, 2, 1, {"USD": Decimal(40)}),
        (NEXT, 1, 0, {"USD": Decimal(20)}),
    ]
    assert told[0].changes == (
        TenantChange("acme", "USD", Decimal(10), Decimal(30), corrected=True),
        TenantChange("open", "USD", Decimal(10), Decimal(30), corrected=False),
    )
    assert reprice(ledger, [DAY, NEXT]) == told
    roll_up_costs(ledger, [DAY, NEXT])
    after = rows(ledger, "model_costs")
    closed = [row for row in before if row["tenant"] == "acme" and row["day"] == DAY]
    assert [row for row in after if row["tenant"] == "acme" and row["day"] == DAY] == closed
    assert [row["cost"] for row in after] == [10, 30, 30]
    corrections = rows(ledger, "cost_corrections")
    assert [(row["entry"], row["cost"], row["tokens"], row["list_cost"]) for row in corrections] == [
        ("restated", 30, 10, None),
        ("reversed", -10, -10, None),
    ]
    today = datetime.now(UTC).date()
    assert {row["booked_day"] for row in corrections} == {today}
    mine: dict[str, Any] = {"where": {"tenant": "acme"}}
    assert cost(ledger, **mine) == [(DAY, "USD", 30, 20), (NEXT, "USD", 30, None)]
    assert cost(ledger, Basis.CLOSED, **mine) == [(DAY, "USD", 10, None), (NEXT, "USD", 30, None)]
    booked = cost(ledger, Basis.BOOKED, **mine)
    assert booked == [(DAY, "USD", 10, None), (NEXT, "USD", 30, None), (today, "USD", 20, 20)]
    assert cost(ledger, where={"tenant": "open"}) == [(DAY, "USD", 30, None)]
    assert costs_equal_rollup(ledger).passed
    assert costs_follow_events(ledger).passed


@pytest.mark.soak
def test_doing_it_again_books_nothing_and_going_back_books_the_way_back(ledger: Lake) -> None:
    offer(ledger, 3, name="b")
    reprice(ledger, [DAY])
    versions = [ledger.version(table) for table in ("model_costs", "cost_corrections")]
    assert [one.changed for one in reprice(ledger, [DAY])] == [0]
    assert [ledger.version(table) for table in ("model_costs", "cost_corrections")] == versions
    offer(ledger, 1, name="c")
    (back,) = reprice(ledger, [DAY])
    assert (back.corrected, back.difference) == (1, {"USD": Decimal(-40)})
    assert [row["cost"] for row in rows(ledger, "cost_corrections")] == [30, -10, 10, -30]


def test_a_request_without_a_price_gets_one_by_a_correction_and_coverage_follows(
    lake: Lake, log: Log
) -> None:
    land(lake, [day_of(DAY, model="late"), day_of(DAY)])
    catch_up_costs(lake)
    roll_up_costs(lake)
    closing = books(log).close(NOVEMBER)
    assert closing.booked == (Booked(None, 2, 0, None),)
    offer(lake, 2, model="late", currency="EUR")
    (done,) = reprice(lake, [DAY])
    assert (done.corrected, done.difference) == (1, {"EUR": Decimal(20)})
    roll_up_costs(lake, [DAY])
    with lake.read("cost_rollup") as reading:
        (row,) = cost_by(reading, []).to_pylist()
        (late,) = cost_by(reading, ["model"], where={"model": "late"}).to_pylist()
        (closed,) = cost_by(reading, [], basis=Basis.CLOSED).to_pylist()
    assert (row["requests"], row["billable_requests"], row["priced_requests"], row["cost"]) == (2, 2, 1, 20)
    with lake.read("model_costs", "cost_corrections") as reading:
        assert unpriced_models(reading)["model"].to_pylist() == ["m"]
    assert (late["requests"], late["coverage"], late["cost"], late["priced_tokens"]) == (1, 1, 20, 10)
    assert (closed["priced_requests"], closed["cost"]) == (0, None)


@pytest.mark.soak
def test_a_correction_into_another_currency_takes_back_the_first(ledger: Lake) -> None:
    offer(ledger, 2, currency="EUR", name="b")
    (done,) = reprice(ledger, [DAY])
    assert done.difference == {"EUR": Decimal(40), "USD": Decimal(-20)}
    roll_up_costs(ledger, [DAY])
    assert cost(ledger, where={"tenant": "acme"}, until=NEXT) == [
        (DAY, "EUR", 20, 20),
        (DAY, "USD", 0, -10),
    ]


def rates(lake: Lake, **given: Any) -> tuple[Any, ...]:
    """Counts, typed tokens and rates of the closed day."""
    names = ("requests", "priced_requests", "typed_requests", "priced_tokens", "priced_input_tokens")
    with lake.read("cost_rollup") as reading:
        (row,) = cost_by(reading, [], until=NEXT, where={"tenant": "acme"}, **given).to_pylist()
    return *(row[n] for n in names), row["input_per_1k"], row["cost_per_1k_tokens"], row["cost_per_request"]


@pytest.mark.parametrize(
    "typed", [True, False], ids=["tokens by type", "from before tokens were kept by type"]
)
def test_a_correction_counts_no_token_twice_and_rates_by_type_come_out_right(
    ledger: Lake, *, typed: bool
) -> None:
    if not typed:
        with ledger.read("model_costs") as reading:
            untyped = reading.query(
                "test",
                f"""
                SELECT * REPLACE ({", ".join(f"NULL AS {name}" for name in TYPED_TOKENS)})
                FROM model_costs WHERE day = $day
                """,
                {"day": DAY},
            ).cast(MODEL_COSTS.schema)
            sequence = reading.sequence("model_costs", "inference_events")
        ledger.replace(
            "model_costs", untyped, predicate=f"day = '{DAY}'", source="inference_events", sequence=sequence
        )
        roll_up_costs(ledger, [DAY])
    known = (1, 1, 1, 10, 10, 1000, 1000, 10) if typed else (1, 1, 0, 10, None, None, 1000, 10)
    assert rates(ledger) == known
    for name, price in (("b", 3), ("c", 4)):
        offer(ledger, price, name=name)
        reprice(ledger, [DAY])
        roll_up_costs(ledger, [DAY])
        assert rates(ledger) == (1, 1, 1, 10, 10, price * 1000, price * 1000, price * 10)
        assert rates(ledger, basis=Basis.CLOSED) == known
    # Nothing is taken back twice in another currency either.
    offer(ledger, 2, currency="EUR", name="d")
    reprice(ledger, [DAY])
    roll_up_costs(ledger, [DAY])
    with ledger.read("cost_rollup") as reading:
        found = cost_by(reading, [], until=NEXT, where={"tenant": "acme"}).to_pylist()
    assert [(r["currency"], r["priced_requests"], r["typed_requests"], r["cost"]) for r in found] == [
        ("EUR", 1, 1, 20),
        ("USD", 0, 0, 0),
    ]
    assert [(row["priced_input_tokens"] or 0, row["input_per_1k"]) for row in found] == [
        (10, 2000),
        (0, None),
    ]


def test_answers_by_tag_and_odd_hours_are_of_what_holds_by_now(lake: Lake, log: Log) -> None:
    mondays = [date(2025, 10, 27), date(2025, 11, 3), date(2025, 11, 10), date(2025, 11, 17)]
    last = date(2025, 11, 24)
    offer(lake, 1)
    offer(lake, 1, model="n", name="n")
    land(lake, [*(day_of(day) for day in mondays), day_of(last, model="n", tags='{"team": "search"}')])
    catch_up_costs(lake)
    roll_up_costs(lake)
    books(log).close(NOVEMBER)
    offer(lake, 3, model="n", name="o")
    reprice(lake, [*mondays, last])
    roll_up_costs(lake, [*mondays, last])
    costs = VibeCodingIntegration(lake)
    summary = costs.get_cost_summary(last, NEXT, by=["tag:team"])
    (line,) = summary.lines.to_pylist()
    assert (line["tag:team"], line["requests"], line["cost"], line["input_per_1k"]) == ("search", 1, 30, 3000)
    assert "cost_corrections" in summary.provenance.versions
    closed = costs.get_cost_summary(last, NEXT, basis=Basis.CLOSED)
    assert closed.totals == {"USD": Decimal(10)}
    assert closed.lines["corrections"].to_pylist() == [None]
    day = last + timedelta(days=1)
    (trend,) = costs.get_cost_trends(last, day, today=day).trends
    assert [one.cost for one in trend.days] == [Decimal(30)]
    assert [(odd.hour.hour, odd.cost, odd.usual) for odd in trend.anomalies] == [
        (9, Decimal(30), Decimal(10))
    ]
    with pytest.raises(CostsError, match="by tag are of single requests"):
        costs.get_cost_summary(by=["tag:team"], basis=Basis.CLOSED)


def test_another_name_of_the_same_price_is_no_correction(ledger: Lake) -> None:
    offer(ledger, 1, name="b")
    (done,) = reprice(ledger, [DAY])
    assert (done.changed, done.corrected) == (1, 0)
    assert rows(ledger, "cost_corrections") == []


def test_requests_that_come_after_closing_are_booked_when_they_are_priced(ledger: Lake) -> None:
    land(ledger, [day_of(DAY, in_uncached=7), day_of(NEXT)])
    catch_up_costs(ledger)
    roll_up_costs(ledger)
    today = datetime.now(UTC).date()
    mine: dict[str, Any] = {"where": {"tenant": "acme"}}
    assert cost(ledger, Basis.CLOSED, **mine) == [(DAY, "USD", 10, None), (NEXT, "USD", 20, None)]
    assert cost(ledger, **mine) == [(DAY, "USD", 17, None), (NEXT, "USD", 20, None)]
    assert cost(ledger, Basis.BOOKED, **mine)[-1] == (today, "USD", 7, None)
    (row,) = [r for r in rows(ledger, "cost_rollup") if r["grain"] == "day" and r["booked_day"]]
    assert (row["requests"], row["in_uncached"], row["cost"], row["charge_class"]) == (1, 7, 7, None)
    offer(ledger, 2, name="b")
    assert reprice(ledger, [DAY])[0].corrected == 2
    roll_up_costs(ledger, [DAY])
    assert cost(ledger, until=NEXT, **mine) == [(DAY, "USD", 34, 17)]
    assert costs_equal_rollup(ledger).passed


def test_a_rule_closes_months_some_days_after_their_end(lake: Lake, log: Log) -> None:
    assert books(log).rule() is None
    assert books(log).close_after(10) == 10
    assert books(log).rule() == 10
    closed = closed_months(lake, log, at=datetime(2026, 3, 10, 23, tzinfo=UTC))
    assert not closed.holds("acme", date(2026, 2, 1))
    assert closed.holds("acme", date(2026, 1, 31))
    closed = closed_months(lake, log, at=datetime(2026, 3, 11, tzinfo=UTC))
    assert closed.holds("acme", date(2026, 2, 28))
    assert not closed.holds("acme", date(2026, 3, 1))
    assert not closed.holds("other", date(2026, 1, 1))
    books(log).close_after(None)
    assert books(log).rule() is None
    assert not closed_months(lake, log)
    with pytest.raises(InvalidInput, match="0 to 366 days"):
        books(log).close_after(-1)


def test_what_was_corrected_stays_closed_when_the_rule_is_gone(lake: Lake, log: Log) -> None:
    offer(lake, 1)
    land(lake, [day_of(DAY)])
    catch_up_costs(lake)
    books(log).close_after(0)
    offer(lake, 2, name="b")
    assert reprice(lake, [DAY])[0].corrected == 1
    books(log).close_after(None)
    offer(lake, 3, name="c")
    assert reprice(lake, [DAY])[0].corrected == 1
    assert [row["cost"] for row in rows(lake, "model_costs")] == [10]


def test_a_month_closes_once_and_not_before_it_is_over(ledger: Lake, log: Log) -> None:
    (closing,) = books(log).closed()
    assert (closing.month, closing.note, closing.actor) == (NOVEMBER, "sent to the customer", "p-cfo")
    assert closing.booked == (Booked("USD", 1, 1, Decimal(10)),)
    with pytest.raises(IllegalTransition, match="2025-11 is closed already"):
        books(log).close(NOVEMBER)
    with pytest.raises(InvalidInput, match="is not over yet"):
        books(log).close((datetime.now(UTC).date() + timedelta(days=40)).replace(day=1))
    with pytest.raises(InvalidInput, match="write year and month"):
        parsed_month("2025-13")
    assert books(log, "open").closed() == []


def test_an_audit_tells_a_closed_month_that_was_changed_all_the_same(ledger: Lake) -> None:
    assert closed_months_hold(ledger).passed
    with ledger.read("model_costs") as reading:
        forged = reading.query(
            "test", "SELECT * REPLACE (9 AS cost) FROM model_costs WHERE day = $day", {"day": DAY}
        )
    ledger.replace("model_costs", forged, predicate=f"day = '{DAY}'", source="inference_events", sequence=1)
    finding = closed_months_hold(ledger)
    assert not finding.passed
    assert "2025-11 of acme" in finding.sentence


def test_a_lake_without_a_log_has_nothing_closed(lake: Lake) -> None:
    assert closed_months(lake) == ClosedMonths()


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["acme", "open"]),
        st.sampled_from([DAY, NEXT]),
        st.sampled_from(["m", "n"]),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=6,
)
OFFERS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["m", "n"]), st.sampled_from(["USD", "EUR"])), max_size=3
)


@settings(max_examples=examples(40), deadline=None)
@given(calls=CALLS, offers=OFFERS)
def test_sums_with_corrections_equal_a_fresh_pricing_and_repricing_twice_equals_once(
    tmp_path_factory: pytest.TempPathFactory,
    calls: list[tuple[str, date, str, int]],
    offers: list[tuple[int, str, str]],
) -> None:
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as log:
        offer(lake, 1)
        land(lake, [day_of(d, tenant=t, model=m, in_uncached=n) for t, d, m, n in calls])
        catch_up_costs(lake)
        books(log).close(NOVEMBER)
        closed = [r for r in rows(lake, "model_costs") if r["tenant"] == "acme" and r["day"] == DAY]
        for number, (price, model, currency) in enumerate(offers):
            offer(lake, price, model=model, currency=currency, name=f"b{number}")
            reprice(lake, [DAY, NEXT], log=log)
        versions = [lake.version(table) for table in ("model_costs", "cost_corrections")]
        assert [done.changed for done in reprice(lake, [DAY, NEXT], log=log)] == [0, 0]
        assert [lake.version(table) for table in ("model_costs", "cost_corrections")] == versions
        now = rows(lake, "model_costs")
        assert [r for r in now if r["tenant"] == "acme" and r["day"] == DAY] == closed
        with lake.read("inference_events") as reading:
            events = reading.query("events", "SELECT * FROM inference_events")
        fresh = PriceBook.of(lake).price(events).to_pylist()
        assert sums(fresh) == sums([*now, *rows(lake, "cost_corrections")])


def sums(found: list[dict[str, Any]]) -> dict[tuple[Any, ...], tuple[Decimal, ...]]:
    """Amounts by tenant, day and currency, without those that are nothing."""
    totals: dict[tuple[Any, ...], tuple[Decimal, ...]] = {}
    for row in found:
        key = (row["tenant"], row["day"], row["currency"])
        amounts = tuple(row[name] or Decimal(0) for name in ("cost", "input_cost", "contracted_cost"))
        before = totals.get(key, (Decimal(0),) * 3)
        totals[key] = tuple(a + b for a, b in zip(before, amounts, strict=True))
    return {key: amounts for key, amounts in totals.items() if any(amounts)}
