"""The governance page: what waits, what went stale, what is live without approval, what failed, what is overdue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.ai_act.classifications import AiAct
from ml_registry_pipelines.compliance.approvals.approval import Approval, Kind, Status
from ml_registry_pipelines.compliance.approvals.verbs import Approvals
from ml_registry_pipelines.compliance.gate.deciding import REFUSAL
from ml_registry_pipelines.compliance.gate.standing import Standing, standing
from ml_registry_pipelines.compliance.gdpr.clocks import CLOCKED, Deadline, deadlines
from ml_registry_pipelines.compliance.gdpr.entries import DataRequest
from ml_registry_pipelines.compliance.gdpr.registers import Registers
from ml_registry_pipelines.compliance.gdpr.requests import all_requests
from ml_registry_pipelines.compliance.policies.policy import PolicyError, RiskClass, policy_of
from ml_registry_pipelines.registry.states import State, from_rows
from ml_registry_pipelines.reports.governance_words import alarms, code, late, moment, soon, state, style
from ml_registry_pipelines.reports.page import Cell, Column, Content, Markup, document, el, headline, table

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

MOST = 100
SINCE = timedelta(days=30)
"""How far back ended approvals and refused attempts are shown."""


@dataclass(frozen=True)
class _Tenant:
    """What the page shows of one tenant."""

    name: str
    approvals: tuple[Approval, ...]
    live: tuple[tuple[Standing, Approval | None], ...]
    classes: tuple[tuple[str, str, str, str], ...]
    models: int
    refusals: tuple[State, ...]
    duties: tuple[tuple[str, str, str, str, bool], ...]
    deadlines: tuple[Deadline, ...]


def governance_page(log: Log, *, actor: Actor, tenants: Sequence[str]) -> str:
    """The page of these tenants as HTML that loads nothing.

    Raises:
        NotAllowed: the actor may not read one of them.
    """
    now = log.clock()
    try:
        held = policy_of(log.lake.root, log.lake.storage_options)
        policy: Content = el("p", f"Policy: {held.source}, digest ", code(held.policy.digest[:12]), ".")
    except PolicyError as wrong:
        policy = el(
            "div",
            el("p", el("strong", "The policy cannot be read; nothing that is gated goes live. "), str(wrong)),
            class_="alarm",
        )
        found = [_tenant(log, actor, name, now, readable=False) for name in tenants]
    else:
        found = [_tenant(log, actor, name, now, readable=True) for name in tenants]
    every = [a for t in found for a in t.approvals]
    broken = [a for a in every if a.awaits_review]
    several = len(found) > 1
    return document(
        "Governance",
        f"Of {', '.join(tenants) or 'no tenant'}, as of {moment(datetime.now(UTC))}",
        style(),
        alarms(broken),
        policy,
        _headlines(found, broken, now),
        _inbox(every, several=several),
        _ended(every, now, several=several),
        _live(found, several=several),
        _classes(found, several=several),
        _failed(found, several=several),
        _duties(found, several=several),
        _deadlines(found, now, several=several),
        _glass(every, several=several),
        _refused(found, several=several),
    )


def _tenant(log: Log, actor: Actor, name: str, now: datetime, *, readable: bool) -> _Tenant:
    asked = Approvals(log, actor=actor, tenant=name)
    view = asked.view()
    approvals = tuple(asked.list())
    used: dict[str, Approval] = {}
    for approval in approvals:
        if approval.status is Status.USED and approval.kind is Kind.APPROVAL:
            used.setdefault(approval.version_id, approval)
    live = view.select(
        "governance.live", "model_versions", "NOT deleted AND stage = 'production'", limit=MOST
    )
    known = AiAct(log, actor=actor, tenant=name).all()
    models = view.query(
        "governance.models",
        "things",
        "SELECT count(*) AS n FROM current WHERE type = 'model' AND NOT deleted",
    )["n"][0].as_py()
    refusals = view.over_states(
        "governance.refusals",
        "things",
        """
        SELECT * FROM states
        WHERE type = $type AND from_sequence <= $at AND recorded_at >= $since
        ORDER BY recorded_at DESC
        LIMIT $most
        """,
        {"type": REFUSAL, "since": now - SINCE, "most": MOST},
    )
    return _Tenant(
        name,
        approvals,
        tuple((standing(log, view, s, now=now), used.get(s.id)) for s in live) if readable else (),
        tuple(
            (c.model, c.tier.value, c.gate_tier.value, c.stale_because or ", ".join(c.missing)) for c in known
        ),
        int(models),
        tuple(from_rows("things", refusals)),
        tuple(
            (c.model, duty.title, duty.article, f"{duty.applies_from or 'not dated'}", duty.certain)
            for c in known
            for duty in c.duties
            if duty.in_force
        ),
        _near(log, actor, name, now),
    )


def _near(log: Log, actor: Actor, tenant: str, now: datetime) -> tuple[Deadline, ...]:
    """What the registers of data protection want done soon, or wanted done by now."""
    registers = Registers(log, actor=actor, tenant=tenant)
    kept = [entry for kind in CLOCKED if kind is not DataRequest for entry in registers.list(kind)]
    entries = [(tenant, entry) for entry in (*all_requests(registers.view()), *kept)]
    return tuple(due for due in deadlines(entries) if due.due_at - now <= due.warn)


def _headlines(found: Sequence[_Tenant], broken: Sequence[Approval], now: datetime) -> Markup:
    every = [a for t in found for a in t.approvals]
    waiting = sum(a.status is Status.REQUESTED and a.kind is Kind.APPROVAL for a in every)
    unapproved = sum(_without(f, a) for t in found for f, a in t.live)
    failing = sum(bool(f.unmet) for t in found for f, _ in t.live)
    live = sum(len(t.live) for t in found)
    near = [due for t in found for due in t.deadlines]
    over = sum(due.due_at < now for due in near)
    return el(
        "dl",
        headline("Waiting for reviewers", str(waiting), "open requests"),
        headline("Live without approval", str(unapproved), f"of {live} versions in production"),
        headline("Live and not as demanded", str(failing), "a check, dossier or class is missing or failed"),
        headline("Broken glass", str(len(broken)), "that nobody has looked into"),
        headline("Late in data protection", str(over), f"and {len(near) - over} due soon"),
        class_="headlines",
    )


def _without(found: Standing, approval: Approval | None) -> bool:
    return bool(found.requirement.people) and approval is None


def _inbox(every: Sequence[Approval], *, several: bool) -> Markup:
    waits = [a for a in every if a.status in {Status.REQUESTED, Status.CHANGES_REQUESTED, Status.APPROVED}]
    waits = [a for a in waits if a.kind is Kind.APPROVAL]
    return _listed(
        "Pending approvals",
        "Nothing waits for anybody.",
        sorted(waits, key=lambda a: a.expires_at),
        several,
        [
            ("Version", lambda a: el("bdi", a.reference)),
            ("State", lambda a: state(a.status)),
            ("Risk class", lambda a: a.risk_class.replace("_", " ")),
            ("Votes", lambda a: f"{len(a.votes)} of {a.people}"),
            ("Needs", lambda a: ", ".join(f"{n} x {r}" for r, n in a.needed.items())),
            ("Good until", lambda a: moment(a.expires_at)),
            ("Approval", lambda a: code(a.id[:12])),
        ],
    )


def _ended(every: Sequence[Approval], now: datetime, *, several: bool) -> Markup:
    ended = [
        a
        for a in every
        if a.status in {Status.STALE, Status.EXPIRED}
        and a.recorded_at is not None
        and a.recorded_at >= now - SINCE
    ]
    return _listed(
        "Stale and expired",
        f"None in the last {SINCE.days} days.",
        ended[:MOST],
        several,
        [
            ("Version", lambda a: el("bdi", a.reference)),
            ("State", lambda a: state(a.status)),
            ("Because", lambda a: "; ".join(a.reasons)),
            ("Since", lambda a: moment(a.recorded_at)),
            ("Approval", lambda a: code(a.id[:12])),
        ],
    )


def _live(found: Sequence[_Tenant], *, several: bool) -> Markup:
    rows = [
        [
            *([t.name] if several else []),
            el("bdi", f.reference),
            f.risk_class.replace("_", " "),
            [code(a.id[:12])] if a else Cell("none demanded", quiet=True) if not _without(f, a) else "none",
            "; ".join(f.unmet[:3]) if f.unmet else Cell("all as demanded", quiet=True),
        ]
        for t in found
        for f, a in t.live
    ]
    heads = ["Version", "Risk class", "Approval", "What is missing"]
    return _section("In production", "Nothing is in production.", heads, rows, several)


def _classes(found: Sequence[_Tenant], *, several: bool) -> Markup:
    rows = [
        [
            *([t.name] if several else []),
            el("bdi", model),
            tier.replace("_", " "),
            "" if gate == tier else f"counts as {gate.replace('_', ' ')}",
            note,
        ]
        for t in found
        for model, tier, gate, note in sorted(t.classes, key=lambda c: (_RANK[c[1]], c[0]))
    ]
    none = sum(t.models - len(t.classes) for t in found)
    said = el(
        "p",
        f"{none} {'model has' if none == 1 else 'models have'} no class: {'it counts' if none == 1 else 'they count'} "
        "as the worst one that can be approved.",
    )
    heads = ["Model", "Class", "At the gate", "Open questions"]
    section = _section("Models by risk class", "No model is classified.", heads, rows, several)
    return el("div", section, said if none else None)


_RANK = {risk.value: number for number, risk in enumerate(RiskClass)}


def _failed(found: Sequence[_Tenant], *, several: bool) -> Markup:
    rows = [
        [
            *([t.name] if several else []),
            el("bdi", f.reference),
            r.check,
            r.verdict.value.replace("_", " "),
            r.message,
        ]
        for t in found
        for f, _ in t.live
        for s in f.suites
        for r in s.results
        if r.verdict.value != "pass"
    ]
    heads = ["Version", "Check", "Verdict", "What was found"]
    return _section(
        "Failed checks of what is live", "Every check of what is live passes.", heads, rows[:MOST], several
    )


def _duties(found: Sequence[_Tenant], *, several: bool) -> Markup:
    """Duties that the law imposes by now, of models whose dossier or class leaves something open."""
    open_ones = {f.model.name for t in found for f, _ in t.live if f.unmet}
    rows = [
        [
            *([t.name] if several else []),
            el("bdi", model),
            title,
            f"Art. {article}",
            since,
            "" if certain else "perhaps",
        ]
        for t in found
        for model, title, article, since, certain in t.duties
        if model in open_ones
    ]
    heads = ["Model", "Duty", "Article", "Applies since", "Certain"]
    return _section(
        "Overdue duties",
        "No live model with duties under the law leaves anything open that the policy demands.",
        heads,
        rows[:MOST],
        several,
    )


def _deadlines(found: Sequence[_Tenant], now: datetime, *, several: bool) -> Markup:
    near = sorted((due for t in found for due in t.deadlines), key=lambda due: due.due_at)
    rows = [
        [
            *([due.tenant] if several else []),
            due.what,
            f"{due.register.replace('_', ' ')} {due.name}",
            due.article if due.article.startswith("AI Act") else f"GDPR {due.article}",
            moment(due.due_at),
            late() if due.due_at < now else soon(),
        ]
        for due in near[:MOST]
    ]
    heads = ["What", "Register and entry", "Article", "Due", "State"]
    none = "Nothing in the registers is late or due soon."
    return _section("Deadlines of data protection", none, heads, rows, several)


def _glass(every: Sequence[Approval], *, several: bool) -> Markup:
    return _listed(
        "Broken glass",
        "Nobody has broken the glass.",
        [a for a in every if a.kind is Kind.BREAK_GLASS][:MOST],
        several,
        [
            ("Version", lambda a: el("bdi", a.reference)),
            ("State", lambda a: state(a.status)),
            ("By", lambda a: a.requested_by),
            ("Because", lambda a: "; ".join(a.reasons)),
            ("When", lambda a: moment(a.requested_at)),
            ("Looked into by", lambda a: a.reviewed_by or "nobody yet"),
        ],
    )


def _refused(found: Sequence[_Tenant], *, several: bool) -> Markup:
    rows = [
        [
            *([t.name] if several else []),
            moment(r.recorded_at),
            r.actor,
            str(r.data["metadata"].get("command", "")),
            str(r.data["metadata"].get("place", "")),
            str(r.data.get("description", "")),
        ]
        for t in found
        for r in t.refusals
    ]
    heads = ["When", "Who", "Command", "Where to", "Why it was refused"]
    return _section("Refused at the gate", f"Nothing in the last {SINCE.days} days.", heads, rows, several)


def _listed(
    heading: str,
    none: str,
    approvals: Sequence[Approval],
    several: bool,
    columns: Sequence[tuple[str, Callable[[Approval], Content]]],
) -> Markup:
    rows = [[*([a.tenant] if several else []), *(show(a) for _, show in columns)] for a in approvals]
    return _section(heading, none, [head for head, _ in columns], rows, several)


def _section(
    heading: str, none: str, heads: Sequence[str], rows: Sequence[Sequence[Content | Cell]], several: bool
) -> Markup:
    named = [*(["Tenant"] if several else []), *heads]
    shown = (
        table(heading, [Column(head, number=False) for head in named], rows)
        if rows
        else el("p", none, class_="empty")
    )
    return el("section", el("h2", heading), shown, class_="listed")
