"""Every turn of an approval told, once and through the alert sinks: to who asked, and to who decides.

A turn is an event of the log, so that none is lost where nobody looked for a while, and its alert has a key of
its own, so that none is told twice. Sinks know pseudonyms and roles alone; who they are says the directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from ml_registry_pipelines.compliance.approvals.approval import Approval, Kind, Status, approval_of
from ml_registry_pipelines.compliance.approvals.verbs import Approvals
from ml_registry_pipelines.operations.alerts import Alert, Occurrence, Settled, Severity
from ml_registry_pipelines.registry.actors import BY_PLATFORM, Actor, ActorKind
from ml_registry_pipelines.registry.states import from_rows

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

TURN, EXPIRING, GLASS = "approval_turn", "approval_expires", "glass_broken"
KINDS = (TURN, EXPIRING, GLASS)
LOOKED_BACK = timedelta(days=30)
"""Turns older than this are not told any more, where nobody has told them meanwhile."""
AHEAD = timedelta(days=3)
SYSTEM = Actor("approvals", ActorKind.SYSTEM, BY_PLATFORM)


class Telling(Protocol):
    """What turns are told to: `Alerts`, or the resource that passes them on at once."""

    def announce(self, *alerts: Alert) -> Settled: ...

    def resolve(self, *keys: str, because: str) -> Settled: ...

    def standing(self, *kinds: str) -> list[Occurrence]: ...


def settle_all(log: Log) -> int:
    """Note in every tenant what went stale or expired; how many did."""
    rows = log.view("default").of_all_tenants(
        "approvals.tenants",
        "approvals",
        "SELECT DISTINCT tenant FROM current WHERE list_contains($statuses, status) ORDER BY tenant",
        {"statuses": [s.value for s in (Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED)]},
    )
    tenants = rows["tenant"].to_pylist()
    return sum(len(Approvals(log, actor=SYSTEM, tenant=tenant).settle()) for tenant in tenants)


def tell_turns(log: Log, telling: Telling) -> int:
    """Tell what has not been told, and end what is over; how many alerts are new."""
    at = log.clock()
    rows = log.view("default").of_all_tenants(
        "approvals.turns",
        "approvals",
        """
        SELECT * FROM states
        WHERE id IN (SELECT id FROM current WHERE recorded_at >= $since OR list_contains($live, status))
        ORDER BY position
        """,
        {
            "since": at - LOOKED_BACK,
            "live": [Status.REQUESTED.value, Status.APPROVED.value, Status.USED.value],
        },
    )
    turns = [approval_of(state) for state in from_rows("approvals", rows)]
    newest = {(a.tenant, a.id): a for a in turns}
    recent = [a for a in turns if a.recorded_at is not None and a.recorded_at >= at - LOOKED_BACK]
    told = telling.announce(*(_turn(a) for a in recent), *_warnings(newest.values(), at))
    over = [occurrence.key for occurrence in telling.standing(*KINDS) if _is_over(occurrence, newest, at)]
    if over:
        telling.resolve(*over, because="It has been dealt with.")
    return len(told.opened)


def _turn(approval: Approval) -> Alert:
    what, severity = _words(approval)
    return Alert(
        TURN,
        f"{approval.tenant}/{approval.id}/{approval.sequence}",
        severity,
        f"{approval.reference}: {what}",
        _message(approval),
        tenant=approval.tenant,
    )


_WORDS = {
    Status.REQUESTED: ("approval is requested", Severity.INFO),
    Status.CHANGES_REQUESTED: ("reviewers ask for changes", Severity.WARNING),
    Status.APPROVED: ("approval is granted", Severity.INFO),
    Status.REJECTED: ("approval is rejected", Severity.WARNING),
    Status.WITHDRAWN: ("approval is withdrawn", Severity.INFO),
    Status.STALE: ("approval is stale", Severity.WARNING),
    Status.EXPIRED: ("approval has lapsed", Severity.WARNING),
    Status.USED: ("went live by its approval", Severity.INFO),
}


def _words(approval: Approval) -> tuple[str, Severity]:
    if approval.kind is Kind.APPROVAL:
        if approval.status is Status.REQUESTED and approval.votes:
            return f"{len(approval.votes)} of {approval.people} have approved", Severity.INFO
        return _WORDS[approval.status]
    if approval.reviewed_by is not None:
        return "the broken glass was looked into", Severity.INFO
    if approval.status is Status.USED:
        return "went live without approval, by broken glass", Severity.ERROR
    if approval.status is Status.EXPIRED:
        return "the broken glass lapsed unused", Severity.WARNING
    return "somebody broke the glass", Severity.ERROR


def _message(approval: Approval) -> str:
    roles = ", ".join(f"{count} x {role}" for role, count in approval.needed.items())
    lines = [
        f"Approval {approval.id[:12]}, risk class {approval.risk_class}, requested by {approval.requested_by}."
    ]
    if approval.reasons:
        lines.append(f"Because: {'; '.join(approval.reasons)}.")
    if approval.status is Status.REQUESTED and roles:
        lines.append(f"It needs {roles}, until {approval.expires_at:%Y-%m-%d %H:%M} UTC.")
        lines.append(f"Look at it: mlreg approvals page {approval.id[:12]}")
    if approval.status in {Status.CHANGES_REQUESTED, Status.REJECTED, Status.STALE, Status.EXPIRED}:
        lines.append(f"Then: mlreg approvals request {approval.reference}")
    return " ".join(lines)


def _warnings(approvals: Iterable[Approval], at: datetime) -> Iterator[Alert]:
    for approval in approvals:
        if approval.awaits_review:
            yield _broken(approval, at)
        elif approval.kind is Kind.APPROVAL and _expires(approval, at):
            yield Alert(
                EXPIRING,
                f"{approval.tenant}/{approval.id}",
                Severity.WARNING,
                f"{approval.reference}: its approval expires on {approval.expires_at:%Y-%m-%d %H:%M} UTC",
                _message(approval),
                tenant=approval.tenant,
            )


def _broken(glass: Approval, at: datetime) -> Alert:
    overdue = glass.review_due is not None and at >= glass.review_due
    due = f" until {glass.review_due:%Y-%m-%d %H:%M} UTC" if glass.review_due else ""
    return Alert(
        GLASS,
        f"{glass.tenant}/{glass.id}{'/overdue' if overdue else ''}",
        Severity.ERROR,
        f"{glass.reference}: {glass.requested_by} broke the glass and nobody has looked into it"
        f"{', which is overdue' if overdue else ''}",
        f"Because: {'; '.join(glass.reasons)}. Another person looks into it{due}: "
        f"mlreg approvals review-break-glass {glass.id[:12]} --comment ...",
        tenant=glass.tenant,
    )


def _expires(approval: Approval, at: datetime) -> bool:
    waits = approval.status in {Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED}
    return waits and at < approval.expires_at <= at + AHEAD


def _is_over(occurrence: Occurrence, newest: Mapping[tuple[str, str], Approval], at: datetime) -> bool:
    """Whether what an open alert says is no longer how things stand."""
    tenant, identity, *rest = occurrence.about.split("/")
    approval = newest.get((tenant, identity))
    if approval is None:
        return True
    if occurrence.kind == GLASS:
        return not approval.awaits_review
    if occurrence.kind == EXPIRING:
        return not _expires(approval, at)
    waits = approval.status in {Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED}
    return not waits or rest != [str(approval.sequence)]
