"""Statements: what a month comes to for a tenant, and that what was issued never changes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from ml_registry_pipelines.costs.allocation_rules import AllocationRules, NewAllocation
from ml_registry_pipelines.costs.statements import issuing
from ml_registry_pipelines.costs.statements.issuing import AlreadyIssued, StatementDamaged, Statements
from ml_registry_pipelines.costs.statements.statement import Statement
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.reports.statements import issue_and_write, statement_csv, statement_page
from tests.costs.bills.made import DAY
from tests.costs.bills.test_reconciliation import log, put_prices

OCTOBER, NOVEMBER, DECEMBER = date(2026, 10, 1), date(2026, 11, 1), date(2026, 12, 1)
NEW_YEAR = datetime(2027, 1, 2, tzinfo=UTC)


@pytest.fixture
def held(lake: Lake) -> Iterator[Statements]:
    put_prices(lake)
    log(lake, (30, {"tenant": "a"}), (10, {"tenant": "b"}), (5, {"tenant": "a", "model": "new"}))
    with Log(lake) as registry:
        yield Statements(registry, actor=Actor("p-ada"))


def rules_of(held: Statements) -> AllocationRules:
    return AllocationRules(held.log, actor=held.actor)


def issue(held: Statements, tenant: str, month: date) -> Statement:
    return held.issue(tenant, month, now=NEW_YEAR)


def lines(statement: Statement) -> list[tuple[str, str | None, Decimal | None]]:
    return [
        (line.kind, line.model or line.rule or str(line.corrects), line.amount) for line in statement.lines
    ]


def test_a_statement_has_usage_by_model_shared_costs_and_its_coverage(held: Statements) -> None:
    rules_of(held).add(NewAllocation("fee", "fee", "cost", amount=Decimal(100), currency="USD"))
    statement = issue(held, "a", DAY)
    assert lines(statement) == [
        ("usage", "m", Decimal(30)),
        ("usage", "new", None),
        ("allocation", "fee", Decimal(75)),
    ]
    assert statement.totals == {"USD": Decimal(105)}
    assert (statement.priced, statement.billable) == (1, 2)
    assert statement.made_of["cost_rollup_version"] == held.log.lake.version("cost_rollup")
    assert held.show("a", DAY) == statement


def test_all_statements_of_a_month_add_up_to_costs_and_fees(held: Statements) -> None:
    rules_of(held).add(
        NewAllocation("fee", "fee", "evenly", amount=Decimal("0.000000000001"), currency="USD")
    )
    done = [issue(held, tenant, OCTOBER) for tenant in held.tenants(OCTOBER)]
    assert sum(statement.totals["USD"] for statement in done) == Decimal("40.000000000001")


def test_an_issued_statement_does_not_change_and_later_differences_are_corrected_once(
    held: Statements,
) -> None:
    first = issue(held, "a", OCTOBER)
    log(held.log.lake, (7, {"tenant": "a"}))
    assert held.show("a", OCTOBER) == first
    with pytest.raises(AlreadyIssued):
        issue(held, "a", OCTOBER)
    second = issue(held, "a", NOVEMBER)
    assert lines(second) == [("correction", "2026-10-01", Decimal(7))]
    assert "37 USD now, 30 USD charged so far" in second.lines[0].description
    with pytest.raises(InvalidInput, match="neither usage nor shared costs"):
        issue(held, "a", DECEMBER)
    log(held.log.lake, (2, {"tenant": "a"}))
    third = issue(held, "a", DECEMBER)
    assert lines(third) == [("correction", "2026-10-01", Decimal(2))]
    charged = sum(statement.totals["USD"] for statement in held.issued("a"))
    assert charged == Decimal(39)


def test_a_changed_share_corrects_everyone_whom_it_concerns(held: Statements) -> None:
    rules_of(held).add(NewAllocation("fee", "fee", "cost", amount=Decimal(100), currency="USD"))
    issue(held, "a", OCTOBER)
    issue(held, "b", OCTOBER)
    log(held.log.lake, (10, {"tenant": "b"}))
    # 30 to 20 instead of 30 to 10: a bears 60 of the fee and not 75, b 40 and not 25.
    corrections = {
        tenant: [x for x in held.draft(tenant, NOVEMBER).lines if x.kind == "correction"] for tenant in "ab"
    }
    assert [line.amount for line in corrections["a"]] == [Decimal(-15)]
    assert [line.amount for line in corrections["b"]] == [Decimal(25)]


def test_a_month_that_is_not_over_is_not_issued(held: Statements) -> None:
    with pytest.raises(IllegalTransition, match="2026-10 is not over"):
        held.issue("a", OCTOBER, now=datetime(2026, 10, 31, 23, 59, tzinfo=UTC))
    assert held.draft("a", OCTOBER).issued_at is None
    assert held.issue("a", OCTOBER, now=datetime(2026, 11, 1, tzinfo=UTC)).issued_at is not None


def test_a_draft_leaves_nothing_behind(held: Statements) -> None:
    held.draft("a", OCTOBER)
    assert held.issued() == []
    with pytest.raises(NotFound):
        held.show("a", OCTOBER)


def test_under_one_key_a_statement_is_issued_once(held: Statements) -> None:
    first = held.issue("a", OCTOBER, idempotency_key="k", now=NEW_YEAR)
    log(held.log.lake, (7, {"tenant": "a"}))
    assert held.issue("a", OCTOBER, idempotency_key="k", now=NEW_YEAR) == first


def test_a_process_that_dies_before_the_event_has_issued_nothing(held: Statements, monkeypatch) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Statements, "do", dies)
        with pytest.raises(KeyboardInterrupt):
            issue(held, "a", OCTOBER)
    assert held.issued() == []
    log(held.log.lake, (7, {"tenant": "a"}))
    assert issue(held, "a", OCTOBER).totals == {"USD": Decimal(37)}
    assert len(held.show("a", OCTOBER).lines) == 2


def test_lines_that_were_tampered_with_are_noticed(held: Statements) -> None:
    issue(held, "a", OCTOBER)
    held.log.lake.erase("statement_lines", "number = 2")
    with pytest.raises(StatementDamaged, match="are not those that were issued"):
        held.show("a", OCTOBER)


@pytest.mark.soak
def test_two_who_issue_at_once_correct_a_month_once(held: Statements, monkeypatch) -> None:
    issue(held, "a", OCTOBER)
    log(held.log.lake, (7, {"tenant": "a"}))
    prepared = issuing.Statements._prepared
    others = Statements(held.log, actor=Actor("p-bob"))

    def overtaken(self, view, tenant, month, before):
        statement = prepared(self, view, tenant, month, before)
        if month == DECEMBER and not others.issued("a")[1:]:
            monkeypatch.setattr(issuing.Statements, "_prepared", prepared)
            issue(others, "a", NOVEMBER)
        return statement

    monkeypatch.setattr(issuing.Statements, "_prepared", overtaken)
    with pytest.raises(InvalidInput, match="neither usage nor shared costs"):
        issue(held, "a", DECEMBER)
    assert [each.totals for each in held.issued("a")] == [{"USD": Decimal(30)}, {"USD": Decimal(7)}]


def test_the_csv_has_every_digit_and_no_formula(held: Statements) -> None:
    rules_of(held).add(
        NewAllocation(
            "=1+1",
            "fee",
            "fixed",
            amount=Decimal(1),
            currency="USD",
            shares={"a": Decimal(3), "b": Decimal(4)},
        )
    )
    rows = list(csv.DictReader(io.StringIO(statement_csv(issue(held, "a", OCTOBER)))))
    assert [row["amount"] for row in rows] == ["30.000000000000", "", "0.428571428571"]
    assert {row["month"] for row in rows} == {"2026-10"}
    assert rows[2]["rule"] == "'=1+1"


def test_the_page_is_printable_offline_and_says_what_it_rests_on(held: Statements) -> None:
    rules_of(held).add(NewAllocation("<b>fee", "fee", "evenly", amount=Decimal(3), currency="USD"))
    page = statement_page(issue(held, "a", OCTOBER))
    assert "October 2026" in page
    assert "not priced" in page
    assert "1 requests have no price yet" in page
    assert "&lt;b&gt;fee" in page
    assert "<b>fee" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert held.show("a", OCTOBER).id in page
    assert "draft" in statement_page(held.draft("b", OCTOBER))


def test_a_month_is_issued_to_all_and_written_as_files(held: Statements) -> None:
    log(held.log.lake, (1, {"tenant": "ü/x"}))
    done = issue_and_write(held, OCTOBER)
    assert [statement.tenant for statement in done] == ["a", "b", "ü/x"]
    folder = Path(held.log.lake.root) / "reports" / "tenant_statement"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == [
        "%C3%BC%2Fx/2026-10.csv", "%C3%BC%2Fx/2026-10.html", "a/2026-10.csv", "a/2026-10.html",
        "b/2026-10.csv", "b/2026-10.html",
    ]  # fmt: skip
    (folder / "a" / "2026-10.html").unlink()
    assert issue_and_write(held, OCTOBER) == []
    assert (folder / "a" / "2026-10.html").exists()
