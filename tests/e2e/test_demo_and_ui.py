"""The demo, then the UI on what it made: real daemon, real runs. In order, on one home."""

from __future__ import annotations

import json
import subprocess
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.access.policy import platform
from ml_registry_pipelines.definitions import build_defs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from tests.e2e.ui import REPOSITORY, Ui, key_of, mlreg, processes_with, wait_for
from tests.location import land, record

EXPECTED: dict[str, Any] = json.loads((REPOSITORY / "demo" / "expected.json").read_text())


@cache
def lake(home: Path) -> Lake:
    return Lake(str(home), process="test")


def rows(home: Path, sql: str, *tables: str) -> list[dict[str, Any]]:
    with lake(home).read(*tables) as reading:
        return list(reading.query("test", sql).to_pylist())


def versions(home: Path) -> dict[str, int]:
    return {status.name: status.version for status in lake(home).status()}


# -- make demo -------------------------------------------------------------------------------


def test_the_demo_takes_prices_and_reports_every_shipped_log(
    demo: subprocess.CompletedProcess[str], demo_home: Path
) -> None:
    sums = {
        name: sum(part[name] for part in EXPECTED["rows"].values())
        for name in ("files", "rows_in", "taken", "duplicates", "quarantined")
    }
    assert (
        f"{sums['rows_in']:,} in = {sums['taken']:,} taken + {sums['duplicates']:,} duplicates "
        f"+ {sums['quarantined']:,} quarantined, from {sums['files']:,} files"
    ) in demo.stdout
    assert "at assumed prices" in demo.stdout
    assert "p50" in demo.stdout
    assert "p99" in demo.stdout
    report = next(line.split(maxsplit=1)[1] for line in demo.stdout.splitlines() if line.startswith("report"))
    assert Path(report).read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
    reports = rows(
        demo_home, "SELECT DISTINCT partition FROM reports WHERE report = 'daily_cost_report'", "reports"
    )
    assert len(reports) == 30


def test_the_demo_trains_models_and_says_which_are_stale(
    demo: subprocess.CompletedProcess[str], demo_home: Path
) -> None:
    lines = [line.removeprefix("training").split() for line in demo.stdout.splitlines()]
    said: dict[str, tuple[str, str]] = {}
    for line in lines:
        if len(line) > 4 and "@v" in line[0]:
            said.setdefault(line[0], (line[1], line[4]))  # checks and the gate speak of them later
    assert said == {
        "recidivism@v1": ("shadow", "stale:"),
        "recidivism@v2": ("staging", "current:"),
        "credit-risk@v1": ("production", "current:"),
        "recidivism-rule@v1": ("shadow", "stale:"),
    }
    with Log(lake(demo_home)) as log:
        listed = ModelRegistry(log, actor=platform("tester")).list_models()
    hosted = [model for model in listed if "hosted" in model.metadata]
    assert f"hosted    {len(hosted):,} models of" in demo.stdout
    assert len(hosted) > 1_400
    assert {model.name for model in listed if model not in hosted} == {
        "recidivism",
        "credit-risk",
        "recidivism-rule",
    }


def test_the_demo_says_what_was_refused_and_what_was_approved_and_the_log_verifies(
    demo: subprocess.CompletedProcess[str], demo_home: Path
) -> None:
    said = demo.stdout
    assert "African-American 44.85%, Caucasian 23.45%" in said
    assert "African-American 27.99%, Caucasian 47.72%" in said
    assert "asked for by the engineer, rejected by the reviewer" in said
    assert "asked for by the engineer, approved by the reviewer; in production" in said
    refused = next(line for line in said.splitlines() if "promotion refused" in line)
    assert "check wrongly taken for recidivists of suite demo-recidivism (race) failed" in refused
    assert mlreg(demo_home, "governance", "history").returncode == 1  # nobody has signed in
    key = key_of(demo_home, "compliance")
    assert key is not None
    verified = mlreg(demo_home, "audit", "verify", MLREG_API_KEY=key)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    history = mlreg(demo_home, "governance", "history", MLREG_API_KEY=key).stdout
    for action in ("refuse_at_gate", "review_approval", "promote_to_production", "classify_ai_act"):
        assert action in history


def test_a_second_demo_changes_nothing_and_says_so(demo_home: Path) -> None:
    before = versions(demo_home)
    again = mlreg(demo_home, "demo")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing has changed" in again.stdout
    after = versions(demo_home)
    assert {name for name in after if after[name] != before[name]} <= {"query_timings"}


def test_the_demo_leaves_no_process_behind(demo_home: Path) -> None:
    assert processes_with(str(demo_home)) == []


