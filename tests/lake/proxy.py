"""A proxy before an S3 server, whose answers to the writing of Delta log files can be lost.

The request is always passed on: what the client is not told has happened all the same. It is
a process of its own (`python -m tests.lake.proxy UPSTREAM`), because delta-rs may wait for an
answer while it holds the interpreter's lock.
"""

from __future__ import annotations

import http.client
import http.server
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

CONTROL = "/-/"
"""Below it the proxy is spoken to, not the server behind it."""


class Fate(Enum):
    """What becomes of the answer."""

    DROPPED = "dropped"
    FALSIFIED = "falsified"
    """Turned into 503, which clients read as: try again."""
    REFUSED = "refused"
    """503 from the proxy itself; the server was not asked."""


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    url: str

    def lose(self, fate: Fate, times: int = 1) -> None:
        """Lose the answers to the next `times` log files that are put."""
        self._ask(f"lose/{fate.value}/{times}")

    def fail_every(self, nth: int) -> None:
        """Answer every n-th request with 503: the first one without passing it on, the next one after, in turn."""
        self._ask(f"fail/{nth}")

    @property
    def lost(self) -> int:
        """Answers that were lost or refused so far."""
        return int(self._ask("lost"))

    def _ask(self, what: str) -> str:
        with urllib.request.urlopen(f"{self.url}{CONTROL}{what}", timeout=120) as answer:
            return str(answer.read().decode())


@contextmanager
def proxy_before(upstream: str) -> Iterator[Proxy]:
    """Run a proxy."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lake.proxy", upstream], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Proxy(process.stdout.readline().strip())
    finally:
        process.kill()  # whatever signals the shell of the suite has it ignore
        process.communicate()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.lock = threading.Lock()
        self.fates: list[Fate] = []
        self.every = 0
        self.asked = 0
        self.lost = 0

    def control(self, what: str) -> str:
        with self.lock:
            match what.split("/"):
                case ["lose", fate, times]:
                    self.fates = [Fate(fate)] * int(times)
                case ["fail", nth]:
                    self.every, self.asked = int(nth), 0
                case _:
                    pass
            return str(self.lost)

    def next_fate(self) -> Fate | None:
        with self.lock:
            if not self.fates:
                return None
            self.lost += 1
            return self.fates.pop()

    def next_failure(self) -> Fate | None:
        """Whether this request fails: `REFUSED` before it is passed on, `FALSIFIED` after."""
        with self.lock:
            self.asked += 1
            if not self.every or self.asked % self.every:
                return None
            self.lost += 1
            return Fate.FALSIFIED if self.asked % (2 * self.every) == 0 else Fate.REFUSED


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body of an answer go out together; else the second waits for the client's word on the first.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        if self.path.startswith(CONTROL):
            self._answer(200, self.server.control(self.path.removeprefix(CONTROL)).encode())
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0) or 0))
        failure = self.server.next_failure()
        if failure is Fate.REFUSED:
            self._answer(503, b"")
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=120)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        commits = (
            self.command == "PUT" and "_delta_log/" in self.path and self.path.split("?")[0].endswith(".json")
        )
        match failure or (self.server.next_fate() if commits and answer.status == 200 else None):
            case Fate.DROPPED:
                self.close_connection = True
                self.connection.close()
            case Fate.FALSIFIED:
                self._answer(503, b"")
            case _:
                self._answer(answer.status, content, answer.getheaders())

    def _answer(self, status: int, content: bytes, headers: list[tuple[str, str]] | None = None) -> None:
        self.send_response(status)
        length = str(len(content))
        for name, value in headers or []:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - the names that the server calls


if __name__ == "__main__":
    server = _Server(sys.argv[1])
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
