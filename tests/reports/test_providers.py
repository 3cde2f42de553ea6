"""Providers side by side: figures worked out by hand."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.reports.calendar import period_named
from ml_registry_pipelines.reports.made import Made, Sheet
from ml_registry_pipelines.reports.providers import provider_comparison
from ml_registry_pipelines.reports.samples import says_little
from ml_registry_pipelines.telemetry.intervals import share_interval
from tests.made_events import event
from tests.reports.conftest import set_prices, take
from tests.reports.test_cost_reports import Page

MONDAY = datetime(2026, 9, 28, tzinfo=UTC)
PRICES = """
contract: test-prices
currency: USD
prices:
  - {provider: openai, model: "*", per_million_tokens: {input: "2.50", cached_input: "0.25", output: "10"}}
"""
EUROS = """
contract: test-euros
currency: EUR
assumed: true
prices:
  - {provider: mistral, model: "*", per_million_tokens: {input: "2", output: "6"}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A week with three providers: one priced by type, one in euros, one without a price."""
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake:
        set_prices(lake, PRICES, EUROS)
        hour = timedelta(hours=1)
        rows = [
            event(MONDAY + n * hour, in_uncached=1000, in_cache_read=4000, out_text=100) for n in range(8)
        ]
        # Failed, and not billed: it is in no rate, and one of ten attempts.
        rows += [
            event(MONDAY + n * hour, status="error_unbilled", in_uncached=None, out_text=None)
            for n in range(2)
        ]
        rows += [
            event(MONDAY + n * hour, provider="mistral", model="=large", in_uncached=500, out_text=50)
            for n in range(5)
        ]
        rows += [event(MONDAY, provider="ollama", model="own", in_uncached=10, out_text=1)]
        rows += [event(MONDAY - hour), event(MONDAY + timedelta(days=7))]
        take(lake, rows)
        return provider_comparison(lake, period_named("2026-W40", ZoneInfo("UTC")), None, mark="m")


def rows(made: Made) -> dict[str, dict[str, str]]:
    return {row["provider"]: row for row in csv.DictReader(io.StringIO(made.sheet.csv()))}


def test_tokens_have_a_price_by_type(made):
    openai = rows(made)["openai"]
    # 8 x (1,000 x 2.50 + 4,000 x 0.25 + 100 x 10) / 1e6
    assert (openai["cost"], openai["currency"]) == ("0.036", "USD")
    assert openai["input_tokens"] == "8000"
    assert openai["cache_read_tokens"] == "32000"
    assert openai["input_cost_per_1000_tokens"] == "0.0025"
    assert openai["cache_read_cost_per_1000_tokens"] == "0.00025"
    assert openai["output_cost_per_1000_tokens"] == "0.01"
    assert openai["cache_write_cost_per_1000_tokens"] == ""
    # 0.036 per 40,800 tokens
    assert openai["cost_per_1000_tokens"] == "0.000882352941"
    assert openai["requests_priced_by_type"] == "8"


def test_what_has_no_price_is_empty_and_not_zero(made):
    ollama = rows(made)["ollama"]
    assert (ollama["cost"], ollama["priced_requests"], ollama["billable_requests"]) == ("", "0", "1")
    assert made.coverage["priced_requests"] == 13
    assert made.coverage["priced_by_illustrative_prices"] == 5


def test_errors_come_with_their_sample_and_interval(made):
    openai = rows(made)["openai"]
    assert (openai["errors"], openai["reached"], openai["error_share"]) == ("2", "10", "0.2")
    # Wilson's interval of 2 of 10.
    assert (openai["error_share_lower"], openai["error_share_upper"]) == ("0.0566822", "0.509838")
    page = Page(made.page)
    row = next(row for row in page.table("How sure the shares are") if row["Provider"] == "openai")
    assert row["Between95 % interval"] == "5.67% to 50.98%"
    assert row["Too few for"] == "p50 of 8 answers says little"


def test_currencies_are_never_added(made):
    mistral = rows(made)["mistral"]
    # 5 x (500 x 2 + 50 x 6) / 1e6
    assert (mistral["cost"], mistral["currency"]) == ("0.0065", "EUR")
    page = Page(made.page)
    assert "0.0360 USD" in page.text
    assert "0.0065 EUR" in page.text
    assert "Cost per 1,000 tokens of input, EUR" in page.text
    assert "assumed price" in page.text


def test_names_out_of_logs_are_no_formulas_and_no_markdown(made):
    assert "'=large" in made.sheet.csv()
    assert Sheet.parse(made.sheet.csv(), made.sheet.keys).csv() == made.sheet.csv()
    assert made.markdown.count("\n| ") == 4
    assert "script" not in Page(made.page).tags


def test_requests_of_other_weeks_are_not_in_it(made):
    assert made.coverage["requests"] == 16
    assert made.assumptions["price_lists"] == ["test-euros 1.2.3 (assumed)", "test-prices 1.2.3"]
    assert made.final


def test_intervals_and_samples_by_hand():
    assert share_interval(0, 0) is None
    for errors, lower, upper in ((0, 0.0, 0.1611), (20, 0.8389, 1.0)):
        share = share_interval(errors, 20)
        assert share is not None
        assert (share.lower, share.upper) == pytest.approx((lower, upper), abs=5e-5)
    assert not says_little(1000, 0.99)
    assert says_little(999, 0.99)
    assert not says_little(0, 0.99)
