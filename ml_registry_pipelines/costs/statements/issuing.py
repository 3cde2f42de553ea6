"""`Statements`: drafts, issuing, and what was issued, which never changes.

An event of the operator's log says that a statement was issued, with the digest of its content; the lines
are rows of `statement_lines` under that digest. Lines without an event were never issued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.access.users import EVERY_TENANT
from ml_registry_pipelines.costs.allocation import Unallocated, next_month
from ml_registry_pipelines.costs.allocation_rules import allocations_in
from ml_registry_pipelines.costs.bills.intake import append_absent
from ml_registry_pipelines.costs.statements.computing import TABLES, Months
from ml_registry_pipelines.costs.statements.statement import Statement, StatementLine
from ml_registry_pipelines.lake.outcomes import SnapshotGone
from ml_registry_pipelines.lake.tables.bills import STATEMENT_LINES
from ml_registry_pipelines.registry.actors import ANY, READ, Request
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk
from ml_registry_pipelines.registry.errors import (
    IllegalTransition,
    InvalidInput,
    NotFound,
    RegistryError,
    shown,
)
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.states import TENANT_STATEMENT, State
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

ATTEMPTS = 5
ACTION = "issue_statement"


class AlreadyIssued(IllegalTransition):
    """The month's statement was issued; it does not change."""

    def __init__(self, tenant: str, month: date) -> None:
        super().__init__(
            f"the statement of {shown(tenant)} for {month:%Y-%m} was issued already and does not change; "
            "later differences are corrected by the next one"
        )


class StatementDamaged(RegistryError):
    """Stored lines are not those that were issued."""


class _Moved(RegistryError):
    """Another statement of the tenant was issued meanwhile; corrections have to be computed anew."""


class Statements(Desk):
    """Statements to tenants, issued by an operator, whose tenant this desk is of."""

    def draft(self, tenant: str, month: date) -> Statement:
        """What the statement of a month would say now.

        Raises:
            StatementDamaged: an issued one that it might correct is not whole.
            NotAllowed: the policy does not let the actor read in that tenant.
        """
        self._ask_about(tenant)
        return self._computed(self.view(), tenant, month.replace(day=1))

    def unallocated(self, month: date) -> Sequence[Unallocated]:
        """Shared costs of a month that nobody bears, with reasons, for who may read in every tenant."""
        self._ask_about(EVERY_TENANT)
        with self.log.lake.read(*TABLES) as reading:
            return self._months(self.view(), reading).shared(month.replace(day=1)).left

    def tenants(self, month: date) -> list[str]:
        """Tenants that would get a statement for the month, for who may read in every one."""
        self._ask_about(EVERY_TENANT)
        with self.log.lake.read(*TABLES) as reading:
            return self._months(self.view(), reading).tenants(month.replace(day=1))

    def issue(
        self, tenant: str, month: date, *, idempotency_key: str | None = None, now: datetime | None = None
    ) -> Statement:
        """Issue the statement of a month that is over.

        Raises:
            AlreadyIssued: it was.
            IllegalTransition: the month is not over.
            InvalidInput: the tenant has nothing in the month.
            StatementDamaged: an issued one that it might correct is not whole.
        """
        first = month.replace(day=1)
        asked = {"tenant": tenant, "month": first.isoformat()}
        self.ask(ACTION, TENANT_STATEMENT, asked)
        self._ask_about(tenant)
        if (now or datetime.now(UTC)).date() < next_month(first):
            raise IllegalTransition(
                f"{first:%Y-%m} is not over; `mlreg statements show` gives what it would say now"
            )
        if self.given_before(ACTION, idempotency_key):
            self.do(ACTION, TENANT_STATEMENT, asked, lambda _: [], idempotency_key=idempotency_key)
            return self.show(tenant, first)
        for _ in range(ATTEMPTS):
            view = self.now()
            before = _issued(view, tenant)
            statement = self._prepared(view, tenant, first, before)
            try:
                done = self.do(
                    ACTION,
                    TENANT_STATEMENT,
                    asked,
                    partial(_decided, statement=statement, before=before),
                    idempotency_key=idempotency_key,
                )
            except _Moved:
                continue
            event = done.events[0]
            return replace(statement, issued_at=event.recorded_at, actor=event.actor)
        raise IllegalTransition(f"other statements of {shown(tenant)} were issued meanwhile; try again")

    def issued(self, tenant: str | None = None) -> list[Statement]:
        """Statements that were issued, by tenant and month.

        Raises:
            StatementDamaged: stored lines are not those that were issued.
        """
        view = self.view()
        states = _all_issued(view) if tenant is None else list(_issued(view, tenant).values())
        found = [self._whole(state) for state in states]
        return sorted(found, key=lambda each: (each.tenant, each.month))

    def show(self, tenant: str, month: date) -> Statement:
        """An issued statement as it was issued.

        Raises:
            NotFound: none was.
            StatementDamaged: its stored lines are not those that were issued.
        """
        state = _issued(self.view(), tenant).get(month.replace(day=1))
        if state is None:
            raise NotFound(
                "statement",
                f"{tenant} {month:%Y-%m}",
                self.tenant,
                hint="; `--draft` shows what it would say",
            )
        return self._whole(state)

    def _ask_about(self, tenant: str) -> None:
        """Whoever keeps statements in his own tenant reads no other's figures by naming it."""
        if tenant != self.tenant:
            self.log.ask(Request(self.actor, tenant, READ, ANY, {}))

    # -- computing and keeping -----------------------------------------------------------------

    def _computed(self, view: View, tenant: str, month: date) -> Statement:
        others = [self._whole(state) for state in _issued(view, tenant).values()]
        for _ in range(ATTEMPTS):
            with self.log.lake.read(*TABLES) as reading:
                try:
                    return self._months(view, reading).statement(tenant, month, others)
                except SnapshotGone:
                    continue
        raise IllegalTransition("costs or bills were changed by others each time they were read; try again")

    def _months(self, view: View, reading: Any) -> Months:
        rules = allocations_in(view)
        return Months(reading, rules, rules_sequence=max((rule.sequence for rule in rules), default=0))

    def _prepared(self, view: View, tenant: str, month: date, before: dict[date, State]) -> Statement:
        if month in before:
            raise AlreadyIssued(tenant, month)
        statement = self._computed(view, tenant, month)
        if not statement.lines:
            raise InvalidInput(f"tenant {shown(tenant)} has neither usage nor shared costs in {month:%Y-%m}")
        _keep(self.log.lake, statement)
        return statement

    def _whole(self, state: State) -> Statement:
        held = state.data["metadata"]
        statement = Statement(
            tenant=held["tenant"],
            month=date.fromisoformat(held["month"]),
            lines=_kept(self.log.lake, held["digest"]),
            made_of=held["made_of"],
            issued_at=state.recorded_at,
            actor=state.actor,
        )
        if statement.id != held["digest"]:
            raise StatementDamaged(
                f"the stored lines of the statement of {shown(statement.tenant)} for {statement.month:%Y-%m} are not "
                "those that were issued; restore the table statement_lines"
            )
        return statement


