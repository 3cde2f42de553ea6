"""The figures of one period of a tenant's own calendar, as delivered reports show them.

As `figures.py` has them for UTC days of everybody; here a day, week or month begins at midnight
of a time zone, and the figures may be one tenant's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.queries import attribution_coverage, costs_by
from ml_registry_pipelines.costs.standing import standing
from ml_registry_pipelines.lake.slices import days_behind
from ml_registry_pipelines.reports.calendar import utc_days
from ml_registry_pipelines.reports.figures import (
    GROUPINGS,
    TABLES,
    Figures,
    Intake,
    PriceList,
    Unpriced,
    computed_from,
    cost_rows,
    group_key,
    slices_over_time,
)
from ml_registry_pipelines.reports.windows import take_window
from ml_registry_pipelines.telemetry.performance import statistics_by
from ml_registry_pipelines.telemetry.windows import Question

if TYPE_CHECKING:
    from datetime import date

    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading


def figures_of_period(lake: Lake, period: Period, tenant: str | None = None) -> Figures:
    """The figures of a period, of one tenant or of everybody.

    Where files came from is told of everybody's days alone: a file may bring rows of several tenants.
    """
    with lake.read(*TABLES) as reading:
        return read_figures(lake, reading, period, tenant)


def read_figures(lake: Lake, reading: Reading, period: Period, tenant: str | None) -> Figures:
    """The same within a reading of `figures.TABLES`, whose `cost_rollup` is the period's from then on."""
    first, last = utc_days(period)
    sequence, costs_version, attribution_version = computed_from(reading, first, last)
    pending = pending_days(reading, first, last)
    take_window(lake, reading, period, tenant)
    (statistics, spent) = (
        statistics_by(reading, Question(period.start, period.end, tenant), GROUPINGS),
        costs_by(reading, GROUPINGS),
    )
    total, by_model, by_provider, by_tenant = (
        cost_rows(rows.to_pylist(), by, {group_key(group, by): group for group in found.groups})
        for by, rows, found in zip(GROUPINGS, spent, statistics, strict=True)
    )
    one_day = period.first == period.last
    # Without any request, a grouping by nothing still has its row of zeros.
    has_requests = bool(total) and total[0].requests > 0
    return Figures(
        period.first,
        period.last,
        sequence,
        one_day,
        costs_version,
        attribution_version,
        attribution=attribution_coverage(reading),
        total=total[0] if has_requests else None,
        by_model=by_model,
        by_provider=by_provider,
        by_tenant=by_tenant,
        over_time=slices_over_time(reading, period.first, period.last),
        unpriced=_unpriced(reading, period, tenant),
        intake=_intake(reading, period) if tenant is None and one_day else (),
        price_lists=_price_lists(reading, period, tenant),
        relative_error=statistics[0].relative_error,
        zone=period.zone.key,
        tenant=tenant,
        versions={name: reading.version(name) for name in TABLES},
        pending_days=len(pending),
        tells_intake=tenant is None and one_day,
    )


def pending_days(reading: Reading, first: date, last: date) -> Sequence[date]:
    """UTC days whose rollups lack requests that were taken."""
    leading = reading.sequence("inference_events", "ingestion")
    behind = {
        day for name in ("cost_rollup", "performance_rollup") for day in days_behind(reading, name, leading)
    }
    return sorted(day for day in behind if first <= day <= last)


def _within(period: Period, tenant: str | None) -> dict[str, object]:
    first, last = utc_days(period)
    return {"first": first, "last": last, "start": period.start, "end": period.end, "tenant": tenant}


_WITHIN = """
    day BETWEEN $first AND $last AND event_ts >= $start AND event_ts < $end
    AND ($tenant IS NULL OR tenant = $tenant)
"""


def _unpriced(reading: Reading, period: Period, tenant: str | None) -> tuple[Unpriced, ...]:
    rows = reading.query(
        "reports.unpriced_of_period",
        f"""
        SELECT tenant, provider, model, cost_status AS reason, count(*) AS requests,
               coalesce(sum(tokens), 0)::BIGINT AS tokens
        FROM ({standing(reading, _WITHIN)})
        WHERE cost_status NOT IN ('priced', 'not_billed')
        GROUP BY ALL
        ORDER BY requests DESC, tokens DESC, tenant, provider, model, reason
        """,
        _within(period, tenant),
    ).to_pylist()
    return tuple(Unpriced(**row) for row in rows)


def _price_lists(reading: Reading, period: Period, tenant: str | None) -> tuple[PriceList, ...]:
    rows = reading.query(
        "reports.price_lists_of_period",
        f"""
        WITH used AS (
            SELECT price_id, count(*) AS requests
            FROM ({standing(reading, _WITHIN)})
            WHERE cost_status = 'priced' AND price_id IS NOT NULL
            GROUP BY price_id
        ),
        lists AS (
            SELECT price_id, arg_min(catalog, generation) AS catalog,
                   arg_min(catalog_version, generation) AS version, bool_or(assumed) AS assumed
            FROM price_catalog
            GROUP BY price_id
        )
        SELECT catalog, version, assumed, count(*) AS prices, sum(requests)::BIGINT AS requests
        FROM used JOIN lists USING (price_id)
        GROUP BY ALL
        ORDER BY requests DESC, catalog, version
        """,
        _within(period, tenant),
    ).to_pylist()
    return tuple(PriceList(**row) for row in rows)


def _intake(reading: Reading, period: Period) -> tuple[Intake, ...]:
    rows = reading.query(
        "reports.intake_of_period",
        """
        WITH brought AS (
            SELECT DISTINCT source, file AS path FROM inference_events
            WHERE day BETWEEN $first AND $last AND event_ts >= $start AND event_ts < $end
              AND ($tenant IS NULL OR tenant = $tenant)
        )
        SELECT source, count(DISTINCT path) AS files,
               sum(rows_in)::BIGINT AS rows_in, sum(taken)::BIGINT AS taken,
               sum(duplicates)::BIGINT AS duplicates, sum(quarantined)::BIGINT AS quarantined,
               sum(ignored)::BIGINT AS ignored, coalesce(sum(suppressed), 0)::BIGINT AS suppressed
        FROM ingested_files
        WHERE (source, path) IN (FROM brought)
        GROUP BY source
        ORDER BY source
        """,
        _within(period, None),
    ).to_pylist()
    return tuple(Intake(**row) for row in rows)
