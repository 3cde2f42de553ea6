"""Past days priced anew: days of open months are replaced, those of closed months are corrected.

A day is computed at once and days one after the other, so memory follows the longest day. In an
open month each attempt keeps one cost and one price: its row is replaced. In a closed month rows of
`model_costs` stay as they are, and an attempt that costs something else now gets two further rows in
`cost_corrections`: what was booked, with the opposite sign, and what holds instead (a correction in
FOCUS's sense, ChargeClass "Correction"). So the sum over both tables is what a fresh pricing gives,
doing it again writes nothing, and what a month was closed with can be told for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.catalog import catalog_generation
from ml_registry_pipelines.costs.closing import LOG, ClosedMonths, closed_months
from ml_registry_pipelines.costs.ledger import ATTEMPTS, EVENTS, CostsBusy
from ml_registry_pipelines.costs.pricing import PriceBook
from ml_registry_pipelines.costs.standing import CORRECTIONS, standing
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.outcomes import Landed, LostRace, OutOfSequence, SnapshotGone, StaleSlice
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.tables.costs import (
    AMOUNTS,
    COST_CORRECTIONS,
    LIST_AMOUNTS,
    MODEL_COSTS,
    TYPED_TOKENS,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.registry.log import Log

SOURCE = "reprice"
"""The one source of `cost_corrections`."""
ROWS_AT_ONCE = 500_000
"""Attempts that one commit corrects at most: each is two rows of some 400 bytes in memory."""


@dataclass(frozen=True)
class TenantChange:
    """What pricing a day anew does to one tenant's costs in one currency.

    `before` and `after` are the whole day's, earlier corrections included; None: nothing is priced.
    `corrected`: the month is closed, so the difference is booked as a correction.
    """

    tenant: str
    currency: str | None
    before: Decimal | None
    after: Decimal | None
    corrected: bool


@dataclass(frozen=True)
class Repriced:
    """One day that was priced anew: its attempts, and how many of them got another price, cost or status.

    `difference` is by how much the day costs more than before (less: negative), by currency;
    `corrected` how many of the changed attempts are in closed months; `changes` the day by tenant and currency.
    """

    day: date
    rows: int
    changed: int
    difference: Mapping[str, Decimal] = field(default_factory=dict)
    corrected: int = 0
    changes: tuple[TenantChange, ...] = field(default=(), compare=False)


def reprice(
    lake: Lake, days: Iterable[date], *, dry_run: bool = False, log: Log | None = None
) -> list[Repriced]:
    """Price whole days anew at the catalogue as it is now, for example after a contract was added.

    A day whose costs would be the same stays untouched. Costs of attempts that inference_events
    no longer holds, because they were erased or are past their retention, stay as they are.
    Rollups do not see the change by themselves: `roll_up_costs` has to be given the days.

    Args:
        dry_run: only tells what would change.
        log: the process's log of this lake, where it has one open.

    Raises:
        CostsBusy: ingestion kept adding to the day.
    """
    return list(repricing(lake, days, dry_run=dry_run, log=log))


def repricing(
    lake: Lake, days: Iterable[date], *, dry_run: bool = False, log: Log | None = None
) -> Iterator[Repriced]:
    """As `reprice`, day by day as they are done, the oldest first."""
    if log is None and lake.exists(LOG):
        from ml_registry_pipelines.registry.log import Log

        with Log(lake) as opened:
            yield from repricing(lake, days, dry_run=dry_run, log=opened)
        return
    for day in sorted(set(days)):
        yield _reprice_day(lake, day, dry_run=dry_run, log=log)


def _reprice_day(lake: Lake, day: date, *, dry_run: bool, log: Log | None) -> Repriced:
    for _ in range(ATTEMPTS):
        # A slower process must not leave the prices of an older catalogue behind a faster one's.
        catalogue = catalog_generation(lake)
        try:
            done = _reprice_once(lake, day, closed_months(lake, log), dry_run=dry_run)
        except (LostRace, SnapshotGone, StaleSlice, OutOfSequence):
            continue
        if catalog_generation(lake) == catalogue:
            return done
    raise CostsBusy(
        f"costs of {day} or their prices were changed by others {ATTEMPTS} times while they were priced anew; "
        "try again"
    )


def _reprice_once(lake: Lake, day: date, closed: ClosedMonths, *, dry_run: bool) -> Repriced:
    with lake.read(EVENTS, "model_costs", CORRECTIONS) as reading:
        # Replacing under the sequence of the batches makes it fail when a batch was priced meanwhile,
        # whose rows of this day it would wipe out.
        sequence = reading.sequence("model_costs", EVENTS)
        correction = reading.sequence(CORRECTIONS, SOURCE)
        costs = PriceBook.of(lake).price_slice(
            reading, "reprice_day", "day = $day AND batch <= $batch", {"day": day, "batch": sequence}
        )
        reading.register("repriced", costs)
        stands = _stand(reading, day, closed)
        done = _changes(reading, day, stands, costs.num_rows)
        if dry_run:
            return done
        # What is corrected lands first: where the rest then fails, doing it again finds it done.
        _correct(lake, reading, day, stands, done.corrected, correction)
        if done.changed > done.corrected:
            _replace(lake, reading, day, costs, sequence)
    return done


def _stand(reading: Reading, day: date, closed: ClosedMonths) -> str:
    """The statement of what the ledger says of a day's attempts by now; registers `closed`, the tenants corrected.

    A tenant's day of which something was booked later stays closed, whatever becomes of the rule that closed it.
    """
    import pyarrow as pa

    tenants = reading.query("reprice_tenants", "SELECT DISTINCT tenant FROM repriced ORDER BY tenant")[
        "tenant"
    ].to_pylist()
    before = reading.query(
        "reprice_corrected",
        f"""
        SELECT tenant FROM {CORRECTIONS} WHERE day = $day
        UNION
        SELECT tenant FROM model_costs WHERE day = $day AND booked_day IS NOT NULL
        """,
        {"day": day},
    )["tenant"].to_pylist()
    shut = sorted({*closed.among(tenants, day), *before})
    reading.register("closed", pa.table({"tenant": pa.array(shut, pa.string())}))
    return standing(reading, "day = $day")


_COLUMNS = ", ".join(MODEL_COSTS.column_names)


def _tuple(alias: str, names: Iterable[str]) -> str:
    return f"({', '.join(f'{alias}.{name}' for name in names)})"


_NARROW = ("cost_status", "price_id", "list_price_id", "price_kind", "currency", "cost", "list_cost")
_OTHERWISE = f"{_tuple('n', _NARROW)} IS DISTINCT FROM {_tuple('o', _NARROW)}"
"""Whether an attempt is priced otherwise: by the same prices its components are the same."""
_PAID = ("cost_status", "currency", "assumed", *AMOUNTS)
_BESIDE = ("price_kind", "contracted_cost", *LIST_AMOUNTS)
_TO_CORRECT = f"""CASE
    WHEN {_tuple("n", _PAID)} IS DISTINCT FROM {_tuple("o", _PAID)} THEN true
    -- Rows of before lists were kept apart say nothing of them; that is no mistake to be corrected.
    WHEN o.price_kind IS NULL AND o.cost_status = 'priced' THEN false
    ELSE {_tuple("n", _BESIDE)} IS DISTINCT FROM {_tuple("o", _BESIDE)}
