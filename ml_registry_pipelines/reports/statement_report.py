"""A tenant's monthly statement as a report: delivered once it was issued, exactly as it was issued.

It never changes, so it is never corrected here: a later statement has a line that corrects it.
What statements are is the costs room's; their page and CSV are `statements.py`'s.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.policy import platform
from ml_registry_pipelines.registry.states import TENANT_STATEMENT
from ml_registry_pipelines.reports import formats
from ml_registry_pipelines.reports.made import Made, Sheet, markdown_table

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.costs.statements.statement import Statement
    from ml_registry_pipelines.registry.log import Log

REPORT = "tenant_statement"
TITLE = "Statement"
KEYS = 10
"""Columns of the CSV that name a line."""
SHOWN = 20


def issued_statements(log: Log, operator: str) -> dict[tuple[str, str], str]:
    """Digests of the statements that the operator issued, by tenant and month as YYYY-MM."""
    states = log.view(operator).select(
        "reports.issued_statements",
        "things",
        "type = $type AND NOT deleted",
        parameters={"type": TENANT_STATEMENT},
    )
    held = [state.data["metadata"] for state in states]
    return {(str(each["tenant"]), str(each["month"])[:7]): str(each["digest"]) for each in held}


def tenant_statement(log: Log, period: Period, tenant: str, *, operator: str, mark: str) -> Made:
    """The statement of a month, which was issued.

    Raises:
        StatementDamaged: its stored lines are not those that were issued.
    """
    from ml_registry_pipelines.costs.statements.issuing import Statements
    from ml_registry_pipelines.reports.statements import statement_csv, statement_page

    statements = Statements(log, actor=platform("report-delivery"), tenant=operator)
    found = statements.show(tenant, date(period.first.year, period.first.month, 1))
    return Made(
        REPORT,
        tenant,
        period,
        TITLE,
        statement_page(found),
        Sheet.parse(statement_csv(found), KEYS),
        statement_markdown(found),
        mark,
        dict(found.made_of),
        {
            "billable_requests": found.billable,
            "priced_requests": found.priced,
            "priced_by_illustrative_prices": found.assumed,
        },
        {"month": "UTC", "statement": found.id},
    )


def statement_markdown(found: Statement) -> str:
    """Totals and lines in Markdown."""
    totals = " + ".join(
        f"{formats.money(amount, decimals=2)} {unit}" for unit, amount in found.totals.items()
    )
    rows = [
        [
            line.description,
            line.kind,
            formats.share(line.priced_requests or 0, line.billable_requests or 0),
            formats.NOT_PRICED if line.amount is None else f"{formats.money(line.amount)} {line.currency}",
        ]
        for line in found.lines[:SHOWN]
    ]
    issued = "" if found.issued_at is None else f", issued {found.issued_at:%Y-%m-%d %H:%M} UTC"
    said = [
        f"**{totals or 'nothing to pay'}** for {found.month:%B %Y} (UTC){issued}.",
        "",
        markdown_table(("Line", "Kind", "Priced", "Amount"), rows, numbers=2),
    ]
    if more := len(found.lines) - SHOWN:
        said += [f"\nAnd {more} more lines."] if more > 0 else []
    share = formats.share(found.priced, found.billable)
    said += ["", f"{share} of {formats.count(found.billable)} billable requests are priced."]
    return "\n".join(said)
