"""Value models: what a success is worth and what else it costs, as people declare it; events of the log.

A value model is a thing of the kind `value_model`. Each declaration is a state of its own, and a result
keeps the state that it was computed with: what is declared later changes no earlier result. Files::

    value_models:
      - name: support
        currency: USD
        value_per_success: "1.20"            # what one success is worth
        success: resolved                    # a recorded metric of True and False; left out: any answer
        judge: gpt-4o/rubric-3               # whose scores count; needed where several judge
        counterfactual_per_request: "0.80"   # what an answer would cost otherwise, say by hand
        platform_per_month: "500"            # what runs beside the models, by the day
        judge_per_label: "0.002"             # of a label whose own cost is not recorded
        where: {application: chat}           # whose requests: application, provider, model, deployment_id, model_id
        valid_from: 2026-01-01               # UTC days, inclusive; left out: since ever
        valid_to: 2027-01-01                 # exclusive; left out: until further notice
        note: agreed with support, 2026-02
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import Deleted, InvalidInput, NotFound
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.references import known
from ml_registry_pipelines.registry.things import NewThing, Thing, Things, thing_of
from ml_registry_pipelines.registry.view import View
from ml_registry_pipelines.strict_yaml import strict_loader

KIND = "value_model"
SCOPES = ("application", "provider", "model", "deployment_id", "model_id")
AMOUNTS = ("value_per_success", "counterfactual_per_request", "platform_per_month", "judge_per_label")
FIELDS = (
    "name", "currency", *AMOUNTS, "success", "judge", "where", "valid_from", "valid_to", "note",
)  # fmt: skip
MOST = Decimal(10) ** 12
_CURRENCY = re.compile(r"[A-Z]{3}")
_DECIMALS = 12


@dataclass(frozen=True)
class ValueModel:
    """What the module says. Amounts are of `currency`, exact, 0 or more; days are of UTC."""

    name: str
    currency: str
    value_per_success: Decimal
    success: str | None = None
    judge: str | None = None
    counterfactual_per_request: Decimal | None = None
    platform_per_month: Decimal = Decimal(0)
    judge_per_label: Decimal | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    valid_from: date | None = None
    valid_to: date | None = None
    note: str = ""

    def checked(self) -> ValueModel:
        """The same.

        Raises:
            InvalidInput: something of it makes no sense.
        """
        what = f"value model {self.name!r}"
        if not _CURRENCY.fullmatch(self.currency):
            raise InvalidInput(f"{what}: currency {self.currency!r} is no ISO 4217 code, such as USD")
        for name in AMOUNTS:
            _check_amount(what, name, getattr(self, name))
        if self.judge is not None and self.success is None:
            raise InvalidInput(f"{what}: a judge gives scores of a metric; name it in success")
        if unknown := sorted(set(self.where) - set(SCOPES)):
            raise InvalidInput(f"{what}: where has no {', '.join(unknown)}; it has {', '.join(SCOPES)}")
        if not all(self.where.values()):
            raise InvalidInput(f"{what}: each field of where names one value")
        if self.valid_from and self.valid_to and self.valid_from >= self.valid_to:
            raise InvalidInput(f"{what}: valid_to {self.valid_to} is not after valid_from {self.valid_from}")
        return self

    def recorded(self) -> dict[str, Any]:
        """As the log and results keep it: amounts as text, days as ISO 8601."""
        held = {name: value for name, value in asdict(self).items() if name not in ("name", "note")}
        return {
            name: str(value) if isinstance(value, Decimal | date) else value for name, value in held.items()
        }

    def covers(self, since: date, until: date) -> bool:
        """Whether it holds on all days from `since` up to, not including, `until`."""
        return (self.valid_from is None or self.valid_from <= since) and (
            self.valid_to is None or until <= self.valid_to
        )


def _check_amount(what: str, name: str, amount: object) -> None:
    if amount is None and name in ("counterfactual_per_request", "judge_per_label"):
        return
    if not isinstance(amount, Decimal) or not amount.is_finite() or not 0 <= amount < MOST:
        raise InvalidInput(f"{what}: {name} is {amount!s:.60}; it has to be an exact amount of 0 or more")
    if amount != round(amount, _DECIMALS):
        raise InvalidInput(f"{what}: {name} {amount} has more than {_DECIMALS} decimals")


@dataclass(frozen=True)
class Declared:
    """A value model in one state: `sequence` is the event that began it."""

    model: ValueModel
    id: str
    tenant: str
    sequence: int
    actor: str


class ValueModels(Desk):
    """The value models of one tenant, for one actor. Every verb is one event."""

    def __init__(self, log: Log, *, actor: Actor, tenant: str = "default", run_id: str | None = None) -> None:
        super().__init__(log, actor=actor, tenant=tenant, run_id=run_id)
        self._things = Things(log, actor=actor, tenant=tenant, run_id=run_id)

    def declare(self, model: ValueModel, *, idempotency_key: str | None = None) -> Declared:
        """Declare a value model, or declare it anew; what it says already changes nothing.

        Raises:
            InvalidInput: something of it makes no sense.
        """
        given = model.checked()
        state = NewThing(given.name, description=given.note, metadata=given.recorded()).recorded()

        def decide(view: View) -> list[Change]:
            living = [s for s in known(view, KIND, given.name) if not s.deleted]
            return [Change(KIND, living[0].id if living else new_id(), state)]

        if idempotency_key is None:
            held = next((d for d in self.list() if d.model.name == state["name"]), None)
            if held is not None and (held.model.recorded(), held.model.note) == (
                given.recorded(),
                given.note,
            ):
                return held
        done = self.do("declare_value_model", KIND, state, decide, idempotency_key=idempotency_key)
        return declared_of(thing_of(state_of(done)))

    def list(self) -> list[Declared]:
        """All value models, by name."""
        return [declared_of(thing) for thing in self._things.find(KIND)]

    def get(self, name: str) -> Declared:
        """One by name.

        Raises:
            NotFound: there is none.
        """
        try:
            return declared_of(self._things.get(KIND, name))
        except (Deleted, NotFound):
            names = ", ".join(d.model.name for d in self.list()) or "none is declared"
            raise InvalidInput(
                f"there is no value model {name!r} in tenant {self.tenant!r}: {names}"
            ) from None

    def remove(self, name: str, *, idempotency_key: str | None = None) -> str:
        """End a value model; return its name. Results that were computed with it stay."""
        return self._things.delete(KIND, name, idempotency_key=idempotency_key).name


def declared_of(thing: Thing) -> Declared:
    """The state of a value model as a value."""
    try:
        fields = {**thing.metadata, "name": thing.name, "note": thing.description}
        return Declared(_model_of(fields, thing.name), thing.id, thing.tenant, thing.sequence, thing.actor)
    except (InvalidInput, TypeError, AttributeError):
        raise InvalidInput(
            f"value model {thing.name!r} of tenant {thing.tenant!r} was not made by `mlreg value-models`; "
            "declare it there"
        ) from None


def read_value_models(text: str, *, file: str) -> list[ValueModel]:
    """The value models of a file; `file` is what errors call it.

    Raises:
        InvalidInput: with the file, the entry and what to write instead.
    """
    import yaml

    try:
        parsed = yaml.load(text, Loader=strict_loader(texts=True))  # noqa: S506 - a BaseLoader, which builds texts only
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else 1
        raise InvalidInput(f"{file}, line {line}: is no valid YAML: {fault.problem}") from None
    except yaml.YAMLError as fault:
        raise InvalidInput(f"{file}: is no valid YAML: {fault}") from None
    entries = parsed.get("value_models") if isinstance(parsed, dict) else None
    if not isinstance(entries, list) or not entries or set(parsed) != {"value_models"}:
        raise InvalidInput(f"{file}: has to be a mapping with value_models, a list of at least one entry")
    found = [_entry(entry, f"{file}, value model {n}") for n, entry in enumerate(entries, start=1)]
    names = [model.name for model in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInput(f"{file}: {', '.join(twice)} stands twice")
    return found


def _entry(entry: object, where: str) -> ValueModel:
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where}: has to be a mapping of {', '.join(FIELDS)}")
    if unknown := [key for key in entry if key not in FIELDS]:
        raise InvalidInput(f"{where}: unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
    return value_model_of(entry, where)


def value_model_of(fields: Mapping[str, Any], where: str) -> ValueModel:
    """The value model that some of `FIELDS` say, amounts and days as text; `where` is what errors begin with.

    Raises:
        InvalidInput: one is missing, or makes no sense.
    """
    for name in ("name", "currency", "value_per_success"):
        if not fields.get(name):
            raise InvalidInput(f"{where}: {name} is missing")
    try:
        return _model_of(fields, where).checked()
    except InvalidInput as wrong:
        said = str(wrong)
        raise InvalidInput(said if said.startswith(where) else f"{where}: {said}") from None


def _model_of(fields: Mapping[str, Any], where: str) -> ValueModel:
    for name in ("name", "currency", "success", "judge", "note"):
        if not isinstance(fields.get(name) or "", str):
            raise InvalidInput(f"{where}: {name} has to be a text")
    scope = fields.get("where") or {}
    if not isinstance(scope, dict):
        raise InvalidInput(f"{where}: where has to be a mapping of {', '.join(SCOPES)}")
    if any(not isinstance(value, str) for value in scope.values()):
        raise InvalidInput(f"{where}: each field of where names one value, as text")
    amounts = {name: _amount(fields.get(name), f"{where}: {name}") for name in AMOUNTS}
    return ValueModel(
        name=fields["name"],
        currency=fields["currency"],
        value_per_success=amounts["value_per_success"] or Decimal(0),
        success=fields.get("success") or None,
        judge=fields.get("judge") or None,
        counterfactual_per_request=amounts["counterfactual_per_request"],
        platform_per_month=amounts["platform_per_month"] or Decimal(0),
        judge_per_label=amounts["judge_per_label"],
        where=dict(scope),
        valid_from=_day(fields.get("valid_from"), f"{where}: valid_from"),
        valid_to=_day(fields.get("valid_to"), f"{where}: valid_to"),
        note=fields.get("note") or "",
    )


def _amount(text: object, what: str) -> Decimal | None:
    if text in (None, ""):
        return None
    try:
        return Decimal(str(text))
    except InvalidOperation:
        raise InvalidInput(f"{what} {text!s:.60} is no number") from None


def _day(text: object, what: str) -> date | None:
    if text in (None, ""):
        return None
    try:
        return date.fromisoformat(str(text))
    except ValueError:
        raise InvalidInput(f"{what} {text!s:.60} is no day; write 2026-01-31") from None
