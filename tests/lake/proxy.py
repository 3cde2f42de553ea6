"""A proxy before an S3 server, whose answers to the writing of Delta log files can be lost.

The request is always passed on: what the client is not told has happened all the same.
"""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from urllib.parse import urlsplit


class Fate(Enum):
    """What becomes of the answer."""

    DROPPED = "dropped"
    FALSIFIED = "falsified"
    """Turned into 503, which clients read as: try again."""


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on; `lose` marks the answers to the next log files that are put."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.lost = 0
        self._fates: list[Fate] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def lose(self, fate: Fate, times: int = 1) -> None:
        """Lose the answers to the next `times` log files."""
        with self._lock:
            self._fates = [fate] * times

    def next_fate(self) -> Fate | None:
        with self._lock:
            if not self._fates:
                return None
            self.lost += 1
            return self._fates.pop()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0) or 0))
        upstream = http.client.HTTPConnection(self.server.upstream.netloc, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        is_commit = self.command == "PUT" and "_delta_log/" in self.path and self.path.split("?")[0].endswith(".json")
        fate = self.server.next_fate() if is_commit and answer.status == 200 else None
        if fate is Fate.DROPPED:
            self.close_connection = True
            self.connection.close()
            return
        if fate is Fate.FALSIFIED:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - the names that the server calls


@contextmanager
def proxy_before(upstream: str) -> Iterator[Proxy]:
    """A running proxy."""
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
