"""Who is told about what: subscriptions, which are things of the kind `webhook` and so events of the log.

A subscription names where its secret is found, never the secret: an environment variable or
a file of the machine that delivers. Delivering is in `outbox.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import InvalidInput, RegistryError
from ml_registry_pipelines.registry.events import Event, new_id
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.references import check_free
from ml_registry_pipelines.registry.states import State
from ml_registry_pipelines.registry.things import NewThing, Thing, Things, thing_of
from ml_registry_pipelines.registry.view import View
from ml_registry_pipelines.webhooks.addresses import Allowed, checked_url

KIND = "webhook"
FROM_ENVIRONMENT = "env:"
SHORTEST_SECRET = 16
LONGEST_SECRET_FILE = 65_536


class SecretMissing(RegistryError):
    """The secret of a subscription is not where it should be."""


@dataclass(frozen=True)
class Secret:
    """Where a secret is found: exactly one of both is given."""

    variable: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if (self.variable is None) == (self.file is None):
            raise InvalidInput("a webhook needs a secret: the name of an environment variable, or of a file")
        if self.variable is not None:
            _checked_variable(self.variable)

    @property
    def place(self) -> str:
        return f"environment variable {self.variable}" if self.variable else f"file {self.file}"

    def read(self) -> bytes:
        """The secret's bytes.

        Raises:
            SecretMissing: it is not there, or too short to protect anything.
        """
        if self.variable is not None:
            found = os.environ.get(self.variable, "").strip().encode()
        else:
            try:
                with Path(str(self.file)).open("rb") as stream:
                    found = stream.read(LONGEST_SECRET_FILE).strip()
            except OSError as failure:
                raise SecretMissing(
                    f"the secret cannot be read from {self.place}: {failure.strerror}"
                ) from None
        if len(found) < SHORTEST_SECRET:
            raise SecretMissing(
                f"there is no secret in {self.place}: it needs {SHORTEST_SECRET} characters or more, such as "
                "`openssl rand -hex 32` makes"
            )
        return found

    def recorded(self) -> dict[str, str]:
        return {"variable": self.variable} if self.variable else {"file": str(self.file)}


@dataclass(frozen=True)
class Subscription:
    """One subscriber. `first` is the event that it is told from, since `epoch` replays."""

    id: str
    tenant: str
    name: str
    url: str
    secret: Secret
    actions: tuple[str, ...]
    entity_types: tuple[str, ...]
    first: int
    epoch: int

    def wants(self, event: Event) -> bool:
        """Whether the event passes its filters, in which `*` stands for anything."""
        return _passes(event.action, self.actions) and _passes(event.entity_type, self.entity_types)

    def address(self) -> str:
        """Where to post to.

        Raises:
            SecretMissing: the address is in an environment variable that is not set.
            InvalidInput: it is none.
        """
        # Looked at again at each delivery: what is allowed may have changed.
        if not self.url.startswith(FROM_ENVIRONMENT):
            return checked_url(self.url, Allowed.from_environment())
        name = _checked_variable(self.url.removeprefix(FROM_ENVIRONMENT))
        found = os.environ.get(name, "").strip()
        if not found:
            raise SecretMissing(f"the address of webhook {self.name!r} is not in environment variable {name}")
        return checked_url(found, Allowed.from_environment(), shown=self.url)


def _passes(value: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(value, pattern) for pattern in patterns)


def subscription_of(thing: Thing) -> Subscription:
    """The state of a subscription as a value."""
    data: Mapping[str, Any] = thing.metadata
    try:
        return Subscription(
            thing.id,
            thing.tenant,
            thing.name,
            str(data["url"]),
            Secret(data["secret"].get("variable"), data["secret"].get("file")),
            tuple(str(pattern) for pattern in data["actions"]),
            tuple(str(pattern) for pattern in data["entity_types"]),
            int(data["first"]),
            int(data["epoch"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidInput(
            f"webhook {thing.name!r} of tenant {thing.tenant!r} was not made by `mlreg webhooks add`; "
            "remove it and add it"
        ) from None


class Webhooks(Desk):
    """The subscriptions of one tenant, for one actor. Every verb is one event."""

    def __init__(self, log: Log, *, actor: Actor, tenant: str = "default", run_id: str | None = None) -> None:
        super().__init__(log, actor=actor, tenant=tenant, run_id=run_id)
        self._things = Things(log, actor=actor, tenant=tenant, run_id=run_id)

    def add(
        self,
        name: str,
        url: str,
        secret: Secret,
        *,
        actions: Sequence[str] = (),
        entity_types: Sequence[str] = (),
        first: int | None = None,
        idempotency_key: str | None = None,
    ) -> Subscription:
        """Subscribe an address to the tenant's events.

        Args:
            url: https; http and private networks only where the operator allows the host. `env:NAME`
                takes it from an environment variable, where it is a secret itself.
            actions, entity_types: only these, `*` standing for anything: `delete_*`.
            first: the event to begin with; by default the next one.

        Raises:
            NameTaken: there is a webhook of that name.
            InvalidInput: the address, a filter or the secret's place cannot be used.
        """
        if url.startswith(FROM_ENVIRONMENT):
            _checked_variable(url.removeprefix(FROM_ENVIRONMENT))
        else:
            checked_url(url, Allowed.from_environment())
        head, _ = self.log.head(self.tenant)
        for pattern in (*actions, *entity_types):
            if not pattern or len(pattern) > 100:
                raise InvalidInput("a filter has 1 to 100 characters")
        metadata = {
            "url": url,
            "secret": secret.recorded(),
            "actions": sorted(set(actions)),
            "entity_types": sorted(set(entity_types)),
            "first": head + 1 if first is None else _checked_first(first, head),
            "epoch": 0,
        }
        first_state = NewThing(name, metadata=metadata).recorded()

        def decide(view: View) -> list[Change]:
            check_free(view, KIND, first_state["name"])
            return [Change(KIND, new_id(), first_state)]

        done = self.do("register_webhook", KIND, first_state, decide, idempotency_key=idempotency_key)
        return subscription_of(thing_of(state_of(done)))

    def list(self) -> list[Subscription]:
        """All subscriptions, by name."""
        return [subscription_of(thing) for thing in self._things.find(KIND)]

    def get(self, name: str) -> Subscription:
        """One subscription by name."""
        return subscription_of(self._things.get(KIND, name))

    def remove(self, name: str, *, idempotency_key: str | None = None) -> str:
        """End a subscription; return its name."""
        return self._things.delete(KIND, name, idempotency_key=idempotency_key).name

    def replay(self, name: str, first: int, *, idempotency_key: str | None = None) -> Subscription:
        """Tell a subscriber all events from `first` on, again or, past one that it refuses, for the first time."""
        head, _ = self.log.head(self.tenant)
        _checked_first(first, head)

        def edit(state: State, _: View) -> dict[str, Any]:
            metadata = dict(state.data["metadata"])
            return {"metadata": {**metadata, "first": first, "epoch": int(metadata["epoch"]) + 1}}

        return subscription_of(
            self._things.amend(
                "replay_webhook", KIND, name, {"first": first}, edit, idempotency_key=idempotency_key
            )
        )


def _checked_variable(name: str) -> str:
    """A variable that is there for webhooks: a subscription must not make use of others, such as passwords."""
    if "HOOK" not in name.upper() or not name.replace("_", "a").isalnum() or not name.isascii():
        raise InvalidInput(
            "a webhook's secret or address is in an environment variable whose name holds HOOK, such as "
            "CI_HOOK_SECRET; give its name, never the secret itself"
        )
    return name


def _checked_first(first: int, head: int) -> int:
    if not 1 <= first <= head + 1:
        raise InvalidInput(f"there is no event {first}: the tenant has events 1 to {head}")
    return first
