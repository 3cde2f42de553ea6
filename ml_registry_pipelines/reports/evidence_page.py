"""The evidence page of one approval: what a reviewer has to know to decide, and where to do so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.approvals.approval import Approval, Decision, Kind, Status
from ml_registry_pipelines.compliance.approvals.verbs import Approvals
from ml_registry_pipelines.compliance.dossier.fields import ANNEX_IV
from ml_registry_pipelines.compliance.gate.standing import Standing, SuiteStanding
from ml_registry_pipelines.compliance.results import Group, Interval, Result, counted
from ml_registry_pipelines.lineage.tracker import Impact, LineageTracker
from ml_registry_pipelines.registry.comparison import Difference
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import Stage, Version
from ml_registry_pipelines.reports import formats
from ml_registry_pipelines.reports.governance_words import (
    alarms,
    code,
    facts,
    moment,
    reasons,
    review_link,
    state,
    style,
    verdict,
)
from ml_registry_pipelines.reports.page import Cell, Column, Content, Markup, document, el, table

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

COST_DAYS = 30
MOST_DIFFERENCES = 80
MOST_AFFECTED = 60


@dataclass(frozen=True)
class _Cost:
    """What a version cost in the window: per priced request, by currency."""

    version: Version
    requests: int
    amounts: tuple[tuple[str, Decimal, int], ...]


def evidence_page(log: Log, approval: str, *, actor: Actor, tenant: str = "default") -> str:
    """The page of an approval as HTML that loads nothing.

    Raises:
        NotFound: there is no such approval.
        NotAllowed: the actor may not read.
    """
    asked = Approvals(log, actor=actor, tenant=tenant)
    one = asked.get(approval)
    found = asked.standing(one.version_id)
    models = ModelRegistry(log, actor=actor, tenant=tenant)
    version = models.get_version(one.version_id)
    live = next((v for v in models.list_versions(version.model_id) if v.stage is Stage.PRODUCTION), None)
    other = live if live is not None and live.id != version.id else None
    tracker = LineageTracker(log, actor=actor, tenant=tenant)
    # What the live version serves is what a promotion changes.
    impacts = [
        (v, tracker.get_impact_analysis("model_version", v.id, limit=MOST_AFFECTED))
        for v in (other, version)
        if v is not None
    ]
    broken = [g for g in asked.list(kind=Kind.BREAK_GLASS) if g.awaits_review]
    over = one.status in {Status.USED, Status.WITHDRAWN}
    changed = [] if over else [*one.bound.changed(found.bound), *found.outdated]
    parts: list[Content] = [
        style(),
        alarms(broken),
        _decision(one, changed),
        _unmet(found),
        _checks(found.suites),
        _differences(other, models.compare_versions(other.id, version.id) if other else None),
        _impact(impacts),
        _costs(log, tenant, version, other),
        _dossier(found),
        _bound(one, found),
    ]
    return document(
        f"Evidence for {one.reference}",
        f"Approval {one.id[:12]} of tenant {tenant}, as of {moment(datetime.now(UTC))}",
        *parts,
    )


def _decision(one: Approval, changed: Sequence[str]) -> Markup:
    needed = ", ".join(f"{count} x {role}" for role, count in one.needed.items()) or "nobody"
    more = "" if one.author_known or not one.needed else ", and one more: nobody knows who registered it"
    link = review_link(one) if one.status is Status.REQUESTED else None
    votes = [
        [
            vote.by,
            _DECISIONS[vote.decision],
            ", ".join(vote.roles),
            moment(vote.at),
            vote.comment or Cell("no comment", quiet=True),
        ]
        for vote in one.votes
    ]
    return el(
        "section",
        facts(
            [
                ("State", state(one.status)),
                ("Because", "; ".join(one.reasons)),
                ("Risk class", one.risk_class.replace("_", " ")),
                ("Who has to approve", needed + more),
                ("Requested", f"{moment(one.requested_at)} by {one.requested_by}"),
                ("Registered", f"by {one.author}"),
                ("Good until", moment(one.expires_at)),
                ("Note", one.note),
            ]
        ),
        el("div", el("p", el("strong", "No longer what was asked for: "), "; ".join(changed)), class_="alarm")
        if changed
        else None,
        el("a", "Decide in Dagster", href=link, class_="decide") if link else None,
        el(
            "pre",
            f"mlreg approvals review {one.id[:12]} --digest {one.bound.digest[:12]} --approve --comment '…'",
        )
        if one.status is Status.REQUESTED
        else None,
        table(
            "Votes",
            [Column(head, number=False) for head in ("Who", "Decision", "Roles", "When", "Comment")],
            votes,
        )
        if votes
        else el("p", "Nobody has voted yet.", class_="empty"),
    )


_DECISIONS = {Decision.APPROVE: "approves", Decision.REJECT: "rejects", Decision.CHANGES: "asks for changes"}


def _unmet(found: Standing) -> Content:
    if not found.unmet:
        return None
    return el(
        "div",
        el("p", el("strong", "What the policy demands and is not there")),
        reasons(found.unmet),
        class_="alarm",
    )


def _checks(suites: Sequence[SuiteStanding]) -> Markup:
    if not suites:
        return _section(
            "Checks", el("p", "The policy demands no checks for this risk class.", class_="empty")
        )
    return _section("Checks", *(part for suite in suites for part in _suite(suite)))


def _suite(suite: SuiteStanding) -> Iterable[Content]:
    if suite.run is None:
        yield el("p", el("strong", suite.suite), " has not been run on this version.", class_="empty")
        return
    rows = [
        [
            [r.check, el("small", f" {r.about}") if r.about else None],
            verdict(r.verdict),
            _value(r.observed, r.unit),
            _interval(r.interval),
            _threshold(r),
            formats.count(r.n) if r.n is not None else "",
            [r.severity.value, el("small", f" {r.article}") if r.article else None],
        ]
        for r in suite.results
    ]
    columns = [
        Column("Check", number=False),
        Column("Verdict", number=False),
        Column("Value"),
        Column("Interval"),
        Column("Threshold"),
        Column("Rows"),
        Column("Severity", number=False),
    ]
    yield table(
        f"Suite {suite.suite}",
        columns,
        rows,
        note=f"run on {moment(suite.run.recorded_at)} by {suite.run.actor}",
    )
    said = [r for r in suite.results if r.verdict.value != "pass"]
    if said:
        yield reasons(
            [r.message if r.message.startswith(r.check) else f"{r.check}: {r.message}" for r in said]
        )
    yield from (_groups(r) for r in suite.results if r.groups)


def _groups(result: Result) -> Markup:
    rows = [
        [
            el("bdi", group.name),
            formats.count(group.n),
            formats.count(group.positives) if group.positives is not None else "",
            _value(group.value, ""),
            _interval(group.interval),
            Cell(group.left_out or "", quiet=True),
        ]
        for group in _ordered(result.groups)
    ]
    columns = [
        Column("Group", number=False),
        Column("People"),
        Column("Positives"),
        Column("Value"),
        Column("Interval"),
        Column("Left out because", number=False),
    ]
    about = f", {result.about}" if result.about else ""
    note = f"compared with {result.reference}" if result.reference else None
    return table(f"Groups of {result.check}{about}", columns, rows, note=note)


def _ordered(groups: Sequence[Group]) -> list[Group]:
    return sorted(groups, key=lambda g: (bool(g.left_out), -g.n, g.name))


def _differences(live: Version | None, difference: Difference | None) -> Markup:
    if live is None or difference is None:
        return _section(
            "What is different",
            el("p", "Nothing is in production so far.", class_="empty"),
        )
    rows = [
        [name, _text(one), _text(two)]
        for name, (one, two) in sorted(difference.fields.items())
        if name != "stage"
    ]
    if not rows:
        return _section(
            "What is different", el("p", f"Nothing but its number from {live.reference}.", class_="empty")
        )
    shown = rows[:MOST_DIFFERENCES]
    return _section(
        "What is different",
        table(
            f"Against {live.reference}, which is in production",
            [Column("Field", number=False), Column("Live", number=False), Column("This one", number=False)],
            shown,
            note=f"{len(rows) - len(shown)} more are not shown" if len(rows) > len(shown) else None,
        ),
    )


def _impact(impacts: Sequence[tuple[Version, Impact]]) -> Markup:
    seen: set[str] = set()
    rows: list[list[Content | Cell]] = []
    for version, impact in impacts:
        reached = [*impact.deployments, *(r for of in impact.affected.values() for r in of)]
        for node in (r.node for r in reached if r.node.id != version.model_id):
            if node.id not in seen:
                seen.add(node.id)
                of_node = ", ".join(node["owners"] or ())
                place = str(node["environment"] or "")
                rows.append(
                    [el("bdi", node.name), node.type.replace("_", " "), version.reference, place, of_node]
                )
    owners = sorted({owner for _, impact in impacts for owner in impact.owners})
    if not rows:
        return _section(
            "Blast radius", el("p", "Nothing depends on it, nor on what it would replace.", class_="empty")
        )
    partial = any(impact.partial for _, impact in impacts) or len(rows) > MOST_AFFECTED
    return _section(
        "Blast radius",
        el("p", f"Owners to tell: {', '.join(owners) or 'none named'}."),
        table(
            "What depends on it, or on what it would replace",
            [Column(head, number=False) for head in ("Name", "Kind", "Through", "Environment", "Owners")],
            rows[:MOST_AFFECTED],
            note="there is more: `mlreg lineage impact` lists all" if partial else None,
        ),
    )


def _costs(log: Log, tenant: str, version: Version, live: Version | None) -> Markup:
    """What a request costs by this version and by the live one, where both have answered some."""
    today = datetime.now(UTC).date()
    since = today - timedelta(days=COST_DAYS)
    rows = []
    per: dict[str, list[Decimal]] = {}
    for one in (live, version):
        if one is None:
            continue
        cost = _cost(log, tenant, one, since, today + timedelta(days=1))
        for currency, amount, priced in cost.amounts or (("", Decimal(0), 0),):
            if priced:
                per.setdefault(currency, []).append(amount / priced)
            said = formats.unit_price(amount / priced) if priced else "no priced request"
            rows.append([one.reference, formats.count(cost.requests), said, currency])
    change = [
        f"{after / before - 1:+.0%} in {currency}"
        for currency, (before, after) in ((c, p) for c, p in per.items() if len(p) == 2)
        if before
    ]
    if change:
        said = f"A request costs {', '.join(change)} by comparison with the live version."
    else:
        said = "The change is not known: a version that has answered nothing costs nothing that could be compared."
    note = f"over the last {COST_DAYS} days, of requests that are attributed to a version"
    return _section(
        "Cost",
        el("p", said),
        table(
            "What a request costs",
            [
                Column("Version", number=False),
                Column("Requests"),
                Column("Per request"),
                Column("Currency", number=False),
            ],
            rows,
            note=note,
        ),
    )


def _cost(log: Log, tenant: str, version: Version, since: date, until: date) -> _Cost:
    from ml_registry_pipelines.costs.queries import cost_by

    if not log.lake.exists("cost_rollup"):
        return _Cost(version, 0, ())
    with log.lake.read("cost_rollup") as reading:
        limits = {"tenant": tenant, "model_id": version.model_id}
        rows = cost_by(reading, ("model_version",), since=since, until=until, where=limits).to_pylist()
    own = [row for row in rows if str(row["model_version"]) == str(version.number)]
    amounts = tuple(
        (row["currency"], row["cost"], int(row["priced_requests"]))
        for row in own
        if row["currency"] and row["priced_requests"] and row["cost"] is not None
    )
    return _Cost(version, sum(int(row["requests"]) for row in own), amounts)


def _dossier(found: Standing) -> Markup:
    if found.requirement.dossier != "complete":
        return _section(
            "Dossier", el("p", "The policy wants no complete dossier for this class.", class_="empty")
        )
    if not found.missing:
        return _section("Dossier", el("p", "All fields of Annex IV are derived or attested."))
    titles = {asked.id: asked.title for asked in ANNEX_IV}
    many = (
        f"{len(found.missing)} fields of Annex IV are"
        if len(found.missing) > 1
        else "One field of Annex IV is"
    )
    return _section(
        "Dossier",
        el("p", f"{many} open: neither derived nor attested by somebody who had signed in."),
        facts([(name, titles.get(name, "")) for name in found.missing]),
    )


def _bound(one: Approval, found: Standing) -> Markup:
    return _section(
        "What the approval is bound to",
        el("p", "If any of this changes, the approval is stale."),
        facts(
            [
                ("Digest to quote", code(one.bound.digest)),
                ("Content", code(one.bound.content)),
                ("Evidence", code(one.bound.evidence)),
                ("Classification", code(one.bound.classification or "none: nobody has classified the model")),
                ("Policy", [code(one.bound.policy), f" ({found.source})"]),
                ("Legal text", found.classified.law if found.classified else ""),
            ]
        ),
    )


def _section(heading: str, *content: Content) -> Markup:
    return el("section", el("h2", heading), *content)


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}{f' {counted(unit, value)}' if unit else ''}"


def _interval(given: Interval | None) -> Content | Cell:
    if given is None:
        return ""
    return Cell(
        f"{given.low:.4g} to {given.high:.4g}", title=f"{given.confidence:.0%} confidence, {given.method}"
    )


def _threshold(result: Result) -> str:
    if result.low is not None and result.high is not None:
        return f"{result.low:g} to {result.high:g}"
    return (
        f"≤ {result.high:g}"
        if result.high is not None
        else f"≥ {result.low:g}"
        if result.low is not None
        else ""
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return f"{value[:16]}…"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
