"""Past days priced anew: exactly what changed is replaced, whoever writes at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.costs import repricing
from ml_registry_pipelines.costs.ledger import CostsBusy, catch_up_costs, days_priced
from ml_registry_pipelines.costs.pricing import PriceBook
from ml_registry_pipelines.costs.repricing import Repriced, reprice
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.lake import Lake
from tests.costs.test_ledger_and_rollups import DAY, NEXT, at, call, figures, put_prices
from tests.made_events import land

DEARER = """
contract: dearer
currency: EUR
prices:
  - {provider: acme, model: late, per_million_tokens: {input: 1000000}}
"""


@pytest.fixture
def lake(lake: Lake) -> Lake:
    put_prices(lake)
    return lake


def costs(lake: Lake) -> list[dict[str, Any]]:
    with lake.read("model_costs") as reading:
        return list(
            reading.query("costs", "SELECT * FROM model_costs ORDER BY event_ts, event_key").to_pylist()
        )


def test_the_changed_rows_are_told_with_their_difference_by_currency(lake: Lake) -> None:
    land(lake, [call(at(9), model="late"), call(at(10)), call(at(9, day=NEXT))])
    catch_up_costs(lake)
    put_prices(lake, DEARER)
    assert days_priced(lake) == [DAY, NEXT]
    assert days_priced(lake, since=NEXT) == [NEXT]
    assert days_priced(lake, until=DAY) == [DAY]
    told = [Repriced(DAY, 2, 1, {"EUR": Decimal(10)}), Repriced(NEXT, 1, 0, {})]
    assert reprice(lake, days_priced(lake), dry_run=True) == told
    assert [row["cost"] for row in costs(lake)] == [None, 10, 10]
    assert reprice(lake, days_priced(lake)) == told
    assert [row["cost"] for row in costs(lake)] == [10, 10, 10]


def test_a_price_in_another_currency_is_less_of_one_and_more_of_the_other(lake: Lake) -> None:
    land(lake, [call(at(9))])
    catch_up_costs(lake)
    # Of two contracts for one model, the last by name wins.
    put_prices(lake, DEARER.replace("late", "m").replace("dearer", "zone"))
    (done,) = reprice(lake, [DAY])
    assert (done.changed, done.difference) == (1, {"EUR": Decimal(10), "USD": Decimal(-10)})


def test_costs_of_attempts_that_are_gone_stay(lake: Lake) -> None:
    land(
        lake,
        [call(at(9), model="late"), call(at(10), tenant="erased"), call(at(11), tenant="erased", day=DAY)],
    )
    catch_up_costs(lake)
    lake.erase("inference_events", "tenant = 'erased'")
    put_prices(lake, DEARER)
    (done,) = reprice(lake, [DAY])
    assert (done.rows, done.changed) == (1, 1)
    assert [(row["tenant"], row["cost"]) for row in costs(lake)] == [
        ("acme", 10),
        ("erased", 10),
        ("erased", 10),
    ]


@pytest.mark.soak
def test_batches_that_are_priced_while_days_are_priced_anew_lose_nothing(lake: Lake) -> None:
    land(lake, [call(at(0), model="late")])
    catch_up_costs(lake)
    put_prices(lake, DEARER)

    def ingest() -> None:
        with Lake(lake.root) as other:
            for minute in range(6):
                land(other, [call(at(1, minute), model="late"), call(at(1, minute, day=NEXT))])
                catch_up_costs(other)

    def reprice_often(_: int) -> int:
        with Lake(lake.root) as other:
            tried = 0
            while len(costs(other)) < 13:
                tried += 1
                try:
                    reprice(other, [DAY, NEXT])
                    roll_up_costs(other, [DAY, NEXT])
                except CostsBusy:
                    continue
            return tried

    with ThreadPoolExecutor(3) as pool:
        writer = pool.submit(ingest)
        assert all(pool.map(reprice_often, range(2)))
        writer.result()
    reprice(lake, [DAY, NEXT])
    roll_up_costs(lake)
    roll_up_costs(lake, [DAY, NEXT])
    rows = costs(lake)
    assert len(rows) == len({row["event_key"] for row in rows}) == 13
    assert {row["cost"] for row in rows} == {10}
    assert [(row[3], row[4]) for row in figures(lake)] == [(7, 70), (6, 60)]


def test_a_catalogue_that_changes_meanwhile_is_what_the_costs_end_up_with(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(lake, [call(at(9), model="late")])
    catch_up_costs(lake)
    real, asked = repricing._changes, list[bool]()

    def slow(*given: Any) -> Any:
        asked.append(True)
        if len(asked) == 1:
            put_prices(lake, DEARER)
            with Lake(lake.root) as faster:
                reprice(faster, [DAY])
        return real(*given)

    monkeypatch.setattr(repricing, "_changes", slow)
    reprice(lake, [DAY])
    assert [row["cost"] for row in costs(lake)] == [10]


@pytest.mark.soak
def test_a_rollup_that_a_kill_left_behind_is_made_up_for(lake: Lake) -> None:
    land(lake, [call(at(9), model="late"), call(at(9, day=NEXT))])
    catch_up_costs(lake)
    roll_up_costs(lake)
    put_prices(lake, DEARER)
    reprice(lake, [DAY, NEXT])
    assert [one.changed for one in reprice(lake, [DAY, NEXT])] == [0, 0]
    assert roll_up_costs(lake, [DAY, NEXT]).days == (DAY,)
    assert roll_up_costs(lake, [DAY, NEXT]).days == ()
    assert [row[4] for row in figures(lake)] == [10, 10]


def test_the_shell_prices_past_days_anew_and_says_what_changed(lake: Lake, home: Path) -> None:
    land(
        lake,
        [
            call(at(9), provider="ours", model="in-house"),
            call(at(9, day=NEXT), provider="ours", model="in-house"),
        ],
    )
    catch_up_costs(lake)
    roll_up_costs(lake)
    (home / "contract-prices.yaml").write_text(
        "contract: ours\ncurrency: USD\n"
        "prices: [{provider: ours, model: in-house, per_million_tokens: {input: '1'}}]\n"
    )

    def mlreg(*arguments: str) -> list[str]:
        found = CliRunner().invoke(cli, ["costs", "reprice", *arguments])
        assert found.exit_code == 0, found.output
        return found.output.splitlines()

    until = ["--until", str(DAY)]
    assert mlreg(*until, "--dry-run") == [
        "2026-10-05  1 of 1 rows  +0.000010 USD",
        "  acme  unknown -> 0.000010 USD",
        "1 rows of 1 days would change: +0.000010 USD",
    ]
    assert mlreg(*until) == [
        "2026-10-05  1 of 1 rows  +0.000010 USD",
        "  acme  unknown -> 0.000010 USD",
        "1 rows of 1 days changed: +0.000010 USD",
        "rolled up 1 days, 2026-10-05 to 2026-10-05",
    ]
    assert mlreg(*until) == ["nothing changes: 1 rows of 1 days"]
    assert [row[4] for row in figures(lake)] == [Decimal("0.00001"), None]


def test_days_in_the_wrong_order_are_refused(lake: Lake) -> None:
    later = str(DAY + timedelta(days=1))
    found = CliRunner().invoke(cli, ["costs", "reprice", "--since", later, "--until", str(DAY)])
    assert found.exit_code == 2
    assert "is after --until" in found.output


def test_rows_in_memory_and_rows_priced_anew_get_the_same_costs(lake: Lake) -> None:
    land(lake, [call(at(9)), call(at(10), model="euro"), call(at(11), model="unknown")])
    catch_up_costs(lake)
    with lake.read("inference_events") as reading:
        rows = reading.query("rows", "SELECT * FROM inference_events")
    reprice(lake, [DAY])
    direct = PriceBook.of(lake).price(rows).sort_by("event_key").to_pylist()
    assert sorted(costs(lake), key=lambda row: row["event_key"]) == direct
