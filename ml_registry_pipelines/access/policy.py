"""`may`: whether an actor may give a command or read in a tenant, and if not, the sentence why.

It holds as soon as there are users, and in staging and production from the start; in dev
without users everything is open, as the events say: their actor is `unauthenticated`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.access_log import AccessLog, Outcome
from ml_registry_pipelines.access.roles import OPERATE, PLATFORM, Role, roles_for
from ml_registry_pipelines.access.users import ACCESS_TENANT, EVERY_TENANT, User, accounts
from ml_registry_pipelines.registry.actors import (
    BY_FOLDER,
    BY_KEY,
    BY_PLATFORM,
    BY_PROXY,
    BY_SESSION,
    EXPORT,
    IMPORT,
    READ,
    Actor,
    ActorKind,
    Decision,
    Policy,
    Request,
)
from ml_registry_pipelines.registry.errors import InvalidInput, NotAllowed, RegistryError
from ml_registry_pipelines.registry.references import living, version_state
from ml_registry_pipelines.registry.states import MODEL, MODEL_VERSION
from ml_registry_pipelines.settings import Environment, Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log

AUTHENTICATED = frozenset({BY_KEY, BY_SESSION, BY_PROXY})
"""Ways in which a door makes sure that a person is a user."""
OF_USERS = frozenset(
    {
        "init_users",
        "add_user",
        "set_user_roles",
        "grant_access",
        "revoke_access",
        "deactivate_user",
        "add_api_key",
        "revoke_api_key",
    }
)
ALLOWED = Decision(allowed=True)
SIGN_IN = "set MLREG_API_KEY, or MLREG_API_KEY_FILE to the file that holds the key"


def enforced(log: Log) -> bool:
    """Whether commands and reads need a user: there are some, or this is staging or production."""
    return accounts(log).any or Settings.from_environment().environment is not Environment.DEV


def may(log: Log, actor: Actor, action: str, tenant: str, model: str | None = None) -> Decision:
    """Whether an actor may give a command, or `read`, in a tenant; with `model`, on that model of it.

    Args:
        model: name or id of a model, or a version such as `fraud@v3`.
    """
    if tenant == ACCESS_TENANT or action in OF_USERS:
        return _about_users(log, actor, action, tenant)
    if not enforced(log):
        return ALLOWED
    if is_platform(actor):
        if action in PLATFORM:
            return ALLOWED
        return _no("this is for a person to do, not for the platform's own services")
    user = _user(log, actor)
    if isinstance(user, Decision):
        return user
    wanted = roles_for(action)
    held = user.roles_in(tenant)
    if held & wanted:
        return ALLOWED
    if model is not None and any(g.tenant == tenant and g.model_id is not None for g in user.grants):
        held = user.roles_in(tenant, _model_id(log, tenant, model))
        if held & wanted:
            return ALLOWED
    if not held:
        return _no(f"it has no grant there; an admin can give one: `mlreg users grant {user.id} {tenant}`")
    return _no(f"that takes {_any_of(wanted)}, and it is {_any_of(held, 'and')} there")


def tenants_of(log: Log, actor: Actor) -> frozenset[str] | None:
    """The tenants that an actor may read as a whole; None: every one."""
    if not enforced(log) or is_platform(actor):
        return None
    user = _user(log, actor)
    if isinstance(user, Decision):
        return frozenset()
    if user.is_admin or user.roles_in(EVERY_TENANT):
        return None
    return frozenset(g.tenant for g in user.grants if g.model_id is None)


def tenants_with_something(log: Log, actor: Actor) -> frozenset[str] | None:
    """The tenants in which an actor may read something, be it one model; None: every one."""
    whole = tenants_of(log, actor)
    if whole is None:
        return None
    user = _user(log, actor)
    return whole if isinstance(user, Decision) else whole | {g.tenant for g in user.grants}


def granted_models(log: Log, actor: Actor, tenant: str) -> frozenset[str]:
    """Ids of the models of a tenant for which alone an actor has a grant, be it of any role."""
    user = _user(log, actor)
    if isinstance(user, Decision):
        return frozenset()
    return frozenset(g.model_id for g in user.grants if g.tenant == tenant and g.model_id is not None)


def admit(
    log: Log, actor: Actor, tenant: str | None, *, operates: bool = False, part: bool = False, what: str
) -> None:
    """Ask, at a door, whether an actor may read the measurements of a tenant, or of all; or operate on all.

    Args:
        part: who has a grant for one model alone is let in too: to a registry, which asks about each model.

    Raises:
        NotAllowed: no; the refusal is noted.
    """
    decision = _admission(log, actor, tenant, operates, part)
    if decision.allowed:
        return
    place = "of all tenants" if tenant is None or operates else f"of tenant {tenant!r}"
    AccessLog(log.lake).note(
        actor, what, "tables", tenant=tenant, outcome=Outcome.REFUSED, reason=decision.reason
    )
    raise NotAllowed(f"{actor.id!r} may not use `{what}` on data {place}: {decision.reason}")


def _admission(log: Log, actor: Actor, tenant: str | None, operates: bool, part: bool) -> Decision:
    if not enforced(log) or is_platform(actor):
        return ALLOWED
    user = _user(log, actor)
    if isinstance(user, Decision):
        return user
    if operates:
        if user.roles_in(EVERY_TENANT) & roles_for(OPERATE):
            return ALLOWED
        return _no(f"that takes {_any_of(roles_for(OPERATE))} with a grant for every tenant (`*`)")
    if tenant is None:
        if user.roles_in(EVERY_TENANT):
            return ALLOWED
        return _no("it has no grant for every tenant; where there is a --tenant, name one of its own")
    if user.roles_in(tenant):
        return ALLOWED
    if any(grant.tenant == tenant for grant in user.grants):
        return ALLOWED if part else _no("it has grants for models there, and this shows the tenant whole")
    return _no(f"it has no grant there; an admin can give one: `mlreg users grant {user.id} {tenant}`")


def signed_in(actor: Actor) -> bool:
    """Whether it is a person of whom a door has made sure: neither a service of ours nor the folder's owner."""
    return actor.kind is ActorKind.PERSON and actor.authenticated_by in AUTHENTICATED


