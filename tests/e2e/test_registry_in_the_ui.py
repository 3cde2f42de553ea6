"""The registry in a running UI: what a shell records is seen in the graph and on the pages, without a restart."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.e2e.ui import Ui, mlreg, running_ui, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GROUPS = ("datasets", "models", "models/fraud", "deployments", "sources", "telemetry", "costs", "reports")
VERSION = ["models", "default", "fraud", "v2"]


def do(home: Path, *arguments: str) -> str:
    done = mlreg(home, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "credit.csv").write_text("age,income,label\n30,1000,0\n")
    (folder / "model.bin").write_bytes(b"weights" * 1000)
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """A UI that was started on an empty registry."""
    with running_ui(tmp_path_factory.mktemp("registry") / "home") as ui:
        yield ui


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


def test_a_model_that_is_registered_while_the_ui_runs_appears_with_its_lineage(shown, files):
    do(shown.home, "datasets", "track", "credit data/2026", str(files / "credit.csv"), "--owner", "team:data")
    do(shown.home, "models", "register", "fraud", "--owner", "team:risk", "--description", "Scores payments.")
    wait_for("the new model", lambda: asset(shown, "models", "default", "fraud"), seconds=60)
    for auc in ("0.91", "0.93"):
        do(
            shown.home,
            *("models", "add-version", "fraud", str(files / "model.bin"), "--metric", f"auc={auc}"),
            *("--framework", "scikit-learn", "--trained-on", "credit data/2026@v1"),
        )
    do(shown.home, "models", "promote", "fraud@v2")
    do(shown.home, "deployments", "track", "fraud-api", "fraud@production", "--environment", "production")
    wait_for(
        "the deployment",
        lambda: asset(shown, "deployments", "default", "production", "fraud-api"),
        seconds=60,
    )
    version = asset(shown, *VERSION)
    assert version is not None
    assert sorted(key["path"] for key in version["dependencyKeys"]) == [
        ["datasets", "default", "credit_x20_data_x2F_2026"],
        ["models", "default", "fraud"],
    ]
    landing = wait_for("the sources", lambda: asset(shown, "sources", "landing"))
    assert landing["dependencyKeys"] == [{"path": ["deployments", "default", "production", "fraud-api"]}]


def test_metrics_are_in_the_history_of_the_model_for_the_ui_to_plot(shown):
    def plotted() -> list[float]:
        made = (asset(shown, "models", "default", "fraud") or {}).get("assetMaterializations", [])
        return [e["floatValue"] for m in made for e in m["metadataEntries"] if e["label"] == "auc"]

    wait_for("both versions", lambda: plotted() == [0.93, 0.91])


def test_a_live_version_shows_as_stale_after_its_data_changed(shown, files):
    def evaluation() -> dict[str, Any]:
        (check,) = (asset(shown, *VERSION) or {})["assetChecksOrError"]["checks"]
        assert check["name"] == "trained_on_current_data"
        return dict((check["executionForLatestMaterialization"] or {}).get("evaluation") or {})

    wait_for("the check that passes", lambda: evaluation().get("success"))
    (files / "credit.csv").write_text("age,income,label\n30,1000,0\n40,2000,1\n")
    do(shown.home, "datasets", "track", "credit data/2026", str(files / "credit.csv"))
    wait_for("the check that fails", lambda: evaluation().get("success") is False)
    assert "which is at v2 since" in evaluation()["description"]
    assert evaluation()["severity"] == "WARN"
    assert "2 of 2 are stale" in do(shown.home, "models", "stale")


def test_the_link_of_a_version_downloads_what_was_registered_and_nothing_else(shown, files):
    entries = (asset(shown, *VERSION) or {})["metadataEntries"]
    (link,) = [entry["url"] for entry in entries if entry["label"] == "download"]
    with urllib.request.urlopen(f"{shown.address}{link}", timeout=30) as answer:
        assert answer.read() == (files / "model.bin").read_bytes()
        assert "attachment" in answer.headers["Content-Disposition"]
    for wrong in ("default/nothing", "acme/" + link.rsplit("/", 1)[-1]):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{shown.address}/mlreg/artifacts/{wrong}", timeout=30)


@pytest.fixture
def page(browser: Browser) -> Page:
    return browser.new_page(viewport={"width": 1680, "height": 760})


def test_the_graph_leads_from_the_data_to_the_costs(page, shown, tmp_path):
    expanded = quote(",".join(f"global@global:{group}" for group in GROUPS), safe="")
    page.goto(f"{shown.address}/asset-groups/?expanded={expanded}")
    for name in ("v1", "v2", "fraud", "fraud-api", "landing", "inference_events", "model_costs"):
        page.get_by_text(name, exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "graph.png")


def test_the_page_of_a_version_and_of_a_dataset_with_an_odd_name_show_what_they_are(page, shown, tmp_path):
    page.goto(f"{shown.address}/assets/models/default/fraud/v2?view=overview")
    page.get_by_text("Scores payments.").first.wait_for()
    page.get_by_text("mlreg get fraud@v2 PATH").first.wait_for()
    page.screenshot(path=tmp_path / "version.png", full_page=True)
    page.locator('a[href*="credit_x20_data_x2F_2026"]').first.click()
    page.wait_for_url("**/assets/datasets/default/credit_x20_data_x2F_2026**")
    page.goto(f"{shown.address}/assets/datasets/default/credit_x20_data_x2F_2026?view=overview")
    page.get_by_text("Its versions are its materializations.").first.wait_for()
    page.screenshot(path=tmp_path / "dataset.png")


def test_the_ui_ends_whole(shown):
    said = shown.interrupt()
    assert shown.process.returncode == 0, said
