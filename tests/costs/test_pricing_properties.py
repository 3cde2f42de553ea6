"""What holds for any rows and any prices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.prices import Component, Price
from ml_registry_pipelines.costs.pricing import PriceBook, price
from ml_registry_pipelines.lake.tables.costs import COST_COMPONENTS
from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, INPUT_BUCKETS, STATUSES, TOKEN_BUCKETS
from tests.costs.conftest import catalogue, events, offer, priced
from tests.examples import examples

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLES = settings(max_examples=examples(25), deadline=None)
START = datetime(2026, 1, 1, tzinfo=UTC)

amounts = st.decimals(min_value=0, max_value=Decimal("0.01"), places=9)
counts = st.one_of(st.none(), st.integers(0, 3), st.integers(0, 500_000))
moments = st.integers(0, 10 * 24 * 60).map(lambda minutes: START + timedelta(minutes=minutes))
clocks = st.integers(0, 23).map(lambda hour: f"{hour:02d}:00")


@st.composite
def offers(draw: st.DrawFn) -> Price:
    names = draw(st.lists(st.sampled_from([*TOKEN_BUCKETS, *COUNTERS, "requests"]), min_size=1, unique=True))
    components = [Component(name, 0, draw(amounts)) for name in names]
    components += [Component(name, 1_000, draw(amounts)) for name in names if draw(st.booleans())]
    since, until = draw(st.none() | moments), draw(st.none() | moments)
    window = draw(st.none() | st.tuples(clocks, clocks).filter(lambda pair: pair[0] != pair[1]))
    return Price(
        catalog="test", provider="acme", model=draw(st.sampled_from(["m", "n", "*"])),
        components=tuple(components), valid_from=since, valid_to=until,
        day_from=window[0] if window else None, day_to=window[1] if window else None,
        precedence=draw(st.integers(1_000, 1_004)), service_tier=draw(st.sampled_from([None, "batch"])),
    )  # fmt: skip


@st.composite
def attempts(draw: st.DrawFn) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: draw(counts) for name in draw(st.sets(st.sampled_from([*TOKEN_BUCKETS, *COUNTERS])))
    }
    return row | {
        "event_ts": draw(moments),
        "model": draw(st.sampled_from(["m", "n", None])),
        "status": draw(st.sampled_from(STATUSES)),
        "service_tier": draw(st.sampled_from([None, "batch", "flex"])),
        "usage_quality": draw(st.sampled_from(["exact", "exact", "inconsistent"])),
    }


some_offers = st.lists(offers(), max_size=6)
some_attempts = st.lists(attempts(), min_size=1, max_size=8)


def by_key(costs: pa.Table) -> dict[int, dict[str, Any]]:
    return {row["event_key"]: row for row in costs.to_pylist()}


@EXAMPLES
@given(some_offers, some_attempts)
def test_components_add_up_and_an_unknown_cost_is_never_zero(
    prices: list[Price], rows: list[dict[str, Any]]
) -> None:
    for cost in priced(prices, *rows):
        parts = [cost[name] for name in COST_COMPONENTS]
        if cost["cost_status"] in ("priced", "not_billed"):
            assert sum(parts) == cost["cost"]
            assert cost["cost"] >= 0
        else:
            assert parts == [None] * len(parts)
            assert cost["cost"] is None
            assert cost["currency"] is None
        assert (cost["cost_status"] == "priced") == (cost["currency"] is not None)


@EXAMPLES
@given(some_offers, some_attempts)
def test_a_cost_is_the_sum_over_what_was_used_at_the_price_that_it_names(
    prices: list[Price], rows: list[dict[str, Any]]
) -> None:
    """The rule in plain Python, row by row, against the statement over all rows."""
    for row, cost in zip(rows, priced(prices, *rows), strict=True):
        if cost["cost_status"] != "priced":
            continue
        moment = row["event_ts"]
        holding = [
            p for p in prices
            if p.model in (row["model"], "*") and row["model"] is not None
            and p.covers(moment) and p.covers_minute(moment.hour * 60 + moment.minute)
            and p.service_tier in (None, row["service_tier"])
        ]  # fmt: skip
        best = max(holding, key=lambda p: (p.precedence, p.catalog, p.price_id))
        assert cost["price_id"] == best.price_id
        total = sum(row.get(name) or 0 for name in INPUT_BUCKETS)
        unit = {c.name: c.unit_price for c in best.components if c.context_over == 0}
        unit |= {c.name: c.unit_price for c in best.components if 0 < c.context_over < total}
        used = {name: row.get(name) or 0 for name in (*TOKEN_BUCKETS, *COUNTERS)} | {"requests": 1}
        assert cost["cost"] == sum(amount * used[name] for name, amount in unit.items())


@EXAMPLES
@given(some_offers, some_attempts, st.randoms(use_true_random=False))
def test_order_of_rows_and_prices_changes_nothing_and_pricing_again_gives_the_same(
    prices: list[Price], rows: list[dict[str, Any]], dice: Any
) -> None:
    given_rows = events(*rows)
    first = by_key(price(given_rows, catalogue(prices)))
    book = PriceBook(catalogue(prices))
    assert by_key(book.price(given_rows)) == first
    assert by_key(book.price(given_rows)) == first
    order = list(range(len(rows)))
    dice.shuffle(order)
    dice.shuffle(prices)
    assert by_key(price(given_rows.take(order), catalogue(prices))) == first


@EXAMPLES
@given(
    st.sampled_from(TOKEN_BUCKETS), st.integers(1, 400), st.integers(1, 400),
    st.dictionaries(st.sampled_from(TOKEN_BUCKETS), st.integers(1, 20)),
)  # fmt: skip
def test_within_a_step_each_bucket_adds_what_its_tokens_cost(
    bucket: str, one: int, more: int, rest: dict[str, int]
) -> None:
    prices = [offer({name: f"0.{number:06d}" for number, name in enumerate(TOKEN_BUCKETS, start=1)})]
    base = rest | {bucket: 1}
    less, apart, both = priced(
        prices, base, base | {bucket: 1 + one}, base | {bucket: 1 + one + more}
    )  # fmt: skip
    assert (apart["cost"] - less["cost"]) * more == (both["cost"] - apart["cost"]) * one
