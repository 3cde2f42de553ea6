"""`PersonalFields`: values that name a person and have to be in the log, such as the contact of a model.

Each is sealed under the key of the person whom it names. Once that key is destroyed it reads `erased`,
now and in every `as_of`; who recorded it, when and about what stays.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ml_registry_pipelines.compliance.erasure.needles import checked_identifier
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.names import checked_name, checked_text
from ml_registry_pipelines.registry.shredding import SEALED, SubjectKeys
from ml_registry_pipelines.registry.states import State
from ml_registry_pipelines.registry.view import View

KIND = "personal_field"


@dataclass(frozen=True)
class PersonalField:
    """One field: what it is about, its name, and its value in the clear, or `erased`."""

    id: str
    about: str
    field: str
    value: str
    recorded_at: datetime
    actor: str


class PersonalFields(Desk):
    """Personal fields of one tenant, for one actor."""

    def set(self, about: str, field: str, person: str, value: str) -> PersonalField:
        """Record a value that names a person, or give it anew.

        Args:
            about: what it belongs to, such as `model:credit-risk`.
            field: such as `contact`.
            person: identifier of the person, by which the value is erased; it is not recorded.

        Raises:
            InvalidInput: there is no key-encryption key, or something of it is no text.
        """
        about, field = checked_name(about, "subject of a field"), checked_name(field, "field")
        person, value = checked_identifier(person), checked_text(value, field)
        self.ask("set_personal_field", KIND, {"about": about, "field": field})
        sealed = SubjectKeys(self.log.lake).seal(self.tenant, person, field, value)
        state = {"about": about, "field": field, "value": sealed}

        def decide(view: View) -> list[Change]:
            old = next((s for s in _living(view) if _key(s) == (about, field)), None)
            entity = new_id() if old is None else old.id
            body = {"name": f"{about}/{field}"[:500], "description": "", "status": "active", "deleted": False}
            return [Change(KIND, entity, {**body, "metadata": state})]

        done = self.do("set_personal_field", KIND, state, decide)
        return self._opened(state_of(done))

    def list(
        self, *, as_of: datetime | None = None, keys: Collection[str] | None = None
    ) -> list[PersonalField]:
        """All fields, as they are or had been recorded at an instant, as far as their keys are still there.

        Args:
            keys: only those that are sealed under one of these.
        """
        states = _living(self.view(as_of))
        return [
            self._opened(state)
            for state in states
            if keys is None or state.data["metadata"]["value"][SEALED]["key"] in keys
        ]

    def _opened(self, state: State) -> PersonalField:
        data: dict[str, Any] = SubjectKeys(self.log.lake).opened(self.tenant, dict(state.data["metadata"]))
        return PersonalField(
            state.id, data["about"], data["field"], data["value"], state.recorded_at, state.actor
        )


def _living(view: View) -> list[State]:
    return view.select(
        "erasure.personal_fields",
        "things",
        "type = $type AND NOT deleted",
        order="name",
        parameters={"type": KIND},
    )


def _key(state: State) -> tuple[str, str]:
    data = state.data["metadata"]
    return data["about"], data["field"]
