"""`Dossiers`: the technical documentation of a version under Annex IV, and what people attest for it.

A field is derived from what the registry knows, attested by a person, or missing. What is attested is
an event; it is about the system, never about a person, since the log cannot forget.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.ai_act.table import current
from ml_registry_pipelines.compliance.dossier.content import (
    Attestation,
    Derived,
    Document,
    Facts,
    Field,
    Source,
    Status,
)
from ml_registry_pipelines.compliance.dossier.deriving import DERIVING, NEEDS
from ml_registry_pipelines.compliance.dossier.fields import ANNEX_IV, ASKED
from ml_registry_pipelines.compliance.dossier.known import Known
from ml_registry_pipelines.compliance.words import impersonal
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.references import living, version_state
from ml_registry_pipelines.registry.states import DOSSIER_FIELD, MODEL, MODEL_VERSION, State

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.view import View

LEAST_WORDS = 3
_STUB = re.compile(
    r"\W*(todo|tbd|tba|fixme|placeholder|lorem ipsum|to be (done|defined|written|completed))\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Dossier:
    """The dossier of one version at one time.

    `records`: what is attested beside Annex IV, by the name of the record.
    """

    reference: str
    known: Known
    at: datetime
    fields: tuple[Field, ...]
    records: Mapping[str, Attestation]

    def field(self, name: str) -> Field:
        return next(f for f in self.fields if f.asked.id == name)

    @property
    def missing(self) -> tuple[str, ...]:
        """Fields of Annex IV that are neither derived nor attested."""
        return self._of(Status.MISSING)

    @property
    def derived(self) -> tuple[str, ...]:
        return self._of(Status.DERIVED)

    @property
    def attested(self) -> tuple[str, ...]:
        return self._of(Status.ATTESTED)

    @property
    def score(self) -> float:
        """Part of the 23 fields that are filled, 0 to 1."""
        return 1 - len(self.missing) / len(self.fields)

    @property
    def digest(self) -> str:
        """SHA-256 over which fields are filled and by which statements; not over figures that change every day."""
        return digest(
            {
                "content": self.known.version.content_digest,
                "fields": {
                    f.asked.id: [f.status.value, f.attestation and f.attestation.text] for f in self.fields
                },
                "records": {name: a.text for name, a in self.records.items()},
            }
        )

    def document(self, kind: str) -> Document:
        """One of the documents of `documents.KINDS`."""
        from ml_registry_pipelines.compliance.dossier.documents import document

        return document(self, kind)

    def _of(self, status: Status) -> tuple[str, ...]:
        return tuple(f.asked.id for f in self.fields if f.status is status)


class Dossiers(Desk):
    """Dossiers of the versions of one tenant, for one actor."""

    def dossier(self, reference: str, *, at: datetime | None = None) -> Dossier:
        """The dossier of a version.

        Args:
            reference: `fraud@v3`, `fraud@production` ... or an id.
            at: until when traffic is counted, and the day of the legal text; by default now.

        Raises:
            VersionNotFound: there is no such version.
        """
        when = at or datetime.now(UTC)
        known = Known(self, reference, when)
        said = {
            **self._attested(known.view, known.model.id, known.model.name),
            **self._attested(known.view, known.version.id, known.version.reference),
        }
        fields = [_filled(known, asked.id, said) for asked in ANNEX_IV]
        records = {name: said[name] for name in current().records if name in said}
        made = Dossier(known.version.reference, known, when, tuple(fields), records)
        instructions = made.document("instructions_for_use")
        if not instructions.missing:
            rows = tuple((section.title, section.article) for section in instructions.sections)
            derived = Derived((Facts(rows),), (Source("Instructions for use", f"of {when:%Y-%m-%d}"),))
            fields = [
                Field(f.asked, derived, f.attestation) if f.asked.id == "1(h)" else f for f in made.fields
            ]
        return Dossier(made.reference, known, when, tuple(fields), records)

    def attest(self, about: str, field: str, text: str, *, idempotency_key: str | None = None) -> Attestation:
        """State the content of a field, or a record, in the place of what was stated before.

        Args:
            about: a version, or a model where the field holds for all its versions.
            field: a field of Annex IV such as `2(e)`, or a record such as `quality_management`.
            text: about the system; never about a person.

        Raises:
            InvalidInput: there is no such field, it differs between versions, or the text says nothing
                or holds an e-mail address.
        """
        checked = checked_statement(text)
        _check_field(field)

        def decide(view: View) -> list[Change]:
            kind, subject, name = _subject(view, about, field)
            state = {
                "name": f"{name} {field}"[:500],
                "description": "",
                "status": "active",
                "deleted": False,
                "metadata": {
                    "field": field,
                    "subject_kind": kind,
                    "subject_id": subject.id,
                    "text": checked,
                },
            }
            return [Change(DOSSIER_FIELD, _id(subject.id, field), state)]

        asked = {"about": about, "field": field, "text": checked}
        done = self.do("attest_field", DOSSIER_FIELD, asked, decide, idempotency_key=idempotency_key)
        return _attestation(state_of(done), about, self.actor.authenticated_by)

    def withdraw(self, about: str, field: str, *, idempotency_key: str | None = None) -> None:
        """Take back what was stated; the log keeps that it was.

        Raises:
            NotFound: nothing is stated.
        """
        _check_field(field)

        def decide(view: View) -> list[Change]:
            _, subject, name = _subject(view, about, field)
            state = view.by_id("things", _id(subject.id, field))
            if state is None or state.deleted:
                raise NotFound("statement", f"{name} {field}", view.tenant)
            return [Change(DOSSIER_FIELD, state.id, {**state.data, "deleted": True})]

        asked = {"about": about, "field": field}
        self.do("withdraw_field", DOSSIER_FIELD, asked, decide, idempotency_key=idempotency_key)

    def history(self, about: str, field: str) -> list[Attestation]:
        """All that was ever stated for a field, oldest first."""
        view = self.view()
        _, subject, name = _subject(view, about, field)
        states = view.history("things", _id(subject.id, field))
        return self._stated([(state, name) for state in states if not state.deleted])

    def _attested(self, view: View, subject: str, about: str) -> dict[str, Attestation]:
        ids = [_id(subject, field) for field in (*ASKED, *current().records)]
        states = view.by_any("things", "id", ids)
        return {a.field: a for a in self._stated([(s, about) for s in states if not s.deleted])}

    def _stated(self, states: Sequence[tuple[State, str]]) -> list[Attestation]:
        """Statements, with what their events say of how it was made sure who made them."""
        events = self.log.events(self.tenant, sorted({s.sequence for s, _ in states})) if states else []
        by = {event.sequence: event.authenticated_by for event in events}
        return [_attestation(state, about, by[state.sequence]) for state, about in states]


def checked_statement(text: str) -> str:
    """A statement that says something, and nothing about a person.

    Raises:
        InvalidInput: it does not.
    """
    checked = impersonal(text, "statement")
    if len(checked.split()) < LEAST_WORDS or _STUB.match(checked):
        raise InvalidInput(
            f"the statement {shown(checked, 60)} says nothing; write what holds for the system, in a sentence at least"
        )
    return checked


def _check_field(field: str) -> None:
    import difflib

    known = [*ASKED, *current().records]
    if field not in known:
        near = difflib.get_close_matches(field, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; `mlreg dossier fields` lists them"
        raise InvalidInput(f"there is no field {shown(field)}{hint}")


def _subject(view: View, about: str, field: str) -> tuple[str, State, str]:
    """What a statement is about: a model by name or id, otherwise a version."""
    if "@" not in about or any(s.entity_type == MODEL for s in view.by_column("things", "name", about)):
        by_id = view.by_id("model_versions", about)
        if by_id is None:
            model = living(view, MODEL, about)
            if field in ASKED and not ASKED[field].of_model:
                raise InvalidInput(
                    f"{field} differs between versions; state it for one, such as {model.name}@latest"
                )
            return MODEL, model, model.name
    version = version_state(view, about)
    model_state = living(view, MODEL, str(version.data["model_id"]))
    return MODEL_VERSION, version, f"{model_state.name}@v{version.data['version']}"


def _id(subject: str, field: str) -> str:
    return digest([DOSSIER_FIELD, subject, field])[:32]


def _attestation(state: State, about: str, by: str) -> Attestation:
    said = state.data["metadata"]
    return Attestation(said["field"], said["text"], state.actor, state.recorded_at, state.sequence, about, by)


def _filled(known: Known, name: str, said: Mapping[str, Attestation]) -> Field:
    derive = DERIVING.get(name)
    derived = derive(known) if derive is not None else None
    stated = said.get(name)
    needs = NEEDS.get(name)
    why = (
        ""
        if derived or stated
        else (f"Not recorded: {needs}, or attest it." if needs else "Only a person can state it: attest it.")
    )
    return Field(ASKED[name], derived, stated, why)
