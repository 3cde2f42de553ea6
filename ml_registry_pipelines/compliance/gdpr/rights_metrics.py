"""Measures of subjects' rights: G9 to G12, over the register of requests and the graph of lineage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.gdpr.clocks import extension_limit, request_due
from ml_registry_pipelines.compliance.gdpr.entries import DataRequest, RequestKind
from ml_registry_pipelines.compliance.gdpr.measuring import (
    NoParameters,
    amiss,
    empty,
    gdpr_metric,
    unmeasured,
    view_of,
)
from ml_registry_pipelines.compliance.gdpr.requests import EXPORT, all_requests
from ml_registry_pipelines.compliance.results import Measured
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import BY_PLATFORM, Actor, ActorKind
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.states import DATASET, MODEL

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.metrics import Context

G9, G10, G11, G12 = (
    "gdpr_g9_requests_answered",
    "gdpr_g10_erasure_plan_complete",
    "gdpr_g11_needle_test",
    "gdpr_g12_exports",
)
STEPS = frozenset({"delete", "rematerialise", "re-materialise", "retrain", "justify"})
HOLD_NOTHING = frozenset({DATASET, MODEL})
"""What versions are part of: it has no rows or weights of its own."""
FORMATS = frozenset({"json", "csv", "schema"})
_CHECK = Actor("compliance-check", ActorKind.SYSTEM, BY_PLATFORM)


def requests_answered(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Requests that were, or are, answered late. An extension counts that was told within the first month."""
    listed = _requests(context)
    if not listed:
        return empty(G9, DataRequest)
    late = {}
    for request in listed:
        due = request_due(request)
        if request.extended_at is not None and (
            request.extended_at > extension_limit(request) or not request.extension_reason
        ):
            due = extension_limit(request)
        if (request.closed_at or context.at) > due:
            late[request.name] = f"{request.kind.value}, due {due:%Y-%m-%d}" + (
                "" if request.closed_at is None else f", answered {request.closed_at:%Y-%m-%d}"
            )
    open_ones = sum(request.closed_at is None for request in listed)
    return [amiss(G9, late, of=len(listed), unit="requests", detail={"open": open_ones})]


def _requests(context: Context) -> list[DataRequest]:
    key = "gdpr requests"
    if key not in context.memo:
        context.memo[key] = all_requests(view_of(context))
    found: list[DataRequest] = context.memo[key]
    return found


def _closed(context: Context, *kinds: RequestKind) -> list[DataRequest]:
    return [r for r in _requests(context) if r.closed_at is not None and r.kind in kinds]


