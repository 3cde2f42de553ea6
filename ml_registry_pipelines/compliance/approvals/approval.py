"""An approval as a value: what it is bound to, whose votes it has, and how it stands. Commands are in `verbs.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.states import MODEL_VERSION, State

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.view import View

REQUEST = "request_approval"
REVIEW = "review_approval"
WITHDRAW = "withdraw_approval"
BREAK_GLASS = "break_glass"
REVIEW_BREAK_GLASS = "review_break_glass"
SETTLE = "settle_approval"
ACTIONS = frozenset({REQUEST, REVIEW, WITHDRAW, BREAK_GLASS, REVIEW_BREAK_GLASS, SETTLE})
"""The commands that may change an approval, beside a promotion that uses it."""


class Kind(Enum):
    APPROVAL = "approval"
    BREAK_GLASS = "break_glass"


class Status(Enum):
    REQUESTED = "requested"
    CHANGES_REQUESTED = "changes_requested"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    STALE = "stale"
    EXPIRED = "expired"
    USED = "used"

    @property
    def is_open(self) -> bool:
        """Whether it waits for votes."""
        return self is Status.REQUESTED

    @property
    def holds(self) -> bool:
        """Whether it may be counted on, as far as its status goes."""
        return self in {Status.APPROVED, Status.USED}


class Decision(Enum):
    APPROVE = "approve"
    REJECT = "reject"
    CHANGES = "changes_requested"


@dataclass(frozen=True)
class Bound:
    """What an approval is for. When any of it is another, the approval is stale.

    Attributes:
        content: SHA-256 of the version's content.
        evidence: of the newest results of the suites that are demanded, by suite.
        classification: of risk class, facts and legal text; empty: nobody has classified the model.
        policy: of the whole policy.
        parts: what the evidence rests on, such as `data of fairness-core`, so that a change can be named.
    """

    content: str
    evidence: str
    classification: str
    policy: str
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 that a reviewer quotes, to say what was looked at."""
        return digest([self.content, self.evidence, self.classification, self.policy])

    def recorded(self) -> dict[str, Any]:
        return {**vars(self), "parts": dict(self.parts)}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Bound:
        return cls(
            data["content"], data["evidence"], data["classification"], data["policy"], data.get("parts", {})
        )

    def changed(self, now: Bound) -> list[str]:
        """What is another now, in words; empty where all is the same."""
        reasons = []
        if self.content != now.content:
            reasons.append("the version's content is another")
        if self.evidence != now.evidence:
            parts = [
                _changed_part(name, self.parts.get(name), now.parts.get(name))
                for name in sorted({*self.parts, *now.parts})
                if self.parts.get(name) != now.parts.get(name)
            ]
            reasons += parts or ["the results of the checks are others"]
        if self.classification != now.classification:
            reasons.append("the risk class of the model, its facts or the legal text changed")
        if self.policy != now.policy:
            reasons.append("the policy changed")
        return reasons


def _changed_part(name: str, before: str | None, after: str | None) -> str:
    if before is None:
        return f"{name}: not there before"
    return f"{name}: gone" if after is None else f"{name} changed"


