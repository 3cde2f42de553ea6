"""Where a command meets the gate: on the very state that it is decided on, and before it is committed.

The log asks about what a command *changes*, not what it is called, so that every door leads through here.
What the gate demands is `compliance/gate`; here is only which changes it has to be asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.commands import Change, Command
from ml_registry_pipelines.registry.errors import NotAllowed
from ml_registry_pipelines.registry.events import BULK
from ml_registry_pipelines.registry.states import APPROVAL, DEPLOYMENT, MODEL, MODEL_VERSION
from ml_registry_pipelines.registry.versions import Stage
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

GATED = frozenset(
    {
        "promote_to_production",
        "rollback",
        "set_alias",
        "track_deployment",
        "request_approval",
        "review_approval",
        "withdraw_approval",
        "break_glass",
        "review_break_glass",
    }
)
"""Commands of which an attempt by somebody who may not is an event of its own."""


class GateRefused(NotAllowed):
    """What a command would do needs more than there is.

    Attributes:
        version: the version that was to go live, by id; empty where it is about none.
        place: where: `production`, `alias champion`, `environment production`, `approval`.
        reason: why not, one sentence.
    """

    def __init__(self, said: str, *, version: str = "", place: str = "", reason: str = "") -> None:
        super().__init__(said)
        self.version, self.place, self.reason = version, place, reason or said


class Gate(Protocol):
    """Asked for every command that puts something live, and for every change of an approval."""

    def decide(self, log: Log, command: Command, view: View, changes: Sequence[Change]) -> Sequence[Change]:
        """The changes that belong to it besides, such as that an approval is used.

        Raises:
            GateRefused: it must not happen.
        """
        ...

    def admits(self, log: Log, tenant: str, actor: Actor) -> None:
        """Whether a history that was decided elsewhere may be taken in as it is.

        Raises:
            GateRefused: the actor may not.
        """
        ...

    def refused(self, log: Log, command: Command, refusal: GateRefused) -> None:
        """Record an attempt that was refused."""
        ...


def concerns(changes: Sequence[Change]) -> bool:
    """Whether the gate has to be asked: a quick look, which may say yes too often and never no."""
    for change in changes:
        match change.entity_type:
            case kind if kind in {APPROVAL, BULK}:
                return True
            case kind if kind == MODEL_VERSION and change.state.get("stage") == Stage.PRODUCTION.value:
                return True
            case kind if kind == MODEL and change.state.get("aliases"):
                return True
            case kind if kind == DEPLOYMENT and not change.state.get("deleted"):
                return True
    return False
