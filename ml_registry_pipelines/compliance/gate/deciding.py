"""`ComplianceGate`: whether what a command would put live may go live, on the state that it is decided on.

It is in force where a home has a policy of its own, users, or an approval in its log, and everywhere outside
`dev`. Elsewhere nobody has asked for a gate, and each event says `unauthenticated` of who acted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.access_log import AccessLog, Outcome
from ml_registry_pipelines.access.policy import is_platform, signed_in
from ml_registry_pipelines.compliance.approvals.approval import (
    ACTIONS,
    Approval,
    Decision,
    Kind,
    Status,
    approvals_of,
    counted_votes,
    enough,
)
from ml_registry_pipelines.compliance.gate.moves import Move, Place, moves
from ml_registry_pipelines.compliance.gate.sources import has_users, is_user, roles_of
from ml_registry_pipelines.compliance.gate.standing import Standing, standing
from ml_registry_pipelines.compliance.policies.policy import FILE, PolicyError, policy_of
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.registry.actors import BY_PLATFORM, IMPORT, Actor, ActorKind
from ml_registry_pipelines.registry.commands import Change, Command
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.gate import GateRefused
from ml_registry_pipelines.registry.states import APPROVAL, State
from ml_registry_pipelines.registry.view import View
from ml_registry_pipelines.settings import Environment, Settings, SettingsError

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

REFUSAL = "gate_refusal"
REFUSED = "refuse_at_gate"
ON_BEHALF = "system-on-behalf-of-"
"""With the id of an approval: the actor of the run that a granted approval launches."""


def on_behalf_of(approval_id: str) -> Actor:
    """The platform itself, as it promotes what an approval lets it promote, and nothing else."""
    return Actor(f"{ON_BEHALF}{approval_id}", ActorKind.SYSTEM, BY_PLATFORM)


class ComplianceGate:
    """The gate of all doors. It keeps nothing: each time it is asked, it looks anew."""

    def decide(self, log: Log, command: Command, view: View, changes: Sequence[Change]) -> Sequence[Change]:
        """What belongs to the command besides: that it used an approval.

        Raises:
            GateRefused: something would go live that must not.
        """
        _check_approvals(command, changes)
        if not in_force(log, view):
            return ()
        try:
            policy = policy_of(log.lake.root, log.lake.storage_options)
        except PolicyError as wrong:
            from ml_registry_pipelines.compliance.policies.policy import shipped

            # Which doors a broken policy wanted gated nobody knows: those of the shipped one, and none opens.
            for move in moves(log, view, command.action, changes, shipped().gates):
                raise _refusal(move, None, f"the policy cannot be read: {wrong}") from None
            return ()
        used: list[Change] = []
        at = log.clock()
        for move in moves(log, view, command.action, changes, policy.policy.gates):
            if move.version is None:
                raise _refusal(
                    move, None, "a version goes there in a command of its own, once it is registered"
                )
            found = standing(log, view, move.version, now=at, policy=policy)
            approval = passage(view, command.actor, move, found, at)
            if approval is not None and move.place is Place.PRODUCTION and approval.status is not Status.USED:
                spent = replace(approval, status=Status.USED, used_for=(*approval.used_for, move.says()))
                used.append(Change(APPROVAL, approval.id, spent.recorded(), {"used_for": move.says()}))
        return used

    def admits(self, log: Log, tenant: str, actor: Actor) -> None:
        """Whether a tenant's history may be imported: by somebody whom the policy trusts to break the glass.

        Raises:
            GateRefused: the actor may not.
        """
        view = log.view(tenant)
        if not in_force(log, view):
            return
        trusted = policy_of(log.lake.root, log.lake.storage_options).policy.break_glass.roles
        if not signed_in(actor) or not roles_of(view, actor.id, "") & set(trusted):
            why = f"what is live in it was approved elsewhere, and only {' or '.join(trusted)} may take it in"
            # The tenant has to stay absent, so that this is no event of it.
            AccessLog(log.lake).note(
                actor, IMPORT, tenant, tenant=tenant, outcome=Outcome.REFUSED, reason=why
            )
            raise GateRefused(f"tenant {tenant!r} may not be imported: {why}", place="import", reason=why)

    def refused(self, log: Log, command: Command, refusal: GateRefused) -> None:
        """Record an attempt, once an hour for the same attempt by the same actor."""
        hour = log.clock().strftime("%Y-%m-%dT%H")
        actor = command.actor
        told = {
            "command": command.action,
            "version": refusal.version,
            "place": refusal.place,
            "reason": refusal.reason,
            "authenticated_by": actor.authenticated_by,
            "hour": hour,
        }
        same = sha256(repr([actor.id, *sorted(told.items())]).encode()).hexdigest()[:40]
        state = {
            "name": f"{refusal.place or command.action} refused {hour} {same[:12]}",
            "description": refusal.reason,
            "status": "active",
            "deleted": False,
            "parent_id": refusal.version or None,
            "metadata": told,
        }
        log.record(
            Command(
                command.tenant,
                actor,
                REFUSED,
                REFUSAL,
                told,
                lambda _: [Change(REFUSAL, new_id(), state)],
                idempotency_key=f"refused/{same}",
                run_id=command.run_id,
            )
        )


def in_force(log: Log, view: View) -> bool:
    """Whether anything is gated here at all; once it is, deleting the policy's file does not end it."""
    if _environment() is not Environment.DEV:
        return True
    if open_folder(log.lake.root, log.lake.storage_options).exists(FILE) or has_users(view):
        return True
    return bool(view.select("gate.approvals", "approvals", "true", limit=1))


