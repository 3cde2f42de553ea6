"""What is a bill and no log: usage and cost that a provider has summed up over time.

A bucket of an organisation's usage stands for requests that logs hold one by one. Taken as
requests, they would be counted and priced twice. So a log source refuses such a file as a
whole, and a bills source takes it. This module only tells what a record is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_OPENAI = "organization."
_FOCUS = ("ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodStart", "BillingPeriodEnd")
_FOCUS_COSTS = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")
_MARKS = ('"results"', '"starting_at"', '"organization.', *_FOCUS, "aiGatewayRequestsAdaptiveGroups")
"""One of these is in every bill: what has none need not be parsed."""


@dataclass(frozen=True)
class BillFormat:
    """One format in which providers bill.

    `recognises` says whether one parsed record is of it: a line, a bucket, or a page of buckets.
    """

    name: str
    describes: str
    recognises: Callable[[Mapping[str, Any]], bool]


def bill_format(record: Mapping[str, Any]) -> BillFormat | None:
    """The format of bills that a parsed record is of; None: it is none that is known."""
    return next((kind for kind in BILL_FORMATS.values() if kind.recognises(record)), None)


def bill_format_of(texts: Iterable[str]) -> BillFormat | None:
    """The format of bills that more than half of these JSON records are of, taken together."""
    found: list[BillFormat] = []
    records = 0
    for text in texts:
        if not any(mark in text for mark in _MARKS):
            records += 1
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records += 1
            if (kind := bill_format(record)) is not None:
                found.append(kind)
    return max(found, key=found.count) if 2 * len(found) > records else None


def _buckets(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The record where it is a bucket, or those in it where it is a page."""
    held = record.get("data")
    buckets = held if isinstance(held, list) else [record]
    return [b for b in buckets if isinstance(b, dict) and isinstance(b.get("results"), list)]


def _results(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [r for bucket in _buckets(record) for r in bucket["results"] if isinstance(r, dict)]


def _is_openai(record: Mapping[str, Any], kind: str) -> bool:
    for found in (record, *_results(record)):
        name = found.get("object")
        if isinstance(name, str) and name.startswith(_OPENAI):
            return name.startswith(_OPENAI + kind)
    return False


def _is_openai_usage(record: Mapping[str, Any]) -> bool:
    # A bucket without results does not say of what it is one; there is nothing in it to take amiss.
    empty = not _results(record) and any(
        b.get("object") == "bucket" or {"start_time", "end_time"} <= set(b) for b in _buckets(record)
    )
    return empty or _is_openai(record, "usage")


def _is_anthropic_cost(record: Mapping[str, Any]) -> bool:
    return any("amount" in r and "currency" in r for r in _anthropic(record))


def _is_anthropic_usage(record: Mapping[str, Any]) -> bool:
    empty = not _results(record) and any({"starting_at", "ending_at"} <= set(b) for b in _buckets(record))
    return empty or any("uncached_input_tokens" in r or "output_tokens" in r for r in _anthropic(record))


def _anthropic(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the buckets of an Anthropic report hold; also a line of one that carries its bucket's times."""
    if {"starting_at", "ending_at"} <= set(record) and "results" not in record:
        return [record]
    return [
        r
        for bucket in _buckets(record)
        if {"starting_at", "ending_at"} <= set(bucket)
        for r in bucket["results"]
        if isinstance(r, dict)
    ]


def _is_cloudflare(record: Mapping[str, Any]) -> bool:
    if "aiGatewayRequestsAdaptiveGroups" in record:
        return True
    held = record.get("data", record)
    viewer = held.get("viewer") if isinstance(held, dict) else None
    accounts = viewer.get("accounts") if isinstance(viewer, dict) else None
    return isinstance(accounts, list) and any(
        isinstance(a, dict) and "aiGatewayRequestsAdaptiveGroups" in a for a in accounts
    )


def _is_focus(record: Mapping[str, Any]) -> bool:
    return any(name in record for name in _FOCUS) and any(name in record for name in _FOCUS_COSTS)


BILL_FORMATS: Mapping[str, BillFormat] = {
    kind.name: kind
    for kind in (
        BillFormat(
            "openai_costs",
            "costs of an OpenAI organisation, by day",
            lambda record: _is_openai(record, "costs"),
        ),
        BillFormat("openai_usage", "usage of an OpenAI organisation, in buckets of time", _is_openai_usage),
        BillFormat(
            "anthropic_cost_report", "a cost report of Anthropic, its amounts in cents", _is_anthropic_cost
        ),
        BillFormat(
            "anthropic_usage_report", "a usage report of Anthropic, in buckets of time", _is_anthropic_usage
        ),
        BillFormat(
            "cloudflare_ai_gateway_groups", "sums over requests of a Cloudflare AI Gateway", _is_cloudflare
        ),
        BillFormat("focus", "billed charges in the FOCUS format", _is_focus),
    )
}
"""All known formats of bills by name."""
