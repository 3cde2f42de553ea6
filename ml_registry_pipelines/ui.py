"""`mlreg ui`: the Dagster UI, with the daemon beside it that runs sensors and schedules."""

from __future__ import annotations

import signal
import socket
import time
from types import FrameType

import click

from ml_registry_pipelines.services import (
    Service,
    ServicesError,
    environment,
    holder,
    prepare,
    running_daemon,
    stop,
)
from ml_registry_pipelines.settings import Settings
from ml_registry_pipelines.workspace import workspace

READY_SECONDS = 180.0
POLL_SECONDS = 0.25


def run(*, host: str = "127.0.0.1", port: int = 3000) -> int:
    """Serve the UI until it is interrupted; the exit status.

    Raises:
        ServicesError: it runs already, the port is taken, or a service ended on its own.
    """
    settings = Settings.from_environment()
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if (busy := holder(settings)) is not None and not busy.is_orphan:
        where = f"at {busy.address}" if busy.address else "for a demo; wait until that has ended"
        raise ServicesError(f"Dagster already runs for {settings.home} {where}")
    _refuse_taken(host, port)
    home = prepare(settings)
    locations = workspace(settings)
    # Both: what a script starts in the background has SIGINT ignored otherwise.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _interrupt)
    try:
        with running_daemon(settings, address=address, locations=locations) as daemon:
            if daemon is None:
                raise ServicesError(f"Dagster already runs for {settings.home}")
            web = Service.start(
                "web server",
                [
                    "ml_registry_pipelines.webserver",
                    "-w",
                    str(locations),
                    "-h",
                    host,
                    "-p",
                    str(port),
                ],
                env=environment(settings),
                log=home / "webserver.log",
            )
            try:
                click.echo(f"starting Dagster for {settings.home} ...")
                _wait_until_listening([daemon, web], host, port)
                click.echo(
                    f"Dagster is at {address} - files dropped into {settings.below('landing')} are taken as they come"
                )
                click.echo(f"models are searched at {address}/mlreg/search")
                click.echo(f"logs: {home}/daemon.log and webserver.log; Ctrl-C ends it")
                while True:
                    daemon.check()
                    web.check()
                    time.sleep(POLL_SECONDS)
            finally:
                stop([web])
    except KeyboardInterrupt:
        click.echo("stopped")
        return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as failure:
            raise ServicesError(
                f"port {port} of {host} cannot be used: {failure.strerror}; try --port"
            ) from failure


def _wait_until_listening(services: list[Service], host: str, port: int) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        for service in services:
            service.check()
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise ServicesError(
                    f"the web server does not answer after {READY_SECONDS:.0f} s; its log is {services[-1].log}"
                ) from None
            time.sleep(POLL_SECONDS)
        else:
            return
