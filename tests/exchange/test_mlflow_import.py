"""A tracking server's models, copied and kept in step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from ml_registry_pipelines.exchange.mlflow_import import AnotherServer
from ml_registry_pipelines.exchange.mlflow_server import (
    AccessRefused,
    NoTrackingServer,
    TrackingServer,
    Unreachable,
)
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import Deleted
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import Stage
from tests.exchange.conftest import ACTOR, Here, Mlflow
from tests.exchange.door import door

MODEL_FILE = b"""\
flavors:
  python_function: {loader_module: mlflow.sklearn}
  sklearn: {sklearn_version: 1.9.0}
signature:
  inputs: '[{"name": "age", "type": "long"}]'
  outputs: '[{"type": "double"}]'
"""
CREDIT = {
    "name": "credit",
    "digest": "695389ac",
    "source_type": "local",
    "source": json.dumps({"uri": "/data/credit.csv"}),
    "schema": json.dumps({"mlflow_colspec": [{"name": "age", "type": "long"}]}),
    "profile": json.dumps({"num_rows": 1000}),
}


def _input(context: str, **fields: object) -> dict[str, object]:
    return {"tags": [{"key": "mlflow.data.context", "value": context}], "dataset": {**CREDIT, **fields}}


def test_everything_about_a_version_arrives_with_its_number(mlflow: Mlflow, here: Here, tmp_path: Path):
    mlflow.ask(
        "POST",
        "registered-models/create",
        name="fraud, Größe@1",
        description="who pays",
        tags=[{"key": "team", "value": "risk"}],
    )
    run = mlflow.run(
        {"auc": [0.5, 0.7], "loss": "NaN"},
        {"depth": "3"},
        [_input("training"), _input("validation", digest="ffff0000")],
        {"mlflow.source.git.commit": "abc123", "mlflow.user": "jane.doe"},
    )
    mlflow.put(run, "model/MLmodel", MODEL_FILE)
    mlflow.put(run, "model/deep/er/weights.bin", bytes(range(256)) * 5000)
    assert mlflow.version("fraud, Größe@1", run) == 1
    mlflow.version("fraud, Größe@1", run, tags=[{"key": "k", "value": "v"}], description="second")
    mlflow.ask("DELETE", "model-versions/delete", name="fraud, Größe@1", version="1")
    mlflow.stage("fraud, Größe@1", 2, "Production")
    mlflow.version("fraud, Größe@1", run)
    for alias, number in (("champion", "2"), ("production", "3")):
        mlflow.ask("POST", "registered-models/alias", name="fraud, Größe@1", alias=alias, version=number)

    done = here.take(mlflow.uri)

    assert (done.models, done.versions, done.failed) == (1, 2, [])
    assert any("'loss' is NaN" in sentence for sentence in done.left_out)
    assert any("alias production" in sentence for sentence in done.left_out)
    model = here.registry.get_model("fraud, Größe@1")
    assert (model.description, model.tags) == ("who pays", {"team": "risk"})
    assert model.aliases == {"champion": 2, "mlflow-production": 3}
    second, third = here.registry.list_versions(model.id)
    assert [(v.number, v.stage) for v in (second, third)] == [(2, Stage.PRODUCTION), (3, Stage.REGISTERED)]
    assert (second.metrics, second.parameters) == ({"auc": 0.7}, {"depth": "3"})
    assert (second.framework, second.code_commit) == ("sklearn", "abc123")
    assert second.signature == {"inputs": [{"name": "age", "type": "long"}], "outputs": [{"type": "double"}]}
    assert (second.description, second.tags) == ("second", {"k": "v"})
    here.registry.download(second.reference, tmp_path / "model")
    assert (tmp_path / "model/deep/er/weights.bin").read_bytes() == bytes(range(256)) * 5000
    here.registry.download(second.reference, tmp_path / "run", kind="mlflow_run")
    history = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [m["value"] for m in history if m["key"] == "auc"] == [0.5, 0.7]
    # The next version of our own follows the highest number.
    (tmp_path / "w").write_bytes(b"w")
    assert here.registry.create_model_version(model.id, tmp_path / "w").number == 4

    trained, evaluated = here.tracker.dataset_versions("credit")
    assert second.trained_on == third.trained_on == (trained.id,)
    assert second.evaluated_on == (evaluated.id,)
    assert trained.metadata["rows"] == 1000
    impact = here.tracker.get_impact_analysis("dataset", "credit", column="age")
    assert impact.counts["model_version"] == 2
    # Who ran it is in nothing that cannot forget.
    events = here.log.events(here.tenant, range(1, here.events() + 1))
    assert not [e for e in events if "jane.doe" in e.payload]
    assert "jane.doe" not in (tmp_path / "run/run.json").read_text()


def test_a_second_import_writes_nothing(mlflow: Mlflow, here: Here):
    mlflow.simple("a")
    mlflow.stage("a", 1, "Staging")
    mlflow.ask("POST", "registered-models/alias", name="a", alias="best", version="1")
    here.take(mlflow.uri)
    before = here.events()
    again = here.take(mlflow.uri)
    assert here.events() == before
    assert (again.models, again.versions, again.bytes, again.unchanged) == (0, 0, 0, 1)


def test_a_long_list_comes_in_pages(mlflow: Mlflow, here: Here, monkeypatch):
    monkeypatch.setattr("ml_registry_pipelines.exchange.mlflow_server.PAGE", 2)
    for name in "abc":
        mlflow.simple(name)
        mlflow.simple(name, name.encode())
    done = here.take(mlflow.uri)
    assert (done.models, done.versions, done.failed) == (3, 6, [])


def test_changes_there_are_followed_and_changes_here_stay(mlflow: Mlflow, here: Here):
    for _ in range(3):
        mlflow.simple("a")
    mlflow.ask("POST", "registered-models/set-tag", name="a", key="old", value="1")
    mlflow.ask("POST", "model-versions/set-tag", name="a", version="2", key="old", value="1")
    mlflow.stage("a", 1, "Production")
    mlflow.ask("POST", "registered-models/alias", name="a", alias="best", version="1")
    mlflow.ask("POST", "registered-models/alias", name="a", alias="old", version="1")
    here.take(mlflow.uri)
    here.registry.tag_model("a", {"ours": 5})
    here.registry.set_alias("a@v3", "canary")

    mlflow.ask("DELETE", "registered-models/delete-tag", name="a", key="old")
    mlflow.ask("POST", "registered-models/set-tag", name="a", key="new", value="2")
    mlflow.ask("DELETE", "model-versions/delete-tag", name="a", version="2", key="old")
    mlflow.ask("PATCH", "registered-models/update", name="a", description="new words")
    mlflow.ask("PATCH", "model-versions/update", name="a", version="2", description="better")
    mlflow.stage("a", 2, "Production", archive=True)
    mlflow.ask("POST", "registered-models/alias", name="a", alias="best", version="2")
    requests.delete(
        f"{mlflow.uri}/api/2.0/mlflow/registered-models/alias", json={"name": "a", "alias": "old"}, timeout=60
    ).raise_for_status()
    done = here.take(mlflow.uri)

    assert done.failed == done.left_out == []
    model = here.registry.get_model("a")
    assert (model.tags, model.description) == ({"ours": 5, "new": "2"}, "new words")
    assert model.aliases == {"best": 2, "canary": 3}
    stages = [v.stage for v in here.registry.list_versions("a")]
    assert stages == [Stage.ARCHIVED, Stage.PRODUCTION, Stage.REGISTERED]
    second = here.registry.get_version("a@v2")
    assert (second.tags, second.description) == ({}, "better")
    # From production straight to no stage takes two steps here.
    mlflow.stage("a", 2, "None")
    assert here.take(mlflow.uri).failed == []
    assert here.registry.get_version("a@v2").stage is Stage.REGISTERED
    before = here.events()
    here.take(mlflow.uri)
    assert here.events() == before


def test_deletions_and_renamings_there_are_followed(mlflow: Mlflow, here: Here):
    for name in ("gone", "left", "right", "stays"):
        mlflow.simple(name)
    mlflow.simple("stays")
    mlflow.stage("gone", 1, "Production")
    mlflow.stage("stays", 1, "Staging")
    here.take(mlflow.uri)
    right = here.registry.get_model("right").id

    mlflow.ask("DELETE", "registered-models/delete", name="gone")
    mlflow.ask("DELETE", "model-versions/delete", name="stays", version="1")
    for name, to in (("left", "middle"), ("right", "left"), ("middle", "right")):
        mlflow.ask("POST", "registered-models/rename", name=name, new_name=to)
    done = here.take(mlflow.uri)

    assert (done.failed, done.deleted, done.renamed) == ([], 2, 2)
    with pytest.raises(Deleted):
        here.registry.get_model("gone")
    assert [v.number for v in here.registry.list_versions("stays")] == [2]
    assert here.registry.get_model("left").id == right
    assert {m.name for m in here.registry.list_models()} == {"left", "right", "stays"}
    # A new model under the name of a deleted one is another model.
    mlflow.simple("gone")
    assert here.take(mlflow.uri).models == 1
    assert len(here.registry.list_versions("gone")) == 1
    # What was restored here stays.
    mlflow.ask("DELETE", "registered-models/delete", name="left")
    assert here.take(mlflow.uri).deleted == 1
    here.registry.restore_model(right)
    assert here.registry.restore_version("stays@v1").number == 1
    for _ in range(2):
        assert here.take(mlflow.uri).deleted == 0
    assert {v.number for v in here.registry.list_versions("stays")} == {1, 2}


def test_what_is_live_is_archived_before_its_model_is_deleted(mlflow: Mlflow, here: Here):
    mlflow.simple("a")
    mlflow.stage("a", 1, "Staging")
    here.take(mlflow.uri)
    model = here.registry.get_model("a").id
    mlflow.ask("DELETE", "registered-models/delete", name="a")
    assert here.take(mlflow.uri).deleted == 1
    here.registry.restore_model(model)
    assert here.registry.get_version("a@v1").stage is Stage.ARCHIVED


def test_a_number_that_is_another_version_here_is_listed_and_no_alias_leads_to_it(
    mlflow: Mlflow, here: Here, tmp_path: Path
):
    mlflow.simple("a")
    here.take(mlflow.uri)
    (tmp_path / "w").write_bytes(b"ours")
    here.registry.create_model_version("a", tmp_path / "w")
    mlflow.simple("a")
    mlflow.ask("POST", "registered-models/alias", name="a", alias="champion", version="2")
    for stage in ("None", "Production"):
        mlflow.stage("a", 2, stage)
        failed = "\n".join(here.take(mlflow.uri).failed)
        assert "a version 2 was not taken over: model 'a' already has another version 2" in failed
        assert "alias champion of a is not followed: version 2 there is not here" in failed
    assert here.registry.get_model("a").aliases == {}
    assert here.registry.get_version("a@v2").stage is Stage.REGISTERED


def test_what_cannot_be_mapped_is_listed(mlflow: Mlflow, here: Here):
    mlflow.ask(
        "POST",
        "registered-models/create",
        name="p",
        tags=[{"key": "mlflow.prompt.is_prompt", "value": "true"}],
    )
    for _ in range(2):
        mlflow.simple("two", tags=[{"key": "long", "value": "x" * 5001}])
    mlflow.stage("two", 1, "Production")
    mlflow.stage("two", 2, "Production")
    run = mlflow.run()
    mlflow.ask("POST", "registered-models/create", name="elsewhere")
    mlflow.ask("POST", "model-versions/create", name="elsewhere", source="s3://bucket/x", run_id=run)
    mlflow.simple("ours")
    here.registry.register_model("ours")

    done = here.take(mlflow.uri)

    said = "\n".join(done.left_out)
    assert "p is a prompt" in said
    assert "two version 1 is in production there beside version 2" in said
    assert "5,001 characters" in said
    failed = "\n".join(done.failed)
    assert "lie at s3://bucket/x" in failed
    assert "ours was not taken over: a model of that name was registered here" in failed
    assert [v.stage for v in here.registry.list_versions("two")] == [Stage.ARCHIVED, Stage.PRODUCTION]
    assert here.registry.list_versions("elsewhere") == []
    # Asked for, what lies elsewhere is recorded as a reference.
    assert here.take(mlflow.uri, without_artifacts=True).versions == 1
    assert here.registry.get_version("elsewhere@v1").content["form"] == "hosted"


def test_artifacts_that_no_proxy_serves_come_through_the_run(mlflow: Mlflow, here: Here, tmp_path: Path):
    experiment = mlflow.ask(
        "POST", "experiments/create", name=here.tenant, artifact_location=f"file://{tmp_path}/store"
    )["experiment_id"]
    run = mlflow.ask("POST", "runs/create", experiment_id=experiment)["run"]["info"]
    folder = Path(run["artifact_uri"].removeprefix("file://"), "model")
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/w.bin").write_bytes(b"local")
    mlflow.ask("POST", "registered-models/create", name="a")
    mlflow.ask(
        "POST", "model-versions/create", name="a", source=f"{run['artifact_uri']}/model", run_id=run["run_id"]
    )
    assert here.take(mlflow.uri).failed == []
    here.registry.download("a@v1", tmp_path / "out")
    assert (tmp_path / "out/sub/w.bin").read_bytes() == b"local"


def test_a_truncated_artifact_costs_its_version_until_it_comes_whole(mlflow: Mlflow, here: Here, monkeypatch):
    monkeypatch.setattr("ml_registry_pipelines.exchange.mlflow_server.PAUSE_SECONDS", 0.001)
    mlflow.simple("a", b"x" * 100_000)
    mlflow.simple("b", b"y")
    whole = False

    def judge(path: str, body: bytes):
        cut = "weights.bin" in path and len(body) == 100_000 and not whole
        return (200, {}, body, 50_000) if cut else None

    with door(mlflow.uri, judge) as server:
        done = here.take(server.uri)
        assert (done.models, done.versions) == (2, 1)
        [sentence] = done.failed
        assert "a version 1 was not taken over: the artifact 'weights.bin' of 100,000 bytes" in sentence
        assert here.registry.list_versions("a") == []
        whole = True
        done = here.take(server.uri)
        assert (done.versions, done.failed) == (1, [])
        fetched = [path for path in server.asked if "weights.bin" in path]
        # The version that had come was not fetched again.
        assert len(fetched) == 4 + 1 + 1


def test_an_answer_of_the_right_shape_and_the_wrong_length_is_truncated(
    mlflow: Mlflow, here: Here, monkeypatch
):
    monkeypatch.setattr("ml_registry_pipelines.exchange.mlflow_server.PAUSE_SECONDS", 0.001)
    mlflow.simple("a", b"x" * 1000)
    with door(mlflow.uri, lambda path, _: (200, {}, b"x", 1) if "weights.bin" in path else None) as server:
        [sentence] = here.take(server.uri).failed
    assert "of 1,000 bytes cannot be fetched whole" in sentence


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((401, {}, b"", 0), AccessRefused, "MLFLOW_TRACKING_USERNAME"),
        ((403, {}, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', 52), AccessRefused, "(no)"),
        ((200, {}, b"<html>hello</html>", 18), NoTrackingServer, "tracking server's address?"),
        ((404, {}, b"nothing", 7), NoTrackingServer, "status 404"),
        (
            (302, {"Location": "http://u:secret@elsewhere/x?t=1"}, b"", 0),
            NoTrackingServer,
            "http://elsewhere/x;",
        ),
        ((503, {}, b"", 0), Unreachable, "failed 4 times"),
    ],
)
def test_a_server_that_is_none_says_so_in_one_sentence(here: Here, monkeypatch, answer, error, words):
    monkeypatch.setattr("ml_registry_pipelines.exchange.mlflow_server.PAUSE_SECONDS", 0.001)
    with door(None, lambda path, _: answer) as server, pytest.raises(error) as raised:
        here.take(f"http://jane:pw@{server.uri.removeprefix('http://')}")
    assert words in str(raised.value)
    assert "pw" not in str(raised.value)
    assert "secret" not in str(raised.value)
    assert here.events() == 0


def test_a_server_that_is_down_or_misspelt_says_so(here: Here, monkeypatch):
    monkeypatch.setattr("ml_registry_pipelines.exchange.mlflow_server.PAUSE_SECONDS", 0.001)
    with pytest.raises(Unreachable, match="nothing answers"):
        here.take("http://127.0.0.1:1")
    with pytest.raises(NoTrackingServer, match="is no address"):
        TrackingServer("sqlite:///mlflow.db")


def test_another_database_at_the_address_deletes_nothing(mlflow: Mlflow, here: Here):
    mlflow.simple("a")
    here.take(mlflow.uri)

    def judge(path: str, body: bytes):
        if "experiments/get" in path:
            found = json.loads(body)
            found["experiment"]["creation_time"] += 1
            other = json.dumps(found).encode()
            return 200, {}, other, len(other)
        return (200, {}, b"{}", 2) if "search" in path else None

    with door(mlflow.uri, judge) as server, pytest.raises(AnotherServer, match="Nothing was changed"):
        here.take(server.uri)
    assert here.registry.get_model("a").name == "a"


def test_a_model_that_a_search_leaves_out_is_not_taken_for_deleted(mlflow: Mlflow, here: Here):
    mlflow.simple("a")
    here.take(mlflow.uri)
    with door(mlflow.uri, lambda path, _: (200, {}, b"{}", 2) if "search" in path else None) as server:
        assert here.take(server.uri).deleted == 0
    assert here.registry.get_model("a").name == "a"


def test_paths_that_lead_out_of_the_model_are_refused(mlflow: Mlflow, here: Here):
    mlflow.simple("a")
    listing = json.dumps({"files": [{"path": "..", "is_dir": True}]}).encode()
    with door(
        mlflow.uri, lambda path, _: (200, {}, listing, len(listing)) if "?path=" in path else None
    ) as server:
        [sentence] = here.take(server.uri).failed
    assert "'..' is no path inside an artifact" in sentence


WORKER = """
import sys
from ml_registry_pipelines.exchange.mlflow_import import MlflowImport
from ml_registry_pipelines.exchange.mlflow_server import TrackingServer
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
root, uri = sys.argv[1:]
with Lake(root) as lake, Log(lake) as log:
    MlflowImport(log, TrackingServer(uri), actor=Actor("p1"), name="mlflow",
                 progress=lambda line: print(line, flush=True)).run()
