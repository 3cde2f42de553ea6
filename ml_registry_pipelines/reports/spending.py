"""The sections on costs: over time, by provider, model and tenant, and what has no price."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.figures import MODELS_IN_CHART, CostRow, Figures
from ml_registry_pipelines.reports.page import ASSUMED, Cell, Column, Content, Markup, el, figure, table
from ml_registry_pipelines.reports.words import (
    CHART_ROWS,
    NO_MODEL,
    NO_PROVIDER,
    OF_PEOPLE,
    OF_TIMES,
    TABLE_ROWS,
    AssumedColumn,
    assumed_note,
    left_out,
    listed,
    name,
)

if TYPE_CHECKING:
    import altair as alt

_NO_COSTS = "No request of this period has a price yet."
_REASONS = {
    "unpriced": "no price matches",
    "incomplete": "the price lacks a part that was used",
    "inconsistent": "token counts contradict the log's total",
    "no_usage": "the log holds no token count",
}


def costs(found: Figures) -> Iterator[Content]:
    chart = cost_over_time(found)
    over_time = found.over_time
    if chart is None or over_time is None:
        yield el("p", _NO_COSTS, class_="empty")
    else:
        unpriced = sum(row.requests for row in found.unpriced)
        caption = [f"Times are {found.zone}."]
        if over_time.other_models:
            caption.append(f"The {MODELS_IN_CHART} models that cost most have a colour.")
        if unpriced:
            caption.append(f"{formats.count(unpriced)} requests without a price are not in it.")
        if over_time.other_currencies:
            caption.append(f"Costs in {listed(over_time.other_currencies)} are in the table alone.")
        yield figure(
            f"Cost by model per {over_time.grain}, {over_time.currency}",
            charts.as_svg(
                chart, label=f"Stacked bars: cost by model per {over_time.grain} in {over_time.currency}"
            ),
            " ".join(caption),
            assumed_note(found.total, without=(*OF_PEOPLE, *OF_TIMES)),
        )
        yield _price_of_tokens(found, over_time.currency)
    names = [name(row.key[1], NO_MODEL) for row in found.by_model]
    providers: list[Content] = [name(row.key[0], NO_PROVIDER) for row in found.by_model]
    yield _cost_table(
        "model", [*zip(names, providers, strict=True)], found.by_model, also=["Provider"], without=OF_PEOPLE
    )
    tenants = [(name(row.key[0], formats.NOTHING),) for row in found.by_tenant]
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
    assumed = AssumedColumn([row.assumed(without=(*OF_TIMES, *without)) for row in rows])
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


def cost_over_time(found: Figures) -> alt.Chart | None:
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
    ordered = sorted(
        found.by_provider, key=lambda row: (prices[row.key[0]] is None, -(prices[row.key[0]] or 0))
    )
    shown = ordered[:CHART_ROWS]
    rows = []
    for row in shown:
        price = prices[row.key[0]]
        label = formats.NOT_PRICED if price is None else formats.unit_price(price)
        if row.assumed_price and price is not None:
            label += " (assumed)" if row.assumed_price == row.priced else " (partly assumed)"
        value = None if price is None else float(price)
        rows.append(
            charts.Bar(formats.name(row.key[0], NO_PROVIDER), value, label, hollow=bool(row.assumed_price))
        )
    title = f"{currency} per 1,000 tokens"
    return figure(
        f"Cost per 1,000 tokens by provider, {currency}",
        charts.as_svg(charts.bars(rows, title=title), label=f"Bars: {title} by provider"),
        "Input and output tokens as they were used, priced requests alone.",
        " Dashed: rests on an assumed price." if any(row.hollow for row in rows) else None,
        left_out(ordered),
        assumed_note(found.total, without=(*OF_PEOPLE, *OF_TIMES)),
    )


def _cost_cells(row: CostRow, unit: str | None) -> list[Content | Cell]:
    """`unit` is the currency that stands in the head, if one does for all rows."""
    costs = [el("div", _in(formats.money(cost), currency, unit)) for currency, cost in row.costs]
    prices = [
        el("div", _in(formats.unit_price(price), currency, unit)) for currency, price in row.per_1k_tokens
    ]
    digits = " + ".join(f"{formats.exact(cost)} {currency}" for currency, cost in row.costs)
    return [
        formats.count(row.requests),
        formats.count(row.input_tokens),
        formats.count(row.output_tokens),
        formats.share(row.priced, row.billable),
        Cell(costs, title=digits)
        if costs
        else Cell(formats.NOT_PRICED if row.billable else "not billed", quiet=True),
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


def prices(found: Figures) -> Iterator[Content]:
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
                    name(row.model, NO_MODEL),
                    name(row.provider, NO_PROVIDER),
                    name(row.tenant, formats.NOTHING),
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
