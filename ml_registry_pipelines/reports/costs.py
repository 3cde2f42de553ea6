"""The cost reports: one page per day, and one about all days, written below `<root>/reports`.

A report is a pure function of its figures: the same figures give the same bytes. What the figures
are is in `figures.py`, how a page looks in `page.py`, how it is stored in `writing.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.figures import (
    MODELS_IN_CHART,
    CostRow,
    Figures,
    figures_of_all_days,
    figures_of_day,
)
from ml_registry_pipelines.reports.page import (
    ASSUMED,
    Cell,
    Column,
    Content,
    Markup,
    document,
    el,
    figure,
    headline,
    join,
    table,
)
from ml_registry_pipelines.reports.writing import Written, write_report

if TYPE_CHECKING:
    import altair as alt

    from ml_registry_pipelines.lake.lake import Lake

CHART_ROWS = 20
"""Providers in a chart; the table below has more."""
TABLE_ROWS = 60
UNRELIABLE = 0.25
"""A share of failed requests beside which a latency must not be read alone."""

NO_MODEL, NO_PROVIDER = "(no model stated)", "(no provider stated)"
NO_COSTS = "No request of this period has a price yet."
NO_TIMES = "No request of this period was answered with a time."

_OF_PEOPLE = ("tenant", "application")
_OF_TIMES = ("latency", "ttft")
_REASONS = {
    "unpriced": "no price matches",
    "incomplete": "the price lacks a part that was used",
    "inconsistent": "token counts contradict the log's total",
    "no_usage": "the log holds no token count",
}


def daily_cost_report(lake: Lake, day: date) -> Written:
    """Write the report of one UTC day; a day without requests gets a page that says so."""
    found = figures_of_day(lake, day)
    return write_report(
        lake,
        "daily_cost_report",
        partition=day.isoformat(),
        page=cost_page("Daily cost report", found),
        sequence=found.sequence,
        draw=lambda: key_chart_png(found),
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
        draw=lambda: key_chart_png(found),
    )


def key_chart_png(found: Figures) -> bytes | None:
    """The chart of cost by model over time as a picture of at most 100 kB; None where nothing is priced."""
    chart = _cost_over_time(found)
    return None if chart is None else charts.as_png(chart)


def cost_page(title: str, found: Figures) -> str:
    """The whole page."""
    if found.first is None or found.last is None:
        return document(title, "no days yet", el("p", "Nothing is rolled up yet: take log files first.", class_="empty"))
    subtitle = f"{formats.days(found.first, found.last)} (UTC)"
    if found.total is None:
        return document(title, subtitle, el("p", "No requests were logged in this period.", class_="empty"))
    return document(
        title,
        f"{subtitle}, from log batches up to {found.sequence}",
        _notice(found.total),
        _headlines(found, found.total),
        el("section", el("h2", "Costs"), *_costs(found)),
        el("section", el("h2", "Speed and errors"), *_speed(found)),
        el("section", el("h2", "Prices"), *_prices(found)),
        el("section", el("h2", "Where the rows come from"), *_intake(found)),
        el("section", el("h2", "How to read this"), _reading(found)),
    )


# -- the top --------------------------------------------------------------------------------


def _notice(total: CostRow) -> Content:
    """What is assumed in all this, if anything."""
    statistics = total.statistics
    said: list[str] = []
    if statistics and statistics.assumed_requests:
        said.append(
            f"{formats.count(statistics.assumed_requests)} of {formats.count(total.requests)} requests stand in logs that "
            f"call their {_listed(statistics.assumed)} assumed"
        )
    if total.assumed_price:
        said.append(f"{formats.count(total.assumed_price)} requests are priced by an illustrative price")
    if not said:
        return None
    return el(
        "div",
        el("p", ASSUMED, " Not everything here was measured: ", "; ".join(said), ". Figures that rest on it are marked."),
        class_="notice",
        role="note",
    )


def _headlines(found: Figures, total: CostRow) -> Markup:
    statistics = total.statistics
    cost = formats.amounts(total.costs) if total.costs else formats.NOT_PRICED if total.billable else "not billed"
    coverage = f"{formats.share(total.priced, total.billable)} of {formats.count(total.billable)} billable requests priced"
    if total.assumed_price:
        coverage += f", {formats.share(total.assumed_price, total.billable)} by an illustrative price"
    rows = [headline("Cost", cost, coverage, assumed=bool(total.assumed(without=(*_OF_PEOPLE, *_OF_TIMES))))]
    if statistics:
        status_assumed = "status" in statistics.assumed
        times_assumed = bool(set(_OF_TIMES) & set(statistics.assumed))
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
                ", ".join([f"{formats.share(statistics.errors, total.requests - statistics.cache_hits)} failed", *others]),
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
    taken = sum(row.taken for row in found.intake)
    rows_in = sum(row.rows_in for row in found.intake)
    rows.append(
        headline(
            "Rows in",
            formats.count(rows_in),
            f"= {formats.count(taken)} taken + {formats.count(sum(r.duplicates for r in found.intake))} duplicates + "
            f"{formats.count(sum(r.quarantined for r in found.intake))} quarantined",
        )
    )
    return el("dl", rows, class_="headlines")


def _percentiles(*values: float | None) -> str:
    return " / ".join(formats.duration(value) for value in values) if any(values) else formats.NOTHING


def _bound(found: Figures) -> str:
    return f", within {found.relative_error:.0%}" if found.relative_error else ""


# -- costs ----------------------------------------------------------------------------------


def _costs(found: Figures) -> Iterator[Content]:
    chart = _cost_over_time(found)
    over_time = found.over_time
    if chart is None or over_time is None:
        yield el("p", NO_COSTS, class_="empty")
    else:
        unpriced = sum(row.requests for row in found.unpriced)
        caption = [f"The {MODELS_IN_CHART} models that cost most have a colour; the times are UTC."]
        if unpriced:
            caption.append(f"{formats.count(unpriced)} requests without a price are not in it.")
        if over_time.other_currencies:
            caption.append(f"Costs in {_listed(over_time.other_currencies)} are in the table alone.")
        yield figure(
            f"Cost by model per {over_time.grain}, {over_time.currency}",
            charts.as_svg(chart, label=f"Stacked bars: cost by model per {over_time.grain} in {over_time.currency}"),
            " ".join(caption),
            _assumed_note(found.total, without=(*_OF_PEOPLE, *_OF_TIMES)),
        )
        yield _price_of_tokens(found, over_time.currency)
    names = [_name(row.key[1], NO_MODEL) for row in found.by_model]
    providers: list[Content] = [_name(row.key[0], NO_PROVIDER) for row in found.by_model]
    yield _cost_table("model", [*zip(names, providers, strict=True)], found.by_model, also=["Provider"], without=_OF_PEOPLE)
    tenants = [(_name(row.key[0], formats.NOTHING),) for row in found.by_tenant]
    yield _cost_table("tenant", tenants, found.by_tenant, without=["application"])


def _cost_table(
    what: str,
    names: Sequence[Sequence[Content]],
    rows: Sequence[CostRow],
    *,
    also: Sequence[str] = (),
    without: Collection[str],
) -> Markup:
    """Costs of each row, the dearest first, with what they rest on; what is too much to list in one row."""
    shown, more = rows[:TABLE_ROWS], rows[TABLE_ROWS:]
    assumed = _Assumed([row.assumed(without=(*_OF_TIMES, *without)) for row in rows])
    currencies = {currency for row in rows for currency, _ in row.costs}
    unit = currencies.pop() if len(currencies) == 1 else None
    body = [[*names, *_cost_cells(row, unit)] for names, row in zip(names, shown, strict=False)]
    if more:
        body.append([f"{len(more)} more {what}s", *[""] * len(also), *_cost_cells(_sum(more), unit)])
    return table(
        f"Cost by {what}",
        [
            Column(what.capitalize(), number=False),
            *(Column(head, number=False) for head in also),
            Column("Requests"),
            Column("Tokens in"),
            Column("Tokens out"),
            Column("Priced", "of billable"),
            Column("Cost", unit),
            Column("Per 1,000 tokens", unit),
            *assumed.columns,
        ],
        [[*cells, *assumed.cells(index)] for index, cells in enumerate(body)],
        note=assumed.note,
    )


def _cost_over_time(found: Figures) -> alt.Chart | None:
    over_time = found.over_time
    if over_time is None:
        return None
    others = f"{over_time.other_models} other model{'s' if over_time.other_models > 1 else ''}"
    return charts.stacked_over_time(
        [
            charts.Segment(
                piece.start,
                others if piece.rank == MODELS_IN_CHART else formats.name(piece.model, NO_MODEL),
                piece.rank,
                piece.cost,
            )
            for piece in over_time.slices
        ],
        grain=over_time.grain,
        title=f"{over_time.currency} per {over_time.grain}",
        others=others,
    )


def _price_of_tokens(found: Figures, currency: str) -> Markup:
    """Cost per 1,000 tokens by provider, the dearest first, those without a price last."""
    prices = {row.key[0]: dict(row.per_1k_tokens).get(currency) for row in found.by_provider}
    ordered = sorted(found.by_provider, key=lambda row: (prices[row.key[0]] is None, -(prices[row.key[0]] or 0)))
    shown = ordered[:CHART_ROWS]
    rows = []
    for row in shown:
        price = prices[row.key[0]]
        label = formats.NOT_PRICED if price is None else formats.unit_price(price)
        if row.assumed_price and price is not None:
            label += " (assumed)" if row.assumed_price == row.priced else " (partly assumed)"
        value = None if price is None else float(price)
        rows.append(charts.Bar(formats.name(row.key[0], NO_PROVIDER), value, label, hollow=bool(row.assumed_price)))
    title = f"{currency} per 1,000 tokens"
    return figure(
        f"Cost per 1,000 tokens by provider, {currency}",
        charts.as_svg(charts.bars(rows, title=title), label=f"Bars: {title} by provider"),
        "Input and output tokens as they were used, priced requests alone. Dashed: an illustrative price.",
        _left_out(ordered),
        _assumed_note(found.total, without=(*_OF_PEOPLE, *_OF_TIMES)),
    )


def _cost_cells(row: CostRow, unit: str | None) -> list[Content | Cell]:
    """`unit` is the currency that stands in the head, if one does for all rows."""
    costs = [el("div", _in(formats.money(cost), currency, unit)) for currency, cost in row.costs]
    prices = [el("div", _in(formats.unit_price(price), currency, unit)) for currency, price in row.per_1k_tokens]
    digits = " + ".join(f"{formats.exact(cost)} {currency}" for currency, cost in row.costs)
    return [
        formats.count(row.requests),
        formats.count(row.input_tokens),
        formats.count(row.output_tokens),
        formats.share(row.priced, row.billable),
        Cell(costs, title=digits) if costs else Cell(formats.NOT_PRICED if row.billable else "not billed", quiet=True),
        Cell(prices or formats.NOTHING, quiet=not prices),
    ]


def _in(amount: str, currency: str, unit: str | None) -> str:
    return amount if unit else f"{amount} {currency}"


def _sum(rows: Sequence[CostRow]) -> CostRow:
    """All that are too many to list, in one row; prices and percentiles do not add up."""
    sums: dict[str, Decimal] = {}
    for row in rows:
        for currency, cost in row.costs:
            sums[currency] = sums.get(currency, Decimal(0)) + cost
    return CostRow(
        key=(),
        requests=sum(row.requests for row in rows),
        billable=sum(row.billable for row in rows),
        priced=sum(row.priced for row in rows),
        assumed_price=sum(row.assumed_price for row in rows),
        costs=tuple(sorted(sums.items())),
        per_1k_tokens=(),
        input_tokens=sum(row.input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        statistics=None,
    )


class _Assumed:
    """What the rows of a table rest on: once above it where it is the same for all, else in a column."""

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        self._common = [part for part in rows[0] if all(part in row for row in rows)] if rows else []
        self._rows = [[part for part in row if part not in self._common] for row in rows]

    @property
    def note(self) -> Content:
        return join(ASSUMED, f" in every row: {_listed(self._common)}") if self._common else None

    @property
    def columns(self) -> list[Column]:
        return [Column("Also assumed" if self._common else "Assumed", number=False)] if any(self._rows) else []

    def cells(self, index: int) -> list[Cell]:
        if not self.columns:
            return []
        parts = self._rows[index] if index < TABLE_ROWS else sorted({p for row in self._rows[TABLE_ROWS:] for p in row})
        return [Cell([ASSUMED, f" {_listed(parts)}"] if parts else formats.NOTHING)]


# -- speed and errors -----------------------------------------------------------------------


def _speed(found: Figures) -> Iterator[Content]:
    rows = sorted(
        (row for row in found.by_provider if row.statistics), key=lambda row: (-row.requests, row.key[0] or "")
    )
    shown = rows[:CHART_ROWS]
    if any(row.statistics and row.statistics.latency.n for row in rows):
        yield figure(
            "Latency by provider, p50, p95 and p99",
            charts.as_svg(
                charts.spreads([_spread(row) for row in shown], title="latency in ms, logarithmic"),
                label="Points: latency percentiles by provider in milliseconds",
            ),
            "Of answers alone: a call that failed, was cancelled or came from a gateway's cache has no latency here. "
            "Providers stand in order of requests, not of speed.",
            _left_out(rows),
            _assumed_note(found.total, only=("latency", "status", "time")),
        )
    else:
        yield el("p", NO_TIMES, class_="empty")
    yield figure(
        "Failed requests by provider",
        charts.as_svg(
            charts.bars(
                [_errors(row) for row in shown],
                title="failed, of all attempts that reached the provider",
                colour=charts.WARNING,
                percent=True,
            ),
            label="Bars: share of failed requests by provider",
        ),
        "In the same order.",
        _left_out(rows),
        _assumed_note(found.total, only=("status", "time")),
    )
    assumed = _Assumed([_assumed_of_speed(row) for row in rows])
    yield table(
        "Providers compared",
        [
            Column("Provider", number=False),
            Column("Requests"),
            Column("Failed"),
            Column("Failed", "share"),
            Column("Answers timed"),
            Column("p50", "ms"),
            Column("p95", "ms"),
            Column("p99", "ms"),
            Column("First token p50", "ms"),
            Column("First token p95", "ms"),
            Column("Tokens out", "per second"),
            *assumed.columns,
        ],
        [[*_provider_cells(row), *assumed.cells(index)] for index, row in enumerate(rows[:TABLE_ROWS])],
        note=assumed.note,
    )


def _spread(row: CostRow) -> charts.Spread:
    assert row.statistics is not None
    latency, reached = row.statistics.latency, row.requests - row.statistics.cache_hits
    remark = f"{formats.count(latency.n)} answers, {formats.share(row.statistics.errors, reached)} failed"
    return charts.Spread(
        formats.name(row.key[0], NO_PROVIDER),
        latency.p50,
        latency.p95,
        latency.p99,
        remark,
        loud=(row.statistics.error_rate or 0) >= UNRELIABLE,
    )


def _errors(row: CostRow) -> charts.Bar:
    assert row.statistics is not None
    reached = row.requests - row.statistics.cache_hits
    share = formats.share(row.statistics.errors, reached)
    return charts.Bar(
        formats.name(row.key[0], NO_PROVIDER),
        row.statistics.error_rate,
        f"{share} ({formats.count(row.statistics.errors)} of {formats.count(reached)})",
    )


def _provider_cells(row: CostRow) -> list[Content | Cell]:
    found = row.statistics
    assert found is not None
    return [
        _name(row.key[0], NO_PROVIDER),
        formats.count(row.requests),
        formats.count(found.errors),
        formats.share(found.errors, row.requests - found.cache_hits),
        formats.count(found.latency.n),
        formats.milliseconds(found.latency.p50),
        formats.milliseconds(found.latency.p95),
        formats.milliseconds(found.latency.p99),
        formats.milliseconds(found.ttft.p50),
        formats.milliseconds(found.ttft.p95),
        formats.speed(found.output_tokens_per_second),
    ]


# -- prices and intake ----------------------------------------------------------------------


def _prices(found: Figures) -> Iterator[Content]:
    if found.unpriced:
        yield table(
            "Requests without a price: their cost is not known, and not 0",
            [
                Column("Model", number=False),
                Column("Provider", number=False),
                Column("Tenant", number=False),
                Column("Why", number=False),
                Column("Requests"),
                Column("Tokens"),
            ],
            [
                [
                    _name(row.model, NO_MODEL),
                    _name(row.provider, NO_PROVIDER),
                    _name(row.tenant, formats.NOTHING),
                    _REASONS.get(row.reason, row.reason),
                    formats.count(row.requests),
                    formats.count(row.tokens),
                ]
                for row in found.unpriced[:TABLE_ROWS]
            ],
        )
        if more := found.unpriced[TABLE_ROWS:]:
            requests = formats.count(sum(row.requests for row in more))
            yield el("p", f"And {len(more)} more, with {requests} requests.")
    else:
        yield el("p", "Every request that should have a price has one.")
    if found.price_lists:
        yield table(
            "Price lists that were used",
            [
                Column("Price list", number=False),
                Column("Version", number=False),
                Column("Prices"),
                Column("Requests"),
                Column("Assumed", number=False),
            ],
            [
                [
                    row.catalog,
                    row.version,
                    formats.count(row.prices),
                    formats.count(row.requests),
                    ASSUMED if row.assumed else formats.NOTHING,
                ]
                for row in found.price_lists
            ],
        )


def _intake(found: Figures) -> Iterator[Content]:
    of_day = found.first == found.last
    yield el(
        "p",
        "Files that brought requests of this day, with all their rows. "
        if of_day
        else "All files that were taken. ",
        "Rows in = taken + duplicates + quarantined, always.",
    )
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
            *([Column("Ignored", "not in rows in")] if ignored else []),
        ],
        [
            [
                _name(row.source, formats.NOTHING),
                *(formats.count(n) for n in (row.files, row.rows_in, row.taken, row.duplicates, row.quarantined)),
                *([formats.count(row.ignored)] if ignored else []),
            ]
            for row in found.intake
        ],
    )


def _reading(found: Figures) -> Markup:
    entries = [
        ("Request", "An attempt of a model call. Retries count one by one; agent spans and tool calls do not count."),
        (
            "Cost",
            "Tokens times the price that held when the request started. What cannot be priced is not in a sum and never "
            "counts as 0; amounts of two currencies are never added. Point at a cost for all its digits.",
        ),
        (
            "Priced",
            "Requests with a cost, of those that should have one: not a gateway's cache hits, errors that nobody bills, "
            "or spans that repeat others.",
        ),
        (
            "Percentiles",
            "p95 is the smallest time that at least 95% of the answers did not exceed. "
            + (
                f"Merged from sketches (DDSketch), so each is within {found.relative_error:.0%} of the exact value."
                if found.relative_error
                else "Exact."
            ),
        ),
        ("Failed", "Status error, billed or not, of all attempts that reached the provider."),
        ("Tokens out per second", "Output tokens by the whole time of their requests, over answers with both."),
        (
            "Assumed",
            "The figures rest on parts of records that their log itself calls assumed (the words name the parts), or on a "
            "price that is illustrative (price).",
        ),
    ]
    return el("dl", [join(el("dt", term), el("dd", text)) for term, text in entries], class_="reading")


# -- words ----------------------------------------------------------------------------------


def _name(value: str | None, otherwise: str) -> Markup:
    """A name out of a log, in its own direction of writing."""
    return el("bdi", formats.name(value, otherwise))


def _assumed_of_speed(row: CostRow) -> list[str]:
    return [part for part in (row.statistics.assumed if row.statistics else ()) if part not in _OF_PEOPLE]


def _assumed_note(row: CostRow | None, *, without: Collection[str] = (), only: Collection[str] | None = None) -> Content:
    """A mark for a chart's caption, with what is assumed in it."""
    parts = [part for part in (row.assumed(without=without) if row else ()) if only is None or part in only]
    return join(" ", ASSUMED, f" {_listed(parts)}.") if parts else None


def _left_out(rows: Sequence[CostRow]) -> str | None:
    more = len(rows) - CHART_ROWS
    return f" {CHART_ROWS} of {len(rows)} providers are shown." if more > 0 else None


def _listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1] if words else ""]))