"""


def test_an_import_that_is_killed_goes_on_where_it_was(mlflow: Mlflow, tmp_path: Path):
    for n in range(6):
        mlflow.simple("a", b"%d" % n)
    mlflow.stage("a", 6, "Production")
    mlflow.ask("POST", "registered-models/alias", name="a", alias="best", version="5")
    root = str(tmp_path / "lake")
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, root, mlflow.uri],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert worker.stdout
    while "version 3" not in worker.stdout.readline():
        assert worker.poll() is None
    worker.send_signal(signal.SIGKILL)
    worker.stdout.read()
    worker.wait()
    with Lake(root) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        before = len(registry.list_versions("a"))
        assert 3 <= before <= 6  # All six, where the machine was too busy to kill it in time.
        done = Here(log, "default").take(mlflow.uri)
        assert (done.models, done.versions, done.failed) == (0, 6 - before, [])
        versions = registry.list_versions("a")
        assert [v.number for v in versions] == [1, 2, 3, 4, 5, 6]
        assert versions[-1].stage is Stage.PRODUCTION
        assert registry.get_version("a@best").number == 5
        for version in versions:
            registry.verify_version(version.reference)
        assert [v.damage for v in verify(lake) if v.damage] == []


CLIENT = """
import sys
import mlflow
import pandas
mlflow.set_tracking_uri(sys.argv[1])

class Double(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input * 2

frame = pandas.DataFrame({"x": [1.0, 2.0]})
with mlflow.start_run():
    mlflow.log_metric("auc", 0.9)
    mlflow.log_input(mlflow.data.from_pandas(frame, name="numbers"), context="training")
    mlflow.pyfunc.log_model(
        name="model", python_model=Double(), registered_model_name="double", pip_requirements=[],
        signature=mlflow.models.infer_signature(frame, frame),
    )
"""


def test_a_model_that_mlflows_own_client_logged_arrives(mlflow: Mlflow, here: Here):
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLIENT, mlflow.uri], check=True, env=quiet, capture_output=True
    )
    done = here.take(mlflow.uri)
    assert (done.versions, done.failed) == (1, [])
    version = here.registry.get_version("double@v1")
    assert version.signature is not None
    assert [column["name"] for column in version.signature["inputs"]] == ["x"]
    assert (version.metrics, version.framework) == ({"auc": 0.9}, "python_function")
    assert [d.name for d in here.tracker.dataset_versions("numbers")] == ["numbers@v1"]
    here.registry.verify_version("double@v1")
