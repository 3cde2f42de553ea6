"""Assets and their checks, materialized as jobs over a real lake: what a person sees in the UI afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from ml_registry_pipelines.lake.tables import TABLES
from resources import workers
from tests.location import Location, land, open_location, record

FOLDER = "native/dt=2026-05-02/hh=12"


@pytest.fixture
def location(tmp_path: Path) -> Iterator[Location]:
    with open_location(tmp_path / "home") as location:
        yield location


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Location]:
    """A location whose one file of twenty requests has been taken, priced and rolled up."""
    shutil.copytree(_taken_home().name, tmp_path / "home")
    with open_location(tmp_path / "home") as location:
        yield location


@cache
def _taken_home() -> TemporaryDirectory[str]:
    home = TemporaryDirectory(prefix="mlreg-taken-")
    with open_location(Path(home.name)) as location:
        location.land(f"{FOLDER}/a.jsonl", *(f"a{n}" for n in range(20)))
        assert run(location).success
    return home


def run(location: Location, job: str = "ingest_logs", **tags: str) -> dg.ExecuteInProcessResult:
    """A run that a person starts by hand, without configuration."""
    return location.execute(dg.RunRequest(tags=tags), job=job)


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """The metadata of an asset's materialization in a run."""
    (event,) = [
        e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(asset.split("/"))
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Which checks of a run passed."""
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_a_run_without_configuration_takes_whatever_lies_in_the_sources(location: Location) -> None:
    location.land(f"{FOLDER}/a.jsonl", "a1", "a2")
    location.land("native/dt=2026-05-01/hh=03/b.jsonl", "b1")
    assert run(location).success
    assert location.events() == {"a1": 1, "a2": 1, "b1": 1}


def test_every_materialization_tells_rows_and_version_of_its_table(location: Location) -> None:
    location.land(f"{FOLDER}/a.jsonl", "a1", "a2", "a1")
    land(location.home, f"{FOLDER}/b.jsonl", [record("b1"), {"event_id": "no time"}])
    result = run(location)
    events = metadata(result, "telemetry/inference_events")
    assert {name: events[name] for name in ("rows_in", "taken", "duplicates", "quarantined")} == {
        "rows_in": 5,
        "taken": 3,
        "duplicates": 1,
        "quarantined": 1,
    }
    rows = {"inference_events": 3, "ingested_files": 2, "quarantined_rows": 1, "model_costs": 3}
    for table, count in rows.items():
        room = "costs" if table == "model_costs" else "telemetry"
        found = metadata(result, f"{room}/{table}")
        assert found["dagster/row_count"] == count
        assert found["table_version"] == location.lake.version(table)


def test_every_check_passes_on_an_honest_batch(location: Location) -> None:
    location.land(f"{FOLDER}/a.jsonl", *(f"a{n}" for n in range(50)))
    found = verdicts(run(location))
    assert len(found) == 11
    assert all(found.values()), found


FORGED: dict[str, tuple[str, dict[str, Any]]] = {
    "costs_follow_events": ("model_costs", {"event_key": 1, "cost_status": "unpriced", "cost": None}),
    "costs_equal_rollup": ("cost_rollup", {"grain": "day", "cost": Decimal(1)}),
    "performance_equals_events": ("performance_rollup", {"grain": "day", "tenant": "acme"}),
    "counts_add_up": ("ingested_files", {"path": "forged.jsonl", "rows_in": 7}),
}
"""By check: a row that does not belong, as a table and what differs from a row that does."""


def test_rows_that_do_not_belong_fail_their_checks(taken: Location) -> None:
    for table, forged in FORGED.values():
        forge(taken, table, forged)
    found = verdicts(run(taken))
    assert FORGED.keys() <= {name for name, passed in found.items() if not passed}


@pytest.mark.soak
@pytest.mark.parametrize("check", FORGED)
def test_a_row_that_does_not_belong_fails_its_check(taken: Location, check: str) -> None:
    forge(taken, *FORGED[check])
    found = verdicts(run(taken))
    assert check in [name for name, passed in found.items() if not passed]


def forge(location: Location, table: str, values: dict[str, Any]) -> None:
    """Append a copy of a table's first row with some values changed, past every room."""
    import pyarrow as pa

    (row,) = location.rows(f"SELECT * FROM {table} LIMIT 1")
    rows = pa.Table.from_pylist([{**row, **values}], schema=TABLES[table].schema)
    location.lake.append_next(table, rows, source="forger")


def test_a_file_that_cannot_be_read_keeps_no_other_from_being_priced(location: Location) -> None:
    location.land(f"{FOLDER}/a.jsonl", "a1")
    gone = location.land(f"{FOLDER}/b.jsonl", "b1")
    (request,) = location.requested("new_inference_logs")
    gone.unlink()
    result = location.execute(request)
    assert result.success
    assert location.rows("SELECT sum(requests) AS n FROM cost_rollup WHERE grain = 'day'") == [{"n": 1}]
    (check,) = [c for c in result.get_asset_check_evaluations() if not c.passed]
    assert check.check_name == "every_file_could_be_read"
    assert "b.jsonl cannot be read" in (check.description or "")
    assert all(verdicts(run(location)).values())


def test_most_requests_without_a_price_fail_a_check_as_a_warning_that_names_them(location: Location) -> None:
    location.land(f"{FOLDER}/a.jsonl", "a1", provider="nobody", model="unheard-of")
    result = run(location)
    assert result.success
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "prices_cover_requests"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert "nobody/unheard-of" in (check.description or "")


def test_a_first_batch_is_priced_although_no_sync_ran_before(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "tables").mkdir(parents=True)
    with open_location(home) as location:
        location.land(f"{FOLDER}/a.jsonl", "a1")
        assert run(location).success
        assert location.rows("SELECT cost_status FROM model_costs") == [{"cost_status": "priced"}]


@pytest.mark.soak
def test_a_contract_price_counts_from_the_next_sync_on(location: Location) -> None:
    (location.home / "contract-prices.yaml").write_text(
        "contract: ours\n"
        "prices:\n"
        "  - {provider: ours, model: in-house, currency: USD, per_million_tokens: {in_uncached: '1', out_text: '1'}}\n"
    )
    assert run(location, "sync_prices").success
    location.land(f"{FOLDER}/a.jsonl", "a1", provider="ours", model="in-house")
    run(location)
    assert location.rows("SELECT cost FROM model_costs") == [{"cost": Decimal("0.0012")}]


def test_one_run_writes_the_reports_of_all_its_days(location: Location) -> None:
    for day in (1, 2, 3):
        location.land(f"native/dt=2026-05-0{day}/hh=10/a.jsonl", f"a{day}", f"b{day}")
    run(location)
    result = run(
        location,
        "write_reports",
        **{
            "dagster/asset_partition_range_start": "2026-05-01",
            "dagster/asset_partition_range_end": "2026-05-03",
        },
    )
    assert result.success
    partitions = location.instance.get_materialized_partitions(dg.AssetKey(["reports", "daily_cost_report"]))
    assert partitions == {"2026-05-01", "2026-05-02", "2026-05-03"}
    written = location.rows(
        "SELECT partition, path FROM reports WHERE report = 'daily_cost_report' ORDER BY partition"
    )
    assert [row["partition"] for row in written] == ["2026-05-01", "2026-05-02", "2026-05-03"]
    for row in written:
        assert (
            (location.home / row["path"])
            .read_text(encoding="utf-8")
            .lstrip()
            .lower()
            .startswith("<!doctype html")
        )


@pytest.mark.soak
def test_the_overview_shows_its_key_chart_in_the_ui(taken: Location) -> None:
    result = run(
        taken,
        "write_reports",
        **{
            "dagster/asset_partition_range_start": "2026-05-02",
            "dagster/asset_partition_range_end": "2026-05-02",
        },
    )
    chart = metadata(result, "reports/cost_overview")["chart"]
    picture = b64decode(chart.split("base64,")[1].rstrip(")"))
    assert picture.startswith(b"\x89PNG")
    assert len(chart) <= 140_000


def test_upkeep_shows_every_table_and_removes_orphans_when_asked(taken: Location) -> None:
    orphan = taken.home / "tables" / "model_costs" / "orphan.parquet"
    orphan.write_bytes(b"left by a kill")
    config = {"ops": {"operations__table_upkeep": {"config": {"full": True}}}}
    result = taken.execute(dg.RunRequest(run_config=config), job="maintain_tables")
    assert result.success
    found = metadata(result, "operations/table_upkeep")
    assert "| inference_events | 20 |" in found["tables"]
    assert not orphan.exists() or found["dagster/row_count"] >= 6


def test_a_run_whose_process_was_killed_is_marked_as_failed_and_does_not_hold_up_others(
    location: Location,
) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    lost = location.under_way("ingest_logs", dg.DagsterRunStatus.STARTED)
    said = EngineEventData.in_process(worker.pid)
    location.instance.report_engine_event("Started process for run.", lost, said)
    assert workers.fail_lost_runs(location.instance, grace_seconds=-1) == []
    worker.kill()
    worker.wait()
    assert workers.fail_lost_runs(location.instance, grace_seconds=-1) == [lost.run_id]
    (run,) = location.instance.get_runs(dg.RunsFilter(run_ids=[lost.run_id]))
    assert run.status is dg.DagsterRunStatus.FAILURE


def test_a_run_whose_process_was_killed_keeps_no_slot_of_a_pool(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one slot per writer, every later run of that table stayed in the queue for ever."""
    pools = location.instance.event_log_storage
    # As every storage but that in memory says, which has them nevertheless.
    monkeypatch.setattr(type(pools), "supports_global_concurrency_limits", True)
    lost = location.under_way("write_reports", dg.DagsterRunStatus.STARTED)
    said = EngineEventData.in_process(2**22 + 1)
    location.instance.report_engine_event("Started process for run.", lost, said)
    pools.set_concurrency_slots("reports_writer", 1)
    assert pools.claim_concurrency_slot("reports_writer", lost.run_id, "step").is_claimed
    assert not pools.claim_concurrency_slot("reports_writer", "the next", "step").is_claimed
    assert workers.fail_lost_runs(location.instance, grace_seconds=-1) == [lost.run_id]
    assert pools.claim_concurrency_slot("reports_writer", "the next", "step").is_claimed


def test_a_day_that_has_not_ended_has_its_partition(location: Location) -> None:
    from assets.reports import DAYS

    assert datetime.now(UTC).date().isoformat() in DAYS.get_partition_keys()
    assert date(2023, 1, 1).isoformat() in DAYS.get_partition_keys()
