"""One home for the end-to-end tests: filled by the real demo, then served by one real UI for all of them.

They run in order and in one worker, because each goes on from where the last one ended:
`test_the_end.py`, which ends the UI, comes last by its name.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.ui import Ui, mlreg, running_ui


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(600))
            # One worker: two cores carry one user interface at a time.
            item.add_marker(pytest.mark.xdist_group("e2e"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A demo that has ended. Its home is in `args`."""
    return mlreg(tmp_path_factory.mktemp("e2e") / "home", "demo")


@pytest.fixture(scope="session")
def demo_home(demo: subprocess.CompletedProcess[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    return next(Path(tmp_path_factory.getbasetemp()).glob("e2e*/home"))


@pytest.fixture(scope="session")
def ui(demo_home: Path) -> Iterator[Ui]:
    """The UI of the demo's home."""
    with running_ui(demo_home) as ui:
        yield ui
