"""Dagster's home and its one daemon: real processes, started, abandoned and ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ml_registry_pipelines import services
from ml_registry_pipelines.services import ServicesError
from ml_registry_pipelines.settings import Environment, Settings
from ml_registry_pipelines.storages import MADE, StoragesError
from tests.e2e.ui import REPOSITORY, environment, mlreg, processes_with, wait_for

STARTER = """
from ml_registry_pipelines.services import running_daemon
from ml_registry_pipelines.settings import Settings
with running_daemon(Settings.from_environment(), address="http://127.0.0.1:1") as daemon:
    print(daemon.process.pid, flush=True)
    input()
"""

PREPARING = """
import dagster, os, sys  # imported once: what is tried is making the tables
from ml_registry_pipelines.services import prepare
from ml_registry_pipelines.settings import Settings
gate, opened = os.pipe()
children = []
for _ in range(6):
    if not (child := os.fork()):
        os.close(opened)
        os.read(gate, 1)
        prepare(Settings.from_environment())
        os._exit(0)
    children.append(child)
os.close(opened)  # all of them at once
sys.exit(sum(os.waitpid(child, 0)[1] for child in children) > 0)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path / "home"), environment=Environment.DEV, sources_file=None, tenant=None)


def test_the_home_of_dagster_lies_in_ours_with_telemetry_off_and_is_written_once(settings: Settings) -> None:
    home = services.prepare(settings)
    assert home == Path(settings.home) / "dagster"
    written = home / "dagster.yaml"
    assert yaml.safe_load(written.read_text())["telemetry"] == {"enabled": False}
    written.write_text("telemetry: {enabled: true}\n")
    services.prepare(settings)
    assert written.read_text() == "telemetry: {enabled: true}\n"


def test_what_an_earlier_version_wrote_is_renewed_and_what_a_person_wrote_stays(settings: Settings) -> None:
    home = services.prepare(settings)
    written = home / "dagster.yaml"
    now = written.read_text()
    (old_queue, new_queue), (old, new) = services._RENEWED
    assert new in now
    written.write_text(f"{now.replace(new, old)}# mine\n")
    services.prepare(settings)
    assert written.read_text() == f"{now}# mine\n"
    assert services._renewed(f"# mine\n{old_queue}") == f"# mine\n{new_queue}"
    assert yaml.safe_load(now)["run_monitoring"]["free_slots_after_run_end_seconds"] == 60


@pytest.mark.soak
def test_processes_that_prepare_an_empty_home_at_once_make_its_tables_once(settings: Settings) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREPARING],
        env=environment(Path(settings.home)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_tables_that_were_removed_are_made_again(settings: Settings) -> None:
    home = services.prepare(settings)
    files = sorted(path.relative_to(home) for path in home.rglob("*.db"))
    assert len(files) == 3
    shutil.rmtree(home / "history")
    services.prepare(settings)
    assert sorted(path.relative_to(home) for path in home.rglob("*.db")) == files


def test_a_configuration_that_dagster_refuses_is_one_sentence(settings: Settings) -> None:
    home = services.prepare(settings)
    (home / MADE).unlink()
    (home / "dagster.yaml").write_text("run_queue: {dequeue_interval_seconds: soon}\n")
    with pytest.raises(StoragesError, match=r"see .*/dagster\.yaml: .*dequeue_interval_seconds") as refused:
        services.prepare(settings)
    assert "\n" not in str(refused.value)


def test_a_lake_in_a_bucket_keeps_dagster_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(home="s3://bucket/lake", environment=Environment.DEV, sources_file=None, tenant=None)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert services.dagster_home(settings) == tmp_path / ".mlreg" / "dagster"
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "elsewhere"))
    assert services.dagster_home(settings) == tmp_path / "elsewhere"


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    settings = Settings(
        home=str(tmp_path / "home"), environment=Environment.DEV, sources_file=None, tenant=None
    )
    with pytest.raises(
        ServicesError, match=r"Dagster's home .*/home/dagster cannot be written: Not a directory"
    ):
        services.prepare(settings)


def test_relative_paths_reach_the_services_as_absolute_ones(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLREG_SOURCES", "sources.yaml")
    assert services.environment(settings)["MLREG_SOURCES"] == str(tmp_path / "sources.yaml")


def test_a_daemon_whose_starter_was_killed_is_ended_by_the_next_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A daemon that is interrupted while it starts takes no notice, and is killed in the end.
    monkeypatch.setattr(services, "STOP_SECONDS", 3.0)
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER],
        env=environment(Path(settings.home)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    abandoned = int(starter.stdout.readline())
    held = wait_for("the lock", lambda: services.holder(settings))
    assert (held.daemon, held.starter, held.is_orphan) == (abandoned, starter.pid, False)
    with services.running_daemon(settings) as second:
        assert second is None, "one daemon per home"
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    assert services.holder(settings) is not None, "the daemon outlives its starter"
    with services.running_daemon(settings) as daemon:
        assert daemon is not None
        assert not Path(f"/proc/{abandoned}").exists()
        daemon.check()
    assert services.holder(settings) is None
    assert processes_with(settings.home) == []


def test_a_service_that_ends_on_its_own_is_told_with_its_log(settings: Settings) -> None:
    home = services.prepare(settings)
    log = home / "web.log"
    service = services.Service.start(
        "web server", ["http.server", "--no-such-option"], env=os.environ, log=log
    )
    service.process.wait()
    with pytest.raises(
        ServicesError, match=f"the web server ended on its own with status 2; its log is {log}"
    ):
        service.check()
    assert "--no-such-option" in log.read_text()


def test_a_port_that_is_taken_is_one_sentence(settings: Settings) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = mlreg(Path(settings.home), "ui", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 cannot be used: Address already in use; try --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_refuses_other_sources_in_one_sentence(settings: Settings, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from ml_registry_pipelines.cli.main import main; main()", "demo"],
        env=environment(Path(settings.home), MLREG_SOURCES=str(tmp_path / "mine.yaml")),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mlreg: MLREG_SOURCES is set")
