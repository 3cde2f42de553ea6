"""Bills become lines once, whatever comes twice, late, restated or broken, and the counts add up."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.bills import intake as intake_module
from ml_registry_pipelines.costs.bills.intake import BillIntake, BillsUnread, TakenBills
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.sources import FileRef, Sources
from tests.costs.bills.made import (
    DAY,
    FOCUS_HEAD,
    Desk,
    anthropic_bucket,
    anthropic_cost,
    focus_row,
    openai_bucket,
    openai_cost,
    page,
)
from tests.examples import examples

NEXT = DAY + timedelta(days=1)


@pytest.fixture
def desk(lake: Lake) -> Desk:
    return Desk(lake)


def adds_up(done: TakenBills) -> bool:
    return done.rows_in == done.taken + done.duplicates + done.quarantined + done.ignored


def test_a_file_is_taken_once(desk: Desk) -> None:
    done = desk.take("a.json", page(openai_bucket(DAY, openai_cost(0.1), openai_cost(0.2, "gpt-4o, output"))))
    assert (done.files, done.rows_in, done.taken) == (1, 2, 2)
    assert desk.take() == TakenBills()
    assert desk.billed() == {"USD": Decimal("0.3")}


def test_the_same_bill_in_another_file_counts_once(desk: Desk) -> None:
    bill = page(openai_bucket(DAY, openai_cost(0.1)))
    desk.take("a.json", bill)
    done = desk.take("b.json.gz", gzip.compress(json.dumps(bill).encode()))
    assert (done.taken, done.duplicates) == (0, 1)
    assert desk.billed() == {"USD": Decimal("0.1")}


def test_a_restated_line_counts_as_it_was_stated_last_and_its_history_is_kept(desk: Desk) -> None:
    desk.take("a.json", page(openai_bucket(DAY, openai_cost(0.1), openai_cost(5, "fine-tuning"))))
    done = desk.take("b.json", page(openai_bucket(DAY, openai_cost(0.15))))
    assert (done.taken, done.restated, done.withdrawn) == (1, 1, 0)
    assert desk.billed() == {"USD": Decimal("5.15")}
    kept = desk.rows(
        "SELECT amount, batch, file FROM provider_bills WHERE line_item = 'gpt-4o, input' ORDER BY batch",
        "provider_bills",
    )
    assert [(row["amount"], row["file"]) for row in kept] == [
        (Decimal("0.1"), "a.json"),
        (Decimal("0.15"), "b.json"),
    ]


def test_bad_records_are_kept_with_file_line_and_reason_and_the_others_are_taken(desk: Desk) -> None:
    text = "\n".join(
        [FOCUS_HEAD, focus_row("1"), focus_row("2", BillingCurrency=""), focus_row("3", ProviderName="Foo")]
    )
    done = desk.take("f.csv", text)
    assert adds_up(done)
    assert (done.taken, done.quarantined) == (1, 2)
    assert desk.quarantine() == [("f.csv", 3, "missing_currency"), ("f.csv", 4, "unknown_provider")]


def test_a_credit_is_a_negative_line(desk: Desk) -> None:
    desk.take("f.csv", "\n".join([FOCUS_HEAD, focus_row("10"), focus_row("-4", ChargeCategory="Credit")]))
    assert desk.billed() == {"USD": Decimal(6)}


def test_files_that_hold_whole_days_withdraw_what_they_lack(lake: Lake) -> None:
    desk = Desk(lake, "sources: [{name: finance, folder: '{home}/bills', restates: days}]")
    desk.take(
        "a.json",
        page(openai_bucket(DAY, openai_cost(1), openai_cost(2, "x")), openai_bucket(NEXT, openai_cost(4))),
    )
    done = desk.take("b.json", page(openai_bucket(DAY, openai_cost(3, "x", "proj_2"))))
    assert (done.taken, done.withdrawn) == (1, 2)
    assert desk.billed() == {"USD": Decimal(7)}


def test_nothing_is_withdrawn_from_a_day_with_a_record_that_could_not_be_taken(lake: Lake) -> None:
    desk = Desk(lake, "sources: [{name: finance, folder: '{home}/bills', restates: days}]")
    desk.take("a.json", page(openai_bucket(DAY, openai_cost(1), openai_cost(2, "x"))))
    done = desk.take("b.json", page(openai_bucket(DAY, openai_cost(1), openai_cost(2, "x", currency=None))))
    assert (done.quarantined, done.withdrawn) == (1, 0)
    assert desk.billed() == {"USD": Decimal(3)}


def test_a_day_that_is_held_by_other_dimensions_is_not_counted_twice(desk: Desk) -> None:
    desk.take("a.json", page(openai_bucket(DAY, openai_cost(1), openai_cost(2, "x"))))
    done = desk.take("b.json", page(openai_bucket(DAY, openai_cost(3, None))))
    assert (done.taken, done.quarantined) == (0, 1)
    assert desk.quarantine() == [("b.json", 1, "other_grouping")]
    assert desk.billed() == {"USD": Decimal(3)}


def test_an_empty_bucket_says_that_nothing_is_billed(desk: Desk) -> None:
    done = desk.take("a.json", page(openai_bucket(DAY, openai_cost(1)), openai_bucket(NEXT)))
    assert adds_up(done)
    assert desk.lines()[-1] == (NEXT, "openai", None, None, None)


def test_two_at_once_take_a_file_once(lake: Lake) -> None:
    desk = Desk(lake)
    for number in range(4):
        desk.put(
            f"{number}.json",
            page(openai_bucket(DAY + timedelta(days=number), openai_cost(1), openai_cost(2, "x"))),
        )
    refs = Sources(desk.settings.all_sources, taken="bill_files").look(lake, settled=True).files

    def take(_: int) -> TakenBills:
        with Lake(lake.root) as own:
            return BillIntake(own, desk.settings.all_sources).take(refs)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(take, range(3)))
    assert desk.billed() == {"USD": Decimal(12)}
    assert desk.rows("SELECT count(*) AS n, sum(taken) AS taken FROM bill_files", "bill_files")[0]["n"] == 4


def test_a_process_that_dies_between_lines_and_file_is_completed(desk: Desk, monkeypatch) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    desk.put("a.json", page(openai_bucket(DAY, openai_cost(1), openai_cost(None))))
    with monkeypatch.context() as dying:
        dying.setattr(intake_module, "append_absent", dies)
        with pytest.raises(KeyboardInterrupt):
            desk.take()
    done = desk.take()
    assert (done.rows_in, done.taken, done.duplicates, done.quarantined) == (2, 1, 0, 1)
    assert desk.rows("SELECT count(*) AS n FROM provider_bills", "provider_bills") == [{"n": 1}]
    assert len(desk.quarantine()) == 1


def test_a_long_file_takes_several_commits_and_its_end_withdraws(lake: Lake, monkeypatch) -> None:
    monkeypatch.setattr(intake_module, "RECORDS_AT_ONCE", 3)
    desk = Desk(lake, "sources: [{name: finance, folder: '{home}/bills', restates: days}]")
    rows = [focus_row(str(n), SkuId=f"s{n}") for n in range(1, 9)]
    desk.take("a.csv", "\n".join([FOCUS_HEAD, *rows]))
    assert desk.billed() == {"USD": Decimal(36)}
    done = desk.take("b.csv", "\n".join([FOCUS_HEAD, *rows[:7]]))
    assert (done.rows_in, done.duplicates, done.withdrawn) == (7, 7, 1)
    assert desk.billed() == {"USD": Decimal(28)}


def test_a_file_that_is_gone_does_not_keep_others_from_being_taken(desk: Desk) -> None:
    desk.put("a.json", page(anthropic_bucket(DAY, anthropic_cost("250"))))
    (ref,) = Sources(desk.settings.all_sources, taken="bill_files").look(desk.lake, settled=True).files
    gone = FileRef("bills", "gone.json", 1, ref.modified_at)
    with pytest.raises(BillsUnread, match=r"gone\.json") as failed:
        BillIntake(desk.lake, desk.settings.all_sources).take([gone, ref])
    assert failed.value.taken.taken == 1
    assert desk.billed() == {"USD": Decimal("2.5")}


bills = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.integers(-5, 5)), max_size=5),
    min_size=1,
    max_size=4,
)


@settings(max_examples=examples(40), deadline=None)
@given(bills)
def test_what_counts_is_what_was_stated_last_whatever_came_before(tmp_path_factory, files) -> None:
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake:
        desk = Desk(lake, "sources: [{name: finance, folder: '{home}/bills', restates: days}]")
        expected: dict[date, int] = {}
        for number, lines in enumerate(files):
            days = sorted({day for day, _, _ in lines})
            buckets = [
                openai_bucket(
                    DAY + timedelta(days=day), *(openai_cost(v, i) for d, i, v in lines if d == day)
                )
                for day in days
            ]
            done = desk.take(f"{number}.json", page(*buckets))
            assert adds_up(done)
            expected |= {day: sum(v for d, _, v in lines if d == day) for day in days}
        assert desk.billed().get("USD", 0) == sum(expected.values())


def test_a_line_that_its_issuer_gave_an_id_may_move_to_another_day(desk: Desk) -> None:
    head = f"{FOCUS_HEAD},x_LineItemId"
    desk.take("a.csv", f"{head}\n{focus_row('1')},li-1\n")
    moved = focus_row(
        "1.5", ChargePeriodStart=f"{NEXT}T00:00:00Z", ChargePeriodEnd=f"{NEXT + timedelta(days=1)}T00:00:00Z"
    )
    assert desk.take("b.csv", f"{head}\n{moved},li-1\n").restated == 1
    assert [(line[0], line[3]) for line in desk.lines()] == [(NEXT, Decimal("1.5"))]
