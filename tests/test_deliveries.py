"""Deliveries through the location: a sensor sees what is due, a run sends it, the weekly asset shows its short form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.reports.delivery.ledger import Ledger
from ml_registry_pipelines.reports.delivery.subscriptions import subscriptions_in
from tests.location import Location, open_location

YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)


@pytest.fixture
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    monkeypatch.delenv("MLREG_TENANT", raising=False)
    with open_location(tmp_path / "home") as location:
        yield location


def test_a_recipient_is_subscribed_in_the_launchpad_and_gets_its_report(location: Location) -> None:
    (location.home / "report-recipients.yaml").write_text("recipients: [{name: archive, folder: out}]")
    assert not location.requested("due_reports")
    form = {"name": "costs", "report": "cost_report", "recipient": "archive", "about": "*"}
    form["first_day"] = (YESTERDAY - timedelta(days=1)).isoformat()
    job = location.repository.get_job("subscribe_to_report")
    assert job.execute_in_process(instance=location.instance, run_config=form).success
    (request,) = location.requested("due_reports")
    assert location.execute(request, job="deliver_reports").success
    # Yesterday's report may still be waiting: it is due an hour after midnight.
    names = sorted(path.name for path in (location.home / "out").rglob("*.csv"))
    assert names[0] == f"{YESTERDAY - timedelta(days=1)}.csv"
    assert not location.requested("due_reports")
    with Lake(str(location.home)) as lake, Log(lake) as log:
        (held,) = subscriptions_in(log.view("default"))
        assert held.actor == "launchpad"
        delivered = Ledger(lake, "test").newest().values()
        assert {each.state for each in delivered} == {"delivered"}


def test_recipients_that_cannot_be_read_are_an_alert_until_they_can(location: Location) -> None:
    file = location.home / "report-recipients.yaml"
    file.write_text("recipients: [{name: archive, folder: out}]")
    form = {"name": "costs", "report": "cost_report", "recipient": "archive", "about": "*"}
    location.repository.get_job("subscribe_to_report").execute_in_process(
        instance=location.instance, run_config=form
    )
    file.write_text("recipients: [{name: archive, folder: ../etc}]")
    location.tick("due_reports")
    assert location.alerts() == [("report_recipients_unusable/recipients", "opened")]
    file.write_text("recipients: [{name: archive, folder: out}]")
    location.tick("due_reports")
    assert location.alerts()[-1] == ("report_recipients_unusable/recipients", "resolved")


def test_a_week_of_providers_is_an_asset_with_its_short_form(location: Location) -> None:
    location.land("landing/inference/dt=2026-10-02/hh=10/a.jsonl", "one", "two")
    location.take()
    week = date(2026, 9, 28)
    schedule = location.repository.get_schedule_def("compare_providers_weekly")
    with dg.build_schedule_context(
        instance=location.instance,
        scheduled_execution_time=datetime(2026, 10, 12, 1, 30, tzinfo=UTC),
        resources=dict(location.defs.resources or {}),
        repository_def=location.repository,
    ) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or []
    # The week before last was missed, and is caught up; last week had no request.
    assert request.partition_key == week.isoformat()
    job = location.repository.get_job("compare_providers")
    done = job.execute_in_process(instance=location.instance, partition_key=request.partition_key)
    (made,) = done.get_asset_materialization_events()
    metadata = made.materialization.metadata
    assert "| Provider |" in str(metadata["summary"].value)
    assert json.loads(json.dumps(metadata["coverage"].value))["requests"] == 2
    assert Path(str(metadata["figures"].value)).read_text().startswith("provider,currency,")
