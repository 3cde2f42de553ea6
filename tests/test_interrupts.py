"""Ctrl-C while a command works: one sentence, exit status 130, and nobody's data is called wrong."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import duckdb
import pytest

from ml_registry_pipelines.cli.main import cli, main
from ml_registry_pipelines.lake.interrupts import interruptible
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.outcomes import LakeError

ENDLESS = "SELECT count(*) AS n FROM range(10000000000000) r WHERE hash(r.range) % 7 = 3"


@contextmanager
def ctrl_c() -> Iterator[None]:
    """A SIGINT to this process in a moment, handled as Python does by itself."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


def test_a_command_that_is_interrupted_in_a_query_says_so_in_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def busy() -> None:
        with Lake(str(home)) as lake, lake.read() as reading:
            reading.query("endless", ENDLESS)

    monkeypatch.setitem(cli.commands, "busy", busy)
    monkeypatch.setattr(sys, "argv", ["mlreg", "busy"])
    with ctrl_c(), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    said = capsys.readouterr().err.strip()  # click ends the line in which the terminal has shown ^C
    assert said == "mlreg: stopped; what was recorded stays, and the command can be given again"


@pytest.mark.parametrize(
    "failure", [duckdb.InterruptException("Interrupted!"), RuntimeError("Query interrupted")]
)
def test_what_duckdb_makes_of_ctrl_c_is_ctrl_c_whatever_it_is_wrapped_in(failure: Exception) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise failure
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise LakeError("query q cannot read the tables") from failure
    with pytest.raises(RuntimeError, match="other"), interruptible():
        raise RuntimeError("other")
