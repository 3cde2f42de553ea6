"""Bills made for tests: answers in the providers' formats, files of them, and what was taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from ml_registry_pipelines.costs.bills.intake import NEWEST, BillIntake, TakenBills
from ml_registry_pipelines.costs.bills.settings import BillSettings, parse_settings
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.sources import Sources

DAY = date(2026, 10, 5)


def epoch(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def page(*buckets: Mapping[str, Any], following: str | None = None) -> dict[str, Any]:
    return {
        "object": "page",
        "data": list(buckets),
        "has_more": following is not None,
        "next_page": following,
    }


def openai_bucket(day: date, *results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "object": "bucket",
        "start_time": epoch(day),
        "end_time": epoch(day) + 86_400,
        "results": list(results),
    }


def openai_cost(
    value: object, item: str | None = "gpt-4o, input", project: str | None = "proj_1", **more: Any
) -> dict[str, Any]:
    amount = {"value": value, "currency": more.pop("currency", "usd")}
    return {
        "object": "organization.costs.result",
        "amount": amount,
        "line_item": item,
        "project_id": project,
        **more,
    }


def anthropic_bucket(day: date, *results: Mapping[str, Any]) -> dict[str, Any]:
    after = day + timedelta(days=1)
    return {"starting_at": f"{day}T00:00:00Z", "ending_at": f"{after}T00:00:00Z", "results": list(results)}


def anthropic_cost(amount: object, token_type: str = "output_tokens", **more: Any) -> dict[str, Any]:
    said = {
        "amount": amount, "currency": "USD", "cost_type": "tokens", "token_type": token_type,
        "model": "claude-sonnet-4-5", "context_window": "0-200k", "service_tier": "standard",
        "workspace_id": "wrkspc_1", "description": f"Claude Sonnet 4.5 Usage - {token_type}",
    }  # fmt: skip
    return said | more


def cloudflare_answer(*groups: tuple[str, str, str, object]) -> dict[str, Any]:
    """Groups of (hour, provider, model, cost)."""
    made = [
        {
            "count": 3,
            "sum": {"cost": cost, "uncachedTokensIn": 700, "uncachedTokensOut": 90},
            "dimensions": {"datetimeHour": hour, "gateway": "prod", "provider": provider, "model": model},
        }
        for hour, provider, model, cost in groups
    ]
    return {"data": {"viewer": {"accounts": [{"aiGatewayRequestsAdaptiveGroups": made}]}}, "errors": None}


FOCUS_HEAD = (
    "BilledCost,ListCost,BillingCurrency,ChargePeriodStart,ChargePeriodEnd,ProviderName,BillingAccountId,SubAccountId,"
    "ChargeCategory,ChargeDescription,ServiceCategory,ServiceName,SkuId,ConsumedQuantity,ConsumedUnit,InvoiceId"
)


def focus_row(billed: str, **given: str) -> str:
    """A row of FOCUS in CSV: a day of OpenAI's, unless said otherwise."""
    said = {
        "BilledCost": billed, "ListCost": billed, "BillingCurrency": "USD",
        "ChargePeriodStart": f"{DAY}T00:00:00Z", "ChargePeriodEnd": f"{DAY + timedelta(days=1)}T00:00:00Z",
        "ProviderName": "OpenAI", "BillingAccountId": "org-1", "SubAccountId": "proj_1", "ChargeCategory": "Usage",
        "ChargeDescription": "gpt-4o input", "ServiceCategory": "AI and Machine Learning", "ServiceName": "API",
        "SkuId": "gpt-4o-in", "ConsumedQuantity": "1000", "ConsumedUnit": "Tokens", "InvoiceId": "",
    } | given  # fmt: skip
    return ",".join(said[name] for name in FOCUS_HEAD.split(","))


class Desk:
    """A lake, a folder of bills, and the settings of some `bills.yaml`."""

    def __init__(self, lake: Lake, yaml: str = "") -> None:
        self.lake = lake
        self.settings: BillSettings = parse_settings(yaml, file="bills.yaml", home=lake.root)
        self.folder = Path(lake.root) / "bills"
        self.folder.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, content: object) -> None:
        """A file of bills: text and bytes as they are, everything else as JSON."""
        data = (
            content
            if isinstance(content, bytes)
            else content.encode()
            if isinstance(content, str)
            else json.dumps(content).encode()
        )
        (self.folder / name).write_bytes(data)

    def take(self, name: str | None = None, content: object = None) -> TakenBills:
        """Take what waits, after putting a file."""
        if name is not None:
            self.put(name, content)
        sources = self.settings.all_sources
        look = Sources(sources, taken="bill_files").look(self.lake, settled=True)
        assert not look.problems
        return BillIntake(self.lake, sources).take(look.files)

    def rows(self, sql: str, *tables: str) -> list[dict[str, Any]]:
        with self.lake.read(*tables) as reading:
            found: list[dict[str, Any]] = reading.query("test", sql).to_pylist()
        return found

    def lines(self) -> list[tuple[date, str, str | None, Decimal | None, str | None]]:
        """(day, provider, line item, amount, currency) of what is billed now."""
        everything = NEWEST.replace("$first", "'0001-01-01'").replace("$after", "'9999-12-31'")
        rows = self.rows(
            f"SELECT * FROM ({everything}) WHERE state = 'stated' AND kind <> 'usage' "
            "ORDER BY day, provider, line_item, sub_account, amount",
            "provider_bills",
        )
        return [(r["day"], r["provider"], r["line_item"], r["amount"], r["currency"]) for r in rows]

    def billed(self) -> dict[str, Decimal]:
        """The sum of all amounts, by currency."""
        sums: dict[str, Decimal] = {}
        for _, _, _, amount, currency in self.lines():
            if amount is not None and currency is not None:
                sums[currency] = sums.get(currency, Decimal(0)) + amount
        return sums

    def quarantine(self) -> list[tuple[str, int, str]]:
        rows = self.rows("SELECT * FROM quarantined_bill_lines ORDER BY file, line", "quarantined_bill_lines")
        return [(row["file"], row["line"], row["reason"]) for row in rows]
