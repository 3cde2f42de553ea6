"""What the evidence page and the governance page share: marks of verdicts and states, times, and the link to decide."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote

from ml_registry_pipelines.compliance.approvals.approval import Approval, Status
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.reports.page import Content, Markup, el

WEB_SERVERS = "MLREG_DAGSTER_URL"
LOCATION = "ml_registry_pipelines.definitions"
"""The code location as Dagster names it."""
STYLE = """
.state { display: inline-block; font-weight: 600; white-space: nowrap; }
.state::before { content: ""; display: inline-block; width: .6rem; height: .6rem; margin-right: .4rem;
  border-radius: 50%; background: var(--state); vertical-align: 0; }
.listed caption { display: none; }
dl.headlines > div { flex-basis: 12rem; }
.good { --state: #2f7d4f; } .bad { --state: #b3372f; } .unsure { --state: #c07a1e; } .still { --state: #7b8794; }
.bad.square::before { border-radius: 0; } .unsure.square::before { border-radius: 0; transform: rotate(45deg); }
.alarm { border-left: 4px solid #b3372f; background: var(--soft); padding: .8rem 1rem; margin: 1rem 0; }
.alarm p { margin: .2rem 0; max-width: none; }
.decide { display: inline-block; margin: .75rem .75rem 0 0; padding: .5rem 1rem; border: 1px solid var(--ink);
  border-radius: 4px; color: var(--paper); background: var(--ink); text-decoration: none; font-weight: 600; }
code { font: .86em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .7rem 1rem; overflow-x: auto; white-space: pre-wrap; }
ul.reasons { margin: .4rem 0; padding-left: 1.2rem; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 1rem 0; }
dl.facts dd { overflow-wrap: anywhere; }
@media (max-width: 40rem) { dl.facts { grid-template-columns: 1fr; } dl.facts dd { margin-bottom: .4rem; } }
@media print { .decide { display: none; } }
"""
"""Shapes differ as well as colours, so that nobody has to tell red from green."""

_VERDICTS = {
    Verdict.PASS: ("pass", "good"),
    Verdict.FAIL: ("fail", "bad square"),
    Verdict.INCONCLUSIVE: ("inconclusive", "unsure square"),
    Verdict.COULD_NOT_RUN: ("could not run", "bad square"),
}
_STATES = {
    Status.REQUESTED: ("waits for votes", "unsure square"),
    Status.CHANGES_REQUESTED: ("changes asked for", "unsure square"),
    Status.APPROVED: ("granted", "good"),
    Status.REJECTED: ("rejected", "bad square"),
    Status.WITHDRAWN: ("withdrawn", "still"),
    Status.STALE: ("stale", "bad square"),
    Status.EXPIRED: ("expired", "bad square"),
    Status.USED: ("used", "good"),
}


def style() -> Markup:
    """What these pages need besides the style of all."""
    return el("style", Markup(STYLE))


def verdict(given: Verdict) -> Markup:
    word, look = _VERDICTS[given]
    return el("span", word, class_=f"state {look}")


def state(given: Status) -> Markup:
    word, look = _STATES[given]
    return el("span", word, class_=f"state {look}")


def late() -> Markup:
    return el("span", "late", class_="state bad square")


def soon() -> Markup:
    return el("span", "due soon", class_="state unsure square")


def moment(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def code(text: str) -> Markup:
    return el("code", text)


def facts(rows: Sequence[tuple[str, Content]]) -> Markup:
    """Names and values, one under the other; what has no value is left out."""
    return el(
        "dl",
        [(el("dt", name), el("dd", value)) for name, value in rows if value not in (None, "")],
        class_="facts",
    )


def reasons(given: Sequence[str]) -> Markup:
    return el("ul", [el("li", reason) for reason in given], class_="reasons")


def alarms(broken: Sequence[Approval]) -> Markup | None:
    """What stands on every page as long as nobody has looked into it."""
    if not broken:
        return None
    return el(
        "div",
        [
            el(
                "p",
                el("strong", f"Broken glass: {glass.reference}"),
                f" by {glass.requested_by} on {moment(glass.requested_at)}, ",
                "used" if glass.status is Status.USED else "not used",
                f". “{'; '.join(glass.reasons)}” Another person looks into it until {moment(glass.review_due)}: ",
                code(f"mlreg approvals review-break-glass {glass.id[:12]} --comment …"),
            )
            for glass in broken
        ],
        class_="alarm",
        role="alert",
    )


def review_link(approval: Approval) -> str | None:
    """The form of `review_approval` in Dagster's UI with all but decision and comment filled in.

    None where nobody has said at which address the UI is.
    """
    server = os.environ.get(WEB_SERVERS, "").split(",")[0].strip().rstrip("/")
    if not server:
        return None
    form = (
        f"tenant: {_quoted(approval.tenant)}\n"
        f"approval: {_quoted(approval.id)}\n"
        f"digest: {_quoted(approval.bound.digest)}\n"
        "decision:  # APPROVE, REJECT or CHANGES_REQUESTED\n"
        'comment: ""\n'
    )
    return (
        f"{server}/locations/{LOCATION}/jobs/review_approval/playground/setup?config={quote(form, safe='')}"
    )


def _quoted(text: str) -> str:
    """A YAML text; none of these can hold a quote."""
    return f'"{text}"'
