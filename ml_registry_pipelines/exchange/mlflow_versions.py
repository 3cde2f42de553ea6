"""One version of a tracking server's model, recorded here: its files, its run, its datasets.

Which versions are taken and what is followed of them afterwards is in `mlflow_import`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_registry_pipelines.exchange.mlflow_facts import (
    datasets_of,
    facts_of,
    instant,
    model_file,
    run_record,
    usable_tags,
    usable_text,
)
from ml_registry_pipelines.exchange.mlflow_server import (
    ModelVersion,
    NotHandedOut,
    NotThere,
    TrackingServer,
    without_secrets,
)
from ml_registry_pipelines.registry.artifacts import ArtifactStore, HostedModel, Stored
from ml_registry_pipelines.registry.foreign import ForeignVersion, ForeignVersions

RUN_KIND = "mlflow_run"
"""Kind of the artifact that holds the whole run: `run.json`, and every value of every metric."""
RUNS_REMEMBERED = 200


@dataclass(frozen=True)
class Copied:
    """`new`: whether it was not here yet; `lost`: sentences about what has no place here."""

    new: bool
    size: int
    lost: list[str]


class VersionCopier:
    """Copies versions of the server called `name`; versions of one run share what was read of it."""

    def __init__(
        self,
        server: TrackingServer,
        name: str,
        artifacts: ArtifactStore,
        versions: ForeignVersions,
        *,
        without_artifacts: bool,
    ) -> None:
        self.server = server
        self.name = name
        self._artifacts = artifacts
        self._versions = versions
        self._without_artifacts = without_artifacts
        self._runs: dict[str, tuple[dict[str, Any], Stored] | None] = {}

    def forget_runs(self) -> None:
        """A run may have changed since the last import."""
        self._runs.clear()

    def copy(self, version: ModelVersion, model_id: str, what: str) -> Copied:
        """Store the files of a version and record it under its number."""
        lost: list[str] = []
        with tempfile.TemporaryDirectory(prefix="mlreg-mlflow-") as scratch:
            folder = Path(scratch, "model")
            content, size = self._content(version, folder, what, lost)
            signature, framework, wrong = model_file(folder, what)
            lost += wrong
        kept = self._kept_run(version.run_id, what, lost)
        run = kept[0] if kept else None
        facts, unusable = facts_of(run, signature, framework, what)
        datasets, nameless = datasets_of(run or {}, what)
        tags, refused = usable_tags(version.tags, what)
        text, cut = usable_text(version.description, what)
        lost += [*unusable, *nameless, *refused, *cut]
        new = self._versions.record(
            model_id,
            ForeignVersion(
                number=version.number,
                content=content,
                facts=facts,
                description=text,
                tags=tags,
                artifacts=[(RUN_KIND, kept[1])] if kept else [],
                datasets=datasets,
                origin={
                    "registry": "mlflow",
                    "server": self.name,
                    "version": version.number,
                    "created_ms": version.created_ms,
                    "source": without_secrets(version.source),
                    "run_id": version.run_id or None,
                },
                followed={"stage": "None", "description": text, "tags": tags},
            ),
            valid_from=instant(version.created_ms),
        )
        return Copied(new, size, lost)

    def _content(self, version: ModelVersion, folder: Path, what: str, lost: list[str]) -> tuple[Stored, int]:
        try:
            size = self.server.download(self.server.shelf(version), folder)
            if not folder.is_dir():
                raise NotHandedOut(f"the server lists no file for {what}")
        except (NotHandedOut, NotThere) as missing:
            if not self._without_artifacts:
                raise NotHandedOut(
                    f"{missing}; with --without-artifacts it is recorded as a reference"
                ) from missing
            lost.append(f"{what} is recorded without its artifacts: {missing}")
            reference = {"source": without_secrets(version.source)}
            return self._artifacts.store(HostedModel("mlflow", what, reference)), 0
        return self._artifacts.store(folder), size

    def _kept_run(self, run_id: str, what: str, lost: list[str]) -> tuple[dict[str, Any], Stored] | None:
        """The run of a version, and the artifact that keeps all of it; several versions may share one."""
        if not run_id:
            return None
        if run_id not in self._runs:
            if len(self._runs) >= RUNS_REMEMBERED:
                self._runs.clear()
            try:
                run = self.server.run(run_id)
                self._runs[run_id] = (run, self._stored_run(run_id, run))
            except NotThere:
                self._runs[run_id] = None
        if self._runs[run_id] is None:
            lost.append(
                f"{what}: its run {run_id} is gone there, and with it metrics, parameters and datasets"
            )
        return self._runs[run_id]

    def _stored_run(self, run_id: str, run: Mapping[str, Any]) -> Stored:
        with tempfile.TemporaryDirectory(prefix="mlreg-mlflow-") as scratch:
            folder = Path(scratch, "run")
            folder.mkdir()
            text = json.dumps(run_record(run), sort_keys=True, indent=1, ensure_ascii=False)
            (folder / "run.json").write_text(text, encoding="utf-8")
            with (folder / "metrics.jsonl").open("w", encoding="utf-8") as out:
                for key in sorted(str(m["key"]) for m in run.get("data", {}).get("metrics", ())):
                    for value in self.server.metric_history(run_id, key):
                        out.write(json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n")
            return self._artifacts.store(folder)
