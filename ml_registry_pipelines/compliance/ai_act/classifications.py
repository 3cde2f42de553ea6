"""`AiAct`: the class of each model under the EU AI Act, as commands on the log.

What people decide are the answers; the class follows from them. Both are recorded, with the version of
the legal text. Asked for later, the class is computed anew by the text of then, and says so where it is
no longer the recorded one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.ai_act.answers import Answers, answers_of
from ml_registry_pipelines.compliance.ai_act.evaluation import Duty, Evaluation, Question, evaluate
from ml_registry_pipelines.compliance.ai_act.table import Table, Tier, current
from ml_registry_pipelines.compliance.words import impersonal
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.references import living
from ml_registry_pipelines.registry.states import AI_ACT_CLASSIFICATION as CLASSIFICATION
from ml_registry_pipelines.registry.states import MODEL, State

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.view import View


@dataclass(frozen=True)
class Classification:
    """The class of a model. Evaluated on `evaluation.as_of` by the text that is shipped; recorded before.

    Attributes:
        evaluation: what the answers give now.
        recorded_tier, recorded_gate_tier, recorded_text: what they gave when they were recorded.
        actor, recorded_at, sequence: the event.
    """

    tenant: str
    model: str
    model_id: str
    answers: Answers
    evaluation: Evaluation
    recorded_tier: Tier
    recorded_gate_tier: Tier
    recorded_text: str
    recorded_text_digest: str
    note: str
    actor: str
    recorded_at: datetime
    sequence: int

    @property
    def tier(self) -> Tier:
        """The class that is shown."""
        return self.evaluation.tier

    @property
    def gate_tier(self) -> Tier:
        """The worst class that unknown facts leave, now or when it was recorded: what gates go by."""
        return max(self.evaluation.gate_tier, self.recorded_gate_tier, key=lambda tier: tier.rank)

    @property
    def duties(self) -> tuple[Duty, ...]:
        return self.evaluation.duties

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the facts that are unknown and could raise the class."""
        return self.evaluation.missing

    @property
    def questions(self) -> tuple[Question, ...]:
        return self.evaluation.questions

    @property
    def text_version(self) -> str:
        return self.evaluation.text_version

    @property
    def digest(self) -> str:
        """SHA-256 that changes when answers, legal text, class or duties do."""
        return self.evaluation.digest

    @property
    def stale(self) -> bool:
        """Whether it has to be recorded anew: the text is another one, or gives another class by now."""
        return bool(self.stale_because)

    @property
    def stale_because(self) -> str:
        """Why, in a sentence; empty where it is not stale."""
        if self.recorded_text_digest != self.evaluation.text_digest:
            return (
                f"it was recorded by text {self.recorded_text} and the text is {self.text_version} now; "
                "classify the model again"
            )
        if (self.recorded_tier, self.recorded_gate_tier) != (self.tier, self.evaluation.gate_tier):
            return (
                f"it was recorded as {self.recorded_tier.value} and is {self.tier.value} since the text that began "
                f"to apply by {self.evaluation.as_of}; classify the model again"
            )
        return ""


