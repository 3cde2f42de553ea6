"""What each attempt cost: token buckets times the price that held when it started.

Pricing is a pure function of rows of `inference_events` and the catalogue. It is one SQL
statement over all rows; Python only resolves the few distinct (provider, model, tier,
region) of a batch. Money is DECIMAL from end to end. A cost that cannot be known is NULL and
its status says why; it is never 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.catalog import catalog_generation, current_prices
from ml_registry_pipelines.costs.list_prices import CATALOG as LIST
from ml_registry_pipelines.costs.list_prices import SERVICE_TIERS
from ml_registry_pipelines.costs.matching import Match, match, names_model, same_provider
from ml_registry_pipelines.costs.prices import COMPONENTS, Price, minute_of_day, prices_from
from ml_registry_pipelines.lake.declarations import arrow_type
from ml_registry_pipelines.lake.reading import answer, in_batches, open_duckdb
from ml_registry_pipelines.lake.tables.costs import MODEL_COSTS, UNIT_PRICE
from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, INPUT_BUCKETS, OUTPUT_BUCKETS, TOKEN_BUCKETS

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

MOST_PER_REQUEST = 100_000_000
"""No request uses more of anything; a count above it is an error of the log, not a cost."""
MOST_SECONDS = 1_000_000
"""Eleven days of audio in one request."""

_EVER = datetime(1, 1, 1, tzinfo=UTC)
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)
_MINUTES = 24 * 60
_MOST_TOKENS = 2**62

_PLAIN = (
    "tenant", "day", "event_ts", "batch", "event_key", "application", "provider", "model", "status",
    "service_tier", "region", "span_kind", "usage_quality", "logged_cost", "logged_currency",
)  # fmt: skip

_CACHE_READ = tuple(name for name in INPUT_BUCKETS if name.startswith("in_cache_read"))
_CACHE_WRITE = tuple(name for name in INPUT_BUCKETS if name.startswith("in_cache_write"))
_INPUT = tuple(name for name in INPUT_BUCKETS if name not in (*_CACHE_READ, *_CACHE_WRITE))
_COUNTS = (*TOKEN_BUCKETS, *COUNTERS, "audio_seconds")
_KIND = ("provider", "model", "service_tier", "region")
Kind = tuple[str | None, str | None, str | None, str | None]
"""A value of each of _KIND, as the log states it."""


@dataclass(frozen=True)
class Slot:
    """A price where nothing is left to choose: one stretch of time, of the day, and of context size.

    Stretches are half-open; `over` is exclusive and `up_to` inclusive.
    """

    since: datetime
    until: datetime
    minute_from: int
    minute_to: int
    over: int
    up_to: int
    price: Price
    amounts: tuple[Decimal | None, ...]
    """Price of one unit of each of COMPONENTS; None where the price has none."""
    audio_minimum: int
    listed: Price | None = None
    """The list price that holds here too, in the same currency: the price itself, where it is one."""
    list_amounts: tuple[Decimal | None, ...] = ()
    list_audio_minimum: int = 0

    @property
    def price_kind(self) -> str:
        """Where the effective price comes from: one of PRICE_KINDS."""
        if self.price.catalog == LIST:
            return "list"
        return "assumed" if self.price.assumed else "contract"


class PriceBook:
    """A catalogue in force, ready to price batches. Matching is remembered from batch to batch.

    Args:
        catalog: rows of `price_catalog` in force, as `current_prices` returns them.
    """

    def __init__(self, catalog: pa.Table) -> None:
        self._catalog = catalog
        import pyarrow as pa

        self._listed: dict[tuple[str, str], list[int]] = {}
        contracted: list[int] = []
        head = ["catalog", "provider", "model"]
        positions = pa.array(range(catalog.num_rows), pa.int64())
        heads = catalog.select(head).append_column("position", positions).group_by(head, use_threads=False)
        for row in heads.aggregate([("position", "list")]).to_pylist():
            if row["catalog"] == LIST:
                self._listed[row["provider"], row["model"]] = row["position_list"]
            else:
                contracted += row["position_list"]
        self._contracted = self._prices_at(sorted(contracted))
        self._slots: dict[Kind, list[Slot]] = {}

    @classmethod
    def of(cls, lake: Lake) -> PriceBook:
        """The book of the catalogue as it is now, read once per catalogue change and process."""
        generation = catalog_generation(lake)
        held = _BOOKS.get(lake.root)
        if held is None or held[0] != generation:
            with lake.read("price_catalog") as reading:
                held = _BOOKS[lake.root] = (generation, cls(current_prices(reading)))
        return held[1]

    def price(self, rows: pa.Table) -> pa.Table:
        """The rows of `model_costs` for rows of `inference_events`: exactly one each, in any order."""
        connection = open_duckdb(over=rows.num_rows)
        try:
            connection.register("rows", in_batches(rows))
            found = answer(connection, _kinds_sql("rows"), over=rows.num_rows)
            used = _used(found)
            slots = self._table_of_slots(_kinds(found), used)
            connection.register("slots", slots)
            costs = answer(connection, _price_sql("rows", used, _agreed(slots)), over=rows.num_rows)
        finally:
            connection.close()
        return costs.select(MODEL_COSTS.column_names).cast(MODEL_COSTS.schema)

    def price_slice(
        self, reading: Reading, name: str, where: str, parameters: Mapping[str, object]
    ) -> pa.Table:
        """As `price`, for the rows of `inference_events` that fulfil a condition; they never leave the query.

        Args:
            name: what the queries are timed as.
            where: the condition in SQL, with `$parameters`.
        """
        rows = f"(FROM inference_events WHERE {where})"
        found = reading.query(f"{name}.kinds", _kinds_sql(rows), parameters)
        used = _used(found)
        slots = self._table_of_slots(_kinds(found), used)
        reading.register("slots", slots)
        costs = reading.query(name, _price_sql(rows, used, _agreed(slots)), parameters)
        return costs.select(MODEL_COSTS.column_names).cast(MODEL_COSTS.schema)

    def slots(self, kind: Kind) -> list[Slot]:
        """The disjoint slots for requests of one kind; none where nothing matches."""
        if kind not in self._slots:
            if len(self._slots) > 100_000:
                self._slots.clear()
            self._slots[kind] = list(_slots(self._offers(kind)))
        return self._slots[kind]

    def _offers(self, kind: Kind) -> list[Price]:
        """The prices whose model and conditions fit, in order of precedence."""
        provider, model, *conditions = kind
        tier, region = (condition.strip().lower() if condition else None for condition in conditions)
        found: Match | None = match(provider, model)
        offers: list[Price] = []
        if found is not None:
            positions = self._listed.get((found.provider, found.model), [])
            # A tier's list price is its own provider's: who sells at another's list price need not grant it.
            listed_tier = tier if found.own else None
            offers = [price for price in self._prices_at(positions) if price.fits(listed_tier, region)]
        offers += [
            price
            for price in self._contracted
            if price.fits(tier, region)
            and same_provider(price.provider, provider)
            and names_model(price.model, provider, model)
        ]
        return offers

    def _prices_at(self, positions: Sequence[int]) -> list[Price]:
        import pyarrow as pa

        return prices_from(self._catalog.take(pa.array(positions, pa.int64())).to_pylist())

    def _table_of_slots(self, kinds: Sequence[Kind], used: Collection[str]) -> pa.Table:
        import pyarrow as pa

        found = [(kind, slot) for kind in kinds for slot in self.slots(kind)]
        columns: dict[str, pa.Array] = {}
        for position, name in enumerate(_KIND):
            columns[name] = pa.array([kind[position] for kind, _ in found], pa.string())
        for name in ("since", "until"):
            columns[name] = pa.array([getattr(slot, name) for _, slot in found], pa.timestamp("us", "UTC"))
        for name in ("minute_from", "minute_to", "over", "up_to", "audio_minimum", "list_audio_minimum"):
            columns[name] = pa.array([getattr(slot, name) for _, slot in found], pa.int64())
        for name in ("price_id", "currency"):
            columns[name] = pa.array([getattr(slot.price, name) for _, slot in found], pa.string())
        columns["flat"] = pa.array([slot.price.flat for _, slot in found], pa.bool_())
        assumed = [slot.price.assumed or _stands_in(kind, slot.price) for kind, slot in found]
        columns["assumed"] = pa.array(assumed, pa.bool_())
        columns["price_kind"] = pa.array([slot.price_kind for _, slot in found], pa.string())
        listed = [slot.listed for _, slot in found]
        columns["list_price_id"] = pa.array([p.price_id if p else None for p in listed], pa.string())
        columns["list_flat"] = pa.array([p.flat if p else None for p in listed], pa.bool_())
        for position, name in enumerate(COMPONENTS):
            if name in used or name == "requests":
                columns[f"for_{name}"] = _narrowest([slot.amounts[position] for _, slot in found])
                of_list = [slot.list_amounts[position] if slot.listed else None for _, slot in found]
                columns[f"list_for_{name}"] = _narrowest(of_list)
        return pa.table(columns)


_BOOKS: dict[str, tuple[int, PriceBook]] = {}


def price(rows: pa.Table, catalog: pa.Table) -> pa.Table:
    """Price rows of `inference_events` with a catalogue: exactly one row of `model_costs` each.

    `catalog` are rows of `price_catalog` in force. Price the same rows again and the same
    costs come out; the order of the rows means nothing.
    """
    return PriceBook(catalog).price(rows)


def _stands_in(kind: Kind, price: Price) -> bool:
    """Whether a list's standard price is applied to a tier that lists sell apart, because this one names none.

    Batches at half or fast answers at six times the price are common; that nothing is listed is no proof
    that the standard price is paid, so such costs are marked as assumed.
    """
    tier = (kind[2] or "").strip().lower()
    return tier in SERVICE_TIERS and price.catalog == LIST and price.service_tier is None


def _kinds_sql(rows: str) -> str:
    counts = ", ".join(f"count({name}) AS {name}" for name in _COUNTS)
    return f"SELECT {', '.join(_KIND)}, {counts} FROM {rows} GROUP BY ALL"


def _kinds(rows: pa.Table) -> list[Kind]:
    return [(row["provider"], row["model"], row["service_tier"], row["region"]) for row in rows.to_pylist()]


def _used(rows: pa.Table) -> frozenset[str]:
    """The counts that any row has."""
    import pyarrow.compute as pc

    return frozenset(name for name in _COUNTS if pc.any(pc.greater(rows[name], 0)).as_py())


def _agreed(slots: pa.Table) -> bool:
    """Whether any price is none of a public list, so that list and effective cost have to be computed apart."""
    import pyarrow.compute as pc

    return bool(pc.any(pc.not_equal(slots["price_kind"], "list")).as_py())


def _narrowest(amounts: Sequence[Decimal | None]) -> pa.Array:
    """Prices with twelve decimals where none needs more: rounding from 24 takes DuckDB ten times as long."""
    import pyarrow as pa

    fine = any(amount is not None and amount != round(amount, 12) for amount in amounts)
    return pa.array(amounts, arrow_type(UNIT_PRICE) if fine else pa.decimal128(18, 12))


def _slots(offers: Sequence[Price]) -> Iterator[Slot]:
    """Every stretch in which one price holds, of prices in rising precedence."""
    moments = sorted({_EVER, _NEVER} | {m for p in offers for m in (p.valid_from, p.valid_to) if m})
    minutes = sorted({0, _MINUTES} | {minute_of_day(c) for p in offers for c in (p.day_from, p.day_to) if c})
    for since, until in pairwise(moments):
        stretch: list[Slot] = []
        for start, end in pairwise(minutes):
            holding = [p for p in offers if p.covers(since) and p.covers_minute(start)]
            if not holding:
                continue
            price = holding[-1]
            # Amounts of two currencies cannot be set side by side, let alone subtracted.
            lists = [p for p in holding if p.catalog == LIST and p.currency == price.currency]
            listed = lists[-1] if lists else None
            same = stretch and stretch[-1].price is price and stretch[-1].listed is listed
            if same and stretch[-1].minute_to == start:
                stretch[-1] = replace(stretch[-1], minute_to=end)
            else:
                stretch.append(Slot(since, until, start, end, 0, 0, price, (), 0, listed))
        for slot in stretch:
            yield from _steps(slot)


def _steps(slot: Slot) -> Iterator[Slot]:
    """One slot per step of the context size; above a step the whole request pays the step's price."""
    prices = [price for price in (slot.price, slot.listed) if price is not None]
    starts = sorted({0} | {component.context_over for price in prices for component in price.components})
    lowest = min(component.context_over for component in slot.price.components)
    starts = [start for start in starts if start >= lowest]
    for start, end in zip(starts, [*starts[1:], _MOST_TOKENS], strict=True):
        amounts, audio_minimum = _amounts_at(slot.price, start)
        list_amounts, list_audio_minimum = _amounts_at(slot.listed, start) if slot.listed else ((), 0)
        yield replace(
            slot,
            over=start or -1,
            up_to=end,
            amounts=amounts,
            audio_minimum=audio_minimum,
            list_amounts=list_amounts,
            list_audio_minimum=list_audio_minimum,
        )


