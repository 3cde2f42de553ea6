"""Who stands at the web server's door: a session, an API key, a trusted proxy's header, or our own services.

No HTTP here: headers and cookies come as values, and answers go back as values.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.policy import enforced, platform
from ml_registry_pipelines.access.roles import Role
from ml_registry_pipelines.access.secret import SecretError, key_for, opened, sealed
from ml_registry_pipelines.access.stamps import LAUNCHPAD
from ml_registry_pipelines.access.users import (
    EVERY_TENANT,
    Accounts,
    KeyRefused,
    User,
    accounts,
    actor_for_key,
)
from ml_registry_pipelines.registry.actors import BY_PROXY, BY_SESSION, Actor, ActorKind
from ml_registry_pipelines.registry.events import now
from ml_registry_pipelines.settings import SettingsError

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

COOKIE = "mlreg_session"
SESSION_SECONDS = 8 * 3600
SERVICE_PREFIX = "mlreg-service_"
MOST_WRONG = 10
WRONG_SECONDS = 60.0
MOST_ADDRESSES = 10_000
PROXY_ADDRESSES, PROXY_HEADER, PROXY_SECRET_FILE = (
    "MLREG_PROXY_ADDRESSES",
    "MLREG_PROXY_HEADER",
    "MLREG_PROXY_SECRET_FILE",
)
PROXY_PROOF = "x-mlreg-proxy-secret"


@dataclass(frozen=True)
class Visitor:
    """Who sends a request. `roles` hold in every tenant, as Dagster's pages know none."""

    actor: Actor
    roles: frozenset[Role] = frozenset()
    is_service: bool = False
    is_open: bool = False
    """In dev without users: everybody may do everything."""
    by_cookie: bool = False

    @property
    def sees_all(self) -> bool:
        """Whether Dagster's pages, which show every tenant, may be shown."""
        return self.is_open or self.is_service or bool(self.roles)


OPEN = Visitor(LAUNCHPAD, frozenset(Role), is_open=True)


class TooManyWrong(KeyRefused):
    """Too many wrong keys came from one address."""

    def __init__(self, seconds: float) -> None:
        super().__init__("too many wrong keys")
        self.seconds = seconds
        self.args = (f"too many wrong keys; try again in {seconds:.0f} s",)


@dataclass
class Attempts:
    """Wrong keys of the last minute by address; bounded, the longest unseen goes first."""

    clock: Callable[[], float] = time.monotonic
    _wrong: OrderedDict[str, list[float]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, address: str) -> None:
        """Raises `TooManyWrong` while an address has to wait."""
        with self._lock:
            recent = [at for at in self._wrong.get(address, ()) if at > self.clock() - WRONG_SECONDS]
            if len(recent) >= MOST_WRONG:
                raise TooManyWrong(max(1.0, recent[0] + WRONG_SECONDS - self.clock()))

    def wrong(self, address: str) -> None:
        with self._lock:
            kept = [at for at in self._wrong.pop(address, ()) if at > self.clock() - WRONG_SECONDS]
            self._wrong[address] = [*kept, self.clock()][-MOST_WRONG:]
            while len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)


