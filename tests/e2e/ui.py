"""A real `mlreg ui` in processes of its own: started, asked over GraphQL, and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
MLREG = [sys.executable, "-c", "from ml_registry_pipelines.cli.main import main; main()"]

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None], *, seconds: float = 120.0, pause: float = 0.7) -> T:
    """The first true thing that `look` returns; fails with `what` when none came in time."""
    until = time.monotonic() + seconds
    event = threading.Event()
    while not (found := look()):
        assert time.monotonic() < until, f"{what} did not happen within {seconds:.0f} s"
        event.wait(pause)
    return found


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of ours is set but the home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLREG_", "DAGSTER_"))}
    return {**kept, "MLREG_HOME": str(home), "PYTHONPATH": str(REPOSITORY), **more}


def mlreg(
    home: Path, *arguments: str, seconds: float = 600.0, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `mlreg` from a folder that is not the repository's."""
    return subprocess.run(
        [*MLREG, *arguments],
        env=environment(home, **more),
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def key_of(home: Path, role: str) -> str | None:
    """The API key of a user of the demo's; None in a home without users."""
    file = home / "demo-keys" / f"{role}.key"
    return file.read_text("ascii").strip() if file.exists() else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Ui:
    """A running `mlreg ui`."""

    home: Path
    port: int
    process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str | None:
        """The key of the demo's admin, where the home has one."""
        return key_of(self.home, "admin")

    def request(self, path: str, body: bytes | None = None, **headers: str) -> urllib.request.Request:
        """A request that bears the key, where there is one."""
        signed = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return urllib.request.Request(f"{self.address}{path}", data=body, headers={**signed, **headers})

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer to a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = self.request("/graphql", body, **{"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            held = json.load(answer)
        assert "errors" not in held, held["errors"]
        return dict(held["data"])

    def sensors(self) -> dict[str, str]:
        """Sensors and schedules with their state."""
        found = self.ask(
            """
            { workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
                __typename
                ... on PythonError { message }
                ... on RepositoryLocation { repositories {
                    sensors { name sensorState { status } }
                    schedules { name scheduleState { status } }
                } }
            } } } } }
            """
        )
        states: dict[str, str] = {}
        for entry in found["workspaceOrError"]["locationEntries"]:
            location = entry["locationOrLoadError"]
            if location is None or location["__typename"] != "RepositoryLocation":
                continue
            for repository in location["repositories"]:
                states |= {s["name"]: s["sensorState"]["status"] for s in repository["sensors"]}
                states |= {s["name"]: s["scheduleState"]["status"] for s in repository["schedules"]}
        return states

    def runs(self, job: str) -> list[dict[str, Any]]:
        """Runs of a job, the newest first."""
        found = self.ask(
            """
            query Runs($job: String!) {
                runsOrError(filter: {pipelineName: $job}) {
                    ... on Runs { results { runId status tags { key value } } }
                }
            }
            """,
            job=job,
        )
        return list(found["runsOrError"]["results"])

    def quiet(self) -> bool:
        """Whether no run is queued or running."""
        found = self.ask(
            """
            { runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED]}) {
                ... on Runs { results { runId } }
            } }
            """
        )
        return not found["runsOrError"]["results"]

    def interrupt(self) -> str:
        """Ctrl-C; what it printed."""
        self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=240)
        return said


@contextmanager
def running_ui(home: Path, **more: str) -> Iterator[Ui]:
    """A UI that serves and whose location is loaded, ended after the block."""
    port = free_port()
    process = subprocess.Popen(
        [*MLREG, "ui", "--port", str(port)],
        env=environment(home, **more),
        cwd=home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ui = Ui(home, port, process)
    try:
        wait_for("the first page of the UI", lambda: _serves(ui), seconds=180)
        yield ui
    finally:
        if process.poll() is None:
            ui.interrupt()


def _serves(ui: Ui) -> bool:
    if ui.process.poll() is not None:
        raise AssertionError(f"`mlreg ui` ended: {ui.process.communicate()[0]}")
    try:
        return bool(ui.sensors())
    except OSError:
        return False


def processes_with(text: str) -> list[str]:
    """Command lines of processes whose environment or arguments name `text`."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            held = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if text.encode() in held and state != "Z":
            found.append(f"{folder.name}: " + (folder / "cmdline").read_text().replace("\0", " ")[:200])
    return found
