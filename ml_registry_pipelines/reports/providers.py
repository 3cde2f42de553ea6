"""The provider comparison: what tokens cost by type, how quick and how reliable, each beside its sample.

Providers stand in order of their requests and are never ranked: they may have served other
models to other people. Figures are `period_figures.py`'s; here are those by type of token, and
the page, the sheet and the short form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.figures import TABLES, CostRow, Figures
from ml_registry_pipelines.reports.made import Made, Sheet, markdown_table, sheet
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
from ml_registry_pipelines.reports.period_figures import read_figures
from ml_registry_pipelines.reports.speed import speed
from ml_registry_pipelines.reports.words import CHART_ROWS, NO_MODEL, NO_PROVIDER, TABLE_ROWS, listed, name

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

REPORT = "provider_comparison"
TITLE = "Provider comparison"
TYPES = ("input", "cache_read", "cache_write", "output")
"""Types of token, as price lists have them; each is the sum of its buckets."""
WORDS = {"input": "input", "cache_read": "cached input", "cache_write": "cache writes", "output": "output"}
BEYOND = 10
"""Values that have to lie beyond a percentile for it to say much: p99 of 1,000, p95 of 200."""
CONFIDENCE_Z = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""
SHOWN_MODELS = 4


@dataclass(frozen=True)
class TypeCost:
    """Tokens of one type, and their cost, of requests that are priced whole; amounts in the currency of the row."""

    tokens: int
    cost: Decimal

    @property
    def per_1k(self) -> Decimal | None:
        """Cost of 1,000 such tokens; None where there was none."""
        return self.cost * 1000 / self.tokens if self.tokens else None


@dataclass(frozen=True)
class ByType:
    """What one provider's tokens cost in one currency, over `requests` of its priced requests."""

    requests: int
    types: Mapping[str, TypeCost]


@dataclass(frozen=True)
class Comparison:
    """All that the page shows. `by_type` is by provider and currency, `models` the models that each served."""

    figures: Figures
    by_type: Mapping[tuple[str | None, str], ByType] = field(default_factory=dict)
    models: Mapping[str | None, tuple[str, ...]] = field(default_factory=dict)

    @property
    def providers(self) -> list[CostRow]:
        """By requests, most first."""
        return sorted(self.figures.by_provider, key=lambda row: (-row.requests, row.key[0] or ""))


def provider_comparison(lake: Lake, period: Period, tenant: str | None, *, mark: str) -> Made:
    """The report of one period; one without requests has a page that says so."""
    found = compared(lake, period, tenant)
    return Made(
        REPORT,
        tenant,
        period,
        TITLE,
        comparison_page(found),
        comparison_sheet(found),
        comparison_markdown(found),
        mark,
        dict(found.figures.versions),
        coverage_of(found.figures),
        assumptions_of(found.figures),
        final=not found.figures.pending_days,
        draw=lambda: _key_chart(found),
    )


def compared(lake: Lake, period: Period, tenant: str | None) -> Comparison:
    """The figures of a period."""
    with lake.read(*TABLES) as reading:
        figures = read_figures(lake, reading, period, tenant)
        return Comparison(figures, _by_type(reading), _models(figures))


