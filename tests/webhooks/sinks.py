"""Receivers of webhooks: real HTTP servers that take, refuse, hang, trickle or lead on."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Delivery:
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def sequence(self) -> int:
        return int(self.content["data"]["sequence"])


@dataclass
class Sink:
    """What came, and how the next ones are answered."""

    url: str = ""
    got: list[Delivery] = field(default_factory=list)
    status: Callable[[Delivery], int] = lambda _: 204
    to: str = ""
    silent: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    trickles: bool = False

    @property
    def sequences(self) -> list[int]:
        return [delivery.sequence for delivery in self.got]


@contextmanager
def sink() -> Iterator[Sink]:
    held = Sink()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            delivery = Delivery({name.lower(): value for name, value in self.headers.items()}, body)
            held.got.append(delivery)
            if held.silent.is_set():
                held.released.wait(60)
                return
            while held.trickles and not held.released.wait(0.05):
                try:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX: y\r\n"[:1])
                except OSError:
                    return
            self.send_response(held.status(delivery))
            if held.to:
                self.send_header("Location", held.to)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    held.url = f"http://127.0.0.1:{server.server_address[1]}/hook?k=v"
    try:
        yield held
    finally:
        held.released.set()
        server.shutdown()
        server.server_close()
