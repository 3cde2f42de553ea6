"""Which days of the reconciliation a person should know of, as alerts and as the finding of a check."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.bills.intake import BILLS
from ml_registry_pipelines.costs.bills.pulling import PULL_FAILED
from ml_registry_pipelines.costs.bills.reconciliation import TABLE, billed_providers, capture
from ml_registry_pipelines.lake.tables.bills import QUARANTINED_BILL_LINES
from ml_registry_pipelines.operations.alerts import Alert, Alerts, Severity
from ml_registry_pipelines.operations.audits import Finding

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.bills.settings import BillSettings
    from ml_registry_pipelines.lake.lake import Lake

CAPTURE = "capture_rate"
CAPTURED = "Costs and bills of the last days agree again."
AT_ONCE = frozenset({"under", "nothing_logged", "nothing_priced"})
"""A bill that is not complete yet only grows: what is missing on the first day stays missing."""
WHEN_SETTLED = frozenset({"over", "nothing_billed", "other_currency", "no_bill"})
GRAVE = 0.5
"""A capture rate below is an error, and no warning."""
SHOWN = 5


def wrong_days(lake: Lake, settings: BillSettings, *, now: datetime | None = None) -> list[dict[str, Any]]:
    """Rows of the reconciliation of the last `alert_days` days that nobody expects, the worst first."""
    today = (now or datetime.now(UTC)).date()
    with lake.read(TABLE, BILLS) as reading:
        rows = capture(reading, since=today - timedelta(days=settings.alert_days), until=today)
        billed = billed_providers(reading)
    found = [row for row in rows if _is_wrong(row, settings.least_difference, billed)]
    return sorted(found, key=lambda row: abs(_at_stake(row)), reverse=True)


def capture_alerts(lake: Lake, settings: BillSettings, *, now: datetime | None = None) -> list[Alert]:
    """One alert per provider and currency whose bills and costs part."""
    by_bill: dict[tuple[str | None, str | None], list[dict[str, Any]]] = {}
    for row in wrong_days(lake, settings, now=now):
        by_bill.setdefault((row["provider"], row["currency"]), []).append(row)
    return [_alert(provider, currency, rows) for (provider, currency), rows in by_bill.items()]


def bills_are_captured(lake: Lake, settings: BillSettings, *, now: datetime | None = None) -> Finding:
    """What providers bill is in our costs, within the tolerance, on each of the last days that a bill is known of."""
    wrong = wrong_days(lake, settings, now=now)
    figures = {"days_off": len({(row["day"], row["provider"]) for row in wrong})}
    if wrong:
        return Finding(False, "; ".join(map(sentence, wrong[:SHOWN])), figures)
    return Finding(
        True,
        f"Costs and bills of the last {settings.alert_days} days agree, as far as there are bills.",
        figures,
    )


def sentence(row: Mapping[str, Any]) -> str:
    """One row of the reconciliation in words."""
    what = f"{row['day']} {row['provider'] or 'no provider'}"
    currency = row["currency"] or ""
    cost, billed = _money(row["cost"]), _money(row["billed"])
    match row["status"]:
        case "no_bill":
            return f"{what}: {cost} {currency} logged, and no bill"
        case "nothing_logged":
            return f"{what}: {billed} {currency} billed, and no request is in the logs (0%)"
        case "nothing_priced":
            return f"{what}: {billed} {currency} billed, and none of {row['requests']:,} requests has a price (0%)"
        case "other_currency":
            return f"{what}: costs and bill are in different currencies, and no rate is known"
        case "nothing_billed":
            return f"{what}: {cost} {currency} logged, and the bill says {billed}"
        case _:
            return (
                f"{what}: {cost} of {billed} {currency} billed are in our costs ({row['capture_rate']:.1%})"
            )


def _is_wrong(row: Mapping[str, Any], least: Decimal, billed: Collection[str]) -> bool:
    if abs(_at_stake(row)) < least:
        return False
    if row["status"] in AT_ONCE:
        return True
    if row["status"] == "no_bill" and row["provider"] not in billed:
        return False
    return bool(row["settled"]) and row["status"] in WHEN_SETTLED


def _at_stake(row: Mapping[str, Any]) -> Decimal:
    """The amount that a row is off by."""
    stake: Decimal = row["difference"] if row["difference"] is not None else row["cost"] or Decimal(0)
    return stake


def _alert(provider: str | None, currency: str | None, rows: Sequence[Mapping[str, Any]]) -> Alert:
    worst = rows[0]
    rates = [
        row["capture_rate"] for row in rows if row["capture_rate"] is not None and row["status"] in AT_ONCE
    ]
    grave = bool(rates) and min(rates) < GRAVE
    more = f"; and {len(rows) - SHOWN} more days" if len(rows) > SHOWN else ""
    return Alert(
        CAPTURE,
        f"{provider or '-'}/{currency or '-'}",
        Severity.ERROR if grave else Severity.WARNING,
        f"Bills and costs part: {sentence(worst)}",
        f"{'; '.join(map(sentence, rows[:SHOWN]))}{more}. Requests may be missing from the logs, lack a price, or be "
        "priced wrongly: see `mlreg bills reconcile`.",
    )


def _money(value: Decimal | None) -> str:
    return (
        "nothing"
        if value is None
        else f"{value:,.2f}"
        if abs(value) >= Decimal("0.01") or not value
        else f"{value:f}"
    )


def bill_lines_are_taken(lake: Lake, *, now: datetime | None = None) -> Finding:
    """No record of a bill that came in the last month lies in quarantine, and no pull fails."""
    since = (now or datetime.now(UTC)) - timedelta(days=31)
    with lake.read(QUARANTINED_BILL_LINES.name) as reading:
        rows = reading.query(
            "bills.in_quarantine",
            """
            SELECT reason, count(*) AS records, min(message) AS example FROM quarantined_bill_lines
            WHERE recorded_at >= $since GROUP BY reason ORDER BY records DESC, reason
            """,
            {"since": since},
        ).to_pylist()
    failing = Alerts(lake).standing(PULL_FAILED)
    figures = {"quarantined": sum(row["records"] for row in rows), "pulls_failing": len(failing)}
    said = [f"{row['records']} x {row['reason']}: {row['example']}" for row in rows[:SHOWN]]
    said += [occurrence.title for occurrence in failing]
    return Finding(not said, "; ".join(said) or "Every record of the last month was taken.", figures)
