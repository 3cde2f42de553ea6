"""`ComplianceManager`: the verbs of compliance of one tenant, for one actor.

How each is done is in the rooms beside it; this is their front door.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.approvals.approval import Approval, Decision
from ml_registry_pipelines.compliance.approvals.verbs import Approvals
from ml_registry_pipelines.compliance.evaluation_rows import Columns, Evaluation
from ml_registry_pipelines.compliance.evaluations import (
    DeclaredEvaluation,
    Evaluations,
    checked_suites,
    declared_evaluation,
    evaluation_of_rows,
)
from ml_registry_pipelines.compliance.evidence import Evidence, evidence
from ml_registry_pipelines.compliance.evidence_log import KIND, state_of_evidence, tampering
from ml_registry_pipelines.compliance.records import Records
from ml_registry_pipelines.compliance.results import Subject, Verdict
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.names import checked_instant
from ml_registry_pipelines.registry.references import version_state

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from ml_registry_pipelines.compliance.served_rows import Served
    from ml_registry_pipelines.compliance.suites.suite import Suite
    from ml_registry_pipelines.registry.view import View


@dataclass(frozen=True)
class Checked:
    """One run of suites as it is read back; `problem`: why it is not what was recorded, if it is not."""

    evidence: Evidence
    problem: str = ""

    @property
    def verdict(self) -> Verdict:
        """Results that were changed afterwards say nothing."""
        return Verdict.COULD_NOT_RUN if self.problem else self.evidence.verdict


class ComplianceManager(Records):
    """Checks, approvals and records of one tenant. Every command is one atomic commit."""

    def declare_evaluation(
        self,
        version: str,
        columns: Columns,
        *,
        suites: Sequence[str],
        data: str | Path | None = None,
        served: Served | None = None,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> DeclaredEvaluation:
        """`Evaluations.declare_evaluation`, once it is sure that the suites can be run on the data.

        Raises:
            SuiteInvalid, NoSuchSuite: a suite cannot be run as it stands.
            InvalidInput: the suites demand of the data what cannot be.
        """
        read = self._valid(checked_suites(suites))
        if data is not None:
            desk = self._evaluations()
            rows = desk.preview(version, columns, suites=suites, data=data)
            self._possible(read, rows)
        return self._evaluations().declare_evaluation(
            version,
            columns,
            suites=suites,
            data=data,
            served=served,
            note=note,
            idempotency_key=idempotency_key,
        )

    def record_evaluation(self, version: str, rows: pa.Table, *, origin: str = "evaluation") -> str:
        """`Evaluations.record_evaluation`, unless the declared suites demand of the rows what cannot be."""
        desk = self._evaluations()
        given = desk.get_evaluation(version)
        if origin == "evaluation":
            self._possible(self._valid(given.suites), evaluation_of_rows(rows, given))
        return desk.record_evaluation(version, rows, origin=origin)

    def get_evaluation(self, version: str, *, as_of: datetime | None = None) -> DeclaredEvaluation:
        """What is declared of a version.

        Raises:
            NotFound: nothing is.
        """
        return self._evaluations().get_evaluation(version, as_of=as_of)

    def withdraw_evaluation(self, version: str, *, idempotency_key: str | None = None) -> DeclaredEvaluation:
        """`Evaluations.withdraw_evaluation`."""
        return self._evaluations().withdraw_evaluation(version, idempotency_key=idempotency_key)

    def _evaluations(self) -> Evaluations:
        return Evaluations(self.log, actor=self.actor, tenant=self.tenant, run_id=self.run_id)

    def _valid(self, names: Sequence[str]) -> list[Suite]:
        from ml_registry_pipelines.compliance.suites.files import SuiteFiles

        files = SuiteFiles(self.log.lake.root, self.log.lake.storage_options)
        return [files.read(name).valid() for name in names]

    @staticmethod
    def _possible(suites: Sequence[Suite], found: Evaluation) -> None:
        from ml_registry_pipelines.compliance.suites.possible import contradictions

        if wrong := contradictions(suites, found):
            raise InvalidInput("; ".join(wrong))

    def run_compliance_checks(
        self,
        version: str | None,
        *,
        suites: Sequence[str] | None = None,
        production: tuple[datetime, datetime] | None = None,
        idempotency_key: str | None = None,
    ) -> Evidence:
        """Run suites on a version, or on the tenant as a whole, and keep the results as evidence.

        The results are rows of `compliance_results`; the log keeps their digest.

        Args:
            version: `credit-risk@v3`, or an id; None: an audit of the tenant, for suites that are named.
            suites: by default those that are declared with the version. Without any, the evidence says
                that nothing was checked, and does not pass.
            production: what the version predicted in production in this half-open window is checked,
                not its evaluation data. It is kept under the suites' names with `@production`.
            idempotency_key: under which the same run is done once.

        Raises:
            VersionNotFound, NotFound, Deleted: there is no such version.
            NotAllowed: the policy refuses.
        """
        from ml_registry_pipelines.compliance.suites.running import run_suites

        asked = {
            "of": version,
            "suites": None if suites is None else list(checked_suites(suites)),
            "production": None if production is None else [each.isoformat() for each in _window(production)],
        }
        self.ask("run_compliance_checks", KIND, asked)
        if idempotency_key is not None and (
            before := self.log.done_under(self.tenant, "run_compliance_checks", idempotency_key)
        ):
            found = evidence(self.log.lake, self.tenant, evidence_id=before[0].entity_id)
            if found:
                return found[0]
        view = self.view()
        subject = None if version is None else subject_of(view, version)
        named = suites if suites is not None else _declared_suites(view, subject)
        done = run_suites(
            self.log.lake,
            self.log,
            subject,
            list(named),
            self.actor,
            tenant=self.tenant,
            run_id=self.run_id,
            production=production,
        )
        window = None if production is None else (production[0].isoformat(), production[1].isoformat())
        state = state_of_evidence(done, window=window)
        self.do(
            "run_compliance_checks",
            KIND,
            asked,
            lambda _: [Change(KIND, done.evidence_id, state)],
            idempotency_key=idempotency_key,
        )
        return done

    def get_checks(
        self,
        version: str | None = None,
        *,
        evidence_id: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> list[Checked]:
        """Runs of suites, newest first, each compared with what the log knows of it."""
        view = self.view()
        subject = None if version is None else subject_of(view, version, deleted=True)
        found = evidence(
            self.log.lake,
            self.tenant,
            version_id=None if subject is None else subject.version_id,
            evidence_id=evidence_id,
            since=since,
            limit=limit,
        )
        return [Checked(each, tampering(view, each)) for each in found]

    @property
    def approvals(self) -> Approvals:
        """The other commands and questions about approvals."""
        return Approvals(self.log, actor=self.actor, tenant=self.tenant, run_id=self.run_id)

    def request_approval(
        self, version: str, *, note: str = "", idempotency_key: str | None = None
    ) -> Approval:
        """Run the suites that the policy demands of a version, and ask for its approval with what they found.

        What fails is shown to the reviewers, who can then not approve it. Done again under its idempotency
        key, nothing is run.

        Args:
            version: `credit@v3`, `credit@challenger`, or an id.
            note: to the reviewers, without e-mail addresses.

        Raises:
            GateRefused: nobody knows who asks, the class never goes live, or one is open or granted already.
            PolicyError: the policy cannot be read.
        """
        approvals = self.approvals
        approvals.ask("request_approval", "approval", {"version": version})
        if not approvals.given_before("request_approval", idempotency_key):
            self.run_demanded_checks(version)
        return approvals.request(version, note=note, idempotency_key=idempotency_key)

    def review_approval(
        self,
        approval: str,
        decision: Decision | str,
        *,
        digest: str,
        comment: str = "",
        idempotency_key: str | None = None,
    ) -> Approval:
        """Approve, reject or ask for changes, as somebody who neither registered the version nor asked.

        Args:
            approval: its id, or the beginning of it.
            decision: `approve`, `reject` or `changes_requested`; the latter two want a comment.
            digest: of what was looked at, as the evidence page shows it.

        Raises:
            GateRefused: the actor may not decide on it, or not any more.
        """
        return self.approvals.review(
            approval, decision, digest=digest, comment=comment, idempotency_key=idempotency_key
        )

    def run_demanded_checks(self, version: str) -> Evidence | None:
        """Run the suites that the policy demands of a version; None where it demands none."""
        suites = [suite.suite for suite in self.approvals.standing(version).suites]
        return self.run_compliance_checks(version, suites=suites) if suites else None


def subject_of(view: View, version: str, *, deleted: bool = False) -> Subject:
    """A version as what is checked.

    Raises:
        VersionNotFound, NotFound, Deleted: there is none.
    """
    state = version_state(view, version, deleted=deleted)
    model = view.by_id("things", str(state.data["model_id"]))
    name = state.data["model_id"] if model is None else model.name
    return Subject(
        view.tenant,
        str(state.data["model_id"]),
        state.id,
        f"{name}@v{state.data['version']}",
        str(state.data["content_digest"]),
    )


def _declared_suites(view: View, subject: Subject | None) -> Sequence[str]:
    if subject is None:
        raise InvalidInput("an audit of the tenant as a whole needs the names of suites")
    try:
        return declared_evaluation(view, subject.version_id).suites
    except NotFound:
        return ()


def _window(production: tuple[datetime, datetime]) -> tuple[datetime, datetime]:
    start, end = (checked_instant(each, "time") for each in production)
    if start >= end:
        raise InvalidInput(f"a window from {start.isoformat()} to {end.isoformat()} holds nothing")
    return start, end
