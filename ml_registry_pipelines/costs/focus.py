"""The ledger as FOCUS 1.2 rows: the columns of its Cost and Usage dataset, and what stands in them.

FOCUS is the FinOps Foundation's open specification of billing data (focus.finops.org, version 1.2). One row
is one hour of one tenant, application, model, conditions and billed component; a correction is one hour of
one component of the ledger. Files are written in `focus_files.py`.

What the specification leaves to us:

- A tenant is a sub account. Months are billing periods. What was booked after its month had been closed is in
  the billing period in which it was booked, with the charge period of the requests; corrections are of the
  charge class Correction and bear amounts alone.
- Nothing is invoiced here, so the billed cost is the effective cost.
- ListUnitPrice must not be NULL: where no public list names a price, it repeats the price that was paid, and
  so does ListCost; `x_ListPriceId` is NULL there, and nothing was saved.
- A cost that is not known cannot be a row, because BilledCost must not be NULL, and 0 would be wrong: such
  attempts are left out and counted. So are those whose usage was erased or is past its retention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.ledger import file_statistics
from ml_registry_pipelines.costs.prices import COMPONENTS
from ml_registry_pipelines.costs.standing import CORRECTIONS, standing
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.declarations import MONEY, arrow_type
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.tables.costs import COST_COMPONENTS
from ml_registry_pipelines.lake.tables.telemetry import INPUT_BUCKETS, TOKEN_BUCKETS

if TYPE_CHECKING:
    import pyarrow as pa

READS = (
    "inference_events",
    "model_costs",
    "cost_corrections",
    "price_catalog",
    "currency_rates",
)
VERSION = "1.2"
UNIT_COST = "decimal(38,15)"
"""Unit prices of a million tokens, and quantities of them: room for prices up to 99 billion."""
_TEXT, _TIME = "string", "timestamp"


class FocusError(MlregError):
    """The rows cannot be what the specification asks for."""


@dataclass(frozen=True)
class FocusColumn:
    """One column: its id, Arrow type by name, and whether it may be NULL."""

    name: str
    type: str
    nullable: bool = True


def _required(name: str, kind: str = _TEXT) -> FocusColumn:
    return FocusColumn(name, kind, nullable=False)


COLUMNS: tuple[FocusColumn, ...] = (
    FocusColumn("AvailabilityZone", _TEXT),
    _required("BilledCost", MONEY),
    _required("BillingAccountId"),
    FocusColumn("BillingAccountName", _TEXT),
    FocusColumn("BillingAccountType", _TEXT),
    _required("BillingCurrency"),
    _required("BillingPeriodEnd", _TIME),
    _required("BillingPeriodStart", _TIME),
    FocusColumn("CapacityReservationId", _TEXT),
    FocusColumn("CapacityReservationStatus", _TEXT),
    _required("ChargeCategory"),
    FocusColumn("ChargeClass", _TEXT),
    FocusColumn("ChargeDescription", _TEXT),
    _required("ChargeFrequency"),
    _required("ChargePeriodEnd", _TIME),
    _required("ChargePeriodStart", _TIME),
    FocusColumn("CommitmentDiscountCategory", _TEXT),
    FocusColumn("CommitmentDiscountId", _TEXT),
    FocusColumn("CommitmentDiscountName", _TEXT),
    FocusColumn("CommitmentDiscountQuantity", UNIT_COST),
    FocusColumn("CommitmentDiscountStatus", _TEXT),
    FocusColumn("CommitmentDiscountType", _TEXT),
    FocusColumn("CommitmentDiscountUnit", _TEXT),
    FocusColumn("ConsumedQuantity", UNIT_COST),
    FocusColumn("ConsumedUnit", _TEXT),
    _required("ContractedCost", MONEY),
    FocusColumn("ContractedUnitPrice", UNIT_COST),
    _required("EffectiveCost", MONEY),
    FocusColumn("InvoiceId", _TEXT),
    _required("InvoiceIssuerName"),
    _required("ListCost", MONEY),
    FocusColumn("ListUnitPrice", UNIT_COST),
    FocusColumn("PricingCategory", _TEXT),
    FocusColumn("PricingCurrency", _TEXT),
    FocusColumn("PricingCurrencyContractedUnitPrice", UNIT_COST),
    FocusColumn("PricingCurrencyEffectiveCost", MONEY),
    FocusColumn("PricingCurrencyListUnitPrice", UNIT_COST),
    FocusColumn("PricingQuantity", UNIT_COST),
    FocusColumn("PricingUnit", _TEXT),
    _required("ProviderName"),
    _required("PublisherName"),
    FocusColumn("RegionId", _TEXT),
    FocusColumn("RegionName", _TEXT),
    FocusColumn("ResourceId", _TEXT),
    FocusColumn("ResourceName", _TEXT),
    FocusColumn("ResourceType", _TEXT),
    _required("ServiceCategory"),
    _required("ServiceName"),
    _required("ServiceSubcategory"),
    FocusColumn("SkuId", _TEXT),
    FocusColumn("SkuMeter", _TEXT),
    FocusColumn("SkuPriceDetails", _TEXT),
    FocusColumn("SkuPriceId", _TEXT),
    FocusColumn("SubAccountId", _TEXT),
    FocusColumn("SubAccountName", _TEXT),
    FocusColumn("SubAccountType", _TEXT),
    FocusColumn("Tags", _TEXT),
    FocusColumn("x_ListPriceId", _TEXT),
    FocusColumn("x_Model", _TEXT),
    FocusColumn("x_PriceId", _TEXT),
    FocusColumn("x_PriceKind", _TEXT),
    FocusColumn("x_Requests", "int64"),
)
"""The columns of FOCUS 1.2 in their order, then ours, whose names begin with `x_`: the price in
`price_catalog`, the list price, list, contract or assumed, the model, and the attempts that a row sums up."""

METERS: Mapping[str, str] = {
    **{bucket: f"{'Input' if bucket in INPUT_BUCKETS else 'Output'} Tokens" for bucket in TOKEN_BUCKETS},
    "in_cache_read": "Cached Input Tokens",
    "in_cache_read_audio": "Cached Audio Input Tokens",
    "in_cache_read_image": "Cached Image Input Tokens",
    "in_cache_write_5m": "Cache Write Tokens (5 Minutes)",
    "in_cache_write_30m": "Cache Write Tokens (30 Minutes)",
    "in_cache_write_1h": "Cache Write Tokens (1 Hour)",
    "in_cache_write_12h": "Cache Write Tokens (12 Hours)",
    "in_audio": "Audio Input Tokens",
    "in_image": "Image Input Tokens",
    "in_video": "Video Input Tokens",
    "out_reasoning": "Reasoning Tokens",
    "out_audio": "Audio Output Tokens",
    "out_image": "Image Output Tokens",
    "n_search": "Web Searches",
    "n_tool": "Tool Calls",
    "pages": "Pages",
    "audio_seconds": "Audio Seconds",
    "requests": "Requests",
    "input_cost": "Input",
    "cache_read_cost": "Cached Input",
    "cache_write_cost": "Cache Writes",
    "output_cost": "Output",
    "other_cost": "Requests, Searches, Pages and Seconds",
}
_UNITS: Mapping[str, str] = {
    **dict.fromkeys(TOKEN_BUCKETS, "Tokens"),
    "n_search": "Searches",
    "n_tool": "Calls",
    "pages": "Pages",
    "audio_seconds": "Seconds",
    "requests": "Requests",
}


def schema() -> pa.Schema:
    """The Arrow schema of a FOCUS table."""
    import pyarrow as pa

    return pa.schema(pa.field(c.name, arrow_type(c.type), nullable=c.nullable) for c in COLUMNS)


def focus_day(
    reading: Reading,
    day: date,
    *,
    since: date,
    until: date,
    tenant: str | None,
    account: str,
    currency: str | None,
) -> pa.Table:
    """The FOCUS rows of one day of use that are in the billing months from `since` up to, not including, `until`.

    Args:
        reading: holds READS.
        tenant: only this one's.
        account: the billing account.
        currency: the billing currency, into which prices are converted; None: that of the prices.

    Raises:
        FocusError: no rate into the billing currency holds on that day.
    """
    import pyarrow as pa

    given = {"day": day, "since": since, "until": until, "tenant": tenant}
    meters = pa.table(
        {
            "component": pa.array(list(METERS), pa.string()),
            "meter": pa.array(list(METERS.values()), pa.string()),
            "unit": pa.array([_UNITS.get(name) for name in METERS], pa.string()),
        }
    )
    reading.register("focus_meters", meters)
    reading.register("focus_usage", reading.query("focus.usage", _USAGE, given))
    reading.register("focus_corrections", reading.query("focus.corrections", _CORRECTIONS, given))
    _convert(reading, day, currency)
    rows = reading.query("focus.rows", _ROWS, {"account": account, "currency": currency})
    return rows.select([column.name for column in COLUMNS]).cast(schema())


def left_out(reading: Reading, *, since: date, until: date, tenant: str | None) -> dict[str, int]:
    """Billable attempts of some days whose cost is not known, by the reason: they can be no FOCUS rows."""
    attempts = standing(reading, "day >= $since AND day < $until AND ($tenant IS NULL OR tenant = $tenant)")
    rows = reading.query(
        "focus.left_out",
        f"""
        SELECT cost_status, count(*) AS requests FROM ({attempts})
        WHERE cost_status NOT IN ('priced', 'not_billed')
        GROUP BY cost_status ORDER BY cost_status
        """,
        {"since": since, "until": until, "tenant": tenant},
    ).to_pylist()
    return {row["cost_status"]: row["requests"] for row in rows}


def focus_days(reading: Reading, *, since: date, until: date) -> list[date]:
    """The days of use that may have rows in some billing months, in order, from the statistics of the files."""
    days: set[date] = set()
    for table in ("model_costs", CORRECTIONS):
        for file in file_statistics(reading, table):
            day: date = file["partition.day"]
            first, last = file.get("min.booked_day"), file.get("max.booked_day")
            if since <= day < until or (
                first is not None and last is not None and first < until and last >= since
            ):
                days.add(day)
    return sorted(days)


def usage_gone(reading: Reading, day: date, *, since: date, until: date, tenant: str | None) -> int:
    """Priced attempts of a day whose usage is kept no more: their cost is known, and what it was for is not."""
    rows = reading.query(
        "focus.usage_gone",
        f"""
        SELECT count(*) AS attempts
        FROM (FROM model_costs WHERE {_IN_PERIOD} AND cost_status = 'priced')
        ANTI JOIN (FROM inference_events WHERE day = $day) USING (tenant, event_key, batch)
        """,
        {"day": day, "since": since, "until": until, "tenant": tenant},
    )
    return int(rows["attempts"][0].as_py())


def _convert(reading: Reading, day: date, currency: str | None) -> None:
    """Register `focus_rates`: by pricing currency the billing currency's rate of a day."""
    import pyarrow as pa

    from ml_registry_pipelines.costs.currencies import rates_into

    priced = reading.query(
        "focus.currencies",
        "SELECT currency FROM focus_usage UNION SELECT currency FROM focus_corrections ORDER BY currency",
    )["currency"].to_pylist()
    one = arrow_type("decimal(18,12)")
    if currency is None:
        rates = dict.fromkeys(priced, 1)
    else:
        stretches = rates_into(reading, currency).to_pylist()
        rates = {row["base"]: row["rate"] for row in stretches if row["since"] <= day < row["until"]}
    if missing := [base for base in priced if base not in rates]:
        raise FocusError(
            f"no rate from {' or '.join(missing)} to {currency} holds on {day}; add one with "
            f"`mlreg costs rates add`, or leave out the currency"
        )
    reading.register(
        "focus_rates",
        pa.table({"base": pa.array(list(rates), pa.string()), "rate": pa.array(list(rates.values()), one)}),
    )


