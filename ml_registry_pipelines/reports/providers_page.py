"""The page of the provider comparison: what tokens cost, speed and errors, each beside its sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.figures import CostRow, Figures
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
from ml_registry_pipelines.reports.samples import BEYOND, says_little
from ml_registry_pipelines.reports.speed import speed
from ml_registry_pipelines.reports.words import CHART_ROWS, NO_PROVIDER, TABLE_ROWS, listed, name
from ml_registry_pipelines.telemetry.intervals import share_interval

if TYPE_CHECKING:
    from ml_registry_pipelines.reports.providers import Comparison

TITLE = "Provider comparison"
TYPES = ("input", "cache_read", "cache_write", "output")
"""Types of token, as price lists have them; each is the sum of its buckets."""
WORDS = {"input": "input", "cache_read": "cached input", "cache_write": "cache writes", "output": "output"}
SHOWN_MODELS = 4


def comparison_page(found: Comparison) -> str:
    """The page; it loads nothing, and can be printed."""
    figures = found.figures
    assert figures.first is not None
    assert figures.last is not None
    title = TITLE if figures.tenant is None else f"{TITLE} of {formats.name(figures.tenant, formats.NOTHING)}"
    subtitle = f"{formats.days(figures.first, figures.last)} ({figures.zone})"
    if figures.total is None:
        return document(title, subtitle, el("p", "No requests were logged in this period.", class_="empty"))
    return document(
        title,
        f"{subtitle}, from log batches up to {figures.sequence}",
        notices(figures),
        _headlines(found, figures.total),
        el("section", el("h2", "What tokens cost"), *_costs(found)),
        el("section", el("h2", "Speed and errors"), *speed(figures), *_errors(found)),
        el("section", el("h2", "How to read this"), _reading(figures)),
        el("section", el("h2", "What it was made of"), made_of(figures)),
    )


def notices(found: Figures) -> Content:
    """What has to be known before any figure is read."""
    said: list[Content] = []
    if found.pending_days:
        said.append(
            f"{found.pending_days} days of this period have requests that are not counted yet; "
            "a correction follows when they are."
        )
    total = found.total
    if total and total.assumed_price:
        said.append(
            join(
                ASSUMED,
                f" {formats.count(total.assumed_price)} requests are priced by an assumed price.",
            )
        )
    if total and total.statistics and total.statistics.assumed:
        parts = listed(total.statistics.assumed)
        said.append(join(ASSUMED, f" Some logs call their {parts} assumed; such rows are marked."))
    return el("div", [el("p", each) for each in said], class_="notice", role="note") if said else None


def _headlines(found: Comparison, total: CostRow) -> Markup:
    billable = formats.count(total.billable)
    rows = [
        headline(
            "Providers", formats.count(len(found.providers)), f"{formats.count(total.requests)} requests"
        ),
        headline(
            "Cost",
            formats.amounts(total.costs)
            if total.costs
            else formats.NOT_PRICED
            if total.billable
            else "not billed",
            f"{formats.share(total.priced, total.billable)} of {billable} billable requests priced",
        ),
    ]
    if statistics := total.statistics:
        reached = total.requests - statistics.cache_hits
        rows.append(
            headline(
                "Failed",
                formats.share(statistics.errors, reached),
                f"{formats.count(statistics.errors)} of {formats.count(reached)} that reached a provider",
            )
        )
    return el("dl", rows, class_="headlines")


def _costs(found: Comparison) -> Iterator[Content]:
    currencies = sorted({currency for row in found.providers for currency, _ in row.costs})
    if not currencies:
        yield el("p", "No request of this period has a price.", class_="empty")
    for currency in currencies:
        rows = [row for row in found.providers if (row.key[0], currency) in found.by_type]
        for kind in TYPES:
            drawn = list(_bars(found, rows[:CHART_ROWS], kind, currency))
            if not drawn:
                continue
            title = f"{currency} per 1,000 tokens of {WORDS[kind]}"
            without = len(found.providers) - len(drawn)
            yield figure(
                f"Cost per 1,000 tokens of {WORDS[kind]}, {currency}",
                charts.as_svg(charts.bars(drawn, title=title), label=f"Bars: {title} by provider"),
                "Over the models and tiers that were used; not a price list.",
                " Dashed: rests on an assumed price." if any(bar.hollow for bar in drawn) else None,
                f" {without} more had none with a price." if without else None,
            )
    yield table(
        "Costs by provider",
        [
            Column("Provider", number=False),
            Column("Requests"),
            Column("Priced", "of billable"),
            Column("Cost"),
            *(Column(WORDS[kind].capitalize(), "per 1,000 tokens") for kind in TYPES),
            Column("By type", "priced requests"),
        ],
        [cells for row in found.providers[:TABLE_ROWS] for cells in _cost_cells(found, row)],
        note="Prices by type rest on the requests that the last column counts.",
    )
    yield table(
        "Models that they served, by requests",
        [Column("Provider", number=False), Column("Models", number=False)],
        [[name(row.key[0], NO_PROVIDER), _served(found, row)] for row in found.providers[:TABLE_ROWS]],
    )


def _bars(found: Comparison, rows: list[CostRow], kind: str, currency: str) -> Iterator[charts.Bar]:
    for row in rows:
        cost = found.by_type[row.key[0], currency].types[kind]
        price = cost.per_1k
        if price is None:
            continue
        label = f"{formats.unit_price(price)} ({formats.short_count(cost.tokens)} tokens)"
        yield charts.Bar(
            formats.name(row.key[0], NO_PROVIDER),
            float(price),
            label,
            hollow=bool(row.assumed_price),
        )


def _cost_cells(found: Comparison, row: CostRow) -> Iterator[list[Content | Cell]]:
    for number, (currency, cost) in enumerate(row.costs or (("", None),)):
        typed = found.by_type.get((row.key[0], currency))
        prices = [typed.types[kind].per_1k if typed else None for kind in TYPES]
        unknown = formats.NOT_PRICED if row.billable else "not billed"
        yield [
            name(row.key[0], NO_PROVIDER),
            formats.count(row.requests) if not number else "",
            formats.share(row.priced, row.billable) if not number else "",
            Cell(unknown, quiet=True)
            if cost is None
            else Cell(f"{formats.money(cost)} {currency}", title=f"{formats.exact(cost)} {currency}"),
            *(
                Cell(formats.NOTHING, quiet=True) if p is None else Cell(formats.unit_price(p))
                for p in prices
            ),
            formats.count(typed.requests) if typed else formats.NOTHING,
        ]


def _served(found: Comparison, row: CostRow) -> str:
    served = found.models.get(row.key[0], ())
    more = f" and {len(served) - SHOWN_MODELS} more" if len(served) > SHOWN_MODELS else ""
    return ", ".join(served[:SHOWN_MODELS]) + more


def _errors(found: Comparison) -> Iterator[Content]:
    rows = []
    for row in found.providers[:TABLE_ROWS]:
        if (statistics := row.statistics) is None:
            continue
        reached = row.requests - statistics.cache_hits
        bounds = share_interval(statistics.errors, reached)
        remarks = [
            f"{label} of {formats.count(n)} answers says little"
            for label, n, q in (
                ("p50", statistics.latency.n, 0.5),
                ("p95", statistics.latency.n, 0.95),
                ("p99", statistics.latency.n, 0.99),
            )
            if says_little(n, q)
        ]
        rows.append(
            [
                name(row.key[0], NO_PROVIDER),
                formats.share(statistics.errors, reached),
                formats.NOTHING if bounds is None else f"{bounds.lower:.2%} to {bounds.upper:.2%}",
                formats.count(reached),
                remarks[0] if remarks else formats.NOTHING,
            ]
        )
    yield table(
        "How sure the shares are",
        [
            Column("Provider", number=False),
            Column("Failed"),
            Column("Between", "95 % interval"),
            Column("Of", "requests"),
            Column("Too few for", number=False),
        ],
        rows,
        note="Intervals that overlap do not tell providers apart.",
    )


def _reading(found: Figures) -> Markup:
    error = (
        f"Each within {found.relative_error:.0%} of the exact value." if found.relative_error else "Exact."
    )
    terms = {
        "Per 1,000 tokens": "What was paid for tokens of a type, by their number. It follows the models that were "
        "used, so a provider of larger models is dearer here without having higher prices.",
        "Priced": "Requests with a cost, of those that should have one. What cannot be priced is in no sum.",
        "Percentiles": f"p95 is the smallest time that at least 95% of the answers did not exceed. {error}",
        "Failed": "Status error, billed or not, of all attempts that reached the provider.",
        "Between": "The share that such traffic would show in the long run lies in it in 95 of 100 such weeks "
        "(score interval), if requests fail independently.",
        "Says little": f"Under {BEYOND} answers lie beyond the percentile.",
    }
    return el("dl", [join(el("dt", term), el("dd", text)) for term, text in terms.items()], class_="reading")


def made_of(found: Figures) -> Markup:
    """Versions of the tables, price lists, and the zone."""
    rows: list[list[Content | Cell]] = [["time zone", found.zone]]
    rows += [["price list", f"{each.catalog} {each.version}"] for each in found.price_lists]
    rows += [
        [f"version of {table_name}", str(version)] for table_name, version in sorted(found.versions.items())
    ]
    return table("Data", [Column("What", number=False), Column("Value")], rows)