def _by_type(reading: Reading) -> dict[tuple[str | None, str], ByType]:
    """Rates rest on hours in which every request is priced: elsewhere tokens with and without a price are one sum."""
    rows = reading.query(
        "reports.costs_by_type",
        """
        WITH keys AS (
            -- Rows of one key together: what corrects a closed month stands beside what it corrects.
            SELECT provider, currency, sum(requests) AS requests, sum(priced_requests) AS priced_requests,
                   sum(coalesce(in_uncached, 0) + coalesce(in_audio, 0) + coalesce(in_image, 0)
                       + coalesce(in_video, 0)) AS input_tokens,
                   sum(coalesce(in_cache_read, 0) + coalesce(in_cache_read_audio, 0)
                       + coalesce(in_cache_read_image, 0)) AS cache_read_tokens,
                   sum(coalesce(in_cache_write_5m, 0) + coalesce(in_cache_write_30m, 0)
                       + coalesce(in_cache_write_1h, 0) + coalesce(in_cache_write_12h, 0))
                       AS cache_write_tokens,
                   sum(coalesce(out_text, 0) + coalesce(out_reasoning, 0) + coalesce(out_audio, 0)
                       + coalesce(out_image, 0)) AS output_tokens,
                   sum(input_cost) AS input_cost, sum(cache_read_cost) AS cache_read_cost,
                   sum(cache_write_cost) AS cache_write_cost, sum(output_cost) AS output_cost
            FROM cost_rollup
            WHERE grain = 'hour' AND currency IS NOT NULL
            GROUP BY provider, currency, period_start, tenant, application, model, status
            HAVING sum(priced_requests) > 0 AND sum(priced_requests) = sum(requests)
        )
        SELECT provider, currency, sum(priced_requests)::BIGINT AS requests,
               sum(input_tokens)::BIGINT AS input_tokens, sum(cache_read_tokens)::BIGINT AS cache_read_tokens,
               sum(cache_write_tokens)::BIGINT AS cache_write_tokens, sum(output_tokens)::BIGINT AS output_tokens,
               coalesce(sum(input_cost), 0) AS input_cost, coalesce(sum(cache_read_cost), 0) AS cache_read_cost,
               coalesce(sum(cache_write_cost), 0) AS cache_write_cost, coalesce(sum(output_cost), 0) AS output_cost
        FROM keys
        GROUP BY provider, currency
        """,
    ).to_pylist()
    return {
        (row["provider"], row["currency"]): ByType(
            row["requests"], {kind: TypeCost(row[f"{kind}_tokens"], row[f"{kind}_cost"]) for kind in TYPES}
        )
        for row in rows
    }


def _models(found: Figures) -> dict[str | None, tuple[str, ...]]:
    """Models by provider, those with most requests first."""
    served: dict[str | None, list[CostRow]] = {}
    for row in found.by_model:
        served.setdefault(row.key[0], []).append(row)
    return {
        provider: tuple(
            formats.name(row.key[1], NO_MODEL)
            for row in sorted(rows, key=lambda r: (-r.requests, r.key[1] or ""))
        )
        for provider, rows in served.items()
    }


def coverage_of(found: Figures) -> dict[str, object]:
    """What share of the requests the figures rest on."""
    total = found.total
    statistics = total.statistics if total else None
    return {
        "requests": total.requests if total else 0,
        "billable_requests": total.billable if total else 0,
        "priced_requests": total.priced if total else 0,
        "priced_by_illustrative_prices": total.assumed_price if total else 0,
        "answers_timed": statistics.latency.n if statistics else 0,
        "known_versions": found.attribution.versions if found.attribution else 0,
        "days_with_requests_not_yet_counted": found.pending_days,
    }


def assumptions_of(found: Figures) -> dict[str, object]:
    """What the figures assume."""
    statistics = found.total.statistics if found.total else None
    return {
        "time_zone": found.zone,
        "percentiles_within": found.relative_error,
        "assumed_in_logs": list(statistics.assumed) if statistics else [],
        "price_lists": sorted(
            f"{each.catalog} {each.version}{' (assumed)' if each.assumed else ''}"
            for each in found.price_lists
        ),
    }


def wilson(hits: int, n: int) -> tuple[float, float] | None:
    """Bounds of a share, two-sided 95 %: the score interval of E. B. Wilson, JASA 22 (1927); None of nothing."""
    if not n:
        return None
    z2, share = CONFIDENCE_Z**2, hits / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = CONFIDENCE_Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def says_little(n: int, quantile: float) -> bool:
    """Whether a percentile of n values rests on under `BEYOND` values beyond it."""
    return n > 0 and n * (1 - quantile) < BEYOND - 1e-9


# -- the sheet -------------------------------------------------------------------------------------

COLUMNS = (
    "provider", "currency",
    "requests", "billable_requests", "priced_requests", "priced_by_illustrative_prices",
    "cost", "cost_per_1000_tokens",
    *(f"{kind}_tokens" for kind in TYPES), *(f"{kind}_cost_per_1000_tokens" for kind in TYPES),
    "requests_priced_by_type",
    "errors", "reached", "error_share", "error_share_lower", "error_share_upper",
    "answers_timed", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms",
    "first_tokens_timed", "first_token_p50_ms", "first_token_p95_ms", "output_tokens_per_second",
    "models",
)  # fmt: skip


def comparison_sheet(found: Comparison) -> Sheet:
    """One row per provider and currency; counts stand once, in the first row of a provider."""
    return sheet(COLUMNS, 2, [row for each in found.providers for row in _sheet_rows(found, each)])


