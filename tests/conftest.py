"""Fixtures that tests of every room share: a home, a lake, and a real S3 server.

The server speaks HTTP in a process of its own; a bucket is made for each test that asks.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from ml_registry_pipelines.iri_grammar import put_off
from tests.examples import ALL, examples

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from ml_registry_pipelines.lake.lake import Lake

if not ALL:
    # Constants of the modules that happen to be loaded by then: what is drawn would depend on the tests before.
    providers._get_local_constants = lambda: providers._local_constants
settings.register_profile("ours", max_examples=examples(100), derandomize=not ALL)
settings.load_profile("ours")

# A commit at the end of each lake, which is there in every test; tests of timings switch them on.
os.environ["MLREG_QUERY_TIMINGS"] = "off"
# A look at what is like a model takes twice as long as registering it; tests that are about it turn it on.
os.environ["MLREG_NEAR_DUPLICATES"] = "off"

put_off()  # before modules of tests import jsonschema

# What a script starts in its background ignores SIGINT. Dagster then ignores SIGTERM too, and
# servers that the tests start inherit that: nothing would end them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Modules make many objects that stay: to look through them again and again is half of the time of collecting.
gc.disable()

PATIENCE_MS = 120_000
"""How long a page may take to show something, on a machine that others use, too."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share something run in one worker, so that it is made once; properties are marked.

    That is the S3 server, or a fixture of one module. Otherwise tests that follow each other go to
    different workers, and each makes the fixture anew.
    """
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.properties)
        if "s3" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("s3"))
        elif item.get_closest_marker("xdist_group") is None and _shares_within_its_module(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


def _shares_within_its_module(item: pytest.Item) -> bool:
    known: dict[str, Sequence[pytest.FixtureDef[Any]]] = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    return any(made[-1].scope == "module" for made in known.values())


@pytest.fixture(scope="session", autouse=True)
def _migrations_are_read_once() -> None:
    """Each instance of Dagster's reads a hundred files of migrations, to write down that its new tables need none."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    read = ScriptDirectory.from_config
    known: dict[tuple[str | None, str | None], ScriptDirectory] = {}

    def from_config(config: Config) -> ScriptDirectory:
        where = (config.config_file_name, config.get_main_option("script_location"))
        if where not in known:
            known[where] = read(config)
        return known[where]

    ScriptDirectory.from_config = from_config  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _what_loaded_a_location_is_over() -> Iterator[None]:
    """Dagster remembers for the process how it last loaded code, and a later test would go on from there."""
    yield
    if loading := sys.modules.get("dagster._core.definitions.definitions_load_context"):
        loading.DefinitionsLoadContext._instance = None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty root, which MLREG_HOME names; other settings are at their defaults."""
    path = tmp_path / "home"
    for name in ("MLREG_ENV", "MLREG_SOURCES", "MLREG_TENANT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLREG_HOME", str(path))
    return path


@pytest.fixture
def lake(home: Path) -> Iterator[Lake]:
    """A lake in a folder, closed after the test."""
    from ml_registry_pipelines.lake.lake import Lake

    with Lake(str(home), process="test") as lake:
        yield lake


@dataclass(frozen=True)
class S3:
    """A running S3 server."""

    url: str

    def settings(self, url: str | None = None) -> dict[str, str]:
        """The environment that leads clients to it, or to a proxy before it."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """The server on a free port, with one process per worker of the test run."""
    server = subprocess.Popen([sys.executable, "-m", "tests.s3_server"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url, "the S3 server did not start; what it said is above"
        yield S3(url)
    finally:
        server.kill()  # whatever signals the shell of the suite has it ignore
        server.communicate()


@pytest.fixture
def s3_root(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty root in a new bucket, to which the environment leads every client."""
    import boto3

    for name, value in s3.settings().items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/lake"


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
