"""Measures of what models remember of their training rows: G15. None of them keeps or tells a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.gdpr.entries import MembershipScores
from ml_registry_pipelines.compliance.gdpr.measuring import (
    CONFIDENCE,
    NoParameters,
    gdpr_metric,
    register,
    unmeasured,
    view_of,
)
from ml_registry_pipelines.compliance.results import Interval, Measured
from ml_registry_pipelines.lineage.contents import read_content
from ml_registry_pipelines.lineage.fingerprints import DatasetUnreadable
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.references import dataset_state
from ml_registry_pipelines.telemetry.intervals import z_value

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.metrics import Context

G15, G15_CANARIES = "gdpr_g15_membership_inference", "gdpr_g15_canaries_extracted"


def membership_inference(context: Context, _: NoParameters) -> Sequence[Measured]:
    """How well a threshold on the score tells training rows from others: area under the ROC curve.

    Without shadow models: S. Yeom et al., "Privacy Risk in Machine Learning: Analyzing the Connection to
    Overfitting", CSF 2018. Who sees a curve below 0.5 turns the threshold round, so the greater of it
    and its complement counts. Interval: J. A. Hanley, B. J. McNeil, "The meaning and use of the area
    under a ROC curve", Radiology 143, 1982.
    """
    declared = _scores(context)
    if isinstance(declared, str):
        return [unmeasured(G15, declared)]
    found = [
        _score_values(context, reference, declared.column)
        for reference in (declared.train, declared.evaluation)
    ]
    for each in found:
        if isinstance(each, str):
            return [unmeasured(G15, each)]
    members, others = (each for each in found if not isinstance(each, str))
    if len(members) < 10 or len(others) < 10:
        return [unmeasured(G15, "there are fewer than 10 scores on a side")]
    area = auc(members, others)
    if not declared.higher_is_member:
        area = 1 - area
    interval = auc_interval(max(area, 1 - area), len(members), len(others))
    detail = {"members": len(members), "others": len(others), "attack turned round": area < 0.5}
    return [
        Measured(G15, max(area, 1 - area), interval, unit="AUC", n=len(members) + len(others), detail=detail)
    ]


def canaries(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Planted secrets that could be extracted from the version."""
    declared = _scores(context)
    if isinstance(declared, str):
        return [unmeasured(G15_CANARIES, declared)]
    if declared.canaries_extracted is None:
        return [unmeasured(G15_CANARIES, "nobody recorded whether planted secrets could be extracted")]
    return [Measured(G15_CANARIES, float(declared.canaries_extracted), unit="canaries")]


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Chance that a member's score is above another's, ties by half: Mann-Whitney U over both counts."""
    ranked = sorted([(value, 1) for value in members] + [(value, 0) for value in others])
    total = position = 0.0
    while position < len(ranked):
        end = int(position)
        while end < len(ranked) and ranked[end][0] == ranked[int(position)][0]:
            end += 1
        middle = (position + 1 + end) / 2
        total += middle * sum(member for _, member in ranked[int(position) : end])
        position = end
    n = len(members)
    return (total - n * (n + 1) / 2) / (n * len(others))


def auc_interval(area: float, n: int, m: int) -> Interval:
    """Hanley and McNeil's interval of an area under the curve, within 0 and 1."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m)
    half = z_value(CONFIDENCE) * math.sqrt(max(variance, 0.0))
    return Interval(max(area - half, 0.0), min(area + half, 1.0), CONFIDENCE, "hanley-mcneil")


def _scores(context: Context) -> MembershipScores | str:
    assert context.subject is not None
    wanted = {context.subject.reference, context.subject.version_id}
    found = [entry for entry in register(context, MembershipScores) if entry.version in wanted]
    if not found:
        return "no scores on training rows and on others are declared for the version; see `mlreg gdpr load`"
    return found[0]


def _score_values(context: Context, reference: str, column: str) -> list[float] | str:
    try:
        version = dataset_state(view_of(context), reference)
        metadata: dict[str, Any] = version.data["metadata"]
        if column not in {str(each["name"]) for each in metadata.get("columns") or []}:
            return f"{reference} has no column {column!r}"
        rows = read_content(
            metadata,
            [column],
            reference=reference,
            storage_options=context.lake.storage_options,
            readable=context.lake.readable,
        )
    except (RegistryError, DatasetUnreadable) as wrong:
        return f"scores cannot be read: {wrong}"
    values = rows[column].to_pylist()
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        return f"column {column!r} of {reference} holds what is no finite number"
    return [float(value) for value in values]


METRICS = (
    gdpr_metric(
        G15,
        "Membership cannot be inferred",
        ("4(1)",),
        membership_inference,
        subject=True,
        source="EDPB Opinion 28/2024",
    ),
    gdpr_metric(
        G15_CANARIES,
        "Planted secrets do not come out",
        ("4(1)",),
        canaries,
        subject=True,
        source="EDPB Opinion 28/2024",
    ),
)
