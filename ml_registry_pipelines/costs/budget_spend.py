"""What budgets have spent: from the ledger's hours, per currency, with coverage, burn rates and a forecast.

Nothing is counted along. One statement reads the hours of `cost_rollup` that some budget
covers; an hour that a tenant's midnight divides (zones with half hours) is read from the
ledger itself, and so are budgets on a tag, which no rollup keeps (`tag_costs.py`).
Amounts of another currency than the budget's are never added to it: they are converted
at the rate of their day where one holds, and otherwise shown apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from ml_registry_pipelines.costs.bills.lines import DECIMALS, EXACT
from ml_registry_pipelines.costs.budget_forecasts import PeriodForecast, forecast_period
from ml_registry_pipelines.costs.budgets import Budget
from ml_registry_pipelines.costs.currencies import TABLE as RATES
from ml_registry_pipelines.costs.currencies import DatedRates
from ml_registry_pipelines.costs.forecasting import MOST_DAYS
from ml_registry_pipelines.costs.periods import Period, midnight, period_at
from ml_registry_pipelines.costs.standing import CORRECTIONS, standing
from ml_registry_pipelines.costs.tag_costs import (
    TAG_COSTS_NAME,
    TagsSummed,
    days_behind,
    json_path,
    sum_up_tags,
    wanted_tags,
)
from ml_registry_pipelines.lake.attributing import RULES, rules_of

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

HOUR = timedelta(hours=1)
READS = ("cost_rollup", TAG_COSTS_NAME, "inference_events", "model_costs", CORRECTIONS, RULES, RATES)


@dataclass(frozen=True)
class Burn:
    """Spending from `start` to `end`. `rate` 1 would spend the amount exactly in the period; None: it is zero."""

    hours: int
    start: datetime
    end: datetime
    spent: Decimal
    rate: Decimal | None


@dataclass(frozen=True)
class BudgetStatus:
    """How a budget stands in its period under way.

    `spent` is in the budget's currency, converted amounts included; `unconverted` are amounts of
    other currencies that no rate is known for. `billable` and `priced` are attempts of the
    period: where they differ, more was spent than is known. `sequence` and `costs_version` say
    which state of the ledger the figures are from. `pending_days` are days of a tag's budget
    that are not summed up yet.
    """

    budget: Budget
    period: Period
    at: datetime
    spent: Decimal
    unconverted: Mapping[str, Decimal] = field(default_factory=dict)
    billable: int = 0
    priced: int = 0
    assumed: int = 0
    burns: tuple[Burn, ...] = ()
    forecast: PeriodForecast | None = None
    sequence: int = 0
    costs_version: int | None = None
    pending_days: int = 0

    @property
    def share(self) -> Decimal | None:
        """Spent by amount; None where the amount is zero."""
        return self.spent / self.budget.amount if self.budget.amount else None

    @property
    def exceeded(self) -> bool:
        """Whether more was spent than the amount. Of nothing at all, any amount of any currency is more."""
        if not self.budget.amount and any(amount > 0 for amount in self.unconverted.values()):
            return True
        return self.spent > self.budget.amount

    @property
    def coverage(self) -> Decimal | None:
        """Priced by billable attempts; None where nothing was billable."""
        return Decimal(self.priced) / self.billable if self.billable else None


@dataclass(frozen=True)
class _Hour:
    """What one budget spent in one hour and one currency.

    `part`: of the hour that the period's start divides, what is in the period. The whole hour is there as well.
    """

    start: datetime
    currency: str | None
    cost: Decimal
    billable: int
    priced: int
    assumed: int
    part: bool


def budget_statuses(
    lake: Lake,
    budgets: Sequence[Budget],
    zones: Mapping[str, ZoneInfo],
    *,
    at: datetime,
    windows: Sequence[int] = (),
) -> list[BudgetStatus]:
    """How budgets stand at an instant, in their order.

    Args:
        zones: the time zone of each tenant; a tenant that is not there has UTC.
        windows: hours of the windows to compute burn rates over. A window begins with a whole hour,
            so it is up to an hour longer, and its rate is by its true length.
    """
    if not budgets:
        return []
    periods = [period_at(b.period, at, zones.get(b.tenant, ZoneInfo("UTC"))) for b in budgets]
    since = [_reach(period, at, windows) for period in periods]
    with lake.read(*READS) as reading:
        hours = _hours(reading, budgets, since, periods)
        sequence, version = _computed_from(reading, min(since).date())
        pending = _pending(reading, budgets, periods)
        rates = DatedRates(reading)
        return [
            _status(
                budget,
                period,
                hours.get(budget.id, []),
                at=at,
                windows=windows,
                rates=rates,
                computed_from=(sequence, version),
                pending=pending.get(budget.id, 0),
            )
            for budget, period in zip(budgets, periods, strict=True)
        ]


def sum_up_budget_tags(
    lake: Lake,
    budgets: Sequence[Budget],
    zones: Mapping[str, ZoneInfo],
    *,
    at: datetime,
    seconds: float = 20.0,
) -> TagsSummed:
    """Bring the hours of tags that budgets name up to the ledger, for about so long, the newest days first.

    Raises:
        LostRace: other writers were faster again and again.
    """
    tagged = [budget for budget in budgets if budget.tag is not None]
    if not tagged:
        return TagsSummed((), ())
    since = min(_reach(period_at(b.period, at, zones.get(b.tenant, ZoneInfo("UTC"))), at, ()) for b in tagged)
    return sum_up_tags(lake, wanted_tags(tagged), since.astimezone(UTC).date(), seconds=seconds)


def _reach(period: Period, at: datetime, windows: Sequence[int]) -> datetime:
    """The first instant that figures of a budget need."""
    today = at.astimezone(period.zone).date()
    history = midnight(today - timedelta(days=MOST_DAYS), period.zone)
    return min([period.start, history, *(_window_start(at, hours) for hours in windows)])


def _window_start(at: datetime, hours: int) -> datetime:
    return (at - hours * HOUR).replace(minute=0, second=0, microsecond=0)


def _status(
    budget: Budget,
    period: Period,
    hours: Sequence[_Hour],
    *,
    at: datetime,
    windows: Sequence[int],
    rates: DatedRates,
    computed_from: tuple[int, int | None],
    pending: int,
) -> BudgetStatus:
    own: list[tuple[datetime, Decimal]] = []
    unconverted: dict[str, Decimal] = {}
    spent = Decimal(0)
    in_period = [hour for hour in hours if period.start <= hour.start < period.end]
    for hour in hours:
        worth = _worth(hour, budget.currency, rates)
        inside = period.start <= hour.start < period.end
        if worth is None and hour.currency is not None and inside:
            unconverted[hour.currency] = unconverted.get(hour.currency, Decimal(0)) + hour.cost
        if worth is not None and inside:
            spent += worth
        if worth is not None and not hour.part:
            own.append((hour.start, worth))
    return BudgetStatus(
        budget,
        period,
        at,
        spent,
        unconverted={c: amount for c, amount in sorted(unconverted.items()) if amount},
        billable=sum(hour.billable for hour in in_period),
        priced=sum(hour.priced for hour in in_period),
        assumed=sum(hour.assumed for hour in in_period),
        burns=tuple(_burn(budget, period, own, at, hours) for hours in windows),
        forecast=forecast_period(_by_day(own, period.zone), period, spent, at),
        sequence=computed_from[0],
        costs_version=computed_from[1],
        pending_days=pending,
    )


def _worth(hour: _Hour, currency: str, rates: DatedRates) -> Decimal | None:
    """The hour's cost in the currency; None where that is not known."""
    if hour.currency is None or hour.currency == currency or not hour.cost:
        return hour.cost
    found = rates.rate(hour.start.date(), of=hour.currency, into=currency)
    return None if found is None else EXACT.multiply(hour.cost, found).quantize(DECIMALS, context=EXACT)