def _amounts_at(price: Price, start: int) -> tuple[tuple[Decimal | None, ...], int]:
    """What a price asks for each of COMPONENTS above `start` input tokens, and its least quantity of audio."""
    holding = {c.name: c for c in sorted(price.components) if c.context_over <= start}
    audio = holding.get("audio_seconds")
    amounts = tuple(holding[name].unit_price if name in holding else None for name in COMPONENTS)
    return amounts, (audio.minimum if audio and audio.minimum else 0)


def _price_sql(rows: str, used: Collection[str], agreed: bool) -> str:
    """Over a relation with the columns of `inference_events`, and `slots`: one row of `model_costs` each.

    Where no price is `agreed` apart from the lists, what lists ask is what is paid, and computed once.

    Only of the counts `used` the rows have values, mostly two or three of twenty: the others would only
    be planned. A count that cannot be true is NULL, and makes its row `absurd`. Narrow types are what
    keeps the products exact and quick.
    """
    bounds = dict.fromkeys((*TOKEN_BUCKETS, *COUNTERS), (MOST_PER_REQUEST, "INTEGER"))
    bounds["audio_seconds"] = (MOST_SECONDS, "DECIMAL(12, 3)")
    bounds = {name: bound for name, bound in bounds.items() if name in used}
    counts = "".join(
        f"CASE WHEN {name} BETWEEN 0 AND {most} THEN CAST({name} AS {narrow}) END AS {name}, "
        for name, (most, narrow) in bounds.items()
    )
    absurd = " OR ".join(f"{name} NOT BETWEEN 0 AND {most}" for name, (most, _) in bounds.items())

    def total(*names: str) -> str:
        return " + ".join(f"coalesce({name}, 0)" for name in names if name in used) or "0"

    def lacks(*names: str, of: str = "s.for_") -> str:
        missing = (f"e.{name} > 0 AND {of}{name} IS NULL" for name in names if name in used)
        return " OR ".join(missing) or "false"

    def cost(*names: str, of: str = "", also: str = "0", and_then: str = "") -> str:
        charged = "".join(f" + coalesce({name} * {of}for_{name}, 0)" for name in names if name in used)
        return f"CAST({also}{charged} AS DECIMAL(38, 12)){and_then}"

    def audio(of: str) -> str:
        if "audio_seconds" not in used:
            return ""
        return f""" + CASE
                WHEN audio_seconds > 0 AND {of}for_audio_seconds IS NOT NULL
                THEN CAST(greatest(audio_seconds, {of}audio_minimum) * {of}for_audio_seconds AS DECIMAL(38, 12))
                ELSE 0
            END"""

    def components(of: str) -> dict[str, str]:
        return {
            "input_cost": cost(*_INPUT, of=of),
            "cache_read_cost": cost(*_CACHE_READ, of=of),
            "cache_write_cost": cost(*_CACHE_WRITE, of=of),
            "output_cost": cost(*OUTPUT_BUCKETS, of=of),
            "other_cost": cost(*COUNTERS, of=of, also=f"coalesce({of}for_requests, 0)", and_then=audio(of)),
        }

    charged = ",\n        ".join(
        f"CASE cost_status WHEN 'priced' THEN {amount} WHEN 'not_billed' THEN 0 END AS {name}"
        for name, amount in components("").items()
    )
    listed = ",\n        ".join(
        f"CASE WHEN listed THEN {amount} WHEN cost_status = 'not_billed' THEN 0 END AS list_{name}"
        if agreed
        else f"{name} AS list_{name}"
        for name, amount in components("list_").items()
    )
    used_nothing = (
        f"e.input_tokens + e.output_tokens = 0 AND {total('n_search', 'n_tool')} = 0 "
        f"AND {total('pages')} = 0 AND {total('audio_seconds')} = 0"
    )

    def short(of: str) -> str:
        """Whether a price names too little for what was used."""
        return (
            f"{lacks(*TOKEN_BUCKETS, 'n_search', of=of)} OR e.input_tokens + e.output_tokens = 0 "
            f"AND ({lacks('n_tool', 'pages', 'audio_seconds', of=of)})"
        )

    known = "true"
    if agreed:
        known = f"""s.list_price_id IS NOT NULL AND (
            s.list_flat OR NOT ({used_nothing}) AND NOT coalesce({short("s.list_for_")}, false)
        )"""
    return f"""
WITH given AS (
    SELECT {", ".join(_PLAIN)}, {counts} coalesce({absurd or "false"}, false) AS absurd FROM {rows}
),
events AS (
    SELECT
        *,
        {total(*INPUT_BUCKETS)} AS input_tokens,
        {total(*OUTPUT_BUCKETS)} AS output_tokens,
        (epoch_us(event_ts) // 60_000_000 % 1440 + 1440) % 1440 AS minute
    FROM given
),
judged AS (
    SELECT
        e.*,
        s.* EXCLUDE (provider, model, service_tier, region),
        CASE
            WHEN e.span_kind <> 'leaf' OR e.status IN ('cache_hit', 'error_unbilled') THEN 'not_billed'
            WHEN e.absurd OR e.usage_quality = 'inconsistent' THEN 'inconsistent'
            WHEN s.flat THEN 'priced'
            WHEN {used_nothing} THEN 'no_usage'
            WHEN s.price_id IS NULL THEN 'unpriced'
            WHEN {short("s.for_")} THEN 'incomplete'
            ELSE 'priced'
        END AS cost_status,
        cost_status = 'priced' AND {known} AS listed
    FROM events AS e
    LEFT JOIN slots AS s
        ON e.provider IS NOT DISTINCT FROM s.provider
        AND e.model IS NOT DISTINCT FROM s.model
        AND e.service_tier IS NOT DISTINCT FROM s.service_tier
        AND e.region IS NOT DISTINCT FROM s.region
        AND e.event_ts >= s.since AND e.event_ts < s.until
        AND e.minute >= s.minute_from AND e.minute < s.minute_to
        AND e.input_tokens > s.over AND e.input_tokens <= s.up_to
),
charged AS (
    SELECT
        *,
        {charged}
    FROM judged
),
set_beside AS (
    SELECT
        *,
        input_cost + cache_read_cost + cache_write_cost + output_cost + other_cost AS cost,
        {listed}
    FROM charged
),
summed AS (
    SELECT
        *,
        list_input_cost + list_cache_read_cost + list_cache_write_cost + list_output_cost + list_other_cost
            AS list_cost
    FROM set_beside
)
SELECT
    tenant, day, event_ts, batch, event_key, application, provider, model, status, cost_status,
    CASE WHEN cost_status IN ('priced', 'incomplete') THEN price_id END AS price_id,
    cost_status = 'priced' AND assumed AS assumed,
    CAST(summed.input_tokens + summed.output_tokens AS BIGINT) AS tokens,
    CASE WHEN cost_status = 'priced' THEN currency END AS currency,
    input_cost, cache_read_cost, cache_write_cost, output_cost, other_cost, cost,
    logged_cost, logged_currency,
    CASE WHEN cost_status = 'priced' THEN price_kind END AS price_kind,
    CASE WHEN listed THEN list_price_id END AS list_price_id,
    list_input_cost, list_cache_read_cost, list_cache_write_cost, list_output_cost, list_other_cost, list_cost,
    CASE WHEN cost_status = 'priced' AND price_kind = 'contract' THEN cost ELSE list_cost END AS contracted_cost,
    CAST(NULL AS DATE) AS booked_day,
    CAST({total(*_INPUT)} AS BIGINT) AS input_tokens,
    CAST({total(*_CACHE_READ)} AS BIGINT) AS cache_read_tokens,
    CAST({total(*_CACHE_WRITE)} AS BIGINT) AS cache_write_tokens,
    CAST(summed.output_tokens AS BIGINT) AS output_tokens
FROM summed
"""
