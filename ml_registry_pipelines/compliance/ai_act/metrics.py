"""The duties of the AI Act as metrics, so that a suite can demand them: `ai_act_<duty>`, 1 where it is met.

A duty that does not follow for a model is met, and the detail says so. Whether one does is read from
its classification; without one, nothing can be measured. What shows that it is met is read from
the dossier, the logs and the declared retention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.dossier.known import DAYS
from ml_registry_pipelines.compliance.metrics import Bound, Context, Metric, Parameters
from ml_registry_pipelines.compliance.results import Area, Measured, Verdict, worst
from ml_registry_pipelines.registry.actors import BY_PLATFORM, Actor, ActorKind

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.ai_act.classifications import Classification
    from ml_registry_pipelines.compliance.ai_act.table import DutyRule
    from ml_registry_pipelines.compliance.dossier.dossier import Dossier

READER = Actor("compliance-checks", ActorKind.SYSTEM, BY_PLATFORM)


class NoParameters(Parameters):
    """Duties have none."""


class CheckedOn(Parameters):
    """Whether a duty counts before the day from which on it applies."""

    before_it_applies: bool


@dataclass(frozen=True)
class _Shown:
    """Whether one piece of evidence holds, and what was looked at."""

    holds: bool
    what: str


def __getattr__(name: str) -> Any:
    # The table is read when somebody asks for the metrics, not when this module is imported.
    if name == "METRICS":
        return metrics()
    raise AttributeError(name)


@cache
def metrics() -> tuple[Metric, ...]:
    """All metrics of this area."""
    from ml_registry_pipelines.compliance.ai_act.table import current

    table = current()
    duties = tuple(
        Metric(
            name=f"ai_act_{duty.id}",
            title=duty.title,
            area=Area.AI_ACT,
            bound=Bound.AT_LEAST,
            parameters=CheckedOn,
            measure=_measure(duty),
            articles=(f"AI Act {duty.article}",),
            source=f"{table.base}; table {table.version}",
        )
        for duty in table.duties
    )
    return (
        *duties,
        Metric(
            name="ai_act_open_questions",
            title="Unknown facts that could raise the class",
            area=Area.AI_ACT,
            bound=Bound.AT_MOST,
            parameters=NoParameters,
            measure=_open_questions,
            articles=("AI Act 6",),
            source=f"{table.base}; table {table.version}",
        ),
        Metric(
            name="ai_act_dossier_score",
            title="Part of the fields of Annex IV that is derived or attested",
            area=Area.AI_ACT,
            bound=Bound.AT_LEAST,
            parameters=NoParameters,
            measure=_score,
            articles=("AI Act 11", "Annex IV"),
            source=f"{table.base}, Annex IV",
        ),
    )


def _measure(duty: DutyRule) -> Any:
    def measure(context: Context, parameters: CheckedOn) -> Sequence[Measured]:
        name = f"ai_act_{duty.id}"
        found = _classified(context)
        if isinstance(found, str):
            return [Measured(name, None, problem=found)]
        follows = next((d for d in found.duties if d.id == duty.id), None)
        detail: dict[str, object] = {
            "article": duty.article,
            "class": found.tier.value,
            "gates_as": found.gate_tier.value,
            "text_version": found.text_version,
            "missing_facts": list(found.missing),
        }
        if follows is None:
            return [Measured(name, 1.0, unit="met", detail={**detail, "follows": False})]
        detail |= {
            "follows": True if follows.certain else "unless an open question says otherwise",
            "applies_from": follows.applies_from and follows.applies_from.isoformat(),
            "in_force": follows.in_force,
            "readings": [{"date": r.date.isoformat(), "says": r.says} for r in follows.readings],
            "amended": follows.amended,
        }
        if not follows.in_force and not parameters.before_it_applies:
            return [Measured(name, 1.0, unit="met", detail={**detail, "counted": False})]
        if not duty.evidence:  # A prohibition is met by nothing that could be recorded.
            return [Measured(name, 0.0, unit="met", detail=detail)]
        shown = [_shown(context, found, piece) for piece in duty.evidence]
        detail["evidence"] = [{"what": s.what, "holds": s.holds} for s in shown]
        return [Measured(name, float(all(s.holds for s in shown)), unit="met", detail=detail)]

    return measure


def _open_questions(context: Context, _: NoParameters) -> Sequence[Measured]:
    found = _classified(context)
    if isinstance(found, str):
        return [Measured("ai_act_open_questions", None, problem=found)]
    detail = {"missing_facts": list(found.missing), "text_version": found.text_version}
    return [Measured("ai_act_open_questions", float(len(found.missing)), unit="facts", detail=detail)]


def _score(context: Context, _: NoParameters) -> Sequence[Measured]:
    dossier = _dossier(context)
    detail: dict[str, object] = {
        "missing": list(dossier.missing),
        "derived": list(dossier.derived),
        "attested": list(dossier.attested),
    }
    return [
        Measured("ai_act_dossier_score", dossier.score, unit="share", n=len(dossier.fields), detail=detail)
    ]


def _classified(context: Context) -> Classification | str:
    """The classification of the version's model, or why none can be gone by."""
    found = _read(context, context.log.head(context.tenant)[0])
    if found is None:
        return "the model is not classified under the EU AI Act; `mlreg ai-act form` prints the intake"
    return f"its class is not current: {found.stale_because}" if found.stale else found


