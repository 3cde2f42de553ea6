"""Derived slices: which days are behind, and that no race leaves older figures behind."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.rollups import complete_sequence, roll_up_costs, rollup_rows
from ml_registry_pipelines.lake import slices
from ml_registry_pipelines.lake.outcomes import LostRace
from ml_registry_pipelines.lake.slices import days_behind, refresh_days
from ml_registry_pipelines.telemetry.rollups import refresh_performance, roll_up
from tests.made_events import event, land

START = datetime(2026, 10, 1, tzinfo=UTC)
DAY, NEXT = date(2026, 10, 1), date(2026, 10, 2)


def taken(reading):
    return reading.sequence("inference_events", "ingestion")


def requests(lake, table):
    with lake.read(table) as reading:
        rows = reading.query("requests", f"SELECT day, requests FROM {table} WHERE grain = 'day'")
    return dict(zip(rows["day"].to_pylist(), rows["requests"].to_pylist(), strict=True))


def test_a_day_is_behind_until_its_newest_batch_is_in(lake):
    land(lake, [event(START), event(START + timedelta(days=1))])
    land(lake, [event(START)])
    with lake.read("performance_rollup", "inference_events") as reading:
        assert days_behind(reading, "performance_rollup", 2) == {DAY: 2, NEXT: 1}
        assert days_behind(reading, "performance_rollup", 0) == {}
    refresh_performance(lake)
    with lake.read("performance_rollup", "inference_events") as reading:
        assert days_behind(reading, "performance_rollup", 2) == {}


def test_days_stay_up_to_date_when_their_files_are_compacted(lake):
    for _ in range(4):
        land(lake, [event(START)])
    refresh_performance(lake)
    lake.maintain("inference_events")
    lake.maintain("performance_rollup")
    assert refresh_performance(lake).days == ()
    land(lake, [event(START)])
    assert refresh_performance(lake).days == (DAY,)


def test_a_slice_whose_sources_are_replaced_while_it_is_computed_is_computed_again(lake):
    land(lake, [event(START), event(START + timedelta(days=1))])
    catch_up_costs(lake)
    calls = []

    def compute(reading, days, sequence):
        rows = rollup_rows(reading, days, sequence)
        calls.append(list(days))
        if len(calls) == 1:
            with lake.read("model_costs") as now:
                costs = now.query("costs", "SELECT * FROM model_costs WHERE day = $day", {"day": DAY})
            lake.replace("model_costs", costs, predicate=f"day = '{DAY}'", source="reprice", sequence=1)
        return rows

    found = refresh_days(
        lake, "cost_rollup", compute, complete=complete_sequence, reads=["model_costs", "cost_corrections"]
    )
    assert calls == [[DAY, NEXT], [DAY]]
    assert (found.days, found.sequence) == ((DAY, NEXT), 1)


def test_a_refresh_that_always_loses_gives_up_and_says_so(lake, monkeypatch):
    monkeypatch.setattr(slices, "ATTEMPTS", 3)
    land(lake, [event(START)])

    def compute(reading, days, sequence):
        rows = roll_up(reading, days, sequence)
        land(lake, [event(START + timedelta(days=1))])
        refresh_performance(lake, [NEXT])
        return rows

    with pytest.raises(LostRace, match="other writers were faster 3 times in a row"):
        refresh_days(lake, "performance_rollup", compute, complete=taken)
    assert requests(lake, "performance_rollup") == {NEXT: 3}


def test_days_that_hold_no_raw_row_are_left_alone(lake):
    asked: list[pa.Table] = []

    def compute(reading, days, sequence):
        asked.append(days)
        return roll_up(reading, days, sequence)

    land(lake, [event(START)])
    found = refresh_days(lake, "performance_rollup", compute, complete=taken, days=[NEXT])
    assert (asked, found.days) == ([], ())


def test_both_rollups_hold_the_same_requests(lake):
    land(lake, [event(START), event(START), event(START + timedelta(days=1))])
    catch_up_costs(lake)
    roll_up_costs(lake)
    refresh_performance(lake)
    assert requests(lake, "cost_rollup") == requests(lake, "performance_rollup") == {DAY: 2, NEXT: 1}
