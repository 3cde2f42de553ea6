"""The experiment read-out: of every experiment that was looked at in a period, what was decided last, and on what.

A decision is a record and never changes; this shows it, and computes nothing anew. What
decides is the costs room's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.made import Made, Sheet, Value, markdown_table, sheet
from ml_registry_pipelines.reports.page import (
    Cell,
    Column,
    Content,
    Markup,
    document,
    el,
    figure,
    headline,
    table,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.experiments.looking import Decision
    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.lake.lake import Lake

REPORT = "experiment_readout"
TITLE = "Experiment read-out"
MEANINGS = {
    "WINNER": "a candidate won; its promotion is proposed, and made by nobody",
    "KEEP_CONTROL": "no candidate is better; keep the control",
    "INCONCLUSIVE": "not decided yet",
    "INVALID": "no conclusion can be drawn from these data",
}
COLUMNS = (
    "tenant", "experiment", "version", "part", "arm", "about",
    "outcome", "winner", "units_needed", "looked_at", "price_coverage",
    "estimate", "lower", "upper", "threshold", "wanted", "standing", "p_value", "control_value", "candidate_value",
    "units", "labelled", "requests", "billable_requests", "priced_requests", "cost",
)  # fmt: skip
_KEYS = 6


@dataclass(frozen=True)
class Decided:
    """What tells one decision from another."""

    tenant: str
    experiment: str
    version: int
    decision_id: str
    recorded_at: datetime


def all_decided(lake: Lake) -> list[Decided]:
    """Every decision, the oldest first."""
    if not lake.exists("decisions"):
        return []
    with lake.read("decisions") as reading:
        rows = reading.query(
            "reports.all_decided",
            """
            SELECT tenant, experiment, experiment_version AS version, decision_id, recorded_at
            FROM decisions ORDER BY recorded_at, decision_id
            """,
        ).to_pylist()
    return [Decided(**row) for row in rows]


def decided_in(known: Sequence[Decided], period: Period, tenant: str | None) -> list[tuple[str, str]]:
    """Tenant and id of the last decision of each experiment that was looked at in the period."""
    last = {
        (each.tenant, each.experiment, each.version): each.decision_id
        for each in known
        if period.start <= each.recorded_at < period.end and tenant in (None, each.tenant)
    }
    return [(key[0], last[key]) for key in sorted(last)]


def mark_of(decided: Sequence[tuple[str, str]]) -> str | None:
    """Differs when other decisions are the last ones; None where there is none."""
    return (
        hashlib.sha256("\n".join(each for _, each in decided).encode()).hexdigest()[:32] if decided else None
    )


def experiment_readout(lake: Lake, period: Period, tenant: str | None, *, mark: str) -> Made | None:
    """The read-out of a period; None where no experiment was looked at in it."""
    from ml_registry_pipelines.costs.experiments.looking import decisions

    found = [
        decisions(lake, tenant=whose, decision_id=identity)[0]
        for whose, identity in decided_in(all_decided(lake), period, tenant)
    ]
    if not found:
        return None
    return Made(
        REPORT,
        tenant,
        period,
        TITLE,
        readout_page(found, period, tenant),
        readout_sheet(found),
        readout_markdown(found),
        mark,
        {
            f"{d.experiment} v{d.experiment_version}, {name}": v
            for d in found
            for name, v in d.versions.items()
        },
        {f"{d.experiment} v{d.experiment_version}": {"price_coverage": d.price_coverage} for d in found},
        {
            f"{d.experiment} v{d.experiment_version}": {
                "decision": d.decision_id,
                "retrospective": d.retrospective,
                "code_version": d.code_version,
                "declaration": d.parameters,
            }
            for d in found
        },
    )


def readout_sheet(found: Sequence[Decision]) -> Sheet:
    """A row per decision, then one per claim, then one per arm."""
    return sheet(COLUMNS, _KEYS, [row for each in found for row in _rows(each)])


def _rows(each: Decision) -> Iterator[list[Value]]:
    def row(part: str, given: Mapping[str, Any]) -> list[Value]:
        names: list[Value] = [each.tenant, each.experiment, each.experiment_version, part]
        keys = [*names, given.get("arm"), given.get("about")]
        return [*keys, *(given.get(name) for name in COLUMNS[_KEYS:])]

    yield row("decision", {**vars(each), "outcome": each.outcome.value})
    for claim in each.intervals:
        yield row("claim", claim)
    for arm in each.arms:
        counts = {**arm, "billable_requests": arm.get("billable"), "priced_requests": arm.get("priced")}
        yield row("arm", counts)


def readout_markdown(found: Sequence[Decision]) -> str:
    """One line per experiment in Markdown, then what each decision says."""
    rows = [
        [
            each.experiment,
            f"v{each.experiment_version}",
            each.outcome.value,
            each.winner or formats.NOTHING,
            formats.count(each.units_needed),
            _share(each.price_coverage),
        ]
        for each in found
    ]
    heads = ("Experiment", "Version", "Outcome", "Winner", "Units still needed", "Priced")
    said = [f"**{each.experiment}**: {' '.join(each.message.split())}" for each in found]
    return "\n\n".join([markdown_table(heads, rows, numbers=2), *said])


def readout_page(found: Sequence[Decision], period: Period, tenant: str | None) -> str:
    """The page; it loads nothing, and can be printed."""
    title = TITLE if tenant is None else f"{TITLE} of {formats.name(tenant, formats.NOTHING)}"
    return document(
        title,
        f"{formats.days(period.first, period.last)} ({period.zone.key})",
        [el("section", *_experiment(each, told=tenant is None)) for each in found],
        el(
            "section",
            el("h2", "How to read this"),
            el(
                "p",
                "An interval holds the true difference with the stated confidence at every look that was made, so "
                "looking often does no harm. A claim holds when its whole interval is on the wanted side of its "
                "threshold. Every figure is as it was recorded with the decision.",
            ),
        ),
    )


def _experiment(each: Decision, *, told: bool) -> Iterator[Content]:
    whose = f" of {each.tenant}" if told else ""
    yield el(
        "h2", f"{formats.name(each.experiment, formats.NOTHING)}, version {each.experiment_version}{whose}"
    )
    yield el(
        "dl",
        headline("Outcome", each.outcome.value.replace("_", " "), MEANINGS.get(each.outcome.value, "")),
        headline(
            "Winner", each.winner or formats.NOTHING, f"proposes {each.proposes}" if each.proposes else ""
        ),
        headline("Units still needed", formats.count(each.units_needed), "per arm, if estimates stay"),
        headline("Priced", _share(each.price_coverage), "least share of billable requests among the arms"),
        class_="headlines",
    )
    yield el("p", each.message)
    if each.retrospective:
        said = "Declared when its data may have been known: nothing is proposed from it."
        yield el("div", el("p", said), class_="notice", role="note")
    yield from _charts(each)
    if each.intervals:
        yield _claims(each)
    if each.gates:
        yield table(
            "Whether the data can be trusted",
            [
                Column("Gate", number=False),
                Column("Passed", number=False),
                Column("What was seen", number=False),
            ],
            [
                [str(gate["gate"]).replace("_", " "), "yes" if gate["passed"] else "no", str(gate["says"])]
                for gate in each.gates
            ],
        )
    yield _arms(each)
    yield _record(each)


def _charts(each: Decision) -> Iterator[Content]:
    """One chart per claim's subject: their units differ."""
    for about in dict.fromkeys(str(claim["about"]) for claim in each.intervals):
        rows = [
            charts.Interval(
                formats.name(str(claim["arm"]), formats.NOTHING),
                claim["estimate"],
                claim["lower"],
                claim["upper"],
                claim["threshold"],
                f"{str(claim['standing']).replace('_', ' ')}, wanted {claim['wanted']} {claim['threshold']:.4g}",
            )
            for claim in each.intervals
            if claim["about"] == about and None not in (claim["estimate"], claim["lower"], claim["upper"])
        ]
        if rows:
            words = about.replace("_", " ")
            unit = f" in {_currency(each)}" if about == "cost" and _currency(each) else ""
            title = f"{words}{unit}: candidate less control"
            yield figure(
                f"{words.capitalize()}, candidate less control",
                charts.as_svg(charts.intervals(rows, title=title), label=f"Intervals: {title}"),
                "Point: estimate. Line: confidence interval. Bar across: the threshold of the claim.",
            )


