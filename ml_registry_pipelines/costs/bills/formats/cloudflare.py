"""Cloudflare AI Gateway costs: groups of its GraphQL analytics, `aiGatewayRequestsAdaptiveGroups`.

Amounts are US dollars, estimated by the gateway from sampled requests: they stand in for a bill of the
provider behind it only where that one's own is missing. Tokens that the gateway's cache answered cost
nothing and are left out.
Described at https://developers.cloudflare.com/ai-gateway/observability/analytics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from ml_registry_pipelines.costs.bills.lines import Given, Line, LineError, amount, count, instant, text

COSTS = "cloudflare_costs"
ISSUER = "cloudflare"
GROUPS = "aiGatewayRequestsAdaptiveGroups"
CURRENCY = "USD"
REQUESTS = "requests"
_COUNTS = (
    ("uncachedTokensIn", "input", "tokens"),
    ("uncachedTokensOut", "output", "tokens"),
)


def groups(answer: Mapping[str, Any]) -> list[tuple[str | None, Any]] | None:
    """Account and group of each group of an answer; None where it is no such answer."""
    viewer = (answer.get("data") or {}).get("viewer") if isinstance(answer.get("data"), dict) else None
    accounts = viewer.get("accounts") if isinstance(viewer, dict) else None
    if not isinstance(accounts, list):
        return None
    found: list[tuple[str | None, Any]] = []
    for account in accounts:
        held = account.get(GROUPS) if isinstance(account, dict) else None
        if not isinstance(held, list):
            return None
        found += [(text(account.get("accountTag")), group) for group in held]
    return found


def lines(group: Mapping[str, Any], given: Given, account: str | None) -> Iterator[Line]:
    """The cost of one group, and its usage.

    Raises:
        LineError: it does not say what such a group has to.
    """
    dimensions, sums = group.get("dimensions"), group.get("sum")
    if not isinstance(dimensions, dict) or not isinstance(sums, dict):
        raise LineError("unknown_result", "the group lacks dimensions or sum; ask for both")
    if dimensions.get("datetimeHour"):
        start = instant(dimensions["datetimeHour"], "datetimeHour")
        end = start + timedelta(hours=1)
    elif dimensions.get("date"):
        start = instant(dimensions["date"], "date")
        end = start + timedelta(days=1)
    else:
        raise LineError(
            "no_time", "the group has neither datetimeHour nor date among its dimensions; ask for one"
        )
    name = text(dimensions.get("provider"))
    if name is None:
        raise LineError("unknown_provider", "the group has no provider among its dimensions; ask for it")
    shared: dict[str, Any] = {
        "report": COSTS,
        "provider": given.provider_of(name),
        "issuer": ISSUER,
        "period_start": start,
        "period_end": end,
        "tenant": given.tenant,
        "account": given.account or account,
        "sub_account": text(dimensions.get("gateway")),
        "model": text(dimensions.get("model")),
        "product": "AI Gateway",
        "charge": "usage",
        "estimated": True,
    }
    value = amount(sums.get("cost"), "sum.cost")
    yield Line(kind="cost", amount=value, currency=CURRENCY, **shared)
    for field, kind, unit in _COUNTS:
        if number := count(sums.get(field) or 0, f"sum.{field}"):
            yield Line(kind="usage", token_kind=kind, quantity=Decimal(number), unit=unit, **shared)
    if group.get("count") is not None:
        number = count(group["count"], "count")
        yield Line(kind="usage", token_kind=REQUESTS, quantity=Decimal(number), unit=REQUESTS, **shared)
