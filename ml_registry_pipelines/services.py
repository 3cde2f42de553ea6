"""The processes of one machine: Dagster's home, its daemon and its web server, started and ended whole.

Only one daemon may work for a Dagster home. A lock that the daemon's own process holds says
whether one does, so that it is free again whatever way the process ended. What the services
do is in `definitions.py`; who starts them, in `demo.py` and `ui.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ml_registry_pipelines.access.doors import KEY, KEY_FILE
from ml_registry_pipelines.access.secret import make_secret
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.readable import SETTING
from ml_registry_pipelines.settings import Settings
from ml_registry_pipelines.storages import make_storages

REPOSITORY = Path(__file__).resolve().parent.parent
WORKSPACE = REPOSITORY / "workspace.yaml"
TEMPLATE = Path(__file__).with_name("dagster.yaml")
LOCK = "mlreg-daemon.lock"
DEMO_DATA = "MLREG_DEMO_DATA"
"""Environment variable that tells the demo's code location where its datasets lie."""
STOP_SECONDS = 30.0
"""How long services may take to end before they are killed; a run in flight gets that long to finish."""

DAEMON = "MLREG_DAEMON"
"""Tells the run coordinator that the platform itself asks for the runs that this process submits."""
_OLD_QUEUE = """run_queue:
  dequeue_interval_seconds: 1
  # Launching waits until the run's process is up; others must not wait with it.
  dequeue_use_threads: true
  dequeue_num_workers: 4
"""
_NEW_QUEUE = """run_coordinator:
  module: ml_registry_pipelines.run_coordinator
  class: StampingRunCoordinator
  config:
    dequeue_interval_seconds: 1
    # Launching waits until the run's process is up; others must not wait with it.
    dequeue_use_threads: true
    dequeue_num_workers: 4
"""
_OLD_MONITORING = """run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  start_timeout_seconds: 180
"""
_NEW_MONITORING = """run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  # A killed process gives back no slot of its pools, and no later run would get one.
  free_slots_after_run_end_seconds: 60
  start_timeout_seconds: 180
"""
_RENEWED = ((_OLD_QUEUE, _NEW_QUEUE), (_OLD_MONITORING, _NEW_MONITORING))
"""Parts of a `dagster.yaml` as earlier versions wrote them: a queue that does not say who has launched a run,
and slots that killed runs keep."""
LONGEST_LOG = 10_000_000
"""Bytes of a log at which the next start puts it aside, in place of the one before."""


class ServicesError(MlregError):
    """Dagster's services cannot be started, or ended on their own."""


@dataclass(frozen=True)
class Holder:
    """Who runs the daemon of a Dagster home: its process, the one that started it, and where its UI is."""

    daemon: int
    starter: int
    address: str | None

    @property
    def is_orphan(self) -> bool:
        """Whether the process that started the daemon is gone."""
        return not process_exists(self.starter)


def dagster_home(settings: Settings) -> Path:
    """Dagster's home: below ours where that is a folder, else `DAGSTER_HOME`, else a folder here."""
    if not settings.home.startswith("s3://"):
        return Path(settings.home) / "dagster"
    return Path(os.environ.get("DAGSTER_HOME", "").strip() or ".mlreg/dagster").expanduser().absolute()


def demo_data(settings: Settings) -> Path:
    """The folder of the demo's datasets: below the home where that is a folder, else beside Dagster's."""
    if settings.home.startswith("s3://"):
        return dagster_home(settings) / "demo"
    return Path(settings.home) / "demo"


def prepare(settings: Settings) -> Path:
    """Make Dagster's home where there is none yet: its `dagster.yaml`, and its tables.

    Raises:
        ServicesError: it cannot be written, or this installation has no `workspace.yaml`.
        StoragesError: Dagster refuses the `dagster.yaml`.
    """
    if not WORKSPACE.exists():
        raise ServicesError(
            f"{WORKSPACE} is missing: the UI and the demo run from the repository or the image, not from a wheel alone"
        )
    home = dagster_home(settings)
    try:
        home.mkdir(parents=True, exist_ok=True)
        written = home / "dagster.yaml"
        if not written.exists():
            aside = home / f".dagster.yaml.{os.getpid()}"
            aside.write_bytes(TEMPLATE.read_bytes())
            aside.replace(written)
        elif (text := _renewed(found := written.read_text("utf-8"))) != found:
            aside = home / f".dagster.yaml.{os.getpid()}"
            aside.write_text(text, "utf-8")
            aside.replace(written)
        make_secret(home)
        make_storages(home)
    except OSError as failure:
        raise ServicesError(f"Dagster's home {home} cannot be written: {failure.strerror}") from failure
    return home


def _renewed(text: str) -> str:
    for old, new in _RENEWED:
        text = text.replace(old, new)
    return text


