"""Anthropic's cost report and usage report of the Admin API.

The cost report states amounts as decimal text in the smallest unit of the currency: "123.45" in USD is
1.2345 dollars. Its token counts are disjoint. Costs of the priority tier are not in it.
Described at https://platform.claude.com/docs/en/api/admin/cost_report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from ml_registry_pipelines.costs.bills.lines import (
    Given,
    Line,
    LineError,
    count,
    currency_of,
    from_minor_units,
    instant,
    period,
    text,
)

COSTS, USAGE = "anthropic_costs", "anthropic_usage"
PROVIDER = "anthropic"
DIMENSIONS: Mapping[str | None, tuple[str, ...]] = {
    COSTS: ("description", "workspace_id"),
    USAGE: ("api_key_id", "context_window", "inference_geo", "model", "service_tier", "workspace_id"),
}
"""What a report may be grouped by; a result says it of its own dimensions only."""
_IDENTITY = ("context_window", "inference_geo", "speed", "account_id", "service_account_id")
_COUNTS = (
    ("uncached_input_tokens", "input_uncached", "tokens"),
    ("cache_read_input_tokens", "input_cached", "tokens"),
    ("output_tokens", "output", "tokens"),
)
_CREATED = (
    ("ephemeral_5m_input_tokens", "input_cache_write_5m", "tokens"),
    ("ephemeral_1h_input_tokens", "input_cache_write_1h", "tokens"),
)
_TOOLS = (("web_search_requests", "web_search", "searches"), ("web_fetch_requests", "web_fetch", "fetches"))


def is_bucket(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a bucket of either report."""
    return "starting_at" in value and "ending_at" in value and "results" in value


def bounds(bucket: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """The period of a bucket: RFC 3339, the end exclusive."""
    return period(instant(bucket["starting_at"], "starting_at"), instant(bucket["ending_at"], "ending_at"))


def report_of(result: Mapping[str, Any]) -> str | None:
    """Which report a result is of."""
    if "amount" in result:
        return COSTS
    return USAGE if "uncached_input_tokens" in result else None


def lines(
    result: Mapping[str, Any], start: datetime, end: datetime, given: Given, grouping: str | None
) -> Iterator[Line]:
    """The lines of one result.

    Raises:
        LineError: it does not say what such a result has to.
    """
    report = report_of(result)
    shared = {
        "provider": given.provider or PROVIDER,
        "issuer": PROVIDER,
        "period_start": start,
        "period_end": end,
        "tenant": given.tenant,
        "account": given.account,
        "sub_account": text(result.get("workspace_id")),
        "api_key_id": text(result.get("api_key_id")),
        "model": text(result.get("model")),
        "service_tier": text(result.get("service_tier")),
        "grouping": grouping,
        "identity": tuple(f"{name}={result[name]}" for name in _IDENTITY if result.get(name) is not None),
    }
    if report == COSTS:
        yield _cost(result, given, shared)
    elif report == USAGE:
        yield from _usage(result, shared)
    else:
        raise LineError("unknown_result", "the result has neither an amount nor uncached_input_tokens")


def _cost(result: Mapping[str, Any], given: Given, shared: Mapping[str, Any]) -> Line:
    currency = currency_of(result.get("currency"), given, "currency")
    value = from_minor_units(result["amount"], currency, "amount")
    listed = result.get("list_amount")
    return Line(
        report=COSTS,
        kind="cost",
        product=text(result.get("cost_type")),
        line_item=text(result.get("description")),
        token_kind=text(result.get("token_type")),
        charge="usage",
        amount=value,
        list_amount=None if listed is None else from_minor_units(listed, currency, "list_amount"),
        currency=currency,
        **shared,
    )


def _usage(result: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[Line]:
    created, tools = result.get("cache_creation") or {}, result.get("server_tool_use") or {}
    if not isinstance(created, dict) or not isinstance(tools, dict):
        raise LineError("not_a_count", "cache_creation and server_tool_use have to be objects of counts")
    groups = ((result, _COUNTS), (created, _CREATED), (tools, _TOOLS))
    for values, names in groups:
        for name, kind, unit in names:
            number = count(values.get(name) or 0, name)
            if number:
                yield Line(
                    report=USAGE,
                    kind="usage",
                    product="messages",
                    token_kind=kind,
                    quantity=Decimal(number),
                    unit=unit,
                    charge="usage",
                    **shared,
                )
