"""Alerts of data protection: what is due soon, and what is late."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.gdpr.clocks import CLOCKED, deadlines
from ml_registry_pipelines.compliance.gdpr.registers import all_entries
from ml_registry_pipelines.compliance.gdpr.requests import erasures_of_all
from ml_registry_pipelines.operations.alert_rules import DataProtectionRule
from ml_registry_pipelines.operations.alerts import Alert, Severity

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

DEADLINE = "gdpr_deadline"


def deadline_alerts(log: Log | None, rule: DataProtectionRule, now: datetime) -> Iterator[Alert]:
    """What of the registers of all tenants is due soon: a warning; once it is late: an error."""
    if log is None or not log.lake.exists("governance_events"):
        return
    entries = [entry for kind in CLOCKED for entry in all_entries(log, kind)]
    for due in deadlines([*entries, *erasures_of_all(log)]):
        left = due.due_at - now
        if left > due.warn * rule.early:
            continue
        late = left < timedelta(0)
        word = f"was due on {due.due_at:%Y-%m-%d %H:%M}Z" if late else f"is due in {_said(left)}"
        yield Alert(
            DEADLINE,
            f"{due.tenant}/{due.register}/{due.name}",
            Severity.ERROR if late else Severity.WARNING,
            f"{due.what[0].upper()}{due.what[1:]}: {due.register} {due.name} {word}",
            f"{due.article}, due {due.due_at:%Y-%m-%d %H:%M}Z. `mlreg gdpr list {due.register}` shows the register.",
            tenant=due.tenant,
        )


def _said(left: timedelta) -> str:
    hours = left / timedelta(hours=1)
    return f"{hours:.0f} hours" if hours < 72 else f"{hours / 24:.0f} days"
