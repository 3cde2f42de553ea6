"""Experiments in the UI: forms in the Launchpad, the hourly look, and logs that land beside those of requests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from ml_registry_pipelines.costs.experiments.experiments import Experiments
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from tests.location import Location, land, open_location

FORM = {
    "name": "size",
    "arms": [{"name": "big", "models": ["gpt-4o"]}, {"name": "small", "models": ["gpt-4o-mini"]}],
    "quality": "solved",
    "mode": "CHEAPER",
    "margin": 0.02,
    "deviation": 0.4,
    "guardrails": [{"metric": "error_rate", "margin": 0.01}],
}


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    with open_location(tmp_path_factory.mktemp("ui") / "home") as location:
        yield location


def give(location: Location, job: str, **form: object) -> dg.ExecuteInProcessResult:
    result: dg.ExecuteInProcessResult = location.repository.get_job(job).execute_in_process(
        run_config=form, instance=location.instance, raise_on_error=False
    )
    return result


def reason(done: dg.ExecuteInProcessResult) -> str:
    (failed,) = [e for e in done.all_events if e.is_step_failure]
    told = failed.step_failure_data.user_failure_data
    assert told is not None
    return str(told.description)


def test_an_experiment_is_declared_started_and_looked_at_every_hour(location):
    assert not location.requested("experiment_looks")
    assert give(location, "declare_experiment", **FORM).success
    wrong = give(location, "declare_experiment", **{**FORM, "margin": -1.0})
    assert "margin is '-1.0'; it is a number above 0" in reason(wrong)
    assert "has not been started" in reason(give(location, "decide_experiment", name="size"))
    assert not location.requested("experiment_looks")
    past = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    assert give(location, "start_experiment", name="size", at=past).success
    fixed = give(location, "declare_experiment", **FORM)
    assert "its declaration is fixed" in reason(fixed)

    land(location.home, "assignments/a.jsonl", [
        {"experiment": "size", "unit": f"u{n}", "arm": "big" if n % 2 else "small", "ts": past} for n in range(20)
    ])  # fmt: skip
    land(location.home, "outcomes/a.jsonl", [
        {"metric": "solved", "value": True, "ts": datetime.now(UTC).isoformat(), "unit": f"u{n}"} for n in range(20)
    ])  # fmt: skip
    (ingested,) = location.take()
    assert ingested.success
    assert [check.check_name for check in ingested.get_asset_check_evaluations() if not check.passed] == []

    (request,) = location.requested("experiment_looks")
    done = location.execute(request, job="decide_experiments")
    assert done.success
    (event,) = done.get_asset_materialization_events()
    assert event.materialization.metadata["size"].value == "INCONCLUSIVE"
    (row,) = location.rows("SELECT outcome, actor, message FROM decisions")
    assert (row["outcome"], row["actor"]) == ("INCONCLUSIVE", "launchpad")
    assert "10 labelled units at least, of 1,000" in row["message"]
    assert not location.requested("experiment_looks")
    assert give(location, "decide_experiment", name="size").success
    assert give(location, "stop_experiment", name="size", reason="over").success
    with Log(location.lake) as log:
        held = Experiments(log, actor=Actor("reader")).show("size")
    assert (held.status, held.stop_reason, held.retrospective) == ("stopped", "over", True)
