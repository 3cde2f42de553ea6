"""The provider comparison: what tokens cost by type, how quick and how reliable, each beside its sample.

Providers stand in order of their requests and are never ranked: they may have served other
models to other people. Figures are `period_figures.py`'s; here are those by type of token, and
the page, the sheet and the short form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.figures import TABLES, CostRow, Figures
from ml_registry_pipelines.reports.made import Made, Sheet, markdown_table, sheet
from ml_registry_pipelines.reports.period_figures import read_figures
from ml_registry_pipelines.reports.providers_page import TITLE, TYPES, comparison_page
from ml_registry_pipelines.reports.words import CHART_ROWS, NO_MODEL, NO_PROVIDER
from ml_registry_pipelines.telemetry.intervals import share_interval

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

REPORT = "provider_comparison"


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
    share = share_interval(statistics.errors, reached)
    bounds = (None, None) if share is None else (share.lower, share.upper)
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
        + (f", {formats.count(total.assumed_price)} by an assumed price" if total.assumed_price else ""),
        f"times are {found.zone}",
        f"computed from log batches up to {found.sequence}",
    ]
    if found.pending_days:
        parts.append(f"**{found.pending_days} days lack requests that are not counted yet**")
    return "; ".join(parts) + "."


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
