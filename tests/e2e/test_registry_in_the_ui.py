"""The registry in a running UI: what others record is in the graph without a restart."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.access.users import actor_for_key
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.staleness import Staleness
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import Stage, VersionFacts
from tests.e2e.ui import Ui, key_of, wait_for

VERSION = ["models", "default", "fraud", "v2"]


@pytest.fixture(scope="module")
def log(demo_home: Path) -> Iterator[Log]:
    with Lake(str(demo_home), process="test") as lake, Log(lake) as log:
        yield log


@pytest.fixture(scope="module")
def me(log: Log, demo_home: Path) -> Actor:
    """The demo's engineer."""
    return actor_for_key(log, key_of(demo_home, "engineer") or "")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "credit.csv").write_text("age,income,label\n30,1000,0\n")
    (folder / "model.bin").write_bytes(b"weights" * 1000)
    return folder


def asset(ui: Ui, *key: str) -> dict[str, Any] | None:
    """What the web server knows about an asset; None where it knows none, or is just loading."""
    query = """
    query Node($keys: [AssetKeyInput!]) { assetNodes(assetKeys: $keys) {
        dependencyKeys { path }
        assetMaterializations(limit: 10) {
            metadataEntries { label ... on FloatMetadataEntry { floatValue } }
        }
        metadataEntries { label ... on UrlMetadataEntry { url } }
        assetChecksOrError { ... on AssetChecks { checks {
            name
            executionForLatestMaterialization { evaluation { success severity description } }
        } } }
    } }
    """
    try:
        found = ui.ask(query, keys=[{"path": list(key)}])["assetNodes"]
    except OSError:
        return None
    return found[0] if found else None


def test_a_model_that_is_registered_while_the_ui_runs_appears_with_its_lineage(ui, log, me, files):
    registry, tracker = ModelRegistry(log, actor=me), LineageTracker(log, actor=me)
    tracker.track_dataset("credit data/2026", files / "credit.csv", owners=["team:data"])
    registry.register_model("fraud", owners=["team:risk"], description="Scores payments.")
    for auc in (0.91, 0.93):
        facts = VersionFacts({}, {"auc": auc}, framework="scikit-learn", trained_on=["credit data/2026@v1"])
        registry.create_model_version("fraud", files / "model.bin", facts)
    registry.set_stage("fraud@v2", Stage.STAGING)  # production takes an approval
    tracker.track_deployment("fraud-api", "fraud@v2", environment="staging")
    (files / "credit.csv").write_text("age,income,label\n30,1000,0\n40,2000,1\n")
    tracker.track_dataset("credit data/2026", files / "credit.csv")
    wait_for("the deployment", lambda: asset(ui, "deployments", "default", "staging", "fraud-api"))
    version = asset(ui, *VERSION)
    assert version is not None
    assert sorted(key["path"] for key in version["dependencyKeys"]) == [
        ["datasets", "default", "credit_x20_data_x2F_2026"],
        ["models", "default", "fraud"],
    ]
    landing = wait_for("the sources", lambda: asset(ui, "sources", "landing"))
    assert {"path": ["deployments", "default", "staging", "fraud-api"]} in landing["dependencyKeys"]


def test_metrics_are_in_the_history_of_the_model_for_the_ui_to_plot(ui):
    def plotted() -> list[float]:
        made = (asset(ui, "models", "default", "fraud") or {}).get("assetMaterializations", [])
        return [e["floatValue"] for m in made for e in m["metadataEntries"] if e["label"] == "auc"]

    wait_for("both versions", lambda: plotted() == [0.93, 0.91])


def test_live_versions_show_whether_their_data_changed(ui, log, me):
    def evaluation(*version: str) -> dict[str, Any]:
        checks = (asset(ui, *version) or {})["assetChecksOrError"]["checks"]
        (check,) = [each for each in checks if each["name"] == "trained_on_current_data"]
        return dict((check["executionForLatestMaterialization"] or {}).get("evaluation") or {})

    wait_for("the check that fails", lambda: evaluation(*VERSION).get("success") is False)
    assert "which is at v2 since" in evaluation(*VERSION)["description"]
    assert evaluation(*VERSION)["severity"] == "WARN"
    assert evaluation("models", "default", "credit-risk", "v1")["success"]
    staleness = Staleness(log, actor=me)
    standings = [*staleness.of_models(), *staleness.of_deployments()]
    assert {"fraud@v2", "fraud-api"} <= {standing.name for standing in standings if standing.stale}


def test_the_link_of_a_version_downloads_what_was_registered_and_nothing_else(ui, files):
    entries = (asset(ui, *VERSION) or {})["metadataEntries"]
    (link,) = [entry["url"] for entry in entries if entry["label"] == "download"]
    with urllib.request.urlopen(ui.request(link), timeout=120) as answer:
        assert answer.read() == (files / "model.bin").read_bytes()
        assert "attachment" in answer.headers["Content-Disposition"]
    for wrong in ("default/nothing", "acme/" + link.rsplit("/", 1)[-1]):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(ui.request(f"/mlreg/artifacts/{wrong}"), timeout=120)
