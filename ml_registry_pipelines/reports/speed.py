"""The section on speed and errors: providers side by side, failures beside latencies."""

from __future__ import annotations

from collections.abc import Iterator

from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.figures import CostRow, Figures
from ml_registry_pipelines.reports.page import Cell, Column, Content, el, figure, table
from ml_registry_pipelines.reports.words import (
    CHART_ROWS,
    NO_PROVIDER,
    OF_PEOPLE,
    TABLE_ROWS,
    AssumedColumn,
    assumed_note,
    left_out,
    name,
)

UNRELIABLE = 0.25
"""A share of failed requests beside which a latency must not be read alone."""

_NO_TIMES = "No request of this period was answered with a time."


def speed(found: Figures) -> Iterator[Content]:
    rows = sorted(
        (row for row in found.by_provider if row.statistics),
        key=lambda row: (-row.requests, row.key[0] or ""),
    )
    shown = rows[:CHART_ROWS]
    if any(row.statistics and row.statistics.latency.n for row in rows):
        yield figure(
            "Latency by provider, p50, p95 and p99",
            charts.as_svg(
                charts.spreads([_spread(row) for row in shown], title="latency in ms, logarithmic"),
                label="Points: latency percentiles by provider in milliseconds",
            ),
            "Of answers alone: a call that failed, was cancelled or came from a gateway's cache has no "
            "latency here. "
            "Providers stand in order of requests, not of speed.",
            left_out(rows),
            assumed_note(found.total, only=("latency", "status", "time")),
        )
    else:
        yield el("p", _NO_TIMES, class_="empty")
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
        left_out(rows),
        assumed_note(found.total, only=("status", "time")),
    )
    assumed = AssumedColumn([_parts_assumed(row) for row in rows])
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
        name(row.key[0], NO_PROVIDER),
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


def _parts_assumed(row: CostRow) -> list[str]:
    return [part for part in (row.statistics.assumed if row.statistics else ()) if part not in OF_PEOPLE]