def _burn(
    budget: Budget, period: Period, costs: Iterable[tuple[datetime, Decimal]], at: datetime, hours: int
) -> Burn:
    start = _window_start(at, hours)
    spent = sum((cost for began, cost in costs if start <= began < at), Decimal(0))
    rate = None
    if budget.amount and at > start:
        planned = budget.amount * _seconds(at - start) / _seconds(period.length)
        rate = spent / planned
    return Burn(hours, start, at, spent, rate)


def _seconds(length: timedelta) -> Decimal:
    return Decimal(length // timedelta(microseconds=1)) / 1_000_000


def _by_day(costs: Iterable[tuple[datetime, Decimal]], zone: ZoneInfo) -> dict[date, Decimal]:
    """Costs by day of the zone; an hour that midnight divides counts to the day in which it begins."""
    days: dict[date, Decimal] = {}
    for start, cost in costs:
        day = start.astimezone(zone).date()
        days[day] = days.get(day, Decimal(0)) + cost
    return days


# -- reading the ledger ----------------------------------------------------------------------------


def _hours(
    reading: Reading,
    budgets: Sequence[Budget],
    since: Sequence[datetime],
    periods: Sequence[Period],
) -> dict[str, list[_Hour]]:
    """The hours of each budget, by id; of the hour that its period's start divides, the part in the period."""
    plain = [n for n, budget in enumerate(budgets) if budget.tag is None]
    tagged = [n for n, budget in enumerate(budgets) if budget.tag is not None]
    until = max(period.end for period in periods)
    bounds = {"first_day": min(since).astimezone(UTC).date(), "last_day": until.astimezone(UTC).date()}
    found: list[dict[str, Any]] = []
    if plain:
        reading.register("budgets", _conditions([budgets[n] for n in plain], [since[n] for n in plain]))
        found += reading.query("budgets.hours", _HOURS, bounds).to_pylist()
    if tagged:
        reading.register("budgets", _conditions([budgets[n] for n in tagged], [since[n] for n in tagged]))
        found += reading.query("budgets.tag_hours", _TAG_HOURS, bounds).to_pylist()
    found = [{**row, "part": False} for row in found]
    found += [{**row, "part": True} for row in _divided_hours(reading, budgets, periods)]
    hours: dict[str, list[_Hour]] = {}
    for row in found:
        hours.setdefault(row["budget_id"], []).append(
            _Hour(
                row["period_start"].astimezone(UTC),
                row["currency"],
                Decimal(0) if row["cost"] is None else row["cost"],
                int(row["billable"]),
                int(row["priced"]),
                int(row["assumed"]),
                row["part"],
            )
        )
    return hours


def _divided_hours(
    reading: Reading, budgets: Sequence[Budget], periods: Sequence[Period]
) -> list[dict[str, Any]]:
    """What is within the period of the hour that its start divides: such an hour belongs to two periods.

    The rollup's hour begins before the period, so that it is not counted into it.
    """
    divided: dict[datetime, list[Budget]] = {}
    for budget, period in zip(budgets, periods, strict=True):
        if period.start.minute or period.start.second:
            divided.setdefault(period.start, []).append(budget)
    found: list[dict[str, Any]] = []
    if not divided:
        return found
    rules = rules_of(reading)
    for start, concerned in divided.items():
        end = start.replace(minute=0, second=0, microsecond=0) + HOUR
        reading.register("budgets", _conditions(concerned, [start] * len(concerned)))
        rows = reading.query(
            "budgets.divided_hour",
            f"""
            WITH attempts AS (
                SELECT tenant, event_key, batch, provider, model, application, tags,
                       {rules.columns(rules.number)}
                FROM inference_events
                WHERE day = $day AND event_ts >= $start AND event_ts < $end
                  AND tenant IN (SELECT tenant FROM budgets)
            )
            SELECT budget_id, CAST($start AS TIMESTAMPTZ) AS period_start, costs.currency,
                   sum(costs.cost) AS cost,
                   count(*) FILTER (WHERE costs.cost_status <> 'not_billed') AS billable,
                   count(*) FILTER (WHERE costs.cost_status = 'priced') AS priced,
                   count(*) FILTER (WHERE costs.assumed) AS assumed
            FROM attempts
            JOIN ({standing(reading, "day = $day")}) AS costs
                ON costs.tenant = attempts.tenant AND costs.event_key = attempts.event_key
                AND costs.batch = attempts.batch AND costs.day = $day
            JOIN budgets
                ON budgets.tenant = attempts.tenant
                AND (budgets.provider IS NULL OR attempts.provider LIKE budgets.provider ESCAPE '\\')
                AND (budgets.model IS NULL OR attempts.model LIKE budgets.model ESCAPE '\\')
                AND (budgets.application IS NULL OR attempts.application LIKE budgets.application ESCAPE '\\')
                AND (budgets.model_id IS NULL OR attempts.model_id = budgets.model_id)
                AND (budgets.tag_name IS NULL
                     OR json_extract_string(attempts.tags, budgets.tag_path) = budgets.tag_value)
            GROUP BY budget_id, costs.currency
            """,
            {"day": start.date(), "start": start, "end": end},
        )
        found += rows.to_pylist()
    return found


def _conditions(budgets: Sequence[Budget], since: Sequence[datetime]) -> pa.Table:
    """The budgets as a relation: what they cover, as patterns of LIKE, and from when on."""
    import pyarrow as pa

    rows = []
    for budget, start in zip(budgets, since, strict=True):
        name, value = budget.tag or (None, None)
        rows.append(
            {
                "budget_id": budget.id,
                "tenant": budget.tenant,
                **{key: _like(budget.conditions.get(key)) for key in ("provider", "model", "application")},
                "model_id": budget.model_id,
                "tag_name": name,
                "tag_value": value,
                "tag_path": None if name is None else json_path(name),
                "since": start.replace(minute=0, second=0, microsecond=0),
            }
        )
    texts = ("budget_id", "tenant", "provider", "model", "application", "model_id", "tag_name", "tag_value")
    fields = [*((name, pa.string()) for name in (*texts, "tag_path")), ("since", pa.timestamp("us", "UTC"))]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def _like(wanted: str | None) -> str | None:
    if wanted is None:
        return None
    escaped = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


def _computed_from(reading: Reading, since: date) -> tuple[int, int | None]:
    row = reading.query(
        "budgets.computed_from",
        """
        SELECT coalesce(max(sequence), 0) AS sequence, max(costs_version) AS costs_version
        FROM cost_rollup WHERE grain = 'day' AND day >= $since
        """,
        {"since": since},
    ).to_pylist()[0]
    return int(row["sequence"]), row["costs_version"]


def _pending(reading: Reading, budgets: Sequence[Budget], periods: Sequence[Period]) -> dict[str, int]:
    """Days of the period, of budgets on a tag, whose sums are older than the ledger's."""
    tagged = [(b, p) for b, p in zip(budgets, periods, strict=True) if b.tag is not None]
    if not tagged:
        return {}
    since = min(p.start for _, p in tagged).astimezone(UTC).date()
    behind = days_behind(reading, wanted_tags(b for b, _ in tagged), since)
    return {b.id: sum(day >= p.start.astimezone(UTC).date() for day in behind) for b, p in tagged}


# Which budgets cover a combination of names is asked once for each, not for each hour of it.
_COVERED = """
combinations AS (
    SELECT DISTINCT tenant, provider, model, application, model_id FROM hours
),
covered AS (
    SELECT combinations.*, budget_id, since, tag_name, tag_value
    FROM combinations
    JOIN budgets
        ON budgets.tenant = combinations.tenant
        AND (budgets.provider IS NULL OR combinations.provider LIKE budgets.provider ESCAPE '\\')
        AND (budgets.model IS NULL OR combinations.model LIKE budgets.model ESCAPE '\\')
        AND (budgets.application IS NULL OR combinations.application LIKE budgets.application ESCAPE '\\')
        AND (budgets.model_id IS NULL OR combinations.model_id = budgets.model_id)
)
SELECT
    budget_id, hours.period_start, hours.currency, sum(hours.cost) AS cost,
    sum(hours.billable_requests) AS billable, sum(hours.priced_requests) AS priced,
    sum(hours.assumed_requests) AS assumed
FROM hours
JOIN covered
    ON hours.tenant = covered.tenant
    AND hours.provider IS NOT DISTINCT FROM covered.provider
    AND hours.model IS NOT DISTINCT FROM covered.model
    AND hours.application IS NOT DISTINCT FROM covered.application
    AND hours.model_id IS NOT DISTINCT FROM covered.model_id
WHERE hours.period_start >= covered.since
"""

_HOURS = f"""
WITH hours AS MATERIALIZED (
    SELECT tenant, provider, model, application, model_id, period_start, currency, sum(cost) AS cost,
           sum(billable_requests) AS billable_requests, sum(priced_requests) AS priced_requests,
           sum(assumed_requests) AS assumed_requests
    FROM cost_rollup
    WHERE grain = 'hour' AND day >= $first_day AND day <= $last_day
      AND tenant IN (SELECT tenant FROM budgets)
    GROUP BY ALL
),
{_COVERED}
GROUP BY budget_id, hours.period_start, hours.currency
"""

_TAG_HOURS = f"""
WITH hours AS MATERIALIZED (
    SELECT * FROM {TAG_COSTS_NAME}
    WHERE day >= $first_day AND day <= $last_day AND tenant IN (SELECT tenant FROM budgets)
),
{_COVERED}
    AND hours.tag = covered.tag_name AND hours.value = covered.tag_value
GROUP BY budget_id, hours.period_start, hours.currency
"""
