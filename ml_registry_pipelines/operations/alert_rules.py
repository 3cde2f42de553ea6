"""What is worth an alert: the thresholds of all rules with their defaults, and the YAML file that changes them.

`alert-rules.yaml` below the home names only what is to be otherwise::

    budgets: {shares: ["0.5", "0.8", "1"], fast_rate: 8}
    error_rate: {rate: 0.02, cooldown_minutes: 30}
    slow_requests:
      p95_ms: 20000
      models: {"o3*": 120000}        # `*` stands for anything; the longest pattern that fits
    quality_drift: {enabled: false}
    storage: {most_bytes: 50000000000}

`mlreg alerts rules` prints all of them with what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from fnmatch import fnmatchcase
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.strict_yaml import strict_loader

FILE = "alert-rules.yaml"
T = TypeVar("T")
U = TypeVar("U")
Hours = Annotated[int, Field(gt=0, le=24 * 31)]
Share = Annotated[float, Field(gt=0, le=1)]


class RulesError(MlregError):
    """The file of the rules does not say what it has to."""


class Worse(Enum):
    """Which way a metric goes when it gets worse."""

    LOWER = "lower"
    HIGHER = "higher"
    EITHER = "either"


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="whether the rule is looked at")
    cooldown_minutes: int = Field(
        default=60,
        ge=0,
        le=7 * 24 * 60,
        description="so long after it was over, sinks do not hear that it is wrong again",
    )


class BudgetRule(_Rule):
    """Budgets: what is spent, how fast, and what it comes to."""

    shares: tuple[Annotated[Decimal, Field(gt=0, le=100)], ...] = Field(
        default=(Decimal("0.8"), Decimal(1)),
        description="shares of the amount to alert at, where a budget has none of its own; an error from 1 on",
    )
    fast_hours: tuple[Hours, Hours] = Field(
        default=(6, 1), description="windows of the fast burn rate, in hours: both have to reach it"
    )
    fast_rate: float = Field(
        default=6.0, gt=0, description="fast burn rate, an error; 1 spends the amount in exactly the period"
    )
    slow_hours: tuple[Hours, Hours] = Field(
        default=(72, 6), description="windows of the slow burn rate, in hours"
    )
    slow_rate: float = Field(default=2.0, gt=0, description="slow burn rate, a warning")
    forecast: bool = Field(default=True, description="whether a forecast above the amount is an alert")
    least_coverage: Share = Field(
        default=0.95,
        description="share of billable requests that must have a price for a budget's figure to be believed",
    )


class ErrorRateRule(_Rule):
    """Requests of one tenant to one model that fail, by attempts that reached the provider."""

    hours: Hours = Field(default=1, description="length of the window; it begins with a whole hour")
    rate: Share = Field(
        default=0.05, description="a warning from this error rate on, by its lower 95 % bound"
    )
    severe_rate: Share = Field(default=0.25, description="an error from this one on")
    least_requests: int = Field(default=100, gt=0, description="requests below which nothing is said")


class SlowRequestsRule(_Rule):
    """Requests of one tenant to one model that take long."""

    hours: Hours = Field(default=1, description="length of the window; it begins with a whole hour")
    p95_ms: float = Field(
        default=30_000.0, gt=0, description="a warning above this 95th percentile of the latency, in ms"
    )
    severe_factor: float = Field(default=3.0, ge=1, description="an error above so many times of it")
    models: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="other limits in ms by model, as logs name it"
    )
    least_requests: int = Field(
        default=100, gt=0, description="successful requests below which nothing is said"
    )

    def limit(self, model: str | None) -> float:
        """The limit in ms for a model."""
        return _longest(self.models, model or "", self.p95_ms)


class QualityDriftRule(_Rule):
    """Recorded metrics that differ from before: a Mann-Whitney U test of the newest points against earlier ones."""

    metrics: dict[str, Worse] = Field(
        default_factory=lambda: {
            "*accuracy*": Worse.LOWER,
            "*quality*": Worse.LOWER,
            "*score*": Worse.LOWER,
            "*faithfulness*": Worse.LOWER,
            "*hallucination*": Worse.HIGHER,
            "*toxicity*": Worse.HIGHER,
        },
        description="metrics that are looked at, and which way is worse: lower, higher or either",
    )
    recent_hours: Hours = Field(default=7 * 24, description="the newest points, in hours")
    earlier_hours: Hours = Field(default=28 * 24, description="the points before them, in hours")
    least_points: int = Field(default=30, ge=8, description="points below which neither side is compared")
    alpha: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="level of the test, divided by the number of series compared (Bonferroni)",
    )
    least_effect: float = Field(
        default=0.6,
        gt=0.5,
        lt=1,
        description="chance that a newest point is worse than an earlier one; 0.5 says there is no difference",
    )
    severe_effect: float = Field(default=0.75, gt=0.5, le=1, description="an error from this one on")

    def worse(self, metric: str) -> Worse | None:
        """Which way is worse; None: the metric is not looked at."""
        return _longest(self.metrics, metric.lower(), None)


class LateDataRule(_Rule):
    """Requests that come long after they happened, and tenants that have gone silent."""

    late_hours: Hours = Field(default=48, description="a record that comes so long after its request is late")
    looked_at_hours: Hours = Field(
        default=24, description="records that came within so many hours are looked at"
    )
    least_requests: int = Field(default=1, gt=0, description="late records below which nothing is said")
    silent_hours: Hours = Field(
        default=24, description="a tenant with requests on 5 of 7 days is silent after so long without any"
    )


class SlowQueriesRule(_Rule):
    """Queries of the platform itself that take long."""

    hours: Hours = Field(default=1, description="length of the window")
    p95_ms: float = Field(default=5_000.0, gt=0, description="a warning above this 95th percentile, in ms")
    queries: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: {
            "cost_rollup*": 120_000.0,
            "performance_rollup*": 120_000.0,
            "slices.*": 120_000.0,
            "tag_costs.rows": 120_000.0,
        },
        description="other limits in ms by the query's name, for those that read a day of raw rows",
    )
    least_runs: int = Field(default=5, gt=0, description="runs below which nothing is said")

    def limit(self, name: str) -> float:
        """The limit in ms for a query."""
        return _longest(self.queries, name, self.p95_ms)


class StorageRule(_Rule):
    """Space that runs out."""

    most_bytes: int | None = Field(
        default=None, gt=0, description="what all tables together may take; none: no limit"
    )
    share: Share = Field(default=0.8, description="a warning from this share of it on; all of it is an error")
    free_share: Share = Field(default=0.1, description="a warning where less of the disk is free")
    free_bytes: int = Field(
        default=2_000_000_000,
        ge=0,
        description="an error where fewer bytes of the disk are free; writes stop soon after",
    )


class DataProtectionRule(_Rule):
    """Deadlines of data protection: requests, breaches, keys to rotate, special categories to delete."""

    early: float = Field(
        default=1.0, gt=0, le=10, description="how much earlier than usual to warn; 2: twice as early"
    )


class AlertRules(BaseModel):
    """All rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    budgets: BudgetRule = BudgetRule()
    error_rate: ErrorRateRule = ErrorRateRule()
    slow_requests: SlowRequestsRule = SlowRequestsRule()
    quality_drift: QualityDriftRule = QualityDriftRule()
    late_data: LateDataRule = LateDataRule()
    slow_queries: SlowQueriesRule = SlowQueriesRule()
    storage: StorageRule = StorageRule()
    data_protection: DataProtectionRule = DataProtectionRule()


