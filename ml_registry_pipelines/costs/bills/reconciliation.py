"""How much of what providers bill our own costs account for: the capture rate of each day and provider.

capture rate = our effective cost / amount billed for usage, in one currency. It is 0 where something was
billed and nothing logged or priced, and there is none on a day without a bill. Credits, taxes, purchases
and charges for more than a day stand beside it: no request answers to them.

A bill in another currency than our costs is compared at the rate of its day (`currencies.py`); without one
the two stand apart, and neither counts as nothing.

Of several kinds of bill about one provider's day only one is compared, the nearest to the invoice:
together they would count twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.bills.intake import BILLS, NEWEST, BillsError
from ml_registry_pipelines.costs.bills.lines import DECIMALS, EXACT
from ml_registry_pipelines.costs.currencies import TABLE as RATES
from ml_registry_pipelines.costs.currencies import DatedRates
from ml_registry_pipelines.costs.queries import cost_by
from ml_registry_pipelines.lake.outcomes import LostRace, SnapshotGone, StaleSlice
from ml_registry_pipelines.lake.tables.bills import BILL_RECONCILIATION

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.bills.settings import BillSettings
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

TABLE = BILL_RECONCILIATION.name
RECENT_DAYS = 62
"""Days that are compared at every run: logs come late, prices change, bills are restated."""
PREFERRED = ("focus", "openai_costs", "anthropic_costs", "cloudflare_costs")
"""Kinds of bill, the nearest to the invoice first."""
ATTEMPTS = 8


@dataclass(frozen=True)
class Reconciled:
    """Which days were compared, and how many rows came of them."""

    days: tuple[date, ...]
    rows: int
    batch: int


@dataclass
class _Bill:
    """What one kind of bill says about a provider's day, in one currency."""

    billed: Decimal | None = None
    credits: Decimal | None = None
    other: Decimal | None = None
    estimated: bool = False
    converted: set[str] = field(default_factory=set)

    def add(self, other: _Bill, rate: Decimal, currency: str) -> None:
        """Add what was billed in another currency."""
        for name in ("billed", "credits", "other"):
            if (value := getattr(other, name)) is not None:
                converted = EXACT.multiply(value, rate).quantize(DECIMALS, context=EXACT)
                setattr(self, name, EXACT.add(getattr(self, name) or Decimal(0), converted))
        self.estimated |= other.estimated
        self.converted.add(currency)


@dataclass
class _Own:
    """What the logs say about a provider's day, in one currency."""

    requests: int = 0
    billable: int = 0
    priced: int = 0
    tokens: int = 0
    cost: Decimal | None = None

    def at(self, rate: Decimal) -> _Own:
        """The same in another currency."""
        cost = (
            None if self.cost is None else EXACT.multiply(self.cost, rate).quantize(DECIMALS, context=EXACT)
        )
        return replace(self, cost=cost)

    def plus(self, other: _Own) -> _Own:
        costs = [cost for cost in (self.cost, other.cost) if cost is not None]
        return _Own(
            self.requests + other.requests,
            self.billable + other.billable,
            self.priced + other.priced,
            self.tokens + other.tokens,
            EXACT.add(costs[0], costs[1] if len(costs) > 1 else Decimal(0)) if costs else None,
        )


_Day = tuple[date, str | None]


def reconcile(
    lake: Lake,
    settings: BillSettings,
    *,
    since: date | None = None,
    until: date | None = None,
    now: datetime | None = None,
) -> Reconciled:
    """Compare costs with bills, and write the days anew.

    Args:
        since, until: first UTC day, and first that is left out; by default the last two months, and
            older days whose bills were restated since the last time.

    Raises:
        BillsError: other writers kept changing the tables; try again.
    """
    import pyarrow as pa

    moment = now or datetime.now(UTC)
    for _ in range(ATTEMPTS):
        try:
            with lake.read(BILLS, "cost_rollup", TABLE, RATES) as reading:
                rates = DatedRates(reading)
                days = _days(reading, since, until, moment.date())
                batch = _batch(reading)
                rows = [
                    row
                    for first, last in _stretches(days)
                    for row in _compared(reading, first, last, settings, rates, moment, batch)
                ]
            if not rows and not lake.exists(TABLE):
                return Reconciled(tuple(days), 0, batch)
            table = pa.Table.from_pylist(rows, schema=BILL_RECONCILIATION.schema)
            lake.replace(TABLE, table, predicate=_predicate(days), source=BILLS, sequence=batch)
        except (LostRace, SnapshotGone, StaleSlice):
            continue
        return Reconciled(tuple(days), len(rows), batch)
    raise BillsError(
        f"bills or costs were changed by others {ATTEMPTS} times while they were compared; try again"
    )


