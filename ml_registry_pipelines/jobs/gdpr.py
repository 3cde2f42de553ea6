"""Registers of data protection, requests and retention as jobs, with a form in the Launchpad each."""

from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job, instant

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.gdpr.registers import Registers


class RightOf(Enum):
    """What a subject asks for."""

    ACCESS = "access"
    RECTIFICATION = "rectification"
    ERASURE = "erasure"
    RESTRICTION = "restriction"
    PORTABILITY = "portability"
    OBJECTION = "objection"


class BasisOf(Enum):
    """Art. 6(1)."""

    CONSENT = "consent"
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal_obligation"
    VITAL_INTERESTS = "vital_interests"
    PUBLIC_TASK = "public_task"
    LEGITIMATE_INTERESTS = "legitimate_interests"


class DeclareRegisters(InTenant):
    """Entries of several registers, as YAML; `mlreg gdpr registers` lists their fields."""

    entries: str = Field(description="Such as: purposes: [{name: fraud, legal_basis: contract, ...}]")


class DeclarePurpose(InTenant):
    """What personal columns are processed for."""

    name: str
    legal_basis: BasisOf
    owner: str = Field(description="A pseudonym or a team, such as team:fraud.")
    columns: list[str] = Field(description="TABLE.COLUMN or DATASET.COLUMN; * ends a prefix.")
    retention_days: int | None = Field(default=None, description="None: that of each table.")
    training: bool = Field(default=False, description="Whether models may be trained on them.")
    note: str = ""


class OpenRequest(InTenant):
    """What a subject asks for; the clock of one month begins when it came."""

    subject: str = Field(description="A pseudonym, never a name.")
    kind: RightOf
    received_at: str | None = Field(default=None, description="Left out: now. Such as 2026-09-01T12:00Z.")
    note: str = ""


class ExtendRequest(InTenant):
    """Two more months, of which the subject was told within the first one."""

    request: str
    reason: str


class CloseRequest(InTenant):
    """What came of a request."""

    request: str
    outcome: str
    certificate: str | None = None


class ReportBreach(InTenant):
    """A breach of personal data: 72 hours to notify it begin when we were aware."""

    name: str
    aware_at: str = Field(description="Such as 2026-09-01T12:00Z.")
    notified_at: str | None = None
    delay_reason: str = ""
    note: str = ""


class WithdrawConsent(InTenant):
    """Takes a consent back."""

    purpose: str
    subject: str = Field(description="A pseudonym.")


class EnforceRetention(InTenant):
    """Retention of all tenants' tables."""

    dry_run: bool = Field(default=False, description="Say what would go, and leave it.")


def _desk(at: Desks) -> "Registers":
    from ml_registry_pipelines.compliance.gdpr.registers import Registers

    desk = at.models
    return Registers(desk.log, actor=desk.actor, tenant=desk.tenant, run_id=desk.run_id)


def _declare(given: DeclareRegisters, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.gdpr.registers import read_file

    done = _desk(at).put(*read_file(given.entries, file="this form"), idempotency_key=at.key)
    return {"entries": len(done)}


def _purpose(given: DeclarePurpose, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.gdpr.entries import Purpose
    from ml_registry_pipelines.compliance.gdpr.registers import made

    said = given.model_dump(exclude={"tenant"}) | {"legal_basis": given.legal_basis.value}
    (done,) = _desk(at).put(made(Purpose, said, "this form"), idempotency_key=at.key)
    return {"purpose": done.name}


def _open(given: OpenRequest, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.gdpr.clocks import request_due

    received = instant(given.received_at, "received_at")
    done = _desk(at).open_request(
        given.subject, given.kind.value, received_at=received, note=given.note, idempotency_key=at.key
    )
    return {"request": done.name, "due": request_due(done).isoformat()}


def _extend(given: ExtendRequest, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.gdpr.clocks import request_due

    done = _desk(at).extend_request(given.request, reason=given.reason, idempotency_key=at.key)
    return {"request": done.name, "due": request_due(done).isoformat()}


def _close(given: CloseRequest, at: Desks) -> Mapping[str, Any]:
    done = _desk(at).close_request(
        given.request, outcome=given.outcome, certificate=given.certificate, idempotency_key=at.key
    )
    return {"request": done.name, "state": "closed"}


def _breach(given: ReportBreach, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.gdpr.clocks import breach_due
    from ml_registry_pipelines.compliance.gdpr.entries import Breach
    from ml_registry_pipelines.compliance.gdpr.registers import made

    said = {
        **given.model_dump(exclude={"tenant"}),
        "aware_at": instant(given.aware_at, "aware_at"),
        "notified_at": instant(given.notified_at, "notified_at"),
    }
    breach = made(Breach, said, "this form")
    _desk(at).put(breach, idempotency_key=at.key)
    return {"breach": breach.name, "to be notified until": breach_due(breach).isoformat()}


def _withdraw(given: WithdrawConsent, at: Desks) -> Mapping[str, Any]:
    done = _desk(at).withdraw_consent(given.purpose, given.subject, idempotency_key=at.key)
    return {"consent": done.name, "state": "withdrawn"}


def _retain(given: EnforceRetention, at: Desks) -> Mapping[str, Any]:
    from ml_registry_pipelines.compliance.gdpr.retention import enforce_retention
    from ml_registry_pipelines.errors import MlregError

    desk = at.models
    done = enforce_retention(desk.log, actor=desk.actor, dry_run=given.dry_run, run_id=desk.run_id)
    counts = {each.rule.table: each.rows for each in done if each.outcome in {"erased", "would_erase"}}
    if failed := [each for each in done if each.outcome == "failed"]:
        raise MlregError(f"{failed[0].rule.table} could not be erased from: {failed[0].reason}")
    return {
        "rows": sum(counts.values()),
        "held": sum(each.outcome == "held" for each in done),
        "rules": len(done),
        **{f"rows of {table}": rows for table, rows in counts.items()},
    }


@cache
def gdpr_jobs() -> tuple[dg.JobDefinition, ...]:
    """What a person, or a schedule, does about data protection in the UI."""
    return (
        command_job(
            "declare_registers", DeclareRegisters, _declare, "Declares entries of registers, all or none."
        ),
        command_job(
            "declare_purpose", DeclarePurpose, _purpose, "Declares what personal columns are processed for."
        ),
        command_job(
            "open_data_request", OpenRequest, _open, "Takes in what a subject asks for, with its clock."
        ),
        command_job("extend_data_request", ExtendRequest, _extend, "Takes two more months for a request."),
        command_job("close_data_request", CloseRequest, _close, "Closes a request with its outcome."),
        command_job(
            "report_breach",
            ReportBreach,
            _breach,
            "Records a breach of personal data, or that it was notified.",
        ),
        command_job("withdraw_consent", WithdrawConsent, _withdraw, "Takes a consent back."),
        command_job(
            "enforce_retention",
            EnforceRetention,
            _retain,
            "Erases rows whose retention is over, from every file; legal holds keep theirs.",
        ),
    )
