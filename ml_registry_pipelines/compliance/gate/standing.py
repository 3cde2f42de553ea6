"""What the policy demands of a version, and what there is: read from one view of the log and the evidence.

The gate, requests, reviews, the sensor's sweep and the pages all ask here, so that none of them sees it
otherwise than the gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.approvals.approval import Bound
from ml_registry_pipelines.compliance.evidence import Evidence, code_version, evidence
from ml_registry_pipelines.compliance.evidence_log import newest_runs, tampering
from ml_registry_pipelines.compliance.gate.sources import (
    Classified,
    DossierStanding,
    classified,
    dossier_standing,
    evaluation_declared,
    suites_declared,
)
from ml_registry_pipelines.compliance.policies.policy import (
    DECLARED,
    Policy,
    PolicyInForce,
    Requirement,
    RiskClass,
    policy_of,
)
from ml_registry_pipelines.compliance.results import Area, Result, Severity, Verdict
from ml_registry_pipelines.compliance.suites.files import SuiteFiles
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.states import State

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View

SIGNATURE = "security_s6_unsigned_artifacts"
FORMATS = "security_s2_disallowed_formats"
CALLS = "security_s3_pickle_findings"
CONTENT = "content"
"""The artifact that has to be signed, as the check of signatures calls it."""
RAW_PICKLE = "it holds pickle, which is not allowed"
"""The one finding that an exception excuses, and only where a check has found that pickles call nothing harmful."""


@dataclass(frozen=True)
class SuiteStanding:
    """The newest results of one demanded suite, and what is wrong with them; none: it never ran.

    `outdated`: of that, why they are not those of the suite and the code of today.
    """

    suite: str
    run: Evidence | None
    results: tuple[Result, ...]
    wrong: tuple[str, ...]
    outdated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """What holds for a version at one moment.

    Attributes:
        counted: the risk class whose requirement applies.
        suites: those that the policy demands, with their newest results.
        missing: fields of the dossier that are open, where it has to be complete.
        unmet: what is demanded and not there, one sentence each, without the approvals.
    """

    version: State
    model: State
    policy: Policy
    source: str
    classified: Classified | None
    counted: RiskClass
    requirement: Requirement
    suites: tuple[SuiteStanding, ...]
    missing: tuple[str, ...]
    unmet: tuple[str, ...]
    bound: Bound

    @property
    def reference(self) -> str:
        return f"{self.model.name}@v{self.version.data['version']}"

    @property
    def outdated(self) -> list[str]:
        """What changed since the checks were run, by which an approval that rests on them is stale."""
        return [why for suite in self.suites for why in suite.outdated]

    @property
    def risk_class(self) -> str:
        """As people read it."""
        return self.classified.risk_class if self.classified else "unclassified"


def standing(
    log: Log, view: View, version: State, *, now: datetime, policy: PolicyInForce | None = None
) -> Standing:
    """What the policy demands of a version, and what there is.

    Raises:
        PolicyError: the policy cannot be read; nothing that is gated goes live then.
    """
    model = view.by_id("things", str(version.data["model_id"]))
    assert model is not None
    held = policy or policy_of(log.lake.root, log.lake.storage_options)
    known = classified(log, view, model, now)
    counted = held.policy.class_for(known.gate_class if known else None)
    requirement = held.policy.classes[counted]
    names, undeclared = _demanded(view, version, requirement)
    sees = _Sees(
        log,
        view,
        SuiteFiles(log.lake.root, log.lake.storage_options),
        version,
        model.name,
        held.policy,
        now,
        newest_runs(view, version.id) if names else {},
    )
    suites = tuple(_suite(name, sees) for name in names)
    declared = digest(evaluation_declared(view, version))
    stale = [f"its risk class: {known.stale}"] if known and known.stale else []
    complete = requirement.dossier == "complete"
    dossier = dossier_standing(log, view, version, now) if complete else DossierStanding()
    missing = dossier.missing
    unmet = [*stale, *undeclared, *(wrong for suite in suites for wrong in suite.wrong)]
    if requirement.forbidden:
        unmet.append(f"models of the class {counted.value} never go live")
    if requirement.signature == "required" and not _signed(suites, version):
        unmet.append("no suite that it has to pass found a valid signature")
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        unmet.append(f"the dossier is not complete: {shown} {'is' if len(missing) == 1 else 'are'} missing")
    return Standing(
        version,
        model,
        held.policy,
        held.source,
        known,
        counted,
        requirement,
        suites,
        missing,
        tuple(unmet),
        Bound(
            content=_content(version),
            evidence=digest([_digest_of(suites), declared, *([dossier.statements] if complete else [])]),
            classification=known.digest if known else "",
            policy=held.policy.digest,
            parts={
                **_parts(suites, dossier),
                "what it is evaluated on, as declared": declared,
            },
        ),
    )


def _demanded(view: View, version: State, requirement: Requirement) -> tuple[list[str], list[str]]:
    """Names of the suites that have to pass, and what is wrong where there should be some and are none."""
    names = {name for name in requirement.suites if name != DECLARED}
    if DECLARED not in requirement.suites:
        return sorted(names), []
    declared = suites_declared(view, version)
    wrong = [] if declared else ["no suite is declared for it, and its class needs one at least"]
    return sorted({*names, *declared}), wrong


@dataclass(frozen=True)
class _Sees:
    """What results of suites are held against. `runs`: the last run of each, as the log knows it."""

    log: Log
    view: View
    files: SuiteFiles
    version: State
    model: str
    policy: Policy
    now: datetime
    runs: Mapping[str, State]


def _suite(name: str, sees: _Sees) -> SuiteStanding:
    content = sees.version.data["content_digest"]
    known = sees.runs.get(name)
    if known is None:
        # What was not made by a run of checks is no evidence.
        return SuiteStanding(name, None, (), (f"suite {name} has not been run on it",))
    lake, tenant = sees.log.lake, sees.view.tenant
    run = next(iter(evidence(lake, tenant, evidence_id=known.id)), None)
    # An older run does not stand in for one that was changed: that one may have failed.
    if run is None or (changed := tampering(sees.view, run)):
        gone = f"the results of evidence {known.id} are gone" if run is None else changed
        return SuiteStanding(name, None, (), (f"{gone}; run suite {name} again",))
    found = tuple(r for r in run.results if r.suite == name)
    outdated = _outdated(name, found, sees.files)
    wrong = list(outdated)
    if any(r.subject is None or r.subject.content_digest != content for r in found):
        wrong.append(f"suite {name} was run on another content")
    excused = sees.policy.excused(sees.model, sees.now.astimezone(UTC).date())
    calls = [r for r in found if r.metric == CALLS]
    harmless = bool(calls) and all(_found_nothing(r) for r in calls)
    for result in found:
        if result.severity is not Severity.CRITICAL or result.verdict is Verdict.PASS:
            continue
        if excused and harmless and _raw_pickle(result):
            continue
        about = f" ({result.about})" if result.about else ""
        verdict = {
            Verdict.FAIL: "failed",
            Verdict.INCONCLUSIVE: "is inconclusive",
            Verdict.COULD_NOT_RUN: "could not run",
        }[result.verdict]
        wrong.append(f"check {result.check} of suite {name}{about} {verdict}")
    if not any(r.severity is Severity.CRITICAL for r in found) and any(
        r.verdict is not Verdict.PASS for r in found
    ):
        # A suite without a critical check says by all of them whether it passes.
        wrong.append(f"suite {name} did not pass")
    return SuiteStanding(name, run, found, tuple(wrong), tuple(outdated))


def _outdated(name: str, found: Sequence[Result], files: SuiteFiles) -> list[str]:
    """Why results are not those of the suite and the code of today."""
    try:
        if any(r.suite_digest != files.read(name).digest for r in found):
            return [f"the thresholds of suite {name} were edited since it was run; run it again"]
    except MlregError as gone:
        return [f"suite {name} cannot be read: {gone}"]
    if any(r.code_version != code_version() for r in found):
        return [f"suite {name} was run by another version of the checks; run it again"]
    return []


def _raw_pickle(result: Result) -> bool:
    """Whether all that is wrong is that files are raw pickles; findings that are not all listed excuse nothing."""
    findings = result.detail.get("findings")
    if result.metric != FORMATS or result.verdict is not Verdict.FAIL or not isinstance(findings, list):
        return False
    return len(findings) == result.observed and all(found == RAW_PICKLE for found in findings)


def _found_nothing(result: Result) -> bool:
    """Whether it passes with nothing found, whatever threshold a suite sets."""
    return result.verdict is Verdict.PASS and result.observed == 0


def _signed(suites: Sequence[SuiteStanding], version: State) -> bool:
    """Whether the content itself was found to be signed, and nothing else to be unsigned."""
    found = [r for s in suites for r in s.results if r.area is Area.SECURITY and r.metric == SIGNATURE]
    content = f"{CONTENT} {version.data['content_digest'][:12]}"
    return any(r.about == content for r in found) and all(_found_nothing(r) for r in found)


def _content(version: State) -> str:
    """Of all files that the version is made of, its other artifacts included."""
    return digest(
        [version.data["content_digest"], sorted(str(a["digest"]) for a in version.data["artifacts"])]
    )


def _digest_of(suites: Sequence[SuiteStanding]) -> str:
    """As `Evidence.digest` has it: the same where nothing but ids and times is another."""
    found = {s.suite: s.run and _evidence_of(s).digest for s in suites}
    return digest(found)


def _evidence_of(suite: SuiteStanding) -> Evidence:
    assert suite.run is not None
    run = suite.run
    return Evidence(run.evidence_id, run.tenant, run.recorded_at, run.actor, suite.results)


def _parts(suites: Sequence[SuiteStanding], dossier: DossierStanding) -> dict[str, str]:
    """What the evidence rests on, each as a digest, so that a change can be named."""
    found: dict[str, Any] = {}
    for suite in suites:
        if suite.run is None:
            found[f"the results of {suite.suite}"] = digest("none")
            continue
        results = suite.results
        found[f"the thresholds of {suite.suite}"] = digest(sorted({r.suite_digest for r in results}))
        found[f"the data of {suite.suite}"] = digest(sorted({r.data_digest or "" for r in results}))
        found[f"the legal text of {suite.suite}"] = digest(sorted({r.law or "" for r in results}))
        found[f"the code of the checks of {suite.suite}"] = digest(sorted({r.code_version for r in results}))
        found[f"the results of {suite.suite}"] = digest(
            sorted([r.check, r.about, r.verdict.value, _number(r.observed)] for r in results)
        )
    if dossier.statements:
        found["what is stated in the dossier"] = dossier.statements
    return found


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def evidence_ids(suites: Sequence[SuiteStanding]) -> tuple[str, ...]:
    """Runs that the results come from."""
    return tuple(sorted({s.run.evidence_id for s in suites if s.run is not None}))


def results_by_suite(suites: Sequence[SuiteStanding]) -> Mapping[str, tuple[Result, ...]]:
    return {s.suite: s.results for s in suites}
