"""`ErasureRequests`: who asked to be forgotten, when it is due, what was decided, what came of it.

Each is an event of the log. A request names its subject by a keyed hash alone; the identifiers are
given anew with every command and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from ml_registry_pipelines.compliance.erasure.subjects import Subject
from ml_registry_pipelines.compliance.gdpr.clocks import EXTENDED_MONTHS, MONTHS, after_months
from ml_registry_pipelines.compliance.gdpr.requests import ERASURE as KIND
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.events import new_id, now
from ml_registry_pipelines.registry.names import checked_instant
from ml_registry_pipelines.registry.states import State
from ml_registry_pipelines.registry.view import View

GROUNDS: Mapping[str, str] = {
    "17(3)(a)": "freedom of expression and information",
    "17(3)(b)": "a legal obligation, or a task in the public interest",
    "17(3)(c)": "public health",
    "17(3)(d)": "archiving, research or statistics under Art. 89(1)",
    "17(3)(e)": "legal claims",
}


class Action(Enum):
    """What becomes of something that holds or derives from the person."""

    DELETE = "delete"
    REMATERIALISE = "re-materialise"
    RETRAIN = "retrain"
    JUSTIFY = "justify"


@dataclass(frozen=True)
class Item:
    """One thing that may hold or derive from the person.

    `amount`: rows, cells or files. `done_by_us`: `erase` does it itself; otherwise people do, and the
    erasure stays open until they have, or have justified that it stays. `live`: deployments that serve it.
    """

    id: str
    kind: str
    where: str
    action: Action
    amount: int
    reason: str
    done_by_us: bool = True
    ground: str = ""
    live: tuple[str, ...] = ()
    confirmed_by: str = ""

    def recorded(self) -> dict[str, Any]:
        """As an event keeps it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "where": self.where,
            "action": self.action.value,
            "amount": self.amount,
            "reason": self.reason,
            "done_by_us": self.done_by_us,
            "ground": self.ground,
            "live": list(self.live),
            "confirmed_by": self.confirmed_by,
        }


@dataclass(frozen=True)
class ErasureRequest:
    """One request in one state. `items`: the plan that was confirmed last."""

    tenant: str
    id: str
    subject: str
    status: str
    received_at: datetime
    due_at: datetime
    extended: str
    items: tuple[Mapping[str, Any], ...]
    verdict: str
    certificate: str
    completed_at: datetime | None
    sequence: int

    @property
    def open(self) -> bool:
        return self.status != "completed"