def environment(settings: Settings) -> dict[str, str]:
    """Environment of the services: ours, with every path absolute, because they run in another folder."""
    values = {**os.environ, "DAGSTER_HOME": str(dagster_home(settings)), "MLREG_HOME": settings.home}
    for name in ("MLREG_SOURCES", "MLREG_CONTRACT_PRICES", "MLREG_BILLS"):
        if given := values.get(name, "").strip():
            values[name] = str(Path(given).expanduser().absolute())
    values[SETTING] = ",".join(settings.form_folders)
    values[DEMO_DATA] = str(demo_data(settings))
    # Whoever starts the services gives them no key: what they do for others is not his.
    for name in (KEY, KEY_FILE, DAEMON):
        values.pop(name, None)
    values["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), values.get("PYTHONPATH")]))
    # Each run is a process that imports Dagster anew, and without compiled bytecode that takes thrice as long.
    if values.pop("PYTHONDONTWRITEBYTECODE", ""):
        values.setdefault("PYTHONPYCACHEPREFIX", str(dagster_home(settings) / "bytecode"))
    # Their output goes to a file: nothing is coloured, nothing waits in a buffer.
    values |= {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "DAGSTER_DISABLE_TELEMETRY": "yes"}
    return values


@dataclass
class Service:
    """One process with everything that it starts, and the file that holds its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls,
        name: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        hold: Sequence[int] = (),
    ) -> Service:
        """Start `python -m ...` in a session of its own, so that it can be ended with all its children."""
        if log.exists() and log.stat().st_size > LONGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=REPOSITORY,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(hold),
            )
        return cls(name, process, log)

    def check(self) -> None:
        """Raises `ServicesError` when the process has ended."""
        if (status := self.process.poll()) is not None:
            raise ServicesError(
                f"the {self.name} ended on its own with status {status}; its log is {self.log}"
            )


def stop(services: Sequence[Service], seconds: float | None = None) -> None:
    """End services in order: interrupt them, wait, and kill what is left of them and their children."""
    for service in services:
        with suppress(ProcessLookupError):
            service.process.send_signal(signal.SIGINT)
    until = time.monotonic() + (STOP_SECONDS if seconds is None else seconds)
    for service in services:
        with suppress(subprocess.TimeoutExpired):
            service.process.wait(max(0.1, until - time.monotonic()))
    for service in services:
        _end_group(service.process.pid)
        service.process.wait()


@contextmanager
def running_daemon(
    settings: Settings, *, address: str | None = None, locations: Path | None = None
) -> Iterator[Service | None]:
    """A daemon while the block lasts; None where another process runs one for this home already.

    `locations` is the workspace file; by default it loads the platform's own location alone.

    A daemon whose starter died is ended first: nobody else would.
    """
    home = prepare(settings)
    with _locked(home) as lock:
        if lock is None:
            yield None
            return
        daemon = Service.start(
            "daemon",
            ["dagster._daemon", "run", "-w", str(locations or WORKSPACE), "--log-level", "warning"],
            env={
                **environment(settings),
                DAEMON: "1",
                **({"MLREG_DAGSTER_URL": address} if address else {}),
            },
            log=home / "daemon.log",
            hold=[lock.fileno()],
        )
        _write_holder(lock, Holder(daemon.process.pid, os.getpid(), address))
        try:
            yield daemon
        finally:
            stop([daemon])


def holder(settings: Settings) -> Holder | None:
    """Who runs the daemon of this home, if anybody does."""
    path = dagster_home(settings) / LOCK
    try:
        with path.open("r+", encoding="utf-8") as lock:
            return None if _try_lock(lock) else _read_holder(lock)
    except FileNotFoundError:
        return None


@contextmanager
def _locked(home: Path) -> Iterator[IO[str] | None]:
    """The lock of a Dagster home, or None when a live starter's daemon has it."""
    with (home / LOCK).open("a+", encoding="utf-8") as lock:
        if not _try_lock(lock):
            held_by = _read_holder(lock)
            if held_by is None or not held_by.is_orphan:
                yield None
                return
            _end_group(held_by.daemon)
            until = time.monotonic() + STOP_SECONDS
            while not _try_lock(lock):
                if time.monotonic() > until:
                    raise ServicesError(
                        f"the abandoned daemon with process id {held_by.daemon} cannot be ended; end it"
                    )
                time.sleep(0.1)
        yield lock


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_holder(lock: IO[str], held_by: Holder) -> None:
    lock.seek(0)
    lock.truncate()
    json.dump({"daemon": held_by.daemon, "starter": held_by.starter, "address": held_by.address}, lock)
    lock.flush()


def _read_holder(lock: IO[str]) -> Holder | None:
    """What the lock's holder wrote; None in the moment before it has."""
    lock.seek(0)
    try:
        held: dict[str, Any] = json.load(lock)
        return Holder(int(held["daemon"]), int(held["starter"]), held["address"])
    except (ValueError, KeyError, TypeError):
        return None


def _end_group(group: int) -> None:
    """Terminate what is left of a process group, then kill what does not go."""
    for final in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(group, final)
        except (ProcessLookupError, PermissionError):
            return
        until = time.monotonic() + 5
        while time.monotonic() < until and _group_exists(group):
            time.sleep(0.05)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def process_exists(process: int) -> bool:
    """Whether a process of this machine has that id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
