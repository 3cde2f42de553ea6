"""A door before a tracking server that can be made to fail: one thread per request, in this process."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

Judge = Callable[[str, bytes], tuple[int, dict[str, str], bytes, int] | None]
"""Given path and true answer: status, headers, body and how many bytes of it are sent; None to pass it on."""


class Door(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str | None, judge: Judge) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.judge = judge
        self.asked: list[str] = []

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, headers, body = 200, {}, b""
        if self.server.upstream is not None:
            onward = http.client.HTTPConnection(urlsplit(self.server.upstream).netloc, timeout=60)
            onward.request("GET", self.path, headers={"Authorization": self.headers.get("Authorization", "")})
            answer = onward.getresponse()
            status, body = answer.status, answer.read()
            headers = {"Content-Type": answer.headers.get("Content-Type", "")}
            onward.close()
        judged = self.server.judge(self.path, body)
        sent = len(body)
        if judged is not None:
            status, headers, body, sent = judged
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])
        if sent < len(body):
            self.close_connection = True


@contextmanager
def door(upstream: str | None, judge: Judge) -> Iterator[Door]:
    server = Door(upstream, judge)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
