"""Running suites: metrics measure, Great Expectations judges, and what came of it is evidence.

Whatever goes wrong on the way is `could_not_run`, with a sentence that holds no value of anybody's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import PurePath
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, cast

from ml_registry_pipelines.compliance.evaluation_rows import Evaluation
from ml_registry_pipelines.compliance.evidence import Evidence, record
from ml_registry_pipelines.compliance.metrics import Context
from ml_registry_pipelines.compliance.results import (
    Area,
    Measured,
    Result,
    Severity,
    Subject,
    Verdict,
    counted,
)
from ml_registry_pipelines.compliance.suites.expectations import Asserted, Judgement, judge
from ml_registry_pipelines.compliance.suites.files import NoSuchSuite, SuiteFiles
from ml_registry_pipelines.errors import MlregError

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.suites.suite import Expectation, Suite
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

READABLE = "suite is readable"
"""Name of the check that says why a suite, or a part of it, was not run."""
PRODUCTION = "@production"
"""Ends the name of a suite that was run on what was predicted in production: it is no evidence for a gate."""
LONGEST_MESSAGE = 1_000
SHOWN_FINDINGS = 3
_ADDRESS = re.compile(r"[^\s'\"<>,;()]+@[^\s'\"<>,;()]+\.[A-Za-z]{2,}")


def run_suites(
    lake: Lake,
    log: Log,
    subject: Subject | None,
    suites: Sequence[str],
    actor: Actor,
    *,
    tenant: str | None = None,
    run_id: str | None = None,
    production: tuple[datetime, datetime] | None = None,
) -> Evidence:
    """Measure what the suites ask for, judge it, and keep the results in one commit.

    Args:
        subject: the version; None for an audit of a tenant as a whole.
        suites: names; of one that is missing, or not valid, a result says so that does not pass.
        production: measure on what the version predicted in production in this half-open window.
    """
    whose = subject.tenant if subject is not None else tenant
    if whose is None:
        raise ValueError("an audit of no version is one of a tenant")
    results = check_suites(lake, log, subject, suites, tenant=whose, production=production)
    return record(lake, results, tenant=whose, actor=actor, run_id=run_id)


def check_suites(
    lake: Lake,
    log: Log,
    subject: Subject | None,
    suites: Sequence[str],
    *,
    tenant: str,
    production: tuple[datetime, datetime] | None = None,
) -> list[Result]:
    """The same, and nothing is kept."""
    watched = _WatchedLake(lake)
    context = Context(
        cast("Lake", watched), log, tenant, datetime.now(UTC), subject=subject, production=production
    )
    files = SuiteFiles(lake.root, lake.storage_options)
    results: list[Result] = []
    for name in dict.fromkeys(suites):
        try:
            suite = files.read(name)
        except MlregError as missing:
            kind = "there is no such suite" if isinstance(missing, NoSuchSuite) else "it cannot be read"
            results.append(
                _unreadable(context, name, sha256(name.encode()).hexdigest(), f"{kind}: {missing}")
            )
            continue
        results += _of_suite(context, suite, watched)
    if not results:
        text = "no suite is declared, so nothing was checked"
        results.append(_unreadable(context, "none", sha256(b"").hexdigest(), text))
    if production is not None:
        window = {"from": production[0].isoformat(), "to": production[1].isoformat()}
        read = [dict(each.facts) for each in context.memo.values() if isinstance(each, Evaluation)]
        facts: dict[str, Any] = {"window": window, **({"read": read[0]} if read and read[0] else {})}
        results = [replace(r, suite=r.suite + PRODUCTION, detail={**r.detail, **facts}) for r in results]
    return results


@dataclass(frozen=True)
class _Taken:
    """One measured row, with the expectation that asked for it and what was read for it."""

    expectation: Expectation
    measured: Measured
    versions: Mapping[str, int]
    data_digest: str | None


def _of_suite(context: Context, suite: Suite, watched: _WatchedLake) -> Iterator[Result]:
    for fault in suite.problems:
        yield _unreadable(context, suite.name, suite.digest, str(fault), about=f"line {fault.line}")
    taken = [each for expectation in suite.expectations for each in _measure(context, expectation, watched)]
    sound = [each for each in taken if not each.measured.problem]
    judgements = dict(zip(map(id, sound), _judged(suite, sound), strict=True))
    for each in taken:
        problem = each.measured.problem
        judgement = judgements[id(each)] if not problem else Judgement(Verdict.COULD_NOT_RUN, problem)
        yield _result(context, suite, each, judgement)


def _measure(context: Context, expectation: Expectation, watched: _WatchedLake) -> Iterator[_Taken]:
    metric = expectation.metric
    watched.versions = {}
    try:
        if context.subject is None and metric.needs_subject:
            found: Sequence[Measured] = [_problem(expectation, "it is about a version, and none was given")]
        else:
            found = list(metric.measure(context, expectation.parameters))
    except Exception as failure:  # noqa: BLE001 - whatever a metric raises, it could not run
        found = [_problem(expectation, _told(failure))]
    if not found:
        found = [_problem(expectation, "it measured nothing")]
    data = [each for each in context.memo.values() if isinstance(each, Evaluation)]
    fair = bool(data) and (metric.area is Area.FAIRNESS or "evaluation_data" in watched.versions)
    versions = {**watched.versions, **(data[0].table_versions if fair else {})}
    twice: dict[str, int] = {}
    for row in found:
        twice[row.about] = n = twice.get(row.about, 0) + 1
        about = row.about if n == 1 else f"{row.about} ({n})"
        yield _Taken(
            expectation,
            replace(_sound(row), metric=metric.name, about=about),
            versions,
            data[0].digest if fair else None,
        )


def _problem(expectation: Expectation, text: str) -> Measured:
    return Measured(expectation.metric.name, None, problem=text)


def _told(failure: Exception) -> str:
    """Why a metric could not run. What a foreign error says may hold a value, so only where it arose is told."""
    if isinstance(failure, MlregError):
        return str(failure) or "it gave no reason"
    last = extract_tb(failure.__traceback__)[-1]
    return f"it raised {type(failure).__name__} in {PurePath(last.filename).name}, line {last.lineno}"


def _sound(row: Measured) -> Measured:
    """A row without a number, with one that is none, or with an interval that is none, could not be measured."""
    if row.problem:
        return replace(row, value=None, interval=None)
    if row.value is None:
        return replace(row, problem="it has no value")
    if not math.isfinite(row.value):
        return replace(row, value=None, problem=f"its value is {row.value}, which is no number")
    interval = row.interval
    if interval is not None and not (
        math.isfinite(interval.low) and math.isfinite(interval.high) and interval.low <= interval.high
    ):
        return replace(row, problem="its confidence interval is none")
    return row


def _judged(suite: Suite, rows: Sequence[_Taken]) -> list[Judgement]:
    asserted = [
        Asserted(
            metric=each.measured.metric,
            check=each.expectation.name,
            about=each.measured.about,
            severity=each.expectation.severity,
            article=each.expectation.article,
            at_least=each.expectation.at_least,
            at_most=each.expectation.at_most,
            value=each.measured.value,
            interval=each.measured.interval,
            n=each.measured.n,
        )
        for each in rows
    ]
    try:
        return judge(suite.name, asserted)
    except Exception as failure:  # noqa: BLE001 - a judge that fails has not acquitted anybody
        told = f"Great Expectations raised {type(failure).__name__}"
        return [Judgement(Verdict.COULD_NOT_RUN, told) for _ in rows]


def _result(context: Context, suite: Suite, taken: _Taken, judgement: Judgement) -> Result:
    expectation, row = taken.expectation, taken.measured
    problem = judgement.problem
    law = row.detail.get("law")
    return Result(
        tenant=context.tenant,
        area=expectation.metric.area,
        suite=suite.name,
        suite_digest=suite.digest,
        check=expectation.name,
        metric=row.metric,
        verdict=judgement.verdict,
        severity=expectation.severity,
        message=_clean(problem or says(expectation, row, judgement.verdict))[:LONGEST_MESSAGE],
        article=expectation.article,
        observed=row.value,
        interval=row.interval,
        low=expectation.at_least,
        high=expectation.at_most,
        unit=row.unit,
        about=_clean(row.about),
        reference=_clean(row.reference),
        groups=tuple(replace(group, name=_clean(group.name)) for group in row.groups),
        n=row.n,
        parameters=expectation.parameters.model_dump(mode="json"),
        detail=_cleaned(row.detail),
        table_versions=dict(taken.versions),
        data_digest=taken.data_digest,
        law=law if isinstance(law, str) else None,
        subject=context.subject,
        measured_at=datetime.now(UTC),
    )


def says(expectation: Expectation, row: Measured, verdict: Verdict) -> str:
    """A judgement in words."""
    assert row.value is not None
    value = f"{row.value:.6g}{f' {counted(row.unit, row.value)}' if row.unit else ''}"
    of = f" of {row.about}" if row.about else ""
    within = ""
    if (interval := row.interval) is not None:
        within = f" ({interval.confidence:.0%} interval {interval.low:.6g} to {interval.high:.6g})"
    bounds = " and ".join(
        text
        for text in (
            "" if expectation.at_least is None else f"at least {expectation.at_least:g}",
            "" if expectation.at_most is None else f"at most {expectation.at_most:g}",
        )
        if text
    )
    ends = {
        Verdict.PASS: f"as it has to be, {bounds}",
        Verdict.FAIL: f"and has to be {bounds}",
        Verdict.INCONCLUSIVE: f"and has to be {bounds}: the sample is too small to say",
        Verdict.COULD_NOT_RUN: f"and cannot be compared with {bounds}",
    }
    left = [group for group in row.groups if group.left_out]
    small = f"; {len(left)} groups are too small to be judged" if len(left) > 1 else ""
    small = "; 1 group is too small to be judged" if len(left) == 1 else small
    which = "" if verdict is Verdict.PASS else _which(row)
    return f"{row.metric}{of} is {value}{within}, {ends[verdict]}{small}{which}"


def _which(row: Measured) -> str:
    """The first of what was found: an area lists it as `findings` or as what is `amiss`, by name or in words."""
    listed = row.detail.get("findings") or row.detail.get("amiss")
    if isinstance(listed, Mapping):
        named = [f"{name}: {why}" for name, why in listed.items()]
    elif isinstance(listed, list | tuple):
        named = [str(each) for each in listed]
    else:
        return ""
    more = len(named) - SHOWN_FINDINGS
    return (
        f": {'; '.join(named[:SHOWN_FINDINGS])}" + (f"; and {more} more" if more > 0 else "") if named else ""
    )


def _unreadable(context: Context, suite: str, digest: str, text: str, *, about: str = "") -> Result:
    """A result that stands for what could not even be understood; it blocks."""
    return Result(
        tenant=context.tenant,
        area=Area.SUITE,
        suite=suite,
        suite_digest=digest,
        check=READABLE,
        metric="suite_is_readable",
        verdict=Verdict.COULD_NOT_RUN,
        severity=Severity.CRITICAL,
        message=_clean(text)[:LONGEST_MESSAGE],
        about=about,
        subject=context.subject,
        measured_at=datetime.now(UTC),
    )


def _clean(text: str) -> str:
    """Without addresses of persons, should a message ever hold one."""
    return _ADDRESS.sub("[address]", text)


def _cleaned(value: Any) -> Any:
    match value:
        case str():
            return _clean(value)
        case Mapping():
            return {_clean(str(key)): _cleaned(inner) for key, inner in value.items()}
        case Iterable():
            return [_cleaned(inner) for inner in value]
        case _:
            return value


class _WatchedLake:
    """A lake that remembers which version of which table was read."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self.versions: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lake, name)

    def read(self, *tables: str) -> Reading:
        reading = self._lake.read(*tables)
        self.versions |= {table: reading.version(table) for table in tables}
        return reading
