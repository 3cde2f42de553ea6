"""Stages, promotion, rollback and aliases of model versions: all that may change about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, effective, state_of
from ml_registry_pipelines.registry.errors import (
    IllegalTransition,
    InvalidInput,
    ModelIsDeprecated,
    ProtectedAlias,
)
from ml_registry_pipelines.registry.names import checked_alias, checked_instant
from ml_registry_pipelines.registry.needs import deleted_source
from ml_registry_pipelines.registry.references import living, version_state, versions_of
from ml_registry_pipelines.registry.relationships import label
from ml_registry_pipelines.registry.states import MODEL, MODEL_VERSION, State, from_rows
from ml_registry_pipelines.registry.things import Thing, thing_of
from ml_registry_pipelines.registry.timeline import Timeline
from ml_registry_pipelines.registry.versions import Stage, Version, check_step, stage_of, version_of
from ml_registry_pipelines.registry.view import View


@dataclass(frozen=True)
class InProduction:
    """What was in production at an instant, since when, and by whose act."""

    version: Version
    since: datetime
    actor: str
    recorded_at: datetime


class Promotion(Desk):
    """The verbs that move versions."""

    def get_version(self, reference: str, *, as_of: datetime | None = None) -> Version:
        """The version that `MODEL@v3`, `MODEL@ALIAS`, `MODEL@production` or `MODEL@latest` means, or an id.

        Raises:
            VersionNotFound: the model has none under that selector; the text lists what it has.
        """
        view = self.view(as_of, about=(MODEL_VERSION, reference))
        return self._version(view, version_state(view, reference))

    def set_stage(
        self,
        reference: str,
        stage: Stage | str,
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Version:
        """Move a version to a stage; into production it goes by `promote_to_production`.

        Raises:
            IllegalTransition: no step leads there.
        """
        to = stage_of(stage)
        if to is Stage.PRODUCTION:
            raise InvalidInput("a version goes into production by promote_to_production alone")

        def edit(state: State, _: View) -> dict[str, Any]:
            check_step(reference, Stage(state.data["stage"]), to)
            return {"stage": to.value}

        return self.amend_version(
            "set_stage", reference, {"stage": to.value}, edit, idempotency_key, valid_from=valid_from
        )

    def promote_to_production(
        self,
        reference: str,
        *,
        former: Stage | str = Stage.ARCHIVED,
        reason: str = "",
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Version:
        """Make a version the model's one production version; the former one goes to `former`.

        Raises:
            IllegalTransition: it is in production already, or archived (then `rollback` leads back), or
                something that it learned from is deleted. `rollback` does not ask for that, being the
                way out of trouble.
            ModelIsDeprecated: its model is deprecated.
        """
        then = stage_of(former)
        if then is Stage.PRODUCTION:
            raise InvalidInput("the former version cannot stay in production; choose another stage for it")

        def decide(view: View) -> list[Change]:
            state = version_state(view, reference)
            model = _model(view, state)
            check_step(_reference(model, state), Stage(state.data["stage"]), Stage.PRODUCTION)
            if gone := deleted_source(view, state):
                raise IllegalTransition(
                    f"{_reference(model, state)} was made from {label(view, gone.id)!r}, which is deleted; "
                    "restore it first"
                )
            return _into_production(view, model, state, then)

        change = {"version": reference, "former": then.value, "reason": reason}
        done = self.do(
            "promote_to_production",
            MODEL_VERSION,
            change,
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return self._version(self.now(), state_of(done))

    def rollback(
        self,
        model: str,
        *,
        former: Stage | str = Stage.ARCHIVED,
        reason: str = "",
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Version:
        """Put the version back into production that was there before; the present one goes to `former`.

        A second rollback goes further back: what was rolled back returns by promotion alone.
        The event of the present one says what replaced it.

        Raises:
            IllegalTransition: nothing is in production, or nothing that lives was before and was not
                rolled back itself.
        """
        then = stage_of(former)
        if then is Stage.PRODUCTION:
            raise InvalidInput("the former version cannot stay in production; choose another stage for it")

        def decide(view: View) -> list[Change]:
            owner = living(view, MODEL, model)
            versions = versions_of(view, owner.id)
            present = next((s for s in versions if s.data["stage"] == Stage.PRODUCTION.value), None)
            if present is None:
                raise IllegalTransition(f"model {owner.name!r} has nothing in production to roll back")
            left = [(_left_production(view, s), s) for s in versions if s.id != present.id]
            before = max(((n, s.id, s) for n, s in left if n), default=None)
            if before is None:
                raise IllegalTransition(
                    f"model {owner.name!r} had no other version in production that still lives and "
                    "that was not rolled back itself"
                )
            return _into_production(view, owner, before[2], then)

        change = {"model": model, "former": then.value, "reason": reason}
        done = self.do(
            "rollback", MODEL_VERSION, change, decide, idempotency_key=idempotency_key, valid_from=valid_from
        )
        return self._version(self.now(), state_of(done))

    def production_on(
        self, model: str, instant: datetime, *, as_of: datetime | None = None
    ) -> InProduction | None:
        """What was in production at an instant, by effective time, as known now or at `as_of`."""
        checked_instant(instant, "time")
        view = self.view(as_of)
        owner = living(view, MODEL, model)
        held = _in_production(view, owner.id).at(instant)
        if held is None or held.value is None:
            return None
        (state,) = effective(view, "model_versions", "id = $id", {"id": held.value.id}, instant)
        return InProduction(
            version_of(state, owner.name), held.start, held.value.actor, held.value.recorded_at
        )

    # -- aliases -------------------------------------------------------------------------

    def set_alias(
        self,
        reference: str,
        alias: str,
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Let an alias of the model mean this version; it may have meant another one.

        Raises:
            ProtectedAlias: it is protected and means another version.
        """
        checked_alias(alias)

        def decide(view: View) -> list[Change]:
            state = version_state(view, reference)
            model = _model(view, state)
            aliases = dict(model.data.get("aliases", {}))
            number = state.data["version"]
            if alias in model.data.get("protected_aliases", ()) and aliases.get(alias, number) != number:
                raise ProtectedAlias(model.name, alias)
            return [Change(MODEL, model.id, {**model.data, "aliases": {**aliases, alias: number}})]

        done = self.do(
            "set_alias",
            MODEL,
            {"version": reference, "alias": alias},
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return thing_of(state_of(done))

    def remove_alias(
        self,
        model: str,
        alias: str,
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Take an alias away.

        Raises:
            ProtectedAlias: it is protected.
            IllegalTransition: the model has no such alias.
        """

        def edit(state: State) -> dict[str, Any]:
            aliases = dict(state.data.get("aliases", {}))
            if alias not in aliases:
                raise IllegalTransition(f"model {state.name!r} has no alias {alias!r}")
            if alias in state.data.get("protected_aliases", ()):
                raise ProtectedAlias(state.name, alias)
            del aliases[alias]
            return {"aliases": aliases}

        return self._amend_model("remove_alias", model, {"alias": alias}, edit, idempotency_key, valid_from)

    def protect_alias(
        self,
        model: str,
        alias: str,
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Let an alias neither be moved nor removed until it is unprotected, an act of its own."""
        checked_alias(alias)

        def edit(state: State) -> dict[str, Any]:
            return {"protected_aliases": sorted({*state.data.get("protected_aliases", ()), alias})}

        return self._amend_model("protect_alias", model, {"alias": alias}, edit, idempotency_key, valid_from)

    def unprotect_alias(
        self,
        model: str,
        alias: str,
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Take the protection of an alias back."""

        def edit(state: State) -> dict[str, Any]:
            protected = set(state.data.get("protected_aliases", ()))
            if alias not in protected:
                raise IllegalTransition(f"alias {alias!r} of model {state.name!r} is not protected")
            return {"protected_aliases": sorted(protected - {alias})}

        return self._amend_model(
            "unprotect_alias", model, {"alias": alias}, edit, idempotency_key, valid_from
        )

    # -- how they are done -----------------------------------------------------------------

    def amend_version(
        self,
        action: str,
        reference: str,
        change: Mapping[str, object],
        edit: Callable[[State, View], Mapping[str, Any]],
        idempotency_key: str | None = None,
        *,
        deleted: bool = False,
        valid_from: datetime | None = None,
    ) -> Version:
        """Change what may change about a version: `edit` gives the fields that get other values."""

        def decide(view: View) -> list[Change]:
            state = version_state(view, reference, deleted=deleted)
            return [Change(MODEL_VERSION, state.id, {**state.data, **edit(state, view)})]

        done = self.do(
            action,
            MODEL_VERSION,
            {"version": reference, **change},
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return self._version(self.now(), state_of(done))

    def _amend_model(
        self,
        action: str,
        model: str,
        change: Mapping[str, object],
        edit: Callable[[State], Mapping[str, Any]],
        idempotency_key: str | None,
        valid_from: datetime | None,
    ) -> Thing:
        def decide(view: View) -> list[Change]:
            state = living(view, MODEL, model)
            return [Change(MODEL, state.id, {**state.data, **edit(state)})]

        done = self.do(
            action,
            MODEL,
            {"model": model, **change},
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        return thing_of(state_of(done))

    def _version(self, view: View, state: State) -> Version:
        return version_of(state, _model(view, state).name)


def _model(view: View, version: State) -> State:
    model = view.by_id("things", str(version.data["model_id"]))
    assert model is not None
    return model


def _reference(model: State, version: State) -> str:
    return f"{model.name}@v{version.data['version']}"


def _into_production(view: View, model: State, state: State, former: Stage) -> list[Change]:
    if model.data["status"] == "deprecated":
        raise ModelIsDeprecated(model.name)
    changes = [Change(MODEL_VERSION, state.id, {**state.data, "stage": Stage.PRODUCTION.value})]
    for other in versions_of(view, model.id, deleted=True):
        if other.id != state.id and other.data["stage"] == Stage.PRODUCTION.value:
            replaced = {"replaced_by": _reference(model, state), "stage": former.value}
            changes.append(Change(MODEL_VERSION, other.id, {**other.data, "stage": former.value}, replaced))
    return changes


def _left_production(view: View, version: State) -> int:
    """The event by which a version last left production; 0 if it never was there, or was rolled back."""
    last, inside = 0, False
    for state in view.history("model_versions", version.id):
        now_inside = state.data["stage"] == Stage.PRODUCTION.value
        if inside and not now_inside:
            last = 0 if state.action == "rollback" else state.sequence
        inside = now_inside
    return last


def _in_production(view: View, model: str) -> Timeline[State | None]:
    """The states with which versions of a model went into production; None where nothing was there.

    A model has one place in production: a version that comes takes it from whatever had it.
    """
    rows = view.over_states(
        "registry.in_production",
        "model_versions",
        "SELECT * FROM states WHERE from_sequence <= $at AND model_id = $model ORDER BY from_sequence",
        {"model": model},
    )
    told: Timeline[State | None] = Timeline()
    inside: str | None = None
    for state in from_rows("model_versions", rows):
        comes = state.data["stage"] == Stage.PRODUCTION.value and not state.deleted
        if comes and inside != state.id:
            inside = state.id
            told.tell(state, state.valid_from)
        elif inside == state.id and not comes:
            inside = None
            told.tell(None, state.valid_from)
    return told
