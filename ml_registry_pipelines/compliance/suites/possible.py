"""Suites that demand of their data what cannot be: refused where data and suites are declared together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.fairness.impossibility import Demand, impossible
from ml_registry_pipelines.compliance.fairness.people import Data, NotMeasurable
from ml_registry_pipelines.compliance.results import Severity

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.evaluation_rows import Evaluation
    from ml_registry_pipelines.compliance.suites.suite import Suite


def contradictions(suites: Sequence[Suite], evaluation: Evaluation) -> list[str]:
    """What the suites block on together and no model that ever errs can keep on these data."""
    demands: list[Demand] = []
    confidence, floor = 0.95, 1
    for expectation in (each for suite in suites for each in suite.expectations):
        given = expectation.parameters.model_dump(mode="json")
        groups = given.get("groups")
        if expectation.severity is Severity.CRITICAL and isinstance(groups, list):
            demands.append(Demand(expectation.metric.name, tuple(map(str, groups))))
            confidence = max(confidence, float(given.get("confidence") or 0))
            floor = max(floor, int(given.get("min_group_n") or 0))
    try:
        return impossible(demands, Data(evaluation), confidence=confidence, min_group_n=floor)
    except NotMeasurable:
        # The checks themselves will say that they could not run.
        return []
