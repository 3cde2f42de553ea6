"""Who acts, and the one function that may refuse: asked for every command, whatever its door.

An `Actor` is a value that the door stamps; nothing here authenticates anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

UNAUTHENTICATED = "unauthenticated"
BY_KEY = "api_key"
BY_SESSION = "session"
BY_PROXY = "trusted_proxy"
BY_FOLDER = "folder_owner"
"""Who sits at the machine and owns the registry's folder: may make the first admin, and no more."""
BY_PLATFORM = "platform"
"""The platform's own services, in processes that hold the storage credentials: sensors, schedules, steps."""
READ = "read"
EXPORT = "export_tenant"
IMPORT = "import_tenant"
"""Actions that are no commands and are asked about all the same."""
ANY = "*"
"""Entity type of a question that is not about one type."""


class ActorKind(Enum):
    PERSON = "person"
    SERVICE = "service"
    SYSTEM = "system"


@dataclass(frozen=True)
class Actor:
    """Who acts: a pseudonym, never a name or an e-mail address, since the log cannot forget.

    `authenticated_by` says how the door made sure, such as `api_key`.
    """

    id: str
    kind: ActorKind = ActorKind.PERSON
    authenticated_by: str = UNAUTHENTICATED


@dataclass(frozen=True)
class Request:
    """What the policy is asked about."""

    actor: Actor
    tenant: str
    action: str
    entity_type: str
    change: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    allowed: bool
    reason: str = ""


Policy = Callable[[Request], Decision]


def permissive(_: Request) -> Decision:
    """Everything is allowed: what holds until policies are set."""
    return Decision(allowed=True)