def plan_complete(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Things that come from what held the subject's rows, and that an erasure's plan has no step for.

    The graph is walked as it is now: what has been made since from the same rows counts, too.
    """
    closed = _closed(context, RequestKind.ERASURE)
    if not closed:
        return [
            unmeasured(G10, "no erasure was ever closed, so there is no plan to compare with the lineage")
        ]
    tracker = LineageTracker(context.log, actor=_CHECK, tenant=context.tenant)
    measured = []
    for request in closed:
        undecided = [item for item, step in request.plan.items() if not _is_step(step)]
        if not request.roots and request.certificate and request.plan:
            detail = {"datasets": "none held rows of the subject, so nothing was derived from them"}
            measured.append(
                amiss(G10, undecided, of=len(request.plan), about=request.name, unit="things", detail=detail)
            )
            continue
        if not request.roots:
            measured.append(
                unmeasured(G10, "the request was closed without what held the subject's rows", request.name)
            )
            continue
        derived: dict[str, str] = {}
        try:
            for root in request.roots:
                impact = tracker.get_impact_analysis("dataset_version", root)
                derived.update(
                    (r.node.id, r.node.type) for reached in impact.affected.values() for r in reached
                )
                derived.update((node.id, node.type) for node in impact.roots)
        except RegistryError as wrong:
            measured.append(unmeasured(G10, f"its lineage cannot be walked: {wrong}", request.name))
            continue
        missing = {
            entity: kind
            for entity, kind in derived.items()
            if kind not in HOLD_NOTHING and not _is_step(request.plan.get(entity, ""))
        }
        missing |= {item: "no step" for item in undecided if item not in missing}
        measured.append(
            amiss(G10, missing, of=len(derived.keys() | request.plan), about=request.name, unit="things")
        )
    return measured


def _is_step(step: str) -> bool:
    """Whether a plan says what becomes of a thing: that it stays needs its ground, Art. 17(3)."""
    action, _, ground = step.partition(":")
    return action.strip() in STEPS and (action.strip() != "justify" or bool(ground.strip()))


def needle_test(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Places where an erased subject's identifiers were still found, by the last search of each erasure.

    An erasure that was carried out counts, whether it could be closed or not.
    """
    searched = [
        request
        for request in _requests(context)
        if request.kind is RequestKind.ERASURE and (request.closed_at or request.certificate)
    ]
    if not searched:
        return [unmeasured(G11, "no erasure was ever carried out, so nothing was searched")]
    measured = []
    for request in searched:
        needle = request.needle
        planted, found = needle.get("planted", 0), needle.get("found", 0)
        if "hits" not in needle or not needle.get("searched"):
            measured.append(unmeasured(G11, "the request was closed without a search", request.name))
            continue
        detail = {"planted": planted, "found": found, "unread": needle.get("unread", 0)}
        hits = needle["hits"]
        if hits:
            pass  # What was found was found, whatever else was not.
        elif not planted or found < planted:
            problem = f"the search found {found} of {planted} planted needles, so that it proves nothing"
            measured.append(unmeasured(G11, problem, request.name))
            continue
        elif needle.get("unread"):
            problem = (
                f"the certificate names what the search could not look at for certain ({needle['unread']})"
            )
            measured.append(unmeasured(G11, problem, request.name))
            continue
        measured.append(
            Measured(G11, float(hits), about=request.name, unit="hits", n=needle["searched"], detail=detail)
        )
    return measured


def exports(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Requests without a readable, valid and complete export in time, and bundles that lack something.

    Of the bundles of one subject under one article the last one counts.
    """
    closed = _closed(context, RequestKind.ACCESS, RequestKind.PORTABILITY)
    bundles = _bundles(context)
    if not closed and not bundles:
        return [unmeasured(G12, "no request for access or portability was ever closed, and nothing exported")]
    wrong = {}
    for name, complete in bundles.items():
        if not complete:
            wrong[name] = "not complete"
    for request in closed:
        bundle = request.bundle
        formats = bundle.get("formats", ())
        present = set(formats) if isinstance(formats, tuple) else set()
        problems = [f"no {name}" for name in sorted(FORMATS - present)]
        problems += [
            f"not {name.replace('_', ' ')}"
            for name in ("schema_valid", "complete")
            if bundle.get(name) is not True
        ]
        assert request.closed_at is not None
        if request.closed_at > request_due(request):
            problems.append("late")
        if problems:
            wrong[request.name] = ", ".join(problems)
    detail = {"requests": len(closed), "bundles": len(bundles)}
    return [amiss(G12, wrong, of=len(closed) + len(bundles), unit="answers", detail=detail)]


def _bundles(context: Context) -> dict[str, bool]:
    """The last bundle of each subject and article: whether all was in it that an erasure would find."""
    states = view_of(context).select(
        "gdpr.exports", "things", "type = $type", order="from_sequence", parameters={"type": EXPORT}
    )
    last: dict[tuple[str, str], tuple[str, bool]] = {}
    for state in states:
        said = state.data["metadata"]
        last[(str(said["subject"]), str(said["article"]))] = (state.id, said["complete"] is True)
    return {f"bundle {name}": complete for name, complete in last.values()}


METRICS = (
    gdpr_metric(G9, "Requests are answered in time", ("12(3)", "17", "19"), requests_answered),
    gdpr_metric(G10, "Erasure reaches all that is derived", ("17(1)", "17(3)"), plan_complete),
    gdpr_metric(G11, "Nothing of an erased subject is left", ("17", "5(2)"), needle_test),
    gdpr_metric(G12, "Exports are readable and complete", ("15", "20"), exports, source="WP 242 rev.01"),
)
