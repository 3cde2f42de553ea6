"""A proxy before an S3 server that fails requests, or loses the answers to writes that landed.

`python -m tests.registry.faulty UPSTREAM` is a process of its own, as `tests.lake.proxy` is,
because delta-rs may wait for an answer while it holds the interpreter's lock.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.lake.proxy import CONTROL, _Handler, _Server


@dataclass(frozen=True)
class Faulty:
    """A running proxy."""

    url: str

    def fail_every(self, number: int) -> None:
        """Answer every so manieth request with 503, without passing it on; 0 for none."""
        self._ask(f"fail/{number}")

    def lose_writes(self, number: int) -> None:
        """Answer the next so many PUT and POST below artifacts/ with 503, although they have landed."""
        self._ask(f"lose/{number}")

    def count(self, what: str) -> int:
        """Requests so far: failed, lost, parts (uploads of a part that were passed on)."""
        return int(self._ask(what))

    def _ask(self, what: str) -> str:
        with urllib.request.urlopen(f"{self.url}{CONTROL}{what}", timeout=120) as answer:
            return str(answer.read().decode())


@contextmanager
def faulty_before(upstream: str) -> Iterator[Faulty]:
    """Run a proxy."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.registry.faulty", upstream], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Faulty(process.stdout.readline().strip())
    finally:
        process.kill()  # whatever signals the shell of the suite has it ignore
        process.communicate()


class _FaultyServer(_Server):
    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.RequestHandlerClass = _FaultyHandler
        self.every = self.losing = self.requests = 0
        self.counts = {"failed": 0, "lost": 0, "parts": 0}

    def control(self, what: str) -> str:
        with self.lock:
            match what.split("/"):
                case ["fail", number]:
                    self.every = int(number)
                case ["lose", number]:
                    self.losing = int(number)
                case [name] if name in self.counts:
                    return str(self.counts[name])
            return ""

    def fate(self, command: str, path: str) -> str:
        """What becomes of a request: pass, failed, lost."""
        with self.lock:
            self.requests += 1
            if self.every and self.requests % self.every == 0:
                self.counts["failed"] += 1
                return "failed"
            if "partNumber=" in path and command == "PUT":
                self.counts["parts"] += 1
            if self.losing and command in {"PUT", "POST"} and "/artifacts/" in path:
                self.losing -= 1
                self.counts["lost"] += 1
                return "lost"
            return "pass"


class _FaultyHandler(_Handler):
    server: _FaultyServer
    fate = "pass"

    def _pass_on(self) -> None:
        if not self.path.startswith(CONTROL):
            self.fate = self.server.fate(self.command, self.path)
            if self.fate == "failed":
                self.rfile.read(int(self.headers.get("Content-Length", 0) or 0))
                self.fate = "pass"
                self._answer(503, b"")
                return
        super()._pass_on()

    def _answer(self, status: int, content: bytes, headers: list[tuple[str, str]] | None = None) -> None:
        if self.fate == "lost":
            self.fate = "pass"
            status, content, headers = 503, b"", None
        super()._answer(status, content, headers)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - the names that the server calls


if __name__ == "__main__":
    server = _FaultyServer(sys.argv[1])
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
