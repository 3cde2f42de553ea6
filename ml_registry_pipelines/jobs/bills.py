"""Decisions about shared costs and statements as jobs: a form in the Launchpad becomes one command."""

from datetime import date
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job
from ml_registry_pipelines.registry.errors import InvalidInput

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.allocation_rules import Allocation, AllocationRules
    from ml_registry_pipelines.costs.statements.issuing import Statements


class SharedCost(Enum):
    """What is shared."""

    FEE = "fee"
    BILL_LINES = "bill_lines"
    DIFFERENCE = "difference"


class SharedOver(Enum):
    """What it is shared by."""

    EVENLY = "evenly"
    COST = "cost"
    TOKENS = "tokens"
    REQUESTS = "requests"
    FIXED = "fixed"


class AddAllocationRule(InTenant):
    """A shared cost, and who bears it."""

    name: str
    cost: SharedCost = Field(
        description="A fee a month, lines of a bill, or what is billed beyond what was logged."
    )
    over: SharedOver
    amount: str | None = Field(default=None, description="Of a fee, per month, such as 250.00.")
    currency: str | None = Field(default=None, description="Of a fee, such as USD.")
    provider: str | None = Field(default=None, description="Whose bill.")
    sub_account: str | None = Field(
        default=None, description="Of bill lines: project, workspace ... or a pattern with *."
    )
    line_item: str | None = Field(default=None, description="Of bill lines, or a pattern with *.")
    charge: str | None = Field(
        default=None, description="Of bill lines: usage, purchase, tax, credit or adjustment."
    )
    tenants: list[str] = Field(
        default_factory=list, description="Who bears it; none: all with traffic in the month."
    )
    shares: dict[str, str] = Field(default_factory=dict, description="Of fixed shares: weight by tenant.")
    first_month: str | None = Field(default=None, description="YYYY-MM; none: since ever.")
    last_month: str | None = Field(default=None, description="YYYY-MM, itself included; none: still.")
    priority: int = Field(default=0, description="Of two rules that cover a bill line, the highest has it.")
    note: str = ""


class EndAllocationRule(InTenant):
    """The last month of a rule."""

    name: str
    last_month: str = Field(description="YYYY-MM, itself included.")


class OneAllocationRule(InTenant):
    """A rule by its name."""

    name: str


class IssueStatements(InTenant):
    """Statements of a month that is over. They never change; later differences are corrected by the next ones."""

    month: str = Field(description="YYYY-MM.")
    to: list[str] = Field(
        default_factory=list, description="Tenants; none: all that have something in the month."
    )


def month_in(text: str | None, field: str) -> date | None:
    """The first day of a month that is written YYYY-MM."""
    if not text:
        return None
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        raise InvalidInput(f"{field} {text!r} is no month; write 2026-09") from None


def _rules(at: Desks) -> "AllocationRules":
    from ml_registry_pipelines.costs.allocation_rules import AllocationRules

    return AllocationRules(
        at.models.log, actor=at.models.actor, tenant=at.models.tenant, run_id=at.models.run_id
    )


def _statements(at: Desks) -> "Statements":
    from ml_registry_pipelines.costs.statements.issuing import Statements

    return Statements(at.models.log, actor=at.models.actor, tenant=at.models.tenant, run_id=at.models.run_id)


def _add(given: AddAllocationRule, at: Desks) -> "Allocation":
    from ml_registry_pipelines.costs.allocation_rules import NewAllocation, parse_amount

    plain: dict[str, Any] = given.model_dump(exclude={"tenant"})
    shares: dict[str, Decimal] = {
        tenant: parse_amount(text, f"the share of {tenant}") for tenant, text in given.shares.items()
    }
    plain |= {
        "cost": given.cost.value,
        "over": given.over.value,
        "amount": None if not given.amount else parse_amount(given.amount, "amount"),
        "tenants": tuple(given.tenants),
        "shares": shares,
        "first_month": month_in(given.first_month, "first_month"),
        "last_month": month_in(given.last_month, "last_month"),
    }
    return _rules(at).add(NewAllocation(**plain), idempotency_key=at.key)


def _end(given: EndAllocationRule, at: Desks) -> "Allocation":
    last = month_in(given.last_month, "last_month")
    if last is None:
        raise InvalidInput("last_month is empty; write 2026-09")
    return _rules(at).end(given.name, last_month=last, idempotency_key=at.key)


def _issue(given: IssueStatements, at: Desks) -> int:
    from ml_registry_pipelines.reports.statements import issue_and_write

    month = month_in(given.month, "month")
    if month is None:
        raise InvalidInput("month is empty; write 2026-09")
    return len(issue_and_write(_statements(at), month, given.to, key=at.key))


@cache
def bills_jobs() -> tuple[dg.JobDefinition, ...]:
    """Every command about shared costs and statements."""
    return (
        command_job(
            "add_allocation_rule",
            AddAllocationRule,
            _add,
            "Shares a common cost over tenants, from some month on.",
        ),
        command_job(
            "end_allocation_rule", EndAllocationRule, _end, "Lets a rule for shared costs end with a month."
        ),
        command_job(
            "remove_allocation_rule",
            OneAllocationRule,
            lambda g, at: _rules(at).remove(g.name, idempotency_key=at.key),
            "Takes back a rule for shared costs that was never right.",
        ),
        command_job(
            "issue_statements",
            IssueStatements,
            _issue,
            "Issues the statements of a month to tenants, as pages and CSV below reports/tenant_statement.",
        ),
    )