def _days(reading: Reading, since: date | None, until: date | None, today: date) -> list[date]:
    last = until or today + timedelta(days=1)
    first = since or last - timedelta(days=RECENT_DAYS)
    days = {first + timedelta(days=n) for n in range((last - first).days)}
    if since is None and until is None:
        found = reading.query(
            "bills.touched_days",
            "SELECT DISTINCT day FROM provider_bills WHERE batch > $batch",
            {"batch": reading.sequence(TABLE, BILLS)},
        )
        days |= set(found["day"].to_pylist())
    if not days:
        raise BillsError(f"from {first} up to, not including, {last} there is no day; give a later end")
    return sorted(days)


def _stretches(days: Sequence[date]) -> Iterable[tuple[date, date]]:
    """First day, and first day after, of each run of neighbouring days."""
    first = before = days[0]
    for day in days[1:]:
        if day - before > timedelta(days=1):
            yield first, before + timedelta(days=1)
            first = day
        before = day
    yield first, before + timedelta(days=1)


def _predicate(days: Sequence[date]) -> str:
    return " OR ".join(f"(day >= '{first}' AND day < '{after}')" for first, after in _stretches(days))


def _batch(reading: Reading) -> int:
    rows = reading.query("bills.batch", "SELECT max(batch) AS batch FROM provider_bills").to_pylist()
    return rows[0]["batch"] or 0


# -- one stretch of days -----------------------------------------------------------------------


def _compared(
    reading: Reading,
    first: date,
    after: date,
    settings: BillSettings,
    rates: DatedRates,
    now: datetime,
    batch: int,
) -> list[dict[str, object]]:
    bills, chosen, left_out = _bills(reading, first, after)
    own = _own(reading, first, after)
    tokens = _billed_tokens(reading, first, after)
    made = {
        "tolerance": float(settings.tolerance),
        "batch": batch,
        "bills_version": reading.version(BILLS),
        "rollup_version": reading.version("cost_rollup"),
        "rates_version": reading.version(RATES),
        "computed_at": now,
    }
    rows: list[dict[str, object]] = []
    for key in sorted({*bills, *own}, key=lambda key: (key[0], key[1] or "")):
        day, provider = key
        pairs = _paired(day, bills.get(key), own.get(key, {}), rates)
        settled = now >= datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(
            days=1 + settings.settle_days
        )
        currencies = {currency for currency, bill, _ in pairs if bill is not None and bill.billed}
        for currency, bill, mine in pairs:
            apart = bool(currencies) and currency not in currencies and bool(mine.cost)
            rows.append(
                {
                    "day": day,
                    "provider": provider,
                    "currency": currency,
                    "settled": settled,
                    "report": chosen.get(key),
                    "other_reports": ", ".join(left_out.get(key, ())) or None,
                    "billed_tokens": tokens.get(key),
                    **_figures(bill, mine, settings.tolerance, apart=apart or _stranded(bill, mine, pairs)),
                    **made,
                }
            )
    return rows


def _stranded(bill: _Bill | None, mine: _Own, pairs: Sequence[tuple[str | None, _Bill | None, _Own]]) -> bool:
    """Whether some of our costs, which the bill may hold, are in a currency that nothing is billed in."""
    elsewhere = any(
        other.cost and currency is not None and not (theirs and theirs.billed)
        for currency, theirs, other in pairs
        if other is not mine
    )
    return bill is not None and bool(bill.billed) and elsewhere