def is_platform(actor: Actor) -> bool:
    """Whether it is a service of the platform's own."""
    return actor.authenticated_by == BY_PLATFORM and actor.kind is not ActorKind.PERSON


def policy_of(log: Log) -> Policy:
    """The policy of a log: every door asks it, through `Log.ask` and `Log.run`."""

    def policy(request: Request) -> Decision:
        model = model_named(request.entity_type, request.change)
        return may(log, request.actor, request.action, request.tenant, model)

    return policy


def model_named(entity_type: str, change: Mapping[str, object]) -> str | None:
    """The model or version that a command names; None where it names none, or is about something else."""
    names = {MODEL: ("model", "of", "version"), MODEL_VERSION: ("version", "model")}
    for field in names.get(entity_type, ("version", "model") if "version" in change else ("model",)):
        given = change.get(field)
        if isinstance(given, str) and given:
            return given
    return None


def owner_of(lake: Lake) -> Actor:
    """Who owns the registry's folder, as the actor that makes the first admin.

    Raises:
        InvalidInput: the folder belongs to somebody else.
    """
    if lake.is_local:
        root = Path(lake.root)
        if root.exists() and root.stat().st_uid != os.geteuid():
            raise InvalidInput(
                f"the registry's folder {lake.root} belongs to another account; its owner makes the first admin"
            )
    return Actor("owner", ActorKind.PERSON, BY_FOLDER)


def platform(name: str, kind: ActorKind = ActorKind.SYSTEM) -> Actor:
    """A service of the platform's own, such as a sensor or a step, as actor."""
    return Actor(name, kind, BY_PLATFORM)


def _about_users(log: Log, actor: Actor, action: str, tenant: str) -> Decision:
    if tenant != ACCESS_TENANT or action not in OF_USERS | {READ, EXPORT}:
        # Nothing else may be put where users are looked up, and users nowhere else.
        if action == IMPORT:
            return _no("users are not imported; make them where they are to be")
        return _no(f"tenant {ACCESS_TENANT!r} holds users and keys, and only those")
    if action == "init_users":
        if actor.authenticated_by == BY_FOLDER:
            return ALLOWED  # Whether there is an admin already, the command itself looks at.
        return _no("the first admin is made by the owner of the registry's folder: `mlreg users init`")
    if not accounts(log).any:
        if action == READ:
            return ALLOWED
        return _no("there are no users yet; the owner of the folder makes the first: `mlreg users init`")
    user = _user(log, actor)
    if isinstance(user, Decision):
        return user
    # Users and their grants are of every tenant.
    if user.is_admin or (action == READ and Role.COMPLIANCE in user.roles_in(EVERY_TENANT)):
        return ALLOWED
    return _no(f"users are kept by an admin, and it is {_any_of(user.roles, 'and')}")


def _user(log: Log, actor: Actor) -> User | Decision:
    """The user that an actor is, or the sentence why it is none."""
    if not signed_in(actor):
        return _no(f"nobody has made sure who that is; {SIGN_IN}")
    user = accounts(log).users.get(actor.id)
    if user is None:
        return _no("there is no such user; an admin makes one: `mlreg users add`")
    if not user.active:
        return _no("that user is deactivated")
    return user


def _model_id(log: Log, tenant: str, model: str) -> str | None:
    view = log.view(tenant)
    try:
        return living(view, MODEL, model).id
    except RegistryError:
        pass
    try:
        return str(version_state(view, model, deleted=True).data["model_id"])
    except RegistryError:
        return None


def _any_of(roles: frozenset[Role], joined: str = "or") -> str:
    return f" {joined} ".join(sorted(role.value for role in roles))


def _no(reason: str) -> Decision:
    return Decision(allowed=False, reason=reason)
