"""What a cost report shows, read from one snapshot: figures, how far they are priced, what is assumed.

Costs come from cost_rollup, times and errors from performance_rollup, intake from ingested_files.
How figures look is in `formats.py` and `charts.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from ml_registry_pipelines.costs.queries import (
    AttributionCoverage,
    attribution_coverage,
    cost_by,
    costs_by,
    unpriced_models,
)
from ml_registry_pipelines.costs.standing import standing
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.telemetry.performance import GroupStatistics, statistics_by
from ml_registry_pipelines.telemetry.windows import READS, Question

TABLES = (*READS, "cost_rollup", "model_costs", "cost_corrections", "price_catalog", "ingested_files")
GROUPINGS: tuple[tuple[str, ...], ...] = ((), ("provider", "model"), ("provider",), ("tenant",))
"""What the figures are asked by: all together, by model, by provider and by tenant."""
MODELS_IN_CHART = 7
"""Models with a colour of their own; the others are summed."""
OTHERS = "others"
_DAILY_UP_TO, _WEEKLY_UP_TO = 92, 730

Key = tuple[str | None, ...]


@dataclass(frozen=True)
class CostRow:
    """Costs of one group: amounts by currency, how many requests have one, and what was done for it.

    `costs` is empty where nothing is priced. `statistics` are those of the same requests.
    """

    key: Key
    requests: int
    billable: int
    priced: int
    assumed_price: int
    costs: tuple[tuple[str, Decimal], ...]
    per_1k_tokens: tuple[tuple[str, Decimal], ...]
    input_tokens: int
    output_tokens: int
    statistics: GroupStatistics | None

    def cost_in(self, currency: str | None) -> Decimal | None:
        """The amount in one currency; None where there is none."""
        return next((cost for unit, cost in self.costs if unit == currency), None)

    def assumed(self, *, without: Collection[str] = ()) -> tuple[str, ...]:
        """What these figures rest on that is assumed: parts of the log's records, and prices."""
        parts = [part for part in (self.statistics.assumed if self.statistics else ()) if part not in without]
        return (*parts, "price") if self.assumed_price else tuple(parts)


@dataclass(frozen=True)
class Slice:
    """The cost of one model, or of all others, in one bar of the chart over time."""

    start: datetime
    model: str | None
    rank: int
    cost: Decimal


@dataclass(frozen=True)
class OverTime:
    """Cost by model over time in one currency; rank 0 is the dearest model, `MODELS_IN_CHART` the others."""

    grain: str
    currency: str
    slices: tuple[Slice, ...]
    other_models: int
    other_currencies: tuple[str, ...]


@dataclass(frozen=True)
class Unpriced:
    """Requests of one model that have no cost, and why."""

    tenant: str
    provider: str | None
    model: str | None
    reason: str
    requests: int
    tokens: int


@dataclass(frozen=True)
class Intake:
    """Where one source's records went: rows in = taken + duplicates + quarantined + suppressed."""

    source: str
    files: int
    rows_in: int
    taken: int
    duplicates: int
    quarantined: int
    ignored: int
    suppressed: int = 0
    """Records of people who were erased."""


@dataclass(frozen=True)
class PriceList:
    """One version of one price list, and how many requests were priced by it."""

    catalog: str
    version: str
    assumed: bool
    prices: int
    requests: int


@dataclass(frozen=True)
class Figures:
    """Everything that a report about the days `first` to `last` shows. No days: nothing is rolled up yet.

    `sequence` is the newest batch in the rollups of these days, `costs_version` the newest version
    of `model_costs`: a day that was priced anew has another one without a newer batch. So has
    `attribution_version`, the digest of the rules of these days, where other rules hold on them.
    """

    first: date | None
    last: date | None
    sequence: int
    of_one_day: bool
    costs_version: int | None = None
    attribution_version: int | None = None
    attribution: AttributionCoverage | None = None
    total: CostRow | None = None
    by_model: tuple[CostRow, ...] = ()
    by_provider: tuple[CostRow, ...] = ()
    by_tenant: tuple[CostRow, ...] = ()
    over_time: OverTime | None = None
    unpriced: tuple[Unpriced, ...] = ()
    intake: tuple[Intake, ...] = ()
    price_lists: tuple[PriceList, ...] = field(default=())
    relative_error: float = 0.0
    zone: str = "UTC"
    """Time zone whose days these are."""
    tenant: str | None = None
    """Whose requests alone they are about; None: everybody's."""
    versions: Mapping[str, int] = field(default_factory=dict)
    """Versions of the tables that were read."""
    pending_days: int = 0
    """Days that lack requests which were taken: they are not priced or rolled up yet."""
    tells_intake: bool = True
    """Whether `intake` is what brought these very requests."""


def figures_of_day(lake: Lake, day: date) -> Figures:
    """The figures of one UTC day."""
    with lake.read(*TABLES) as reading:
        for rollup in ("cost_rollup", "performance_rollup"):
            # Once: a dozen queries ask for the same rows, and each would look at the files of all days.
            rows = reading.query(
                f"reports.{rollup}", f"SELECT * FROM {rollup} WHERE day = $day", {"day": day}
            )
            reading.register(rollup, rows)
        return _figures(reading, day, day, of_one_day=True)


