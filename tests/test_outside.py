"""What the location tells the outside, and leaves there: webhooks by a sensor, anchors by a schedule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.anchors import make_keys, read_anchors
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.webhooks import addresses, marks
from ml_registry_pipelines.webhooks.subscriptions import Secret, Webhooks
from resources.outside import ANCHOR_KEY, ANCHOR_PUBLIC_KEY, ANCHORS
from tests.location import Location, open_location
from tests.webhooks.sinks import sink

ACTOR = Actor("p1")


@pytest.fixture
def location(tmp_path: Path) -> Iterator[Location]:
    with open_location(tmp_path / "home") as location:
        yield location


def test_the_sensor_tells_subscribers_and_alerts_on_one_that_takes_nothing(
    location: Location, monkeypatch
) -> None:
    monkeypatch.setenv("TEST_HOOK_SECRET", "a-secret-of-good-length")
    monkeypatch.setenv(addresses.VARIABLE, "127.0.0.1")
    monkeypatch.setattr(marks, "DEAD_AFTER", 1)
    location.tick("deliver_webhooks")
    with sink() as receiver, Lake(str(location.home)) as lake, Log(lake) as log:
        hooks, registry = Webhooks(log, actor=ACTOR), ModelRegistry(log, actor=ACTOR)
        hooks.add("ci", receiver.url, Secret("TEST_HOOK_SECRET"))
        location.tick("deliver_webhooks")
        assert receiver.sequences == [1]
        location.tick("deliver_webhooks")
        assert receiver.sequences == [1]
        receiver.status = lambda _: 500
        registry.register_model("a")
        location.tick("deliver_webhooks")
        assert location.alerts() == [("subscriber_failing/default/ci", "opened")]
        receiver.status = lambda _: 200
        hooks.replay("ci", 1)
        location.tick("deliver_webhooks")
        assert receiver.sequences == [1, 2, 1, 2, 3]
        assert location.alerts()[-1] == ("subscriber_failing/default/ci", "resolved")


def test_the_log_is_verified_and_signed_and_a_damaged_one_is_not(
    location: Location, tmp_path, monkeypatch
) -> None:
    make_keys(tmp_path / "private.pem", tmp_path / "public.pem")
    folder = tmp_path / "anchors"
    schedule = location.repository.get_schedule_def("anchor_log_daily")

    def asked() -> dg.ScheduleExecutionData:
        with dg.build_schedule_context(instance=location.instance) as context:
            return schedule.evaluate_tick(context)

    assert "MLREG_ANCHORS" in str(asked().skip_message)
    for name, value in (
        (ANCHORS, folder),
        (ANCHOR_KEY, tmp_path / "private.pem"),
        (ANCHOR_PUBLIC_KEY, tmp_path / "public.pem"),
    ):
        monkeypatch.setenv(name, str(value))
    assert len(asked().run_requests or []) == 1

    def run() -> dg.ExecuteInProcessResult:
        job = location.repository.get_job("anchor_log")
        result: dg.ExecuteInProcessResult = job.execute_in_process(
            instance=location.instance, raise_on_error=False
        )
        return result

    with Lake(str(location.home)) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        registry.register_model("a")
        assert run().success
        registry.register_model("b")
        assert run().success
        anchors = read_anchors(folder, tmp_path / "public.pem")
        assert [a.heads["default"][0] for a in anchors] == [1, 2]
        assert [v.caveat for v in verify(lake, anchors=anchors)] == [None]
        lake.erase("governance_events", "sequence = 2")
    result = run()
    assert not result.success
    [failure] = [e for e in result.all_events if e.is_step_failure]
    assert "is damaged and was not signed: event 2 is missing" in str(failure.event_specific_data)
    assert len(list(folder.iterdir())) == 2