def _environment() -> Environment:
    try:
        return Settings.from_environment().environment
    except SettingsError:
        # An environment that nobody knows is no reason to open.
        return Environment.PRODUCTION


def passage(view: View, actor: Actor, move: Move, found: Standing, at: datetime) -> Approval | None:
    """The approval by which a version may go there; None where the policy asks for none.

    Raises:
        GateRefused: it may not.
    """
    if found.requirement.forbidden:
        raise _refusal(move, found, f"models of the class {found.counted.value} never go live")
    all_of = approvals_of(view, found.version.id)
    if signed_in(actor):
        for glass in all_of:
            if glass.kind is Kind.BREAK_GLASS and not glass_problem(view, glass, found, at, move):
                return glass
    if found.unmet:
        raise _refusal(move, found, _listed(found.unmet))
    ours = is_platform(actor)
    behalf = actor.id.removeprefix(ON_BEHALF) if ours and actor.id.startswith(ON_BEHALF) else None
    if actor.kind is not ActorKind.PERSON and behalf is None and move.place is Place.PRODUCTION:
        raise _refusal(move, found, "services of the platform promote on behalf of an approval alone")
    if not found.requirement.people:
        return None
    if not (ours or signed_in(actor)):
        raise _refusal(
            move, found, "nobody knows who asks, and the policy demands approvals; sign in with a key"
        )
    asked = [a for a in all_of if a.kind is Kind.APPROVAL and behalf in {None, a.id}]
    problems = []
    for approval in asked:
        problem = problem_with(view, approval, found, at, move)
        if problem is None:
            return approval
        problems.append(f"{approval.says()} {problem}")
    if problems:
        raise _refusal(move, found, problems[0])
    people = ", ".join(f"{count} x {role}" for role, count in found.requirement.roles.items())
    raise _refusal(
        move, found, f"the policy demands approvals ({people}) and nobody has asked for any; request one"
    )


def problem_with(
    view: View, approval: Approval, found: Standing, at: datetime, move: Move | None = None
) -> str | None:
    """Why an approval does not let its version go live now; None where it does."""
    status = approval.status
    if status is Status.USED:
        live = found.version.data["stage"] == "production"
        if move is None or (move.place is Place.PRODUCTION and not move.back):
            return "was used already; request another one"
        if not live and at >= approval.expires_at:
            return f"expired on {approval.expires_at:%Y-%m-%d %H:%M}Z"
    elif status is not Status.APPROVED:
        return {
            Status.REQUESTED: "is still open",
            Status.CHANGES_REQUESTED: "waits for the changes that reviewers asked for",
            Status.REJECTED: "was rejected",
            Status.WITHDRAWN: "was withdrawn",
            Status.STALE: f"is stale: {'; '.join(approval.reasons)}",
            Status.EXPIRED: f"expired on {approval.expires_at:%Y-%m-%d %H:%M}Z",
        }[status]
    elif at >= approval.expires_at:
        return f"expired on {approval.expires_at:%Y-%m-%d %H:%M}Z"
    if changed := approval.bound.changed(found.bound):
        return f"is stale: {'; '.join(changed)}"
    return _too_few(view, approval, found)


