"""Days, weeks and months of any zone: without gaps, without overlaps, and named so that the name finds them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.periods import PeriodKind, period_at
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.reports.calendar import (
    period_after,
    period_named,
    period_of,
    periods_over,
    utc_days,
)
from ml_registry_pipelines.reports.windows import divided_hours
from tests.examples import examples

ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe")
HOUR = timedelta(hours=1)
zones = st.sampled_from(ZONES).map(ZoneInfo)
kinds = st.sampled_from(PeriodKind)
instants = st.integers(1_100_000_000, 2_050_000_000).map(lambda second: datetime.fromtimestamp(second, UTC))


@settings(max_examples=examples(400), deadline=None)
@given(kinds, instants, zones)
def test_periods_follow_each_other_without_a_gap_and_their_names_find_them(kind, instant, zone):
    period = period_at(kind, instant, zone)
    assert period.start <= instant < period.end
    after = period_after(period)
    assert after.start == period.end
    assert period_named(period.label, zone) == period
    first, last = utc_days(period)
    assert first <= instant.date() <= last


@settings(max_examples=examples(200), deadline=None)
@given(kinds, instants, zones, st.timedeltas(timedelta(), timedelta(days=200)))
def test_what_is_over_is_each_period_once_oldest_first(kind, instant, zone, later):
    now = instant + later
    first = instant.astimezone(zone).date()
    found = list(periods_over(kind, first, now, zone))
    assert [period.label for period in found] == list(dict.fromkeys(period.label for period in found))
    assert all(a.end == b.start for a, b in pairwise(found))
    assert all(period.end <= now for period in found)
    under_way = period_at(kind, now, zone)
    assert not found or found[-1].end == under_way.start


@settings(max_examples=examples(200), deadline=None)
@given(kinds, instants, zones)
def test_parts_of_hours_and_whole_hours_make_up_a_period(kind, instant, zone):
    period = period_at(kind, instant, zone)
    parts = list(divided_hours(period.start, period.end))
    start = next((end for begin, end in parts if begin == period.start), period.start)
    end = next((begin for begin, end in parts if end == period.end and begin >= start), period.end)
    assert (end - start) % HOUR == timedelta()
    assert start.minute == start.second == 0
    assert all(b - a < HOUR for a, b in parts)


def test_months_weeks_and_clock_changes_by_hand():
    berlin = ZoneInfo("Europe/Berlin")
    march = period_named("2026-03", berlin)
    assert (march.start, march.end) == (
        datetime(2026, 2, 28, 23, tzinfo=UTC),
        datetime(2026, 3, 31, 22, tzinfo=UTC),
    )
    assert period_named("2026-10-25", berlin).length == timedelta(hours=25)
    week = period_named("2026-W53", berlin)
    assert (week.first, week.last) == (date(2026, 12, 28), date(2027, 1, 3))
    assert period_of(PeriodKind.WEEK, date(2027, 1, 1), berlin) == week


@pytest.mark.parametrize("label", ["2026-W54", "2026-13", "2026-02-30", "yesterday", "", "2026-W00"])
def test_what_names_no_period_says_how_one_is_written(label):
    with pytest.raises(InvalidInput, match="write such as 2026-11-23, 2026-W48 or 2026-11"):
        period_named(label, ZoneInfo("UTC"))
