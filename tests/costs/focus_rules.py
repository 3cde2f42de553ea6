"""What FOCUS 1.2 asks of a Cost and Usage dataset, written from the specification's column pages.

https://focus.finops.org/focus-specification/v1-2/ Beside what the code exports, and not made from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

Row = Mapping[str, Any]

# Column id: (data type, whether NULL is allowed), in the order of the specification.
COLUMNS: dict[str, tuple[str, bool]] = {
    "AvailabilityZone": ("String", True),
    "BilledCost": ("Decimal", False),
    "BillingAccountId": ("String", False),
    "BillingAccountName": ("String", True),
    "BillingAccountType": ("String", True),
    "BillingCurrency": ("String", False),
    "BillingPeriodEnd": ("Date/Time", False),
    "BillingPeriodStart": ("Date/Time", False),
    "CapacityReservationId": ("String", True),
    "CapacityReservationStatus": ("String", True),
    "ChargeCategory": ("String", False),
    "ChargeClass": ("String", True),
    "ChargeDescription": ("String", True),
    "ChargeFrequency": ("String", False),
    "ChargePeriodEnd": ("Date/Time", False),
    "ChargePeriodStart": ("Date/Time", False),
    "CommitmentDiscountCategory": ("String", True),
    "CommitmentDiscountId": ("String", True),
    "CommitmentDiscountName": ("String", True),
    "CommitmentDiscountQuantity": ("Decimal", True),
    "CommitmentDiscountStatus": ("String", True),
    "CommitmentDiscountType": ("String", True),
    "CommitmentDiscountUnit": ("String", True),
    "ConsumedQuantity": ("Decimal", True),
    "ConsumedUnit": ("String", True),
    "ContractedCost": ("Decimal", False),
    "ContractedUnitPrice": ("Decimal", True),
    "EffectiveCost": ("Decimal", False),
    "InvoiceId": ("String", True),
    "InvoiceIssuerName": ("String", False),
    "ListCost": ("Decimal", False),
    "ListUnitPrice": ("Decimal", True),
    "PricingCategory": ("String", True),
    "PricingCurrency": ("String", True),
    "PricingCurrencyContractedUnitPrice": ("Decimal", True),
    "PricingCurrencyEffectiveCost": ("Decimal", True),
    "PricingCurrencyListUnitPrice": ("Decimal", True),
    "PricingQuantity": ("Decimal", True),
    "PricingUnit": ("String", True),
    "ProviderName": ("String", False),
    "PublisherName": ("String", False),
    "RegionId": ("String", True),
    "RegionName": ("String", True),
    "ResourceId": ("String", True),
    "ResourceName": ("String", True),
    "ResourceType": ("String", True),
    "ServiceCategory": ("String", False),
    "ServiceName": ("String", False),
    "ServiceSubcategory": ("String", False),
    "SkuId": ("String", True),
    "SkuMeter": ("String", True),
    "SkuPriceDetails": ("String", True),
    "SkuPriceId": ("String", True),
    "SubAccountId": ("String", True),
    "SubAccountName": ("String", True),
    "SubAccountType": ("String", True),
    "Tags": ("String", True),
}
ALLOWED: dict[str, set[str]] = {
    "CapacityReservationStatus": {"Used", "Unused"},
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "CommitmentDiscountCategory": {"Spend", "Usage"},
    "CommitmentDiscountStatus": {"Used", "Unused"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other"},
}
SUBCATEGORIES = {
    "AI and Machine Learning": {
        "Bots",
        "Generative AI",
        "Machine Learning",
        "Natural Language Processing",
        "Other (AI and Machine Learning)",
    }
}
# A cost has twelve decimals; its product of quantity and unit price has more.
CLOSE = Decimal("0.000000000005")


def _regular(row: Row) -> bool:
    return row["ChargeCategory"] in {"Usage", "Purchase"} and row["ChargeClass"] != "Correction"


def _product(quantity: str, price: str, cost: str) -> Callable[[Row], bool]:
    def holds(row: Row) -> bool:
        if row["ChargeClass"] == "Correction" or row[quantity] is None or row[price] is None:
            return True
        return bool(abs(row[quantity] * row[price] - row[cost]) <= CLOSE * max(1, row["x_Requests"]))

    return holds


def _both(one: str, other: str) -> Callable[[Row], bool]:
    return lambda row: (row[one] is None) == (row[other] is None)


def _positive(name: str) -> Callable[[Row], bool]:
    return lambda row: row[name] is None or row[name] >= 0


def _needed(name: str) -> Callable[[Row], bool]:
    return lambda row: not _regular(row) or row[name] is not None


def _object(name: str, *, prefix: str = "") -> Callable[[Row], bool]:
    def holds(row: Row) -> bool:
        if row[name] is None:
            return True
        value = json.loads(row[name])
        return isinstance(value, dict) and all(
            key.startswith(prefix) and not isinstance(item, dict | list) for key, item in value.items()
        )

    return holds


RULES: dict[str, Callable[[Row], bool]] = {
    **{f"{n} is there for usage": _needed(n) for n in (
        "ListUnitPrice", "ContractedUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit",
        "ConsumedQuantity", "ConsumedUnit", "SkuId", "SkuPriceId", "SkuMeter",
    )},
    **{f"{n} is not negative": _positive(n) for n in (
        "ListUnitPrice", "ContractedUnitPrice", "PricingCurrencyListUnitPrice", "PricingCurrencyContractedUnitPrice",
    )},
    "ListCost is ListUnitPrice times PricingQuantity": _product("PricingQuantity", "ListUnitPrice", "ListCost"),
    "ContractedCost is ContractedUnitPrice times PricingQuantity": _product(
        "PricingQuantity", "ContractedUnitPrice", "ContractedCost"
    ),
    "ConsumedQuantity and ConsumedUnit come together": _both("ConsumedQuantity", "ConsumedUnit"),
    "PricingQuantity and PricingUnit come together": _both("PricingQuantity", "PricingUnit"),
    "a consumed quantity is positive": lambda r: r["ChargeClass"] == "Correction" or r["ConsumedQuantity"] > 0,
    "a region has a name": _both("RegionId", "RegionName"),
    "a resource has a type": _both("ResourceId", "ResourceType"),
    "a sub account has a type": _both("SubAccountId", "SubAccountType"),
    "a billing account has a type": _both("BillingAccountId", "BillingAccountType"),
    "a discount has an id": _both("CommitmentDiscountId", "CommitmentDiscountStatus"),
    "details want a price": lambda r: r["SkuPriceId"] is not None or r["SkuPriceDetails"] is None,
    "details of ours are named so": _object("SkuPriceDetails", prefix="x_"),
    "tags are a flat object": _object("Tags"),
    "currencies are ISO 4217": lambda r: all(
        re.fullmatch("[A-Z]{3}", r[n] or "") for n in ("BillingCurrency", "PricingCurrency")
    ),
    "a billing period is a month": lambda r: r["BillingPeriodStart"].day == 1
    and r["BillingPeriodEnd"] == _next_month(r["BillingPeriodStart"]),
    "a charge period is not empty": lambda r: r["ChargePeriodStart"] < r["ChargePeriodEnd"],
    "only corrections and late usage are billed in a later period": lambda r: r["ChargePeriodStart"]
    < r["BillingPeriodEnd"],
    "the subcategory is one of its category": lambda r: r["ServiceSubcategory"]
    in SUBCATEGORIES.get(r["ServiceCategory"], set()),
    "no text is empty": lambda r: all(v != "" for v in r.values()),
}  # fmt: skip


def _next_month(start: datetime) -> datetime:
    year, month = divmod(start.year * 12 + start.month, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def _type_fits(kind: str, value: object) -> bool:
    if kind == "Date/Time":
        return isinstance(value, datetime) and value.utcoffset() is not None and not value.utcoffset()
    return isinstance(value, {"String": str, "Decimal": Decimal}[kind])


def violations(names: Iterable[str], rows: Iterable[Row]) -> Iterator[str]:
    """What the specification would object to, one sentence each."""
    found = list(names)
    if [name for name in found if not name.startswith("x_")] != list(COLUMNS):
        yield "the columns are not those of FOCUS 1.2 in their order"
    parents: dict[str, str] = {}
    for number, row in enumerate(rows):
        for name, (kind, nullable) in COLUMNS.items():
            value = row[name]
            if value is None and not nullable:
                yield f"row {number}: {name} is NULL"
            if value is not None and not _type_fits(kind, value):
                yield f"row {number}: {name} is {value!r}, no {kind}"
            if value is not None and value not in ALLOWED.get(name, {value}):
                yield f"row {number}: {name} is {value!r}, none of the allowed values"
        for rule, holds in RULES.items():
            if not holds(row):
                yield f"row {number}: {rule}"
        if row["SkuPriceId"] and parents.setdefault(row["SkuPriceId"], row["SkuId"]) != row["SkuId"]:
            yield f"row {number}: SkuPriceId {row['SkuPriceId']} has two parents"
