"""The ROI report: what models returned in a month by each value model, as an interval, with its assumptions.

An answer that cannot be given stands here as refused, with the reason. What a return is, is
`costs/roi.py`'s; each answer that a report shows is kept in `roi_results`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.policy import platform
from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.made import Made, Sheet, Value, json_text, markdown_table, sheet
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
    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.costs.roi import MoneyInterval, Roi
    from ml_registry_pipelines.costs.value_models import Declared
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log

REPORT = "roi_report"
TITLE = "Return on models"
COLUMNS = (
    "value_model", "currency",
    "status", "reason", "answers", "labels", "successes",
    "value", "model_cost", "unpriced_cost", "judge_cost", "platform_cost",
    "net_value", "net_lower", "net_upper", "return", "return_lower", "return_upper",
    "counterfactual_cost", "saving", "saving_lower", "saving_upper",
    "confidence", "price_coverage", "label_coverage",
)  # fmt: skip
_KEYS = 2
STATED = "stated"


def days(period: Period) -> tuple[date, date]:
    """First UTC day of the period's days, and the first after."""
    return period.first, period.last + timedelta(days=1)


def value_models(log: Log, tenant: str) -> list[Declared]:
    """The value models of a tenant, by name."""
    from ml_registry_pipelines.costs.value_models import ValueModels

    found = ValueModels(log, actor=platform("report-delivery"), tenant=tenant).list()
    return sorted(found, key=lambda each: each.model.name)


def labels_by_day(lake: Lake, tenant: str) -> Mapping[date, str]:
    """Of each UTC day what differs when a label of it was recorded."""
    with lake.read("model_metrics") as reading:
        rows = reading.query(
            "reports.labels_by_day",
            """
            SELECT day, count(*) AS points, epoch_us(max(recorded_at)) AS newest
            FROM model_metrics WHERE tenant = $tenant GROUP BY day
            """,
            {"tenant": tenant},
        ).to_pylist()
    return {row["day"]: f"{row['points']}.{row['newest']}" for row in rows}


def mark_of(
    declared: Sequence[Declared], labels: Mapping[date, str], costs: Mapping[date, str], period: Period
) -> str | None:
    """Differs when a value model, a label or a cost of the period does; None without a value model for it."""
    since, until = days(period)
    held = [f"{each.id}@{each.sequence}" for each in declared if each.model.covers(since, until)]
    if not held:
        return None
    told = [
        f"{day}:{marks[day]}" for marks in (labels, costs) for day in sorted(marks) if since <= day < until
    ]
    return hashlib.sha256("\n".join([*held, *told]).encode()).hexdigest()[:32]


def roi_report(log: Log, period: Period, tenant: str, *, mark: str) -> Made | None:
    """The report of a month; None where no value model holds for it."""
    from ml_registry_pipelines.costs.integration import VibeCodingIntegration

    since, until = days(period)
    asked = [each for each in value_models(log, tenant) if each.model.covers(since, until)]
    costs = VibeCodingIntegration(log.lake)
    found = [costs.get_roi(each, since, until) for each in asked]
    if not found:
        return None
    return Made(
        REPORT,
        tenant,
        period,
        TITLE,
        roi_page(found, period, tenant),
        roi_sheet(found),
        roi_markdown(found),
        mark,
        {name: version for each in found for name, version in each.provenance.versions.items()},
        {
            each.value_model.model.name: {
                "price_coverage": each.price_coverage,
                "label_coverage": each.label_coverage,
                "answers": each.answers,
            }
            for each in found
        },
        {"days": "UTC", **{each.value_model.model.name: each.assumptions() for each in found}},
        final=not any(each.provenance.pending for each in found),
    )


def roi_sheet(found: Sequence[Roi]) -> Sheet:
    """One row per value model."""
    return sheet(COLUMNS, _KEYS, [_row(each) for each in found])


def _row(each: Roi) -> list[Value]:
    net, saving, returns = each.net_value, each.saving, each.returns
    amounts = (each.value, each.model_cost, each.unpriced_cost, each.judge_cost, each.platform_cost)
    return [
        each.value_model.model.name, each.currency,
        each.status, each.reason, each.answers, each.labels, each.successes,
        # Of one that is refused, costs may be of another currency than the value.
        *(amounts if each.status == STATED else (None,) * 5),
        *((net.estimate, net.lower, net.upper) if net else (None, None, None)),
        *((returns.estimate, returns.lower, returns.upper) if returns else (None, None, None)),
        each.counterfactual_cost,
        *((saving.estimate, saving.lower, saving.upper) if saving else (None, None, None)),
        each.confidence, each.price_coverage, each.label_coverage,
    ]  # fmt: skip