_IN_PERIOD = """day = $day AND ($tenant IS NULL OR tenant = $tenant)
            AND coalesce(booked_day, day) >= $since AND coalesce(booked_day, day) < $until"""
_INPUT = " + ".join(f"coalesce({name}, 0)" for name in INPUT_BUCKETS)
_USED = ", ".join(
    f"{{'component': '{name}', 'quantity': CAST({'1' if name == 'requests' else name} AS DECIMAL(15, 3))}}"
    for name in COMPONENTS
)

_USAGE = f"""
WITH priced AS (
    SELECT tenant, event_key, batch, event_ts, application, provider, model, currency, price_id, price_kind,
        list_price_id, coalesce(booked_day, day) AS billed_on
    FROM model_costs
    WHERE {_IN_PERIOD} AND cost_status = 'priced'
),
used AS (
    SELECT p.*, e.region, lower(e.service_tier) AS service_tier, {_INPUT} AS input_tokens,
        unnest([{_USED}], recursive := true)
    FROM priced AS p
    JOIN (FROM inference_events WHERE day = $day) AS e USING (tenant, event_key, batch)
),
steps AS (
    SELECT price_id, component, context_over, unit_price, coalesce(minimum, 0) AS minimum,
        lead(context_over) OVER (PARTITION BY price_id, component ORDER BY context_over) AS up_to
    FROM (
        SELECT DISTINCT price_id, component, context_over, unit_price, minimum FROM price_catalog
        WHERE price_id IN (SELECT price_id FROM priced UNION SELECT list_price_id FROM priced)
    )
),
charged AS (
    SELECT
        u.*, coalesce(p.unit_price, 0) AS paid, coalesce(p.context_over, l.context_over) AS context_over,
        CASE WHEN list_price_id IS NULL THEN paid ELSE coalesce(l.unit_price, 0) END AS listed,
        CASE WHEN price_kind = 'contract' THEN paid ELSE listed END AS contracted,
        greatest(quantity, coalesce(p.minimum, l.minimum)) AS billed
    FROM used AS u
    LEFT JOIN steps AS p
        ON p.price_id = u.price_id AND p.component = u.component
        AND (p.context_over = 0 OR u.input_tokens > p.context_over)
        AND (p.up_to IS NULL OR u.input_tokens <= p.up_to)
    LEFT JOIN steps AS l
        ON l.price_id = u.list_price_id AND l.component = u.component
        AND (l.context_over = 0 OR u.input_tokens > l.context_over)
        AND (l.up_to IS NULL OR u.input_tokens <= l.up_to)
    WHERE u.quantity > 0 AND (p.price_id IS NOT NULL OR l.price_id IS NOT NULL)
)
SELECT
    date_trunc('month', billed_on)::DATE AS billing_month, date_trunc('hour', event_ts) AS hour,
    tenant, application, provider, model, region, service_tier, component, context_over, currency,
    price_id, price_kind, list_price_id, paid, listed, contracted,
    count(*) AS requests, sum(quantity) AS consumed, sum(billed) AS billed,
    sum(CAST(billed * paid AS DECIMAL(38, 12))) AS effective_cost,
    sum(CAST(billed * listed AS DECIMAL(38, 12))) AS list_cost,
    sum(CAST(billed * contracted AS DECIMAL(38, 12))) AS contracted_cost
FROM charged
GROUP BY ALL
"""

