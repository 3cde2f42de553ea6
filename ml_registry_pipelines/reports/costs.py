"""The cost reports: one page per day, and one about all days, written below `<root>/reports`.

A report is a pure function of its figures: the same figures give the same bytes. What the figures
are is in `figures.py`, its sections are in `spending.py` and `speed.py`, how a page looks is in
`page.py`, how it is stored in `writing.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.cost_sheet import cost_markdown, cost_sheet
from ml_registry_pipelines.reports.figures import CostRow, Figures, figures_of_all_days, figures_of_day
from ml_registry_pipelines.reports.page import (
    ASSUMED,
    Column,
    Content,
    Markup,
    document,
    el,
    headline,
    join,
    table,
)
from ml_registry_pipelines.reports.speed import speed
from ml_registry_pipelines.reports.spending import cost_over_time, costs, prices
from ml_registry_pipelines.reports.words import OF_PEOPLE, OF_TIMES, listed, name
from ml_registry_pipelines.reports.writing import Written, write_report

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.queries import AttributionCoverage
    from ml_registry_pipelines.lake.lake import Lake


def daily_cost_report(lake: Lake, day: date) -> Written:
    """Write the report of one UTC day; a day without requests gets a page that says so."""
    found = figures_of_day(lake, day)
    return write_report(
        lake,
        "daily_cost_report",
        partition=day.isoformat(),
        page=cost_page("Daily cost report", found),
        sequence=found.sequence,
        costs_version=found.costs_version,
        attribution_version=found.attribution_version,
        draw=lambda: key_chart_png(found),
        csv=cost_sheet(found).csv(),
        markdown=cost_markdown(found),
    )


def cost_overview(lake: Lake) -> Written:
    """Write the report about all days."""
    found = figures_of_all_days(lake)
    return write_report(
        lake,
        "cost_overview",
        partition=None,
        page=cost_page("Cost overview", found),
        sequence=found.sequence,
        costs_version=found.costs_version,
        attribution_version=found.attribution_version,
        draw=lambda: key_chart_png(found),
        csv=cost_sheet(found).csv(),
        markdown=cost_markdown(found),
    )


def key_chart_png(found: Figures) -> bytes | None:
    """The chart of cost by model over time as a picture of at most 100 kB; None where nothing is priced."""
    chart = cost_over_time(found)
    return None if chart is None else charts.as_png(chart)


def cost_page(title: str, found: Figures) -> str:
    """The whole page."""
    if found.first is None or found.last is None:
        return document(
            title, "no days yet", el("p", "Nothing is rolled up yet: take log files first.", class_="empty")
        )
    if found.tenant is not None:
        title = f"{title} of {formats.name(found.tenant, formats.NOTHING)}"
    subtitle = f"{formats.days(found.first, found.last)} ({found.zone})"
    if found.total is None:
        return document(title, subtitle, el("p", "No requests were logged in this period.", class_="empty"))
    return document(
        title,
        f"{subtitle}, from log batches up to {found.sequence}",
        _pending(found),
        _notice(found.total),
        _headlines(found, found.total),
        el("section", el("h2", "Costs"), *costs(found)),
        el("section", el("h2", "Speed and errors"), *speed(found)),
        el("section", el("h2", "Prices"), *prices(found)),
        el("section", el("h2", "Where the rows come from"), *_intake(found)) if found.tells_intake else None,
        el("section", el("h2", "How to read this"), _reading(found)),
    )


def _pending(found: Figures) -> Content:
    """That figures are missing, if any are."""
    if not found.pending_days:
        return None
    days = "A day" if found.pending_days == 1 else f"{found.pending_days} days"
    said = f"{days} of this period has requests that are not counted yet; a correction follows when they are."
    return el("div", el("p", said), class_="notice", role="note")


def _notice(total: CostRow) -> Content:
    """What is assumed in all this, if anything."""
    statistics = total.statistics
    said: list[str] = []
    if statistics and statistics.assumed_requests:
        said.append(
            f"{formats.count(statistics.assumed_requests)} of {formats.count(total.requests)} requests "
            f"stand in logs that call their {listed(statistics.assumed)} assumed"
        )
    if total.assumed_price:
        said.append(f"{formats.count(total.assumed_price)} requests are priced by an assumed price")
    if not said:
        return None
    return el(
        "div",
        el(
            "p",
            ASSUMED,
            " Not everything here was measured: ",
            "; ".join(said),
            ". Figures that rest on it are marked.",
        ),
        class_="notice",
        role="note",
    )


def _headlines(found: Figures, total: CostRow) -> Markup:
    statistics = total.statistics
    cost = (
        formats.amounts(total.costs)
        if total.costs
        else formats.NOT_PRICED
        if total.billable
        else "not billed"
    )
    billable = formats.count(total.billable)
    coverage = f"{formats.share(total.priced, total.billable)} of {billable} billable requests priced"
    if total.assumed_price:
        coverage += f", {formats.share(total.assumed_price, total.billable)} by an assumed price"
    rows = [headline("Cost", cost, coverage, assumed=bool(total.assumed(without=(*OF_PEOPLE, *OF_TIMES))))]
    if found.attribution is not None and found.attribution.billable:
        rows.append(_known_versions(found.attribution))
    if statistics:
        status_assumed = "status" in statistics.assumed
        times_assumed = bool(set(OF_TIMES) & set(statistics.assumed))
        others = [
            f"{formats.count(value)} {word}"
            for value, word in (
                (statistics.cancelled, "cancelled"),
                (statistics.cache_hits, "answered by a gateway's cache"),
            )
            if value
        ]
        rows += [
            headline(
                "Requests",
                formats.count(total.requests),
                ", ".join(
                    [
                        f"{formats.share(statistics.errors, total.requests - statistics.cache_hits)} failed",
                        *others,
                    ]
                ),
                assumed=status_assumed,
            ),
            headline(
                "Tokens",
                formats.short_count(total.input_tokens + total.output_tokens),
                f"{formats.count(total.input_tokens)} in, {formats.count(total.output_tokens)} out; "
                f"{formats.speed(statistics.output_tokens_per_second)} out per second of an answer",
                assumed=times_assumed,
            ),
            headline(
                "Latency p50 / p95 / p99",
                _percentiles(statistics.latency.p50, statistics.latency.p95, statistics.latency.p99),
                f"over {formats.count(statistics.latency.n)} answers{_bound(found)}",
                assumed="latency" in statistics.assumed,
            ),
            headline(
                "First token p50 / p95 / p99",
                _percentiles(statistics.ttft.p50, statistics.ttft.p95, statistics.ttft.p99),
                f"over {formats.count(statistics.ttft.n)} answers{_bound(found)}",
                assumed=times_assumed,
            ),
        ]
    if found.tells_intake:
        rows_in, taken, duplicates, quarantined = (
            formats.count(sum(getattr(row, what) for row in found.intake))
            for what in ("rows_in", "taken", "duplicates", "quarantined")
        )
        sums = f"= {taken} taken + {duplicates} duplicates + {quarantined} quarantined"
        if suppressed := sum(row.suppressed for row in found.intake):
            sums += f" + {formats.count(suppressed)} suppressed"
        rows.append(headline("Rows in", rows_in, sums))
    return el("dl", rows, class_="headlines")


def _known_versions(found: AttributionCoverage) -> Markup:
    """How much of the traffic leads to a version of a registered model, beside how much is priced."""
    lost = [
        f"{formats.count(count)} {words}"
        for count, words in (
            (found.no_rule, "without a rule"),
            (found.ambiguous, "of split traffic"),
            (found.not_serving, "of a deployment that served nothing then"),
        )
        if count
    ]
    return headline(
        "Known model version",
        formats.share(found.versions, found.billable),
        ", ".join([f"of {formats.count(found.billable)} billable requests", *lost]),
    )


def _percentiles(*values: float | None) -> str:
    return formats.durations(values) if any(values) else formats.NOTHING


def _bound(found: Figures) -> str:
    return f", within {found.relative_error:.0%}" if found.relative_error else ""


def _intake(found: Figures) -> Iterator[Content]:
    if not found.intake:
        yield el("p", "No file is on record for these requests.", class_="empty")
        return
    of_all = "All files that were taken."
    of_day = "Files that brought requests of this day, with all their rows."
    suppressed = any(row.suppressed for row in found.intake)
    summands = "taken + duplicates + quarantined" + (" + suppressed" if suppressed else "")
    yield el("p", of_day if found.of_one_day else of_all, f" Rows in = {summands}, always.")
    ignored = any(row.ignored for row in found.intake)
    yield table(
        "Rows by source",
        [
            Column("Source", number=False),
            Column("Files"),
            Column("Rows in"),
            Column("Taken"),
            Column("Duplicates"),
            Column("Quarantined"),
            *([Column("Suppressed", "of erased people")] if suppressed else []),
            *([Column("Ignored", "not in rows in")] if ignored else []),
        ],
        [
            [
                name(row.source, formats.NOTHING),
                *(
                    formats.count(n)
                    for n in (row.files, row.rows_in, row.taken, row.duplicates, row.quarantined)
                ),
                *([formats.count(row.suppressed)] if suppressed else []),
                *([formats.count(row.ignored)] if ignored else []),
            ]
            for row in found.intake
        ],
    )


def _reading(found: Figures) -> Markup:
    """What the words mean."""
    error = (
        f"Merged from sketches (DDSketch), each within {found.relative_error:.0%} of the exact value."
        if found.relative_error
        else "Exact."
    )
    terms = {
        "Request": "An attempt of a model call: each retry is one, agent spans and tool calls are none.",
        "Cost": "Tokens times the price that held when the request started. What cannot be priced is in no "
        "sum and never counts as 0; amounts in two currencies are not added. Point at a cost for its digits.",
        "Priced": "Requests with a cost, of those that should have one: not a gateway's cache hits, or "
        "errors that nobody bills.",
        "Known model version": "Requests that an attribution rule assigns to a deployment which served one "
        "registered version then. Shares of split traffic are not guessed.",
        "Percentiles": f"p95 is the smallest time that at least 95% of the answers did not exceed. {error}",
        "Failed": "Status error, billed or not, of all attempts that reached the provider.",
        "Tokens out per second": "Output tokens by the whole time of their requests, over answers with both.",
        "Assumed": "Figures that rest on parts of records that their log itself calls assumed (the words "
        "name them), or on an assumed price (price).",
    }
    return el("dl", [join(el("dt", term), el("dd", text)) for term, text in terms.items()], class_="reading")
