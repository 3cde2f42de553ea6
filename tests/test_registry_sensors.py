"""What is recorded shows: the graph is loaded again, checks speak, histories grow, and nothing twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_registry_pipelines import catalog
from ml_registry_pipelines.catalog import LOG_KEY, STALENESS
from ml_registry_pipelines.compliance.ai_act.classifications import AiAct
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel, Uri
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import VersionFacts
from resources import WebServersResource
from tests.location import Location, open_location

ACTOR = Actor("p1")
MODEL = dg.AssetKey(["models", "default", "fraud"])
VERSION = dg.AssetKey(["models", "default", "fraud", "v1"])
CLASS = dg.AssetCheckKey(MODEL, catalog.AI_ACT)
DATASET = dg.AssetKey(["datasets", "default", "credit"])


class WebServer:
    """A web server that notes what it is asked, and answers as Dagster's does."""

    def __init__(self) -> None:
        self.reloaded: list[str] = []
        self.answer: dict[str, Any] = {
            "__typename": "WorkspaceLocationEntry",
            "locationOrLoadError": {"__typename": "RepositoryLocation"},
        }
        noted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                noted.reloaded.append(asked["variables"]["location"])
                body = json.dumps({"data": {"reloadRepositoryLocation": noted.answer}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web() -> Iterator[WebServer]:
    web = WebServer()
    thread = threading.Thread(target=web.server.serve_forever, daemon=True)
    thread.start()
    yield web
    web.server.shutdown()
    web.server.server_close()


@pytest.fixture
def place(tmp_path: Path, web: WebServer) -> Iterator[Location]:
    with open_location(tmp_path / "home", web_servers=WebServersResource(addresses=[web.address])) as place:
        yield place


@contextmanager
def registry(place: Location) -> Iterator[tuple[ModelRegistry, LineageTracker]]:
    with Log(place.lake) as log:
        yield ModelRegistry(log, actor=ACTOR), LineageTracker(log, actor=ACTOR)


def track(tracker: LineageTracker, n: int) -> None:
    tracker.track_dataset("credit", Uri(f"s3://b/{n}", f"{n:064x}"))


def rested(place: Location) -> None:
    """Let the sensor's rest be over."""
    cursor = json.loads(place.cursors["registry_changes"] or "{}")
    place.cursors["registry_changes"] = json.dumps({**cursor, "rest_until": 0})


def said(place: Location, key: dg.AssetKey, name: str = STALENESS) -> tuple[bool, str] | None:
    check = dg.AssetCheckKey(key, name)
    record = place.instance.event_log_storage.get_latest_asset_check_execution_by_key([check]).get(check)
    if record is None or record.event is None or record.event.dagster_event is None:
        return None
    evaluation = record.event.dagster_event.event_specific_data
    assert isinstance(evaluation, dg.AssetCheckEvaluation)
    return evaluation.passed, str(evaluation.description)


def history(place: Location, key: dg.AssetKey) -> list[dict[str, Any]]:
    """Metadata of an asset's materializations, the oldest first."""
    records = place.instance.fetch_materializations(key, limit=50).records
    return [
        {name: value.value for name, value in record.asset_materialization.metadata.items()}
        for record in reversed(records)
        if record.asset_materialization is not None
    ]


def test_an_empty_registry_is_left_alone(place, web):
    assert "nothing is registered yet" in str(place.tick("registry_changes").skip_message)
    assert "nothing is registered yet" in str(place.tick("registry_events").skip_message)
    assert web.reloaded == []


def test_a_change_loads_the_graph_once_and_nothing_new_loads_nothing(place, web):
    with registry(place) as (models, _):
        models.register_model("fraud")
    place.tick("registry_changes")
    assert web.reloaded == ["ml_registry_pipelines.definitions"]
    rested(place)
    assert "shows what the registry holds" in str(place.tick("registry_changes").skip_message)
    assert web.reloaded == ["ml_registry_pipelines.definitions"]
    assert said(place, LOG_KEY, "every_row_is_shown") == (True, "1 assets show all that is to be shown.")


def test_changes_in_quick_succession_are_loaded_together(place, web):
    with registry(place) as (models, _):
        models.register_model("first")
        place.tick("registry_changes")
        cursor = json.loads(place.cursors["registry_changes"] or "")
        place.cursors["registry_changes"] = json.dumps({**cursor, "rest_until": 9e12})
        for name in ("second", "third"):
            models.register_model(name)
            assert "waits" in str(place.tick("registry_changes").skip_message)
        rested(place)
        place.tick("registry_changes")
    assert len(web.reloaded) == 2


def test_a_server_that_cannot_load_is_asked_again(place, web):
    good = web.answer
    web.answer = {"__typename": "PythonError", "message": "no\nsuch luck"}
    with registry(place) as (models, _):
        models.register_model("fraud")
    assert "no such luck" in str(place.tick("registry_changes").skip_message)
    rested(place)
    web.answer = good
    assert "the graph is loaded" in str(place.tick("registry_changes").skip_message)
    assert len(web.reloaded) == 2


def test_the_check_of_a_version_fails_when_its_data_moves_on_and_passes_when_it_is_trained_again(place):
    with registry(place) as (models, tracker):
        track(tracker, 1)
        models.register_model("fraud")
        models.create_model_version("fraud", HostedModel("p", "s"), VersionFacts(trained_on=["credit@v1"]))
        tracker.track_deployment("api", "fraud@v1", environment="prod")
        place.tick("registry_changes")
        assert said(place, VERSION) == (True, "Trained on the newest version of 1 dataset.")
        track(tracker, 2)
        rested(place)
        place.tick("registry_changes")
        passed, why = said(place, VERSION) or (True, "")
        assert not passed
        assert why.startswith("Trained on credit@v1, which is at v2 since")
        api = dg.AssetKey(["deployments", "default", "prod", "api"])
        assert said(place, api) == (False, why)
        models.create_model_version("fraud", HostedModel("p", "t"), VersionFacts(trained_on=["credit@v2"]))
        tracker.track_deployment("api", "fraud@v2", environment="prod")
        rested(place)
        place.tick("registry_changes")
        assert (said(place, api) or (False, ""))[0]
        assert not (said(place, VERSION) or (True, ""))[0]


def test_a_check_is_said_again_once_its_asset_was_made_anew(place):
    def answered() -> bool:
        (spoken,) = place.instance.event_log_storage.get_asset_check_execution_history(CLASS, limit=1)
        records = place.instance.get_asset_records([MODEL])
        made = records[0].asset_entry.last_materialization_record if records else None
        target = spoken.event.dagster_event.event_specific_data.target_materialization_data
        return made is None or (target is not None and target.storage_id == made.storage_id)

    with registry(place) as (models, _):
        models.register_model("fraud")
        AiAct(models.log, actor=ACTOR).classify("fraud", {"is_ai_system": False})
        place.tick("registry_changes")
        assert answered()
        for _ in range(2):
            # What a training run leaves when it ends, after its version was registered.
            place.instance.report_runless_asset_event(dg.AssetMaterialization(MODEL))
            assert not answered()
            rested(place)
            place.tick("registry_changes")
            assert answered()
            place.instance.report_runless_asset_event(dg.AssetMaterialization(["somebody", "elses"]))
            rested(place)
            assert "shows what the registry holds" in str(place.tick("registry_changes").skip_message)


def test_versions_become_the_history_of_their_assets_once_however_often_it_is_read(place):
    with registry(place) as (models, tracker):
        track(tracker, 1)
        track(tracker, 2)
        models.register_model("fraud")
        for n in (1, 2):
            facts = VersionFacts(metrics={"auc": n / 4, "version": 7}, trained_on=["credit@v1", "credit@v2"])
            models.create_model_version("fraud", HostedModel("p", str(n)), facts)
        models.promote_to_production("fraud@v1")
        tracker.track_deployment("api", "fraud@v1", environment="prod")
        place.tick("registry_events")

        def look() -> None:
            assert [found["version"] for found in history(place, DATASET)] == [1, 2]
            assert [(f["version"], f["auc"], f["metric version"]) for f in history(place, MODEL)] == [
                (1, 0.25, 7.0),
                (2, 0.5, 7.0),
            ]
            assert len(history(place, VERSION)) == 1
            observed = place.instance.fetch_observations(VERSION, limit=9).records
            assert len(observed) == 1

        look()
        place.cursors["registry_events"] = None
        place.tick("registry_events")
        look()
        tags = place.instance.get_latest_materialization_event(VERSION).asset_materialization.tags
        # Of two versions of one dataset the newer one counts.
        assert (
            tags["dagster/input_data_version/datasets/default/credit"]
            == (
                place.instance.get_latest_materialization_event(DATASET).asset_materialization.tags[
                    "dagster/data_version"
                ]
            )
        )
        assert tags["dagster/input_event_pointer/datasets/default/credit"] == "NULL"
        place.instance.wipe_assets([MODEL, VERSION])
        place.cursors["registry_events"] = None
        place.tick("registry_events")
        look()


def test_what_is_recorded_while_the_history_is_written_is_written_at_the_next_tick(place, monkeypatch):
    with registry(place) as (models, tracker):
        models.register_model("fraud")
        read = catalog.RegistryCatalog.read

        def then_more(component: catalog.RegistryCatalog, log: Log | None = None) -> catalog.Read:
            found = read(component, log)
            track(tracker, 1)
            monkeypatch.setattr(catalog.RegistryCatalog, "read", read)
            return found

        monkeypatch.setattr(catalog.RegistryCatalog, "read", then_more)
        place.tick("registry_events")
        assert history(place, DATASET) == []
        place.tick("registry_events")
    assert len(history(place, DATASET)) == 1


def test_an_event_waits_for_its_run_and_is_not_said_twice_where_the_run_says_it(place):
    job = place.repository.get_job("sync_prices")
    run = place.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    with Log(place.lake) as log:
        models = ModelRegistry(log, actor=ACTOR, run_id=run.run_id)
        models.register_model("fraud")
        models.create_model_version("fraud", HostedModel("p", "s"))
        place.tick("registry_events")
        assert history(place, MODEL) == []
        place.instance.report_dagster_event(
            dg.DagsterEvent(
                dg.DagsterEventType.ASSET_MATERIALIZATION.value,
                run.job_name,
                event_specific_data=_materialized(MODEL),
            ),
            run.run_id,
        )
        place.instance.report_run_failed(run)
        place.tick("registry_events")
    assert len(history(place, MODEL)) == 1
    assert len(history(place, VERSION)) == 1


def _materialized(key: dg.AssetKey) -> Any:
    from dagster._core.events import StepMaterializationData

    return StepMaterializationData(dg.AssetMaterialization(key))
