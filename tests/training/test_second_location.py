"""A code location that lies outside the repository, as docs/train-a-model.md shows it: loaded beside ours, and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.staleness import Staleness
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.services import ServicesError, dagster_home, prepare
from ml_registry_pipelines.settings import Settings
from ml_registry_pipelines.workspace import workspace
from tests.training.conftest import ME

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "train-a-model.md"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with the page's location, and the workspace file that the page shows."""
    blocks = re.findall(r"^```(\w+)\n# (\S+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    folder = tmp_path / "team"
    folder.mkdir()
    for _, name, text in blocks:
        (folder / name).write_text(text)
    assert {path.name for path in folder.iterdir()} == {"training_location.py", "workspace.yaml"}
    return folder


COMMANDS = """
import json, sys
import dagster as dg
from dagster._cli import cli
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.workspace.load_target import WorkspaceFileTarget

# One process for all, as importing Dagster takes longer than what is done here.
workspace, *commands = json.loads(sys.argv[1])
with dg.DagsterInstance.get() as instance:
    for origin in WorkspaceFileTarget([workspace]).create_origins():
        here = InProcessCodeLocationOrigin(origin.loadable_target_origin, location_name=origin.location_name)
        for repository in here.create_location(instance).get_repositories().values():
            print("loaded", origin.location_name, len(repository.asset_graph.get_all_asset_keys()), flush=True)
for command in commands:
    cli.main(command, prog_name="dagster", standalone_mode=False)
"""


def dagster(home: Path, cwd: Path, workspace: Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    """Load a workspace, then give commands to Dagster's shell, where only the package is installed."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("MLREG_", "DAGSTER_", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([str(workspace), *commands])],
        env={
            **kept,
            "MLREG_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            # Not the repository: the package is installed, `assets` and the like are not.
            "PYTHONPATH": str(ROOT),
        },
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.soak  # the demo, whose training code is such a location, is tried end to end
def test_it_is_loaded_beside_the_platform_and_trains_for_real(outside: Path, home: Path) -> None:
    settings = Settings.from_environment()
    prepare(settings)
    listed = workspace(
        Settings(
            settings.home, settings.environment, None, None, workspace_file=str(outside / "workspace.yaml")
        )
    )

    def train(year: int) -> list[str]:
        config = outside / f"{year}.json"
        config.write_text(json.dumps({"ops": {"datasets__default__loans": {"config": {"year": year}}}}))
        return ["job", "execute", "-f", "training_location.py", "-j", "train", "-c", str(config)]

    done = dagster(home, outside, listed, train(2025), train(2026))
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = dict(re.findall(r"^loaded (\S+) (\d+)$", done.stdout, re.MULTILINE))
    assert set(loaded) == {"ml_registry_pipelines.definitions", "training_location.py"}
    assert loaded["training_location.py"] == "2"
    assert int(loaded["ml_registry_pipelines.definitions"]) > 10

    with Lake(str(home)) as lake, Log(lake) as log:
        registry, tracker = ModelRegistry(log, actor=ME), LineageTracker(log, actor=ME)
        version = registry.get_version("loan-default@v1")
        assert version.framework == "scikit-learn"
        assert version.metrics["accuracy"] > 0.7
        registry.verify_version("loan-default@v1")
        (file,) = registry.download("loan-default@v1", home / "got")
        assert file.name == "model.joblib"
        for number in (1, 2):
            upstream = tracker.get_full_lineage("model_version", f"loan-default@v{number}").upstream
            assert [r.node.name for r in upstream if r.node.type == "dataset_version"] == [f"loans@v{number}"]
        registry.promote_to_production("loan-default@v1")
        (standing,) = Staleness(log, actor=ME).of_models()
        assert (standing.name, standing.stale) == ("loan-default@v1", True)
        assert [behind.newest for behind in standing.behind] == [2]


# -- workspace files -----------------------------------------------------------------------


def with_file(home: Path, text: str) -> Settings:
    settings = Settings.from_environment()
    dagster_home(settings).mkdir(parents=True)
    (home / "mine.yaml").write_text(text)
    return Settings(settings.home, settings.environment, None, None, workspace_file=str(home / "mine.yaml"))


def test_without_a_file_of_ones_own_the_platform_is_the_one_location(home: Path) -> None:
    settings = Settings.from_environment()
    assert workspace(settings) == ROOT / "workspace.yaml"


def test_paths_of_the_file_are_those_beside_it(home: Path) -> None:
    listed = workspace(
        with_file(
            home,
            "load_from:\n"
            "  - python_file: a.py\n"
            "  - python_file: {relative_path: b/c.py, working_directory: b, location_name: c}\n"
            "  - python_module: team.training\n"
            "  - grpc_server: {host: models.example, port: 4266}\n",
        )
    )
    ours, *theirs = yaml.safe_load(listed.read_text())["load_from"]
    assert ours["python_module"]["module_name"] == "ml_registry_pipelines.definitions"
    assert ours["python_module"]["working_directory"] == str(ROOT)
    assert theirs == [
        {"python_file": {"relative_path": f"{home}/a.py", "working_directory": str(home)}},
        {
            "python_file": {
                "relative_path": f"{home}/b/c.py",
                "working_directory": f"{home}/b",
                "location_name": "c",
            }
        },
        {"python_module": {"module_name": "team.training", "working_directory": str(home)}},
        {"grpc_server": {"host": "models.example", "port": 4266}},
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", "load_from: []", "load_from: [a]", "load_from: {", "load_from: a.py"]
)
def test_a_file_that_lists_nothing_is_refused_in_one_sentence(text: str, home: Path) -> None:
    with pytest.raises(ServicesError, match=r"mine\.yaml"):
        workspace(with_file(home, text))


def test_a_file_that_is_not_there_is_refused(home: Path, tmp_path: Path) -> None:
    settings = with_file(home, "")
    (home / "mine.yaml").unlink()
    with pytest.raises(ServicesError, match="cannot be read"):
        workspace(settings)
