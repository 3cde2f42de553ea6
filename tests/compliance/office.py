"""People, a policy and a version that tests of the gate share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ml_registry_pipelines.access.policy import owner_of
from ml_registry_pipelines.access.users import Users, actor_for_key
from ml_registry_pipelines.compliance.approvals.verbs import Approvals
from ml_registry_pipelines.compliance.evaluations import KIND as EVALUATION
from ml_registry_pipelines.compliance.evidence import record
from ml_registry_pipelines.compliance.evidence_log import KIND as EVIDENCE
from ml_registry_pipelines.compliance.evidence_log import state_of_evidence
from ml_registry_pipelines.compliance.policies.policy import FILE
from ml_registry_pipelines.compliance.results import Area, Result, Severity, Subject, Verdict
from ml_registry_pipelines.compliance.suites.files import FOLDER, SuiteFiles
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import Version

POLICY = """
version: 1
gates:
  production: true
  aliases: [champion]
  environments: ["prod*"]
unclassified: high_risk
classes:
  prohibited: {forbidden: true}
  high_risk: {suites: ["*"], approvals: {reviewer: 1, compliance: 1}, valid_days: 30}
  undetermined: {suites: ["*"], approvals: {reviewer: 1, compliance: 1}}
  not_high_risk_derogated: {approvals: {reviewer: 1}}
  transparency: {approvals: {reviewer: 1}}
  minimal: {approvals: {reviewer: 1}}
  out_of_scope: {}
"""


@dataclass
class Clock:
    """A clock that tests turn; the log's times never go back."""

    ahead: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Office:
    """A registry with people in their roles; every one signs in with a key."""

    def __init__(self, root: Path, policy: str | None = POLICY) -> None:
        self.root = root
        self.clock = Clock()
        self.lake = Lake(str(root))
        self.log = Log(self.lake, clock=self.clock)
        _, key = Users(self.log, actor=owner_of(self.lake)).init()
        self.users = Users(self.log, actor=actor_for_key(self.log, key.text))
        self.author, self.requester = self.person("engineer"), self.person("engineer", "reviewer")
        self.reviewer, self.second = self.person("reviewer"), self.person("reviewer")
        self.officer = self.person("compliance")
        if policy is not None:
            self.write_policy(policy)

    def write_policy(self, text: str) -> None:
        (self.root / FILE).write_text(text, encoding="utf-8")

    def person(self, *roles: str) -> Actor:
        user = self.users.add_user(roles, tenants=("default",))
        return actor_for_key(self.log, self.users.add_key(user.id).text)

    def models(self, actor: Actor) -> ModelRegistry:
        return ModelRegistry(self.log, actor=actor)

    def tracker(self, actor: Actor) -> LineageTracker:
        return LineageTracker(self.log, actor=actor)

    def approvals(self, actor: Actor) -> Approvals:
        return Approvals(self.log, actor=actor)

    def version(self, model: str = "credit", actor: Actor | None = None, *, snapshot: str = "x") -> Version:
        """A new version that declares the suite `fairness`, which passes."""
        registry = self.models(actor or self.author)
        if not any(m.name == model for m in registry.search_models()):
            registry.register_model(model)
        made = registry.create_model_version(model, HostedModel("o", f"{model}-{snapshot}"))
        self.declare(made, "fairness")
        self.measure(made)
        return made

    def declare(self, version: Version, *suites: str) -> None:
        state = {"name": version.id, "parent_id": version.model_id, "description": "", "status": "active"}
        for suite in suites:
            self.write_suite(suite)
        found = {**state, "deleted": False, "metadata": {"suites": list(suites)}}
        desk = self.models(self.users.actor)
        desk.do("declare_evaluation", EVALUATION, {}, lambda _: [Change(EVALUATION, new_id(), found)])

    def measure(
        self, version: Version, verdict: Verdict = Verdict.PASS, *, suite: str = "fairness", high: float = 0.1
    ) -> None:
        """Keep the result of one run of a suite, by the thresholds that it is given here."""
        self.write_suite(suite, high)
        rows = [result(version, verdict, suite=suite, high=high, digest=self.suite_digest(suite))]
        made = record(self.lake, rows, tenant="default", actor=self.author)
        changes = [Change(EVIDENCE, made.evidence_id, state_of_evidence(made))]
        self.models(self.users.actor).do("run_compliance_checks", EVIDENCE, {}, lambda _: changes)

    def write_suite(self, name: str, high: float = 0.1) -> None:
        folder = self.root / FOLDER
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(f"suite: {name}\nhigh: {high}\n", encoding="utf-8")

    def suite_digest(self, name: str) -> str:
        return SuiteFiles(str(self.root)).read(name).digest

    def granted(self, version: Version) -> str:
        """The id of an approval that everybody who has to has given."""
        asked = self.approvals(self.requester).request(version.id)
        for who in (self.reviewer, self.officer):
            self.approvals(who).review(asked.id, "approve", digest=asked.bound.digest)
        return asked.id

    def close(self) -> None:
        self.log.close()
        self.lake.close()


def result(
    version: Version, verdict: Verdict, *, suite: str = "fairness", high: float = 0.1, digest: str = "0" * 64
) -> Result:
    value = {Verdict.PASS: high / 2, Verdict.FAIL: high * 2}.get(verdict)
    return Result(
        tenant="default",
        area=Area.FAIRNESS,
        suite=suite,
        suite_digest=digest,
        check="demographic_parity_difference of sex",
        metric="demographic_parity_difference",
        verdict=verdict,
        severity=Severity.CRITICAL,
        message=f"{value} against {high}",
        observed=value,
        high=high,
        data_digest="d" * 64,
        subject=Subject("default", version.model_id, version.id, "", version.content_digest),
    )


__all__ = ["POLICY", "Office", "replace", "result"]
