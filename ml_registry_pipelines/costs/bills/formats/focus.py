"""Rows of FOCUS, the FinOps Open Cost and Usage Specification, 1.0 to 1.3, as CSV or Parquet.

The amount is BilledCost, which an invoice is made of; ListCost is the amount before discounts. A row has
no id of its own: its identity is what it is about. What changes while a period is open (InvoiceId) or
follows from the amounts (unit prices) is no part of it.
Described at https://focus.finops.org/focus-specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.costs.bills.lines import (
    Given,
    Line,
    LineError,
    amount,
    currency_of,
    instant,
    period,
    text,
)

REPORT = "focus"
REQUIRED = ("BilledCost", "ChargePeriodStart", "ChargePeriodEnd")
CHARGES = ("usage", "purchase", "tax", "credit", "adjustment")
_PROVIDER = (
    "ServiceProviderName",
    "ProviderName",
    "Provider",
    "HostProviderName",
    "PublisherName",
    "Publisher",
)
_ISSUER = ("InvoiceIssuerName", "InvoiceIssuer")
_IDENTITY = (
    *("BillingPeriodStart", "BillingAccountType", "ChargeFrequency", "PricingCategory", "PricingUnit"),
    *("SkuId", "SkuPriceId", "SkuPriceDetails", "ResourceId", "RegionId", "AvailabilityZone", "Tags"),
    *(
        "CommitmentDiscountId",
        "CommitmentDiscountStatus",
        "CapacityReservationId",
        "CapacityReservationStatus",
    ),
)
_LINE_ID = ("x_LineItemId", "x_ChargeId")


def is_focus(columns: list[str]) -> bool:
    """Whether columns are those of FOCUS."""
    return set(REQUIRED) <= set(columns)


def line(row: Mapping[str, Any], given: Given) -> Line | None:
    """The line of one row; None where it is about a service that the source does not take.

    Raises:
        LineError: the row does not say what it has to.
    """
    category = text(row.get("ServiceCategory"))
    if category is not None and "*" not in given.categories and category not in given.categories:
        return None
    start, end = period(
        instant(_needed(row, "ChargePeriodStart"), "ChargePeriodStart"),
        instant(_needed(row, "ChargePeriodEnd"), "ChargePeriodEnd"),
    )
    name = _first(row, _PROVIDER)
    if name is None and given.provider is None:
        raise LineError("unknown_provider", "the row names no provider; set `provider` of the source")
    charge = (text(row.get("ChargeCategory")) or "usage").lower()
    if charge not in CHARGES:
        raise LineError(
            "unknown_charge", f"ChargeCategory is {charge[:60]!r}; FOCUS has {', '.join(CHARGES)}"
        )
    billed = amount(_needed(row, "BilledCost"), "BilledCost")
    quantity, listed = text(row.get("ConsumedQuantity")), text(row.get("ListCost"))
    return Line(
        report=REPORT,
        kind="cost",
        provider=given.provider or given.provider_of(name or ""),
        issuer=(_first(row, _ISSUER) or name or given.provider or "").lower(),
        period_start=start,
        period_end=end,
        tenant=given.tenant,
        account=text(row.get("BillingAccountId")) or given.account,
        sub_account=text(row.get("SubAccountId")),
        product=text(row.get("ServiceName")),
        model=text(row.get("x_Model")),
        line_item=text(row.get("ChargeDescription")),
        charge=charge,
        charge_class=(text(row.get("ChargeClass")) or "").lower() or None,
        token_kind=text(row.get("SkuMeter")),
        quantity=None if quantity is None else amount(quantity, "ConsumedQuantity"),
        unit=None if quantity is None else text(row.get("ConsumedUnit")),
        list_amount=None if listed is None else amount(listed, "ListCost"),
        amount=billed,
        currency=currency_of(text(row.get("BillingCurrency")), given, "BillingCurrency"),
        provider_line_id=_first(row, _LINE_ID),
        identity=tuple(
            f"{name}={found}" for name in _IDENTITY if name in row and (found := text(row[name])) is not None
        ),
    )


def _needed(row: Mapping[str, Any], column: str) -> Any:
    value = row.get(column)
    if value is None or value == "":
        raise LineError("missing_column", f"{column} is empty, and every FOCUS row has it")
    return value


def _first(row: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    for name in columns:
        if name in row and (found := text(row[name])) is not None:
            return found
    return None