@dataclass(frozen=True)
class Vote:
    """One person's decision. `roles`: those that the person held when voting."""

    by: str
    decision: Decision
    at: datetime
    comment: str = ""
    roles: tuple[str, ...] = ()

    def recorded(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "decision": self.decision.value,
            "at": self.at.isoformat(),
            "comment": self.comment,
            "roles": list(self.roles),
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Vote:
        return cls(
            data["by"],
            Decision(data["decision"]),
            datetime.fromisoformat(data["at"]),
            data["comment"],
            tuple(data["roles"]),
        )


@dataclass(frozen=True)
class Approval:
    """One approval in one state.

    Attributes:
        reference: such as `credit-risk@v3`, as it was called when it was requested.
        risk_class: the class that counted; `unclassified` where nobody has classified the model.
        needed: how many people of each role.
        extra: people that are needed besides, since nobody knows who registered the version.
        reasons: why it went stale, what changes were asked for, or why the glass was broken.
        unmet: what the policy demands and was not there when it was requested.
        reviewed_by: who has looked into a broken glass.
    """

    tenant: str
    id: str
    kind: Kind
    status: Status
    version_id: str
    model_id: str
    reference: str
    risk_class: str
    bound: Bound
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    author: str
    author_known: bool
    needed: Mapping[str, int]
    note: str = ""
    votes: tuple[Vote, ...] = ()
    reasons: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()
    evidence_ids: tuple[str, ...] = ()
    reviewed_by: str | None = None
    review_due: datetime | None = None
    used_for: tuple[str, ...] = ()
    sequence: int = 0
    recorded_at: datetime | None = None
    actor: str = ""
    action: str = ""

    @property
    def people(self) -> int:
        """How many people have to approve."""
        return sum(self.needed.values()) + (0 if self.author_known or not self.needed else 1)

    @property
    def awaits_review(self) -> bool:
        """Whether somebody broke the glass and nobody has looked into it."""
        return self.kind is Kind.BREAK_GLASS and self.reviewed_by is None

    def expired(self, at: datetime) -> bool:
        """Whether its time was over at an instant before it was used or decided otherwise."""
        over = self.status in {Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED}
        return self.status is Status.EXPIRED or (over and at >= self.expires_at)

    def says(self) -> str:
        """How it is called in sentences."""
        return f"approval {self.id[:12]} of {self.reference}"

    def recorded(self) -> dict[str, Any]:
        """The state as the log keeps it."""
        return {
            "subject_type": MODEL_VERSION,
            "subject_id": self.version_id,
            "status": self.status.value,
            "kind": self.kind.value,
            "model_id": self.model_id,
            "reference": self.reference,
            "risk_class": self.risk_class,
            "bound": self.bound.recorded(),
            "requested_by": self.requested_by,
            "requested_at": self.requested_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "author": self.author,
            "author_known": self.author_known,
            "needed": dict(self.needed),
            "note": self.note,
            "votes": [vote.recorded() for vote in self.votes],
            "reasons": list(self.reasons),
            "unmet": list(self.unmet),
            "evidence_ids": list(self.evidence_ids),
            "reviewed_by": self.reviewed_by,
            "review_due": self.review_due.isoformat() if self.review_due else None,
            "used_for": list(self.used_for),
            "deleted": False,
        }


def approval_of(state: State) -> Approval:
    """The state of an approval as a value."""
    data = state.data
    due = data.get("review_due")
    return Approval(
        tenant=state.tenant,
        id=state.id,
        kind=Kind(data["kind"]),
        status=Status(data["status"]),
        version_id=data["subject_id"],
        model_id=data["model_id"],
        reference=data["reference"],
        risk_class=data["risk_class"],
        bound=Bound.of(data["bound"]),
        requested_by=data["requested_by"],
        requested_at=datetime.fromisoformat(data["requested_at"]),
        expires_at=datetime.fromisoformat(data["expires_at"]),
        author=data["author"],
        author_known=data["author_known"],
        needed=data["needed"],
        note=data["note"],
        votes=tuple(Vote.of(vote) for vote in data["votes"]),
        reasons=tuple(data["reasons"]),
        unmet=tuple(data["unmet"]),
        evidence_ids=tuple(data["evidence_ids"]),
        reviewed_by=data["reviewed_by"],
        review_due=datetime.fromisoformat(due) if due else None,
        used_for=tuple(data["used_for"]),
        sequence=state.sequence,
        recorded_at=state.recorded_at,
        actor=state.actor,
        action=state.action,
    )


def approvals_of(view: View, version_id: str) -> list[Approval]:
    """The approvals of a version, the newest first."""
    found = [approval_of(s) for s in view.by_column("approvals", "subject_id", version_id)]
    return sorted(found, key=lambda a: a.requested_at, reverse=True)


def approval_state(view: View, given: str) -> State:
    """The approval that an id means, or at least 8 characters that only one begins with.

    Raises:
        NotFound: there is none.
        InvalidInput: several ids begin so.
    """
    state = view.by_id("approvals", given) if len(given) == 32 else None
    if state is not None:
        return state
    found: Sequence[State] = ()
    if len(given) >= 8 and given.isalnum():
        found = view.select(
            "approvals.by_prefix", "approvals", "starts_with(id, $given)", parameters={"given": given}
        )
    if len(found) > 1:
        raise InvalidInput(
            f"{len(found)} approvals have an id that begins with {shown(given)}; give more of it"
        )
    if not found:
        raise NotFound("approval", given, view.tenant, hint="; `mlreg approvals list` shows those there are")
    return found[0]


def counted_votes(history: Iterable[State]) -> list[Vote]:
    """The votes that count: of each, that the event which brought it was of the very person it speaks of.

    The state lists votes, but what somebody wrote into a state is no vote.
    """
    counted: dict[str, Vote] = {}
    before: tuple[Vote, ...] = ()
    for state in history:
        now = approval_of(state)
        if state.action == REQUEST:
            counted, before = {}, now.votes
            continue
        for vote in now.votes[len(before) :]:
            if state.action == REVIEW and state.actor == vote.by and vote.by not in counted:
                counted[vote.by] = vote
        before = now.votes
    return list(counted.values())


def enough(needed: Mapping[str, int], holders: Mapping[str, frozenset[str]], *, extra: int = 0) -> bool:
    """Whether distinct people fill every role that is asked for, each one place, and `extra` places besides.

    Args:
        holders: the roles of each person who approved.
    """
    places = [role for role, count in sorted(needed.items()) for _ in range(count)]
    if len(holders) < len(places) + extra:
        return False
    taken: dict[str, int] = {}

    def seat(place: int, tried: set[str]) -> bool:
        for person, roles in holders.items():
            if places[place] in roles and person not in tried:
                tried.add(person)
                if person not in taken or seat(taken[person], tried):
                    taken[person] = place
                    return True
        return False

    return all(seat(place, set()) for place in range(len(places)))
