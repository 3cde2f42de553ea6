"""A real MLflow tracking server per test process, a way to fill it, and a registry of its own for every test."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from ml_registry_pipelines.exchange.mlflow_import import Imported, MlflowImport
from ml_registry_pipelines.exchange.mlflow_server import TrackingServer
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry

ACTOR = Actor("p1", authenticated_by="test")
PATIENCE_SECONDS = 240
_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One server is enough: what needs it runs in one worker."""
    for item in items:
        if "mlflow" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("mlflow"))
            # The first of them waits for the server, which imports for 100 s of a machine that is busy.
            item.add_marker(pytest.mark.timeout(300))


@dataclass
class Mlflow:
    """A running tracking server, spoken to as its clients do."""

    uri: str

    def ask(self, method: str, path: str, **body: object) -> dict[str, Any]:
        answer = requests.request(method, f"{self.uri}/api/2.0/mlflow/{path}", json=body, timeout=60)
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def run(
        self,
        metrics: Mapping[str, object] | None = None,
        params: Mapping[str, str] | None = None,
        inputs: list[dict[str, Any]] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        run: str = self.ask("POST", "runs/create", experiment_id="0")["run"]["info"]["run_id"]
        self.ask(
            "POST",
            "runs/log-batch",
            run_id=run,
            metrics=[
                {"key": k, "value": v, "timestamp": 1_700_000_000_000 + s, "step": s}
                for k, values in (metrics or {}).items()
                for s, v in enumerate(values if isinstance(values, list) else [values])
            ],
            params=[{"key": k, "value": v} for k, v in (params or {}).items()],
            tags=[{"key": k, "value": v} for k, v in (tags or {}).items()],
        )
        if inputs:
            self.ask("POST", "runs/log-inputs", run_id=run, datasets=inputs)
        return run

    def put(self, run: str, path: str, data: bytes) -> None:
        answer = requests.put(
            f"{self.uri}/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/{path}", data=data, timeout=60
        )
        assert answer.ok, answer.text

    def version(self, model: str, run: str, **fields: object) -> int:
        made = self.ask(
            "POST",
            "model-versions/create",
            name=model,
            run_id=run,
            source=f"mlflow-artifacts:/0/{run}/artifacts/model",
            **fields,
        )
        return int(made["model_version"]["version"])

    def simple(self, model: str, data: bytes = b"weights", **fields: object) -> int:
        """One more version of a model, which is made where it is missing."""
        name = requests.get(
            f"{self.uri}/api/2.0/mlflow/registered-models/get", params={"name": model}, timeout=60
        )
        if not name.ok:
            self.ask("POST", "registered-models/create", name=model)
        run = self.run()
        self.put(run, "model/weights.bin", data)
        return self.version(model, run, **fields)

    def stage(self, model: str, number: int, stage: str, *, archive: bool = False) -> None:
        self.ask(
            "POST",
            "model-versions/transition-stage",
            name=model,
            version=str(number),
            stage=stage,
            archive_existing_versions=archive,
        )

    def clear(self) -> None:
        for _ in range(2):
            asked = {"max_results": "1000"}
            for wanted in ("", "tags.`mlflow.prompt.is_prompt` = 'true'"):
                found = requests.get(
                    f"{self.uri}/api/2.0/mlflow/registered-models/search",
                    params={**asked, **({"filter": wanted} if wanted else {})},
                    timeout=60,
                ).json()
                for model in found.get("registered_models", ()):
                    self.ask("DELETE", "registered-models/delete", name=model["name"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def running_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    # What `mlflow server` does after it has imported everything once: here it is imported once in all.
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--port", str(port), "mlflow.server.fastapi_app:app"],
            stdout=log,
            stderr=log,
            env={**os.environ, **settings},
            cwd=folder,
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                    break
            except requests.ConnectionError:
                pass
            said = (folder / "log").read_text()[-3000:]
            assert server.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        yield Mlflow(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def mlflow(running_mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    """The server, empty."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    running_mlflow.clear()
    return running_mlflow


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as opened:
        yield opened


@dataclass
class Here:
    """A tenant of its own."""

    log: Log
    tenant: str

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(self.log, actor=ACTOR, tenant=self.tenant)

    @property
    def tracker(self) -> LineageTracker:
        return LineageTracker(self.log, actor=ACTOR, tenant=self.tenant)

    def take(self, uri: str, **options: Any) -> Imported:
        return MlflowImport(
            self.log, TrackingServer(uri), actor=ACTOR, tenant=self.tenant, **{"name": "mlflow", **options}
        ).run()

    def events(self) -> int:
        return self.log.head(self.tenant)[0]


@pytest.fixture
def here(log: Log) -> Here:
    return Here(log, f"x{next(_numbers)}")