def figures_of_all_days(lake: Lake) -> Figures:
    """The figures of every day that is rolled up."""
    with lake.read(*TABLES) as reading:
        (bounds,) = reading.query(
            "reports.days",
            """
            SELECT min(day) AS first, max(day) AS last
            FROM (SELECT day FROM cost_rollup UNION ALL SELECT day FROM performance_rollup)
            """,
        ).to_pylist()
        return _figures(reading, bounds["first"], bounds["last"], of_one_day=False)


def _figures(reading: Reading, first: date | None, last: date | None, *, of_one_day: bool) -> Figures:
    if first is None or last is None:
        return Figures(None, None, 0, of_one_day)
    sequence, costs_version, attribution_version = computed_from(reading, first, last)
    if not sequence:
        return Figures(first, last, 0, of_one_day)
    start = datetime.combine(first, time(), UTC)
    end = datetime.combine(last, time(), UTC) + timedelta(days=1)
    statistics = statistics_by(reading, Question(start, end), GROUPINGS)
    spent = costs_by(reading, GROUPINGS, since=first, until=last + timedelta(days=1))
    total, by_model, by_provider, by_tenant = (
        cost_rows(rows.to_pylist(), by, {group_key(group, by): group for group in found.groups})
        for by, rows, found in zip(GROUPINGS, spent, statistics, strict=True)
    )
    return Figures(
        first,
        last,
        sequence,
        of_one_day,
        costs_version,
        attribution_version,
        attribution=attribution_coverage(reading, since=first, until=last + timedelta(days=1)),
        total=next(iter(total), None),
        by_model=by_model,
        by_provider=by_provider,
        by_tenant=by_tenant,
        over_time=slices_over_time(reading, first, last),
        unpriced=_unpriced(reading, first, last),
        intake=_intake(reading, first if of_one_day else None),
        price_lists=lists_used(reading, first, last),
        relative_error=statistics[0].relative_error,
    )


def group_key(group: GroupStatistics, by: Sequence[str]) -> Key:
    return tuple(getattr(group, name) for name in by)


def computed_from(reading: Reading, first: date, last: date) -> tuple[int, int | None, int | None]:
    (row,) = reading.query(
        "reports.sequence",
        """
        WITH days AS (
            SELECT day, max(sequence) AS sequence, max(costs_version) AS costs_version,
                   (hash(day, max(attribution_version)) >> 1)::BIGINT AS digest,
                   CASE WHEN max(attribution_version) IS NOT NULL THEN digest END AS attribution_version
            FROM (
                SELECT day, sequence, costs_version, attribution_version FROM cost_rollup
                UNION ALL
                SELECT day, sequence, NULL, NULL FROM performance_rollup
            )
            WHERE day BETWEEN $first AND $last
            GROUP BY day
        )
        SELECT coalesce(max(sequence), 0) AS sequence, max(costs_version) AS costs_version,
               bit_xor(attribution_version) AS attribution_version
        FROM days
        """,
        {"first": first, "last": last},
    ).to_pylist()
    return int(row["sequence"]), row["costs_version"], row["attribution_version"]


def cost_rows(
    rows: Iterable[Mapping[str, Any]], by: Sequence[str], statistics: Mapping[Key, GroupStatistics]
) -> tuple[CostRow, ...]:
    """One row per key of what `cost_by` tells per key and currency; the dearest first."""
    grouped: dict[Key, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[name] for name in by), []).append(row)
    found = [
        CostRow(
            key=key,
            requests=sum(row["requests"] for row in parts),
            billable=sum(row["billable_requests"] for row in parts),
            priced=sum(row["priced_requests"] for row in parts),
            assumed_price=sum(row["assumed_requests"] for row in parts),
            costs=tuple((row["currency"], row["cost"]) for row in parts if _is_priced(row)),
            per_1k_tokens=tuple(
                (row["currency"], row["cost"] * 1000 / row["priced_tokens"])
                for row in parts
                if _is_priced(row) and row["priced_tokens"]
            ),
            input_tokens=sum(row["input_tokens"] for row in parts),
            output_tokens=sum(row["output_tokens"] for row in parts),
            statistics=statistics.get(key),
        )
        for key, parts in grouped.items()
    ]
    found += [_unpriced_row(key, group) for key, group in statistics.items() if key not in grouped]
    main = _main_currency(found)
    return tuple(
        sorted(
            found,
            key=lambda row: (
                -(row.cost_in(main) or Decimal(0)),
                -row.requests,
                tuple(name or "" for name in row.key),
            ),
        )
    )


def _unpriced_row(key: Key, group: GroupStatistics) -> CostRow:
    """A group that cost_rollup does not hold yet."""
    tokens = group.input_tokens, group.output_tokens
    return CostRow(
        key, group.requests, group.requests - group.cache_hits, 0, 0, (), (), *tokens, statistics=group
    )


def _is_priced(row: Mapping[str, Any]) -> bool:
    return row["currency"] is not None and row["cost"] is not None and row["priced_requests"] > 0


