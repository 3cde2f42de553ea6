"""The governance of the demo's models: classes, checks, a refusal, an approval, and the pages that show them.

The rules are files of `demo/governance`, which the demo puts into its home. Each command here is one that a user of
the demo's gives under its own key, and is known by its idempotency key, or by what it left in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.policy import platform
from ml_registry_pipelines.access.roles import Role
from ml_registry_pipelines.compliance.approvals.approval import Approval, Decision, Kind, Status
from ml_registry_pipelines.compliance.approvals.verbs import Approvals
from ml_registry_pipelines.compliance.evaluation_rows import Columns, Outcome
from ml_registry_pipelines.compliance.gate.deciding import REFUSAL
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.compliance.results import Result, Verdict
from ml_registry_pipelines.demo_people import DemoPeople
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.registry.gate import GateRefused
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.services import REPOSITORY
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.ai_act.classifications import Classification

TENANT = "default"
SHIPPED = REPOSITORY / "demo" / "governance"
RULES = ("compliance-policy.yaml", "suites/demo-credit.yaml", "suites/demo-recidivism.yaml")
INTAKE = "ai-act.yaml"
READER = platform("demo")
PAGE = "reports/governance_page.html"
RULE_SUITE = "demo-recidivism"
RULE_COLUMNS = Columns(
    label="two_year_recid",
    prediction="score_text",
    groups={"race": "race"},
    positive=("1",),
    positive_predictions=("Medium", "High"),
    favourable=Outcome.NEGATIVE,
)
"""As ProPublica reads the data: who scored medium or high was taken for somebody who is charged again."""
IF_USED = (("credit-risk", "to decide on credit", "5b"), ("recidivism-rule", "to foresee crimes", "6d"))
SHOWN = ("African-American", "Caucasian")


def land_rules(settings: Settings) -> None:
    """Put the policy and the suites into the home, unless files of these names lie there already."""
    home = open_folder(settings.home)
    for name in RULES:
        home.create(name, (SHIPPED / name).read_bytes())


class DemoGovernance:
    """What the demo's users do about its models.

    Args:
        log: the log of the demo's home.
        people: who they are.
    """

    def __init__(self, log: Log, people: DemoPeople) -> None:
        self._log = log
        self._people = people

    def classify(self, model: str, key: str) -> object:
        """Record the answers to the questions of the AI Act, as the compliance officer."""
        from ml_registry_pipelines.compliance.ai_act.classifications import AiAct
        from ml_registry_pipelines.compliance.ai_act.form import read_form
        from ml_registry_pipelines.compliance.ai_act.table import current

        given = read_form(current(), (SHIPPED / INTAKE).read_text("utf-8"), file=f"demo/governance/{INTAKE}")
        desk = AiAct(self._log, actor=self._people.actor(Role.COMPLIANCE), tenant=TENANT)
        note = "assumed: it serves to show the registry, and no decision about anybody rests on it"
        return desk.classify(model, given, note=note, idempotency_key=key)

    def declare(self, version: str, dataset: str, key: str) -> object:
        """Say that the rule is checked on all people of the data, by its suite."""
        desk = self._manager(Role.ENGINEER)
        return desk.declare_evaluation(
            version, RULE_COLUMNS, suites=[RULE_SUITE], data=dataset, idempotency_key=key
        )

    def request(self, version: str, note: str, key: str) -> object:
        """Run the checks and ask for approval, as the engineer."""
        return self._manager(Role.ENGINEER).request_approval(version, note=note, idempotency_key=key)

    def reject(self, comment: str, key: str) -> object:
        """Say no to what was asked under this key, as the reviewer."""
        return self._decide(Decision.REJECT, comment, key)

    def approve_and_promote(self, comment: str, key: str) -> object:
        """Approve as the reviewer, and promote on behalf of the approval, as the sensor does where nobody else has."""
        from ml_registry_pipelines.compliance.approvals.promoting import promote_approved

        granted = self._decide(Decision.APPROVE, comment, key)
        return promote_approved(self._log, granted.id, tenant=TENANT, idempotency_key=key)

    def attempt(self, version: str) -> None:
        """Try, as the engineer, to promote what was not approved; the gate refuses and records it."""
        models = ModelRegistry(self._log, actor=self._people.actor(Role.ENGINEER), tenant=TENANT)
        try:
            models.promote_to_production(version, reason="to see whether the gate holds")
        except GateRefused:
            return
        raise AssertionError(f"{version} went to production without approval")

    def refusals(self, version_id: str) -> list[str]:
        """Why a version was refused at the gate, the oldest first."""
        about = self._log.view(TENANT).by_column("things", "parent_id", version_id)
        found = sorted((s for s in about if s.entity_type == REFUSAL), key=lambda state: state.sequence)
        return [str(state.data["description"]) for state in found]

    def write_pages(self) -> None:
        """Write the page of governance, and the evidence page of each approval of the demo's."""
        from ml_registry_pipelines.reports.evidence_page import evidence_page
        from ml_registry_pipelines.reports.governance_pages import write_pages

        folder = open_folder(self._log.lake.root, self._log.lake.storage_options)
        for one in self._approvals():
            page = evidence_page(self._log, one.id, actor=READER, tenant=TENANT)
            folder.write(_page_of(one), page.encode())
        write_pages(self._log)

    def pages_written(self) -> bool:
        """Whether these pages are there."""
        folder = open_folder(self._log.lake.root, self._log.lake.storage_options)
        return all(folder.exists(path) for path in (PAGE, *map(_page_of, self._approvals())))

    def settled(self, model: str) -> bool:
        """Whether something has become of what was asked for a model's version."""
        asked = self._log.done_under(TENANT, "request_approval", f"demo/{model}")
        open_yet = {Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED}
        return bool(asked) and any(
            one.id == asked[0].entity_id and one.status not in open_yet for one in self._approvals()
        )

    # -- what came of it ---------------------------------------------------------------------

    def lines(self) -> list[str]:
        """What failed with its figures, what was refused and why, who approved what, and where to look."""
        from ml_registry_pipelines.registry.chain import verify

        approvals = list(reversed(self._approvals()))
        verdicts = verify(self._log.lake)
        whole = all(verdict.damage is None for verdict in verdicts)
        events = sum(verdict.events for verdict in verdicts)
        state = "each as it was written" if whole else "DAMAGED"
        root = self._log.lake.root
        return [
            *_labelled("users", self._people.lines()),
            *_labelled("AI Act", [line for given in IF_USED for line in self._class(*given)]),
            *_labelled("checks", [line for one in approvals for line in self._checked(one)]),
            *_labelled("gate", [line for one in approvals for line in self._told(one)]),
            *_labelled(
                "audit log",
                [f"{events:,} events, {state}: `mlreg audit verify`, `mlreg governance history`"],
            ),
            *_labelled("pages", [f"{root}/{PAGE}", *(f"{root}/{_page_of(one)}" for one in approvals)]),
        ]

    def _checked(self, one: Approval) -> Iterator[str]:
        """The checks that a version did not pass, with their figures."""
        runs = ComplianceManager(self._log, actor=READER, tenant=TENANT).get_checks(one.version_id, limit=1)
        results = runs[0].evidence.results if runs and not runs[0].problem else ()
        for result in results:
            if result.verdict is not Verdict.PASS:
                yield f"{one.reference}  {_figures(result)}"
        passed = sum(result.verdict is Verdict.PASS for result in results)
        yield f"{one.reference}  {passed} of {len(results)} passed"

    def _told(self, one: Approval) -> Iterator[str]:
        """What became of what was asked for."""
        votes = ", ".join(
            f"{'approved' if v.decision is Decision.APPROVE else 'rejected'} by the {self._people.role_of(v.by)}"
            for v in one.votes
        )
        asked = f"asked for by the {self._people.role_of(one.requested_by)}"
        live = "; in production" if one.status is Status.USED else ""
        yield f"{one.reference}  {asked}, {votes or 'waits'}{live}"
        for reason in self.refusals(one.version_id)[-1:]:
            yield f"{one.reference}  promotion refused: {reason}"

    def _class(self, model: str, use: str, point: str) -> Iterator[str]:
        from ml_registry_pipelines.compliance.ai_act.evaluation import evaluate
        from ml_registry_pipelines.compliance.ai_act.table import current

        found = self._classification(model)
        if found is None:
            return
        used = found.answers.with_(annex_iii=frozenset({point}), performs_profiling=True)
        would = evaluate(current(), used, found.evaluation.as_of).tier.value
        yield f"{model} is {found.tier.value}, as it decides nothing (assumed); used {use}, {would}"

    def _classification(self, model: str) -> Classification | None:
        from ml_registry_pipelines.compliance.ai_act.classifications import AiAct

        named = self._log.done_under(TENANT, "register_model", f"demo/{model}")
        if not named:
            return None
        of = named[0].entity_id
        return next(
            (c for c in AiAct(self._log, actor=READER, tenant=TENANT).all() if c.model_id == of), None
        )

    def _approvals(self) -> list[Approval]:
        """Those that the demo has asked for, the newest first."""
        ours = {
            event.entity_id
            for name in ("recidivism-rule", "credit-risk")
            for event in self._log.done_under(TENANT, "request_approval", f"demo/{name}")
        }
        every = Approvals(self._log, actor=READER, tenant=TENANT).list(kind=Kind.APPROVAL)
        return [one for one in every if one.id in ours]

    def _decide(self, decision: Decision, comment: str, key: str) -> Approval:
        asked = next(iter(self._log.done_under(TENANT, "request_approval", key)))
        one = Approvals(self._log, actor=READER, tenant=TENANT).get(asked.entity_id)
        return self._manager(Role.REVIEWER).review_approval(
            one.id, decision, digest=one.bound.digest, comment=comment, idempotency_key=key
        )

    def _manager(self, role: Role) -> ComplianceManager:
        return ComplianceManager(self._log, actor=self._people.actor(role), tenant=TENANT)


def _page_of(one: Approval) -> str:
    return f"reports/evidence/{one.tenant}/{one.id}.html"


def _labelled(label: str, lines: Sequence[str]) -> list[str]:
    """Lines of the summary, the first of them under a label."""
    return [f"{label if n == 0 else '':<10}{line}" for n, line in enumerate(lines)]


def _figures(result: Result) -> str:
    """A check that did not pass, with the rates of the groups that were published."""
    rates = {group.name.partition("=")[2]: group.value for group in result.groups}
    shown = [f"{name} {rates[name]:.2%}" for name in SHOWN if rates.get(name) is not None]
    if not shown:
        shown = [f"{name} {value:.1%}" for name, value in rates.items() if value is not None]
    word = {Verdict.FAIL: "failed", Verdict.INCONCLUSIVE: "inconclusive"}.get(result.verdict, "could not run")
    warning = "" if result.severity.value == "critical" else f" ({result.severity.value})"
    return f"{word}{warning}: {result.check}, {', '.join(shown)}"
