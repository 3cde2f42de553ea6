"""The catalogue of metrics: what can be measured, by which parameters, and which way a bound points.

Each area lists its own in a tuple `METRICS`; suites refer to them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ml_registry_pipelines.compliance.results import Area, Measured, Subject

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log

AREAS: tuple[str, ...] = (
    "ml_registry_pipelines.compliance.ai_act.metrics",
    "ml_registry_pipelines.compliance.artifact_security.checks",
    "ml_registry_pipelines.compliance.fairness.metrics",
    "ml_registry_pipelines.compliance.gdpr.data_metrics",
    "ml_registry_pipelines.compliance.gdpr.memory_metrics",
    "ml_registry_pipelines.compliance.gdpr.register_metrics",
    "ml_registry_pipelines.compliance.gdpr.rights_metrics",
)
"""Modules with a tuple `METRICS`, one or more per area."""


class Bound(Enum):
    """Which bounds a suite has to give for a metric. None has a default."""

    AT_MOST = "at_most"
    AT_LEAST = "at_least"
    BETWEEN = "between"


class Parameters(BaseModel):
    """Parameters of a metric, as a suite writes them. What is not declared is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Context:
    """Where a metric is measured.

    Attributes:
        subject: None for what is about a tenant as a whole.
        production: None: on the data that the version is evaluated with; else on what it predicted
            in production within this half-open window.
        memo: what metrics of one run share, such as data that were read once.
    """

    lake: Lake
    log: Log
    tenant: str
    at: datetime
    subject: Subject | None = None
    production: tuple[datetime, datetime] | None = None
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Metric:
    """One metric that suites can name.

    Attributes:
        name: in snake case, such as `demographic_parity_difference` or `gdpr_g1_purposes_declared`.
        measure: gives one `Measured` or several, each judged by itself. An error that it raises is
            `could_not_run`, never a pass.
        articles: of the law that it is evidence for.
        source: where its definition comes from.
    """

    name: str
    title: str
    area: Area
    bound: Bound
    parameters: type[Parameters]
    measure: Callable[[Context, Any], Sequence[Measured]]
    articles: tuple[str, ...] = ()
    source: str = ""
    needs_subject: bool = True


@cache
def catalogue() -> Mapping[str, Metric]:
    """All metrics by name."""
    found: dict[str, Metric] = {}
    for module in AREAS:
        for metric in import_module(module).METRICS:
            if found.setdefault(metric.name, metric) is not metric:
                raise ValueError(f"two metrics have the name {metric.name}")
    return found
