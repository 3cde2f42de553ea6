"""A tenant's statement for people and programs: a printable page, and CSV with every digit."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import quote

from ml_registry_pipelines.costs.statements.statement import Statement, StatementLine
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.reports import charts, formats
from ml_registry_pipelines.reports.page import Cell, Column, Content, document, el, figure, headline, table
from ml_registry_pipelines.reports.writing import FOLDER, Written, write_report

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.statements.issuing import Statements
    from ml_registry_pipelines.lake.lake import Lake

REPORT = "tenant_statement"
CHARTED = 12
"""Models in the chart; the table has all of them."""
COLUMNS: tuple[str, ...] = (
    "statement_id",
    "tenant",
    "month",
    "number",
    "kind",
    "description",
    "provider",
    "model",
    "rule",
    "corrects",
    "requests",
    "billable_requests",
    "priced_requests",
    "assumed_requests",
    "tokens",
    "currency",
    "amount",
)
"""Columns of the CSV, one row per line."""


def statement_csv(statement: Statement) -> str:
    """The lines as CSV: amounts with all twelve decimals, nothing where there is none."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    shared = {
        "statement_id": statement.id,
        "tenant": statement.tenant,
        "month": statement.month.strftime("%Y-%m"),
    }
    for line in statement.lines:
        values = {**line.content(), **shared}
        values["corrects"] = None if line.corrects is None else line.corrects.strftime("%Y-%m")
        writer.writerow([_safe(values[name]) for name in COLUMNS])
    return out.getvalue()


def _safe(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t", "\r") else value


def statement_page(statement: Statement) -> str:
    """The statement as a page that loads nothing and can be printed."""
    draft = statement.issued_at is None
    issued = (
        "draft, which changes with what it is made of"
        if draft
        else f"issued {statement.issued_at:%Y-%m-%d %H:%M} UTC"
    )
    name = formats.name(statement.tenant, formats.NOTHING)
    return document(
        f"Statement for {name}",
        f"{statement.month:%B %Y} (UTC), {issued}",
        el("dl", list(_headlines(statement)), class_="headlines"),
        _notice(statement),
        _chart(statement),
        list(_tables(statement)),
        _made_of(statement),
    )


def write_statement(lake: Lake, statement: Statement) -> Written:
    """Put an issued statement's page and CSV below `reports/tenant_statement`, and record the report."""
    partition = f"{quote(statement.tenant, safe='')}/{statement.month:%Y-%m}"
    written = write_report(
        lake,
        REPORT,
        partition=partition,
        page=statement_page(statement),
        sequence=statement.made_of.get("batch", 0),
        costs_version=statement.made_of.get("model_costs_version"),
        attribution_version=None,
        draw=lambda: None,
    )
    open_folder(lake.root).write(f"{FOLDER}/{REPORT}/{partition}.csv", statement_csv(statement).encode())
    return written


def issue_and_write(
    statements: Statements, month: date, tenants: Sequence[str] = (), *, key: str | None = None
) -> list[Statement]:
    """Issue the statements of a month, and write their pages and CSV.

    Without `tenants`: to all that have something in the month and were not issued one yet. A page that was
    not written, because its process ended, is written when the month is issued again.

    Raises:
        AlreadyIssued: one of `tenants`, which were named, has its statement.
        IllegalTransition: the month is not over.
    """
    held = {each.tenant: each for each in statements.issued() if each.month == month}
    done: list[Statement] = []
    for tenant in tenants or statements.tenants(month):
        if not tenants and tenant in held:
            write_statement(statements.log.lake, held[tenant])
            continue
        one = f"{key}/{hashlib.sha256(tenant.encode()).hexdigest()[:16]}" if key is not None else None
        done.append(statements.issue(tenant, month, idempotency_key=one))
        write_statement(statements.log.lake, done[-1])
    return done


def _headlines(statement: Statement) -> Iterator[Content]:
    totals = statement.totals
    yield headline(
        "To pay", formats.amounts(list(totals.items())) if totals else formats.NOT_PRICED, "all lines below"
    )
    coverage = formats.share(statement.priced, statement.billable)
    yield headline(
        "Requests with a price",
        coverage,
        f"{formats.count(statement.priced)} of {formats.count(statement.billable)} billable ones",
        assumed=bool(statement.assumed),
    )


def _notice(statement: Statement) -> Content:
    missing = statement.billable - statement.priced
    if not missing:
        return None
    return el(
        "div",
        el(
            "p",
            f"{formats.count(missing)} requests have no price yet. They are not charged here; once they are priced, "
            "the next statement has a correction.",
        ),
        class_="notice",
    )


def _chart(statement: Statement) -> Content:
    """What costs most, in the currency that most of the lines are in."""
    priced = [line for line in statement.lines if line.kind == "usage" and line.amount]
    currencies = [line.currency or "" for line in priced]
    if not priced:
        return None
    currency = max(sorted(set(currencies)), key=currencies.count)
    shown = sorted((x for x in priced if x.currency == currency), key=lambda x: (-(x.amount or 0), x.number))
    rows = [
        charts.Bar(
            formats.name(f"{line.model or '-'} ({line.provider or '-'})", formats.NOTHING),
            float(line.amount or 0),
            formats.money(line.amount or Decimal(0)),
        )
        for line in shown[:CHARTED]
    ]
    title = f"{currency} by model"
    return figure(
        f"Usage by model, {currency}",
        charts.as_svg(charts.bars(rows, title=title), label=f"Bars: {title}"),
        f"The {len(rows)} models that cost most of {len(shown)}." if len(shown) > len(rows) else None,
    )


def _tables(statement: Statement) -> Iterator[Content]:
    for kind, caption in (
        ("usage", "Usage"),
        ("allocation", "Shared costs"),
        ("correction", "Corrections of earlier statements"),
    ):
        lines = [line for line in statement.lines if line.kind == kind]
        if lines:
            yield _table(caption, lines, usage=kind == "usage")


def _table(caption: str, lines: Sequence[StatementLine], *, usage: bool) -> Content:
    counts = [Column("Requests"), Column("Tokens"), Column("Priced", "of billable")] if usage else []
    rows: list[list[Content | Cell]] = []
    for line in lines:
        counted: list[Content | Cell] = (
            [
                formats.count(line.requests),
                formats.count(line.tokens),
                formats.share(line.priced_requests or 0, line.billable_requests or 0),
            ]
            if usage
            else []
        )
        rows.append([formats.name(line.description, formats.NOTHING), *counted, _amount(line)])
    return table(caption, [Column("What", number=False), *counts, Column("Amount")], rows)


def _amount(line: StatementLine) -> Cell:
    if line.amount is None:
        return Cell(formats.NOT_PRICED if line.billable_requests else "not billed", quiet=True)
    exact = f"{formats.exact(line.amount)} {line.currency}"
    return Cell(f"{formats.money(line.amount)} {line.currency}", title=exact)


def _made_of(statement: Statement) -> Content:
    names = {
        "cost_rollup_version": "version of cost_rollup",
        "model_costs_version": "version of model_costs",
        "provider_bills_version": "version of provider_bills",
        "rules_event": "event up to which allocation rules are known",
        "batch": "batch of inference_events",
    }
    rows = [[names.get(name, name), str(value)] for name, value in statement.made_of.items()]
    return [
        el("h2", "What it was made of"),
        table(
            "Data",
            [Column("What", number=False), Column("Value")],
            [["digest of this statement", statement.id], *rows],
        ),
    ]