def _figures(bill: _Bill | None, mine: _Own, tolerance: Decimal, *, apart: bool) -> dict[str, object]:
    billed = None if bill is None else bill.billed if bill.billed is not None else Decimal(0)
    cost = mine.cost
    rate: float | None = None
    if billed is not None and billed > 0 and not apart:
        rate = float((cost or Decimal(0)) / billed)
    return {
        "status": _status(billed, mine, tolerance, apart=apart),
        "requests": mine.requests,
        "billable_requests": mine.billable,
        "priced_requests": mine.priced,
        "logged_tokens": mine.tokens if mine.requests else None,
        "cost": cost,
        "billed": billed,
        "credits": None if bill is None else bill.credits,
        "other_charges": None if bill is None else bill.other,
        "difference": None if billed is None else EXACT.subtract(billed, cost or Decimal(0)),
        "capture_rate": rate,
        "estimated": bill is not None and bill.estimated,
        "converted_from": ", ".join(sorted(bill.converted)) or None if bill is not None else None,
    }


def _status(billed: Decimal | None, mine: _Own, tolerance: Decimal, *, apart: bool) -> str:
    cost = mine.cost or Decimal(0)
    if apart:
        return "other_currency"
    if billed is None:
        return "no_bill"
    if billed <= 0:
        return "captured" if billed == cost else "nothing_billed"
    if not mine.requests:
        return "nothing_logged"
    if mine.cost is None:
        return "nothing_priced"
    if abs(EXACT.subtract(cost, billed)) <= EXACT.multiply(tolerance, billed):
        return "captured"
    return "under" if cost < billed else "over"


def _paired(
    day: date, bills: Mapping[str | None, _Bill] | None, own: Mapping[str | None, _Own], rates: DatedRates
) -> list[tuple[str | None, _Bill | None, _Own]]:
    """Bill and costs of one provider's day side by side, a row per currency.

    What has no currency joins the only one that there is.
    """
    billed = dict(bills or {})
    mine = dict(own)
    ours = [currency for currency in mine if currency is not None and mine[currency].cost]
    if len(ours) == 1:
        (into,) = ours
        for currency in [c for c in billed if c is not None and c != into]:
            if (rate := rates.rate(day, of=currency, into=into)) is not None:
                billed.setdefault(into, _Bill()).add(billed.pop(currency), rate, currency)
    elif len(stated := [c for c in billed if c is not None]) == 1:
        (into,) = stated
        for currency in [c for c in ours if c != into]:
            if (rate := rates.rate(day, of=currency, into=into)) is not None:
                mine[into] = mine.get(into, _Own()).plus(mine.pop(currency).at(rate))
                billed[into].converted.add(currency)
    currencies = sorted({c for c in (*billed, *mine) if c is not None})
    if len(currencies) == 1:
        (only,) = currencies
        if None in mine:
            mine[only] = mine.get(only, _Own()).plus(mine.pop(None))
        if None in billed:
            nothing = billed.pop(None)
            billed.setdefault(only, nothing)
    return [
        (currency, billed.get(currency), mine.get(currency, _Own()))
        for currency in sorted({*billed, *mine}, key=lambda c: c or "")
    ]


# -- what is compared --------------------------------------------------------------------------


def _own(reading: Reading, first: date, after: date) -> dict[_Day, dict[str | None, _Own]]:
    """Our effective costs: the one place that says which figure is compared with bills."""
    found: dict[_Day, dict[str | None, _Own]] = {}
    for row in cost_by(reading, ["day", "provider"], since=first, until=after).to_pylist():
        found.setdefault((row["day"], row["provider"]), {})[row["currency"]] = _Own(
            row["requests"],
            row["billable_requests"],
            row["priced_requests"],
            (row["input_tokens"] or 0) + (row["output_tokens"] or 0),
            row["cost"] if row["priced_requests"] or not row["billable_requests"] else None,
        )
    return found