class AiAct(Desk):
    """Classes of the models of one tenant, for one actor. Every command is one atomic commit."""

    def classify(
        self,
        model: str,
        answers: Answers | Mapping[str, object],
        *,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> Classification:
        """Record what is known about a model, in the place of what was known before; give its class.

        Raises:
            NotFound: there is no such model.
            InvalidInput: a fact that is not asked, an answer that is none, or a note with an e-mail address.
        """
        table = current()
        given = answers_of(table, answers.recorded() if isinstance(answers, Answers) else answers)
        note = impersonal(note, "note")
        evaluated = evaluate(table, given, datetime.now(UTC).date())

        def decide(view: View) -> list[Change]:
            owner = living(view, MODEL, model)
            return [
                Change(CLASSIFICATION, classification_id(owner.id), _state(owner, given, evaluated, note))
            ]

        asked = {"model": model, "answers": given.recorded(), "text": table.version, "note": note}
        done = self.do("classify_ai_act", CLASSIFICATION, asked, decide, idempotency_key=idempotency_key)
        return _classification(self.now(), state_of(done), table, evaluated.as_of)

    def classification(
        self, model: str, as_of: datetime | None = None, *, on: date | None = None
    ) -> Classification | None:
        """The class of a model; None where nobody has classified it.

        Args:
            model: name or id.
            as_of: as had been recorded at this instant, and on its day.
            on: by what the text says on this day; by default today, or the day of `as_of`.

        Raises:
            NotFound: there is no such model.
        """
        view = self.view(as_of)
        day = on or (as_of or datetime.now(UTC)).astimezone(UTC).date()
        return classified(view, living(view, MODEL, model).id, day)

    def history(self, model: str) -> list[Classification]:
        """All that was recorded about a model, oldest first, each evaluated on its own day by the text of now."""
        view = self.view()
        states = view.history("things", classification_id(living(view, MODEL, model).id))
        return [_classification(view, s, current(), s.recorded_at.astimezone(UTC).date()) for s in states]

    def all(self, *, as_of: datetime | None = None) -> list[Classification]:
        """The classes of all models that have one, by model."""
        view = self.view(as_of)
        day = (as_of or datetime.now(UTC)).astimezone(UTC).date()
        states = view.select(
            "ai_act.all", "things", "type = $type", order="name", parameters={"type": CLASSIFICATION}
        )
        found = []
        for state in states:
            model = view.by_id("things", str(state.data["metadata"]["model_id"]))
            if model is not None and not model.deleted:
                found.append(_classification(view, state, current(), day))
        return sorted(found, key=lambda c: c.model)


def classified(view: View, model_id: str, day: date) -> Classification | None:
    """The class of a model as a view knows it, on a day; None where nobody has classified it."""
    state = view.by_id("things", classification_id(model_id))
    return None if state is None else _classification(view, state, current(), day)


def settled(recorded: Mapping[str, Any], today: date) -> tuple[Tier, str]:
    """The class that gates go by and why it is not settled, from the recorded state; the reason may be empty."""
    table = current()
    answers = _answers(table, recorded["answers"])
    found = evaluate(table, answers, today)
    if recorded["text_digest"] != table.digest:
        why = f"it was classified by text {recorded['text_version']} and the text is {table.version} now"
    elif (recorded["tier"], recorded["gate_tier"]) != (found.tier.value, found.gate_tier.value):
        why = f"it was recorded as {recorded['tier']} and is {found.tier.value} by now"
    elif found.missing:
        why = f"{', '.join(found.missing)} {'is' if len(found.missing) == 1 else 'are'} unknown"
    else:
        why = ""
    return found.gate_tier, why


def classification_id(model_id: str) -> str:
    """The one id of a model's classification, so that another one takes its place."""
    return digest([CLASSIFICATION, model_id])[:32]


def _state(model: State, answers: Answers, evaluated: Evaluation, note: str) -> dict[str, Any]:
    return {
        "name": model.name,
        "description": note,
        "status": "active",
        "deleted": False,
        "metadata": {
            "model_id": model.id,
            "answers": answers.recorded(),
            "as_of": evaluated.as_of.isoformat(),
            "tier": evaluated.tier.value,
            "gate_tier": evaluated.gate_tier.value,
            "gpai": evaluated.gpai,
            "outcomes": sorted(evaluated.labels),
            "duties": [duty.id for duty in evaluated.duties],
            "missing": list(evaluated.missing),
            "text_version": evaluated.text_version,
            "text_digest": evaluated.text_digest,
            "input_hash": evaluated.input_hash,
        },
    }


def _classification(view: View, state: State, table: Table, day: date) -> Classification:
    data: Mapping[str, Any] = state.data["metadata"]
    answers = _answers(table, data["answers"])
    model = view.by_id("things", data["model_id"])
    return Classification(
        tenant=state.tenant,
        model=state.name if model is None else model.name,
        model_id=data["model_id"],
        answers=answers,
        evaluation=evaluate(table, answers, day),
        recorded_tier=Tier(data["tier"]),
        recorded_gate_tier=Tier(data["gate_tier"]),
        recorded_text=data["text_version"],
        recorded_text_digest=data["text_digest"],
        note=state.data.get("description", ""),
        actor=state.actor,
        recorded_at=state.recorded_at,
        sequence=state.sequence,
    )


def _answers(table: Table, recorded: Mapping[str, Any]) -> Answers:
    """What an older text asked and this one does not is left out; what this one asks in addition is unknown."""
    return answers_of(
        table, {name: said for name, said in recorded.items() if _still_asked(table, name, said)}
    )


def _still_asked(table: Table, name: str, said: object) -> bool:
    fact = table.facts.get(name)
    return fact is not None and (not isinstance(said, list) or {*said} <= {*fact.members, "unknown"})
