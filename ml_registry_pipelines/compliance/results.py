"""What a check measures and what it says: the words that every area of compliance shares.

An area (fairness, data protection, AI Act, security) *measures*; a suite *judges* what was measured
against thresholds that a compliance officer wrote; the judgement is a `Result`, which is evidence.
None of them ever holds a personal value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


class Area(Enum):
    FAIRNESS = "fairness"
    GDPR = "gdpr"
    AI_ACT = "ai_act"
    SECURITY = "security"
    SUITE = "suite"
    """A suite that cannot be read: it says nothing about any other area."""


class Verdict(Enum):
    """What a check says. Whatever is no `PASS` never opens a gate."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    COULD_NOT_RUN = "could_not_run"


class Severity(Enum):
    """What follows where a check does not pass: `CRITICAL` blocks."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval; `method` names it, such as `newcombe`."""

    low: float
    high: float
    confidence: float
    method: str


@dataclass(frozen=True)
class Group:
    """One group of people that a metric looked at, by its attributes: `race=Caucasian`.

    A group that is too small to be judged is listed all the same, with the reason.
    """

    name: str
    n: int
    positives: int | None = None
    negatives: int | None = None
    value: float | None = None
    interval: Interval | None = None
    left_out: str = ""


@dataclass(frozen=True)
class Measured:
    """One row of the metric table: a value, or why there is none.

    Attributes:
        metric: its name in the catalogue of metrics.
        value: NULL where it could not be measured; then `problem` says why, in a sentence.
        about: what it was measured on where a metric gives several: `race`, `weights.safetensors`.
        reference: what groups were compared with: `max-min`, `ref=Caucasian`, `overall`.
        detail: what else belongs to the evidence, as JSON values: p values, findings, missing facts.
    """

    metric: str
    value: float | None
    interval: Interval | None = None
    about: str = ""
    unit: str = ""
    reference: str = ""
    groups: tuple[Group, ...] = ()
    n: int | None = None
    detail: Mapping[str, object] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Subject:
    """The version that is checked, with what it is bound to. An audit of a whole tenant has none."""

    tenant: str
    model_id: str
    version_id: str
    reference: str
    """Such as `credit-risk@v3`: for people, never for binding."""
    content_digest: str


@dataclass(frozen=True)
class Result:
    """One judgement: one measured value against one threshold. A row of `compliance_results`.

    Attributes:
        check: name of the expectation, unique within its suite.
        suite, suite_digest: the file that holds it, and the SHA-256 of its canonical content.
        low, high: the bounds that the value had to keep; None where there is none.
        table_versions: Delta versions of the tables that were read.
        data_digest: SHA-256 of what was measured on, where that is no table of the lake.
        law: legal text and its version, where one is applied.
        code_version: of the package and its checks; stamped when it is recorded.
    """

    tenant: str
    area: Area
    suite: str
    suite_digest: str
    check: str
    metric: str
    verdict: Verdict
    severity: Severity
    message: str
    article: str = ""
    observed: float | None = None
    interval: Interval | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    about: str = ""
    reference: str = ""
    groups: tuple[Group, ...] = ()
    n: int | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    detail: Mapping[str, object] = field(default_factory=dict)
    table_versions: Mapping[str, int] = field(default_factory=dict)
    data_digest: str | None = None
    law: str | None = None
    code_version: str = ""
    subject: Subject | None = None
    measured_at: datetime | None = None


def judged(
    value: float | None, interval: Interval | None, *, low: float | None = None, high: float | None = None
) -> Verdict:
    """What a value says against its bounds, by its interval where it has one.

    `PASS` needs the whole interval inside, `FAIL` the whole interval beyond one bound;
    otherwise the sample is too small to say. A value without an interval is taken as exact.
    Bounds belong to the inside. NaN was not measured.
    """
    if low is None and high is None:
        raise ValueError("a judgement needs a bound")
    if value is None or value != value:
        return Verdict.COULD_NOT_RUN
    least, most = (interval.low, interval.high) if interval else (value, value)
    if least != least or most != most:
        return Verdict.COULD_NOT_RUN
    if (high is not None and least > high) or (low is not None and most < low):
        return Verdict.FAIL
    if (high is None or most <= high) and (low is None or least >= low):
        return Verdict.PASS
    return Verdict.INCONCLUSIVE


_WORST = (Verdict.COULD_NOT_RUN, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The one that counts for all; of none at all, `COULD_NOT_RUN`, since nothing was checked."""
    return min(verdicts, key=_WORST.index, default=Verdict.COULD_NOT_RUN)


_SINGULAR = {
    "entries": "entry",
    "canaries": "canary",
    "breaches": "breach",
    "assessments missing": "assessment missing",
}


def counted(unit: str, value: float) -> str:
    """A unit as it goes with a number.

    >>> counted("findings", 1), counted("findings", 2), counted("entries", 1), counted("share", 1)
    ('finding', 'findings', 'entry', 'share')
    """
    return _SINGULAR.get(unit, unit.removesuffix("s")) if value == 1 else unit
