"""Statements and read-outs as they are delivered: once they are there, and as they were issued or decided."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from ml_registry_pipelines.costs.statements.issuing import Statements
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.reports.calendar import period_named
from ml_registry_pipelines.reports.experiment_readout import experiment_readout
from tests.costs.experiments.trial import TENANT, declared, populate, trial
from tests.reports.test_cost_reports import Page

OCTOBER = date(2026, 10, 1)


def test_a_statement_is_delivered_when_it_was_issued_and_never_again(post):
    post.take(datetime(2026, 10, 5, 12, tzinfo=UTC), tenant="acme")
    post.clock.at = datetime(2026, 11, 20, tzinfo=UTC)
    post.subscribe(tenant="acme", report="tenant_statement", first=OCTOBER, formats=["csv", "markdown"])
    assert post.deliver().delivered == 0
    held = Statements(post.log, actor=Actor("p-ada"))
    issued = held.issue("acme", OCTOBER)
    assert post.deliver().delivered == 1
    assert post.files() == [
        "tenants/acme/tenant_statement/2026-10.csv",
        "tenants/acme/tenant_statement/2026-10.md",
    ]
    (line,) = csv.DictReader(io.StringIO(post.text("tenants/acme/tenant_statement/2026-10.csv")))
    assert Decimal(line["amount"]) == Decimal("2.5")
    assert line["statement_id"] == issued.id
    # Late logs: the statement stays, and is not corrected but by a line of the next one.
    post.take(datetime(2026, 10, 6, 12, tzinfo=UTC), tenant="acme")
    post.clock.on(days=2)
    done = post.deliver()
    assert (done.delivered, done.corrected) == (0, 0)
    post.take(datetime(2026, 11, 6, 12, tzinfo=UTC), tenant="acme")
    held.issue("acme", date(2026, 11, 1), now=datetime(2026, 12, 2, tzinfo=UTC))
    post.clock.at = datetime(2026, 12, 3, tzinfo=UTC)
    assert post.deliver().delivered == 1
    rows = list(csv.DictReader(io.StringIO(post.text("tenants/acme/tenant_statement/2026-11.csv"))))
    assert [(row["kind"], row["corrects"], Decimal(row["amount"])) for row in rows] == [
        ("usage", "", Decimal("2.5")),
        ("correction", "2026-10", Decimal("2.5")),
    ]


def test_a_read_out_shows_the_last_decision_as_it_was_recorded(tmp_path):
    with trial(tmp_path) as made:
        populate(made, solved={"big": 0.8, "small": 0.8}, count=300)
        decided = made.run(declared())
        now = datetime.now(UTC)
        week = period_named(f"{now.isocalendar().year}-W{now.isocalendar().week:02}", ZoneInfo("UTC"))
        found = experiment_readout(made.lake, week, TENANT, mark="m")
        assert found is not None
        page = Page(found.page)
        assert decided.message in page.text
        assert [row["Arm"] for row in page.table("Arms")] == ["big", "small"]
        assert len(page.table("Claims")) == len(decided.intervals)
        assumed = found.assumptions["size v1"]
        assert isinstance(assumed, dict)
        assert assumed["declaration"]["margin"] == decided.parameters["margin"]
        rows = list(csv.DictReader(io.StringIO(found.sheet.csv())))
        assert rows[0]["outcome"] == decided.outcome.value
        claim = next(row for row in rows if row["part"] == "claim")
        assert float(claim["estimate"]) == float(f"{decided.intervals[0]['estimate']:.6g}")
        assert decided.outcome.value.replace("_", "\\_") in found.markdown
        before = period_named((week.first - timedelta(days=1)).isoformat(), ZoneInfo("UTC"))
        assert experiment_readout(made.lake, before, TENANT, mark="m") is None
        assert experiment_readout(made.lake, week, "other", mark="m") is None
