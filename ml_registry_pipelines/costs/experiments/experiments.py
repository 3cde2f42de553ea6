"""`Experiments`: declared, started and stopped as commands on the log, and what they are now.

An experiment is an event before it is a figure. Until it starts, its declaration may be replaced;
from then on it is fixed, and another question is a new version under the same name. Figures and
decisions are in `deciding.py` and `looking.py`; a winner is proposed here, and promoted by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ml_registry_pipelines.costs.experiments.declaring import Declaration, parse
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.events import new_id, now
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.names import checked_instant, checked_text
from ml_registry_pipelines.registry.references import named, version_state
from ml_registry_pipelines.registry.states import EXPERIMENT, State, from_rows
from ml_registry_pipelines.registry.view import View

DECLARED, RUNNING, STOPPED = "declared", "running", "stopped"


@dataclass(frozen=True)
class Experiment:
    """One version of an experiment in one state.

    `version_ids` has the registry's version of each arm that names one. `proposal` is the promotion
    that a decision proposed: arm, version, decision; None: none yet.
    """

    tenant: str
    id: str
    name: str
    version: int
    status: str
    declaration: Declaration
    version_ids: Mapping[str, str]
    declared_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None
    stop_reason: str
    proposal: Mapping[str, Any] | None
    sequence: int
    actor: str

    @property
    def retrospective(self) -> bool:
        """Whether it was declared when its data may have been known: then nothing is proposed from it."""
        return self.started_at is not None and self.started_at < self.declared_at


class Experiments(Desk):
    """Experiments of one tenant, for one actor. Every command is one atomic commit."""

    def declare(
        self,
        declaration: Declaration | Mapping[str, Any],
        *,
        new_version: bool = False,
        idempotency_key: str | None = None,
    ) -> Experiment:
        """Declare an experiment, or declare it otherwise before it has started.

        Args:
            new_version: begin the next version of one that has been stopped.

        Raises:
            IllegalTransition: it has been started: nothing of it can be changed, by nobody.
            InvalidInput: the declaration cannot be used.
            NotFound, VersionNotFound: an arm names a version that the registry does not have.
        """
        given = declaration if isinstance(declaration, Declaration) else parse(declaration)
        recorded = given.recorded()

        def decide(view: View) -> list[Change]:
            versions = {
                a.name: version_state(view, a.version).id for a in given.arms if a.version is not None
            }
            found = [state for state in named(view, EXPERIMENT, given.name) if not state.deleted]
            old = experiment_of(found[0]) if found else None
            number = 1 if old is None else old.version
            if old is not None and old.status != DECLARED:
                _refuse_change(old, new_version=new_version)
                number += 1
            state = _state(given, number, versions, DECLARED, {"declared_at": now().isoformat()})
            return [Change(EXPERIMENT, new_id() if old is None else old.id, state)]

        done = self.do(
            "declare_experiment",
            EXPERIMENT,
            {"declaration": recorded, "new_version": new_version},
            decide,
            idempotency_key=idempotency_key,
        )
        return experiment_of(state_of(done))

    def start(
        self, name: str, *, at: datetime | None = None, idempotency_key: str | None = None
    ) -> Experiment:
        """Start an experiment: from `at` on, by default now, assignments count. Its declaration is fixed.

        A start in the past is taken, for data that are there already; what comes of such an
        experiment is marked as retrospective and proposes nothing.

        Raises:
            IllegalTransition: it was started before.
            NotFound: nothing of that name is declared.
        """
        given = None if at is None else checked_instant(at, "start").astimezone(UTC)

        def decide(view: View) -> list[Change]:
            state = living_experiment(view, name)
            old = experiment_of(state)
            if old.status != DECLARED:
                raise IllegalTransition(
                    f"experiment {shown(old.name)} version {old.version} is {old.status} since "
                    f"{_shown(old.stopped_at or old.started_at)}; it starts once"
                )
            return [_changed(state, RUNNING, started_at=(given or now()).isoformat())]

        return self._done("start_experiment", {"of": name, "at": _text(given)}, decide, idempotency_key)

    def stop(
        self, name: str, *, reason: str = "", at: datetime | None = None, idempotency_key: str | None = None
    ) -> Experiment:
        """Stop an experiment: assignments and requests from `at` on, by default now, no longer count.

        Raises:
            IllegalTransition: it is not running.
            InvalidInput: the stop lies before the start, or in the future.
        """
        given = None if at is None else checked_instant(at, "stop").astimezone(UTC)
        checked_text(reason, "reason")

        def decide(view: View) -> list[Change]:
            state = living_experiment(view, name)
            old = experiment_of(state)
            if old.status != RUNNING or old.started_at is None:
                raise IllegalTransition(f"experiment {shown(old.name)} is {old.status}, not running")
            moment = now()
            until = given or max(moment, old.started_at)
            if until < old.started_at or until > max(moment, old.started_at):
                raise InvalidInput(
                    f"experiment {shown(old.name)} runs since {_shown(old.started_at)} and cannot be stopped at "
                    f"{_shown(until)}; give a time from then to now"
                )
            return [_changed(state, STOPPED, stopped_at=until.isoformat(), stop_reason=reason)]

        change = {"of": name, "at": _text(given), "reason": reason}
        return self._done("stop_experiment", change, decide, idempotency_key)

    def propose(self, experiment: Experiment, arm: str, decision_id: str) -> Experiment:
        """Record that a decision proposes to promote what an arm runs. It promotes nothing.

        Given again for the same arm of the same version, it records nothing more.
        """

        def decide(view: View) -> list[Change]:
            state = living_experiment(view, experiment.name)
            held = experiment_of(state)
            if held.version != experiment.version:
                raise IllegalTransition(
                    f"experiment {shown(held.name)} is at version {held.version}; version {experiment.version} "
                    "proposes nothing any more"
                )
            if held.proposal is not None and held.proposal["arm"] == arm:
                return []
            run = next(each for each in held.declaration.arms if each.name == arm)
            proposal = {
                "arm": arm,
                "version": run.version,
                "version_id": held.version_ids.get(arm),
                "models": list(run.models),
                "decision_id": decision_id,
            }
            return [_changed(state, held.status, proposal=proposal)]

        change = {"of": experiment.name, "arm": arm, "decision_id": decision_id}
        self.do("propose_promotion", EXPERIMENT, change, decide)
        return self.show(experiment.name)

    def _done(
        self, action: str, change: Mapping[str, object], decide: Any, idempotency_key: str | None
    ) -> Experiment:
        done = self.do(action, EXPERIMENT, change, decide, idempotency_key=idempotency_key)
        return experiment_of(state_of(done))

    def show(self, name: str, *, version: int | None = None) -> Experiment:
        """One experiment, in its newest version or the given one, in the newest state of that.

        Raises:
            NotFound: there is none.
        """
        view = self.view()
        state = living_experiment(view, name)
        if version is None:
            return experiment_of(state)
        states = [s for s in view.history("things", state.id) if s.data["metadata"]["version"] == version]
        if not states:
            raise NotFound("experiment", f"{state.name} version {version}", self.tenant)
        return experiment_of(states[-1])

    def list(self) -> list[Experiment]:
        """All experiments in their newest version, by name."""
        found = self.view().select(
            "experiments.list",
            "things",
            "type = $type AND NOT deleted",
            order="name",
            parameters={"type": EXPERIMENT},
        )
        return [experiment_of(state) for state in found]


def running(log: Log) -> list[Experiment]:
    """The experiments of all tenants that run, or ended so lately that labels may still come."""
    rows = log.view("default").of_all_tenants(
        "experiments.running",
        "things",
        "SELECT * FROM current WHERE type = $type AND NOT deleted AND status IN ('running', 'stopped') "
        "ORDER BY tenant, name",
        {"type": EXPERIMENT},
    )
    return [experiment_of(state) for state in from_rows("things", rows)]


def living_experiment(view: View, name: str) -> State:
    """The state of the experiment with that name or id.

    Raises:
        NotFound: there is none.
    """
    found = [state for state in named(view, EXPERIMENT, name) if not state.deleted]
    by_id = view.by_id("things", name)
    if by_id is not None and by_id.entity_type == EXPERIMENT and not by_id.deleted:
        found.append(by_id)
    if not found:
        raise NotFound(
            "experiment", name, view.tenant, hint="; `mlreg experiments list` shows those there are"
        )
    return found[0]


def experiment_of(state: State) -> Experiment:
    """A state as a value."""
    held = state.data["metadata"]
    return Experiment(
        tenant=state.tenant,
        id=state.id,
        name=state.name,
        version=int(held["version"]),
        status=str(state.data["status"]),
        declaration=parse(held["declaration"]),
        version_ids=held["version_ids"],
        declared_at=datetime.fromisoformat(held["declared_at"]),
        started_at=_time(held.get("started_at")),
        stopped_at=_time(held.get("stopped_at")),
        stop_reason=held.get("stop_reason", ""),
        proposal=held.get("proposal"),
        sequence=state.sequence,
        actor=state.actor,
    )


def _refuse_change(old: Experiment, *, new_version: bool) -> None:
    """Raises where an experiment that was started would be declared otherwise."""
    since = _shown(old.started_at)
    if old.status == RUNNING:
        raise IllegalTransition(
            f"experiment {shown(old.name)} version {old.version} runs since {since}, and its declaration is fixed; "
            "stop it, then declare a new version of it"
        )
    if not new_version:
        raise IllegalTransition(
            f"experiment {shown(old.name)} version {old.version} ran from {since} to {_shown(old.stopped_at)}, and "
            "its declaration is fixed; declare a new version of it (`--new-version`)"
        )


def _state(
    given: Declaration, number: int, versions: Mapping[str, str], status: str, times: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "name": given.name,
        "description": given.description,
        "status": status,
        "deleted": False,
        "metadata": {
            "version": number,
            "declaration": given.recorded(),
            "version_ids": dict(versions),
            **times,
        },
    }


def _changed(state: State, status: str, **changes: object) -> Change:
    metadata = {**state.data["metadata"], **changes}
    return Change(EXPERIMENT, state.id, {**state.data, "status": status, "metadata": metadata})


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _shown(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}Z"