def configured_rules(home: str) -> AlertRules:
    """The rules of `alert-rules.yaml` below the home; the defaults where there is no such file.

    Raises:
        RulesError: the file does not say what it has to.
    """
    folder = open_folder(home)
    if not folder.exists(FILE):
        return AlertRules()
    return read_rules(folder.read(FILE).decode("utf-8", "replace"), file=f"{home}/{FILE}")


def read_rules(text: str, *, file: str) -> AlertRules:
    """Read a file of rules; `file` is what errors call it.

    Raises:
        RulesError: with the file, the rule, the setting and what is wrong with it.
    """
    import yaml

    try:
        given = yaml.load(text, Loader=strict_loader(texts=False))  # noqa: S506 - builds plain values alone
    except yaml.YAMLError as wrong:
        raise RulesError(f"{file} is no YAML: {' '.join(str(wrong).split())}") from None
    if not isinstance(given, dict | None):
        raise RulesError(
            f"{file} has to be a mapping of rules; the rules are {', '.join(AlertRules.model_fields)}"
        )
    try:
        return AlertRules.model_validate(given or {})
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RulesError(f"{file}: {place}: {_said(first)}") from None


def shown_rules(rules: AlertRules) -> list[tuple[str, str, str, bool, str]]:
    """Every setting: (rule, setting, value, whether it is the default, what it means)."""
    defaults = AlertRules()
    return [
        (
            rule,
            setting,
            _shown(value),
            bool(value == getattr(getattr(defaults, rule), setting)),
            field.description or "",
        )
        for rule in AlertRules.model_fields
        for setting, field in type(getattr(rules, rule)).model_fields.items()
        for value in [getattr(getattr(rules, rule), setting)]
    ]


def _said(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        rule = error["loc"][0] if len(error["loc"]) > 1 else None
        known = AlertRules.model_fields[rule].annotation.model_fields if rule else AlertRules.model_fields  # type: ignore[union-attr]
        return f"there is no such setting; there are {', '.join(known)}"
    return f"{error['msg']}, not {error['input']!r:.80}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(each)}" for key, each in value.items()) or "-"
    if isinstance(value, tuple):
        return ", ".join(_shown(each) for each in value)
    if isinstance(value, Enum):
        return str(value.value)
    return "-" if value is None else str(value)


def _longest(patterns: Mapping[str, T], name: str, otherwise: U) -> T | U:
    """What stands for the longest pattern that fits."""
    found = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
    return patterns[max(found, key=len)] if found else otherwise