# -- make ui ---------------------------------------------------------------------------------


def test_sensors_and_schedules_are_on(ui: Ui) -> None:
    states = ui.sensors()
    declared = build_defs()
    assert set(states) == {each.name for each in (*(declared.sensors or ()), *(declared.schedules or ()))}
    assert set(states.values()) == {"RUNNING"}


def test_runs_and_ticks_of_the_demo_are_shown_in_the_ui(ui: Ui) -> None:
    assert [run["status"] for run in ui.runs("ingest_logs")] == ["SUCCESS"]
    tags = {tag["key"]: tag["value"] for tag in ui.runs("ingest_logs")[0]["tags"]}
    assert tags["dagster/sensor_name"] == "new_inference_logs"


def test_the_demos_training_code_is_a_location_of_its_own_with_its_runs(ui: Ui) -> None:
    assert [run["status"] for run in ui.runs("train_models")] == ["SUCCESS"]
    assert [run["status"] for run in ui.runs("retrain_recidivism")] == ["SUCCESS"]

    def assets() -> dict[str, dict[str, Any]]:
        found = ui.ask(
            "{ assetNodes { assetKey { path } isMaterializable staleStatus repository { location { name } } } }"
        )
        nodes = [n for n in found["assetNodes"] if n["repository"]["location"]["name"] == "demo_training"]
        return {"/".join(node["assetKey"]["path"]): node for node in nodes}

    loaded = wait_for("the location of the demo's training code", assets)
    trained = loaded["models/default/recidivism"]
    assert (trained["isMaterializable"], trained["staleStatus"]) == (True, "FRESH")
    assert loaded["datasets/default/compas"]["isMaterializable"]


def test_files_dropped_while_the_ui_runs_are_rolled_up_an_earlier_hour_and_day_after_a_later_one(
    ui: Ui,
) -> None:
    newest, *older = folders = ["dt=2026-11-02/hh=12", "dt=2026-11-02/hh=09", "dt=2026-11-01/hh=23"]
    ids = {folder: [f"{folder}-{number}" for number in range(10)] for folder in folders}
    for at_once in ([newest], older):  # the second time, what sorts before everything that has been taken
        for folder in at_once:
            start = f"{folder[3:13]}T{folder[-2:]}:15:00Z"
            land(ui.home, f"native/{folder}/dropped.jsonl", [record(i, start) for i in ids[folder]])
        for folder in at_once:
            wait_for(f"the rows of {folder}", partial(are_there, ui.home, ids[folder]), pause=0.5)

    expected = [{"folder": folder, "requests": 10} for folder in folders]
    for rollup in ("cost_rollup", "performance_rollup"):
        wait_for(f"all of {rollup}", partial(is_rolled_up, ui.home, rollup, expected), pause=0.5)


def are_there(home: Path, ids: list[str]) -> bool:
    """Whether each of the events is there, once."""
    listed = ", ".join(f"'{event_id}'" for event_id in ids)
    found = rows(
        home, f"SELECT event_id FROM inference_events WHERE event_id IN ({listed})", "inference_events"
    )
    return sorted(row["event_id"] for row in found) == ids


def is_rolled_up(home: Path, rollup: str, expected: list[dict[str, Any]]) -> bool:
    """Whether the hours of November in a rollup, the newest first, are these."""
    found = rows(
        home,
        f"""
        SELECT strftime(period_start, 'dt=%Y-%m-%d/hh=%H') AS folder, sum(requests)::BIGINT AS requests
        FROM {rollup}
        WHERE grain = 'hour' AND period_start >= '2026-11-01'
        GROUP BY ALL
        ORDER BY folder DESC
        """,
        rollup,
    )
    return found == expected


@pytest.mark.soak  # tests/test_sensors.py shows it in one process
def test_a_run_that_fails_becomes_an_alert_in_table_and_file(ui: Ui) -> None:
    contract = ui.home / "contract-prices.yaml"
    kept = contract.read_text()
    contract.write_text("prices: all of them\n")

    def told() -> list[str]:
        return [
            line for file in (ui.home / "alerts").glob("*.jsonl") for line in file.read_text().splitlines()
        ]

    try:
        wait_for("an alert", lambda: [line for line in told() if "run_failed/sync_prices" in line])
    finally:
        contract.write_text(kept)
    (opened,) = rows(ui.home, "SELECT * FROM alerts WHERE alert_key = 'run_failed/sync_prices'", "alerts")
    assert "contract-prices.yaml" in opened["message"]
    assert opened["run_id"] in {run["runId"] for run in ui.runs("sync_prices")}