_DIFFERENCES = ", ".join(
    f"{{'component': '{name}', 'effective': {name}, 'listed': coalesce(list_{name}, {name}), "
    f"'contracted': CASE WHEN price_kind = 'contract' THEN {name} ELSE coalesce(list_{name}, {name}) END}}"
    for name in COST_COMPONENTS
)

_CORRECTIONS = f"""
WITH parts AS (
    SELECT date_trunc('month', booked_day)::DATE AS billing_month, date_trunc('hour', event_ts) AS hour,
        tenant, application, provider, model, currency, tenant || event_key || batch AS attempt,
        unnest([{_DIFFERENCES}], recursive := true)
    FROM cost_corrections
    WHERE {_IN_PERIOD} AND currency IS NOT NULL
)
SELECT billing_month, hour, tenant, application, provider, model, currency, component,
    count(DISTINCT attempt) AS requests,
    sum(effective) AS effective_cost, sum(listed) AS list_cost, sum(contracted) AS contracted_cost
FROM parts
GROUP BY ALL
HAVING effective_cost <> 0 OR list_cost <> 0 OR contracted_cost <> 0
"""

_ROWS = """
WITH charges AS (
    SELECT *, NULL AS charge_class FROM focus_usage
    UNION ALL BY NAME
    SELECT *, 'Correction' AS charge_class FROM focus_corrections
),
measured AS (
    SELECT c.*, m.meter, coalesce($currency, c.currency) AS billing_currency, r.rate,
        CASE WHEN charge_class IS NULL THEN m.unit END AS consumed_unit,
        CASE WHEN m.unit = 'Tokens' THEN 1000000 ELSE 1 END AS block,
        concat_ws('/', coalesce(provider, 'unknown'), coalesce(model, 'unknown'), component) AS sku,
        concat_ws(';', sku, 'tier=' || service_tier, 'region=' || region,
            CASE WHEN context_over > 0 THEN 'over=' || context_over END) AS sku_price
    FROM charges AS c
    JOIN focus_meters AS m USING (component)
    JOIN focus_rates AS r ON r.base = c.currency
)
SELECT
    NULL AS AvailabilityZone,
    CAST(effective_cost * rate AS DECIMAL(38, 12)) AS BilledCost,
    $account AS BillingAccountId, NULL AS BillingAccountName, 'Organization' AS BillingAccountType,
    billing_currency AS BillingCurrency,
    CAST(billing_month + INTERVAL 1 MONTH AS TIMESTAMPTZ) AS BillingPeriodEnd,
    CAST(billing_month AS TIMESTAMPTZ) AS BillingPeriodStart,
    NULL AS CapacityReservationId, NULL AS CapacityReservationStatus,
    'Usage' AS ChargeCategory, charge_class AS ChargeClass,
    concat_ws(' ', CASE WHEN charge_class IS NOT NULL THEN 'Correction of' END, model, lower(meter))
        AS ChargeDescription,
    'Usage-Based' AS ChargeFrequency,
    hour + INTERVAL 1 HOUR AS ChargePeriodEnd, hour AS ChargePeriodStart,
    NULL AS CommitmentDiscountCategory, NULL AS CommitmentDiscountId, NULL AS CommitmentDiscountName,
    NULL AS CommitmentDiscountQuantity, NULL AS CommitmentDiscountStatus, NULL AS CommitmentDiscountType,
    NULL AS CommitmentDiscountUnit,
    CAST(consumed AS DECIMAL(38, 15)) AS ConsumedQuantity, consumed_unit AS ConsumedUnit,
    CAST(contracted_cost * rate AS DECIMAL(38, 12)) AS ContractedCost,
    CAST(CAST(contracted * block AS DECIMAL(38, 15)) * rate AS DECIMAL(38, 15)) AS ContractedUnitPrice,
    CAST(effective_cost * rate AS DECIMAL(38, 12)) AS EffectiveCost,
    NULL AS InvoiceId, coalesce(provider, 'unknown') AS InvoiceIssuerName,
    CAST(list_cost * rate AS DECIMAL(38, 12)) AS ListCost,
    CAST(CAST(listed * block AS DECIMAL(38, 15)) * rate AS DECIMAL(38, 15)) AS ListUnitPrice,
    CASE WHEN charge_class IS NULL THEN 'Standard' END AS PricingCategory,
    currency AS PricingCurrency,
    CAST(contracted * block AS DECIMAL(38, 15)) AS PricingCurrencyContractedUnitPrice,
    effective_cost AS PricingCurrencyEffectiveCost,
    CAST(listed * block AS DECIMAL(38, 15)) AS PricingCurrencyListUnitPrice,
    CAST(billed * CASE WHEN block = 1 THEN 1 ELSE 0.000001 END AS DECIMAL(38, 15)) AS PricingQuantity,
    CASE WHEN consumed_unit = 'Tokens' THEN '1000000 Tokens' ELSE consumed_unit END AS PricingUnit,
    coalesce(provider, 'unknown') AS ProviderName, coalesce(provider, 'unknown') AS PublisherName,
    region AS RegionId, region AS RegionName,
    NULL AS ResourceId, NULL AS ResourceName, NULL AS ResourceType,
    'AI and Machine Learning' AS ServiceCategory, coalesce(provider, 'unknown') AS ServiceName,
    'Generative AI' AS ServiceSubcategory,
    CASE WHEN charge_class IS NULL THEN sku END AS SkuId,
    CASE WHEN charge_class IS NULL THEN meter END AS SkuMeter,
    CASE WHEN charge_class IS NULL THEN CAST(to_json(struct_pack(
        x_Component := component, x_ServiceTier := coalesce(service_tier, 'standard'),
        x_ContextOver := coalesce(context_over, 0))) AS VARCHAR) END AS SkuPriceDetails,
    CASE WHEN charge_class IS NULL THEN sku_price END AS SkuPriceId,
    tenant AS SubAccountId, tenant AS SubAccountName, 'Tenant' AS SubAccountType,
    CASE WHEN application IS NOT NULL THEN CAST(to_json(struct_pack(application)) AS VARCHAR) ELSE '{}' END AS Tags,
    list_price_id AS x_ListPriceId, model AS x_Model, price_id AS x_PriceId, price_kind AS x_PriceKind,
    CAST(requests AS BIGINT) AS x_Requests
FROM measured
ORDER BY tenant, hour, provider, model, component, charge_class, sku_price, application, price_id, list_price_id,
    currency
"""