def _too_few(view: View, approval: Approval, found: Standing) -> str | None:
    """Why the votes do not suffice, each looked at anew: by the event that brought it and by today's roles."""
    approvers: dict[str, frozenset[str]] = {}
    lost = []
    needed = found.requirement.roles
    makers = makers_of(view, found.version)
    for vote in counted_votes(view.history("approvals", approval.id)):
        if vote.decision is not Decision.APPROVE:
            return f"has a vote against it, of {vote.by}"
        if vote.by in makers or vote.by == approval.requested_by:
            continue
        roles = roles_of(view, vote.by, approval.model_id)
        if roles & set(needed):
            approvers[vote.by] = roles
        else:
            lost.append(vote.by)
    if enough(needed, approvers, extra=0 if author_of(view, found.version)[1] else 1):
        return None
    gone = f"; {', '.join(lost)} no longer may approve" if lost else ""
    return f"has not the approvals that the policy demands{gone}"


def glass_problem(view: View, glass: Approval, found: Standing, at: datetime, move: Move) -> str | None:
    """Why a broken glass lets nothing through now; None where it does.

    It puts a version into production once, and lets it have its aliases and deployments as long as it holds.
    """
    again = glass.status is Status.USED and move.place is not Place.PRODUCTION
    if glass.status is not Status.APPROVED and not again:
        return f"is {glass.status.value}"
    if at >= glass.expires_at:
        return f"expired on {glass.expires_at:%Y-%m-%d %H:%M}Z"
    if glass.bound.content != found.bound.content:
        return "is for another content"
    history = view.history("approvals", glass.id)
    if not history or history[0].actor != glass.requested_by:
        return "was not made by the person that it names"
    if not roles_of(view, glass.requested_by, glass.model_id) & set(found.policy.break_glass.roles):
        return f"was made by {glass.requested_by}, who no longer may"
    return None


def makers_of(view: View, version: State) -> frozenset[str]:
    """Who registered a version, and everybody who has added to what it is made of since.

    Signatures, bills of materials and documents say something of a version: who adds them makes nothing of it.
    """
    from ml_registry_pipelines.compliance.artifact_security import bom, signatures
    from ml_registry_pipelines.compliance.dossier.documents import KINDS

    tells = {bom.KIND, signatures.KIND, *KINDS}
    found, before = set[str](), None
    for state in view.history("model_versions", version.id):
        parts = sorted(str(a["digest"]) for a in state.data["artifacts"] if a["kind"] not in tells)
        made_of = (state.data["content_digest"], parts)
        if made_of != before:
            found.add(state.actor)
        before = made_of
    return frozenset(found)


def author_of(view: View, version: State) -> tuple[str, bool]:
    """Who registered a version, and whether that is a user whom the platform knows."""
    first = view.history("model_versions", version.id)[0]
    return first.actor, is_user(view, first.actor)


def _check_approvals(command: Command, changes: Sequence[Change]) -> None:
    """Approvals change by their own commands alone."""
    if command.action not in ACTIONS and any(c.entity_type == APPROVAL for c in changes):
        raise GateRefused(
            f"{command.action} may not change an approval; use the commands of approvals",
            place="approval",
        )


def _refusal(move: Move, found: Standing | None, reason: str) -> GateRefused:
    what = found.reference if found else "this version"
    return GateRefused(
        f"{what} may not go to {move.says()}: {reason}",
        version=move.version_id,
        place=move.says(),
        reason=reason,
    )


def _listed(reasons: Sequence[str], most: int = 5) -> str:
    more = len(reasons) - most
    return "; ".join(reasons[:most]) + (f"; and {more} more" if more > 0 else "")
