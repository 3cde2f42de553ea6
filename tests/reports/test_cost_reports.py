import hashlib
import re
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.reports import formats
from ml_registry_pipelines.reports.costs import cost_overview, daily_cost_report
from ml_registry_pipelines.reports.words import TABLE_ROWS
from tests.made_events import event
from tests.reports.conftest import CONTRACT, EUROS, START, set_prices, take

DAY = date(2026, 10, 1)
HOUR = timedelta(hours=1)
NASTY = '<script>alert("x")</script>'


class Page(HTMLParser):
    """What a reader sees: all text, the rows of each table by its caption, and the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.tables: dict[str, list[list[str]]] = {}
        self.titles: list[str] = []
        self._caption: str | None = None
        self._rows: list[list[str]] = []
        self._silent = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._silent = tag == "style"
        self.titles += [value for name, value in attrs if name == "title"]
        if tag == "caption":
            self._caption = ""
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            assert self._caption is not None
            self.tables[self._caption] = self._rows
            self._caption = None

    def handle_data(self, data):
        if self._silent:
            self._silent = False
            return
        self.text += data + " "
        if self._caption is not None and not self._rows:
            self._caption += data
        elif self._caption is not None and self._rows and self._rows[-1]:
            self._rows[-1][-1] += data

    def table(self, caption: str) -> list[dict[str, str]]:
        head, *rows = next(rows for name, rows in self.tables.items() if name.startswith(caption))
        return [dict(zip(head, row, strict=True)) for row in rows]


def read(lake, written) -> Page:
    return Page((Path(lake.root) / written.path).read_text(encoding="utf-8"))


def test_costs_are_sums_of_exact_decimals(lake, log):
    log([event(START, in_uncached=1000, out_text=3) for _ in range(7)])
    page = read(lake, daily_cost_report(lake, DAY))
    # 7 x (1000 x 2.50 + 3 x 10) / 1e6
    assert "0.0177 USD" in page.text
    assert "0.01771 USD" in page.titles
    (row,) = page.table("Cost by model")
    assert row["CostUSD"] == "0.0177"
    assert row["Per 1,000 tokensUSD"] == "0.002522"


def test_what_has_no_price_is_not_priced_and_never_nought(lake, log):
    log(
        [
            event(START),
            event(START, provider="selfmade", model="secret"),
            event(START, provider="selfmade", model="secret"),
        ]
    )
    page = read(lake, daily_cost_report(lake, DAY))
    secret = next(row for row in page.table("Cost by model") if row["Model"] == "secret")
    assert secret["CostUSD"] == "not priced"
    assert secret["Pricedof billable"] == "0%"
    (unpriced,) = page.table("Requests without a price")
    assert (unpriced["Model"], unpriced["Why"], unpriced["Requests"]) == ("secret", "no price matches", "2")
    assert "33.3% of 3 billable requests priced" in page.text


def test_a_day_without_any_price_has_a_page_without_a_cost_chart(lake, log):
    log([event(START, provider="selfmade", model="secret")])
    written = daily_cost_report(lake, DAY)
    page = read(lake, written)
    assert "No request of this period has a price yet." in page.text
    assert written.chart is None


@pytest.mark.parametrize("write", [lambda lake: daily_cost_report(lake, DAY), cost_overview])
def test_an_empty_lake_gives_a_page_that_says_so(lake, write):
    written = write(lake)
    page = read(lake, written)
    assert "No requests were logged" in page.text or "Nothing is rolled up yet" in page.text
    assert (written.sequence, written.chart) == (0, None)


def test_the_same_content_is_written_and_recorded_once(lake, log):
    log([event(START)])
    first, again = daily_cost_report(lake, DAY), daily_cost_report(lake, DAY)
    assert (first.recorded, again.recorded) == (True, False)
    with lake.read("reports") as reading:
        (row,) = reading.query("all", "SELECT * FROM reports").to_pylist()
    content = (Path(lake.root) / first.path).read_bytes()
    assert row["digest"] == hashlib.sha256(content).hexdigest() == again.digest
    assert (row["report"], row["partition"], row["path"], row["size"], row["sequence"]) == (
        "daily_cost_report", "2026-10-01", "reports/daily_cost_report/2026-10-01.html", len(content), 1,
    )  # fmt: skip


@pytest.mark.soak
def test_a_file_that_was_lost_is_put_back_without_a_new_record(lake, log):
    log([event(START)])
    written = cost_overview(lake)
    (Path(lake.root) / written.path).unlink()
    assert not cost_overview(lake).recorded
    assert (Path(lake.root) / written.path).exists()


def test_late_rows_change_the_report_of_their_day_alone(lake, log):
    log([event(START)])
    log([event(START + 24 * HOUR)])
    before = daily_cost_report(lake, DAY)
    daily_cost_report(lake, date(2026, 10, 2))
    late = log([event(START + 26 * HOUR)])
    assert not daily_cost_report(lake, DAY).recorded
    changed = daily_cost_report(lake, date(2026, 10, 2))
    assert (changed.recorded, changed.sequence, before.sequence) == (True, late, 1)


def test_rows_in_are_taken_plus_duplicates_plus_quarantined(lake, log):
    log([event(START) for _ in range(5)])
    page = read(lake, cost_overview(lake))
    assert "= 5 taken + 2 duplicates + 1 quarantined" in page.text
    (row,) = page.table("Rows by source")
    assert (row["Rows in"], row["Taken"], row["Duplicates"], row["Quarantined"]) == ("8", "5", "2", "1")


def test_the_intake_of_a_day_is_that_of_the_files_that_brought_its_rows(lake, log):
    log([event(START)])
    log([event(START + 24 * HOUR), event(START + 25 * HOUR)])
    (row,) = read(lake, daily_cost_report(lake, DAY)).table("Rows by source")
    assert (row["Files"], row["Taken"]) == ("1", "1")


def test_names_out_of_logs_are_shown_and_never_run(lake, log):
    names = {"provider": NASTY, "model": NASTY + "&", "tenant": NASTY, "application": NASTY}
    log(
        [
            event(START, **names),
            event(START, model=NASTY),
            event(START, model="</style><img src=x onerror=alert(1)>"),
        ]
    )
    for written in (daily_cost_report(lake, DAY), cost_overview(lake)):
        page = read(lake, written)
        assert not {"script", "img", "iframe", "object", "link"} & set(page.tags)
        assert page.tags.count("style") == 1
        assert NASTY in page.text


def test_a_page_loads_nothing_from_anywhere(lake, log):
    log([event(START, model="https://example.org/model.js")])
    text = (Path(lake.root) / cost_overview(lake).path).read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:link|script|img|iframe|object|embed|use|image|base)\b", text)
    assert not re.search(r"(?:src|href|action)\s*=|url\(|@import", text)


def test_a_page_can_be_read_by_everyone(lake, log):
    log([event(START)])
    text = (Path(lake.root) / cost_overview(lake).path).read_text()
    page = Page(text)
    assert '<html lang="en">' in text
    assert page.tags.count("h1") == 1
    assert text.count('<svg role="img" aria-label="') == text.count("<svg") == 4
    assert page.tags.count("caption") == page.tags.count("table")
    assert page.tags.count("figcaption") == page.tags.count("figure")
    assert 'scope="col"' in text
    assert 'scope="row"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_amounts_of_two_currencies_are_never_added(lake, log):
    set_prices(lake, CONTRACT.format(assumed="false"), EUROS)
    log(
        [event(START) for _ in range(3)]
        + [event(START, provider="mistral", model="large", in_uncached=1_000_000, out_text=0)]
    )
    page = read(lake, daily_cost_report(lake, DAY))
    assert "2.00 EUR + 0.0014 USD" in page.text
    assert {row["Cost"] for row in page.table("Cost by model")} == {"2.0000 EUR", "0.0014 USD"}
    assert "Costs in EUR are in the table alone." in page.text


def test_figures_that_rest_on_an_illustrative_price_say_so(lake, log):
    set_prices(lake, CONTRACT.format(assumed="true"))
    log([event(START), event(START)])
    page = read(lake, daily_cost_report(lake, DAY))
    assert "2 requests are priced by an assumed price" in page.text
    assert "assumed in every row: price" in next(
        name for name in page.tables if name.startswith("Cost by model")
    )
    assert "(assumed)" in page.text
    (used,) = page.table("Price lists that were used")
    assert (used["Price list"], used["Version"], used["Requests"], used["Assumed"]) == (
        "test-prices",
        "1.2.3",
        "2",
        "assumed",
    )


def test_figures_that_rest_on_assumed_records_say_what_is_assumed(lake, log):
    log([event(START, tags='{"assumed":"latency tenant"}'), event(START, model="measured", tenant="globex")])
    page = read(lake, daily_cost_report(lake, DAY))
    assert "1 of 2 requests stand in logs that call their latency and tenant assumed" in page.text
    assert "Providers comparedassumed in every row: latency" in page.tables
    tenants = {row["Tenant"]: row["Assumed"] for row in page.table("Cost by tenant")}
    assert tenants == {"acme": "tenant", "globex": formats.NOTHING}


def test_measured_figures_bear_no_mark(lake, log):
    log([event(START)])
    page = read(lake, daily_cost_report(lake, DAY))
    assert "Not everything here was measured" not in page.text
    assert "Assumed" not in {head for rows in page.tables.values() for head in rows[0]} - {"Assumed"}


def test_a_provider_that_failed_most_calls_is_not_shown_as_fast(lake, log):
    failed = [
        event(START, provider="broken", status="error_unbilled", latency_ms=0.0, ttft_ms=0.0)
        for _ in range(130)
    ]
    log([*failed, *(event(START, provider="broken", latency_ms=9000.0) for _ in range(20))])
    log([event(START, provider="sound", latency_ms=2000.0) for _ in range(100)])
    page = read(lake, daily_cost_report(lake, DAY))
    rows = {row["Provider"]: row for row in page.table("Providers compared")}
    assert (rows["broken"]["Failed"], rows["broken"]["Failedshare"], rows["broken"]["Answers timed"]) == (
        "130",
        "86.6%",
        "20",
    )
    assert int(rows["broken"]["p50ms"].replace(",", "")) > int(rows["sound"]["p50ms"].replace(",", ""))
    assert "20 answers, 86.6% failed" in page.text


@pytest.mark.soak
def test_many_models_with_long_names_are_listed_and_the_rest_is_summed(lake, log):
    names = [
        f"vendor/some-rather-long-model-name-with-many-parts-{number:03}" for number in range(TABLE_ROWS + 5)
    ]
    log([event(START + number * timedelta(minutes=9), model=name) for number, name in enumerate(names)])
    written = cost_overview(lake)
    rows = read(lake, written).table("Cost by model")
    assert len(rows) == TABLE_ROWS + 1
    assert rows[-1]["Model"] == "5 more models"
    assert rows[-1]["Requests"] == "5"
    assert written.chart is not None
    assert len(written.chart) <= 100_000


@pytest.mark.soak
def test_rows_that_name_no_model_or_provider_are_shown_as_such(lake, log):
    log([event(START, model=None, provider=None)])
    (row,) = read(lake, daily_cost_report(lake, DAY)).table("Cost by model")
    assert (row["Model"], row["Provider"]) == ("(no model stated)", "(no provider stated)")


def test_requests_that_nobody_bills_cost_nothing_and_say_so(lake, log):
    log([event(START, status="cache_hit") for _ in range(3)])
    page = read(lake, daily_cost_report(lake, DAY))
    assert "not billed" in page.text
    assert "3 answered by a gateway's cache" in page.text
    assert "No request of this period was answered with a time." in page.text


@pytest.mark.parametrize(
    ("days", "grain"), [(2, "day"), pytest.param(120, "week", marks=pytest.mark.soak), (900, "month")]
)
def test_the_overview_takes_longer_steps_for_a_longer_time(lake, log, days, grain):
    log([event(START), event(START + timedelta(days=days - 1))])
    page = read(lake, cost_overview(lake))
    assert f"Cost by model per {grain}, USD" in page.text
    first, last = DAY, DAY + timedelta(days=days - 1)
    assert f"{first} to {last} (UTC)" in page.text


def test_what_is_rolled_up_but_not_priced_yet_is_shown_without_costs(lake):
    from ml_registry_pipelines.telemetry.rollups import refresh_performance
    from tests.made_events import land

    land(lake, [event(START)])
    refresh_performance(lake)
    page = read(lake, daily_cost_report(lake, DAY))
    (row,) = page.table("Cost by model")
    assert (row["Requests"], next(value for head, value in row.items() if head.startswith("Cost"))) == (
        "1",
        "not priced",
    )


@pytest.mark.soak
def test_the_day_is_the_utc_day(lake, log):
    log(
        [
            event(datetime(2026, 10, 1, 23, 59, 59, 999_999, tzinfo=UTC)),
            event(datetime(2026, 10, 2, tzinfo=UTC)),
        ]
    )
    (row,) = read(lake, daily_cost_report(lake, DAY)).table("Cost by model")
    assert row["Requests"] == "1"


@pytest.mark.soak
def test_on_an_object_store_the_report_says_the_same(lake, log, s3_root):
    events = [event(START + number * HOUR, latency_ms=100.0 + number) for number in range(30)]
    log(events)
    local = daily_cost_report(lake, DAY)
    with Lake(s3_root) as stored:
        set_prices(stored, CONTRACT.format(assumed="false"))
        take(stored, events)
        written = daily_cost_report(stored, DAY)
        assert not daily_cost_report(stored, DAY).recorded
    page = open_folder(s3_root).read(written.path)
    assert hashlib.sha256(page).hexdigest() == local.digest == written.digest
