"""The log: commands become events, whole or not at all, each tenant's in one gapless chain.

Callers of one process share commits (`command_queue.py`): whoever gets the turn decides all commands
that wait, one after the other on what the ones before it did, and commits them together
(`committing.py`). A command that fails, fails alone. What is read is in `log_state.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Self

from ml_registry_pipelines.access.access_log import AccessLog, Outcome
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Decision, Policy, Request
from ml_registry_pipelines.registry.bulk import BulkFiles
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.command_queue import CommandQueue, Waiting
from ml_registry_pipelines.registry.commands import Command, Done
from ml_registry_pipelines.registry.committing import Committer
from ml_registry_pipelines.registry.errors import InvalidInput, NotAllowed
from ml_registry_pipelines.registry.events import Event, now
from ml_registry_pipelines.registry.gate import GATED, Gate, GateRefused
from ml_registry_pipelines.registry.log_state import LogState
from ml_registry_pipelines.registry.names import checked_key, checked_pseudonym, checked_tenant
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    import pyarrow as pa


class Log:
    """The log of one lake, and the one place where its events are written.

    One per process and lake; thread-safe. `close` waits for folding under way.

    Args:
        lake: where the tables are.
        policy: asked about every command and read; by default, who the users are and what they may do.
        clock: the present instant in UTC.
        gate: asked on the state that a command is decided on, where that would put something live; by
            default that of `compliance/gate`, so that no door is open because somebody forgot to give one.
    """

    def __init__(
        self,
        lake: Lake,
        *,
        policy: Policy | None = None,
        clock: Callable[[], datetime] = now,
        gate: Gate | None = None,
    ) -> None:
        self.lake = lake
        self.bulk = BulkFiles(lake)
        self._policy = policy
        self._clock = clock
        self._gate = gate
        self._state = LogState(lake, self.bulk)
        self._committer = Committer(self, self._state)
        self._queue = CommandQueue(self._committer.commit)

    # -- reading -----------------------------------------------------------------------

    def view(self, tenant: str, *, as_of: datetime | None = None) -> View:
        """What holds now, or what had been recorded at an instant."""
        return self._state.view(tenant, as_of=as_of)

    def steady(self) -> AbstractContextManager[None]:
        """Let several questions of this thread see one and the same state, the newest, and look for it once."""
        return self._state.steady()

    def events(self, tenant: str, sequences: Sequence[int]) -> list[Event]:
        """Events of a tenant by number."""
        return self._state.events(tenant, sequences)

    def done_under(self, tenant: str, action: str, key: str) -> list[Event]:
        """The events of the command that was given under an idempotency key; none where there was none."""
        return self._state.done_under(tenant, action, key)

    def head(self, tenant: str) -> tuple[int, str]:
        """Number and hash of the newest event of a tenant; 0 and the empty text without any."""
        return self._state.head(tenant)

    def position(self) -> int:
        """Position of the newest event of all tenants; what a view shows is complete up to there."""
        return self._state.position()

    def last_position(self) -> int:
        """The same from the table's file list alone, without opening projections and tail."""
        return self._state.last_position()

    def between(self, first: int, last: int) -> list[Event]:
        """Events of all tenants by position, in order."""
        return self._state.between(first, last)

    def tenants(self) -> list[str]:
        """Tenants that have a history, in order."""
        return self._state.table.tenants()

    def ask(self, request: Request) -> None:
        """Ask the policy, as every door does before it answers or acts.

        Raises:
            NotAllowed: it refuses.
        """
        decision = self.decision(request)
        if not decision.allowed:
            AccessLog(self.lake).note(
                request.actor,
                request.action,
                request.entity_type,
                tenant=request.tenant,
                outcome=Outcome.REFUSED,
                reason=decision.reason,
            )
            raise NotAllowed(
                f"{request.actor.id!r} may not {request.action} in tenant {request.tenant!r}: "
                f"{decision.reason}"
            )

    def decision(self, request: Request) -> Decision:
        """What the policy says, for who asks about one thing after another and notes the refusal itself."""
        if self._policy is None:
            from ml_registry_pipelines.access.policy import policy_of

            self._policy = policy_of(self)
        return self._policy(request)

    # -- writing -----------------------------------------------------------------------

    def run(self, command: Command) -> Done:
        """Do a command, or return what it did when it first came under its idempotency key.

        Raises:
            NotAllowed: the policy refuses it.
            RegistryError: what the command itself finds wrong.
            KeyReused: the idempotency key stands for something else.
            LakeError: the store failed; the text says whether something may have landed.
        """
        change = self._checked(command)
        try:
            return self._queue.do(Waiting(command, change, ask=True))
        except GateRefused as refusal:
            AccessLog(self.lake).note(
                command.actor,
                command.action,
                command.entity_type,
                tenant=command.tenant,
                outcome=Outcome.REFUSED,
                reason=refusal.reason,
            )
            self.gate.refused(self, command, refusal)
            raise
        except NotAllowed as refusal:
            if command.action in GATED:
                self.gate.refused(self, command, GateRefused(str(refusal)))
            raise

    def record(self, command: Command) -> Done:
        """Do a command that nobody asks for: what the log itself has to say, such as that it refused one."""
        return self._queue.do(Waiting(command, canonical(command.change), ask=False))

    def append_verbatim(
        self, rows: pa.Table, weights: Mapping[int, int], *, absent: Callable[[View], None]
    ) -> None:
        """Append a tenant's whole history, as `Committer.append_verbatim` does."""
        self._committer.append_verbatim(rows, weights, absent=absent)

    @property
    def gate(self) -> Gate:
        """What is asked where something would go live."""
        if self._gate is None:
            # Made when it is first needed: most processes put nothing live.
            from ml_registry_pipelines.compliance.gate.deciding import ComplianceGate

            self._gate = ComplianceGate()
        return self._gate

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present instant in UTC."""
        return self._clock

    def _checked(self, command: Command) -> str:
        """What is asked, as canonical JSON."""
        checked_tenant(command.tenant)
        checked_pseudonym(command.actor.id, "actor")
        if command.idempotency_key is not None:
            checked_key(command.idempotency_key)
        if command.valid_from is not None and command.valid_from.tzinfo is None:
            raise InvalidInput(f"valid_from {command.valid_from.isoformat()} has no time zone")
        if command.valid_from is not None and command.valid_from > self._clock():
            # What is recorded is what holds: nothing would put a plan into force when its time comes.
            raise InvalidInput(
                f"the effective time {command.valid_from.isoformat()} lies ahead; record the act when it holds"
            )
        return canonical(command.change)

    def settle(self) -> None:
        """Wait until folding under way is done."""
        self._state.settle()

    def close(self) -> None:
        """Wait for folding and end the threads."""
        self._state.close()
        self._committer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
