"""Sensors over several ticks, on a real instance and a real lake: what they request, and what they alert on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_registry_pipelines.telemetry.performance import Inference, PerformanceTracker
from resources import SourcesResource
from sensors import requests
from sensors.ingestion import BATCH_TAG
from tests.location import Location, open_location, record

HOUR_12, HOUR_09, YESTERDAY = "dt=2026-05-02/hh=12", "dt=2026-05-02/hh=09", "dt=2026-05-01/hh=23"


@pytest.fixture
def location(tmp_path: Path) -> Iterator[Location]:
    with open_location(tmp_path / "home") as location:
        yield location


# -- files become runs ---------------------------------------------------------------------


def test_every_file_lands_exactly_once_whatever_hour_or_day_it_is_of(location: Location) -> None:
    for folder, name in ((HOUR_12, "a"), (HOUR_09, "b"), (YESTERDAY, "c")):
        location.land(f"native/{folder}/{name}.jsonl", f"{name}1", f"{name}2")
        (result,) = location.take()
        assert result.success
        assert location.take() == []
    assert location.events() == dict.fromkeys(["a1", "a2", "b1", "b2", "c1", "c2"], 1)
    days = location.rows(
        "SELECT day, sum(requests) AS n FROM performance_rollup WHERE grain = 'day' GROUP BY day"
    )
    assert {row["day"].isoformat(): row["n"] for row in days} == {"2026-05-01": 2, "2026-05-02": 4}
    assert location.rows("SELECT count(*) AS n FROM model_costs WHERE cost_status = 'priced'") == [{"n": 6}]


def test_files_that_land_together_are_one_run(location: Location) -> None:
    for name in "abc":
        location.land(f"native/{HOUR_12}/{name}.jsonl", name)
    (request,) = location.requested("new_inference_logs")
    assert len(request.run_config["ops"]["inference_events"]["config"]["files"]) == 3
    assert request.run_key == "inference_events/1/1"


def test_a_request_that_was_told_of_without_a_file_is_priced_and_rolled_up_by_a_run(
    location: Location,
) -> None:
    told = Inference("gpt-4o", "openai", event_id="t1", usage={"in_uncached": 10, "out_text": 5})
    PerformanceTracker(location.lake).track_inference(told)
    (request,) = location.requested("new_inference_logs")
    assert location.execute(request).success
    assert location.rows("SELECT sum(requests) AS n FROM cost_rollup WHERE grain = 'day'") == [{"n": 1}]
    assert location.requested("new_inference_logs") == []


def test_a_request_that_is_delivered_twice_takes_its_files_once(location: Location) -> None:
    location.land(f"native/{HOUR_12}/a.jsonl", "a1", "a2")
    (request,) = location.requested("new_inference_logs")
    assert location.execute(request).success
    assert location.execute(request).success
    assert location.events() == {"a1": 1, "a2": 1}
    assert location.rows("SELECT sum(requests) AS n FROM cost_rollup WHERE grain = 'day'") == [{"n": 2}]


def test_a_tick_that_crashes_after_its_request_takes_the_files_once(location: Location) -> None:
    location.land(f"native/{HOUR_12}/a.jsonl", "a1")
    cursor = location.cursors.get("new_inference_logs")
    first = location.requested("new_inference_logs")
    location.cursors["new_inference_logs"] = cursor
    again = location.requested("new_inference_logs")
    assert [request.run_key for request in first] == [request.run_key for request in again]


def test_nothing_is_requested_while_a_run_is_in_flight(location: Location) -> None:
    location.land(f"native/{HOUR_12}/a.jsonl", "a1")
    run = location.under_way("ingest_logs", dg.DagsterRunStatus.STARTED)
    assert "a run is in flight" in (location.tick("new_inference_logs").skip_message or "")
    location.instance.report_run_canceled(run)
    assert len(location.requested("new_inference_logs")) == 1


def test_a_failed_run_is_requested_again_under_a_new_key_and_with_growing_patience(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    location.land(f"native/{HOUR_12}/a.jsonl", "a1")
    (first,) = location.requested("new_inference_logs")
    failed = location.under_way("ingest_logs", dg.DagsterRunStatus.STARTED, first.tags)
    location.instance.report_run_failed(failed)
    assert "1 attempts failed; the next is made at" in (
        location.tick("new_inference_logs").skip_message or ""
    )
    monkeypatch.setattr(requests, "FIRST_PAUSE", timedelta(0))
    (second,) = location.requested("new_inference_logs")
    assert (first.run_key, second.run_key) == ("inference_events/1/1", "inference_events/1/2")
    assert location.execute(second).success
    assert location.events() == {"a1": 1}


@pytest.mark.soak
def test_patience_doubles_up_to_a_quarter_of_an_hour(location: Location) -> None:
    for number in range(12):
        run = location.under_way("ingest_logs", dg.DagsterRunStatus.STARTED, {BATCH_TAG: "7"})
        location.instance.report_run_failed(run)
        attempt = requests.next_attempt(location.instance, BATCH_TAG, "7")
        assert attempt.number == number + 2
        assert attempt.not_before is not None
        pause = (attempt.not_before - datetime.now(UTC)).total_seconds()
        expected = min(10 * 2**number, 900)
        assert expected - 5 < pause <= expected


def test_what_a_failed_run_left_undone_is_done_without_a_new_file(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "FIRST_PAUSE", timedelta(0))
    location.land(f"native/{HOUR_12}/a.jsonl", "a1")
    (request,) = location.requested("new_inference_logs")
    taken = location.repository.get_job("ingest_logs").execute_in_process(
        instance=location.instance,
        run_config=dict(request.run_config),
        tags=dict(request.tags),
        op_selection=["inference_events"],
    )
    assert taken.success
    run = location.under_way("ingest_logs", dg.DagsterRunStatus.STARTED, request.tags)
    location.instance.report_run_failed(run)
    assert [result.success for result in location.take()] == [True]
    assert location.rows("SELECT count(*) AS n FROM model_costs") == [{"n": 1}]
    assert location.take() == []


def test_a_file_that_still_grows_is_left_until_it_has_settled(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_location(home, sources=SourcesResource(home=str(home), settle_seconds=1.05)) as location:
        path = location.land(f"native/{HOUR_12}/a.jsonl", "a0")
        with growing(path):
            assert "1 are still growing" in (location.tick("new_inference_logs").skip_message or "")
        assert [result.success for result in location.take()] == [True]
        written = len(path.read_text().splitlines())
        assert written > 1
        assert len(location.events()) == written


@contextmanager
def growing(path: Path) -> Iterator[None]:
    """A producer that writes in place, and does so as long as the block lasts."""
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.wait(0.1):
            number += 1
            with path.open("a") as file:
                file.write(json.dumps(record(f"a{number}")) + "\n")

    thread = threading.Thread(target=write)
    thread.start()
    yield
    done.set()
    thread.join()


def test_a_late_file_of_any_day_is_found_by_the_reconciling_sensor(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensors.ingestion.LOOK_PAUSES", (0.0, 0.0))
    location.land("native/dt=2025-01-05/hh=03/late.jsonl", "late")
    assert location.requested("reconcile_inference_logs") == []
    assert [result.success for result in location.take("reconcile_inference_logs")] == [True]
    assert location.events() == {"late": 1}


def test_looks_at_everything_keep_their_distance(location: Location) -> None:
    location.tick("reconcile_inference_logs")
    assert "due in" in (location.tick("reconcile_inference_logs").skip_message or "")


@pytest.mark.parametrize(
    "sensor", ["new_inference_logs", pytest.param("reconcile_inference_logs", marks=pytest.mark.soak)]
)
def test_a_cursor_that_someone_broke_costs_no_file(
    location: Location, sensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensors.ingestion.LOOK_PAUSES", (0.0, 0.0))
    location.land(f"native/{HOUR_12}/a.jsonl", "a1")
    location.cursors[sensor] = "{not json"
    requested = [request for _ in range(2) for request in location.requested(sensor)]
    assert location.execute(requested[0]).success
    assert location.events() == {"a1": 1}


def test_prices_are_synced_when_the_contract_file_changes_and_not_otherwise(location: Location) -> None:
    assert len(location.requested("new_prices")) == 1
    assert location.requested("new_prices") == []
    contract = location.home / "contract-prices.yaml"
    contract.parent.mkdir(parents=True, exist_ok=True)
    contract.write_text("contract: ours\n")
    assert len(location.requested("new_prices")) == 1
    assert location.requested("new_prices") == []


# -- what goes wrong becomes an alert --------------------------------------------------------


def test_a_file_that_changed_after_it_was_taken_is_named_and_its_end_resolved(location: Location) -> None:
    path = location.land(f"native/{HOUR_12}/a.jsonl", "a1")
    location.take()
    before = path.read_bytes()
    path.write_bytes(before + before)
    location.tick("reconcile_inference_logs")
    changed = f"file_changed/landing/native/{HOUR_12}/a.jsonl"
    assert location.alerts() == [(changed, "opened")]
    assert location.events() == {"a1": 1}
    path.write_bytes(before)
    location.cursors.clear()
    location.tick("reconcile_inference_logs")
    assert location.alerts() == [(changed, "opened"), (changed, "resolved")]


def test_a_source_that_cannot_be_listed_is_an_alert_and_the_others_are_taken(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "loop").symlink_to(home / "loop")
    configured = tmp_path / "sources.yaml"
    configured.write_text(
        "sources:\n  - {name: broken, folder: '{home}/loop'}\n  - {name: landing, folder: '{home}/landing'}\n"
    )
    sources = SourcesResource(home=str(home), sources_file=str(configured), settle_seconds=0)
    with open_location(home, sources=sources) as location:
        location.land(f"native/{HOUR_12}/a.jsonl", "a1")
        assert [result.success for result in location.take()] == [True]
        assert location.events() == {"a1": 1}
        location.tick("new_inference_logs")
        assert [(key.split("/")[0], state) for key, state in location.alerts()] == [
            ("source_unreadable", "opened")
        ]
        (home / "loop").unlink()
        location.tick("reconcile_inference_logs")
        assert [state for _, state in location.alerts()] == ["opened", "resolved"]


def test_files_that_wait_for_more_than_ten_minutes_are_an_alert(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensors.ingestion.LOOK_PAUSES", (0.0, 0.0))
    location.under_way("ingest_logs", dg.DagsterRunStatus.STARTED)
    location.land(f"native/{HOUR_12}/a.jsonl", "a1")
    location.tick("reconcile_inference_logs")
    assert location.alerts() == []
    monkeypatch.setattr("sensors.ingestion.LAG", timedelta(seconds=-1))
    location.tick("reconcile_inference_logs")
    location.tick("reconcile_inference_logs")
    assert location.alerts() == [("lag/ingestion", "opened")]


def test_a_failing_check_becomes_one_alert_and_a_passing_one_resolves_it(location: Location) -> None:
    location.land(f"native/{HOUR_12}/a.jsonl", "a1", provider="nobody", model="unknown")
    location.take()
    for _ in range(2):
        location.tick("check_failures")
    covered = "check_failed/costs/cost_rollup/prices_cover_requests"
    assert location.alerts() == [(covered, "opened")]
    location.land(f"native/{HOUR_12}/b.jsonl", *(f"b{n}" for n in range(20)))
    location.take()
    location.tick("check_failures")
    assert location.alerts() == [(covered, "opened"), (covered, "resolved")]


def test_a_failed_run_becomes_one_alert_with_its_reason_until_a_later_run_succeeds(tmp_path: Path) -> None:
    with dg.instance_for_test() as instance:
        location = Location(tmp_path / "home", instance)
        contract = tmp_path / "home" / "contract-prices.yaml"
        contract.write_text("prices: all of them\n")
        location.tick("run_failures")
        for _ in range(2):
            assert not location.execute(dg.RunRequest(), job="sync_prices").success
            location.tick("run_failures")
        assert location.alerts() == [("run_failed/sync_prices", "opened")]
        (alert,) = location.rows("SELECT * FROM alerts")
        assert "contract-prices.yaml" in alert["message"]
        contract.unlink()
        assert location.execute(dg.RunRequest(), job="sync_prices").success
        location.tick("watch")
        assert location.alerts() == [
            ("run_failed/sync_prices", "opened"),
            ("run_failed/sync_prices", "resolved"),
        ]
        location.lake.close()


# -- reports ---------------------------------------------------------------------------------


def test_the_reports_of_exactly_the_touched_days_are_requested(location: Location) -> None:
    for folder in ("dt=2026-05-01/hh=01", "dt=2026-05-02/hh=01", "dt=2026-05-09/hh=01"):
        location.land(f"native/{folder}/a.jsonl", folder)
    location.take()
    requested = location.requested("reports_of_touched_days")
    ranges = [
        (r.tags["dagster/asset_partition_range_start"], r.tags["dagster/asset_partition_range_end"])
        for r in requested
    ]
    assert ranges == [("2026-05-01", "2026-05-02"), ("2026-05-09", "2026-05-09")]
    assert [len(request.asset_selection or []) for request in requested] == [2, 1]


def test_a_new_price_reaches_past_days_and_exactly_their_reports(location: Location) -> None:
    location.land("native/dt=2026-05-01/hh=01/a.jsonl", "a1")
    location.land("native/dt=2026-05-02/hh=01/b.jsonl", "b1", "b2", provider="ours", model="in-house")
    location.land("native/dt=2026-05-03/hh=01/c.jsonl", "c1", provider="ours", model="in-house")
    location.take()
    for request in location.requested("reports_of_touched_days"):
        assert location.execute(request, job="write_reports").success
    assert location.requested("reports_of_touched_days") == []
    (location.home / "contract-prices.yaml").write_text(
        "contract: ours\n"
        "currency: USD\n"
        "prices: [{provider: ours, model: in-house, per_million_tokens: {input: '1', output: '1'}}]\n"
    )
    days = {"since": "2026-05-02", "until": "2026-05-02"}
    for _ in range(2):
        assert location.execute(dg.RunRequest(run_config=days), job="reprice_costs").success
    assert {row["day"].day: row["cost"] for row in _daily_costs(location)} == {
        1: Decimal("0.006"),
        2: Decimal("0.0024"),
        3: None,
    }
    (request,) = location.requested("reports_of_touched_days")
    assert request.tags["dagster/asset_partition_range_start"] == "2026-05-02"
    assert request.tags["dagster/asset_partition_range_end"] == "2026-05-02"
    assert len(request.asset_selection or []) == 2
    before = (location.home / "reports/daily_cost_report/2026-05-02.html").read_bytes()
    assert location.execute(request, job="write_reports").success
    assert (location.home / "reports/daily_cost_report/2026-05-02.html").read_bytes() != before
    assert location.requested("reports_of_touched_days") == []


def test_days_to_price_anew_are_checked_before_anything_is_done(location: Location) -> None:
    location.land("native/dt=2026-05-01/hh=01/a.jsonl", "a1")
    location.take()
    before = location.lake.version("model_costs")
    with pytest.raises(dg.DagsterConfigMappingFunctionError) as refused:
        location.execute(dg.RunRequest(run_config={"since": "yesterday"}), job="reprice_costs")
    assert "Invalid isoformat string: 'yesterday'" in str(refused.value.__cause__)
    assert location.lake.version("model_costs") == before


def _daily_costs(location: Location) -> list[dict[str, Any]]:
    return location.rows("SELECT day, cost FROM cost_rollup WHERE grain = 'day' ORDER BY day")


def test_reports_wait_while_files_are_being_taken_but_not_for_ever(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    location.land(f"native/{HOUR_12}/a.jsonl", "a1")
    location.take()
    location.under_way("ingest_logs", dg.DagsterRunStatus.STARTED)
    assert "files that are being taken" in (location.tick("reports_of_touched_days").skip_message or "")
    monkeypatch.setattr("sensors.reporting.OVERDUE", timedelta(0))
    assert len(location.requested("reports_of_touched_days")) == 1


# -- attribution -----------------------------------------------------------------------------


@pytest.mark.soak
def test_a_new_rule_attributes_the_days_that_it_covers_and_exactly_their_reports(location: Location) -> None:
    from ml_registry_pipelines.lineage.tracker import LineageTracker
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.artifacts import HostedModel
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.models import ModelRegistry
    from ml_registry_pipelines.telemetry.attribution import Attribution, NewRule

    assert "no registry yet" in (location.tick("new_attribution").skip_message or "")
    for day in (1, 2):
        location.land(f"native/dt=2026-05-0{day}/hh=01/a.jsonl", f"a{day}")
    location.take()
    for request in location.requested("reports_of_touched_days"):
        assert location.execute(request, job="write_reports").success
    ((tenant, _),) = {(tenant, version) for tenant, _, version in _daily_versions(location)}
    with Log(location.lake) as log:
        desk: dict[str, Any] = {"actor": Actor("p-ada"), "tenant": tenant}
        registry = ModelRegistry(log, **desk)
        registry.register_model("fraud")
        registry.create_model_version("fraud", HostedModel("acme", "s"))
        LineageTracker(log, **desk).track_deployment(
            "prod", "fraud@v1", environment="production", start=datetime(2026, 4, 1, tzinfo=UTC)
        )
        assert location.requested("new_attribution") == []
        rule = NewRule("prod", {"model": "*"}, valid_from=datetime(2026, 5, 2, tzinfo=UTC))
        Attribution(log, **desk).add_rule(rule)
    (request,) = location.requested("new_attribution")
    assert location.execute(request, job="attribute_logs").success
    assert {day: version for _, day, version in _daily_versions(location)} == {1: None, 2: 1}
    assert location.requested("new_attribution") == []
    (report,) = location.requested("reports_of_touched_days")
    assert report.tags["dagster/asset_partition_range_start"] == "2026-05-02"
    assert location.execute(report, job="write_reports").success
    assert "Known model version" in (location.home / "reports/daily_cost_report/2026-05-02.html").read_text()
    assert location.requested("reports_of_touched_days") == []


def _daily_versions(location: Location) -> list[tuple[str, int, int | None]]:
    with location.lake.read("cost_rollup") as reading:
        rows = reading.query(
            "test", "SELECT tenant, day(day) AS day, model_version FROM cost_rollup WHERE grain = 'day'"
        ).to_pylist()
    return [(row["tenant"], row["day"], row["model_version"]) for row in rows]