def _claims(each: Decision) -> Markup:
    rows: list[list[Content | Cell]] = [
        [
            str(claim["arm"]),
            str(claim["about"]).replace("_", " "),
            _figure(claim["control_value"]),
            _figure(claim["candidate_value"]),
            _figure(claim["estimate"]),
            f"{_figure(claim['lower'])} to {_figure(claim['upper'])}",
            f"{claim['wanted']} {_figure(claim['threshold'])}",
            str(claim["standing"]).replace("_", " "),
        ]
        for claim in each.intervals
    ]
    return table(
        "Claims",
        [
            Column("Candidate", number=False),
            Column("About", number=False),
            Column("Control"),
            Column("Candidate"),
            Column("Difference"),
            Column("Interval"),
            Column("Wanted"),
            Column("Stands", number=False),
        ],
        rows,
    )


def _arms(each: Decision) -> Markup:
    rows: list[list[Content | Cell]] = [
        [
            str(arm["arm"]),
            formats.count(arm.get("units")),
            formats.count(arm.get("labelled")),
            formats.count(arm.get("requests")),
            formats.share(arm.get("priced") or 0, arm.get("billable") or 0),
            formats.NOT_PRICED if arm.get("cost") is None else formats.money(Decimal(str(arm["cost"]))),
        ]
        for arm in each.arms
    ]
    return table(
        "Arms",
        [
            Column("Arm", number=False),
            Column("Units"),
            Column("Labelled", "units"),
            Column("Requests"),
            Column("Priced", "of billable"),
            Column("Cost", _currency(each)),
        ],
        rows,
    )


def _record(each: Decision) -> Markup:
    rows = [
        ("decision", each.decision_id),
        ("data up to", f"{each.looked_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("decided", f"{each.recorded_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("decided by", each.code_version),
        *(
            (f"version of {name}", formats.NOTHING if v is None else str(v))
            for name, v in each.versions.items()
        ),
        *((f"parameter {name}", text) for name, text in _flat(each.parameters)),
    ]
    return table("The record", [Column("What", number=False), Column("Value", number=False)], rows)


def _flat(given: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        elif value not in (None, [], ""):
            yield f"{above}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _currency(each: Decision) -> str | None:
    cost = each.parameters.get("cost")
    return str(cost["currency"]) if isinstance(cost, Mapping) and cost.get("currency") else None


def _figure(value: float | None) -> str:
    return formats.NOTHING if value is None else f"{value:.5g}"


def _share(value: float | None) -> str:
    return formats.NOTHING if value is None else f"{value:.1%}"
