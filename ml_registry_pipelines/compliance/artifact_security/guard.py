"""Has files scanned in a process of its own, and takes its silence for a refusal.

The process (`child.py`) has limits for memory, processor time, time by the clock and written bytes, and
no network where the system allows to leave it. However it ends, the caller goes on, and no file is
clean because its scan died.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ml_registry_pipelines.compliance.artifact_security.child import FORBIDDEN
from ml_registry_pipelines.compliance.artifact_security.findings import (
    Check,
    FileScan,
    FileVerdict,
    Finding,
    from_json,
)
from ml_registry_pipelines.registry.copying import sha256_of

MODULE = "ml_registry_pipelines.compliance.artifact_security.child"
LONGEST_ANSWER = 4 << 20
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
"""What of the environment a scan gets: no credentials are in it."""
_JUDGES = ("picklescan", "onnx", "detect-secrets", "jinja2")


@dataclass(frozen=True)
class Limits:
    """Of the scan of one file. `memory` is address space, of which libraries take 700 MB before they start."""

    memory: int = 4 << 30
    processor_seconds: int = 300
    seconds: float = 600.0


@cache
def scanner_version() -> str:
    """What scans: it changes with every change of its code, its lists and the libraries that it asks."""
    code = sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        code.update(file.name.encode() + b"\0" + file.read_bytes())
    for library in _JUDGES:
        with suppress(PackageNotFoundError):
            code.update(f"{library}={version(library)}\n".encode())
    return f"scan-{code.hexdigest()[:16]}"


class Scanner:
    """Scans files, one after the other. Use it in a `with` block.

    Example:
        >>> with Scanner() as scanner:  # doctest: +SKIP
        ...     scanner.scan(Path("model.pkl")).verdict
        <FileVerdict.CLEAN: 'clean'>
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None
        self._network = False

    def scan(self, path: Path, *, name: str = "", sha256: str = "") -> FileScan:
        """What the file is and does. It never runs here, and whatever happens to the scan, it returns.

        Args:
            path: of this machine.
            name: its path in its artifact.
            sha256: where the caller has taken it.
        """
        name = name or path.name
        answer = self._ask({"path": str(path.absolute()), "name": name})
        notes = [] if self._network else ["the scan could not leave the network"]
        if "findings" in answer:
            findings = from_json(json.loads(answer["findings"]))
            formats = tuple(str(form) for form in answer["formats"])
            notes += [str(note) for note in answer["notes"]]
        else:
            findings = (Finding(Check.FORMAT, FileVerdict.REFUSED, str(answer["died"])),)
            formats = ("unknown",)
        return FileScan(
            name,
            sha256 or sha256_of(path),
            path.stat().st_size,
            formats,
            findings,
            scanner_version(),
            tuple(notes),
        )

    # -- the child ---------------------------------------------------------------------

    def _ask(self, asked: dict[str, str]) -> dict[str, Any]:
        try:
            child = self._running()
            if child is None:
                return {"died": "the process that scans could not be started"}
            assert child.stdin is not None
            child.stdin.write(json.dumps(asked).encode() + b"\n")
            child.stdin.flush()
            answer = self._line(child)
        except BrokenPipeError:
            answer = None
        except TimeoutError:
            self.close()
            return {"died": f"the scan took longer than {self.limits.seconds:g} seconds"}
        if answer is None:
            return {"died": self._why_dead()}
        try:
            found: dict[str, Any] = json.loads(answer)
        except ValueError:
            self.close()
            return {"died": "the process that scans answered with nonsense"}
        return (
            found if found.keys() in ({"died"}, {"findings", "formats", "notes"}) else {"died": "no answer"}
        )

    def _running(self) -> subprocess.Popen[bytes] | None:
        if self._child is not None:
            return self._child
        child = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(self.limits.memory), str(self.limits.processor_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={k: v for k in _PASSED_ON if (v := os.environ.get(k)) is not None}
            | {"PYTHONDONTWRITEBYTECODE": "1"},
            cwd=Path(__file__).parents[3],
            start_new_session=True,
        )
        self._child = child
        ready = self._line(child)
        if ready is None:
            self.close()
            return None
        self._network = bool(json.loads(ready).get("network"))
        return child

    def _line(self, child: subprocess.Popen[bytes]) -> bytes | None:
        """One line of the child's, or None where it has ended."""
        assert child.stdout is not None
        until = time.monotonic() + self.limits.seconds
        line = b""
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left = until - time.monotonic()
                if left <= 0 or not ready.select(left):
                    raise TimeoutError
                piece = os.read(child.stdout.fileno(), 1 << 16)
                if not piece or len(line) > LONGEST_ANSWER:
                    return None
                line += piece
        return line

    def _why_dead(self) -> str:
        status = self.close()
        if status == FORBIDDEN:
            return "the scan was ended at an attempt to run, write or connect, which nothing that is read should cause"
        if status in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"the scan needed more than {self.limits.processor_seconds} seconds of processor time, or was killed"
        if status == -signal.SIGSEGV:
            return "the scan crashed"
        return f"the scan died (status {status})"

    def close(self) -> int | None:
        """End the process; its exit status."""
        child, self._child = self._child, None
        if child is None:
            return None
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        try:
            return child.wait(timeout=1)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self.close()
