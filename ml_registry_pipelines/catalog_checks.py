"""Declared compliance checks as asset checks: their specs on versions and models, and what they said last.

Which checks there are, and their answers, is in `compliance/suites/asset_checks.py`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_registry_pipelines.lineage.catalogue import Entry

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.results import Result
    from ml_registry_pipelines.compliance.suites.asset_checks import Answer, DeclaredCheck
    from ml_registry_pipelines.registry.log import Log

ON_MODEL = "compliance_checks"
LONGEST_TEXT = 2_000
MOST_RESULTS = 50
MOST_GROUPS = 100


def check_specs(entries: Mapping[dg.AssetKey, Entry]) -> Iterator[dg.AssetCheckSpec]:
    """One check per expectation on each version, blocking where it is critical, and one on its model."""
    models = {(e.tenant, e.name) for e in entries.values() if e.kind == "model_version" and e.checks}
    for key, entry in entries.items():
        if entry.kind == "model_version":
            for check in entry.checks:
                yield dg.AssetCheckSpec(
                    check["name"],
                    asset=key,
                    description=check["description"][:LONGEST_TEXT],
                    blocking=check["blocking"],
                )
        elif entry.kind == "model" and (entry.tenant, entry.name) in models:
            yield dg.AssetCheckSpec(
                ON_MODEL,
                asset=key,
                description="The newest version with declared suites passes all their critical checks.",
            )


def evaluations(log: "Log", entries: Mapping[dg.AssetKey, Entry]) -> Iterator[dg.AssetCheckEvaluation]:
    """What the newest runs of the declared suites say. A check that was never run says nothing."""
    from ml_registry_pipelines.compliance.suites.asset_checks import DeclaredCheck, newest_answers

    by_model: dict[tuple[str, str], tuple[int, list[Answer], int]] = defaultdict(lambda: (0, [], 0))
    for key, entry in entries.items():
        if entry.kind != "model_version" or not entry.checks:
            continue
        answers = newest_answers(log, entry.tenant, entry.id, [DeclaredCheck(**c) for c in entry.checks])
        for answer in answers:
            yield evaluation(key, answer)
        number = entry.number or 0
        if number > by_model[entry.tenant, entry.name][0]:
            by_model[entry.tenant, entry.name] = (number, answers, len(entry.checks))
    for key, entry in entries.items():
        if entry.kind == "model" and (entry.tenant, entry.name) in by_model:
            number, answers, declared = by_model[entry.tenant, entry.name]
            if answers:
                yield _of_model(key, number, answers, declared)


def evaluation(key: dg.AssetKey, answer: "Answer") -> dg.AssetCheckEvaluation:
    """An answer in Dagster's words. Only `pass` has passed."""
    from ml_registry_pipelines.compliance.results import Verdict

    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=answer.check.name,
        passed=answer.verdict is Verdict.PASS,
        severity=dg.AssetCheckSeverity.ERROR if answer.check.blocking else dg.AssetCheckSeverity.WARN,
        description=_cut(f"{answer.verdict.value}: {answer.message} (evidence {answer.evidence_id})"),
        metadata=metadata(answer),
    )


def result_of(key: dg.AssetKey, answer: "Answer") -> dg.AssetCheckResult:
    """The same, as a step of a run gives it."""
    found = evaluation(key, answer)
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=found.check_name,
        passed=found.passed,
        severity=found.severity,
        description=found.description,
        metadata=found.metadata,
    )


def metadata(answer: "Answer") -> dict[str, Any]:
    """What an answer rests on: numbers, sizes of groups, the law, versions; never a value of a person."""
    made: dict[str, Any] = {
        "verdict": answer.verdict.value,
        "suite": f"{answer.check.suite} {answer.suite_digest[:12]}",
        "evidence": answer.evidence_id,
        "checked at": answer.recorded_at.isoformat(),
    }
    if len(answer.results) == 1:
        made |= {name: value for name, value in _facts(answer.results[0]).items() if value is not None}
    elif answer.results:
        made["results"] = dg.MetadataValue.json([_facts(r) for r in answer.results[:MOST_RESULTS]])
        made["article"] = answer.results[0].article
    return made


def _facts(result: "Result") -> dict[str, Any]:
    interval = result.interval
    return {
        "about": result.about or None,
        "observed": result.observed,
        "interval": None
        if interval is None
        else f"{interval.low:.6g} to {interval.high:.6g} ({interval.confidence:.0%}, {interval.method})",
        "threshold": " and ".join(
            text
            for text in (
                "" if result.low is None else f"at least {result.low:g}",
                "" if result.high is None else f"at most {result.high:g}",
            )
            if text
        )
        or None,
        "rows": result.n,
        "group sizes": {group.name: group.n for group in result.groups[:MOST_GROUPS]} or None,
        "groups left out": {g.name: g.left_out for g in result.groups[:MOST_GROUPS] if g.left_out} or None,
        "article": result.article or None,
        "table versions": dict(result.table_versions) or None,
        "data": result.data_digest,
        "outcome": result.verdict.value,
    }


def _of_model(
    key: dg.AssetKey, number: int, answers: "Iterable[Answer]", declared: int
) -> dg.AssetCheckEvaluation:
    from ml_registry_pipelines.compliance.results import Verdict

    said = list(answers)
    wrong = [answer for answer in said if answer.verdict is not Verdict.PASS]
    blocking = [answer for answer in wrong if answer.check.blocking]
    never = declared - len(said)
    text = f"v{number}: {len(said) - len(wrong)} of {declared} checks pass"
    for what, found in (("blocking", blocking), ("others", [a for a in wrong if a not in blocking])):
        if found:
            text += f"; {what}: " + ", ".join(f"{a.check.name} {a.verdict.value}" for a in found[:10])
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=ON_MODEL,
        passed=not blocking and not never,
        severity=dg.AssetCheckSeverity.ERROR,
        description=_cut(text + (f"; {never} never ran" if never else "") + "."),
        metadata={"version": number, "evidence": ", ".join(sorted({a.evidence_id for a in said}))},
    )


def with_checks(log: "Log", entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries, versions with the checks that are declared of them."""
    from dataclasses import replace

    from ml_registry_pipelines.compliance.suites.asset_checks import declared_checks

    declared: Mapping[str, tuple[DeclaredCheck, ...]] = declared_checks(log)
    return tuple(
        replace(entry, checks=tuple(check.recorded() for check in declared[entry.id]))
        if entry.id in declared
        else entry
        for entry in entries
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