def _bills(
    reading: Reading, first: date, after: date
) -> tuple[dict[_Day, dict[str | None, _Bill]], dict[_Day, str], dict[_Day, list[str]]]:
    """What is billed by provider, day and currency; the kind of bill that says so; kinds that were left out."""
    rows = reading.query(
        "bills.billed_by_day",
        f"""
        WITH lines AS (
            SELECT *,
                charge = 'credit' OR (report <> 'focus' AND amount < 0) AS is_credit,
                charge IN ('tax', 'purchase') OR period_end > period_start + INTERVAL 25 HOUR AS is_other
            FROM ({NEWEST})
            WHERE state = 'stated' AND kind IN ('cost', 'nothing') AND day >= $first AND day < $after
        )
        SELECT day, provider, report, currency,
            sum(amount) FILTER (NOT is_credit AND NOT is_other) AS billed,
            sum(amount) FILTER (is_credit AND NOT is_other) AS credits,
            sum(amount) FILTER (is_other) AS other,
            bool_or(estimated) AS estimated
        FROM lines
        GROUP BY day, provider, report, currency
        ORDER BY day, provider, report, currency
        """,
        {"first": first, "after": after},
    ).to_pylist()
    kinds: dict[_Day, set[str]] = {}
    for row in rows:
        kinds.setdefault((row["day"], row["provider"]), set()).add(row["report"])
    chosen = {key: min(held, key=_rank) for key, held in kinds.items()}
    left_out = {key: sorted(held - {chosen[key]}) for key, held in kinds.items()}
    found: dict[_Day, dict[str | None, _Bill]] = {}
    for row in rows:
        key = (row["day"], row["provider"])
        if row["report"] == chosen[key]:
            found.setdefault(key, {})[row["currency"]] = _Bill(
                row["billed"], row["credits"], row["other"], bool(row["estimated"])
            )
    return found, chosen, left_out


def billed_lines(reading: Reading, first: date, after: date) -> list[dict[str, Any]]:
    """What is billed, of one kind of bill for each provider's day, summed by what rules may ask for.

    Returns:
        Rows with `day`, `provider`, `sub_account`, `line_item`, `charge`, `currency`, `amount` (DECIMAL,
        credits negative) and `whole_day`: whether it is a charge for usage of that day.
    """
    _, chosen, _ = _bills(reading, first, after)
    rows: list[dict[str, Any]] = reading.query(
        "bills.billed_lines",
        f"""
        SELECT day, provider, report, sub_account, line_item, charge, currency, sum(amount) AS amount,
            charge NOT IN ('tax', 'purchase') AND period_end <= period_start + INTERVAL 25 HOUR AS whole_day
        FROM ({NEWEST})
        WHERE state = 'stated' AND kind = 'cost' AND day >= $first AND day < $after
        GROUP BY ALL
        ORDER BY day, provider, sub_account, line_item, charge, currency
        """,
        {"first": first, "after": after},
    ).to_pylist()
    return [row for row in rows if row["report"] == chosen[row["day"], row["provider"]]]


def _rank(report: str) -> int:
    return PREFERRED.index(report) if report in PREFERRED else len(PREFERRED)


def _billed_tokens(reading: Reading, first: date, after: date) -> dict[_Day, int]:
    """Tokens by the usage report of the provider itself, else of a gateway."""
    rows = reading.query(
        "bills.billed_tokens",
        f"""
        SELECT day, provider, report, CAST(sum(quantity) AS BIGINT) AS tokens
        FROM ({NEWEST})
        WHERE state = 'stated' AND kind = 'usage' AND unit = 'tokens' AND day >= $first AND day < $after
        GROUP BY day, provider, report
        ORDER BY report = 'cloudflare_costs' DESC
        """,
        {"first": first, "after": after},
    ).to_pylist()
    return {(row["day"], row["provider"]): row["tokens"] for row in rows}


def billed_providers(reading: Reading) -> Collection[str]:
    """Providers that have ever sent a bill."""
    rows = reading.query(
        "bills.billed_providers", "SELECT DISTINCT provider FROM provider_bills WHERE kind = 'cost'"
    )
    return frozenset(rows["provider"].to_pylist())


def capture(
    reading: Reading, *, since: date | None = None, until: date | None = None
) -> list[dict[str, Any]]:
    """The rows of `bill_reconciliation`, which the reading must hold, newest days first; `until` is left out."""
    found: list[dict[str, Any]] = reading.query(
        "bills.capture",
        """
        SELECT * FROM bill_reconciliation
        WHERE day >= $since AND day < $until
        ORDER BY day DESC, provider, currency
        """,
        {"since": since or date.min, "until": until or date.max},
    ).to_pylist()
    return found
