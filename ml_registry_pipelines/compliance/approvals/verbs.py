"""The commands of approvals: request, review, withdraw, break the glass, and what becomes of them in time.

Each decides on the very state that it is committed on, so that of two reviewers at one moment the second
sees the first one's vote. Whether a vote counts is looked at again by the gate when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn

from ml_registry_pipelines.access.policy import signed_in
from ml_registry_pipelines.compliance.approvals.approval import (
    BREAK_GLASS,
    REQUEST,
    REVIEW,
    REVIEW_BREAK_GLASS,
    SETTLE,
    WITHDRAW,
    Approval,
    Decision,
    Kind,
    Status,
    Vote,
    approval_of,
    approval_state,
    approvals_of,
    counted_votes,
    enough,
)
from ml_registry_pipelines.compliance.gate.deciding import author_of, in_force, makers_of
from ml_registry_pipelines.compliance.gate.sources import roles_of
from ml_registry_pipelines.compliance.gate.standing import Standing, evidence_ids, standing
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.gate import GateRefused
from ml_registry_pipelines.registry.names import checked_text
from ml_registry_pipelines.registry.references import version_state
from ml_registry_pipelines.registry.states import APPROVAL, from_rows
from ml_registry_pipelines.registry.view import View

LONGEST_COMMENT = 2_000
_ADDRESS = re.compile(r"[^\s@<>]+@[^\s@<>]+\.[^\s@<>]+")


class Approvals(Desk):
    """Approvals of one tenant, for one actor. Every command is one atomic commit."""

    # -- commands ----------------------------------------------------------------------

    def request(self, version: str, *, note: str = "", idempotency_key: str | None = None) -> Approval:
        """Ask for approval of a version as it stands now, with the newest results of the demanded suites.

        A request that is open, or waits for changes, and is bound to the same is refused; to another, it is
        replaced. `ComplianceManager.request_approval` runs the checks first.

        Raises:
            GateRefused: nobody knows who asks, the class never goes live, or one is open or granted already.
            PolicyError: the policy cannot be read.
        """
        checked_comment(note, "note")

        def decide(view: View) -> list[Change]:
            at = self.log.clock()
            found = standing(self.log, view, version_state(view, version), now=at)
            if not signed_in(self.actor):
                self._refuse(found, "nobody knows who asks; sign in with a key of yours")
            if found.requirement.forbidden:
                self._refuse(found, f"models of the class {found.counted.value} never go live")
            changes = []
            for old in approvals_of(view, found.version.id):
                if old.kind is not Kind.APPROVAL or old.expired(at):
                    continue
                same = old.bound.digest == found.bound.digest
                if same and old.status in {Status.REQUESTED, Status.APPROVED}:
                    word = "open" if old.status is Status.REQUESTED else "granted"
                    self._refuse(found, f"{old.says()} is {word} for the very same already")
                if old.status in {Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED}:
                    why = (*old.bound.changed(found.bound), "another request took its place")
                    changes.append(_change(replace(old, status=Status.STALE, reasons=why)))
            return [_change(self._requested(view, found, note, at)), *changes]

        done = self.do(
            REQUEST, APPROVAL, {"version": version, "note": note}, decide, idempotency_key=idempotency_key
        )
        return approval_of(state_of(done))

    def review(
        self,
        approval: str,
        decision: Decision | str,
        *,
        digest: str,
        comment: str = "",
        idempotency_key: str | None = None,
    ) -> Approval:
        """Decide on a request. One who asks for changes or rejects says why.

        Args:
            approval: its id, or the beginning of it.
            digest: of what was looked at, as the evidence page shows it, or at least 12 characters of it.

        Raises:
            GateRefused: the actor may not decide on it, it is not open, was for another digest, is stale or
                expired, or the policy is not met.
        """
        what = decision_of(decision)
        checked_comment(comment, "comment")
        if what is not Decision.APPROVE and not comment.strip():
            raise InvalidInput("say why in a comment: the requester has to know what to do")

        def decide(view: View) -> list[Change]:
            at = self.log.clock()
            old = approval_of(approval_state(view, approval))
            self._may_vote(view, old, digest, at)
            vote = Vote(self.actor.id, what, at, comment, tuple(sorted(self._roles(view, old))))
            new = replace(old, votes=(*old.votes, vote))
            if what is Decision.REJECT:
                return [_change(replace(new, status=Status.REJECTED, reasons=(comment,)))]
            if what is Decision.CHANGES:
                return [_change(replace(new, status=Status.CHANGES_REQUESTED, reasons=(comment,)))]
            found = standing(self.log, view, version_state(view, old.version_id), now=at)
            if changed := old.bound.changed(found.bound):
                self._refuse(old, f"it is stale: {'; '.join(changed)}; request it anew")
            if found.unmet:
                self._refuse(old, f"the policy is not met: {'; '.join(found.unmet[:5])}")
            if self._granted(view, new, found, vote):
                new = replace(new, status=Status.APPROVED)
            return [_change(new)]

        change = {"approval": approval, "decision": what.value, "digest": digest, "comment": comment}
        done = self.do(REVIEW, APPROVAL, change, decide, idempotency_key=idempotency_key)
        return approval_of(state_of(done))

    def withdraw(self, approval: str, *, reason: str = "", idempotency_key: str | None = None) -> Approval:
        """Take a request, or an approval that was not used, back: who asked for it, or who holds a reviewing role.

        Raises:
            GateRefused: the actor may not, or it was used or decided otherwise already.
        """
        checked_comment(reason, "reason")

        def decide(view: View) -> list[Change]:
            old = approval_of(approval_state(view, approval))
            roles = self._roles(view, old)
            if not signed_in(self.actor) or (
                self.actor.id != old.requested_by and not roles & {"reviewer", "compliance", "admin"}
            ):
                self._refuse(old, "only who asked for it, or a reviewer, takes it back")
            if old.status not in {Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED}:
                self._refuse(old, f"it is {old.status.value} already")
            return [_change(replace(old, status=Status.WITHDRAWN, reasons=(reason,) if reason else ()))]

        change = {"approval": approval, "reason": reason}
        done = self.do(WITHDRAW, APPROVAL, change, decide, idempotency_key=idempotency_key)
        return approval_of(state_of(done))

    def break_glass(self, version: str, reason: str, *, idempotency_key: str | None = None) -> Approval:
        """Let a version go live without approval, for hours, by somebody whom the policy trusts with it.

        It opens nothing for a class that never goes live. It is an alert until another person has reviewed it.

        Raises:
            GateRefused: the actor may not.
            InvalidInput: there is no reason.
        """
        checked_comment(reason, "reason")
        if len(reason.strip()) < 10:
            raise InvalidInput("breaking the glass takes a reason, in a sentence that a reviewer understands")

        def decide(view: View) -> list[Change]:
            at = self.log.clock()
            found = standing(self.log, view, version_state(view, version), now=at)
            glass = found.policy.break_glass
            if not signed_in(self.actor):
                self._refuse(found, "nobody knows who asks; sign in with a key of yours")
            if not roles_of(view, self.actor.id, found.model.id) & set(glass.roles):
                self._refuse(found, f"only {' or '.join(glass.roles)} may break the glass")
            if found.requirement.forbidden:
                self._refuse(found, f"models of the class {found.counted.value} never go live")
            made = replace(
                self._requested(view, found, reason, at),
                kind=Kind.BREAK_GLASS,
                status=Status.APPROVED,
                expires_at=at + timedelta(hours=glass.valid_hours),
                review_due=at + timedelta(hours=glass.review_within_hours),
                reasons=(reason,),
                needed={},
            )
            return [_change(made)]

        change = {"version": version, "reason": reason}
        done = self.do(BREAK_GLASS, APPROVAL, change, decide, idempotency_key=idempotency_key)
        return approval_of(state_of(done))

    def review_break_glass(
        self, approval: str, comment: str, *, idempotency_key: str | None = None
    ) -> Approval:
        """Say, as another person, that a broken glass was looked into, and what came of it.

        Raises:
            GateRefused: the actor broke it, or holds no reviewing role, or somebody did so before.
        """
        checked_comment(comment, "comment")
        if not comment.strip():
            raise InvalidInput("say in a comment what came of it")

        def decide(view: View) -> list[Change]:
            old = approval_of(approval_state(view, approval))
            if old.kind is not Kind.BREAK_GLASS:
                self._refuse(old, "it is an approval and no broken glass; review it with its digest")
            if not old.awaits_review:
                self._refuse(old, f"{old.reviewed_by} has looked into it already")
            if not signed_in(self.actor) or self.actor.id == old.requested_by:
                self._refuse(old, "another person than who broke the glass looks into it")
            if not self._roles(view, old) & {"reviewer", "compliance", "admin"}:
                self._refuse(old, "that takes the role reviewer, compliance or admin")
            # Until it was used it ends with the review: what is closed opens nothing.
            status = Status.WITHDRAWN if old.status is Status.APPROVED else old.status
            return [_change(replace(old, reviewed_by=self.actor.id, status=status, note=comment))]

        change = {"approval": approval, "comment": comment}
        done = self.do(REVIEW_BREAK_GLASS, APPROVAL, change, decide, idempotency_key=idempotency_key)
        return approval_of(state_of(done))

    def settle(self) -> list[Approval]:
        """Note on open and granted approvals that they went stale or expired; return those."""
        found = []
        for approval in self.list(statuses=(Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED)):
            change = {"approval": approval.id}
            done = self.do(SETTLE, APPROVAL, change, self._settled(approval.id))
            if done.events:
                found.append(approval_of(state_of(done)))
        return found

    # -- questions -----------------------------------------------------------------------

    def get(self, approval: str, *, as_of: datetime | None = None) -> Approval:
        """An approval by id, or the beginning of it."""
        return approval_of(approval_state(self.view(as_of), approval))

    def list(
        self,
        *,
        statuses: Sequence[Status] = (),
        kind: Kind | None = None,
        version: str | None = None,
        as_of: datetime | None = None,
        limit: int = 1_000,
    ) -> list[Approval]:
        """Approvals that meet all conditions, the newest first."""
        view = self.view(as_of)
        wanted = None if version is None else version_state(view, version, deleted=True).id
        rows = view.query(
            "approvals.list",
            "approvals",
            """
            SELECT * FROM current
            WHERE ($statuses::VARCHAR[] IS NULL OR list_contains($statuses::VARCHAR[], status))
                AND ($version IS NULL OR subject_id = $version)
                AND ($kind IS NULL OR json_extract_string(state, '$.kind') = $kind)
            ORDER BY json_extract_string(state, '$.requested_at') DESC, id
            LIMIT $most
            """,
            {
                "statuses": [s.value for s in statuses] or None,
                "version": wanted,
                "kind": kind.value if kind else None,
                "most": limit,
            },
        )
        return [approval_of(state) for state in from_rows("approvals", rows)]

    def standing(self, version: str) -> Standing:
        """What the policy demands of a version now, and what there is."""
        view = self.view()
        return standing(self.log, view, version_state(view, version), now=self.log.clock())

    def in_force(self) -> bool:
        """Whether anything is gated here."""
        return in_force(self.log, self.view())

    # -- how they are done -----------------------------------------------------------------

    def _requested(self, view: View, found: Standing, note: str, at: datetime) -> Approval:
        author, known = author_of(view, found.version)
        return Approval(
            tenant=self.tenant,
            id=new_id(),
            kind=Kind.APPROVAL,
            status=Status.REQUESTED,
            version_id=found.version.id,
            model_id=found.model.id,
            reference=found.reference,
            risk_class=found.risk_class,
            bound=found.bound,
            requested_by=self.actor.id,
            requested_at=at,
            expires_at=at + timedelta(days=found.requirement.valid_days),
            author=author,
            author_known=known,
            needed=dict(found.requirement.roles),
            note=note,
            unmet=found.unmet,
            evidence_ids=evidence_ids(found.suites),
        )

    def _may_vote(self, view: View, old: Approval, digest: str, at: datetime) -> None:
        """Raises `GateRefused` where the actor may not decide on it now."""
        if old.kind is not Kind.APPROVAL:
            self._refuse(old, "it is a broken glass, which is looked into and not approved")
        if not signed_in(self.actor):
            self._refuse(old, "nobody knows who decides; sign in with a key of yours")
        if self.actor.id == old.requested_by:
            self._refuse(old, "who asked for it does not decide on it")
        if self.actor.id in makers_of(view, version_state(view, old.version_id, deleted=True)):
            self._refuse(old, "who registered the version, or added to it, does not decide on it")
        if not self._roles(view, old) & set(old.needed):
            self._refuse(old, f"that takes the role {' or '.join(sorted(old.needed))}")
        if old.expired(at):
            self._refuse(old, f"it expired on {old.expires_at:%Y-%m-%d %H:%M}Z; request it anew")
        if not old.status.is_open:
            by = f" since {old.recorded_at:%Y-%m-%d %H:%M:%S}Z, by {old.actor}" if old.recorded_at else ""
            self._refuse(old, f"it is {old.status.value}{by}")
        if any(vote.by == self.actor.id for vote in old.votes):
            self._refuse(old, "everybody has one vote, and yours is there already")
        if len(digest) < 12 or not old.bound.digest.startswith(digest):
            self._refuse(
                old,
                f"the digest {shown(digest, 20)} is not that of what it is for ({old.bound.digest[:12]}): look "
                "at its evidence page again",
            )

    def _granted(self, view: View, approval: Approval, found: Standing, vote: Vote) -> bool:
        voters = {
            v.by: roles_of(view, v.by, approval.model_id)
            for v in [*counted_votes(view.history("approvals", approval.id)), vote]
            if v.decision is Decision.APPROVE
        }
        needed = found.requirement.roles
        holders = {person: roles for person, roles in voters.items() if roles & set(needed)}
        _, author_known = author_of(view, found.version)
        return enough(needed, holders, extra=0 if author_known else 1)

    def _settled(self, identity: str) -> Callable[[View], Sequence[Change]]:
        def decide(view: View) -> Sequence[Change]:
            at = self.log.clock()
            state = view.by_id("approvals", identity)
            assert state is not None
            old = approval_of(state)
            if old.status not in {Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED}:
                return []
            if at >= old.expires_at:
                over = (f"its time was over on {old.expires_at:%Y-%m-%d %H:%M}Z",)
                return [_change(replace(old, status=Status.EXPIRED, reasons=over))]
            if old.kind is Kind.BREAK_GLASS:
                return []
            found = standing(self.log, view, version_state(view, old.version_id, deleted=True), now=at)
            if changed := [*old.bound.changed(found.bound), *found.outdated]:
                return [_change(replace(old, status=Status.STALE, reasons=tuple(changed)))]
            return []

        return decide

    def _roles(self, view: View, approval: Approval) -> frozenset[str]:
        return roles_of(view, self.actor.id, approval.model_id)

    def _refuse(self, about: Approval | Standing, why: str) -> NoReturn:
        if isinstance(about, Approval):
            raise GateRefused(
                f"{about.says()}: {why}", version=about.version_id, place="approval", reason=why
            )
        raise GateRefused(f"{about.reference}: {why}", version=about.version.id, place="approval", reason=why)


def decision_of(given: Decision | str) -> Decision:
    """A decision, or its name.

    Raises:
        InvalidInput: there is no such decision.
    """
    try:
        return Decision(given)
    except ValueError:
        known = ", ".join(d.value for d in Decision)
        raise InvalidInput(f"{shown(str(given))} is no decision; there are {known}") from None


def checked_comment(text: str, what: str) -> str:
    """Words of a person that the log may hold for ever.

    Raises:
        InvalidInput: they are too long, or hold an e-mail address.
    """
    checked_text(text, what)
    if len(text) > LONGEST_COMMENT:
        raise InvalidInput(f"the {what} has {len(text):,} characters; at most {LONGEST_COMMENT:,} are kept")
    if _ADDRESS.search(text):
        raise InvalidInput(f"the {what} holds an e-mail address, and the log cannot forget; leave it out")
    return text


def _change(approval: Approval) -> Change:
    return Change(APPROVAL, approval.id, approval.recorded())