def _sheet_rows(found: Comparison, row: CostRow) -> Iterator[list[str | int | float | Decimal | None]]:
    provider = formats.name(row.key[0], NO_PROVIDER)
    prices = dict(row.per_1k_tokens)
    for number, (currency, cost) in enumerate(row.costs or (("", None),)):
        typed = found.by_type.get((row.key[0], currency))
        types = [typed.types[kind] if typed else None for kind in TYPES]
        counts = [row.requests, row.billable, row.priced, row.assumed_price]
        yield [
            provider,
            currency,
            *(counts if not number else [None] * 4),
            cost,
            _rounded(prices.get(currency)),
            *(each.tokens if each else None for each in types),
            *(_rounded(each.per_1k) if each else None for each in types),
            typed.requests if typed else 0,
            *(_traffic(row) if not number else [None] * 13),
            "; ".join(found.models.get(row.key[0], ())) if not number else None,
        ]


def _rounded(price: Decimal | None) -> Decimal | None:
    """A rate with twelve decimals, as amounts have."""
    return None if price is None else price.quantize(Decimal(1).scaleb(-12))


def _traffic(row: CostRow) -> list[str | int | float | Decimal | None]:
    statistics = row.statistics
    if statistics is None:
        return [None] * 13
    reached = row.requests - statistics.cache_hits
    bounds = wilson(statistics.errors, reached) or (None, None)
    latency, ttft = statistics.latency, statistics.ttft
    return [
        statistics.errors, reached, statistics.error_rate, *bounds,
        latency.n, latency.p50, latency.p95, latency.p99,
        ttft.n, ttft.p50, ttft.p95, statistics.output_tokens_per_second,
    ]  # fmt: skip


# -- the short form --------------------------------------------------------------------------------


def comparison_markdown(found: Comparison) -> str:
    """A table of the providers in Markdown, and what it rests on."""
    figures = found.figures
    if figures.total is None:
        return "No requests were logged in this period."
    rows = []
    for row in found.providers[:CHART_ROWS]:
        statistics = row.statistics
        rows.append(
            [
                formats.name(row.key[0], NO_PROVIDER),
                formats.count(row.requests),
                formats.share(statistics.errors, row.requests - statistics.cache_hits)
                if statistics
                else formats.NOTHING,
                formats.amounts(row.costs)
                if row.costs
                else formats.NOT_PRICED
                if row.billable
                else "not billed",
                " + ".join(f"{formats.unit_price(price)} {unit}" for unit, price in row.per_1k_tokens)
                or formats.NOTHING,
                formats.duration(statistics.latency.p50) if statistics else formats.NOTHING,
                formats.duration(statistics.latency.p95) if statistics else formats.NOTHING,
            ]
        )
    heads = ("Provider", "Requests", "Failed", "Cost", "Per 1,000 tokens", "p50", "p95")
    said = [markdown_table(heads, rows, numbers=6), "", rests_on(figures)]
    if more := found.providers[CHART_ROWS:]:
        said.insert(1, f"\nAnd {len(more)} more providers.")
    return "\n".join(said)


def rests_on(found: Figures) -> str:
    """Coverage and versions in a sentence, for short forms."""
    total = found.total
    if total is None:
        return ""
    parts = [
        f"{formats.share(total.priced, total.billable)} of {formats.count(total.billable)} billable requests are priced"
        + (f", {formats.count(total.assumed_price)} by an illustrative price" if total.assumed_price else ""),
        f"times are {found.zone}",
        f"computed from log batches up to {found.sequence}",
    ]
    if found.pending_days:
        parts.append(f"**{found.pending_days} days lack requests that are not counted yet**")
    return "; ".join(parts) + "."


# -- the page --------------------------------------------------------------------------------------


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
                f" {formats.count(total.assumed_price)} requests are priced by an illustrative price.",
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
                " Dashed: rests on an illustrative price." if any(bar.hollow for bar in drawn) else None,
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
        bounds = wilson(statistics.errors, reached)
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
                formats.NOTHING if bounds is None else f"{bounds[0]:.2%} to {bounds[1]:.2%}",
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


def _key_chart(found: Comparison) -> bytes | None:
    """Latencies side by side as a picture; None where nobody answered with a time."""
    rows = [
        charts.Spread(
            formats.name(row.key[0], NO_PROVIDER),
            row.statistics.latency.p50,
            row.statistics.latency.p95,
            row.statistics.latency.p99,
            f"{formats.count(row.statistics.latency.n)} answers",
        )
        for row in found.providers[:CHART_ROWS]
        if row.statistics and row.statistics.latency.n
    ]
    return charts.as_png(charts.spreads(rows, title="latency in ms, logarithmic")) if rows else None
