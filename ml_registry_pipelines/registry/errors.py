"""What can be wrong with a command or a question: one type each, its text one sentence.

What is wrong with the store is `lake.outcomes`; what is wrong with files is `artifacts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ml_registry_pipelines.errors import MlregError


class RegistryError(MlregError):
    """A command or a question that the registry cannot answer as asked."""


class InvalidInput(RegistryError):
    """A name, tag, owner, alias or other value that cannot be recorded."""


class NotFound(RegistryError):
    """No living thing has that name or id."""

    def __init__(self, kind: str, given: str, tenant: str, *, hint: str = "") -> None:
        super().__init__(f"there is no {kind} {shown(given)} in tenant {shown(tenant)}{hint}")


class VersionNotFound(RegistryError):
    """A model or dataset has no version under that number, alias or stage."""

    def __init__(self, name: str, selector: str, known: str, *, kind: str = "model") -> None:
        super().__init__(f"{kind} {shown(name)} has no version {shown(selector)}; it has {known}")


class NameTaken(RegistryError):
    """A living thing of that kind already has the name."""

    def __init__(self, kind: str, name: str, tenant: str) -> None:
        super().__init__(f"tenant {shown(tenant)} already has a {kind} {shown(name)}; take another name")


class IllegalTransition(RegistryError):
    """The entity is in a state from which this step does not lead."""


class ModelIsDeprecated(IllegalTransition):
    """A deprecated model gets no new versions, and none of its versions goes to production."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model {shown(model)} is deprecated; reinstate it first")


class Deleted(IllegalTransition):
    """The entity is deleted: it can be restored and looked at, and nothing else."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {shown(name)} is deleted; restore it first")


class StillNeeded(IllegalTransition):
    """Something that lives depends on what was to be deleted."""


class ProtectedAlias(IllegalTransition):
    """A protected alias is neither moved nor removed."""

    def __init__(self, model: str, alias: str) -> None:
        super().__init__(f"alias {shown(alias)} of model {shown(model)} is protected; unprotect it first")


class KeyReused(RegistryError):
    """An idempotency key came again with another payload."""

    def __init__(self, key: str, action: str, sequence: int) -> None:
        super().__init__(
            f"idempotency key {shown(key)} was already used by {action} for something else "
            f"(event {sequence}); "
            "give each command a key of its own"
        )


class NotAllowed(RegistryError):
    """The policy refuses the command."""


class LineageCycle(RegistryError):
    """A relationship would make something its own ancestor."""

    def __init__(self, path: Sequence[str]) -> None:
        super().__init__(f"that would close a cycle: {' -> '.join(shown(step) for step in path)}")
        self.path = tuple(path)


class TenantExists(RegistryError):
    """An import needs a tenant without history."""

    def __init__(self, tenant: str) -> None:
        super().__init__(
            f"tenant {shown(tenant)} already has a history here; an import needs an absent tenant"
        )


class DamagedExport(RegistryError):
    """An export's chain or one of its files does not verify; nothing was imported."""


class LogDamaged(RegistryError):
    """Events of the log are missing, doubled, moved or unreadable: nothing can be decided on it."""


RESTORE = "run `mlreg audit verify` and restore the table governance_events"
"""What to do about a damaged log."""


class EventUnreadable(LogDamaged):
    """What one event says cannot be read. Its tenant waits until the log is mended; the others go on."""

    def __init__(self, tenant: str, sequence: int, why: str) -> None:
        super().__init__(f"event {sequence} of tenant {tenant!r} cannot be read: {why}; {RESTORE}")


def shown(text: str, limit: int = 120) -> str:
    """The text in quotes, escaped, and cut where it is too long for a sentence."""
    cut = text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"
    return repr(cut)
