"""The process in which files are looked at: limited in memory, time and what it may do.

Started by `guard.py` as `python -m`. It gets one JSON object per line, `{"path": ..., "name": ...}`, and
answers each with one line. An answer that does not come is a refusal: this process may be killed by any
of its limits, and one of them is that it kills itself at the attempt to do what no scan needs.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from ml_registry_pipelines.compliance.artifact_security.symbols import IMPORTS

FORBIDDEN = 97
"""Exit status after an attempt at what no scan needs."""
_NEVER = (
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn",
    "subprocess.Popen", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "pickle.find_class",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link",
    "os.symlink", "os.truncate", "os.kill", "shutil.rmtree", "ctypes.dlopen", "ctypes.dlsym",
)  # fmt: skip
_NEW_NET, _NEW_USER = 0x40000000, 0x10000000


def main() -> None:
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    network = _without_network()
    _limit(memory)
    _load()
    watched = _Watch()
    IMPORTS.around = watched.paused
    sys.addaudithook(watched)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a library prints must not be taken for an answer.
    sys.stdout = sys.stderr
    answers.write(json.dumps({"ready": True, "network": network}) + "\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        _allow_seconds(seconds)
        watched.on = True
        answer = _scan(asked["path"], asked["name"])
        watched.on = False
        answers.write(json.dumps(answer, ensure_ascii=True) + "\n")
        answers.flush()


def _scan(path: str, name: str) -> dict[str, Any]:
    from ml_registry_pipelines.compliance.artifact_security.findings import as_json, readable
    from ml_registry_pipelines.compliance.artifact_security.scanning import Scan

    scan = Scan()
    try:
        scan.file(Path(path), name)
    except MemoryError:
        return {"died": "it needs more memory than a scan may use"}
    except RecursionError:
        return {"died": "it is nested deeper than a scan follows"}
    except Exception as failure:  # noqa: BLE001 - whatever it is, the file is refused and the next one looked at
        return {"died": f"the scan failed: {type(failure).__name__}: {readable(failure)}"}
    return {"findings": as_json(scan.findings), "formats": list(scan.formats), "notes": scan.notes}


class _Watch:
    """Ends the process at an event that only running something of a file could bring about."""

    def __init__(self) -> None:
        self.on = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While a library is imported, which reads nothing of the file."""
        self.on = False
        try:
            yield
        finally:
            self.on = True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event in _NEVER or writes:
            with suppress(OSError):
                os.write(2, f"forbidden: {event}\n".encode())
            os._exit(FORBIDDEN)


def _without_network() -> bool:
    """Leave the network, where the system lets a process do so; whether it did."""
    import ctypes

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.unshare(_NEW_NET) == 0 or libc.unshare(_NEW_USER | _NEW_NET) == 0)
    except (OSError, AttributeError):
        return False


def _limit(memory: int) -> None:
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        _, hard = resource.getrlimit(what)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (most, most))


def _allow_seconds(seconds: int) -> None:
    """So much processor time from now on; then the system ends the process."""
    used = time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = int(used) + seconds + 1
    resource.setrlimit(
        resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
    )


def _load() -> None:
    """Import what every scan needs; libraries for one format come when a file of it does."""
    import_module("ml_registry_pipelines.compliance.artifact_security.scanning")


if __name__ == "__main__":
    main()
