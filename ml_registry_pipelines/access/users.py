"""`Users`: who may use the platform, in which roles, where, and with which API keys; commands on the log.

The log knows a user by a random pseudonym; `people.py` keeps whom it stands for, where it can
be erased. All is in a tenant of its own, which takes no other commands. `policy.py` says
what a user may do.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ml_registry_pipelines.access.roles import Role
from ml_registry_pipelines.registry.actors import BY_KEY, Actor
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound, RegistryError
from ml_registry_pipelines.registry.events import now
from ml_registry_pipelines.registry.names import checked_tenant
from ml_registry_pipelines.registry.references import living
from ml_registry_pipelines.registry.states import MODEL, State

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View

ACCESS_TENANT = "mlreg-access"
"""Holds users and keys, and nothing else: other commands and imports are refused in it."""
USER = "access_user"
API_KEY = "access_key"
EVERY_TENANT = "*"
KEY_DAYS = 90
LONGEST_KEY_DAYS = 366
_KEY = re.compile(r"mlreg_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NO_DIGEST = "0" * 64


class KeyRefused(RegistryError):
    """An API key lets nobody in. Why stands in `reason`, for the access log; the caller hears less."""

    def __init__(self, reason: str, user_id: str | None = None) -> None:
        super().__init__(
            "this API key is not valid here; ask an admin for a new one (`mlreg users key USER`)"
        )
        self.reason = reason
        self.user_id = user_id


@dataclass(frozen=True, order=True)
class Grant:
    """Where a user may act: in a tenant, or on one model of it.

    `role`: there in this role; None: in the user's own roles.
    """

    tenant: str
    model_id: str | None = None
    role: Role | None = None

    def recorded(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant,
            "model_id": self.model_id,
            "role": None if self.role is None else self.role.value,
        }


@dataclass(frozen=True)
class User:
    """One user in one state. `id` is a random pseudonym.

    `session`: sessions that began under a smaller number are over.
    """

    id: str
    roles: frozenset[Role]
    grants: tuple[Grant, ...] = ()
    active: bool = True
    session: int = 1
    sequence: int = 0
    recorded_at: datetime | None = None

    @property
    def is_admin(self) -> bool:
        return self.active and Role.ADMIN in self.roles

    def roles_in(self, tenant: str, model_id: str | None = None) -> frozenset[Role]:
        """The roles that hold in a tenant, or for one model of it. Admins are admins everywhere."""
        if not self.active:
            return frozenset()
        held = {Role.ADMIN} if self.is_admin else set[Role]()
        for grant in self.grants:
            here = grant.tenant in {tenant, EVERY_TENANT}
            if here and (grant.model_id is None or grant.model_id == model_id):
                held |= self.roles if grant.role is None else {grant.role}
        return frozenset(held)

    def recorded(self) -> dict[str, Any]:
        """The state as the log keeps it."""
        return {
            "name": self.id,
            "description": "",
            "status": "active",
            "deleted": False,
            "metadata": {
                "roles": sorted(role.value for role in self.roles),
                "grants": [grant.recorded() for grant in self.grants],
                "active": self.active,
                "session": self.session,
            },
        }


@dataclass(frozen=True)
class ApiKey:
    """One API key: its public id, and the digest of its secret."""

    id: str
    user_id: str
    digest: str
    made_at: datetime
    expires_at: datetime
    revoked: bool = False

    def usable(self, at: datetime) -> bool:
        return not self.revoked and at < self.expires_at

    def recorded(self) -> dict[str, Any]:
        return {
            "name": self.id,
            "description": "",
            "status": "active",
            "deleted": False,
            "metadata": {
                "user_id": self.user_id,
                "digest": self.digest,
                "made_at": self.made_at.isoformat(),
                "expires_at": self.expires_at.isoformat(),
                "revoked": self.revoked,
            },
        }


@dataclass(frozen=True)
class NewKey:
    """A key that was just made. `text` is what its owner keeps: nobody can show it again."""

    key: ApiKey
    text: str


Keep = Callable[[NewKey], object]


@dataclass(frozen=True)
class Accounts:
    """All users and keys, as of one event of their tenant."""

    sequence: int
    users: Mapping[str, User]
    keys: Mapping[str, ApiKey]

    @property
    def any(self) -> bool:
        """Whether users were ever set up."""
        return self.sequence > 0

    def has_admin(self, at: datetime) -> bool:
        """Whether an active admin has a key that opens the door."""
        return any(self.users[k.user_id].is_admin for k in self.keys.values() if k.usable(at))

    def user_for_key(self, text: str, at: datetime) -> tuple[User, ApiKey]:
        """Whom an API key stands for.

        Raises:
            KeyRefused: it is none, has expired or was revoked, or its user is no longer active.
        """
        match = _KEY.fullmatch(text.strip())
        key = self.keys.get(match[1]) if match else None
        # The same work whether there is such a key or not.
        same = hmac.compare_digest(
            sha256((match[2] if match else "").encode()).hexdigest(), key.digest if key else _NO_DIGEST
        )
        if key is None or not same:
            raise KeyRefused("unknown key")
        if key.revoked:
            raise KeyRefused("revoked key", key.user_id)
        if at >= key.expires_at:
            raise KeyRefused("expired key", key.user_id)
        user = self.users.get(key.user_id)
        if user is None or not user.active:
            raise KeyRefused("user is not active", key.user_id)
        return user, key


_known: WeakKeyDictionary[Log, Accounts] = WeakKeyDictionary()


def accounts(log: Log) -> Accounts:
    """Users and keys as they are now: looked up anew whenever an event about them has come."""
    sequence, _ = log.head(ACCESS_TENANT)
    known = _known.get(log)
    if known is None or known.sequence != sequence:
        known = _known[log] = _accounts_in(log.view(ACCESS_TENANT), sequence) if sequence else NOBODY
    return known


NOBODY = Accounts(0, {}, {})


def _accounts_in(view: View, sequence: int) -> Accounts:
    states = view.select(
        "access.accounts",
        "things",
        "type IN ($user, $key)",
        parameters={"user": USER, "key": API_KEY},
    )
    users = [user_of(state) for state in states if state.entity_type == USER]
    keys = [key_of(state) for state in states if state.entity_type == API_KEY]
    return Accounts(sequence, {u.id: u for u in users}, {k.id: k for k in keys})


def actor_for_key(log: Log, text: str, *, door: str = "python") -> Actor:
    """Whom an API key stands for, as the actor of commands; its use is noted.

    Raises:
        KeyRefused: it lets nobody in.
    """
    from ml_registry_pipelines.access.people import note_use

    user, key = accounts(log).user_for_key(text, now())
    note_use(log.lake, key.id, door)
    return Actor(user.id, authenticated_by=BY_KEY)


class Users(Desk):
    """Users and keys, for one actor. Every verb is one event; admins alone may give it.

    Args:
        log: the log of the lake.
        actor: who acts, as the door has stamped it.
    """

    def __init__(self, log: Log, *, actor: Actor, run_id: str | None = None) -> None:
        super().__init__(log, actor=actor, tenant=ACCESS_TENANT, run_id=run_id)

    # -- commands ----------------------------------------------------------------------

    def init(self, *, keep: Keep | None = None) -> tuple[User, NewKey]:
        """Make an admin with a key, where nobody can open the door: before the first user, or after a lock-out.

        Args:
            keep: given the key before it holds, to store it: whoever is interrupted then has not lost it.

        Raises:
            IllegalTransition: an active admin has a key that still holds.
        """
        user = User(_new_pseudonym(), frozenset({Role.ADMIN}))
        made, text = _new_key(user.id, timedelta(days=KEY_DAYS))

        def decide(view: View) -> list[Change]:
            if _accounts_in(view, 1).has_admin(now()):
                raise IllegalTransition(
                    "there is an admin with a valid key already; admins make users: `mlreg users add`"
                )
            if keep is not None:
                keep(NewKey(made, text))
            return [Change(USER, user.id, user.recorded()), Change(API_KEY, made.id, made.recorded())]

        done = self.do("init_users", USER, {"user": user.id}, decide)
        return user_of(state_of(done)), NewKey(made, text)

    def add_user(
        self,
        roles: Iterable[Role | str],
        *,
        tenants: Iterable[str] = (),
        idempotency_key: str | None = None,
    ) -> User:
        """Make a user under a new pseudonym, who may act in the given tenants (`*`: in every one)."""
        given = checked_roles(roles)
        grants = tuple(Grant(_checked_place(tenant)) for tenant in sorted(set(tenants)))
        user = User(_new_pseudonym(), given, grants)
        change = {"roles": sorted(r.value for r in given), "grants": [g.recorded() for g in grants]}
        done = self.do(
            "add_user",
            USER,
            change,
            lambda _: [Change(USER, user.id, user.recorded())],
            idempotency_key=idempotency_key,
        )
        return user_of(state_of(done))

    def set_roles(
        self, user: str, roles: Iterable[Role | str], *, idempotency_key: str | None = None
    ) -> User:
        """Give a user these roles in the place of the former ones; sessions of before are over.

        Raises:
            IllegalTransition: nobody would be left who can manage users.
        """
        given = checked_roles(roles)
        change = {"user": user, "roles": sorted(role.value for role in given)}
        return self._changed(
            "set_user_roles",
            user,
            change,
            lambda old, _: replace(old, roles=given, session=old.session + 1),
            idempotency_key,
        )

    def grant(
        self,
        user: str,
        tenant: str,
        *,
        model: str | None = None,
        role: Role | str | None = None,
        idempotency_key: str | None = None,
    ) -> User:
        """Let a user act in a tenant, or on one model of it; with `role` in that role, else in all of his.

        Raises:
            NotFound: there is no such model.
        """
        wanted = self._grant(tenant, model, role)
        return self._changed(
            "grant_access",
            user,
            {"user": user, **wanted.recorded()},
            lambda old, _: replace(old, grants=(*(g for g in old.grants if g != wanted), wanted)),
            idempotency_key,
        )

    def revoke(
        self,
        user: str,
        tenant: str,
        *,
        model: str | None = None,
        role: Role | str | None = None,
        idempotency_key: str | None = None,
    ) -> User:
        """Take a grant back. Without `role`, every grant of the tenant or model.

        Raises:
            IllegalTransition: the user has no such grant.
        """
        wanted = self._grant(tenant, model, role)

        def without(old: User, _: View) -> User:
            same = [
                g
                for g in old.grants
                if (g.tenant, g.model_id) == (wanted.tenant, wanted.model_id) and role in {None, g.role}
            ]
            if wanted.role is not None:
                same = [g for g in old.grants if g == wanted]
            if not same:
                raise IllegalTransition(
                    f"user {old.id} has no such grant in tenant {tenant!r}; `mlreg users list` shows them"
                )
            return replace(old, grants=tuple(g for g in old.grants if g not in same), session=old.session + 1)

        return self._changed(
            "revoke_access", user, {"user": user, **wanted.recorded()}, without, idempotency_key
        )

    def deactivate(self, user: str, *, idempotency_key: str | None = None) -> User:
        """Let a user do nothing from now on: keys and sessions no longer hold.

        Raises:
            IllegalTransition: nobody would be left who can manage users.
        """
        return self._changed(
            "deactivate_user",
            user,
            {"user": user},
            lambda old, _: replace(old, active=False, session=old.session + 1),
            idempotency_key,
        )

    def add_key(self, user: str, *, days: int = KEY_DAYS, keep: Keep | None = None) -> NewKey:
        """Make an API key of a user. What it returns holds the key itself, which nobody can show again.

        Args:
            keep: given the key before it holds, to store it.

        Raises:
            InvalidInput: it would hold for ever, or not at all.
        """
        if not 1 <= days <= LONGEST_KEY_DAYS:
            raise InvalidInput(f"a key holds for 1 to {LONGEST_KEY_DAYS} days, not {days}")
        made, text = _new_key(user, timedelta(days=days))

        def decide(view: View) -> list[Change]:
            if not _user_in(view, user).active:
                raise IllegalTransition(f"user {user} is deactivated and gets no key")
            if keep is not None:
                keep(NewKey(made, text))
            return [Change(API_KEY, made.id, made.recorded())]

        change = {"user": user, "key": made.id, "expires_at": made.expires_at.isoformat()}
        done = self.do("add_api_key", API_KEY, change, decide)
        return NewKey(key_of(state_of(done)), text)

    def revoke_key(self, key: str, *, idempotency_key: str | None = None) -> ApiKey:
        """Let a key open nothing from now on, nor the sessions of its user. `key`: its id, as lists show it."""

        def decide(view: View) -> list[Change]:
            state = view.by_id("things", key)
            if state is None or state.entity_type != API_KEY:
                raise NotFound("API key", key, ACCESS_TENANT, hint="; `mlreg users list` shows their ids")
            found = key_of(state)
            user = _user_in(view, found.user_id)
            return [
                Change(API_KEY, found.id, replace(found, revoked=True).recorded()),
                Change(USER, user.id, replace(user, session=user.session + 1).recorded()),
            ]

        done = self.do("revoke_api_key", API_KEY, {"key": key}, decide, idempotency_key=idempotency_key)
        return key_of(state_of(done))

    # -- questions -----------------------------------------------------------------------

    def list(self, *, as_of: datetime | None = None) -> list[User]:
        """All users, deactivated ones included, in the order in which they were made."""
        view = self.view(as_of)
        return sorted(_accounts_in(view, 1).users.values(), key=lambda user: user.id)

    def get(self, user: str, *, as_of: datetime | None = None) -> User:
        """One user by pseudonym.

        Raises:
            NotFound: there is none.
        """
        return _user_in(self.view(as_of), user)

    def keys(self, user: str | None = None) -> Sequence[ApiKey]:
        """The keys of a user, or of all, without their secrets."""
        found = _accounts_in(self.view(), 1).keys.values()
        return sorted((k for k in found if user in {None, k.user_id}), key=lambda key: key.made_at)

    # -- how they are done -----------------------------------------------------------------

    def _grant(self, tenant: str, model: str | None, role: Role | str | None) -> Grant:
        place = _checked_place(tenant)
        limited = None if role is None else next(iter(checked_roles([role])))
        if limited is Role.ADMIN:
            raise InvalidInput("admin is a role of a user, not of a grant: `mlreg users roles USER admin`")
        if model is None:
            return Grant(place, None, limited)
        if place == EVERY_TENANT:
            raise InvalidInput("a grant for one model names its tenant")
        self.ask("grant_access", USER, {})
        return Grant(place, living(self.log.view(place), MODEL, model).id, limited)

    def _changed(
        self,
        action: str,
        user: str,
        change: Mapping[str, object],
        edit: Any,
        idempotency_key: str | None,
    ) -> User:
        def decide(view: View) -> list[Change]:
            old = _user_in(view, user)
            new: User = edit(old, view)
            if new.recorded() == old.recorded():
                return []
            if old.is_admin and not new.is_admin:
                others = [u for u in _accounts_in(view, 1).users.values() if u.is_admin and u.id != old.id]
                if not others:
                    raise IllegalTransition(
                        f"user {old.id} is the only admin; make another one first, or nobody could manage users"
                    )
            return [Change(USER, new.id, new.recorded())]

        done = self.do(action, USER, change, decide, idempotency_key=idempotency_key)
        return user_of(state_of(done)) if done.events else _user_in(self.now(), user)


def user_of(state: State) -> User:
    """The state of a user as a value."""
    data: Mapping[str, Any] = state.data["metadata"]
    return User(
        state.id,
        frozenset(Role(role) for role in data["roles"]),
        tuple(
            Grant(g["tenant"], g["model_id"], None if g["role"] is None else Role(g["role"]))
            for g in data["grants"]
        ),
        bool(data["active"]) and not state.deleted,
        int(data["session"]),
        state.sequence,
        state.recorded_at,
    )


def key_of(state: State) -> ApiKey:
    """The state of a key as a value."""
    data: Mapping[str, Any] = state.data["metadata"]
    return ApiKey(
        state.id,
        str(data["user_id"]),
        str(data["digest"]),
        datetime.fromisoformat(data["made_at"]),
        datetime.fromisoformat(data["expires_at"]),
        bool(data["revoked"]) or state.deleted,
    )


def checked_roles(roles: Iterable[Role | str]) -> frozenset[Role]:
    """Roles by name.

    Raises:
        InvalidInput: one is none, or there are none.
    """
    known = {role.value: role for role in Role}
    given = [role.value if isinstance(role, Role) else str(role) for role in roles]
    if unknown := [role for role in given if role not in known]:
        raise InvalidInput(f"{unknown[0]!r:.60} is no role; the roles are {', '.join(known)}")
    if not given:
        raise InvalidInput(f"a user has at least one role: {', '.join(known)}")
    return frozenset(known[role] for role in given)


def _checked_place(tenant: str) -> str:
    return tenant if tenant == EVERY_TENANT else checked_tenant(tenant)


def _user_in(view: View, user: str) -> User:
    state = view.by_id("things", user)
    if state is None or state.entity_type != USER:
        raise NotFound("user", user, ACCESS_TENANT, hint="; `mlreg users list` shows those there are")
    return user_of(state)


def _new_pseudonym() -> str:
    # No time in it, which would narrow down who it is.
    return f"u-{secrets.token_hex(8)}"


def _new_key(user: str, holds: timedelta) -> tuple[ApiKey, str]:
    identity, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    at = now()
    # 256 random bits need no slow hash: there is no list to try.
    made = ApiKey(identity, user, sha256(secret.encode()).hexdigest(), at, at + holds)
    return made, f"mlreg_{identity}_{secret}"
