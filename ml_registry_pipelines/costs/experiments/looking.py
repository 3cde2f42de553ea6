"""Looks at experiments: each is one row of `decisions`, with all that it was decided on.

A look reads one snapshot of the tables, decides by `deciding.py`, and stores the record. A winner is
proposed for promotion as an event of the log, once; who promotes it goes through the usual gates.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.experiments.deciding import Outcome, Verdict, decide
from ml_registry_pipelines.costs.experiments.experiments import DECLARED, Experiment, Experiments, running
from ml_registry_pipelines.costs.experiments.observing import READS, ArmSeen, Seen, observe
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.tables.experiments import DECISIONS
from ml_registry_pipelines.registry.errors import IllegalTransition, NotFound, shown
from ml_registry_pipelines.registry.events import new_id

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

SOURCE = "experiments"
"""Writer role of `decisions`."""
LOOK_EVERY = timedelta(hours=1)


class LooksFailed(MlregError):
    """Some experiments could not be looked at."""


@dataclass(frozen=True)
class Decision:
    """One row of `decisions`, read back. `parameters`, `gates`, `intervals` and `arms` are JSON values."""

    decision_id: str
    tenant: str
    experiment: str
    experiment_version: int
    looked_at: datetime
    recorded_at: datetime
    outcome: Outcome
    winner: str | None
    reasons: tuple[str, ...]
    message: str
    units_needed: int | None
    retrospective: bool
    proposes: str | None
    parameters: dict[str, Any]
    gates: list[dict[str, Any]]
    intervals: list[dict[str, Any]]
    arms: list[dict[str, Any]]
    price_coverage: float | None
    versions: dict[str, int | None]
    code_version: str


def look(
    experiments: Experiments, name: str, *, version: int | None = None, now: datetime | None = None
) -> Decision:
    """Look at one experiment now, store what was decided, and propose what won.

    Args:
        version: of its declaration; by default the newest one.
        now: the instant up to which data are looked at.

    Raises:
        IllegalTransition: it has not been started.
        NotFound: there is none.
    """
    experiment = experiments.show(name, version=version)
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    started = experiment.started_at
    if started is None or experiment.status == DECLARED:
        raise IllegalTransition(
            f"experiment {shown(experiment.name)} is declared and has not been started; "
            f"`mlreg experiments start {experiment.name}` starts it"
        )
    if started >= moment:
        raise IllegalTransition(
            f"experiment {shown(experiment.name)} starts on {started:%Y-%m-%d %H:%M:%S}Z; there is nothing to see yet"
        )
    lake = experiments.log.lake
    seen = _seen(lake, experiment, started, moment)
    verdict = decide(experiment.declaration, seen, started_at=started)
    decision_id = new_id()
    arm = next((each for each in experiment.declaration.arms if each.name == verdict.winner), None)
    newest = version is None or experiments.show(name).version == version
    proposed = arm if arm is not None and newest and not experiment.retrospective else None
    row = {
        **_row(experiment.tenant, experiment.name, verdict, moment, experiments.actor.id),
        "decision_id": decision_id,
        "experiment_id": experiment.id,
        "experiment_version": experiment.version,
        "declared_sequence": experiment.sequence,
        "retrospective": experiment.retrospective,
        "proposes": None if proposed is None else proposed.version or ", ".join(proposed.models),
        "parameters": _json(
            {
                **experiment.declaration.recorded(),
                **verdict.extras,
                "started_at": started,
                "stopped_at": experiment.stopped_at,
                "version_ids": dict(experiment.version_ids),
            }
        ),
        "arms": _json([_told(seen.arms[each.name]) for each in experiment.declaration.arms]),
        "control_cost": seen.arms[experiment.declaration.control.name].cost,
        "winner_cost": None if arm is None else seen.arms[arm.name].cost,
        "currency": experiment.declaration.cost.currency,
        "price_coverage": _least_coverage(seen),
        "assignments_version": seen.versions["assignments"],
        "outcomes_version": seen.versions["outcomes"],
        "events_version": seen.versions["inference_events"],
        "costs_version": seen.versions["model_costs"] + seen.versions["cost_corrections"],
        "price_generation": seen.price_generation,
        "price_digest": _price_digest(seen),
    }
    store(lake, row)
    if proposed is not None:
        experiments.propose(experiment, proposed.name, decision_id)
    return decisions(lake, tenant=experiment.tenant, decision_id=decision_id)[0]


def _seen(lake: Lake, experiment: Experiment, started: datetime, moment: datetime) -> Seen:
    from ml_registry_pipelines.telemetry.ingestion import user_salt

    with lake.read(*READS) as reading:
        return observe(
            reading,
            experiment.declaration,
            tenant=experiment.tenant,
            started_at=started,
            stopped_at=experiment.stopped_at,
            looked_at=moment,
            salt=user_salt(lake.root),
        )


def due(lake: Lake, log: Log, *, now: datetime) -> list[Experiment]:
    """Experiments whose last look is an hour ago: those that run, and those whose labels may still come."""
    found = [
        e for e in running(log) if e.started_at is not None and e.started_at < now and _is_awaited(e, now)
    ]
    if not found:
        return []
    with lake.read("decisions") as reading:
        rows = reading.query(
            "experiments.last_looks",
            """
            SELECT experiment_id, experiment_version, max(looked_at) AS looked_at FROM decisions
            WHERE experiment_id IS NOT NULL GROUP BY ALL
            """,
        ).to_pylist()
    last = {(row["experiment_id"], row["experiment_version"]): row["looked_at"] for row in rows}
    never = datetime.min.replace(tzinfo=UTC)
    return [e for e in found if now - last.get((e.id, e.version), never) >= LOOK_EVERY]


def _is_awaited(experiment: Experiment, now: datetime) -> bool:
    if experiment.stopped_at is None:
        return True
    late = timedelta(days=experiment.declaration.label_days) + LOOK_EVERY
    return now < experiment.stopped_at + late


def look_at_due(lake: Lake, log: Log, actor: Actor, *, now: datetime) -> list[Decision]:
    """Look at every experiment that is due, of all tenants.

    Raises:
        LooksFailed: some could not be looked at; all others were.
    """
    made: list[Decision] = []
    failures: list[str] = []
    for each in due(lake, log, now=now):
        try:
            made.append(look(Experiments(log, actor=actor, tenant=each.tenant), each.id, now=now))
        except MlregError as failure:
            failures.append(f"{each.name} of {each.tenant}: {failure}")
    if failures:
        raise LooksFailed("; ".join(failures))
    return made


# -- records --------------------------------------------------------------------------------------


def _row(tenant: str, name: str, verdict: Verdict, moment: datetime, actor: str) -> dict[str, Any]:
    """What every decision has, whether on an experiment or on a table of evaluations."""
    return {
        "tenant": tenant,
        "experiment": name,
        "looked_at": moment,
        "recorded_at": datetime.now(UTC),
        "actor": actor,
        "outcome": verdict.outcome.value,
        "winner": verdict.winner,
        "reasons": _json(list(verdict.reasons)),
        "message": verdict.message,
        "units_needed": verdict.units_needed,
        "gates": _json([gate.recorded() for gate in verdict.gates]),
        "intervals": _json([claim.recorded() for claim in verdict.claims]),
        "code_version": code_version(),
    }


def store(lake: Lake, row: dict[str, Any]) -> None:
    """Add one decision."""
    import pyarrow as pa

    lake.append_next("decisions", pa.Table.from_pylist([row], schema=DECISIONS.schema), source=SOURCE)


def store_evaluation(
    lake: Lake,
    verdict: Verdict,
    *,
    tenant: str,
    name: str,
    parameters: dict[str, Any],
    arms: list[dict[str, Any]],
    currency: str,
    data_digest: str,
    actor: str,
) -> Decision:
    """Add the decision on a table of evaluations, which no experiment was declared for."""
    moment = datetime.now(UTC)
    row = {
        **_row(tenant, name, verdict, moment, actor),
        "decision_id": new_id(),
        "experiment_version": 1,
        "retrospective": True,
        "parameters": _json({**parameters, **verdict.extras}),
        "arms": _json(arms),
        "currency": currency,
        "data_digest": data_digest,
    }
    store(lake, row)
    return decisions(lake, tenant=tenant, decision_id=str(row["decision_id"]))[0]


def decisions(
    lake: Lake,
    *,
    tenant: str,
    experiment: str | None = None,
    decision_id: str | None = None,
    limit: int = 100,
) -> list[Decision]:
    """Stored decisions of a tenant, the newest first.

    Raises:
        NotFound: none has that id.
    """
    with lake.read("decisions") as reading:
        rows = reading.query(
            "experiments.decisions",
            """
            SELECT * FROM decisions
            WHERE tenant = $tenant AND ($experiment IS NULL OR experiment = $experiment)
              AND ($id IS NULL OR starts_with(decision_id, $id))
            ORDER BY recorded_at DESC, decision_id LIMIT $limit
            """,
            {"tenant": tenant, "experiment": experiment, "id": decision_id, "limit": limit},
        ).to_pylist()
    if decision_id is not None and not rows:
        raise NotFound("decision", decision_id, tenant)
    return [_decision(row) for row in rows]


def _decision(row: dict[str, Any]) -> Decision:
    same = (
        *("decision_id", "tenant", "experiment", "experiment_version", "looked_at", "recorded_at", "winner"),
        *("message", "units_needed", "retrospective", "proposes", "price_coverage", "code_version"),
    )
    tables = ("assignments", "outcomes", "events", "costs")
    return Decision(
        **{name: row[name] for name in same},
        outcome=Outcome(row["outcome"]),
        reasons=tuple(json.loads(row["reasons"])),
        **{name: json.loads(row[name]) for name in ("parameters", "gates", "intervals", "arms")},
        versions={
            **{name: row[f"{name}_version"] for name in tables},
            "prices": row["price_generation"],
        },
    )


def _told(arm: ArmSeen) -> dict[str, Any]:
    return {
        "arm": arm.name,
        "units": arm.units,
        "labelled": arm.labelled,
        "labels": arm.labels,
        "skewed_labels": arm.skewed_labels,
        "early_labels": arm.early_labels,
        "requests": arm.requests,
        "foreign_requests": arm.foreign_requests,
        "billable": arm.billable,
        "priced": arm.priced,
        "cost": arm.cost,
        "price_ids": list(arm.price_ids),
    }


def _least_coverage(seen: Seen) -> float | None:
    return min((arm.coverage for arm in seen.arms.values() if arm.coverage is not None), default=None)


def _price_digest(seen: Seen) -> str | None:
    used = sorted({price for arm in seen.arms.values() for price in arm.price_ids})
    return hashlib.sha256("\n".join(used).encode()).hexdigest() if used else None


def _json(value: object) -> str:
    return json.dumps(value, default=_plain, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    match value:
        case Decimal():
            return format(value, "f")
        case datetime():
            return value.isoformat()
        case _:
            raise TypeError(f"{type(value).__name__} is no part of a decision")


@cache
def code_version() -> str:
    """Version of the package, and a digest of the modules that decide."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    try:
        installed = version("ml-registry-pipelines")
    except PackageNotFoundError:
        installed = "0"
    return f"{installed}+{digest.hexdigest()[:16]}"
