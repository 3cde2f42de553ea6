"""What surrounds the code: the wheel, the pinned requirements, what loading the code location imports."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = sorted(path.name for path in ROOT.glob("requirements*.txt"))
# Nothing but these lines: an index, an address, a local path or an option would be another.
PIN_LINE = re.compile(
    r"""
    \# [^/:]* (:$)? | \# \s+ make\ pins                             # the header
    | [a-z0-9._-]+ == [\w.!+-]+ ( \ ;\ [\w\s.<>=!'()-]+ )? \ \\     # name, version, where it applies
    | \s{4} --hash=sha256:[0-9a-f]{64} (\ \\)?
    """,
    re.VERBOSE,
)

IMPORTS = """
import dagster, json, sys
dagsters = set(sys.modules)
import ml_registry_pipelines.definitions
print(json.dumps([*(sys.modules.keys() - dagsters)]))
"""


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target], cwd=ROOT, check=True
    )
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_a_wheel_installs_the_package_and_nothing_beside_it(wheel_names: set[str]):
    version = PROJECT["project"]["version"]
    assert {name.split("/")[0] for name in wheel_names} == {
        "ml_registry_pipelines",
        f"ml_registry_pipelines-{version}.dist-info",
    }


def test_a_wheel_misses_no_module_and_no_data_file(wheel_names: set[str]):
    package = ROOT / "ml_registry_pipelines"
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} <= wheel_names


@pytest.mark.parametrize("name", PINNED)
def test_pinned_requirements_name_no_index_address_or_path(name: str):
    lines = (ROOT / name).read_text().splitlines()
    assert [line for line in lines if not PIN_LINE.fullmatch(line)] == []


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.txt", []),
        ("requirements-dev.txt", ["dev"]),
        ("requirements-bench.txt", ["dev", "bench"]),
    ],
)
def test_the_pins_are_what_the_project_asks_for(name: str, extras: list[str]):
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *PROJECT["build-system"]["requires"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    pins = dict(re.findall(r"^([a-z0-9._-]+)==([^ ]+)", (ROOT / name).read_text(), re.MULTILINE))
    for requirement in map(Requirement, wanted):
        pinned = pins.get(requirement.name.lower())
        assert requirement.specifier.contains(pinned or "0"), (
            f"{requirement} is pinned as {pinned}: make pins"
        )


def test_a_test_run_has_the_versions_that_a_user_gets():
    def pins(name: str) -> set[str]:
        return {line for line in (ROOT / name).read_text().splitlines() if "==" in line}

    assert pins("requirements.txt") <= pins("requirements-dev.txt") <= pins("requirements-bench.txt")


def test_loading_the_code_location_imports_no_heavy_library(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        cwd=ROOT,
        env={**os.environ, "MLREG_HOME": str(tmp_path / "lake"), "DAGSTER_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    own = {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert "ml_registry_pipelines" in own
    heavy = set(PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"])
    assert own & heavy == set()
