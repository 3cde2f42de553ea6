"""The figures of a cost report as a sheet, and its short form in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from ml_registry_pipelines.reports import formats
from ml_registry_pipelines.reports.figures import CostRow, Figures
from ml_registry_pipelines.reports.made import Sheet, Value, markdown_table, sheet
from ml_registry_pipelines.reports.providers import rests_on
from ml_registry_pipelines.reports.words import NO_MODEL, NO_PROVIDER

SHOWN = 15
"""Models in the short form."""

COLUMNS = (
    "by", "tenant", "provider", "model", "currency",
    "requests", "billable_requests", "priced_requests", "priced_by_illustrative_prices",
    "input_tokens", "output_tokens", "cost", "cost_per_1000_tokens",
    "errors", "answers_timed", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms",
)  # fmt: skip
_KEYS = 5


def cost_sheet(found: Figures) -> Sheet:
    """The total, then rows by tenant, provider and model; each group's counts stand once, amounts per currency."""
    rows: list[list[Value]] = []
    if found.total is not None:
        rows += _rows("total", found.total, "", "", "")
    for row in found.by_tenant:
        rows += _rows("tenant", row, formats.name(row.key[0], formats.NOTHING), "", "")
    for row in found.by_provider:
        rows += _rows("provider", row, "", formats.name(row.key[0], NO_PROVIDER), "")
    for row in found.by_model:
        names = formats.name(row.key[0], NO_PROVIDER), formats.name(row.key[1], NO_MODEL)
        rows += _rows("model", row, "", *names)
    return sheet(COLUMNS, _KEYS, rows)


def _rows(by: str, row: CostRow, tenant: str, provider: str, model: str) -> Iterator[list[Value]]:
    prices, statistics = dict(row.per_1k_tokens), row.statistics
    latency = statistics.latency if statistics else None
    for number, (currency, cost) in enumerate(row.costs or (("", None),)):
        price = prices.get(currency)
        first = not number
        counts = [
            row.requests,
            row.billable,
            row.priced,
            row.assumed_price,
            row.input_tokens,
            row.output_tokens,
        ]
        times = (
            (statistics.errors, latency.n, latency.p50, latency.p95, latency.p99)
            if statistics and latency
            else ()
        )
        yield [
            by,
            tenant,
            provider,
            model,
            currency,
            *(counts if first else [None] * 6),
            cost,
            None if price is None else price.quantize(Decimal(1).scaleb(-12)),
            *(times if first and times else [None] * 5),
        ]


def cost_markdown(found: Figures) -> str:
    """The dearest models as a table in Markdown, and what the figures rest on."""
    total = found.total
    if total is None:
        return "No requests were logged in this period."
    cost = (
        formats.amounts(total.costs)
        if total.costs
        else formats.NOT_PRICED
        if total.billable
        else "not billed"
    )
    rows = [
        [
            formats.name(row.key[1], NO_MODEL),
            formats.name(row.key[0], NO_PROVIDER),
            formats.count(row.requests),
            formats.share(row.priced, row.billable),
            formats.amounts(row.costs) if row.costs else formats.NOT_PRICED if row.billable else "not billed",
        ]
        for row in found.by_model[:SHOWN]
    ]
    said = [
        f"**{cost}** for {formats.count(total.requests)} requests.",
        "",
        markdown_table(("Model", "Provider", "Requests", "Priced", "Cost"), rows, numbers=3),
        "",
    ]
    if more := found.by_model[SHOWN:]:
        said += [f"And {len(more)} more models.", ""]
    return "\n".join([*said, rests_on(found)])