@dataclass(frozen=True)
class TrustedProxy:
    """A proxy that has authenticated who comes through it: known by its address and a secret, both."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    header: str
    secret: str

    @classmethod
    def from_environment(cls) -> TrustedProxy | None:
        """As the environment says; None where no addresses are named.

        Raises:
            SettingsError: addresses without a secret, or what is no address.
        """
        given = os.environ.get(PROXY_ADDRESSES, "").strip()
        if not given:
            return None
        path = os.environ.get(PROXY_SECRET_FILE, "").strip()
        if not path:
            raise SettingsError(
                f"{PROXY_ADDRESSES} needs {PROXY_SECRET_FILE}: whoever shares the proxy's machine could "
                "send its header too"
            )
        try:
            networks = tuple(ipaddress.ip_network(part.strip()) for part in given.split(",") if part.strip())
            secret = Path(path).read_text("utf-8").strip()
        except (ValueError, OSError) as wrong:
            raise SettingsError(
                f"{PROXY_ADDRESSES} or {PROXY_SECRET_FILE} cannot be used: {wrong}"
            ) from wrong
        if len(secret) < 16:
            raise SettingsError(f"the secret in {path} has less than 16 characters; make a longer one")
        header = os.environ.get(PROXY_HEADER, "").strip().lower() or "x-forwarded-user"
        return cls(networks, header, secret)

    def identity(self, address: str, headers: Mapping[str, str]) -> str | None:
        """Whom the proxy says it is; None where it is not the proxy that says so."""
        try:
            known = any(ipaddress.ip_address(address) in network for network in self.networks)
        except ValueError:
            return None
        same = hmac.compare_digest(headers.get(PROXY_PROOF, "").encode(), self.secret.encode())
        return headers.get(self.header, "").strip() or None if known and same else None


class Doorman:
    """Tells who sends a request to the web server.

    Args:
        log: gives the log of the lake.
        home: Dagster's home, where the secret lies.
    """

    def __init__(self, log: Callable[[], Log], home: Path, *, proxy: TrustedProxy | None = None) -> None:
        self._log = log
        self._home = home
        self.proxy = proxy
        self.attempts = Attempts()

    def visitor(self, headers: Mapping[str, str], cookies: Mapping[str, str], address: str) -> Visitor | None:
        """Who sends it; None where nobody has made sure.

        Raises:
            KeyRefused: it bears a key that lets nobody in.
        """
        log = self._log()
        if not enforced(log):
            return OPEN
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._by_bearer(log, key.strip(), address)
        if (text := cookies.get(COOKIE)) and (visitor := self._by_cookie(log, text)) is not None:
            return visitor
        if self.proxy is not None and (who := self.proxy.identity(address, headers)) is not None:
            user = self._named(log, who)
            if user is not None and user.active:
                return self._visitor(user, BY_PROXY)
        return None

    def sign_in(self, key: str, address: str) -> tuple[str, Actor]:
        """A new session for an API key, as the cookie's value.

        Raises:
            KeyRefused: the key lets nobody in.
            TooManyWrong: too many wrong ones came from there.
        """
        log = self._log()
        self.attempts.check(address)
        try:
            user, used = accounts(log).user_for_key(key, now())
            actor = actor_for_key(log, key, door="web")
        except KeyRefused:
            self.attempts.wrong(address)
            raise
        body = {
            "user": user.id,
            "key": used.id,
            "session": user.session,
            "until": int(min(now().timestamp() + SESSION_SECONDS, used.expires_at.timestamp())),
        }
        return sealed(self._key("sessions"), json.dumps(body, sort_keys=True)), actor

    def service_token(self) -> str:
        """What the platform's own processes show."""
        return service_token(self._home) or ""

    def _key(self, use: str) -> bytes:
        key = key_for(use, self._home)
        if key is None:
            raise SecretError(f"there is no secret in {self._home}; start the services with `mlreg ui`")
        return key

    def _by_bearer(self, log: Log, key: str, address: str) -> Visitor:
        self.attempts.check(address)
        if key.startswith(SERVICE_PREFIX):
            if hmac.compare_digest(key.encode(), self.service_token().encode()):
                return Visitor(platform("web-service", ActorKind.SERVICE), is_service=True)
            self.attempts.wrong(address)
            raise KeyRefused("wrong service token")
        try:
            actor = actor_for_key(log, key, door="web")
        except KeyRefused:
            self.attempts.wrong(address)
            raise
        return Visitor(actor, accounts(log).users[actor.id].roles_in(EVERY_TENANT))

    def _by_cookie(self, log: Log, text: str) -> Visitor | None:
        body = opened(self._key("sessions"), text)
        if body is None:
            return None
        said = json.loads(body)
        known: Accounts = accounts(log)
        user, key = known.users.get(said["user"]), known.keys.get(said["key"])
        at = now()
        if user is None or key is None or not user.active or not key.usable(at):
            return None
        if user.session != said["session"] or at.timestamp() >= said["until"]:
            return None
        return self._visitor(user, BY_SESSION, by_cookie=True)

    def _named(self, log: Log, who: str) -> User | None:
        from ml_registry_pipelines.access.people import People

        users = accounts(log).users
        if who in users:
            return users[who]
        found = [p for p in People(log.lake).all().values() if (p.email or "").casefold() == who.casefold()]
        return users.get(found[0].user_id) if len(found) == 1 else None

    @staticmethod
    def _visitor(user: User, by: str, *, by_cookie: bool = False) -> Visitor:
        actor = Actor(user.id, authenticated_by=by)
        return Visitor(actor, user.roles_in(EVERY_TENANT), by_cookie=by_cookie)


def service_token(home: str | Path | None = None) -> str | None:
    """What the platform's own processes show to the web server; None where no secret was made."""
    key = key_for("services", home)
    return None if key is None else f"{SERVICE_PREFIX}{key.hex()}"


def safe_next(given: str, prefix: str) -> str:
    """Where to go after signing in: a path of this server, whatever was asked for."""
    start = prefix + "/"
    plain = given.isprintable() and "\\" not in given and ":" not in given.split("?", 1)[0]
    return given if plain and given.startswith(start) and not given.startswith("//") else start
