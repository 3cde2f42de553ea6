"""A command: what is asked, by whom, and how it is decided; and what came of it.

A command decides on a view and answers with changes. Each becomes one event, and all of
them land in one commit or none does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.events import Event
from ml_registry_pipelines.registry.view import View


@dataclass(frozen=True)
class Change:
    """The new state of one entity. `change` says what was done, where it is not the whole command."""

    entity_type: str
    entity_id: str
    state: Mapping[str, object]
    change: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Command:
    """One act of one actor.

    `change` is what was asked for, as a value: it stands in the first event, and a command
    that comes again under the same idempotency key must have the same. A command that finds nothing
    to do leaves no event, and so nothing that could keep its key: it decides anew when it comes again.
    """

    tenant: str
    actor: Actor
    action: str
    entity_type: str
    change: Mapping[str, object]
    decide: Callable[[View], Sequence[Change]] = field(repr=False)
    idempotency_key: str | None = None
    valid_from: datetime | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class Done:
    """The events of a command, none where nothing was to be done.

    `before`: it had been done already, under its idempotency key.
    """

    events: tuple[Event, ...]
    before: bool = False
