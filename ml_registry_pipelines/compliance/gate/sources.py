"""Where the gate learns what other rooms know: risk class, declared suites, dossier, roles.

Each is read from the view that a command is decided on, so that nothing can change in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.registry.actors import BY_PLATFORM, Actor, ActorKind
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.references import named
from ml_registry_pipelines.registry.states import State
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    from ml_registry_pipelines.access.users import User
    from ml_registry_pipelines.registry.log import Log

EVALUATION = "evaluation_declaration"
GATE = Actor("gate", ActorKind.SYSTEM, BY_PLATFORM)
"""Who reads here."""


@dataclass(frozen=True)
class Classified:
    """The risk class of a model.

    Attributes:
        risk_class: as it is shown.
        gate_class: the worst that unknown facts leave, which is what counts.
        digest: of what it rests on: facts, rules and legal text.
        missing: facts that are unknown and could raise the class.
        stale: why it has to be recorded anew; empty where it has not.
    """

    risk_class: str
    gate_class: str
    digest: str
    law: str
    missing: tuple[str, ...] = ()
    stale: str = ""


def suites_declared(view: View, version: State) -> tuple[str, ...]:
    """Suites that a version declares."""
    found = [state.data["metadata"]["suites"] for state in _declared(view, version)]
    return tuple(sorted({str(suite) for suites in found for suite in suites}))


def evaluation_declared(view: View, version: State) -> list[object]:
    """What a version declares to be evaluated on, and by what."""
    return [dict(state.data["metadata"]) for state in _declared(view, version)]


def _declared(view: View, version: State) -> list[State]:
    return [s for s in named(view, EVALUATION, version.id) if not s.deleted]


def roles_of(view: View, person: str, model_id: str) -> frozenset[str]:
    """The roles that a person holds for a model now; none for who is no user, or not active."""
    user = _user(view, person)
    return frozenset() if user is None else frozenset(r.value for r in user.roles_in(view.tenant, model_id))


def is_user(view: View, person: str) -> bool:
    """Whether an actor is, or was, a user."""
    return _user(view, person) is not None


def _user(view: View, person: str) -> User | None:
    from ml_registry_pipelines.access.users import ACCESS_TENANT, USER, user_of

    state = _in_tenant(view, ACCESS_TENANT).by_id("things", person)
    return user_of(state) if state is not None and state.entity_type == USER else None


def has_users(view: View) -> bool:
    """Whether the platform has ever had a user."""
    from ml_registry_pipelines.access.users import ACCESS_TENANT, USER

    return bool(
        _in_tenant(view, ACCESS_TENANT).select(
            "gate.users", "things", "type = $user", limit=1, parameters={"user": USER}
        )
    )


def classified(log: Log, view: View, model: State, now: datetime) -> Classified | None:
    """The risk class of a model as its intake stands; None where nobody has filled one in."""
    from ml_registry_pipelines.compliance.ai_act.classifications import AiAct

    class Seen(AiAct):
        """Reads from the view that is decided on, and asks nobody: the command was allowed."""

        def view(self, as_of: datetime | None = None, *, about: tuple[str, str] | None = None) -> View:  # noqa: ARG002 - as it is called
            return view

    asks = Seen(log, actor=GATE, tenant=view.tenant)
    found = asks.classification(model.id, on=now.astimezone(UTC).date())
    if found is None:
        return None
    return Classified(
        found.tier.value,
        found.gate_tier.value,
        digest([found.digest, found.gate_tier.value]),
        found.text_version,
        found.missing,
        found.stale_because,
    )


@dataclass(frozen=True)
class DossierStanding:
    """The dossier of a version.

    Attributes:
        missing: fields of Annex IV that are neither derived nor attested by somebody who had signed in.
        statements: digest of all that people have stated; figures that change every day are not in it.
    """

    missing: tuple[str, ...] = ()
    statements: str = ""


def dossier_standing(log: Log, view: View, version: State, now: datetime) -> DossierStanding:
    """How far the dossier of a version is."""
    from ml_registry_pipelines.access.policy import AUTHENTICATED
    from ml_registry_pipelines.compliance.dossier.content import Status
    from ml_registry_pipelines.compliance.dossier.dossier import Dossiers

    class Seen(Dossiers):
        """As above."""

        def view(self, as_of: datetime | None = None, *, about: tuple[str, str] | None = None) -> View:  # noqa: ARG002 - as it is called
            return view

    found = Seen(log, actor=GATE, tenant=view.tenant).dossier(version.id, at=now)
    missing = tuple(
        f.asked.id
        for f in found.fields
        if f.status is Status.MISSING
        or (
            f.status is Status.ATTESTED
            and f.attestation
            and f.attestation.authenticated_by not in AUTHENTICATED
        )
    )
    stated = {f.asked.id: f.attestation.text for f in found.fields if f.attestation}
    return DossierStanding(missing, digest([stated, {n: a.text for n, a in found.records.items()}]))


def _in_tenant(view: View, tenant: str) -> View:
    """The same moment in another tenant."""
    return View(tenant, view.snapshot, view.tails, upto=view.upto)
