from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.reports import formats
from tests.examples import examples


@pytest.mark.parametrize(
    ("amount", "decimals", "text"),
    [
        ("112.169773341000", 2, "112.17"),
        ("112.169773341000", 4, "112.1698"),
        ("1234567.5", 2, "1,234,567.50"),
        ("0", 2, "0.00"),
        ("0E-12", 4, "0.0000"),
        ("0.00000608", 4, "<0.0001"),
        ("-0.00000608", 4, "\N{MINUS SIGN}<0.0001"),
        ("-3.5", 2, "\N{MINUS SIGN}3.50"),
        ("2.675", 2, "2.68"),
        ("2.665", 2, "2.66"),
    ],
)
def test_money_is_rounded_from_its_decimals_and_a_little_is_not_nothing(amount, decimals, text):
    assert formats.money(Decimal(amount), decimals=decimals) == text


@given(st.decimals(min_value=0, max_value=10**15, places=12))
def test_the_exact_amount_can_be_read_back(amount):
    assert Decimal(formats.exact(amount)) == amount


def test_amounts_of_two_currencies_stand_side_by_side():
    assert (
        formats.amounts([("EUR", Decimal("0.03")), ("USD", Decimal("112.17"))]) == "0.0300 EUR + 112.17 USD"
    )


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 5, "0%"),
        (5, 5, "100%"),
        (1, 100_000, "<0.1%"),
        (99_999, 100_000, "99.9%"),
        (1, 3, "33.3%"),
        (0, 0, formats.NOTHING),
    ],
)
def test_a_share_says_none_or_all_only_where_it_is_exactly_that(part, whole, text):
    assert formats.share(part, whole) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, formats.NOTHING),
        (0.5, "0.5 ms"),
        (457.3, "457 ms"),
        (999.7, "1.00 s"),
        (3011.6, "3.01 s"),
        (12459.8, "12.5 s"),
        (2e6, "2,000 s"),
    ],
)
def test_a_duration_carries_its_unit(ms, text):
    assert formats.duration(ms) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (12_345, "12.3 k"), (999_999, "1 M"), (26_610_937, "26.6 M")]
)
def test_a_large_count_is_shortened_for_headlines(value, text):
    assert formats.short_count(value) == text


@settings(deadline=None, max_examples=examples(50))
@given(st.lists(st.text(min_size=1, max_size=60), unique=True, max_size=20))
def test_shortened_names_stay_short_and_different(names):
    short = formats.short_names(names, longest=20)
    assert list(short) == names
    assert len(set(short.values())) == len(names)
    assert all(len(name) <= 20 + len(" (20)") for name in short.values())


def test_a_name_cannot_steer_the_text_around_it():
    assert formats.name("gpt\n\u202e4o\x00", "none") == "gpt��4o�"
    assert formats.name(None, "(no model stated)") == "(no model stated)"


def test_one_day_is_not_written_as_a_range():
    assert formats.days(date(2026, 10, 2), date(2026, 10, 2)) == "2026-10-02"
    assert formats.days(date(2026, 10, 2), date(2026, 10, 31)) == "2026-10-02 to 2026-10-31"


def test_the_unit_of_several_durations_stands_once_where_it_is_the_same():
    assert formats.durations([3011.6, 12459.8, 18963.6]) == "3.01 / 12.5 / 19.0 s"
    assert formats.durations([459.5, 5711.5, None]) == f"460 ms / 5.71 s / {formats.NOTHING}"