def roi_markdown(found: Sequence[Roi]) -> str:
    """One line per value model in Markdown."""
    rows = [
        [
            each.value_model.model.name,
            _bounded(each.net_value, each.currency) if each.net_value else f"refused: {each.reason}",
            f"{each.returns.lower:.0%} to {each.returns.upper:.0%}" if each.returns else formats.NOTHING,
            formats.count(each.answers),
            _share(each.price_coverage),
            _share(each.label_coverage),
        ]
        for each in found
    ]
    return markdown_table(
        ("Value model", "Net value", "Return", "Answers", "Priced", "Judged"), rows, numbers=3
    )


def roi_page(found: Sequence[Roi], period: Period, tenant: str) -> str:
    """The page; it loads nothing, and can be printed."""
    return document(
        f"{TITLE} of {formats.name(tenant, formats.NOTHING)}",
        f"{formats.days(period.first, period.last)} (UTC)",
        [el("section", *_answer(each)) for each in found],
        el(
            "section",
            el("h2", "How to read this"),
            el(
                "p",
                "Net value is the value of successes less all costs. Its interval takes these answers as a sample of "
                "such traffic; where it holds 0, the data do not tell a gain from a loss. The saving compares with "
                "what the answers would have cost otherwise; it answers another question, and is never added.",
            ),
        ),
    )


def _answer(each: Roi) -> Iterator[Content]:
    model = each.value_model.model
    yield el("h2", formats.name(model.name, formats.NOTHING))
    if each.status != STATED:
        yield el("div", el("p", f"No return is stated: {each.reason}."), class_="notice", role="note")
    percent = f"{each.confidence:.0%} interval"
    yield el("dl", list(_headlines(each, percent)), class_="headlines")
    yield from _charts(each, percent)
    if each.status == STATED:
        yield _sums(each)
    for remark in each.remarks:
        yield el("p", remark)
    rows = [(name.replace("_", " "), _text(value)) for name, value in each.assumptions().items() if value]
    rows += [(f"version of {name}", str(version)) for name, version in each.provenance.versions.items()]
    rows.append(("answer in roi_results", each.result_id))
    yield table(
        "What it assumes and was made of", [Column("What", number=False), Column("Value", number=False)], rows
    )


def _headlines(each: Roi, percent: str) -> Iterator[Markup]:
    net = each.net_value
    yield headline(
        "Net value",
        _money(net.estimate, each.currency) if net else formats.NOTHING,
        f"{_money(net.lower, each.currency)} to {_money(net.upper, each.currency)}, {percent}"
        if net
        else "not stated",
    )
    yield headline(
        "Return",
        f"{each.returns.estimate:.0%}" if each.returns else formats.NOTHING,
        f"{each.returns.lower:.0%} to {each.returns.upper:.0%} of all costs"
        if each.returns
        else "not stated",
    )
    judged = (
        "every answer counts as a success" if each.labels is None else f"{formats.count(each.labels)} judged"
    )
    yield headline("Answers", formats.count(each.answers), judged)
    yield headline("Priced", _share(each.price_coverage), "of billable requests")


def _charts(each: Roi, percent: str) -> Iterator[Content]:
    rows = [
        charts.Interval(
            name,
            float(held.estimate),
            float(held.lower),
            float(held.upper),
            0.0,
            _bounded(held, each.currency),
        )
        for name, held in (("net value", each.net_value), ("saving", each.saving))
        if held is not None
    ]
    if rows:
        title = f"{each.currency} in this period"
        yield figure(
            f"Net value and saving, {each.currency}",
            charts.as_svg(charts.intervals(rows, title=title), label=f"Intervals: {title}"),
            f"Point: estimate. Line: {percent}. Bar across: nothing gained, nothing lost.",
        )


def _sums(each: Roi) -> Markup:
    parts: list[tuple[str, Decimal | None]] = [
        ("Value of successes", each.value),
        ("Model cost", _less(each.model_cost)),
        ("Estimate for requests without a price", _less(each.unpriced_cost)),
        ("Judging", _less(each.judge_cost)),
        ("Platform", _less(each.platform_cost)),
        ("Net value", each.net_value.estimate if each.net_value else None),
    ]
    rows: list[list[Content | Cell]] = [
        [
            name,
            Cell(formats.NOTHING, quiet=True)
            if v is None
            else Cell(formats.money(v), title=formats.exact(v)),
        ]
        for name, v in parts
    ]
    caption = f"How it comes about: {formats.name(each.value_model.model.name, formats.NOTHING)}"
    return table(caption, [Column("What", number=False), Column("Amount", each.currency)], rows)


def _less(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else -amount


def _money(amount: Decimal, currency: str) -> str:
    return f"{formats.money(amount, decimals=2)} {currency}"


def _bounded(held: MoneyInterval, currency: str) -> str:
    return (
        f"{_money(held.estimate, currency)} ({formats.money(held.lower, decimals=2)} to "
        f"{formats.money(held.upper, decimals=2)})"
    )


def _share(value: float | None) -> str:
    return formats.NOTHING if value is None else f"{value:.1%}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json_text(value)