@lru_cache(maxsize=2)
def _read(context: Context, _: int) -> Classification | None:
    """The classification at an event of the log: the metrics of one run of suites share it."""
    from ml_registry_pipelines.compliance.ai_act.classifications import AiAct

    assert context.subject is not None
    desk = AiAct(context.log, actor=READER, tenant=context.tenant)
    return desk.classification(context.subject.model_id, on=context.at.date())


def _dossier(context: Context) -> Dossier:
    return _made(context, context.log.head(context.tenant)[0])


@lru_cache(maxsize=2)
def _made(context: Context, _: int) -> Dossier:
    """The dossier as it is at an event of the log: the metrics of one run of suites share it."""
    from ml_registry_pipelines.compliance.dossier.dossier import Dossiers

    assert context.subject is not None
    desk = Dossiers(context.log, actor=READER, tenant=context.tenant)
    return desk.dossier(context.subject.version_id, at=context.at)


def _shown(context: Context, found: Classification, piece: Mapping[str, Any]) -> _Shown:
    match dict(piece):
        case {"field": name}:
            return _Shown(name not in _dossier(context).missing, f"Annex IV {name}")
        case {"record": name}:
            return _Shown(name in _dossier(context).records, f"record {name}")
        case {"document": kind}:
            left = _dossier(context).document(kind).missing
            return _Shown(not left, f"{kind}, {len(left)} parts missing")
        case {"fact": name}:
            return _Shown(found.answers.given.get(name) is True, f"answer {name}")
        case {"checks": area}:
            results = _dossier(context).known.results_of(Area(area))
            passed = worst(result.verdict for result in results) is Verdict.PASS
            return _Shown(passed, f"all checks of area {area} pass")
        case {"kept": table, "days": days}:
            return _kept(table, int(days))
        case {"logs": _}:
            traffic = _dossier(context).known.traffic
            # Without the count, which would make every run of the suite another evidence.
            return _Shown(traffic is not None, f"requests recorded in {DAYS} days")
    raise ValueError(f"{dict(piece)} is no evidence that can be looked at")


def _kept(table: str, days: int) -> _Shown:
    from ml_registry_pipelines.lake.tables import TABLES

    kept = TABLES[table].retention_days
    return _Shown(
        kept is None or kept >= days, f"{table} is kept {'for ever' if kept is None else f'{kept} days'}"
    )
