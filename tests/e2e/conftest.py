"""One home for the end-to-end tests: filled by the real demo, then served by a real UI.

They run in order and in one worker, because each goes on from where the last one ended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ui import Ui, mlreg, running_ui

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(600))
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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium of this machine."""
    if os.environ.get("MLREG_NO_BROWSER") == "1":
        pytest.skip("MLREG_NO_BROWSER=1: pages are not looked at")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, "Chromium is missing: `apt-get install chromium`, or MLREG_NO_BROWSER=1 to do without"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
