"""Bills in the real location and at the shell: what lands is taken, compared, alerted on and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from tests.costs.bills.api import Api, serving
from tests.costs.bills.made import openai_bucket, openai_cost, page
from tests.costs.bills.test_reconciliation import log, put_prices
from tests.location import Location, open_location

YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)


@pytest.fixture
def location(tmp_path: Path) -> Iterator[Location]:
    with open_location(tmp_path / "home") as location:
        yield location


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as api:
        yield api


def put(location: Location, name: str, content: object) -> None:
    folder = location.home / "bills"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def figures(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (event,) = [
        e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(["costs", asset])
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_a_bill_that_lands_is_taken_compared_and_told_of(location: Location, monkeypatch) -> None:
    monkeypatch.setattr("ml_registry_pipelines.telemetry.sources.SETTLE_SECONDS", 0.0)
    put(location, "bill.json", page(openai_bucket(YESTERDAY, openai_cost(830), openai_cost(None))))
    assert location.requested("new_bills") == []
    (request,) = location.requested("new_bills")
    result = location.execute(request, job="take_bills")
    assert result.success
    assert (figures(result, "provider_bills")["taken"], figures(result, "provider_bills")["quarantined"]) == (
        1,
        1,
    )
    assert location.alerts() == [("capture_rate/openai/USD", "opened")]
    assert verdicts(result) == {"bills_are_captured": False, "bill_lines_are_taken": False}
    assert location.requested("new_bills") == []
    (location.home / "bills" / "bill.json").write_text("{}")
    location.tick("new_bills")
    assert ("bill_changed/bills/bill.json", "opened") in location.alerts()


def test_a_settings_file_that_cannot_be_used_is_an_alert_and_no_failing_sensor(location: Location) -> None:
    (location.home / "bills.yaml").write_text("tolerance: '7'")
    assert "tolerance is 7; it has to be a share" in str(location.tick("new_bills").skip_message)
    assert location.alerts()[0][0].startswith("bills_unreadable/")


def test_bills_are_pulled_every_day_where_there_are_any(location: Location, api: Api, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "k")
    schedule = location.repository.get_schedule_def("pull_bills_daily")

    def asked() -> dg.ScheduleExecutionData:
        resources = {name: location.defs.resources[name] for name in ("bills", "lake")}  # type: ignore[index]
        with dg.build_schedule_context(instance=location.instance, resources=resources) as context:
            return schedule.evaluate_tick(context)

    assert "no bill was ever taken" in str(asked().skip_message)
    (location.home / "bills.yaml").write_text(f"pulls: [{{api: openai, url: '{api.url}'}}]")
    (request,) = asked().run_requests or []
    api.pages["/v1/organization/costs"] = [page(openai_bucket(YESTERDAY, openai_cost(2)))]
    job = location.repository.get_job("pull_bills")
    result = job.execute_in_process(instance=location.instance, tags=dict(request.tags), raise_on_error=False)
    assert result.success
    assert figures(result, "provider_bills")["pull_openai"] == (
        "2 files: 1 rows in = 1 taken (0 restated) + 0 duplicates + 0 quarantined + 0 ignored; 0 lines withdrawn"
    )
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "")
    result = job.execute_in_process(instance=location.instance, run_config={"pulls": ["openai"]})
    assert ("bill_pull_failed/openai", "opened") in location.alerts()
    assert not verdicts(result)["bill_lines_are_taken"]


def shell(*words: str, ok: bool = True) -> str:
    done = CliRunner().invoke(cli, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit | MlregError):
        raise done.exception
    assert (done.exit_code == 0) is ok, done.output
    return done.output + (str(done.exception) if isinstance(done.exception, MlregError) else "")


def test_the_shell_takes_lists_compares_shares_and_issues(lake: Lake, home: Path, tmp_path: Path) -> None:
    month = (YESTERDAY.replace(day=1) - timedelta(days=1)).replace(day=1)
    put_prices(lake)
    log(lake, (12, {"tenant": "acme", "provider": "acme"}), day=month)
    assert "bring bills in" in shell("bills", "list")
    bill = tmp_path / "b.json"
    bill.write_text(json.dumps(page(openai_bucket(month, openai_cost(50)))))
    assert "1 taken" in shell("bills", "take", str(bill))
    assert "50.000000000000" in shell("bills", "list")
    assert "gpt-4o, input" in shell("bills", "list", "--lines")
    said = shell("bills", "reconcile", "--since", str(month), "--until", str(month))
    assert "nothing_logged" in said
    assert "no_bill" in said
    assert "0 of 2 days of a provider agree" in said
    # Whoever runs no Dagster is told as well, and told when it is over.
    assert "capture_rate" not in shell("alerts")  # That month is not among the days that alert.
    bill.write_text(json.dumps(page(openai_bucket(YESTERDAY, openai_cost(830)))))
    assert "taken before with other content" in shell("bills", "take", str(bill), ok=False)
    shell("bills", "take", str(bill.rename(tmp_path / "c.json")))
    shell("bills", "reconcile")
    assert "capture_rate/openai/USD" in shell("alerts")
    bill.write_text(json.dumps(page(openai_bucket(YESTERDAY, openai_cost(0)))))
    shell("bills", "take", str(bill.rename(tmp_path / "d.json")))
    shell("bills", "reconcile")
    assert "capture_rate" not in shell("alerts")
    assert "every record of a bill was taken" in shell("bills", "quarantine")
    assert "no pull is configured" in shell("bills", "pull")
    shell("allocation", "add", "platform", "fee", "evenly", "--amount", "10", "--currency", "USD")
    assert "platform  10 USD a month -> evenly" in shell("allocation", "list")
    assert "acme  10.000000000000 USD" in shell("allocation", "preview", f"{month:%Y-%m}")
    draft = shell("statements", "show", "acme", f"{month:%Y-%m}", "--draft")
    assert "12.000000000000 USD" in draft
    assert "total  22.000000000000 USD" in draft
    assert "acme" in shell("statements", "issue", f"{month:%Y-%m}")
    assert "no tenant lacks a statement" in shell("statements", "issue", f"{month:%Y-%m}")
    assert "was issued already" in shell("statements", "issue", f"{month:%Y-%m}", "acme", ok=False)
    assert "acme" in shell("statements", "list")
    page_ = tmp_path / "s.html"
    shell("statements", "show", "acme", f"{month:%Y-%m}", "--format", "html", "--output", str(page_))
    assert page_.read_text() == (home / f"reports/tenant_statement/acme/{month:%Y-%m}.html").read_text()
    assert "there is no statement" in shell("statements", "show", "nobody", f"{month:%Y-%m}", ok=False)


def test_decisions_can_be_made_in_the_launchpad(location: Location) -> None:
    def run(job: str, **form: object) -> dg.ExecuteInProcessResult:
        return location.repository.get_job(job).execute_in_process(
            instance=location.instance, run_config=form, raise_on_error=False
        )

    fee = {"cost": "FEE", "over": "FIXED", "amount": "10.50", "currency": "EUR", "shares": {"acme": "1"}}
    assert run("add_allocation_rule", name="fee", **fee).success
    assert not run("add_allocation_rule", name="fee", **fee).success
    assert run("issue_statements", month="2026-08").success
    rows = location.rows("SELECT tenant, amount, currency FROM statement_lines")
    assert rows == [{"tenant": "acme", "amount": Decimal("10.5"), "currency": "EUR"}]
    assert run("end_allocation_rule", name="fee", last_month="2026-09").success
    assert run("remove_allocation_rule", name="fee").success
    assert not run("issue_statements", month="August").success