END"""
"""Whether its amounts are others, too: another price of the same amounts is no correction."""


def _changes(reading: Reading, day: date, stands: str, rows: int) -> Repriced:
    """How many attempts of a day are `repriced` other than they stand, and the day by tenant and currency."""
    found = reading.query(
        "reprice_differences",
        f"""
        WITH standing AS ({stands}),
        other AS (
            SELECT n.tenant, n.event_key, n.batch, n.tenant IN (FROM closed) AS corrected,
                o.currency AS old_currency, o.cost AS old_cost, n.currency AS new_currency, n.cost AS new_cost
            FROM repriced AS n
            LEFT JOIN standing AS o USING (tenant, event_key, batch)
            WHERE {_OTHERWISE}
        ),
        pairs AS (
            SELECT * FROM other WHERE NOT corrected
            UNION ALL
            SELECT other.*
            FROM (FROM other WHERE corrected) AS other
            JOIN repriced AS n USING (tenant, event_key, batch)
            LEFT JOIN standing AS o USING (tenant, event_key, batch)
            WHERE {_TO_CORRECT}
        ),
        amounts AS (
            SELECT tenant, corrected, 1 AS changed, new_currency AS currency, NULL AS before, new_cost AS more
            FROM pairs
            UNION ALL
            SELECT tenant, corrected, 0, old_currency, NULL, -old_cost FROM pairs
            UNION ALL
            SELECT s.tenant, closed.tenant IS NOT NULL, 0, currency, sum(cost), NULL
            FROM standing AS s LEFT JOIN closed ON closed.tenant = s.tenant
            GROUP BY ALL
        )
        SELECT tenant, corrected, currency, CAST(sum(changed) AS BIGINT) AS changed,
            sum(before) AS before, sum(more) AS more
        FROM amounts
        GROUP BY ALL
        ORDER BY tenant, currency
        """,
        {"day": day},
    ).to_pylist()
    differences: dict[str, Decimal] = {}
    for row in found:
        if row["currency"] and row["more"]:
            differences[row["currency"]] = differences.get(row["currency"], Decimal(0)) + row["more"]
    changes = (
        TenantChange(
            row["tenant"],
            row["currency"],
            row["before"],
            row["before"] if row["more"] is None else (row["before"] or Decimal(0)) + row["more"],
            row["corrected"],
        )
        for row in found
        if row["currency"] is not None and (row["more"] is not None or row["before"] is not None)
    )
    return Repriced(
        day,
        rows,
        sum(row["changed"] for row in found),
        {currency: amount for currency, amount in sorted(differences.items()) if amount},
        sum(row["changed"] for row in found if row["corrected"]),
        tuple(changes),
    )


def _correct(lake: Lake, reading: Reading, day: date, stands: str, attempts: int, correction: int) -> None:
    """Book the corrections of a day, a bounded number of attempts in each commit."""
    parts = -(-attempts // ROWS_AT_ONCE)
    recorded_at = datetime.now(UTC)
    amounts = {*AMOUNTS, *LIST_AMOUNTS, "contracted_cost", "logged_cost", "tokens", *TYPED_TOKENS}
    given = ", ".join(f"-{n} AS {n}" if n in amounts else n for n in MODEL_COSTS.column_names)
    for part in range(parts):
        rows = reading.query(
            "reprice_corrections",
            f"""
            WITH standing AS (
                SELECT * FROM ({stands}) WHERE tenant IN (FROM closed) AND hash(event_key) % $parts = $part
            ),
            fresh AS (
                SELECT * FROM repriced WHERE tenant IN (FROM closed) AND hash(event_key) % $parts = $part
            ),
            other AS MATERIALIZED (
                SELECT tenant, event_key, batch
                FROM fresh AS n
                LEFT JOIN standing AS o USING (tenant, event_key, batch)
                WHERE {_OTHERWISE}
            ),
            pairs AS MATERIALIZED (
                SELECT tenant, event_key, batch
                FROM other
                JOIN fresh AS n USING (tenant, event_key, batch)
                LEFT JOIN standing AS o USING (tenant, event_key, batch)
                WHERE {_TO_CORRECT}
            )
            SELECT 'reversed' AS entry, {given} FROM standing SEMI JOIN pairs USING (tenant, event_key, batch)
            UNION ALL
            SELECT 'restated', {_COLUMNS}
            FROM fresh SEMI JOIN pairs USING (tenant, event_key, batch)
            """,
            {"day": day, "parts": parts, "part": part},
        )
        if not rows.num_rows:
            continue
        correction += 1
        landed = lake.append_once(
            CORRECTIONS,
            _dated(rows, correction, recorded_at),
            source=SOURCE,
            sequence=correction,
        )
        if landed is not Landed.NOW:
            raise LostRace(f"{CORRECTIONS} was written by another; compute the correction again")


def _dated(rows: pa.Table, correction: int, recorded_at: datetime) -> pa.Table:
    import pyarrow as pa

    same = {"correction": correction, "recorded_at": recorded_at, "booked_day": recorded_at.date()}
    columns = [
        pa.repeat(pa.scalar(same[column.name], column.type), rows.num_rows)
        if column.name in same
        else rows[column.name].cast(column.type)
        for column in COST_CORRECTIONS.schema
    ]
    return pa.Table.from_arrays(columns, schema=COST_CORRECTIONS.schema)


def _replace(lake: Lake, reading: Reading, day: date, costs: pa.Table, sequence: int) -> None:
    """Replace a day: what is priced anew where it is open, all else as it stands."""
    import pyarrow as pa

    fresh = costs
    if reading.query("reprice_closed", "SELECT count(*) AS n FROM closed")["n"][0].as_py():
        fresh = reading.query(
            "reprice_open", f"SELECT {_COLUMNS} FROM repriced ANTI JOIN closed USING (tenant)"
        )
    kept = reading.query(
        "reprice_kept",
        f"""
        SELECT {_COLUMNS} FROM (FROM model_costs WHERE day = $day)
        ANTI JOIN (FROM repriced ANTI JOIN closed USING (tenant)) USING (tenant, event_key, batch)
        """,
        {"day": day},
    )
    whole = pa.concat_tables([table.cast(MODEL_COSTS.schema) for table in (fresh, kept)])
    lake.replace("model_costs", whole, predicate=f"day = '{day}'", source=EVENTS, sequence=sequence)