class ErasureRequests(Desk):
    """Requests of one tenant, for one actor."""

    def request(self, subject: Subject, *, received_at: datetime | None = None) -> ErasureRequest:
        """Take in a request; one of the same subject that is open already is given back."""
        received = now() if received_at is None else checked_instant(received_at, "time of receipt")
        received = received.astimezone(UTC)
        if received > now():
            raise InvalidInput(f"the request cannot have come on {received.isoformat()}, which lies ahead")
        before = self.open_of(subject)
        if before is not None:
            return before
        state: dict[str, Any] = {
            "subject": subject.pseudonym,
            "received_at": received.isoformat(),
            "due_at": after_months(received, MONTHS).isoformat(),
            "extended": "",
            "items": [],
            "verdict": "",
            "certificate": "",
            "completed_at": None,
        }

        def decide(view: View) -> list[Change]:
            there = _open(view, subject.pseudonym)
            return [] if there is not None else [_change(new_id(), "open", state)]

        asked = {"subject": subject.pseudonym, "received_at": state["received_at"]}
        done = self.do("request_erasure", KIND, asked, decide)
        if done.events:
            return request_of(state_of(done))
        found = self.open_of(subject)
        assert found is not None
        return found

    def extend(self, request: str, reason: str) -> ErasureRequest:
        """Give two months more, of which the person has been told within the first, with the reason."""
        if not reason.strip():
            raise InvalidInput("an extension needs its reason, which the person has to be told (Art. 12(3))")

        def changed(state: State) -> dict[str, Any]:
            data = dict(state.data["metadata"])
            received = datetime.fromisoformat(data["received_at"])
            if now() > after_months(received, MONTHS):
                raise InvalidInput(
                    "the first month is over; only within it may a request be extended (Art. 12(3))"
                )
            return {**data, "extended": reason, "due_at": after_months(received, EXTENDED_MONTHS).isoformat()}

        return self._changed("extend_erasure", request, {"reason": reason}, changed)

    def confirm(self, request: str, items: Sequence[Item]) -> ErasureRequest:
        """Record the plan with who confirmed it, which is whoever gives the command."""
        listed = [{**item.recorded(), "confirmed_by": self.actor.id} for item in items]
        return self._changed(
            "confirm_erasure_plan",
            request,
            {"items": listed},
            lambda state: {**state.data["metadata"], "items": listed},
        )

    def certify(self, request: str, certificate: Mapping[str, Any], digest: str) -> ErasureRequest:
        """Record what came of an erasure; it is completed only by a proof that passed and no open item."""
        complete = bool(certificate["complete"])
        return self._changed(
            "certify_erasure",
            request,
            {"certificate": dict(certificate), "digest": digest},
            lambda state: {
                **state.data["metadata"],
                "verdict": certificate["proof"]["verdict"],
                "needle": {
                    "planted": len(certificate["proof"]["planted"]),
                    "found": sum(certificate["proof"]["planted"].values()),
                    "searched": certificate["proof"]["files"],
                    "hits": certificate["proof"]["hits"],
                    "unread": len(certificate["proof"]["problems"]),
                },
                "certificate": digest,
                "completed_at": certificate["at"] if complete else None,
            },
            status="completed" if complete else "open",
        )

    def list(self, *, as_of: datetime | None = None) -> list[ErasureRequest]:
        """Requests in the order in which they came."""
        states = self.view(as_of).select(
            "erasure.requests", "things", "type = $type", order="from_sequence", parameters={"type": KIND}
        )
        return sorted(map(request_of, states), key=lambda one: (one.received_at, one.id))

    def open_of(self, subject: Subject) -> ErasureRequest | None:
        """The open request of a subject, if there is one."""
        state = _open(self.view(), subject.pseudonym)
        return None if state is None else request_of(state)

    def latest_of(self, subject: Subject) -> ErasureRequest | None:
        """The last request of a subject."""
        mine = [request for request in self.list() if request.subject == subject.pseudonym]
        return mine[-1] if mine else None

    def get(self, request: str) -> ErasureRequest:
        """One request by id.

        Raises:
            NotFound: there is none.
        """
        return request_of(_by_id(self.view(), request))

    def _changed(
        self, action: str, request: str, asked: Mapping[str, Any], made: Any, *, status: str | None = None
    ) -> ErasureRequest:
        def decide(view: View) -> list[Change]:
            state = _by_id(view, request)
            return [_change(state.id, status or str(state.data["status"]), made(state))]

        return request_of(state_of(self.do(action, KIND, {"of": request, **asked}, decide)))


def request_of(state: State) -> ErasureRequest:
    """The state of a request as a value."""
    data = state.data["metadata"]
    done = data["completed_at"]
    return ErasureRequest(
        tenant=state.tenant,
        id=state.id,
        subject=data["subject"],
        status=str(state.data["status"]),
        received_at=datetime.fromisoformat(data["received_at"]),
        due_at=datetime.fromisoformat(data["due_at"]),
        extended=data["extended"],
        items=tuple(data["items"]),
        verdict=data["verdict"],
        certificate=data["certificate"],
        completed_at=None if done is None else datetime.fromisoformat(done),
        sequence=state.sequence,
    )


def checked_ground(ground: str) -> str:
    """A ground of Art. 17(3), as `17(3)(b)`, with words behind it.

    Raises:
        InvalidInput: it begins with none.
    """
    article = ground.strip().removeprefix("Art.").strip().split(":", 1)[0].split(" ", 1)[0]
    if article not in GROUNDS:
        raise InvalidInput(
            f"{shown(ground)} is no ground on which data may stay; begin with one of {', '.join(GROUNDS)} (GDPR)"
        )
    return ground.strip()


def _change(entity: str, status: str, data: Mapping[str, Any]) -> Change:
    state = {"name": entity, "description": "", "status": status, "deleted": False, "metadata": dict(data)}
    return Change(KIND, entity, state)


def _open(view: View, pseudonym: str) -> State | None:
    states = view.select(
        "erasure.open", "things", "type = $type AND status = 'open'", parameters={"type": KIND}
    )
    return next((state for state in states if state.data["metadata"]["subject"] == pseudonym), None)


def _by_id(view: View, request: str) -> State:
    state = view.by_id("things", request)
    if state is None or state.entity_type != KIND:
        raise NotFound("erasure request", request, view.tenant, hint="; `mlreg gdpr requests` lists them")
    return state
