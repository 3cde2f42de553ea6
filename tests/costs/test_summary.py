"""What models cost by any key: hand-worked amounts, coverage, tags, and what cannot be asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.integration import VibeCodingIntegration
from ml_registry_pipelines.costs.provenance import CostsError
from ml_registry_pipelines.costs.queries import UnknownKey
from ml_registry_pipelines.costs.tagged import cost_by_tag
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.tracking import Inference
from tests.costs.made_costs import at, call, put_prices, take
from tests.examples import examples
from tests.made_events import land

DAY = date(2026, 10, 5)
NEXT = DAY + timedelta(days=1)
AFTER = DAY + timedelta(days=2)
KEYS = ("tenant", "provider", "model", "status", "application", "day", "hour", "tag:team")


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VibeCodingIntegration]:
    """Two days. Worked out by hand, in USD unless said otherwise:

    acme/m: 10 in = 10; 10 in + 20 cached + 5 out = 10 + 2 + 10 = 22; 10 in of globex = 10; an error that is
    billed, 4 in = 4; a cache hit 0; an aggregate span 0. other/m: 8 in + 1 out = 4 + 4 = 8.
    acme/euro: 2 in = 6 EUR. acme/unknown: no price.
    """
    search, ads = '{"team":"search"}', '{"team":"ads","a/b":"x"}'
    with Lake(str(tmp_path_factory.mktemp("home") / "home")) as lake:
        put_prices(lake)
        take(
            lake,
            [
                call(at(DAY, 9), tags=search),
                call(at(DAY, 10), tags=ads, in_cache_read=20, out_text=5),
                call(at(DAY, 11), tenant="globex", tags=search),
                call(at(NEXT, 9), status="error_billed", in_uncached=4),
                call(at(NEXT, 9), status="cache_hit"),
                call(at(NEXT, 9), span_kind="aggregate", in_uncached=1000),
                call(at(NEXT, 9), provider="other", in_uncached=8, out_text=1, tags=ads),
                call(at(NEXT, 10), model="euro", in_uncached=2, tags=search),
                call(at(NEXT, 10), model="unknown", in_uncached=2),
            ],
        )
        yield VibeCodingIntegration(lake)


def lines(found: Any, *keys: str) -> dict[tuple[Any, ...], Any]:
    return {tuple(row[k] for k in (*keys, "currency")): row["cost"] for row in found.lines.to_pylist()}


def test_a_summary_by_provider_and_model_is_what_the_prices_say(costs: VibeCodingIntegration) -> None:
    found = costs.get_cost_summary(by=["provider", "model"])
    assert lines(found, "provider", "model") == {
        ("acme", "m", "USD"): Decimal(46),
        ("other", "m", "USD"): Decimal(8),
        ("acme", "euro", "EUR"): Decimal(6),
        ("acme", "unknown", None): None,
    }
    assert found.totals == {"USD": Decimal(54), "EUR": Decimal(6)}
    assert (found.coverage.billable, found.coverage.priced) == (7, 6)
    assert found.attribution_share == 0
    assert any("EUR, USD, which are not added" in remark for remark in found.remarks())
    assert any("1 of 7 billable requests have no price" in remark for remark in found.remarks())


def test_only_amounts_that_are_left_out_are_said_to_be_left_out(costs: VibeCodingIntegration) -> None:
    # A cache hit costs 0 and has no currency, so no rate either: nothing of it is left out.
    found = costs.get_cost_summary(where={"model": "m"}, currency="USD")
    assert (dict(found.totals), dict(found.unconverted)) == ({"USD": Decimal(54)}, {})
    assert not any("are in no amount" in said for said in found.remarks())
    left = costs.get_cost_summary(currency="USD")
    assert dict(left.unconverted) == {"EUR": Decimal(6)}


def test_rates_by_type_of_token_rest_on_the_tokens_that_were_priced(costs: VibeCodingIntegration) -> None:
    found = costs.get_cost_summary(by=["provider"], where={"model": "m"})
    acme, other = found.lines.to_pylist()
    # The cache hit and the aggregate span have tokens and no price: 10 + 10 + 10 + 4 are what was paid for.
    assert (acme["priced_input_tokens"], acme["priced_cache_read_tokens"], acme["priced_output_tokens"]) == (
        34,
        20,
        5,
    )
    assert (acme["input_per_1k"], acme["cache_read_per_1k"], acme["output_per_1k"]) == (1000.0, 100.0, 2000.0)
    assert acme["cache_write_per_1k"] is None
    assert acme["cost_per_request"] == pytest.approx(46 / 4)
    assert (other["input_per_1k"], other["output_per_1k"]) == (500.0, 4000.0)


def test_costs_by_tag_are_those_of_the_requests_that_bear_it(costs: VibeCodingIntegration) -> None:
    found = costs.get_cost_summary(by=["tag:team"])
    assert lines(found, "tag:team") == {
        ("search", "USD"): Decimal(20),
        ("search", "EUR"): Decimal(6),
        ("ads", "USD"): Decimal(30),
        (None, "USD"): Decimal(4),
    }
    assert found.coverage.billable == 7
    only = costs.get_cost_summary(DAY, NEXT, by=["tenant"], where={"tag:team": "search"})
    assert lines(only, "tenant") == {("acme", "USD"): Decimal(10), ("globex", "USD"): Decimal(10)}
    odd = costs.get_cost_summary(by=["model"], where={"tag:a/b": "x", "provider": "other"})
    assert lines(odd, "model") == {("m", "USD"): Decimal(8)}
    assert costs.get_cost_summary(by=["tag:colour"]).totals == {"USD": Decimal(54), "EUR": Decimal(6)}


@given(by=st.sets(st.sampled_from(KEYS), max_size=4), day=st.sampled_from([None, DAY, NEXT]))
@settings(deadline=None, max_examples=examples(40))
def test_a_summary_by_any_keys_sums_to_the_total(
    costs: VibeCodingIntegration, by: set[str], day: date | None
) -> None:
    since, until = (None, None) if day is None else (day, day + timedelta(days=1))
    whole, split = costs.get_cost_summary(since, until), costs.get_cost_summary(since, until, by=sorted(by))
    assert split.totals == whole.totals
    assert (split.requests, split.coverage, split.attributed) == (
        whole.requests,
        whole.coverage,
        whole.attributed,
    )
    for name in ("input_tokens", "priced_tokens", "typed_requests"):
        assert sum(split.lines[name].to_pylist()) == sum(whole.lines[name].to_pylist())


def test_a_tag_is_not_answered_beyond_its_bound(costs: VibeCodingIntegration) -> None:
    with costs.lake.read("cost_rollup", "model_costs", "inference_events", "attribution_rules") as reading:
        with pytest.raises(CostsError, match="hold 9 of them, more than 3; ask about fewer days"):
            cost_by_tag(reading, ["tag:team"], most=3)
        with pytest.raises(UnknownKey, match="'tag:'"):
            cost_by_tag(reading, ["tag:"])


def test_what_is_taken_and_not_rolled_up_is_counted_and_not_hidden(lake: Lake) -> None:
    put_prices(lake)
    take(lake, [call(at(DAY))])
    land(lake, [call(at(DAY)), call(at(DAY), model="m"), call(at(NEXT), provider="other")])
    costs = VibeCodingIntegration(lake)
    found = costs.get_cost_summary(where={"provider": "acme"})
    assert (found.requests, found.provenance.pending, found.totals) == (1, 2, {"USD": Decimal(10)})
    assert costs.get_cost_summary(NEXT, AFTER).provenance.pending == 1
    assert costs.refresh() == (DAY, NEXT)
    again = costs.get_cost_summary(where={"provider": "acme"})
    assert (again.requests, again.provenance.pending, again.provenance.sequence) == (3, 0, 2)
    assert again.provenance.versions["model_costs"] > found.provenance.versions["model_costs"]


def test_a_tracked_request_costs_what_its_price_says(lake: Lake) -> None:
    put_prices(lake)
    costs = VibeCodingIntegration(lake)
    now = datetime.now(UTC)
    told = Inference(
        "m", "acme", event_id="r1", ts=now, usage={"in_uncached": 3, "out_text": 2}, tags={"team": "x"}
    )
    assert costs.track_ai_request(told).landed == 1
    assert costs.track_ai_request(told).duplicates == 1
    costs.refresh()
    assert costs.get_cost_summary(by=["tag:team"]).totals == {"USD": Decimal(7)}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"since": NEXT, "until": DAY}, "are none; swap them"),
        ({"since": DAY, "until": DAY}, "are none; swap them"),
        ({"since": datetime(2026, 10, 5)}, "whole days of UTC"),  # noqa: DTZ001 - that is the mistake
        ({"where": {"model": "eur0"}}, "of the model 'eur0'; the nearest: euro"),
        ({"where": {"tenant": "acmee"}}, "of the tenant 'acmee'; nothing like it was"),
        ({"where": {"model": "euro", "tenant": "globex"}}, "of the model 'euro'; nothing like it was"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    costs: VibeCodingIntegration, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(CostsError, match=message):
        costs.get_cost_summary(**asked)


def test_unknown_keys_and_filters_are_named(costs: VibeCodingIntegration) -> None:
    with pytest.raises(UnknownKey, match="colour"):
        costs.get_cost_summary(by=["colour"])
    with pytest.raises(UnknownKey, match="colour"):
        costs.get_cost_summary(by=["tag:team", "colour"])
    with pytest.raises(UnknownKey, match="day"):
        costs.get_cost_summary(where={"day": "2026-10-05"})


def test_nothing_logged_is_no_cost_and_no_error(tmp_path: Path) -> None:
    with Lake(str(tmp_path / "none")) as lake:
        found = VibeCodingIntegration(lake).get_cost_summary(by=["model"])
        assert (found.lines.num_rows, found.totals, found.coverage.share) == (0, {}, None)
        assert VibeCodingIntegration(lake).get_cost_summary(by=["tag:team"]).totals == {}