def _main_currency(rows: Iterable[CostRow]) -> str | None:
    """The currency of most requests, by its name where two are equal."""
    requests: dict[str, int] = {}
    for row in rows:
        for currency, _ in row.costs:
            requests[currency] = requests.get(currency, 0) + row.priced
    return max(sorted(requests), key=requests.__getitem__, default=None)


def slices_over_time(reading: Reading, first: date, last: date) -> OverTime | None:
    """Cost by model per hour of one day, else per day, week or month; None where nothing is priced."""
    length = (last - first).days + 1
    grain = (
        "hour"
        if length == 1
        else "day"
        if length <= _DAILY_UP_TO
        else "week"
        if length <= _WEEKLY_UP_TO
        else "month"
    )
    priced = cost_by(
        reading, ["hour" if grain == "hour" else "day", "model"], since=first, until=last + timedelta(days=1)
    )
    if grain != "hour":
        priced = priced.rename_columns({"day": "hour"})
    reading.register("cost_by_time", priced)
    rows = reading.query(
        "reports.cost_over_time",
        """
        WITH priced AS (
            SELECT date_trunc($grain, hour)::TIMESTAMPTZ AS start, model, currency, priced_requests, cost
            FROM cost_by_time
            WHERE priced_requests > 0 AND currency IS NOT NULL
        ),
        currencies AS (
            SELECT currency, row_number() OVER (ORDER BY sum(priced_requests) DESC, currency) AS place
            FROM priced
            GROUP BY currency
        ),
        models AS (
            SELECT model, row_number() OVER (ORDER BY sum(cost) DESC, model) - 1 AS rank
            FROM priced JOIN currencies USING (currency)
            WHERE place = 1
            GROUP BY model
        )
        SELECT start, currency, CASE WHEN rank < $most THEN p.model END AS model, least(rank, $most) AS rank,
               sum(cost) AS cost,
               (SELECT greatest(count(*) - $most, 0) FROM models) AS other_models,
               (SELECT list(currency ORDER BY currency) FROM currencies WHERE place > 1) AS other_currencies
        FROM priced p
        JOIN currencies USING (currency)
        JOIN models m ON p.model IS NOT DISTINCT FROM m.model
        WHERE place = 1
        GROUP BY ALL
        ORDER BY start, rank
        """,
        {"grain": grain, "most": MODELS_IN_CHART},
    ).to_pylist()
    if not rows:
        return None
    return OverTime(
        grain,
        rows[0]["currency"],
        slices=tuple(Slice(row["start"], row["model"], row["rank"], row["cost"]) for row in rows),
        other_models=rows[0]["other_models"],
        other_currencies=tuple(rows[0]["other_currencies"] or ()),
    )


def _unpriced(reading: Reading, first: date, last: date) -> tuple[Unpriced, ...]:
    rows = unpriced_models(reading, since=first, until=last + timedelta(days=1)).to_pylist()
    return tuple(
        Unpriced(
            row["tenant"],
            row["provider"],
            row["model"],
            row["cost_status"],
            row["requests"],
            row["tokens"] or 0,
        )
        for row in rows
    )


def _intake(reading: Reading, day: date | None) -> tuple[Intake, ...]:
    """Files by source: all of them, or those that brought rows of one day."""
    rows = reading.query(
        "reports.intake",
        """
        WITH of_day AS (SELECT DISTINCT source, file AS path FROM inference_events WHERE day = $day)
        SELECT source, count(DISTINCT path) AS files,
               sum(rows_in)::BIGINT AS rows_in, sum(taken)::BIGINT AS taken,
               sum(duplicates)::BIGINT AS duplicates, sum(quarantined)::BIGINT AS quarantined,
               sum(ignored)::BIGINT AS ignored, coalesce(sum(suppressed), 0)::BIGINT AS suppressed
        FROM ingested_files
        WHERE $day IS NULL OR (source, path) IN (FROM of_day)
        GROUP BY source
        ORDER BY source
        """,
        {"day": day},
    ).to_pylist()
    return tuple(Intake(**row) for row in rows)


def lists_used(reading: Reading, first: date, last: date) -> tuple[PriceList, ...]:
    attempts = standing(reading, "day BETWEEN $first AND $last")
    rows = reading.query(
        "reports.price_lists",
        f"""
        WITH used AS (
            SELECT price_id, count(*) AS requests
            FROM ({attempts})
            WHERE cost_status = 'priced' AND price_id IS NOT NULL
            GROUP BY price_id
        ),
        lists AS (
            SELECT price_id, arg_min(catalog, generation) AS catalog,
                   arg_min(catalog_version, generation) AS version,
                   bool_or(assumed) AS assumed
            FROM price_catalog
            GROUP BY price_id
        )
        SELECT catalog, version, assumed, count(*) AS prices, sum(requests)::BIGINT AS requests
        FROM used JOIN lists USING (price_id)
        GROUP BY ALL
        ORDER BY requests DESC, catalog, version
        """,
        {"first": first, "last": last},
    ).to_pylist()
    return tuple(PriceList(**row) for row in rows)