def _decided(view: View, statement: Statement, before: dict[date, State]) -> list[Change]:
    known = _issued(view, statement.tenant)
    if statement.month in known:
        raise AlreadyIssued(statement.tenant, statement.month)
    if known.keys() != before.keys():
        raise _Moved
    state = {
        "name": f"{statement.tenant} {statement.month:%Y-%m}"[:500],
        "description": "",
        "status": "issued",
        "deleted": False,
        "metadata": {
            "tenant": statement.tenant,
            "month": statement.month.isoformat(),
            "digest": statement.id,
            "totals": {currency: f"{amount:f}" for currency, amount in statement.totals.items()},
            "billable_requests": statement.billable,
            "priced_requests": statement.priced,
            "assumed_requests": statement.assumed,
            "lines": len(statement.lines),
            "made_of": dict(statement.made_of),
        },
    }
    return [Change(TENANT_STATEMENT, new_id(), state)]


def _all_issued(view: View) -> list[State]:
    return view.select(
        "statements.issued",
        "things",
        "type = $type AND NOT deleted",
        order="from_sequence",
        parameters={"type": TENANT_STATEMENT},
    )


def _issued(view: View, tenant: str) -> dict[date, State]:
    """The statements that were issued to a tenant, by month."""
    return {
        date.fromisoformat(state.data["metadata"]["month"]): state
        for state in _all_issued(view)
        if state.data["metadata"]["tenant"] == tenant
    }


_FIELDS = tuple(field.name for field in fields(StatementLine))


def _keep(lake: Lake, statement: Statement) -> None:
    """Write the lines under the statement's digest, once."""
    shared = {
        "statement_id": statement.id,
        "tenant": statement.tenant,
        "month": statement.month,
        "recorded_at": datetime.now(UTC),
    }
    rows = [{**shared, **{name: getattr(line, name) for name in _FIELDS}} for line in statement.lines]
    append_absent(lake, STATEMENT_LINES.name, ("statement_id", "number"), rows)


def _kept(lake: Lake, digest: str) -> tuple[StatementLine, ...]:
    with lake.read(STATEMENT_LINES.name) as reading:
        rows = reading.query(
            "statements.lines",
            f"SELECT {', '.join(_FIELDS)} FROM statement_lines WHERE statement_id = $digest ORDER BY number",
            {"digest": digest},
        ).to_pylist()
    return tuple(StatementLine(**row) for row in rows)
