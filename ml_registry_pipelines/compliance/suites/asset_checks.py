"""Declared checks as the asset graph shows them: one per expectation of a version's suites, and its newest answer.

What is kept is what `mlreg checks run` or a job has recorded; nothing is measured here. How it looks in
Dagster is in `catalog_checks.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.evaluations import KIND
from ml_registry_pipelines.compliance.evidence import evidence
from ml_registry_pipelines.compliance.evidence_log import tampering
from ml_registry_pipelines.compliance.results import Result, Severity, Verdict, worst
from ml_registry_pipelines.compliance.suites.files import SuiteFiles
from ml_registry_pipelines.compliance.suites.running import READABLE
from ml_registry_pipelines.compliance.suites.suite import Suite
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.canonical import parse

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

MOST_CHECKS = 100
"""Checks that one version shows; the others are run all the same."""
RUNS = 20
"""Newest runs of suites among which a suite's last one is looked for."""
LONGEST_NAME = 90
TAKEN = frozenset(
    {"trained_on_current_data", "ai_act_class_is_settled", "compliance_checks", "every_row_is_shown"}
)
"""Names of checks that the catalogue puts on the same assets (`catalog.py`, `catalog_checks.py`)."""


@dataclass(frozen=True)
class DeclaredCheck:
    """One expectation that a version is to meet. `name` is an identifier, unique on its asset."""

    name: str
    suite: str
    check: str
    blocking: bool
    description: str

    def recorded(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What was said last about a declared check."""

    check: DeclaredCheck
    verdict: Verdict
    message: str
    evidence_id: str
    recorded_at: datetime
    suite_digest: str
    results: tuple[Result, ...]


def declared_checks(log: Log) -> dict[str, tuple[DeclaredCheck, ...]]:
    """The checks of every version of every tenant that has an evaluation declared, by version id."""
    rows = log.view("default").of_all_tenants(
        "compliance.declared_checks",
        "things",
        "SELECT state FROM current WHERE type = $type AND NOT deleted",
        {"type": KIND},
    )
    read = _Suites(log)
    found = {}
    for text in rows["state"].to_pylist():
        given = parse(text)["metadata"]
        of_all = [check for name in given["suites"] for check in checks_of(name, read.get(name))]
        found[str(given["version_id"])] = named_apart(of_all)[:MOST_CHECKS]
    return found


def checks_of(name: str, suite: Suite | None) -> list[DeclaredCheck]:
    """The checks of a suite. One that is missing or cannot be read whole says so by a check of its own."""
    made = []
    if suite is None or suite.problems:
        made.append(
            DeclaredCheck(
                identifier(READABLE, name), name, READABLE, True, f"Suite {name} can be read and run."
            )
        )
    for expectation in suite.expectations if suite is not None else ():
        bounds = [
            "" if expectation.at_least is None else f"at least {expectation.at_least:g}",
            "" if expectation.at_most is None else f"at most {expectation.at_most:g}",
        ]
        described = f"{expectation.metric.title}: {' and '.join(filter(None, bounds))}. {expectation.article}"
        made.append(
            DeclaredCheck(
                identifier(expectation.name),
                name,
                expectation.name,
                expectation.severity is Severity.CRITICAL,
                described,
            )
        )
    return made


def identifier(check: str, suite: str = "") -> str:
    """The name of a check on its asset: letters, digits and _, what it is about first.

    Dagster's lists show the beginning and the end of a name, so what all checks of a suite have in common
    is left out, and a suite stands at the end where it is needed.

    >>> identifier("four fifths, women and men")
    'four_fifths_women_and_men'
    >>> identifier("suite is readable", "demo-credit")
    'suite_is_readable__demo_credit'
    """
    words = [re.sub(r"[^A-Za-z0-9]+", "_", each).strip("_") for each in (check, suite) if each]
    plain = "__".join(words)
    whole = f"{suite}\0{check}"
    if plain and len(plain) <= LONGEST_NAME:
        return plain
    return f"{plain[: LONGEST_NAME - 9]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def named_apart(checks: Sequence[DeclaredCheck]) -> tuple[DeclaredCheck, ...]:
    """The checks of one version, each by a name of its own: with its suite where several bear one name."""
    made = list(checks)
    for rename in (lambda c: identifier(c.check, c.suite), _hashed):
        often = Counter(check.name.lower() for check in made)
        made = [
            replace(check, name=rename(check))
            if often[check.name.lower()] > 1 or check.name in TAKEN
            else check
            for check in made
        ]
    return tuple(made)


def _hashed(check: DeclaredCheck) -> str:
    """Different for different checks, whatever is left of their names in letters and digits."""
    told = hashlib.sha256(f"{check.suite}\0{check.check}".encode()).hexdigest()[:8]
    return f"{identifier(check.check, check.suite)[: LONGEST_NAME - 9]}_{told}"


def newest_answers(log: Log, tenant: str, version_id: str, checks: Collection[DeclaredCheck]) -> list[Answer]:
    """What the newest run of each suite said; nothing of a check that was never run."""
    runs = evidence(log.lake, tenant, version_id=version_id, limit=RUNS)
    view = log.view(tenant)
    suites = _Suites(log)
    made = []
    by_suite: dict[str, list[DeclaredCheck]] = defaultdict(list)
    for check in checks:
        by_suite[check.suite].append(check)
    for name, wanted in by_suite.items():
        run = next((run for run in runs if any(result.suite == name for result in run.results)), None)
        if run is None:
            continue
        problem = tampering(view, run)
        of_suite = [result for result in run.results if result.suite == name]
        now = suites.get(name)
        made += [
            _answer(
                check,
                of_suite,
                problem,
                None if now is None else now.digest,
                run.evidence_id,
                run.recorded_at,
            )
            for check in wanted
        ]
    return made


def answers_of(results: Sequence[Result], checks: Iterable[DeclaredCheck], evidence_id: str) -> list[Answer]:
    """What a run that has just been made says."""
    made = []
    for check in checks:
        of_suite = [result for result in results if result.suite == check.suite]
        at = max((r.measured_at for r in of_suite if r.measured_at), default=datetime.now(UTC))
        digest = of_suite[0].suite_digest if of_suite else None
        made.append(_answer(check, of_suite, "", digest, evidence_id, at))
    return made


def _answer(
    check: DeclaredCheck,
    of_suite: Sequence[Result],
    problem: str,
    digest: str | None,
    evidence_id: str,
    at: datetime,
) -> Answer:
    own = tuple(result for result in of_suite if result.check == check.check)
    held = of_suite[0].suite_digest if of_suite else ""
    if problem:
        verdict, message = Verdict.COULD_NOT_RUN, problem
    elif held != digest:
        verdict = Verdict.COULD_NOT_RUN
        message = f"suite {check.suite} has changed, or is gone, since it was run; run the checks again"
    elif not own:
        verdict, message = (
            Verdict.COULD_NOT_RUN,
            f"the last run of suite {check.suite} did not say anything about it",
        )
    else:
        verdict = worst(result.verdict for result in own)
        message = next(result.message for result in own if result.verdict is verdict)
    return Answer(check, verdict, message, evidence_id, at, held, own)


class _Suites:
    """Suites that are read once."""

    def __init__(self, log: Log) -> None:
        self._files = SuiteFiles(log.lake.root, log.lake.storage_options)
        self._read: dict[str, Suite | None] = {}

    def get(self, name: str) -> Suite | None:
        if name not in self._read:
            try:
                self._read[name] = self._files.read(name)
            except MlregError:
                self._read[name] = None
        return self._read[name]
